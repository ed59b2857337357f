/* Create: words, and the picture as it develops. */
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { EXAMPLE, api, attempt, copyCommand, picture as file, recorded, runs } from "./api.js";
import { FORM, fail, formRequest, isActive, modelOf, newSeed, note, permutations, say, set, state, toTray, usePersisted, useStore, waiting } from "./store.js";
import { go } from "./router.js";
import { useKeys } from "./keys.js";
import { Frame, cursor, isRecorded, setStep, useReel, useStep } from "./filmstrip.js";
import { Icon, Shot, alone, enlarged } from "./parts.js";
import { hold, progress, restore } from "./shell.js";

const EXAMPLES = ["three red apples on a blue background", "a {cat|dog|fox} on a yellow background", "a (big:1.3) rocket and a small moon"];
const PRESETS = [
  ["Model's own", { steps: null, guidance: null, sampler: null, grid: null, mix: null, bends: null, size: null, temperature: 1, churn: null, hires: null }],
  ["Draft", { steps: 8, guidance: null }], ["Fine", { steps: 40, guidance: null }], ["By the letter", { guidance: 6 }], ["Loose", { guidance: 1.5 }],
];

/* The prompt with the word around [start, end) weighing `weight` (now `had`), as (word:1.2). */
export function reweigh(prompt, start, end, had, weight) {
  while (start > 0 && /[\p{L}\p{N}'-]/u.test(prompt[start - 1])) start--;
  while (end < prompt.length && /[\p{L}\p{N}'-]/u.test(prompt[end])) end++;
  const before = prompt.slice(0, start), word = prompt.slice(start, end), after = prompt.slice(end);
  const close = /^:\s*([\d.]+)\)/.exec(after);
  const text = (n) => String(Math.round(n * 100) / 100);
  if (before.endsWith("(") && close) {
    const own = (Number(close[1]) * weight) / had;
    const inner = Math.abs(own - 1) < 0.005 ? word : `(${word}:${text(own)})`;
    return before.slice(0, -1) + inner + after.slice(close[0].length);
  }
  return Math.abs(weight / had - 1) < 0.005 ? prompt : `${before}(${word}:${text(weight / had)})${after}`;
}

const KINDS = [
  ["red", "blue", "green", "yellow", "orange", "purple", "pink", "black", "white", "brown", "grey"], ["one", "two", "three", "four", "five"],
  ["big", "small", "tiny", "huge"], ["left", "right"], ["above", "below", "beside", "behind"],
];
/* The prompt with one of its words exchanged for another of its sort, or one of its parts for a part of an earlier prompt. */
export function remix(prompt, earlier, random = Math.random) {
  const pick = (list) => list[Math.floor(random() * list.length)];
  const spots = [...prompt.matchAll(/[a-z]+/gi)].flatMap((m) => KINDS.filter((kind) => kind.includes(m[0].toLowerCase())).map((kind) => [m.index, m[0], kind]));
  const others = earlier.flatMap((text) => text.split(/,| on | and /)).map((text) => text.trim()).filter((text) => text && !prompt.includes(text));
  const parts = prompt.split(/(,\s*| on | and )/);
  if (others.length && (!spots.length || random() < 0.35)) {
    parts[2 * Math.floor((random() * (parts.length + 1)) / 2)] = pick(others);
    return parts.join("");
  }
  if (!spots.length) return prompt;
  const [at, word, kind] = pick(spots);
  return prompt.slice(0, at) + pick(kind.filter((other) => other !== word.toLowerCase())) + prompt.slice(at + word.length);
}

function useAsked(form) {
  const [tokens, setTokens] = useState(null);
  const [lint, setLint] = useState(null);
  const first = permutations(form.prompt)[0];
  const plain = first === form.prompt;
  const request = Object.fromEntries(Object.entries(formRequest(form)).filter(([name]) => ["steps", "size", "mix", "emphasis"].includes(name)));
  const known = useStore((s) => !!s.models?.models?.length);
  useEffect(() => {
    if (!known) return; // without a model nobody reads words
    const stop = new AbortController(), { signal } = stop;
    const timer = setTimeout(() => {
      const model = modelOf(form.model)?.name ?? "default", emphasis = form.emphasis;
      api("/v1/tokenize", { method: "POST", signal, body: { prompt: first, model, emphasis } }).then(setTokens, () => signal.aborted || setTokens(null));
      if (form.prompt.trim()) api("/v1/lint", { method: "POST", signal, body: { prompt: first, negative: form.negative, model, emphasis, request } }).then(setLint, () => signal.aborted || setLint(null));
      else setLint(null);
    }, 180);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [known, first, form.negative, form.model, form.emphasis, JSON.stringify(request)]);
  return { tokens, lint, plain };
}

function Tokens({ tokens, plain, form, edit }) {
  const list = (tokens?.tokens ?? []).filter((t) => t.start !== null && t.start !== undefined);
  if (!list.length) return null;
  const over = list.filter((t) => t.window > 0).length;
  return html`<div><div class="tokens" role="list" aria-label="Tokens of the prompt">${list.map((t, i) => html`<span key=${i} role="listitem" class="chip token ${t.window > 0 ? "over" : ""} ${Math.abs(t.weight - 1) > 0.004 ? "heavy" : ""}" title=${`token ${t.id}${t.window > 0 ? `, beyond the first ${tokens.limit}: read in window ${t.window + 1}` : ""}`}>
      <span>${t.text.replace("</w>", "").trim() || "␣"}<sub>${t.id}</sub></span>${Math.abs(t.weight - 1) > 0.004 && html`<b>${t.weight.toFixed(2).replace(/0$/, "")}</b>`}
      ${plain && form.emphasis === "a1111" && html`<button aria-label=${`Less ${t.text}`} onClick=${() => edit({ prompt: reweigh(form.prompt, t.start, t.end, t.weight, Math.max(0.1, t.weight - 0.1)) })}>−</button>
      <button aria-label=${`More ${t.text}`} onClick=${() => edit({ prompt: reweigh(form.prompt, t.start, t.end, t.weight, Math.min(2, t.weight + 0.1)) })}>+</button>`}</span>`)}</div>
    ${tokens.limit && html`<small class="quiet">${over ? html`${list.length} tokens, <span class="over">${over} beyond the ${tokens.limit} that one window holds</span>` : `${list.length} of ${tokens.limit} tokens`}</small>`}</div>`;
}

const STOP = { guidance: 2, size: 4 };
/* What could be said better. Fix does it; where only its author can, Show marks the place. */
function Finding({ finding, form, plain, edit, run, show: mark }) {
  const [why, show] = useState(false);
  const { kind, field, start, end, message, reason, fix } = finding;
  const text = field === "prompt" ? form.prompt : field === "negative" ? form.negative : "", words = plain || field !== "prompt" ? text.slice(start, end) : "";
  const mend = () => {
    const patch = {}, { mix, size } = fix.request ?? {};
    if (fix.prompt !== null && fix.prompt !== undefined && plain) patch.prompt = fix.prompt;
    if (fix.negative !== null && fix.negative !== undefined) patch.negative = fix.negative;
    if (size) patch.size = size;
    if (mix) Object.assign(patch, form.mix ? { mix } : { guidance: mix.scale });
    edit(patch);
  };
  const can = fix && (plain || fix.request || (fix.negative ?? form.negative) !== form.negative);
  return html`<li class="finding"><p><b>${kind}</b> ${message}</p>
    ${can ? html`<button onClick=${mend}>Fix</button>` : html`<button onClick=${() => mark(field, start, end)}>Show</button>`}
    <button aria-expanded=${why} onClick=${() => show(!why)}>Why</button>
    ${why && html`<p>${reason} <a href=${`/explain${run ? "/" + run.id : ""}?stop=${STOP[kind] ?? 0}${words ? "&at=" + encodeURIComponent(words.slice(0, 60)) : ""}`}>See it in Explain</a></p>`}</li>`;
}

const focused = (element) => element?.focus(); // one function: a new one a drawing would be called at every drawing

function Presets({ form, edit }) {
  const [own, keepOwn] = usePersisted("presets", []);
  const [naming, name] = useState(null);
  const fields = ["negative", "steps", "guidance", "sampler", "grid", "mix", "bends", "size", "count", "emphasis", "temperature", "churn", "hires"];
  return html`<div class="presets" role="group" aria-label="Presets">${PRESETS.map(([title, patch]) => html`<button key=${title} aria-pressed=${Object.entries(patch).every(([k, v]) => form[k] === v)} onClick=${() => edit(patch)}>${title}</button>`)}
    ${own.map((p) => html`<span class="row" key=${p.title}><button onClick=${() => edit(p.fields)}>${p.title}</button><button class="ghost" aria-label=${`Forget preset ${p.title}`} onClick=${() => keepOwn(own.filter((x) => x !== p))}><${Icon} name="close" /></button></span>`)}
    ${naming === null ? html`<button class="ghost" onClick=${() => name("")}><${Icon} name="plus" />Preset</button>` : html`<form class="row" onSubmit=${(e) => { e.preventDefault(); if (naming.trim()) keepOwn([...own.filter((p) => p.title !== naming.trim()), { title: naming.trim(), fields: Object.fromEntries(fields.map((f) => [f, form[f]])) }]); name(null); }}>
      <input aria-label="Name of the preset" placeholder="name" value=${naming} onInput=${(e) => name(e.target.value)} onKeyDown=${(e) => { if (e.key === "Escape") { e.preventDefault(); name(null); } }} ref=${focused} /><button>Save</button></form>`}</div>`;
}

function Actions({ run, i }) {
  const request = run.request ?? {}, fixed = recorded(run.id);
  const vary = async () => {
    const task = { kind: "vary", seed: newSeed(), strength: 0.2, number: (request.index ?? 0) + i, of: request.variation ? { kind: "vary", ...request.variation, of: request.task } : request.task ?? { kind: "text" } };
    const made = await attempt(runs.make({ model: run.model, request: { ...request, prompt: alone(run, i).prompt, count: 4, task, variation: null }, record: run.record, parent: run.id, relation: "vary" }));
    if (made) hold(made);
  };
  const upscale = async () => {
    const made = await attempt(runs.make(enlarged(run, i)));
    if (made) hold(made);
  };
  return html`<div class="tools" role="group" aria-label="With this picture">
    ${!fixed && html`<button onClick=${vary} title="Four pictures a little way off">Vary</button><button onClick=${upscale} title="Twice as large: enlarged, then its details drawn again">Upscale</button><a class="button" href=${`/edit/${run.id}?picture=${i}`}>Edit</a><a class="button" href=${`/morph?run=${run.id}&picture=${i}`}>Morph</a>
    <button onClick=${() => { if (!state.tray.includes(run.id)) toTray(run.id); go("/compare", { runs: state.tray.join() }); }}>Compare</button>`}<a class="button" href=${`/explain/${run.id}?picture=${i}`}>Explain</a><a class="button" href=${`/run/${run.id}?picture=${i}`}>Microscope</a>
    <span class="quieter"><button onClick=${() => { restore(request, run.model); say("The form is as it was for this picture"); }}>Reuse settings</button>
    ${!fixed && html`<button onClick=${() => copyCommand(run, "cli", i)}>Copy CLI</button><button onClick=${() => copyCommand(run, "curl", i)}>Copy curl</button>`}<a class="button" href=${file(run, i)} download=${`${run.id}-${i}.png`}><${Icon} name="save" />Download</a></span></div>`;
}

export function Stage({ run, i, onOpen }) {
  const film = useReel(run, "x0", i);
  const k = useStep();
  const shot = run?.pictures?.[i];
  const [h, w] = shot ? [shot.height, shot.width] : run?.request?.size ?? (film ? [...film.size].reverse() : [1, 1]);
  const whole = shot && (k === null || !film.count || k >= film.count);
  return html`<div class="stage ${run ? "made" : ""}" style=${`--ratio:${w}/${h}`} onDblClick=${onOpen}>
    ${!run ? html`<div class="empty"><p>Say what shall be seen, then watch it develop.</p></div>`
      : whole ? html`<img class="shot" src=${file(run, i)} alt=${run.prompt || "A picture without a prompt"} width=${w} height=${h} />`
      : film.count ? html`<${Frame} run=${run} picture=${i} label=${`${run.prompt || "The picture"} at step ${film.at(k) + 1}`} />`
      : html`<div class="empty"><span class="pulse ${run.state}"></span><p>${run.state === "failed" ? run.error : progress(run)}</p></div>`}
    ${["stopped", "paused"].includes(run?.state) && film.count > 0 && html`<span class="tag left">${run.state}, not finished: step ${run.steps_done} of ${run.steps}</span>`}</div>`;
}

function Status({ run, i }) {
  const k = useStep();
  useStore((s) => s.live[s.current]?.k);
  const done = run?.state === "done";
  return html`<p class="status" role="status" aria-live="polite">${!run ? "" : done && k !== null ? html`<button class="link" onClick=${() => setStep(null)}>back to the finished picture</button>`
    : html`${progress(run)}${done && html`, seed <b class="mono">${run.seed}</b>${run.pictures.length > 1 ? ` picture ${i + 1}` : ""}${run.request?.size ? `, ${run.request.size[1]} × ${run.request.size[0]}` : ""}`}`}</p>`;
}

/* What waits behind the run on the stage, each with its place. */
function Queue({ run }) {
  const jobs = useStore((s) => waiting(s));
  const queued = jobs.filter((job) => job.state === "queued" && job.id !== run?.id);
  if (!queued.length) return null;
  return html`<ul class="stack small quiet" aria-label="Waiting">${queued.slice(0, 3).map((job) => html`<li key=${job.id}><button class="link" onClick=${() => hold(job)}>${job.title || job.prompt || job.kind}</button>: ${progress(job, jobs.indexOf(job))}</li>`)}${queued.length > 3 && html`<li>and ${queued.length - 3} more</li>`}</ul>`;
}

let More = null;
export function screen() {
  const [form, change] = usePersisted("form", FORM);
  const edit = (patch) => change((old) => ({ ...old, ...patch }));
  const run = useStore((s) => s.runs[s.current]);
  const i = useStore((s) => s.picture);
  useStore((s) => s.live[s.current]?.k);
  useStore((s) => s.models);
  const rows = useStore((s) => s.live[s.current]?.frames.x0?.at(-1)?.length ?? 0);
  const [busy, sending] = useState(false);
  const [, drawn] = useState(!!More);
  useEffect(() => {
    if (form.more && !More) import("./drawer.js").then((module) => { More = module.More; drawn(true); }, fail);
  }, [form.more]);
  const model = modelOf(form.model);
  const { tokens, lint, plain } = useAsked(form);
  const prompts = permutations(form.prompt);
  const area = useRef();
  const generate = async () => {
    if (busy) return;
    sending(true);
    const seed = form.locked ? form.seed : newSeed();
    edit({ seed });
    const made = await attempt(runs.make({ model: modelOf(form.model)?.name ?? "default", request: formRequest({ ...form, seed }), record: form.record }));
    sending(false);
    if (!made) return;
    const shown = state.runs[state.current];
    if (isActive(shown)) note("info", `Queued, ${progress(made).replace("queued, ", "")}; what is made now stays on the stage`, { brief: true });
    else hold(made);
    say("Queued");
  };
  useKeys({ "Ctrl+Enter": [generate, "Generate"] });
  const active = isActive(run);
  const count = Math.max(run?.pictures?.length ?? 0, rows, 0);
  const history = () => Object.values(state.runs).sort((a, b) => b.created - a.created).slice(0, 20).map((r) => r.prompt).filter(Boolean);
  const mark = (field, start, end, tries = 30) => {
    const box = field === "prompt" ? area.current : document.querySelector(".more input");
    if (!box) { // the drawer opens first
      edit({ more: true });
      return void (tries && setTimeout(() => mark(field, start, end, tries - 1), 50));
    }
    box.focus();
    if (field === "prompt" || field === "negative") box.setSelectionRange(start, end);
  };
  return html`<div class="screen create"><h1 class="hear">Create</h1>
    <div class="ask">
      <div class="panel">
        <div class="stack"><label class="row between" for="prompt"><span class="small quiet">Prompt</span><small class="quiet">${prompts.length > 1 ? `${prompts.length} prompts, ${prompts.length * form.count} pictures` : "{a|b} makes one of each"}</small></label>
          <textarea id="prompt" ref=${area} rows="3" value=${form.prompt} placeholder=${EXAMPLES[0]} onInput=${(e) => edit({ prompt: e.target.value })} spellcheck="false"></textarea>
          <${Tokens} tokens=${tokens} plain=${plain} form=${form} edit=${edit} />
          ${lint?.findings?.length > 0 && html`<ul class="stack" aria-label="What could be said better">${lint.findings.map((f, n) => html`<${Finding} key=${f.kind + n} finding=${f} form=${form} plain=${plain} edit=${edit} run=${run} show=${mark} />`)}</ul>`}
        </div>
        <div class="go"><button class="primary" aria-keyshortcuts="Control+Enter" disabled=${busy} onClick=${generate}>${active ? "Queue another" : "Generate"}</button>
          ${active ? html`<button onClick=${() => attempt(runs.act(run.id, "cancel"))}><${Icon} name="stop" />Stop</button>` : run?.state === "stopped" ? html`<button onClick=${() => attempt(runs.act(run.id, "resume"))}><${Icon} name="play" />Resume</button>` : ""}</div>
        <div class="row wrap"><button class="ghost" title="Exchange one word" onClick=${() => edit({ prompt: remix(form.prompt || EXAMPLES[0], history()) })}><${Icon} name="loop" />Remix</button>
          <button class="ghost" onClick=${() => edit({ prompt: EXAMPLES[(EXAMPLES.indexOf(form.prompt) + 1) % EXAMPLES.length] })}>Example</button>
          <button class="ghost" onClick=${() => form.prompt && edit({ scratch: [form.prompt, ...form.scratch.split("\n").filter((l) => l && l !== form.prompt)].join("\n") })}>To scratchpad</button></div>
        <${Presets} form=${form} edit=${edit} />
        ${(state.models?.models?.length ?? 0) > 1 && html`<div class="field"><label for="model">Model</label><select id="model" value=${form.model || state.models.default} onChange=${(e) => edit({ model: e.target.value, size: null, mix: null, sampler: null, grid: null, guidance: null, steps: null })}>${state.models.models.map((m) => html`<option value=${m.name}>${m.title ?? m.name}</option>`)}</select></div>`}
      </div>
      <details class="panel" open=${form.more} onToggle=${(e) => e.target.open !== form.more && edit({ more: e.target.open })}><summary>More <small class="quiet">${[form.steps && `${form.steps} steps`, form.guidance && `guidance ${form.guidance}`, form.count > 1 && `${form.count} pictures`, form.locked && `seed ${form.seed}`].filter(Boolean).join(", ")}</small></summary>
        ${form.more && More && html`<${More} form=${form} edit=${edit} model=${model} />`}</details>
      <details class="panel"><summary>Scratchpad <small class="quiet">${form.scratch ? `${form.scratch.split("\n").filter(Boolean).length} kept` : ""}</small></summary>
        <textarea rows="4" aria-label="Scratchpad" value=${form.scratch} placeholder="One thought a line" onInput=${(e) => edit({ scratch: e.target.value })}></textarea>
        <div class="presets">${form.scratch.split("\n").filter(Boolean).slice(0, 8).map((line) => html`<button onClick=${() => edit({ prompt: line })}>${line.length > 40 ? line.slice(0, 38) + "…" : line}</button>`)}</div></details>
    </div>
    <section class="view" aria-label="The picture">
      <${Stage} run=${run} i=${i} onOpen=${() => run && go(`/run/${run.id}`, { step: cursor.k, picture: i || null })} />
      ${count > 1 && html`<div class="batch" role="group" aria-label="Pictures of this run">${Array.from({ length: count }, (_, n) => html`<button key=${n} aria-pressed=${n === i} aria-label=${`Picture ${n + 1}`} onClick=${() => set({ picture: n })}>${isActive(run) || isRecorded(run) ? html`<${Frame} run=${run} picture=${n} label="" />` : html`<${Shot} run=${run} i=${n} alt="" />`}</button>`)}</div>`}
      <${Status} run=${run} i=${i} />
      <${Queue} run=${run} />
      ${run?.pictures?.length > 0 && html`<${Actions} run=${run} i=${Math.min(i, run.pictures.length - 1)} />`}
      ${run?.state === "failed" && html`<div class="row"><span>${run.error}</span><button onClick=${() => attempt(runs.act(run.id, "retry"))}>Try again</button></div>`}
      ${!run && html`<p><a class="button" href=${`/run/${EXAMPLE}`}>Watch a recorded run</a></p><div class="presets">${EXAMPLES.map((text) => html`<button onClick=${() => { edit({ prompt: text }); area.current?.focus(); }}>${text}</button>`)}</div>`}
    </section></div>`;
}
