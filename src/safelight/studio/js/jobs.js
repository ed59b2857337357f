/* Jobs: the queue, the models, the API as text, settings and storage. */
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { api, attempt, copy, curl, runs } from "./api.js";
import { FORM, formRequest, isActive, keep, modelOf, note, persisted, say, set, usePersisted, useStore, waiting } from "./store.js";
import { amend } from "./router.js";
import { Ago, Dialog, Draft, Icon, Kind, Segments, Shot, seconds, size, useId, useLoad } from "./parts.js";
import { hold, progress } from "./shell.js";

const post = (path, body) => attempt(api(path, { method: "POST", body }));

function Queue() {
  const jobs = useStore((s) => waiting(s));
  const paused = useStore((s) => s.jobs.paused);
  const [over, hover] = useState(null);
  const [held, lift] = useState(null);
  const [log, read] = useState(null);
  const recent = useStore((s) => Object.values(s.runs).filter((r) => !isActive(r) && r.kind !== "import").sort((a, b) => b.created - a.created).slice(0, 30));
  const order = async (ids) => {
    set((s) => ({ jobs: { ...s.jobs, order: [...s.jobs.order.filter((id) => !ids.includes(id)), ...ids] } }));
    await attempt(api("/v1/jobs/order", { method: "PUT", body: { ids } }));
  };
  const still = jobs.filter((r) => r.state === "queued").map((r) => r.id);
  const move = (id, to) => {
    const rest = still.filter((x) => x !== id);
    rest.splice(Math.max(0, to), 0, id);
    order(rest);
    say(`Now at place ${Math.max(0, to) + 1} of ${rest.length}`);
  };
  const row = (run, i) => {
    const at = still.indexOf(run.id), name = run.title || run.prompt || run.kind;
    return html`<tr key=${run.id} draggable=${at >= 0} class=${over === run.id ? "over" : ""} onDragStart=${() => lift(run.id)} onDragEnd=${() => { lift(null); hover(null); }}
      onDragOver=${(e) => { if (held && at >= 0) { e.preventDefault(); hover(run.id); } }} onDrop=${(e) => { e.preventDefault(); if (held && held !== run.id) move(held, at); }}>
      <td><a class="thumb" href=${`/run/${run.id}`} aria-label=${`Open ${name}`}><${Shot} run=${run} alt="" /></a></td>
      <td><a href=${`/run/${run.id}`}>${name}</a><div><small>${progress(run, at)}${!isActive(run) ? html`, <${Ago} at=${run.finished ?? run.created} />` : run.eta != null && run.state === "queued" ? `, about ${seconds(run.eta)}` : ""}</small></div>${run.state === "running" && html`<progress max=${run.steps || 1} value=${run.steps_done} aria-label="Steps done"></progress>`}</td>
      <td><small>${run.state}</small></td>
      <td><div class="row">${at >= 0 && html`<button class="ghost" disabled=${!at} aria-label=${`Move ${name} up`} onClick=${() => move(run.id, at - 1)}><${Icon} name="up" /></button><button class="ghost" disabled=${at === still.length - 1} aria-label=${`Move ${name} down`} onClick=${() => move(run.id, at + 1)}><${Icon} name="down" /></button>`}
        ${run.state === "running" && html`<button class="ghost" aria-label=${`Pause ${name}`} onClick=${() => attempt(runs.act(run.id, "pause"))}><${Icon} name="pause" /></button>`}
        ${["paused", "stopped"].includes(run.state) && html`<button class="ghost" aria-label=${`Resume ${name}`} onClick=${() => attempt(runs.act(run.id, "resume"))}><${Icon} name="play" /></button>`}
        ${run.state === "failed" && html`<button onClick=${() => attempt(runs.act(run.id, "retry"))}>Retry</button>`}
        ${isActive(run) && html`<button class="ghost" aria-label=${`Cancel ${name}`} onClick=${() => attempt(runs.act(run.id, "cancel"))}><${Icon} name="close" /></button>`}
        <button class="ghost" aria-label=${`Log of ${name}`} onClick=${() => read(run)}><${Icon} name="jobs" /></button></div></td></tr>`;
  };
  const when = (t) => (t ? new Date(t * 1000).toLocaleTimeString() : "–");
  return html`<section class="panel"><div class="row between"><h2>Queue</h2><button onClick=${() => post(`/v1/jobs/${paused ? "resume" : "pause"}`).then(() => set((s) => ({ jobs: { ...s.jobs, paused: !paused } })))}>${paused ? "Resume queue" : "Pause queue"}</button></div>
      ${paused && html`<p role="status">The queue is paused. What runs now goes on; nothing new is begun.</p>`}
      ${jobs.length ? html`<div class="scroll"><table><thead class="hear"><tr><th>Picture</th><th>Job</th><th>State</th><th>Actions</th></tr></thead><tbody>${jobs.map(row)}</tbody></table></div>` : html`<p class="quiet">Nothing is waiting.</p>`}</section>
    <section class="panel"><h2>Lately</h2>${recent.length ? html`<div class="scroll"><table><thead class="hear"><tr><th>Picture</th><th>Job</th><th>State</th><th>Actions</th></tr></thead><tbody>${recent.map(row)}</tbody></table></div>` : html`<p class="quiet">No runs yet. <a href="/create">Make the first</a>.</p>`}</section>
    ${log && html`<${Dialog} title=${log.title || log.prompt || log.id} onClose=${() => read(null)}><pre tabindex="0">${[`id        ${log.id}`, `state     ${log.state}`, `model     ${log.model} ${log.fingerprint?.slice(0, 12) ?? ""}`, `asked     ${when(log.created)}`, `began     ${when(log.started)}`, `finished  ${when(log.finished)}`, `steps     ${log.steps_done} of ${log.steps}`, `a step    ${log.ms_per_step ? log.ms_per_step.toFixed(1) + " ms" : "–"}`, `seed      ${log.seed}`, log.parent && `from      ${log.parent} (${log.relation})`, log.error && `error     ${log.error}`].filter(Boolean).join("\n")}</pre></${Dialog}>`}`;
}

function Models() {
  const models = useStore((s) => s.models);
  const [form, change] = usePersisted("form", FORM);
  const [busy, work] = useState("");
  const [open, read] = useState(null);
  const marks = useStore((s) => Object.values(s.runs).filter((r) => r.title === "benchmark"));
  const again = () => api("/v1/models").then((found) => set({ models: found }));
  const act = async (m, verb) => { work(m.name); await post(`/v1/models/${m.name}/${verb}`); await attempt(again()); work(""); };
  useEffect(() => { const timer = setInterval(() => again().catch(() => {}), 4000); return () => clearInterval(timer); }, []);
  if (!models) return html`<p class="loading">Looking for models</p>`;
  return html`<div class="grid wide">${models.models.map((m) => {
    const mark = marks.filter((r) => r.model === m.name).sort((a, b) => b.created - a.created)[0];
    const own = m.defaults ?? m.spec?.defaults;
    return html`<article key=${m.name} class="card model"><div class="row between"><h2>${m.title ?? m.name}</h2>${(m.loaded || m.loading) && html`<span class="chip">${m.loading ? "loading" : `in memory, ${size(m.memory)}`}</span>`}</div>
      <p class="small quiet">${[m.size && `${m.size[1]} × ${m.size[0]}`, m.bytes && size(m.bytes), m.licence].filter(Boolean).join(", ")}</p>
      <p class="small">${own ? `${own.steps} steps, ${own.sampler?.kind ?? own.sampler}, guidance ${own.mix?.scale ?? own.mix?.kind}` : ""}</p>
      ${m.adapters?.length > 0 && html`<div class="field"><label for=${"adapter" + m.name}>Adapter</label><select id=${"adapter" + m.name} onChange=${(e) => change({ ...form, model: e.target.value || m.name })}><option value="">none</option>${m.adapters.map((a) => html`<option value=${a}>${a}</option>`)}</select></div>`}
      <div class="row wrap"><button aria-pressed=${modelOf(form.model)?.name === m.name} onClick=${() => { change({ ...form, model: m.name }); say(`${m.name} is used from now on`); }}>Use</button>
        <button disabled=${busy === m.name} onClick=${() => act(m, m.loaded ? "unload" : "load")}>${m.loaded ? "Unload" : "Load"}</button>
        <button onClick=${async () => { const made = await attempt(runs.make({ model: m.name, request: { prompt: [""], seed: 1 }, record: "preview", title: "benchmark" })); if (made) hold(made); }}>Benchmark</button>
        ${m.card && html`<button class="ghost" onClick=${() => read(m)}>Card</button>`}</div>
      ${mark && html`<small role="status">${mark.state === "done" ? `${mark.ms_per_step?.toFixed(1)} ms a step, ${seconds((mark.ms_per_step * mark.steps) / 1000)} a picture` : mark.state}</small>`}</article>`;
  })}</div>${open && html`<${Dialog} wide title=${open.title ?? open.name} onClose=${() => read(null)}><pre tabindex="0">${open.card}</pre></${Dialog}>`}`;
}

function Api() {
  const [form] = usePersisted("form", FORM);
  const [how, choose] = useState("curl");
  const body = { model: form.model || "default", request: formRequest(form), record: form.record };
  const python = (value) => JSON.stringify(value, null, 4).replaceAll(/\bnull\b/g, "None").replaceAll(/\btrue\b/g, "True").replaceAll(/\bfalse\b/g, "False");
  const text = {
    curl: curl("POST", "/v1/runs", body),
    python: `import json, time, urllib.request\n\ndef call(path, body=None):\n    data = json.dumps(body).encode() if body is not None else None\n    request = urllib.request.Request("${location.origin}" + path, data, {"Content-Type": "application/json"})\n    return json.load(urllib.request.urlopen(request))\n\nrun = call("/v1/runs", ${python(body)})\nwhile run["state"] in ("queued", "running", "paused"):\n    time.sleep(0.5)\n    run = call("/v1/runs/" + run["id"])\nfor k, picture in enumerate(run["pictures"]):\n    urllib.request.urlretrieve("${location.origin}" + picture["url"], f"{k}.png")`,
    openai: `from openai import OpenAI\n\nclient = OpenAI(base_url="${location.origin}/v1", api_key="${persisted("token", "") ? "YOUR TOKEN" : "none"}")\nmade = client.images.generate(model="${form.model || "default"}", prompt=${JSON.stringify(form.prompt)}, n=${form.count}, response_format="b64_json")`,
  }[how];
  return html`<section class="panel"><div class="row between wrap"><h2>What Create would send, as code</h2><${Segments} label="Language" value=${how} onChange=${choose} options=${[["curl", "curl"], ["python", "Python"], ["openai", "OpenAI client"]]} /></div>
    <pre tabindex="0">${text}</pre><div class="row wrap"><button onClick=${() => copy(text, "Code")}><${Icon} name="copy" />Copy</button><a class="button" href="/openapi.json" target="_blank">OpenAPI schema</a></div>
    <p class="small quiet">Everything the studio does is one call of this API. Clients of OpenAI's images API and of the A1111 web UI find their endpoints here too.</p></section>`;
}

const PARTS = [["pictures", "pictures", "var(--accent)"], ["traces", "recordings", "var(--quiet)"], ["drawn", "drawn again when needed", "var(--line)"], ["uploads", "uploads", "var(--good)"], ["database", "index", "var(--warn)"]];
function Settings() {
  const id = useId();
  const { data: storage, reload } = useLoad(() => api("/v1/storage"), []);
  const { data: settings, reload: again } = useLoad(() => api("/v1/settings").then((found) => (set({ settings: found }), found)), []);
  const [token, type] = useState(persisted("token", ""));
  const [sure, ask] = useState(false);
  const used = PARTS.filter(([name]) => storage?.[name]);
  const total = used.reduce((s, [name]) => s + storage[name], 0);
  const own = settings?.settings, prune = own?.prune ?? null;
  const save = (patch) => attempt(api("/v1/settings", { method: "PUT", body: { ...own, ...patch } }).then(() => { note("info", "Kept", { brief: true }); again(); }));
  return html`<section class="panel"><h2>Storage</h2>${storage && html`<div class="meter" role="img" aria-label=${used.map(([n, t]) => `${t} ${size(storage[n])}`).join(", ")}>${used.map(([name, , colour]) => html`<span style=${`width:${(100 * storage[name]) / (total || 1)}%;background:${colour}`}></span>`)}</div>
      <dl class="readout">${used.map(([name, text]) => html`<div><dt>${text}</dt><dd>${size(storage[name])}</dd></div>`)}<div><dt>runs</dt><dd>${storage.runs}</dd></div>${storage.free !== undefined && html`<div><dt>free on the disk</dt><dd>${size(storage.free)}</dd></div>`}</dl>`}
      <div class="row wrap"><button onClick=${() => ask(true)}>Prune now</button><span class="small quiet">${prune ? `Recordings go after ${prune.days ?? "no"} days or beyond ${prune.bytes ? size(prune.bytes) : "no limit"}; pictures ${prune.whole ? "go too" : "stay"}, starred runs always stay.` : "Nothing is pruned by itself."}</span></div>
      <div class="field"><label for=${id + "d"}>Keep recordings for (days)</label><${Draft} id=${id + "d"} type="number" min="1" value=${prune?.days ?? ""} placeholder="for ever" onCommit=${(text) => save({ prune: { ...(prune ?? { bytes: null, whole: false }), days: Number(text) || null } })} /></div></section>
    <section class="panel"><h2>Safety</h2>${own && html`<${Safety} safety=${own.safety} save=${save} />`}</section>
    <section class="panel"><h2>Token</h2><p class="small quiet">Only a server that listens beyond this machine wants one. It is kept in this browser.</p>
      <form class="row" onSubmit=${(e) => { e.preventDefault(); keep("token", token.trim()); document.cookie = `safelight_token=${encodeURIComponent(token.trim())}; SameSite=Strict; path=/${location.protocol === "https:" ? "; Secure" : ""}`; location.reload(); }}><input class="grow" type="password" autocomplete="off" aria-label="Token" value=${token} onInput=${(e) => type(e.target.value)} /><button>Keep</button></form></section>
    ${sure && html`<${Dialog} title="Prune now" onClose=${() => ask(false)}><div class="stack"><p>Recordings that the rule above lets go are deleted. Their pictures and settings stay, but they can no longer be scrubbed or forked.</p><div class="row"><button class="primary" onClick=${async () => { ask(false); const done = await post("/v1/prune", prune ?? {}); if (done) note("info", `${size(done.freed)} freed`); reload(); }}>Prune</button><button onClick=${() => ask(false)}>Keep everything</button></div></div></${Dialog}>`}`;
}

function Safety({ safety, save }) {
  const kinds = useStore((s) => s.parts?.safety);
  const [value, change] = useState(safety);
  return html`<${Kind} label="Policy" kinds=${kinds} value=${value} own=${{ kind: "none" }} onChange=${(v) => change(v ?? { kind: "none" })} /><div class="row"><button onClick=${() => save({ safety: value })}>Apply</button></div>`;
}

const TABS = [["queue", "Queue", Queue], ["models", "Models", Models], ["api", "API", Api], ["settings", "Settings", Settings]];
export function screen({ query }) {
  const tab = TABS.find(([name]) => name === query.tab) ?? TABS[0];
  const View = tab[2];
  return html`<div class="screen jobs"><div class="row between wrap"><h1>Jobs, models, settings</h1><${Segments} label="Part" value=${tab[0]} onChange=${(name) => amend({ tab: name === "queue" ? null : name })} options=${TABS.map(([name, text]) => [name, text])} /></div><${View} /></div>`;
}
