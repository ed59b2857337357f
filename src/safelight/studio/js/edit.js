// Edit: a picture changed as a whole, in a painted mask, beyond its edges, or in both at once.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { bytes, recorded } from "./api.js";
import { Mask, pack, unpack } from "./mask.js";
import { begins, clamp, levelAt, normals } from "./maths.js";
import { Choice, Frame, Picker, Scrub, Slide, Wipe, call, framePixels, holds, later, levelsFor, pixelsOf, useRun } from "./kit.js";
import { useKeys } from "./keys.js";
import { go } from "./router.js";
import { hold } from "./shell.js";
import { ACTIVE, fail, keep as store, persisted, say } from "./store.js";

const TOOLS = [["brush", "Brush"], ["eraser", "Eraser"], ["rectangle", "Rectangle"], ["lasso", "Lasso"], ["fill", "Fill"], ["pan", "Hand"]];
const SIDES = ["left", "top", "right", "bottom"];
const TINT = [255, 96, 32, 150];
const FILLS = [["original", "the original"], ["blur", "its surroundings, blurred"], ["mean", "their mean colour"], ["noise", "pure noise"]];
// A mask of more runs than this is not kept for the next visit: the browser's store is small.
const LONGEST = 100_000;

/** The picture that is edited: of a run (`/edit/ID?picture=0`), or an upload (`/edit?seal=...`). */
async function source(id, query) {
  if (query.seal) return uploaded(query.seal);
  const run = await call.get(`/v1/runs/${id}`), one = run.pictures[+(query.picture ?? 0)];
  if (!one) throw new Error("This run has no finished picture to edit yet.");
  if (!recorded(id)) return { ...one, run };
  const made = await call.upload("/v1/pictures", new Blob([await bytes(one.url)], { type: "image/png" }));
  if (!made) throw new Error("The recorded picture could not be handed to the server.");
  return uploaded(made.seal);
}

async function uploaded(seal) {
  const url = `/v1/pictures/${encodeURIComponent(seal)}.png`, pixels = await pixelsOf(url);
  return { seal, url, width: pixels.width, height: pixels.height, run: null };
}

/** What was done to this picture on an earlier visit, with its runs as they are now; null where nothing is known. */
async function revived(first) {
  const saved = persisted("edit", null);
  if (saved?.first !== first.seal) return null;
  const full = async (v) => ({ ...v, run: v.run && (await call.get(`/v1/runs/${v.run}`)) });
  try {
    const made = saved.made && (await call.try("GET", `/v1/runs/${saved.made}`)).ok ? saved.made : null;
    return { ...saved, made, from: await full(saved.from), past: await Promise.all(saved.past.map(full)) };
  } catch {
    return null; // a run that was deleted since: the picture is edited from the beginning
  }
}

export function screen(ctx) {
  const { id, query } = ctx, key = (id ?? "") + (query.seal ?? "") + (query.picture ?? "");
  const [from, setFrom] = useState(null);
  useEffect(() => {
    let alive = true;
    setFrom(null);
    if (id || query.seal) source(id, query).then(async (first) => ({ first, saved: await revived(first) })).then((found) => alive && setFrom({ ...found, key }), (e) => alive && fail(e));
    return () => { alive = false; };
  }, [key]);
  if (!id && !query.seal) return html`<section class="screen mine narrow"><h1>Edit</h1><p>Choose a picture to change. You can also drop a file anywhere.</p>
    <${Picker} label="Pictures to edit" filter=${(r) => r.pictures.length} onPick=${(r) => go(`/edit/${r.id}`)} />
    <p><label class="button">Open a file<input type="file" class="hidden" accept="image/*" onChange=${async (e) => {
      const made = e.target.files[0] && await call.upload("/v1/pictures", e.target.files[0]);
      if (made) go(`/edit?seal=${encodeURIComponent(made.seal)}`);
    }} /></label></p></section>`;
  return html`<section class="screen mine"><h1>Edit</h1>${from?.key === key ? html`<${Editor} key=${key} first=${from.first} saved=${from.saved} />` : html`<p aria-busy="true">Opening the picture.</p>`}</section>`;
}

/** A mask of this size, with what was painted before. */
function masked(width, height, runs) {
  const mask = new Mask(width, height);
  if (runs?.length && runs.reduce((s, n) => s + n, 0) === mask.data.length) unpack(runs, mask.data);
  return mask;
}

function Editor({ first, saved }) {
  const [from, setFrom] = useState(saved?.from ?? first);
  const [past, setPast] = useState(saved?.past ?? []);
  const [mask, setMask] = useState(() => masked(from.width, from.height, saved?.mask));
  const [edition, setEdition] = useState(0);
  const [tool, setTool] = useState("brush");
  const [radius, setRadius] = useState(Math.max(2, Math.round(Math.min(from.width, from.height) / 12)));
  const [feather, setFeather] = useState(saved?.feather ?? 0);
  const [margins, setMargins] = useState(saved?.margins ?? [0, 0, 0, 0]);
  const [form, setForm] = useState(saved?.form ?? { prompt: from.run?.prompt ?? "", strength: null, fill: "original", seed: from.run?.seed ?? 0 });
  const [made, setMade] = useState(saved?.made ?? null);
  const [sending, setSending] = useState(false);
  const result = useRun(made);
  const share = useMemo(() => mask.share(), [mask, edition]);
  const grows = margins.some(Boolean), kind = grows ? "outpaint" : share ? "inpaint" : "image";
  const fills = grows ? FILLS.slice(1) : FILLS, fill = fills.some(([v]) => v === form.fill) ? form.fill : fills[0][0];
  const strength = form.strength ?? (kind === "image" ? 0.6 : 1), shown = { ...form, strength };
  const running = ACTIVE.includes(result?.state), open = !made;
  const changed = () => setEdition((n) => n + 1);
  const back = (undo) => { if (open && (undo ? mask.undo() : mask.redo())) { changed(); say(undo ? "Undone" : "Done again"); } };
  const work = (does) => { if (mask.change(does)) changed(); };
  useEffect(() => later(300, () => {
    const bare = (v) => ({ seal: v.seal, url: v.url, width: v.width, height: v.height, run: v.run?.id ?? null }), runs = pack(mask.data);
    store("edit", { first: first.seal, from: bare(from), past: past.map(bare), feather, margins, form, made, mask: runs.length < LONGEST ? [...runs] : null });
  }), [from, past, feather, margins, form, made, mask, edition]);
  useKeys({
    "[": [() => setRadius((r) => Math.max(1, r - Math.ceil(r / 6))), "Smaller brush"], "]": [() => setRadius((r) => Math.min(400, r + Math.ceil(r / 6))), "Larger brush"],
    z: [(e) => back(!e.shiftKey), "Undo; with Shift: do again"], "Ctrl+z": [(e) => (e.target.tagName === "TEXTAREA" || (e.target.tagName === "INPUT" && e.target.type !== "range") ? false : back(!e.shiftKey)), "Undo"], "Ctrl+Enter": [() => { generate(); }, "Generate"],
    ...(open ? { Space: [() => {}, "Held: drag the picture"] } : {}),
  });

  const generate = async () => {
    if (running || sending) return;
    setSending(true);
    try {
      const task = { kind, picture: from.seal, strength };
      if (kind !== "image") Object.assign(task, { fill, feather });
      if (grows) task.margins = margins;
      if (share) {
        const sent = await call.upload("/v1/masks", await maskFile(mask));
        if (!sent) return;
        task.mask = sent.seal;
      }
      const base = from.run?.request ?? {};
      const request = { task, prompt: [form.prompt], negative: base.negative ?? "", seed: form.seed, ...Object.fromEntries(["steps", "sampler", "grid", "mix", "bends", "emphasis", "temperature", "churn"].filter((n) => base[n] != null).map((n) => [n, base[n]])) };
      const run = await call.post("/v1/runs", { model: from.run?.model ?? "default", kind: "edit", parent: from.run?.id ?? null, relation: from.run ? "edit" : "", request });
      if (run) { setMade(run.id); hold(run); }
    } finally {
      setSending(false);
    }
  };
  const turn = (to, behind) => { setPast(behind); setFrom(to); setMask(to.mask ?? masked(to.width, to.height)); setMargins([0, 0, 0, 0]); setMade(null); };
  const keep = () => {
    turn({ ...result.pictures[0], run: result }, [...past, { ...from, mask }]);
    say("Kept. The result is now the picture you edit.");
  };

  return html`<div class="edit">
    <div class="bench">
      ${open && html`<div class="tools" role="toolbar" aria-label="Mask tools">
        <${Choice} label="Tool" items=${TOOLS} value=${tool} onPick=${setTool} />
        <button onClick=${() => work(() => mask.invert())}>Invert</button>
        <button onClick=${() => work(() => mask.clear())}>Clear</button>
        <button disabled=${!mask.past.length} onClick=${() => back(true)}>Undo</button>
        <button disabled=${!mask.future.length} onClick=${() => back(false)}>Redo</button>
        <${Slide} label="Brush" value=${radius} min=1 max=${Math.max(8, Math.round(from.width / 2))} onInput=${setRadius} text=${`${radius} px`} />
        <${Slide} label="Feather" value=${feather} min=0 max=${Math.min(64, Math.round(from.width / 4))} onInput=${setFeather} text=${`${feather} px`} />
      </div>`}
      ${made ? result ? html`<${Result} key=${made} from=${from} run=${result} />` : html`<p aria-busy="true">Opening the result.</p>`
        : html`<${Canvas} ...${{ from, mask, edition, changed, tool, radius, feather, margins, setMargins }} />`}
      ${open && html`<p class="dim" role="status">${grows ? `Outpaint: the picture grows by ${margins.map((m, i) => m && `${m} px ${SIDES[i]}`).filter(Boolean).join(", ")}${share ? `, and ${percent(share)} of it is painted anew in the same run` : ""}; the rest is kept to the byte.`
        : share ? `Inpaint: ${percent(share)} of the picture is painted anew; the rest is kept to the byte.`
        : "No mask: the whole picture changes. Paint a mask, or drag an edge outward."}</p>`}
    </div>
    <form class="side" onSubmit=${(e) => { e.preventDefault(); generate(); }}>
      <label>What shall be seen<textarea rows="3" value=${form.prompt} onInput=${(e) => setForm({ ...form, prompt: e.target.value })}></textarea></label>
      <${Strength} from=${from} form=${shown} made=${result} onInput=${(v) => setForm({ ...form, strength: v })} />
      ${kind !== "image" && html`<label>The area begins as<select value=${fill} onChange=${(e) => setForm({ ...form, fill: e.target.value })}>
        ${fills.map(([v, t]) => html`<option value=${v}>${t}</option>`)}</select></label>`}
      <label>Seed<input type="number" value=${form.seed} onInput=${(e) => setForm({ ...form, seed: Math.round(+e.target.value) || 0 })} /></label>
      <div class="row wrap">${running ? html`<button type="button" onClick=${() => call.post(`/v1/runs/${made}/cancel`)}>Stop</button>` : html`<button class="primary" disabled=${sending} aria-busy=${sending}>Generate</button>`}
        ${result?.state === "stopped" && html`<button type="button" onClick=${() => call.post(`/v1/runs/${made}/resume`)}>Resume</button>`}
        ${result?.state === "done" && html`<button type="button" onClick=${keep}>Keep</button>`}
        ${made && !running && html`<button type="button" onClick=${() => setMade(null)}>Back to the mask</button>`}</div>
      ${result?.error && html`<p class="bad" role="alert">${result.error}</p>`}
      ${past.length > 0 && html`<fieldset class="kept"><legend>Kept before</legend><div class="row wrap">${past.map((p, i) => html`<button type="button" class="thumb" onClick=${() => turn(p, past.slice(0, i))}>
        <img src=${p.url} alt=${`Go back to version ${i + 1}`} /></button>`)}</div></fieldset>`}
    </form>
  </div>`;
}

const percent = (share) => `${(share * 100).toFixed(share < 0.1 ? 1 : 0)} %`;

/** A mask as a PNG file: white is painted. */
export async function maskFile(mask) {
  const canvas = new OffscreenCanvas(mask.width, mask.height), pixels = new ImageData(mask.width, mask.height);
  const out = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < out.length; i++) out[i] = mask.data[i] > 127 ? 0xffffffff : 0xff000000;
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

function Canvas({ from, mask, edition, changed, tool, radius, feather, margins, setMargins }) {
  const [view, setView] = useState({ zoom: 1, x: 0, y: 0 });
  const [path, setPath] = useState(null);
  const [cursor, setCursor] = useState(null);
  const sheet = useRef(), layer = useRef(), ring = useRef(), stroke = useRef(null), fingers = useRef(new Map()), drawn = useRef(null), colours = useRef(null);
  const { width, height } = from, [left, top, right, bottom] = margins, W = left + width + right, H = top + height + bottom;

  /** Draws what changed in a box, and around it what a feather changes with it. */
  const paint = (box) => {
    if (!box || box[2] <= box[0] || box[3] <= box[1]) return;
    const all = mask.around(box, feather);
    layer.current?.getContext("2d").putImageData(new ImageData(mask.rgba(all, TINT, feather), all[2] - all[0], all[3] - all[1]), all[0], all[1]);
  };
  useEffect(() => {
    const changed = mask.clean(), known = drawn.current?.mask === mask && drawn.current.feather === feather;
    drawn.current = { mask, feather };
    paint(known ? changed : [0, 0, width, height]);
  }, [mask, edition, feather]);

  const at = (e, r = layer.current.getBoundingClientRect()) => [(e.clientX - r.left) / r.width * width, (e.clientY - r.top) / r.height * height];
  const value = tool === "eraser" ? 0 : 255, round = tool === "brush" || tool === "eraser";
  const zoomed = (by, x, y, dx = 0, dy = 0) => {
    const r = sheet.current.getBoundingClientRect(), cx = x - r.left - r.width / 2, cy = y - r.top - r.height / 2;
    setView((v) => { const zoom = clamp(v.zoom * by, 0.5, 16), f = zoom / v.zoom; return { zoom, x: cx - (cx - v.x) * f + dx, y: cy - (cy - v.y) * f + dy }; });
  };
  const fill = async (x, y) => {
    try {
      colours.current ??= { url: from.url, pixels: pixelsOf(from.url) };
      const { data } = await colours.current.pixels;
      if (mask.change(() => mask.fill(x, y, 255, data))) changed();
    } catch (error) {
      colours.current = null;
      fail(error);
    }
  };
  const down = (e) => {
    if (e.button === 2 || e.target.closest("button")) return;
    sheet.current.setPointerCapture(e.pointerId);
    fingers.current.set(e.pointerId, [e.clientX, e.clientY]);
    if (fingers.current.size > 1) {
      if (stroke.current?.kind) { mask.revert(); paint(mask.clean()); setPath(null); } // what the first of two fingers began is no stroke
      stroke.current = { pinch: true };
      return;
    }
    const [x, y] = at(e);
    if (tool === "pan" || e.button === 1 || holds(" ")) stroke.current = { pan: [e.clientX - view.x, e.clientY - view.y] };
    else if (tool === "fill") fill(x, y);
    else {
      mask.begin();
      stroke.current = { kind: tool, from: [x, y], last: [x, y], points: [[x, y]] };
      if (round) { mask.stroke(x, y, x, y, radius, value); paint(mask.clean()); }
    }
  };
  const move = (e) => {
    const s = stroke.current;
    if (ring.current) {
      const [x, y] = at(e);
      ring.current.setAttribute("cx", x);
      ring.current.setAttribute("cy", y);
    }
    if (!s) return;
    if (s.pinch) {
      if (!fingers.current.has(e.pointerId)) return;
      const before = [...fingers.current.values()];
      fingers.current.set(e.pointerId, [e.clientX, e.clientY]);
      const after = [...fingers.current.values()], apart = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1, mid = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
      if (after.length === 2) { const [x, y] = mid(before), [u, v] = mid(after); zoomed(apart(after) / apart(before), x, y, u - x, v - y); }
      return;
    }
    if (s.pan) { setView((v) => ({ ...v, x: e.clientX - s.pan[0], y: e.clientY - s.pan[1] })); return; }
    const rect = layer.current.getBoundingClientRect();
    for (const one of e.getCoalescedEvents?.().length ? e.getCoalescedEvents() : [e]) {
      const [x, y] = at(one, rect);
      if (s.kind === "brush" || s.kind === "eraser") mask.stroke(...s.last, x, y, radius, value);
      s.last = [x, y];
      if (s.kind === "lasso") s.points.push([x, y]);
    }
    if (s.kind === "rectangle") setPath([s.from, [s.last[0], s.from[1]], s.last, [s.from[0], s.last[1]]]);
    else if (s.kind === "lasso") setPath([...s.points]);
    else paint(mask.clean());
  };
  const up = (e) => {
    const s = stroke.current;
    fingers.current.delete(e.pointerId);
    if (!s || (s.pinch && fingers.current.size)) return;
    stroke.current = null;
    setPath(null);
    if (!s.kind) return;
    if (s.kind === "rectangle") mask.rectangle(...s.from, ...s.last);
    if (s.kind === "lasso") mask.lasso(s.points);
    mask.commit();
    changed();
  };
  const wheel = useRef();
  wheel.current = (e) => { e.preventDefault(); zoomed(Math.exp(-e.deltaY / 400), e.clientX, e.clientY); };
  useEffect(() => {
    const s = sheet.current, on = (e) => wheel.current(e);
    s.addEventListener("wheel", on, { passive: false });
    return () => { s.removeEventListener("wheel", on); if (stroke.current?.kind) mask.commit(); };
  }, [mask]);
  // A rectangle by keys: arrows move the corner, Enter sets it, again Enter ends it.
  const press = (e) => {
    const step = e.shiftKey ? 1 : Math.max(1, Math.round(Math.min(width, height) / 16)), by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (e.target !== sheet.current || !(by || e.key === "Enter" || (e.key === "Escape" && cursor)) || e.ctrlKey || e.metaKey) return;
    const c = cursor ?? { x: Math.round(width / 2), y: Math.round(height / 2), from: null };
    e.preventDefault(); e.stopPropagation();
    if (by) {
      const next = { ...c, x: clamp(c.x + by[0] * step, 0, width), y: clamp(c.y + by[1] * step, 0, height) };
      setCursor(next);
      say(next.from ? `${Math.abs(next.x - next.from[0])} by ${Math.abs(next.y - next.from[1])} pixels` : `${next.x}, ${next.y}`);
    } else if (e.key === "Escape") { setCursor(null); say("No rectangle"); }
    else if (!c.from) { setCursor({ ...c, from: [c.x, c.y] }); say("First corner set. Move to the other corner, then press Enter."); }
    else { mask.change(() => mask.rectangle(...c.from, c.x, c.y, value)); setCursor({ ...c, from: null }); changed(); say(value ? "Rectangle masked" : "Rectangle erased"); }
  };
  const pulls = useRef(null);
  const grow = (side, by) => setMargins(margins.map((m, i) => (i === side ? clamp(Math.round((m + by) / 8) * 8, 0, 512) : m)));
  const pull = {
    onPointerDown: (e, i) => { e.target.setPointerCapture(e.pointerId); pulls.current = { i, at: [e.clientX, e.clientY], was: margins[i], scale: layer.current.getBoundingClientRect().width / width }; },
    onPointerMove: (e) => {
      const p = pulls.current;
      if (!p) return;
      const moved = (p.i % 2 ? e.clientY - p.at[1] : e.clientX - p.at[0]) * (p.i < 2 ? -1 : 1) / p.scale;
      setMargins(margins.map((m, i) => (i === p.i ? clamp(Math.round((p.was + moved) / 8) * 8, 0, 512) : m)));
    },
    onPointerUp: () => { pulls.current = null; },
    onPointerCancel: () => { pulls.current = null; },
  };
  const marked = cursor && (cursor.from ? [cursor.from, [cursor.x, cursor.from[1]], [cursor.x, cursor.y], [cursor.from[0], cursor.y]] : null);
  return html`<div class=${`sheet tool-${tool}`} ref=${sheet} tabindex="0" role="application" aria-label="Picture with mask. Arrow keys move a corner, Enter sets it, Enter again masks the rectangle."
      onPointerDown=${down} onPointerMove=${move} onPointerUp=${up} onPointerCancel=${up} onKeyDown=${press}>
    <div class="paper" style=${`aspect-ratio:${W}/${H};--ar:${W / H};transform:translate(${view.x}px,${view.y}px) scale(${view.zoom})`}>
      <div class="inner" style=${`left:${left / W * 100}%;top:${top / H * 100}%;width:${width / W * 100}%;height:${height / H * 100}%`}>
        <img src=${from.url} alt="The picture being edited" draggable="false" /><canvas ref=${layer} width=${width} height=${height}></canvas>
        <svg viewBox=${`0 0 ${width} ${height}`} aria-hidden="true">${(path ?? marked) && html`<polygon points=${(path ?? marked).map((p) => p.join()).join(" ")} />`}
          ${cursor && html`<path d=${`M${cursor.x - width / 20} ${cursor.y}h${width / 10}M${cursor.x} ${cursor.y - height / 20}v${height / 10}`} />`}
          ${round && html`<circle class="ring" ref=${ring} r=${radius} cx=${-4 * radius} cy=${-4 * radius} />`}</svg>
      </div>
      ${SIDES.map((name, i) => html`<button type="button" class=${`edge ${name}`} role="slider" aria-label=${`Outpaint ${name}`} aria-valuenow=${margins[i]} aria-valuemin="0" aria-valuemax="512" aria-valuetext=${`${margins[i]} pixels`}
        title=${`Drag outward to paint beyond the ${name} edge`} onPointerDown=${(e) => pull.onPointerDown(e, i)} onPointerMove=${pull.onPointerMove} onPointerUp=${pull.onPointerUp} onPointerCancel=${pull.onPointerCancel}
        onKeyDown=${(e) => { const by = { ArrowLeft: i === 2 ? -8 : i === 0 ? 8 : -8, ArrowRight: i === 0 ? -8 : 8, ArrowUp: i === 3 ? -8 : 8, ArrowDown: i === 1 ? -8 : i === 3 ? 8 : -8, Home: -512 }[e.key];
          if (by) { e.preventDefault(); e.stopPropagation(); grow(i, by); } }}></button>`)}
    </div>
    <div class="zoom"><button type="button" aria-label="Zoom out" onClick=${() => setView((v) => ({ ...v, zoom: clamp(v.zoom / 1.5, 0.5, 16) }))}>−</button>
      <button type="button" onClick=${() => setView({ zoom: 1, x: 0, y: 0 })}>${Math.round(view.zoom * 100)} %</button>
      <button type="button" aria-label="Zoom in" onClick=${() => setView((v) => ({ ...v, zoom: clamp(v.zoom * 1.5, 0.5, 16) }))}>+</button></div>
  </div>`;
}

/** The strength, and where on the timeline an edit of it begins. Of a run that began there its own recorded start is shown. */
function Strength({ from, form, made, onInput }) {
  const thumb = useRef();
  const all = useMemo(() => levelsFor(from.run), [from.run?.id]);
  const levels = all.levels, start = levels ? begins(levels.map((l) => l[0]), form.strength) : null;
  const real = made && made.steps_done > 0 && made.request.task?.picture === from.seal && made.request.task.strength === form.strength && made.seed === form.seed;
  useEffect(() => {
    if (!levels || real) return;
    let alive = true;
    pixelsOf(from.url, 64).then((p) => {
      if (!alive || !thumb.current) return;
      const [alpha, sigma] = form.strength ? levelAt(levels, start.t) : [1, 0], { normal } = normals(form.seed), scale = Math.max(1, Math.hypot(alpha, sigma));
      for (let i = 0; i < p.data.length; i++) if (i % 4 < 3) p.data[i] = 127.5 + 127.5 * ((alpha * (p.data[i] / 127.5 - 1) + sigma * normal()) / scale);
      thumb.current.width = p.width; thumb.current.height = p.height;
      thumb.current.getContext("2d").putImageData(p, 0, 0);
    }, fail);
    return () => { alive = false; };
  }, [levels, form.strength, form.seed, from.url, real]);
  return html`<fieldset class="strength"><legend>Strength</legend>
    <${Slide} label="Strength" value=${form.strength} min=0 max=1 step=0.01 onInput=${onInput} text=${form.strength.toFixed(2)} />
    ${start && html`<div class="ticks" aria-hidden="true">${Array.from({ length: start.of }, (_, i) => html`<i class=${i < start.skip ? "off" : ""}></i>`)}</div>
      <div class="row"><span class="start">${real ? html`<${Frame} run=${made} lens="x" step=${0} alt="What this run began with" />` : html`<canvas ref=${thumb} role="img" aria-label="What the run begins with"></canvas>`}</span>
      <p class="dim">${start.run ? `Skip ${start.skip} of ${start.of} steps: begins at t = ${start.t.toFixed(2)}, ${real ? "here as the network saw it, from the recording." : "here with the noise drawn in pixels."}` : "No step is run: the picture is returned."}${all.guess ? " The steps are the model's usual ones." : ""}</p></div>`}
  </fieldset>`;
}

/** The result as it appears, then before and after, and what the run preserved at each step. */
function Result({ from, run }) {
  const [lens, setLens] = useState("wipe");
  const [k, setK] = useState(null), [text, setText] = useState("");
  const done = run.state === "done" && run.pictures[0], step = Math.min(k ?? Infinity, Math.max(0, run.steps_done - 1)), margins = run.request.task?.margins;
  const grown = margins && { left: margins[0], top: margins[1], W: margins[0] + from.width + margins[2], H: margins[1] + from.height + margins[3] };
  const ratio = grown ? grown.W / grown.H : from.width / from.height, place = run.state === "queued" ? run.position : null;
  return html`<div class="result">
    ${done ? html`<${Choice} label="View" items=${[["wipe", "Before / after"], ["steps", "Steps"], ...(run.steps ? [["kept", "What was preserved"]] : [])]} value=${lens} onPick=${setLens} />`
      : html`<p role="status">${run.state === "queued" ? `Waiting its turn${place ? `: ${place} before it` : ""}.` : run.state === "stopped" ? `Stopped after step ${run.steps_done} of ${run.steps}; it can be resumed.` : run.state === "failed" ? "It failed." : `Step ${run.steps_done} of ${run.steps}`}</p>`}
    ${done && (lens === "wipe" || !run.steps) ? html`<${Wipe} names=${["Before", "After"]} pictures=${[grown ? { url: from.url, box: grown } : from.url, run.pictures[0].url]} ratio=${ratio} />`
      : html`<div class="shown" style=${`--ar:${ratio}`}>${run.steps_done > 0 ? html`<${Frame} run=${run} lens="x0" step=${step} alt=${`What the model believes at step ${step + 1}`} />` : html`<img src=${from.url} alt="The picture before the edit" class="waits" />`}
        ${lens === "kept" && done && html`<${Kept} say=${setText} run=${run} from=${from} grown=${grown} step=${step} />`}</div>
        ${lens === "kept" && done && html`<p class="dim" role="status">${text}</p>`}
        ${run.steps > 0 && html`<${Scrub} label="Step of the edit" n=${done ? run.steps : Math.max(1, run.steps_done)} value=${step} onInput=${setK} />`}`}
  </div>`;
}

/** Green: where the belief at this step is the original, put back each step. */
function Kept({ run, from, grown, step, say: setText }) {
  const canvas = useRef();
  const seal = run.request.task?.mask;
  useEffect(() => {
    let alive = true;
    Promise.all([pixelsOf(from.url), framePixels(run, step), seal ? pixelsOf(`/v1/pictures/${encodeURIComponent(seal)}.png`) : null]).then(([a, b, mask]) => {
      if (!alive || !canvas.current) return;
      const { width: w, height: h } = run.pictures[0], pixels = new ImageData(w, h), out = new Uint32Array(pixels.data.buffer), sums = [0, 0], counts = [0, 0], ox = grown?.left ?? 0, oy = grown?.top ?? 0;
      canvas.current.width = w; canvas.current.height = h;
      for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
        const sx = x - ox, sy = y - oy;
        if (sx < 0 || sy < 0 || sx >= a.width || sy >= a.height) continue;
        const i = 4 * (sy * a.width + sx), j = 4 * (Math.floor(y / h * b.height) * b.width + Math.floor(x / w * b.width));
        const d = (Math.abs(a.data[i] - b.data[j]) + Math.abs(a.data[i + 1] - b.data[j + 1]) + Math.abs(a.data[i + 2] - b.data[j + 2])) / 3, free = !mask ? (grown ? 0 : 1) : mask.data[i] > 127 ? 1 : 0;
        sums[free] += d; counts[free]++;
        if (d < 12) out[y * w + x] = 0x6e5abe28;
      }
      canvas.current.getContext("2d").putImageData(pixels, 0, 0);
      const mean = (i) => (counts[i] ? (sums[i] / counts[i]).toFixed(1) : null), parts = [[0, "kept"], [1, mask ? "painted" : "free"]].filter(([i]) => counts[i]).map(([i, what]) => `${mean(i)} where ${what}`);
      setText(`${mask || grown ? "Green is the original, put back at every step" : "Green is where it still is the original"}. Mean difference of this step's belief from it, of 255: ${parts.join(", ")}.`);
    }).catch((e) => alive && setText(e.message));
    return () => { alive = false; };
  }, [run.id, step]);
  return html`<canvas ref=${canvas} class="over" role="img" aria-label="What was preserved"></canvas>`;
}
