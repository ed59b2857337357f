/* The loupe: 9 x 9 pixels at 16 times, and what the latent channels hold at that place. */
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { tensors } from "./dial.js";
import { isRecorded } from "./filmstrip.js";
import { isActive } from "./store.js";

export const REACH = 4, ZOOM = 16;

/* spot: {x, y in 0..1, left, top in px of the stage} | null; draw(context, w, h) paints the whole frame at w x h. */
export function Loupe({ run, picture, k, lens, spot, size, draw }) {
  const canvas = useRef();
  const [values, put] = useState(null);
  const [w, h] = size, key = `${run.id} ${k} ${picture}`, there = k >= 0 && isRecorded(run) && !isActive(run);
  const px = Math.min(w - 1, Math.floor(spot.x * w)), py = Math.min(h - 1, Math.floor(spot.y * h));
  useEffect(() => {
    const c = canvas.current.getContext("2d"), n = 2 * REACH + 1;
    c.imageSmoothingEnabled = false;
    c.fillStyle = "#000";
    c.fillRect(0, 0, n * ZOOM, n * ZOOM);
    c.save();
    c.translate((REACH - px) * ZOOM, (REACH - py) * ZOOM);
    draw(c, w * ZOOM, h * ZOOM);
    c.restore();
    c.strokeStyle = "#fff";
    c.lineWidth = 2;
    c.strokeRect(REACH * ZOOM, REACH * ZOOM, ZOOM, ZOOM);
  }, [px, py, k, lens, draw]);
  useEffect(() => {
    if (!there) return void put({ of: key, at: {} });
    let on = true;
    // Rest a moment first: scrubbing must not ask for what nobody reads.
    const timer = setTimeout(() => tensors(run.id, k, picture).then((step) => on && put({ ...step, of: key }), () => on && put({ of: key, at: {} })), 120);
    return () => { on = false; clearTimeout(timer); };
  }, [run.id, k, picture, there]);
  const known = values?.of === key ? values : null, { name, tensor, value } = of(known, lens);
  const [C, lh, lw] = tensor?.shape ?? [0, 1, 1];
  const at = Math.min(lh - 1, Math.floor(spot.y * lh)) * lw + Math.min(lw - 1, Math.floor(spot.x * lw));
  return html`<div class="loupe" style=${`left:${spot.left}px;top:${spot.top}px`} aria-hidden="true"><canvas ref=${canvas} width=${ZOOM * (2 * REACH + 1)} height=${ZOOM * (2 * REACH + 1)}></canvas>
    <div><div>${px}, ${py}</div>${tensor ? html`<div>${name} [${Math.floor(at / lw)}, ${at % lw}]</div><ol>${Array.from({ length: Math.min(C, 16) }, (_, c) => html`<li key=${c}>${value(c * lh * lw + at).toFixed(2).padStart(6)}</li>`)}</ol>` : html`<div>${known ? "no numbers were recorded" : "…"}</div>`}</div></div>`;
}

/* The tensor that a lens shows: x, x0, the noise (x - alpha x0) / sigma, or what the words pull, cond - null. */
function of(step, lens) {
  const { x, x0, "part/cond": cond, "part/null": free } = step?.at ?? {};
  if (lens === "x") return { name: "x", tensor: x, value: (i) => x.data[i] };
  if (lens === "noise" && x && step.sigma) return { name: "eps", tensor: x, value: (i) => (x.data[i] - step.alpha * x0.data[i]) / step.sigma };
  if (lens === "guidance" && cond && free) return { name: "cond − null", tensor: cond, value: (i) => cond.data[i] - free.data[i] };
  return { name: "x0", tensor: x0, value: (i) => x0.data[i] };
}
