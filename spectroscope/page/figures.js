"use strict";
// ---- Figures: Bokeh documents of overview.py and templates.py, filled with the numbers of a layer ----

Bokeh.require("core/logging").logger.set_level("error");
const { ndarray } = Bokeh.require("core/util/ndarray");
const css = (variable, of = document.documentElement) =>
  getComputedStyle(of).getPropertyValue(variable).trim();
const drawn = new Map(); // boxes of the page -> views of the figures in them
let copies = 0;

// A tag [property, variable] of a model is a colour that depends on light and dark.
function paint(parts, box) {
  for (const part of parts) {
    for (const [property, variable] of part.tags ?? []) part[property] = css(variable, box);
  }
}
function paintAll() {
  drawn.forEach((view, box) => paint(view.model.references(), box));
  dispatchEvent(new Event("painted"));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintAll);

// Canvases keep the width and the colours of the screen: printed are drawings, in those of paper.
// Glyphs take a colour in a microtask, which runs between two listeners.
function setPrinting(printing) {
  document.documentElement.classList.toggle("printing", printing);
  document.querySelectorAll(".printed").forEach((drawing) => drawing.remove());
  paintAll();
}
addEventListener("beforeprint", () => setPrinting(true));
addEventListener("beforeprint", () => drawn.forEach((view, box) => box.append(drawingOf(view))));
addEventListener("afterprint", () => setPrinting(false));

function drawingOf(view) {
  view.paint?.(); // a legend that has changed draws its lines then
  const svg = view.export("svg").canvas;
  const [width, height] = ["width", "height"].map((side) => Number(svg.getAttribute(side)));
  // Without the place of the toolbar, which isn't in the drawing; half a label of an axis may be.
  const top = Math.max(0, (view.toolbar_panel?.bbox.bottom ?? 0) - 8);
  svg.setAttribute("viewBox", `0 ${top} ${width} ${height - top}`);
  svg.setAttribute("height", height - top);
  svg.setAttribute("class", "printed");
  return svg;
}

// Draw a figure into a box; returns a function from names to the figure's models.
async function draw(name, box, fill = () => {}) {
  await null; // the box is put on the page first: it has no colours before
  copies += 1;
  const item = JSON.stringify(data.figures[name]).replace(/"(p\d+)"/g, `"$1_${copies}"`);
  const parsed = JSON.parse(item, (_, value) => {
    if (value?.attributes?.tags) paint([value.attributes], box);
    return value;
  });
  const [view] = (await Bokeh.embed.embed_item(parsed, box)).roots;
  const model = view.model;
  const part = (of) => model.document.get_model_by_name(of);
  fill(part, model);
  drawn.set(box, view);
  return part;
}

const span = (range, start, end) => {
  range.start = range.reset_start = start;
  range.end = range.reset_end = end;
};

// ---- The overview: a row for each layer, in two figures ----

function overviewText(i) {
  const parts = Object.entries(data.depth)
    .map(([name, { values }]) => `${name} ${formatted(values[i], name)}`);
  return [html("bdi", {}, data.layers[i].site), `: ${parts.join(", ")}`];
}

async function overview(boxes, readout) {
  const count = data.layers.length, cursors = [];
  let at = -1;
  const show = (i, more = "") => {
    at = Math.min(Math.max(i, 0), count - 1);
    for (const cursor of cursors) {
      cursor.data = { y: [count - 1.5 - at, count - 0.5 - at] };
    }
    readout.replaceChildren(...overviewText(at), ...(more ? [more] : []));
  };
  const region = boxes[0].parentElement;
  region.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(at < 0 ? 0 : at + step);
    else if (event.key === "Enter" && at >= 0) follow(`#layer-${at}`);
    else return;
    event.preventDefault();
  });
  region.addEventListener("focus", () => show(Math.max(at, 0)));
  for (const box of boxes) {
    await draw(box.dataset.figure, box, (part, model) => {
      for (const plot of model.references()) {
        if (plot.type === "ColumnDataSource" && plot.name === "cursor") cursors.push(plot);
        if (plot.type !== "Figure") continue;
        const cells = plot.name === "spectrogram" &&
          plot.renderers.find(({ data_source: { name } }) => name === "cells").data_source.data;
        plot.on_event("mousemove", (event) => {
          const i = count - 1 - Math.round(event.y);
          if (i >= 0 && i < count) show(i, cells ? cellText(cells, event) : "");
        });
        plot.on_event("tap", (event) => {
          const i = count - 1 - Math.round(event.y);
          if (i >= 0 && i < count) follow(`#layer-${i}`);
        });
      }
      const dc = part("dc");
      if (dc && innerWidth < 560) {
        dc.left[0].visible = false;
        dc.width = 40;
      }
    });
  }
}

function cellText({ left, right, row, power }, { x, y }) {
  const cell = row.findIndex((r, i) => r === Math.round(y) && left[i] <= x && x < right[i]);
  return cell < 0 ? "" : `; at frequency ${formatted(Number(x.toPrecision(3)))}: ` +
    (power[cell] < -190 ? "no power" : `${power[cell].toFixed(1)} dB of its output power`);
}

// ---- The map of the network ----

function nodeText({ name, operation, layer, inputs, above }) {
  const text = [html("bdi", {}, name), ` (${operation})`];
  if (above !== null) text.push(`: ${(100 * above).toFixed(0)} % of the power before it is above its Nyquist frequency`);
  if (layer !== null) {
    const { source, site } = data.layers[layer];
    if (source) text.push(", channels of ", html("bdi", {}, source));
    text.push(": ", Object.entries(data.network.columns)
      .map(([column, { values }]) => `${column} ${formatted(values[layer], column)}`).join(", "));
  }
  if (inputs.length) text.push("; after ", ...inputs.flatMap((x, i) => [i ? ", " : "", html("bdi", {}, x)]));
  return text;
}

async function networkMap(region, readout, tools) {
  const { nodes, columns } = data.network, activations = nodes.filter(({ operation }) => operation === "activation");
  let part, at = -1;
  const show = (i) => {
    at = Math.min(Math.max(i, 0), nodes.length - 1);
    const [x, y] = nodes[at].at;
    part("cursor").data = { x: [x], y: [y] };
    readout.replaceChildren(...nodeText(nodes[at]));
  };
  const open = () => nodes[at].layer !== null && follow(`#layer-${nodes[at].layer}`);
  const nearest = ({ x, y }) => nodes.findIndex(({ at: [a, b] }) => Math.hypot(a - x, b - y) < 0.6);
  function color(name) {
    const { values, title } = columns[name];
    const shown = activations.map(({ layer }) => (layer === null ? NaN : number(values[layer])));
    const known = values.map(number).filter(Number.isFinite), most = Math.max(...known), least = Math.min(...known);
    const source = part("activations"), colors = part("colors");
    colors.low = isFraction(name) ? 0 : least;
    colors.high = isFraction(name) && name !== "dead_fraction" ? Math.max(1, most) : most > colors.low ? most : colors.low + 1;
    source.data = { ...source.data, value: shown };
    part("scale").title = title;
  }
  tools.append(choice("colour", Object.fromEntries(
    Object.entries(columns).map(([name, { title }]) => [name, title])), (name) => part("colors") && color(name)));
  part = await draw("network", region.querySelector("[data-figure]"), (find, model) => {
    part = find;
    if (activations.length && Object.keys(columns).length) color(Object.keys(columns)[0]);
    model.on_event("mousemove", (event) => {
      const i = nearest(event);
      if (i >= 0) show(i);
    });
    model.on_event("tap", (event) => {
      const i = nearest(event);
      if (i < 0) return;
      show(i);
      open();
    });
  });
  region.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1, ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show(at < 0 ? 0 : at + step);
    else if (event.key === "Enter" && at >= 0) open();
    else return;
    event.preventDefault();
  });
  region.addEventListener("focus", () => show(Math.max(at, 0)));
}

// ---- A layer ----

// Spectra of all channels in dB, [side][channel * bins + bin]: one byte each, see spectra.py.
function unpacked({ cells, top, step, freq }, channels) {
  const bytes = Uint8Array.from(atob(cells), (c) => c.charCodeAt(0)), half = channels * freq.length;
  const decibels = Float32Array.from(bytes,
    (b) => (b === 255 ? NaN : b === 0 ? -Infinity : top - (254 - b) * step));
  return { in: decibels.subarray(0, half), out: decibels.subarray(half) };
}

const BOTTOM = 90; // dB below the greatest value that are in view
const COLORS = 8;

function layerFigures(layer, order, chosen, boxes) {
  const spectra = layer.spectra, channels = layer.channels[Object.keys(layer.channels)[0]].length;
  const bins = spectra.freq.length, freq = spectra.freq.map(number);
  const cells = unpacked(spectra, channels), sides = ["in", "out"];
  const state = { scale: "linear", power: false, side: "out" };
  let spectrum, heat;
  const value = (decibels) => state.power ? 10 ** (decibels / 10) : Number.isFinite(decibels) ? decibels : NaN;
  const row = (side, channel) => [...cells[side].subarray(channel * bins, (channel + 1) * bins)];

  function bands() {
    const columns = { freq };
    for (const side of sides) {
      spectra[side].band.forEach((band, i) => {
        columns[`${side}_${i}`] = band.map((v) => value(v === null ? (i === 1 ? NaN : spectra.top - BOTTOM) : v / 10));
      });
    }
    return columns;
  }
  function lines() {
    const columns = { xs: [], ys: [], color: [], dash: [], label: [] };
    for (const [channel, color] of chosen) {
      for (const side of sides) {
        columns.xs.push(freq);
        columns.ys.push(row(side, channel).map(value));
        columns.color.push(css(`--c${color}`, boxes.spectrum));
        columns.dash.push(side === "in" ? [4, 3] : []);
        columns.label.push(`channel ${channel}, ${side}`);
      }
    }
    return columns;
  }
  function fill(part, model) {
    const high = spectra.top, most = freq[bins - 1] || 1;
    part("bands").data = bands();
    part("lines").data = lines();
    span(model.x_range, state.scale === "log" ? freq.find((f) => f > 0) ?? 0.1 : -most / 80, most * 1.01);
    span(model.y_range, state.power ? 0 : Math.max(high - BOTTOM, spectra.least - 2),
      state.power ? value(high) * 1.08 : high + 6);
    const marks = (layer.marks ?? []).filter(([f]) => f <= most);
    part("marks").data = { x: marks.map(([f]) => f), text: marks.map(([, text]) => text),
      y: marks.map(() => model.y_range.end) };
    part("next_nyquist").data = { x: layer.next_nyquist ? [layer.next_nyquist] : [] };
    const text = (item) => String(item.label.value ?? item.label), legend = part("legend");
    legend.items = legend.items.filter((item) => layer.next_nyquist || !text(item).startsWith("next"));
    const width = legend.items.reduce((sum, item) => sum + 40 + 7 * text(item).length, 60);
    const rows = width > boxes.spectrum.clientWidth;
    legend.setv({ orientation: rows ? "vertical" : "horizontal", spacing: rows ? 2 : 14 });
    part("x").axis_label = `frequency (${spectra.unit})`;
    part("y").axis_label = state.power ? "power (activation²)" : "power (dB re 1 activation²)";
  }
  async function redraw() {
    boxes.spectrum.replaceChildren();
    spectrum = await draw(state.scale === "log" ? "spectrum_log" : "spectrum", boxes.spectrum, fill);
  }
  function heatMap() {
    if (!heat) return;
    const image = new Float32Array(channels * bins), all = cells[state.side];
    order().forEach((channel, place) => {
      image.set(all.subarray(channel * bins, (channel + 1) * bins), place * bins);
    });
    for (let i = 0; i < image.length; i++) if (image[i] === -Infinity) image[i] = -1000;
    const step = bins > 1 ? freq[bins - 1] / (bins - 1) : 1;
    heat("cells_of_channels").data = { image: [ndarray(image, { dtype: "float32", shape: [channels, bins] })],
      x: [-step / 2], y: [0], dw: [step * bins], dh: [channels] };
    mark();
  }
  const mark = () => {
    const places = order();
    heat("picked").data = { y: [...chosen.keys()].map((c) => places.indexOf(c) + 0.5) };
  };
  redraw();
  draw("channels", boxes.heat, (part, model) => {
    heat = part;
    const step = bins > 1 ? freq[bins - 1] / (bins - 1) : 1;
    span(model.x_range, -step / 2, step * (bins - 0.5));
    span(model.y_range, channels, 0);
    part("colors").high = spectra.top;
    part("colors").low = spectra.top - 60;
    part("x").axis_label = `frequency (${spectra.unit})`;
    heatMap();
    const channelAt = (event) => order()[Math.floor(event.y)];
    model.on_event("tap", (event) => channelAt(event) !== undefined && boxes.pick(channelAt(event)));
    model.on_event("mousemove", (event) => {
      const channel = channelAt(event), bin = Math.round(event.x / step);
      if (channel === undefined || bin < 0 || bin >= bins) return;
      const level = cells[state.side][channel * bins + bin];
      boxes.readout.textContent = `channel ${channel}, ${formatted(freq[bin])} ${spectra.unit}: ` +
        (Number.isFinite(level) ? `${level.toFixed(1)} dB` : "no power");
    });
  });
  addEventListener("painted", () => spectrum && (spectrum("lines").data = lines()));
  return {
    set(name, to) {
      state[name] = to;
      if (name === "scale") redraw();
      else if (name === "side") heatMap();
      else fill(spectrum, spectrum("x").document.roots()[0]);
    },
    sorted: heatMap,
    chosen() {
      if (spectrum) spectrum("lines").data = lines();
      if (heat) mark();
    },
    csv() {
      const model = spectrum("x").document.roots()[0], { start, end } = model.x_range;
      const table = { [`frequency (${spectra.unit})`]: freq }, from = bands(), single = lines();
      for (const side of sides) {
        ["10 %", "median", "90 %"].forEach((of, i) => {
          if (from[`${side}_${i}`]) table[`${side} ${of}`] = from[`${side}_${i}`];
        });
      }
      single.label.forEach((label, i) => { table[`${label.replace(",", "")} (steps of ${spectra.step} dB)`] = single.ys[i]; });
      const rows = freq.map((f, i) => i).filter((i) => freq[i] >= start && freq[i] <= end)
        .map((i) => Object.values(table).map((column) => column[i]).join(","));
      return [Object.keys(table).join(","), ...rows].join("\n") + "\n";
    },
  };
}

function scatterFigure(layer, box) {
  const { dc_out: y, dc_gaussian: x } = layer.channels;
  const known = x.map((_, i) => i).filter((i) => x[i] !== null && y[i] !== null);
  const least = Math.min(0, ...known.flatMap((i) => [number(x[i]), number(y[i])]));
  const most = Math.max(1e-30, ...known.flatMap((i) => [number(x[i]), number(y[i])]));
  draw("scatter", box, (part, model) => {
    part("points").data = { x: known.map((i) => x[i]), y: known.map((i) => y[i]), channel: known };
    part("diagonal").data = { x: [least, most] };
    const margin = (most - least) * 0.05;
    span(model.x_range, least - margin, most + margin);
    span(model.y_range, least - margin, most + margin);
  });
}

// Both sides of an example in activation units; the least whole number is NaN or infinite.
function valuesOf({ cells, greatest }, images) {
  const { buffer } = Uint8Array.from(atob(cells), (c) => c.charCodeAt(0));
  const steps = images ? new Int8Array(buffer) : new Int16Array(buffer), most = images ? 127 : 32767;
  const values = Float32Array.from(steps, (v) => (v < -most ? NaN : v / most * greatest));
  return [values.subarray(0, values.length / 2), values.subarray(values.length / 2)];
}

// Figures of one channel: a waveform, or images before and after.
function exampleFigures(layer, figure, place) {
  const { images, unit } = layer.examples, title = html("p", { class: "quiet" });
  const sides = images ? ["before", "after"] : [""];
  const boxes = sides.map((side) => figure(`Example ${place + 1} of ${layer.site} ${side}`.trim()));
  const captions = sides.map(() => html("p", { class: "quiet" }));
  let panel;
  const parts = boxes.map((box, i) => {
    const entry = { fill: () => {} };
    draw(images ? "feature_map" : "waveform", box, (part, model) => {
      entry.fill = () => (images ? map : wave)(part, model, i);
      entry.fill();
    });
    return entry;
  });
  function map(part, model, i) {
    const [rows, columns] = panel.size, image = valuesOf(panel, true)[i];
    part("colors").high = panel.greatest || 1;
    part("colors").low = -part("colors").high;
    model.aspect_ratio = columns / rows;
    span(model.x_range, 0, columns);
    span(model.y_range, rows, 0);
    part("feature_map").data = { image: [ndarray(image, { dtype: "float32", shape: [rows, columns] })], dw: [columns], dh: [rows] };
  }
  function wave(part, model) {
    const [before, after] = valuesOf(panel, false);
    const x = Array.isArray(panel.x) ? panel.x : Array.from(before, (_, i) => i * panel.x);
    const known = [...before, ...after, 0].filter((v) => !Number.isNaN(v));
    const least = Math.min(...known), most = Math.max(...known), margin = (most - least || 1) * 0.05;
    part("waveform").data = { x, in: [...before], out: [...after] };
    part("dc_of_example").data = { y: panel.dc[1] === null ? [] : [number(panel.dc[1])] };
    span(model.x_range, x[0], x[x.length - 1]);
    span(model.y_range, least - margin, most + margin);
    part("x").axis_label = `${unit === "s" ? "time" : "position"} (${unit})`;
  }
  const element = html("div", {}, title, html("div", { class: images ? "maps" : "" },
    ...boxes.map((box, i) => html("div", {}, box, captions[i]))));
  return {
    element,
    show(next) {
      element.hidden = !next;
      if (!next) return;
      panel = next;
      const [before, after] = panel.dc.map((dc) => formatted(dc));
      title.textContent = images ? `channel ${panel.channel}, ±${formatted(panel.greatest)}`
        : `channel ${panel.channel}, DC ${before} → ${after}`;
      if (images) captions.forEach((c, i) => { c.textContent = `${sides[i]}, DC ${i ? after : before}`; });
      parts.forEach((part) => part.fill());
    },
  };
}

function thumbnail(box) {
  const values = JSON.parse(box.dataset.values);
  draw("thumbnail", box, (part, model) => {
    const at = values.map((_, i) => i);
    part("bars").data = { x: at, top: values.map((v) => v ?? 0) };
    span(model.x_range, -0.7, values.length - 0.3);
    span(model.y_range, 0, Math.max(...values) * 1.05);
  });
}
