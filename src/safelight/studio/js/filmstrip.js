/* Recorded runs as frames: reels, the shared step cursor, and the strip one scrubs.

reel(run, lens, picture)        a Reel (cached): n frames, from the live stream while the run is made, from one sprite sheet after
  .count  .ready (promise)  .has(k)  .draw(context, k, x, y, w, h)  .size [w, h]  .error  .again()
cursor                          {k: step or null (the newest)}: one for the page; every view scrubs in sync
setStep(k, {quiet})  onStep(fn) -> off   useStep()      quiet: the address is written once it rests
Frame run picture lens step     a canvas of one frame; step undefined follows the cursor, a number or null (last) is fixed; label "": decoration
Filmstrip run picture           the strip: pointer, wheel and arrow keys; role=slider
play(run, {speed, loop, reverse})   -> stop(): moves the cursor by time
onTheme(fn) -> off              the colours of the page are others now: what is painted with them is painted anew
*/
import { html, useEffect, useReducer, useRef } from "../vendor/preact-htm.js";
import { api, bytes, sprite } from "./api.js";
import { isActive, set, state, subscribe, useStore } from "./store.js";
import { amend, route } from "./router.js";

export const cursor = { k: null };
const listeners = new Set();
export const onStep = (fn) => (listeners.add(fn), () => listeners.delete(fn));
export function setStep(k, { quiet = true, address = true } = {}) {
  if (cursor.k === k) return;
  cursor.k = k;
  for (const listen of [...listeners]) listen(k);
  if (address && ["run", "compare", "explain"].includes(route().name)) amend({ step: k }, quiet);
}
export function useStep() {
  const [, draw] = useReducer((n) => n + 1, 0);
  useEffect(() => onStep(draw), []);
  return cursor.k;
}

const sheets = {};
export const geometry = (id, fresh) => {
  if (fresh) delete sheets[id];
  return (sheets[id] ??= api(`/v1/runs/${id}/sprites`).catch((error) => { delete sheets[id]; throw error; }));
};

class Reel {
  constructor(id, lens, picture) {
    Object.assign(this, { id, lens, picture, sheet: null, shape: null, error: null, done: -1, asked: 0 });
    this.watchers = new Set();
    this.ready = Promise.resolve();
  }
  get live() {
    return state.live[this.id]?.frames[this.lens] ?? [];
  }
  get count() {
    return Math.max(this.shape?.frames ?? 0, this.live.length);
  }
  get size() {
    const one = this.live.find((f) => f?.[this.picture])?.[this.picture];
    return this.shape ? [this.shape.width, this.shape.height] : one ? [one.width, one.height] : [64, 64];
  }
  /* Fetch the sheet of a run that is not being made (again, when it has more steps than before). */
  want(run) {
    if (!isRecorded(run) || run.state === "running" || run.state === "queued" || this.done === run.steps_done || this.whole(run)) return this.ready;
    this.done = run.steps_done;
    if (this.sheet) delete sheets[this.id];
    this.ready = this.fetch();
    return this.ready;
  }
  /* Whether the stream brought every frame as the sheet has it: what is believed, of a small picture, without loss. */
  whole(run) {
    const shot = run.pictures?.[this.picture], one = this.live[0]?.[this.picture];
    if (this.lens !== "x0" || this.sheet || !shot || one?.width !== shot.width || Math.max(shot.width, shot.height) > 128) return false;
    for (let k = 0; k < run.steps_done; k++) if (!this.live[k]?.[this.picture]) return false;
    return true;
  }
  async fetch() {
    const asked = ++this.asked;
    try {
      const shape = (await geometry(this.id))[this.lens.split("/")[0]];
      if (!shape) throw new Error(`this run holds no ${this.lens}`);
      const sheet = await createImageBitmap(new Blob([await bytes(sprite(this.id, this.lens, this.picture))], { type: "image/webp" }));
      if (asked !== this.asked) return sheet.close(); // a newer one is on its way
      this.sheet?.close();
      Object.assign(this, { sheet, shape, error: null });
      sweep();
    } catch (error) {
      if (asked === this.asked) this.error = error;
    }
    this.tell();
  }
  again() {
    this.error = null;
    this.ready = this.fetch();
    this.tell();
  }
  close() {
    this.asked++;
    this.sheet?.close();
    this.sheet = this.shape = null;
  }
  tell() {
    for (const watch of [...this.watchers]) watch();
  }
  watch(fn) {
    this.watchers.add(fn);
    return () => this.watchers.delete(fn);
  }
  has(k) {
    return (!!this.sheet && k >= 0 && k < this.shape.frames) || !!this.live[k]?.[this.picture];
  }
  at(k) {
    const last = this.count - 1;
    return k === null || k === undefined ? last : Math.max(0, Math.min(k, last));
  }
  draw(context, k, x, y, w, h) {
    k = this.at(k);
    // A run that was taken up again has frames beyond its sheet until the next one is fetched.
    if (this.sheet && k < this.shape.frames) {
      const { columns, width, height } = this.shape;
      context.drawImage(this.sheet, (k % columns) * width, Math.floor(k / columns) * height, width, height, x, y, w, h);
      return true;
    }
    let one;
    for (let i = k; i >= 0 && !one; i--) one = this.live[i]?.[this.picture]; // a busy worker leaves frames out: the last one stays
    if (one) context.drawImage(one, x, y, w, h);
    return !!one;
  }
}

/* Whether there are steps of a run to look at: an imported picture has none, and those of an old run may have been pruned. */
export const isRecorded = (run) => !!run && run.kind !== "import" && run.recorded !== false && !!(run.steps_done || run.pictures?.length);

/* Frames of the stream are pictures in memory: of runs that are over those of the last few are kept, for the others there are sheets. */
const KEPT = 4;
function sweep() {
  const over = Object.keys(state.live).filter((id) => id !== state.current && !isActive(state.runs[id]));
  if (over.length <= KEPT) return;
  const live = { ...state.live };
  for (const id of over.slice(0, -KEPT)) {
    for (const list of Object.values(live[id].frames ?? {})) for (const row of list) for (const one of row ?? []) one?.close();
    delete live[id];
  }
  set({ live });
}
subscribe(() => Object.keys(state.live).length > KEPT + 4 && sweep());

const REELS = 160;
const reels = new Map();
/* Later, when those that were drawn just now are watched: what nobody looks at goes, the oldest first. */
let due = null;
const trim = () => (due ??= setTimeout(() => {
  due = null;
  for (const [key, one] of reels) {
    if (reels.size <= REELS) break;
    if (one.watchers.size) continue;
    one.close();
    reels.delete(key);
  }
}, 1000));
export function reel(run, lens = "x0", picture = 0) {
  const key = `${run.id} ${lens} ${picture}`;
  let found = reels.get(key);
  if (!found) found = new Reel(run.id, lens, picture);
  reels.delete(key);
  reels.set(key, found);
  if (reels.size > REELS) trim();
  found.want(run);
  return found;
}

export function useReel(run, lens = "x0", picture = 0) {
  const [, draw] = useReducer((n) => n + 1, 0);
  const live = useStore((s) => (run ? s.live[run.id]?.frames[lens]?.length : 0));
  const found = run && reel(run, lens, picture);
  useEffect(() => found?.watch(draw), [found]);
  return found;
}

export function onTheme(fn) {
  const themed = new MutationObserver(fn), dark = matchMedia("(prefers-color-scheme: dark)");
  themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  dark.addEventListener("change", fn);
  return () => { themed.disconnect(); dark.removeEventListener("change", fn); };
}

export function Frame({ run, picture = 0, lens = "x0", step, label, onReady }) {
  const canvas = useRef();
  const film = useReel(run, lens, picture);
  useEffect(() => {
    const paint = () => {
      const [w, h] = film.size, box = canvas.current;
      if (!box) return;
      if (box.width !== w || box.height !== h) Object.assign(box, { width: w, height: h });
      const k = step === undefined ? cursor.k : step;
      film.draw(box.getContext("2d"), k, 0, 0, w, h);
      box.dataset.step = film.at(k);
      onReady?.(box);
    };
    paint();
    let drawn = state.live[film.id];
    const off = [film.watch(paint), subscribe(() => state.live[film.id] !== drawn && ((drawn = state.live[film.id]), paint()))];
    if (step === undefined) off.push(onStep(paint));
    return () => off.forEach((f) => f());
  }, [film, step]);
  return html`<canvas ref=${canvas} class="shot frame" role=${label === "" ? undefined : "img"} aria-hidden=${label === "" ? "true" : undefined} aria-label=${label === "" ? undefined : (label ?? `${lens} of ${run.prompt || "a run"}`)}></canvas>`;
}

export function Filmstrip({ run, picture = 0, lens = "x0" }) {
  const canvas = useRef(), line = useRef(), shape = useRef({ cell: 1, n: 1, width: 1 });
  const film = useReel(run, lens, picture);
  const k = useStep();
  useEffect(() => {
    const box = canvas.current;
    let width = 0, height = 48, ratio = 1, drawn = "", well = "", there = new Set();
    // The frames are drawn when they change; a step moves the line alone.
    const point = () => {
      const { cell, n, width } = shape.current, at = film.at(cursor.k);
      line.current.style.transform = `translateX(${(n === 1 ? width / 2 : cell / 2 + (Math.max(0, at) / (n - 1)) * (width - cell)).toFixed(1)}px)`;
    };
    const paint = () => {
      const n = Math.max(1, film.shape ? film.count : run.steps || film.count), [fw, fh] = film.size;
      const now = [film.shape, n, fw, fh, width, height, ratio].join(), c = box.getContext("2d");
      if (!width) return;
      const cells = Math.max(1, Math.min(n, Math.floor(width / Math.max(20, (height * fw) / fh + 2))));
      const cell = width / cells, w = Math.min(cell - 2, (height * fw) / fh), h = (w * fh) / fw;
      if (now !== drawn) {
        drawn = now;
        there = new Set();
        well = getComputedStyle(box).getPropertyValue("--well");
        c.setTransform(ratio, 0, 0, ratio, 0, 0);
        c.clearRect(0, 0, width, height);
        shape.current = { cell, n, width };
      }
      c.imageSmoothingEnabled = w < fw;
      // Of a run that grows only what came is drawn.
      for (let i = 0; i < cells; i++) {
        const step = cells === 1 ? film.at(null) : Math.round((i * (n - 1)) / (cells - 1)), has = film.has(step), key = `${i} ${has && step}`;
        if (there.has(key)) continue;
        there.add(key);
        c.fillStyle = well;
        c.fillRect(i * cell + (cell - w) / 2, (height - h) / 2, w, h);
        if (has) film.draw(c, step, i * cell + (cell - w) / 2, (height - h) / 2, w, h);
      }
      point();
    };
    const anew = () => { drawn = ""; paint(); };
    const sized = new ResizeObserver(() => {
      ratio = devicePixelRatio || 1;
      width = box.clientWidth;
      height = box.clientHeight;
      Object.assign(box, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
      anew();
    });
    sized.observe(box);
    const off = [film.watch(anew), subscribe(paint), onStep(point), onTheme(anew), () => sized.disconnect()];
    return () => off.forEach((f) => f());
  }, [film, run.steps]);
  const from = (event) => {
    const { cell, n, width } = shape.current;
    const x = event.clientX - canvas.current.getBoundingClientRect().left;
    if (film.count) setStep(film.at(Math.round(((x - cell / 2) / Math.max(1, width - cell)) * (n - 1))));
  };
  const now = film.at(k), steps = Math.max(run.steps || 0, film.count);
  return html`<div class="strip" tabindex="0" role="slider" aria-label="Step of the run" aria-valuemin="1" aria-valuemax=${Math.max(1, steps)} aria-valuenow=${Math.max(1, now + 1)} aria-valuetext=${`step ${now + 1} of ${steps}`}
    onPointerDown=${(e) => { e.currentTarget.setPointerCapture(e.pointerId); from(e); }}
    onPointerMove=${(e) => e.buttons && from(e)}
    onKeyDown=${(e) => {
      const to = { ArrowLeft: now - 1, ArrowRight: now + 1, ArrowDown: now - 1, ArrowUp: now + 1, Home: 0, End: film.count - 1, PageDown: now - 5, PageUp: now + 5 }[e.key];
      if (to === undefined) return;
      e.preventDefault();
      setStep(film.at(to));
    }}><canvas ref=${canvas}></canvas><i ref=${line} class="cursor"></i></div>`;
}

/* Move by steps from where the cursor is. */
export function nudge(run, by) {
  const film = reel(run, "x0", state.picture);
  setStep(film.at(film.at(cursor.k) + by));
}

export function play(run, { speed = 1, loop = false, reverse = false, ended } = {}) {
  const film = reel(run, "x0", state.picture);
  let k = film.at(cursor.k), last = performance.now(), request;
  const end = reverse ? 0 : film.count - 1;
  if (k === end) setStep((k = reverse ? film.count - 1 : 0));
  const tick = (now) => {
    // 12 steps a second at speed 1; a live run is followed as far as it has come.
    const due = Math.floor(((now - last) / 1000) * 12 * speed);
    if (due >= 1) {
      last = now;
      k += reverse ? -due : due;
      if (k < 0 || k > film.count - 1) {
        if (!loop) {
          setStep(isActive(run) ? null : reverse ? 0 : film.count - 1);
          return ended?.();
        }
        k = reverse ? film.count - 1 : 0;
      }
      setStep(k);
    }
    request = requestAnimationFrame(tick);
  };
  request = requestAnimationFrame(tick);
  return () => cancelAnimationFrame(request);
}
