/* Jobs: the queue and what became of it, the models, the API as text, settings and storage. */
import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/preact-htm.js";
import { api, attempt, copy, curl, recorded, runs } from "./api.js";
import { FORM, formRequest, isActive, modelOf, note, say, set, usePersisted, useStore, waiting } from "./store.js";
import { amend } from "./router.js";
import { Ago, Dialog, Draft, Icon, Kind, Segments, Shot, seconds, size, useId, useLoad } from "./parts.js";
import { hold, progress, useTimes } from "./shell.js";

const post = (path, body) => attempt(api(path, { method: "POST", body }));
const clock = (t) => new Date(t * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", fractionalSecondDigits: 1, hour12: false });
const Facts = ({ rows }) => html`<dl class="readout">${rows.filter(([, value]) => value !== "" && value != null).map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;

/* ---- the queue ---- */

/* What happened to a run, line by line; read again while it is under way. */
function Log({ run }) {
  const { data, error, reload } = useLoad(() => api(`/v1/runs/${run.id}/log`), [run.id, run.state]);
  useEffect(() => {
    if (!isActive(run)) return;
    const timer = setInterval(reload, 2000);
    return () => clearInterval(timer);
  }, [run.id, isActive(run)]);
  return html`<div class="stack"><p class="small quiet">run <b class="mono">${run.id}</b>, ${run.model}${run.fingerprint ? ` (${run.fingerprint.slice(0, 12)})` : ""}, seed ${run.seed}${run.parent ? html`, ${run.relation} of <a href=${`/run/${run.parent}`}>${run.parent}</a>` : ""}</p>
    ${error ? html`<p>${error.message}</p>` : html`<ol class="log" aria-label="Log">${(data?.lines ?? []).map((line, i) => html`<li key=${i}><time datetime=${new Date(line.time * 1000).toISOString()}>${clock(line.time)}</time><span>${line.text}</span></li>`)}</ol>`}
    ${run.state === "failed" && html`<p class="small quiet">Where in the code it failed lies in the run's folder, as error.txt.</p>`}</div>`;
}

/* The measured milliseconds a step of a run that is made: the time that is left, over the steps that are left. */
function pace(run) {
  const left = run.steps - run.steps_done;
  return run.state === "running" && run.eta != null && left > 0 ? `, ${((1000 * run.eta) / left).toFixed(1)} ms a step` : "";
}

/* Several rows that move as one. */
const Keyed = ({ children }) => children;

function Queue() {
  const jobs = useStore((s) => waiting(s));
  const paused = useStore((s) => s.jobs.paused);
  const elsewhere = useStore((s) => s.models?.elsewhere?.join(", "));
  const recent = useStore((s) => Object.values(s.runs).filter((r) => !isActive(r) && r.kind !== "import" && !recorded(r.id)).sort((a, b) => b.created - a.created).slice(0, 30));
  const [over, hover] = useState(null);
  const [held, lift] = useState(null);
  const [open, show] = useState([]);
  const focus = useRef(null);
  useTimes(jobs.length > 0);
  useEffect(() => void api("/v1/models").then((models) => set({ models }), () => {}), []);
  // A row that moves takes the focus of its button along, also when the server's word moves it once more; until the focus goes elsewhere.
  useLayoutEffect(() => {
    const { id, button, fresh } = focus.current ?? {};
    if (!id || !(fresh || document.activeElement === document.body)) return;
    const found = document.getElementById(`${button}-${id}`);
    focus.current.fresh = false;
    (!found || found.disabled ? document.getElementById(`grip-${id}`) : found)?.focus();
  });
  useEffect(() => {
    const elsewhere = (e) => { if (focus.current && !e.target.id?.endsWith(`-${focus.current.id}`)) focus.current = null; };
    for (const name of ["focusin", "pointerdown"]) addEventListener(name, elsewhere);
    return () => { for (const name of ["focusin", "pointerdown"]) removeEventListener(name, elsewhere); };
  }, []);
  const still = jobs.filter((r) => r.state === "queued" || r.state === "paused").map((r) => r.id);
  const move = (id, to, button) => {
    to = Math.max(0, Math.min(to, still.length - 1));
    const ids = still.filter((x) => x !== id);
    ids.splice(to, 0, id);
    if (button) focus.current = { id, button, fresh: true };
    set((s) => ({ jobs: { ...s.jobs, order: [...s.jobs.order.filter((x) => !ids.includes(x)), ...ids] } }));
    say(`Now at place ${to + 1} of ${ids.length}`);
    attempt(api("/v1/jobs/order", { method: "PUT", body: { ids } }));
  };
  const last = jobs.reduce((most, run) => (run.eta == null || most === null ? null : Math.max(most, run.eta)), 0);
  const row = (run, i) => {
    const at = still.indexOf(run.id), name = run.title || run.prompt || run.kind, read = open.includes(run.id);
    const deed = (verb, icon, text) => html`<button class="ghost" aria-label=${`${text} ${name}`} title=${text} onClick=${() => attempt(runs.act(run.id, verb))}><${Icon} name=${icon} /></button>`;
    return html`<${Keyed} key=${run.id}><tr draggable=${at >= 0} class=${over === run.id ? "over" : ""} onDragStart=${(e) => { e.dataTransfer.effectAllowed = "move"; lift(run.id); }} onDragEnd=${() => { lift(null); hover(null); }}
      onDragOver=${(e) => { if (held && at >= 0) { e.preventDefault(); hover(run.id); } }} onDrop=${(e) => { e.preventDefault(); if (held && held !== run.id) move(held, at); }}>
      <td class="place">${at >= 0 && html`<button class="ghost grip" id=${`grip-${run.id}`} data-arrows aria-label=${`Place ${at + 1} of ${still.length}: ${name}. Up and down move it.`} title="Drag the row, or press up and down here"
        onKeyDown=${(e) => { const to = { ArrowUp: at - 1, ArrowDown: at + 1, Home: 0, End: still.length - 1 }[e.key]; if (to !== undefined) { e.preventDefault(); move(run.id, to, "grip"); } }}><${Icon} name="jobs" /></button>`}</td>
      <td><a class="thumb" href=${`/run/${run.id}`} aria-label=${`Open ${name}`}><${Shot} run=${run} alt="" /></a></td>
      <td><a href=${`/run/${run.id}`}>${name}</a><div><small>${progress(run, isActive(run) ? i : undefined)}${isActive(run) ? pace(run) : html`, <${Ago} at=${run.finished ?? run.created} />`}</small></div>${run.state === "running" && html`<progress max=${run.steps || 1} value=${run.steps_done} aria-label="Steps done"></progress>`}</td>
      <td class="deeds"><div class="row">${at >= 0 && html`<button class="ghost" id=${`up-${run.id}`} disabled=${!at} aria-label=${`Move ${name} up`} title="Up" onClick=${() => move(run.id, at - 1, "up")}><${Icon} name="up" /></button><button class="ghost" id=${`down-${run.id}`} disabled=${at === still.length - 1} aria-label=${`Move ${name} down`} title="Down" onClick=${() => move(run.id, at + 1, "down")}><${Icon} name="down" /></button>`}
        ${["running", "queued"].includes(run.state) && deed("pause", "pause", "Pause")}
        ${["paused", "stopped"].includes(run.state) && deed("resume", "play", "Resume")}
        ${["failed", "stopped"].includes(run.state) && html`<button aria-label=${`Retry ${name}`} title="From its beginning" onClick=${() => attempt(runs.act(run.id, "retry"))}>Retry</button>`}
        ${isActive(run) && deed("cancel", "close", "Cancel")}
        <button class="ghost" aria-expanded=${read} aria-controls=${`log-${run.id}`} aria-label=${`Log of ${name}`} onClick=${() => show(read ? open.filter((id) => id !== run.id) : [...open, run.id])}>Log</button></div></td></tr>
      ${read && html`<tr class="told"><td colspan="4" id=${`log-${run.id}`}><${Log} run=${run} /></td></tr>`}</${Keyed}>`;
  };
  const table = (list) => html`<div class="scroll"><table><thead class="hear"><tr><th>Place</th><th>Picture</th><th>Job</th><th>Actions</th></tr></thead><tbody>${list.map(row)}</tbody></table></div>`;
  return html`<section class="panel"><div class="row between wrap"><h2>Queue</h2><small role="status">${jobs.length && !paused ? `${jobs.length} ${jobs.length === 1 ? "job" : "jobs"}${last ? `, all done in about ${seconds(last)}` : ""}` : ""}</small><button onClick=${() => post(`/v1/jobs/${paused ? "resume" : "pause"}`).then((done) => done && set((s) => ({ jobs: { ...s.jobs, paused: !paused } })))}>${paused ? "Resume queue" : "Pause queue"}</button></div>
      ${paused && html`<p role="status">The queue is paused. What runs now goes on; nothing new is begun.</p>`}
      ${elsewhere && html`<p role="status">Another server of this data folder makes the pictures (${elsewhere}). This one takes over when it ends.</p>`}
      ${jobs.length ? table(jobs) : html`<p class="quiet">Nothing is waiting.</p>`}</section>
    <section class="panel"><h2>Lately</h2>${recent.length ? table(recent) : html`<p class="quiet">No runs yet. <a href="/create">Make the first</a>.</p>`}</section>`;
}

/* ---- models ---- */

/* How a model was trained, as far as its file says. */
function recipe({ lineage: l = {} }) {
  const { plan = {}, data = {}, objective = {} } = l, count = (n, what) => n != null && `${n.toLocaleString()} ${what}`;
  return [
    ["recipe", l.recipe], ["data", [data.kind, count(data.pictures, "pictures")].filter(Boolean).join(", ")], ["seen", [count(l.images, "pictures"), count(l.step, "steps")].filter(Boolean).join(" in ")],
    ["batch", plan.batch], ["optimizer", plan.optimizer && `${plan.optimizer.kind}, rate ${plan.optimizer.lr}`], ["objective", objective.kind && `${objective.kind}${objective.drop ? `, ${Math.round(100 * objective.drop)} % without words` : ""}`],
    ["loss, held out", l.held_out?.toFixed(4)], ["trained with", l.code], ["seed", plan.seed],
  ];
}

function Model({ m, mark, form, change, again, read }) {
  const [busy, work] = useState(false);
  const own = m.defaults, used = modelOf(form.model)?.name === m.name;
  const act = async (verb) => { work(true); if (await post(`/v1/models/${m.name}/${verb}`)) await attempt(again()); work(false); };
  const bench = async () => { const made = await attempt(runs.make({ model: m.name, request: { prompt: [""], seed: 1 }, record: "preview", title: "benchmark" })); if (made) hold(made); };
  const rate = mark?.state === "done" && mark.ms_per_step;
  return html`<article class="card model" aria-labelledby=${`model-${m.name}`}><div class="row between wrap"><h2 id=${`model-${m.name}`}>${m.title}</h2><span class="chip">${m.loading ? "loading" : m.loaded ? `in memory, ${size(m.memory)}` : "on the disk"}</span></div>
    <${Facts} rows=${[
      ["resolution", `${m.size[1]} × ${m.size[0]}, ${m.channels === 1 ? "grey" : "colour"}`], ["latent", `${m.latent.join(" × ")}`], ["hears", m.conditional ? (m.classes.length ? `${m.classes.length} classes` : "words") : "nothing"],
      ["parameters", `${(m.parameters / 1e6).toFixed(2)} M`], ["file", size(m.bytes)], ["licence", m.licence || "not said"],
      ["memory", m.loaded ? `${size(m.memory)} on ${m.devices.join(", ")}` : `about ${size(4 * m.parameters)} when loaded`],
      ["steps", own.steps], ["sampler", own.sampler?.kind], ["grid", own.grid?.kind], ["guidance", own.mix?.scale ?? own.mix?.kind], ["weights", m.weights.join(", ")], ["adapters", m.adapters.join(", ") || "none"],
    ]} />
    <details><summary>How it was trained</summary><${Facts} rows=${recipe(m)} />${m.lineage.notes && html`<p class="small quiet">${m.lineage.notes}</p>`}<p class="small quiet">fingerprint <span class="mono">${m.fingerprint}</span></p></details>
    <div class="row wrap"><button aria-pressed=${used} onClick=${() => { change({ ...form, model: m.name }); say(`${m.title} is used from now on`); }}>Use</button>
      <button disabled=${busy || m.loading} onClick=${() => act(m.loaded ? "unload" : "load")}>${m.loaded ? "Unload" : "Load"}</button>
      <button disabled=${isActive(mark)} onClick=${bench}>Benchmark</button>
      ${m.card && html`<button class="ghost" onClick=${() => read(m)}>Card</button>`}</div>
    ${mark && html`<p class="small" role="status">${rate ? html`<b>${(1000 / rate).toFixed(1)} steps/s</b>, ${rate.toFixed(1)} ms a step at ${m.size[1]} × ${m.size[0]}, ${seconds((rate * mark.steps) / 1000)} a picture of ${mark.steps} steps` : progress(mark)}</p>`}</article>`;
}

function Models() {
  const models = useStore((s) => s.models);
  const [form, change] = usePersisted("form", FORM);
  const [open, read] = useState(null);
  const marks = useStore((s) => Object.values(s.runs).filter((r) => r.title === "benchmark").sort((a, b) => b.created - a.created));
  const again = () => api("/v1/models").then((found) => set({ models: found }));
  useEffect(() => {
    runs.list({ q: "benchmark", limit: 20 }).catch(() => {});
    again().catch(() => {});
    const timer = setInterval(() => again().catch(() => {}), 2000);
    return () => clearInterval(timer);
  }, []);
  if (!models) return html`<p class="loading">Looking for models</p>`;
  const adapted = models.models.some((m) => m.adapters.length);
  return html`<div class="grid wide">${models.models.map((m) => html`<${Model} key=${m.name} m=${m} mark=${marks.find((r) => r.model === m.name)} form=${form} change=${change} again=${again} read=${read} />`)}</div>
    ${!adapted && html`<p class="small quiet">No model file here carries an adapter.</p>`}
    ${open && html`<${Dialog} wide title=${open.title} onClose=${() => read(null)}><pre tabindex="0">${open.card}</pre></${Dialog}>`}`;
}

/* ---- the API ---- */

/* A JSON value as Python writes it. */
function literal(value, pad = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map((v) => literal(v, pad)).join(", ")}]`;
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = pad + "    ";
  return `{\n${Object.entries(value).map(([name, v]) => `${inner}${JSON.stringify(name)}: ${literal(v, inner)}`).join(",\n")},\n${pad}}`;
}

/* What Create would send now, as a program. */
function program(how, form, token) {
  const body = { model: form.model || "default", request: formRequest(form), record: form.record }, base = JSON.stringify(location.origin);
  if (how === "curl") return `${curl("POST", "/v1/runs?picture=0", body)} \\\n  --output 0.png`;
  const secret = token ? "import os\n" : "", bearer = token ? ', "Authorization": "Bearer " + os.environ["SAFELIGHT_TOKEN"]' : "";
  if (how === "python") return `import json
${secret}import time
import urllib.request


def call(path, body=None):
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(${base} + path, data, {"Content-Type": "application/json"${bearer}})
    return urllib.request.urlopen(request).read()


run = json.loads(call("/v1/runs", ${literal(body)}))
while run["state"] in ("queued", "running", "paused"):
    time.sleep(0.2)
    run = json.loads(call("/v1/runs/" + run["id"]))
for k, picture in enumerate(run["pictures"]):
    with open(f"{k}.png", "wb") as file:
        file.write(call(picture["url"]))
`;
  const { prompt, seed, steps, size: [h, w] = [], negative, mix } = body.request;
  const more = { seed, ...(steps && { steps }), ...(negative && { negative_prompt: negative }), ...(mix?.kind === "cfg" && { guidance: mix.scale }) };
  return `import base64
${secret}
import openai

client = openai.OpenAI(base_url=${base} + "/v1", api_key=${token ? 'os.environ["SAFELIGHT_TOKEN"]' : '"none"'})
made = client.images.generate(
    model=${JSON.stringify(body.model)},
    prompt=${JSON.stringify(prompt[0])},
    n=${form.count},${h ? `\n    size="${w}x${h}",` : ""}
    extra_body=${literal(more, "    ")},
)
for k, picture in enumerate(made.data):
    with open(f"{k}.png", "wb") as file:
        file.write(base64.b64decode(picture.b64_json))
`;
}

function Api() {
  const [form] = usePersisted("form", FORM);
  const [how, choose] = useState("curl");
  const token = useStore((s) => s.settings?.token);
  const text = program(how, form, token);
  return html`<section class="panel"><div class="row between wrap"><h2>What Create would send, as code</h2><${Segments} label="Language" value=${how} onChange=${choose} options=${[["curl", "curl"], ["python", "Python"], ["openai", "OpenAI client"]]} /></div>
    <pre tabindex="0" aria-label="Code">${text}</pre><div class="row wrap"><button onClick=${() => copy(text, "Code")}><${Icon} name="copy" />Copy</button><a class="button" href="/openapi.json" target="_blank">OpenAPI schema</a></div>
    <p class="small quiet">It follows the form of Create. Everything the studio does is one call of this API; clients of OpenAI's images API and of the A1111 web UI find their endpoints here too.</p></section>`;
}

/* ---- settings ---- */

const PARTS = [["pictures", "pictures", "var(--accent)"], ["traces", "recordings", "var(--quiet)"], ["drawn", "drawn again when needed", "var(--line)"], ["uploads", "uploads", "var(--good)"], ["database", "index", "var(--warn)"]];
function Settings() {
  const id = useId();
  const { data: storage, error, reload } = useLoad(() => api("/v1/storage"), []);
  const { data: settings, reload: again } = useLoad(() => api("/v1/settings").then((found) => (set({ settings: found }), found)), []);
  const [sure, ask] = useState(false);
  const used = PARTS.filter(([name]) => storage?.[name]);
  const total = used.reduce((s, [name]) => s + storage[name], 0);
  const own = settings?.settings, rule = own?.prune ?? null;
  const save = (patch) => attempt(api("/v1/settings", { method: "PUT", body: { ...own, ...patch } }).then(() => { note("info", "Kept", { brief: true }); again(); }));
  const keepTill = (patch) => save({ prune: { days: null, bytes: null, whole: false, ...rule, ...patch } });
  const goes = !rule || (rule.days === null && rule.bytes === null) ? "Nothing is pruned by itself."
    : `Recordings go ${[rule.days !== null && `after ${rule.days} days`, rule.bytes !== null && `beyond ${size(rule.bytes)}`].filter(Boolean).join(" or ")}, the oldest first; ${rule.whole ? "their pictures go too" : "their pictures stay"}. Starred runs always stay.`;
  return html`<section class="panel"><h2>Storage</h2>${error && html`<p>${error.message}</p>`}${storage && html`<div class="meter" role="img" aria-label=${used.map(([n, t]) => `${t} ${size(storage[n])}`).join(", ")}>${used.map(([name, , colour]) => html`<span style=${`width:${(100 * storage[name]) / (total || 1)}%;background:${colour}`}></span>`)}</div>
      <${Facts} rows=${[...used.map(([name, text]) => [text, size(storage[name])]), ["runs", storage.runs], ["in all", size(storage.total)], ["free on the disk", size(storage.free)]]} />`}
      <p class="small quiet">${goes}</p>
      ${own && html`<div class="row wrap"><div class="field"><label for=${id + "d"}>Keep recordings for (days)</label><${Draft} id=${id + "d"} type="number" min="1" value=${rule?.days ?? ""} placeholder="for ever" onCommit=${(text) => keepTill({ days: Number(text) || null })} /></div>
        <div class="field"><label for=${id + "b"}>Keep at most (GB)</label><${Draft} id=${id + "b"} type="number" min="0" step="any" value=${rule?.bytes == null ? "" : +(rule.bytes / 1e9).toFixed(3)} placeholder="no limit" onCommit=${(text) => keepTill({ bytes: text === "" ? null : Math.round(Number(text) * 1e9) })} /></div>
        <label class="check"><input type="checkbox" checked=${rule?.whole ?? false} onChange=${(e) => keepTill({ whole: e.target.checked })} /> Pictures go with their recordings</label></div>`}
      <div class="row wrap"><button disabled=${!own} onClick=${() => ask(true)}>Prune now</button></div></section>
    <section class="panel"><h2>Safety</h2>${own && html`<${Safety} safety=${own.safety} save=${save} />`}</section>
    <section class="panel"><h2>Token</h2>${settings?.token ? html`<p class="small quiet">This server wants a token. This browser is signed in.</p><div class="row"><button onClick=${async () => { const out = await attempt(api("/v1/session", { method: "DELETE" }).then(() => true)); if (out) location.reload(); }}>Sign out</button></div>`
      : html`<p class="small quiet">This server wants none${settings?.local ? ": it listens to this machine alone" : ""}. Started with --new-token it makes one and wants it from then on.</p>`}</section>
    ${sure && html`<${Dialog} title="Prune now" onClose=${() => ask(false)}><div class="stack"><p>${goes} ${rule?.whole ? "" : "What is pruned can no longer be scrubbed or forked."}</p><div class="row"><button class="primary" onClick=${async () => { ask(false); const done = await post("/v1/prune", rule ?? { days: null, bytes: null, whole: false }); if (done) note("info", `${size(done.freed)} freed`); reload(); }}>Prune</button><button onClick=${() => ask(false)}>Keep everything</button></div></div></${Dialog}>`}`;
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
