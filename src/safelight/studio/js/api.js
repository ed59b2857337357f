/* Every call of the documented HTTP API, and the one event stream of the tab.

api(path, {method, body, raw, form, signal})  -> JSON; throws ApiError(message, status, type, param, code). body: JSON; raw: Blob; form: FormData
attempt(promise)        the same with errors shown in the page (returns undefined then)
bytes(path, signal, body) -> ArrayBuffer; with a body a POST of JSON;   local(path)  what <img src> takes (the path; in a recording the data: URL of it)
BUNDLE                  null, or what a self-contained HTML file of a run carries: {route, path: JSON or "data:..."}; then no server is asked
EXAMPLE                 the id of the recorded run that ships; what is asked of it is answered from its file, fetched when first asked for
recorded(id)            whether this run is answered from a recording: it can be watched, and nothing can be made of it
runs.make(body) get(id) list(query) change(id, patch) remove(id) restore(id) act(id, "cancel"|"pause"|"resume"|"retry") fork(id, body) tree(id) numbers(id, picture)
load(id)                the Run, from the store or the server (and into the store)
learn(run)              put a Run into the store
listen()                follow /v1/events: fills store.runs, live, jobs; goes on by Last-Event-ID after any break
picture(run, i, ext), sprite(run, lens, picture)   paths
curl(method, path, body)    a call as text;  copy(text, what);  copyCommand(run, "cli" | "curl", picture)   what makes that picture again, byte for byte
*/
import { isActive, keep, note, persisted, say, fail, set, state, dismiss } from "./store.js";

export const BUNDLE = globalThis.SAFELIGHT_BUNDLE ?? null;
export const EXAMPLE = "example";
export const recorded = (id) => !!BUNDLE || /^example(-|$)/.test(id ?? "");
let told = BUNDLE ?? {}, coming = null;
export const local = (path) => told[path] ?? (BUNDLE ? "data:," : path);

/* What a recording answers, {data}; null where the server is asked. how: "answer" for JSON, "data" for bytes. */
async function recording(path, how) {
  if (!BUNDLE && !/^\/v1\/runs\/example(-[a-z]+)?([/?]|$)/.test(path)) return null;
  try {
    const module = await import("./recording.js");
    if (!BUNDLE) told = await (coming ??= module.fetched());
    return { data: module[how](told, path) };
  } catch (error) {
    coming = null;
    throw new ApiError(`The recorded run could not be read: ${error.message}`, 0);
  }
}

export class ApiError extends Error {
  constructor(message, status, more = {}) {
    super(message);
    Object.assign(this, { name: "ApiError", status, ...more });
  }
}

export async function api(path, { method = "GET", body, raw, form, signal } = {}) {
  const held = await recording(path, "answer");
  if (held) {
    if (method === "GET" && held.data !== undefined) return held.data;
    throw new ApiError(BUNDLE ? "This page is a recording: it has no server to ask." : "This run is a recording that ships with the studio: nothing can be made of it.", 0);
  }
  let answer;
  try {
    answer = await fetch(path, {
      method, signal,
      headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...(raw ? { "Content-Type": raw.type || "application/octet-stream" } : {}) },
      body: form ?? raw ?? (body === undefined ? undefined : JSON.stringify(body)),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is `safelight studio` still running?", 0);
  }
  const text = await answer.text();
  const json = (answer.headers.get("Content-Type") ?? "").includes("json") && text ? JSON.parse(text) : text;
  if (answer.ok) return json;
  const { message, ...more } = json?.error ?? {};
  throw new ApiError(message ?? json?.detail?.[0]?.msg ?? `${method} ${path}: ${answer.status}`, answer.status, more);
}

export async function attempt(promise) {
  try {
    return await promise;
  } catch (error) {
    fail(error);
  }
}

export async function bytes(path, signal, body) {
  if (path.startsWith("data:")) return (await import("./recording.js")).data({ [path]: path }, path);
  const held = body === undefined && (await recording(path, "data"));
  if (held) {
    if (held.data === undefined) throw new ApiError(`${path} was not recorded`, 404);
    return held.data;
  }
  const sent = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, { ...sent, signal });
  if (answer.ok) return answer.arrayBuffer();
  const said = await answer.json().catch(() => null);
  throw new ApiError(said?.error?.message ?? `${path}: ${answer.status}`, answer.status);
}

const query = (values) => {
  const pairs = Object.entries(values ?? {}).filter(([, v]) => v !== undefined && v !== null && v !== "");
  return pairs.length ? "?" + new URLSearchParams(pairs) : "";
};

export function learn(run) {
  if (run?.id) set((s) => ({ runs: { ...s.runs, [run.id]: { ...s.runs[run.id], ...run } } }));
  return run;
}

export const runs = {
  make: async (body) => learn(await api("/v1/runs", { method: "POST", body })),
  get: async (id) => learn(await api(`/v1/runs/${id}`)),
  list: async (values) => {
    const page = await api("/v1/runs" + query(values));
    set((s) => ({ runs: { ...s.runs, ...Object.fromEntries(page.runs.map((r) => [r.id, r])) } }));
    return page;
  },
  change: async (id, patch) => learn(await api(`/v1/runs/${id}`, { method: "PATCH", body: patch })),
  remove: (id) => api(`/v1/runs/${id}`, { method: "DELETE" }),
  restore: async (id) => learn(await api(`/v1/runs/${id}/restore`, { method: "POST" })),
  act: async (id, verb) => learn(await api(`/v1/runs/${id}/${verb}`, { method: "POST" })),
  fork: async (id, body) => learn(await api(`/v1/runs/${id}/fork`, { method: "POST", body })),
  tree: (id) => api(`/v1/runs/${id}/tree`),
  numbers: (id, picture = 0) => api(`/v1/runs/${id}/numbers?picture=${picture}`),
};

export const load = async (id) => state.runs[id] ?? runs.get(id);
export const picture = (run, i = 0, ext = "png") => local(`/v1/runs/${run.id}/pictures/${i}.${ext}`);
/* lens "attention/3": what token 3 is looked at by. */
export const sprite = (id, lens, i = 0) => {
  const [name, token] = lens.split("/");
  return `/v1/runs/${id}/sprite/${name}.webp?picture=${i}${token === undefined ? "" : `&token=${token}`}`;
};

/* ---- events ---- */

const blob = (b64, type) => new Blob([Uint8Array.from(atob(b64), (c) => c.charCodeAt(0))], { type });
const since = persisted("since", {});

async function stepped(data) {
  if (data.aside) return set((s) => ({ live: { ...s.live, [data.run]: { frames: {}, ...s.live[data.run], aside: `preparing, ${data.k + 1} of ${data.n}` } } }));
  const old = state.live[data.run] ?? { frames: {} };
  const frames = old.frames;
  const live = { ...old, ...data, frames, aside: null };
  delete live.run;
  for (const [lens, list] of Object.entries(data.frames ?? {})) {
    const bitmaps = await Promise.all(list.map((b64) => createImageBitmap(blob(b64, "image/webp"))));
    const row = ((frames[lens] ??= [])[data.k] ??= []);
    bitmaps.forEach((bitmap, i) => (row[data.pictures?.[i] ?? i] = bitmap));
  }
  set((s) => {
    const run = s.runs[data.run];
    const known = run && isActive(run) ? { ...run, state: "running", steps_done: Math.max(run.steps_done, data.k + 1), eta: data.eta } : run;
    return { live: { ...s.live, [data.run]: live }, runs: known ? { ...s.runs, [data.run]: known } : s.runs };
  });
}

const handle = {
  run(data, id) {
    const before = state.runs[data.id];
    if (isActive(data)) since[data.id] ??= id;
    else if (data.id in since) delete since[data.id];
    keep("since", since);
    learn(data);
    if (before && before.state !== data.state) {
      if (data.state === "failed") note("error", `${data.title || data.prompt || data.id}: ${data.error}`);
      if (data.state === "done" && isActive(before)) say("Done: " + (data.prompt || data.title || "the picture is ready"));
      if (data.state === "stopped" && isActive(before)) say(`Stopped after step ${data.steps_done} of ${data.steps}; it can be resumed`);
    }
  },
  step: stepped,
  reset: () => refresh().catch(fail),
  queue: (data) => set({ jobs: { ...state.jobs, ...data } }),
  gone(data) {
    set((s) => {
      const { [data.run]: _, ...rest } = s.runs;
      return { runs: rest, tray: s.tray.filter((x) => x !== data.run), current: s.current === data.run ? null : s.current };
    });
    keep("tray", state.tray);
    if (persisted("current", null) === data.run) keep("current", state.current);
  },
};

export async function refresh() {
  const [queue, recent] = await Promise.all([api("/v1/jobs"), api("/v1/runs?limit=40")]);
  const fresh = Object.fromEntries([...recent.runs, ...queue.jobs].map((r) => [r.id, r]));
  set((s) => ({
    runs: { ...s.runs, ...fresh }, jobs: { paused: queue.paused, order: queue.jobs.map((r) => r.id) },
    current: s.current ?? persisted("current", null) ?? queue.jobs[0]?.id ?? recent.runs[0]?.id ?? null, ready: true,
  }));
}

/* A browser gives a host six connections. A tab that nobody has looked at for half a minute lets its own go, and is told what it missed. */
const HIDDEN = 30_000;
let stream, asleep;
const seen = () => new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
document.addEventListener("visibilitychange", () => {
  clearTimeout(asleep);
  if (document.hidden) asleep = setTimeout(() => stream?.abort(), HIDDEN);
});

export async function listen() {
  let last = null, pause = 500, lost = null, fresh = true;
  // The steps of runs that were under way when the tab was closed come again.
  const open = Object.values(since).map(Number);
  if (open.length) last = Math.max(0, Math.min(...open) - 1);
  for (;;) {
    stream = new AbortController();
    try {
      const answer = await fetch("/v1/events", { signal: stream.signal, headers: last === null ? {} : { "Last-Event-ID": String(last) } });
      if (!answer.ok) throw new ApiError(`events: ${answer.status}`, answer.status);
      set({ online: true });
      if (lost) {
        dismiss(lost);
        lost = null;
        say("Connected again");
      }
      // First the stream, then what there is: nothing can happen unseen in between.
      if (fresh || pause > 500) {
        await refresh();
        for (const id of Object.keys(since)) if (!isActive(state.runs[id])) delete since[id];
        keep("since", since);
      }
      fresh = false;
      pause = 500;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text = (text + value).replaceAll("\r\n", "\n");
        const messages = text.split("\n\n");
        text = messages.pop();
        for (const message of messages) {
          const field = (name) => message.split("\n").filter((l) => l.startsWith(name + ":")).map((l) => l.slice(name.length + 1).trim()).join("\n");
          const id = field("id"), data = field("data");
          if (id) last = id; // before it is read: one that cannot be read must not come again for ever
          try {
            if (data) await handle[field("event")]?.(JSON.parse(data), id);
          } catch (error) {
            fail(error);
          }
        }
      }
    } catch (error) {
      if (error.status === 401) return void location.reload(); // signed out: the server then answers with its sign-in page
    }
    if (stream.signal.aborted) {
      while (document.hidden) await seen();
      continue;
    }
    set({ online: false });
    lost ??= note("info", "The connection to the server is gone; trying again. Nothing is lost.");
    await new Promise((done) => setTimeout(done, pause));
    pause = Math.min(pause * 1.6, 5000);
  }
}

/* ---- the same again ---- */

const quote = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
export function curl(method, path, body) {
  const parts = [`curl -sS -X ${method} ${quote(location.origin + path)}`];
  if (state.settings?.token) parts.push('-H "Authorization: Bearer $SAFELIGHT_TOKEN"');
  if (body !== undefined) parts.push(`-H 'Content-Type: application/json' -d ${quote(JSON.stringify(body))}`);
  return parts.join(" \\\n  ");
}

/* Copy text; says what was copied. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  note("info", `${what} copied`, { brief: true });
}

export async function copyCommand(run, how, i = 0) {
  const found = await attempt(api(`/v1/runs/${run.id}/commands?picture=${i}`));
  if (found) await copy(found[how], how === "cli" ? "Command" : "curl command");
}

export const upload = (file) => api("/v1/pictures", { method: "POST", raw: file });
