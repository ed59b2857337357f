/* Create: words, and the picture as it develops. */
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { api, attempt, copyCommand, picture as file, runs } from "./api.js";
import { FORM, defaults, formRequest, isActive, modelOf, newSeed, note, permutations, say, set, state, toTray, usePersisted, useStore } from "./store.js";
import { go } from "./router.js";
import { useKeys } from "./keys.js";
import { Frame, cursor, setStep, useReel, useStep } from "./filmstrip.js";
import { Icon, Kind, Segments, Slider, size as bytes, useId } from "./parts.js";
import { hold, progress, restore } from "./shell.js";

const EXAMPLES = ["three red apples on a blue background", "a {cat|dog|fox} on a yellow background", "a (big:1.3) rocket and a small moon"];
const PRESETS = [
  ["Model's own", { steps: null, guidance: null, sampler: null, grid: null, mix: null, bends: null, size: null }],
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
  useEffect(() => {
    const stop = new AbortController(), { signal } = stop;
    const timer = setTimeout(() => {
      const model = form.model || "default", emphasis = form.emphasis;
      api("/v1/tokenize", { method: "POST", signal, body: { prompt: first, model, emphasis } }).then(setTokens, () => signal.aborted || setTokens(null));
      const request = Object.fromEntries(Object.entries(formRequest(form)).filter(([name]) => ["steps", "size", "mix", "emphasis"].includes(name)));
      if (form.prompt.trim()) api("/v1/lint", { method: "POST", signal, body: { prompt: first, negative: form.negative, model, request } }).then(setLint, () => signal.aborted || setLint(null));
      else setLint(null);
    }, 180);
    return () => { clearTimeout(timer); stop.abort(); };
  }, [first, form.negative, form.model, form.emphasis, form.guidance, form.size?.join()]);
  return { tokens, lint, plain };
}

function Tokens({ tokens, plain, form, edit }) {
  const list = (tokens?.tokens ?? []).filter((t) => t.start !== null && t.start !== undefined);
  if (!list.length) return null;
  const limit = tokens.limit ?? Infinity;
  const cut = (t, i) => t.cut ?? (t.window < 0 || i >= limit * Math.max(1, tokens.windows ?? 1));
  return html`<div><div class="tokens" role="list" aria-label="Tokens of the prompt">${list.map((t, i) => html`<span key=${i} role="listitem" class="chip token ${cut(t, i) ? "cut" : ""} ${Math.abs(t.weight - 1) > 0.004 ? "heavy" : ""}" title=${`token ${t.id}${cut(t, i) ? ": beyond the model's limit, it is not read" : ""}`}>
      <span>${t.text.replace("</w>", "").trim() || "␣"}<sub>${t.id}</sub></span>${Math.abs(t.weight - 1) > 0.004 && html`<b>${t.weight.toFixed(2).replace(/0$/, "")}</b>`}
      ${plain && form.emphasis === "a1111" && html`<button aria-label=${`Less ${t.text}`} onClick=${() => edit({ prompt: reweigh(form.prompt, t.start, t.end, t.weight, Math.max(0.1, t.weight - 0.1)) })}>−</button>
      <button aria-label=${`More ${t.text}`} onClick=${() => edit({ prompt: reweigh(form.prompt, t.start, t.end, t.weight, Math.min(2, t.weight + 0.1)) })}>+</button>`}</span>`)}</div>
    ${tokens.limit && html`<small class="quiet">${list.length} of ${tokens.limit} tokens${tokens.windows > 1 ? `, in ${tokens.windows} windows` : ""}</small>`}</div>`;
}

function Finding({ finding, plain, edit, run }) {
  const [why, show] = useState(false);
  return html`<li class="finding"><p>${finding.message}</p>
    ${finding.fix && plain ? html`<button onClick=${() => edit(typeof finding.fix === "string" ? { prompt: finding.fix } : finding.fix)}>Fix</button>` : html`<span></span>`}
    <button aria-expanded=${why} onClick=${() => show(!why)}>Why</button>
    ${why && html`<p>${finding.reason} <a href=${`/explain${run ? "/" + run.id : ""}?stop=1&start=${finding.start ?? 0}`}>See it in Explain</a></p>`}</li>`;
}

function Presets({ form, edit }) {
  const [own, keepOwn] = usePersisted("presets", []);
  const [naming, name] = useState(null);
  const fields = ["negative", "steps", "guidance", "sampler", "grid", "mix", "bends", "size", "count", "emphasis"];
  return html`<div class="presets" role="group" aria-label="Presets">${PRESETS.map(([title, patch]) => html`<button key=${title} aria-pressed=${Object.entries(patch).every(([k, v]) => form[k] === v)} onClick=${() => edit(patch)}>${title}</button>`)}
    ${own.map((p) => html`<span class="row" key=${p.title}><button onClick=${() => edit(p.fields)}>${p.title}</button><button class="ghost" aria-label=${`Forget preset ${p.title}`} onClick=${() => keepOwn(own.filter((x) => x !== p))}><${Icon} name="close" /></button></span>`)}
    ${naming === null ? html`<button class="ghost" onClick=${() => name("")}><${Icon} name="plus" />Preset</button>` : html`<form class="row" onSubmit=${(e) => { e.preventDefault(); if (naming.trim()) keepOwn([...own.filter((p) => p.title !== naming.trim()), { title: naming.trim(), fields: Object.fromEntries(fields.map((f) => [f, form[f]])) }]); name(null); }}>
      <input aria-label="Name of the preset" placeholder="name" value=${naming} onInput=${(e) => name(e.target.value)} ref=${(el) => el?.focus()} /><button>Save</button></form>`}</div>`;
}

function More({ form, edit, model }) {
  const parts = useStore((s) => s.parts);
  const own = defaults(form.model);
  const id = useId();
  const [h, w] = form.size ?? model?.size ?? model?.spec?.size ?? [64, 64];
  const unit = model?.multiple ?? 8;
  const steps = form.steps ?? own?.steps ?? 20;
  const kinds = (family) => parts?.[family];
  const scale = typeof own?.mix?.scale === "number" ? own.mix.scale : 1;
  const pictures = form.count * permutations(form.prompt).length;
  const latent = model?.latent?.reduce((a, b) => a * b, 1);
  const cost = (tensors, wide) => latent && bytes(latent * tensors * (wide ? 4 : 2) * (steps + 1) * pictures);
  const conditional = model?.spec?.text !== null;
  return html`<div class="more">
    ${conditional && html`<div class="field"><label for=${id + "n"}>Negative prompt</label><input id=${id + "n"} value=${form.negative} placeholder="what guidance leads away from" onInput=${(e) => edit({ negative: e.target.value })} /></div>`}
    <${Slider} label="Steps" value=${steps} min=${parts?.request?.properties?.steps?.minimum ?? 1} max=${Math.max(60, steps)} onInput=${(v) => edit({ steps: v })} hint=${form.steps === null ? "the model's own" : ""} />
    ${conditional && !form.mix && html`<${Slider} label="Guidance" value=${form.guidance ?? scale} min=${1} max=${15} step=${0.1} onInput=${(v) => edit({ guidance: v })} hint=${form.guidance === null ? "the model's own; 1 is none" : "1 is none"} />`}
    <div class="seed"><label for=${id + "s"} class="small quiet">Seed</label><input id=${id + "s"} class="number" type="number" min="0" value=${form.seed} onInput=${(e) => edit({ seed: Math.max(0, Math.trunc(Number(e.target.value))), locked: true })} />
      <button aria-label="New seed" title="New seed" onClick=${() => edit({ seed: newSeed() })}><${Icon} name="dice" /></button>
      <button aria-pressed=${form.locked} aria-label="Keep the seed" title=${form.locked ? "The seed is kept" : "Each picture gets a new seed"} onClick=${() => edit({ locked: !form.locked })}><${Icon} name=${form.locked ? "lock" : "unlock"} /></button></div>
    <div class="two"><${Slider} label="Pictures of each prompt" value=${form.count} min=${1} max=${16} onInput=${(v) => edit({ count: v })} />
      <${Slider} label="Variation" value=${form.varyStrength} min=${0} max=${1} step=${0.01} onInput=${(v) => edit({ varyStrength: v, varySeed: form.varySeed || newSeed() })} /></div>
    ${form.varyStrength > 0 && html`<div class="field"><label for=${id + "v"}>Variation seed</label><input id=${id + "v"} class="number" type="number" min="0" value=${form.varySeed} onInput=${(e) => edit({ varySeed: Math.trunc(Number(e.target.value)) })} /></div>`}
    <div class="two">${[["Width", w, (v) => [h, v]], ["Height", h, (v) => [v, w]]].map(([title, value, of]) => html`<${Slider} label=${title} value=${value} min=${unit} max=${Math.max(4 * (model?.size?.[0] ?? 64), value)} step=${unit} suffix="px" onInput=${(v) => edit({ size: of(v) })} />`)}</div>
    <${Kind} label="Sampler" kinds=${kinds("samplers")} value=${form.sampler} own=${own?.sampler} onChange=${(v) => edit({ sampler: v })} />
    <details open=${!!(form.grid || form.mix || form.bends || form.micro)}><summary>How it is steered</summary><div class="stack">
      <${Kind} label="Where the steps lie (grid)" kinds=${kinds("grids")} value=${form.grid} own=${own?.grid} onChange=${(v) => edit({ grid: v })} />
      ${conditional && html`<${Kind} label="Guidance (mix)" kinds=${kinds("mixes")} value=${form.mix} own=${own?.mix} onChange=${(v) => edit({ mix: v })} />`}
      <${Kind} label="Bend" kinds=${kinds("bends")} value=${form.bends?.[0] ?? null} own=${own?.bends?.[0]} onChange=${(v) => edit({ bends: v ? [v] : null })} />
      <div class="field"><label for=${id + "e"}>Brackets in prompts</label><select id=${id + "e"} value=${form.emphasis} onChange=${(e) => edit({ emphasis: e.target.value })}>${["a1111", "comfy", "compel", "none"].map((v) => html`<option value=${v}>${v}</option>`)}</select></div>
      <div class="field"><label for=${id + "m"}>Pictures at a time</label><input id=${id + "m"} type="number" min="1" value=${form.micro ?? ""} placeholder="all" onInput=${(e) => edit({ micro: Number(e.target.value) || null })} /></div></div></details>
    <div class="stack"><h3 id=${id + "r"}>What is recorded</h3><${Segments} label="What is recorded" value=${form.record} onChange=${(v) => edit({ record: v })} options=${[["preview", "To look at"], ["exact", "To fork"], ["branches", "Everything"]]} />
      <small class="quiet">${{ preview: "half precision, for watching only", exact: "any step can be gone on from", branches: "also what guidance saw: the dial works at every step" }[form.record]}${cost(2, 1) ? `; ${cost(...{ preview: [2, 0], exact: [3, 1], branches: [5, 1] }[form.record])}` : ""}</small></div>
  </div>`;
}

function Actions({ run, i }) {
  const request = run.request ?? {};
  const vary = async () => {
    const prompts = [request.prompt ?? ""].flat(), count = request.count ?? 1;
    const task = { kind: "vary", seed: newSeed(), strength: 0.2, number: (request.index ?? 0) + i, of: request.task ?? { kind: "text" } };
    const made = await attempt(runs.make({ model: run.model, request: { ...request, prompt: [prompts[Math.floor(i / count)] ?? prompts[0]], count: 4, task }, record: run.record, parent: run.id, relation: "vary" }));
    if (made) hold(made);
  };
  const upscale = async () => {
    const { seal, width, height } = run.pictures[i], prompts = [request.prompt ?? ""].flat();
    const task = { kind: "image", picture: seal, strength: 0.35 };
    const made = await attempt(runs.make({ model: run.model, request: { ...request, prompt: [prompts[Math.floor(i / (request.count ?? 1))] ?? prompts[0]], count: 1, size: [height * 2, width * 2], task }, record: run.record, parent: run.id, relation: "edit", title: "twice as large" }));
    if (made) hold(made);
  };
  return html`<div class="tools" role="group" aria-label="With this picture">
    <button onClick=${vary} title="Four pictures a little way off">Vary</button><button onClick=${upscale} title="Twice as large: enlarged, then its details drawn again">Upscale</button><a class="button" href=${`/edit/${run.id}?picture=${i}`}>Edit</a><a class="button" href=${`/morph?run=${run.id}`}>Morph</a>
    <button onClick=${() => { if (!state.tray.includes(run.id)) toTray(run.id); go("/compare", { runs: state.tray.join() }); }}>Compare</button><a class="button" href=${`/explain/${run.id}`}>Explain</a><a class="button" href=${`/run/${run.id}?picture=${i}`}>Microscope</a>
    <span class="quieter"><button onClick=${() => { restore(request, run.model); say("The form is as it was for this picture"); }}>Reuse settings</button>
    <button onClick=${() => copyCommand(run, "cli", i)}>Copy CLI</button><button onClick=${() => copyCommand(run, "curl", i)}>Copy curl</button><a class="button" href=${file(run, i)} download=${`${run.id}-${i}.png`}><${Icon} name="save" />Download</a></span></div>`;
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
      : html`<div class="empty"><span class="pulse ${run.state}"></span><p>${run.state === "failed" ? run.error : progress(run)}</p></div>`}</div>`;
}

function Status({ run }) {
  const k = useStep();
  useStore((s) => s.live[s.current]?.k);
  const done = run?.state === "done";
  return html`<p class="status" role="status" aria-live="polite">${!run ? "" : done && k !== null ? html`<button class="link" onClick=${() => setStep(null)}>back to the finished picture</button>`
    : html`${progress(run)}${done && html`, seed <b class="mono">${run.seed}</b>${run.request?.size ? `, ${run.request.size[1]} × ${run.request.size[0]}` : ""}`}`}</p>`;
}

export function screen() {
  const [form, change] = usePersisted("form", FORM);
  const edit = (patch) => change((old) => ({ ...old, ...patch }));
  const run = useStore((s) => s.runs[s.current]);
  const i = useStore((s) => s.picture);
  useStore((s) => s.live[s.current]?.k);
  useStore((s) => s.models);
  const rows = useStore((s) => s.live[s.current]?.frames.x0?.at(-1)?.length ?? 0);
  const recent = useStore((s) => Object.keys(s.runs).length);
  const [busy, sending] = useState(false);
  const model = modelOf(form.model);
  const { tokens, lint, plain } = useAsked(form);
  const prompts = permutations(form.prompt);
  const area = useRef();
  const generate = async () => {
    if (busy) return;
    sending(true);
    const seed = form.locked ? form.seed : newSeed();
    edit({ seed });
    const made = await attempt(runs.make({ model: form.model || "default", request: formRequest({ ...form, seed }), record: form.record }));
    sending(false);
    if (!made) return;
    const shown = state.runs[state.current];
    if (isActive(shown)) note("info", "Queued; what is made now stays on the stage", { brief: true });
    else hold(made);
    say("Queued");
  };
  useKeys({ "Ctrl+Enter": [generate, "Generate"] });
  const active = isActive(run);
  const count = Math.max(run?.pictures?.length ?? 0, rows, 0);
  const history = Object.values(state.runs).sort((a, b) => b.created - a.created);
  return html`<div class="screen create"><h1 class="hear">Create</h1>
    <div class="ask">
      <div class="panel">
        <div class="stack"><label class="row between" for="prompt"><span class="small quiet">Prompt</span><small class="quiet">${prompts.length > 1 ? `${prompts.length} prompts, ${prompts.length * form.count} pictures` : "{a|b} makes one of each"}</small></label>
          <textarea id="prompt" ref=${area} rows="3" value=${form.prompt} placeholder=${EXAMPLES[0]} onInput=${(e) => edit({ prompt: e.target.value })} spellcheck="false"></textarea>
          <${Tokens} tokens=${tokens} plain=${plain} form=${form} edit=${edit} />
          ${lint?.findings?.length > 0 && html`<ul class="stack" aria-label="What could be said better">${lint.findings.map((f, n) => html`<${Finding} key=${f.kind + n} finding=${f} plain=${plain} edit=${edit} run=${run} />`)}</ul>`}
        </div>
        <div class="go"><button class="primary" aria-keyshortcuts="Control+Enter" disabled=${busy} onClick=${generate}>${active ? "Queue another" : "Generate"}</button>
          ${active ? html`<button onClick=${() => attempt(runs.act(run.id, "cancel"))}><${Icon} name="stop" />Stop</button>` : run?.state === "stopped" ? html`<button onClick=${() => attempt(runs.act(run.id, "resume"))}><${Icon} name="play" />Resume</button>` : ""}</div>
        <div class="row wrap"><button class="ghost" title="Exchange one word" onClick=${() => edit({ prompt: remix(form.prompt || EXAMPLES[0], history.slice(0, 20).map((r) => r.prompt).filter(Boolean)) })}><${Icon} name="loop" />Remix</button>
          <button class="ghost" onClick=${() => edit({ prompt: EXAMPLES[(EXAMPLES.indexOf(form.prompt) + 1) % EXAMPLES.length] })}>Example</button>
          <button class="ghost" onClick=${() => form.prompt && edit({ scratch: [form.prompt, ...form.scratch.split("\n").filter((l) => l && l !== form.prompt)].join("\n") })}>To scratchpad</button></div>
        <${Presets} form=${form} edit=${edit} />
        ${(state.models?.models?.length ?? 0) > 1 && html`<div class="field"><label for="model">Model</label><select id="model" value=${form.model || state.models.default} onChange=${(e) => edit({ model: e.target.value, size: null, mix: null, sampler: null, grid: null, guidance: null, steps: null })}>${state.models.models.map((m) => html`<option value=${m.name}>${m.title ?? m.name}</option>`)}</select></div>`}
      </div>
      <details class="panel" open=${form.more} onToggle=${(e) => e.target.open !== form.more && edit({ more: e.target.open })}><summary>More <small class="quiet">${[form.steps && `${form.steps} steps`, form.guidance && `guidance ${form.guidance}`, form.count > 1 && `${form.count} pictures`, form.locked && `seed ${form.seed}`].filter(Boolean).join(", ")}</small></summary>
        ${form.more && html`<${More} form=${form} edit=${edit} model=${model} />`}</details>
      <details class="panel"><summary>Scratchpad <small class="quiet">${form.scratch ? `${form.scratch.split("\n").filter(Boolean).length} kept` : ""}</small></summary>
        <textarea rows="4" aria-label="Scratchpad" value=${form.scratch} placeholder="One thought a line" onInput=${(e) => edit({ scratch: e.target.value })}></textarea>
        <div class="presets">${form.scratch.split("\n").filter(Boolean).slice(0, 8).map((line) => html`<button onClick=${() => edit({ prompt: line })}>${line.length > 40 ? line.slice(0, 38) + "…" : line}</button>`)}</div></details>
    </div>
    <section class="view" aria-label="The picture">
      <${Stage} run=${run} i=${i} onOpen=${() => run && go(`/run/${run.id}`, { step: cursor.k, picture: i || null })} />
      ${count > 1 && html`<div class="batch" role="group" aria-label="Pictures of this run">${Array.from({ length: count }, (_, n) => html`<button key=${n} aria-pressed=${n === i} aria-label=${`Picture ${n + 1}`} onClick=${() => set({ picture: n })}><${Frame} run=${run} picture=${n} label="" /></button>`)}</div>`}
      <${Status} run=${run} />
      ${run?.pictures?.length > 0 && html`<${Actions} run=${run} i=${Math.min(i, run.pictures.length - 1)} />`}
      ${run?.state === "failed" && html`<div class="row"><span>${run.error}</span><button onClick=${() => attempt(runs.act(run.id, "retry"))}>Try again</button></div>`}
      ${!run && html`<div class="presets">${EXAMPLES.map((text) => html`<button onClick=${() => { edit({ prompt: text }); area.current?.focus(); }}>${text}</button>`)}</div>`}
    </section></div>`;
}
