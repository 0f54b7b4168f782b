// Questions to Prometheus, through the dashboard's own server.

const LEAST_POINTS = 10;
const LEAST_WINDOW = 30; // seconds: a step may take several, and less would show each one as a jump
const POINTS = 240;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200];

/** A server that answers with an error, or not at all; `lost`: the dashboard's own. */
export class NoAnswer extends Error {
  constructor(message, lost) {
    super(message);
    this.lost = lost;
  }
}

export async function getJson(path) {
  let answer;
  try {
    answer = await fetch(path, { signal: AbortSignal.timeout(20000) });
  } catch {
    throw new NoAnswer("The dashboard's program does not answer.", true);
  }
  let body;
  try {
    body = await answer.json();
  } catch {
    throw new NoAnswer(`${path.split("?")[0]}: no JSON (status ${answer.status})`, false);
  }
  if (!answer.ok) throw new NoAnswer(body.error ?? `status ${answer.status}`, false);
  return body;
}

const ask = async (name, parameters) =>
  (await getJson(`/api/v1/${name}?${new URLSearchParams(parameters)}`)).data;

/** A name as a regular expression that fits only it, in a PromQL string. */
export function escapeName(name) {
  const pattern = name.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
  return pattern.replace(/\\/g, "\\\\").replace(/"/g, '\\"').replace(/\n/g, "\\n");
}

/** An expression of panels.yaml with its variables filled in; a variable without value is all. */
export function fill(expr, variables, window) {
  const values = { ...variables, __rate_interval: `${window}s` };
  return expr.replace(/\$(\w+)/g, (found, name) => {
    if (name === "__rate_interval") return values[name];
    return name in values ? (values[name] ? escapeName(values[name]) : ".+") : found;
  });
}

/** Start, end and step (seconds) of graphs over `range` seconds up to `now`. */
export function frameOf(range, scrapeSeconds, now = Date.now() / 1000) {
  const least = Math.max(scrapeSeconds, range / POINTS);
  const step = STEPS.find((each) => each >= least) ?? STEPS.at(-1);
  const end = Math.floor(now / step) * step; // on multiples, so that graphs do not jitter
  const start = end - Math.floor(range / step) * step;
  return { start, end, step, window: windowOf(scrapeSeconds, step) };
}

export const windowOf = (scrapeSeconds, step = 0) =>
  Math.ceil(Math.max(4 * scrapeSeconds, step, LEAST_WINDOW));

const number = (text) => ({ "+Inf": Infinity, "-Inf": -Infinity })[text] ?? Number(text);

/** Series as {labels, values}: a value for each time of the frame, undefined where there is none. */
export async function queryRange(expr, { start, end, step }) {
  const { result } = await ask("query_range", { query: expr, start, end, step });
  const length = Math.round((end - start) / step) + 1;
  return result.map(({ metric, values }) => {
    const row = new Array(length).fill(undefined);
    for (const [time, text] of values) row[Math.round((time - start) / step)] = number(text);
    return { labels: metric, values: row };
  });
}

/** Index of the first value in any of the rows; a few times are left to be shown in any case. */
export function firstShown(rows) {
  const firsts = rows.map((values) => values.findIndex((value) => value !== undefined));
  return Math.max(0, Math.min(...firsts, rows[0].length - LEAST_POINTS));
}

/** Series as {labels, value}, now or at another time. */
export async function query(expr, time) {
  const { result } = await ask("query", { query: expr, ...(time === undefined ? {} : { time }) });
  return result.map(({ metric, value }) => ({ labels: metric, value: number(value[1]) }));
}

export const alerts = async () => (await ask("alerts", {})).alerts;
export const targets = async () => (await ask("targets", { state: "active" })).activeTargets;
