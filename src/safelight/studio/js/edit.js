// Edit: a picture changed as a whole, in a painted mask, or beyond its edges.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { Mask } from "./mask.js";
import { begins, clamp, levelAt, normals } from "./maths.js";
import { Choice, Frame, Picker, Scrub, Slide, Wipe, call, framePixels, holds, levelsFor, pixelsOf, useRun } from "./kit.js";
import { useKeys } from "./keys.js";
import { go } from "./router.js";
import { hold } from "./shell.js";
import { fail, say } from "./store.js";

const TOOLS = [["brush", "Brush"], ["eraser", "Eraser"], ["rectangle", "Rectangle"], ["lasso", "Lasso"], ["fill", "Fill"], ["pan", "Hand"]];
const SIDES = ["left", "top", "right", "bottom"];
const TINT = [255, 96, 32, 150];

/** The picture that is edited: of a run (`/edit/ID?picture=0`), or an upload (`/edit?seal=...`). */
async function source(id, query) {
  if (query.seal) {
    const url = `/v1/pictures/${encodeURIComponent(query.seal)}.png`, pixels = await pixelsOf(url);
    return { seal: query.seal, url, width: pixels.width, height: pixels.height, run: null };
  }
  const run = await call.get(`/v1/runs/${id}`), one = run.pictures[+(query.picture ?? 0)];
  if (!one) throw new Error("This run has no finished picture to edit yet.");
  return { ...one, run };
}

export function screen(ctx) {
  const { id, query } = ctx, key = (id ?? "") + (query.seal ?? "") + (query.picture ?? "");
  const [from, setFrom] = useState(null);
  useEffect(() => {
    setFrom(null);
    if (id || query.seal) source(id, query).then(setFrom).catch(fail);
  }, [key]);
  if (!id && !query.seal) return html`<section class="screen mine narrow"><h1>Edit</h1><p>Choose a picture to change. You can also drop a file anywhere.</p>
    <${Picker} label="Pictures to edit" filter=${(r) => r.pictures.length} onPick=${(r) => go(`/edit/${r.id}`)} />
    <p><label class="button">Open a file<input type="file" class="hidden" accept="image/*" onChange=${async (e) => {
      const made = await call.upload("/v1/pictures", e.target.files[0]);
      if (made) go(`/edit?seal=${encodeURIComponent(made.seal)}`);
    }} /></label></p></section>`;
  return html`<section class="screen mine"><h1>Edit</h1>${from ? html`<${Editor} key=${from.seal} first=${from} />` : html`<p aria-busy="true">Opening the picture.</p>`}</section>`;
}

function Editor({ first }) {
  const [from, setFrom] = useState(first);
  const [past, setPast] = useState([]);
  const mask = useMemo(() => new Mask(from.width, from.height), [from.seal]);
  const [edition, setEdition] = useState(0);
  const [tool, setTool] = useState("brush");
  const [radius, setRadius] = useState(Math.max(2, Math.round(Math.min(from.width, from.height) / 12)));
  const [feather, setFeather] = useState(0);
  const [margins, setMargins] = useState([0, 0, 0, 0]);
  const [form, setForm] = useState({ prompt: from.run?.prompt ?? "", strength: null, fill: "original", seed: from.run?.seed ?? 0 });
  const [made, setMade] = useState(null);
  const result = useRun(made);
  const share = useMemo(() => mask.share(), [mask, edition]);
  const grows = margins.some(Boolean), kind = grows ? "outpaint" : share ? "inpaint" : "image";
  const strength = form.strength ?? (kind === "image" ? 0.6 : 1), shown = { ...form, strength };
  const changed = () => setEdition((n) => n + 1);
  const back = (undo) => { if (undo ? mask.undo() : mask.redo()) { changed(); say(undo ? "Undone" : "Done again"); } };
  useKeys({
    "[": [() => setRadius((r) => Math.max(1, r - Math.ceil(r / 6))), "Smaller brush"], "]": [() => setRadius((r) => Math.min(400, r + Math.ceil(r / 6))), "Larger brush"],
    z: [(e) => back(!e.shiftKey), "Undo; with Shift: do again"], "Ctrl+z": [(e) => back(!e.shiftKey), "Undo"], "Ctrl+Enter": [() => running || generate(), "Generate"],
  });

  const generate = async () => {
    const task = { kind, picture: from.seal, strength };
    if (kind !== "image") Object.assign(task, { fill: kind === "outpaint" && form.fill === "original" ? "blur" : form.fill, feather });
    if (kind === "outpaint") task.margins = margins;
    if (kind === "inpaint") {
      const sent = await call.upload("/v1/masks", await maskFile(mask));
      if (!sent) return;
      task.mask = sent.seal;
    }
    const base = from.run?.request ?? {};
    const request = { task, prompt: [form.prompt], negative: base.negative ?? "", seed: form.seed, ...Object.fromEntries(["steps", "sampler", "grid", "mix", "bends", "emphasis"].filter((n) => base[n] != null).map((n) => [n, base[n]])) };
    const run = await call.post("/v1/runs", { model: from.run?.model ?? "default", kind: "edit", parent: from.run?.id ?? null, relation: from.run ? "edit" : "", request });
    if (run) { setMade(run.id); hold(run); }
  };
  const keep = () => {
    const picture = result.pictures[0];
    setPast([...past, from]);
    setFrom({ ...picture, run: result });
    setMade(null);
    setMargins([0, 0, 0, 0]);
    say("Kept. The result is now the picture you edit.");
  };
  const running = result && ["queued", "running"].includes(result.state);

  return html`<div class="edit">
    <div class="bench">
      <div class="tools" role="toolbar" aria-label="Mask tools">
        <${Choice} label="Tool" items=${TOOLS} value=${tool} onPick=${setTool} />
        <button onClick=${() => { mask.change(() => mask.invert()); changed(); }}>Invert</button>
        <button onClick=${() => { mask.change(() => mask.clear()); changed(); }}>Clear</button>
        <button disabled=${!mask.past.length} onClick=${() => back(true)}>Undo</button>
        <button disabled=${!mask.future.length} onClick=${() => back(false)}>Redo</button>
        <${Slide} label="Brush" value=${radius} min=1 max=${Math.max(8, Math.round(from.width / 2))} onInput=${setRadius} text=${`${radius} px`} />
        <${Slide} label="Feather" value=${feather} min=0 max=${Math.min(64, Math.round(from.width / 4))} onInput=${setFeather} text=${`${feather} px`} />
      </div>
      ${result ? html`<${Result} from=${from} run=${result} mask=${mask} margins=${kind === "outpaint" ? margins : null} />`
        : html`<${Canvas} ...${{ from, mask, edition, changed, tool, radius, feather, margins, setMargins }} />`}
      <p class="dim" role="status">${grows ? `Outpaint: the picture grows by ${margins.map((m, i) => m && `${m} px ${SIDES[i]}`).filter(Boolean).join(", ")}.${share ? " The mask is not used: keep the result, then mask it." : ""}`
        : share ? `Inpaint: ${(share * 100).toFixed(share < 0.1 ? 1 : 0)} % of the picture is painted anew; the rest is kept to the byte.`
        : "No mask: the whole picture changes. Paint a mask, or drag an edge outward."}</p>
    </div>
    <form class="side" onSubmit=${(e) => { e.preventDefault(); if (!running) generate(); }}>
      <label>What shall be seen<textarea rows="3" value=${form.prompt} onInput=${(e) => setForm({ ...form, prompt: e.target.value })}></textarea></label>
      <${Strength} from=${from} form=${shown} onInput=${(v) => setForm({ ...form, strength: v })} />
      ${kind !== "image" && html`<label>The area begins as<select value=${form.fill} onChange=${(e) => setForm({ ...form, fill: e.target.value })}>
        ${[["original", "the original"], ["blur", "its surroundings, blurred"], ["mean", "their mean colour"], ["noise", "pure noise"]].map(([v, t]) => html`<option value=${v}>${t}</option>`)}</select></label>`}
      <label>Seed<input type="number" value=${form.seed} onInput=${(e) => setForm({ ...form, seed: +e.target.value })} /></label>
      <div class="row">${running ? html`<button type="button" onClick=${() => call.post(`/v1/runs/${result.id}/cancel`)}>Stop</button>` : html`<button class="primary">Generate</button>`}
        ${result?.state === "done" && html`<button type="button" onClick=${keep}>Keep</button>`}
        ${result && !running && html`<button type="button" onClick=${() => setMade(null)}>Back to the mask</button>`}</div>
      ${result?.error && html`<p class="bad" role="alert">${result.error}</p>`}
      ${past.length > 0 && html`<fieldset class="kept"><legend>Kept before</legend><div class="row">${past.map((p, i) => html`<button type="button" class="thumb" onClick=${() => { setPast(past.slice(0, i)); setFrom(p); setMade(null); }}>
        <img src=${p.url} alt=${`Go back to version ${i + 1}`} /></button>`)}</div></fieldset>`}
    </form>
  </div>`;
}

/** A mask as a PNG file: white is painted. */
export async function maskFile(mask) {
  const canvas = new OffscreenCanvas(mask.width, mask.height), pixels = new ImageData(mask.width, mask.height);
  mask.data.forEach((v, i) => pixels.data.set([v, v, v, 255], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

function Canvas({ from, mask, edition, changed, tool, radius, feather, margins, setMargins }) {
  const [view, setView] = useState({ zoom: 1, x: 0, y: 0 });
  const [path, setPath] = useState(null);
  const [cursor, setCursor] = useState(null);
  const sheet = useRef(), layer = useRef(), stroke = useRef(null), fingers = useRef(new Map());
  const { width, height } = from, [left, top, right, bottom] = margins, W = left + width + right, H = top + height + bottom;

  const paint = (box = [0, 0, width, height]) => {
    if (!box || box[2] <= box[0] || box[3] <= box[1]) return;
    layer.current?.getContext("2d").putImageData(new ImageData(mask.rgba(box, TINT, feather), box[2] - box[0], box[3] - box[1]), box[0], box[1]);
  };
  useEffect(() => { mask.clean(); paint(); }, [mask, edition, feather, W, H]);

  const at = (e) => {
    const r = layer.current.getBoundingClientRect();
    return [(e.clientX - r.left) / r.width * width, (e.clientY - r.top) / r.height * height];
  };
  const value = tool === "eraser" ? 0 : 255;
  const down = (e) => {
    if (e.target.closest("button")) return;
    sheet.current.setPointerCapture(e.pointerId);
    fingers.current.set(e.pointerId, [e.clientX, e.clientY]);
    if (fingers.current.size === 2) { if (stroke.current?.kind) mask.commit(); stroke.current = { pinch: true }; return; }
    const [x, y] = at(e);
    if (tool === "pan" || e.button === 1 || holds(" ")) stroke.current = { pan: [e.clientX - view.x, e.clientY - view.y] };
    else if (tool === "fill") { pixelsOf(from.url).then((p) => { mask.change(() => mask.fill(x, y, 255, p.data)); changed(); }); }
    else {
      mask.begin();
      stroke.current = { kind: tool, from: [x, y], last: [x, y], points: [[x, y]] };
      if (tool === "brush" || tool === "eraser") { mask.stroke(x, y, x, y, radius, value); paint(mask.clean()); }
    }
  };
  const move = (e) => {
    const s = stroke.current;
    if (!s) return;
    if (s.pinch) {
      const before = [...fingers.current.values()];
      fingers.current.set(e.pointerId, [e.clientX, e.clientY]);
      const after = [...fingers.current.values()], apart = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1, mid = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
      if (after.length === 2) setView((v) => ({ zoom: clamp(v.zoom * apart(after) / apart(before), 0.5, 16), x: v.x + mid(after)[0] - mid(before)[0], y: v.y + mid(after)[1] - mid(before)[1] }));
      return;
    }
    if (s.pan) { setView((v) => ({ ...v, x: e.clientX - s.pan[0], y: e.clientY - s.pan[1] })); return; }
    for (const one of e.getCoalescedEvents?.().length ? e.getCoalescedEvents() : [e]) {
      const [x, y] = at(one);
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
  const wheel = (e) => {
    e.preventDefault();
    const r = sheet.current.getBoundingClientRect(), cx = e.clientX - r.left - r.width / 2, cy = e.clientY - r.top - r.height / 2;
    setView((v) => { const zoom = clamp(v.zoom * Math.exp(-e.deltaY / 400), 0.5, 16), f = zoom / v.zoom; return { zoom, x: cx - (cx - v.x) * f, y: cy - (cy - v.y) * f }; });
  };
  useEffect(() => { const s = sheet.current; s.addEventListener("wheel", wheel, { passive: false }); return () => s.removeEventListener("wheel", wheel); }, []);
  // A rectangle by keys: arrows move the corner, Enter sets it, again Enter ends it.
  const press = (e) => {
    const step = e.shiftKey ? 1 : Math.max(1, Math.round(Math.min(width, height) / 16)), by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (e.target !== sheet.current || !(by || e.key === "Enter" || e.key === "Escape")) return;
    const c = cursor ?? { x: Math.round(width / 2), y: Math.round(height / 2), from: null };
    e.preventDefault(); e.stopPropagation();
    if (by) {
      const next = { ...c, x: clamp(c.x + by[0] * step, 0, width), y: clamp(c.y + by[1] * step, 0, height) };
      setCursor(next);
      say(next.from ? `${Math.abs(next.x - next.from[0])} by ${Math.abs(next.y - next.from[1])} pixels` : `${next.x}, ${next.y}`);
    } else if (e.key === "Escape") { setCursor(null); sheet.current.blur(); }
    else if (!c.from) { setCursor({ ...c, from: [c.x, c.y] }); say("First corner set. Move to the other corner, then press Enter."); }
    else { mask.change(() => mask.rectangle(...c.from, c.x, c.y)); setCursor({ ...c, from: null }); changed(); say("Rectangle masked"); }
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
  };
  const ring = cursor && (cursor.from ? [cursor.from, [cursor.x, cursor.from[1]], [cursor.x, cursor.y], [cursor.from[0], cursor.y]] : null);
  return html`<div class=${`sheet tool-${tool}`} ref=${sheet} tabindex="0" role="application" aria-label="Picture with mask. Arrow keys move a corner, Enter sets it, Enter again masks the rectangle."
      onPointerDown=${down} onPointerMove=${move} onPointerUp=${up} onPointerCancel=${up} onKeyDown=${press}>
    <div class="paper" style=${`aspect-ratio:${W}/${H};--ar:${W / H};transform:translate(${view.x}px,${view.y}px) scale(${view.zoom})`}>
      <div class="inner" style=${`left:${left / W * 100}%;top:${top / H * 100}%;width:${width / W * 100}%;height:${height / H * 100}%`}>
        <img src=${from.url} alt="The picture being edited" draggable="false" /><canvas ref=${layer} width=${width} height=${height}></canvas>
        <svg viewBox=${`0 0 ${width} ${height}`} aria-hidden="true">${(path ?? ring) && html`<polygon points=${(path ?? ring).map((p) => p.join()).join(" ")} />`}
          ${cursor && html`<path d=${`M${cursor.x - width / 20} ${cursor.y}h${width / 10}M${cursor.x} ${cursor.y - height / 20}v${height / 10}`} />`}</svg>
      </div>
      ${SIDES.map((name, i) => html`<button type="button" class=${`edge ${name}`} role="slider" aria-label=${`Outpaint ${name}`} aria-valuenow=${margins[i]} aria-valuemin="0" aria-valuemax="512" aria-valuetext=${`${margins[i]} pixels`}
        title=${`Drag outward to paint beyond the ${name} edge`} onPointerDown=${(e) => pull.onPointerDown(e, i)} onPointerMove=${pull.onPointerMove} onPointerUp=${pull.onPointerUp}
        onKeyDown=${(e) => { const by = { ArrowLeft: i === 2 ? -8 : i === 0 ? 8 : -8, ArrowRight: i === 0 ? -8 : 8, ArrowUp: i === 3 ? -8 : 8, ArrowDown: i === 1 ? -8 : i === 3 ? 8 : -8, Home: -512 }[e.key];
          if (by) { e.preventDefault(); e.stopPropagation(); grow(i, by); } }}></button>`)}
    </div>
    <div class="zoom"><button type="button" aria-label="Zoom out" onClick=${() => setView((v) => ({ ...v, zoom: clamp(v.zoom / 1.5, 0.5, 16) }))}>−</button>
      <button type="button" onClick=${() => setView({ zoom: 1, x: 0, y: 0 })}>${Math.round(view.zoom * 100)} %</button>
      <button type="button" aria-label="Zoom in" onClick=${() => setView((v) => ({ ...v, zoom: clamp(v.zoom * 1.5, 0.5, 16) }))}>+</button></div>
  </div>`;
}

/** The strength, and where on the timeline an edit of it begins. */
function Strength({ from, form, onInput }) {
  const thumb = useRef();
  const all = useMemo(() => levelsFor(from.run), [from.run?.id]);
  const levels = all.levels, start = levels ? begins(levels.map((l) => l[0]), form.strength) : null;
  useEffect(() => {
    if (!levels || !thumb.current) return;
    let alive = true;
    pixelsOf(from.url, 64).then((p) => {
      if (!alive || !thumb.current) return;
      const [alpha, sigma] = form.strength ? levelAt(levels, start.t) : [1, 0], { normal } = normals(form.seed), scale = Math.max(1, Math.hypot(alpha, sigma));
      for (let i = 0; i < p.data.length; i++) if (i % 4 < 3) p.data[i] = 127.5 + 127.5 * ((alpha * (p.data[i] / 127.5 - 1) + sigma * normal()) / scale);
      thumb.current.width = p.width; thumb.current.height = p.height;
      thumb.current.getContext("2d").putImageData(p, 0, 0);
    });
    return () => { alive = false; };
  }, [levels, form.strength, form.seed, from.url]);
  return html`<fieldset class="strength"><legend>Strength</legend>
    <${Slide} label="Strength" value=${form.strength} min=0 max=1 step=0.01 onInput=${onInput} text=${form.strength.toFixed(2)} />
    ${start && html`<div class="ticks" aria-hidden="true">${Array.from({ length: start.of }, (_, i) => html`<i class=${i < start.skip ? "off" : ""}></i>`)}</div>
      <div class="row"><canvas ref=${thumb} role="img" aria-label="What the run begins with"></canvas>
      <p class="dim">${start.run ? `Skip ${start.skip} of ${start.of} steps: begins at t = ${start.t.toFixed(2)}, here with the noise drawn in pixels.` : "No step is run: the picture is returned."}${all.guess ? " The steps are the model's usual ones." : ""}</p></div>`}
  </fieldset>`;
}

/** The result as it appears, then before and after, and what the run preserved at each step. */
function Result({ from, run, mask, margins }) {
  const [lens, setLens] = useState("wipe");
  const [k, setK] = useState(null), [text, setText] = useState("");
  const done = run.state === "done" && run.pictures[0], step = k ?? Math.max(0, run.steps_done - 1);
  const grown = margins && done ? { left: margins[0], top: margins[1], W: margins[0] + from.width + margins[2], H: margins[1] + from.height + margins[3] } : null;
  return html`<div class="result">
    ${done ? html`<${Choice} label="View" items=${[["wipe", "Before / after"], ["steps", "Steps"], ["kept", "What was preserved"]]} value=${lens} onPick=${setLens} />` : html`<p role="status">${run.state === "queued" ? "Waiting its turn." : `Step ${run.steps_done} of ${run.steps}`}</p>`}
    ${done && lens === "wipe" ? html`<${Wipe} names=${["Before", "After"]} pictures=${[grown ? { url: from.url, box: grown } : from.url, run.pictures[0].url]} ratio=${run.pictures[0].width / run.pictures[0].height} />`
      : html`<div class="shown" style=${`--ar:${(run.pictures[0]?.width ?? from.width) / (run.pictures[0]?.height ?? from.height)}`}><${Frame} run=${run} lens="x0" step=${step} alt=${`What the model believes at step ${step + 1}`} class="big" />
        ${lens === "kept" && done && html`<${Kept} say=${setText} run=${run} from=${from} mask=${mask} grown=${grown} step=${step} />`}</div>
        ${lens === "kept" && done && html`<p class="dim" role="status">${text}</p>`}
        ${run.steps > 0 && html`<${Scrub} label="Step of the edit" n=${done ? run.steps : Math.max(1, run.steps_done)} value=${step} onInput=${setK} />`}`}
  </div>`;
}

/** Green: where the belief at this step is the original, put back each step. */
function Kept({ run, from, mask, grown, step, say: setText }) {
  const canvas = useRef();
  useEffect(() => {
    let alive = true;
    const out = run.pictures[0], w = out.width, h = out.height;
    Promise.all([pixelsOf(from.url), framePixels(run, step)]).then(([a, b]) => {
      if (!alive || !canvas.current) return;
      const c = canvas.current, paint = new ImageData(w, h), sums = [0, 0], counts = [0, 0], ox = grown?.left ?? 0, oy = grown?.top ?? 0;
      c.width = w; c.height = h;
      for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
        const sx = x - ox, sy = y - oy, inside = sx >= 0 && sy >= 0 && sx < a.width && sy < a.height, o = 4 * (y * w + x);
        if (!inside) continue;
        const i = 4 * (sy * a.width + sx), j = 4 * (Math.floor(y / h * b.height) * b.width + Math.floor(x / w * b.width));
        const d = (Math.abs(a.data[i] - b.data[j]) + Math.abs(a.data[i + 1] - b.data[j + 1]) + Math.abs(a.data[i + 2] - b.data[j + 2])) / 3;
        const free = !grown && mask.data[sy * a.width + sx] > 127 ? 1 : 0;
        sums[free] += d; counts[free]++;
        if (d < 12) paint.data.set([40, 190, 90, 110], o);
      }
      c.getContext("2d").putImageData(paint, 0, 0);
      const mean = (i) => (counts[i] ? (sums[i] / counts[i]).toFixed(1) : null);
      setText(`Green is the original, put back at every step. Mean difference of this step's belief from the original: ${mean(0)} of 255 where kept${mean(1) ? `, ${mean(1)} where painted` : ""}.`);
    }).catch((e) => setText(e.message));
    return () => { alive = false; };
  }, [run.id, step]);
  return html`<canvas ref=${canvas} class="over" role="img" aria-label="What was preserved"></canvas>`;
}
