// Morph: the way from one picture to the next, over keyframes; each segment has its own mode, easing and number of frames.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { clamp, command, cosine, evenly, spoken } from "./maths.js";
import { Copy, Frame, Scrub, Slide, call, download, framePixels, later, pixelsOf, url, useGroup } from "./kit.js";
import { tensors } from "./dial.js";
import { attempt, bytes, curl, recorded, runs as server } from "./api.js";
import { isRecorded } from "./filmstrip.js";
import { Icon, Shot } from "./parts.js";
import { fail, isActive, say, useStore } from "./store.js";

const MODES = [["both", "noise and words"], ["words", "words only"], ["noise", "noise only"]];
const FRESH = { mode: "both", ease: "linear", frames: 16 };
const EVERY = 8, PACE = 12;
/** What a run hands on besides its words and noise, so that a keyframe comes out as the run did. */
const HOW = ["negative", "emphasis", "steps", "sampler", "grid", "mix", "bends", "temperature", "churn", "size"];
const RUN = "application/x-safelight-run", KEY = "application/x-safelight-keyframe";
const smooth = (u) => u * u * (3 - 2 * u);

/** The path as one task, and how many frames it has. What a segment does not move stays as it is at its beginning, and is carried on. */
export function path(ends, parts, loop, at = null) {
  const round = loop ? [...ends, ends[0]] : ends, legs = round.slice(1).map((_, i) => ({ ...FRESH, ...parts[i] })), list = [round[0]];
  round.slice(1).forEach((end, i) => {
    const now = list[i], next = { ...end };
    if (legs[i].mode === "words") Object.assign(next, { seed: now.seed, number: now.number, picture: now.picture });
    if (legs[i].mode === "noise") next.prompt = now.prompt;
    list.push(next);
  });
  const task = { kind: "interpolate", ends: list.map(({ prompt, seed, number, picture }) => (picture ? { prompt, picture } : { prompt, seed, ...(number ? { number } : {}) })) };
  const [first] = legs, alike = legs.every((l) => l.frames === first.frames && l.ease === first.ease);
  if (at) return { task: { ...task, at }, frames: at.length };
  if (alike && (legs.length === 1 || first.ease === "linear")) return { task: { ...task, ease: first.ease }, frames: (first.frames - 1) * legs.length + 1 };
  // The last frame of a segment is the first of the next.
  const places = legs.flatMap((l, i) => Array.from({ length: l.frames }, (_, k) => i + (l.ease === "smooth" ? smooth : (u) => u)(k / (l.frames - 1))).slice(i ? 1 : 0));
  return { task: { ...task, at: places }, frames: places.length };
}

/** Where the frames of a task lie, counted in ends. */
export function placesOf({ ends, at, frames, ease }) {
  if (at) return at;
  const legs = ends.length - 1;
  return Array.from({ length: frames ?? 2 }, (_, k) => { const along = (k * legs) / (frames - 1), leg = Math.min(Math.floor(along), legs - 1); return ease === "smooth" ? leg + smooth(along - leg) : along; });
}

/** The frames of a group of runs in order, [{run, picture, place}], run null while it is not there. Several tasks follow each other. */
export function framesOf(runs) {
  const tasks = new Map();
  for (const run of runs) {
    const task = run.request?.task;
    if (task?.kind !== "interpolate") continue;
    const key = JSON.stringify([task.ends.map(plain), task.at ?? null, task.frames ?? null, task.ease ?? "linear"]);
    if (!tasks.has(key)) tasks.set(key, { task, frames: placesOf(task).map((place) => ({ run: null, picture: 0, place })) });
    const { frames } = tasks.get(key), first = run.request.index ?? 0;
    for (let i = 0; i < (run.request.count ?? 1) && first + i < frames.length; i++) Object.assign(frames[first + i], { run, picture: i });
  }
  let before = 0, last = null;
  const all = [...tasks.values()].flatMap(({ task, frames }) => {
    const joined = last && JSON.stringify(plain(task.ends[0])) === JSON.stringify(plain(last)), shift = before;
    last = task.ends.at(-1); before += task.ends.length - 1;
    return frames.map((f) => ({ ...f, place: f.place + shift })).slice(joined ? 1 : 0);
  });
  const given = [...tasks.values()].flatMap((t) => t.task.ends);
  return Object.assign(all, { legs: before, closed: given.length > 2 && JSON.stringify(plain(given[0])) === JSON.stringify(plain(given.at(-1))) });
}

const plain = ({ prompt = null, seed = null, number = 0, picture = null }) => [prompt, seed, number ?? 0, picture];

/** Places of as many frames, so that neighbours are equally far apart; the keyframes stay. cuts[i]: from frame i to i + 1. */
export function respread(places, cuts, legs) {
  const marks = Array.from({ length: legs + 1 }, (_, i) => places.reduce((best, p, k) => (Math.abs(p - i) < Math.abs(places[best] - i) ? k : best), 0));
  const parts = marks.slice(1).map((end, i) => cuts.slice(marks[i], end)), lengths = parts.map((part) => part.reduce((a, b) => a + b, 0)), whole = lengths.reduce((a, b) => a + b, 0);
  if (!(whole > 0)) return null;
  // Each leg gets steps by its length, one at least; what rounding leaves over goes to those that lost most.
  const steps = places.length - 1, want = lengths.map((l) => (l / whole) * steps), given = want.map((w) => Math.max(1, Math.floor(w)));
  for (let left = steps - given.reduce((a, b) => a + b, 0); left > 0; left--) { const i = want.reduce((best, w, k) => (w - given[k] > want[best] - given[best] ? k : best), 0); given[i]++; }
  const found = [0];
  parts.forEach((part, leg) => {
    const from = marks[leg];
    for (const u of evenly(part, given[leg] + 1).slice(1, -1)) {
      const k = Math.min(Math.floor(u * part.length), part.length - 1), inner = u * part.length - k;
      const place = +(places[from + k] + inner * (places[from + k + 1] - places[from + k])).toFixed(6);
      if (place > found.at(-1) && place < leg + 1) found.push(place);
    }
    found.push(leg + 1);
  });
  return found;
}

const START = (query) => [{ prompt: query.prompt ?? "a red apple", seed: 1 }, { prompt: "a blue umbrella", seed: 2 }];
const read = (text, other) => { try { return JSON.parse(text) ?? other; } catch { return other; } };

export function screen({ query }) {
  const [ends, setEnds] = useState(() => read(query.ends, START(query)));
  const [parts, setParts] = useState(() => read(query.parts, [{ ...FRESH }]));
  const [loop, setLoop] = useState(query.loop === "1"), [at, setAt] = useState(() => read(query.at, null)), [group, setGroup] = useState(query.group ?? "");
  const [model, setModel] = useState(query.model ?? ""), [like, setLike] = useState(query.like ?? ""), [base, setBase] = useState({});
  const [cost, setCost] = useState(null), [picking, setPicking] = useState(!query.ends && !query.run), [over, setOver] = useState(null), [angles, setAngles] = useState(null), [asked, ask] = useState(false);
  const models = useStore((s) => s.models)?.models ?? [], busy = useRef(false);
  const legs = loop ? ends.length : ends.length - 1;
  const { task, frames } = useMemo(() => path(ends, parts, loop, at), [ends, parts, loop, at]);
  // One at a time: so a frame is the same to the last bit in whichever run of the film, and on the command line.
  const body = { model: model || "default", request: { ...base, prompt: [""], seed: ends[0].seed ?? 0, micro_batch: 1 }, every: EVERY, segments: [{ task, frames }] };
  const told = JSON.stringify(body);

  useEffect(() => { url({ ends: JSON.stringify(ends), parts: JSON.stringify(parts), loop: loop ? "1" : "", at: at ? JSON.stringify(at) : "", model, like, group, run: "" }); }, [ends, parts, loop, at, model, like, group]);
  useEffect(() => {
    const ids = (query.run ?? "").split(",").filter(Boolean);
    if (!ids.length) return;
    let alive = true;
    // In the order in which they were asked for, whichever is read first.
    attempt(Promise.all(ids.map((id) => server.get(id)))).then((list) => {
      if (!alive || !list) return;
      const keys = list.map((run) => endOf(run, ids.length === 1 ? +query.picture || 0 : 0)).filter(Boolean);
      if (!keys.length) return void fail(new Error("None of these runs has a picture yet."));
      setEnds(keys.length > 1 ? keys : [keys[0], { prompt: keys[0].prompt, seed: (keys[0].seed ?? 0) + 1 }]);
      follow(list[0]);
    });
    return () => { alive = false; };
  }, []);
  useEffect(() => {
    let alive = true;
    if (!like) setBase({});
    else attempt(server.get(like)).then((run) => alive && run && setBase(how(run)));
    return () => { alive = false; };
  }, [like]);
  useEffect(() => later(300, async (alive) => { const r = await call.try("POST", "/v1/morphs?dry=1", body); if (alive()) setCost(r.ok ? r.data.cost : { wrong: r.message }); }), [told]);
  const turned = JSON.stringify([task.ends, model, base]);
  useEffect(() => {
    setAngles(null);
    if (asked) return later(250, async (alive) => { const r = await call.try("POST", "/v1/morphs/angles", { model: body.model, request: { ...body.request, task: { kind: "interpolate", ends: task.ends } } }); if (alive()) setAngles(r.ok ? r.data.legs : []); });
  }, [asked, turned]);

  const follow = (run) => { setLike(run.id); setModel(run.model === "default" ? "" : run.model); };
  const add = (list, i) => { setAt(null); setEnds((old) => [...old.slice(0, i ?? old.length), ...list, ...old.slice(i ?? old.length)]); };
  const addRun = async (id, i) => {
    const run = await attempt(server.get(id)), end = run && endOf(run);
    if (!run) return;
    if (!end) return void fail(new Error("This run has no picture yet."));
    add([end], i);
    if (!like && !ends.some((e) => e.run)) follow(run);
    say(`Keyframe added: ${run.prompt || run.title || "a picture"}`);
  };
  const setEnd = (i, change) => setEnds((old) => old.map((e, j) => (j === i ? { ...e, ...change } : e)));
  const setPart = (i, change) => { setAt(null); setParts((old) => Array.from({ length: legs }, (_, j) => ({ ...FRESH, ...old[j], ...(j === i ? change : {}) }))); };
  const move = (i, j) => { setAt(null); setEnds((old) => { const next = [...old], [end] = next.splice(i, 1); next.splice(j, 0, end); return next; }); };
  const start = async (sent = body) => {
    if (busy.current) return;
    busy.current = true;
    const made = await call.post("/v1/morphs", sent);
    busy.current = false;
    if (made) { setGroup(made.group); say(`${made.cost?.pictures ?? ""} frames are queued; every ${EVERY}th comes first.`); }
  };
  const again = (places) => { setAt(places); start({ ...body, segments: [{ task: path(ends, parts, loop, places).task, frames: places.length }] }); };
  /** Where in the lane a drop goes: before or after the keyframe under the pointer, else at the end. */
  const slot = (e) => {
    const key = e.target.closest?.("[data-key]");
    if (!key) return ends.length;
    const box = key.getBoundingClientRect();
    return +key.dataset.key + (e.clientX > box.left + box.width / 2 ? 1 : 0);
  };
  const takes = (e) => [RUN, KEY, "text/uri-list", "text/plain"].some((t) => e.dataTransfer.types.includes(t)) && !e.dataTransfer.types.includes("Files");
  const drop = (e) => {
    if (!takes(e)) return;
    e.preventDefault(); e.stopPropagation();
    const i = slot(e), from = e.dataTransfer.getData(KEY), text = e.dataTransfer.getData("text/plain").trim();
    const id = e.dataTransfer.getData(RUN) || /\/run\/([0-9a-z]{12})\b/.exec(e.dataTransfer.getData("text/uri-list") || text)?.[1];
    setOver(null);
    if (from !== "") move(+from, i > +from ? i - 1 : i);
    else if (id) addRun(id, i);
    else if (text && !/^\w+:\/\//.test(text)) add([{ prompt: text.slice(0, 2000), seed: ends.at(-1).seed ?? 0 }], i);
  };

  return html`<section class="screen mine"><h1>Morph</h1>
    <ol class=${`lane ${over == null ? "" : "open"}`} aria-label="Keyframes" onDragOver=${(e) => { if (takes(e)) { e.preventDefault(); setOver(slot(e)); } }} onDragLeave=${(e) => e.currentTarget.contains(e.relatedTarget) || setOver(null)} onDrop=${drop}>${ends.map((end, i) => html`<li class=${`key ${over === i ? "before" : over === i + 1 ? "after" : ""}`} data-key=${i} draggable="true"
        onDragStart=${(e) => { if (/^(INPUT|TEXTAREA)$/.test(document.activeElement?.tagName) && e.currentTarget.contains(document.activeElement)) return void e.preventDefault(); e.dataTransfer.setData(KEY, String(i)); e.dataTransfer.effectAllowed = "move"; }}>
        <div class="row"><b>Keyframe ${i + 1}</b>${end.run && html`<img class="tiny" src=${`/v1/runs/${end.run}/pictures/${end.shot ?? 0}.png`} alt="" draggable=${false} />`}</div>
        <textarea rows="2" aria-label=${`Words of keyframe ${i + 1}`} value=${end.prompt} onInput=${(e) => setEnd(i, { prompt: e.target.value, ...(end.picture ? {} : { run: null }) })}></textarea>
        ${end.picture ? html`<p class="dim">The noise of this picture is found by inversion.</p>` : html`<label class="inline">Seed <input type="number" aria-label=${`Seed of keyframe ${i + 1}`} value=${end.seed} onInput=${(e) => e.target.value !== "" && setEnd(i, { seed: Math.trunc(+e.target.value), number: 0, run: null })} /></label>`}
        <div class="row"><button aria-label=${`Move keyframe ${i + 1} earlier`} disabled=${!i} onClick=${() => move(i, i - 1)}>←</button><button aria-label=${`Move keyframe ${i + 1} later`} disabled=${i === ends.length - 1} onClick=${() => move(i, i + 1)}>→</button>
          <button aria-label=${`Remove keyframe ${i + 1}`} disabled=${ends.length < 3} onClick=${() => { setAt(null); setEnds((old) => old.filter((_, j) => j !== i)); }}><${Icon} name="close" /></button></div></li>
      ${i < legs && html`<li class="leg"><${Leg} i=${i} part=${{ ...FRESH, ...parts[i] }} spread=${at && at.filter((p) => p >= i && p <= i + 1).length} turn=${angles && (angles[i] ?? {})} asked=${asked} onAsk=${() => ask(true)} onChange=${(c) => setPart(i, c)} /></li>`}`)}</ol>
    <div class="row wrap"><button onClick=${() => add([{ prompt: ends.at(-1).prompt, seed: (ends.at(-1).seed ?? 0) + 1 }])}>Add words</button><button aria-expanded=${picking} onClick=${() => setPicking(!picking)}>Add runs</button>
      <label class="check"><input type="checkbox" checked=${loop} onChange=${(e) => { setAt(null); setLoop(e.target.checked); }} /> Back to the first</label>
      ${models.length > 1 && html`<label class="inline">Model <select value=${model} onChange=${(e) => setModel(e.target.value)}><option value="">default</option>${models.filter((m) => m.name !== "default").map((m) => html`<option value=${m.name}>${m.name}</option>`)}</select></label>`}
      ${like && html`<span class="dim">as <a href=${`/run/${like}`}>this run</a> was made <button class="ghost" aria-label="With the model's own settings instead" title="With the model's own settings instead" onClick=${() => setLike("")}><${Icon} name="close" /></button></span>`}</div>
    ${picking && html`<${Shelf} onAdd=${(run) => addRun(run.id)} />`}
    <div class="row wrap"><button class="primary" disabled=${!cost || !!cost.wrong} onClick=${() => start()}>Render</button>
      <${Copy} text=${() => line(task, frames, body)}>Copy CLI<//>
      ${cost && (cost.wrong ? html`<span class="bad" role="alert">${cost.wrong}</span>` : html`<span class="dim cost" role="status">${cost.pictures} frames, ${cost.steps} steps, about ${spoken(cost.seconds)}</span>`)}</div>
    ${group && html`<${Film} key=${group} group=${group} onSpread=${again} />`}
  </section>`;
}

/** Picture i of a run as a keyframe: its words and noise where it was made of these alone, else its picture; null without one. */
export function endOf(run, i = 0) {
  const made = (run.request?.task?.kind ?? "text") === "text" && !run.request?.variation && run.kind === "generate", prompts = [run.request?.prompt ?? run.prompt ?? ""].flat();
  const words = prompts[Math.floor(i / (run.request?.count ?? 1))] ?? prompts[0], number = (run.request?.index ?? 0) + i, shown = run.pictures?.[i] ? { run: run.id, ...(i ? { shot: i } : {}) } : { run: null };
  if (made) return { prompt: words, seed: run.seed, ...(number ? { number } : {}), ...shown };
  return run.pictures?.[i] && !recorded(run.id) ? { prompt: words, picture: run.pictures[i].seal, ...shown } : null;
}
const how = (run) => Object.fromEntries(HOW.filter((name) => run.request?.[name] != null && run.kind !== "import").map((name) => [name, run.request[name]]));

/** The same path on the command line. Pictures that it leads through are fetched from the server first. */
export function line(task, frames, { model, request }) {
  const { prompt, seed, ...rest } = request, pictures = [...new Set(task.ends.map((e) => e.picture).filter(Boolean))];
  const tail = ["--model", model, ...Object.entries(rest).flatMap(([name, value]) => ["--set", `${name}=${JSON.stringify(value)}`]), "--no-hints", "--out", "morph"];
  if (!pictures.length && task.ends.every((e) => !e.number))
    return command("safelight", "morph", ...task.ends.map((e) => `--prompt=${e.prompt}`), `--seeds=${task.ends.map((e) => e.seed ?? 0).join(",")}`, ...(task.at ? [`--at=${task.at.join(",")}`] : ["--frames", frames, ...(task.ease === "smooth" ? ["--ease", "smooth"] : [])]), ...tail);
  const file = (seal) => `${seal.replace("sha256:", "").slice(0, 12)}.png`, whole = JSON.stringify({ ...task, ...(task.at ? {} : { frames }) });
  return [...pictures.map((seal) => `${curl("GET", `/v1/pictures/${seal}.png`)} -o ${file(seal)}`), `safelight generate '' ${command("--set", `task=${whole}`, "--count", frames, "--seed", seed, ...pictures.flatMap((seal) => ["--input", file(seal)]), ...tail)}`].join(" && \\\n");
}

/** Steps of one frame: a run that makes several, one at a time, counts the steps of all. */
const long = (run) => (run?.levels?.length > 1 ? run.levels.length - 1 : run?.request?.steps ?? run?.steps ?? 1);

/** Finished runs to drag into the lane, or to add with a click. */
function Shelf({ onAdd }) {
  const [list, setList] = useState(null), [q, setQ] = useState("");
  useEffect(() => later(q ? 200 : 0, async (alive) => { const page = await attempt(server.list({ q, state: "done", limit: 48 })); if (alive() && page) setList(page.runs.filter((r) => r.pictures.length && r.kind !== "morph")); }), [q]);
  return html`<div class="picker"><label class="inline">Runs <input type="search" aria-label="Search runs" placeholder="search" value=${q} onInput=${(e) => setQ(e.target.value)} /></label>
    ${!list ? html`<p aria-busy="true">Looking.</p>` : list.length ? html`<ul class="thumbs shelf" aria-label="Runs to add">${list.map((r) => html`<li key=${r.id} draggable="true" onDragStart=${(e) => { e.dataTransfer.setData(RUN, r.id); e.dataTransfer.effectAllowed = "copy"; }}><button type="button" class="thumb" title=${r.prompt} aria-label=${`Add ${r.prompt || r.title || r.id}`} onClick=${() => onAdd(r)}><${Shot} run=${r} alt="" /></button></li>`)}</ul>`
      : html`<p class="dim">${q ? "No run has these words." : "There is no finished run yet. "}${!q && html`<a href="/create">Make a picture</a>`}</p>`}</div>`;
}

function Leg({ i, part, spread, turn, asked, onAsk, onChange }) {
  const said = !asked ? "" : !turn ? "Measuring the angles." : turn.noise === undefined ? "The angles could not be measured." : `Slerp turns the noise by ${turn.noise == null ? "an angle that inversion finds" : `${turn.noise.toFixed(1)}°`}, the words by ${turn.words == null ? "nothing, there are none" : `${turn.words.toFixed(1)}°`}.`;
  return html`<div onMouseEnter=${onAsk} onFocusIn=${onAsk} title=${said}>
    <label>Segment ${i + 1}<select value=${part.mode} onChange=${(e) => onChange({ mode: e.target.value })}>${MODES.map(([v, t]) => html`<option value=${v}>${t}</option>`)}</select></label>
    <label>Easing<select value=${spread ? "at" : part.ease} onChange=${(e) => onChange({ ease: e.target.value })}>${spread && html`<option value="at" disabled>equal distances</option>`}<option value="linear">linear</option><option value="smooth">smooth</option></select></label>
    <${Slide} label="Frames" value=${spread || part.frames} min=2 max=96 onInput=${(frames) => onChange({ frames })} text=${`${spread || part.frames} frames`} /><p class="dim angle" role="status">${said}</p></div>`;
}

/** The film while it is rendered: what is there is shown, the nearest frame for what is not. */
function Film({ group, onSpread }) {
  const runs = useGroup(group), exports = useStore((s) => s.settings?.exports);
  const [at, setAt] = useState(0), [step, setStep] = useState(1), [playing, setPlaying] = useState(false), [grid, setGrid] = useState(false), [cuts, setCuts] = useState(null), [noise, setNoise] = useState([]), [format, setFormat] = useState("gif"), [saving, setSaving] = useState(false);
  const all = useMemo(() => framesOf(runs), [runs]), n = all.length;
  const ready = all.map((f) => f.run?.state === "done" && !!f.run.pictures[f.picture]), done = ready.filter(Boolean).length, failed = runs.filter((r) => r.state === "failed" || r.state === "stopped").length;
  const want = clamp(at, 0, Math.max(0, n - 1)), near = nearest(want, n, (i) => ready[i] || (all[i]?.run?.steps_done ?? 0) > 0), shown = near < 0 ? null : all[near];
  const formats = (exports ?? ["gif", "webp", "apng"]).filter((f) => ["gif", "webm", "mp4", "apng", "webp"].includes(f));
  useEffect(() => {
    if (!playing || n < 2) return;
    const timer = setInterval(() => setAt((v) => (v + 1) % n), 1000 / PACE);
    return () => clearInterval(timer);
  }, [playing, n]);
  useEffect(() => {
    setCuts(null); setNoise([]);
    if (done < n || n < 3) return;
    let alive = true;
    (async () => {
      const small = [];
      for (let i = 0; i < n && alive; i += 6) small.push(...(await Promise.all(all.slice(i, i + 6).map((f) => pixelsOf(f.run.pictures[f.picture].url, 32)))));
      if (!alive) return;
      setCuts(apart(small.map((p) => p.data)));
      // What the noise really turned by, where only inversion could tell.
      const ends = Array.from({ length: all.legs + 1 }, (_, i) => all.find((f) => Math.abs(f.place - i) < 1e-9)), first = all[0].run.request.task.ends;
      if (!first.some((e) => e.picture) || ends.some((f) => !f || !f.run.recorded)) return;
      const x = await Promise.all(ends.map((f) => tensors(f.run.id, 0, f.picture)));
      if (alive) setNoise(x.slice(1).map((t, i) => Math.acos(clamp(cosine(x[i].at.x.data, t.at.x.data), -1, 1)) * 180 / Math.PI));
    })().catch((e) => alive && fail(e));
    return () => { alive = false; };
  }, [done === n, n]);
  const spread = cuts && respread(all.map((f) => f.place), cuts, all.legs);
  const exported = async () => {
    const list = all.closed ? all.slice(0, -1) : all;
    setSaving(true);
    const data = await attempt(bytes(`/v1/films/${format}`, undefined, { frames: list.map((f) => ({ run: f.run.id, picture: f.picture })), seconds: Math.min(60, Math.max(0.1, list.length / PACE)), hold: 0, back: !all.closed }));
    setSaving(false);
    if (data) download(new Blob([data], { type: { webm: "video/webm", mp4: "video/mp4", apng: "image/apng" }[format] ?? `image/${format}` }), `morph.${format}`);
  };
  const most = cuts ? Math.max(...cuts) : 1, meanCut = cuts ? cuts.reduce((a, b) => a + b, 0) / cuts.length : 1, steps = Math.max(1, long(shown?.run)), now = Math.round(step * (steps - 1));
  if (!n) return html`<section class="film"><h2>Film</h2><p class="dim" aria-busy="true">Reading the frames of this film.</p></section>`;
  return html`<section class="film"><h2>Film</h2>
    ${grid ? html`<${Grid} all=${all} onPick=${(i, k) => { setGrid(false); setPlaying(false); setAt(i); setStep(k); }} />` : html`<div class="shown">${shown && !isActive(shown.run) && !isRecorded(shown.run) ? html`<${Shot} run=${shown.run} i=${shown.picture} />` : shown ? html`<${Frame} run=${shown.run} picture=${shown.picture} lens="x0" step=${now} alt=${`Frame ${near + 1}`}/>` : html`<p class="dim">The first frame is on its way.</p>`}</div>
      <${Scrub} label="Frame" n=${n} value=${want} onInput=${(v) => { setPlaying(false); setAt(v); }} marks=${ready} />
      <${Scrub} label="Denoising step" n=${steps} value=${now} onInput=${(k) => setStep(k / Math.max(1, steps - 1))} />`}
    <p class="dim" role="status">${done} of ${n} frames${failed ? `, ${failed} runs were stopped or failed` : ""}${near >= 0 && near !== want ? `; frame ${want + 1} is not there yet, this is ${near + 1}` : ""}${noise.length ? `. The noise turned by ${noise.map((v) => `${v.toFixed(1)}°`).join(", ")}` : ""}.</p>
    <div class="row wrap"><button onClick=${() => setPlaying(!playing)}>${playing ? "Pause" : "Play"}</button><button aria-pressed=${grid} onClick=${() => setGrid(!grid)}>Frames × steps</button>
      <span class="row"><select aria-label="Format" value=${format} onChange=${(e) => setFormat(e.target.value)}>${formats.map((f) => html`<option value=${f}>${f === "apng" ? "APNG" : f === "webm" ? "WebM" : f === "webp" ? "WebP" : f.toUpperCase()}</option>`)}</select><button disabled=${done < n || saving} aria-busy=${saving} onClick=${exported}>Export loop</button></span></div>
    ${cuts && html`<figure class="density"><figcaption>How far neighbours are apart: the largest gap is ${(most / (meanCut || 1)).toFixed(1)} times the mean.</figcaption>
      <div class="histogram" role="img" aria-label="Distance between neighbouring frames">${cuts.map((c, i) => html`<i class=${i === near ? "on" : ""} style=${`height:${c / (most || 1) * 100}%`}></i>`)}</div>
      ${spread ? html`<div class="row wrap"><button onClick=${() => onSpread(spread)}>Make ${spread.length} frames at equal distances</button><span class="dim">They are rendered anew, close together where much happens; the keyframes stay.</span></div>` : html`<p class="dim">All frames are alike.</p>`}</figure>`}
  </section>`;
}

/** How far each picture is from the one before it: the mean difference of their values, of 255. */
function apart(list) {
  return list.slice(1).map((b, i) => b.reduce((s, v, j) => s + Math.abs(v - list[i][j]), 0) / b.length);
}

function nearest(i, n, fits) {
  for (let d = 0; d < n; d++) { if (i - d >= 0 && fits(i - d)) return i - d; if (i + d < n && fits(i + d)) return i + d; }
  return -1;
}

/** X: place on the path, Y: denoising step. A line marks where two neighbours part for good. */
function Grid({ all, onPick }) {
  const even = (n, most) => [...new Set(Array.from({ length: Math.min(most, n) }, (_, i) => Math.round(i * (n - 1) / Math.max(1, Math.min(most, n) - 1))))];
  const picked = even(all.length, 9).map((i) => ({ i, f: all[i] })).filter((c) => c.f?.run?.steps_done);
  const steps = Math.max(1, ...picked.map((c) => long(c.f.run))), rows = even(steps, 8), last = (f, k) => Math.min(k, long(f.run) - 1);
  const [parts, setParts] = useState([]);
  const over = picked.every((c) => c.f.run.state === "done" && c.f.run.recorded !== false);
  useEffect(() => {
    setParts([]);
    if (!over) return;
    let alive = true;
    (async () => {
      for (let c = 0, found = []; c + 1 < picked.length && alive; c++) {
        const gaps = [];
        for (const k of rows) gaps.push(apart((await Promise.all([picked[c], picked[c + 1]].map(({ f }) => framePixels(f.run, last(f, k), f.picture, 24)))).map((p) => p.data))[0]);
        // From here on they stay more than half as far apart as they end.
        const close = gaps.findLastIndex((v) => v <= gaps.at(-1) / 2);
        found = [...found, gaps.at(-1) ? rows[close + 1] : null];
        if (alive) setParts(found);
      }
    })().catch((e) => alive && fail(e));
    return () => { alive = false; };
  }, [over, picked.map((c) => c.f.run.id + c.f.picture).join()]);
  return html`<div class="scroll"><table class="lattice"><thead><tr><th scope="col">step</th>${picked.map((c) => html`<th scope="col">${c.f.place.toFixed(2)}</th>`)}</tr></thead><tbody>
    ${rows.map((k) => html`<tr><th scope="row">${k + 1}</th>${picked.map(({ f, i }, c) => html`<td class=${parts[c] === k ? "parting" : ""}><button class="ghost" aria-label=${`Show frame ${i + 1} at step ${k + 1}`} onClick=${() => onPick(i, k / Math.max(1, steps - 1))}><${Frame} run=${f.run} picture=${f.picture} lens="x0" step=${last(f, k)} /></button></td>`)}</tr>`)}</tbody></table>
    <p class="dim">Across: the place on the path, keyframe by keyframe. Down: the denoising step. ${parts.length ? `A line marks the step from which a column and the next stay more than half as far apart as they end: ${parts.map((k) => (k == null ? "–" : k + 1)).join(", ")}.` : over ? "Measuring where the paths part." : "Where the paths part is measured once all are done."}</p></div>`;
}
