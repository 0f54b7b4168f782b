// The head of a run's view: how it is, what fires, what it is.

import { bar, chip, ended, figuresOf } from "./cards.js";
import { fill, h } from "./dom.js";
import { format } from "./format.js";

const FACTS = { task: "task", loss: "loss", engine: "engine", precision: "precision", device: "device", commit: "commit", slurm_job_id: "SLURM job" };

export class RunHead {
  constructor(root) {
    this.root = root;
    this.shown = "";
  }

  /** entry: of the model, or undefined where nothing is known of such a run now. */
  show(place, entry, chooseNode) {
    const text = JSON.stringify([place, entry]);
    if (this.shown === text) return;
    this.shown = text;
    const name = h("h2", { class: "run-name" }, place.run, h("span", { class: "muted" }, ` ${place.grid}`));
    if (!entry) {
      const why = "Nothing is known of this run now; graphs show what there was in the time range.";
      this.root.replaceChildren(name, h("p", { class: "muted" }, why));
      return;
    }
    fill(this.root, [
      h("div", { class: "run-title" }, chip(entry), name, nodes(place, entry, chooseNode)),
      ...(entry.progress === null ? [] : [progress(entry)]),
      ...entry.alerts.map(alert),
      ...(entry.folder?.error && entry.state !== "running" ? [h("p", { class: "alert page" }, entry.folder.error)] : []),
      details(entry),
      ended(entry),
      entry.ended ? h("p", { class: "muted" }, "What follows is as it was then.") : null,
    ]);
  }
}

function progress(entry) {
  const eta = entry.metrics.eta_seconds;
  const left = entry.state === "running" && eta !== undefined ? `, ${format(eta, "seconds")} left` : "";
  return h("div", { class: "progress" }, bar(entry),
    h("span", { class: "percent" }, `${Math.floor(100 * entry.progress)}\u202f%${left}`));
}

function alert({ labels, annotations }) {
  return h("section", { class: `alert ${labels.severity === "page" ? "page" : "warning"}` },
    h("h3", {}, `▲ ${labels.alertname.replace(/^Maskrestore/, "")}: ${annotations.summary ?? ""}`),
    h("p", {}, annotations.description ?? ""));
}

/** A choice of nodes, where there is more than one. */
function nodes(place, entry, chooseNode) {
  const names = [...new Set(entry.targets.map(({ node }) => node))].sort();
  if (names.length < 2) return null;
  const select = h("select", { "aria-label": "Node" }, new Option(`All ${names.length} nodes`, ""),
    ...names.map((name) => new Option(name, name)));
  select.value = place.node;
  select.addEventListener("change", () => chooseNode(select.value));
  return select;
}

function details(entry) {
  const rows = Object.entries(FACTS).filter(([key]) => entry.info[key]).map(([key, name]) => [name, entry.info[key]]);
  const starts = entry.starts > 1 ? [["starts", String(entry.starts)]] : [];
  const all = [...figuresOf(entry), ...rows, ...starts];
  return h("dl", { class: "details" }, ...all.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text))));
}
