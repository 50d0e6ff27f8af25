// The measured latencies as bars, and the density of theory over them.

import { byId, duration, lawText, number, say, shape } from "./draw.js";
import { theoryOf } from "./theory.js";

const HEIGHT = 250;
const TOP = 34;
const BOTTOM = 50;
const SIDE = 10;
const BINS = 40;
const CURVE_POINTS = 160;

const svg = byId("histogram");

/** The latencies of `now` that are not in `before`. */
export function since(now, before) {
  const known = new Map((before?.buckets ?? []).map(([from, , count]) => [from, count]));
  const buckets = now.buckets
    .map(([from, to, count]) => [from / 1000, to / 1000, count - (known.get(from) ?? 0)])
    .filter(([, , count]) => count > 0);
  const count = now.count - (before?.count ?? 0);
  const sumMs = now.sum_ms - (before?.sum_ms ?? 0);
  if (!count) return { count: 0, buckets: [] };
  const meanMs = sumMs / count;
  const variance = buckets.reduce((sum, [from, to, n]) => sum + n * ((from + to) / 2 - meanMs) ** 2, 0) / count;
  return { count, buckets, meanMs, errorMs: 2 * Math.sqrt(variance / count) };
}

/** Draws. `followers` are the numbers of those that confirm writes now. */
export function draw(measured, config, followers) {
  const width = svg.clientWidth;
  if (!width) return;
  const quorum = config.write_quorum;
  const possible = quorum <= followers.length && config.max_delay_ms > 0;
  const theory = possible ? theoryOf(config, followers) : null;
  svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  svg.setAttribute("height", HEIGHT);
  svg.replaceChildren();
  const [from, to] = bounds(measured, config, theory);
  const bins = binned(measured, from, to);
  const points = theory && config.max_delay_ms > config.min_delay_ms ? curve(theory, quorum, from, to) : [];
  const highest = Math.max(...bins, ...points.map(([, y]) => y), 1e-9) * 1.08;
  const x = (ms) => SIDE + (width - 2 * SIDE) * (ms - from) / (to - from);
  const y = (value) => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / highest;

  const step = (to - from) / BINS;
  bins.forEach((value, index) => {
    if (!value) return;
    const left = x(from + index * step), top = y(value);
    svg.append(shape("rect", { class: "bar", x: left + 0.5, y: top, width: Math.max(1, x(from + (index + 1) * step) - left - 1),
      height: HEIGHT - BOTTOM - top }));
  });
  if (points.length) {
    const path = points.map(([ms, value], index) => `${index ? "L" : "M"}${x(ms).toFixed(1)} ${y(value).toFixed(1)}`);
    svg.append(shape("path", { class: "curve", d: path.join("") }));
  }
  if (theory && theory.mean(quorum) < to) vertical(x(theory.mean(quorum)), "mean");
  if (measured.count && measured.meanMs < to) vertical(x(measured.meanMs), "mean measured");
  axis(x, from, to, width);
  if (points.length) quorums(theory, quorum, x, width);
  legend(points.length > 0, Boolean(theory), measured.count > 0);
  describe(measured, theory, followers.length, config);
}

/** The times that the drawing covers. Of a law with a long tail it leaves the last half per cent out. */
function bounds(measured, { min_delay_ms: minMs, max_delay_ms: maxMs, write_quorum: quorum }, theory) {
  let seen = 0;
  const most = measured.buckets.find(([, , count]) => (seen += count) >= measured.count * 0.995)?.[1] ?? 0;
  if (theory && !theory.isUniform) {
    const lower = theory.quantile(quorum, 0.005);
    const upper = Math.max(theory.quantile(quorum, 0.995) * 1.05, 1);
    const margin = (upper - lower) * 0.3;
    // From 0, unless all writes take about as long as each other.
    return [lower > upper / 2 ? lower - margin : 0, Math.max(upper, Math.min(most, 2 * upper))];
  }
  if (!(maxMs > minMs)) return [Math.max(0, minMs * 0.9), Math.max(most * 1.3, minMs * 1.2, 2)];
  const span = maxMs - minMs;
  return [Math.max(0, minMs - span * 0.05), Math.max(maxMs + span * 0.06, Math.min(most, maxMs + 3 * span))];
}

/** Density of each bin, per millisecond. A bucket that covers several bins counts in each by its share. */
function binned(measured, from, to) {
  const step = (to - from) / BINS;
  const bins = new Array(BINS).fill(0);
  for (const [low, high, count] of measured.buckets) {
    const first = Math.floor((low - from) / step), last = Math.floor((high - from) / step);
    for (let bin = Math.max(0, first); bin <= Math.min(BINS - 1, last); bin++) {
      const shared = Math.min(high, from + (bin + 1) * step) - Math.max(low, from + bin * step);
      bins[bin] += count * Math.max(0, shared) / (high - low);
    }
  }
  return bins.map((count) => count / (measured.count * step || 1));
}

/** The density between two neighbouring points, at their middle. */
function curve(theory, quorum, from, to) {
  const step = (to - from) / CURVE_POINTS;
  const chances = Array.from({ length: CURVE_POINTS + 1 }, (_, index) => theory.below(quorum, from + step * index));
  return chances.slice(1).map((chance, index) => [from + step * (index + 0.5), (chance - chances[index]) / step]);
}

function vertical(x, className) {
  svg.append(shape("line", { class: className, x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }));
}

function axis(x, from, to, width) {
  const base = HEIGHT - BOTTOM;
  svg.append(shape("line", { class: "axis", x1: SIDE, x2: width - SIDE, y1: base, y2: base }));
  const rough = (to - from) / (width < 460 ? 4 : 7);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  for (let ms = Math.ceil(from / step) * step; ms <= to; ms += step) {
    const isLast = x(ms) > width - 30;
    svg.append(shape("line", { class: "axis", x1: x(ms), x2: x(ms), y1: base, y2: base + 4 }));
    const text = step < 1 ? ms.toFixed(1) : String(Math.round(ms));
    svg.append(shape("text", { class: "soft", x: x(ms), y: base + 16, "text-anchor": isLast ? "end" : "middle", "font-size": 11.5 },
      isLast ? `${text} ms` : text));
  }
}

/** The mean that theory gives each quorum, below the axis: what another one would cost. */
function quorums(theory, quorum, x, width) {
  const label = (w) => width < 460 ? String(w) : `W=${w}`;
  const space = width < 460 ? 20 : 34;
  // The one in force is always there.
  const order = [quorum, ...Array.from({ length: theory.followers }, (_, index) => index + 1).filter((w) => w !== quorum)];
  const taken = [];
  for (const w of order) {
    const center = x(theory.mean(w));
    if (center < SIDE || center > width - SIDE || taken.some((at) => Math.abs(at - center) < space)) continue;
    taken.push(center);
    svg.append(shape("text", { class: w === quorum ? "" : "soft", x: center, y: HEIGHT - 14, "text-anchor": "middle",
      "font-size": 11.5, "font-weight": w === quorum ? 600 : 400 }, label(w)));
  }
}

function legend(hasCurve, hasTheory, hasMeasured) {
  const items = [];
  if (hasMeasured) items.push(["bar", "measured"], ["mean measured", "its mean"]);
  if (hasCurve) items.push(["curve", "theory"]);
  if (hasTheory) items.push(["mean", hasCurve ? "its mean" : "theory"]);
  let left = SIDE;
  for (const [className, text] of items) {
    if (className === "bar") svg.append(shape("rect", { class: className, x: left, y: 8, width: 14, height: 10 }));
    else svg.append(shape("line", { class: className, x1: left, x2: left + 14, y1: 13, y2: 13 }));
    svg.append(shape("text", { class: "soft", x: left + 18, y: 17, "font-size": 11.5 }, text));
    left += 32 + text.length * 6.2;
  }
}

function describe(measured, theory, followers, config) {
  const { write_quorum: quorum, min_delay_ms: minMs, max_delay_ms: maxMs } = config;
  say(byId("measured"), measured.count ? `${measured.meanMs.toFixed(1)} ± ${measured.errorMs.toFixed(1)} ms` : "–");
  say(byId("count"), number(measured.count));
  say(byId("predicted"), theory ? `${theory.mean(quorum).toFixed(1)} ms` : "–");
  let text;
  if (quorum > followers) {
    text = `Only ${followers} followers confirm writes, and a write needs ${quorum}: none can be committed.`;
  } else if (!theory) {
    text = "There is no delay: this is the time of the system itself.";
  } else {
    text = `The ${ordinal(quorum)} smallest of ${followers} delays, ${lawText(config)}. `;
    text += theory.isUniform
      ? `Its mean is ${minMs} + ${maxMs - minMs} · ${quorum}/${followers + 1} = ${theory.mean(quorum).toFixed(1)} ms. `
      : `Half of all writes take at most ${duration(theory.quantile(quorum, 0.5))}, 99 % at most `
        + `${duration(theory.quantile(quorum, 0.99))}. `;
    text += "Below the axis: the mean for each W.";
  }
  if (!measured.count) text += " No write has been measured yet.";
  say(byId("histogram-text"), text);
}

function ordinal(value) {
  const ending = { 1: "st", 2: "nd", 3: "rd" }[value % 10];
  return `${value}${ending && Math.floor(value / 10) !== 1 ? ending : "th"}`;
}
