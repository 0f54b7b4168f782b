// The panels of panels.yaml: titles, what they show, and when they ask for it.

import { Chart, last, swatch } from "./chart.js";
import { h, setText } from "./dom.js";
import { format, parts } from "./format.js";
import { fill, firstShown, frameOf, query, queryRange, windowOf } from "./prometheus.js";

const NUM_COLORS = 8; // then they come again, dashed
const MOST_SERIES = 12;
const MOST_NUMBERS = 3;

/** All panels of a view. `about`: what /panels.json says; name: which of its lists. */
export class Board {
  constructor(root, about, name) {
    this.about = about;
    this.colors = name === "grid" ? new Map() : null; // there a line is a run, and keeps its colour
    this.visible = new Set();
    this.observer = new IntersectionObserver((entries) => this.see(entries), { rootMargin: "200px" });
    const groups = Map.groupBy(about[name], (panel) => panel.group);
    root.replaceChildren(...[...groups].map(([group, panels]) => this.section(name, group, panels)));
  }

  section(name, group, panels) {
    const made = panels.map((panel) => {
      const limit = this.about.limits[name][panel.title];
      const args = [panel, limit, this.colors ?? new Map(), this.about];
      return panel.kind === "number" ? new NumberPanel(...args) : new ChartPanel(...args);
    });
    for (const panel of made) {
      panel.element.panel = panel;
      this.observer.observe(panel.element);
    }
    const part = (kind, members) =>
      members.length ? h("div", { class: kind }, ...members.map(({ element }) => element)) : null;
    return h("section", { class: "group" }, h("h2", {}, group),
      part("numbers", made.filter((panel) => panel instanceof NumberPanel)),
      part("graphs", made.filter((panel) => panel instanceof ChartPanel)));
  }

  see(entries) {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) this.visible.add(target.panel);
      else this.visible.delete(target.panel);
    }
    const fresh = entries.filter(({ isIntersecting }) => isIntersecting);
    if (this.wanted) for (const { target } of fresh) target.panel.refresh(...this.wanted);
  }

  /** Ask for what is to be seen now, and for the others once they are scrolled to. */
  async refresh(...wanted) {
    this.wanted = wanted;
    await Promise.all([...this.visible].map((panel) => panel.refresh(...wanted)));
  }

  close() {
    this.wanted = null;
    this.observer.disconnect();
  }
}

class Panel {
  constructor(panel, limit, colors, about) {
    Object.assign(this, { panel, limit, colors, about });
    this.note = h("p", { class: "note muted" });
    this.key = "";
  }

  /** Draw anew what there is in `range` seconds up to `end`; an answer that comes after a later
   * question is let go. */
  async refresh(variables, range, end) {
    const key = (this.key = JSON.stringify([variables, range, Date.now()]));
    try {
      const draw = await this.ask(variables, range, end);
      if (key !== this.key) return;
      draw();
      this.element.classList.remove("stale");
    } catch (error) {
      if (key !== this.key) return;
      this.element.classList.add("stale");
      if (!error.lost) setText(this.note, error.message);
    }
  }
}

/** The last value, large. */
class NumberPanel extends Panel {
  constructor(...args) {
    super(...args);
    this.values = h("div", { class: "values" });
    this.element = h("article", { class: "number", title: this.panel.description },
      h("h3", {}, this.panel.title), this.values, this.note);
  }

  async ask(variables, range, end) {
    const window = windowOf(this.about.scrape_seconds);
    const rows = (await Promise.all(this.panel.queries.map(async ({ expr, legend }) =>
      (await query(fill(expr, variables, window), end)).map((row) => ({ ...row, name: nameOf(legend, row.labels) }))))).flat();
    return () => this.draw(rows);
  }

  draw(rows) {
    const namesOnly = this.about.names_only.includes(this.panel.title);
    const texts = rows.slice(0, MOST_NUMBERS).map(({ name, value }) => ({
      text: namesOnly ? name : format(value, this.panel.unit),
      bad: this.limit !== undefined && value >= this.limit,
    }));
    this.values.replaceChildren(...texts.map(({ text, bad }) =>
      h("p", { class: bad ? "value bad" : "value" }, bad ? "▲ " : "", ...large(text, namesOnly))));
    this.element.classList.toggle("empty", !rows.length);
    const more = rows.length - texts.length;
    setText(this.note, rows.length ? (more > 0 ? `and ${more} more` : "") : "no data");
  }
}

/** A text with its numbers large and its units small. */
const large = (text, namesOnly) => namesOnly ? [text]
  : parts(text).flatMap(([part, isNumber]) => [isNumber ? part : h("small", {}, part), " "]);

/** Lines or areas over time, with a legend. */
class ChartPanel extends Panel {
  constructor(...args) {
    super(...args);
    const { title, unit, kind, description } = this.panel;
    this.chart = new Chart({ title, unit, stack: kind === "stack", limit: this.limit });
    this.legend = h("ul", { class: "legend" });
    this.element = h("article", { class: "graph" }, h("h3", {}, title),
      h("p", { class: "about muted", title: description }, description),
      this.chart.element, this.legend, this.note);
  }

  async ask(variables, range, end) {
    const frame = frameOf(range, this.about.scrape_seconds, end);
    const found = (await Promise.all(this.panel.queries.map(async ({ expr, legend }) =>
      (await queryRange(fill(expr, variables, frame.window), frame))
        .map((row) => ({ ...row, name: nameOf(legend, row.labels) }))))).flat();
    return () => this.draw(frame, tellApart(found));
  }

  draw(whole, all) {
    const [frame, found] = fromFirst(whole, all);
    const isStack = this.panel.kind === "stack";
    const chosen = isStack ? found.sort((a, b) => total(b) - total(a)) : mostTelling(found);
    if (!isStack) chosen.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
    const series = chosen.map((row) => ({ ...row, ...this.color(row.name) }));
    if (isStack) series.sort((a, b) => a.order - b.order); // the largest below, but nothing jumps later
    this.chart.show({ frame, series });
    const letters = Math.max(...series.map(({ name, values }) => name.length + format(last(values), this.panel.unit).length));
    this.legend.style.setProperty("--column", `${Math.round(letters * 7) + 40}px`);
    this.legend.replaceChildren(...series.map((row) => h("li", { title: row.name }, swatch(row),
      h("span", { class: "name" }, row.name),
      h("span", { class: "value" }, format(last(row.values), this.panel.unit)))));
    this.element.classList.toggle("empty", !series.length);
    const more = found.length - chosen.length;
    const text = more ? `${more} more ${more === 1 ? "line is" : "lines are"} left out: choose a grid, or open a run` : "";
    setText(this.note, series.length ? text : "no data");
  }

  color(name) {
    if (!this.colors.has(name)) this.colors.set(name, this.colors.size);
    const number = this.colors.get(name);
    return { order: number, color: number % NUM_COLORS, dash: number % (2 * NUM_COLORS) >= NUM_COLORS };
  }
}

/** The frame and its rows from the first value on: a young run fills its graphs. */
function fromFirst(frame, rows) {
  if (!rows.length) return [frame, rows];
  const cut = firstShown(rows.map(({ values }) => values));
  const rest = rows.map((row) => ({ ...row, values: row.values.slice(cut) }));
  return [{ ...frame, start: frame.start + cut * frame.step }, rest];
}

const total = ({ values }) => values.reduce((sum, value) => sum + (value || 0), 0);

const nameOf = (legend, labels) => legend.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => labels[label] ?? "");

/** The same with names that are each one's own. Series of one name that never meet are one: a run
 * that went on elsewhere. Others are told apart by the labels in which they differ. */
function tellApart(found) {
  const rows = [];
  for (const [name, same] of Map.groupBy(found, (row) => row.name)) {
    const meet = same.length > 1 && same[0].values.some(
      (_, index) => same.filter(({ values }) => values[index] !== undefined).length > 1);
    if (!meet) {
      const values = same[0].values.map((_, index) =>
        same.find((row) => row.values[index] !== undefined)?.values[index]);
      rows.push({ name, values });
      continue;
    }
    const labels = Object.keys(same[0].labels).filter((label) => label !== "instance" &&
      new Set(same.map((row) => row.labels[label])).size > 1);
    same.forEach((row, index) => {
      const more = labels.map((label) => row.labels[label]).join(", ") || index + 1;
      rows.push({ name: `${name} (${more})`, values: row.values });
    });
  }
  return rows;
}

/** The lines that are shown of too many: first those that go on now, then the highest. */
function mostTelling(rows) {
  if (rows.length <= MOST_SERIES) return rows;
  const rank = ({ values }) => [values.at(-1) !== undefined ? 1 : 0, last(values) || 0];
  return rows.map((row) => [rank(row), row])
    .sort(([a], [b]) => b[0] - a[0] || b[1] - a[1])
    .slice(0, MOST_SERIES).map(([, row]) => row);
}
