// Gallery: every run there is. Search, filters, boards, stars; hovering plays the denoising; many can be chosen at once.
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { call, download, later, url } from "./kit.js";
import { EXAMPLE, api, attempt, bytes, learn, runs as server } from "./api.js";
import { isRecorded, useReel } from "./filmstrip.js";
import { useKeys } from "./keys.js";
import { Dialog, Icon, Shot } from "./parts.js";
import { go } from "./router.js";
import { fail, isActive, keep, offer, say, set, state, useStore } from "./store.js";

const KINDS = ["generate", "edit", "vary", "mix", "morph", "fork", "import"];
const NOTHING = { q: "", model: "", kind: "", star: "", board: "", since: "", until: "", seed: "" };
const PAGE = 60;
// So many runs one call takes, and so many files and bytes of an import.
const AT_ONCE = 500, FILES = 50, BYTES = 32 << 20;

/** The filters as the server takes them; days are those of the clock here. */
export function asked({ q, model, kind, star, board, since, until, seed }) {
  const day = (text, on) => { const d = new Date(`${text}T00:00`); d.setDate(d.getDate() + on); const s = d.getTime() / 1000; return text && s >= 0 && s < 1e11 ? s : ""; }; // a year half typed is none
  return { q, model, kind, star: star ? "true" : "", board, since: day(since, 0), until: day(until, 1), seed: /^\d{1,19}$/.test(seed) ? seed : "" };
}

/** One call for what is chosen; {ids, missing}. */
async function all(verb, ids, more = {}) {
  const found = { ids: [], missing: [] };
  for (let i = 0; i < ids.length; i += AT_ONCE) {
    const done = await attempt(api(`/v1/runs/${verb}`, { method: "POST", body: { ids: ids.slice(i, i + AT_ONCE), ...more } }));
    if (!done) break;
    found.ids.push(...done.ids); found.missing.push(...done.missing);
  }
  return found;
}

export function screen({ query }) {
  const [find, setFind] = useState(() => Object.fromEntries(Object.keys(NOTHING).map((k) => [k, query[k] ?? ""])));
  const [ids, setIds] = useState([]), [next, setNext] = useState(null), [busy, setBusy] = useState(true), [broken, setBroken] = useState(false), [chosen, setChosen] = useState([]), [tree, setTree] = useState(null), [gone, setGone] = useState([]), [boards, setBoards] = useState([]);
  const mine = useMemo(() => new Set(ids), [ids]), away = useMemo(() => new Set(gone), [gone]), picks = useMemo(() => new Set(chosen), [chosen]), free = !Object.values(find).some(Boolean);
  const shown = useStore((s) => ids.map((id) => s.runs[id]).filter(Boolean)), fresh = useStore((s) => (free && ids.length ? Object.values(s.runs).filter((r) => !mine.has(r.id) && r.kind !== "attention" && r.id !== EXAMPLE && r.created > (s.runs[ids[0]]?.created ?? Infinity)) : []));
  const models = useStore((s) => s.models)?.models ?? [], end = useRef(), wall = useRef(), turn = useRef(0), last = useRef(null), wanted = useRef(find);
  wanted.current = find;
  const load = async (before) => {
    const now = ++turn.current;
    setBusy(true); setBroken(false);
    try {
      const page = await server.list({ ...asked(wanted.current), limit: PAGE, before });
      if (now !== turn.current) return;
      setIds((old) => (before ? [...new Set([...old, ...page.runs.map((r) => r.id)])] : page.runs.map((r) => r.id)));
      setNext(page.next);
    } catch (error) { if (now === turn.current) { setBroken(true); fail(error); } } finally { if (now === turn.current) setBusy(false); }
  };
  const readBoards = () => call.get("/v1/boards").then((found) => setBoards(found.boards.map((b) => b.name)), fail);
  useEffect(() => { url({ ...find }); return later(150, () => load()); }, [JSON.stringify(find)]);
  useEffect(() => { readBoards(); return () => { turn.current = -1; }; }, []);
  useEffect(() => {
    if (!next || busy || broken) return;
    const eye = new IntersectionObserver((seen) => seen.some((e) => e.isIntersecting) && load(next), { root: end.current.closest("main"), rootMargin: "800px" });
    eye.observe(end.current);
    return () => eye.disconnect();
  }, [next, busy, broken]);
  // Runs made while one looks come in on top, where no filter stands in their way.
  useEffect(() => { if (fresh.length) setIds((old) => [...new Set([...[...fresh].sort((a, b) => b.created - a.created).map((r) => r.id), ...old])]); }, [fresh.length]);
  // What no longer fits leaves at once: a star taken away, another board.
  const list = shown.filter((r) => !away.has(r.id) && (!find.star || r.star) && (!find.board || r.board === find.board));
  const picked = list.filter((r) => picks.has(r.id));
  const choose = (id, range) => {
    const a = list.findIndex((x) => x.id === last.current), b = list.findIndex((x) => x.id === id), some = list.slice(Math.min(a, b), Math.max(a, b) + 1).map((x) => x.id);
    setChosen((old) => (range && a >= 0 ? [...new Set([...old, ...some])] : old.includes(id) ? old.filter((x) => x !== id) : [...old, id]));
    if (!range || a < 0) last.current = id;
  };
  const links = () => [...(wall.current?.querySelectorAll("li > a") ?? [])];
  const remove = async () => {
    const dead = picked.map((r) => r.id), at = list.findIndex((r) => r.id === dead[0]);
    setGone((old) => [...old, ...dead]); setChosen([]);
    setTimeout(() => { const left = links(); left[Math.min(at, left.length - 1)]?.focus(); }, 50);
    // The dock lets go of what is deleted, so that it does not ask for it.
    if (dead.includes(state.current)) {
      const heir = Object.values(state.runs).filter((r) => !dead.includes(r.id)).reduce((a, b) => (a && a.created >= b.created ? a : b), null)?.id ?? null;
      set({ current: heir, picture: 0 }); keep("current", heir);
    }
    const { ids: took } = await all("delete", dead), kept = new Set(took);
    setGone((old) => old.filter((id) => !dead.includes(id) || kept.has(id)));
    if (!took.length) return;
    const told = `${took.length} ${took.length === 1 ? "run" : "runs"} deleted`;
    say(told);
    offer(told, "Undo", async () => {
      const back = await all("restore", took);
      setGone((old) => old.filter((id) => !back.ids.includes(id)));
      if (back.missing.length) fail(new Error(`${back.missing.length} could not be brought back: it was too late.`));
      load();
    });
  };
  const packed = async () => {
    for (let i = 0; i < picked.length; i += AT_ONCE) {
      const data = await attempt(bytes("/v1/runs/zip", undefined, { ids: picked.slice(i, i + AT_ONCE).map((r) => r.id) }));
      if (data) download(new Blob([data], { type: "application/zip" }), i ? `safelight-${i / AT_ONCE + 1}.zip` : "safelight.zip");
    }
  };
  const gather = () => { set((s) => ({ tray: [...new Set([...s.tray, ...picked.map((r) => r.id)])] })); keep("tray", state.tray); say(`${state.tray.length} gathered to compare`); };
  const take = async (event) => {
    const pictures = [...event.target.files].filter((f) => /^image\/(png|jpeg|webp)$/.test(f.type) || /\.(png|jpe?g|webp)$/i.test(f.name)), found = { runs: 0, known: 0, refused: [] };
    // So that the same files can be chosen again.
    event.target.value = "";
    if (!pictures.length) return void say("There is no PNG, JPEG or WebP among them");
    setBusy(true);
    for (let i = 0; i < pictures.length;) {
      const body = new FormData();
      for (let size = 0, n = 0; i < pictures.length && n < FILES && (!n || size + pictures[i].size <= BYTES); i++, n++) { size += pictures[i].size; body.append("files", pictures[i], pictures[i].name); }
      say(`Taking in ${i} of ${pictures.length}`);
      const got = await attempt(api("/v1/runs/import", { method: "POST", form: body }));
      if (!got) break;
      got.runs.forEach(learn);
      found.runs += got.runs.length; found.known += got.known; found.refused.push(...got.refused);
    }
    say(`${found.runs} pictures taken in${found.known ? `, ${found.known} were here already` : ""}`);
    if (found.refused.length) fail(new Error(`Not taken in: ${found.refused.slice(0, 12).join("; ")}${found.refused.length > 12 ? ` and ${found.refused.length - 12} more` : ""}`));
    load();
  };
  /** Arrows go from card to card, with Shift they choose on the way; Space chooses. */
  const walk = (e) => {
    const cards = links(), at = cards.indexOf(e.target);
    if (at < 0 || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === " ") { e.preventDefault(); choose(list[at].id, e.shiftKey); return; }
    const wide = cards.findIndex((c) => c.offsetParent.offsetTop > cards[0].offsetParent.offsetTop), columns = wide < 0 ? cards.length : wide;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns, Home: 0, End: cards.length - 1 }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    if (to < 0 || to >= cards.length) return;
    if (e.shiftKey) { if (!picks.has(list[at].id)) choose(list[at].id); choose(list[to].id, true); }
    cards[to].focus();
  };
  useKeys({ a: [() => setChosen(list.map((r) => r.id)), "Choose all that are shown"], Delete: [() => (picked.length ? void remove() : false), "Delete what is chosen"], Escape: [() => (chosen.length ? setChosen([]) : false), "Choose nothing"] });
  const change = (name) => (e) => setFind((old) => ({ ...old, [name]: e.target.type === "checkbox" ? (e.target.checked ? "1" : "") : e.target.value }));
  // What the cards call: the newest of each, so that a card is drawn anew only when its run changes.
  const act = useRef({});
  act.current = { choose, tree: setTree };

  return html`<section class="screen mine"><h1>Gallery</h1>
    <div class="filters row wrap" role="search"><input type="search" class="grow" aria-label="Search words" placeholder="Search words" value=${find.q} onInput=${change("q")} />
      <select aria-label="Model" value=${find.model} onChange=${change("model")}><option value="">every model</option>${[...new Set([...models.map((m) => m.name), find.model])].filter(Boolean).map((m) => html`<option value=${m}>${m}</option>`)}</select>
      <select aria-label="Kind" value=${find.kind} onChange=${change("kind")}><option value="">every kind</option>${KINDS.map((k) => html`<option value=${k}>${k}</option>`)}</select>
      <select aria-label="Board" value=${find.board} onChange=${change("board")}><option value="">every board</option>${[...new Set([...boards, find.board])].filter(Boolean).map((b) => html`<option value=${b}>${b}</option>`)}</select>
      <input class="short" type="number" aria-label="Seed" placeholder="seed" value=${find.seed} onInput=${change("seed")} />
      <label class="inline dim">from <input type="date" aria-label="Made since" value=${find.since} max=${find.until || undefined} onInput=${change("since")} /></label><label class="inline dim">to <input type="date" aria-label="Made until" value=${find.until} min=${find.since || undefined} onInput=${change("until")} /></label>
      <label class="check"><input type="checkbox" checked=${!!find.star} onChange=${change("star")} /> starred</label>
      ${!free && html`<button class="ghost" onClick=${() => setFind(NOTHING)}>Clear the filters</button>`}
      <label class="button">Import<input class="hidden" type="file" multiple accept="image/png,image/jpeg,image/webp" onChange=${take} /></label><label class="button">Import a folder<input class="hidden" type="file" webkitdirectory onChange=${take} /></label></div>
    ${picked.length > 0 && html`<div class="actions row wrap" role="toolbar" aria-label="With what is chosen"><b role="status">${picked.length} chosen</b>
      <button onClick=${() => go("/compare", { runs: picked.map((r) => r.id).join(",") })} disabled=${picked.length < 2}>Compare</button><button onClick=${gather}>To the tray</button>
      <button onClick=${() => go("/morph", { run: picked.map((r) => r.id).reverse().join(",") })} disabled=${picked.length < 2}>Morph</button><button onClick=${packed} disabled=${!picked.some((r) => r.pictures.length)}>Zip</button>
      <button onClick=${() => all("change", picked.map((r) => r.id), { star: !picked.every((r) => r.star) })}>${picked.every((r) => r.star) ? "Unstar" : "Star"}</button>
      <${Board} boards=${boards} onSet=${async (board) => { await all("change", picked.map((r) => r.id), { board }); say(board ? `Put on the board ${board}` : "Taken off their boards"); readBoards(); }} />
      <button class="bad" onClick=${remove}>Delete</button><button class="ghost" onClick=${() => setChosen([])}>Choose nothing</button></div>`}
    ${list.length ? html`<ul class="wall" ref=${wall} data-arrows onKeyDown=${walk}>${list.map((r) => html`<${Card} key=${r.id} ...${{ r, chosen: picks.has(r.id), choosing: picked.length > 0, act }} />`)}</ul>`
      : !busy && !broken && html`<div class="blank"><p>${free ? "Every run is kept here, with all its steps." : "No run fits these filters."}</p>${free ? html`<div class="row wrap"><a class="button primary" href="/create">Make a picture</a><a class="button" href=${`/run/${EXAMPLE}`}>Watch a recorded run</a></div>` : html`<button onClick=${() => setFind(NOTHING)}>Clear the filters</button>`}</div>`}
    <div ref=${end} class="end" aria-busy=${busy}>${busy ? "Looking." : broken ? html`<button onClick=${() => load(ids.length ? next : undefined)}>Try again</button>` : next ? "" : list.length ? `${list.length} ${list.length === 1 ? "run" : "runs"}, no more.` : ""}</div>
    ${tree && html`<${Provenance} id=${tree} onClose=${() => setTree(null)} />`}</section>`;
}

function Board({ boards, onSet }) {
  const [name, setName] = useState("");
  return html`<form class="inline" onSubmit=${(e) => { e.preventDefault(); onSet(name.trim()); setName(""); }}><input aria-label="Board" list="boards" placeholder="board" value=${name} onInput=${(e) => setName(e.target.value)} /><datalist id="boards">${boards.map((b) => html`<option value=${b}></option>`)}</datalist><button>${name.trim() ? "Put on board" : "Off the board"}</button></form>`;
}

function Card({ r, chosen, choosing, act }) {
  const [playing, setPlaying] = useState(false), waits = useRef();
  useEffect(() => () => clearTimeout(waits.current), []);
  return useMemo(() => {
    // A pointer that only passes by starts no film.
    const enter = () => { clearTimeout(waits.current); waits.current = setTimeout(() => setPlaying(true), 120); };
    const leave = () => { clearTimeout(waits.current); setPlaying(false); };
    const click = (e) => {
      if (!e.shiftKey && !e.ctrlKey && !e.metaKey && !choosing) return;
      e.preventDefault(); e.stopPropagation();
      act.current.choose(r.id, e.shiftKey);
    };
    const film = playing && isRecorded(r) && r.steps_done > 0 && r.state !== "queued";
    return html`<li class=${`run-card ${chosen ? "chosen" : ""} ${r.state}`} onMouseEnter=${enter} onMouseLeave=${leave}>
      <a href=${`/run/${r.id}`} style=${film && r.pictures[0] ? `background-image:url(${r.pictures[0].url})` : ""} onFocus=${enter} onBlur=${leave} aria-label=${`${r.prompt || r.title || "Untitled"}, ${r.kind}${r.state === "done" ? "" : `, ${r.state}`}${chosen ? ", chosen" : ""}`} onClick=${click}>${film ? html`<${Film} run=${r} />` : html`<${Shot} run=${r} alt="" />`}</a>
      <div class="corner"><input type="checkbox" aria-label=${`Choose ${r.prompt || r.id}`} checked=${chosen} onClick=${(e) => act.current.choose(r.id, e.shiftKey)} />
        <span><button aria-label=${`Where ${r.prompt || r.id} comes from`} title="Where it comes from" onClick=${() => act.current.tree(r.id)}><${Icon} name="fork" /></button>
        <button aria-label=${`Star ${r.prompt || r.id}`} aria-pressed=${!!r.star} onClick=${() => call.patch(`/v1/runs/${r.id}`, { star: !r.star })}>${r.star ? "★" : "☆"}</button></span></div>
      ${r.pictures.length > 1 && html`<span class="several" title=${`${r.pictures.length} pictures`}>${r.pictures.length}</span>`}
      <p title=${r.prompt}>${r.title && r.title !== r.prompt && r.kind !== "import" ? r.title : r.prompt || r.title || "no words"}${isActive(r) || r.state === "failed" || r.state === "stopped" ? html` <em>${r.state}</em>` : ""}</p></li>`;
  }, [r, chosen, choosing, playing]);
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
  useEffect(() => {
    let alive = true;
    server.tree(id).then((t) => alive && setNodes(t.nodes), (e) => { if (alive) { fail(e); onClose(); } });
    return () => { alive = false; };
  }, [id]);
  const under = (parent) => (nodes ?? []).filter((n) => (parent === null ? !nodes.some((m) => m.id === n.parent) : n.parent === parent));
  const draw = (n) => html`<li key=${n.id}><a href=${`/run/${n.id}`} class=${n.id === id ? "here" : ""} aria-current=${n.id === id ? "true" : undefined} onClick=${onClose}>${n.thumb ? html`<img src=${n.thumb} alt="" />` : html`<span class="shot empty"></span>`}<span>${{ "": "first", cell: "cell of a sheet" }[n.relation] ?? n.relation}${n.fork_step != null ? ` at step ${n.fork_step}` : ""}${n.id === id ? ", this one" : ""}<small>${n.title}</small></span></a>${under(n.id).length > 0 && html`<ul>${under(n.id).map(draw)}</ul>`}</li>`;
  return html`<${Dialog} title="Where it comes from" onClose=${onClose}>${!nodes ? html`<p aria-busy="true">Looking.</p>` : html`<ul class="tree">${under(null).map(draw)}</ul>${nodes.length < 2 && html`<p class="dim">Nothing was made from it yet: a fork, an edit or a variation would hang below it.</p>`}`}<//>`;
}
