/* Create's drawer: everything beside the words. Loaded when it is opened. */
import { html } from "../vendor/preact-htm.js";
import { defaults, newSeed, permutations, useStore } from "./store.js";
import { Fields, Icon, Kind, Segments, Slider, size as bytes, useId } from "./parts.js";

export function More({ form, edit, model }) {
  const parts = useStore((s) => s.parts);
  const safety = useStore((s) => s.settings?.settings?.safety?.kind ?? "none");
  const own = defaults(form.model);
  const id = useId();
  const mine = model?.size ?? model?.spec?.size ?? [64, 64], [h, w] = form.size ?? mine;
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
    ${(form.hires || h * w > mine[0] * mine[1]) && html`<${Slider} label="Second pass" value=${form.hires?.second?.strength ?? 0} min=${0} max=${1} step=${0.05} onInput=${(v) => edit({ hires: v ? { ...form.hires, kind: "hires", second: { ...form.hires?.second, strength: v } } : null })} hint=${form.hires ? "how much is drawn anew after enlarging" : "0: none; else composed at the model's own size first"} />`}
    <${Slider} label="Temperature" value=${form.temperature} min=${0} max=${2} step=${0.01} onInput=${(v) => edit({ temperature: v })} hint="times all noise; 1 is the model's own" />
    <${Kind} label="Sampler" kinds=${kinds("samplers")} value=${form.sampler} own=${own?.sampler} onChange=${(v) => edit({ sampler: v })} />
    <details open=${!!(form.grid || form.mix || form.bends || form.micro || form.churn)}><summary>How it is steered</summary><div class="stack">
      <${Kind} label="Where the steps lie (grid)" kinds=${kinds("grids")} value=${form.grid} own=${own?.grid} onChange=${(v) => edit({ grid: v })} />
      ${conditional && html`<${Kind} label="Guidance (mix)" kinds=${kinds("mixes")} value=${form.mix} own=${own?.mix} onChange=${(v) => edit({ mix: v })} />`}
      <${Kind} label="Bend" kinds=${kinds("bends")} value=${form.bends?.[0] ?? null} own=${own?.bends?.[0]} onChange=${(v) => edit({ bends: v ? [v] : null })} />
      <${Fields} schema=${parts?.request?.$defs?.Churn} value=${form.churn ?? {}} onChange=${(v) => edit({ churn: v })} />
      <div class="field"><label for=${id + "e"}>Brackets in prompts</label><select id=${id + "e"} value=${form.emphasis} onChange=${(e) => edit({ emphasis: e.target.value })}>${["a1111", "comfy", "compel", "none"].map((v) => html`<option value=${v}>${v}</option>`)}</select></div>
      <div class="field"><label for=${id + "m"}>Pictures at a time</label><input id=${id + "m"} type="number" min="1" value=${form.micro ?? ""} placeholder="all" onInput=${(e) => edit({ micro: Number(e.target.value) || null })} /></div></div></details>
    <div class="stack"><h3 id=${id + "r"}>What is recorded</h3><${Segments} label="What is recorded" value=${form.record} onChange=${(v) => edit({ record: v })} options=${[["preview", "To look at"], ["exact", "To fork"], ["branches", "Everything"]]} />
      <small class="quiet">${{ preview: "half precision, for watching only", exact: "any step can be gone on from", branches: "also what guidance saw: the dial works at every step" }[form.record]}${cost(2, 1) ? `; ${cost(...{ preview: [2, 0], exact: [3, 1], branches: [5, 1] }[form.record])}` : ""}</small></div>
    <p class="small quiet">Safety: ${{ none: "nothing is refused", words: "prompts with certain words are refused", nudenet: "pictures that show nudity are refused" }[safety] ?? safety}. <a href="/jobs">Change it</a></p>
  </div>`;
}
