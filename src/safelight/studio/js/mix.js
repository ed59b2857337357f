// Mix: sums of words as terms with weights, what they are near to, and the pictures of the terms and of the sum.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { blendWeights, clamp, command, cosine, expression, norm, pca, sum } from "./maths.js";
import { Choice, Copy, Frame, Scrub, Slide, call, later, url, useGroup } from "./kit.js";
import { say } from "./store.js";

const START = [{ text: "a red apple", weight: 1 }, { text: "a red umbrella", weight: 1 }, { text: "an apple", weight: -1 }];
const JOINT = "sprites-clip";
const SCOPES = [["all", "All tokens"], ["pooled", "Pooled"], ["one", "One token"]];

export function screen({ query }) {
  const [terms, setTerms] = useState(() => (query.terms ? JSON.parse(query.terms) : query.prompt ? [{ text: query.prompt, weight: 1 }, { text: "", weight: 1 }] : START));
  const [mode, setMode] = useState(query.mode ?? "add");
  const [scope, setScope] = useState(query.scope ?? "all");
  const [lengths, setLengths] = useState(query.lengths !== "0");
  const [seed, setSeed] = useState(+(query.seed ?? 0));
  const [vectors, setVectors] = useState(null);
  const [wrong, setWrong] = useState("");
  const [group, setGroup] = useState(query.group ?? "");
  const asked = terms.filter((t) => t.text.trim()), texts = asked.map((t) => t.text.trim());
  const joint = scope === "pooled" ? JOINT : null;
  useEffect(() => { url({ terms: JSON.stringify(terms), mode, scope, seed, group, lengths: lengths ? "" : "0" }); }, [terms, mode, scope, seed, group, lengths]);
  useEffect(() => later(250, async (alive) => {
    if (!texts.length) { setVectors(null); return; }
    const { ok, data, message } = await call.try("POST", "/v1/embed", { model: "default", texts, joint });
    if (alive()) { setWrong(ok ? "" : message); setVectors(ok ? { of: texts.join("\n"), rows: data.vectors } : null); }
  }), [texts.join("\n"), joint]);
  const rows = vectors?.of === texts.join("\n") ? vectors.rows : null;
  const angle = rows?.length === 2 ? Math.acos(clamp(cosine(...rows), -1, 1)) : 0, weights = blendWeights(mode, asked.map((t) => t.weight), angle);
  const told = expression(asked.map((t, i) => ({ ...t, weight: weights[i], word: scope === "one" ? t.word : "" }))), body = { expression: told, joint, lengths };
  const report = rows && reported(rows, weights, texts, lengths && !joint);
  const [near, setNear] = useState(null);
  useEffect(() => setNear(null), [told, joint]);
  const seek = async () => { setNear("busy"); const r = await call.try("POST", "/v1/mix", { model: "default", ...body, k: 8 }); setNear(r.ok ? r.data.captions : r.message); };

  const set = (i, change) => setTerms(terms.map((t, j) => (j === i ? { ...t, ...change } : t)));
  const run = async (given = told) => {
    const name = `mix-${Date.now().toString(36)}`, base = { seed };
    const jobs = [...asked.map((t) => ({ title: t.text, request: { ...base, prompt: [t.text] } })), { title: given, request: { ...base, prompt: [""], task: { kind: "mix", ...body, expression: given } } }];
    for (const job of jobs) if (!await call.post("/v1/runs", { model: "default", kind: "mix", relation: "mix", group: name, ...job })) return;
    setGroup(name);
    say("The terms and their sum are being painted with one seed.");
  };
  const ratio = report ? report.length / mean(report.rows.map((r) => r.length)) : 1;

  return html`<section class="screen mine"><h1>Mix</h1>
    <div class="row wrap"><${Choice} label="Mode" items=${[["add", "Add"], ["lerp", "Blend"], ["slerp", "Blend on the arc"]]} value=${mode} onPick=${setMode} />
      <${Choice} label="Scope" items=${SCOPES} value=${scope} onPick=${setScope} /></div>
    <p class="dim">${scope === "all" ? "The sum is taken token by token in the words of the model that paints." : scope === "pooled" ? "One vector a text, in the space shared by words and pictures; the nearest caption is painted." : "The first text keeps all its tokens but the chosen word, which becomes the sum."}</p>
    <ol class="terms">${terms.map((t, i) => html`<li class=${t.weight < 0 ? "minus" : ""}>
      <button type="button" class="sign" aria-label=${t.weight < 0 ? "Add this term" : "Subtract this term"} onClick=${() => set(i, { weight: -t.weight })}>${t.weight < 0 ? "−" : "+"}</button>
      <input aria-label=${`Term ${i + 1}`} value=${t.text} placeholder="words" onInput=${(e) => set(i, { text: e.target.value, word: "" })} />
      ${scope === "one" && html`<select aria-label=${`Word of term ${i + 1}`} value=${t.word ?? ""} onChange=${(e) => set(i, { word: e.target.value })}><option value="">all of it</option>${[...new Set(t.text.split(/\s+/).filter(Boolean))].map((w) => html`<option value=${w}>${w}</option>`)}</select>`}
      <${Slide} label=${`Weight of term ${i + 1}`} value=${t.weight} min=-2 max=2 step=0.05 onInput=${(weight) => set(i, { weight })} text=${mode === "add" ? signed(t.weight) : signed(weights[asked.indexOf(t)] ?? 0)} />
      <button type="button" aria-label=${`Remove term ${i + 1}`} disabled=${terms.length < 2} onClick=${() => setTerms(terms.filter((_, j) => j !== i))}>×</button></li>`)}</ol>
    <div class="row wrap"><button type="button" onClick=${() => setTerms([...terms, { text: "", weight: 1 }])}>Add a term</button>
      <label class="check"><input type="checkbox" checked=${lengths} onChange=${(e) => setLengths(e.target.checked)} disabled=${scope === "pooled"} /> Renormalise to the terms' length</label>
      <label class="inline">Seed <input type="number" value=${seed} onInput=${(e) => setSeed(+e.target.value)} /></label>
      <button type="button" class="primary" disabled=${!told || !!wrong} onClick=${() => run()}>Run</button>
      <${Copy} text=${() => command("safelight", "mix", told, "--seed", seed, ...(scope === "pooled" ? ["--joint", JOINT] : []), ...(lengths ? [] : ["--free-lengths"]))}>Copy CLI<//></div>
    <p><code class="equation">${told}</code></p>
    ${wrong && html`<p class="bad" role="alert">${wrong}</p>`}
    ${report && html`<div class="cards">
      <section class="card"><h2>Map</h2><${Map2} report=${report} terms=${asked} weights=${weights} free=${mode === "add"}
        onWeight=${(k, weight) => set(terms.indexOf(asked[k]), { weight })} onEnd=${() => run()} /></section>
      <section class="card"><h2>Lengths</h2><${Lengths} report=${report} />
        ${(ratio > 1.25 || ratio < 0.8) && scope !== "pooled" && html`<p class="warn" role="status">The sum is ${ratio.toFixed(2)} times as long as its terms: off what the network has seen. <button type="button" onClick=${() => setLengths(true)}>Renormalise</button></p>`}</section>
      <section class="card"><h2>Cosines</h2><${Cosines} report=${report} /></section>
      <section class="card"><h2>Nearest words</h2>${Array.isArray(near) ? (near.length ? html`<ol class="near">${near.map((n) => html`<li><span>${n.what}</span> <b>${n.cosine.toFixed(3)}</b></li>`)}</ol>` : html`<p class="dim">No captions are known here: a single word was changed, or the model lists none.</p>`)
        : near && near !== "busy" ? html`<p class="bad" role="alert">${near}</p>` : html`<p class="dim">Which captions, of all that the model was trained on, say the sum best? The search reads thousands of them.</p><p><button type="button" disabled=${near === "busy" || !!wrong} aria-busy=${near === "busy"} onClick=${seek}>${near === "busy" ? "Searching" : "Find the nearest"}</button></p>`}</section>
    </div>`}
    ${group && html`<${Row} group=${group} />`}
    <${Concepts} told=${told} onPick=${(c) => run(c.expression)} />
  </section>`;
}

/** Lengths, cosines and the sum. With `level` the sum is brought to the mean length of its terms, weighted by |w|, as text/blend.py does. */
export function reported(rows, weights, texts, level) {
  const raw = sum(weights, rows), long = norm(raw), total = weights.reduce((s, w) => s + Math.abs(w), 0) || 1;
  const want = level && long > 1e-9 ? weights.reduce((s, w, i) => s + Math.abs(w) * norm(rows[i]), 0) / total : long, result = raw.map((v) => v * (long ? want / long : 1));
  return { vectors: rows, result, length: want, rows: rows.map((v, i) => ({ operand: texts[i], length: norm(v), cosine: cosine(v, result) })) };
}

const mean = (list) => list.reduce((s, v) => s + v, 0) / (list.length || 1);
const signed = (v) => `${v < 0 ? "−" : "+"}${Math.abs(v).toFixed(2)}`;

function Lengths({ report }) {
  const rows = [...report.rows.map((r) => [r.operand, r.length]), ["the sum", report.length]], most = Math.max(...rows.map((r) => r[1])) || 1;
  return html`<dl class="bars">${rows.map(([name, v]) => html`<div><dt>${name}</dt><dd><i style=${`width:${v / most * 100}%`}></i> ${v.toFixed(2)}</dd></div>`)}</dl>`;
}

function Cosines({ report }) {
  const all = [...report.vectors, report.result], names = [...report.rows.map((r) => r.operand), "sum"];
  return html`<div class="scroll"><table><thead><tr><td></td>${names.map((n) => html`<th scope="col">${n}</th>`)}</tr></thead>
    <tbody>${all.map((a, i) => html`<tr><th scope="row">${names[i]}</th>${all.map((b) => { const c = cosine(a, b); return html`<td style=${`--heat:${Math.round(Math.abs(c) * 60)}%`} class=${c < 0 ? "cold" : "hot"}>${c.toFixed(2)}</td>`; })}</tr>`)}</tbody></table></div>`;
}

/** Arrows of the terms and their sum on the plane in which the terms differ most; dragging a tip along its arrow changes the weight. */
function Map2({ report, terms, weights, free, onWeight, onEnd }) {
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
  const arrow = (to, kind, name) => html`<g class=${kind}><line x1=${size / 2} y1=${size / 2} x2=${at(to)[0]} y2=${at(to)[1]} /><text text-anchor=${at(to)[0] > size * 0.6 ? "end" : "start"} x=${clamp(at(to)[0] + (at(to)[0] > size * 0.6 ? -6 : 6), 4, size - 4)} y=${clamp(at(to)[1] - 8, 12, size - 4)}>${name}</text></g>`;
  return html`<svg class="map" viewBox=${`0 0 ${size} ${size}`} ref=${svg} role="group" aria-label="Map of the terms and their sum">
    <path class="axis" d=${`M0 ${size / 2}H${size}M${size / 2} 0V${size}`} />
    ${tips.map((t, i) => arrow(t, weights[i] < 0 ? "arrow minus" : "arrow", terms[i]?.text ?? ""))}${arrow(raw, "arrow raw", "")}${arrow(kept, "arrow result", "sum")}
    ${free && tips.map((t, i) => html`<circle class="tip" cx=${at(t)[0]} cy=${at(t)[1]} r="8" tabindex="0" role="slider" aria-label=${`Weight of ${terms[i]?.text}`} aria-valuemin="-2" aria-valuemax="2" aria-valuenow=${weights[i]}
      onPointerDown=${(e) => { e.target.setPointerCapture(e.pointerId); drag.current = { i, reach }; }} onPointerMove=${moved} onPointerUp=${() => { if (drag.current) { drag.current = null; onEnd(); } }}
      onKeyDown=${(e) => { const by = { ArrowRight: 0.05, ArrowUp: 0.05, ArrowLeft: -0.05, ArrowDown: -0.05 }[e.key]; if (by) { e.preventDefault(); e.stopPropagation(); onWeight(i, clamp(+(weights[i] + by).toFixed(2), -2, 2)); } if (e.key === "Enter") onEnd(); }} />`)}
  </svg><p class="dim">${(100 * (plane.share[0] + plane.share[1])).toFixed(0)} % of what tells the terms apart lies in this plane. ${free ? "Drag a tip along its arrow; it is painted when you let go." : ""}</p>`;
}

/** Terms and sum in a row, one seed, one slider. */
function Row({ group }) {
  const runs = useGroup(group), [at, setAt] = useState(1);
  const n = Math.max(1, ...runs.map((r) => r.steps || 1));
  return html`<section><h2>The same noise</h2><div class="shots">${runs.map((r) => html`<figure><a href=${`/run/${r.id}`}><${Frame} run=${r} lens="x0" step=${Math.round(at * ((r.steps || 1) - 1))} alt=${r.title || r.prompt} /></a><figcaption>${r.title || r.prompt}</figcaption></figure>`)}</div>
    <${Scrub} label="Step" n=${n} value=${Math.round(at * (n - 1))} onInput=${(k) => setAt(n > 1 ? k / (n - 1) : 1)} /></section>`;
}

function Concepts({ told, onPick }) {
  const [list, setList] = useState([]), [name, setName] = useState("");
  const load = () => call.get("/v1/concepts").then((d) => setList(d.concepts)).catch(() => setList([]));
  useEffect(() => { load(); }, []);
  const fits = /^[a-z0-9][a-z0-9-]{0,38}$/.test(name);
  return html`<section><h2>Concepts</h2><form class="row wrap" onSubmit=${async (e) => { e.preventDefault(); if (fits && await call.put(`/v1/concepts/${name}`, { expression: told })) { setName(""); load(); say(`Saved as <${name}>`); } }}>
    <label class="inline">Save this sum as <input value=${name} placeholder="my-style" onInput=${(e) => setName(e.target.value.toLowerCase())} /></label><button disabled=${!fits || !told}>Save</button></form>
    ${list.length ? html`<ul class="concepts">${list.map((c) => html`<li><code>${`<${c.name}>`}</code> <span class="dim">${c.expression}</span> <button type="button" onClick=${() => onPick(c)}>Run</button>
      <button type="button" aria-label=${`Delete ${c.name}`} onClick=${async () => { if (await call.del(`/v1/concepts/${c.name}`)) load(); }}>×</button></li>`)}</ul><p class="dim">Write a name in angle brackets in any prompt.</p>` : html`<p class="dim">A saved sum is a word of yours: write its name in angle brackets in any prompt.</p>`}</section>`;
}
