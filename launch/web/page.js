// The page: where it is (the address' hash), what it asks for, and how fresh that is.

import { Cards } from "./cards.js";
import { forgetCharts } from "./chart.js";
import { arrange, byId, h, setText } from "./dom.js";
import { clock, format } from "./format.js";
import { KINDS, askPrometheus, fits, keyOf, merge } from "./model.js";
import { Board } from "./panels.js";
import { firstShown, frameOf, getJson, queryRange, windowOf } from "./prometheus.js";
import { RunHead } from "./run_head.js";

const REFRESH_SECONDS = 5;
const PATIENCE = 4; // pauses are so many times as long as the answers took: many runs cost no more
const MOST_SECONDS = 15;
const STALE_SECONDS = 30;
const SPARK_POINTS = 120;
const RANGES = { "5m": [300, "5 min"], "15m": [900, "15 min"], "1h": [3600, "1 h"], "6h": [21600, "6 h"], "24h": [86400, "24 h"], "7d": [604800, "7 d"] };
const COUNTS = [["running", "running"], ["healthy", "done"], ["alerting", "page"], ["failed", "failed"], ["stopped", "stopped"], ["done", "done"]];

const page = { about: null, place: readPlace(), board: null, boardOf: "", entries: [], list: null, sparks: new Map(), updated: 0, timer: 0, turn: 0 };
const cards = new Cards(byId("cards"), (entry) => hrefTo({ run: entry.run, grid: entry.grid }));
const head = new RunHead(byId("run-head"));

/** What the hash says: run, grid, range, filter, node. */
function readPlace() {
  const words = new URLSearchParams(location.hash.slice(1));
  const place = Object.fromEntries(["run", "grid", "range", "filter", "node"].map((name) => [name, words.get(name) ?? ""]));
  if (!(place.range in RANGES)) place.range = "15m";
  return place;
}

/** The hash of another place; range stays, and what is empty or usual is left out. */
function hrefTo(changes) {
  const place = { run: "", grid: "", filter: "", node: "", range: page.place.range, ...changes };
  const words = Object.entries(place).filter(([name, value]) => value && !(name === "range" && value === "15m"));
  return `#${new URLSearchParams(words)}`;
}

function go(changes) {
  history.replaceState(null, "", hrefTo({ ...page.place, ...changes }));
  enter();
}

/** Show the place that the hash names. */
function enter() {
  const before = page.place;
  page.place = readPlace();
  const { run, grid, range, filter } = page.place;
  for (const button of byId("ranges").children) button.setAttribute("aria-pressed", button.value === range);
  byId("overview").hidden = Boolean(run);
  byId("run").hidden = !run;
  byId("home").href = hrefTo({});
  byId("back").href = hrefTo({ grid: before.run ? "" : before.grid, filter: before.run ? "" : before.filter });
  if (before.run !== run) scrollTo(0, 0);
  if (byId("filter").value !== filter) byId("filter").value = filter;
  document.title = run ? `${run} · maskrestore` : "maskrestore";
  const boardOf = run ? keyOf(grid, run) : "";
  if (page.about && (!page.board || page.boardOf !== boardOf)) {
    page.board?.close();
    forgetCharts();
    page.board = new Board(byId(run ? "run-panels" : "grid-panels"), page.about, run ? "run" : "grid");
    page.boardOf = boardOf;
  }
  render();
  refresh();
}

/** Ask for everything once, and again after a while. */
async function refresh() {
  clearTimeout(page.timer);
  const turn = (page.turn += 1);
  const began = Date.now();
  try {
    if (!document.hidden) {
      const problems = await update(turn);
      if (turn !== page.turn) return; // the user went elsewhere, which asks anew
      if (problems) showBanners(problems);
      render();
    }
  } finally { // whatever goes wrong once, the next look may be better
    const pause = Math.max(REFRESH_SECONDS * 1000, PATIENCE * (Date.now() - began));
    if (turn === page.turn) page.timer = setTimeout(refresh, Math.min(pause, MOST_SECONDS * 1000));
  }
}

async function update(turn) {
  const problems = [];
  try {
    if (!page.about) {
      page.about = await getJson("/panels.json");
      enter();
      return null;
    }
    page.list = await getJson("/runs.json");
  } catch (error) {
    const since = page.updated ? ` What you see is of ${clock(page.updated)}.` : "";
    return [error.lost ? `The dashboard's program does not answer; was it stopped?${since}` : error.message + since];
  }
  if (page.list.trouble) problems.push(page.list.trouble);
  let known = null;
  if (page.list.has_prometheus && !page.list.trouble) {
    try {
      known = await askPrometheus(windowOf(page.about.scrape_seconds));
    } catch (error) {
      problems.push(error.message);
    }
  }
  if (turn !== page.turn) return null;
  page.entries = merge(page.list.runs, known);
  page.known = known;
  page.updated = Date.now() / 1000;
  byId("overview").classList.toggle("without", !page.list.has_prometheus);
  byId("run").classList.toggle("without", !page.list.has_prometheus);
  render(); // graphs may take longer
  if (known) await Promise.all([page.place.run ? null : updateSparks(), updatePanels()]);
  return problems;
}

async function updateSparks() {
  const range = RANGES[page.place.range][0];
  const step = Math.max(page.about.scrape_seconds, range / SPARK_POINTS);
  const frame = { ...frameOf(range, step), step: Math.ceil(step) };
  frame.start = frame.end - Math.floor(range / frame.step) * frame.step;
  try {
    const rows = await queryRange("max by (grid, run) (maskrestore_total_loss)", frame);
    page.sparks = new Map(rows.map(({ labels, values }) =>
      [keyOf(labels.grid, labels.run), values.slice(firstShown([values]))]));
  } catch {
    // said by the other questions
  }
}

function updatePanels() {
  const { run, grid, node, range } = page.place;
  const entry = run && page.entries.find(({ key }) => key === keyOf(grid, run));
  const end = (entry && entry.ended) || undefined; // a run that ended is shown as it was then
  return page.board?.refresh(run ? { grid, run, node } : { grid }, RANGES[range][0], end);
}

function render() {
  if (!page.list) return;
  setText(byId("folder"), page.list.folder);
  if (page.place.run) {
    const entry = page.entries.find(({ key }) => key === keyOf(page.place.grid, page.place.run));
    head.show(page.place, entry, (node) => go({ node }));
    return;
  }
  const { filter, grid } = page.place;
  showCounts(page.entries.filter((entry) => !grid || entry.grid === grid));
  showGrids();
  const entries = page.entries.filter((entry) => fits(entry, filter, grid));
  cards.show(entries, page.sparks);
  if (!entries.length) byId("cards").replaceChildren(emptiness());
  showNotes();
}

function emptiness() {
  if (page.entries.length) return h("p", { class: "nothing muted" }, "No run fits the filter.");
  return h("div", { class: "nothing" }, h("p", {}, `There is no run in ${page.list.folder} yet.`),
    h("p", { class: "muted" }, "Start one, and it appears here by itself:"),
    h("pre", {}, "python launch/submit.py grid=table1 config=demo"));
}

function showCounts(entries) {
  const number = (test) => entries.filter(test).length;
  const counts = {
    running: number(({ state }) => state === "running"),
    healthy: number(({ kind }) => kind === "running"),
    alerting: number(({ alerts, kind }) => alerts.length || kind === "silent"),
    failed: number(({ state }) => state === "failed" || state === "unreadable"),
    stopped: number(({ state }) => state === "stopped"),
    done: number(({ state }) => state === "done"),
  };
  byId("counts").replaceChildren(...COUNTS.map(([name, kind]) => h("li", { class: counts[name] ? kind : "zero" },
    h("b", {}, String(counts[name])), h("span", {}, h("span", { "aria-hidden": "true" }, `${KINDS[kind].sign} `), name))));
}

function showGrids() {
  const { grid } = page.place;
  const names = [...new Set([...page.entries.map((entry) => entry.grid), ...(grid ? [grid] : [])])].sort();
  const select = byId("grids");
  if (select.dataset.names !== JSON.stringify(names)) {
    select.dataset.names = JSON.stringify(names);
    select.replaceChildren(new Option("All grids", ""), ...names.map((name) => new Option(name, name)));
  }
  select.value = grid;
}

function showNotes() {
  const part = (title, lines) => lines.length
    ? h("details", { data: { title } }, h("summary", {}, `${title}: ${lines.length}`), h("ul", {}, ...lines.map((line) => h("li", {}, line))))
    : null;
  const notes = [part("Left out, as it cannot be read", page.list.left_out), part("Old targets", page.list.reaped)];
  const text = JSON.stringify([page.list.left_out, page.list.reaped]);
  if (byId("notes").dataset.shown === text) return; // an opened list stays open
  byId("notes").dataset.shown = text;
  byId("notes").replaceChildren(...notes.filter(Boolean));
}

function showBanners(problems) {
  const now = problems.map((text) => h("p", { class: "banner" }, h("b", { "aria-hidden": "true" }, "▲ "), text));
  const old = [...byId("banners").children].map(({ textContent }) => textContent);
  if (JSON.stringify(now.map(({ textContent }) => textContent)) !== JSON.stringify(old)) arrange(byId("banners"), now);
  document.body.classList.toggle("troubled", problems.length > 0);
}

function tellFreshness() {
  if (!page.updated) return;
  const age = Math.max(0, Math.round(Date.now() / 1000 - page.updated));
  const isStale = age > STALE_SECONDS;
  byId("freshness").classList.toggle("bad", isStale);
  setText(byId("freshness"), isStale ? `▲ nothing new for ${format(age, "seconds")}` : `live · ${clock(page.updated)}`);
}

byId("ranges").replaceChildren(...Object.entries(RANGES).map(([value, [, text]]) =>
  h("button", { type: "button", value, onclick: () => go({ range: value }) }, text)));
byId("filter").addEventListener("input", (event) => {
  history.replaceState(null, "", hrefTo({ ...page.place, filter: event.target.value }));
  page.place = readPlace();
  render();
});
byId("grids").addEventListener("change", (event) => go({ grid: event.target.value }));
addEventListener("hashchange", enter);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
setInterval(tellFreshness, 1000);
enter();
