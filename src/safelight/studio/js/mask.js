// A mask as bytes: 255 is painted anew, 0 is kept. No drawing surface, so every operation is exact and can be measured.

// Runs that are kept to be undone: 32 MB, some thousand strokes.
const MOST = 8e6;

/** A mask of width x height with its history. `dirty` is the box [x0, y0, x1, y1) that changed since `clean()`. */
export class Mask {
  constructor(width, height) {
    this.width = width; this.height = height;
    this.data = new Uint8Array(width * height);
    this.past = []; this.future = [];
    this.before = null;
    this.all();
  }

  all() { this.dirty = [0, 0, this.width, this.height]; }
  clean() { const box = this.dirty; this.dirty = null; return box; }

  touch(x0, y0, x1, y1) {
    const d = this.dirty ?? [x0, y0, x1, y1];
    this.dirty = [Math.min(d[0], x0), Math.min(d[1], y0), Math.max(d[2], x1), Math.max(d[3], y1)];
  }

  box(x0, y0, x1, y1) {
    return [Math.max(0, Math.floor(x0)), Math.max(0, Math.floor(y0)), Math.min(this.width, Math.ceil(x1)), Math.min(this.height, Math.ceil(y1))];
  }

  /** The state is kept before a change; the whole of a brush stroke is one change. */
  begin() { this.before = pack(this.data); }

  /** Ends a change: one undo takes it back. A change of nothing leaves no trace. */
  commit() {
    const before = this.before;
    this.before = null;
    if (!before || same(before, pack(this.data))) return false;
    this.past.push(before);
    for (let held = this.past.reduce((n, runs) => n + runs.length, 0); held > MOST; ) held -= this.past.shift().length;
    this.future = [];
    return true;
  }

  /** Takes back what was done since `begin`, and leaves no trace of it. */
  revert() {
    if (this.before) { unpack(this.before, this.data); this.all(); }
    this.before = null;
  }

  undo() { return this.swap(this.past, this.future); }
  redo() { return this.swap(this.future, this.past); }

  swap(from, to) {
    if (!from.length || this.before) return false; // not in the middle of a stroke
    to.push(pack(this.data));
    unpack(from.pop(), this.data);
    this.all();
    return true;
  }

  change(work) { this.begin(); work(); return this.commit(); }

  /** A brush of radius r drawn from a to b: all pixels whose centre lies within r of the segment, row by row. */
  stroke(ax, ay, bx, by, r, value = 255) {
    const [x0, y0, x1, y1] = this.box(Math.min(ax, bx) - r, Math.min(ay, by) - r, Math.max(ax, bx) + r + 1, Math.max(ay, by) + r + 1);
    const long = Math.hypot(bx - ax, by - ay) || 1, nx = -(by - ay) / long * r, ny = (bx - ax) / long * r;
    const side = [[ax + nx, ay + ny], [bx + nx, by + ny], [bx - nx, by - ny], [ax - nx, ay - ny]];
    for (let y = y0; y < y1; y++) {
      const at = y + 0.5;
      let low = Infinity, high = -Infinity;
      const take = (a, b) => { low = Math.min(low, a); high = Math.max(high, b); };
      for (const [cx, cy] of [[ax, ay], [bx, by]]) {
        const half = r * r - (at - cy) ** 2;
        if (half >= 0) take(cx - Math.sqrt(half), cx + Math.sqrt(half));
      }
      for (let i = 0; i < 4; i++) {
        const [px, py] = side[i], [qx, qy] = side[(i + 1) % 4];
        if (py <= at !== qy <= at) { const x = px + (at - py) / (qy - py) * (qx - px); take(x, x); }
      }
      const from = Math.max(x0, Math.ceil(low - 0.5)), to = Math.min(x1, Math.floor(high - 0.5) + 1);
      if (to > from) this.data.fill(value, y * this.width + from, y * this.width + to);
    }
    this.touch(x0, y0, x1, y1);
  }

  /** The rectangle between two corners, in any order. */
  rectangle(ax, ay, bx, by, value = 255) {
    const [x0, y0, x1, y1] = this.box(Math.round(Math.min(ax, bx)), Math.round(Math.min(ay, by)), Math.round(Math.max(ax, bx)), Math.round(Math.max(ay, by)));
    for (let y = y0; y < y1; y++) this.data.fill(value, y * this.width + x0, y * this.width + x1);
    this.touch(x0, y0, x1, y1);
  }

  /** The inside of a polygon of [x, y], by the even-odd rule at pixel centres. */
  lasso(points, value = 255) {
    if (points.length < 3) return;
    const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
    const [x0, y0, x1, y1] = this.box(Math.min(...xs), Math.min(...ys), Math.max(...xs) + 1, Math.max(...ys) + 1);
    for (let y = y0; y < y1; y++) {
      const cuts = [], at = y + 0.5;
      points.forEach(([px, py], i) => {
        const [qx, qy] = points[(i + 1) % points.length];
        if (py <= at !== qy <= at) cuts.push(px + (at - py) / (qy - py) * (qx - px));
      });
      cuts.sort((a, b) => a - b);
      for (let i = 0; i + 1 < cuts.length; i += 2) {
        const from = Math.max(x0, Math.ceil(cuts[i] - 0.5)), to = Math.min(x1, Math.ceil(cuts[i + 1] - 0.5));
        if (to > from) this.data.fill(value, y * this.width + from, y * this.width + to);
      }
    }
    this.touch(x0, y0, x1, y1);
  }

  /** Fills the connected area around (x, y): of one value in the mask, and of like colour in `pixels` (RGBA) where given. */
  fill(x, y, value = 255, pixels = null, tolerance = 32) {
    x = Math.floor(x); y = Math.floor(y);
    if (x < 0 || y < 0 || x >= this.width || y >= this.height) return;
    const { width: w, height: h, data } = this, start = y * w + x, old = data[start], free = new Uint8Array(w * h);
    const [red, green, blue] = pixels ? pixels.subarray(4 * start, 4 * start + 3) : [];
    for (let i = 0; i < free.length; i++) {
      const o = 4 * i;
      free[i] = data[i] === old && (!pixels || (Math.abs(pixels[o] - red) <= tolerance && Math.abs(pixels[o + 1] - green) <= tolerance && Math.abs(pixels[o + 2] - blue) <= tolerance)) ? 1 : 0;
    }
    const stack = [start];
    while (stack.length) {
      const i = stack.pop(), row = i - i % w;
      if (!free[i]) continue;
      let from = i, to = i + 1;
      while (from > row && free[from - 1]) from--;
      while (to < row + w && free[to]) to++;
      free.fill(0, from, to);
      data.fill(value, from, to);
      for (const next of [-w, w]) {
        if (row + next < 0 || row + next >= w * h) continue;
        for (let k = from + next; k < to + next; k++) if (free[k] && (k === from + next || !free[k - 1])) stack.push(k);
      }
    }
    this.all();
  }

  invert() { for (let i = 0; i < this.data.length; i++) this.data[i] = 255 - this.data[i]; this.all(); }
  clear(value = 0) { this.data.fill(value); this.all(); }

  /** The part of all pixels that is painted, 0..1. */
  share() { let n = 0; for (const v of this.data) n += v > 127; return n / this.data.length; }

  /** The box grown by what a feather of so many pixels changes around it. */
  around([x0, y0, x1, y1], feather) { const r = feather ? feather + 1 : 0; return this.box(x0 - r, y0 - r, x1 + r, y1 + r); }

  /** RGBA of a box: `colour` with its alpha where painted, striped with white so that it shows on any picture; over `feather` pixels
   *  inside the edge it fades as the server's ramp does. */
  rgba(box, colour, feather = 0) {
    const [x0, y0, x1, y1] = box, out = new Uint32Array((x1 - x0) * (y1 - y0)), wide = this.around(box, feather), span = wide[2] - wide[0];
    const far = feather ? this.distance(feather + 1, wide) : null, [red, green, blue, alpha] = colour, plain = red | (green << 8) | (blue << 16);
    const stripe = 2 * Math.max(1, Math.round(Math.max(this.width, this.height) / 256));
    for (let y = y0, o = 0; y < y1; y++) for (let x = x0; x < x1; x++, o++) {
      if (this.data[y * this.width + x] <= 127) continue;
      const seen = far ? Math.round(alpha * Math.min(1, far[(y - wide[1]) * span + x - wide[0]] / (feather + 1))) : alpha;
      out[o] = ((x + y) % (3 * stripe) < stripe ? 0xffffff : plain) | (seen << 24); // bytes in the order of the processors that there are
    }
    return new Uint8ClampedArray(out.buffer);
  }

  /** How far each painted pixel of a box is from a kept one of it, at most `most`: two chamfer passes, within 9 % of Euclid. The
   *  picture's rim is no edge. */
  distance(most, [x0, y0, x1, y1] = [0, 0, this.width, this.height]) {
    const w = x1 - x0, h = y1 - y0, d = new Float32Array(w * h), slant = Math.SQRT2;
    for (let y = 0, i = 0; y < h; y++) for (let x = 0, j = (y + y0) * this.width + x0; x < w; x++, i++, j++) d[i] = this.data[j] > 127 ? most : 0;
    for (const s of [1, -1]) {
      for (let n = 0; n < h; n++) for (let m = 0; m < w; m++) {
        const y = s > 0 ? n : h - 1 - n, x = s > 0 ? m : w - 1 - m, i = y * w + x;
        let v = d[i];
        if (!v) continue;
        if (m && d[i - s] + 1 < v) v = d[i - s] + 1;
        if (n && d[i - s * w] + 1 < v) v = d[i - s * w] + 1;
        if (m && n && d[i - s * w - s] + slant < v) v = d[i - s * w - s] + slant;
        if (n && m < w - 1 && d[i - s * w + s] + slant < v) v = d[i - s * w + s] + slant;
        d[i] = v;
      }
    }
    return d;
  }
}

/** Run lengths of alternating values, the first of them 0. */
export function pack(data) {
  const runs = [];
  let value = 0, n = 0;
  for (const v of data) { if (v === value) n++; else { runs.push(n); value = v; n = 1; } }
  runs.push(n);
  return Uint32Array.from(runs);
}

export function unpack(runs, data) {
  let at = 0, value = 0;
  for (const n of runs) { data.fill(value, at, at + n); at += n; value = 255 - value; }
}

const same = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);
