/* The guidance dial: a recorded step with another scale, exact and without a server.

tensors(id, k, picture)   {t, alpha, sigma, at: {name: {shape: [C, h, w], data: Float32Array}}} of tensors.bin (a few are kept)
guided(cond, null_, w)    x0 = null + w (cond - null), Ho and Salimans 2022 eq. 6, Float32Array
Linear.fit(run, picture)  the map latent cell -> block of pixels that fits this run's own frames best (ridge); .paint(canvas, x0, shape)
Dial run numbers picture  the control of the microscope
*/
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { api, attempt, bytes, recorded, runs } from "./api.js";
import { reel, useStep } from "./filmstrip.js";
import { go } from "./router.js";
import { hold } from "./shell.js";
import { Slider } from "./parts.js";

const kept = new Map();
export function tensors(id, k, picture = 0) {
  const key = `${id}/${k}/${picture}`;
  if (!kept.has(key)) {
    const found = bytes(`/v1/runs/${id}/steps/${k}/tensors.bin?picture=${picture}`).then(read);
    found.catch(() => kept.delete(key));
    kept.set(key, found);
    if (kept.size > 300) kept.delete(kept.keys().next().value);
  }
  return kept.get(key);
}
function read(buffer) {
  const all = new Uint8Array(buffer), end = all.indexOf(10);
  const { tensors: list, ...head } = JSON.parse(new TextDecoder().decode(all.subarray(0, end)));
  const floats = new Float32Array(buffer.slice(end + 1));
  let from = 0;
  const at = {};
  for (const { name, shape } of list) {
    const n = shape.reduce((a, b) => a * b, 1);
    at[name] = { shape, data: floats.subarray(from, from + n) };
    from += n;
  }
  return { ...head, at };
}

export const guided = (cond, null_, w) => Float32Array.from(cond, (c, i) => null_[i] + w * (c - null_[i]));

export class Linear {
  static fits = new Map();
  static fit(run, picture = 0) {
    const key = `${run.id} ${picture} ${run.steps_done}`;
    if (!Linear.fits.has(key)) {
      const fit = new Linear().learn(run, picture);
      fit.catch(() => Linear.fits.delete(key));
      Linear.fits.set(key, fit);
      if (Linear.fits.size > 8) Linear.fits.delete(Linear.fits.keys().next().value);
    }
    return Linear.fits.get(key);
  }
  async learn(run, picture) {
    const film = reel(run, "x0", picture);
    await film.ready;
    const n = film.count, picks = [...new Set([0.1, 0.3, 0.5, 0.7, 0.85, 1].map((p) => Math.round(p * (n - 1))))];
    const [fw, fh] = film.size, canvas = new OffscreenCanvas(fw, fh), c = canvas.getContext("2d", { willReadFrequently: true });
    let square, right;
    for (const k of picks) {
      const { shape: [C, h, w], data } = (await tensors(run.id, k, picture)).at.x0;
      const bw = Math.max(1, Math.round(fw / w)), bh = Math.max(1, Math.round(fh / h)), F = C + 1, T = bw * bh * 3;
      Object.assign(this, { C, h, w, bw, bh });
      square ??= Array.from({ length: F }, () => new Float64Array(F));
      right ??= Array.from({ length: F }, () => new Float64Array(T));
      film.draw(c, k, 0, 0, fw, fh);
      const seen = c.getImageData(0, 0, fw, fh).data;
      for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
        const z = Array.from({ length: F }, (_, f) => (f < C ? data[(f * h + y) * w + x] : 1));
        for (let a = 0; a < F; a++) {
          for (let b = 0; b < F; b++) square[a][b] += z[a] * z[b];
          for (let t = 0; t < T; t++) {
            const p = Math.floor(t / 3), px = Math.min(fw - 1, x * bw + (p % bw)), py = Math.min(fh - 1, y * bh + Math.floor(p / bw));
            right[a][t] += z[a] * seen[(py * fw + px) * 4 + (t % 3)];
          }
        }
      }
    }
    // Gauss-Jordan on (Z'Z + ridge) M = Z'Y; the ridge keeps few cells with many channels determined.
    const F = square.length, ridge = (1e-3 * square.reduce((s, row, i) => s + row[i], 0)) / F;
    for (let i = 0; i < F; i++) square[i][i] += ridge;
    for (let i = 0; i < F; i++) {
      const by = square[i][i];
      for (let b = 0; b < F; b++) square[i][b] /= by;
      for (let t = 0; t < right[i].length; t++) right[i][t] /= by;
      for (let a = 0; a < F; a++) {
        const m = square[a][i];
        if (a === i || !m) continue;
        for (let b = 0; b < F; b++) square[a][b] -= m * square[i][b];
        for (let t = 0; t < right[a].length; t++) right[a][t] -= m * right[i][t];
      }
    }
    this.map = right;
    return this;
  }
  paint(canvas, x0) {
    const { C, h, w, bw, bh, map } = this;
    Object.assign(canvas, { width: w * bw, height: h * bh });
    const picture = new ImageData(w * bw, h * bh), out = picture.data.fill(255);
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) for (let p = 0; p < bw * bh; p++) for (let c = 0; c < 3; c++) {
      let v = map[C][p * 3 + c];
      for (let f = 0; f < C; f++) v += map[f][p * 3 + c] * x0[(f * h + y) * w + x];
      out[((y * bh + Math.floor(p / bw)) * w * bw + x * bw + (p % bw)) * 4 + c] = v;
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }
}

export function Dial({ run, numbers, picture }) {
  const step = useStep();
  const film = reel(run, "x0", picture);
  const k = film.at(step);
  const about = numbers?.steps?.find((s) => s.k === k) ?? numbers?.steps?.[k];
  const own = about?.scale ?? (typeof run.request?.mix?.scale === "number" ? run.request.mix.scale : null);
  const [w, turn] = useState(null);
  const [decoded, show] = useState(null);
  const [wrong, say] = useState("");
  const canvas = useRef(), now = useRef();
  const plain = numbers?.dial && own !== null && own !== 1;
  const value = w ?? own ?? 1, fixed = recorded(run.id);
  now.current = `${run.id} ${k} ${value} ${picture}`;
  useEffect(() => { show(null); say(""); }, [run.id, k, w, picture]);
  useEffect(() => {
    if (!plain || w === null) return;
    let on = true;
    Promise.all([tensors(run.id, k, picture), Linear.fit(run, picture)]).then(([step, linear]) => {
      const cond = step.at["part/cond"], free = step.at["part/null"];
      if (on && cond && free && canvas.current) linear.paint(canvas.current, guided(cond.data, free.data, value));
    }).catch((error) => on && say(error.message));
    return () => { on = false; };
  }, [run.id, k, value, plain, w === null, picture]);
  if (run.request?.mix?.scale === undefined) return html`<section class="panel"><h2>Guidance dial</h2><p class="quiet">This run was made without guidance, so there is nothing to turn.</p></section>`;
  if (run.fork_step != null && k < run.fork_step) return html`<section class="panel"><h2>Guidance dial</h2><p class="quiet">This step is that of <a href=${`/run/${run.parent}?step=${k}`}>the run that was forked</a>, made with its settings.</p></section>`;
  if (!numbers?.branches?.length || !numbers.exact) return html`<section class="panel"><h2>Guidance dial</h2><p class="quiet">The two answers that guidance mixes were not recorded: with record set to Everything it can be turned.</p></section>`;
  const released = async (scale) => {
    turn(scale);
    if (fixed) return;
    const asked = `${run.id} ${k} ${scale} ${picture}`;
    const answer = await attempt(api(`/v1/runs/${run.id}/steps/${k}/recompute`, { method: "POST", body: { mix: { ...run.request.mix, scale }, picture } }));
    if (answer && now.current === asked) show(answer.picture);
  };
  const fork = async () => {
    const made = await attempt(runs.fork(run.id, { step: k, request: { mix: { ...run.request.mix, scale: value } }, noise: 0 }));
    if (made) { hold(made, picture); go(`/run/${made.id}`, { picture: picture || null }); }
  };
  return html`<section class="panel"><h2>Guidance dial</h2>
    <${Slider} label=${`Guidance at step ${k + 1}`} value=${value} min=${0} max=${15} step=${0.1} onInput=${turn} onChange=${released} />
    ${w !== null && html`<div class="row"><figure class="stack"><canvas ref=${canvas} class="dialview" hidden=${!plain} role="img" aria-label="Linear preview of this step at the chosen guidance"></canvas>${plain && html`<small>at once: a linear approximation</small>`}</figure>
      ${decoded && html`<figure class="stack"><img class="dialview" src=${decoded} alt="This step at the chosen guidance, decoded" /><small>decoded by the server</small></figure>`}</div>`}
    <small class="quiet">${plain ? `Made with ${own}. x0 = null + w (cond − null), computed here from the recorded branches.` : own === 1 || own === null ? "Guidance is off at this step: one branch alone was asked." : "This guidance is more than a scale, so the server computes it."}</small>
    ${wrong && html`<p role="alert">${wrong}</p>`}
    ${w !== null && html`<div class="row wrap"><button hidden=${fixed || run.record === "preview"} onClick=${fork}>Run from here with ${value}</button><button class="ghost" onClick=${() => turn(null)}>Back to ${own}</button></div>`}</section>`;
}
