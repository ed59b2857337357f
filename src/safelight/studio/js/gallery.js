// Gallery: every run there is. Search, filters, boards, stars; hovering plays the denoising; many can be chosen at once.
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { zip } from "./maths.js";
import { call, download, later, shotOf, url } from "./kit.js";
import { api, bytes, learn, runs as server } from "./api.js";
import { useReel } from "./filmstrip.js";
import { useKeys } from "./keys.js";
import { Dialog, Icon, Shot } from "./parts.js";
import { go } from "./router.js";
import { fail, keep, offer, say, set, state, useStore } from "./store.js";

const KINDS = ["generate", "edit", "vary", "mix", "morph", "fork", "import"];
const PAGE = 60;

export function screen({ query }) {
  const [find, setFind] = useState({ q: query.q ?? "", model: query.model ?? "", kind: query.kind ?? "", star: query.star ?? "", board: query.board ?? "", since: query.since ?? "", seed: query.seed ?? "" });
  const [ids, setIds] = useState([]), [next, setNext] = useState(null), [busy, setBusy] = useState(true), [chosen, setChosen] = useState([]), [tree, setTree] = useState(null), [gone, setGone] = useState([]);
  const shown = useStore((s) => ids.map((id) => s.runs[id]).filter(Boolean)), fresh = useStore((s) => Object.values(s.runs).filter((r) => !ids.includes(r.id) && r.created > (s.runs[ids[0]]?.created ?? 0)));
  const models = useStore((s) => s.models)?.models ?? [], end = useRef(), turn = useRef(0), last = useRef(null);
  const asked = { q: find.q, model: find.model, kind: find.kind, star: find.star ? "true" : "", board: find.board, limit: PAGE };
  const load = async (before) => {
    const mine = ++turn.current;
    setBusy(true);
    try {
      const page = await server.list({ ...asked, before });
      if (mine !== turn.current) return;
      setIds((old) => (before ? [...old, ...page.runs.map((r) => r.id).filter((id) => !old.includes(id))] : page.runs.map((r) => r.id)));
      setNext(page.next);
    } catch (error) { fail(error); } finally { if (mine === turn.current) setBusy(false); }
  };
  useEffect(() => { url({ ...find }); return later(150, () => load()); }, [JSON.stringify(find)]);
  useEffect(() => {
    if (!next || busy) return;
    const eye = new IntersectionObserver((seen) => seen[0].isIntersecting && load(next), { rootMargin: "600px" });
    eye.observe(end.current);
    return () => eye.disconnect();
  }, [next, busy]);
  // Runs made while one looks come in on top, where no filter stands in their way.
  useEffect(() => { if (fresh.length && ids.length && !Object.values(find).some(Boolean)) setIds([...fresh.sort((a, b) => b.created - a.created).map((r) => r.id), ...ids]); }, [fresh.length]);
  const from = find.since ? new Date(find.since).getTime() / 1000 : 0;
  const list = shown.filter((r) => !gone.includes(r.id) && r.created >= from && (!find.seed || r.seed === +find.seed) && (!find.star || r.star));
  const picked = list.filter((r) => chosen.includes(r.id));
  const choose = (r, range) => {
    const a = list.findIndex((x) => x.id === last.current), b = list.indexOf(r);
    setChosen(range && a >= 0 ? [...new Set([...chosen, ...list.slice(Math.min(a, b), Math.max(a, b) + 1).map((x) => x.id)])] : chosen.includes(r.id) ? chosen.filter((x) => x !== r.id) : [...chosen, r.id]);
    last.current = r.id;
  };
  const remove = async () => {
    const dead = picked.map((r) => r.id), kept = [];
    setGone([...gone, ...dead]); setChosen([]);
    // The dock lets go of what is deleted, so that it does not ask for it.
    if (dead.includes(state.current)) { set({ current: null }); keep("current", null); }
    for (const id of dead) if (await call.del(`/v1/runs/${id}`)) kept.push(id);
    setGone((old) => old.filter((id) => !dead.includes(id) || kept.includes(id)));
    say(`${kept.length} deleted`);
    if (kept.length) offer(`${kept.length} ${kept.length === 1 ? "run" : "runs"} deleted`, "Undo", async () => {
      for (const id of kept) await server.restore(id).catch(fail);
      setGone((old) => old.filter((id) => !kept.includes(id)));
      load();
    });
  };
  const packed = async () => {
    const files = [];
    for (const r of picked) for (const i of r.pictures.keys()) files.push({ name: `${r.id}-${i}.png`, data: new Uint8Array(await bytes(shotOf(r, i))) });
    download(zip(files), "safelight.zip");
  };
  const take = async (files) => {
    const body = new FormData(), pictures = [...files].filter((f) => /^image\//.test(f.type) || /\.(png|jpe?g|webp)$/i.test(f.name));
    if (!pictures.length) return;
    for (const f of pictures) body.append("files", f, f.name);
    try {
      const got = await api("/v1/runs/import", { method: "POST", form: body });
      got.runs.forEach(learn);
      say(`${got.runs.length} pictures taken in${got.known ? `, ${got.known} were here already` : ""}`);
      if (got.refused.length) fail(new Error(`Not taken in: ${got.refused.join("; ")}`));
      load();
    } catch (error) { fail(error); }
  };
  const boards = [...new Set(Object.values(state.runs).map((r) => r.board).filter(Boolean))].sort();
  useKeys({ a: [() => setChosen(list.map((r) => r.id)), "Choose all that are shown"], Delete: [() => picked.length && remove(), "Delete what is chosen"], Escape: [() => (chosen.length ? setChosen([]) : false), "Choose nothing"] });
  const change = (name) => (e) => setFind({ ...find, [name]: e.target.type === "checkbox" ? (e.target.checked ? "1" : "") : e.target.value });

  return html`<section class="screen mine"><h1>Gallery</h1>
    <div class="filters row wrap" role="search"><input type="search" class="grow" aria-label="Search words" placeholder="Search words" value=${find.q} onInput=${change("q")} />
      <select aria-label="Model" value=${find.model} onChange=${change("model")}><option value="">every model</option>${models.map((m) => html`<option value=${m.name}>${m.name}</option>`)}</select>
      <select aria-label="Kind" value=${find.kind} onChange=${change("kind")}><option value="">every kind</option>${KINDS.map((k) => html`<option value=${k}>${k}</option>`)}</select>
      <select aria-label="Board" value=${find.board} onChange=${change("board")}><option value="">every board</option>${boards.map((b) => html`<option value=${b}>${b}</option>`)}</select>
      <input class="short" type="number" aria-label="Seed" placeholder="seed" value=${find.seed} onInput=${change("seed")} /><input type="date" aria-label="Made since" value=${find.since} onInput=${change("since")} />
      <label class="check"><input type="checkbox" checked=${!!find.star} onChange=${change("star")} /> starred</label>
      <label class="button">Import<input class="hidden" type="file" multiple accept="image/png,image/jpeg,image/webp" onChange=${(e) => take(e.target.files)} /></label><label class="button">Import a folder<input class="hidden" type="file" webkitdirectory onChange=${(e) => take(e.target.files)} /></label></div>
    ${chosen.length > 0 && html`<div class="actions row wrap" role="toolbar" aria-label="With what is chosen"><b role="status">${chosen.length} chosen</b>
      <button onClick=${() => { set({ tray: chosen }); keep("tray", chosen); go("/compare", { runs: chosen.join(",") }); }} disabled=${chosen.length < 2}>Compare</button>
      <button onClick=${() => go("/morph", { run: chosen.join(",") })} disabled=${chosen.length < 2}>Morph</button><button onClick=${packed} disabled=${!picked.some((r) => r.pictures.length)}>Zip</button>
      <button onClick=${async () => { const on = !picked.every((r) => r.star); for (const r of picked) await call.patch(`/v1/runs/${r.id}`, { star: on }); }}>Star</button>
      <${Board} boards=${boards} onSet=${async (board) => { for (const r of picked) await call.patch(`/v1/runs/${r.id}`, { board }); say(board ? `Put on the board ${board}` : "Taken off their boards"); }} />
      <button class="bad" onClick=${remove}>Delete</button><button class="ghost" onClick=${() => setChosen([])}>Choose nothing</button></div>`}
    ${list.length ? html`<ul class="wall">${list.map((r) => html`<${Card} key=${r.id} ...${{ r, chosen: chosen.includes(r.id), choosing: chosen.length > 0, onChoose: (range) => choose(r, range), onTree: () => setTree(r.id) }} />`)}</ul>`
      : !busy && html`<div class="blank"><p>${Object.values(find).some(Boolean) ? "No run fits these filters." : "Every run is kept here, with all its steps."}</p>${Object.values(find).some(Boolean) ? html`<button onClick=${() => setFind(Object.fromEntries(Object.keys(find).map((k) => [k, ""])))}>Clear the filters</button>` : html`<a class="button primary" href="/create">Make a picture</a>`}</div>`}
    <div ref=${end} class="end" aria-busy=${busy}>${busy ? "Looking." : next ? "" : list.length ? `${list.length} runs, no more.` : ""}</div>
    ${tree && html`<${Provenance} id=${tree} onClose=${() => setTree(null)} />`}</section>`;
}

function Board({ boards, onSet }) {
  const [name, setName] = useState("");
  return html`<form class="inline" onSubmit=${(e) => { e.preventDefault(); onSet(name.trim()); setName(""); }}><input aria-label="Board" list="boards" placeholder="board" value=${name} onInput=${(e) => setName(e.target.value)} /><datalist id="boards">${boards.map((b) => html`<option value=${b}></option>`)}</datalist><button>${name.trim() ? "Put on board" : "Off the board"}</button></form>`;
}

function Card({ r, chosen, choosing, onChoose, onTree }) {
  const [playing, setPlaying] = useState(false), waits = useRef();
  // A pointer that only passes by starts no film.
  const enter = () => { waits.current = setTimeout(() => setPlaying(true), 120); };
  const leave = () => { clearTimeout(waits.current); setPlaying(false); };
  return html`<li class=${`run-card ${chosen ? "chosen" : ""} ${r.state}`} onMouseEnter=${enter} onMouseLeave=${leave}>
    <a href=${`/run/${r.id}`} onFocus=${enter} onBlur=${leave} aria-label=${`${r.prompt || r.title || "Untitled"}, ${r.kind}${r.state === "done" ? "" : `, ${r.state}`}`}
      onClick=${(e) => { if (e.shiftKey || (choosing && !e.metaKey && !e.ctrlKey)) { e.preventDefault(); e.stopPropagation(); onChoose(e.shiftKey); } }}>${playing && r.kind !== "import" && (r.steps_done || r.steps) && r.state !== "queued" ? html`<${Film} run=${r} />` : html`<${Shot} run=${r} alt="" />`}</a>
    <div class="corner"><input type="checkbox" aria-label=${`Choose ${r.prompt || r.id}`} checked=${chosen} onClick=${(e) => onChoose(e.shiftKey)} />
      <span><button aria-label=${`Where ${r.prompt || r.id} comes from`} title="Where it comes from" onClick=${onTree}><${Icon} name="fork" /></button>
      <button aria-label=${`Star ${r.prompt || r.id}`} aria-pressed=${!!r.star} onClick=${() => call.patch(`/v1/runs/${r.id}`, { star: !r.star })}>${r.star ? "★" : "☆"}</button></span></div>
    <p title=${r.prompt}>${r.title || r.prompt || "no words"}</p></li>`;
}

/** The recorded denoising, over and over; with reduced motion its last frame. */
function Film({ run }) {
  const film = useReel(run, "x0", 0), canvas = useRef();
  useEffect(() => {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let k = 0, timer;
    const draw = () => {
      const box = canvas.current, [w, h] = film.size;
      if (!box || !film.count) { timer = setTimeout(draw, 60); return; }
      if (box.width !== w) Object.assign(box, { width: w, height: h });
      k = still ? film.count - 1 : k % film.count;
      film.draw(box.getContext("2d"), k, 0, 0, w, h);
      box.dataset.step = k;
      k++;
      if (!still) timer = setTimeout(draw, k === film.count ? 700 : 80);
    };
    draw();
    return () => clearTimeout(timer);
  }, [film]);
  return html`<canvas class="shot frame" ref=${canvas} role="img" aria-label="The denoising"></canvas>`;
}

/** What this run was made from, and what was made from it. */
function Provenance({ id, onClose }) {
  const [nodes, setNodes] = useState(null);
  useEffect(() => { server.tree(id).then((t) => setNodes(t.nodes), (e) => { fail(e); onClose(); }); }, [id]);
  const under = (parent) => (nodes ?? []).filter((n) => (parent === null ? !nodes.some((m) => m.id === n.parent) : n.parent === parent));
  const draw = (n) => html`<li key=${n.id}><a href=${`/run/${n.id}`} class=${n.id === id ? "here" : ""} aria-current=${n.id === id ? "true" : undefined} onClick=${onClose}>${n.thumb ? html`<img src=${n.thumb} alt="" />` : html`<span class="shot empty"></span>`}<span>${n.relation || "first"}${n.id === id ? ", this one" : ""}</span></a>${under(n.id).length > 0 && html`<ul>${under(n.id).map(draw)}</ul>`}</li>`;
  return html`<${Dialog} title="Where it comes from" onClose=${onClose}>${!nodes ? html`<p aria-busy="true">Looking.</p>` : html`<ul class="tree">${under(null).map(draw)}</ul>${nodes.length < 2 && html`<p class="dim">Nothing was made from it yet: a fork, an edit or a variation would hang below it.</p>`}`}<//>`;
}
