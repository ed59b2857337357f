/* The microscope: one run, step by step, through six lenses.

Address: /run/ID?step=&lens=&picture=&token=&mean=1&with=&pin=&beside=&fork=1   with: another lens on the right; pin: another step there; beside: another run;
mean: attention averaged over the steps; fork: the dialog is open */
import { html, useCallback, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { EXAMPLE, api, attempt, bytes, copyCommand, load, recorded, runs } from "./api.js";
import { fail, isActive, modelOf, persisted, keep, say, set, subscribe, toTray, useStore } from "./store.js";
import { amend, go } from "./router.js";
import { useKeys } from "./keys.js";
import { Frame, cursor, geometry, isRecorded, onStep, play, reel, setStep, useReel, useStep } from "./filmstrip.js";
import { Chart, Spectrum, nice } from "./charts.js";
import { Dial } from "./dial.js";
import { Loupe } from "./loupe.js";
import { Dialog, Icon, Kind, Segments, Shot, Slider, useId, useLoad } from "./parts.js";
import { download } from "./kit.js";
import { hold, progress } from "./shell.js";

export const LENSES = [
  ["x", "Seen", "What the network sees: x_t"], ["x0", "Believed", "What it believes the picture is: x0"], ["noise", "Noise", "The noise it predicts"],
  ["guidance", "Guidance", "What guidance changes: cond − null"], ["attention", "Attention", "Where the words are looked at"], ["difference", "Difference", "How far from the finished picture"],
];
const NAMES = Object.fromEntries(LENSES.map(([name, , text]) => [name, text]));

/* The mean over the steps of the attention to one token: a picture of its own, fetched once. */
const means = new Map();
function meanOf({ run, picture, token }, ready) {
  const path = `/v1/runs/${run.id}/attention/${token}.png?step=mean&picture=${picture}`;
  if (!means.has(path)) {
    if (means.size > 24) means.delete(means.keys().next().value);
    const entry = { bitmap: null };
    means.set(path, entry);
    entry.coming = bytes(path).then((data) => createImageBitmap(new Blob([data], { type: "image/png" }))).then((bitmap) => { entry.bitmap = bitmap; });
    entry.coming.catch((error) => { means.delete(path); fail(error); });
  }
  const entry = means.get(path);
  if (!entry.bitmap) entry.coming.then(ready, () => {});
  return entry.bitmap;
}

const heatOf = ({ run, picture, token }) => reel(run, token === null ? "attention" : `attention/${token}`, picture);
/* What a view is drawn from. */
const reelsOf = (view) => (view.lens === "attention" ? [reel(view.run, "x0", view.picture), ...(view.heard ? [heatOf(view)] : [])] : [reel(view.run, view.lens, view.picture)]);

/* Draw one lens of a run at step k over the whole of a w x h canvas. Attention lies over what is believed. */
function paintLens(c, view, k, w, h, ready) {
  if (view.lens !== "attention") return reel(view.run, view.lens, view.picture).draw(c, k, 0, 0, w, h);
  reel(view.run, "x0", view.picture).draw(c, k, 0, 0, w, h);
  if (!view.heard) return false;
  const mean = view.mean && view.token !== null && meanOf(view, ready), heat = heatOf(view);
  if (!mean && !heat.count) return false;
  c.globalAlpha = 0.65;
  if (mean) c.drawImage(mean, 0, 0, w, h);
  else heat.draw(c, k, 0, 0, w, h);
  c.globalAlpha = 1;
  return true;
}

function Stage({ left, right, size, loupe, pick, label }) {
  const canvas = useRef(), box = useRef();
  const [cut, move] = useState(0.5);
  const [spot, look] = useState(null);
  const step = useStep();
  const film = useReel(left.run, left.lens === "attention" ? "x0" : left.lens, left.picture);
  const [w, h] = size;
  const state = useRef();
  state.current = { left, right, cut };
  const views = [left, right].filter(Boolean);
  const key = JSON.stringify(views.map(({ run, ...view }) => [run.id, run.steps_done, view]));
  useEffect(() => {
    const paint = () => {
      if (!canvas.current) return;
      const { left, right, cut } = state.current, began = performance.now();
      const c = canvas.current.getContext("2d");
      c.clearRect(0, 0, w, h);
      paintLens(c, left, cursor.k, w, h, paint);
      if (right) {
        const x = Math.round(cut * w);
        c.save();
        c.beginPath();
        c.rect(x, 0, w - x, h);
        c.clip();
        c.clearRect(x, 0, w - x, h);
        paintLens(c, right, right.pin ?? cursor.k, w, h, paint);
        c.restore();
      }
      canvas.current.dataset.step = film.at(cursor.k);
      canvas.current.dataset.ms = (performance.now() - began).toFixed(2);
    };
    paint();
    const off = [onStep(paint), subscribe(paint), ...views.flatMap(reelsOf).map((one) => one.watch(paint))];
    return () => off.forEach((f) => f());
  }, [film, key, cut, w, h]);
  const place = (e) => {
    const r = box.current.getBoundingClientRect();
    const x = (e.clientX - r.left) / r.width, y = (e.clientY - r.top) / r.height;
    return { x: Math.max(0, Math.min(0.999, x)), y: Math.max(0, Math.min(0.999, y)), left: x > 0.5 ? 8 : Math.max(8, r.width - 296), top: 8 };
  };
  /* Arrows move the loupe by a pixel (Shift: by eight), Enter is a click there, Escape lays it down. */
  const keys = (e) => {
    if (e.target !== box.current) return;
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (e.key === "Escape" && spot) look(null);
    else if (e.key === "Enter" && pick) pick(spot ?? { x: 0.5, y: 0.5 });
    else if (by) {
      const from = spot ?? { x: 0.5, y: 0.5 }, far = spot ? (e.shiftKey ? 8 : 1) : 0;
      const x = Math.max(0, Math.min(0.999, from.x + (far * by[0]) / w)), y = Math.max(0, Math.min(0.999, from.y + (far * by[1]) / h));
      look({ x, y, left: x > 0.5 ? 8 : Math.max(8, box.current.clientWidth - 296), top: 8 });
    } else return;
    e.preventDefault();
    e.stopPropagation();
  };
  const drawn = useCallback((c, dw, dh) => { const { left, right, cut } = state.current; const s = right && spot && spot.x > cut ? right : left; paintLens(c, s, s.pin ?? cursor.k, dw, dh); }, [spot?.x > cut]);
  const at = film.at(step), seen = right && spot?.x > cut ? right : left;
  const tag = (s) => `${s.run.id === left.run.id ? "" : "other run, "}${LENSES.find(([n]) => n === s.lens)[1].toLowerCase()}, step ${(s.pin ?? at) + 1}`;
  return html`<div class="stage made" ref=${box} tabindex="0" role="group" aria-label=${label} data-arrows onKeyDown=${keys} style=${`--ratio:${w}/${h};--cut:${cut * 100}%`} onPointerMove=${(e) => loupe && e.pointerType !== "touch" && look(place(e))} onPointerLeave=${() => look(null)} onClick=${(e) => pick?.(place(e))}>
    <canvas ref=${canvas} class="shot frame" width=${w} height=${h} role="img" aria-label=${`${NAMES[left.lens]}, step ${at + 1} of ${film.count}`}></canvas>
    ${film.error && html`<p class="tag left" role="alert">${film.error.message} <button onClick=${(e) => { e.stopPropagation(); film.again(); }}>Try again</button></p>`}
    ${right && html`<div class="split" role="slider" tabindex="0" aria-label="Split between the two views" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(cut * 100)}
      onPointerDown=${(e) => e.currentTarget.setPointerCapture(e.pointerId)} onPointerMove=${(e) => e.buttons && move(place(e).x)} onClick=${(e) => e.stopPropagation()}
      onKeyDown=${(e) => { const by = { ArrowLeft: -0.02, ArrowRight: 0.02, Home: -1, End: 1 }[e.key]; if (by) { e.preventDefault(); e.stopPropagation(); move(Math.max(0, Math.min(1, cut + by))); } }}></div><span class="tag left">${tag(left)}</span><span class="tag right">${tag(right)}</span>`}
    ${spot && loupe && html`<${Loupe} run=${seen.run} picture=${seen.picture} k=${seen.pin ?? reel(seen.run, "x0", seen.picture).at(step)} lens=${seen.lens} spot=${spot} size=${size} draw=${drawn} />`}</div>`;
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
    ${how.reverse && html`<small class="quiet" role="status">Backwards this is the forward process, how a picture is noised, along this run's own path.</small>`}</div>`;
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

function Attention({ run, picture, token, mean, choose, heard }) {
  const job = useStore((s) => Object.values(s.runs).find((r) => r.kind === "attention" && r.parent === run.id && isActive(r)));
  const { data, error } = useLoad(() => (heard ? api(`/v1/runs/${run.id}/attention?picture=${picture}`) : null), [run.id, heard, picture]);
  if (!heard) return recorded(run.id) ? null : html`<section class="panel"><h2>Attention</h2><p class="quiet">Where each word is looked at is recorded on request: the run is replayed with the same seed, to the same picture.</p>
    ${job ? html`<p role="status">${progress(job)}</p>` : html`<button onClick=${() => attempt(api(`/v1/runs/${run.id}/attention`, { method: "POST" }).then((made) => set((s) => ({ runs: { ...s.runs, [made.id]: made } }))))}>Record attention</button>`}</section>`;
  const words = (data?.tokens ?? []).filter((t) => (t.role ?? "word") === "word");
  return html`<section class="panel heat"><h2>Attention</h2>${error && html`<p role="alert">${error.message}</p>`}<div class="tokens" role="group" aria-label="Tokens">
      <button class="chip" aria-pressed=${token === null} onClick=${() => choose(null, false)}>all words</button>
      ${words.map((t) => html`<button key=${t.i} class="chip" aria-pressed=${token === t.i} onClick=${(e) => e.detail < 2 && choose(t.i, false)} onDblClick=${() => choose(t.i, true)}>${t.text.replace("</w>", "")}</button>`)}</div>
    <div class="row wrap"><button aria-pressed=${mean} disabled=${token === null} onClick=${() => choose(token, !mean)}>Mean of all steps</button></div>
    <small class="quiet">${mean ? "On the picture: the mean over all steps. " : ""}Double click a token for its mean over the steps; click the picture (or Enter on it) to rank the tokens of that place.${data?.identical ? " The replay gave the identical picture." : ""}</small></section>`;
}

function Ranked({ run, picture, spot, heard }) {
  const now = useReel(run, "x0", picture).at(useStep()), [k, rest] = useState(now);
  useEffect(() => { const timer = setTimeout(() => rest(now), 120); return () => clearTimeout(timer); }, [now]); // scrubbing asks for nothing
  const { data, error } = useLoad(() => (heard && spot ? api(`/v1/runs/${run.id}/attention/at?x=${spot.x}&y=${spot.y}&step=${k}&picture=${picture}`) : null), [run.id, spot?.x, spot?.y, k, heard, picture]);
  if (!spot || !heard) return null;
  const most = data?.tokens[0]?.share || 1;
  return html`<section class="panel"><h2>Looked at from here, step ${k + 1}</h2>${error && html`<p role="alert">${error.message}</p>`}<ol class="stack">${(data?.tokens ?? []).slice(0, 6).map(({ i, text, share }) => html`<li key=${i} class="row"><span class="grow">${text}</span><progress max=${most} value=${share} aria-label=${text}></progress><span class="number">${Math.round(100 * share)} %</span></li>`)}</ol></section>`;
}

function ExplainStep({ run, picture }) {
  const k = useReel(run, "x0", picture).at(useStep());
  return html`<a class="button" href=${`/explain/${run.id}?stop=2&step=${Math.max(0, k)}${picture ? `&picture=${picture}` : ""}`}>Explain this step</a>`;
}

function Fork({ run, k, picture, onClose }) {
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
    if (made) { onClose(); hold(made, picture); go(`/run/${made.id}`, { picture: picture || null }); }
  };
  return html`<${Dialog} title=${`Fork at step ${k + 1}`} onClose=${onClose}><form class="stack" onSubmit=${send}>
    <p class="quiet">The run goes on from the recorded x at this step; only the remaining ${Math.max(0, (run.steps || 0) - k)} steps are computed. With nothing changed it gives the same picture.</p>
    ${!several && html`<div class="field"><label for=${id}>Prompt from here on</label><textarea id=${id} rows="2" value=${prompt} onInput=${(e) => type(e.target.value)}></textarea></div>`}
    ${typeof scale === "number" && html`<${Slider} label="Guidance from here on" value=${scale} min=${0} max=${15} step=${0.1} onInput=${turn} />`}
    <${Kind} label="Sampler from here on" kinds=${parts?.samplers} value=${sampler} own=${request.sampler} onChange=${take} />
    <${Slider} label="Fresh noise" value=${noise} min=${0} max=${1} step=${0.01} onInput=${add} hint="0 keeps the recorded noise" />
    <div class="row"><button class="primary">Fork</button><button type="button" onClick=${onClose}>Cancel</button></div></form></${Dialog}>`;
}

const none = [];
/* The branching timeline: a row a run, from the step it left its parent at to its end. */
function Tree({ run, beside, setBeside }) {
  const mine = useRef(new Set());
  mine.current.add(run.id);
  const version = useStore((s) => Object.values(s.runs).filter((r) => mine.current.has(r.parent) || mine.current.has(r.id)).map((r) => r.id + r.state).join());
  const { data } = useLoad(() => runs.tree(run.id), [run.id, version]);
  const known = useStore((s) => s.runs);
  const nodes = data?.nodes ?? none;
  for (const n of nodes) mine.current.add(n.id);
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
    download(new Blob([data]), `safelight-${run.id}.${kind}`);
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
  const [found, offer] = useState(null), had = useRef(null);
  if (run) had.current = id;
  useEffect(() => {
    let on = true;
    miss(null);
    load(id).catch((error) => on && miss(error));
    return () => { on = false; };
  }, [id]);
  useEffect(() => { if (query.beside) load(query.beside).catch(() => amend({ beside: null })); }, [query.beside]);
  // The address says which step, when it is opened and when one goes back; scrubbing then says it to the address.
  const asked = query.step === undefined ? undefined : Number(query.step), before = useRef(asked);
  useEffect(() => {
    if (run) hold(run, picture);
    if (Number.isInteger(asked) ? asked !== cursor.k : before.current !== undefined) setStep(Number.isInteger(asked) ? asked : null, { address: false });
    before.current = asked;
  }, [run?.id, picture, asked]);
  const over = !!run && !isActive(run) && isRecorded(run);
  const fixed = recorded(id), available = over && found?.id === id ? found.list : null;
  const replayed = useStore((s) => Object.values(s.runs).filter((r) => r.kind === "attention" && r.parent === id && r.state === "done").length);
  const { data: numbers } = useLoad(() => (over && run.steps_done ? runs.numbers(id, picture) : null), [id, picture, over, run?.steps_done]);
  const again = useRef(replayed);
  useEffect(() => {
    if (!over || !run.steps_done) return;
    const fresh = again.current !== replayed;
    let on = true;
    again.current = replayed;
    geometry(id, fresh).then((shapes) => on && offer({ id, list: Object.keys(shapes) }), () => on && offer({ id, list: [] }));
    return () => { on = false; };
  }, [id, over, replayed, run?.steps_done]);
  const film = useReel(run, "x0", picture);
  const live = useStore((s) => s.live[id]?.k);
  const can = (name) => (over ? !available || available.includes(name) : ["x0", "x"].includes(name));
  const see = (name) => can(name) ? amend({ lens: name === "x0" ? null : name }) : say(`${NAMES[name]}: not recorded for this run`);
  const can_fork = over && !fixed && run.record !== "preview";
  const open = () => can_fork && film?.count > 0 && fork(film.at(cursor.k));
  useEffect(() => {
    if (query.fork === undefined || !film?.count) return;
    open();
    amend({ fork: null });
  }, [query.fork, film?.count > 0]);
  useKeys({ ...Object.fromEntries(LENSES.map(([name, , text], i) => [String(i + 1), [() => see(name), text]])), f: [open, "Fork here"], s: [() => amend({ with: query.with ? null : lens === "x" ? "x0" : "x", pin: null }), "Split"], o: [() => setLoupe(!loupe), "Loupe"] });
  useEffect(() => keep("loupe", loupe), [loupe]);
  if (missing || (!run && had.current === id)) return html`<section class="blank"><h1>This run is not here</h1><p>${missing?.message ?? "It was deleted."}</p><p><a href="/gallery">To the gallery</a></p></section>`;
  if (!run) return html`<p class="loading" aria-busy="true">Opening the run</p>`;
  const heard = !!available?.includes("attention");
  const mean = token !== null && query.mean === "1";
  const left = { run, picture, lens: can(lens) || lens === "attention" ? lens : "x0", token, mean, heard };
  const pin = query.pin === undefined ? undefined : Number(query.pin);
  const right = beside && query.beside ? { ...left, run: beside, picture: Math.min(picture, Math.max(0, (beside.pictures?.length ?? 1) - 1)), heard: heard && left.lens !== "attention" }
    : pin !== undefined ? { ...left, pin } : query.with && can(query.with) ? { ...left, lens: query.with } : null;
  // A model of latents shows noise, and x while it runs, by a linear map; of pixels nothing is approximated.
  const about = modelOf(run.model), latent = numbers ? numbers.r2 < 1 : !!about?.latent && about.latent.at(-1) !== about.size?.at(-1);
  const linear = latent && [left, right].some((v) => v && (v.lens === "noise" || (v.lens === "x" && isActive(v.run))));
  const shot = run.pictures?.[picture];
  const size = film?.count ? film.size : shot ? [shot.width, shot.height] : [64, 64];
  const mode = beside && query.beside ? "run" : pin !== undefined ? "step" : query.with ? "lens" : "off";
  const split = (to) => amend({ with: to === "lens" ? (lens === "x" ? "x0" : "x") : null, pin: to === "step" ? film.at(cursor.k) : null, beside: to === "run" ? query.beside : null });
  return html`<div class="screen scope"><h1 class="hear">Microscope: ${run.prompt || run.title || run.id}</h1>
    <section class="view" aria-label="The run">
      <div class="bar"><${Segments} label="Lens" value=${left.lens} onChange=${see} options=${LENSES.filter(([name]) => can(name) || name === "attention").map(([name, text, title]) => [name, text, title])} /></div>
      ${!over && !isActive(run) && shot ? html`<div class="stage made" style=${`--ratio:${shot.width}/${shot.height}`}><${Shot} run=${run} i=${picture} lazy=${false} /></div>` : html`<${Stage} left=${left} right=${right} size=${size} loupe=${loupe} pick=${heard && lens === "attention" ? pick : null} label=${`The stage. Arrow keys move the loupe${heard && lens === "attention" ? ", Enter ranks the words of that place" : ""}.`} />`}
      <p class="small quiet">${NAMES[left.lens]}${right && mode === "lens" ? `, beside: ${NAMES[right.lens].toLowerCase()}` : ""}${linear ? `. A linear approximation of the latent${numbers?.r2 < 1 && !isActive(run) ? `, which explains ${Math.round(100 * numbers.r2)} % of the decoder's colours` : ""}, not decoded` : ""}</p>
      ${!over && !isActive(run) && html`<p class="quiet" role="status">${run.kind === "import" ? "An imported picture: its steps were never recorded." : run.steps_done ? "The steps of this run were pruned; its picture is kept." : "Nothing of this run was recorded."}</p>`}
      <${Transport} key=${id} run=${run} />
      <div class="bar"><${Segments} label="Split" value=${mode} onChange=${split} options=${[["off", "Whole"], ["lens", "Two lenses"], ["step", "Two steps"], ...(query.beside ? [["run", "Two runs"]] : [])]} />
        ${mode === "lens" && html`<select aria-label="Lens on the right" value=${query.with} onChange=${(e) => amend({ with: e.target.value })}>${LENSES.filter(([n]) => can(n)).map(([n, text]) => html`<option value=${n}>${text}</option>`)}</select>`}
        ${mode === "step" && html`<small class="quiet">right: step ${pin + 1}</small><button onClick=${() => amend({ pin: film.at(cursor.k) })}>Pin this step</button>`}
        <button aria-pressed=${loupe} onClick=${() => setLoupe(!loupe)}>Loupe</button>
        <button hidden=${fixed} onClick=${open} disabled=${!can_fork} title=${run.record === "preview" ? "This run was recorded to look at only" : "Go on from this step with something changed (F)"}><${Icon} name="fork" />Fork here</button></div>
      ${run.pictures?.length > 1 && html`<div class="batch" role="group" aria-label="Pictures of this run">${run.pictures.map((_, n) => html`<button key=${n} aria-pressed=${n === picture} aria-label=${`Picture ${n + 1}`} onClick=${() => { set({ picture: n }); amend({ picture: n || null }); }}>${over || isActive(run) ? html`<${Frame} run=${run} picture=${n} label="" />` : html`<${Shot} run=${run} i=${n} alt="" />`}</button>`)}</div>`}
      ${["stopped", "paused"].includes(run.state) && html`<p class="status" role="status">Not finished: ${progress(run)}</p>`}
      ${isActive(run) && run.state !== "paused" && html`<p class="status" role="status" aria-live="polite">${progress(run)}</p>`}
    </section>
    <aside class="stack" aria-label="Numbers of the run">
      <section class="panel"><h2>${run.prompt || run.title || "Untitled run"}</h2>${id === EXAMPLE && html`<p class="small quiet">A recorded run that ships with the studio</p>`}
        <div class="row wrap"><${ExplainStep} run=${run} picture=${picture} /><button hidden=${fixed} onClick=${() => toTray(run.id)}>Add to compare</button></div><${Readout} run=${run} numbers=${numbers} picture=${picture} />${numbers?.steps?.length > 1 && html`<${Charts} numbers=${numbers} />`}</section>
      ${over && (left.lens === "attention" || heard) && html`<${Attention} run=${run} picture=${picture} token=${token} heard=${heard} mean=${mean} choose=${(i, whole) => amend({ token: i, lens: "attention", mean: whole ? 1 : null })} />`}
      ${left.lens === "attention" && html`<${Ranked} run=${run} picture=${picture} spot=${spot} heard=${heard} />`}
      ${over && numbers && html`<${Dial} run=${run} numbers=${numbers} picture=${picture} />`}
      <${Tree} run=${run} beside=${query.beside ? beside : null} setBeside=${(other) => amend({ beside: other, with: null, pin: null })} />
      ${over && !fixed && html`<${Export} run=${run} picture=${picture} />`}
    </aside>
    ${forking !== null && html`<${Fork} run=${run} k=${forking} picture=${picture} onClose=${() => fork(null)} />`}</div>`;
}
