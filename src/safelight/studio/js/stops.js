// The five stops of Explain: plain words, the run's own numbers, the maths, our own code, and one thing to try.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { clamp, norm } from "./maths.js";
import { Choice, Frame, Scrub, Slide, Wipe, call, pixelsOf, useRun } from "./kit.js";
import { BUNDLE, load, picture as shot, recorded, runs as server } from "./api.js";
import { guided, tensors } from "./dial.js";
import { setStep } from "./filmstrip.js";
import { alone, enlarged, useLoad } from "./parts.js";
import { amend, go } from "./router.js";
import { isActive, useStore } from "./store.js";
import { Heat, Latent, Mosaic, Pull, names, over, pieceText, still, useLinear, useTensors } from "./diagram.js";

/** The runs that were made from this one, kept live, the newest first. */
export function useChildren(run) {
  useEffect(() => { server.tree(run.id).then(({ nodes }) => nodes.forEach((n) => n.parent === run.id && load(n.id).catch(() => {})), () => {}); }, [run.id]);
  return useStore((s) => Object.values(s.runs).filter((r) => r.parent === run.id && r.state !== "failed").sort((a, b) => b.created - a.created));
}
const drawn = (run, i, children) => children.find((r) => r.relation === "edit" && r.request?.task?.kind === "image" && run.pictures[i] && (run.pictures[i].seal ?? r.request.task.picture) === r.request.task.picture && r.request.size?.[0] > run.pictures[i].height);
/** The run that enlarged this picture, finished if there is one. */
export const enlargedOf = (run, i, children) => { const all = children.filter((r) => drawn(run, i, [r])); return all.find((r) => r.state === "done") ?? all[0]; };

const rms = (v) => (v?.length ? norm(v) / Math.sqrt(v.length) : 0);
const apart = (a, b) => Math.sqrt(a.reduce((s, v, i) => s + (v - b[i]) ** 2, 0) / a.length);
const Wait = ({ children }) => html`<p class="dim" aria-busy="true">${children}</p>`;
const Away = ({ children }) => html`<p class="dim">${BUNDLE ? "This page is a recording" : "This run is a recording"}: ${children}</p>`;

/** The ways to look at a stop: plain words stand above; maths and our own code open below; one thing to try. */
function More({ maths, functions = [], trying }) {
  const [name, setName] = useState(null), [code, setCode] = useState("");
  const want = useRef();
  const show = async (one) => { want.current = one; setName(one); const r = await call.try("GET", `/v1/source/${BUNDLE ? one : encodeURIComponent(one)}`); if (want.current === one) setCode(r.ok ? (typeof r.data === "string" ? r.data : r.data.source ?? r.data.text) : r.message); };
  const list = [...new Set(functions)];
  return html`<div class="stack">${trying && html`<p class="try"><b>Try:</b> ${trying}</p>`}
    <details><summary>Show maths</summary><p class="maths">${maths}</p></details>
    ${list.length > 0 && html`<details onToggle=${(e) => e.currentTarget.open && !name && show(list[0])}><summary>Show code</summary>${list.length > 1 && html`<p><${Choice} label="Function" items=${list.map((f) => [f, f])} value=${name} onPick=${show} /></p>`}<pre tabindex="0" role="region" aria-label="Source"><code>${code}</code></pre></details>`}</div>`;
}

/* ---- 1 words to tokens ---- */

/** Where in a list of pieces the pair stands that is joined next: the places of its left halves. */
function joins(now, next) {
  const found = [];
  for (let i = 0, j = 0; next && j < next.length; j++) { if (now[i] === next[j]) i++; else { found.push(i); i += 2; } }
  return found;
}

function Word({ word, turn, asked }) {
  const list = word.merges?.length ? word.merges : [[word.text]], at = Math.min(turn, list.length - 1), done = at === list.length - 1, soon = joins(list[at], list[at + 1]), box = useRef();
  useEffect(() => { if (asked) box.current.scrollIntoView({ block: "nearest" }); }, [asked]);
  return html`<div class="word" ref=${box} aria-current=${asked ? "true" : undefined}><b>${word.text}</b><div class=${`pieces ${done ? "done" : ""}`}>${list[at].map((p, i) => html`<span key=${`${at} ${i}`} class=${soon.includes(i) ? "left" : soon.includes(i - 1) ? "next" : ""}>${p.replace("</w>", "·")}</span>`)}</div>
    <small>${done ? `id ${(word.ids ?? []).join(", ")}` : `next: pair no. ${word.ranks?.[at] + 1}`}</small></div>`;
}

/** The window as the network gets it, and what would be lost if it were smaller. */
function Window({ t }) {
  const [room, setRoom] = useState(null), words = t.places.filter((p) => p.role === "word"), most = t.windows > 1 ? t.limit : words.length;
  if (!t.places.length) return null;
  const end = t.places.find((p) => p.role === "end"), pad = t.places.find((p) => p.role === "pad"), kept = words.slice(0, room ?? words.length), lost = words.slice(kept.length);
  const shown = room === null || !t.limit ? t.places : [t.places[0], ...kept, end, ...Array.from({ length: Math.max(0, t.limit - kept.length) }, () => pad ?? { ...end, role: "pad" })];
  const Piece = (p, cut) => html`<span class=${cut ? "cut" : `at-${p.role}`} title=${`id ${p.id}`}>${p.role === "pad" ? "pad" : pieceText(p)}<small>${p.id}</small></span>`;
  return html`<section class="stack" data-part="window"><h2>As the network gets it</h2><div class="places">${shown.map((p) => Piece(p))}${lost.map((p) => Piece(p, true))}</div>
    ${t.limit ? html`<p class="dim" role="status">${lost.length ? `With room for ${kept.length} the first ${kept.length} are kept, and ${lost.length === 1 ? "one is" : `${lost.length} are`} never read: ${lost.map(pieceText).join(" ")}.` : t.windows > 1 ? `${words.length} pieces take ${t.windows} windows of ${t.limit}, so none is lost here. A program with one window keeps the first ${t.limit}: pull the slider to see.` : `${words.length} pieces, and room for ${t.limit} between begin and end; the rest is filled with a piece that means nothing.`}</p>
      ${words.length > 1 && html`<${Slide} label="What if there were room for" min=1 max=${most} value=${room ?? most} onInput=${(v) => setRoom(v === most && t.windows === 1 ? null : v)} text=${`${room ?? most}`} />`}` : html`<p class="dim">${t.reads === "labels" ? "This model does not read pieces: a prompt is the name of a class." : "This model reads no words."}</p>`}</section>`;
}

function Own({ run }) {
  const [text, setText] = useState("umbrellaphant"), [found, setFound] = useState(null);
  const ask = async () => { const r = await call.post("/v1/tokenize", { prompt: text, model: run.model, emphasis: run.request?.emphasis ?? "a1111" }); if (r) setFound(r.tokens); };
  return html`<form class="row wrap" onSubmit=${(e) => { e.preventDefault(); ask(); }}><input aria-label="A word of your own" value=${text} onInput=${(e) => setText(e.target.value)} /><button disabled=${!text.trim()}>Cut it</button>
    <span class="places" role="status">${found && (found.length ? found.map((p) => html`<span>${p.text.replace("</w>", "")}<small>${p.id}</small></span>`) : "nothing is left of it")}</span></form>`;
}

function Tokens({ run, about, asked }) {
  const t = about.tokens, [turn, setTurn] = useState(99), list = t?.words ?? [], most = Math.max(0, ...list.map((w) => (w.merges?.length ?? 1) - 1)), wanted = (asked ?? "").toLowerCase().split(/[^\p{L}\p{N}']+/u).filter(Boolean);
  const found = list.filter((w) => wanted.includes(w.text.toLowerCase())), lost = wanted.filter((w) => !list.some((x) => x.text.toLowerCase() === w));
  useEffect(() => {
    if (turn >= most) return;
    const timer = setTimeout(() => setTurn(turn + 1), still() ? 0 : 700);
    return () => clearTimeout(timer);
  }, [turn, most]);
  return html`<p class="plain">The network has no letters. Each word is cut into pieces it has met often, starting from single letters and joining the pair that is most common, again and again, until nothing joins any more. A dot marks the end of a word.</p>
    ${lost.length > 0 && t && html`<p class="bad">“${lost.join(" ")}” is not in this run's prompt: generate with it to see it fall apart.</p>`}
    ${!t ? html`<${Wait}>Reading the words.<//>` : html`${list.length > 0 && html`<section class="stack" data-part="merges"><div class="row"><button onClick=${() => setTurn(0)}>Play the merges</button><${Slide} label="Merges" min=0 max=${most} value=${Math.min(turn, most)} onInput=${setTurn} text=${`${Math.min(turn, most)} of ${most}`} /></div>
      <div class="merge">${list.map((w) => html`<${Word} word=${w} turn=${turn} asked=${found.includes(w)} />`)}</div></section>`}<${Window} t=${t} />`}
    <${More} functions=${t?.sources} maths=${`pieces(word) = letters;  while a known pair is in it: join the pair of the lowest rank${t?.vocabulary ? `     (${t.vocabulary} pieces are known)` : ""}\nids = [begin, pieces..., end, pad, pad, ...]; what does not fit: the first N are kept`} trying=${recorded(run.id) ? "play the merges, then pull the room down to 3: what would the network never read?" : html`a word nobody uses, and see it fall apart.<${Own} run=${run} />`} />`;
}

/* ---- 2 tokens to vectors ---- */

/** Two directions and the angle between them: in the table (dashed), and after the pieces have read each other. */
function Angle({ table, after }) {
  const ray = (c, r) => { const a = Math.acos(clamp(c, -1, 1)); return [80 + r * Math.cos(a), 92 - r * Math.sin(a)]; }, [x, y] = ray(after, 66), [u, v] = ray(table, 66), [p, q] = ray(after, 26);
  return html`<svg class="angle3" viewBox="0 0 160 104" role="img" aria-label="The angle between the two"><path class="arc" d=${`M106 92 A26 26 0 0 0 ${p} ${q}`} /><line x1="80" y1="92" x2="146" y2="92" /><line class="was" x1="80" y1="92" x2=${u} y2=${v} /><line class="now" x1="80" y1="92" x2=${x} y2=${y} /><circle cx="80" cy="92" r="3" /></svg>`;
}

function Vectors({ about, asked }) {
  const v = about.vectors, wanted = (asked ?? "").toLowerCase(), [pair, setPair] = useState(null), [turn, setTurn] = useState(0), labels = useMemo(() => (v?.table.length ? names(v) : []), [v]);
  if (!v) return html`<${Wait}>Reading the vectors.<//>`;
  if (!v.table.length) return html`<p class="plain">This model does not read words piece by piece${v.vector.length ? ": a whole prompt is one vector." : "."}</p>${v.vector.length > 0 && html`<${Heat} rows=${[v.vector]} label="The vector" />`}<${More} functions=${v.sources} maths="e = Table[label]" trying="other words in Compare prompts, above: another row of the table." />`;
  const last = labels.length - 1, first = labels.findIndex((t) => wanted.split(/\W+/).includes(t)), two = pair ?? [first > 0 ? first : Math.min(2, last), Math.min(3, last)];
  const put = (slot, i) => setPair(two.map((p, j) => (j === slot ? i : p))), degrees = (c) => `${(Math.acos(clamp(c, -1, 1)) * 180 / Math.PI).toFixed(0)}°`, near = (m) => m[two[0]]?.[two[1]] ?? 0;
  const pick = (i) => { put(turn, i); setTurn(1 - turn); };
  const drop = (slot) => (e) => { e.preventDefault(); e.stopPropagation(); const i = Number(e.dataTransfer.getData("text/plain")); if (Number.isInteger(i) && i >= 0 && i < labels.length) put(slot, i); };
  const Rows = (rows, label, caption) => html`<figure class="rows"><figcaption>${caption}</figcaption><div>${labels.map((t, i) => html`<span class=${two.includes(i) ? "on" : ""}>${t}</span>`)}</div><${Heat} rows=${rows} label=${label} height=${18} onPick=${pick} /></figure>`;
  return html`<p class="plain">Each piece picks its row of a table, ${v.width} numbers that were learned. Then the pieces read each other, so that the same word ends as another vector in another sentence.</p>
    <div class="heats" data-part="heats">${Rows(v.table, "Embeddings from the table", `From the table: the first ${v.table[0].length} of ${v.width} numbers, a row a piece`)}${Rows(v.encoded, "Embeddings after attention", "After the pieces have read each other")}</div>
    <p class="key dim"><i style="background:#2f7dbd"></i>below zero <i style="background:#3c3632"></i>zero <i style="background:#f2683f"></i>above</p>
    <section class="stack" data-part="cosine"><h2>How close are two of them?</h2><div class="places" role="group" aria-label="Pieces">${labels.map((t, i) => html`<button type="button" class="chip" aria-pressed=${two.includes(i)} draggable="true" onDragStart=${(e) => e.dataTransfer.setData("text/plain", String(i))} onClick=${() => pick(i)}>${t}</button>`)}</div>
      <div class="slots">${[0, 1].map((slot) => html`<div class=${`slot ${turn === slot ? "next" : ""}`} onDragOver=${(e) => e.preventDefault()} onDrop=${drop(slot)}><select aria-label=${`Word ${slot + 1}`} value=${two[slot]} onChange=${(e) => put(slot, +e.target.value)}>${labels.map((t, j) => html`<option value=${j}>${t}</option>`)}</select><${Heat} rows=${[v.encoded[two[slot]]]} label="" height=${14} /></div>`)}
        <${Angle} table=${near(v.cosines_table)} after=${near(v.cosines)} />
        <p role="status"><span><b>${near(v.cosines).toFixed(3)}</b> cosine after they have read each other, ${degrees(near(v.cosines))} apart</span><br /><span class="dim"><b>${near(v.cosines_table).toFixed(3)}</b> in the table (dashed), ${degrees(near(v.cosines_table))}</span></p></div></section>
    <${More} functions=${v.sources} maths=${`e_i = Table[id_i] + Place[i]\nh = Encoder(e): each h_i = sum_j softmax(q_i . k_j / sqrt(d)) v_j, again and again\ncos(a, b) = a . b / (|a| |b|)\n\ncos(${labels[two[0]]}, ${labels[two[1]]}) = ${near(v.cosines_table).toFixed(4)} in the table, ${near(v.cosines).toFixed(4)} after\n|${labels[two[0]]}| = ${v.norms[two[0]].toFixed(3)}, |${labels[two[1]]}| = ${v.norms[two[1]].toFixed(3)} after`} trying="drag two pieces onto the boxes, or press them one after the other: which words moved closer by reading each other?" />`;
}

/* ---- 3 noise to picture ---- */

/** Latent channels as greys, each in its own range. Painting on one calls onPaint(channels), and onDab while it goes on. */
function Channels({ data, shape, paint, onPaint, onDab, value }) {
  const [c, h, w] = shape, box = useRef(), drawing = useRef(false), own = useRef(data), [at, setAt] = useState(null);
  own.current = data;
  const ranges = useMemo(() => Array.from({ length: c }, (_, i) => { const part = data.subarray(i * h * w, (i + 1) * h * w); return [Math.min(...part), Math.max(...part)]; }), [shape.join(), paint ? 0 : data]);
  const draw = () => box.current?.querySelectorAll("canvas").forEach((canvas, i) => {
    const image = new ImageData(w, h), [low, high] = ranges[i];
    for (let p = 0; p < h * w; p++) { const g = 255 * (own.current[i * h * w + p] - low) / (high - low || 1); image.data.set([g, g, g, 255], 4 * p); }
    if (at?.[0] === i) image.data.set([242, 104, 63, 255], 4 * (at[2] * w + at[1]));
    canvas.getContext("2d").putImageData(image, 0, 0);
  });
  useEffect(draw, [data, ranges, at]);
  const set = (i, x, y) => { const [low, high] = ranges[i]; if (x < w && y < h && x >= 0 && y >= 0) own.current[i * h * w + y * w + x] = low + value * (high - low); };
  const dab = (e, i) => {
    if (!drawing.current) return;
    const r = e.currentTarget.getBoundingClientRect(), x = Math.floor((e.clientX - r.left) / r.width * w), y = Math.floor((e.clientY - r.top) / r.height * h);
    for (const [dx, dy] of [[0, 0], [1, 0], [0, 1], [1, 1]]) set(i, x + dx, y + dy);
    draw(); onDab?.(own.current);
  };
  const keys = (e, i) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key], [, x, y] = at?.[0] === i ? at : [i, w >> 1, h >> 1];
    if (by) setAt([i, clamp(x + by[0], 0, w - 1), clamp(y + by[1], 0, h - 1)]);
    else if (e.key === " ") { set(i, x, y); setAt([i, x, y]); onPaint(own.current); }
    else if (e.key === "Enter") { for (let p = 0; p < h * w; p++) if (Math.abs(p % w + 0.5 - w / 2) < w / 4 && Math.abs(Math.floor(p / w) + 0.5 - h / 2) < h / 4) set(i, p % w, Math.floor(p / w)); draw(); onPaint(own.current); }
    else return;
    e.preventDefault(); e.stopPropagation();
  };
  const end = () => { if (drawing.current) { drawing.current = false; onPaint(own.current); } };
  return html`<div class="channels" ref=${box} data-arrows>${Array.from({ length: c }, (_, i) => html`<figure><canvas width=${w} height=${h} class=${paint ? "paint" : ""} role="img" aria-label=${`Channel ${i + 1}`} tabindex=${paint ? 0 : undefined}
    onPointerDown=${paint && ((e) => { drawing.current = true; e.currentTarget.setPointerCapture(e.pointerId); dab(e, i); })} onPointerMove=${paint && ((e) => dab(e, i))} onPointerUp=${paint && end} onPointerCancel=${paint && end} onKeyDown=${paint && ((e) => keys(e, i))} onBlur=${paint && (() => setAt(null))}></canvas>
    <figcaption class="dim">${i + 1}: ${ranges[i][0].toFixed(1)} to ${ranges[i][1].toFixed(1)}</figcaption></figure>`)}</div>`;
}

/** alpha and sigma over the run; a press or a drag moves the step. */
function Curve({ steps, k }) {
  const W = 400, H = 120, n = steps.length, x = (i) => (n < 2 ? 0 : i / (n - 1) * W), most = Math.max(1, ...steps.map((s) => s.sigma)), line = (f) => steps.map((s, i) => `${x(i).toFixed(1)},${(H - 6 - f(s) * (H - 12)).toFixed(1)}`).join(" ");
  const to = (e) => { const r = e.currentTarget.getBoundingClientRect(); setStep(clamp(Math.round((e.clientX - r.left) / r.width * (n - 1)), 0, n - 1)); };
  return html`<svg class="curve" viewBox=${`0 0 ${W} ${H}`} preserveAspectRatio="none" role="img" aria-label="Schedule: how much picture and how much noise at each step" onPointerDown=${(e) => { e.currentTarget.setPointerCapture(e.pointerId); to(e); }} onPointerMove=${(e) => e.buttons && to(e)}>
    <g class="path p0"><polyline points=${line((s) => s.alpha)} stroke="var(--c)" /></g><g class="path p1"><polyline points=${line((s) => s.sigma / most)} stroke="var(--c)" /></g><line x1=${x(k)} x2=${x(k)} y1="0" y2=${H} stroke="var(--text)" vector-effect="non-scaling-stroke" /></svg>
    <p class="legend"><span class="path p0"><i></i>alpha, how much picture: ${steps[k]?.alpha.toFixed(3)}</span><span class="path p1"><i></i>sigma, how much noise: ${steps[k]?.sigma.toFixed(3)}</span></p>`;
}

function Noise({ run, picture, k, about, numbers }) {
  const got = useTensors(run, k, picture), t = got.data, linear = useLinear(run, picture), here = about.noise?.steps?.find((s) => s.k === k), asked = run.request?.mix?.scale;
  const own = here?.scale ?? (typeof asked === "number" ? asked : 1), [dial, setDial] = useState(null), [term, setTerm] = useState("x0"), [decoded, setDecoded] = useState(null);
  const of = (name) => t?.at[name]?.data, cond = of("part/cond"), none = of("part/null"), w = dial ?? own, exact = !!(cond && none && (numbers?.dial ?? run.request?.mix?.kind === "cfg"));
  const turn = useRef(0);
  useEffect(() => { turn.current++; setDecoded(null); }, [k, w]);
  const worked = useMemo(() => {
    if (!t) return null;
    const x = of("x"), x0 = exact ? guided(cond, none, w) : of("x0"), scale = Math.hypot(t.alpha, t.sigma) || 1;
    return { x, x0, seen: x.map((v) => v / scale), eps: x.map((v, i) => (v - t.alpha * x0[i]) / (t.sigma || 1)), delta: exact && cond.map((c, i) => c - none[i]), moved: exact && apart(x0, guided(cond, none, own)), off: exact && guided(cond, none, own).reduce((most, v, i) => Math.max(most, Math.abs(v - of("x0")[i])), 0) };
  }, [t, w, exact]);
  const terms = worked ? { x: ["x", "what it sees", worked.x], x0: ["x0", "what it believes", worked.x0], eps: ["eps", "the noise it sees", worked.eps], ...(exact ? { cond: ["cond", "with words", cond], none: ["null", "without words", none], delta: ["cond − null", "what the words do", worked.delta] } : {}) } : {};
  const ask = async () => { const { kind, ...rest } = run.request.mix, mine = turn.current; const r = await call.post(`/v1/runs/${run.id}/steps/${k}/recompute`, { mix: { kind, ...rest, scale: w }, picture }); if (r && mine === turn.current) setDecoded(r.picture); };
  const steps = numbers?.steps ?? [], shape = t?.at.x.shape;
  const button = (name, bare = false) => html`<button type="button" class="term" aria-pressed=${term === name} onClick=${() => setTerm(name)} aria-label=${`${terms[name][0]}, ${terms[name][1]}, rms ${rms(terms[name][2]).toFixed(3)}`}>
    ${name === "delta" ? html`<${Pull} z=${worked.delta} shape=${shape} label="" />` : html`<${Latent} linear=${linear} z=${name === "x" ? worked.seen : terms[name][2]} />`}<b>${terms[name][0]}</b>${!bare && html`<span>${terms[name][1]}</span>`}<small>${rms(terms[name][2]).toFixed(3)}</small></button>`;
  const now = steps.find((s) => s.k === k);
  return html`<p class="plain">A picture under noise is part picture, part noise. At every step the network is shown this mix and says what it believes the picture is. Here is step ${k + 1} of ${run.steps}${now ? `: ${(100 * now.alpha ** 2 / (now.alpha ** 2 + now.sigma ** 2)).toFixed(0)} % of what it sees is picture` : ""}.</p>
    ${steps.length > 0 && html`<div data-part="curve"><${Curve} steps=${steps} k=${k} /></div>`}<${Scrub} label="Step" n=${Math.max(1, run.steps_done)} value=${k} onInput=${(v) => setStep(v)} />
    ${got.error ? html`<p class="dim">${got.error.message}</p>` : !worked ? html`<${Wait}>Reading the step.<//>` : html`<div class="equation3" data-part="equation">${button("x")}<span>= ${t.alpha.toFixed(3)} ·</span>${button("x0")}<span>+ ${t.sigma.toFixed(3)} ·</span>${button("eps")}</div>
      ${exact ? html`<section class="stack" data-part="guidance"><div class="equation3">${button("x0")}<span>=</span>${button("none")}<span>+ <b class="dialled">${w.toFixed(1)}</b> ·</span>${button("delta")}</div>
        <${Slide} label="Guidance" min=0 max=20 step=0.1 value=${w} onInput=${setDial} text=${w.toFixed(1)} />
        <p class="dim" role="status">Worked out in this page from the two recorded answers. ${dial === null || w === own ? `At the run's own ${own.toFixed(1)} it differs from what the run believed by ${worked.off.toExponential(1)} at most.` : `It is ${worked.moved.toFixed(3)} (rms) away from the run's own ${own.toFixed(1)}.`}</p>
        ${!recorded(run.id) ? html`<div class="row wrap"><button onClick=${ask}>Decode it</button><button disabled=${w === own} onClick=${async () => { const made = await call.post(`/v1/runs/${run.id}/fork`, { step: k, request: { mix: { ...run.request.mix, scale: w } } }); if (made) go(`/run/${made.id}`); }}>Run from here with ${w.toFixed(1)}</button><button class="ghost" disabled=${dial === null} onClick=${() => setDial(null)}>Back to ${own.toFixed(1)}</button></div>` : html`<${Away}>the dial works all the same, as exactly as it was recorded; decoding by the network and running on from here need the studio.<//>`}</section>` : html`<p class="dim">${run.request?.mix?.kind === "none" ? "This run was not guided: the network was asked once a step." : !none ? "At this step the network was asked once: guidance was off here, or its two answers were not recorded." : "This guidance is not a plain sum, so the page cannot work it out alone."}</p>`}
      <div class="stage3"><figure><${Frame} run=${run} picture=${picture} lens="x0" step=${k} alt="What the network believed" /><figcaption class="dim">as the run believed it, decoded</figcaption>${decoded ? html`<img class="shot" src=${decoded} alt=${`The belief at guidance ${w}`} /><div class="dim">at guidance ${w.toFixed(1)}, decoded</div>` : exact && dial !== null && w !== own && html`<${Latent} linear=${linear} z=${worked.x0} label=${`Linear preview at guidance ${w.toFixed(1)}`} /><div class="dim">at guidance ${w.toFixed(1)}, linear preview</div>`}</figure>
      <div class="stack"><h2>${terms[term]?.[0] ?? "x0"}: ${terms[term]?.[1] ?? ""}, channel by channel</h2><${Channels} data=${Float32Array.from(terms[term]?.[2] ?? worked.x0)} shape=${shape} /></div></div>`}
    <${More} functions=${about.noise?.sources} maths=${[about.noise?.formula ?? "", ...Object.values(about.noise?.formulas ?? {}), ...(here ? [`at the place ${about.noise.place.join(", ")}, step ${k + 1}:`, ...Object.entries(here.terms).map(([name, t]) => `  ${name} = ${t.at.toFixed(4)}   (rms ${t.rms.toFixed(4)})`), `  skip ${here.skip.toFixed(4)}, out ${here.out.toFixed(4)}, inp ${here.inp.toFixed(4)}, noise ${here.noise.toFixed(2)}`] : [])].join("\n")} trying=${exact ? "press a picture in the equation to see its numbers; then pull guidance to 0 and to 15, first at an early step and then at a late one." : "press a picture in the equation to see its numbers, at the first step and at the last."} />`;
}

/* ---- 4 the loop ---- */

/** One round: what it sees, what it believes, a step toward it, and where the sampler adds fresh noise, that too. */
function Walk({ run, picture, k, name, l }) {
  const last = k + 1 >= run.steps_done, at = l?.steps.find((s) => s.k === k), renoised = !!(l?.stochastic && at?.fresh > 1e-4), linear = useLinear(run, picture), t = useTensors(run, k, picture).data?.at;
  // Before the noise is added: keep x + toward x0, as strong as the recorded frames are shown.
  const bare = useMemo(() => { if (!renoised || !t?.x) return null; const size = Math.hypot(at.alpha_next, at.share) || 1; return t.x.data.map((v, i) => (at.keep * v + at.toward * t.x0.data[i]) / size); }, [t, at]);
  const Arrow = html`<svg class="arrow" viewBox="0 0 24 24" aria-hidden="true"><path d="M2 12h19M14 5l7 7-7 7" /></svg>`, next = renoised ? "fresh noise added" : "a step toward it";
  const cell = (what, lens, step) => html`<figure>${step < run.steps_done || !over(run) ? html`<${Frame} run=${run} picture=${picture} lens=${lens} step=${Math.min(step, Math.max(0, run.steps_done - 1))} alt=${`${name}: ${what}`} />` : run.pictures?.[picture] ? html`<img class="shot" src=${shot(run, picture)} alt=${`${name}: the finished picture`} />` : ""}<figcaption>${step > k && last ? "the end" : what}</figcaption></figure>`;
  return html`<div class="walk">${cell("it sees", "x", k)}${Arrow}${cell("it believes", "x0", k)}${Arrow}${bare && html`<figure><${Latent} linear=${linear} z=${bare} label=${`${name}: a step toward it, linear preview`} /><figcaption>a step toward it</figcaption></figure>${Arrow}`}${cell(next, "x", k + 1)}</div>`;
}

/** How much fresh noise each step adds, or how far it bends. */
function Rest({ l, k }) {
  const key = l.stochastic ? "fresh" : "correction", most = Math.max(1e-9, ...l.steps.map((s) => s[key]));
  if (!l.stochastic && most < 1e-5) return html`<p class="dim">Adds no fresh noise.</p>`;
  return html`<div class="histogram" role="img" aria-label=${`${l.stochastic ? "Fresh noise" : "Correction"} of each step, ${most.toFixed(3)} at most`}>${l.steps.map((s) => html`<i class=${s.k === k ? "on" : ""} style=${`height:${100 * s[key] / most}%`}></i>`)}</div><p class="dim">${l.stochastic ? "Fresh noise" : "Bend of the path"}: ${(l.steps.find((s) => s.k === k)?.[key] ?? 0).toFixed(3)} here, ${most.toFixed(3)} at most</p>`;
}

/** The same request under two samplers, both loops in lockstep. */
function Samplers({ run, picture, k, l, kind, children, against }) {
  const kinds = (useStore((s) => s.parts)?.samplers ?? []).map((s) => s.kind).filter((s) => s !== kind && s !== "repaint"), [choice, setChoice] = useState("");
  const same = children.filter((r) => r.relation === "cell" && r.seed === run.seed && r.steps === run.steps && r.request?.sampler?.kind !== kind && (r.request?.index ?? 0) === (run.request?.index ?? 0) + picture);
  const other = useRun(against) ?? same[0], picked = choice || (kinds.includes("euler-ancestral") ? "euler-ancestral" : kinds[0]) || "";
  const told = useLoad(() => (other && over(other) ? call.get(`/v1/runs/${other.id}/explain?picture=0`) : null), [other?.id, other?.state]).data;
  const at = Math.min(k, Math.max(0, (other?.steps_done ?? 1) - 1)), far = useLoad(async () => {
    if (!other || !over(other) || !other.steps_done) return null;
    const [a, b] = await Promise.all([tensors(run.id, k, picture), tensors(other.id, at, 0)]), x = a.at.x0.data, y = b.at.x0.data;
    return x.length === y.length ? [apart(x, y), b.at.x && apart(a.at.x.data, b.at.x.data)] : null;
  }, [other?.id, other?.state, k]).data;
  const start = async () => { const made = await call.post("/v1/runs", { model: run.model, parent: run.id, relation: "cell", record: "branches", title: `with ${picked}`, request: { ...alone(run, picture), sampler: { kind: picked } } }); if (made) amend({ against: made.id }); };
  const ask = !recorded(run.id) && html`<div class="row wrap"><select aria-label="Another sampler" value=${picked} onChange=${(e) => setChoice(e.target.value)}>${kinds.map((s) => html`<option value=${s}>${s}</option>`)}</select><button class=${other ? "" : "primary"} disabled=${!picked} onClick=${start}>Run it with ${picked}</button>${same.length > 1 && html`<${Choice} label="Runs so far" items=${same.map((r) => [r.id, r.request.sampler.kind])} value=${other?.id} onPick=${(id) => amend({ against: id })} />`}</div>`;
  const kindOf = (r) => r.request?.sampler?.kind ?? "?";
  return html`<section class="stack" data-part="samplers"><h2>Two samplers, side by side</h2>${!other ? html`<p class="dim">The same words and the same first noise, another way down.${recorded(run.id) ? "" : " The run goes into the queue; both loops then move in lockstep."}</p>` : ""}${ask}${!other && recorded(run.id) && html`<${Away}>a second run needs the studio.<//>`}
    ${other && html`<div class="duel">${[[run, picture, k, l, kind], [other, 0, at, told?.loop, kindOf(other)]].map(([r, i, step, loop, name]) => html`<article class="card"><h3>${name}${loop ? loop.stochastic ? ", adds fresh noise" : ", straight down" : ""}</h3>${isActive(r) && !r.steps_done ? html`<${Wait}>It waits in the queue.<//>` : html`<${Walk} run=${r} picture=${i} k=${step} name=${name} l=${loop} />`}${loop ? html`<${Rest} l=${loop} k=${step} />` : html`<p class="dim" role="status">Step ${r.steps_done} of ${r.steps}</p>`}</article>`)}</div>
      <p role="status">${far ? `At step ${k + 1} what they believe is ${far[0].toFixed(3)} apart (rms)${far[1] === undefined ? "" : `, what they see ${far[1].toFixed(3)}`}.` : ""}</p>`}</section>`;
}

function Loop({ run, picture, k, about, numbers, children, against }) {
  const now = numbers?.steps?.find((s) => s.k === k), next = run.levels?.[k + 1], l = about.loop, at = l?.steps?.find((s) => s.k === k), kind = l?.sampler ?? run.request?.sampler?.kind ?? "the sampler";
  return html`<p class="plain">The belief is blurred at first, so the run takes only a small step toward it and looks again: ${run.steps} times, with ${kind}. ${!l ? "" : l.stochastic ? `This sampler then adds fresh noise${at ? ` (${at.fresh.toFixed(3)})` : ""}, so that small mistakes are forgotten.` : `This sampler adds no fresh noise.${l.order > 1 ? ` It looks at ${l.order} beliefs to bend its way (here by ${at?.correction.toFixed(3)}).` : ""}`}</p>
    <${Scrub} label="Step" n=${Math.max(1, run.steps_done)} value=${k} onInput=${(v) => setStep(v)} />
    <div data-part="walk"><${Walk} run=${run} picture=${picture} k=${k} name="This run" l=${l} /></div>
    ${now && html`<p class="maths">sigma ${now.sigma.toFixed(4)} → ${next ? next[2].toFixed(4) : "0"}     alpha ${now.alpha.toFixed(4)} → ${next ? next[1].toFixed(4) : "1"}     moved by ${now.update?.toFixed(4) ?? "?"}     ${now.ms?.toFixed(0)} ms${at ? `\nx_next = ${at.keep.toFixed(4)} x + ${at.toward.toFixed(4)} x0${at.fresh ? `     + fresh noise, rms ${at.fresh.toFixed(4)}` : ""}${at.correction > 1e-6 ? `     + correction, rms ${at.correction.toFixed(4)}` : ""}` : ""}</p>`}
    <${Samplers} ...${{ run, picture, k, l, kind, children, against }} />
    <${More} functions=${l?.sources} maths=${l?.formula ?? "x_next = keep x + toward x0"} trying="scrub both samplers to the first steps and to the last: where do they part, and does the one with fresh noise end in another picture?" />`;
}

/* ---- 5 decode ---- */

/** Twice as many pixels by Lanczos' kernel of three lobes (Duchon 1979): smooth, and nothing in it is new. RGBA in, RGBA out. */
export function lanczos(data, w, h, by = 2) {
  const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x)), kernel = (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0);
  const line = (n) => Array.from({ length: n * by }, (_, i) => {
    const centre = (i + 0.5) / by, taps = [];
    for (let j = Math.max(0, Math.ceil(centre - 3.5)); j <= Math.min(n - 1, Math.floor(centre + 2.5)); j++) taps.push([j, kernel(j + 0.5 - centre)]);
    const whole = taps.reduce((s, [, v]) => s + v, 0);
    return taps.map(([j, v]) => [j, v / whole]);
  });
  const across = line(w), down = line(h), wide = new Float32Array(4 * w * by * h), out = new Uint8ClampedArray(4 * w * by * h * by);
  for (let y = 0; y < h; y++) for (let x = 0; x < w * by; x++) for (let c = 0; c < 4; c++) { let s = 0; for (const [j, v] of across[x]) s += v * data[4 * (y * w + j) + c]; wide[4 * (y * w * by + x) + c] = s; }
  for (let y = 0; y < h * by; y++) for (let x = 0; x < w * by; x++) for (let c = 0; c < 4; c++) { let s = 0; for (const [j, v] of down[y]) s += v * wide[4 * (j * w * by + x) + c]; out[4 * (y * w * by + x) + c] = s; }
  return out;
}

/** The object URL of RGBA pixels, freed when they change. */
function useDrawn(make, deps) {
  const [url, setUrl] = useState(null);
  useEffect(() => {
    let own = null, alive = true;
    (async () => {
      const made = await make();
      if (!made) return;
      const canvas = new OffscreenCanvas(made.width, made.height);
      canvas.getContext("2d").putImageData(made, 0, 0);
      own = URL.createObjectURL(await canvas.convertToBlob());
      if (alive) setUrl(own); else URL.revokeObjectURL(own);
    })().catch(() => {});
    return () => { alive = false; setUrl(null); if (own) URL.revokeObjectURL(own); };
  }, deps);
  return url;
}

function Decode({ run, picture, about, error, larger }) {
  const last = Math.max(0, run.steps_done - 1), d = about.decode, [edited, setEdited] = useState(null), [made, setMade] = useState(null), [value, setValue] = useState(1), away = recorded(run.id), turn = useRef(0);
  const shape = d?.shape, grid = shape?.length === 3, own = useMemo(() => (d ? Float32Array.from(d.values) : null), [d]), live = useRef(), linear = useLinear(run, picture), [fresh, setFresh] = useState(0), base = useMemo(() => own && Float32Array.from(own), [own, fresh]);
  const raw = useDrawn(() => { if (!grid) return null; const [c, h, w] = shape, made = new ImageData(w, h); for (let p = 0; p < h * w; p++) made.data.set([...[0, 1, 2].map((o) => 127.5 + 45 * own[Math.min(o, c - 1) * h * w + p]), 255], 4 * p); return made; }, [own]);
  const smooth = useDrawn(async () => { if (!d || larger?.pictures?.[0]) return null; const p = await pixelsOf(d.pictures.decoded); return new ImageData(lanczos(p.data, p.width, p.height), 2 * p.width, 2 * p.height); }, [d, larger?.pictures?.[0]?.seal]);
  const preview = (z) => { if (live.current && linear) linear.paint(live.current, z); };
  useEffect(() => { if (grid) preview(edited ?? base); }, [base, edited, linear]);
  const paint = async (data) => {
    setEdited(Float32Array.from(data));
    if (away) return;
    const mine = ++turn.current, r = await call.post(`/v1/runs/${run.id}/steps/${last}/recompute`, { x0: Array.from(data), picture });
    if (r && mine === turn.current) setMade(r);
  };
  const upscale = () => call.post("/v1/runs", enlarged(run, picture));
  if (!d) return error ? html`<p class="dim">${error.message}</p>` : html`<${Wait}>Reading the last step.<//>`;
  if (!grid) return html`<p class="plain">This model's numbers are no grid of ${shape.length - 1} sides that a page could draw.</p>`;
  const big = larger?.pictures?.[0] ? shot(larger, 0) : smooth, title = larger?.pictures?.[0] ? "Enlarged: its details drawn again" : "Twice the size by Lanczos", Arrow = html`<svg class="arrow" viewBox="0 0 24 24" aria-hidden="true"><path d="M2 12h19M14 5l7 7-7 7" /></svg>`;
  return html`<p class="plain">The loop worked in ${shape[0]} ${shape[0] === 1 ? "grid" : "grids"} of ${shape[1]} × ${shape[2]} numbers${d.exact ? ": the pixels themselves. Nothing has to be decoded." : `. A straight line from these numbers to colours explains ${(100 * d.r2).toFixed(0)} % of the picture: that is the quick preview. The decoder, a network of its own, makes the rest: edges, and what is finer than a cell of the grid.`}</p>
    <div class="flow4" data-part="flow"><figure><${Mosaic} data=${own} shape=${shape} label="All channels" /><figcaption>${shape[0]} ${d.exact ? "of pixels" : "latent"} ${shape[0] === 1 ? "channel" : "channels"}</figcaption></figure>${Arrow}${!d.exact && html`<figure><img class="shot" src=${d.pictures.linear} alt="Linear preview" /><figcaption>linear preview</figcaption></figure>${Arrow}`}<figure><img class="shot" src=${d.pictures.decoded} alt="The decoded picture" /><figcaption>${d.exact ? "as it is" : "decoder"}, ${d.size[1]} × ${d.size[0]}</figcaption></figure>${Arrow}<figure>${big ? html`<img class="shot" src=${big} alt=${title} />` : html`<div class="shot empty"></div>`}<figcaption>${larger?.pictures?.[0] ? "upscaled" : "Lanczos"}, ${2 * d.size[1]} × ${2 * d.size[0]}</figcaption></figure></div>
    ${raw && big && html`<div data-part="wipe"><${Wipe} key=${big} names=${d.exact ? ["The pixels", title] : [shape[0] > 2 ? "Three channels as colours" : "The channels", "Linear preview", "Decoded", title]} pictures=${d.exact ? [d.pictures.decoded, big] : [raw, d.pictures.linear, d.pictures.decoded, big]} ratio=${d.size[1] / d.size[0]} /></div>`}
    ${larger?.pictures?.[0] ? html`<p class="dim">The upscaler enlarged the picture, put it back under noise (strength ${larger.request.task.strength}), and ran the loop again at ${larger.pictures[0].width} × ${larger.pictures[0].height}${away ? "" : html`: <a href=${`/run/${larger.id}`}>that run</a>`}.</p>` : larger && isActive(larger) ? html`<p class="dim" role="status">Enlarging: step ${larger.steps_done} of ${larger.steps}.</p>` : html`<div class="row wrap"><span class="dim">Lanczos only spreads the pixels: nothing in it is new.</span>${!away && run.pictures?.[picture] && html`<button onClick=${upscale}>Upscale it: draw the details again</button>`}</div>`}
    <section class="stack" data-part="paint"><h2>Paint on a channel</h2><div class="row wrap"><${Slide} label="Value" min=0 max=1 step=0.05 value=${value} onInput=${setValue} text=${value.toFixed(2)} /><button disabled=${!edited} onClick=${() => { turn.current++; setEdited(null); setMade(null); setFresh(fresh + 1); }}>As it was</button></div>
      <div class="stage3"><figure class="stack">${!away && html`<img class="shot" src=${made?.picture ?? d.pictures.decoded} alt=${made ? "Decoded from what you painted" : "Decoded"} /><figcaption class="dim" role="status">${made ? "decoded from what you painted" : "decoded"}</figcaption>`}<canvas class="shot" ref=${live} width="1" height="1" role="img" aria-label="Linear preview of the channels"></canvas><figcaption class="dim">${away ? "by the linear preview; the decoder needs the studio" : "the linear preview, at once while you paint"}</figcaption></figure>
      <${Channels} paint value=${value} data=${edited ?? base} shape=${shape} onPaint=${paint} onDab=${preview} /></div></section>
    <${More} functions=${d.sources} maths=${"preview(x, y) = b + W z(x/s, y/s)     W is 3 x channels, fitted to this run by least squares\npicture = Decoder(z)                  convolutions and up-sampling\nenlarged = Decoder(loop(alpha z2 + sigma noise)),  z2 = Encoder(the picture, twice as large)"} trying="paint white, then black, into the middle of each channel: which of them holds brightness, which a colour? (Keys: arrows choose a cell, Space paints it, Enter fills the middle.)" />`;
}

export const VIEWS = [Tokens, Vectors, Noise, Loop, Decode];
