/* A recorded run: answers by the paths of the API, JSON or "data:...", in a self-contained page or in the file of the run that ships.

fetched()               -> the answers of the run that ships
answer(told, path)      -> what an API call is answered with; undefined for what was not recorded
data(told, path)        -> ArrayBuffer of what is bytes; undefined likewise
*/

/* The server packs it, or sends it as it lies on disk. */
export async function fetched() {
  const got = await fetch("/studio/example/run.json");
  if (!got.ok) throw new Error(`The recorded run is not here (${got.status}).`);
  return got.json();
}

const raw = (url) => Uint8Array.from(atob(url.slice(url.indexOf(",") + 1)), (c) => c.charCodeAt(0));

export function answer(told, path) {
  if (path in told) return told[path];
  const [place, query = ""] = path.split("?");
  return place.endsWith("/attention/at") ? ranked(told, place, new URLSearchParams(query)) : undefined;
}

export function data(told, path) {
  const url = told[path];
  if (typeof url !== "string") return undefined;
  const bytes = raw(url);
  return /\/tensors\.bin(\?|$)/.test(path) ? single(bytes).buffer : bytes.buffer;
}

/* The tokens by what they get of the look from one place: of a step, or the mean of all. */
function ranked(told, place, query) {
  const held = told[`${place}?picture=${query.get("picture") ?? 0}`];
  if (!held) return undefined;
  const { steps, texts, height: h, width: w } = held, shares = raw(held.shares), cell = (part, n) => Math.min(n - 1, Math.floor(Number(query.get(part)) * n));
  const rows = query.has("step") ? [steps.indexOf(Number(query.get("step")))] : [...steps.keys()];
  if (rows[0] < 0) return undefined;
  const spot = cell("y", h) * w + cell("x", w), share = (i) => rows.reduce((sum, k) => sum + shares[(k * texts.length + i) * h * w + spot], 0) / rows.length / 255;
  return { tokens: texts.map((text, i) => ({ i, text, share: share(i) })).sort((a, b) => b.share - a.share) };
}

/* tensors.bin of half precision as one of single precision, which is what it is read as. */
function single(bytes) {
  const end = bytes.indexOf(10), header = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  if (header.dtype !== "float16") return bytes;
  const view = new DataView(bytes.buffer, end + 1), n = (bytes.length - end - 1) / 2, head = new TextEncoder().encode(JSON.stringify({ ...header, dtype: "float32" }) + "\n");
  const out = new Uint8Array(head.length + 4 * n), to = new DataView(out.buffer, head.length);
  out.set(head);
  for (let i = 0; i < n; i++) to.setFloat32(4 * i, half(view.getUint16(2 * i, true)), true);
  return out;
}
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, power = (bits >> 10) & 31, part = bits & 1023;
  return sign * (power === 0 ? part * 2 ** -24 : power === 31 ? (part ? NaN : Infinity) : (1 + part / 1024) * 2 ** (power - 15));
}
