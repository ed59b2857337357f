/* The frame around every screen: rail, top bar, job tray, filmstrip dock, notes, palette, drop zone. The page starts here.

A screen is a module of SCREENS with   export function screen({route, query, id})   a component: hooks are fine, and what it returns
fills <main>. query are the address's values as text ({step: "4"}), id the second part of the path. Loaded when first opened.
Screens hand on to each other by address:  /edit/ID?picture=0 (or /edit?seal=&tool=inpaint)  /morph?run=ID  /compare?run=ID or ?runs=a,b  /explain/ID?stop=&step=  /mix?prompt=
/gallery?q=  /run/ID?step=&lens=&picture=. To put the run that is spoken of into the dock:  hold(run, picture).
*/
import { html, render, useEffect, useState } from "../vendor/preact-htm.js";
import { BUNDLE, api, attempt, learn, listen, recorded, runs, upload, load } from "./api.js";
import { defaults, fail, isActive, keep, say, set, state, subscribe, toTray, useStore, waiting, fill, FORM, dismiss, note } from "./store.js";
import { go, route, useRoute } from "./router.js";
import { useKeys } from "./keys.js";
import { Palette, Sheet } from "./palette.js";
import { Filmstrip, cursor, nudge, play, setStep, useReel, useStep } from "./filmstrip.js";
import { Dialog, Icon, Shot, seconds } from "./parts.js";

export const SCREENS = {
  create: { title: "Create", load: () => import("./create.js"), plain: true },
  edit: { title: "Edit", load: () => import("./edit.js") },
  mix: { title: "Mix", load: () => import("./mix.js") },
  morph: { title: "Morph", load: () => import("./morph.js") },
  compare: { title: "Compare", load: () => import("./compare.js") },
  explain: { title: "Explain", load: () => import("./explain.js") },
  gallery: { title: "Gallery", load: () => import("./gallery.js") },
  jobs: { title: "Jobs", load: () => import("./jobs.js") },
  run: { title: "Microscope", load: () => import("./microscope.js"), hidden: true, plain: true },
};

/* A recording has the screens of its run alone. */
const here = (name) => !BUNDLE || ["run", "explain"].includes(name);

/* The style sheet of all screens but the plain ones, once. */
let sheet;
const styled = () =>
  (sheet ??= new Promise((done) => {
    if (BUNDLE || document.querySelector("link[href='/studio/screens.css']")) return done();
    document.head.append(Object.assign(document.createElement("link"), { rel: "stylesheet", href: "/studio/screens.css", onload: done, onerror: done }));
  }));

export function hold(run, picture = 0) {
  if (!run) return;
  keep("current", run.id);
  if (state.current === run.id && state.picture === picture) return;
  if (state.current !== run.id) setStep(null, { address: false });
  set({ current: run.id, picture });
}

const loaded = {};
function Screen({ at }) {
  const [, draw] = useState(0);
  const entry = here(at.name) ? SCREENS[at.name] : undefined;
  useEffect(() => {
    document.title = `${entry?.title ?? "Not found"} · Safelight`;
    if (entry && !loaded[at.name])
      Promise.all([entry.load(), entry.plain || styled()]).then(([module]) => { loaded[at.name] = module.screen; draw((n) => n + 1); }, fail);
  }, [at.name]);
  if (!entry) return html`<section class="blank"><h1>There is nothing here</h1><p>${BUNDLE ? html`<a href=${BUNDLE.route}>To the run</a>` : html`<a href="/create">Make a picture</a>`}</p></section>`;
  const View = loaded[at.name];
  return View ? html`<${View} key=${at.name} route=${at} query=${at.query} id=${at.id} />` : html`<p class="loading" aria-busy="true">Opening ${entry.title}</p>`;
}

const THEMES = { auto: "light", light: "dark", dark: "auto" };
function Theme() {
  const theme = useStore((s) => s.theme);
  useEffect(() => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    keep("theme", theme);
  }, [theme]);
  return html`<button class="ghost" aria-label=${`Theme: ${theme}`} title=${`Theme: ${theme}`} onClick=${() => set({ theme: THEMES[theme] })}><${Icon} name=${{ auto: "auto", light: "sun", dark: "moon" }[theme]} /></button>`;
}

/* Keeps the times of what waits fresh while they are looked at; what runs tells its own. */
export function useTimes(on) {
  useEffect(() => {
    if (!on) return;
    const ask = () => api("/v1/jobs").then(({ jobs }) => set((s) => {
      const fresh = jobs.filter((run) => s.runs[run.id]?.state === run.state && run.state !== "running").map(({ id, eta, position }) => [id, { ...s.runs[id], eta, position }]);
      return fresh.length ? { runs: { ...s.runs, ...Object.fromEntries(fresh) } } : {};
    }), () => {});
    ask();
    const timer = setInterval(ask, 2000);
    return () => clearInterval(timer);
  }, [on]);
}

function Tray() {
  const [open, show] = useState(false);
  const jobs = useStore((s) => waiting(s));
  const paused = useStore((s) => s.jobs.paused);
  const busy = jobs.find((run) => run.state === "running");
  useTimes(open && jobs.length > 0);
  useEffect(() => {
    if (!open) return;
    const away = (e) => {
      if (e.type === "pointerdown" ? e.target.closest(".tray") : e.key !== "Escape") return;
      if (e.type === "keydown") e.preventDefault(); // Escape closes what is open, and does not cancel the run behind it
      show(false);
    };
    addEventListener("keydown", away, true);
    addEventListener("pointerdown", away);
    return () => { removeEventListener("keydown", away, true); removeEventListener("pointerdown", away); };
  }, [open]);
  return html`<div class="tray">
    <button class="ghost count ${busy ? "busy" : ""}" aria-expanded=${open} aria-controls="tray" onClick=${() => show(!open)}>
      <${Icon} name="jobs" /> <span>${jobs.length ? `${jobs.length} ${jobs.length === 1 ? "job" : "jobs"}` : "No jobs"}</span></button>
    <div id="tray" class="pop" hidden=${!open}>
      ${jobs.length ? html`<ul>${jobs.map((run, i) => html`<li key=${run.id}>
          <a class="thumb" href=${`/run/${run.id}`} aria-label=${`Open ${run.prompt || run.kind}`}><${Shot} run=${run} /></a>
          <div><strong>${run.title || run.prompt || run.kind}</strong><small>${progress(run, i)}</small>
            ${run.state === "running" && html`<progress max=${run.steps || 1} value=${run.steps_done} aria-label="Steps done"></progress>`}</div>
          <button class="ghost" aria-label=${`Cancel ${run.prompt || run.id}`} onClick=${() => attempt(runs.act(run.id, "cancel"))}><${Icon} name="close" /></button>
        </li>`)}</ul>` : html`<p class="quiet">Nothing is waiting. What you generate while something runs queues here.</p>`}
      <footer><button onClick=${() => attempt(api(`/v1/jobs/${paused ? "resume" : "pause"}`, { method: "POST" }).then(() => set((s) => ({ jobs: { ...s.jobs, paused: !paused } }))))}>${paused ? "Resume queue" : "Pause queue"}</button><a href="/jobs">All jobs and settings</a></footer>
    </div></div>`;
}

export function progress(run, place) {
  if (run.state === "queued") {
    const ahead = place ?? waiting().findIndex((other) => other.id === run.id);
    return [ahead > 0 ? `queued, ${ahead} ahead` : "queued, next", run.eta != null && `done in about ${seconds(run.eta)}`].filter(Boolean).join(", ");
  }
  if (run.state === "paused") return `paused at step ${run.steps_done} of ${run.steps}`;
  if (run.state === "stopped") return `stopped after step ${run.steps_done} of ${run.steps}`;
  if (run.state === "failed") return run.error;
  if (run.state === "done") return `${run.steps} steps${run.ms_per_step ? `, ${Math.round(run.ms_per_step)} ms each` : ""}`;
  const live = state.live[run.id];
  if (live?.aside) return live.aside;
  return [`step ${run.steps_done} of ${run.steps}`, live?.sigma !== undefined && `sigma ${live.sigma.toFixed(2)}`, (live?.eta ?? run.eta) != null && `${seconds(live?.eta ?? run.eta)} left`].filter(Boolean).join(", ");
}

function Dock({ at }) {
  const [stop, playing] = useState(null);
  const id = useStore((s) => s.current);
  const run = useStore((s) => s.runs[s.current]);
  const picture = useStore((s) => s.picture);
  useStore((s) => s.live[s.current]?.k);
  const k = useStep();
  const newest = useStore((s) => (s.current ? null : (Object.values(s.runs).sort((a, b) => b.created - a.created)[0]?.id ?? null)));
  useEffect(() => {
    if (newest) set({ current: newest, picture: 0 });
  }, [newest]);
  useEffect(() => {
    if (id && !run) load(id).catch(() => state.current === id && set({ current: null }));
  }, [id, run]);
  useEffect(() => () => stop?.(), [stop]);
  useEffect(() => { playing(null); }, [id, at.name]);
  const film = useReel(run, "x0", picture), gallery = BUNDLE ? {} : { g: [() => go("/gallery"), "Gallery"] };
  useKeys(run ? {
    ArrowLeft: [() => nudge(run, -1), "Step back"], ArrowRight: [() => nudge(run, 1), "Step on"],
    c: [() => (recorded(run.id) ? say("A recorded run cannot be compared") : toTray(run.id)), "Add to compare"], ...gallery,
    // Edit's canvas is moved while Space is held.
    ...(at.name === "edit" ? {} : { Space: [() => playing(stop ? null : () => play(run, { ended: () => playing(null) })), "Play and pause"] }),
    Escape: [() => (isActive(run) ? void attempt(runs.act(run.id, "cancel")) : false), "Cancel the run"],
  } : gallery);
  if (!run) return html`<section class="dock" aria-label="Filmstrip"><div class="about"><small>The steps of a picture will be here.</small></div></section>`;
  const now = film.at(k);
  return html`<section class="dock" aria-label="Filmstrip">
    <div class="about"><a href=${`/run/${run.id}`} onDblClick=${() => go(`/run/${run.id}`)}>${run.prompt || run.title || "Untitled run"}</a>
      <small>${isActive(run) ? progress(run) : film.count ? `step ${now + 1} of ${film.count}` : run.state}</small></div>
    <div class="stripbox" onDblClick=${() => go(`/run/${run.id}`, { step: cursor.k, picture: picture || null })}><${Filmstrip} run=${run} picture=${picture} lens=${at.name === "run" && at.query.lens && !["attention"].includes(at.query.lens) && !isActive(run) ? at.query.lens : "x0"} /></div>
    ${isActive(run) ? html`<button class="ghost" aria-label="Stop this run" onClick=${() => attempt(runs.act(run.id, "cancel"))}><${Icon} name="stop" /></button>`
      : at.name !== "run" && html`<a class="button ghost" aria-label="Open in the microscope" title="Open in the microscope" href=${`/run/${run.id}`}><${Icon} name="run" /></a>`}
  </section>`;
}

function Notes() {
  const notes = useStore((s) => s.notes);
  const status = useStore((s) => s.status);
  useEffect(() => {
    const brief = notes.filter((n) => n.brief).map((n) => setTimeout(() => dismiss(n.id), 2500));
    return () => brief.forEach(clearTimeout);
  }, [notes]);
  return html`<div class="notes">${notes.map((n) => html`<div key=${n.id} class="note ${n.kind}" role=${n.kind === "error" ? "alert" : "status"}><span>${n.text}</span>
      ${n.action && html`<button onClick=${() => { n.action(); dismiss(n.id); }}>${n.label}</button>`}
      <button class="ghost" aria-label="Dismiss" onClick=${() => dismiss(n.id)}><${Icon} name="close" /></button></div>`)}</div>
    <p class="hear" role="status" aria-live="polite">${status}</p>`;
}

/* An image dropped anywhere: what it remembers, and what to do with it. */
function Drop() {
  const [over, hover] = useState(false);
  const [found, put] = useState(null);
  useEffect(() => {
    let depth = 0;
    const has = (e) => [...(e.dataTransfer?.types ?? [])].includes("Files");
    const on = {
      dragenter: (e) => has(e) && (depth++, hover(true)),
      dragleave: (e) => has(e) && --depth <= 0 && hover(false),
      dragover: (e) => has(e) && e.preventDefault(),
      drop: (e) => {
        if (!has(e)) return;
        e.preventDefault();
        depth = 0;
        hover(false);
        const file = e.dataTransfer.files[0];
        // A screen may take it itself, by preventing the default.
        if (file && dispatchEvent(new CustomEvent("safelight:drop", { detail: { file, x: e.clientX, y: e.clientY }, cancelable: true }))) receive(file);
      },
      paste: (e) => { const file = [...(e.clipboardData?.files ?? [])].find((f) => f.type.startsWith("image/")); if (file) receive(file); },
    };
    for (const [name, fn] of Object.entries(on)) addEventListener(name, fn);
    return () => { for (const [name, fn] of Object.entries(on)) removeEventListener(name, fn); };
  }, []);
  const receive = async (file) => {
    const sent = await attempt(upload(file));
    if (sent) put({ ...sent, name: file.name });
  };
  useEffect(() => {
    const open = (e) => receive(e.detail);
    addEventListener("safelight:file", open);
    return () => removeEventListener("safelight:file", open);
  }, []);
  if (over) return html`<div class="dropping"><p>Drop the picture: its settings are read, nothing leaves this machine</p></div>`;
  if (!found) return null;
  const request = found.note?.request ?? found.request;
  const close = () => put(null);
  return html`<${Dialog} title=${found.name || "A picture"} onClose=${close}><div class="dropped">
    <img src=${`/v1/pictures/${found.seal}.png`} alt="The dropped picture" width=${found.width} height=${found.height} />
    <div><p>${found.width} × ${found.height}. ${request ? "It remembers how it was made." : "It carries no settings."}</p>
      ${request?.prompt && html`<blockquote>${[request.prompt].flat().join(" · ")}</blockquote>`}
      ${found.reports?.length > 0 && html`<ul class="small quiet">${found.reports.map((line) => html`<li>${line}</li>`)}</ul>`}
      <div class="row wrap">${request && html`<button class="primary" onClick=${() => { restore(request); close(); go("/create"); }}>Restore its settings</button>`}
        <button onClick=${() => { close(); go("/edit", { seal: found.seal }); }}>Use as start</button>
        <button onClick=${() => { close(); go("/edit", { seal: found.seal, tool: "inpaint" }); }}>Inpaint</button></div></div>
  </div></${Dialog}>`;
}

/* Fill Create's form from a request (of a run, or of a picture's note). */
export function restore(request, model) {
  // What is not of the picture stays as it is.
  const { scratch, more, record, ...own } = structuredClone(FORM), usual = defaults(model)?.mix ?? {};
  for (const name of ["negative", "count", "seed", "steps", "size", "sampler", "grid", "mix", "bends", "emphasis", "temperature", "churn"]) if (request[name] != null) own[name] = request[name];
  const prompts = [request.prompt ?? ""].flat();
  own.prompt = prompts.length > 1 ? `{${prompts.join("|")}}` : prompts[0];
  // A scale alone is the form's own field where all else of the mix is as the model has it, which the form takes it from.
  const like = (name, none) => JSON.stringify(own.mix[name] ?? none) === JSON.stringify(usual[name] ?? none);
  if (own.mix?.kind === "cfg" && typeof own.mix.scale === "number" && like("interval", [0, 1]) && like("rescale", 0)) Object.assign(own, { guidance: own.mix.scale, mix: null });
  if (own.bends?.length === 0) own.bends = null;
  if (request.task?.kind === "hires") own.hires = request.task;
  const varied = request.variation ?? (request.task?.kind === "vary" ? request.task : null);
  if (varied) Object.assign(own, { varySeed: varied.seed, varyStrength: varied.strength });
  fill("form", FORM, { ...own, locked: true, ...(model ? { model } : {}) });
}

function App() {
  const at = useRoute();
  const [palette, setPalette] = useState(false);
  const [sheet, setSheet] = useState(false);
  const tray = useStore((s) => s.tray.length);
  useKeys({ ...(BUNDLE ? {} : { "Ctrl+k": [() => setPalette(true), "Find and do anything"] }), "?": [() => setSheet(true), "These shortcuts"] });
  const links = Object.entries(SCREENS).filter(([name, s]) => (BUNDLE ? here(name) : !s.hidden));
  return html`<a class="skip" href="#main">Skip to the screen</a>
    <header class="top"><a class="brand" href=${BUNDLE ? BUNDLE.route : "/create"} aria-label=${`Safelight, to ${BUNDLE ? "the run" : "Create"}`}><span class="lamp"></span><b>Safelight</b></a>
      <button class="find" aria-label="Find or do anything" hidden=${!!BUNDLE} onClick=${() => setPalette(true)}><${Icon} name="search" /><span>Find or do anything</span><kbd>Ctrl K</kbd></button>
      <div class="right">${!BUNDLE && html`<${Tray} />`}<button class="ghost" aria-label="Shortcuts" title="Shortcuts (?)" onClick=${() => setSheet(true)}><b aria-hidden="true">?</b></button><${Theme} /></div></header>
    <nav class="rail" aria-label="Screens">${links.map(([name, s]) => html`<a key=${name} href=${BUNDLE ? `/${name}/${at.id}` : "/" + name + (name === "compare" && tray ? `?runs=${state.tray}` : "")} aria-current=${at.name === name ? "page" : undefined}><${Icon} name=${name} /><span>${s.title}</span>${name === "compare" && tray > 0 && html`<em aria-label=${`${tray} gathered`}>${tray}</em>`}</a>`)}</nav>
    <main id="main" tabindex="-1"><${Screen} at=${at} /></main>
    <${Dock} at=${at} /><${Notes} />${!BUNDLE && html`<${Drop} />`}
    ${palette && html`<${Palette} screens=${SCREENS} onClose=${() => setPalette(false)} />`}
    ${sheet && html`<${Sheet} onClose=${() => setSheet(false)} />`}`;
}

function start() {
  const at = route();
  const step = at.query.step;
  if (step !== undefined) cursor.k = Number(step);
  if (BUNDLE) {
    for (const [path, value] of Object.entries(BUNDLE)) if (/^\/v1\/runs\/[^/?]+$/.test(path)) learn(value);
    set({ ready: true, current: at.id });
  }
  render(html`<${App} />`, document.getElementById("app"));
  if (BUNDLE) return;
  listen();
  know();
  // A server that was away while the page was opened is asked again when it is back.
  let online = false;
  subscribe(() => online !== state.online && (online = state.online) && know());
}

const asked = {};
function know() {
  for (const [name, path] of [["models", "/v1/models"], ["parts", "/v1/samplers"], ["settings", "/v1/settings"]])
    if (!state[name]) asked[name] ??= api(path).then((found) => set({ [name]: found }), (error) => { delete asked[name]; error.status && fail(error); });
}
start();
