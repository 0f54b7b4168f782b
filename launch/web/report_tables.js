// The tables of figures, sorted by a press on a heading.

import { fill, h } from "./dom.js";
import { sign } from "./report_curves.js";
import { counting, headingOf, isLowerBetter, nameOf, percent, report } from "./report_data.js";

/** Columns of the first table: [key, heading, value of a row, content of its cell, group]. */
export function headlineColumns() {
  const ours = report.headlines.map((key) =>
    ({ name: headingOf(key), key, group: "ours", value: (row) => row.figures[key]?.value, cell: (row) => figureCell(row, key) }));
  const paper = Object.entries(report.paperFigures).map(([key, name], index) => ({ name, group: "paper", lower: isLowerBetter(key),
    value: (row) => (row.paper[index] === "-" ? undefined : Number(row.paper[index])),
    cell: (row) => h("td", { class: "number paper" }, row.paper[index]) }));
  const runs = { name: "runs", group: "ours", value: (row) => row.runs, cell: (row) => h("td", { class: "runs" }, row.runs.replace(" done", "")) };
  const isQuoted = report.rows.some((row) => row.paper.some((text) => text !== "-"));
  return [...(report.hasSeeds ? [runs] : []), ...ours, ...(isQuoted ? paper : [])];
}

export function figureCell(row, key) {
  const figure = row.figures[key];
  const cell = h("td", { class: "number", data: { key, value: figure?.value ?? "" } });
  if (!figure) { fill(cell, ["-"]); return cell; }
  const [mean, spread] = figure.text.split(" ± ");
  fill(cell, [isBest(row, key) ? h("strong", { title: "best of those that are given the same input" }, mean) : mean,
    figure.mark ? h("a", { class: "weak", href: `#weak-${report.rows.indexOf(row)}`, "aria-label": "not better, or not surely, than an untrained row: the note" }, figure.mark) : null,
    spread ? h("small", { class: "interval" }, ` ± ${spread}`) : null,
    figure.interval ? h("small", { class: "interval" }, figure.interval.map(percent).join("–")) : null]);
  return cell;
}

function isBest(row, key) {
  const better = isLowerBetter(key) ? (a, b) => a < b : (a, b) => a > b;
  const others = report.rows.filter((other) => other.task === row.task && other.input === row.input && other !== row && other.figures[key]);
  const own = row.figures[key].value;
  return others.every((other) => !better(other.figures[key].value, own)) && others.some((other) => better(own, other.figures[key].value));
}

/** A table whose rows a press on a heading puts in order: its values' best first, then last, then as
    the grid has them. */
export function sortableTable(title, columns, groups) {
  const first = [{ name: "task", value: (row) => row.task, cell: (row) => h("td", { class: "task" }, row.task) },
    { name: "row", value: (row) => row.loss, cell: rowHead }];
  const all = [...first, ...columns];
  const body = h("tbody");
  const state = { column: null, isReversed: false };
  const heads = all.map((column) => {
    const arrow = h("span", { "aria-hidden": "true", class: "arrow" });
    const head = h("th", { scope: "col", class: [column.group, column.key || column.group === "paper" ? "number" : ""].filter(Boolean).join(" ") }, h("button", { type: "button", onclick: () => sortBy(column) }, column.name, arrow));
    return { column, head, arrow };
  });
  const sortBy = (column) => {
    if (state.column !== column) Object.assign(state, { column, isReversed: false });
    else if (!state.isReversed) state.isReversed = true;
    else state.column = null;
    show();
  };
  const show = () => {
    const { column, isReversed } = state;
    const rows = [...report.rows];
    if (column) {
      const sign = (isFalling(column) ? -1 : 1) * (isReversed ? -1 : 1);
      const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
      const known = rows.filter((row) => (column.value(row) ?? null) !== null);
      known.sort((a, b) => sign * compare(column.value(a), column.value(b)));
      rows.splice(0, rows.length, ...known, ...rows.filter((row) => !known.includes(row)));
    }
    fill(body, rows.map((row, index) => tableRow(row, all, !column && rows[index - 1]?.task !== row.task)));
    for (const { column: each, head, arrow } of heads) {
      const isFallen = isFalling(each) !== isReversed;
      if (each === column) head.setAttribute("aria-sort", isFallen ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
      arrow.textContent = each === column ? (isFallen ? " ▼" : " ▲") : "";
    }
  };
  const isFalling = (column) => column.key !== undefined ? !isLowerBetter(column.key) : column.group === "paper" && !column.lower;
  show();
  const over = groups ? h("tr", {}, h("td", { colSpan: 2 }), ...groups.map(([name, span, kind]) => h("th", { colSpan: span, scope: "colgroup", class: kind }, name))) : null;
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": title },
    h("table", { class: "figures", "aria-label": title },
      h("thead", {}, over, h("tr", {}, ...heads.map(({ head }) => head))), body));
}

function tableRow(row, columns, startsTask) {
  const names = [row.trains ? "trained" : "untrained", startsTask ? "starts" : ""];
  const cells = columns.map((column) => column.cell(row));
  if (row.state) { // one cell across our figures says where it stands
    const ours = columns.filter(({ key }) => key !== undefined);
    const at = columns.indexOf(ours[0]);
    if (ours.length) cells.splice(at, ours.length, h("td", { colSpan: ours.length, class: "state" }, row.state));
  }
  return h("tr", { class: names.filter(Boolean).join(" "), data: { row: row.name } }, ...cells);
}

function rowHead(row) {
  const hasPictures = Object.keys(row.pictures).length > 0;
  const name = hasPictures ? h("a", { href: "#looks", data: { choose: row.name } }, nameOf(row)) : nameOf(row);
  return h("th", { scope: "row" }, row.style ? sign(row.style) : h("span", { class: "sign none", "aria-hidden": "true" }, "◇"), " ", name,
    h("small", { class: "about" }, row.trains ? null : h("span", { class: "chip" }, "untrained"), h("span", { class: "task-of" }, row.task)));
}

/** What the rows of a task do to each kind of damage: the first figure that counts, and mIoU. */
export function degradationTable(task, rows) {
  const kinds = [...new Set(rows.flatMap((row) => Object.keys(row.byDegradation)))];
  const key = counting[0];
  const title = `${task}: ${headingOf(key)}, and small ${headingOf("miou19")}, in %, by what damaged the mask`;
  const number = (kind) => rows.map((row) => row.byDegradation[kind]?.num_samples).find(Number.isFinite) ?? "-";
  return h("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": title },
    h("table", { class: "figures" }, h("caption", {}, `${title}. Of each row's first run.`),
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "damage"), h("th", { scope: "col", class: "number" }, "val images"),
        ...rows.map((row) => h("th", { scope: "col", class: "number" }, nameOf(row))))),
      h("tbody", {}, ...kinds.map((kind) => h("tr", {}, h("th", { scope: "row" }, kind), h("td", { class: "number" }, String(number(kind))),
        ...rows.map(({ byDegradation: { [kind]: figures } }) => h("td", { class: "number" }, percent(figures?.[key]),
          h("small", { class: "interval" }, percent(figures?.miou19)))))))));
}
