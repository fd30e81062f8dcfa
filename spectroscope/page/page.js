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

// The table of a layer's channels, in the order that it and the heat map share.
function channelTable(layer, { chosen, onPick, onSort }) {
  const names = Object.keys(layer.channels), total = layer.channels[names[0]].length;
  const body = html("tbody"), pickable = layer.spectra !== undefined;
  const all = html("button", { type: "button", class: "more", click: () => { cap = total; fill(); } });
  let order = [...Array(total).keys()], cap = CAP;

  function mark() {
    for (const button of body.querySelectorAll("button[data-channel]")) {
      const color = chosen.get(Number(button.dataset.channel));
      button.setAttribute("aria-pressed", color !== undefined);
      button.firstChild.setAttribute("class", `swatch ${color === undefined ? "" : `color-${color}`}`);
    }
  }
  function row(channel) {
    const name = !pickable ? [String(channel)]
      : [html("button", { type: "button", class: "pick", "data-channel": channel,
        "aria-label": `Spectrum of channel ${channel}`, click: () => onPick(channel) },
      html("span", { class: "swatch" }), String(channel))];
    return html("tr", { "data-channel": channel }, html("th", { scope: "row" }, ...name),
      ...names.map((n) => html("td", { class: "number" }, formatted(layer.channels[n][channel], n))));
  }
  function fill() {
    body.replaceChildren(...order.slice(0, cap).map(row));
    all.hidden = cap >= total;
    all.textContent = `Show all ${formatted(total)} channels (${formatted(Math.min(cap, total))} shown)`;
    mark();
  }
  // Of a residual or an effect the greatest in size are first.
  function sortBy(name, descending) {
    const size = /_residual$|^effect_size$/.test(name) && descending ? Math.abs : (v) => v;
    const key = name === "channel" ? (c) => c : (c) => size(number(layer.channels[name][c]));
    order = [...Array(total).keys()].sort((a, b) => compare(key(a), key(b), descending));
    fill();
    onSort();
  }
  const table = html("table", { class: "channels" },
    html("caption", {}, "Channels of ", html("bdi", {}, layer.site)),
    header(["channel", ...names]), body);
  sortable(table, (column, descending) => sortBy(["channel", ...names][column], descending));
  fill();
  const details = html("details", {}, html("summary", {}, `Table of ${formatted(total)} channels`),
    scrolling(table, `Channels of ${layer.site}`), all);
  return {
    details, mark, sortBy, order: () => order,
    reveal(channel) {
      details.open = true;
      if (order.indexOf(channel) >= cap) { cap = total; fill(); }
      for (const marked of body.querySelectorAll(".revealed")) marked.classList.remove("revealed");
      const target = body.querySelector(`tr[data-channel="${channel}"]`);
      target?.classList.add("revealed");
      target?.scrollIntoView({ block: "center" });
    },
  };
}

// A row of buttons, of which one is pressed, or a list to choose from.
function choice(label, options, onChange) {
  const select = html("select", { "aria-label": label, change: () => onChange(select.value) },
    ...Object.entries(options).map(([value, text]) => html("option", { value }, text)));
  return html("label", {}, `${label} `, select);
}

function download(name, text) {
  const link = html("a", { download: name, href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const SORTS = { dc_out: "DC", active_fraction: "activity", dc_gaussian_residual: "residual",
  introduced_fraction: "introduced", effect_size: "effect size" };

function detail(layer) {
  for (const [name, column] of Object.entries(layer.channels)) layer.channels[name] = unpackedColumn(column);
  const chosen = new Map(); // channel -> number of its color
  const figure = (text) => html("div", { class: "figure", role: "img", "aria-label": text });
  let figures;
  function pick(channel) {
    if (!chosen.delete(channel)) {
      const used = new Set(chosen.values());
      const free = [...Array(COLORS).keys()].slice(2).find((color) => !used.has(color));
      chosen.set(channel, free ?? 2 + channel % (COLORS - 2));
    }
    table.mark();
    legend();
    figures?.chosen();
  }
  const legendList = html("ul", { class: "legend" });
  const legend = () => legendList.replaceChildren(...[...chosen].map(([c, color]) =>
    html("li", {}, html("span", { class: `swatch color-${color}` }), `channel ${c}`)));
  const table = channelTable(layer, { chosen, onPick: pick, onSort: () => figures?.sorted() });

  const parts = [];
  if (layer.spectra) {
    const total = table.order().length, readout = html("p", { class: "readout" });
    const boxes = { pick, readout,
      spectrum: figure(`Power spectra of ${layer.site}, both sides: median and 10 to 90 % of ${total} channels. CSV has the numbers.`),
      heat: figure(`Power spectra of all ${total} channels of ${layer.site}, a row each. The table has the channels.`) };
    figures = layerFigures(layer, table.order, chosen, boxes);
    const bins = layer.spectra.bins > 1 ? ` Each point is the maximum of ${layer.spectra.bins} bins.` : "";
    const sorts = Object.fromEntries(Object.entries(SORTS).filter(([name]) => layer.channels[name]));
    parts.push(
      html("div", { class: "pair" },
        html("div", {},
          html("h4", {}, data.titles.spectrum),
          html("p", { class: "tools" },
            choice("frequency", { linear: "linear", log: "logarithmic" }, (v) => figures.set("scale", v)),
            choice("power", { db: "dB", linear: "linear" }, (v) => figures.set("power", v === "linear")),
            html("button", { type: "button", class: "more",
              click: () => download(`${layer.site}.csv`, figures.csv()) }, "CSV")),
          boxes.spectrum, legendList,
          html("p", { class: "quiet" }, `Lines are medians over channels, bands 10–90 %.${bins} Single channels are in steps of ${layer.spectra.step} dB.`)),
        html("div", {},
          html("h4", {}, "Channels"),
          html("p", { class: "tools" },
            choice("sorted by", { ...sorts, channel: "number" }, (v) => table.sortBy(v, v !== "channel")),
            choice("side", { out: data.titles.out, in: data.titles.in }, (v) => figures.set("side", v))),
          boxes.heat, readout,
          html("p", { class: "quiet screen" }, "Click a row to add its channel to the spectra."))));
    if (layer.first !== undefined) pick(layer.first);
    table.sortBy(Object.keys(sorts)[0] ?? "channel", true);
  } else if (layer.note) {
    parts.push(html("p", {}, layer.note));
  }
  if (layer.aliasing) parts.push(html("p", { class: "note" }, layer.aliasing));
  const extras = [];
  if (layer.channels.dc_gaussian) {
    const box = figure(`DC of each channel of ${layer.site} against its prediction. The table has both.`);
    extras.push(html("div", {}, html("h4", {}, "DC against its prediction for Gaussian input"), box,
      ...(layer.predictions ? [html("details", {}, html("summary", {}, "Other predictions"),
        smallTable(layer.predictions, "DC predicted by theory, means over channels"))] : [])));
    scatterFigure(layer, box);
  } else if (layer.predictions) {
    extras.push(smallTable(layer.predictions, "DC predicted by theory, means over channels"));
  }
  if (layer.harmonics) {
    extras.push(html("div", {}, html("h4", {}, "Harmonics"),
      smallTable(layer.harmonics, "Harmonics of f0, medians over channels")));
  }
  if (layer.examples) parts.push(examples(layer, figure));
  const source = layer.source ? [html("p", { class: "quiet" }, "Channels of ", html("bdi", {}, layer.source))] : [];
  const content = html("div", { class: "panel" }, html("h3", {}, layer.site), ...source, ...parts,
    ...(extras.length ? [html("div", { class: "pair" }, ...extras)] : []), table.details);
  content.reveal = (channel) => {
    if (layer.spectra && !chosen.has(channel)) pick(channel);
    table.reveal(channel);
  };
  return content;
}

// Examples of a layer: a box for each channel, filled with the input that is chosen.
function examples(layer, figure) {
  const { images, panels } = layer.examples, inputs = [...new Set(panels.map((p) => p.input))];
  const of = (input) => panels.filter((p) => p.input === input);
  const most = Math.max(...inputs.map((input) => of(input).length));
  const boxes = [...Array(most)].map((_, place) => exampleFigures(layer, figure, place));
  const show = (input) => boxes.forEach((box, i) => box.show(of(Number(input))[i]));
  show(inputs[0]);
  const choose = inputs.length < 2 ? [] : [html("p", { class: "tools" },
    choice("input", Object.fromEntries(inputs.map((i) => [i, String(i)])), show))];
  const key = images ? [html("span", {}, "White is 0, blue is negative, red is positive; both sides of a channel have one scale.")]
    : [["0", `${data.titles.in} (dashed)`], ["1", data.titles.out]].map(([color, words]) =>
      html("span", {}, html("span", { class: `swatch color-${color}` }), words))
      .concat(html("span", {}, "— · DC of the output"));
  return html("div", { class: "examples" }, html("h4", {}, "Example inputs"), ...choose,
    html("div", { class: "trio" }, ...boxes.map((box) => box.element)),
    html("p", { class: "quiet legend" }, ...key),
    html("p", { class: "quiet" }, "Channels with the largest, median and smallest DC of the first batch."));
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

// As a click on a link to it; returns whether there is such a layer.
function follow(hash, channel) {
  const previous = location.hash;
  if (!navigate(hash, channel)) return false;
  if (hash !== previous) history.pushState({ channel }, "", hash);
  else history.replaceState({ channel }, "");
  return true;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (follow(link.getAttribute("href") ?? "", link.dataset.channel)) event.preventDefault();
});

const depth = document.getElementById("depth");
if (depth && data.figures.overview) {
  depth.hidden = false;
  overview([...depth.querySelectorAll("[data-figure]")], document.getElementById("depth-readout"));
  // The server does not link to this section, because without the script it is hidden.
  const link = html("a", { href: "#depth" }, document.getElementById("depth-title").textContent);
  document.querySelector("nav li").before(html("li", {}, link));
}
const map = document.getElementById("map");
if (map && data.figures.network) {
  map.hidden = false;
  networkMap(map.querySelector(".map"), document.getElementById("map-readout"), map.querySelector(".tools"));
}
document.querySelectorAll("[data-values]").forEach(thumbnail);
// What is folded away is printed.
let unfolded = [];
addEventListener("beforeprint", () => {
  unfolded = [...document.querySelectorAll("details:not([open])")];
  for (const details of unfolded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of unfolded) details.open = false;
});

// A hash that was typed, or that the user went back to.
window.addEventListener("hashchange", () => navigate(location.hash, history.state?.channel));
navigate(location.hash, history.state?.channel);
