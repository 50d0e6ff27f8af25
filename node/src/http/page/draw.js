// Small helpers for elements, drawings and numbers.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** A new SVG element with these attributes; `text` becomes its content. */
export function shape(name, attributes = {}, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A new HTML element with this class and text. */
export function node(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Changes the text only where it differs, so that screen readers stay quiet. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** "98.2 ms", "1.20 s". */
export function duration(ms) {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return ms >= 100 ? `${ms.toFixed(0)} ms` : `${ms.toFixed(1)} ms`;
}

/** "1,234" in the language of the reader. */
export const number = (value) => Math.round(value).toLocaleString();

/** "1 write", "2 writes". */
export const plural = (count, what) => `${number(count)} ${what}${count === 1 ? "" : "s"}`;

/** A follower that is listed by URL is named by its address. */
export const shortName = (name) => name.replace(/^https?:\/\//, "");

/** How long a delay usually takes at most. The longest one of a law may be an hour. */
export const usualDelayMs = (config) => Math.min(config.max_delay_ms, 2000);

/** "down", "behind" or "up": how a follower is shown. */
export function level(follower, delayMs) {
  if (["unreachable", "lagging"].includes(follower.state)) return "down";
  const late = follower.lag_writes > 0 && follower.lag_ms > delayMs + 500;
  return follower.state === "streaming" && !late ? "up" : "behind";
}

/** What a follower does, in one or two words. */
export function stateText(follower, delayMs) {
  const shown = level(follower, delayMs);
  if (shown === "down") return "down";
  return follower.state === "streaming" && shown === "behind" ? "behind" : follower.state;
}

/** The law of the delays in a few words. */
export function lawText({ min_delay_ms: minMs, max_delay_ms: maxMs, delay }) {
  if (!delay) return `uniform from ${minMs} to ${maxMs} ms`;
  const others = delay.perFollower?.length ?? 0;
  const shared = delay.shared ? ", plus a part that all followers of a write share" : "";
  return shapeText(delay) + shared + (others ? `, and other laws for ${plural(others, "follower")}` : "");
}

function shapeText({ constant, exponential, lognormal, pareto, mixture, preset, minMs = 0, maxMs, offsetMs, capMs }) {
  const shift = (offsetMs ? `, plus ${offsetMs} ms` : "") + (capMs === undefined ? "" : `, at most ${capMs} ms`);
  if (preset) return preset + shift;
  if (constant) return `always ${constant.ms} ms${shift}`;
  if (exponential) return `exponential, mean ${exponential.meanMs} ms${shift}`;
  if (lognormal) return `lognormal, median ${lognormal.medianMs} ms${shift}`;
  if (pareto) return `Pareto, scale ${pareto.scaleMs} ms and shape ${pareto.shape}${shift}`;
  if (mixture) return `a mixture of ${mixture.length} laws${shift}`;
  return `uniform from ${minMs} to ${maxMs} ms${shift}`;
}
