// Mix: sums of words and pictures as terms with weights, what they are near to, and the pictures of the terms and of the sum.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { api, upload } from "./api.js";
import { blendWeights, clamp, command, cosine, expression, norm, pca, sum } from "./maths.js";
import { Choice, Copy, Frame, Picker, Scrub, Slide, call, url, useGroup } from "./kit.js";
import { Dialog } from "./parts.js";
import { go } from "./router.js";
import { ACTIVE, FORM, fail, fill, offer, persisted, say } from "./store.js";

const START = [{ text: "a red apple", weight: 1 }, { text: "a red umbrella", weight: 1 }, { text: "an apple", weight: -1 }];
const JOINT = "sprites-clip";
const SCOPES = [["all", "All tokens"], ["pooled", "Pooled"], ["one", "One token"]];
const SEAL = /sha256:[0-9a-f]+/g;
const shotOf = (seal) => `/v1/pictures/${encodeURIComponent(seal)}.png`;

/** The terms that an address tells; what it tells wrong is as if it told nothing. */
function told(query) {
  if (query.prompt) return [{ text: query.prompt, weight: 1 }, { text: "", weight: 1 }];
  try {
    const terms = JSON.parse(query.terms).map((t) => ({ text: String(t.text ?? ""), weight: clamp(+t.weight || 0, -2, 2), ...(t.word ? { word: String(t.word) } : {}), ...(t.seal?.match(SEAL)?.[0] === t.seal && t.seal ? { seal: t.seal } : {}) }));
    return terms.length ? terms : START;
  } catch {
    return START;
  }
}

/** Asks once nothing has changed for `ms`; a change leaves, and the server stops working for it. An effect's body. */
function asking(ms, work) {
  const leave = new AbortController(), timer = setTimeout(() => work(leave.signal).catch((e) => e.name === "AbortError" || leave.signal.aborted || fail(e)), ms);
  return () => { clearTimeout(timer); leave.abort(); };
}
const ask = (path, body, signal) => api(path, { method: "POST", body: { model: "default", ...body }, signal }).then((data) => ({ data }), (error) => { if (signal.aborted) throw error; return { wrong: error.message }; });

export function screen({ query }) {
  const [terms, setTerms] = useState(() => told(query));
  const [mode, setMode] = useState(["add", "lerp", "slerp"].includes(query.mode) ? query.mode : "add");
  const [wanted, setScope] = useState(SCOPES.some(([v]) => v === query.scope) ? query.scope : "all");
  const [lengths, setLengths] = useState(query.lengths !== "0");
  const [seed, setSeed] = useState(+query.seed || 0);
  const [vectors, setVectors] = useState({});
  const [near, setNear] = useState({});
  const [group, setGroup] = useState(query.group ?? "");
  const [busy, setBusy] = useState(false), [choosing, setChoosing] = useState(false);
  const runs = useGroup(group), area = useRef();

  const asked = terms.filter((t) => t.seal || t.text.trim()), pictured = asked.some((t) => t.seal);
  const scope = pictured ? "pooled" : wanted, joint = scope === "pooled" ? JOINT : null, key = JSON.stringify([joint, asked.map((t) => t.seal ?? t.text.trim())]);
  const names = asked.map((t) => (t.seal ? t.name ?? "picture" : t.text.trim()));
  useEffect(() => { url({ terms: JSON.stringify(terms), mode, scope: wanted, seed, group, lengths: lengths ? "" : "0" }); }, [terms, mode, wanted, seed, group, lengths]);
  useEffect(() => asking(200, async (signal) => {
    const texts = asked.filter((t) => !t.seal).map((t) => t.text.trim()), seals = asked.filter((t) => t.seal).map((t) => t.seal);
    if (!asked.length) { setVectors({}); return; }
    const { data, wrong } = await ask("/v1/embed", { texts, seals, joint }, signal);
    if (wrong) { setVectors({ wrong }); return; }
    const [said, seen] = [data.vectors.slice(0, texts.length), data.vectors.slice(texts.length)];
    setVectors({ of: key, rows: asked.map((t) => (t.seal ? seen : said).shift()) });
  }), [key]);
  const rows = vectors.of === key ? vectors.rows : null;
  const angle = rows?.length === 2 ? Math.acos(clamp(cosine(...rows), -1, 1)) : 0, weights = blendWeights(mode, asked.map((t) => t.weight), angle);
  const saying = expression(asked.map((t, i) => ({ ...t, weight: weights[i], word: scope === "one" ? t.word : "" }))), body = { expression: saying, joint, lengths };
  const at = JSON.stringify(body), found = near.of === at ? near : {}, wrong = vectors.wrong ?? found.wrong;
  // What is near is worked out by the server: the words at once, then the captions, which are many.
  useEffect(() => asking(300, async (signal) => {
    if (!saying || vectors.wrong) return;
    const words = await ask("/v1/mix", { ...body, k: 8, captions: false }, signal);
    setNear({ of: at, wrong: words.wrong, sum: words.data });
    if (words.wrong) return;
    await new Promise((done) => setTimeout(done, 500));
    if (signal.aborted) return;
    const captions = await ask("/v1/mix", { ...body, k: 6 }, signal);
    setNear({ of: at, sum: words.data, captions: captions.data?.captions, late: captions.wrong });
  }), [at, vectors.wrong]);
  const chosen = scope === "one" && asked.some((t) => t.word), known = chosen ? near.sum : null;
  const report = chosen ? known && { vectors: known.vectors, result: known.result, length: known.length, rows: known.rows } : rows && reported(rows, weights, names, lengths && !joint);
  const scales = chosen ? known?.rows.map((r) => r.weight) : weights, ratio = report ? report.length / (mean(report.rows.map((r) => r.length)) || 1) : 1;

  const set = (i, change) => setTerms((now) => now.map((t, j) => (j === i ? { ...t, ...change } : t)));
  /** The terms' own pictures where this row does not have them, and that of the sum. */
  const run = async (jobs, name) => {
    if (busy) return;
    setBusy(true);
    try {
      for (const r of runs) if (name === group && r.request.task?.kind === "mix" && r.state === "queued") await call.post(`/v1/runs/${r.id}/cancel`);
      for (const job of jobs) if (!await call.post("/v1/runs", { model: "default", kind: "mix", relation: "mix", group: name, ...job })) return;
      setGroup(name);
    } finally {
      setBusy(false);
    }
  };
  const fresh = () => `mix-${Date.now().toString(36)}`;
  const paint = () => {
    if (!saying || wrong) return;
    const texts = [...new Set(asked.filter((t) => !t.seal).map((t) => t.text.trim()))], there = (text) => runs.some((r) => isTerm(r) && r.prompt === text && r.request.seed === seed && !["failed", "stopped"].includes(r.state));
    const again = group && texts.every(there), row = again ? group : fresh();
    run([...(again ? [] : texts.map((text) => ({ title: text.slice(0, 500), request: { seed, prompt: [text] } }))), { title: shown(saying).slice(0, 500), request: { seed, prompt: [""], task: { kind: "mix", ...body } } }], row);
    say(again ? "The sum is being painted with the seed of its terms." : "The terms and their sum are being painted with one seed.");
  };
  const add = (term) => { setTerms((now) => [...now.filter((t) => t.seal || t.text.trim()), term]); setChoosing(false); say("Added as a term. Pictures are summed in the space that words and pictures share."); };
  const receive = async (file) => {
    try {
      const sent = file && await upload(file);
      if (sent) add({ text: "", weight: 1, seal: sent.seal, name: file.name || "picture" });
    } catch (error) { fail(error); }
  };
  useEffect(() => {
    const take = (e) => {
      const box = area.current?.getBoundingClientRect(), { x, y, file } = e.detail;
      if (!box || x < box.left || x > box.right || y < box.top || y > box.bottom) return;
      e.preventDefault();
      receive(file);
    };
    addEventListener("safelight:drop", take);
    return () => removeEventListener("safelight:drop", take);
  }, []);

  return html`<section class="screen mine"><h1>Mix</h1>
    <div class="summing" ref=${area}>
      <div class="row wrap"><${Choice} label="Mode" items=${[["add", "Add"], ["lerp", "Blend"], ["slerp", "Blend on the arc"]]} value=${mode} onPick=${setMode} />
        <${Choice} label="Scope" items=${SCOPES} value=${scope} onPick=${(v) => (pictured && v !== "pooled" ? say("Pictures have a place in the shared space alone: remove them first.") : setScope(v))} /></div>
      <p class="dim">${scope === "all" ? "The sum is taken token by token in the words of the model that paints." : scope === "pooled" ? "One vector a text or picture, in the space shared by words and pictures; the nearest caption is painted." : "The first text keeps all its tokens but the chosen word, which becomes the sum."}${mode === "slerp" && asked.length !== 2 ? " An arc lies between two terms: with more it is the plain blend." : ""}</p>
      <ol class="terms">${terms.map((t, i) => html`<li class=${t.weight < 0 ? "minus" : ""}>
        <button type="button" class="sign" aria-label=${t.weight < 0 ? "Add this term" : "Subtract this term"} onClick=${() => set(i, { weight: -t.weight })}>${t.weight < 0 ? "−" : "+"}</button>
        ${t.seal ? html`<span class="pictured"><img src=${shotOf(t.seal)} alt=${t.name ?? "picture"} /> ${t.name ?? "picture"}</span>` : html`<input aria-label=${`Term ${i + 1}`} value=${t.text} placeholder="words" onInput=${(e) => set(i, { text: e.target.value, word: "" })} />`}
        ${scope === "one" && html`<select aria-label=${`Word of term ${i + 1}`} value=${t.word ?? ""} onChange=${(e) => set(i, { word: e.target.value })}><option value="">all of it</option>${[...new Set(t.text.split(/\s+/).filter(Boolean))].map((w) => html`<option value=${w}>${w}</option>`)}</select>`}
        <${Slide} label=${`Weight of term ${i + 1}`} value=${t.weight} min=-2 max=2 step=0.05 onInput=${(weight) => set(i, { weight })} text=${mode === "add" ? signed(t.weight) : signed(weights[asked.indexOf(t)] ?? 0)} />
        <button type="button" aria-label=${`Remove term ${i + 1}`} disabled=${terms.length < 2} onClick=${() => setTerms((now) => now.filter((_, j) => j !== i))}>×</button></li>`)}</ol>
      <div class="row wrap"><button type="button" onClick=${() => setTerms((now) => [...now, { text: "", weight: 1 }])}>Add words</button>
        <button type="button" onClick=${() => setChoosing(true)}>Add a picture</button>
        <label class="check"><input type="checkbox" checked=${lengths} onChange=${(e) => setLengths(e.target.checked)} disabled=${scope === "pooled"} /> Renormalise to the terms' length</label>
        <label class="inline">Seed <input type="number" value=${seed} onInput=${(e) => setSeed(Math.round(+e.target.value) || 0)} /></label>
        <button type="button" class="primary" disabled=${!saying || !!wrong || busy} aria-busy=${busy} onClick=${paint}>Run</button>
        ${!pictured && html`<${Copy} text=${() => command("safelight", "mix", saying, "--seed", seed, ...(joint ? ["--joint", joint] : []), ...(lengths ? [] : ["--free-lengths"]))}>Copy CLI<//>`}</div>
      <p><code class="equation">${shown(saying)}</code></p>
      ${wrong && html`<p class="bad" role="alert">${wrong}</p>`}
    </div>
    ${group && html`<${Row} runs=${runs} />`}
    ${report && html`<div class="cards">
      <section class="card tall"><h2>Map</h2><${Map2} report=${report} names=${report.rows.map((r) => shown(r.operand))} weights=${scales} free=${mode === "add" && !chosen}
        onWeight=${(k, weight) => set(terms.indexOf(asked[k]), { weight })} onEnd=${paint} /></section>
      <section class="card"><h2>Lengths</h2><${Lengths} report=${report} />
        ${(ratio > 1.25 || ratio < 0.8) && scope !== "pooled" && html`<p class="warn" role="status">The sum is ${ratio.toFixed(2)} times as long as its terms: off what the network has seen. <button type="button" onClick=${() => setLengths(true)}>Renormalise</button></p>`}</section>
      <section class="card"><h2>Cosines</h2><${Cosines} report=${report} /></section>
      <section class="card"><h2>Nearest words</h2><${List} of=${wrong ? [] : found.sum?.words} none="This model reads no words." /></section>
      ${!chosen && html`<section class="card"><h2>Nearest captions</h2>${found.late ? html`<p class="bad" role="alert">${found.late}</p>` : html`<${List} of=${wrong ? [] : found.captions} none="The model does not say which captions it was trained on." />`}</section>`}
    </div>`}
    <${Concepts} body=${body} onPick=${(c) => { run([{ title: `<${c.name}>`, request: { seed, prompt: [`<${c.name}>`] } }], fresh()); }} />
    ${choosing && html`<${Dialog} title="A picture as a term" onClose=${() => setChoosing(false)}><div class="mine"><${Picker} label="Pictures to add" filter=${(r) => r.pictures.length} onPick=${(r) => add({ text: "", weight: 1, seal: r.pictures[0].seal, name: (r.title || r.prompt || "picture").slice(0, 60) })} />
      <p><label class="button">Open a file<input type="file" class="hidden" accept="image/*" onChange=${(e) => receive(e.target.files[0])} /></label> <span class="dim">Or drop one onto the equation.</span></p></div><//>`}
  </section>`;
}

const isTerm = (run) => run.request.task?.kind !== "mix";
/** An expression as one reads it: a picture is a picture, not its seal. */
const shown = (text) => text.replace(SEAL, "▣");

/** Lengths, cosines and the sum. With `level` the sum is brought to the mean length of its terms, weighted by |w|, as text/blend.py does. */
export function reported(rows, weights, texts, level) {
  const raw = sum(weights, rows), long = norm(raw), total = weights.reduce((s, w) => s + Math.abs(w), 0) || 1;
  const want = level && long > 1e-9 ? weights.reduce((s, w, i) => s + Math.abs(w) * norm(rows[i]), 0) / total : long, result = raw.map((v) => v * (long ? want / long : 1));
  return { vectors: rows, result, length: want, rows: rows.map((v, i) => ({ operand: texts[i], length: norm(v), cosine: cosine(v, result) })) };
}

function List({ of, none }) {
  if (!of) return html`<p class="dim" aria-busy="true">Looking.</p>`;
  return of.length ? html`<ol class="near">${of.map((n) => html`<li style=${`--of:${Math.max(0, n.cosine) * 100}%`}><span>${n.what}</span> <b>${n.cosine.toFixed(3)}</b></li>`)}</ol>` : html`<p class="dim">${none}</p>`;
}

const mean = (list) => list.reduce((s, v) => s + v, 0) / (list.length || 1);
const signed = (v) => `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(2)}`;

function Lengths({ report }) {
  const rows = [...report.rows.map((r) => [shown(r.operand), r.length]), ["the sum", report.length]], most = Math.max(...rows.map((r) => r[1])) || 1;
  return html`<dl class="bars">${rows.map(([name, v]) => html`<div><dt>${name}</dt><dd><i style=${`flex:none;width:calc((100% - 52px) * ${(v / most).toFixed(4)})`}></i> ${v.toFixed(2)}</dd></div>`)}</dl>`;
}

function Cosines({ report }) {
  const all = [...report.vectors, report.result], names = [...report.rows.map((r) => shown(r.operand)), "sum"];
  return html`<div class="scroll"><table><thead><tr><td></td>${names.map((n) => html`<th scope="col">${n}</th>`)}</tr></thead>
    <tbody>${all.map((a, i) => html`<tr><th scope="row">${names[i]}</th>${all.map((b) => { const c = cosine(a, b); return html`<td style=${`--heat:${Math.round(Math.abs(c) * 60)}%`} class=${c < 0 ? "cold" : "hot"}>${c.toFixed(2)}</td>`; })}</tr>`)}</tbody></table></div>`;
}

/** Arrows of the terms and their sum on the plane in which the terms differ most; dragging a tip along its arrow changes the weight. */
function Map2({ report, names, weights, free, onWeight, onEnd }) {
  const plane = useMemo(() => pca(report.vectors, false), [report.vectors]);
  const svg = useRef(), drag = useRef(null);
  const unit = report.vectors.map((v) => plane.place(v)), tips = unit.map((p, i) => p.map((c) => c * (weights[i] ?? 0)));
  const raw = sum(tips.map(() => 1), tips), kept = plane.place(report.result);
  const reach = 1.25 * Math.max(...[...unit, ...tips, raw, kept].map((p) => Math.max(...p.map(Math.abs))), 1e-6), size = 300;
  const at = ([x, y]) => [size / 2 + x / reach * size / 2, size / 2 - y / reach * size / 2];
  const moved = (e) => {
    const d = drag.current;
    if (!d) return;
    const r = svg.current.getBoundingClientRect(), x = ((e.clientX - r.left) / r.width * 2 - 1) * d.reach, y = (1 - (e.clientY - r.top) / r.height * 2) * d.reach, p = unit[d.i];
    onWeight(d.i, clamp(Math.round((x * p[0] + y * p[1]) / (p[0] ** 2 + p[1] ** 2 || 1) * 20) / 20, -2, 2));
  };
  // Names keep off each other: from above, each is at least a line below the one before where both would stand in one place.
  const labels = [...tips.map((t, i) => ({ to: at(t), name: names[i] })), { to: at(kept), name: "sum", own: true }].map((l) => ({ ...l, left: l.to[0] > size * 0.6, y: clamp(l.to[1] - 10, 12, size - 4) })).sort((a, b) => a.y - b.y);
  labels.forEach((l, i) => { for (const above of labels.slice(0, i)) if (above.left === l.left && Math.abs(above.to[0] - l.to[0]) < 110 && l.y - above.y < 12) l.y = above.y + 12; });
  const arrow = (to, kind) => html`<g class=${kind}><line x1=${size / 2} y1=${size / 2} x2=${at(to)[0]} y2=${at(to)[1]} /></g>`;
  return html`<svg class="map" viewBox=${`0 0 ${size} ${size}`} ref=${svg} role="group" aria-label="Map of the terms and their sum">
    <path class="axis" d=${`M0 ${size / 2}H${size}M${size / 2} 0V${size}`} />
    ${tips.map((t, i) => arrow(t, weights[i] < 0 ? "minus" : ""))}${arrow(raw, "raw")}${arrow(kept, "result")}
    ${free && tips.map((t, i) => html`<circle class="tip" cx=${at(t)[0]} cy=${at(t)[1]} r="8" tabindex="0" role="slider" aria-label=${`Weight of ${names[i]}`} aria-valuemin="-2" aria-valuemax="2" aria-valuenow=${weights[i]}
      onPointerDown=${(e) => { e.target.setPointerCapture(e.pointerId); drag.current = { i, reach }; }} onPointerMove=${moved} onPointerUp=${() => { if (drag.current) { drag.current = null; onEnd(); } }} onPointerCancel=${() => { drag.current = null; }}
      onKeyDown=${(e) => { const by = { ArrowRight: 0.05, ArrowUp: 0.05, ArrowLeft: -0.05, ArrowDown: -0.05 }[e.key]; if (by) { e.preventDefault(); e.stopPropagation(); onWeight(i, clamp(+(weights[i] + by).toFixed(2), -2, 2)); } if (e.key === "Enter") onEnd(); }} />`)}
    ${labels.map((l) => html`<text class=${l.own ? "own" : ""} text-anchor=${l.left ? "end" : "start"} x=${clamp(l.to[0] + (l.left ? -11 : 11), 4, size - 4)} y=${l.y}>${l.name}</text>`)}
  </svg><p class="dim">${(100 * (plane.share[0] + plane.share[1])).toFixed(0)} % of the terms' length lies in this plane. ${free ? "Drag a tip along its arrow; it is painted when you let go." : ""}</p>`;
}

/** Terms and sums in a row, the newest sum first among them; one seed, one slider. */
function Row({ runs }) {
  const [at, setAt] = useState(1), sums = runs.filter((r) => !isTerm(r)).reverse(), seals = [...new Set(sums[0]?.request.task.expression.match(SEAL) ?? [])];
  const n = Math.max(1, ...runs.map((r) => r.steps || 1));
  const one = (r) => html`<figure key=${r.id} class=${isTerm(r) ? "" : "sum"}><a href=${`/run/${r.id}`}>${r.steps_done > 0 || r.pictures.length ? html`<${Frame} run=${r} lens="x0" step=${Math.round(at * ((r.steps || 1) - 1))} alt=${shown(r.title || r.prompt)} />` : html`<span class="shot empty">${ACTIVE.includes(r.state) ? "waits" : r.state}</span>`}</a>
    <figcaption>${shown(r.title || r.prompt)}${r.error ? html` <span class="bad">${r.error}</span>` : ""}</figcaption></figure>`;
  return html`<section><h2>The same noise</h2><div class="shots">${seals.map((seal) => html`<figure key=${seal}><img class="shot" src=${shotOf(seal)} alt="Picture of the sum" /><figcaption>▣</figcaption></figure>`)}${runs.filter(isTerm).map(one)}${sums.map(one)}</div>
    <${Scrub} label="Step" n=${n} value=${Math.round(at * (n - 1))} onInput=${(k) => setAt(n > 1 ? k / (n - 1) : 1)} /></section>`;
}

/** Named sums. What is saved is the sum as it stands: its space and its lengths too. */
function Concepts({ body, onPick }) {
  const [list, setList] = useState([]), [name, setName] = useState("");
  const load = () => call.get("/v1/concepts").then((d) => setList(d.concepts), fail);
  useEffect(() => { load(); }, []);
  const fits = /^[a-z0-9][a-z0-9-]{0,38}$/.test(name);
  const save = async (name, { expression, joint, lengths }) => {
    if (!await call.put(`/v1/concepts/${name}`, { expression, joint, lengths })) return;
    load();
    say(`Saved as <${name}>`);
  };
  const drop = async (c) => {
    if (!await call.del(`/v1/concepts/${c.name}`)) return;
    load();
    offer(`<${c.name}> is forgotten.`, "Undo", () => save(c.name, c));
  };
  const use = (c) => { fill("form", FORM, { prompt: `${persisted("form", FORM).prompt.trim()} <${c.name}>`.trim() }); go("/create"); };
  return html`<section><h2>Concepts</h2><form class="row wrap" onSubmit=${async (e) => { e.preventDefault(); if (fits && body.expression) { await save(name, body); setName(""); } }}>
    <label class="inline">Save this sum as <input value=${name} placeholder="my-style" onInput=${(e) => setName(e.target.value.toLowerCase())} /></label><button disabled=${!fits || !body.expression}>Save</button></form>
    ${list.length ? html`<ul class="concepts">${list.map((c) => html`<li key=${c.name}><code>${`<${c.name}>`}</code> <span class="dim">${shown(c.expression)}</span> <button type="button" onClick=${() => onPick(c)}>Run</button>
      <button type="button" onClick=${() => use(c)}>Use in Create</button>
      <button type="button" aria-label=${`Delete ${c.name}`} onClick=${() => drop(c)}>×</button></li>`)}</ul><p class="dim">Write a name in angle brackets in any prompt.</p>` : html`<p class="dim">A saved sum is a word of yours: write its name in angle brackets in any prompt.</p>`}</section>`;
}
