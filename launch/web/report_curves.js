// Curves over the images seen: one small chart for each term of a task's loss.

import { fill, h, svg } from "./dom.js";
import { format, tickNames, ticks } from "./format.js";

const WIDTH = 360;
const HEIGHT = 190;
const FRAME = { left: 44, right: 10, top: 8, bottom: 24 };
const DASHES = ["", "7 3", "2 3", "9 3 2 3"]; // what tells rows apart beside their colours
const LOG_FROM = 12; // largest by smallest value from which decades are easier to read

/** How a row is drawn wherever it occurs: {color, dash}. */
export const styleOf = (index) => ({ color: index % 8, dash: DASHES[(index + Math.floor(index / 8)) % 4] });

/** The sign of a row in texts and legends. */
export function sign({ color, dash }) {
  return svg("svg", { class: `sign c${color}`, viewBox: "0 0 24 8", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: 24, y1: 4, y2: 4, "stroke-dasharray": dash }));
}

/** series: [{name, style, runs: [[[images, value], ...], ...]}], a run for each seed. */
export class CurveChart {
  constructor(title, series) {
    this.title = title;
    this.series = series;
    this.marked = null;
    const points = series.flatMap(({ runs }) => runs.flat());
    this.places = [...new Set(points.map(([x]) => x))].sort((a, b) => a - b);
    const values = points.map(([, y]) => y).filter(Number.isFinite);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    this.isLog = low > 0 && high / low >= LOG_FROM;
    this.setAxes(low, high);
    this.mark = svg("g", { class: "mark" });
    this.svg = svg("svg", { class: "curve", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: "0", "aria-label": this.describe() },
      this.axes(), ...series.map((each) => this.lines(each)), this.mark);
    this.where = h("p", { class: "where muted" });
    this.legend = h("ul", { class: "legend", "aria-live": "polite" });
    this.element = h("article", { class: "chart" },
      h("h4", {}, title, this.isLog ? h("span", { class: "muted" }, " · logarithmic") : null), this.svg, this.where, this.legend);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerdown", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
    this.svg.addEventListener("blur", () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => this.walk(event));
    this.choose(null);
  }

  setAxes(low, high) {
    if (this.isLog) {
      const [from, to] = [Math.floor(Math.log10(low) + 1e-9), Math.ceil(Math.log10(high) - 1e-9)];
      const marks = Array.from({ length: to - from + 1 }, (_, index) => 10 ** (from + index));
      this.marks = marks.length > 2 ? marks : marks.flatMap((mark) => [mark, 2 * mark, 5 * mark]).filter((mark) => mark <= marks.at(-1));
      this.names = this.marks.map((mark) => format(mark));
    } else {
      const isFlat = !(high > low);
      if (isFlat) [low, high] = Number.isFinite(low) ? [low - Math.abs(low) / 2 - 1e-6, high + Math.abs(high) / 2 + 1e-6] : [0, 1];
      this.marks = ticks(low >= 0 && low < 0.5 * high ? 0 : low, high, "", 4);
      this.names = tickNames(this.marks, "");
    }
    const scale = this.isLog ? Math.log10 : (value) => value;
    const [bottom, top] = [scale(this.marks[0]), scale(this.marks.at(-1))];
    this.end = this.places.at(-1) || 1;
    this.x = (images) => FRAME.left + (images / this.end) * (WIDTH - FRAME.left - FRAME.right);
    this.y = (value) => FRAME.top + (1 - (scale(value) - bottom) / (top - bottom)) * (HEIGHT - FRAME.top - FRAME.bottom);
  }

  axes() {
    const group = svg("g", { class: "axes" });
    this.marks.forEach((value, index) => {
      const y = this.y(value);
      group.append(svg("line", { x1: FRAME.left, x2: WIDTH - FRAME.right, y1: y, y2: y, class: index ? "" : "foot" }),
        svg("text", { x: FRAME.left - 6, y: y + 3.5, "text-anchor": "end" }, this.names[index]));
    });
    const steps = ticks(0, this.end, "", 4).filter((at) => at <= this.end);
    for (const at of steps) {
      const isLast = this.x(at) > WIDTH - FRAME.right - 16;
      group.append(svg("text", { x: isLast ? WIDTH - FRAME.right : this.x(at), y: HEIGHT - 8, "text-anchor": isLast ? "end" : "middle" }, format(at)));
    }
    return group;
  }

  lines({ style, runs }) {
    const group = svg("g", { class: `series c${style.color}${runs.length > 1 ? " thin" : ""}` });
    for (const run of runs) {
      let path = "";
      let pen = "M";
      for (const [x, y] of run) {
        if (!Number.isFinite(y) || (this.isLog && y <= 0)) { pen = "M"; continue; }
        path += `${pen}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`;
        pen = "L";
      }
      group.append(svg("path", { d: path, "stroke-dasharray": style.dash }));
      if (run.length === 1 && path) group.append(svg("circle", { cx: this.x(run[0][0]), cy: this.y(run[0][1]), r: 3 }));
    }
    return group;
  }

  /** Values of a row at a place, one for each seed that has one there or shortly before. */
  valuesAt({ runs }, place) {
    return runs.map((run) => run.findLast(([x]) => x <= place)?.[1]).filter((value) => value !== undefined);
  }

  valueText(series, place) {
    const values = this.valuesAt(series, place).map((value) => value ?? NaN);
    if (!values.length) return "–";
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return values.length === 1 || low === high ? format(values[0]) : `${format(low)} to ${format(high)}`;
  }

  describe() {
    const ends = this.series.map((each) => `${each.name} ends at ${this.valueText(each, this.end)}`);
    return `${this.title} over images seen: ${ends.join(", ")}. Arrow keys read other places.`;
  }

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    const far = (place) => Math.abs(this.x(place) - x);
    this.choose(this.places.reduce((best, place) => (far(place) < far(best) ? place : best), this.places[0]));
  }

  walk(event) {
    const last = this.places.length - 1;
    const now = this.marked === null ? last : this.places.indexOf(this.marked);
    const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") this.choose(null);
    if (to === undefined) return;
    event.preventDefault();
    this.choose(this.places[Math.min(last, Math.max(0, to))]);
  }

  /** Read out a place; null is the end. */
  choose(place) {
    this.marked = place;
    const at = place ?? this.end;
    this.where.textContent = place === null ? `at the end (${format(at)} images)` : `after ${at} images`;
    fill(this.legend, this.series.map((each) =>
      h("li", {}, sign(each.style), h("span", { class: "name" }, each.name), h("span", { class: "value" }, this.valueText(each, at)))));
    if (place === null) { this.mark.replaceChildren(); return; }
    const x = this.x(place);
    this.mark.replaceChildren(svg("line", { x1: x, x2: x, y1: FRAME.top, y2: HEIGHT - FRAME.bottom }),
      ...this.series.flatMap((each) => this.valuesAt(each, place).filter((value) => Number.isFinite(value) && (!this.isLog || value > 0))
        .map((value) => svg("circle", { class: `dot c${each.style.color}`, cx: x, cy: this.y(value), r: 3.2 }))));
  }
}
