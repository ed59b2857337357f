/* The microscope: one run, step by step, through six lenses. Address: /run/ID?step=&lens=&picture=&token=&with=&pin=&beside= */
import { html, useCallback, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { BUNDLE, api, attempt, bytes, copyCommand, load, local, runs } from "./api.js";
import { isActive, persisted, keep, say, set, subscribe, toTray, useStore } from "./store.js";
import { amend, go } from "./router.js";
import { useKeys } from "./keys.js";
import { Frame, cursor, geometry, onStep, play, reel, setStep, useReel, useStep } from "./filmstrip.js";
import { Chart, Spectrum, nice } from "./charts.js";
import { Dial } from "./dial.js";
import { Loupe } from "./loupe.js";
import { Dialog, Icon, Kind, Segments, Slider, useId, useLoad } from "./parts.js";
import { hold, progress } from "./shell.js";

export const LENSES = [
  ["x", "Seen", "What the network sees: x_t"], ["x0", "Believed", "What it believes the picture is: x0"], ["noise", "Noise", "The noise it predicts"],
  ["guidance", "Guidance", "What guidance changes: cond − null"], ["attention", "Attention", "Where the words are looked at"], ["difference", "Difference", "How far from the finished picture"],
];
const NAMES = Object.fromEntries(LENSES.map(([name, , text]) => [name, text]));

/* Draw one lens of a run at step k over the whole of a w x h canvas. Attention lies over what is believed. */
function paintLens(c, { run, picture, lens, token }, k, w, h) {
  if (lens !== "attention") return reel(run, lens, picture).draw(c, k, 0, 0, w, h);
  reel(run, "x0", picture).draw(c, k, 0, 0, w, h);
  const heat = reel(run, token === null ? "attention" : `attention/${token}`, picture);
  if (!heat.count) return false;
  c.globalAlpha = 0.65;
  heat.draw(c, k, 0, 0, w, h);
  c.globalAlpha = 1;
  return true;
}

function Stage({ left, right, size, loupe, pick }) {
  const canvas = useRef(), box = useRef();
  const [cut, move] = useState(0.5);
  const [spot, look] = useState(null);
  const step = useStep();
  const film = useReel(left.run, left.lens === "attention" ? "x0" : left.lens, left.picture);
  const heat = useReel(left.run, left.lens === "attention" ? (left.token === null ? "attention" : `attention/${left.token}`) : "x0", left.picture);
  const other = useReel(right?.run ?? left.run, right && right.lens !== "attention" ? right.lens : "x0", left.picture);
  const [w, h] = size;
  const state = useRef();
  state.current = { left, right, cut };
  useEffect(() => {
    const paint = () => {
      const { left, right, cut } = state.current, began = performance.now();
      const c = canvas.current.getContext("2d");
      c.clearRect(0, 0, w, h);
      paintLens(c, left, cursor.k, w, h);
      if (right) {
        const x = Math.round(cut * w);
        c.save();
        c.beginPath();
        c.rect(x, 0, w - x, h);
        c.clip();
        c.clearRect(x, 0, w - x, h);
        paintLens(c, right, right.pin ?? cursor.k, w, h);
        c.restore();
      }
      canvas.current.dataset.step = film.at(cursor.k);
      canvas.current.dataset.ms = (performance.now() - began).toFixed(2);
    };
    paint();
    const off = [onStep(paint), film.watch(paint), heat.watch(paint), other.watch(paint), subscribe(paint)];
    return () => off.forEach((f) => f());
  }, [film, heat, other, cut, right?.lens, right?.pin, right?.run.id, left.token, w, h]);
  const place = (e) => {
    const r = box.current.getBoundingClientRect();
    const x = (e.clientX - r.left) / r.width, y = (e.clientY - r.top) / r.height;
    return { x: Math.max(0, Math.min(0.999, x)), y: Math.max(0, Math.min(0.999, y)), left: x > 0.5 ? 8 : r.width - 296, top: 8 };
  };
  const drawn = useCallback((c, dw, dh) => { const { left, right, cut } = state.current; const s = right && spot && spot.x > cut ? right : left; paintLens(c, s, s.pin ?? cursor.k, dw, dh); }, [spot?.x > cut]);
  const at = film.at(step);
  const tag = (s) => `${s.run.id === left.run.id ? "" : "other run, "}${LENSES.find(([n]) => n === s.lens)[1].toLowerCase()}, step ${(s.pin ?? at) + 1}`;
  return html`<div class="stage made" ref=${box} style=${`--ratio:${w}/${h};--cut:${cut * 100}%`} onPointerMove=${(e) => loupe && e.pointerType !== "touch" && look(place(e))} onPointerLeave=${() => look(null)} onClick=${(e) => pick?.(place(e))}>
    <canvas ref=${canvas} class="shot frame" width=${w} height=${h} role="img" aria-label=${`${NAMES[left.lens]}, step ${at + 1} of ${film.count}`}></canvas>
    ${right && html`<div class="split" role="slider" tabindex="0" aria-label="Split between the two views" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(cut * 100)}
      onPointerDown=${(e) => e.currentTarget.setPointerCapture(e.pointerId)} onPointerMove=${(e) => e.buttons && move(place(e).x)} onClick=${(e) => e.stopPropagation()}
      onKeyDown=${(e) => { const by = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[e.key]; if (by) { e.preventDefault(); e.stopPropagation(); move(Math.max(0, Math.min(1, cut + by))); } }}></div><span class="tag left">${tag(left)}</span><span class="tag right">${tag(right)}</span>`}
    ${spot && loupe && html`<${Loupe} run=${spot.x > cut && right ? right.run : left.run} picture=${left.picture} k=${(right && spot.x > cut ? right.pin : null) ?? at} lens=${spot.x > cut && right ? right.lens : left.lens} spot=${spot} size=${size} draw=${drawn} />`}</div>`;
}

function Transport({ run }) {
  const [how, change] = useState(() => persisted("transport", { speed: 1, loop: false, reverse: false }));
  const [stop, playing] = useState(null);
  const set_ = (patch) => { const next = { ...how, ...patch }; change(next); keep("transport", next); if (stop) { stop(); playing(() => play(run, { ...next, ended: () => playing(null) })); } };
  useEffect(() => () => stop?.(), [stop]);
  const toggle = () => {
    if (stop) { stop(); return playing(null); }
    playing(() => play(run, { ...how, ended: () => playing(null) }));
  };
  const film = useReel(run, "x0", 0);
  const go_ = (by) => setStep(film.at(film.at(cursor.k) + by));
  useKeys({ Space: [toggle, "Play and pause"], r: [() => set_({ reverse: !how.reverse }), "Reverse"], l: [() => set_({ loop: !how.loop }), "Loop"], Home: [() => setStep(0), "First step"], End: [() => setStep(film.count - 1), "Last step"] });
  return html`<div class="bar" role="group" aria-label="Playback"><button aria-label="One step back" onClick=${() => go_(-1)}><${Icon} name="minus" /></button>
    <button class="primary" onClick=${toggle}><${Icon} name=${stop ? "pause" : how.reverse ? "back" : "play"} />${stop ? "Pause" : "Play"}</button>
    <button aria-label="One step on" onClick=${() => go_(1)}><${Icon} name="plus" /></button>
    <${Segments} label="Speed" value=${how.speed} onChange=${(speed) => set_({ speed })} options=${[[0.25, "¼×"], [0.5, "½×"], [1, "1×"], [2, "2×"]]} />
    <button aria-pressed=${how.loop} onClick=${() => set_({ loop: !how.loop })}><${Icon} name="loop" />Loop</button><button aria-pressed=${how.reverse} onClick=${() => set_({ reverse: !how.reverse })}>Reverse</button>
    ${how.reverse && html`<small class="quiet" role="status">Backwards this is the forward process: how a picture is noised.</small>`}</div>`;
}

function Readout({ run, numbers, picture }) {
  const step = useStep();
  const film = useReel(run, "x0", picture);
  const k = film.at(step), now = numbers?.steps?.find((s) => s.k === k), level = run.levels?.[k];
  const rows = [["step", `${k + 1} of ${film.count}`], ["t", nice(now?.t ?? level?.[0])], ["alpha", nice(now?.alpha ?? level?.[1])], ["sigma", nice(now?.sigma ?? level?.[2])],
    ["log-SNR", now ? nice(now.logsnr) : ""], ["update", nice(now?.update)], ["decided", now ? `${Math.round(100 * now.decided)} %` : ""], ["time", now?.ms != null ? `${nice(now.ms)} ms` : ""]];
  return html`<dl class="readout">${rows.map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd>${value || "–"}</dd></div>`)}</dl>`;
}

function Charts({ numbers }) {
  const column = (name) => numbers.steps.map((s) => s[name]);
  const at = (k) => (k === null || k === undefined ? null : numbers.steps.findIndex((s) => s.k === k));
  const drawn = useMemo(() => ({
    sigma: column("sigma"), logsnr: column("logsnr"), update: column("update"), decided: column("decided"), ms: column("ms"),
    marks: [{ k: at(numbers.half), text: "50 %" }, { k: at(numbers.nine), text: "90 %" }],
  }), [numbers]);
  const none = useRef([]).current;
  return html`<div class="charts"><${Chart} wide title="When was it decided?" values=${drawn.decided} marks=${drawn.marks} zero percent />
    <${Chart} title="Sigma" values=${drawn.sigma} marks=${none} zero /><${Chart} title="log-SNR" values=${drawn.logsnr} marks=${none} />
    <${Chart} title="Size of the update" values=${drawn.update} marks=${none} zero /><${Chart} title="Time" values=${drawn.ms} marks=${none} unit=" ms" zero /><${Spectrum} steps=${numbers.steps} final=${numbers.final_spectrum} /></div>`;
}

function Attention({ run, picture, token, choose, heard, mean, setMean }) {
  const job = useStore((s) => Object.values(s.runs).find((r) => r.kind === "attention" && r.parent === run.id && isActive(r)));
  const { data } = useLoad(() => (heard ? api(`/v1/runs/${run.id}/attention?picture=${picture}`) : null), [run.id, heard, picture]);
  if (!heard) return html`<section class="panel" hidden=${!!BUNDLE}><h2>Attention</h2><p class="quiet">Where each word is looked at is recorded on request: the run is replayed with the same seed, to the same picture.</p>
    ${job ? html`<p role="status">${progress(job)}</p>` : html`<button onClick=${() => attempt(api(`/v1/runs/${run.id}/attention`, { method: "POST" }).then((made) => set((s) => ({ runs: { ...s.runs, [made.id]: made } }))))}>Record attention</button>`}</section>`;
  const words = (data?.tokens ?? []).filter((t) => (t.role ?? "word") === "word");
  return html`<section class="panel heat"><h2>Attention</h2><div class="tokens" role="group" aria-label="Tokens">
      <button class="chip" aria-pressed=${token === null} onClick=${() => choose(null)}>all words</button>
      ${words.map((t) => html`<button key=${t.i} class="chip" aria-pressed=${token === t.i} onClick=${() => { setMean(null); choose(t.i); }} onDblClick=${() => { choose(t.i); setMean(t.i); }}>${t.text.replace("</w>", "")}</button>`)}</div>
    ${mean !== null && html`<figure class="row"><img class="dialview" src=${local(`/v1/runs/${run.id}/attention/${mean}.png?step=mean&picture=${picture}`)} alt="Attention to this token, mean of all steps" /><figcaption class="small quiet">mean of all steps</figcaption></figure>`}
    <small class="quiet">Double click a token for its mean over the steps; click the picture to rank the tokens of that place.${data?.identical ? " The replay gave the identical picture." : ""}</small></section>`;
}

function Ranked({ run, picture, spot, heard }) {
  const k = useReel(run, "x0", picture).at(useStep());
  const { data, error } = useLoad(() => (heard && spot ? api(`/v1/runs/${run.id}/attention/at?x=${spot.x}&y=${spot.y}&step=${k}&picture=${picture}`) : null), [run.id, spot?.x, spot?.y, k, heard]);
  if (!spot || !heard) return null;
  const most = data?.tokens[0]?.share || 1;
  return html`<section class="panel"><h2>Looked at from here, step ${k + 1}</h2>${error && html`<p role="alert">${error.message}</p>`}<ol class="stack">${(data?.tokens ?? []).slice(0, 6).map(({ i, text, share }) => html`<li key=${i} class="row"><span class="grow">${text}</span><progress max=${most} value=${share} aria-label=${text}></progress><span class="number">${Math.round(100 * share)} %</span></li>`)}</ol></section>`;
}

function Fork({ run, k, onClose }) {
  const id = useId();
  const request = run.request ?? {};
  const parts = useStore((s) => s.parts);
  const [prompt, type] = useState([request.prompt ?? ""].flat().join(" · "));
  const [scale, turn] = useState(request.mix?.scale ?? null);
  const [sampler, take] = useState(null);
  const [noise, add] = useState(0);
  const several = [request.prompt ?? ""].flat().length > 1;
  const send = async (e) => {
    e.preventDefault();
    const changes = {};
    if (!several && prompt !== [request.prompt ?? ""].flat()[0]) changes.prompt = [prompt];
    if (scale !== null && scale !== request.mix?.scale) changes.mix = { ...request.mix, scale };
    if (sampler) changes.sampler = sampler;
    const made = await attempt(runs.fork(run.id, { step: k, request: changes, noise }));
    if (made) { onClose(); hold(made); go(`/run/${made.id}`); }
  };
  return html`<${Dialog} title=${`Fork at step ${k + 1}`} onClose=${onClose}><form class="stack" onSubmit=${send}>
    <p class="quiet">The run goes on from the recorded x at this step; only the remaining ${Math.max(0, (run.steps || 0) - k)} steps are computed. With nothing changed it gives the same picture.</p>
    ${!several && html`<div class="field"><label for=${id}>Prompt from here on</label><textarea id=${id} rows="2" value=${prompt} onInput=${(e) => type(e.target.value)}></textarea></div>`}
    ${typeof scale === "number" && html`<${Slider} label="Guidance from here on" value=${scale} min=${0} max=${15} step=${0.1} onInput=${turn} />`}
    <${Kind} label="Sampler from here on" kinds=${parts?.samplers} value=${sampler} own=${request.sampler} onChange=${take} />
    <${Slider} label="Fresh noise" value=${noise} min=${0} max=${1} step=${0.01} onInput=${add} hint="0 keeps the recorded noise" />
    <div class="row"><button class="primary">Fork</button><button type="button" onClick=${onClose}>Cancel</button></div></form></${Dialog}>`;
}

/* The branching timeline: a row a run, from the step it left its parent at to its end. */
function Tree({ run, beside, setBeside }) {
  const version = useStore((s) => Object.values(s.runs).filter((r) => r.parent === run.id || r.id === run.id).map((r) => r.id + r.state).join());
  const { data } = useLoad(() => (BUNDLE ? null : runs.tree(run.id)), [run.id, version]);
  const known = useStore((s) => s.runs);
  const nodes = data?.nodes ?? [];
  useEffect(() => { for (const n of nodes) if (!known[n.id]) runs.get(n.id).catch(() => {}); }, [nodes]);
  if (nodes.length < 2) return null;
  const rows = [], below = (parent, depth) => nodes.filter((n) => (nodes.some((m) => m.id === n.parent) ? n.parent : null) === parent).forEach((n) => { rows.push({ ...n, depth }); below(n.id, depth + 1); });
  below(null, 0);
  const W = 344, H = 44, left = 12, thumb = 36;
  const steps = (n) => known[n.id]?.steps || run.steps || 20;
  const most = Math.max(...rows.map(steps)), x = (k) => left + (k / most) * (W - left - thumb - 12);
  const index = Object.fromEntries(rows.map((n, i) => [n.id, i]));
  return html`<section class="panel tree"><h2>Branches</h2><svg width=${W} height=${rows.length * H} viewBox=${`0 0 ${W} ${rows.length * H}`} role="group" aria-label="Runs that descend from each other">
    ${rows.map((n, i) => {
      const from = n.fork_step ?? known[n.id]?.fork_step, y = i * H + H / 2, p = index[n.parent];
      const start = from !== null && from !== undefined ? x(from) : p === undefined ? x(0) : x(steps(rows[p])) - 6;
      const up = p === undefined ? "" : `M${start - 8},${p * H + H / 2}C${start},${p * H + H / 2} ${start - 8},${y} ${start},${y}`;
      const label = known[n.id]?.prompt || n.title || n.relation || n.id, text = (n.relation ? `${n.relation}${from != null ? ` at ${from + 1}` : ""}: ` : "") + label;
      const room = Math.floor((W - thumb - 24 - start) / 5.4);
      return html`<g key=${n.id} class=${n.id === run.id ? "now" : ""}><path d=${`${up}M${start},${y}H${W - thumb - 10}`} /><circle cx=${start} cy=${y} r="3" fill="var(--accent)" />
        <text x=${start + 8} y=${y - 5}>${text.length > room ? text.slice(0, Math.max(1, room - 1)) + "…" : text}</text>
        <a href=${`/run/${n.id}`} aria-label=${`Open ${label}`}><rect x=${W - thumb - 8} y=${y - thumb / 2} width=${thumb} height=${thumb} />${n.thumb && html`<image href=${n.thumb} x=${W - thumb - 8} y=${y - thumb / 2} width=${thumb} height=${thumb} />`}</a></g>`;
    })}</svg>
    <div class="field"><label for="beside">Scrub in lockstep with</label><select id="beside" value=${beside?.id ?? ""} onChange=${(e) => setBeside(e.target.value || null)}><option value="">nothing</option>${rows.filter((n) => n.id !== run.id).map((n) => html`<option value=${n.id}>${(n.relation ? n.relation + ": " : "") + (known[n.id]?.prompt || n.id)}</option>`)}</select></div>
    ${beside && html`<div class="pair"><figure class="stack"><${Frame} run=${run} /><small>this run</small></figure><figure class="stack"><${Frame} run=${beside} /><small>the other</small></figure></div>`}</section>`;
}

function Export({ run, picture }) {
  const settings = useStore((s) => s.settings);
  const [busy, work] = useState("");
  const names = { gif: "GIF", webp: "WebP", apng: "APNG", webm: "WebM", mp4: "MP4", html: "One HTML file", zip: "Frames as zip" };
  const can = settings?.exports ?? ["gif", "webp", "apng", "html", "zip"];
  const get = async (kind) => {
    work(kind);
    const data = await attempt(bytes(`/v1/runs/${run.id}/export/${kind}?picture=${picture}`));
    work("");
    if (!data) return;
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(new Blob([data])), download: `safelight-${run.id}.${kind}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  return html`<section class="panel"><h2>Take it with you</h2><div class="row wrap">${can.map((kind) => html`<button key=${kind} disabled=${busy === kind} onClick=${() => get(kind)}>${names[kind] ?? kind}</button>`)}
    <a class="button" href=${`/v1/runs/${run.id}/trace.safetensors`} download>Recording</a><button onClick=${() => copyCommand(run, "cli", picture)}>Copy CLI</button><button onClick=${() => copyCommand(run, "curl", picture)}>Copy curl</button></div></section>`;
}

export function screen({ id, query }) {
  const run = useStore((s) => s.runs[id]);
  const [missing, miss] = useState(null);
  const picture = Number(query.picture) || 0;
  const lens = LENSES.some(([n]) => n === query.lens) ? query.lens : "x0";
  const token = query.token === undefined ? null : Number(query.token);
  const beside = useStore((s) => s.runs[query.beside]);
  const [loupe, setLoupe] = useState(() => persisted("loupe", true));
  const [forking, fork] = useState(null);
  const [spot, pick] = useState(null);
  const [mean, setMean] = useState(null);
  const [available, offer] = useState(null);
  useEffect(() => { miss(null); load(id).catch(miss); }, [id]);
  useEffect(() => { if (query.beside) load(query.beside).catch(() => amend({ beside: null })); }, [query.beside]);
  useEffect(() => { if (run) hold(run, picture); if (query.step !== undefined && Number(query.step) !== cursor.k) setStep(Number(query.step), { address: false }); }, [run?.id, picture]);
  const over = run && !isActive(run) && (run.steps_done > 0 || run.pictures?.length > 0);
  const replayed = useStore((s) => Object.values(s.runs).filter((r) => r.kind === "attention" && r.parent === id && r.state === "done").length);
  const { data: numbers } = useLoad(() => (over && run.steps_done ? runs.numbers(id, picture) : null), [id, picture, over, run?.steps_done]);
  const again = useRef(replayed);
  useEffect(() => {
    if (!over || !run.steps_done) return offer(null);
    const fresh = again.current !== replayed;
    again.current = replayed;
    geometry(id, fresh).then((shapes) => offer(Object.keys(shapes)), () => offer([]));
  }, [id, over, replayed, run?.steps_done]);
  const film = useReel(run, "x0", picture);
  const live = useStore((s) => s.live[id]?.k);
  const can = (name) => (over ? !available || available.includes(name) : ["x0", "x"].includes(name));
  const see = (name) => can(name) ? amend({ lens: name === "x0" ? null : name }) : say(`${NAMES[name]}: not recorded for this run`);
  const open = () => run && over && !BUNDLE && run.record !== "preview" && fork(film.at(cursor.k));
  useKeys({ ...Object.fromEntries(LENSES.map(([name, , text], i) => [String(i + 1), [() => see(name), text]])), f: [open, "Fork here"], s: [() => amend({ with: query.with ? null : lens === "x" ? "x0" : "x", pin: null }), "Split"], o: [() => setLoupe(!loupe), "Loupe"] });
  useEffect(() => keep("loupe", loupe), [loupe]);
  if (missing) return html`<section class="blank"><h1>This run is not here</h1><p>${missing.message}</p><p><a href="/gallery">To the gallery</a></p></section>`;
  if (!run) return html`<p class="loading" aria-busy="true">Opening the run</p>`;
  const heard = !!available?.includes("attention");
  const left = { run, picture, lens: can(lens) || lens === "attention" ? lens : "x0", token };
  const pin = query.pin === undefined ? undefined : Number(query.pin);
  const right = beside && query.beside ? { run: beside, picture: 0, lens: left.lens, token } : pin !== undefined ? { run, picture, lens: left.lens, token, pin } : query.with && can(query.with) ? { run, picture, lens: query.with, token } : null;
  const shot = run.pictures?.[picture];
  const size = film?.count ? film.size : shot ? [shot.width, shot.height] : [64, 64];
  const mode = beside && query.beside ? "run" : pin !== undefined ? "step" : query.with ? "lens" : "off";
  const split = (to) => amend({ with: to === "lens" ? (lens === "x" ? "x0" : "x") : null, pin: to === "step" ? film.at(cursor.k) : null, beside: to === "run" ? query.beside : null });
  return html`<div class="screen scope"><h1 class="hear">Microscope: ${run.prompt || run.title || run.id}</h1>
    <section class="view" aria-label="The run">
      <div class="bar"><${Segments} label="Lens" value=${left.lens} onChange=${see} options=${LENSES.filter(([name]) => can(name) || name === "attention").map(([name, text, title]) => [name, text, title])} /></div>
      <${Stage} left=${left} right=${right} size=${size} loupe=${loupe} pick=${heard && !BUNDLE && lens === "attention" ? pick : null} />
      <p class="small quiet">${NAMES[left.lens]}${right && mode === "lens" ? `, beside: ${NAMES[right.lens].toLowerCase()}` : ""}</p>
      <${Transport} run=${run} />
      <div class="bar"><${Segments} label="Split" value=${mode} onChange=${split} options=${[["off", "Whole"], ["lens", "Two lenses"], ["step", "Two steps"], ...(query.beside ? [["run", "Two runs"]] : [])]} />
        ${mode === "lens" && html`<select aria-label="Lens on the right" value=${query.with} onChange=${(e) => amend({ with: e.target.value })}>${LENSES.filter(([n]) => can(n)).map(([n, text]) => html`<option value=${n}>${text}</option>`)}</select>`}
        ${mode === "step" && html`<small class="quiet">right: step ${pin + 1}</small><button onClick=${() => amend({ pin: film.at(cursor.k) })}>Pin this step</button>`}
        <button aria-pressed=${loupe} onClick=${() => setLoupe(!loupe)}>Loupe</button>
        <button hidden=${!!BUNDLE} onClick=${open} disabled=${!over || run.record === "preview"} title=${run.record === "preview" ? "This run was recorded to look at only" : "Go on from this step with something changed (F)"}><${Icon} name="fork" />Fork here</button></div>
      ${run.pictures?.length > 1 && html`<div class="batch" role="group" aria-label="Pictures of this run">${run.pictures.map((_, n) => html`<button key=${n} aria-pressed=${n === picture} aria-label=${`Picture ${n + 1}`} onClick=${() => { set({ picture: n }); amend({ picture: n || null }); }}><${Frame} run=${run} picture=${n} label="" /></button>`)}</div>`}
      ${isActive(run) && html`<p class="status" role="status" aria-live="polite">${progress(run)}</p>`}
    </section>
    <aside class="stack" aria-label="Numbers of the run">
      <section class="panel"><h2>${run.prompt || run.title || "Untitled run"}</h2><div class="row wrap"><a class="button" href=${`/explain/${run.id}`}>Explain this run</a><button hidden=${!!BUNDLE} onClick=${() => toTray(run.id)}>Add to compare</button></div><${Readout} run=${run} numbers=${numbers} picture=${picture} />${numbers?.steps?.length > 1 && html`<${Charts} numbers=${numbers} />`}</section>
      ${over && (left.lens === "attention" || heard) && html`<${Attention} run=${run} picture=${picture} token=${token} heard=${heard} mean=${mean} setMean=${setMean} choose=${(i) => amend({ token: i, lens: "attention" })} />`}
      ${left.lens === "attention" && html`<${Ranked} run=${run} picture=${picture} spot=${spot} heard=${heard} />`}
      ${over && numbers && html`<${Dial} run=${run} numbers=${numbers} picture=${picture} />`}
      <${Tree} run=${run} beside=${query.beside ? beside : null} setBeside=${(other) => amend({ beside: other, with: null, pin: null })} />
      ${over && !BUNDLE && html`<${Export} run=${run} picture=${picture} />`}
    </aside>
    ${forking !== null && html`<${Fork} run=${run} k=${forking} onClose=${() => fork(null)} />`}</div>`;
}
