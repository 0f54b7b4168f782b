// Numbers and times for people.

const SI = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const BINARY = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const TIMES = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "µs"]];
const RATIO = [[0.01, "%"]];
const SPACE = "\u202f"; // narrow, and no place to break a line

/** Factor and sign of the unit in which a value of this size is said. */
function scaleOf(size, unit) {
  const pick = (list) => list.find(([factor]) => size >= factor) ?? list.at(-1);
  if (unit === "ratio") return RATIO[0];
  if (unit === "bytes") return pick(BINARY);
  if (unit === "seconds") return size === 0 ? [1, "s"] : pick(TIMES);
  const [factor, sign] = pick(SI);
  if (unit === "FLOP/s" || unit === "images/s") return [factor, sign + (unit === "FLOP/s" ? unit : "")];
  return [factor, sign];
}

const digits = (value) => {
  const size = Math.abs(value);
  if (size >= 100) return value.toFixed(0);
  return String(Number(value.toPrecision(3)));
};

/** A value with its unit, as 1.2 k, 3.4 GiB, 12 ms, 85 % or 2 h 05 min. */
export function format(value, unit) {
  if (value === null || value === undefined) return "–";
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const size = Math.abs(value);
  if (unit === "seconds" && size >= 60) return (value < 0 ? "−" : "") + duration(size);
  if (size > 0 && size < 1e-3 && unit !== "seconds" && unit !== "ratio") return value.toExponential(2).replace(/\.?0+e/, "e");
  const [factor, sign] = scaleOf(size, unit);
  const name = unit === "images/s" ? `${sign}${sign ? SPACE : ""}images/s` : sign;
  const text = digits(value / factor);
  return name ? `${text}${SPACE}${name}` : text;
}

/** A formatted text in its parts, as [text, whether it is a number]. */
export const parts = (text) => text.split(/[\u202f ]/).map((part) => [part, /^[-−▲]?[\d∞]/.test(part)]);

/** At least a minute, in its two largest units. */
function duration(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const whole = Math.round(seconds);
  const [d, hours] = [Math.floor(whole / 86400), Math.floor((whole % 86400) / 3600)];
  const [minutes, rest] = [Math.floor((whole % 3600) / 60), whole % 60];
  if (d) return `${d}${SPACE}d ${hours}${SPACE}h`;
  if (hours) return `${hours}${SPACE}h ${two(minutes)}${SPACE}min`;
  return rest ? `${minutes}${SPACE}min ${two(rest)}${SPACE}s` : `${minutes}${SPACE}min`;
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600,
  43200, 86400, 172800, 604800];

function niceStep(least, unit) {
  if (unit === "seconds" && least > 30) return TIME_STEPS.find((step) => step >= least) ?? round(least);
  if (unit !== "bytes") return round(least);
  const [factor] = scaleOf(least, "bytes");
  return round(least / factor) * factor;
}

function round(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].find((step) => step * power >= least * 0.999) * power;
}

/** Round values from below `low` to above `high`, about `count` of them. */
export function ticks(low, high, unit, count) {
  const step = niceStep((high - low) / count, unit);
  const first = Math.floor(low / step + 1e-9);
  const last = Math.ceil(high / step - 1e-9);
  return Array.from({ length: last - first + 1 }, (_, index) => (first + index) * step);
}

/** Names of an axis' ticks, all in one unit and with as many decimals as they need. */
export function tickNames(values, unit) {
  const [step, size] = [values[1] - values[0], Math.max(...values.map(Math.abs))];
  if (unit !== "ratio" && unit !== "seconds" && size > 0 && size < 1e-3) {
    const power = Math.floor(Math.log10(size) + 1e-9);
    const places = Math.max(0, power - Math.floor(Math.log10(step) + 1e-9));
    return values.map((value) => nought(value, step) || `${(value / 10 ** power).toFixed(places)}e${power}`);
  }
  // Minutes only if the steps are whole ones, and so on.
  const [factor, sign] = scaleOf(unit === "seconds" && step >= 1 ? step : size, unit);
  const decimals = Math.min(6, Math.max(0, -Math.floor(Math.log10(step / factor) + 1e-6)));
  const places = Number.isInteger(Number((step / factor).toFixed(decimals))) ? 0 : decimals;
  return values.map((value) => {
    const text = nought(value, step) || (value / factor).toFixed(places);
    return sign && text !== "0" ? `${text}${SPACE}${sign.replace("FLOP/s", "")}` : text;
  });
}

const nought = (value, step) => (Math.abs(value) < step * 1e-6 ? "0" : "");

/** Round local times between two, as [seconds, text]. */
export function timeTicks(start, end, count) {
  const step = TIME_STEPS.find((each) => each >= (end - start) / count) ?? 604800;
  const zone = new Date(start * 1000).getTimezoneOffset() * 60;
  const found = [];
  for (let at = Math.ceil((start - zone) / step) * step + zone; at <= end; at += step) {
    found.push([at, timeText(at, step)]);
  }
  return found;
}

function timeText(at, step) {
  const date = new Date(at * 1000);
  const midnight = date.getHours() === 0 && date.getMinutes() === 0 && date.getSeconds() === 0;
  if (step >= 86400 || (midnight && step >= 3600)) {
    return date.toLocaleDateString([], { day: "numeric", month: "short" });
  }
  return clock(at, step < 60);
}

/** Time of day; with seconds if asked. */
export function clock(at, seconds = true) {
  const text = new Date(at * 1000).toTimeString();
  return text.slice(0, seconds ? 8 : 5);
}

/** Time, with the day if it is another one. */
export function moment(at) {
  const [date, today] = [new Date(at * 1000), new Date()];
  const day = date.toLocaleDateString([], { day: "numeric", month: "short" });
  return date.toDateString() === today.toDateString() ? clock(at) : `${day} ${clock(at)}`;
}
