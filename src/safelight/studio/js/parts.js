/* The page's furniture, for every screen.

Icon name                       Segments label value options=[[value, text]] onChange      Slider label value min max step onInput onChange
Draft value onCommit (an input whose typing is not disturbed)      Dialog title onClose            Fields schema value onChange (a form made from a kind's JSON schema)   Kind label kinds value onChange
Shot run i                      the picture of a run, or its newest frame while it is made
useLoad(fn, deps)               {data, error, busy, reload}: what a promise brings; errors are shown where it stands. Of another deps[0] nothing is kept
alone(run, i)                   the request of one picture of a run;   enlarged(run, i)   what is posted to have it twice as large
*/
import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/preact-htm.js";
import { picture } from "./api.js";
import { useStore } from "./store.js";
import { Frame, isRecorded } from "./filmstrip.js";

const PATHS = {
  create: "M12 3v4M12 17v4M3 12h4M17 12h4M6 6l2 2M16 16l2 2M18 6l-2 2M8 16l-2 2M12 10a2 2 0 1 0 0 4 2 2 0 0 0 0-4",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4", mix: "M9 5a5 5 0 1 0 0 10A5 5 0 0 0 9 5M15 9a5 5 0 1 0 0 10 5 5 0 0 0 0-10",
  morph: "M3 17c5 0 5-10 9-10s4 10 9 10M3 7h2M19 7h2", compare: "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z",
  explain: "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 18v.5M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18",
  gallery: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4M15 9h.01", jobs: "M4 6h16M4 12h16M4 18h10", run: "M10 4a6 6 0 1 0 0 12 6 6 0 0 0 0-12M14.5 14.5 20 20",
  play: "M7 5v14l12-7z", pause: "M8 5v14M16 5v14", stop: "M6 6h12v12H6z", back: "M17 5v14L5 12z", dice: "M5 5h14v14H5zM9 9h.01M15 15h.01M15 9h.01M9 15h.01M12 12h.01",
  lock: "M6 11h12v9H6zM9 11V8a3 3 0 0 1 6 0v3", unlock: "M6 11h12v9H6zM9 11V7a3 3 0 0 1 5.6-1.5", close: "M6 6l12 12M18 6 6 18",
  fork: "M7 4v16M7 14c0-5 10-2 10-8M17 4v2", star: "M12 4l2.4 5 5.6.8-4 3.9.9 5.5-4.9-2.6-4.9 2.6.9-5.5-4-3.9 5.6-.8z", sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 3v1M12 20v1M3 12h1M20 12h1M6 6l.5.5M17.5 17.5l.5.5M18 6l-.5.5M6.5 17.5 6 18",
  moon: "M19 14a8 8 0 1 1-9-9 6 6 0 0 0 9 9", auto: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16", search: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12M15.5 15.5 20 20",
  plus: "M12 5v14M5 12h14", minus: "M5 12h14", more: "M4 7h10M18 7h2M4 17h4M12 17h8M14 5v4M8 15v4", loop: "M5 9a6 6 0 0 1 11-2l2 2M18 4v5h-5M19 15a6 6 0 0 1-11 2l-2-2M6 20v-5h5",
  up: "M6 15l6-6 6 6", down: "M6 9l6 6 6-6", save: "M12 4v11M7 11l5 5 5-5M5 20h14", copy: "M9 9h11v11H9zM5 15H4V4h11v1",
};
export const Icon = ({ name }) => html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;

export function useLoad(fn, deps) {
  const [got, put] = useState({ busy: true });
  const [again, ask] = useState(0);
  const of = deps[0];
  useEffect(() => {
    let on = true;
    put((old) => ({ ...(Object.is(old.of, of) ? old : {}), of, busy: true, error: null }));
    Promise.resolve().then(fn).then((data) => on && put({ of, data, busy: false }), (error) => on && put({ of, error, busy: false }));
    return () => (on = false);
  }, [...deps, again]);
  return { ...(Object.is(got.of, of) ? got : { busy: true }), reload: () => ask((n) => n + 1) };
}

export function Segments({ label, value, options, onChange, small }) {
  return html`<div class="segments ${small ? "small" : ""}" role="radiogroup" aria-label=${label} data-arrows onKeyDown=${(event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = options.findIndex(([v]) => v === value);
    onChange(options[(at + step + options.length) % options.length][0]);
    event.currentTarget.querySelectorAll("button")[(at + step + options.length) % options.length].focus();
  }}>
    ${options.map(([v, text, title], i) => html`<button key=${v} type="button" role="radio" aria-checked=${v === value} tabindex=${v === value || (i === 0 && !options.some(([one]) => one === value)) ? 0 : -1} title=${title} onClick=${() => onChange(v)}>${text}</button>`)}
  </div>`;
}

let ids = 0;
export const useId = () => useRef(`i${++ids}`).current;

/* An input that tells its value when it is left or Enter is pressed; what comes from elsewhere meanwhile does not disturb the typing. */
export function Draft({ value, onCommit, ...rest }) {
  const [text, type] = useState(null);
  return html`<input ...${rest} value=${text ?? value} onInput=${(e) => type(e.target.value)} onChange=${(e) => { type(null); if (e.target.value !== String(value)) onCommit(e.target.value); }} onBlur=${() => type(null)} />`;
}

export function Slider({ label, value, min, max, step = 1, onInput, onChange, hint, suffix = "" }) {
  const id = useId();
  const heard = (then) => (event) => event.target.value !== "" && then?.(Number(event.target.value));
  return html`<div class="field slider">
    <label for=${id}>${label}</label>
    <input id=${id} type="range" min=${min} max=${max} step=${step} value=${value} onInput=${heard(onInput)} onChange=${heard(onChange)} style=${`--at:${(100 * (value - min)) / (max - min || 1)}%`} />
    <${Draft} class="number" type="number" aria-label=${label + ", number"} min=${min} max=${max} step=${step} value=${value} onCommit=${(text) => { if (text === "") return; const v = Math.max(min, Math.min(max, Number(text))); onInput?.(v); onChange?.(v); }} />
    ${suffix && html`<span class="unit">${suffix}</span>`}
    ${hint && html`<small>${hint}</small>`}
  </div>`;
}

export function Dialog({ title, onClose, children, wide, bare }) {
  const box = useRef();
  const id = useId();
  // Before the next key can arrive.
  useLayoutEffect(() => {
    const opener = document.activeElement;
    box.current.showModal();
    return () => opener?.focus?.();
  }, []);
  return html`<dialog ref=${box} class=${wide ? "wide" : ""} aria-labelledby=${bare ? undefined : id} aria-label=${bare ? title : undefined} onClose=${onClose} onCancel=${onClose} onClick=${(e) => e.target === box.current && onClose()}>
    ${!bare && html`<header><h2 id=${id}>${title}</h2><button class="ghost" aria-label="Close" onClick=${onClose}><${Icon} name="close" /></button></header>`}
    ${children}
  </dialog>`;
}

/* One control a field of a kind's JSON schema. */
export function Fields({ schema, value, onChange }) {
  const fields = Object.entries(schema?.properties ?? {}).filter(([name]) => name !== "kind" && name !== "family");
  return fields.map(([name, about]) => html`<${Field} key=${name} name=${name} about=${about} value=${value[name] ?? about.default} onChange=${(v) => onChange({ ...value, [name]: v })} />`);
}

function Field({ name, about, value, onChange }) {
  const id = useId();
  const label = about.title ?? name.replaceAll("_", " ");
  const kind = [about, ...(about.anyOf ?? [])].find((s) => ["number", "integer", "boolean", "string"].includes(s.type) || s.enum);
  if (kind?.enum) return html`<div class="field"><label for=${id}>${label}</label><select id=${id} value=${value} onChange=${(e) => onChange(e.target.value)}>${kind.enum.map((v) => html`<option value=${v}>${v}</option>`)}</select></div>`;
  if (kind?.type === "boolean") return html`<label class="check"><input type="checkbox" checked=${value} onChange=${(e) => onChange(e.target.checked)} /> ${label}</label>`;
  const plain = kind && kind.type !== "string" && (typeof value === "number" || value === null || value === undefined);
  if (plain && kind.minimum !== undefined && kind.maximum !== undefined) return html`<${Slider} label=${label} value=${value ?? kind.minimum} min=${kind.minimum} max=${kind.maximum} step=${kind.type === "integer" ? 1 : (kind.maximum - kind.minimum) / 100} onChange=${onChange} onInput=${onChange} />`;
  const read = (text) => {
    if (text === "") return null;
    if (kind?.type === "string") return text;
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  };
  return html`<div class="field"><label for=${id}>${label}</label><${Draft} id=${id} type=${plain ? "number" : "text"} step=${kind?.type === "integer" ? 1 : "any"} value=${typeof value === "object" && value !== null ? JSON.stringify(value) : (value ?? "")} placeholder="none" onCommit=${(text) => onChange(read(text))} /></div>`;
}

/* Choose a kind of a family and its fields. value: null (the model's own) or {kind, ...}. */
export function Kind({ label, kinds, value, onChange, own }) {
  const id = useId();
  const name = value?.kind ?? value ?? "";
  const chosen = kinds?.find((k) => k.kind === name);
  return html`<div class="kind">
    <div class="field"><label for=${id}>${label}</label>
      <select id=${id} value=${name} onChange=${(e) => onChange(e.target.value ? { kind: e.target.value } : null)}>
        <option value="">model's own${own?.kind ? `: ${own.kind}` : ""}</option>
        ${kinds?.map((k) => html`<option value=${k.kind}>${k.kind}</option>`)}
      </select></div>
    ${chosen && html`<p class="doc">${String(chosen.doc ?? "").split("\n\n")[0].split(/(?<=\.)\s/)[0]}</p><${Fields} schema=${chosen.schema} value=${value} onChange=${onChange} />`}
  </div>`;
}

export function Shot({ run, i = 0, alt, lazy = true }) {
  const live = useStore((s) => s.live[run.id]?.frames.x0?.length ?? 0);
  if (run.pictures?.[i]) return html`<img class="shot" src=${picture(run, i)} width=${run.pictures[i].width} height=${run.pictures[i].height} alt=${alt ?? (run.prompt || run.title || "a picture without a prompt")} loading=${lazy ? "lazy" : "eager"} draggable=${false} />`;
  if (live || isRecorded(run)) return html`<${Frame} run=${run} picture=${i} lens="x0" step=${null} label=${alt ?? `${run.prompt}: not finished`} />`;
  return html`<div class="shot empty" role="img" aria-label=${run.state}><span class="pulse ${run.state}"></span></div>`;
}

export function Ago({ at }) {
  const s = Date.now() / 1000 - at;
  const text = s < 60 ? "just now" : s < 3600 ? `${Math.round(s / 60)} min ago` : s < 86400 ? `${Math.round(s / 3600)} h ago` : new Date(at * 1000).toLocaleDateString();
  return html`<time datetime=${new Date(at * 1000).toISOString()}>${text}</time>`;
}
export const seconds = (s) => (s === null || s === undefined ? "" : s < 1 ? "under 1 s" : s < 10 ? `${s.toFixed(1)} s` : s < 90 ? `${Math.round(s)} s` : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`);
export const size = (n) => (n < 1e3 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(0)} KB` : n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(2)} GB`);

export function alone(run, i) {
  const { request } = run, prompts = [request.prompt ?? ""].flat();
  return { ...request, prompt: [prompts[Math.floor(i / (request.count ?? 1))] ?? prompts[0]], count: 1, index: (request.index ?? 0) + i };
}
export function enlarged(run, i) {
  const { seal, width, height } = run.pictures[i];
  const request = { ...alone(run, i), size: [height * 2, width * 2], task: { kind: "image", picture: seal, strength: 0.35 } };
  return { model: run.model, request, record: run.record, parent: run.id, relation: "edit", title: "twice as large" };
}
