// Morph: the way from one picture to the next, over keyframes; each segment has its own mode, easing and number of frames.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { apng, clamp, command, cosine, evenly, spoken } from "./maths.js";
import { Copy, Frame, Picker, Scrub, Slide, call, download, framePixels, later, pixelsOf, tensorsOf, url, useGroup } from "./kit.js";
import { fail, say } from "./store.js";

const MODES = [["both", "noise and words"], ["words", "words only"], ["noise", "noise only"]];
const FRESH = { mode: "both", ease: "linear", frames: 16 };
const EVERY = 8;

/** The segments of a path as tasks. What a segment does not move stays as it is at its beginning, and is carried on. */
export function segments(ends, parts, loop) {
  const round = loop ? [...ends, ends[0]] : ends;
  let now = { ...round[0] };
  return round.slice(1).map((end, i) => {
    const { mode, ease, frames } = { ...FRESH, ...parts[i] }, next = { ...end };
    if (mode === "words") { next.seed = now.seed; next.picture = now.picture; }
    if (mode === "noise") next.prompt = now.prompt;
    const task = { kind: "interpolate", ends: [now, next].map(({ prompt, seed, picture }) => (picture ? { prompt, picture } : { prompt, seed })), ease, frames };
    now = next;
    return { task, frames };
  });
}

/** Which run holds frame `k` of a segment: {run, picture}, or null while it is not there. */
export function places(runs, list) {
  const found = list.map((s) => Array(s.frames).fill(null));
  for (const run of runs) {
    const task = JSON.stringify(run.request?.task?.ends ?? null), count = run.request?.count ?? 1, first = run.request?.index ?? 0;
    const leg = Number.isInteger(run.segment) ? run.segment : list.findIndex((s, i) => sameEnds(task, s.task.ends) && s.task.frames === (run.request.task.frames ?? s.task.frames) && found[i][first] === null);
    for (let i = 0; leg >= 0 && i < count && first + i < found[leg].length; i++) found[leg][first + i] = { run, picture: i };
  }
  return found;
}

const sameEnds = (text, ends) => JSON.stringify((JSON.parse(text) ?? []).map(strip)) === JSON.stringify(ends.map(strip));
const strip = ({ prompt = null, seed = null, picture = null }) => ({ prompt, seed, picture });

export function screen({ query }) {
  const [ends, setEnds] = useState(() => (query.ends ? JSON.parse(query.ends) : [{ prompt: query.prompt ?? "a red apple", seed: 1 }, { prompt: "a blue umbrella", seed: 2 }]));
  const [parts, setParts] = useState(() => (query.parts ? JSON.parse(query.parts) : [{ ...FRESH }]));
  const [loop, setLoop] = useState(query.loop === "1");
  const [group, setGroup] = useState(query.group ?? "");
  const [cost, setCost] = useState(null);
  const [picking, setPicking] = useState(false);
  const legs = loop ? ends.length : ends.length - 1;
  const list = useMemo(() => segments(ends, parts, loop), [ends, parts, loop]);
  const body = { model: "default", request: { seed: ends[0].seed ?? 0 }, every: EVERY, segments: list };
  useEffect(() => { url({ ends: JSON.stringify(ends), parts: JSON.stringify(parts), loop: loop ? "1" : "", group, run: "" }); }, [ends, parts, loop, group]);
  useEffect(() => { for (const id of (query.run ?? "").split(",").filter(Boolean)) addRun(id); }, []);
  useEffect(() => later(300, async (alive) => { const r = await call.try("POST", "/v1/morphs?dry=1", body); if (alive()) setCost(r.ok ? r.data.cost : { wrong: r.message }); }), [JSON.stringify(list)]);

  const addRun = async (id) => {
    const run = await call.get(`/v1/runs/${id}`), made = run.request?.task?.kind === "text" || !run.request?.task;
    const end = made ? { prompt: run.prompt, seed: run.seed, run: id } : { prompt: run.prompt, picture: run.pictures[0]?.seal, run: id };
    setEnds((old) => (query.run && old.length === 2 && !old.some((e) => e.run) ? [end, old[1]] : [...old, end]));
    setPicking(false);
  };
  const setEnd = (i, change) => setEnds(ends.map((e, j) => (j === i ? { ...e, ...change } : e)));
  const setPart = (i, change) => setParts(Array.from({ length: legs }, (_, j) => ({ ...FRESH, ...parts[j], ...(j === i ? change : {}) })));
  const swap = (i, j) => { const next = [...ends]; [next[i], next[j]] = [next[j], next[i]]; setEnds(next); };
  const start = async () => { const made = await call.post("/v1/morphs", body); if (made) { setGroup(made.group); say(`${made.cost?.pictures ?? ""} frames are queued; every ${EVERY}th comes first.`); } };

  return html`<section class="screen mine"><h1>Morph</h1>
    <ol class="lane" aria-label="Keyframes">${ends.map((end, i) => html`<li class="key" draggable="true" onDragStart=${(e) => e.dataTransfer.setData("text/plain", String(i))} onDragOver=${(e) => e.preventDefault()}
        onDrop=${(e) => { const data = e.dataTransfer.getData("text/plain"); if (/^\d+$/.test(data) && +data < ends.length) { e.preventDefault(); e.stopPropagation(); swap(+data, i); } }}>
        ${end.run && html`<${RunThumb} id=${end.run} />`}
        <label>Keyframe ${i + 1}<textarea rows="2" value=${end.prompt} onInput=${(e) => setEnd(i, { prompt: e.target.value })}></textarea></label>
        ${end.picture ? html`<p class="dim">noise of the picture, by inversion</p>` : html`<label class="inline">Seed <input type="number" value=${end.seed} onInput=${(e) => setEnd(i, { seed: +e.target.value, run: null })} /></label>`}
        <div class="row"><button aria-label=${`Move keyframe ${i + 1} earlier`} disabled=${!i} onClick=${() => swap(i, i - 1)}>←</button><button aria-label=${`Move keyframe ${i + 1} later`} disabled=${i === ends.length - 1} onClick=${() => swap(i, i + 1)}>→</button>
          <button aria-label=${`Remove keyframe ${i + 1}`} disabled=${ends.length < 3} onClick=${() => setEnds(ends.filter((_, j) => j !== i))}>×</button></div></li>
      ${i < legs && html`<li class="leg"><${Leg} i=${i} part=${{ ...FRESH, ...parts[i] }} task=${list[i].task} onChange=${(c) => setPart(i, c)} group=${group} /></li>`}`)}</ol>
    <div class="row wrap"><button onClick=${() => setEnds([...ends, { prompt: ends.at(-1).prompt, seed: (ends.at(-1).seed ?? 0) + 1 }])}>Add words</button><button aria-expanded=${picking} onClick=${() => setPicking(!picking)}>Add a run</button>
      <label class="check"><input type="checkbox" checked=${loop} onChange=${(e) => setLoop(e.target.checked)} /> Back to the first</label>
      <button class="primary" disabled=${!!cost?.wrong} onClick=${start}>Render</button>
      <${Copy} text=${() => command("safelight", "morph", ...ends.flatMap((e) => ["-p", e.prompt]), "--seeds", ends.map((e) => e.seed ?? 0).join(","), "--frames", list.reduce((s, l) => s + l.frames, 0), "--ease", list[0].task.ease, ...(loop ? ["--back"] : []))}>Copy CLI<//></div>
    ${picking && html`<${Picker} label="Runs" filter=${(r) => r.state === "done" && r.pictures.length} onPick=${(r) => addRun(r.id)} />`}
    ${cost && (cost.wrong ? html`<p class="bad" role="alert">${cost.wrong}</p>` : html`<p class="dim" role="status">${cost.pictures} frames, about ${spoken(cost.seconds)}</p>`)}
    ${group && html`<${Film} group=${group} list=${list} loop=${loop} onFrames=${(each) => setParts(each.map((frames, i) => ({ ...FRESH, ...parts[i], frames })))} />`}
  </section>`;
}

function RunThumb({ id }) {
  return html`<img class="tiny" src=${`/v1/runs/${id}/pictures/0.png`} alt="" />`;
}

function Leg({ i, part, task, onChange }) {
  const [angle, setAngle] = useState("");
  const measure = async () => {
    const [a, b] = task.ends, texts = [a.prompt, b.prompt];
    const r = texts[0] === texts[1] ? null : await call.try("POST", "/v1/embed", { texts, model: "default" });
    const words = r?.ok ? Math.acos(clamp(cosine(...r.data.vectors), -1, 1)) * 180 / Math.PI : 0;
    setAngle(`Angle of the words: ${words.toFixed(1)}°. Noise: ${a.seed === b.seed && !a.picture && !b.picture ? "it stands still, 0°" : "two draws, close to 90°; measured below once rendered"}.`);
  };
  return html`<div onMouseEnter=${measure} onFocusIn=${measure} title=${angle}>
    <label>Segment ${i + 1}<select value=${part.mode} onChange=${(e) => onChange({ mode: e.target.value })}>${MODES.map(([v, t]) => html`<option value=${v}>${t}</option>`)}</select></label>
    <label>Easing<select value=${part.ease} onChange=${(e) => onChange({ ease: e.target.value })}><option value="linear">linear</option><option value="smooth">smooth</option></select></label>
    <${Slide} label="Frames" value=${part.frames} min=2 max=96 onInput=${(frames) => onChange({ frames })} text=${`${part.frames} frames`} /><p class="dim angle" role="status">${angle}</p></div>`;
}

/** The film while it is rendered: what is there is shown, the nearest frame for what is not. */
function Film({ group, list, loop, onFrames }) {
  const runs = useGroup(group);
  const [at, setAt] = useState(0), [step, setStep] = useState(1), [playing, setPlaying] = useState(false), [grid, setGrid] = useState(false), [even, setEven] = useState(false), [cuts, setCuts] = useState(null), [noise, setNoise] = useState(null);
  const found = useMemo(() => places(runs, list), [runs, list]);
  // The last frame of a segment is the first of the next.
  const all = found.flatMap((leg, i) => (i ? leg.slice(1) : leg)), n = all.length;
  const ready = all.map((f) => f?.run.state === "done" && f.run.pictures[f.picture]), done = ready.filter(Boolean).length;
  const order = even && cuts ? evenly(cuts, n).map((u) => Math.round(u * (n - 1))) : all.map((_, i) => i);
  const want = order[clamp(at, 0, n - 1)] ?? 0, near = nearest(want, (i) => ready[i] || (all[i]?.run.steps_done ?? 0) > 0), shown = near < 0 ? null : all[near];
  useEffect(() => {
    if (!playing) return;
    const timer = setInterval(() => setAt((v) => (v + 1) % n), 1000 / 12);
    return () => clearInterval(timer);
  }, [playing, n]);
  useEffect(() => {
    if (done < n || n < 3) { setCuts(null); return; }
    let alive = true;
    (async () => {
      const small = [];
      for (const f of all) small.push((await pixelsOf(f.run.pictures[f.picture].url, 32)).data);
      if (!alive) return;
      setCuts(small.slice(1).map((b, i) => small[i].reduce((s, v, j) => s + Math.abs(v - b[j]), 0) / b.length));
      const [a, b] = [all[0], all[found[0].length - 1]].map((f) => tensorsOf(f.run.id, 0, f.picture));
      Promise.all([a, b]).then(([p, q]) => alive && setNoise(Math.acos(clamp(cosine(p.get("x"), q.get("x")), -1, 1)) * 180 / Math.PI)).catch(() => {});
    })();
    return () => { alive = false; };
  }, [done === n && group]);
  const share = () => {
    let o = 0;
    const lengths = list.map((s) => { const part = cuts.slice(o, o + s.frames - 1).reduce((x, y) => x + y, 0); o += s.frames - 1; return part; });
    const whole = lengths.reduce((x, y) => x + y, 0) || 1, frames = list.reduce((s, l) => s + l.frames, 0);
    onFrames(lengths.map((l) => clamp(Math.round(frames * l / whole), 2, 96)));
  };
  const exported = async () => {
    const frames = [];
    for (const i of order) frames.push(new Uint8Array(await (await fetch(all[i].run.pictures[all[i].picture].url)).arrayBuffer()));
    download(apng(loop ? frames.slice(0, -1) : [...frames, ...frames.slice(1, -1).reverse()], 83), "morph.png");
  };
  const most = cuts ? Math.max(...cuts) : 1, meanCut = cuts ? cuts.reduce((a, b) => a + b, 0) / cuts.length : 1;
  return html`<section class="film"><h2>Film</h2>
    ${grid ? html`<${Grid} all=${all} />` : html`<div class="shown">${shown ? html`<${Frame} run=${shown.run} picture=${shown.picture} lens="x0" step=${Math.round(step * (Math.max(1, shown.run.steps) - 1))} alt=${`Frame ${near + 1}`}/>` : html`<p class="dim">The first frame is on its way.</p>`}</div>
      <${Scrub} label="Frame" n=${n} value=${clamp(at, 0, n - 1)} onInput=${(v) => { setPlaying(false); setAt(v); }} marks=${ready} />
      <${Scrub} label="Denoising step" n=${Math.max(1, shown?.run.steps ?? 1)} value=${Math.round(step * (Math.max(1, shown?.run.steps ?? 1) - 1))} onInput=${(k) => setStep(k / Math.max(1, (shown?.run.steps ?? 2) - 1))} />`}
    <p class="dim" role="status">${done} of ${n} frames${near >= 0 && near !== want ? `; frame ${want + 1} is not there yet, this is ${near + 1}` : ""}${noise != null ? `. The noise turns by ${noise.toFixed(1)}° over segment 1` : ""}.</p>
    <div class="row wrap"><button onClick=${() => setPlaying(!playing)}>${playing ? "Pause" : "Play"}</button><button aria-pressed=${grid} onClick=${() => setGrid(!grid)}>Frames × steps</button>
      <button disabled=${done < n} onClick=${exported}>Export loop</button></div>
    ${cuts && html`<figure class="density"><figcaption>How far neighbours are apart: the largest gap is ${(most / (meanCut || 1)).toFixed(1)} times the mean.</figcaption>
      <div class="histogram" role="img" aria-label="Distance between neighbouring frames">${cuts.map((c, i) => html`<i class=${i === near ? "on" : ""} style=${`height:${c / most * 100}%`}></i>`)}</div>
      <label class="check"><input type="checkbox" checked=${even} onChange=${(e) => setEven(e.target.checked)} /> Play at equal distances</label>${list.length > 1 && html`<button onClick=${share}>Share the frames out by distance</button>`}</figure>`}
  </section>`;
}

function nearest(i, fits) {
  for (let d = 0; d < 1000; d++) { if (fits(i - d)) return i - d; if (fits(i + d)) return i + d; }
  return -1;
}

/** X: place on the path, Y: denoising step. A line marks where two neighbours part for good. */
function Grid({ all }) {
  const columns = 9, n = all.length, picked = Array.from({ length: Math.min(columns, n) }, (_, i) => Math.round(i * (n - 1) / Math.max(1, Math.min(columns, n) - 1))).map((i) => ({ i, f: all[i] })).filter((c) => c.f?.run.steps_done);
  const steps = Math.max(1, ...picked.map((c) => c.f.run.steps)), rows = Array.from({ length: Math.min(8, steps) }, (_, i) => Math.round(i * (steps - 1) / Math.max(1, Math.min(8, steps) - 1)));
  const [parts, setParts] = useState([]);
  useEffect(() => {
    let alive = true;
    (async () => {
      const found = [];
      for (let c = 0; c + 1 < picked.length; c++) {
        const apart = [];
        for (const k of rows) {
          const [a, b] = await Promise.all([picked[c], picked[c + 1]].map(({ f }) => framePixels(f.run, Math.min(k, f.run.steps - 1), f.picture, 24)));
          apart.push(a.data.reduce((s, v, i) => s + Math.abs(v - b.data[i]), 0) / a.data.length);
        }
        const last = apart.at(-1) || 1;
        found.push(rows[apart.findIndex((v) => v > last / 2)]);
        if (!alive) return;
        setParts([...found]);
      }
    })().catch(() => {});
    return () => { alive = false; };
  }, [picked.map((c) => c.f.run.id).join()]);
  return html`<div class="scroll"><table class="lattice"><thead><tr><th scope="col">step</th>${picked.map((c) => html`<th scope="col">${c.i + 1}</th>`)}</tr></thead><tbody>
    ${rows.map((k) => html`<tr><th scope="row">${k + 1}</th>${picked.map(({ f, i }, c) => html`<td class=${parts[c] === k ? "parting" : ""}><${Frame} run=${f.run} picture=${f.picture} lens="x0" step=${Math.min(k, f.run.steps - 1)} alt=${`Frame ${i + 1}, step ${k + 1}`} /></td>`)}</tr>`)}</tbody></table>
    <p class="dim">${parts.length ? `A line marks the step from which a column and the next are half as far apart as they end: ${parts.map((k) => (k == null ? "–" : k + 1)).join(", ")}.` : "Measuring where the paths part."}</p></div>`;
}
