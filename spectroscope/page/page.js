"use strict";
// Names come from models: they enter the page only as text (textContent, setAttribute), never as
// markup. Within a sentence they are in a <bdi>, because a name may reverse the direction of the
// text after it. Numbers: JSON has neither NaN nor infinity; null and "Infinity" stand for them.

const data = JSON.parse(document.getElementById("data").textContent);
const number = (v) => (v === null ? NaN : Number(v));
const SVG = "http://www.w3.org/2000/svg";

function node(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}
const html = (tag, attributes, ...children) =>
  node(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  node(document.createElementNS(SVG, tag), attributes, children);

// ---- Numbers, formatted as by `formatted` in __init__.py ----

const isFraction = (name) => name.endsWith("_fraction") || name === "above_next_nyquist";

function formatted(value, name = "") {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string" && !/^-?Infinity$/.test(value)) return value;
  const v = number(value), size = Math.abs(v);
  let text;
  if (Number.isNaN(v)) return "—";
  if (size === Infinity) text = "∞";
  else if (Number.isInteger(v) && size < 1e7) text = size.toLocaleString("en");
  else if (size >= 1e5 || size < 1e-3) {
    text = size.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
  } else if (isFraction(name) && size < 10) text = size.toFixed(3);
  else text = String(Number(size.toPrecision(4)));
  return v < 0 ? "−" + text : text;
}

const superscript = (n) =>
  String(n).replace(/[-\d]/g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));

// ---- Sorting of any <table data-sortable>: its column headings become buttons ----

// NaN last in both directions; numbers within text by value.
function compare(a, b, descending) {
  if (typeof a === "number" && typeof b === "number") {
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return descending ? b - a : a - b;
  }
  const order = String(a).localeCompare(String(b), "en", { numeric: true });
  return descending ? -order : order;
}

function sortable(table, reorder = (column, descending) => sortRows(table, column, descending)) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = html("button", { type: "button", "aria-description": heading.dataset.definition });
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      reorder(column, descending);
    });
  });
}

const keyOf = (cell) =>
  cell.dataset.value === undefined ? cell.textContent : parseFloat(cell.dataset.value);

// The detail row below an opened row moves with it.
const detailOf = (row) =>
  row.nextElementSibling?.classList.contains("detail") ? row.nextElementSibling : null;

function sortRows(table, column, descending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].filter((row) => !row.classList.contains("detail"));
  const keyed = rows.map((row) => [keyOf(row.cells[column]), row, detailOf(row)]);
  keyed.sort(([a], [b]) => compare(a, b, descending));
  body.append(...keyed.flatMap(([, row, detail]) => (detail ? [row, detail] : [row])));
}

document.querySelectorAll("table[data-sortable]").forEach((table) => sortable(table));

// ---- Filters: text, or a pattern with * and ? ----

function matcher(text) {
  const query = text.trim().toLowerCase();
  if (!/[*?]/.test(query)) return (cell) => cell.toLowerCase().includes(query);
  const escaped = query.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  const pattern = new RegExp(`^${escaped.replace(/\*/g, ".*").replace(/\?/g, ".")}$`, "s");
  return (cell) => pattern.test(cell.toLowerCase());
}

document.querySelectorAll("[data-filters]").forEach((box) => {
  const body = document.getElementById(box.dataset.filters).tBodies[0];
  const input = box.querySelector("input"), status = box.querySelector("[role=status]");
  box.hidden = false;
  input.addEventListener("input", () => {
    const matches = matcher(input.value);
    const rows = [...body.rows].filter((row) => !row.classList.contains("detail"));
    for (const row of rows) {
      const texts = [...row.querySelectorAll("[data-search]")].map((cell) => cell.textContent);
      row.hidden = !texts.some(matches);
      const detail = detailOf(row);
      if (detail) detail.hidden = row.hidden || !isOpen(row);
    }
    const visible = rows.filter((row) => !row.hidden).length;
    status.textContent = input.value.trim() ? `${visible} of ${rows.length} shown` : "";
  });
});

// ---- Charts: drawn for the available width, and redrawn when it changes ----

function responsive(box, draw) {
  let width = 0;
  new ResizeObserver(() => {
    // For print the chart is scaled instead.
    if (!box.clientWidth || box.clientWidth === width || matchMedia("print").matches) return;
    width = box.clientWidth;
    draw(width);
  }).observe(box);
  return () => width && draw(width);
}

const frame = (width, height, attributes, ...children) =>
  svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, ...attributes }, ...children);

// A path through points, with gaps where y is not finite.
function path(points) {
  let pen = "M";
  return points.map(([x, y]) => {
    if (!Number.isFinite(y)) { pen = "M"; return ""; }
    const step = `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
    return step;
  }).join("");
}

// About five round numbers from 0 to `top`.
function ticks(top) {
  const rough = top / 5, unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * ([1, 2, 5, 10].find((m) => m * unit >= rough) ?? 10);
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, i) => i * step);
}

// ---- Chart over all layers ----

function depthChart(box, readout) {
  const sites = data.layers.map((layer) => layer.site);
  const left = 46, right = 14, panel = 92, gap = 44, top = 26;
  responsive(box, (width) => {
    const inner = width - left - right, names = Object.keys(data.depth);
    const height = top + names.length * (panel + gap);
    const x = (i) => left + ((i + 0.5) * inner) / sites.length;
    const back = svg("g", { class: "axes" }), lines = svg("g"), hits = svg("g");
    const columns = sites.map(() => []);
    names.forEach((name, p) => {
      const values = data.depth[name].values.map(number), y0 = top + p * (panel + gap) + panel;
      const finite = values.filter(Number.isFinite), most = Math.max(1, ...finite);
      const logarithmic = most > 10;
      // 0 is drawn one decade below the least value, and labelled 0.
      const zero = logarithmic && finite.includes(0);
      const low = logarithmic
        ? Math.floor(Math.log10(Math.min(...finite.filter((v) => v > 0)))) - zero : 0;
      // At least one decade: all values may be the same power of 10.
      const high = logarithmic ? Math.max(low + zero + 1, Math.ceil(Math.log10(most))) : most;
      const place = (v) => !logarithmic ? v : v === 0 ? low : Math.log10(v);
      const scale = (v) => y0 - (place(v) - low) / (high - low) * panel;
      const marks = logarithmic
        ? Array.from({ length: high - low + 1 }, (_, i) => (zero && i === 0 ? 0 : 10 ** (low + i)))
        : most === 1 ? [0, 0.5, 1] : ticks(most).filter((_, i, all) => all.length < 5 || i % 2 === 0);
      back.append(
        svg("text", { x: left, y: y0 - panel - 10, class: "title" },
          svg("tspan", { class: "name" }, name),
          ...(width > 520 ? [svg("tspan", { class: "quiet", dx: 8 }, data.depth[name].title)] : [])));
      for (const mark of marks) {
        const y = scale(mark), text = logarithmic && mark ? `10${superscript(Math.log10(mark))}` : formatted(mark);
        back.append(svg("line", { x1: left, x2: width - right, y1: y, y2: y }),
          svg("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, text));
      }
      const points = values.map((v, i) => [x(i), scale(v)]);
      lines.append(svg("path", { d: path(points), class: "depth-line" }));
      points.forEach(([cx, cy], i) => {
        if (Number.isFinite(cy)) columns[i].push(svg("circle", { cx, cy, r: 3 }));
      });
    });
    // The first part of the names, once for neighbours that share it, where it fits.
    const bottom = top + names.length * (panel + gap) - gap;
    for (let i = 0, end; i < sites.length; i = end) {
      const part = (s) => s.split(/[.\/#]/)[0];
      for (end = i; end < sites.length && part(sites[end]) === part(sites[i]); end++);
      const from = x(i) - inner / sites.length / 2, to = x(end - 1) + inner / sites.length / 2;
      if (i) back.append(svg("line", { class: "stage", x1: from, x2: from, y1: top, y2: bottom }));
      if (part(sites[i]).length * 7 < to - from) {
        back.append(svg("text", { x: (from + to) / 2, y: bottom + 18, "text-anchor": "middle" },
          part(sites[i])));
      }
    }
    sites.forEach((site, i) => {
      const text = Object.entries(data.depth)
        .map(([n, { values }]) => `${n} ${formatted(values[i], n)}`).join(", ");
      const announce = () => readout.replaceChildren(html("bdi", {}, site), `: ${text}`);
      hits.append(svg("a", {
        href: `#layer-${i}`, tabindex: i ? -1 : 0, "aria-label": `${site}: ${text}`,
        pointerenter: announce, focus: announce,
        keydown: (event) => {
          const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
          const other = step && hits.children[i + step];
          if (!other) return;
          event.preventDefault();
          hits.children[i].setAttribute("tabindex", -1);
          other.setAttribute("tabindex", 0);
          other.focus();
        },
      },
      svg("rect", { x: x(i) - inner / sites.length / 2, y: top - 8, class: "hit",
        width: inner / sites.length, height: bottom - top + 16 }),
      svg("line", { x1: x(i), x2: x(i), y1: top, y2: bottom, class: "guide" }), ...columns[i]));
    });
    box.replaceChildren(frame(width, height - 14, { role: "group",
      "aria-label": "All layers; the table below has the same values" },
    back, lines, hits));
  });
}

const depth = document.getElementById("depth");
if (depth) {
  depth.hidden = false;
  depthChart(document.getElementById("depth-chart"), document.getElementById("depth-readout"));
  // The server does not link to this section, because without the script it is hidden.
  const link = html("a", { href: "#depth" }, document.getElementById("depth-title").textContent);
  document.querySelector('nav a[href="#layers"]').parentElement.before(html("li", {}, link));
}

// ---- Spectra of a layer: quantiles over its channels, and single channels ----

const DYNAMIC_RANGE = 1200; // in tenths of a decibel, from the greatest power down
const SIDES = { in: "Activation input", out: "Activation output" };
const COLORS = 8;

function spectraCharts(spectra, boxes, chosen) {
  const freq = spectra.freq.map(number), most = freq[freq.length - 1] || 1;
  const curves = (side) => [...spectra[side].band,
    ...[...chosen.keys()].map((channel) => spectra[side].lines[channel])];
  const draw = (side, box) => (width) => {
    const all = ["in", "out"].flatMap((s) => curves(s).flat()).filter((v) => v !== null);
    if (!all.length) {
      box.replaceChildren(html("p", { class: "note" }, `${SIDES[side]}: no power to plot.`));
      return;
    }
    const high = Math.ceil(all.reduce((a, b) => Math.max(a, b)) / 100);
    const lowest = Math.floor(all.reduce((a, b) => Math.min(a, b)) / 100);
    const low = Math.min(Math.max(lowest, high - DYNAMIC_RANGE / 100), high - 1);
    const left = 64, right = 12, top = 28, height = 220, base = top + height;
    const x = (f) => left + (f / most) * (width - left - right);
    const y = (v) => v === null ? NaN
      : Math.min(base, base - ((v / 100 - low) / (high - low)) * height);
    const line = (values) => path(values.map((v, i) => [x(freq[i]), y(v)]));
    const axes = svg("g", { class: "axes" }, svg("text", { x: left, y: 14, class: "title" }, SIDES[side]));
    const every = Math.ceil((high - low) / 6);
    for (let p = low; p <= high; p += every) {
      axes.append(svg("line", { x1: left, x2: width - right, y1: y(p * 100), y2: y(p * 100) }),
        svg("text", { x: left - 8, y: y(p * 100) + 4, "text-anchor": "end" }, `10${superscript(p)}`));
    }
    for (const f of ticks(most)) {
      axes.append(svg("text", { x: x(f), y: base + 18, "text-anchor": "middle" }, formatted(f)));
    }
    axes.append(
      svg("text", { x: (left + width - right) / 2, y: base + 38, "text-anchor": "middle" },
        `frequency (${spectra.unit})`),
      svg("text", { transform: `translate(12 ${top + height / 2}) rotate(-90)`,
        "text-anchor": "middle" }, "power (activation²)"));
    const drawn = svg("g");
    const [lower, middle, upper] = spectra[side].band;
    if (middle) {
      // Bins without power are at the bottom of the chart.
      const edge = (values) => values.map((v, i) => [x(freq[i]), v === null ? base : y(v)]);
      drawn.append(svg("path", { class: "band",
        d: path([...edge(upper), ...edge(lower).reverse()]) + "Z" }),
      svg("path", { class: "median", d: line(middle) }));
    }
    for (const [channel, color] of chosen) {
      drawn.append(svg("path", { class: `line color-${color}`, "data-channel": channel,
        d: line(spectra[side].lines[channel]) }));
    }
    const channels = [...chosen.keys()].map((c) => `channel ${c}`).join(", ");
    box.replaceChildren(frame(width, base + 46, { role: "img",
      "aria-label": `Power spectrum, ${SIDES[side].toLowerCase()}: median and 10 to 90 % of ` +
        `channels${channels && ", "}${channels}` }, axes, drawn));
  };
  const redraws = Object.entries(boxes).map(([side, box]) => responsive(box, draw(side, box)));
  return () => redraws.forEach((redraw) => redraw());
}

// ---- Details of a layer ----

const CAP = 50; // rows of channels at first: thousands are slow

function header(names) {
  return html("thead", {}, html("tr", {}, ...names.map((name, column) => {
    const words = name.split("_").flatMap((w, i) => (i ? ["_", html("wbr"), w] : [w]));
    const definition = data.definitions[name];
    return html("th", { scope: "col", class: column > 0 && "number", title: definition,
      "data-definition": definition }, ...words);
  })));
}

function scrolling(table, label) {
  return html("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": label }, table);
}

function smallTable(columns, caption) {
  const names = Object.keys(columns);
  const rows = columns[names[0]].map((first, i) => html("tr", {},
    html("th", { scope: "row" }, formatted(first)),
    ...names.slice(1).map((n) => html("td", { class: "number" }, formatted(columns[n][i], n)))));
  return scrolling(html("table", {}, html("caption", {}, caption), header(names),
    html("tbody", {}, ...rows)), caption);
}

function detail(layer) {
  const names = Object.keys(layer.channels), total = layer.channels[names[0]].length;
  const chosen = new Map(); // channel -> number of its color
  const lines = layer.spectra?.out.lines ?? {};
  const body = html("tbody"), legend = html("ul", { class: "legend" });
  const all = html("button", { type: "button", class: "more", click: () => { cap = total; fill(); } });
  let order = [...Array(total).keys()], cap = CAP, redraw = () => {};

  const swatch = (kind) => html("span", { class: `swatch ${kind}` });
  function mark() {
    for (const button of body.querySelectorAll("button[data-channel]")) {
      const color = chosen.get(Number(button.dataset.channel));
      button.setAttribute("aria-pressed", color !== undefined);
      button.firstChild.setAttribute("class", `swatch ${color === undefined ? "" : `color-${color}`}`);
    }
    legend.replaceChildren(
      html("li", {}, swatch("median"), `median of ${formatted(total)} channels`),
      html("li", {}, swatch("band"), "10–90 % of channels"),
      ...[...chosen].map(([c, color]) => html("li", {}, swatch(`color-${color}`), `channel ${c}`)));
  }
  function toggle(channel) {
    if (!chosen.delete(channel)) {
      const used = new Set(chosen.values());
      const free = [...Array(COLORS).keys()].find((color) => !used.has(color));
      chosen.set(channel, free ?? channel % COLORS);
    }
    mark();
    redraw();
  }
  function row(channel) {
    const name = lines[channel] === undefined ? [String(channel)]
      : [html("button", { type: "button", class: "pick", "data-channel": channel,
        "aria-label": `Spectrum of channel ${channel}`, click: () => toggle(channel) },
      swatch(""), String(channel))];
    return html("tr", { "data-channel": channel }, html("th", { scope: "row" }, ...name),
      ...names.map((n) => html("td", { class: "number" }, formatted(layer.channels[n][channel], n))));
  }
  function fill() {
    body.replaceChildren(...order.slice(0, cap).map(row));
    all.hidden = cap >= total;
    all.textContent = `Show all ${formatted(total)} channels (${formatted(Math.min(cap, total))} shown)`;
    mark();
  }

  const label = `Channels of ${layer.site}`;
  const caption = html("caption", {}, "Channels of ", html("bdi", {}, layer.site));
  const table = html("table", { class: "channels" }, caption,
    header(["channel", ...names]), body);
  sortable(table, (column, descending) => {
    const key = column ? (c) => number(layer.channels[names[column - 1]][c]) : (c) => c;
    order = [...Array(total).keys()].sort((a, b) => compare(key(a), key(b), descending));
    fill();
  });
  const charts = [];
  if (layer.spectra) {
    const boxes = { in: html("div", { class: "chart" }), out: html("div", { class: "chart" }) };
    redraw = spectraCharts(layer.spectra, boxes, chosen);
    const available = Object.keys(lines).length;
    const some = available < total ?
      ` The page has spectra of the ${formatted(available)} channels whose DC varies most over inputs; ` +
      "report.spectra() has all." : "";
    const bins = layer.spectra.bins > 1 ?
      ` Each point is the maximum of ${layer.spectra.bins} adjacent bins.` : "";
    charts.push(
      html("p", {}, `Power per bin, averaged over inputs.${bins}`,
        html("span", { class: "on-screen" }, ` Click a channel number to plot or remove it.${some}`)),
      html("div", { class: "pair" }, boxes.in, boxes.out), legend);
    const first = layer.spectra.first;
    if (first !== null) chosen.set(first, 0);
  } else if (layer.note) {
    charts.push(html("p", {}, layer.note));
  }
  fill();
  const extras = [];
  if (layer.harmonics) {
    extras.push(smallTable(layer.harmonics, "Harmonics of f0, medians over channels"));
  }
  if (layer.predictions) {
    extras.push(smallTable(layer.predictions, "DC predicted by theory, means over channels"));
  }
  const source = layer.source ? [html("p", {}, "Source of the channels: ", html("bdi", {}, layer.source))] : [];
  const content = html("div", { class: "panel" }, html("h3", {}, layer.site), ...source, ...charts,
    scrolling(table, label), all, ...(extras.length ? [html("div", { class: "pair" }, ...extras)] : []));
  content.reveal = (channel) => {
    if (order.indexOf(channel) >= cap) { cap = total; fill(); }
    if (lines[channel] !== undefined && !chosen.has(channel)) toggle(channel);
    for (const marked of body.querySelectorAll(".revealed")) marked.classList.remove("revealed");
    const target = body.querySelector(`tr[data-channel="${channel}"]`);
    target?.classList.add("revealed");
    target?.scrollIntoView({ block: "center" });
  };
  return content;
}

const isOpen = (row) => row.querySelector("button")?.getAttribute("aria-expanded") === "true";

function setOpen(row, open) {
  row.querySelector("button").setAttribute("aria-expanded", open);
  let below = detailOf(row);
  if (!below && open) {
    const cell = html("td", { colspan: row.cells.length }, detail(data.layers[row.dataset.layer]));
    below = html("tr", { class: "detail", id: `detail-${row.dataset.layer}` }, cell);
    row.after(below);
  }
  if (below) below.hidden = !open;
}

for (const row of document.querySelectorAll("tr[data-layer]")) {
  const cell = row.cells[0], button = html("button", { type: "button", class: "opens",
    "aria-expanded": "false", "aria-controls": `detail-${row.dataset.layer}` });
  button.append(...cell.childNodes);
  button.addEventListener("click", () => setOpen(row, !isOpen(row)));
  cell.append(button);
}

// Open the layer that a hash names, and show one of its channels.
function navigate(hash, channel) {
  const row = /^#layer-\d+$/.test(hash) && document.getElementById(hash.slice(1));
  if (!row) return false;
  const input = document.getElementById("sites-filter");
  if (row.hidden) { input.value = ""; input.dispatchEvent(new Event("input")); }
  setOpen(row, true);
  row.querySelector("button").focus({ preventScroll: true });
  row.scrollIntoView();
  if (channel !== undefined) detailOf(row).querySelector(".panel").reveal(Number(channel));
  return true;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a");
  const hash = link?.getAttribute("href") ?? "";
  if (event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  const previous = location.hash, channel = link?.dataset.channel;
  if (!navigate(hash, channel)) return;
  event.preventDefault();
  if (hash !== previous) history.pushState({ channel }, "", hash);
  else history.replaceState({ channel }, "");
});
// A hash that was typed, or that the user went back to.
window.addEventListener("hashchange", () => navigate(location.hash, history.state?.channel));
navigate(location.hash, history.state?.channel);
