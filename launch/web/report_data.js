// What the report shows, and how its rows are called and drawn.

import { byId } from "./dom.js";
import { styleOf } from "./report_curves.js";

export const report = JSON.parse(byId("data").textContent);
export const { counting } = report; // the figures in which rows are compared
export const headingOf = (key) => report.names[key];
export const isDistance = (key) => report.distances.includes(key);
export const isLowerBetter = (key) => report.lowerIsBetter.includes(key);
export const rowNamed = Object.fromEntries(report.rows.map((row) => [row.name, row]));
export const tasks = [...new Set(report.rows.map(({ task }) => task))];

for (const task of tasks) {
  const trained = report.rows.filter((row) => row.task === task && row.trains);
  trained.forEach((row, index) => { row.style = styleOf(index); });
}

/** What a row is called; "-" is the one that restores nothing. */
export const nameOf = (row) => (row.loss === "-" ? "image generator" : row.loss);

/** A share as the tables say it, without its unit. */
export const percent = (share) => (Number.isFinite(share) ? (100 * share).toFixed(1) : "-");
