/* What the page knows. The server owns all state; here is a copy of it, and the few things that are the page's own.

state.runs      {id: Run} as the API gives them; kept fresh by the event stream (api.js listen)
state.live      {id: {k, n, t, alpha, sigma, ms, eta, frames: {lens: [k][picture] -> ImageBitmap}}} of runs that are watched
state.jobs      {paused, order: [ids]} the queue;  waiting() gives its Runs
state.models    the answer of /v1/models | null;   state.parts the answer of /v1/samplers | null
state.current   id of the run in the filmstrip dock;  state.picture which picture of it
state.notes     errors that stay until dismissed (over screens and reloads), and undo offers: [{id, kind: "error"|"undo"|"info", text, action?, label?}]
state.status    the line that screen readers hear;  state.online  whether the event stream is up
state.tray      [ids] that are gathered to compare

set(patch | state => patch)          change it          useStore(s => part)    a component's view, drawn anew when the part changes
usePersisted(key, initial)           like useState, kept in localStorage (any screen's own form)
persisted(key, initial), keep(key, value)               the same outside components
say(text)  a status line;  fail(error)  an error that stays;  offer(text, label, action)  an undo, gone after 10 s
form: usePersisted("form", FORM) is Create's; formRequest(form) makes the request of it
*/
import { useEffect, useReducer, useRef } from "../vendor/preact-htm.js";

const listeners = new Set();
export const state = {
  runs: {}, live: {}, jobs: { paused: false, order: [] }, models: null, parts: null, settings: null, current: null, picture: 0,
  notes: errors(), status: "", online: false, tray: persisted("tray", []), theme: persisted("theme", "auto"), ready: false,
};

export function set(patch) {
  Object.assign(state, typeof patch === "function" ? patch(state) : patch);
  for (const listen of [...listeners]) listen();
}

export function subscribe(listen) {
  listeners.add(listen);
  return () => listeners.delete(listen);
}

const same = (a, b) =>
  Object.is(a, b) || (Array.isArray(a) && Array.isArray(b) && a.length === b.length && a.every((x, i) => Object.is(x, b[i])));

export function useStore(select) {
  const [, draw] = useReducer((n) => n + 1, 0);
  const now = select(state);
  const held = useRef();
  held.current = { now, select };
  useEffect(() => {
    const look = () => same(held.current.select(state), held.current.now) || draw();
    look(); // what changed between drawing and now
    return subscribe(look);
  }, []);
  return now;
}

export function persisted(key, initial) {
  try {
    const text = localStorage.getItem("safelight." + key);
    if (text === null) return initial;
    const value = JSON.parse(text);
    const plain = initial && typeof initial === "object" && !Array.isArray(initial);
    return plain ? { ...initial, ...value } : value;
  } catch {
    return initial;
  }
}

export function keep(key, value) {
  try {
    localStorage.setItem("safelight." + key, JSON.stringify(value));
  } catch { /* private mode: the page still works, it only forgets */ }
}

const shared = {};
export function usePersisted(key, initial) {
  const cell = (shared[key] ??= { value: persisted(key, initial), users: new Set() });
  const [, draw] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    cell.users.add(draw);
    return () => cell.users.delete(draw);
  }, [cell]);
  const change = (next) => {
    cell.value = typeof next === "function" ? next(cell.value) : next;
    keep(key, cell.value);
    for (const user of cell.users) user();
  };
  return [cell.value, change];
}
/* Change what usePersisted(key) holds from outside a component (a screen that preloads another's form). */
export function fill(key, initial, patch) {
  const cell = (shared[key] ??= { value: persisted(key, initial), users: new Set() });
  cell.value = { ...cell.value, ...patch };
  keep(key, cell.value);
  for (const user of cell.users) user();
}

/* The errors that this tab still shows; a reload does not take them away. */
function errors(now) {
  try {
    if (now) sessionStorage.setItem("safelight.errors", JSON.stringify(now.filter((n) => n.kind === "error").map((n) => n.text)));
    return JSON.parse(sessionStorage.getItem("safelight.errors") ?? "[]").map((text, i) => ({ id: -1 - i, kind: "error", text }));
  } catch {
    return [];
  }
}
let notes = 0;
export function note(kind, text, more = {}) {
  const id = ++notes;
  set((s) => ({ notes: [...s.notes.filter((n) => n.text !== text || n.kind !== kind), { id, kind, text, ...more }] }));
  errors(state.notes);
  return id;
}
export function dismiss(id) {
  set((s) => ({ notes: s.notes.filter((n) => n.id !== id) }));
  errors(state.notes);
}
export const say = (text) => state.status !== text && set({ status: text });
export const fail = (error) => error?.name !== "AbortError" && note("error", error?.message || String(error));
export function offer(text, label, action) {
  const id = note("undo", text, { label, action });
  setTimeout(() => dismiss(id), 10_000);
  return id;
}

export const ACTIVE = ["queued", "running", "paused"];
export const isActive = (run) => !!run && ACTIVE.includes(run.state);
export function waiting(s = state) {
  const place = (run) => (run.state === "running" ? -1 : s.jobs.order.indexOf(run.id) >= 0 ? s.jobs.order.indexOf(run.id) : 1e6);
  return Object.values(s.runs).filter(isActive).sort((a, b) => place(a) - place(b) || a.created - b.created);
}
export function toTray(id) {
  set((s) => ({ tray: s.tray.includes(id) ? s.tray.filter((x) => x !== id) : [...s.tray, id] }));
  keep("tray", state.tray);
  say(state.tray.includes(id) ? `Added to compare (${state.tray.length})` : "Removed from compare");
}

export const FORM = {
  prompt: "", negative: "", model: "", count: 1, seed: 0, locked: false, steps: null, size: null, guidance: null, sampler: null,
  grid: null, mix: null, bends: null, emphasis: "a1111", varySeed: 0, varyStrength: 0, temperature: 1, churn: null, hires: null, record: "branches", more: false, scratch: "", micro: null,
};

/* "a {red|blue} cat" -> ["a red cat", "a blue cat"]; several groups give every combination, 64 at most. */
export function permutations(prompt) {
  const group = /\{([^{}]*\|[^{}]*)\}/.exec(prompt);
  if (!group) return [prompt];
  const rest = (word) => permutations(prompt.slice(0, group.index) + word.trim() + prompt.slice(group.index + group[0].length));
  return [...new Set(group[1].split("|").flatMap(rest))].slice(0, 64);
}

/* The partial Request of a form: only what was chosen, so that the model's defaults fill in the rest. */
export function formRequest(form) {
  const out = { prompt: permutations(form.prompt), seed: form.seed, count: form.count };
  if (form.negative) out.negative = form.negative;
  if (form.emphasis !== "a1111") out.emphasis = form.emphasis;
  for (const name of ["steps", "size", "sampler", "grid", "mix", "bends"]) if (form[name] !== null) out[name] = form[name];
  if (form.micro) out.micro_batch = form.micro;
  if (form.guidance !== null && !form.mix) out.mix = form.guidance === 1 ? { kind: "none" } : { ...defaults(form.model)?.mix, kind: "cfg", scale: form.guidance };
  if (form.varyStrength > 0) out.variation = { seed: form.varySeed, strength: form.varyStrength };
  if (form.temperature !== 1) out.temperature = form.temperature;
  if (form.churn?.amount) out.churn = form.churn;
  if (form.hires) out.task = form.hires;
  return out;
}

export function modelOf(name) {
  const list = state.models?.models ?? [];
  return list.find((m) => m.name === (name || state.models?.default)) ?? list[0] ?? null;
}
export const defaults = (name) => modelOf(name)?.defaults ?? modelOf(name)?.spec?.defaults ?? null;
export const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] % 2_147_483_648;
