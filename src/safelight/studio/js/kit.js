/* What Edit, Mix, Morph, Compare, Gallery and Explain share, on top of the shell's own modules.

call.get/post/put/patch/del(path, body)   JSON; get throws, the others show an error that stays and give undefined;  call.try gives {ok, data, message}
Frame run lens step picture alt   Choice label items value onPick   Slide   Scrub label n value onInput   Picker onPick   Wipe names pictures   Copy text
useRun(id)  useRuns(query)  useRunsByIds(ids)      live runs;  pixelsOf(url, size)  framePixels(run, k, picture, size)
*/
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { api, attempt, bytes, copy, learn, runs, picture as shotOf } from "./api.js";
import { Frame as Cell, reel } from "./filmstrip.js";
import { Segments, Shot } from "./parts.js";
import { amend } from "./router.js";
import { defaults, state, useStore } from "./store.js";

const send = (method) => async (path, body) => {
  const got = await attempt(api(path, { method, body }));
  for (const run of got?.runs ?? (got?.id ? [got] : [])) learn(run);
  return got;
};
export const call = {
  get: (path) => api(path), post: send("POST"), put: send("PUT"), patch: send("PATCH"),
  del: async (path) => (await attempt(api(path, { method: "DELETE" }).then(() => true))) ?? false,
  upload: (path, file) => attempt(api(path, { method: "POST", raw: file })),
  try: (method, path, body) => api(path, { method, body }).then((data) => ({ ok: true, data }), (error) => ({ ok: false, message: error.message })),
};
export const url = (query, quiet = true) => amend(Object.fromEntries(Object.entries(query).map(([k, v]) => [k, v === "" ? null : v])), quiet);

/** Runs `work(alive)` once nothing has changed for `ms`. An effect's body: returns what takes it back. */
export function later(ms, work) {
  let alive = true;
  const timer = setTimeout(() => work(() => alive), ms);
  return () => { alive = false; clearTimeout(timer); };
}

export function useRun(id) {
  const run = useStore((s) => (id ? s.runs[id] : null));
  useEffect(() => { if (id && !run) attempt(runs.get(id)); }, [id]);
  return run;
}

export function useRunsByIds(ids) {
  const found = useStore((s) => ids.map((id) => s.runs[id]).filter(Boolean));
  useEffect(() => { for (const id of ids) if (!state.runs[id]) attempt(runs.get(id)); }, [ids.join()]);
  return useSame(found);
}

/** The runs of a group, kept live; none for "". */
export function useGroup(group) {
  const found = useStore((s) => (group ? Object.values(s.runs).filter((r) => r.group === group) : []));
  useEffect(() => {
    (async () => {
      for (let before; group;) {
        const page = await attempt(runs.list({ group, limit: 100, before }));
        if (!page?.next) break;
        before = page.next;
      }
    })();
  }, [group]);
  return useSame([...found].sort((a, b) => a.created - b.created || (a.id < b.id ? -1 : 1)));
}

/** The same array while its items are the same, so that what hangs on it is not worked out anew. */
function useSame(list) {
  const held = useRef(list);
  if (held.current.length !== list.length || list.some((v, i) => v !== held.current[i])) held.current = list;
  return held.current;
}

export const Frame = ({ run, lens = "x0", step, picture = 0, alt = "" }) => html`<${Cell} run=${run} lens=${lens} picture=${picture} step=${Math.min(step, Math.max(0, (run.steps || 1) - 1))} label=${alt || "picture"} />`;
export const Choice = ({ label, items, value, onPick }) => html`<${Segments} label=${label} options=${items} value=${value} onChange=${onPick} small />`;
export const Copy = ({ text, children }) => html`<button type="button" class="ghost" onClick=${() => copy(text(), "Command")}>${children}</button>`;

export function Slide({ label, value, min, max, step = 1, onInput, onChange, text }) {
  return html`<label class="slide"><span>${label}</span><input type="range" min=${min} max=${max} step=${step} value=${value} aria-label=${label} aria-valuetext=${text} style=${`--at:${100 * (value - min) / (max - min || 1)}%`}
    onInput=${(e) => onInput(+e.target.value)} onChange=${(e) => onChange?.(+e.target.value)} /><output>${text}</output></label>`;
}

export function Scrub({ label, n, value, onInput, marks }) {
  return html`<label class="scrub"><span>${label}</span><span class="track"><input type="range" min="0" max=${n - 1} value=${value} disabled=${n < 2} aria-label=${label} aria-valuetext=${`${value + 1} of ${n}`} style=${`--at:${n > 1 ? 100 * value / (n - 1) : 0}%`} onInput=${(e) => onInput(+e.target.value)} />
    ${marks && html`<span class="marks" aria-hidden="true">${marks.map((on) => html`<i class=${on ? "on" : ""}></i>`)}</span>`}</span><output>${value + 1}/${n}</output></label>`;
}

/** Recent runs to choose one of. */
export function Picker({ label, filter, onPick }) {
  const [list, setList] = useState(null), [q, setQ] = useState("");
  useEffect(() => later(q ? 200 : 0, async (alive) => { const page = await attempt(runs.list({ q, limit: 60 })); if (alive() && page) setList(page.runs.filter(filter)); }), [q]);
  return html`<div class="picker"><label class="inline">Search <input type="search" value=${q} onInput=${(e) => setQ(e.target.value)} /></label>
    ${!list ? html`<p aria-busy="true">Looking.</p>` : list.length ? html`<ul class="thumbs" aria-label=${label}>${list.map((r) => html`<li key=${r.id}><button type="button" class="thumb" title=${r.prompt} aria-label=${r.prompt || r.title || r.id} onClick=${() => onPick(r)}><${Shot} run=${r} alt="" /></button></li>`)}</ul>`
      : html`<p class="dim">${q ? "No run has these words." : "There is no finished run yet. "}${!q && html`<a href="/create">Make a picture</a>`}</p>`}</div>`;
}

/** Pictures over each other with a divider between neighbours. A picture is an address or {url, box: where it lies in W x H}. */
export function Wipe({ names, pictures, ratio = 1 }) {
  const [cuts, setCuts] = useState(() => pictures.slice(1).map((_, i) => (i + 1) / pictures.length));
  const set = (i, v) => setCuts(cuts.map((c, j) => (j === i ? v : j < i ? Math.min(c, v) : Math.max(c, v))));
  return html`<figure class="wipe"><div class="layers" style=${`aspect-ratio:${ratio};--ar:${ratio}`}>${pictures.map((p, i) => html`<div style=${`clip-path:inset(0 ${100 - 100 * (cuts[i] ?? 1)}% 0 ${100 * (cuts[i - 1] ?? 0)}%)`}>
      <img src=${p.url ?? p} alt=${names[i]} draggable=${false} style=${p.box ? `left:${p.box.left / p.box.W * 100}%;top:${p.box.top / p.box.H * 100}%;width:${p.box.width / p.box.W * 100}%;height:${p.box.height / p.box.H * 100}%` : ""} /></div>`)}
    ${cuts.map((c, i) => html`<i class="cut" style=${`left:${c * 100}%`}></i><input type="range" min="0" max="1" step="0.005" value=${c} aria-label=${`Divider between ${names[i]} and ${names[i + 1]}`} onInput=${(e) => set(i, +e.target.value)} />`)}</div>
    <figcaption>${names.map((n) => html`<span>${n}</span>`)}</figcaption></figure>`;
}

/** RGBA of a picture, no larger than `size` on its longer side where given. */
export async function pixelsOf(source, size = 0) {
  const bitmap = source instanceof ImageBitmap || source instanceof OffscreenCanvas ? source : await createImageBitmap(new Blob([await bytes(source)]));
  const scale = size ? Math.min(1, size / Math.max(bitmap.width, bitmap.height)) : 1, w = Math.max(1, Math.round(bitmap.width * scale)), h = Math.max(1, Math.round(bitmap.height * scale));
  const pen = new OffscreenCanvas(w, h).getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0, w, h);
  if (bitmap !== source) bitmap.close();
  return pen.getImageData(0, 0, w, h);
}

/** RGBA of a recorded frame, from the sheet that is at hand anyway. */
export async function framePixels(run, k, picture = 0, size = 0) {
  const film = reel(run, "x0", picture);
  await film.ready;
  const [w, h] = film.size, canvas = new OffscreenCanvas(w, h);
  film.draw(canvas.getContext("2d"), k, 0, 0, w, h);
  return pixelsOf(canvas, size);
}

/** The levels [t, alpha, sigma] of a whole run like this one: its own, another's of as many steps, or what the model usually takes. */
export function levelsFor(run) {
  const whole = (r) => r?.levels?.length > 1 && r.levels[0][0] > 0.9;
  const found = [run, ...Object.values(state.runs).filter((r) => r.model === (run?.model ?? r.model) && (!run || r.steps === run.request?.steps))].find(whole);
  if (found) return { levels: found.levels, guess: found !== run };
  const n = defaults(run?.model)?.steps ?? 24;
  return { levels: Array.from({ length: n + 1 }, (_, i) => { const t = 1 - i / n; return [t, Math.cos(t * Math.PI / 2), Math.sin(t * Math.PI / 2)]; }), guess: true };
}

export function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const pressed = new Set();
addEventListener("keydown", (e) => pressed.add(e.key));
addEventListener("keyup", (e) => pressed.delete(e.key));
addEventListener("blur", () => pressed.clear());
export const holds = (key) => pressed.has(key);
export { shotOf };
