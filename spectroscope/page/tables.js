// Names come from models: they enter the page only as text (textContent, setAttribute), never as
// markup. Within a sentence they are in a <bdi>, because a name may reverse the direction of the
// text after it. Numbers: JSON has neither NaN nor infinity; null and "Infinity" stand for them.

const data = JSON.parse(document.getElementById("data").textContent);
const number = (v) => (v === null ? NaN : Number(v));

// A column as numbers.py packs it: a list, or in base64 m of all values and then e, of m·10^e.
function unpackedColumn(column) {
  if (typeof column !== "string") return column;
  const { buffer } = Uint8Array.from(atob(column), (c) => c.charCodeAt(0)), count = buffer.byteLength / 3;
  const e = new Int8Array(buffer, 2 * count), special = { "-32768": null, 10000: "Infinity", "-10000": "-Infinity" };
  return Array.from(new Int16Array(buffer, 0, count), (m, i) => (m in special ? special[m] : Number(`${m}e${e[i]}`)));
}

function html(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

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
