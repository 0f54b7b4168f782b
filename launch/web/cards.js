// A card for each run.

import { last, pieces } from "./chart.js";
import { arrange, fill, h, setText, svg } from "./dom.js";
import { format, moment } from "./format.js";
import { ATTENTION, KINDS } from "./model.js";

const MOST_CARDS = 60;

/** The sign and the word of a run's state. */
export function chip(entry) {
  const { sign, word } = KINDS[entry.kind];
  const more = entry.state === "running" && entry.doing && entry.doing !== "training" ? entry.doing : "";
  return h("span", { class: `chip ${entry.kind}` }, h("span", { "aria-hidden": "true" }, sign), ` ${more || word}`);
}

/** Accuracy, mIoU and image distance of a finished run, as [name, text]. */
export const figuresOf = (entry) => (entry.folder?.figures ?? [])
  .map(([name, value, unit]) => [name, format(value, unit)]);

/** A bar that is as full as the run is far. */
export function bar(entry) {
  const share = Math.max(0, Math.min(1, entry.progress ?? 0));
  const full = h("i");
  full.style.width = `${100 * share}%`;
  return h("div", { class: `bar-of ${entry.kind}`, role: "progressbar", "aria-label": "Progress",
    "aria-valuenow": Math.round(100 * share), "aria-valuemin": 0, "aria-valuemax": 100 }, full);
}

/** The cards, kept while their runs are there. */
export class Cards {
  constructor(root, hrefOf) {
    Object.assign(this, { root, hrefOf, cards: new Map() });
    this.sections = ["Needs attention", "Running", "Ended"].map((title) => {
      const [count, list] = [h("span", { class: "muted" }), h("div", { class: "cards" })];
      const heading = h("h2", {}, `${title} `, count);
      return { count, list, element: h("section", { class: "group" }, heading, list) };
    });
    this.more = h("p", { class: "muted more" });
  }

  /** entries in their order; sparks: key -> total loss over time; all: how many runs there are. */
  show(entries, sparks) {
    const shown = entries.slice(0, MOST_CARDS);
    const parts = [[], [], []];
    for (const entry of entries) parts[placeOf(entry)].push(entry);
    const keys = new Set(shown.map(({ key }) => key));
    for (const key of this.cards.keys()) if (!keys.has(key)) this.cards.delete(key);
    this.sections.forEach(({ count, list }, index) => {
      setText(count, String(parts[index].length));
      arrange(list, shown.filter((entry) => placeOf(entry) === index).map((entry) => this.card(entry, sparks.get(entry.key))));
    });
    const left = entries.length - shown.length;
    setText(this.more, `The first ${shown.length} of ${entries.length} runs; ${left} are left out. Filter by name or state, or choose a grid, to see them.`);
    const visible = this.sections.filter(({ list }) => list.children.length).map(({ element }) => element);
    arrange(this.root, left ? [...visible, this.more] : visible);
  }

  card(entry, spark) {
    let card = this.cards.get(entry.key);
    if (!card) this.cards.set(entry.key, (card = h("a", { data: { grid: entry.grid, run: entry.run } })));
    card.className = `card ${entry.kind}`;
    card.href = this.hrefOf(entry);
    const text = JSON.stringify([entry, spark]);
    if (card.shown === text) return card;
    card.shown = text;
    fill(card, [
      h("div", { class: "card-head" }, chip(entry), starts(entry)),
      h("h3", {}, entry.run), h("p", { class: "muted grid-name" }, entry.grid),
      ...(entry.state === "done" ? [] : [sparkline(spark), progress(entry)]),
      facts(entry), ...troubles(entry), ended(entry)]);
    return card;
  }
}

function placeOf({ kind }) {
  if (ATTENTION.has(kind)) return 0;
  return kind === "running" ? 1 : 2;
}

function starts(entry) {
  if (entry.starts < 2) return null;
  const again = entry.starts - 1;
  return h("span", { class: "muted", title: `started ${entry.starts} times` }, `↻ ${again} restart${again > 1 ? "s" : ""}`);
}

const percent = (share) => `${Math.floor(100 * share)}\u202f%`;

function progress(entry) {
  if (entry.progress === null) return null;
  const text = h("span", { class: "percent" }, percent(entry.progress));
  return h("div", { class: "progress" }, bar(entry), text);
}

function facts(entry) {
  const { metrics, state } = entry;
  const fact = (name, text) => h("div", {}, h("dt", {}, name), h("dd", {}, text));
  if (state === "done") return h("dl", { class: "facts" }, ...figuresOf(entry).map(([name, text]) => fact(name, text)));
  if (state !== "running") return null;
  if (!entry.targets.length) return h("p", { class: "muted" }, "no metrics of it");
  return h("dl", { class: "facts" }, fact("time left", format(metrics.eta_seconds, "seconds")),
    fact("images/s", format(metrics.speed, "plain")), fact("loss", format(metrics.total_loss, "plain")));
}

/** When an ended run gave its last sign of life. */
export function ended(entry) {
  const changed = entry.folder?.changed;
  if (entry.state === "running" || !changed) return null;
  return h("p", { class: "muted ended" }, `${entry.state === "done" ? "ended" : "last step"} ${moment(changed)}`);
}

/** Badges of alerts, nodes that do not answer, and why it failed. */
function* troubles(entry) {
  const names = new Set();
  for (const { labels, annotations } of entry.alerts) {
    const text = annotations.summary ?? "";
    if (names.has(text)) continue;
    names.add(text);
    yield h("p", { class: `badge ${labels.severity === "page" ? "page" : "warning"}` },
      h("b", {}, labels.alertname.replace(/^Maskrestore/, "")), ` ${text}`);
  }
  const silent = entry.targets.filter(({ health }) => health === "down").map(({ node }) => node);
  if (silent.length && !entry.alerts.length && entry.state !== "done") {
    yield h("p", { class: "badge warning" }, h("b", {}, "No answer"), ` from ${silent.join(", ")}`);
  }
  if (entry.folder?.error && entry.state !== "running") yield h("p", { class: "badge error" }, entry.folder.error);
}

/** The total loss as a small line; nothing where there is none. */
export function sparkline(values) {
  const known = values?.filter(Number.isFinite) ?? [];
  if (known.length < 2 || last(values) === undefined && known.length < 3) return null;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const [width, height, flat] = [values.length - 1, 40, high === low];
  const y = (value) => (flat ? height / 2 : 3 + (1 - (value - low) / (high - low)) * (height - 6));
  const path = pieces(values).map(([from, to]) => `M${values.slice(from, to + 1)
    .map((value, index) => `${from + index} ${y(value).toFixed(1)}`).join("L")}${from === to ? "h.01" : ""}`).join("");
  return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Total loss from ${format(known[0], "plain")} to ${format(known.at(-1), "plain")}` },
  svg("path", { d: path }));
}
