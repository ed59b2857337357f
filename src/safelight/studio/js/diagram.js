/* The whole machine in one picture, from words to pixels, each part with what this run sent through it; and the small drawings that
the stops share with it.

Diagram run picture k about numbers larger onOpen      onOpen(stop) is called when a part is pressed
Heat rows label height      Mosaic data shape label (all channels in one canvas)      Latent linear z label (a latent as colours, by the linear preview)
useTensors(run, k, picture) -> {t, alpha, sigma, at}      useLinear(run, picture)      pieceText(place)
*/
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { clamp } from "./maths.js";
import { Linear, tensors } from "./dial.js";
import { Scrub } from "./kit.js";
import { Frame, isRecorded, play, setStep } from "./filmstrip.js";
import { picture as shot } from "./api.js";
import { Icon, useLoad } from "./parts.js";

export const STOPS = ["Words to tokens", "Tokens to vectors", "Noise to picture", "The loop", "Decode"];
export const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
/** Whether there is a recording to read. */
export const over = (run) => ["done", "stopped"].includes(run.state) && run.steps_done > 0 && isRecorded(run);
export const pieceText = (p) => (p.role === "word" ? p.text.replace("</w>", "").trim() || "␣" : p.role);
const plain = (t) => t.replace(/^<\|startoftext\|>$/, "begin").replace(/^<\|endoftext\|>$/, "end").replace("</w>", "");
export const names = (vectors) => vectors.tokens.map(plain);

export const useTensors = (run, k, picture) => useLoad(() => (run.steps_done > k && over(run) ? tensors(run.id, k, picture) : null), [run.id, k, picture, run.state]);
export const useLinear = (run, picture) => useLoad(() => (over(run) && run.steps_done ? Linear.fit(run, picture) : null), [run.id, picture, run.state]).data;

/** A matrix as a picture: blue below zero, orange above; zero is the dark between. label "": decoration. */
export function Heat({ rows, label, height = 12, most, onPick }) {
  const canvas = useRef();
  useEffect(() => {
    const w = rows[0]?.length ?? 1, h = rows.length, paint = new ImageData(w, h), top = most ?? Math.max(1e-9, ...rows.flat().map(Math.abs));
    rows.forEach((row, y) => row.forEach((v, x) => { const u = clamp(Math.abs(v) / top, 0, 1) ** 0.7; paint.data.set(v < 0 ? [40 + 7 * u, 60 + 65 * u, 80 + 109 * u, 255] : [60 + 182 * u, 54 + 50 * u, 50 + 13 * u, 255], 4 * (y * w + x)); }));
    Object.assign(canvas.current, { width: w, height: h });
    canvas.current.getContext("2d").putImageData(paint, 0, 0);
  }, [rows, most]);
  return html`<canvas class="heat" ref=${canvas} style=${height ? `height:${rows.length * height}px` : ""} role=${label ? "img" : undefined} aria-label=${label || undefined} aria-hidden=${label ? undefined : "true"} onClick=${onPick && ((e) => { const r = e.currentTarget.getBoundingClientRect(); onPick(clamp(Math.floor((e.clientY - r.top) / r.height * rows.length), 0, rows.length - 1), clamp(Math.floor((e.clientX - r.left) / r.width * rows[0].length), 0, rows[0].length - 1)); })}></canvas>`;
}

/** The channels of a latent as greys, each in its own range, side by side. */
export function Mosaic({ data, shape: [c, h, w], label }) {
  const canvas = useRef(), columns = Math.ceil(Math.sqrt(c)), rows = Math.ceil(c / columns);
  useEffect(() => {
    const pen = canvas.current.getContext("2d");
    for (let i = 0; i < c; i++) {
      const part = data.subarray(i * h * w, (i + 1) * h * w), low = Math.min(...part), high = Math.max(...part), tile = new ImageData(w, h);
      part.forEach((v, p) => { const g = 255 * (v - low) / (high - low || 1); tile.data.set([g, g, g, 255], 4 * p); });
      pen.putImageData(tile, i % columns * (w + 1), Math.floor(i / columns) * (h + 1));
    }
  }, [data]);
  return html`<canvas class="shot" ref=${canvas} width=${columns * (w + 1) - 1} height=${rows * (h + 1) - 1} role="img" aria-label=${label}></canvas>`;
}

/** A latent as colours, by the linear map that fits this run's frames. */
export function Latent({ linear, z, label }) {
  const canvas = useRef();
  useEffect(() => { if (linear && z) linear.paint(canvas.current, z); }, [linear, z]);
  return html`<canvas class="shot" ref=${canvas} width="1" height="1" role=${label ? "img" : undefined} aria-label=${label || undefined} aria-hidden=${label ? undefined : "true"}></canvas>`;
}

/** How far a latent is from zero at each place, over its channels. */
export function Pull({ z, shape: [c, h, w], label, most }) {
  const rows = Array.from({ length: h }, (_, y) => Array.from({ length: w }, (_, x) => Math.hypot(...Array.from({ length: c }, (_, i) => z[(i * h + y) * w + x]))));
  return html`<${Heat} rows=${rows} label=${label} height=${0} most=${most} />`;
}

const Arrow = ({ area = "", down }) => html`<svg class=${`arrow ${area} ${down ? "down" : ""}`} viewBox="0 0 24 24" aria-hidden="true"><path d="M2 12h19M14 5l7 7-7 7" /></svg>`;

function Part({ n, name, onOpen, children }) {
  return html`<section class="part" data-part=${name} aria-label=${STOPS[n]}><h2><button type="button" class="open" data-stop=${n} title=${`Zoom in (${n + 1})`} onClick=${() => onOpen(n)}><i>${n + 1}</i>${STOPS[n]}<${Icon} name="search" /></button></h2>${children}</section>`;
}

const Wait = () => html`<p class="dim" aria-busy="true">Reading the recording.</p>`;
const Cell = ({ children, caption, name }) => html`<figure class=${name}>${children}<figcaption>${caption}</figcaption></figure>`;

function Words({ run, t }) {
  const laid = (t?.places ?? []).filter((p) => p.role !== "pad"), pads = (t?.places.length ?? 0) - laid.length, most = 28;
  return html`<p class="said">${(t?.prompt ?? run.prompt) ? `“${t?.prompt ?? run.prompt}”` : "No words were said."}</p>
    ${!t ? html`<${Wait} />` : laid.length ? html`<div class="toks">${laid.slice(0, most).map((p) => html`<span class=${`tok at-${p.role}`}>${pieceText(p)}<small>${p.id}</small></span>`)}${laid.length > most && html`<span class="tok at-pad">${laid.length - most} more</span>`}${pads > 0 && html`<span class="tok at-pad">pad × ${pads}</span>`}</div>` : html`<p class="dim">This model reads no words.</p>`}`;
}

function Strips({ v }) {
  if (!v) return html`<${Wait} />`;
  if (!v.table.length) return v.vector.length ? html`<${Cell} caption="all that was said, as one vector"><${Heat} rows=${[v.vector]} label="The vector" height=${24} /><//>` : html`<p class="dim">There is nothing to turn into vectors.</p>`;
  const height = clamp(Math.round(120 / v.table.length), 4, 12);
  return html`<div class="strips"><${Cell} caption=${`from the table: ${v.table.length} rows of ${v.width}`}><${Heat} rows=${v.table} label="Vectors from the table" height=${height} /><//><${Arrow} /><${Cell} caption="after they have read each other"><${Heat} rows=${v.encoded} label="Vectors after attention" height=${height} /><//></div>`;
}

/** What happens within one step. */
function Belief({ run, picture, k, step }) {
  const linear = useLinear(run, picture), got = useTensors(run, k, picture), at = got.data?.at, cond = at?.["part/cond"]?.data, none = at?.["part/null"]?.data, scale = step?.scale;
  const both = !!(cond && none);
  return html`<div class="chain"><${Cell} caption="what it sees"><${Frame} run=${run} picture=${picture} lens="x" step=${k} label=${`What the network sees at step ${k + 1}`} /><//><${Arrow} />
    <div class="net"><svg viewBox="0 0 64 48" aria-hidden="true"><path d="M4 4v40l14-9V13zM18 13l8 5v12l-8 5M60 4v40l-14-9V13zM46 13l-8 5v12l8 5M26 18h12v12H26zM18 15q14-9 28 0" /></svg><b>network</b><small>${both ? "asked twice" : "asked once"}</small></div><${Arrow} />
    ${both ? html`<div class="asks"><${Cell} caption="with words"><${Latent} linear=${linear} z=${cond} label="What it believes with the words" /><//><${Cell} caption="without"><${Latent} linear=${linear} z=${none} label="What it believes without the words" /><//></div><${Arrow} />
      <div class="guide"><b>× ${scale?.toFixed(1) ?? "?"}</b><small>guidance stretches what the words changed</small></div><${Arrow} />` : ""}
    <${Cell} caption="what it believes"><${Frame} run=${run} picture=${picture} lens="x0" step=${k} label=${`What it believes at step ${k + 1}`} /><//></div>`;
}

/** The way back: the scheduler's step, and the slider of all of them. */
function Turn({ run, k, l, step }) {
  const dot = useRef(), first = useRef(true), [stop, setStop] = useState(null), at = l?.steps.find((s) => s.k === k), next = run.levels?.[k + 1];
  useEffect(() => {
    if (first.current || still()) { first.current = false; return; }
    const way = dot.current.animate([{ left: "100%", top: "0%", opacity: 1 }, { left: "100%", top: "100%", opacity: 1, offset: 0.15 }, { left: "0%", top: "100%", opacity: 1, offset: 0.8 }, { left: "0%", top: "0%", opacity: 1, offset: 0.97 }, { left: "0%", top: "0%", opacity: 0 }], { duration: 600, easing: "ease-in-out" });
    return () => way.cancel();
  }, [k]);
  useEffect(() => () => stop?.(), [stop]);
  const toggle = () => { if (stop) { stop(); setStop(null); } else setStop(() => play(run, { speed: 0.5, ended: () => setStop(null) })); };
  return html`<i class="dot" ref=${dot} aria-hidden="true"></i>
    <p class="rule"><b>${l?.sampler ?? run.request?.sampler?.kind ?? "scheduler"}</b>${at && html`<span class="mono">x ← ${at.keep.toFixed(3)} x + ${at.toward.toFixed(3)} x0${at.fresh ? ` + ${at.fresh.toFixed(3)} noise` : ""}</span>`}${step && html`<span class="mono">sigma ${step.sigma.toFixed(3)} → ${(next?.[2] ?? 0).toFixed(3)}</span><span>${Math.round(100 * step.decided)} % decided</span>`}</p>
    <div class="again"><button type="button" aria-label=${stop ? "Pause the loop" : "Play the loop"} onClick=${toggle}><${Icon} name=${stop ? "pause" : "play"} /></button><${Scrub} label="Step" n=${Math.max(1, run.steps_done)} value=${k} onInput=${(v) => setStep(v)} /></div>`;
}

export function Diagram({ run, picture, k, about, numbers, larger, onOpen }) {
  const { tokens: t, vectors: v, loop: l, decode: d } = about, step = numbers?.steps?.find((s) => s.k === k), made = run.pictures?.[picture], grid = d?.shape?.length === 3;
  return html`<div class="parts">
    <${Part} n=${0} name="words" onOpen=${onOpen}><${Words} run=${run} t=${t} /><//><${Arrow} area="a-top" />
    <${Part} n=${1} name="vectors" onOpen=${onOpen}><${Strips} v=${v} /><//><${Arrow} area="a-feed" down />
    <figure class="noise0" data-part="seed"><${Frame} run=${run} picture=${picture} lens="x" step=${0} label="The noise that it began with" /><figcaption>noise,<br />from seed ${run.seed}</figcaption></figure><${Arrow} area="a-in" />
    <div class="looped" data-part="looped"><${Part} n=${2} name="noise" onOpen=${onOpen}><${Belief} run=${run} picture=${picture} k=${k} step=${step} /><//>
      <div class="turn"><${Part} n=${3} name="loop" onOpen=${onOpen}><${Turn} run=${run} k=${k} l=${l} step=${step} /><//></div></div><${Arrow} area="a-out" />
    <${Part} n=${4} name="decode" onOpen=${onOpen}><div class="comes">${grid && html`<${Cell} caption=${`${d.shape[0]} × ${d.shape[1]} × ${d.shape[2]} numbers`}><${Mosaic} data=${Float32Array.from(d.values)} shape=${d.shape} label="The channels of the end" /><//><${Arrow} />
      <div class="net"><svg viewBox="0 0 64 48" aria-hidden="true"><path d="M10 17 54 3v42L10 31zM24 13v22M39 8v32" /></svg><b>${d.exact ? "as it is" : "decoder"}</b></div><${Arrow} area="wrap" down />`}
      ${made ? html`<${Cell} name="final" caption=${`${made.width} × ${made.height} pixels`}><img class="shot" src=${shot(run, picture)} width=${made.width} height=${made.height} alt="The picture" /><//>` : html`<p class="dim">${over(run) ? "It was stopped before its end." : "It is being made."}</p>`}
      ${larger?.pictures?.[0] && html`<${Arrow} area="wrap" /><${Cell} name="final" caption=${`enlarged, ${larger.pictures[0].width} × ${larger.pictures[0].height}`}><img class="shot" src=${shot(larger, 0)} alt="The enlarged picture" /><//>`}</div><//>
  </div>`;
}
