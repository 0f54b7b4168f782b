// The report: draws what its data says. Everything is in the page; nothing is asked for.

import { byId, fill, h } from "./dom.js";
import { Compare, classBars, legendOf, sampleCards, sampleLine } from "./report_compare.js";
import { CurveChart, sign } from "./report_curves.js";
import { counting, headingOf, isDistance, nameOf, report, rowNamed, tasks } from "./report_data.js";
import { dotPlot } from "./report_dots.js";
import { degradationTable, figureCell, headlineColumns, sortableTable } from "./report_tables.js";

const MOST_EXTREMES = 4; // worst samples, and as many best ones
const PARTS = ["best", "table", "more", "curves", "looks", "classes", "samples", "made"];
const choice = { row: null, sample: null };

function showHead() {
  byId("title").textContent = report.title;
  byId("summary").textContent = report.summary;
  const list = byId("warnings").querySelector("ul");
  fill(list, report.warnings.map((text) => h("li", {}, text)));
  byId("warnings").hidden = !report.warnings.length;
}

/** For each task: the best trained row and the best untrained one, in each figure that counts. */
function showBest() {
  const cards = tasks.flatMap((task) => counting.map((key) => {
    const best = (rows) => rows.filter((row) => row.figures[key]).sort((a, b) => b.figures[key].value - a.figures[key].value)[0];
    const trained = best(report.rows.filter((row) => row.task === task && row.trains));
    const untrained = trained && best(trained.rivals.map((name) => rowNamed[name]));
    if (!trained || !untrained) return null;
    const { gain, isSure } = trained.figures[key];
    const more = 100 * (trained.figures[key].value - untrained.figures[key].value);
    const [mark, word] = Math.abs(more) < 0.05 ? ["=", "as good as"] : more > 0 ? ["▲", `${more.toFixed(1)} more than`] : ["▼", `${(-more).toFixed(1)} less than`];
    const range = gain.includes("(") ? `; difference ${gain}${isSure ? "" : ", so it may be chance"}` : "";
    return h("article", { class: "card" }, h("h3", {}, task, h("span", { class: "muted" }, ` · ${headingOf(key)}`)),
      h("p", { class: "big" }, trained.figures[key].text, h("small", {}, " %")),
      h("p", {}, sign(trained.style), ` ${nameOf(trained)}, the best trained row`),
      h("p", { class: { "▲": "gain", "▼": "loss" }[mark] ?? "" }, `${mark} ${word} the best untrained: ${nameOf(untrained)}, ${untrained.figures[key].text}\u00a0%${range}`));
  })).filter(Boolean);
  fill(byId("best").querySelector(".cards"), cards);
  byId("best").hidden = !cards.length;
}

function showTable() {
  const columns = headlineColumns();
  const ours = columns.filter(({ group }) => group === "ours").length;
  const weak = report.rows.flatMap((row, index) => {
    const marked = report.headlines.filter((key) => row.figures[key]?.mark);
    return marked.length ? [h("li", { id: `weak-${index}` }, `${row.task}, ${nameOf(row)}: `, marked.map((key) => {
      const { text, mark, gain, rival } = row.figures[key];
      return `${mark} ${headingOf(key)} ${text}, while ${rowNamed[rival].loss} has ${rowNamed[rival].figures[key].text} untrained: ${gain}`;
    }).join("; "), ".")] : [];
  });
  byId("table").append(h("p", { class: "hint" }, "Press a heading to sort, again to reverse, once more for the grid's order. A row's name leads to its pictures."), sortableTable("The table", columns, [["ours", ours, "ours"], ...(columns.length > ours ? [["the paper's, quoted", columns.length - ours, "paper"]] : [])]),
    h("div", { class: "plots" }, ...counting.map(dotPlot)),
    h("ul", { class: "notes" },
      ...report.notes.map((text) => h("li", {}, text)),
      h("li", {}, h("strong", {}, "Bold"), ": best of those that are given the same input. Small below a figure: its 95 % interval (bootstrap over the val images), where one was computed; of several seeds, that of their mean."),
      weak.length ? h("li", {}, "† No better than the best untrained row of the same input. ‡ Better, but not surely: not with every seed, or the 95 % interval of the difference (in brackets; paired bootstrap over the val images) holds 0.") : "",
      ...weak, h("li", {}, columns.length > ours ? `Paper: ${report.quoted}` : "The paper has none of these rows.")));
}

function showMore() {
  const columns = report.more.map((key) =>
    ({ name: headingOf(key), key, value: (row) => row.figures[key]?.value, cell: (row) => figureCell(row, key) }));
  const damaged = tasks.map((task) => [task, report.rows.filter((row) => row.task === task && Object.keys(row.byDegradation).length)]);
  byId("more").append(
    columns.length ? sortableTable("More figures", columns) : "",
    ...damaged.filter(([, rows]) => rows.length).map(([task, rows]) => degradationTable(task, rows)),
    h("ul", { class: "notes" },
      h("li", {}, "All in %. annotated: where the incomplete mask said something; boundary F: borders found within so many pixels; calibration error (ECE): lower is better."),
      report.unmeasured.length ? h("li", {}, `Not measured in these runs: ${report.unmeasured.join(", ")}.`) : ""));
}

function showCurves() {
  const every = Math.max(1, ...report.rows.flatMap(({ curves }) => curves.map((run) => run.every)));
  for (const task of tasks) {
    const rows = report.rows.filter((row) => row.task === task && row.trains);
    const charts = ["losses", "evaluations"].flatMap((part) => {
      const terms = [...new Set(rows.flatMap(({ curves }) => curves.flatMap((run) => Object.keys(run[part]))))];
      return terms.map((term) => new CurveChart(part === "losses" ? term : `evaluations: ${headingOf(term)}${isDistance(term) ? "" : ", %"}`, rows.flatMap((row) => {
        const factor = part === "losses" || isDistance(term) ? 1 : 100;
        const runs = row.curves.map((run) => run[part][term]?.map(([x, y]) => [x, y === null ? NaN : factor * y])).filter(Boolean);
        return runs.length ? [{ name: nameOf(row), style: row.style, runs }] : [];
      })).element);
    });
    if (charts.length) byId("curves").append(h("h3", {}, task), h("div", { class: "charts" }, ...charts));
  }
  const notes = ["Over the images seen, each term before its weight. Point at a chart, or move through it with the arrow keys, to read it."];
  if (report.hasSeeds) notes.push("Each thin line is a seed.");
  if (every > 1) notes.push(`Only every ${every}th report of the longest run is drawn.`);
  byId("curves").append(h("p", { class: "muted" }, byId("curves").querySelector(".chart") ? notes.join(" ") : "No run has reported a loss yet."));
}

const masks = new Compare("Masks", { "input | restored": ["input", "restored"], "restored | true": ["restored", "true_mask"], "input | true": ["input", "true_mask"] }, report.kinds);
const images = new Compare("Images", { "synthesised | real": ["synthesized", "real"], "true mask | real": ["true_mask", "real"] }, report.kinds);
const rowSelect = h("select", { id: "row", onchange: () => choose(rowSelect.value) });
const sampleSelect = h("select", { id: "sample", onchange: () => choose(choice.row, sampleSelect.value) });

function showLooks() {
  const rows = report.rows.filter((row) => Object.keys(row.pictures).length || Object.values(row.iou).some(Number.isFinite) || row.samples.length);
  if (!rows.length) {
    for (const id of ["looks", "samples", "classes"]) byId(id).append(h("p", { class: "muted" }, "No row that is done has any of it."));
    return;
  }
  fill(rowSelect, tasks.filter((task) => rows.some((row) => row.task === task)).map((task) => h("optgroup", { label: task },
    ...rows.filter((row) => row.task === task).map((row) => h("option", { value: row.name }, nameOf(row))))));
  fill(byId("choice"), [h("label", {}, "Row", rowSelect), h("label", {}, "Sample", sampleSelect)]);
  fill(byId("compare"), [masks.element, images.element, h("div", { id: "legend" })]);
  const trained = rows.filter((row) => row.trains && row.pictures && Object.values(row.iou).some(Number.isFinite));
  choose((trained[0] ?? rows[0]).name);
}

/** The samples of a row by accu, and what each place is called. */
function ranked(row) {
  const samples = row.samples.filter(({ accu }) => Number.isFinite(accu)).sort((a, b) => a.accu - b.accu);
  const number = Math.min(MOST_EXTREMES, row.numPictures || MOST_EXTREMES, Math.floor(samples.length / 2));
  const worst = samples.slice(0, number).map((sample, index) => ({ sample, place: `Worst ${index + 1}` }));
  const best = samples.slice(samples.length - number).reverse().map((sample, index) => ({ sample, place: `Best ${index + 1}` }));
  return { samples, worst, best };
}

/** Show a row, and one of its samples: the one shown before if it has that too. */
function choose(name, sample = choice.sample) {
  const row = rowNamed[name];
  const keys = Object.keys(row.pictures);
  choice.row = name;
  choice.sample = keys.includes(sample) ? sample : keys[0] ?? null;
  rowSelect.value = name;
  const places = ranked(row);
  const placeOf = Object.fromEntries([...places.worst, ...places.best].map((each) => [each.sample.key, each.place.toLowerCase()]));
  fill(sampleSelect, keys.map((key) => h("option", { value: key }, placeOf[key] ? `${key} (${placeOf[key]})` : key)));
  sampleSelect.value = choice.sample;
  sampleSelect.disabled = !keys.length;
  const numbers = row.pictures[choice.sample] ?? {};
  const about = `${choice.sample}, ${row.task} ${nameOf(row)}`;
  const uris = Object.fromEntries(Object.entries(numbers).map(([kind, number]) => [kind, report.pictures[number]]));
  masks.show(uris, about);
  images.show(uris, about);
  fill(byId("legend"), [legendOf(Object.values(numbers), report)]);
  const look = (key) => { choose(name, key); rowSelect.focus(); byId("looks").scrollIntoView(); };
  const part = (title, samples) => [h("h3", {}, title), sampleCards(samples, row, report, look)];
  fill(byId("extremes"), places.samples.length > 1
    ? [h("p", { class: "muted" }, `${row.task}, ${nameOf(row)}, seed ${row.seed}: ${places.samples.length} val images by accu.`), sampleLine(places.samples, choice.sample), ...part("Worst", places.worst), ...part("Best", places.best)]
    : [h("p", { class: "muted" }, `${row.task}, ${nameOf(row)}: its run left no samples.json, so that nothing is known of single images.`)]);
  fill(byId("bars"), [Object.values(row.iou).some(Number.isFinite) ? classBars(row, rowNamed[row.rival], report)
    : h("p", { class: "muted" }, `${row.task}, ${nameOf(row)} restores no mask, so that it has no IoU.`)]);
}

function showMade() {
  const isProtocol = ({ name }) => name.startsWith("protocol.");
  const isOrigin = ({ name }) => /^(versions\.|commit|generator_sha256|data \(|code \(|seed$|num_|left_out|images_passed|resumed_with)/.test(name);
  const groups = [["Protocol", isProtocol], ["Code, versions, data", isOrigin], ["All other settings", () => true]];
  const left = [...report.made];
  const parts = groups.map(([title, belongs]) => {
    const facts = left.filter(belongs);
    for (const fact of facts) left.splice(left.indexOf(fact), 1);
    return facts.length ? h("details", { open: title !== "All other settings" }, h("summary", {}, title), h("dl", { class: "made" }, ...facts.map(factLine))) : "";
  });
  const [submit, again] = report.commands;
  byId("made").append(
    h("p", {}, "The runs, with the same words as this report:"), h("pre", { tabIndex: 0 }, submit),
    h("p", {}, "This page again:"), h("pre", { tabIndex: 0 }, again),
    h("p", { class: "muted" }, `Run folders: ${report.folder}/CELL. Each one's config.yaml holds its complete settings and is itself a valid config=, provenance.json its packages, changes.diff what was changed since the commit. Photographs in this page are WebP of quality 90; the run folders hold them exactly.`),
    ...parts);
}

function factLine({ name, values }) {
  const most = Math.max(...values.map(([, cells]) => cells.length));
  const usual = values.find(([, cells]) => cells.length === most && most > 2);
  const text = (each) => values.length === 1 ? each[0] : `${each[0]} (${each === usual ? "all others" : each[1].join(", ")})`;
  const inOrder = [...values.filter((each) => each !== usual), ...(usual ? [usual] : [])];
  return h("div", { class: values.length > 1 ? "differs" : "" }, h("dt", {}, name.replace("protocol.", "")), h("dd", {}, ...inOrder.map((each) => h("p", {}, text(each)))));
}

document.addEventListener("click", (event) => { // a row's name leads to its pictures
  const link = event.target.closest("[data-choose]");
  if (link) choose(link.dataset.choose);
});
showHead();
showBest();
showTable();
showMore();
showCurves();
showLooks();
showMade();
fill(byId("parts"), PARTS.filter((id) => !byId(id).hidden).map((id) => h("li", {}, h("a", { href: `#${id}` }, byId(`${id}-title`).textContent.split(":")[0]))));
addEventListener("beforeprint", () => { for (const each of document.querySelectorAll("details")) each.open = true; });
