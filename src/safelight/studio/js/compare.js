// Compare: one request over up to three of its fields. One slider scrubs every cell.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { csv, dropOne, pca, sharpness, spoken, values } from "./maths.js";
import { Choice, Frame, Picker, Scrub, Wipe, call, download, later, pixelsOf, url, useGroup, useRunsByIds } from "./kit.js";
import { tensors } from "./dial.js";
import { api, attempt, bytes, copy, curl } from "./api.js";
import { isRecorded } from "./filmstrip.js";
import { Icon, Shot } from "./parts.js";
import { go } from "./router.js";
import { fail, isActive, keep, say, set, useStore } from "./store.js";

const COMMON = [["", "none"], ["mix.scale", "guidance"], ["seed", "seed"], ["sampler", "sampler"], ["steps", "steps"], ["prompt~", "replace a word by"], ["prompt-", "prompt without each word"], ["prompt", "prompts"], ["negative", "negative prompt"], ["grid", "grid"], ["model", "model"], ["fork", "fork at step"], ["task.strength", "strength"], ["=", "another field"]];
const HINT = { "mix.scale": "1, 2, 4, 8", seed: "0..3", sampler: "ddim, euler, heun", steps: "5, 10, 20", "prompt~": "cat, dog, bear", prompt: '"a cat", "a dog"', grid: "uniform, karras", fork: "2, 6, 10", negative: '"", "blurry"', "task.strength": "0.2, 0.5, 0.8" };
// The joint model that ships, and how many pictures it is asked about at a time.
const JUDGE = "sprites-clip", AT_ONCE = 128;
const SORTS = [["grid", "as a grid"], ["alignment", "by alignment"], ["sharpness", "by sharpness"], ["time", "by time"]];

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

const asOf = (text) => JSON.parse(text || "[]").map((a) => ({ path: a.path === "prompt~" ? `prompt~${a.word}` : a.path === "=" ? a.field : a.path === "prompt-" ? "prompt" : a.path, values: a.values }));

/** The axes that were asked for (as the address keeps them), where the runs are their cells in order; else null. */
function laid(runs, text) {
  try {
    const asked = asOf(text);
    const size = asked.map((_, i) => asked.slice(i + 1).reduce((n, b) => n * b.values.length, 1));
    if (!asked.length || asked.some((a) => !a.values) || runs.length !== size[0] * asked[0].values.length) return null;
    return asked.map((a, i) => ({ path: a.path, values: a.values.map(show), place: runs.map((_, k) => Math.floor(k / size[i]) % a.values.length) }));
  } catch { return null; }
}

const show = (v) => (Array.isArray(v) ? v.join(", ") : v && typeof v === "object" ? v.kind ?? JSON.stringify(v) : String(v));

export function screen({ query }) {
  const [form, setForm] = useState(() => ({ prompt: query.prompt ?? "a red apple", seed: +(query.seed ?? 0), model: query.model ?? "default", base: null, axes: query.axes ? padded(read(query.axes)) : [{ path: "mix.scale", text: "1, 2, 4" }, { path: "seed", text: "0..1" }, { path: "", text: "" }] }));
  const [cost, setCost] = useState(null), [at, setAt] = useState(+(query.at ?? 1)), [chosen, setChosen] = useState([]), [sort, setSort] = useState("grid"), [choosing, setChoosing] = useState(false), busy = useRef(false);
  const models = useStore((s) => s.models)?.models ?? [], parts = useStore((s) => s.parts), cap = useStore((s) => s.settings?.limits?.cells) ?? 512;
  const ids = (query.runs ?? "").split(",").filter(Boolean), group = query.group ?? "";
  const ofGroup = useGroup(group), ofIds = useRunsByIds(ids), runs = group ? ofGroup : ofIds;
  const axes = form.axes.map((a) => axisOf(a, form.prompt)).filter(Boolean), count = axes.reduce((n, a) => n * a.values.length, 1), forks = axes.some((a) => a.path === "fork");
  const own = form.base ? { ...pick(form.base.request ?? {}), ...(form.base.request?.index || forks ? { index: form.base.request?.index ?? 0, count: 1 } : {}) } : {};
  const body = { model: form.model, request: { ...own, prompt: [form.prompt], seed: form.seed }, axes, ...(form.base ? { parent: form.base.id } : {}) };
  const told = JSON.stringify(body);
  useEffect(() => {
    if (!query.run) return;
    let alive = true;
    attempt(api(`/v1/runs/${query.run}`)).then((r) => alive && r && setForm((f) => ({ ...f, prompt: query.group ? f.prompt : r.request?.prompt?.[0] ?? r.prompt, seed: query.group ? f.seed : r.seed, model: query.group ? f.model : r.model, base: r })));
    return () => { alive = false; };
  }, [query.run]);
  useEffect(() => later(300, async (alive) => {
    if (!axes.length || count > cap || (forks && !form.base)) { setCost(null); return; }
    const r = await call.try("POST", "/v1/grids?dry=1", body);
    if (alive()) setCost(r.ok ? r.data.cost : { wrong: r.message });
  }), [told, cap]);
  useEffect(() => { url({ at: at === 1 ? "" : at.toFixed(3) }, true); }, [at]);

  const start = async () => {
    if (busy.current) return;
    busy.current = true;
    const made = await call.post("/v1/grids", body);
    busy.current = false;
    if (!made) return;
    setChosen([]); setAt(1); setSort("grid");
    const asked = form.axes.flatMap((a) => { const one = axisOf(a, form.prompt); return one ? [{ ...a, values: one.values }] : []; });
    go("/compare", { group: made.group, axes: JSON.stringify(asked), prompt: form.prompt, seed: form.seed, model: form.model, run: form.base?.id });
    say(`${made.cost?.pictures ?? made.runs.length} pictures are queued.`);
  };
  const setAxis = (i, change) => setForm((f) => ({ ...f, axes: f.axes.map((a, j) => (j === i ? { ...a, ...change } : a)) }));
  const hint = (path) => ({ sampler: parts?.samplers?.slice(0, 4).map((k) => k.kind).join(", "), grid: parts?.grids?.slice(0, 3).map((k) => k.kind).join(", "), model: models.map((m) => m.name).join(", ") })[path] || (HINT[path] ?? "");
  const based = (run) => { setChoosing(false); setForm((f) => ({ ...f, prompt: run.request?.prompt?.[0] ?? run.prompt, seed: run.seed, model: run.model, base: run })); };
  const over = count > cap ? `${count.toLocaleString("en")} cells: ${cap} at most. Give fewer values.` : forks && !form.base ? "Choose the run to fork." : cost?.wrong;

  return html`<section class="screen mine"><h1>Compare</h1>
    <details open=${!runs.length}><summary>What varies</summary><div class="form">
      <label>Prompt<textarea rows="2" value=${form.prompt} onInput=${(e) => setForm((f) => ({ ...f, prompt: e.target.value }))}></textarea></label>
      ${form.axes.map((a, i) => html`<fieldset class="axis-form"><legend>${["Rows", "Columns", "Sheets"][i]}</legend>
        <select aria-label=${`Field of axis ${i + 1}`} value=${a.path} onChange=${(e) => setAxis(i, { path: e.target.value, text: hint(e.target.value) })}>${COMMON.map(([v, t]) => html`<option value=${v}>${t}</option>`)}</select>
        ${a.path === "prompt~" && html`<select aria-label="Word to replace" value=${a.word ?? ""} onChange=${(e) => setAxis(i, { word: e.target.value })}><option value="">which word</option>${[...new Set(form.prompt.split(/\s+/).filter(Boolean))].map((w) => html`<option value=${w}>${w}</option>`)}</select>`}
        ${a.path === "=" && html`<input aria-label="Path of the field" placeholder="mix.rescale" value=${a.field ?? ""} onInput=${(e) => setAxis(i, { field: e.target.value.trim() })} />`}
        ${a.path && a.path !== "prompt-" && html`<input aria-label=${`Values of axis ${i + 1}`} value=${a.text} placeholder=${hint(a.path) || "values, with commas"} onInput=${(e) => setAxis(i, { text: e.target.value })} />`}
        <span class="dim">${axisOf(a, form.prompt)?.values.length ?? 0} values</span></fieldset>`)}
      <div class="row wrap"><label class="inline">Seed <input type="number" value=${form.seed} onInput=${(e) => e.target.value !== "" && setForm((f) => ({ ...f, seed: Math.trunc(+e.target.value) }))} /></label>
        ${models.length > 1 && html`<label class="inline">Model <select value=${form.model} disabled=${forks} onChange=${(e) => setForm((f) => ({ ...f, model: e.target.value }))}><option value="default">default</option>${[...new Set([...models.map((m) => m.name), form.model])].filter((m) => m !== "default").map((m) => html`<option value=${m}>${m}</option>`)}</select></label>`}
        <span class="dim">${form.base ? html`as <a href=${`/run/${form.base.id}`}>this run</a> was made <button class="ghost" aria-label="With the model's own settings instead" title="With the model's own settings instead" onClick=${() => setForm((f) => ({ ...f, base: null }))}><${Icon} name="close" /></button>` : html`<button aria-expanded=${choosing} onClick=${() => setChoosing(!choosing)}>Vary a run</button>`}</span></div>
      ${choosing && !form.base && html`<${Picker} label="Runs" filter=${(r) => r.state === "done" && r.kind !== "import"} onPick=${based} />`}
      <div class="row wrap"><button class="primary" disabled=${!axes.length || !!over || !cost} onClick=${start}>Start ${axes.length ? count : ""}</button>
        <button class="ghost" disabled=${!axes.length} onClick=${() => copy(curl("POST", "/v1/grids", body), "curl command")}>Copy curl</button>
        <span role="status" class=${over ? "bad" : "dim"}>${over ?? (cost ? `${cost.pictures} images, ${cost.seconds == null ? "no time measured yet" : `about ${spoken(cost.seconds)}`}` : axes.length ? "Working out what it costs." : "Choose a field and its values.")}</span></div>
    </div></details>
    ${runs.length ? html`<${Sheet} ...${{ runs, asked: group && query.axes ? query.axes : "", at, setAt, chosen, setChosen, sort, setSort }} prompt=${group ? query.prompt ?? runs[0].prompt : runs[0].prompt} />` : html`<${Tray} />`}
  </section>`;
}

const read = (text) => { try { const found = JSON.parse(text); return Array.isArray(found) ? found : []; } catch { return []; } };
const padded = (list) => [...list, {}, {}, {}].slice(0, 3).map((a) => ({ path: "", text: "", ...a }));
/** A request without what a grid does not take over. */
const pick = ({ family, kind, count, index, micro_batch, prompt, ...rest }) => rest;

/** Whether a run has no steps to look at, only its picture. */
const still = (r) => !isActive(r) && !isRecorded(r);

function Tray() {
  const ids = useStore((s) => s.tray), runs = useRunsByIds(ids), clear = () => { set({ tray: [] }); keep("tray", []); };
  return html`<section><h2>Compare tray</h2>${runs.length ? html`<div class="shots">${runs.map((r) => html`<figure>${still(r) ? html`<${Shot} run=${r} />` : html`<${Frame} run=${r} lens="x0" step=${Infinity} alt=${r.prompt} />`}<figcaption>${r.prompt}</figcaption></figure>`)}</div>
    <div class="row"><button class="primary" onClick=${() => go("/compare", { runs: ids.join(",") })}>Compare these</button><button onClick=${clear}>Empty the tray</button></div>` : html`<p class="dim">Gather runs with the C key or in the gallery, or fill in what varies.</p>`}</section>`;
}

function Sheet({ runs, asked, at, setAt, chosen, setChosen, sort, setSort, prompt }) {
  const axes = useMemo(() => laid(runs, asked) ?? axesOf(runs), [runs, asked]);
  const [scores, setScores] = useState({}), [busy, setBusy] = useState(false);
  const done = runs.filter((r) => r.state === "done"), open = runs.filter(isActive), left = open.length, failed = runs.filter((r) => r.state === "failed").length;
  const whole = axes.length > 0 && axes.length <= 3 && sort === "grid" && axes.reduce((n, a) => n * a.values.length, 1) === runs.length;
  const name = (r) => { const i = runs.indexOf(r); return axes.map((a) => `${a.path} ${a.values[a.place[i]]}`).join(", ") || r.title || r.prompt; };
  const n = Math.max(1, ...runs.map((r) => r.steps || 1)), k = Math.round(at * (n - 1));
  const tell = (what, found) => setScores((old) => { const next = { ...old }; for (const [id, v] of Object.entries(found)) next[id] = { ...next[id], [what]: v }; return next; });
  // What is done is measured as it comes; what was measured stays.
  useEffect(() => {
    if (sort === "grid") return;
    let alive = true;
    const missing = done.filter((r) => scores[r.id]?.[sort] === undefined && (sort === "time" || r.pictures.length));
    (async () => {
      if (sort === "time") tell("time", Object.fromEntries(missing.map((r) => [r.id, r.finished && r.started ? r.finished - r.started : ((r.ms_per_step ?? 0) * r.steps) / 1000])));
      for (const r of sort === "sharpness" ? missing : []) { const p = await pixelsOf(r.pictures[0].url); if (!alive) return; tell("sharpness", { [r.id]: sharpness(p.data, p.width, p.height) }); }
      for (let i = 0; sort === "alignment" && i < missing.length; i += AT_ONCE) {
        const some = missing.slice(i, i + AT_ONCE), texts = [...new Set(some.map((r) => r.prompt))], e = await api("/v1/embed", { method: "POST", body: { texts, seals: some.map((r) => r.pictures[0].seal), joint: JUDGE } });
        if (!alive) return;
        tell("alignment", Object.fromEntries(some.map((r, j) => [r.id, e.cosines[texts.indexOf(r.prompt)][texts.length + j]])));
      }
    })().catch((e) => alive && fail(e));
    return () => { alive = false; };
  }, [sort, done.map((r) => r.id).join()]);
  const sorted = sort === "grid" ? runs : [...runs].sort((a, b) => { const [u, v] = [a, b].map((r) => scores[r.id]?.[sort]); return u === undefined || v === undefined ? (u === undefined) - (v === undefined) : sort === "time" ? u - v : v - u; });
  const choose = (r) => setChosen((old) => (old.includes(r.id) ? old.filter((x) => x !== r.id) : [...old.slice(-1), r.id]));
  const cell = (r) => html`<${Cell} key=${r.id} ...${{ r, at, name: name(r), chosen: chosen.includes(r.id), onChoose: () => choose(r) }} />`;
  const rows = () => sorted.map((r) => { const i = runs.indexOf(r); return { ...Object.fromEntries(axes.map((a) => [a.path, a.values[a.place[i]]])), id: r.id, state: r.state, prompt: r.prompt, seed: r.seed, steps: r.steps, ms_per_step: r.ms_per_step, seal: r.pictures[0]?.seal ?? "", ...scores[r.id] }; });
  const asCsv = () => { const list = rows(), keys = [...new Set(list.flatMap(Object.keys))]; return csv([keys, ...list.map((r) => keys.map((key) => r[key]))]); };
  const asJson = () => JSON.stringify({ prompt, axes: axes.map(({ path, values: v }) => ({ path, values: v })), cells: rows() }, null, 1);
  const asCli = async () => {
    const told = asked && laid(runs, asked) ? asOf(asked) : [], found = await attempt(api("/v1/runs/commands", { method: "POST", body: { ids: runs.map((r) => r.id), axes: told, prompt } }));
    if (found) await copy([...found.needs, found.cli].join(" && \\\n"), "Command");
  };
  const asPng = async () => { setBusy(true); const made = await attempt(poster(sorted, axes, runs, name, at, prompt, sort === "grid")); setBusy(false); if (made) download(made, "compare.png"); };
  const block = (fixed, wide) => {
    const [rowAxis, columnAxis] = axes.length === 1 ? [null, axes[0]] : axes, find = (y, x) => runs.find((_, i) => (!rowAxis || rowAxis.place[i] === y) && columnAxis.place[i] === x && (!wide || wide.place[i] === fixed));
    return html`<div class="scroll"><table class="cells"><thead><tr>${rowAxis && html`<td></td>`}${columnAxis.values.map((v) => html`<th scope="col">${columnAxis.path} ${v}</th>`)}</tr></thead><tbody>
      ${(rowAxis?.values ?? [""]).map((v, y) => html`<tr>${rowAxis && html`<th scope="row">${rowAxis.path} ${v}</th>`}${columnAxis.values.map((_, x) => html`<td>${find(y, x) && cell(find(y, x))}</td>`)}</tr>`)}</tbody></table></div>`;
  };
  const pair = chosen.map((id) => runs.find((r) => r.id === id)).filter(Boolean);
  return html`<div class="sheet-bar"><${Scrub} label="Step of every cell" n=${n} value=${k} onInput=${(v) => setAt(n > 1 ? v / (n - 1) : 1)} />
      <div class="row wrap"><label class="inline">Sort <select value=${sort} onChange=${(e) => setSort(e.target.value)}>${SORTS.map(([v, t]) => html`<option value=${v}>${t}</option>`)}</select></label>
      <button disabled=${busy} aria-busy=${busy} onClick=${asPng}>PNG</button><button onClick=${() => download(new Blob([asCsv()], { type: "text/csv" }), "compare.csv")}>CSV</button>
      <button onClick=${() => download(new Blob([asJson()], { type: "application/json" }), "compare.json")}>JSON</button>
      <button class="ghost" disabled=${left > 0} onClick=${asCli}>Copy CLI</button>${left > 0 && html`<button onClick=${() => Promise.all(open.map((r) => call.post(`/v1/runs/${r.id}/cancel`)))}>Stop all</button>`}
      <span role="status" class="dim">${done.length} of ${runs.length} done${left ? `, ${left} to go` : ""}${failed ? `, ${failed} failed` : ""}</span></div></div>
    ${whole ? (axes.length === 3 ? axes[2].values.map((v, z) => html`<h3>${axes[2].path} ${v}</h3>${block(z, axes[2])}`) : block(0, null))
      : html`<ol class="flow">${sorted.map((r) => html`<li key=${r.id}>${cell(r)}<span>${name(r)}${scores[r.id]?.[sort] !== undefined ? html` <b>${scores[r.id][sort].toFixed(sort === "sharpness" ? 0 : 3)}${sort === "time" ? " s" : ""}</b>` : ""}</span></li>`)}</ol>`}
    ${pair.length === 2 ? html`<${Pair} key=${chosen.join()} a=${pair[0]} b=${pair[1]} name=${name} at=${at} />` : html`<p class="dim">Open a cell with a click. Hold Shift and click two (or choose them with the box) to see them against each other.</p>`}`;
}

function Cell({ r, at, name, chosen, onChoose }) {
  const last = Math.max(0, (r.steps || 1) - 1);
  return html`<div class=${`cell ${r.state} ${chosen ? "chosen" : ""}`}>
    <a href=${`/run/${r.id}`} style=${at === 1 && r.pictures[0] ? `background-image:url(${r.pictures[0].url})` : ""} aria-label=${`${name}, ${r.state}`} onClick=${(e) => { if (e.shiftKey) { e.preventDefault(); e.stopPropagation(); onChoose(); } }}>${still(r) ? html`<${Shot} run=${r} alt="" />` : html`<${Frame} run=${r} lens="x0" step=${Math.round(at * last)} alt="" />`}</a>
    <div class="corner"><input type="checkbox" aria-label=${`Choose ${name}`} checked=${chosen} onChange=${onChoose} />
      <button aria-label=${`Star ${name}`} aria-pressed=${!!r.star} onClick=${() => call.patch(`/v1/runs/${r.id}`, { star: !r.star })}>${r.star ? "★" : "☆"}</button></div>
    ${r.state !== "done" && html`<span class="state">${r.state === "running" ? `${r.steps_done}/${r.steps}` : r.state}</span>`}</div>`;
}

/** Two cells: split, difference, and both trajectories on one plane, fitted on the spot. */
function Pair({ a, b, name, at }) {
  const [view, setView] = useState("split"), at0 = (r) => Math.round(at * Math.max(0, r.steps - 1)), [ka, kb] = [at0(a), at0(b)];
  const frame = (r, k) => (at === 1 && r.pictures[0] ? r.pictures[0].url : `/v1/runs/${r.id}/steps/${k}/x0.png?picture=0`);
  // The steps of a run that is under way are not on the disk yet.
  const over = !isActive(a) && !isActive(b), kept = !still(a) && !still(b), ready = over && a.steps_done > ka && b.steps_done > kb;
  return html`<section class="versus card"><h2>${name(a)} against ${name(b)}</h2><${Choice} label="View" items=${[["split", "Split"], ["difference", "Difference"], ["paths", "Trajectories"]]} value=${view} onPick=${setView} />
    ${view === "paths" ? (!kept ? html`<p class="dim">The steps of one of them are not kept.</p>` : !over ? html`<p class="dim">Both need to be done first.</p>` : html`<${Paths} runs=${[a, b]} names=${[name(a), name(b)]} at=${at} />`)
      : !(kept || at === 1) ? html`<p class="dim">The steps of one of them are not kept; their pictures are at the end of the slider.</p>` : !ready && !(at === 1 && a.pictures[0] && b.pictures[0]) ? html`<p class="dim">Both need this step first.</p>`
      : view === "split" ? html`<${Wipe} names=${[name(a), name(b)]} pictures=${[frame(a, ka), frame(b, kb)]} ratio=${(a.pictures[0]?.width ?? 1) / (a.pictures[0]?.height ?? 1)} />` : html`<${Difference} urls=${[frame(a, ka), frame(b, kb)]} />`}</section>`;
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
    }).catch((e) => alive && setText(e.message));
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
      for (const r of runs) {
        const path = [];
        for (let k = 0; k < r.steps_done && alive; k += 6) path.push(...(await Promise.all(Array.from({ length: Math.min(6, r.steps_done - k) }, (_, i) => tensors(r.id, k + i, 0)))).map((t) => t.at.x0.data));
        paths.push(path);
      }
      if (!alive) return;
      if (paths[0][0].length !== paths[1][0].length) throw new Error("Their latents have different sizes, so they share no map.");
      const fit = pca(paths.flat());
      if (alive) setPlane({ share: fit.share, paths: [fit.points.slice(0, paths[0].length), fit.points.slice(paths[0].length)] });
    })().catch((e) => alive && setPlane({ wrong: e.message }));
    return () => { alive = false; };
  }, runs.map((r) => `${r.id} ${r.steps_done}`));
  if (!plane) return html`<p class="dim" aria-busy="true">Reading every step of both.</p>`;
  if (plane.wrong) return html`<p class="bad">${plane.wrong}</p>`;
  const all = plane.paths.flat(), size = 320, pad = 24, low = [0, 1].map((c) => Math.min(...all.map((p) => p[c]))), high = [0, 1].map((c) => Math.max(...all.map((p) => p[c]))), reach = Math.max(high[0] - low[0], high[1] - low[1]) || 1;
  const put = (p) => [pad + (p[0] - low[0]) / reach * (size - 2 * pad), size - pad - (p[1] - low[1]) / reach * (size - 2 * pad)];
  return html`<svg class="map" viewBox=${`0 0 ${size} ${size}`} role="img" aria-label="Trajectories of both runs on one map">${plane.paths.map((path, i) => { const now = Math.round(at * (path.length - 1)); return html`<g class=${`path p${i}`}><polyline points=${path.map((p) => put(p).map((v) => v.toFixed(1)).join()).join(" ")} />${path.map((p, k) => html`<circle cx=${put(p)[0]} cy=${put(p)[1]} r=${k === now ? 6 : 2} />`)}</g>`; })}</svg>
    <p class="legend">${names.map((t, i) => html`<span class=${`path p${i}`}><i></i>${t}</span>`)}</p><p class="dim">What both believe at every step, on the plane that holds ${(100 * (plane.share[0] + plane.share[1])).toFixed(0)} % of it. The large dot is this step.</p>`;
}

/** The sheet as one picture: what was asked above it, and over each cell what it differs in. */
async function poster(list, axes, runs, name, at, prompt, asGrid) {
  const whole = asGrid && axes.length > 0 && axes.reduce((n, a) => n * a.values.length, 1) === runs.length;
  const place = (r, a) => a.place[runs.indexOf(r)], order = whole && axes.length > 1 ? [...list].sort((a, b) => [...axes.slice(2), ...axes.slice(0, 2)].reduce((d, x) => d || place(a, x) - place(b, x), 0)) : list;
  const columns = whole ? axes[Math.min(1, axes.length - 1)].values.length : Math.ceil(Math.sqrt(list.length)), rows = Math.ceil(list.length / columns), label = 34, head = 34;
  // Browsers draw no larger canvases.
  const side = Math.min(192, Math.floor(32_000 / columns), Math.floor((32_000 - head) / rows) - label);
  const canvas = new OffscreenCanvas(columns * side, head + rows * (side + label)), pen = canvas.getContext("2d");
  pen.fillStyle = "#fff"; pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.textBaseline = "middle"; pen.imageSmoothingEnabled = false;
  const write = (text, x, y, width, lines) => {
    const rest = [""];
    for (const word of text.split(" ")) if (rest.at(-1) && pen.measureText(`${rest.at(-1)} ${word}`).width > width) rest.push(word); else rest[rest.length - 1] += (rest.at(-1) ? " " : "") + word;
    if (rest.length > lines) rest.splice(lines - 1, Infinity, rest.slice(lines - 1).join(" "));
    rest.forEach((one, i) => pen.fillText(one, x, y + (i - (rest.length - 1) / 2) * 15, width));
  };
  pen.fillStyle = "#111"; pen.font = "bold 14px sans-serif"; write(prompt, 6, head / 2, canvas.width - 12, 2);
  pen.font = "12px sans-serif";
  for (const [i, r] of order.entries()) {
    const x = (i % columns) * side, y = head + Math.floor(i / columns) * (side + label);
    write(name(r), x + 6, y + label / 2, side - 12, 2);
    const k = Math.min(Math.round(at * (r.steps - 1)), r.steps_done - 1), source = at === 1 && r.pictures[0] ? r.pictures[0].url : r.steps_done && !still(r) && !isActive(r) ? `/v1/runs/${r.id}/steps/${k}/x0.png?picture=0` : r.pictures[0]?.url;
    if (!source) continue;
    const bitmap = await createImageBitmap(new Blob([await bytes(source)])), scale = Math.min(side / bitmap.width, side / bitmap.height), w = bitmap.width * scale, h = bitmap.height * scale;
    pen.drawImage(bitmap, x + (side - w) / 2, y + label + (side - h) / 2, w, h);
    bitmap.close();
  }
  return canvas.convertToBlob({ type: "image/png" });
}
