// Second script of attention_view.html: overview, table, mouse and keyboard, saving, address bar.
// attention_view_maps.js provides the numbers and the maps.
"use strict";
let geo = null, overlay = null, thumbs = [];

function element(tag, attributes = {}, text = "") {
  const made = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
  made.textContent = text;
  return made;
}

// --- the overview ----------------------------------------------------------------------------------------
function buildOverview() {
  const grid = $("overview");
  grid.style.gridTemplateColumns = `auto repeat(${heads().length}, minmax(14px, ${state.mean ? 72 : 84}px))`;
  grid.replaceChildren();
  thumbs = [];
  const top = element("div", { role: "row" });
  top.append(element("span", { role: "columnheader", "aria-label": "layer" }));
  const letter = heads().length > 10 ? "" : "H";
  for (const h of heads()) top.append(element("span", { role: "columnheader" }, h === null ? "mean" : `${letter}${h}`));
  grid.append(top);
  D.layers.forEach((_, l) => {
    const row = element("div", { role: "row" });
    row.append(element("span", { role: "rowheader" }, layerName(l)));
    for (const h of heads()) {
      const cell = element("button", { role: "gridcell", "aria-label": where(l, h), title: where(l, h) });
      cell.append(element("canvas", { "aria-hidden": "true" }));
      cell.addEventListener("click", () => select(l, h));
      row.append(cell);
      thumbs.push({ l, h, cell });
    }
    grid.append(row);
  });
}

function paintOverview() {
  for (const { l, h, cell } of thumbs) {
    const m = matrix(l, h), small = pooled(m, THUMB);
    paint(cell.firstChild, small.values, small.n, scaleOf(m));
  }
}

// --- the table -------------------------------------------------------------------------------------------
const columns = SUMMARY.map((c, i) => [...c, i]).filter(([, , , i]) => D.uniform[i] !== null);
function summaryOf(l, h) {
  if (h !== null) return D.summary[l][h];
  return SUMMARY.map((_, i) => (D.uniform[i] === null ? null : D.summary[l].reduce((t, v) => t + v[i] / D.heads, 0)));
}

function buildTable() {
  const head = element("tr"), own = [["layer", "Layer", "layer", -1], ["head", "Head", "head", -2]];
  const named = [...own.slice(0, state.mean ? 1 : 2), ...columns];
  for (const [key, name, meaning] of named) {
    const order = state.sort !== key ? "none" : state.down ? "descending" : "ascending";
    const th = element("th", { scope: "col", "aria-sort": order });
    th.append(element("button", { title: `Sort by ${meaning}`, "data-sort": key }, name));
    head.append(th);
  }
  const rows = D.layers.flatMap((_, l) => heads().map((h) => ({ l, h, values: summaryOf(l, h) })));
  const by = named.find(([key]) => key === state.sort);
  if (by) {
    const value = (r) => (by[3] === -1 ? r.l : by[3] === -2 ? r.h : r.values[by[3]]);
    rows.sort((a, b) => (state.down ? value(b) - value(a) : value(a) - value(b)));
  }
  const largest = D.difference ? strongest(rows.flatMap((r) => r.values.map((v) => v ?? 0))) || 1 : 1;
  const body = rows.map(({ l, h, values }) => {
    const tr = element("tr", { "data-l": l, "data-h": h ?? "" });
    tr.append(element("td", {}, layerName(l)), ...(state.mean ? [] : [element("td", {}, `H${h}`)]));
    for (const [, , , i] of columns) {
      const width = Math.min(100, (100 * Math.abs(values[i])) / largest);
      const bar = { class: "bar", style: `--width: ${width.toFixed(1)}%` };
      tr.append(element("td", bar, signed(values[i].toFixed(3), values[i])));
    }
    tr.addEventListener("click", () => select(l, h));
    return tr;
  });
  const foot = element("tr");
  foot.append(element("td", { colspan: state.mean ? 1 : 2 }, "uniform"));
  for (const [, , , i] of columns) foot.append(element("td", {}, D.uniform[i].toFixed(3)));
  $("table").tHead.replaceChildren(head);
  $("table").tBodies[0].replaceChildren(...body);
  $("table").tFoot.replaceChildren(...(D.difference ? [] : [foot]));
}

// --- the selected head -----------------------------------------------------------------------------------
function drawStage() {
  const [l, h] = current(), m = matrix(l, h), g = (geo = measure(m)), stage = $("stage");
  const canvas = element("canvas");
  const shown = (g.pooled = pooled(m, Math.round(g.side)));
  paint(canvas, shown.values, shown.n, scaleOf(m));
  canvas.style.cssText = `left:${g.left}px; top:${g.top}px; width:${g.side}px; height:${g.side}px`;
  stage.replaceChildren(canvas);
  const help = `Attention map, ${where(l, h)}. Arrow keys move between cells, Enter pins the dest token.`;
  stage.insertAdjacentHTML("beforeend",
    `<svg id="map" tabindex="0" role="application" width="${g.width}" height="${g.height}" aria-label="${help}">` +
    `${frame(m, g, theme())}<g id="links"></g><g id="marks" pointer-events="none"></g></svg>`);
  overlay = { links: $("links"), marks: $("marks") };
  const map = $("map");
  map.addEventListener("pointermove", (event) => hover(locate(event), event));
  map.addEventListener("pointerleave", () => hover(null));
  map.addEventListener("pointerdown", (event) => { event.preventDefault(); pin(locate(event)); });
  map.addEventListener("keydown", walk);
  map.addEventListener("blur", () => hover(null));
  $("which").textContent = where(l, h).replace("layer", "Layer");
  drawFocus(true);
}

function drawFocus(redrawLinks) {
  const m = matrix(...current()), t = theme();
  if (redrawLinks) overlay.links.innerHTML = links(m, geo, t);
  overlay.marks.innerHTML = marks(m, geo, t);
  const dests = hovered?.d !== undefined ? [hovered.d] : [...pinned];
  const names = dests.length > 3 ? `${dests.length} pinned tokens` : dests.map((d) => m.labels[d]).join(", ");
  const read = dests.length > 1 ? "read on average" : "reads";
  $("reads").textContent = dests.length ? `${names} ${read}: ${massOf(m, dests)}`
    : "Point at a cell or a link to see its value; click a row or a colour band to pin it (Esc releases it).";
}

// --- mouse and keyboard --------------------------------------------------------------------------------------
/** What lies under the mouse: an edge, a cell (d and s), a row label (d), a column label (s), or nothing. */
function locate(event) {
  const edge = event.target.closest?.("[data-edge]");
  if (edge) {
    const [d, s] = edge.dataset.edge.split(",").map(Number);
    return { d, s, edge: true };
  }
  const box = $("map").getBoundingClientRect(), { left, top, side, cell, far } = geo;
  const x = event.clientX - box.left, y = event.clientY - box.top;
  const inside = (v) => v >= 0 && v < side;
  const index = (v) => Math.min(Math.floor(v / cell), Math.round(side / cell) - 1);
  if (inside(y - top)) {
    if (inside(x - left)) return cellAt(x - left, y - top);
    if (x < left) return { d: index(y - top), band: x > left - BAND - GAP - 3 };
    if (x >= far - 4) return { s: index(y - top) };
    return hovered && { ...hovered, edge: true, silent: true }; // between the two columns: links do not change
  }
  return inside(x - left) && y < top ? { s: index(x - left) } : null;
}

/** The cell under a point of the map; where a pixel stands for several cells, the one it shows. */
function cellAt(x, y) {
  const { at, n: size } = geo.pooled, { n } = matrix(...current());
  const to = (v) => Math.min(size - 1, Math.floor((v / geo.side) * size));
  const i = to(y) * size + to(x);
  return at ? { d: Math.floor(at[i] / n), s: at[i] % n } : { d: to(y), s: to(x) };
}

function describe({ d, s }) {
  const [l, h] = current(), m = matrix(l, h);
  if (s === undefined) return `dest ${m.labels[d]} reads ${massOf(m, [d])} (${where(l, h)})`;
  if (d !== undefined) {
    const against = D.difference ? " compared with the baseline" : "";
    return `dest ${m.labels[d]} reads src ${m.labels[s]}: ${number(m.values[d * m.n + s])}${against} (${where(l, h)})`;
  }
  let received = 0;
  for (let row = 0; row < m.n; row++) received += m.values[row * m.n + s] / m.n;
  return `src ${m.labels[s]} is read with ${number(received)} on average (${where(l, h)})`;
}

function hover(place, at = null) {
  const same = JSON.stringify(place) === JSON.stringify(hovered);
  hovered = place;
  if (!same) drawFocus(!place?.edge);
  const tip = $("tooltip");
  tip.hidden = !place || Boolean(place.silent);
  if (tip.hidden) return;
  tip.textContent = describe(place);
  const box = tip.getBoundingClientRect(), x = at.clientX + 16, y = at.clientY + 18;
  tip.style.left = `${Math.max(4, Math.min(x, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + box.height > innerHeight ? at.clientY - box.height - 12 : y}px`;
}

function pin(place) {
  if (place?.d === undefined || place.silent) return;
  const { group } = matrix(...current());
  const rows = place.band ? [...group.keys()].filter((d) => group[d] === group[place.d]) : [place.d];
  const drop = rows.every((d) => pinned.has(d));
  for (const d of rows) drop ? pinned.delete(d) : pinned.add(d);
  drawFocus(true);
}

function letGo() {
  pinned.clear();
  hover(null);
  drawFocus(true);
}

/** Arrow keys inside the large map move from cell to cell. */
function walk(event) {
  const step = STEPS[event.key], { n } = matrix(...current());
  if (event.key === "Enter" || event.key === " ") pin(hovered);
  else if (event.key === "Escape") letGo();
  else if (!step) return;
  else {
    const clamp = (v) => Math.max(0, Math.min(n - 1, v));
    const [down, right] = hovered ? step : [0, 0]; // the first key only enters the map
    const place = { d: clamp((hovered?.d ?? 0) + down), s: clamp((hovered?.s ?? 0) + right) };
    const box = $("map").getBoundingClientRect(), x = box.left + geo.left, y = box.top + geo.top;
    hover(place, { clientX: x + place.s * geo.cell, clientY: y + place.d * geo.cell });
    $("status").textContent = describe(place);
  }
  event.preventDefault();
  event.stopPropagation();
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") return letGo();
  const step = STEPS[event.key];
  if (!step || event.target.tagName === "INPUT" || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  const clamp = (v, n) => Math.max(0, Math.min(n - 1, v));
  const inGrid = $("overview").contains(document.activeElement);
  select(clamp(state.layer + step[0], D.layers.length), state.mean ? null : clamp(state.head + step[1], D.heads));
  if (inGrid) $("overview").querySelector("[aria-selected=true]").focus();
});

// --- saving --------------------------------------------------------------------------------------------------
function download(name, type, content) {
  const link = element("a", { download: name, href: URL.createObjectURL(new Blob([content], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function fileName(ending) {
  const [l, h] = current();
  const title = D.title.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "");
  return `${title || "attention"}-${layerName(l)}-${h === null ? "mean" : `H${h}`}-${state.view}.${ending}`;
}

/** The heat map itself as drawing: rectangles where they are few, an image of one pixel a cell otherwise. */
function heat(m, g, t) {
  if (m.n > 64) {
    const canvas = element("canvas");
    paint(canvas, m.values, m.n, scaleOf(m), t);
    return `<image x="${g.left}" y="${g.top}" width="${g.side}" height="${g.side}" ` +
      `preserveAspectRatio="none" style="image-rendering:pixelated" href="${canvas.toDataURL()}"/>`;
  }
  const cells = Array.from(m.values, (v, i) => {
    const x = g.left + (i % m.n) * g.cell, y = g.top + Math.floor(i / m.n) * g.cell;
    return rect(x, y, g.cell, g.cell, `fill="${css(ramp(t)[shade(v, scaleOf(m), floor())])}"`);
  });
  return `<g id="heat" shape-rendering="crispEdges">${cells.join("")}</g>`;
}

function drawing() {
  const [l, h] = current(), m = matrix(l, h), t = THEMES.light, head = 34;
  const title = [D.title, where(l, h)].filter(Boolean).join(": ");
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${geo.width}" height="${geo.height + head}" ` +
    `viewBox="0 ${-head} ${geo.width} ${geo.height + head}" font-family="Helvetica, Arial, sans-serif">` +
    `<title>${escape(title)}</title>${rect(0, -head, geo.width, geo.height + head, `fill="${t.paper}"`)}` +
    text(geo.left, 18 - head, title, t.ink, 'font-size="14" font-weight="600"') +
    heat(m, geo, t) + frame(m, geo, t) + links(m, geo, t) + marks(m, geo, t) + "</svg>";
}

function numbers() {
  const [l, h] = current(), m = matrix(l, h);
  const quote = (s) => (/[",\n]/.test(s) ? `"${s.replace(/"/g, '""')}"` : s);
  const rows = [`layer,head,dest,src,${D.difference ? "difference" : "attention"}`];
  m.values.forEach((v, i) => rows.push([layerName(l), h ?? "mean", quote(m.labels[Math.floor(i / m.n)]),
    quote(m.labels[i % m.n]), Number(v.toPrecision(6))].join(",")));
  return rows.join("\n") + "\n";
}

// --- state, and the address bar that keeps it ----------------------------------------------------------------
function select(l, h) {
  state.layer = l;
  if (h !== null) state.head = h;
  showSelection();
}

function showSelection() {
  const [l, h] = current();
  for (const t of thumbs) {
    const chosen = t.l === l && t.h === h;
    t.cell.setAttribute("aria-selected", chosen);
    t.cell.tabIndex = chosen ? 0 : -1;
  }
  for (const tr of $("table").tBodies[0].rows) {
    tr.setAttribute("aria-selected", tr.dataset.l === String(l) && tr.dataset.h === String(h ?? ""));
  }
  hovered = null;
  $("tooltip").hidden = true;
  drawStage();
  $("status").textContent = where(l, h);
  remember();
}

/** Everything anew, from the state. */
function refresh() {
  document.querySelector(`[name=view][value=${state.view}]`).checked = true;
  document.querySelector(`[name=scale][value=${state.scale}]`).checked = true;
  $("mean").checked = state.mean;
  $("lift").checked = state.lift;
  $("min").value = state.min;
  $("minout").textContent = state.min ? number(floor()).replace("+", "") : "0";
  buildOverview();
  paintOverview();
  buildTable();
  showSelection();
}

function remember() {
  const { head, view, scale, min } = state, [mean, lift] = [state.mean, state.lift].map(Number);
  const shown = new URLSearchParams({ layer: D.layers[state.layer], head, view, scale, mean, lift, min });
  try { history.replaceState(null, "", `#${shown}`); } catch { /* a notebook's frame has no address */ }
}

function recall() {
  const given = new URLSearchParams(location.hash.slice(1)), count = (name) => Number(given.get(name) ?? NaN);
  const layer = D.layers.indexOf(count("layer")), head = count("head"), min = count("min"), view = given.get("view");
  if (layer >= 0) state.layer = layer;
  if (Number.isInteger(head) && head >= 0 && head < D.heads) state.head = head;
  if (view === "groups" || (view === "tokens" && D.maps)) state.view = view;
  if (["head", "shared"].includes(given.get("scale"))) state.scale = given.get("scale");
  if (min >= 0 && min <= 100) state.min = min;
  if (given.has("mean")) state.mean = given.get("mean") === "1";
  if (given.has("lift")) state.lift = given.get("lift") === "1";
}

function change(values) {
  if (values.view && values.view !== state.view) pinned.clear();
  Object.assign(state, values);
  refresh();
}

function describePage() {
  $("title").textContent = D.title || "Attention";
  $("subtitle").textContent = D.subtitle;
  $("notes").textContent = D.notes.join(" ");
  D.groups.forEach((name, g) => {
    const count = D.group.filter((k) => k === g).length;
    const item = element("span", {}, `${name} · ${count}`);
    item.style.setProperty("--swatch", D.colours[g]);
    $("legend").append(item);
  });
  const { bits, steps, top } = D.maps ?? {}, error = (v) => (Math.sqrt(v * top) / steps).toPrecision(1);
  const fine = `every number is accurate to ±${error(top)}`;
  const coarse = `the largest are accurate to ±${error(top)}, values of ${(top / 100).toPrecision(1)} to ±${error(top / 100)}`;
  $("footer").textContent = "Layers count from L1, heads from H0; arrow keys move between them. Uni, Cross, From cls: attention of modality " +
    "tokens, as fractions from their own modality, from other modalities and from CLS. To cls: attention of CLS, as the " +
    "fraction from modalities. Groups: attention summed over the src group and averaged over the dest group." + (bits ? ` Token maps are stored in ${bits} bits: ${bits === 16 ? fine : coarse}.` : "");
  document.querySelector("[name=view][value=tokens]").disabled = !D.maps;
}

for (const name of ["view", "scale"]) for (const input of document.getElementsByName(name)) {
  input.addEventListener("change", () => change({ [name]: input.value }));
}
$("mean").addEventListener("change", (event) => change({ mean: event.target.checked, sort: null }));
$("lift").addEventListener("change", (event) => change({ lift: event.target.checked }));
let waiting = 0;
$("min").addEventListener("input", (event) => {
  state.min = Number(event.target.value);
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(() => {
    $("minout").textContent = state.min ? number(floor()).replace("+", "") : "0";
    paintOverview();
    drawStage();
    remember();
  });
});
$("table").addEventListener("click", (event) => {
  const key = event.target.dataset.sort;
  if (!key) return;
  state.down = state.sort === key ? !state.down : !["layer", "head"].includes(key);
  state.sort = key;
  buildTable();
  showSelection();
});
$("svg").addEventListener("click", () => download(fileName("svg"), "image/svg+xml", drawing()));
$("csv").addEventListener("click", () => download(fileName("csv"), "text/csv", numbers()));
darkness.addEventListener("change", refresh);
addEventListener("hashchange", () => { recall(); refresh(); });
let width = 0;
new ResizeObserver(([entry]) => {
  if (width && Math.abs(entry.contentRect.width - width) > 1) refresh();
  width = entry.contentRect.width;
}).observe($("stage"));

describePage();
recall();
refresh();
