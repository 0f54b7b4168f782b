// A figure of all rows on one line each: how sure it is, and where the untrained rows stand.

import { h, svg } from "./dom.js";
import { tickNames, ticks } from "./format.js";
import { headingOf, nameOf, report, tasks } from "./report_data.js";

const isNarrow = innerWidth < 640; // a drawing that shrinks takes its letters with it
const PLOT_WIDTH = isNarrow ? 330 : 560;
const LINE_HEIGHT = 21;
const LEFT = isNarrow ? 150 : 200;
const LETTER = 6.4; // mean width of one
const RIGHT = 16;

/** Ends of what a row's figure may be, in %: its interval, or mean and spread. */
function ends({ text, value, interval }) {
  const spread = Number(text.split(" ± ")[1] ?? NaN);
  if (interval) return interval.map((end) => 100 * end);
  return Number.isFinite(spread) ? [100 * value - spread, 100 * value + spread] : null;
}

/** The plot of a figure that is a share; nothing where fewer than two rows have it. */
export function dotPlot(key) {
  const rows = report.rows.filter((row) => Number.isFinite(row.figures[key]?.value));
  if (rows.length < 2) return null;
  const all = rows.flatMap((row) => [100 * row.figures[key].value, ...(ends(row.figures[key]) ?? [])]);
  const marks = ticks(Math.max(0, Math.min(...all)), Math.min(100, Math.max(...all)), "", 5);
  const names = tickNames(marks, "");
  const x = (value) => LEFT + ((value - marks[0]) / (marks.at(-1) - marks[0])) * (PLOT_WIDTH - LEFT - RIGHT);
  const drawing = svg("g");
  let y = 6;
  for (const task of tasks) {
    const own = rows.filter((row) => row.task === task);
    if (!own.length) continue;
    const trained = own.find((row) => row.trains);
    const rivals = own.filter(({ name }) => trained?.rivals.includes(name));
    const untrained = Math.max(...rivals.map((row) => 100 * row.figures[key].value));
    const top = y + LINE_HEIGHT;
    drawing.append(svg("text", { class: "group", x: 0, y: y + 14 }, task));
    y = top;
    for (const row of own) {
      drawing.append(...line(row, key, x, y + LINE_HEIGHT / 2));
      y += LINE_HEIGHT;
    }
    if (Number.isFinite(untrained)) drawing.append(svg("line", { class: "bar", x1: x(untrained), x2: x(untrained), y1: top, y2: y }));
    y += 6;
  }
  const axis = marks.flatMap((mark, index) => [svg("line", { x1: x(mark), x2: x(mark), y1: 20, y2: y }),
    svg("text", { x: x(mark), y: y + 15, "text-anchor": "middle" }, names[index])]);
  const words = rows.map((row) => `${row.task} ${nameOf(row)} ${row.figures[key].text}`).join(", ");
  return h("figure", { class: "chart" }, h("figcaption", {}, h("h3", {}, `${headingOf(key)}, %`),
    h("p", { class: "muted" }, "● trained, ◇ untrained; whiskers: 95 % interval over val images, or else spread over seeds; dashed: the best untrained row of the same input")),
  svg("svg", { class: "dots", viewBox: `0 0 ${PLOT_WIDTH} ${y + 22}`, role: "img", "aria-label": `${headingOf(key)} in %: ${words}` },
    svg("g", { class: "axes" }, ...axis), drawing));
}

function line(row, key, x, y) {
  const figure = row.figures[key];
  const [at, span] = [x(100 * figure.value), ends(figure)];
  const color = row.style ? `c${row.style.color}` : "plain";
  const name = nameOf(row).replace(/^none \((.*)\)$/, "$1");
  const most = LEFT - 14;
  const squeezed = LETTER * name.length > most ? { textLength: most, lengthAdjust: "spacingAndGlyphs" } : {};
  const parts = [svg("text", { class: row.trains ? "" : "untrained", x: LEFT - 12, y: y + 4, "text-anchor": "end", ...squeezed }, name)];
  if (span) parts.push(svg("path", { class: `whisker ${color}`, d: `M${x(span[0])} ${y}H${x(span[1])}M${x(span[0])} ${y - 4}v8M${x(span[1])} ${y - 4}v8` }));
  parts.push(row.trains ? svg("circle", { class: `dot ${color}`, cx: at, cy: y, r: 5 })
    : svg("path", { class: "diamond", d: `M${at - 5.5} ${y}l5.5 -5.5l5.5 5.5l-5.5 5.5z` }));
  return parts;
}
