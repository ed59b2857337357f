// Explain: how words became this picture, in five stops with the run's own numbers.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { clamp, norm } from "./maths.js";
import { Choice, Frame, Picker, Scrub, Slide, Wipe, call, tensorsOf, useRun } from "./kit.js";
import { runs as server } from "./api.js";
import { Paths } from "./compare.js";
import { setStep, useStep } from "./filmstrip.js";
import { useLoad } from "./parts.js";
import { amend, go } from "./router.js";
import { hold } from "./shell.js";
import { fail, state, useStore } from "./store.js";
import { Quiz, Tour } from "./tour.js";

const STOPS = ["Words to tokens", "Tokens to vectors", "Noise to picture", "The loop", "Decode"];

export function screen({ id, query }) {
  const [asked, setAsked] = useState(id ?? query.run ?? ""), mode = query.mode ?? "free", stop = clamp(+(query.stop ?? 0) || 0, 0, 4), picture = +(query.picture ?? 0);
  useEffect(() => { setAsked(id ?? query.run ?? ""); }, [id, query.run]);
  // Without a run of one's own: the one that is in the dock, else the newest finished one (a recorded one ships with the studio).
  useEffect(() => {
    if (asked) return;
    const now = state.runs[state.current];
    if (now?.state === "done") { setAsked(now.id); return; }
    server.list({ state: "done", limit: 1 }).then((p) => p.runs[0] && setAsked(p.runs[0].id), fail);
  }, [asked]);
  const run = useRun(asked);
  useEffect(() => {
    if (!run) return;
    hold(run, picture);
    // Holding another run starts at its newest step; the address may say otherwise.
    if (query.step !== undefined) setStep(+query.step);
  }, [run?.id, picture]);
  if (!run) return html`<section class="screen mine narrow"><h1>Explain</h1><p class="dim">Choose the run that is to be explained.</p><${Picker} label="Runs" filter=${(r) => r.steps_done} onPick=${(r) => go(`/explain/${r.id}`)} /></section>`;
  return html`<${Page} key=${run.id} ...${{ run, picture, mode, stop }} />`;
}

function Page({ run, picture, mode, stop }) {
  const about = useLoad(() => call.get(`/v1/runs/${run.id}/explain?picture=${picture}`), [run.id, picture]), numbers = useLoad(() => server.numbers(run.id, picture), [run.id, picture]);
  const k = clamp(useStep() ?? run.steps_done - 1, 0, Math.max(0, run.steps_done - 1)), known = useMemo(() => ({ ...about.data, half: numbers.data?.half }), [about.data, numbers.data]);
  const visit = (next, step) => { if (next !== stop) amend({ stop: next }); if (step !== null && step !== undefined) setStep(step); };
  const props = { run, picture, k, about: known, numbers: numbers.data };
  const View = [Tokens, Vectors, Noise, Loop, Decode][stop];
  const onKeys = (e) => { const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key]; if (by) { e.preventDefault(); e.stopPropagation(); const next = (stop + by + 5) % 5; visit(next); e.currentTarget.querySelectorAll("button")[next].focus(); } };
  return html`<section class="screen mine"><div class="row wrap between"><h1>Explain: ${run.prompt || run.title || "a run without words"}</h1>
      <${Choice} label="Mode" items=${[["tour", "Tour, 4 minutes"], ["free", "Free"], ["quiz", "Quiz"], ["prompts", "Compare prompts"]]} value=${mode} onPick=${(m) => amend({ mode: m === "free" ? null : m })} /></div>
    ${mode === "quiz" ? html`<${Quiz} run=${run} />` : mode === "prompts" ? html`<${Prompts} run=${run} k=${k} />` : html`
      <div class="stops" role="tablist" aria-label="Stops" data-arrows onKeyDown=${onKeys}>${STOPS.map((name, i) => html`<button role="tab" id=${`stop-${i}`} aria-selected=${i === stop} aria-controls="stop" tabindex=${i === stop ? 0 : -1} onClick=${() => visit(i)}>${i + 1} ${name}</button>`)}</div>
      <div class="stop" id="stop" role="tabpanel" aria-labelledby=${`stop-${stop}`} tabindex="0">${about.error && stop < 2 ? html`<p class="bad">${about.error.message}</p>` : html`<${View} ...${props} error=${about.error} />`}</div>
      ${mode === "tour" && html`<${Tour} run=${run} about=${known} onVisit=${visit} onEnd=${() => amend({ mode: "quiz" })} />`}`}
  </section>`;
}

/** The ways to look at a stop: plain words stand above; maths and our own code open below; one thing to try. */
function More({ maths, functions = [], trying }) {
  const [name, setName] = useState(null), [code, setCode] = useState("");
  const show = async (one) => { setName(one); const r = await call.try("GET", `/v1/source/${one}`); setCode(r.ok ? (typeof r.data === "string" ? r.data : r.data.source ?? r.data.text) : r.message); };
  const list = [...new Set(functions)];
  return html`<div class="stack">${trying && html`<p class="try"><b>Try:</b> ${trying}</p>`}
    <details><summary>Show maths</summary><p class="maths">${maths}</p></details>
    ${list.length > 0 && html`<details onToggle=${(e) => e.currentTarget.open && !name && show(list[0])}><summary>Show code</summary>${list.length > 1 && html`<p><${Choice} label="Function" items=${list.map((f) => [f, f])} value=${name} onPick=${show} /></p>`}<pre tabindex="0" role="region" aria-label="Source"><code>${code}</code></pre></details>`}</div>`;
}

function Tokens({ run, about }) {
  const t = about.tokens, [turn, setTurn] = useState(99), most = Math.max(1, ...(t?.words ?? []).map((w) => w.merges?.length ?? 1));
  useEffect(() => {
    if (turn >= most) return;
    const timer = setTimeout(() => setTurn(turn + 1), matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 450);
    return () => clearTimeout(timer);
  }, [turn, most]);
  return html`<p class="plain">The network has no letters. Each word is cut into pieces it has met often, starting from single letters and joining the most common pair again and again, until nothing joins any more.</p>
    ${!t ? html`<p class="dim" aria-busy="true">Reading the words.</p>` : html`<div class="row"><button onClick=${() => setTurn(0)}>Play the merges</button><${Slide} label="Merges" min=0 max=${most} value=${Math.min(turn, most)} onInput=${setTurn} text=${`${Math.min(turn, most)} of ${most}`} /></div>
      <div class="merge">${(t.words ?? []).map((w) => { const list = w.merges?.length ? w.merges : [[w.text]], at = Math.min(turn, list.length - 1); return html`<div class="word"><b>${w.text}</b><div class=${`pieces ${at === list.length - 1 ? "done" : ""}`}>${list[at].map((p) => html`<span>${p}</span>`)}</div><small>${at === list.length - 1 ? `id ${(w.ids ?? []).join(", ")}` : `after ${at} merges`}</small></div>`; })}</div>
      ${t.places?.length > 0 && html`<h2>As the network gets it</h2><div class="places">${t.places.map((p) => html`<span class=${`at-${p.role}`} title=${`id ${p.id}`}>${p.role === "word" ? p.text : p.role}</span>`)}</div><p class="dim">${t.limit ? `A window has room for ${t.limit} pieces between its begin and end; what is left is filled up with one that means nothing. ${t.windows > 1 ? `These words take ${t.windows} windows, so none is lost.` : "These words fit into one. A program that keeps one window only would keep the first pieces and drop the rest."}` : t.reads === "labels" ? "This model does not read pieces: a prompt is the name of a class." : "This model reads no words."}</p>`}`}
    <${More} functions=${t?.sources} maths=${"pieces(word) = letters;  while a known pair is in it: join the pair of the lowest rank\nids = [begin, pieces..., end, pad, pad, ...]; what does not fit: the first N are kept"} trying=${html`write a word nobody uses, such as “umbrellaphant”, and see it fall apart: <a href="/create">Create</a>.`} />`;
}

/** A matrix as a picture: blue below zero, orange above. */
function Heat({ rows, label, height = 12 }) {
  const canvas = useRef();
  useEffect(() => {
    const w = rows[0]?.length ?? 1, h = rows.length, paint = new ImageData(w, h), most = Math.max(1e-9, ...rows.flat().map(Math.abs));
    rows.forEach((row, y) => row.forEach((v, x) => { const u = clamp(Math.abs(v) / most, 0, 1) ** 0.7; paint.data.set(v < 0 ? [40 + 7 * u, 60 + 65 * u, 80 + 109 * u, 255] : [60 + 182 * u, 54 + 50 * u, 50 + 13 * u, 255], 4 * (y * w + x)); }));
    Object.assign(canvas.current, { width: w, height: h });
    canvas.current.getContext("2d").putImageData(paint, 0, 0);
  }, [rows]);
  return html`<canvas class="heat" ref=${canvas} style=${`height:${rows.length * height}px`} role="img" aria-label=${label}></canvas>`;
}

function Vectors({ about }) {
  const v = about.vectors, [pair, setPair] = useState([0, 1]);
  if (!v) return html`<p class="dim" aria-busy="true">Reading the vectors.</p>`;
  if (!v.table.length) return html`<p class="plain">This model does not read words piece by piece${v.vector.length ? ": a whole prompt is one vector." : "."}</p>${v.vector.length > 0 && html`<${Heat} rows=${[v.vector]} label="The vector" />`}<${More} functions=${v.sources} maths="e = Table[label]" />`;
  const names = v.tokens.map((t) => t.replace(/^<\|startoftext\|>$/, "begin").replace(/^<\|endoftext\|>$/, "end"));
  const near = (m) => m[pair[0]]?.[pair[1]] ?? 0, turn = (c) => `${c.toFixed(3)}, ${(Math.acos(clamp(c, -1, 1)) * 180 / Math.PI).toFixed(0)}°`;
  const slot = (i) => html`<select aria-label=${`Word ${i + 1}`} value=${pair[i]} onChange=${(e) => setPair(pair.map((p, j) => (j === i ? +e.target.value : p)))} onDragOver=${(e) => e.preventDefault()} onDrop=${(e) => { e.preventDefault(); e.stopPropagation(); const n = +e.dataTransfer.getData("text/plain"); if (n < names.length) setPair(pair.map((p, j) => (j === i ? n : p))); }}>${names.map((t, j) => html`<option value=${j}>${t}</option>`)}</select>`;
  return html`<p class="plain">Each piece picks its row of a table, ${v.width} numbers that were learned. Then the pieces read each other, so that the same word ends as another vector in another sentence.</p>
    <div class="heats"><figure><figcaption>From the table, a row a piece</figcaption><${Heat} rows=${v.table} label="Embeddings from the table" /></figure><figure><figcaption>After the pieces have read each other</figcaption><${Heat} rows=${v.encoded} label="Embeddings after attention" /></figure></div>
    <h2>How close are two of them?</h2><div class="places">${names.map((t, i) => html`<button class="chip" draggable="true" onDragStart=${(e) => e.dataTransfer.setData("text/plain", String(i))} onClick=${() => setPair([pair[1], i])}>${t}</button>`)}</div>
    <div class="row wrap">${slot(0)} and ${slot(1)} <b role="status">cosine ${turn(near(v.cosines_table))} in the table; ${turn(near(v.cosines))} after they have read each other</b></div>
    <${More} functions=${v.sources} maths=${"e_i = Table[id_i] + Place[i]\nh = Encoder(e): each h_i = sum_j softmax(q_i . k_j / sqrt(d)) v_j, again and again\ncos(a, b) = a . b / (|a| |b|)"} trying="drag two pieces onto the boxes, or press them one after the other: words for similar things lie closer." />`;
}

/** Latent channels as greys, each in its own range. Painting on one calls onPaint(channels). */
function Channels({ data, shape, paint, onPaint, value }) {
  const [c, h, w] = shape, box = useRef(), drawing = useRef(false), own = useRef(data);
  own.current = data;
  const ranges = useMemo(() => Array.from({ length: c }, (_, i) => { const part = data.subarray(i * h * w, (i + 1) * h * w); return [Math.min(...part), Math.max(...part)]; }), [shape.join(), paint ? 0 : data]);
  const draw = () => box.current?.querySelectorAll("canvas").forEach((canvas, i) => {
    const image = new ImageData(w, h), [low, high] = ranges[i];
    for (let p = 0; p < h * w; p++) { const g = 255 * (own.current[i * h * w + p] - low) / (high - low || 1); image.data.set([g, g, g, 255], 4 * p); }
    canvas.getContext("2d").putImageData(image, 0, 0);
  });
  useEffect(draw, [data, ranges]);
  const dab = (e, i) => {
    if (!drawing.current) return;
    const r = e.currentTarget.getBoundingClientRect(), x = Math.floor((e.clientX - r.left) / r.width * w), y = Math.floor((e.clientY - r.top) / r.height * h), [low, high] = ranges[i];
    for (const [dx, dy] of [[0, 0], [1, 0], [0, 1], [1, 1]]) if (x + dx < w && y + dy < h && x >= 0 && y >= 0) own.current[i * h * w + (y + dy) * w + x + dx] = low + value * (high - low);
    draw();
  };
  return html`<div class="channels" ref=${box}>${Array.from({ length: c }, (_, i) => html`<figure><canvas width=${w} height=${h} class=${paint ? "paint" : ""} role="img" aria-label=${`Channel ${i + 1}`} tabindex=${paint ? 0 : undefined}
    onPointerDown=${paint && ((e) => { drawing.current = true; e.currentTarget.setPointerCapture(e.pointerId); dab(e, i); })} onPointerMove=${paint && ((e) => dab(e, i))} onPointerUp=${paint && (() => { if (drawing.current) { drawing.current = false; onPaint(own.current); } })}
    onKeyDown=${paint && ((e) => { if (e.key === "Enter") { for (let p = 0; p < h * w; p++) { const y = Math.floor(p / w), x = p % w; if (x > w / 4 && x < 3 * w / 4 && y > h / 4 && y < 3 * h / 4) own.current[i * h * w + p] = ranges[i][0] + value * (ranges[i][1] - ranges[i][0]); } draw(); onPaint(own.current); } })}></canvas>
    <figcaption class="dim">${i + 1}: ${ranges[i][0].toFixed(1)} to ${ranges[i][1].toFixed(1)}</figcaption></figure>`)}</div>`;
}

/** The numbers of a step as they are read: {t, header} or the error. */
function useTensors(run, k, picture) {
  const got = useLoad(() => tensorsOf(run.id, k, picture), [run.id, k, picture]);
  return got;
}
const shapeOf = (t, name) => t.header.tensors.find((x) => x.name === name)?.shape ?? [1, 1, 1];

/** alpha and sigma over the run; a press moves the step. */
function Curve({ steps, k }) {
  const W = 400, H = 120, n = steps.length, x = (i) => (n < 2 ? 0 : i / (n - 1) * W), most = Math.max(1, ...steps.map((s) => s.sigma)), line = (f) => steps.map((s, i) => `${x(i).toFixed(1)},${(H - 6 - f(s) * (H - 12)).toFixed(1)}`).join(" ");
  return html`<svg class="curve" viewBox=${`0 0 ${W} ${H}`} preserveAspectRatio="none" role="img" aria-label="Schedule: how much picture and how much noise at each step" onPointerDown=${(e) => { const r = e.currentTarget.getBoundingClientRect(); setStep(clamp(Math.round((e.clientX - r.left) / r.width * (n - 1)), 0, n - 1)); }}>
    <g class="path p0"><polyline points=${line((s) => s.alpha)} stroke="var(--c)" /></g><g class="path p1"><polyline points=${line((s) => s.sigma / most)} stroke="var(--c)" /></g><line x1=${x(k)} x2=${x(k)} y1="0" y2=${H} stroke="var(--text)" vector-effect="non-scaling-stroke" /></svg>
    <p class="legend"><span class="path p0"><i></i>alpha, how much picture: ${steps[k]?.alpha.toFixed(3)}</span><span class="path p1"><i></i>sigma, how much noise: ${steps[k]?.sigma.toFixed(3)}</span></p>`;
}

function Noise({ run, picture, k, about, numbers }) {
  const got = useTensors(run, k, picture), t = got.data, asked = run.request?.mix?.scale, own = typeof asked === "number" ? asked : about.noise?.steps?.find((s) => s.k === k)?.scale ?? 1;
  const [dial, setDial] = useState(null), [term, setTerm] = useState("x0"), [decoded, setDecoded] = useState(null);
  const cond = t?.get("part/cond"), none = t?.get("part/null"), w = dial ?? own, exact = cond && none && (numbers?.dial ?? run.request?.mix?.kind === "cfg");
  useEffect(() => { setDecoded(null); }, [k, w]);
  const head = t?.header, x = t?.get("x"), x0 = exact ? cond.map((c, i) => none[i] + w * (c - none[i])) : t?.get("x0"), eps = x && x0 ? x.map((v, i) => (v - head.alpha * x0[i]) / (head.sigma || 1)) : null;
  const here = about.noise?.steps?.find((s) => s.k === k), terms = t ? { x: ["x", x], x0: ["x0", x0], eps: ["eps", eps], ...(exact ? { cond: ["with words", cond], none: ["without", none], delta: ["the words' doing", cond.map((c, i) => c - none[i])] } : {}) } : {};
  const ask = async () => { const { kind, ...rest } = run.request.mix; const r = await call.post(`/v1/runs/${run.id}/steps/${k}/recompute`, { mix: { kind, ...rest, scale: w }, picture }); if (r) setDecoded(r.picture); };
  const steps = numbers?.steps ?? [], rms = (v) => (v ? norm(v) / Math.sqrt(v.length) : 0).toFixed(3), button = (name) => html`<button aria-pressed=${term === name} onClick=${() => setTerm(name)}>${terms[name]?.[0]} <small>${rms(terms[name]?.[1])}</small></button>`;
  return html`<p class="plain">A picture under noise is part picture, part noise. At every step the network is shown this mix and says what it believes the picture is. Here is step ${k + 1} of ${run.steps}${steps[k] ? `: ${(100 * steps[k].alpha ** 2 / (steps[k].alpha ** 2 + steps[k].sigma ** 2)).toFixed(0)} % of what it sees is picture` : ""}.</p>
    ${steps.length > 0 && html`<div><${Curve} steps=${steps} k=${k} /></div>`}<${Scrub} label="Step" n=${Math.max(1, run.steps_done)} value=${k} onInput=${(v) => setStep(v)} />
    ${got.error ? html`<p class="dim">${got.error.message}</p>` : !t ? html`<p class="dim" aria-busy="true">Reading the step.</p>` : html`<div class="equation3">${button("x")} = ${head.alpha.toFixed(3)} · ${button("x0")} + ${head.sigma.toFixed(3)} · ${button("eps")}</div>
      ${exact && html`<div class="equation3">${button("x0")} = ${button("none")} + ${w.toFixed(1)} · ${button("delta")}</div>`}
      <div class="stage3"><figure><${Frame} run=${run} picture=${picture} lens="x0" step=${k} alt="What the network believes" /><figcaption class="dim">${decoded ? "as the run had it" : "what it believes"}</figcaption>${decoded && html`<img class="shot" src=${decoded} alt=${`The belief at guidance ${w}`} /><div class="dim">at guidance ${w.toFixed(1)}</div>`}</figure>
      <div class="stack">${exact ? html`<${Slide} label="Guidance" min=0 max=20 step=0.1 value=${w} onInput=${setDial} text=${w.toFixed(1)} /><div class="row wrap"><button onClick=${ask}>Decode it</button><button disabled=${w === own} onClick=${async () => { const made = await call.post(`/v1/runs/${run.id}/fork`, { step: k, request: { mix: { ...run.request.mix, scale: w } } }); if (made) go(`/run/${made.id}`); }}>Run from here with ${w.toFixed(1)}</button></div>
        <p class="dim">Worked out in this page from the two recorded answers; the change from the run's own ${own.toFixed(1)} is ${rms(x0.map((v, i) => v - (none[i] + own * (cond[i] - none[i]))))}.</p>` : html`<p class="dim">${run.request?.mix?.kind === "none" ? "This run was not guided: the network was asked once a step." : "The two answers were not recorded, or this guidance is not a plain sum."}</p>`}
        <h3>${terms[term]?.[0] ?? "x0"}, channel by channel</h3><${Channels} data=${Float32Array.from(terms[term]?.[1] ?? x0)} shape=${shapeOf(t, "x")} /></div></div>`}
    <${More} functions=${about.noise?.sources} maths=${[about.noise?.formula ?? "", ...Object.values(about.noise?.formulas ?? {}), ...(here ? [`at the place ${about.noise.place.join(", ")}, step ${k + 1}:`, ...Object.entries(here.terms).map(([name, t]) => `  ${name} = ${t.at.toFixed(4)}   (rms ${t.rms.toFixed(4)})`), `  skip ${here.skip.toFixed(4)}, out ${here.out.toFixed(4)}, inp ${here.inp.toFixed(4)}, noise ${here.noise.toFixed(2)}`] : [])].join("\n")} trying="pull guidance to 0, then to 15, first at an early step and then at a late one." />`;
}

function Loop({ run, picture, k, about, numbers }) {
  const steps = numbers?.steps ?? [], now = steps[k], next = run.levels?.[k + 1], l = about.loop, at = l?.steps?.find((s) => s.k === k), kind = l?.sampler ?? run.request?.sampler?.kind ?? "the sampler";
  const kinds = (useStore((s) => s.parts)?.samplers ?? []).map((s) => s.kind), [other, setOther] = useState("");
  const picked = other || kinds.find((s) => s !== kind && /ancestral|ddpm/.test(s)) || kinds.find((s) => s !== kind) || "";
  return html`<p class="plain">The belief is blurred at first, so the run takes only a small step toward it and looks again. ${run.steps} times, with ${kind}. ${!l ? "" : l.stochastic ? `This sampler then adds fresh noise${at ? ` (${at.fresh.toFixed(3)})` : ""}, so that small mistakes are forgotten.` : `This sampler adds no fresh noise.${l.order > 1 ? ` It looks at ${l.order} beliefs to bend its way (here by ${at?.correction.toFixed(3)}).` : ""}`}</p>
    <${Scrub} label="Step" n=${Math.max(1, run.steps_done)} value=${k} onInput=${(v) => setStep(v)} />
    <div class="shots">${[["1 what it sees", "x", k], ["2 what it believes", "x0", k], ["3 a step toward it", "x", k + 1]].map(([name, lens, step]) => html`<figure>${step < run.steps_done ? html`<${Frame} run=${run} picture=${picture} lens=${lens} step=${step} alt=${name} />` : run.pictures[picture] ? html`<img class="shot" src=${run.pictures[picture].url} alt="The finished picture" />` : ""}<figcaption>${name}${step === k + 1 && k + 1 >= run.steps_done ? ": done" : ""}</figcaption></figure>`)}</div>
    ${now && html`<p class="maths">sigma ${now.sigma.toFixed(4)} → ${next ? next[2].toFixed(4) : "0"}     alpha ${now.alpha.toFixed(4)} → ${next ? next[1].toFixed(4) : "1"}     moved by ${now.update?.toFixed(4) ?? "?"}     ${now.ms?.toFixed(0)} ms${at ? `\nx_next = ${at.keep.toFixed(4)} x + ${at.toward.toFixed(4)} x0${at.fresh ? `     fresh noise ${at.fresh.toFixed(4)}` : ""}${at.correction > 1e-6 ? `     correction ${at.correction.toFixed(4)}` : ""}` : ""}</p>`}
    <${More} functions=${l?.sources} maths=${l?.formula ?? "x_next = keep x + toward x0"} trying=${html`the same words and noise with another sampler, side by side: <select aria-label="Another sampler" value=${picked} onChange=${(e) => setOther(e.target.value)}>${kinds.filter((s) => s !== kind).map((s) => html`<option value=${s}>${s}</option>`)}</select> <button disabled=${!picked} onClick=${() => go("/compare", { run: run.id, axes: JSON.stringify([{ path: "sampler", text: `${kind}, ${picked}` }]) })}>Set it up in Compare</button>`} />`;
}

function Decode({ run, picture, about, error }) {
  const last = Math.max(0, run.steps_done - 1), d = about.decode, [edited, setEdited] = useState(null), [made, setMade] = useState(null), [value, setValue] = useState(1), [raw, setRaw] = useState(null);
  const shape = d?.shape, own = useMemo(() => (d ? Float32Array.from(d.values) : null), [d]);
  useEffect(() => {
    if (!own || shape.length !== 3) return;
    let made = null, alive = true;
    const [c, h, w] = shape, paint = new ImageData(w, h), canvas = new OffscreenCanvas(w, h);
    for (let p = 0; p < h * w; p++) paint.data.set([...[0, 1, 2].map((o) => 127.5 + 45 * own[Math.min(o, c - 1) * h * w + p]), 255], 4 * p);
    canvas.getContext("2d").putImageData(paint, 0, 0);
    canvas.convertToBlob().then((blob) => { made = URL.createObjectURL(blob); if (alive) setRaw(made); });
    return () => { alive = false; URL.revokeObjectURL(made); };
  }, [own]);
  const paint = async (data) => { setEdited(Float32Array.from(data)); const r = await call.post(`/v1/runs/${run.id}/steps/${last}/recompute`, { x0: Array.from(data), picture }); if (r) setMade(r); };
  if (!d) return html`<p class="dim" aria-busy=${!error}>${error?.message ?? "Reading the last step."}</p>`;
  if (shape.length !== 3) return html`<p class="plain">This model's numbers are no grid of ${shape.length - 1} sides that a page could draw.</p>`;
  const pixels = d.exact;
  return html`<p class="plain">The loop worked in ${shape[0]} ${shape[0] === 1 ? "grid" : "grids"} of ${shape[1]} × ${shape[2]} numbers${pixels ? ": the pixels themselves. Nothing has to be decoded." : `. A straight line from these numbers to colours explains ${(100 * d.r2).toFixed(0)} % of the picture: that is the quick preview. The decoder, a network of its own, makes the rest: edges, and what is finer than a cell of the grid.`}</p>
    ${raw && html`<${Wipe} names=${[shape[0] > 2 ? "Three channels as colours" : "The channels", "Linear preview", "Decoded"]} pictures=${[raw, d.pictures.linear, d.pictures.decoded]} ratio=${d.size[1] / d.size[0]} />`}
    <h2>Paint on a channel</h2><div class="row wrap"><${Slide} label="Value" min=0 max=1 step=0.05 value=${value} onInput=${setValue} text=${value.toFixed(2)} /><button disabled=${!edited} onClick=${() => { setEdited(null); setMade(null); }}>As it was</button></div>
    <div class="stage3"><figure><img class="shot" src=${made?.picture ?? d.pictures.decoded} alt=${made ? "Decoded from what you painted" : "Decoded"} /><figcaption class="dim" role="status">${made ? "decoded from what you painted" : "decoded"}</figcaption></figure>
    <${Channels} key=${edited ? "painted" : "own"} paint value=${value} data=${edited ?? Float32Array.from(own)} shape=${shape} onPaint=${paint} /></div>
    <${More} functions=${d.sources} maths=${"preview(x, y) = b + W z(x/s, y/s)     W is 3 x channels, fitted to this run by least squares\npicture = Decoder(z)                  convolutions and up-sampling"} trying="paint white, then black, into the middle of each channel: which of them holds brightness, which a colour? (Enter on a channel fills its middle.)" />`;
}

/** Two prompts, one noise: what changed in the words, in the frames, and on one map. */
function Prompts({ run, k }) {
  const [text, setText] = useState(run.prompt), [other, setOther] = useState(null), [lists, setLists] = useState([]), second = useRun(other);
  const start = async () => {
    const { family, kind, ...request } = run.request ?? {};
    const made = await call.post("/v1/runs", { model: run.model, parent: run.id, relation: "vary", request: { ...request, prompt: [text], seed: run.seed, count: 1 } });
    if (made) setOther(made.id);
  };
  useEffect(() => {
    if (!second) return;
    Promise.all([run, second].map((r) => call.try("POST", "/v1/tokenize", { prompt: r.prompt, model: r.model }))).then((got) => setLists(got.map((g) => (g.ok ? g.data.tokens : []))));
  }, [second?.id]);
  const words = (i) => { const mine = lists[i] ?? [], theirs = new Set((lists[1 - i] ?? []).map((t) => t.text)); return html`<div class="pieces">${mine.map((t) => html`<span style=${theirs.has(t.text) ? "" : "outline:2px solid var(--accent)"}>${t.text}</span>`)}</div>`; };
  return html`<div class="stop"><p class="plain">The same noise, other words. What stays came from the noise; what changes came from the words.</p><form class="row wrap" onSubmit=${(e) => { e.preventDefault(); start(); }}><input class="grow" aria-label="The other prompt" value=${text} onInput=${(e) => setText(e.target.value)} /><button class="primary" disabled=${text === run.prompt}>Run it</button></form>
    ${second ? html`<div class="two">${[run, second].map((r, i) => html`<figure><${Frame} run=${r} step=${Math.min(k, Math.max(0, r.steps_done - 1))} alt=${r.prompt} /><figcaption>${words(i)}</figcaption></figure>`)}</div><${Scrub} label="Step of both" n=${Math.max(1, run.steps)} value=${k} onInput=${(v) => setStep(v)} />
      ${second.state === "done" ? html`<${Paths} runs=${[run, second]} names=${[run.prompt, second.prompt]} at=${run.steps > 1 ? k / (run.steps - 1) : 1} />` : html`<p class="dim" role="status">Step ${second.steps_done} of ${second.steps}</p>`}` : html`<p class="dim">Or choose a run that was made with seed ${run.seed}:</p><${Picker} label="Runs of this seed" filter=${(r) => r.id !== run.id && r.seed === run.seed && r.steps_done} onPick=${(r) => setOther(r.id)} />`}</div>`;
}
