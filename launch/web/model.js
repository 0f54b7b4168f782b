// What is known of each run: from its folder, and from Prometheus.

import { alerts, query, targets } from "./prometheus.js";

/** How a run is: a sign and a word for it, as colour alone does not reach everyone. */
export const KINDS = {
  page: { sign: "▲", word: "alert", rank: 0 },
  warning: { sign: "▲", word: "warning", rank: 1 },
  silent: { sign: "?", word: "no answer", rank: 2 },
  failed: { sign: "✕", word: "failed", rank: 3 },
  unreadable: { sign: "?", word: "unreadable", rank: 4 },
  running: { sign: "●", word: "running", rank: 5 },
  stopped: { sign: "■", word: "stopped", rank: 6 },
  done: { sign: "✓", word: "done", rank: 7 },
};
export const ATTENTION = new Set(["page", "warning", "silent", "failed", "unreadable"]);

const METRICS = "progress_ratio|eta_seconds|starts_total|total_loss|state|run_info";
const BY_RUN = "by (grid, run)";

export const keyOf = (grid, run) => `${grid}\u0000${run}`;

/** Everything Prometheus knows of the runs now; `window`: seconds of a rate. */
export async function askPrometheus(window) {
  const [answering, firing, series, speeds] = await Promise.all([
    targets(),
    alerts(),
    query(`{__name__=~"maskrestore_(${METRICS})"}`),
    query(`sum ${BY_RUN} (rate(maskrestore_images_total[${window}s]))`),
  ]);
  return { answering, firing, series, speeds };
}

/** All runs, the ones that need someone first. `known`: the answer of askPrometheus, or null. */
export function merge(folders, known) {
  const runs = new Map();
  const at = (grid, run) => {
    const key = keyOf(grid, run);
    if (!runs.has(key)) {
      const empty = { folder: null, targets: [], alerts: [], info: {}, doing: "", metrics: {} };
      runs.set(key, { key, grid, run, ...empty });
    }
    return runs.get(key);
  };
  for (const folder of folders) at(folder.grid, folder.run).folder = folder;
  for (const { labels, health, lastError } of known?.answering ?? []) {
    if (labels.job !== "maskrestore" || !labels.run) continue;
    const entry = at(labels.grid, labels.run);
    if (labels.failure) entry.failed = true; // nobody is there, but what tells why it failed
    else entry.targets.push({ node: labels.node, health, lastError });
  }
  for (const alert of known?.firing ?? []) {
    if (alert.state === "firing" && alert.labels.run) at(alert.labels.grid, alert.labels.run).alerts.push(alert);
  }
  for (const { labels, value } of known?.series ?? []) read(runs.get(keyOf(labels.grid, labels.run)), labels, value);
  for (const { labels, value } of known?.speeds ?? []) {
    const entry = runs.get(keyOf(labels.grid, labels.run));
    if (entry) entry.metrics.speed = value;
  }
  return [...runs.values()].map(judge).sort((a, b) => KINDS[a.kind].rank - KINDS[b.kind].rank ||
    a.grid.localeCompare(b.grid) || a.run.localeCompare(b.run, "en", { numeric: true }));
}

function read(entry, labels, value) {
  if (!entry?.targets.length) return; // it ended; Prometheus remembers its last values for a while
  const name = labels.__name__.replace("maskrestore_", "");
  if (name === "run_info") entry.info = labels;
  else if (name === "state") entry.doing = value === 1 ? labels.state : entry.doing;
  else entry.metrics[name] = value;
}

/** Add how the run is (`kind`), how far, and when it `ended` (Unix seconds; null while it goes on). */
function judge(entry) {
  const { folder, targets, metrics } = entry;
  const answers = targets.some(({ health }) => health === "up");
  const isDone = folder?.state === "done";
  const isSilent = !answers && targets.some(({ health }) => health === "down");
  let state = folder?.state ?? (entry.failed ? "failed" : "running");
  if (entry.failed && state === "stopped") state = "failed";
  if (answers && !isDone) state = "running"; // its lock may not be seen from here
  if (isSilent && (state === "stopped" || state === "running")) state = "silent";
  const isPage = entry.alerts.some(({ labels }) => labels.severity === "page");
  const kind = entry.alerts.length ? (isPage ? "page" : "warning") : state;
  const progress = isDone ? 1 : metrics.progress_ratio ?? folder?.progress ?? null;
  const starts = metrics.starts_total ?? folder?.starts ?? 0;
  const ended = targets.length || state === "running" ? null : folder?.changed ?? null;
  return { ...entry, state, kind, progress, starts, answers, ended };
}

/** Whether all words of the filter are in the run's names, state or alerts. */
export function fits(entry, filter, grid) {
  if (grid && entry.grid !== grid) return false;
  const { word } = KINDS[entry.kind];
  const names = entry.alerts.map(({ labels }) => labels.alertname);
  const text = [entry.grid, entry.run, word, KINDS[entry.state].word, entry.doing, ...names].join(" ").toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((part) => text.includes(part));
}
