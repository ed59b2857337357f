// What the screens compute themselves. Pure functions; equal input gives equal output, to the bit.

export const clamp = (v, low, high) => Math.max(low, Math.min(high, v));
export const dot = (a, b) => { let s = 0; for (let i = 0; i < a.length; i++) s += a[i] * b[i]; return s; };
export const norm = (a) => Math.sqrt(dot(a, a));
export const cosine = (a, b) => dot(a, b) / (norm(a) * norm(b) || 1);
export const sum = (weights, vectors) => Array.from(vectors[0], (_, i) => weights.reduce((s, w, k) => s + w * vectors[k][i], 0));

/**
 * The two directions in which the rows differ most. rows: n vectors. centred: about their mean (else about the origin, so that the
 * point of a sum is the sum of the points). Returns {points: n [x, y], share: [part of the variance], place: vector -> [x, y]}.
 * Eigenvectors of the n x n Gram matrix by power iteration from a fixed start; each axis points to where its largest coordinate is.
 */
export function pca(rows, centred = true) {
  const n = rows.length, d = rows[0]?.length ?? 0;
  const mean = new Float64Array(d);
  if (centred) for (const row of rows) for (let i = 0; i < d; i++) mean[i] += row[i] / n;
  const from = rows.map((row) => Float64Array.from(row, (v, i) => v - mean[i]));
  const gram = from.map((a) => from.map((b) => dot(a, b)));
  const total = gram.reduce((s, row, i) => s + row[i], 0) || 1;
  const axes = [], share = [];
  for (let k = 0; k < 2; k++) {
    let v = Float64Array.from(gram, (_, i) => Math.sin(i * 1.7 + k + 1)), value = 0;
    for (let turn = 0; turn < 1000; turn++) {
      const next = Float64Array.from(gram, (row) => dot(row, v)), length = norm(next);
      if (length < 1e-12 * total) { v = next.fill(0); value = 0; break; }
      const moved = next.reduce((s, x, i) => s + Math.abs(x / length - v[i]), 0);
      v = next.map((x) => x / length);
      value = length;
      if (moved < 1e-13 * n) break;
    }
    const top = v.reduce((best, x, i) => (Math.abs(x) > Math.abs(v[best]) + 1e-9 ? i : best), 0);
    if (v[top] < 0) v = v.map((x) => -x);
    gram.forEach((row, i) => row.forEach((_, j) => { row[j] -= value * v[i] * v[j]; }));
    const axis = new Float64Array(d);
    from.forEach((row, i) => { for (let j = 0; j < d; j++) axis[j] += v[i] * row[j]; });
    const length = norm(axis) || 1;
    axes.push(axis.map((x) => x / length));
    share.push(value / total);
  }
  const place = (vector) => axes.map((axis) => { let s = 0; for (let i = 0; i < d; i++) s += axis[i] * (vector[i] - mean[i]); return s; });
  return { points: rows.map(place), share, place };
}

/** The weights of a blend of terms, by how much each is wanted. lerp: they sum to 1. slerp: on the arc between two directions. */
export function blendWeights(mode, shares, angle = 0) {
  const whole = shares.reduce((s, v) => s + Math.abs(v), 0) || 1;
  if (mode === "add") return shares;
  const part = shares.map((v) => v / whole);
  if (mode === "lerp" || part.length !== 2 || Math.sin(angle) < 1e-6) return part;
  return part.map((u) => Math.sin(u * angle) / Math.sin(angle));
}

/** An expression of `safelight mix`. terms: [{weight, text, word}]; word chooses one word of the text. */
export function expression(terms) {
  const quote = (text, mark) => text.replaceAll("\\", "\\\\").replaceAll(mark, "\\" + mark);
  return terms.filter((t) => t.text.trim() && t.weight).map((t, i) => {
    const size = Math.abs(t.weight), body = (size === 1 ? "" : `${+size.toFixed(4)} * `) + `"${quote(t.text.trim(), '"')}"` + (t.word ? `[${quote(t.word, "]")}]` : "");
    return i ? `${t.weight < 0 ? "-" : "+"} ${body}` : t.weight < 0 ? `-${body}` : body;
  }).join(" ");
}

/** Where an edit of this strength begins on a timeline of times (1 = noise, last 0): {skip, run, of, t}; see task/strength.py. */
export function begins(times, strength) {
  const of = times.length - 1, t = Math.min(strength, times[0]);
  if (!strength) return { skip: of, run: 0, of, t: 0 };
  const above = Math.max(times.filter((v) => v >= t).length, 1);
  let rest = times.slice(above);
  if (rest.length > 1 && t - rest[0] < 0.01 * (times[above - 1] - rest[0])) rest = rest.slice(1);
  return { skip: of - rest.length, run: rest.length, of, t };
}

/** (alpha, sigma) at a time, between the recorded levels [t, alpha, sigma]; beyond them the nearest. */
export function levelAt(levels, t) {
  for (let i = 1; i < levels.length; i++) {
    const [a, b] = [levels[i - 1], levels[i]];
    if (t <= a[0] && t >= b[0]) { const u = (a[0] - t) / (a[0] - b[0] || 1); return [a[1] + u * (b[1] - a[1]), a[2] + u * (b[2] - a[2])]; }
  }
  const end = t > levels[0][0] ? levels[0] : levels.at(-1);
  return [end[1], end[2]];
}

/** Normal numbers from a seed, the same on every machine (mulberry32, then Box and Muller). */
export function normals(seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, normal };
}

/** All cells of axes [{path, values}]: one [value, ...] each, the last axis fastest. */
export const cells = (axes) => axes.reduce((found, axis) => found.flatMap((c) => axis.values.map((v) => [...c, v])), [[]]);

/** The values of an axis as they are typed: "1,2,4", "0..3", and commas inside brackets or quotes belong to a value. */
export function values(text) {
  const span = /^\s*(-?\d+)\s*\.\.\s*(-?\d+)\s*$/.exec(text);
  if (span && +span[2] >= +span[1] && +span[2] - span[1] < 4096) return Array.from({ length: span[2] - span[1] + 1 }, (_, i) => +span[1] + i);
  const parts = [""];
  let depth = 0, quote = "";
  for (const c of text) {
    if (quote) quote = c === quote ? "" : quote;
    else if (c === '"') quote = c;
    else if ("[{(".includes(c)) depth++;
    else if ("]})".includes(c)) depth--;
    if (c === "," && !depth && !quote) parts.push(""); else parts[parts.length - 1] += c;
  }
  const found = parts.map((p) => p.trim()).filter(Boolean).map((p) => { try { return JSON.parse(p); } catch { return p; } });
  return found.filter((v, i) => found.findIndex((w) => JSON.stringify(w) === JSON.stringify(v)) === i);
}

/** A prompt without each of its words in turn: [the whole, then one for each word left out]. */
export function dropOne(prompt) {
  const words = prompt.trim().split(/\s+/);
  return [prompt.trim(), ...words.map((_, i) => words.filter((_, j) => j !== i).join(" "))];
}

const shell = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);
/** A command line whose words are quoted for a shell. */
export const command = (...words) => words.filter((w) => w !== "" && w != null).map((w) => shell(String(w))).join(" ");

/** "1 min 10 s" */
export function spoken(seconds) {
  if (seconds == null) return "a time not measured yet";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const whole = Math.round(seconds), h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60;
  return h ? `${h} h ${m} min` : `${m} min ${whole % 60} s`;
}

export const bytes = (n) => (n < 1e3 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(0)} kB` : n < 1e9 ? `${(n / 1e6).toFixed(1)} MB` : `${(n / 1e9).toFixed(1)} GB`);

/** Rows of values as CSV, quoted where needed. A value that a spreadsheet would run is quoted with an apostrophe. */
export const csv = (rows) => rows.map((row) => row.map((v) => {
  const text = typeof v === "object" && v ? JSON.stringify(v) : String(v ?? ""), safe = /^[=+@]|^-(?![\d.])/.test(text) ? `'${text}` : text;
  return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}).join(",")).join("\r\n");

/** How sharp RGBA pixels are: the variance of the Laplacian of their brightness, in 1/255. */
export function sharpness(pixels, width, height) {
  const grey = Float32Array.from({ length: width * height }, (_, i) => 0.299 * pixels[4 * i] + 0.587 * pixels[4 * i + 1] + 0.114 * pixels[4 * i + 2]);
  let s = 0, q = 0, n = 0;
  for (let y = 1; y < height - 1; y++) for (let x = 1; x < width - 1; x++) {
    const i = y * width + x, v = 4 * grey[i] - grey[i - 1] - grey[i + 1] - grey[i - width] - grey[i + width];
    s += v; q += v * v; n++;
  }
  return n ? q / n - (s / n) ** 2 : 0;
}

/** Numbers of frames so that neighbours look equally far apart: cuts[i] is the distance from frame i to i + 1. Returns n places in [0, 1]. */
export function evenly(cuts, n) {
  const along = cuts.reduce((found, c) => [...found, found.at(-1) + Math.max(c, 0)], [0]), whole = along.at(-1) || 1, last = cuts.length;
  return Array.from({ length: n }, (_, k) => {
    const want = whole * k / (n - 1);
    let i = 0;
    while (i < last - 1 && along[i + 1] < want) i++;
    return clamp((i + (want - along[i]) / (along[i + 1] - along[i] || 1)) / last, 0, 1);
  });
}

/** A ZIP of stored files [{name, data: Uint8Array}] (no compression: pictures have theirs). */
export function zip(files) {
  const parts = [], list = [];
  let at = 0;
  const put = (...fields) => {
    const out = new Uint8Array(fields.reduce((n, [size]) => n + size, 0)), view = new DataView(out.buffer);
    fields.reduce((o, [size, v]) => { if (size === 2) view.setUint16(o, v, true); else view.setUint32(o, v, true); return o + size; }, 0);
    return out;
  };
  for (const { name, data } of files) {
    const title = new TextEncoder().encode(name);
    // Flag 0x800: names are UTF-8. The date is fixed, so that equal files give an equal archive.
    const common = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 33], [4, crc(data)], [4, data.length], [4, data.length], [2, title.length], [2, 0]];
    const head = put([4, 0x04034b50], ...common);
    list.push(put([4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]), title);
    parts.push(head, title, data);
    at += head.length + title.length + data.length;
  }
  const long = list.reduce((n, p) => n + p.length, 0);
  return new Blob([...parts, ...list, put([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, long], [4, at], [2, 0])], { type: "application/zip" });
}

/** One animated PNG of PNG files of equal size, each shown for `ms`, without end. Their pixels stay as they are. */
export function apng(files, ms) {
  const chunks = (file) => {
    const view = new DataView(file.buffer, file.byteOffset, file.byteLength), found = [];
    for (let at = 8; at < file.length;) {
      const size = view.getUint32(at), name = String.fromCharCode(...file.subarray(at + 4, at + 8));
      found.push({ name, data: file.subarray(at + 8, at + 8 + size) });
      at += size + 12;
    }
    return found;
  };
  const make = (name, ...data) => {
    const size = data.reduce((n, d) => n + d.length, 0), out = new Uint8Array(size + 12), view = new DataView(out.buffer);
    view.setUint32(0, size);
    out.set([...name].map((c) => c.charCodeAt(0)), 4);
    data.reduce((o, d) => { out.set(d, o); return o + d.length; }, 8);
    view.setUint32(size + 8, crc(out.subarray(4, size + 8)));
    return out;
  };
  const be = (...fields) => { const view = new DataView(new ArrayBuffer(4 * fields.length)); fields.forEach((v, i) => view.setUint32(4 * i, v)); return new Uint8Array(view.buffer); };
  const head = chunks(files[0])[0].data, parts = [files[0].subarray(0, 8), make("IHDR", head), make("acTL", be(files.length, 0))];
  let order = 0;
  files.forEach((file, i) => {
    parts.push(make("fcTL", be(order++), head.subarray(0, 8), be(0, 0), Uint8Array.of(ms >> 8, ms & 255, 1000 >> 8, 1000 & 255, 0, 0)));
    for (const { name, data } of chunks(file)) if (name === "IDAT") parts.push(i ? make("fdAT", be(order++), data) : make("IDAT", data));
  });
  return new Blob([...parts, make("IEND")], { type: "image/png" });
}

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => { for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1; return n; });
function crc(data) {
  let c = 0xffffffff;
  for (const b of data) c = TABLE[(c ^ b) & 255] ^ (c >>> 8);
  return (c ^ 0xffffffff) >>> 0;
}

/** A question of the quiz: two different steps of a run of n, in a random order. {pair, first} */
export function question(n, random) {
  const a = Math.floor(random() * n), gap = 1 + Math.floor(random() * (n - 1)), b = (a + gap) % n;
  return { pair: [a, b], first: a < b ? 0 : 1 };
}
