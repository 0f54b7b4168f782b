// What the report shows, and how its rows are called and drawn.

import { byId } from "./dom.js";
import { styleOf } from "./report_curves.js";

export const report = JSON.parse(byId("data").textContent);
export const DISTANCES = new Set(["fid", "kid", "fd_lite0", "kd_lite0"]);
export const LOWER_IS_BETTER = new Set([...DISTANCES, "ece"]);
export const rowNamed = Object.fromEntries(report.rows.map((row) => [row.name, row]));
export const tasks = [...new Set(report.rows.map(({ task }) => task))];

for (const task of tasks) {
  const trained = report.rows.filter((row) => row.task === task && row.trains);
  trained.forEach((row, index) => { row.style = styleOf(index); });
}

/** What a row is called; "-" is the one that restores nothing. */
export const nameOf = (row) => (row.loss === "-" ? "image generator" : row.loss);

/** A figure as the table says it, without its unit: shares in %. */
export const shown = (key, value) => (DISTANCES.has(key) ? value.toFixed(4) : (100 * value).toFixed(1));

/** The figures that count: the table's, without distances and what has no part in comparisons. */
export const counting = Object.keys(report.headlines).filter((key) => !DISTANCES.has(key) && key !== "miou_all");
