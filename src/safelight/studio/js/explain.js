/* Explain: how words became this picture. One diagram of the whole machine; a press on a part zooms into its stop.

/explain/ID              the whole machine       ?stop=0..4  a stop      ?mode=tour|quiz|prompts     ?step= ?picture=
?at=words                marks these words at the first two stops       ?against=ID   the other run (of another sampler, of other words)
*/
import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { clamp } from "./maths.js";
import { Choice, Frame, Picker, Scrub, call, useRun } from "./kit.js";
import { BUNDLE, EXAMPLE, recorded, runs as server } from "./api.js";
import { Paths } from "./compare.js";
import { cursor, setStep, useStep } from "./filmstrip.js";
import { Icon, alone, useLoad } from "./parts.js";
import { amend, go, route } from "./router.js";
import { hold } from "./shell.js";
import { useKeys } from "./keys.js";
import { state } from "./store.js";
import { Diagram, STOPS, over, still } from "./diagram.js";
import { VIEWS, enlargedOf, useChildren } from "./stops.js";
import { Quiz, Tour } from "./tour.js";

export function screen({ id, query }) {
  const named = id ?? query.run ?? "", [asked, setAsked] = useState(named), [choosing, choose] = useState(false), picture = +(query.picture ?? 0) || 0;
  useEffect(() => { setAsked(named); choose(false); }, [named]);
  // Without a run of one's own: the one that is in the dock, else the newest finished one, else the recorded one that ships.
  useEffect(() => {
    if (asked) return;
    const now = state.runs[state.current];
    if (now && over(now)) { setAsked(now.id); return; }
    server.list({ state: "done", limit: 5 }).then((p) => setAsked(p.runs.find(over)?.id ?? EXAMPLE), () => setAsked(EXAMPLE));
  }, [asked]);
  const run = useRun(asked);
  useEffect(() => {
    if (!run) return;
    hold(run, picture);
    // Holding another run starts at its newest step; the address may say otherwise.
    if (query.step !== undefined) setStep(+query.step);
  }, [run?.id, picture]);
  if (choosing) return html`<section class="screen mine narrow"><div class="row between"><h1>Explain another run</h1><button onClick=${() => choose(false)}>Back</button></div><${Picker} label="Runs" filter=${(r) => r.steps_done} onPick=${(r) => { choose(false); go(`/explain/${r.id}`); }} /></section>`;
  if (!run) return html`<section class="screen mine"><p class="dim" aria-busy="true">Looking for a run to explain.</p></section>`;
  return html`<${Page} key=${run.id} ...${{ run, picture, query }} onChoose=${() => choose(true)} />`;
}

function Page({ run, picture, query, onChoose }) {
  const mode = ["tour", "quiz", "prompts"].includes(query.mode) ? query.mode : "free", stop = STOPS[query.stop] ? +query.stop : null, ready = over(run);
  const about = useLoad(() => (ready ? call.get(`/v1/runs/${run.id}/explain?picture=${picture}`) : null), [run.id, picture, ready]), numbers = useLoad(() => (ready ? server.numbers(run.id, picture) : null), [run.id, picture, ready]);
  const children = useChildren(run), larger = enlargedOf(run, picture, children);
  const k = clamp(useStep() ?? run.steps_done - 1, 0, Math.max(0, run.steps_done - 1)), known = useMemo(() => ({ ...about.data, half: numbers.data?.half }), [about.data, numbers.data]);
  const query_ = () => route().query, path = () => { const r = route(); return `/explain${r.id ? `/${r.id}` : ""}`; };
  // A zoom is a place in the history, so that Back zooms out; the tour's stations are not.
  const zoom = (next) => { if (next !== stop) go(path(), { ...query_(), stop: next, at: next === null || next > 1 ? null : query_().at, step: cursor.k }); };
  const visit = (next, step) => { if (next !== stop) amend({ stop: next }); if (step !== null && step !== undefined) setStep(step); };
  const tabs = [null, 0, 1, 2, 3, 4], shown = mode === "free" || mode === "tour";
  const onKeys = (e) => { const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key]; if (by) { e.preventDefault(); e.stopPropagation(); const next = (tabs.indexOf(stop) + by + 6) % 6; zoom(tabs[next]); e.currentTarget.querySelectorAll("[role=tab]")[next].focus(); } };
  useKeys(shown ? { ...Object.fromEntries(STOPS.map((name, i) => [String(i + 1), [() => zoom(i), name]])), 0: [() => zoom(null), "The whole picture"], ...(stop === null ? {} : { Escape: [() => zoom(null), "Zoom out to the whole picture"] }) } : {});
  const bar = useRef();
  useEffect(() => { const tab = bar.current?.querySelector("[aria-selected=true]"); if (tab) bar.current.scrollLeft = tab.offsetLeft - bar.current.offsetLeft - (bar.current.clientWidth - tab.offsetWidth) / 2; }, [stop, shown]);
  const props = { run, picture, k, about: known, numbers: numbers.data, larger, children, against: query.against, asked: query.at, error: about.error };
  const lacking = !ready && (run.steps_done && run.recorded === false && !["queued", "running", "paused"].includes(run.state) ? "The steps of this run were pruned, so there is nothing to explain it with." : run.state === "failed" ? run.error : `${run.state === "running" ? `Step ${run.steps_done} of ${run.steps}` : "It waits in the queue"}; its numbers are here when it is done.`);
  return html`<section class="screen mine explain"><div class="row wrap between"><h1>Explain: ${run.prompt || run.title || "a run without words"}</h1>
      <div class="row wrap">${!BUNDLE && html`<button class="ghost" onClick=${onChoose}>Another run</button>`}<${Choice} label="Mode" items=${[["tour", "Tour, 4 minutes"], ["free", "Free"], ["quiz", "Quiz"], ["prompts", "Compare prompts"]]} value=${mode} onPick=${(m) => amend({ mode: m === "free" ? null : m, against: null })} /></div></div>
    ${run.id === EXAMPLE && html`<p class="dim">A recorded run that ships with the studio: everything on this page is from it. ${!BUNDLE && html`<a href="/create">Make a picture</a> and it is explained here in the same way.`}</p>`}
    ${lacking && html`<p class="dim" role="status">${lacking}</p>`}
    ${mode === "quiz" ? html`<${Quiz} run=${run} picture=${picture} />` : mode === "prompts" ? html`<${Prompts} ...${{ run, picture, k, children, against: query.against }} />` : html`
      <div class="stops" ref=${bar} role="tablist" aria-label="Stops" data-arrows onKeyDown=${onKeys}>${tabs.map((i) => html`<button role="tab" id=${`stop-${i ?? "all"}`} aria-selected=${i === stop} aria-controls=${i === null ? "whole" : "stop"} tabindex=${i === stop ? 0 : -1} onClick=${() => zoom(i)}>${i === null ? "Whole picture" : `${i + 1} ${STOPS[i]}`}</button>`)}</div>
      <${Zoom} stop=${stop} whole=${html`<${Diagram} ...${props} onOpen=${zoom} />`} view=${(i) => (about.error && i < 2 ? html`<p class="bad">${about.error.message}</p>` : html`<${VIEWS[i]} ...${props} />`)} onOut=${() => zoom(null)} guided=${mode === "tour"} />
      ${mode === "tour" && html`<${Tour} run=${run} about=${known} onVisit=${visit} onLeave=${() => amend({ mode: null })} onEnd=${() => amend({ mode: "quiz", stop: null })} />`}`}
  </section>`;
}

const EASE = { duration: 460, easing: "cubic-bezier(.3,0,.1,1)", fill: "both" };

/** Two levels, the diagram and one stop. Going from one to the other is a camera's move out of, or back into, the part's place. */
function Zoom({ stop, whole, view, onOut, guided }) {
  const box = useRef(), before = useRef(stop), last = useRef(stop), [moving, setMoving] = useState(false), changing = before.current !== stop;
  if (stop !== null) last.current = stop;
  const across = changing && before.current !== null && stop !== null, both = moving || (changing && !across && !still());
  useLayoutEffect(() => {
    const from = before.current;
    before.current = stop;
    if (from === stop) return;
    const stage = box.current, main = stage.closest("main"), [map, panel] = stage.children, part = (i) => map.querySelector(`[data-stop="${i}"]`), focused = !guided && (stage.contains(document.activeElement) || document.activeElement === document.body);
    const settle = () => {
      if (!focused) return;
      if (stop === null) part(from)?.focus({ preventScroll: true }); else panel.focus({ preventScroll: true });
    };
    if (still()) { main.scrollTop = 0; settle(); if (stop === null) part(from)?.scrollIntoView({ block: "nearest" }); return; }
    if (from !== null && stop !== null) { panel.animate([{ opacity: 0, translate: `${stop > from ? 40 : -40}px 0` }, { opacity: 1, translate: "0 0" }], { ...EASE, duration: 260, fill: "none" }); main.scrollTop = 0; settle(); return; }
    const place = part(stop ?? from).closest(".part"), was = place.getBoundingClientRect();
    if (stop === null) place.scrollIntoView({ block: "nearest" }); else main.scrollTop = 0;
    const at = place.getBoundingClientRect(), frame = stage.getBoundingClientRect(), moved = stop === null ? 0 : was.top - at.top, near = Math.min(frame.width / at.width, 6);
    // The map seen from so close that the part fills the frame, and the panel as small as the part.
    const close = `translate(${-(at.left - frame.left) * near}px, ${-(at.top - frame.top) * near}px) scale(${near})`, small = `translate(${at.left - frame.left}px, ${at.top - frame.top + moved}px) scale(${at.width / frame.width})`;
    const mapWay = [{ transform: `translateY(${moved}px)`, opacity: 1 }, { opacity: 1, offset: 0.2 }, { opacity: 0, offset: 0.7 }, { transform: close, opacity: 0 }], panelWay = [{ transform: small, opacity: 0 }, { opacity: 0, offset: 0.3 }, { opacity: 1, offset: 0.8 }, { transform: "none", opacity: 1 }];
    const back = stop === null ? { direction: "reverse" } : {}, ways = [map.animate(mapWay, { ...EASE, ...back }), panel.animate(panelWay, { ...EASE, ...back })];
    setMoving(true);
    let over = false;
    const end = () => { if (over) return; over = true; ways.forEach((way) => way.cancel()); setMoving(false); settle(); };
    ways[0].onfinish = end;
    return end;
  }, [stop]);
  const shown = stop ?? last.current;
  return html`<div class="zoom3 ${both ? "moving" : ""}" ref=${box} data-level=${stop === null ? "whole" : "stop"}>
    <div class="level ${stop === null ? "" : "leaving"}" id="whole" role="tabpanel" aria-labelledby="stop-all" hidden=${stop !== null && !both} inert=${stop !== null}>${whole}</div>
    <div class="level stop ${stop === null ? "leaving" : ""}" id="stop" role="tabpanel" aria-labelledby=${`stop-${shown ?? 0}`} tabindex="0" hidden=${stop === null && !both} inert=${stop === null}>${(stop !== null || both) && shown !== null && html`<button class="ghost away" onClick=${onOut}><${Icon} name="back" />Whole picture <kbd>Esc</kbd></button>${view(shown)}`}</div></div>`;
}

/** Which of these words the other list lacks, in its order: what is left over when the longest common row is taken out. */
function changed(mine, theirs) {
  const n = mine.length, m = theirs.length, long = Array.from({ length: n + 1 }, () => new Array(m + 1).fill(0)), out = [];
  for (let i = n - 1; i >= 0; i--) for (let j = m - 1; j >= 0; j--) long[i][j] = mine[i] === theirs[j] ? long[i + 1][j + 1] + 1 : Math.max(long[i + 1][j], long[i][j + 1]);
  for (let i = 0, j = 0; i < n; i++) { while (j < m && mine[i] !== theirs[j] && long[i][j + 1] > long[i + 1][j]) j++; if (j < m && mine[i] === theirs[j]) j++; else out.push(i); }
  return out;
}

/** Two prompts, one noise: what changed in the words, in the frames, and on one map. */
function Prompts({ run, picture, k, children, against }) {
  const away = recorded(run.id), mine = useMemo(() => (run.request ? alone(run, picture) : null), [run, picture]), said = mine?.prompt[0] ?? run.prompt, [text, setText] = useState(said);
  const found = useRun(against), second = found ?? (away ? children.find((r) => r.relation === "vary" && r.prompt !== run.prompt) : null), [lists, setLists] = useState([[], []]);
  const start = async () => { const made = await call.post("/v1/runs", { model: run.model, parent: run.id, relation: "vary", record: "branches", request: { ...mine, prompt: [text] } }); if (made) amend({ against: made.id }); };
  useEffect(() => {
    if (!second || !over(second)) return;
    let alive = true;
    Promise.all([[run, picture], [second, 0]].map(([r, i]) => call.try("GET", `/v1/runs/${r.id}/explain?picture=${i}`))).then((got) => alive && setLists(got.map((g) => (g.ok ? g.data.tokens.places.filter((p) => p.role === "word").map((p) => p.text.replace("</w>", "")) : []))));
    return () => { alive = false; };
  }, [second?.id, second?.state]);
  const words = (i) => { const marked = changed(lists[i], lists[1 - i]); return html`<div class="pieces">${lists[i].map((t, j) => (marked.includes(j) ? html`<mark>${t}</mark>` : html`<span>${t}</span>`))}</div>`; };
  const at = (r) => Math.min(k, Math.max(0, r.steps_done - 1));
  return html`<div class="stop"><p class="plain">The same noise, other words. What stays came from the noise; what changes came from the words.</p>
    ${away ? !second && html`<p class="dim">${BUNDLE ? "This page is a recording" : "This run is a recording"} of one prompt: comparing it with another needs a run made in the studio.</p>` : html`<form class="row wrap" onSubmit=${(e) => { e.preventDefault(); start(); }}><input class="grow" aria-label="The other prompt" value=${text} onInput=${(e) => setText(e.target.value)} /><button class="primary" disabled=${text === said || !mine}>Run it</button></form>`}
    ${second ? html`<div class="versus3"><div class="stack"><div class="two">${[[run, picture], [second, 0]].map(([r, i], n) => html`<figure><${Frame} run=${r} picture=${i} step=${at(r)} alt=${n ? r.prompt : said} /><figcaption>${words(n)}</figcaption></figure>`)}</div><${Scrub} label="Step of both" n=${Math.max(1, run.steps_done)} value=${k} onInput=${(v) => setStep(v)} /></div>
      <div class="stack">${over(second) ? html`<${Paths} runs=${[run, second]} names=${[said, second.prompt]} at=${run.steps > 1 ? k / (run.steps - 1) : 1} />` : html`<p class="dim" role="status">Step ${second.steps_done} of ${second.steps}</p>`}</div></div>` : !away && html`<p class="dim">Or choose a run that was made with seed ${run.seed}:</p><${Picker} label="Runs of this seed" filter=${(r) => r.id !== run.id && r.seed === run.seed && r.steps_done} onPick=${(r) => amend({ against: r.id })} />`}</div>`;
}
