/* Ctrl+K: find a screen, a run or an action by words.   "?": the sheet of shortcuts that work where one is. */
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { api, attempt, copyCommand, recorded, runs } from "./api.js";
import { isActive, newSeed, fill, FORM, set, state, toTray } from "./store.js";
import { go } from "./router.js";
import { shortcuts } from "./keys.js";
import { Dialog, Icon, Shot } from "./parts.js";

/* What dropping a picture on the page does, without a mouse. */
function open() {
  const input = Object.assign(document.createElement("input"), { type: "file", accept: "image/*", hidden: true });
  input.onchange = () => { input.remove(); dispatchEvent(new CustomEvent("safelight:file", { detail: input.files[0] })); };
  input.oncancel = () => input.remove();
  document.body.append(input); /* one that hangs nowhere may be gone before the chooser is there */
  input.click();
}

function actions() {
  const run = state.runs[state.current];
  const own = [
    ["New picture with another seed", () => { fill("form", FORM, { seed: newSeed(), locked: false }); go("/create"); }],
    [state.jobs.paused ? "Resume the queue" : "Pause the queue", () => attempt(api(`/v1/jobs/${state.jobs.paused ? "resume" : "pause"}`, { method: "POST" }))],
    ["Light theme", () => set({ theme: "light" })], ["Dark theme", () => set({ theme: "dark" })], ["Theme of the system", () => set({ theme: "auto" })],
    ["Open a picture: restore, start from it, inpaint", open], ["Queue, order, logs", () => go("/jobs")], ["Models, benchmark", () => go("/jobs", { tab: "models" })],
    ["Code of this form", () => go("/jobs", { tab: "api" })], ["Settings, storage, safety", () => go("/jobs", { tab: "settings" })],
  ];
  if (!run) return own;
  return [
    ["Microscope: look into this run", () => go(`/run/${run.id}`)], ["Explain this run", () => go(`/explain/${run.id}`)], ["Edit this picture", () => go(`/edit/${run.id}`, { picture: state.picture })],
    ...(recorded(run.id) ? [] : [["Add this run to compare", () => toTray(run.id)]]), ["Copy the command of this run", () => copyCommand(run, "cli", state.picture)],
    ...(isActive(run) ? [["Stop this run", () => attempt(runs.act(run.id, "cancel"))]] : []), ...(run.state === "stopped" ? [["Resume this run", () => attempt(runs.act(run.id, "resume"))]] : []),
    ...own,
  ];
}

export function Palette({ screens, onClose }) {
  const [text, type] = useState("");
  const [at, point] = useState(0);
  const [found, put] = useState([]);
  const input = useRef();
  useEffect(() => input.current?.focus(), []);
  useEffect(() => {
    if (!text.trim()) return put([]);
    const stop = new AbortController();
    const timer = setTimeout(() => runs.list({ q: text.trim(), limit: 6 }).then((page) => stop.signal.aborted || put(page.runs), () => {}), 150);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [text]);
  const rows = useMemo(() => {
    const fits = (name) => text.toLowerCase().split(/\s+/).every((word) => name.toLowerCase().includes(word));
    return [
      ...Object.entries(screens).filter(([, s]) => !s.hidden).map(([name, s]) => ({ name: s.title, hint: "screen", icon: name, act: () => go("/" + name) })),
      ...actions().map(([name, act]) => ({ name, hint: "action", act })),
    ].filter((row) => fits(row.name)).concat(found.map((run) => ({ name: run.prompt || run.title || run.id, hint: run.kind, run, act: () => go(`/run/${run.id}`) })));
  }, [text, found]);
  const pick = (row) => { onClose(); row?.act(); };
  const now = Math.min(at, rows.length - 1);
  return html`<${Dialog} title="Find or do anything" bare onClose=${onClose}><div class="palette">
    <input ref=${input} type="text" role="combobox" aria-expanded="true" aria-controls="found" aria-activedescendant=${`row${now}`} aria-label="Find a screen, an action or a run" placeholder="A screen, an action, words of a prompt" value=${text} onInput=${(e) => { type(e.target.value); point(0); }}
      onKeyDown=${(e) => {
        const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
        if (step) { e.preventDefault(); point((now + step + rows.length) % rows.length); }
        if (e.key === "Enter") { e.preventDefault(); pick(rows[now]); }
      }} />
    <ul id="found" role="listbox" aria-label="Found">${rows.map((row, i) => html`<li key=${i} id=${`row${i}`} role="option" aria-selected=${i === now} ref=${(el) => i === now && el?.scrollIntoView({ block: "nearest" })} onClick=${() => pick(row)} onPointerMove=${() => i !== now && point(i)}>
      ${row.run ? html`<span class="thumb"><${Shot} run=${row.run} alt="" /></span>` : row.icon ? html`<${Icon} name=${row.icon} />` : html`<span class="icon"></span>`}<span>${row.name}</span><small>${row.hint}</small></li>`)}</ul>
  </div></${Dialog}>`;
}

/* What the screens have that one is not on now. */
const ELSEWHERE = [
  ["Ctrl+Enter", "Generate, in Create and Edit"], ["Escape", "Cancel the run that is made"], ["ArrowLeft", "Step back"], ["ArrowRight", "Step on"], ["Space", "Play and pause"],
  ...["What the network sees", "What it believes", "Noise", "Guidance", "Attention", "Difference"].map((lens, i) => [String(i + 1), `${lens}, in the microscope`]),
  ["f", "Fork here, in the microscope"], ["c", "Add to compare"], ["g", "Gallery"], ["[", "Smaller brush, in Edit"], ["]", "Larger brush, in Edit"], ["z", "Undo, in Edit"],
];
export function Sheet({ onClose }) {
  const [list] = useState(shortcuts);
  const nice = { ArrowLeft: "←", ArrowRight: "→", Escape: "Esc" };
  const rows = (keys) => html`<dl class="keys">${keys.map(([key, what]) => html`<div key=${key}><dt>${key.split("+").map((k) => html`<kbd>${nice[k] ?? (k.length === 1 ? k.toUpperCase() : k)}</kbd>`)}</dt><dd>${what}</dd></div>`)}</dl>`;
  const others = ELSEWHERE.filter(([key]) => !list.some((entry) => entry.key === key));
  return html`<${Dialog} title="Shortcuts" onClose=${onClose}>${rows(list.map(({ key, what }) => [key, what]))}${others.length > 0 && html`<h3>On other screens</h3>${rows(others)}`}</${Dialog}>`;
}
