// Compare: one request over up to three of its fields. One slider scrubs every cell.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { cells, command, csv, dropOne, pca, sharpness, spoken, values } from "./maths.js";
import { Choice, Copy, Frame, Scrub, Wipe, call, download, later, pixelsOf, tensorsOf, url, useGroup, useRunsByIds } from "./kit.js";
import { go } from "./router.js";
import { keep, say, set, useStore } from "./store.js";

const CAP = 144;
const COMMON = [["", "none"], ["mix.scale", "guidance"], ["seed", "seed"], ["sampler", "sampler"], ["steps", "steps"], ["prompt~", "replace a word by"], ["prompt-", "prompt without each word"], ["prompt", "prompts"], ["negative", "negative prompt"], ["grid", "grid"], ["model", "model"], ["fork", "fork at step"], ["task.strength", "strength"], ["=", "another field"]];
const HINT = { "mix.scale": "1, 2, 4, 8", seed: "0..3", sampler: "ddim, euler, heun", steps: "5, 10, 20", "prompt~": "cat, dog, bear", prompt: '"a cat", "a dog"', grid: "uniform, karras", fork: "2, 6, 10", negative: '"", "blurry"', "task.strength": "0.2, 0.5, 0.8" };

/** A typed axis as the server takes it: {path, values}, or null while it is empty. */
export function axisOf({ path, text, word, field }, prompt) {
  if (path === "prompt-") return prompt.trim().split(/\s+/).length > 1 ? { path: "prompt", values: dropOne(prompt) } : null;
  const found = values(text ?? ""), full = path === "prompt~" ? `prompt~${word ?? ""}` : path === "=" ? field : path;
  return path && found.length && full && full !== "prompt~" ? { path: full, values: found } : null;
}

/** What varies over runs, from their requests alone: [{path, values, of: run -> value}]; fields that vary together are one axis. */
export function axesOf(runs) {
  const flat = (v, at = "", out = {}) => {
    if (v && typeof v === "object" && !Array.isArray(v)) { for (const [k, one] of Object.entries(v)) if (k !== "family") flat(one, at ? `${at}.${k}` : k, out); }
    else out[at] = JSON.stringify(v ?? null);
    return out;
  };
  const rows = runs.map((r) => flat({ model: r.model, ...(r.fork_step != null ? { fork: r.fork_step } : {}), ...r.request })), found = [];
  for (const path of new Set(rows.flatMap((r) => Object.keys(r)))) {
    const each = rows.map((r) => r[path] ?? "null"), kinds = [...new Set(each)];
    if (kinds.length < 2) continue;
    const pattern = each.map((v) => kinds.indexOf(v)).join();
    const twin = found.find((f) => f.pattern === pattern);
    const plain = path.replace(/\.kind$/, "");
    if (!twin) found.push({ path: plain, pattern, values: kinds.map((k) => show(JSON.parse(k))), place: each.map((v) => kinds.indexOf(v)) });
    else if (path.endsWith(".kind") && !twin.path.endsWith(plain)) Object.assign(twin, { path: plain, values: kinds.map((k) => show(JSON.parse(k))) });
  }
  // A field that another two settle between them (steps of a sampler's own, say) is no axis: the fewest that tell all runs apart are kept.
  const chosen = [], told = (list) => new Set(runs.map((_, i) => list.map((f) => f.place[i]).join())).size;
  while (found.length && chosen.length < 3 && told(chosen) < runs.length) {
    const best = found.reduce((a, b) => (told([...chosen, b]) > told([...chosen, a]) ? b : a));
    if (told([...chosen, best]) === told(chosen)) break;
    chosen.push(best);
    found.splice(found.indexOf(best), 1);
  }
  // Rows are what changes slowest from run to run.
  const turns = (f) => f.place.reduce((n, v, i) => n + (i > 0 && v !== f.place[i - 1]), 0);
  return chosen.sort((a, b) => turns(a) - turns(b));
}

/** The axes that were asked for (as the address keeps them), where the runs are their cells in order; else null. */
function laid(runs, text) {
  try {
    const asked = JSON.parse(text || "[]").map((a) => ({ path: a.path === "prompt~" ? `prompt~${a.word}` : a.path === "=" ? a.field : a.path === "prompt-" ? "prompt" : a.path, values: a.values }));
    const size = asked.map((_, i) => asked.slice(i + 1).reduce((n, b) => n * b.values.length, 1));
    if (!asked.length || asked.some((a) => !a.values) || runs.length !== size[0] * asked[0].values.length) return null;
    return asked.map((a, i) => ({ path: a.path, values: a.values.map(show), place: runs.map((_, k) => Math.floor(k / size[i]) % a.values.length) }));
  } catch { return null; }
}

const show = (v) => (Array.isArray(v) ? v.join(", ") : v && typeof v === "object" ? v.kind ?? JSON.stringify(v) : String(v));

/** The same grid on the command line. */
export function line(prompt, axes, seed) {
  const flat = axes.map((a) => `${a.path}=${a.values.map((v) => (typeof v === "string" && /[,\s]/.test(v) ? JSON.stringify(v) : typeof v === "object" ? JSON.stringify(v) : v)).join(",")}`);
  return command("safelight", "grid", prompt, ...flat.flatMap((t, i) => [["--y", "--x", "--z"][axes.length === 1 ? 1 : i] ?? "--z", t]), "--seed", seed);
}

export function screen({ query }) {
  const [form, setForm] = useState(() => ({ prompt: query.prompt ?? "a red apple", seed: 0, model: "default", base: null, axes: query.axes ? padded(JSON.parse(query.axes)) : [{ path: "mix.scale", text: "1, 2, 4" }, { path: "seed", text: "0..1" }, { path: "", text: "" }] }));
  const [cost, setCost] = useState(null), [fields, setFields] = useState([]), [at, setAt] = useState(+(query.at ?? 1)), [chosen, setChosen] = useState([]), [sort, setSort] = useState("grid");
  const ids = (query.runs ?? "").split(",").filter(Boolean), group = query.group ?? "";
  const ofGroup = useGroup(group), ofIds = useRunsByIds(ids), runs = group ? ofGroup : ofIds;
  const axes = form.axes.map((a) => axisOf(a, form.prompt)).filter(Boolean), count = cells(axes).length;
  const body = { model: form.model, request: { ...(form.base?.request ? pick(form.base.request) : {}), prompt: [form.prompt], seed: form.seed }, axes, ...(form.base ? { parent: form.base.id } : {}) };
  useEffect(() => { if (query.run) call.get(`/v1/runs/${query.run}`).then((r) => setForm((f) => ({ ...f, prompt: r.prompt, seed: r.seed, model: r.model, base: r }))); }, [query.run]);
  useEffect(() => { call.get("/v1/samplers").then((s) => setFields((s.samplers ?? []).map((k) => k.kind))).catch(() => {}); }, []);
  useEffect(() => later(300, async (alive) => {
    if (!axes.length || count > CAP) { setCost(null); return; }
    const r = await call.try("POST", "/v1/grids?dry=1", body);
    if (alive()) setCost(r.ok ? r.data.cost : { wrong: r.message });
  }), [JSON.stringify(body)]);
  useEffect(() => { url({ at: at === 1 ? "" : at.toFixed(3) }, true); }, [at]);

  const start = async () => { const made = await call.post("/v1/grids", body); if (made) { setChosen([]); setAt(1); go("/compare", { group: made.group, axes: JSON.stringify(form.axes.filter((a) => axisOf(a, form.prompt)).map((a) => ({ ...a, values: axisOf(a, form.prompt).values }))) }); say(`${made.cost?.pictures ?? made.runs.length} pictures are queued.`); } };
  const setAxis = (i, change) => setForm({ ...form, axes: form.axes.map((a, j) => (j === i ? { ...a, ...change } : a)) });

  return html`<section class="screen mine"><h1>Compare</h1>
    <details open=${!runs.length}><summary>What varies</summary><div class="form">
      <label>Prompt<textarea rows="2" value=${form.prompt} onInput=${(e) => setForm({ ...form, prompt: e.target.value })}></textarea></label>
      ${form.axes.map((a, i) => html`<fieldset class="axis-form"><legend>${["Rows", "Columns", "Sheets"][i]}</legend>
        <select aria-label=${`Field of axis ${i + 1}`} value=${a.path} onChange=${(e) => setAxis(i, { path: e.target.value, text: e.target.value === "sampler" && fields.length ? fields.slice(0, 4).join(", ") : HINT[e.target.value] ?? "" })}>${COMMON.map(([v, t]) => html`<option value=${v}>${t}</option>`)}</select>
        ${a.path === "prompt~" && html`<select aria-label="Word to replace" value=${a.word ?? ""} onChange=${(e) => setAxis(i, { word: e.target.value })}><option value="">which word</option>${[...new Set(form.prompt.split(/\s+/).filter(Boolean))].map((w) => html`<option value=${w}>${w}</option>`)}</select>`}
        ${a.path === "=" && html`<input aria-label="Path of the field" placeholder="mix.rescale" value=${a.field ?? ""} onInput=${(e) => setAxis(i, { field: e.target.value.trim() })} />`}
        ${a.path && a.path !== "prompt-" && html`<input aria-label=${`Values of axis ${i + 1}`} value=${a.text} placeholder=${HINT[a.path] ?? "values, with commas"} onInput=${(e) => setAxis(i, { text: e.target.value })} />`}
        <span class="dim">${axisOf(a, form.prompt)?.values.length ?? 0} values</span></fieldset>`)}
      <div class="row wrap"><label class="inline">Seed <input type="number" value=${form.seed} onInput=${(e) => setForm({ ...form, seed: +e.target.value })} /></label>
        <button class="primary" disabled=${!axes.length || count > CAP || cost?.wrong} onClick=${start}>Start ${axes.length ? count : ""}</button>
        <${Copy} text=${() => line(form.prompt, axes, form.seed)}>Copy CLI<//>
        <span role="status" class=${cost?.wrong || count > CAP ? "bad" : "dim"}>${count > CAP ? `${count} cells: ${CAP} at most. Give fewer values.` : cost?.wrong ?? (cost ? `${cost.pictures} pictures, ${cost.steps} steps, about ${spoken(cost.seconds)}` : axes.length ? "Working out what it costs." : "Choose a field and its values.")}</span></div>
    </div></details>
    ${runs.length ? html`<${Sheet} ...${{ runs, asked: group && query.axes ? query.axes : "", at, setAt, chosen, setChosen, sort, setSort }} prompt=${runs[0].prompt} />` : html`<${Tray} />`}
  </section>`;
}

const padded = (list) => [...list, {}, {}, {}].slice(0, 3).map((a) => ({ path: "", text: "", ...a }));
/** A request without what a grid does not take over. */
const pick = ({ family, kind, count, index, micro_batch, prompt, ...rest }) => rest;

function Tray() {
  const ids = useStore((s) => s.tray), runs = useRunsByIds(ids), clear = () => { set({ tray: [] }); keep("tray", []); };
  return html`<section><h2>Compare tray</h2>${runs.length ? html`<div class="shots">${runs.map((r) => html`<figure><${Frame} run=${r} lens="x0" step=${Infinity} alt=${r.prompt} /><figcaption>${r.prompt}</figcaption></figure>`)}</div>
    <div class="row"><button class="primary" onClick=${() => go("/compare", { runs: ids.join(",") })}>Compare these</button><button onClick=${clear}>Empty the tray</button></div>` : html`<p class="dim">Gather runs with the C key or in the gallery, or fill in what varies.</p>`}</section>`;
}

function Sheet({ runs, asked, at, setAt, chosen, setChosen, sort, setSort, prompt }) {
  const axes = useMemo(() => laid(runs, asked) ?? axesOf(runs), [runs, asked]);
  const [scores, setScores] = useState({});
  const done = runs.filter((r) => r.state === "done"), left = runs.filter((r) => ["queued", "running"].includes(r.state)).length;
  const whole = axes.length > 0 && axes.length <= 3 && sort === "grid" && axes.reduce((n, a) => n * a.values.length, 1) === runs.length;
  const name = (r) => { const i = runs.indexOf(r); return axes.map((a) => `${a.path} ${a.values[a.place[i]]}`).join(", ") || r.title || r.prompt; };
  const n = Math.max(1, ...runs.map((r) => r.steps || 1)), k = Math.round(at * (n - 1));
  const measure = async (what) => {
    setSort(what);
    const missing = done.filter((r) => scores[r.id]?.[what] === undefined), found = {};
    if (what === "time") for (const r of done) found[r.id] = r.finished && r.started ? r.finished - r.started : (r.ms_per_step ?? 0) * r.steps / 1000;
    else if (what === "sharpness") for (const r of missing) { const p = await pixelsOf(r.pictures[0].url); found[r.id] = sharpness(p.data, p.width, p.height); }
    else if (what === "alignment" && missing.length) {
      const texts = [...new Set(missing.map((r) => r.prompt))], e = await call.post("/v1/embed", { texts, seals: missing.map((r) => r.pictures[0].seal), joint: "sprites-clip", model: "default" });
      if (e) missing.forEach((r, i) => { found[r.id] = e.cosines[texts.indexOf(r.prompt)][texts.length + i]; });
    }
    setScores((old) => { const next = { ...old }; for (const [id, v] of Object.entries(found)) next[id] = { ...next[id], [what]: v }; return next; });
  };
  const sorted = sort === "grid" ? runs : [...runs].sort((a, b) => (scores[b.id]?.[sort] ?? -Infinity) - (scores[a.id]?.[sort] ?? -Infinity));
  const choose = (r) => setChosen(chosen.includes(r.id) ? chosen.filter((x) => x !== r.id) : [...chosen.slice(-1), r.id]);
  const cell = (r) => html`<${Cell} key=${r.id} ...${{ r, at, name: name(r), chosen: chosen.includes(r.id), score: scores[r.id]?.[sort], onChoose: () => choose(r) }} />`;
  const rows = () => runs.map((r, i) => ({ ...Object.fromEntries(axes.map((a) => [a.path, a.values[a.place[i]]])), id: r.id, state: r.state, seed: r.seed, steps: r.steps, ms_per_step: r.ms_per_step, seal: r.pictures[0]?.seal ?? "", ...scores[r.id] }));
  const asCsv = () => { const list = rows(), keys = [...new Set(list.flatMap(Object.keys))]; return csv([keys, ...list.map((r) => keys.map((key) => r[key]))]); };
  const block = (fixed, wide) => {
    const [rowAxis, columnAxis] = axes.length === 1 ? [null, axes[0]] : axes, find = (y, x) => runs.find((_, i) => (!rowAxis || rowAxis.place[i] === y) && columnAxis.place[i] === x && (!wide || wide.place[i] === fixed));
    return html`<div class="scroll"><table class="cells"><thead><tr>${rowAxis && html`<td></td>`}${columnAxis.values.map((v) => html`<th scope="col">${columnAxis.path} ${v}</th>`)}</tr></thead><tbody>
      ${(rowAxis?.values ?? [""]).map((v, y) => html`<tr>${rowAxis && html`<th scope="row">${rowAxis.path} ${v}</th>`}${columnAxis.values.map((_, x) => html`<td>${find(y, x) && cell(find(y, x))}</td>`)}</tr>`)}</tbody></table></div>`;
  };
  return html`<div class="sheet-bar"><${Scrub} label="Step of every cell" n=${n} value=${k} onInput=${(v) => setAt(n > 1 ? v / (n - 1) : 1)} />
      <div class="row wrap"><label class="inline">Sort <select value=${sort} onChange=${(e) => measure(e.target.value)}>${[["grid", "as a grid"], ["alignment", "by alignment"], ["sharpness", "by sharpness"], ["time", "by time"]].map(([v, t]) => html`<option value=${v}>${t}</option>`)}</select></label>
      <button onClick=${() => poster(runs, axes, sorted, name, at).then((b) => download(b, "compare.png"))}>PNG</button><button onClick=${() => download(new Blob([asCsv()], { type: "text/csv" }), "compare.csv")}>CSV</button>
      <button onClick=${() => download(new Blob([JSON.stringify({ prompt, axes: axes.map(({ path, values: v }) => ({ path, values: v })), cells: rows() }, null, 1)], { type: "application/json" }), "compare.json")}>JSON</button>
      <${Copy} text=${() => line(prompt, axes, runs[0].seed)}>Copy CLI<//>${left > 0 && html`<button onClick=${async () => { for (const r of runs) if (["queued", "running"].includes(r.state)) await call.post(`/v1/runs/${r.id}/cancel`); }}>Stop all</button>`}
      <span role="status" class="dim">${done.length} of ${runs.length} done${left ? `, ${left} to go` : ""}</span></div></div>
    ${whole ? (axes.length === 3 ? axes[2].values.map((v, z) => html`<h3>${axes[2].path} ${v}</h3>${block(z, axes[2])}`) : block(0, null))
      : html`<ol class="flow">${sorted.map((r) => html`<li>${cell(r)}<span>${name(r)}${scores[r.id]?.[sort] !== undefined ? html` <b>${scores[r.id][sort].toFixed(3)}</b>` : ""}</span></li>`)}</ol>`}
    ${chosen.length === 2 ? html`<${Pair} a=${runs.find((r) => r.id === chosen[0])} b=${runs.find((r) => r.id === chosen[1])} name=${name} at=${at} />` : html`<p class="dim">Open a cell with a click. Hold Shift and click two (or choose them with the box) to see them against each other.</p>`}`;
}

function Cell({ r, at, name, chosen, onChoose }) {
  const last = Math.max(0, (r.steps || 1) - 1);
  return html`<div class=${`cell ${r.state} ${chosen ? "chosen" : ""}`}>
    <a href=${`/run/${r.id}`} aria-label=${`${name}, ${r.state}`} onClick=${(e) => { if (e.shiftKey) { e.preventDefault(); e.stopPropagation(); onChoose(); } }}><${Frame} run=${r} lens="x0" step=${Math.round(at * last)} alt="" /></a>
    <div class="corner"><input type="checkbox" aria-label=${`Choose ${name}`} checked=${chosen} onChange=${onChoose} />
      <button aria-label=${`Star ${name}`} aria-pressed=${!!r.star} onClick=${() => call.patch(`/v1/runs/${r.id}`, { star: !r.star })}>${r.star ? "★" : "☆"}</button></div>
    ${r.state !== "done" && html`<span class="state">${r.state === "running" ? `${r.steps_done}/${r.steps}` : r.state}</span>`}</div>`;
}

/** Two cells: split, difference, and both trajectories on one plane, fitted on the spot. */
function Pair({ a, b, name, at }) {
  const [view, setView] = useState("split"), ka = Math.round(at * Math.max(0, a.steps - 1)), kb = Math.round(at * Math.max(0, b.steps - 1));
  const frame = (r, k) => `/v1/runs/${r.id}/steps/${k}/x0.png?picture=0`;
  const ready = a.steps_done > ka && b.steps_done > kb;
  return html`<section class="versus card"><h2>${name(a)} against ${name(b)}</h2><${Choice} label="View" items=${[["split", "Split"], ["difference", "Difference"], ["paths", "Trajectories"]]} value=${view} onPick=${setView} />
    ${!ready ? html`<p class="dim">Both need this step first.</p>` : view === "split" ? html`<${Wipe} names=${[name(a), name(b)]} pictures=${[frame(a, ka), frame(b, kb)]} ratio=${(a.pictures[0]?.width ?? 1) / (a.pictures[0]?.height ?? 1)} />` : view === "difference" ? html`<${Difference} urls=${[frame(a, ka), frame(b, kb)]} />` : html`<${Paths} runs=${[a, b]} names=${[name(a), name(b)]} at=${at} />`}</section>`;
}

function Difference({ urls }) {
  const canvas = useRef(), [text, setText] = useState("");
  useEffect(() => {
    let alive = true;
    Promise.all(urls.map((u) => pixelsOf(u))).then(([p, q]) => {
      if (!alive || !canvas.current) return;
      if (p.width !== q.width || p.height !== q.height) { setText("The two are of different sizes."); return; }
      let whole = 0;
      for (let i = 0; i < p.data.length; i += 4) for (let c = 0; c < 3; c++) { const d = Math.abs(p.data[i + c] - q.data[i + c]); whole += d; p.data[i + c] = Math.min(255, 2 * d); }
      canvas.current.width = p.width; canvas.current.height = p.height;
      canvas.current.getContext("2d").putImageData(p, 0, 0);
      setText(`Mean difference ${(whole / (p.data.length * 0.75)).toFixed(2)} of 255, shown twice as bright.`);
    });
    return () => { alive = false; };
  }, urls);
  return html`<canvas class="big" ref=${canvas} role="img" aria-label="Difference of the two pictures"></canvas><p class="dim" role="status">${text}</p>`;
}

export function Paths({ runs, names, at }) {
  const [plane, setPlane] = useState(null);
  useEffect(() => {
    let alive = true;
    setPlane(null);
    (async () => {
      const paths = [];
      for (const r of runs) { const path = []; for (let k = 0; k < r.steps_done; k++) path.push((await tensorsOf(r.id, k, 0)).get("x0")); paths.push(path); }
      if (paths[0][0].length !== paths[1][0].length) throw new Error("Their latents have different sizes, so they share no map.");
      const fit = pca(paths.flat());
      if (alive) setPlane({ share: fit.share, paths: [fit.points.slice(0, paths[0].length), fit.points.slice(paths[0].length)] });
    })().catch((e) => alive && setPlane({ wrong: e.message }));
    return () => { alive = false; };
  }, runs.map((r) => r.id));
  if (!plane) return html`<p class="dim" aria-busy="true">Reading every step of both.</p>`;
  if (plane.wrong) return html`<p class="bad">${plane.wrong}</p>`;
  const all = plane.paths.flat(), size = 320, pad = 24, low = [0, 1].map((c) => Math.min(...all.map((p) => p[c]))), high = [0, 1].map((c) => Math.max(...all.map((p) => p[c]))), reach = Math.max(high[0] - low[0], high[1] - low[1]) || 1;
  const put = (p) => [pad + (p[0] - low[0]) / reach * (size - 2 * pad), size - pad - (p[1] - low[1]) / reach * (size - 2 * pad)];
  return html`<svg class="map" viewBox=${`0 0 ${size} ${size}`} role="img" aria-label="Trajectories of both runs on one map">${plane.paths.map((path, i) => { const now = Math.round(at * (path.length - 1)); return html`<g class=${`path p${i}`}><polyline points=${path.map((p) => put(p).map((v) => v.toFixed(1)).join()).join(" ")} />${path.map((p, k) => html`<circle cx=${put(p)[0]} cy=${put(p)[1]} r=${k === now ? 6 : 2} />`)}</g>`; })}</svg>
    <p class="legend">${names.map((t, i) => html`<span class=${`path p${i}`}><i></i>${t}</span>`)}</p><p class="dim">What both believe at every step, on the plane that holds ${(100 * (plane.share[0] + plane.share[1])).toFixed(0)} % of it. The large dot is this step.</p>`;
}

/** The sheet as one picture, with its labels. */
async function poster(runs, axes, sorted, name, at) {
  const columns = axes.length && sorted === runs ? axes[Math.min(1, axes.length - 1)].values.length : Math.ceil(Math.sqrt(runs.length)), side = 192, label = 34;
  const canvas = new OffscreenCanvas(columns * side, Math.ceil(runs.length / columns) * (side + label)), pen = canvas.getContext("2d");
  const order = sorted === runs && axes.length > 1 ? [...runs].sort((a, b) => [...axes.slice(2), ...axes.slice(0, 2)].reduce((d, x) => d || x.place[runs.indexOf(a)] - x.place[runs.indexOf(b)], 0)) : sorted;
  pen.fillStyle = "#fff"; pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "#111"; pen.font = "13px sans-serif"; pen.textBaseline = "middle"; pen.imageSmoothingEnabled = false;
  for (const [i, r] of order.entries()) {
    const x = i % columns * side, y = Math.floor(i / columns) * (side + label);
    pen.fillText(name(r), x + 6, y + label / 2, side - 12);
    if (!r.steps_done) continue;
    const k = Math.round(at * (r.steps - 1)), bitmap = await createImageBitmap(await (await fetch(at === 1 && r.pictures[0] ? r.pictures[0].url : `/v1/runs/${r.id}/steps/${Math.min(k, r.steps_done - 1)}/x0.png?picture=0`)).blob());
    const scale = Math.min(side / bitmap.width, side / bitmap.height), w = bitmap.width * scale, h = bitmap.height * scale;
    pen.drawImage(bitmap, x + (side - w) / 2, y + label + (side - h) / 2, w, h);
  }
  return canvas.convertToBlob({ type: "image/png" });
}
