// A chart of lines, or of areas on top of each other, over time.

import { byId, h, svg } from "./dom.js";
import { format, moment, tickNames, ticks, timeTicks } from "./format.js";

const HEIGHT = 168;
const MARGIN = { top: 8, right: 12, bottom: 22 };
const CHARACTER = 6.3; // pixels of a digit on the axis
const MOST_ROWS = 14;
const NAN_APART = 9; // pixels between two crosses

const charts = new Set(); // all that are drawn: a time pointed at in one is marked in all
const isNumber = (value) => value !== undefined && Number.isFinite(value);

/** Forget the charts of a view that is left. */
export function forgetCharts() {
  charts.clear();
  hideTooltip();
}

export class Chart {
  /** style: {title, unit, stack, limit}. */
  constructor(style) {
    this.style = style;
    this.data = null;
    this.svg = svg("svg", { class: "chart", tabindex: "0", role: "img", height: HEIGHT });
    this.element = h("div", { class: "plot" }, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => unmark());
    this.svg.addEventListener("keydown", (event) => this.walk(event));
    this.svg.addEventListener("blur", () => unmark());
    new ResizeObserver(() => this.draw()).observe(this.element);
    charts.add(this);
  }

  /** data: {frame, series: [{name, color, dash, values}]}. */
  show(data) {
    this.data = data;
    this.draw();
  }

  draw() {
    const width = Math.floor(this.element.clientWidth);
    if (!this.data || width < 50) return;
    const { frame, series } = this.data;
    const layers = this.style.stack ? stacked(series) : series.map((each) => ({ ...each, top: each.values }));
    const [low, high] = this.extent(layers);
    const marks = ticks(low, high, this.style.unit, 4);
    const names = tickNames(marks, this.style.unit);
    const left = Math.max(...names.map((name) => name.length)) * CHARACTER + 10;
    const span = frame.end - frame.start || 1;
    const [bottom, top] = [marks[0], marks.at(-1)];
    this.x = (time) => left + ((time - frame.start) / span) * (width - left - MARGIN.right);
    this.y = (value) =>
      MARGIN.top + (1 - (value - bottom) / (top - bottom)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.time = (x) => frame.start + ((x - left) / (width - left - MARGIN.right)) * span;
    this.layers = layers;
    this.cross = svg("g", { class: "cross" });
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.svg.setAttribute("aria-label", this.describe());
    this.svg.replaceChildren(
      this.axes(marks, names, left, width),
      ...layers.toReversed().map((layer) => this.layer(layer)),
      this.limit(bottom, top, left, width),
      this.cross,
    );
    this.mark(marked);
  }

  /** Lowest and highest value to be seen. */
  extent(layers) {
    const { unit, stack, limit } = this.style;
    let [low, high] = [Infinity, -Infinity];
    for (const { top } of layers) {
      for (const value of top) {
        if (isNumber(value)) [low, high] = [Math.min(low, value), Math.max(high, value)];
      }
    }
    if (low > high) return [0, 1];
    if (limit !== undefined && high > 0.5 * limit) high = Math.max(high, limit);
    // Zero is the foot of what is a share or an amount, and of what reaches near it.
    if (low >= 0 && (stack || unit === "bytes" || unit === "images/s" || low < 0.5 * high)) low = 0;
    const isFlat = high - low <= 1e-4 * Math.max(Math.abs(low), Math.abs(high));
    if (isFlat) return high === 0 ? [0, 1] : [Math.min(0, 1.5 * low), Math.max(0, 1.5 * high)];
    return [low, high];
  }

  axes(marks, names, left, width) {
    const group = svg("g", { class: "axes" });
    marks.forEach((value, index) => {
      const y = Math.round(this.y(value)) + 0.5;
      group.append(
        svg("line", { x1: left, x2: width - MARGIN.right, y1: y, y2: y, class: index ? "" : "foot" }),
        svg("text", { x: left - 6, y: y + 3.5, "text-anchor": "end" }, names[index]),
      );
    });
    const { start, end } = this.data.frame;
    for (const [time, text] of timeTicks(start, end, Math.max(2, (width - left) / 76))) {
      const x = this.x(time);
      const half = (text.length * CHARACTER) / 2;
      if (x - half < left - 12 || x + half > width) continue;
      group.append(
        svg("line", { x1: x, x2: x, y1: HEIGHT - MARGIN.bottom, y2: HEIGHT - MARGIN.bottom + 4 }),
        svg("text", { x, y: HEIGHT - 5, "text-anchor": "middle" }, text),
      );
    }
    return group;
  }

  layer({ color, dash, top, foot }) {
    const group = svg("g", { class: `series c${color}${dash ? " dashed" : ""}` });
    const { start, step } = this.data.frame;
    const at = (index, row) => `${this.x(start + index * step).toFixed(1)} ${this.y(row[index]).toFixed(1)}`;
    const lines = [];
    for (const [from, to] of pieces(top)) {
      const points = (row) => Array.from({ length: to - from + 1 }, (_, index) => at(from + index, row));
      if (foot) {
        const area = [...points(top), ...points(foot).reverse()];
        group.append(svg("path", { class: "area", d: `M${area.join("L")}Z` }));
      } else if (from === to) {
        const [cx, cy] = at(from, top).split(" ");
        group.append(svg("circle", { class: "lone", cx, cy, r: 1.8 }));
      } else {
        lines.push(`M${points(top).join("L")}`);
      }
    }
    if (lines.length) group.append(svg("path", { class: "line", d: lines.join("") }));
    let before = -Infinity;
    top.forEach((value, index) => { // what no line can show stands on the foot of the chart
      const x = this.x(start + index * step);
      if (value === undefined || isNumber(value) || x < before + NAN_APART) return;
      before = x;
      const y = HEIGHT - MARGIN.bottom - 5;
      group.append(svg("path", { class: "line nan", d: `M${x - 2.5} ${y - 2.5}l5 5m0 -5l-5 5` }));
    });
    return group;
  }

  limit(bottom, top, left, width) {
    const { limit } = this.style;
    if (limit === undefined || limit <= bottom || limit > top) return svg("g");
    const y = this.y(limit);
    return svg("line", { class: "limit", x1: left, x2: width - MARGIN.right, y1: y, y2: y });
  }

  /** What is drawn, in words. */
  describe() {
    const { title, unit } = this.style;
    const values = this.data.series.map(({ name, values }) => `${name} ${format(last(values), unit)}`);
    return `${title}: ${values.join(", ")}`;
  }

  point(event) {
    if (!this.cross) return; // nothing is drawn yet
    const x = event.clientX - this.svg.getBoundingClientRect().left;
    this.choose(this.time(x), event.clientX, event.clientY);
  }

  walk(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") unmark();
    if (!steps || !this.data) return;
    event.preventDefault();
    const { end, step } = this.data.frame;
    const box = this.svg.getBoundingClientRect();
    const time = (marked ?? end + step) + steps * step * (event.shiftKey ? 10 : 1);
    this.choose(time, box.left + this.x(time), box.top + HEIGHT / 2);
  }

  choose(time, clientX, clientY) {
    if (!this.data) return;
    const { start, end, step } = this.data.frame;
    marked = Math.min(end, Math.max(start, start + Math.round((time - start) / step) * step));
    for (const chart of charts) chart.mark(marked);
    showTooltip(this, marked, clientX, clientY);
  }

  /** Draw the line at a time, and a dot on each series. */
  mark(time) {
    if (!this.data || !this.cross) return;
    const { start, end, step } = this.data.frame;
    this.cross.replaceChildren();
    if (time === null || time < start || time > end) return;
    const index = Math.round((time - start) / step);
    const x = this.x(start + index * step);
    this.cross.append(svg("line", { x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    for (const { top, color } of this.layers) {
      if (!isNumber(top[index])) continue;
      this.cross.append(svg("circle", { class: `dot c${color}`, cx: x, cy: this.y(top[index]), r: 3 }));
    }
  }
}

let marked = null;

function unmark() {
  marked = null;
  for (const chart of charts) chart.mark(null);
  hideTooltip();
}

const hideTooltip = () => { byId("tooltip").hidden = true; };

function showTooltip(chart, time, clientX, clientY) {
  const { frame, series } = chart.data;
  const index = Math.round((time - frame.start) / frame.step);
  const rows = series.filter(({ values }) => values[index] !== undefined);
  // As they lie on top of each other; of lines the highest first.
  if (chart.style.stack) rows.reverse();
  else rows.sort((a, b) => (b.values[index] || -Infinity) - (a.values[index] || -Infinity));
  const tooltip = byId("tooltip");
  tooltip.replaceChildren(
    h("p", { class: "muted" }, moment(time)),
    ...rows.slice(0, MOST_ROWS).map((row) => h("p", { class: "row" }, swatch(row),
      h("span", { class: "name" }, row.name),
      h("span", { class: "value" }, format(row.values[index], chart.style.unit)))),
    ...(rows.length ? [] : [h("p", { class: "muted" }, "no data")]),
  );
  tooltip.hidden = false;
  const { offsetWidth, offsetHeight } = tooltip;
  const beside = clientX + 16 + offsetWidth > innerWidth ? clientX - 16 - offsetWidth : clientX + 16;
  tooltip.style.left = `${Math.max(4, beside)}px`;
  tooltip.style.top = `${Math.max(4, Math.min(clientY + 12, innerHeight - offsetHeight - 4))}px`;
}

/** The sign of a series in legends. */
export const swatch = ({ color, dash }) => h("i", { class: `swatch c${color}${dash ? " dashed" : ""}` });

/** The newest value of a row; undefined if it has none. */
export const last = (values) => values.findLast((value) => value !== undefined);

/** First and last index of each unbroken piece of finite values. */
export function pieces(row) {
  const found = [];
  row.forEach((value, index) => {
    if (!isNumber(value)) return;
    if (found.length && found.at(-1)[1] === index - 1) found.at(-1)[1] = index;
    else found.push([index, index]);
  });
  return found;
}

/** Series with the foot and the top of each one's area; where one has no value, it is 0. */
function stacked(series) {
  const length = series[0]?.values.length ?? 0;
  const there = Array.from({ length }, (_, index) => series.some(({ values }) => isNumber(values[index])));
  let foot = there.map((is) => (is ? 0 : undefined));
  return series.map((each) => {
    const values = each.values;
    const top = foot.map((below, index) => below === undefined ? undefined : below + (isNumber(values[index]) ? values[index] : 0));
    const layer = { ...each, foot, top };
    foot = top;
    return layer;
  });
}
