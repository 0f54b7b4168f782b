// Pictures of a row: two of them under a slider, its worst and best images, and its classes.

import { fill, h } from "./dom.js";
import { headingOf, percent } from "./report_data.js";

/** Two pictures of one size on top of each other; a slider moves the divide between them. */
export class Compare {
  /** pairs: {name: [left kind, right kind]}; kinds: what each is called. */
  constructor(title, pairs, kinds) {
    this.pairs = pairs;
    this.kinds = kinds;
    this.pictures = {};
    this.pair = Object.keys(pairs)[0];
    this.left = h("img", { class: "over", draggable: false });
    this.right = h("img", { draggable: false });
    this.leftName = h("span", { class: "tag left" });
    this.rightName = h("span", { class: "tag right" });
    this.divide = h("i", { class: "divide", "aria-hidden": "true" });
    this.slider = h("input", { type: "range", min: "0", max: "100", value: "50", class: "slider" });
    this.missing = h("p", { class: "missing muted" });
    this.frame = h("div", { class: "frame" }, this.right, this.left, this.divide, this.leftName, this.rightName);
    this.buttons = h("div", { class: "segments", role: "group", "aria-label": `${title}: which two` },
      ...Object.keys(pairs).map((name) => h("button", { type: "button", value: name, onclick: () => this.choose(name) }, name)));
    this.element = h("figure", { class: "compare" }, h("figcaption", {}, h("h3", {}, title), this.buttons), this.frame, this.slider, this.missing);
    this.slider.addEventListener("input", () => this.move());
    this.frame.addEventListener("pointerdown", (event) => this.drag(event));
    this.frame.addEventListener("pointermove", (event) => { if (event.buttons) this.drag(event); });
  }

  /** pictures: {kind: data URI}, those that there are. */
  show(pictures, about) {
    this.pictures = pictures;
    this.about = about;
    this.choose(this.pair);
  }

  choose(name) {
    this.pair = name;
    for (const button of this.buttons.children) button.setAttribute("aria-pressed", button.value === name);
    const [left, right] = this.pairs[name];
    const both = [left, right].filter((kind) => this.pictures[kind]);
    this.frame.hidden = !both.length;
    this.slider.hidden = both.length < 2;
    for (const [image, tag, kind] of [[this.left, this.leftName, left], [this.right, this.rightName, right]]) {
      image.hidden = tag.hidden = !this.pictures[kind];
      if (this.pictures[kind]) image.src = this.pictures[kind];
      image.alt = `${this.kinds[kind]} of ${this.about}`;
      image.classList.toggle("mask", kind.includes("mask") || kind === "input" || kind === "restored");
      tag.textContent = this.kinds[kind];
    }
    const lost = [left, right].filter((kind) => !this.pictures[kind]).map((kind) => this.kinds[kind]);
    this.missing.textContent = lost.length ? `No picture of: ${lost.join(", ")}.` : "";
    this.slider.setAttribute("aria-label", `Divide between ${this.kinds[left]} on the left and ${this.kinds[right]} on the right`);
    this.move();
  }

  move() {
    const [left, right] = this.pairs[this.pair];
    const share = this.pictures[right] ? Number(this.slider.value) : 100;
    this.left.style.clipPath = `inset(0 ${100 - share}% 0 0)`;
    this.divide.style.left = `${share}%`;
    this.divide.hidden = this.slider.hidden;
    this.leftName.style.opacity = share > 8 ? 1 : 0;
    this.rightName.style.opacity = share < 92 ? 1 : 0;
    this.slider.setAttribute("aria-valuetext", `${share} % ${this.kinds[left]}, ${100 - share} % ${this.kinds[right]}`);
  }

  drag(event) {
    const box = this.frame.getBoundingClientRect();
    this.slider.value = Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
    this.move();
  }
}

/** The colours that are in some masks, with their names. */
export function legendOf(numbers, report) {
  const there = new Set(numbers.flatMap((number) => report.pictureClasses[number] ?? []));
  const names = Object.keys(report.colors).filter((name) => there.has(name));
  return h("ul", { class: "colors", "aria-label": "Colours in these masks" }, ...names.map((name) => {
    const box = h("i", { "aria-hidden": "true" });
    box.style.background = report.colors[name];
    return h("li", {}, box, name);
  }));
}

/** A picture strip of each of some samples; a click shows it in the comparison. */
export function sampleCards(samples, row, report, look) {
  return h("div", { class: "cards" }, ...samples.map(({ sample, place }) => {
    const pictures = row.pictures[sample.key] ?? {};
    const shown = ["input", "restored", "true_mask", "real"].filter((kind) => pictures[kind] !== undefined);
    return h("article", { class: "card sample" },
      h("h4", {}, place, h("span", { class: "muted" }, ` ${sample.key}`)),
      shown.length ? h("div", { class: "strip" }, ...shown.map((kind) => h("figure", {},
        h("img", { src: report.pictures[pictures[kind]], alt: `${report.kinds[kind]} of ${sample.key}`, class: kind === "real" ? "" : "mask" }),
        h("figcaption", { class: "muted" }, report.kinds[kind])))) : h("p", { class: "muted" }, "No pictures of it were kept."),
      h("dl", { class: "facts" }, ...["accu", "miou19", "boundary_f3"].map((key) =>
        h("div", {}, h("dt", {}, headingOf(key)), h("dd", {}, percent(sample[key]))))),
      shown.length ? h("button", { type: "button", class: "look", onclick: () => look(sample.key) }, "Compare", h("span", { class: "unseen" }, ` ${sample.key} above`)) : null);
  }));
}

/** IoU of each class, the row's above the best untrained row's. */
export function classBars(row, rival, report) {
  const bar = (value, kind, color) => {
    const fillOf = h("i", { class: kind });
    fillOf.style.width = `${100 * (value ?? 0)}%`;
    if (color) fillOf.style.background = color;
    return h("span", { class: "track", "aria-hidden": "true" }, fillOf);
  };
  const cell = (value) => h("td", { class: "number" }, percent(value));
  const better = (own, other) => {
    if (!Number.isFinite(own) || !Number.isFinite(other)) return h("td", { class: "number change" }, "-");
    const change = 100 * (own - other);
    const word = Math.abs(change) < 0.05 ? "=" : change > 0 ? "▲" : "▼";
    return h("td", { class: `number change ${change < -0.05 ? "worse" : ""}` }, `${word} ${Math.abs(change).toFixed(1)}`);
  };
  return h("table", { class: "bars" },
    h("caption", {}, rival
      ? `IoU in %: ${row.task}, ${row.loss} (filled) and, of the same input, the best untrained row, ${rival.loss} (hollow).`
      : `IoU in %: ${row.task}, ${row.loss}${row.trains ? "; no untrained row of the same input is done" : ", itself untrained"}.`),
    h("thead", {}, h("tr", {}, ...["class", "IoU", "this row", ...(rival ? ["untrained", "change"] : [])].map((name) => h("th", { scope: "col", class: name }, name)))),
    h("tbody", {}, ...report.classes.map((name) => {
      const [own, other] = [row.iou[name], rival?.iou[name]];
      return h("tr", {}, h("th", { scope: "row" }, name),
        h("td", { class: "tracks" }, bar(own, "own", report.colors[name]), rival ? bar(other, "other") : null),
        cell(own), rival ? cell(other) : null, rival ? better(own, other) : null);
    })));
}

/** Every val sample as a tick on a line of accu, the chosen one taller; samples: in its order. */
export function sampleLine(samples, chosen) {
  const low = Math.floor(10 * samples[0].accu) / 10;
  const high = Math.max(low + 0.1, Math.ceil(10 * samples.at(-1).accu) / 10);
  const line = h("div", { class: "ticks", role: "img", "aria-label": `accu of ${samples.length} val images, from ${percent(samples[0].accu)} to ${percent(samples.at(-1).accu)} %` });
  fill(line, samples.map(({ key, accu }) => {
    const tick = h("i", { class: key === chosen ? "chosen" : "", title: `${key}: ${percent(accu)} %` });
    tick.style.left = `${(100 * (accu - low)) / (high - low)}%`;
    return tick;
  }));
  return h("div", { class: "line" }, line, h("div", { class: "ends muted", "aria-hidden": "true" }, ...[`${Math.round(100 * low)} %`, "accu of each val image", `${Math.round(100 * high)} %`].map((text) => h("span", {}, text))));
}
