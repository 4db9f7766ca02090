"use strict";
// Every text of the report enters the page by textContent: no name is ever read as HTML.
const read = id => JSON.parse(document.getElementById(id).textContent);
const data = read("data"), derived = read("derived"), formats = read("formats");
const number = x => typeof x === "string" ? Number(x.replace("inf", "Infinity")) : x;

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value; else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null));
  return made;
}

function drawn(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function figure(value) {
  if (value === null) return "";
  const x = number(value), size = Math.abs(x);
  const shown = size && (size < 1e-3 || size >= 1e6) ? x.toExponential(2) : String(Number(x.toPrecision(3)));
  return shown.replaceAll("-", "−");
}

// As in the text report: "·" is exactly none, 100 exactly all.
function percent(share) {
  const p = 100 * share;
  if (p === 0) return "·";
  if (p === 100) return "100";
  return p < 0.095 ? "<.1" : p < 9.95 ? p.toFixed(1) : p < 99 ? p.toFixed(0) : ">99";
}

const signed = x => (x < -0.05 ? "−" : "") + Math.abs(x).toFixed(1);
const isGradient = t => t.kind.endsWith("gradient");

const rows = data.reports.flatMap((report, r) => report.tensors.map((t, i) => {
  const { scale, mark, ratio } = derived[r][i];
  const size = number(scale);
  return { id: r + "/" + i, r, t, report, scale: size, log2: Math.log2(size), mark, ratio: number(ratio) };
}));
const lost = (t, format) => {
  const counted = t.elements - t.zeros - t.nan, of = t.lost[format];
  return counted ? (of.underflow + of.overflow) / counted : 0;
};

// --- The table -------------------------------------------------------------------------------------------------------

const columns = [
  { head: "tensor", key: w => w.t.name, text: true },
  { head: "scheme", key: w => w.report.scheme, text: true, wide: true, only: data.reports.length > 1 },
  { head: "kind", key: w => w.t.kind, text: true, wide: true },
  { head: "op or role", key: w => w.t.role, text: true, wide: true },
  { head: "shape", key: w => w.t.elements, show: w => w.t.shape.join("×"), wide: true },
  { head: "scale", key: w => w.scale, show: w => figure(w.scale), wide: true },
  { head: "log2", key: w => w.log2, show: w => (w.scale ? signed(w.log2) : "") + w.mark, mark: true },
  { head: "/pred", key: w => w.ratio, show: w => w.ratio === null ? "" : w.ratio.toFixed(2), wide: true },
  { head: "c", key: w => number(w.t.c), show: w => figure(w.t.c), wide: true },
  ...formats.map(f => ({
    head: f.label + " lost %", key: w => lost(w.t, f.name), show: w => percent(lost(w.t, f.name)), wide: true,
  })),
].filter(column => column.only !== false);

let order = { column: null, down: false };
const open = new Set();
const body = document.getElementById("body"), shown = document.getElementById("shown");
const search = document.getElementById("search"), outside = document.getElementById("outside");
const kind = document.getElementById("kind"), scheme = document.getElementById("scheme");

for (const value of new Set(rows.map(w => w.t.kind))) kind.append(element("option", { value }, value));
data.reports.forEach((report, r) => scheme.append(element("option", { value: String(r) }, report.scheme)));
document.getElementById("scheme-label").hidden = data.reports.length < 2;

for (const column of columns) {
  const button = element("button", { type: "button" }, column.head);
  button.addEventListener("click", () => {
    order = { column, down: order.column === column && !order.down };
    render();
  });
  column.th = element("th", { className: classes(column), scope: "col" }, button);
  document.getElementById("head").append(column.th);
}

function classes(column) {
  return [column.text ? "text" : "", column.wide ? "wide" : ""].join(" ").trim();
}

function matching() {
  const part = search.value.trim().toLowerCase();
  const found = rows.filter(w =>
    (!part || w.t.name.toLowerCase().includes(part) || w.t.role.toLowerCase().includes(part)) &&
    (!kind.value || w.t.kind === kind.value) &&
    (!scheme.value || String(w.r) === scheme.value) &&
    (!outside.checked || w.mark !== ""));
  if (!order.column) return found;
  const key = order.column.key, sign = order.down ? -1 : 1;
  // What has no number comes last either way.
  const missing = x => x === null || Number.isNaN(x);
  return found.sort((a, b) => {
    const x = key(a), y = key(b);
    if (missing(x) || missing(y)) return missing(x) - missing(y);
    return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x < y ? -1 : x > y ? 1 : 0);
  });
}

function render() {
  const found = matching();
  body.replaceChildren(...found.flatMap(w => open.has(w.id) ? [line(w), opened(w)] : [line(w)]));
  shown.textContent = found.length + " of " + rows.length + " tensors";
  for (const column of columns) {
    const sorted = order.column === column ? (order.down ? "descending" : "ascending") : "none";
    column.th.setAttribute("aria-sort", sorted);
  }
}

function line(w) {
  const cells = columns.map((column, i) => {
    if (i === 0) {
      const button = element("button", { type: "button", "aria-expanded": String(open.has(w.id)) }, ...path(w.t.name));
      button.addEventListener("click", () => toggle(w));
      const about = (data.reports.length > 1 ? w.report.scheme + " · " : "") + w.t.kind;
      const below = element("div", { className: "narrow" }, element("small", {}, about));
      return element("td", { className: "name text" }, button, below);
    }
    const text = (column.show ?? column.key)(w);
    return element("td", { className: classes(column) + (column.mark && w.mark ? " wrong" : "") }, text);
  });
  return element("tr", { id: "row-" + w.id }, ...cells);
}

// A name as text nodes, with a place to break the line after each dot.
function path(name) {
  return name.split(/(?<=\.)/).flatMap((part, i) => i ? [document.createElement("wbr"), part] : [part]);
}

function toggle(w) {
  const row = document.getElementById("row-" + w.id);
  if (open.delete(w.id)) row.nextSibling.remove();
  else {
    open.add(w.id);
    row.after(opened(w));
  }
  row.querySelector("button").setAttribute("aria-expanded", String(open.has(w.id)));
}

// --- An opened row ---------------------------------------------------------------------------------------------------

function opened(w) {
  const t = w.t;
  const facts = [
    ["kind", t.kind], [t.alpha === null ? "role" : "op", t.role], ["layer", t.layer],
    ["shape", t.shape.join(" × ") + " (" + t.elements + " elements)"],
    ["σ, RMS", figure(t.std) + ", " + figure(t.rms)], ["mean, largest |x|", figure(t.mean) + ", " + figure(t.amax)],
    ["predicted σ", t.predicted === null ? "none" : figure(t.predicted) + predictedNote(w)],
    ["zeros", String(t.zeros)],
    ["not finite", t.infinite + t.nan ? t.infinite + " infinite, " + t.nan + " NaN" : ""],
    ["outside because of", cause(w)], ["zero because of", t.zero_because], ["damped", t.damped ? "on purpose, by 1/fan-in" : ""],
    ...formats.map(f => [f.label, losses(t, f.name)]),
  ].filter(([, value]) => value !== "");
  const factors = [
    ["α of " + t.role, t.alpha === null ? "" : figure(t.alpha)],
    ["c", t.c === null ? "" : figure(t.c) + ": the computed gradient is c times the true one"],
  ].filter(([, value]) => value !== "");
  const parts = element("div", { className: "parts" },
    element("section", {}, element("h3", {}, "Exponents of the non-zero elements"), histogram(t)),
    element("section", {}, element("h3", {}, "Figures"), list(facts)),
    element("section", {},
      element("h3", {}, "Factors and consumers"), factors.length ? list(factors) : null, uses(w)));
  return element("tr", { className: "opened" }, element("td", { colSpan: columns.length }, parts));
}

function cause(w) {
  const found = w.report.causes.find(one => one.tensor === w.t.name && one.kind === w.t.kind);
  return found ? found.cause + (found.at ? " at " + found.at : "") + (found.remedy ? "; " + found.remedy : "") : "";
}

const predictedNote = w => w.ratio === null ? "" : "; measured over predicted " + w.ratio.toFixed(2);

function losses(t, format) {
  const counted = t.elements - t.zeros - t.nan, of = t.lost[format];
  const shares = [["to zero", of.underflow], ["subnormal", of.subnormal], ["too large", of.overflow]];
  const some = shares.filter(([, n]) => n).map(([what, n]) => percent(n / counted) + " % " + what);
  return some.join(", ") || "no loss beyond rounding";
}

function list(pairs) {
  return element("dl", {}, ...pairs.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]));
}

function uses(w) {
  if (!w.t.uses.length) return element("p", {}, "No op reads this tensor.");
  return element("ul", { className: "uses" }, ...w.t.uses.map(use => {
    const other = rows.find(o => o.r === w.r && o.t.name === use.output && isGradient(o.t) === isGradient(w.t)
      && o.t.alpha !== null);
    const name = other ? element("button", { type: "button" }, ...path(use.output))
      : element("span", {}, ...path(use.output));
    if (other) name.addEventListener("click", () => show(other));
    const beta = use.beta === null ? ", no gradient" : ", β = " + figure(use.beta);
    return element("li", {}, name, " (" + use.op + ")" + beta);
  }));
}

function show(w) {
  open.add(w.id);
  if (!matching().includes(w)) {
    search.value = kind.value = scheme.value = "";
    outside.checked = false;
  }
  render();
  const row = document.getElementById("row-" + w.id);
  row.scrollIntoView({ block: "center" });
  row.querySelector("button").focus();
}

function histogram(t) {
  const found = Object.entries(t.exponents).map(([e, n]) => [Number(e), n]);
  const total = found.reduce((sum, [, n]) => sum + n, 0);
  const last = Math.max(17, ...found.map(([e]) => e)), first = Math.min(-26, ...found.map(([e]) => e));
  const width = 480, height = 120, step = (width - 60) / (last - first + 1);
  const x = e => 50 + (e - first) * step;
  const highest = Math.max(1, ...found.map(([, n]) => n));
  const bottom = height + 8;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${bottom + 26 + 18 * formats.length}`, role: "img" });
  svg.append(drawn("title", {}, total ? "Histogram of ⌊log2 |x|⌋" : "All elements are zero"));
  svg.append(drawn("line", { class: "one", x1: x(0), x2: x(0), y1: 4, y2: bottom }));
  for (const [e, n] of found) {
    const h = height * n / highest;
    const bar = drawn("rect", { class: "bar", x: x(e) + 0.5, y: bottom - h, width: Math.max(1, step - 1), height: h });
    bar.append(drawn("title", {}, `2^${e}: ${(100 * n / total).toPrecision(3)} %`));
    svg.append(bar);
  }
  svg.append(drawn("line", { class: "axis", x1: x(first), x2: x(last + 1), y1: bottom, y2: bottom }));
  const every = last - first > 80 ? 20 : 10;
  for (let e = Math.ceil(first / every) * every; e <= last; e += every) {
    svg.append(drawn("text", { x: x(e) + step / 2, y: bottom + 14, "text-anchor": "middle" }, "2^" + String(e).replace("-", "−")));
  }
  formats.forEach((f, i) => {
    const y = bottom + 30 + 18 * i, clip = e => Math.min(last + 1, Math.max(first, e));
    svg.append(drawn("text", { x: 0, y: y + 4 }, f.label));
    svg.append(drawn("line", { class: "subnormal", x1: x(clip(f.smallest)), x2: x(clip(f.emin)), y1: y, y2: y }));
    svg.append(drawn("line", { class: "normal", x1: x(clip(f.emin)), x2: x(clip(f.emax + 1)), y1: y, y2: y }));
  });
  return svg;
}

document.getElementById("filters").addEventListener("submit", event => event.preventDefault());
for (const control of [search, kind, scheme, outside]) control.addEventListener("input", render);
render();
