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

/** An expression of `safelight mix`. terms: [{weight, text, word, seal}]; word chooses one word of the text; seal: a picture instead. */
export function expression(terms) {
  const quote = (text, mark) => text.replaceAll("\\", "\\\\").replaceAll(mark, "\\" + mark);
  return terms.filter((t) => (t.seal || t.text.trim()) && Math.abs(t.weight) >= 5e-5).map((t, i) => {
    const size = Math.abs(t.weight), what = t.seal ?? `"${quote(t.text.trim(), '"')}"` + (t.word ? `[${quote(t.word, "]")}]` : "");
    const body = (size === 1 ? "" : `${+size.toFixed(4)} * `) + what;
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

/** Rows of values as CSV, quoted where needed. A text that a spreadsheet would run begins with an apostrophe. */
export const csv = (rows) => rows.map((row) => row.map((v) => {
  const text = typeof v === "object" && v ? JSON.stringify(v) : String(v ?? ""), number = typeof v === "number" || /^-?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(text), safe = !number && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
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

/** A question of the quiz: two different steps of a run of n, in a random order. {pair, first} */
export function question(n, random) {
  const a = Math.floor(random() * n), gap = 1 + Math.floor(random() * (n - 1)), b = (a + gap) % n;
  return { pair: [a, b], first: a < b ? 0 : 1 };
}
