// First script of attention_view.html: decodes and draws the maps. attention_view.js builds the page.
// Terms as in the Python code: dest reads src, values[dest * n + src]. `l` is the index of a layer, `h` of a
// head; h is null for the mean over heads.
"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const MANY_TOKENS = 200, THUMB = 96, BAND = 6, GAP = 4;
const SUMMARY = [["uni", "Uni", "own modality"], ["cross", "Cross", "other modalities"],
  ["to_cls", "To cls", "what CLS reads from modalities"],
  ["from_cls", "From cls", "what modalities read from CLS"]];
const state = {
  layer: 0, head: 0, view: D.maps && D.tokens.length <= MANY_TOKENS ? "tokens" : "groups", mean: false,
  scale: D.difference ? "shared" : "head", lift: D.tokens.length > MANY_TOKENS, min: 0, sort: null, down: true,
};
const pinned = new Set();
let hovered = null;

// --- numbers ---------------------------------------------------------------------------------------------
const cache = new Map();
function once(key, make) {
  if (!cache.has(key)) cache.set(key, make());
  return cache.get(key);
}

function decode(l, h) {
  const { bits, signed, steps, scale, data } = D.maps;
  const raw = atob(data[l][h]), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  const Codes = bits === 16 ? (signed ? Int16Array : Uint16Array) : (signed ? Int8Array : Uint8Array);
  const codes = new Codes(bytes.buffer), values = new Float32Array(codes.length), factor = scale[l][h] / steps ** 2;
  for (let i = 0; i < codes.length; i++) values[i] = factor * codes[i] * Math.abs(codes[i]);
  return values;
}

function meanOf(arrays) {
  const total = new Float32Array(arrays[0].length);
  for (const a of arrays) for (let i = 0; i < a.length; i++) total[i] += a[i] / arrays.length;
  return total;
}

function strongest(values) {
  let top = 0;
  for (const v of values) if (Math.abs(v) > top) top = Math.abs(v);
  return top;
}
const heads = () => (state.mean ? [null] : [...Array(D.heads).keys()]);

/** The values of one map in the current view, and what its rows stand for. */
function matrix(l, h) {
  return once(`${state.view}/${l}/${h}`, () => {
    const tokens = state.view === "tokens";
    const one = (k) => (tokens ? decode(l, k) : Float32Array.from(D.mass[l][k].flat()));
    const values = h === null ? meanOf([...Array(D.heads).keys()].map((k) => matrix(l, k).values)) : one(h);
    const labels = tokens ? D.tokens : D.groups;
    const group = tokens ? D.group : D.groups.map((_, i) => i);
    const max = tokens && h !== null ? D.maps.scale[l][h] : strongest(values);
    return { n: labels.length, values, labels, group, max };
  });
}

function sharedMax() {
  return once(`max/${state.view}/${state.mean}`, () => {
    if (state.view === "tokens" && !state.mean) return Math.max(...D.maps.scale.flat());
    return Math.max(...D.layers.flatMap((_, l) => heads().map((h) => matrix(l, h).max)));
  });
}
const scaleOf = (m) => (state.scale === "shared" ? sharedMax() : m.max) || 1;
const floor = () => (state.min ? (state.min / 100) ** 2 * sharedMax() : 0);

/** Mean attention of some dest tokens to each group. */
function massOf(m, dests) {
  const mass = D.groups.map(() => 0);
  for (const d of dests) for (let s = 0; s < m.n; s++) mass[m.group[s]] += m.values[d * m.n + s] / dests.length;
  return D.groups.map((name, g) => `${name} ${number(mass[g])}`).join(" · ");
}

const signed = (text, v) => (v < 0 ? text.replace("-", "−") : D.difference && v > 0 ? `+${text}` : text);
const number = (v) => signed(v === 0 || Math.abs(v) >= 0.01 ? v.toFixed(3) : v.toPrecision(2), v);
const layerName = (l) => `L${D.layers[l] + 1}`;
const where = (l, h) => `layer ${layerName(l)}, ${h === null ? "mean over heads" : `head ${h}`}`;
const current = () => [state.layer, state.mean ? null : state.head];

// --- colours ---------------------------------------------------------------------------------------------
const THEMES = {
  light: {
    paper: "#ffffff", ink: "#1c2330", quiet: "#616b7c", line: "#c9cfd8", rise: "#b35806", fall: "#2166ac",
    plain: ["#fdfeff", "#d3e3f3", "#8fbfe0", "#3d8dc4", "#12579b", "#08274f"],
    signed: ["#08356e", "#2f7cbc", "#a3cbe6", "#fbfbfb", "#f7c98f", "#d67a1f", "#6f3203"],
  },
  dark: {
    paper: "#14181e", ink: "#e8ebf0", quiet: "#98a2b3", line: "#3a424e", rise: "#f0a35a", fall: "#6cb3ea",
    plain: ["#191f27", "#1d3a59", "#20639b", "#3f97cf", "#8dcdf0", "#f4fbff"],
    signed: ["#d3ecff", "#6cb3ea", "#275d8c", "#1b2027", "#8a4f17", "#f0a35a", "#fff0dc"],
  },
};
const darkness = matchMedia("(prefers-color-scheme: dark)");
const theme = () => THEMES[darkness.matches ? "dark" : "light"];

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
function ramp(t) {
  return once(`ramp/${t.paper}`, () => {
    const stops = (D.difference ? t.signed : t.plain).map(rgb);
    return [...Array(256).keys()].map((i) => {
      const x = (i / 255) * (stops.length - 1), k = Math.min(Math.floor(x), stops.length - 2);
      return stops[k].map((c, j) => Math.round(c + (x - k) * (stops[k + 1][j] - c)));
    });
  });
}
function shade(v, max, low) {
  let x = Math.abs(v) < low ? 0 : Math.max(-1, Math.min(1, v / max));
  if (state.lift) x = Math.sign(x) * Math.sqrt(Math.abs(x));
  return D.difference ? Math.round(127.5 + 127.5 * x) : Math.round(255 * Math.max(0, x));
}
const css = ([r, g, b]) => `rgb(${r},${g},${b})`;
const bright = ([r, g, b]) => 0.299 * r + 0.587 * g + 0.114 * b > 140;

function paint(canvas, values, n, max, t = theme()) {
  const image = new ImageData(n, n), pixels = new Uint32Array(image.data.buffer), low = floor();
  const packed = Uint32Array.from(ramp(t), ([r, g, b]) => 0xff000000 | (b << 16) | (g << 8) | r);
  for (let i = 0; i < values.length; i++) pixels[i] = packed[shade(values[i], max, low)];
  canvas.width = canvas.height = n;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** A map of at most `size` rows: each pixel is the strongest edge of its block, found at index `at`. */
function pooled(m, size) {
  if (m.n <= size) return m;
  if (m.pooled?.[size]) return m.pooled[size];
  const at = new Int32Array(size * size).fill(-1);
  const block = Int32Array.from({ length: m.n }, (_, i) => Math.floor((i * size) / m.n));
  for (let d = 0, i = 0; d < m.n; d++) for (let s = 0; s < m.n; s++, i++) {
    const k = block[d] * size + block[s];
    if (at[k] < 0 || Math.abs(m.values[i]) > Math.abs(m.values[at[k]])) at[k] = i;
  }
  const small = { n: size, values: Float32Array.from(at, (i) => m.values[i]), at };
  m.pooled = { ...m.pooled, [size]: small };
  return small;
}

// --- the large map ---------------------------------------------------------------------------------------
const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
const short = (text) => (text.length > 20 ? `${text.slice(0, 19)}…` : text);
const text = (x, y, s, fill, rest = "") => `<text x="${x}" y="${y}" fill="${fill}" ${rest}>${escape(s)}</text>`;
const rect = (x, y, w, h, rest) => `<rect x="${x}" y="${y}" width="${w}" height="${h}" ${rest}/>`;

/** Neighbouring rows of equal key: [first, after last]. */
function runs(n, key) {
  const ranges = [];
  for (let i = 0; i < n; i++) {
    if (i && key(i) === key(i - 1)) ranges[ranges.length - 1][1] = i + 1;
    else ranges.push([i, i + 1]);
  }
  return ranges;
}

/** What to write along an axis: tokens where there is room, else channels, else groups. */
function ticks(m, cell) {
  if (cell >= 9) return m.labels.map((label, i) => ({ from: i, to: i + 1, label: short(label) }));
  const channels = runs(m.n, (i) => `${m.group[i]}/${D.channel[i]}`);
  const name = (i) => D.groups[m.group[i]] + (D.channel[i] < 0 ? "" : `.${D.channel[i]}`);
  const fits = channels.every(([a, b]) => (b - a) * cell >= 9 || D.groups[m.group[a]] === "cls");
  const shown = fits ? channels : runs(m.n, (i) => m.group[i]);
  return shown.map(([from, to]) => ({ from, to, label: short(fits ? name(from) : D.groups[m.group[from]]) }));
}

function measure(m) {
  const room = Math.max(480, $("stage").clientWidth || 800);
  const widest = (labels) => 14 + 6.4 * Math.max(4, ...labels.map((t) => t.label.length));
  const links = Math.max(90, Math.min(190, room * 0.16));
  let margin = widest(ticks(m, 12));
  const most = Math.max(300, Math.min(720, room - 2 * margin - links - 64, innerHeight - 310));
  let cell = Math.min(most / m.n, 96);
  if (cell > 1) cell = Math.floor(cell);
  else cell = Math.floor(most) / m.n;
  const labels = ticks(m, cell);
  margin = widest(labels);
  const side = cell * m.n, left = 20 + margin + BAND + GAP, upright = cell < 50;
  const top = 22 + (upright ? margin : 18) + BAND + GAP;
  const far = left + side + 12 + links;
  return { cell, side, left, top, far, upright, labels, width: far + BAND + margin + 8, height: top + side + 58 };
}

function frame(m, g, t) {
  const { cell, side, left, top, far } = g, out = [], size = Math.min(11.5, Math.max(8.5, cell));
  const groupRuns = runs(m.n, (i) => m.group[i]);
  for (const [a, b] of groupRuns) {
    const colour = `fill="${D.colours[m.group[a]]}"`, from = a * cell;
    const long = Math.max(0.8, (b - a) * cell - (cell > 4 ? 1 : 0));
    for (const x of [left - BAND - GAP, far]) out.push(rect(x, top + from, BAND, long, colour));
    out.push(rect(left + from, top - BAND - GAP, long, BAND, colour));
    if (a) out.push(`<path d="M${left} ${top + from}h${side}M${left + from} ${top}v${side}" stroke="${t.ink}" ` +
      `stroke-opacity="0.55" stroke-width="${cell < 4 ? 0.7 : 1}"/>`);
  }
  for (const { from, to, label } of g.labels) {
    const middle = ((from + to) / 2) * cell, style = `font-size="${size}"`, level = `${style} dominant-baseline="central"`;
    out.push(text(left - BAND - GAP - 5, top + middle, label, t.quiet, `${level} text-anchor="end"`));
    out.push(text(far + BAND + 5, top + middle, label, t.quiet, level));
    const x = left + middle, y = top - BAND - GAP - 5;
    out.push(g.upright ? text(0, 0, label, t.quiet, `${level} transform="translate(${x} ${y}) rotate(-90)"`)
      : text(x, y, label, t.quiet, `${style} text-anchor="middle"`));
  }
  out.push(rect(left, top, side, side, `fill="none" stroke="${t.line}"`));
  const caption = 'font-size="11.5" font-weight="600"';
  out.push(text(left, 13, "src is read →", t.ink, caption));
  const turned = `${caption} text-anchor="end" transform="translate(13 ${top}) rotate(-90)"`;
  out.push(text(0, 0, "← dest reads", t.ink, turned));
  out.push(text(far + BAND, top - 12, "src", t.ink, `${caption} text-anchor="end"`));
  out.push(text(left + side + 12, top - 12, "dest", t.ink, caption));
  const centred = `font-size="${Math.min(13, cell / 4)}" text-anchor="middle" dominant-baseline="central"`;
  if (cell >= 38) m.values.forEach((v, i) => {
    const x = left + (i % m.n + 0.5) * cell, y = top + (Math.floor(i / m.n) + 0.5) * cell;
    const fill = bright(ramp(t)[shade(v, scaleOf(m), floor())]) ? "#1c2330" : "#ffffff";
    out.push(text(x, y, number(v), fill, centred));
  });
  return out.join("") + colourBar(m, g, t);
}

function colourBar(m, g, t) {
  const y = g.top + g.side + 20, max = scaleOf(m), wide = Math.min(180, g.side), stops = [];
  for (let i = 0; i <= 255; i += 15) stops.push(`<stop offset="${i / 255}" stop-color="${css(ramp(t)[i])}"/>`);
  const middle = D.difference ? "0" : state.lift ? number(max / 4) : "";
  const what = [D.difference ? "attention − baseline" : "attention",
    state.scale === "shared" ? "one scale for all heads" : "scale of this head",
    ...(g.cell < 1 ? ["each pixel shows the strongest edge of its block"] : [])].join(", ");
  return `<defs><linearGradient id="bar">${stops.join("")}</linearGradient></defs>` +
    rect(g.left, y, wide, 8, `fill="url(#bar)" stroke="${t.line}" stroke-width="0.5"`) +
    text(g.left, y + 22, D.difference ? number(-max) : "0", t.quiet, 'font-size="11"') +
    text(g.left + wide / 2, y + 22, middle, t.quiet, 'font-size="11" text-anchor="middle"') +
    text(g.left + wide, y + 22, number(max), t.quiet, 'font-size="11" text-anchor="end"') +
    text(g.left + wide + 14, y + 8, what, t.quiet, 'font-size="11"');
}

/** The edges to draw: of the hovered token, of the pinned ones, or the strongest of the whole map. */
function edges(m) {
  const low = Math.max(floor(), scaleOf(m) / 1000), chosen = [];
  const add = (i) => Math.abs(m.values[i]) >= low && chosen.push(i);
  const rows = hovered?.d !== undefined ? [hovered.d] : hovered?.s === undefined ? [...pinned] : [];
  const strong = (a, b) => Math.abs(m.values[b]) - Math.abs(m.values[a]);
  if (rows.length) {
    return rows.flatMap((d) => {
      chosen.length = 0;
      for (let s = 0; s < m.n; s++) add(d * m.n + s);
      return chosen.sort(strong).slice(0, 16);
    });
  }
  if (hovered?.s !== undefined) for (let d = 0; d < m.n; d++) add(d * m.n + hovered.s);
  else return (m.top ??= strongestEdges(m, 40)).filter((i) => Math.abs(m.values[i]) >= low);
  return chosen.sort(strong).slice(0, 16);
}

function strongestEdges(m, count) {
  let kept = [], bar = 0;
  const prune = () => {
    kept = kept.sort((a, b) => Math.abs(m.values[b]) - Math.abs(m.values[a])).slice(0, count);
    bar = kept.length < count ? 0 : Math.abs(m.values[kept[count - 1]]);
  };
  for (let i = 0; i < m.values.length; i++) if (Math.abs(m.values[i]) > bar && kept.push(i) > 50 * count) prune();
  prune();
  return kept;
}

function links(m, g, t) {
  const x0 = g.left + g.side + 12, x1 = g.far - 4, mid = (x0 + x1) / 2, max = scaleOf(m);
  const y = (i) => g.top + (i + 0.5) * g.cell;
  return edges(m).reverse().map((i) => {
    const d = Math.floor(i / m.n), s = i % m.n, v = m.values[i], part = Math.min(1, Math.abs(v) / max);
    const colour = D.difference ? (v > 0 ? t.rise : t.fall) : D.colours[m.group[s]];
    const path = `M${x0} ${y(d)}C${mid} ${y(d)} ${mid} ${y(s)} ${x1} ${y(s)}`, opacity = Math.max(0.06, part).toFixed(3);
    return `<path data-edge="${d},${s}" d="${path}" fill="none" stroke="${colour}" stroke-opacity="${opacity}" ` +
      `stroke-width="${(1 + 2.5 * part).toFixed(2)}"/>`;
  }).join("");
}

/** Row and column under the mouse, with their names where the axes have no room for them. */
function marks(m, g, t) {
  const { left, top, side, cell, far } = g, thick = Math.max(cell, 2), out = [];
  const stroke = `fill="none" stroke="${t.ink}" stroke-width="1.2"`;
  const tag = (x, y, s, anchor, turn = "") => {
    const wide = short(s).length * 6.6 + 8, start = anchor === "end" ? x - wide + 4 : x - 4;
    const style = `font-size="11.5" text-anchor="${anchor}" dominant-baseline="central"`;
    return `<g ${turn}>${rect(start, y - 8, wide, 16, `rx="3" fill="${t.paper}" stroke="${t.line}"`)}` +
      `${text(x, y, short(s), t.ink, style)}</g>`;
  };
  const row = (d) => out.push(rect(left, top + d * cell, side, thick, stroke),
    tag(left - BAND - GAP - 5, top + (d + 0.5) * cell, m.labels[d], "end"));
  for (const d of pinned) if (d !== hovered?.d) row(d);
  if (hovered?.d !== undefined) row(hovered.d);
  if (hovered?.s !== undefined) {
    const middle = (hovered.s + 0.5) * cell, x = left + middle, y = top - BAND - GAP - 5;
    const name = m.labels[hovered.s], turn = `transform="translate(${x} ${y}) rotate(-90)"`;
    out.push(rect(left + hovered.s * cell, top, thick, side, stroke), tag(far + BAND + 5, top + middle, name, "start"));
    if (g.upright) out.push(tag(0, 0, name, "start", turn));
  }
  return out.join("");
}
