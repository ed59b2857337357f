/* Charts of a run, linked to the step cursor: dragging one is scrubbing.

Chart title values=[...] (null = no point) unit digits log marks=[{k, text}] zero      a line over the steps
Spectrum steps final                                                             bands of the current step against the finished picture's
*/
import { html, useEffect, useRef } from "../vendor/preact-htm.js";
import { cursor, onStep, onTheme, setStep } from "./filmstrip.js";

/* A canvas that is drawn when its numbers or its size change; `step` moves what lies over it, and measures nothing. */
function useDrawn(paint, step, deps) {
  const box = useRef(), held = useRef();
  held.current = { paint, step };
  useEffect(() => {
    const canvas = box.current, size = { w: 0, h: 0 };
    const draw = () => {
      const ratio = devicePixelRatio || 1, style = getComputedStyle(canvas);
      Object.assign(size, { w: canvas.clientWidth, h: canvas.clientHeight });
      Object.assign(canvas, { width: Math.round(size.w * ratio), height: Math.round(size.h * ratio) });
      const c = canvas.getContext("2d");
      c.setTransform(ratio, 0, 0, ratio, 0, 0);
      held.current.paint(c, size.w, size.h, (name) => style.getPropertyValue("--" + name));
      move();
    };
    const move = () => held.current.step?.(size.w, size.h);
    const sized = new ResizeObserver(draw);
    sized.observe(canvas);
    const off = [onStep(move), onTheme(draw), () => sized.disconnect()];
    return () => off.forEach((f) => f());
  }, deps);
  return box;
}
const at = (n) => (cursor.k === null ? n - 1 : Math.max(0, Math.min(n - 1, cursor.k)));
export const nice = (v, digits = 3) => (v === null || v === undefined || !Number.isFinite(v) ? "–" : Math.abs(v) >= 1e4 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(1) : String(Number(v.toPrecision(digits))));

export function Chart({ title, values, unit = "", marks = [], zero = false, percent = false, wide }) {
  const out = useRef(), line = useRef(), dot = useRef();
  const n = values.length;
  const known = values.filter((v) => v !== null && v !== undefined && Number.isFinite(v));
  let low = Math.min(...known), high = Math.max(...known);
  if (!known.length) low = high = 0;
  if (zero) low = Math.min(0, low);
  if (!(high > low)) { high += 0.5; low -= 0.5; }
  const x = (k, w) => 4 + (k / Math.max(1, n - 1)) * (w - 8), y = (v, h) => h - 6 - ((v - low) / (high - low)) * (h - 12);
  const box = useDrawn((c, w, h, ink) => {
    c.strokeStyle = ink("line");
    c.lineWidth = 1;
    c.beginPath();
    for (const v of zero || low >= 0 || high <= 0 ? [low, high] : [low, 0, high]) { c.moveTo(0, Math.round(y(v, h)) + 0.5); c.lineTo(w, Math.round(y(v, h)) + 0.5); }
    c.stroke();
    c.font = "10px system-ui, sans-serif";
    for (const mark of marks) {
      if (mark.k === null || mark.k < 0) continue;
      c.strokeStyle = ink("quiet");
      c.setLineDash([2, 2]);
      c.beginPath();
      c.moveTo(x(mark.k, w), 0);
      c.lineTo(x(mark.k, w), h);
      c.stroke();
      c.setLineDash([]);
      c.fillStyle = ink("dim");
      c.textAlign = mark.k > n * 0.8 ? "right" : "left";
      c.fillText(mark.text, x(mark.k, w) + (mark.k > n * 0.8 ? -3 : 3), h - 9);
    }
    c.strokeStyle = ink("text");
    c.lineWidth = 1.5;
    c.lineJoin = "round";
    c.beginPath();
    values.forEach((v, k) => v !== null && Number.isFinite(v) && c.lineTo(x(k, w), y(v, h)));
    c.stroke();
  }, (w, h) => {
    const k = at(n), v = values[k], there = v !== null && v !== undefined && Number.isFinite(v);
    line.current.style.transform = `translateX(${x(k, w).toFixed(1)}px)`;
    dot.current.style.transform = `translate(${x(k, w).toFixed(1)}px,${there ? y(v, h).toFixed(1) : -20}px)`;
    out.current.textContent = !there ? "–" : percent ? `${Math.round(100 * v)} %` : nice(v) + unit;
  }, [values, marks, zero, percent]);
  const drag = (e) => {
    const frame = box.current.getBoundingClientRect();
    setStep(Math.max(0, Math.min(n - 1, Math.round(((e.clientX - frame.left - 4) / (frame.width - 8)) * (n - 1)))));
  };
  return html`<figure class="chart ${wide ? "wide" : ""}"><h3><span>${title}</span><output ref=${out}></output></h3>
    <div class="plot" onPointerDown=${(e) => { e.currentTarget.setPointerCapture(e.pointerId); drag(e); }} onPointerMove=${(e) => e.buttons && drag(e)}>
      <canvas ref=${box} role="img" aria-label=${`${title} over ${n} steps, from ${nice(values[0])} to ${nice(values[n - 1])}${marks.filter((m) => m.k !== null && m.k >= 0).map((m) => `; ${m.text} at step ${m.k + 1}`).join("")}`}></canvas><i ref=${line} class="cursor"></i><i ref=${dot} class="dot"></i></div></figure>`;
}

export function Spectrum({ steps, final }) {
  const last = final ?? steps.at(-1)?.spectrum ?? [], bars = useRef([]);
  const size = (v) => Math.log10(Math.max(v, 1e-9)), all = [...steps.flatMap((s) => s.spectrum), ...last].filter((v) => v > 0).map(size);
  const low = Math.max(Math.min(...all), Math.max(...all) - 6), high = Math.max(...all), part = (v) => Math.max(0.02, (size(v) - low) / (high - low || 1));
  const box = useDrawn((c, w, h, ink) => {
    const cell = w / Math.max(1, last.length);
    c.fillStyle = ink("text");
    last.forEach((v, i) => c.fillRect(i * cell, Math.round(h - part(v) * h), cell - 1, 1.5));
  }, () => steps[at(steps.length)]?.spectrum.forEach((v, i) => bars.current[i] && (bars.current[i].style.transform = `scaleY(${part(v).toFixed(3)})`)), [steps]);
  return html`<figure class="chart wide"><h3><span>Power, coarse to fine</span><small>the line is the finished picture</small></h3>
    <div class="plot bands">${last.map((_, i) => html`<i key=${i} ref=${(el) => (bars.current[i] = el)}></i>`)}<canvas ref=${box} role="img" aria-label="Radial power spectrum of what is believed at this step, against that of the finished picture: coarse bands on the left settle before fine ones"></canvas></div></figure>`;
}
