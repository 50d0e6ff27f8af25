// The latency of a write in theory: the W-th smallest of the delays of the followers that confirm. A write is committed
// by a moment with the chance that at least W of independent events happened, one for each follower.

const HOUR_MS = 3_600_000;
/** Quantiles that stand for the shared part of the delays. */
const SHARED_POINTS = 48;

/** Parts of the laws that have a name, from docs/delays.md. */
const PRESETS = {
  "linkedin-disk": [
    { weight: 0.38, pareto: { scaleMs: 1.05, shape: 1.51 } }, { weight: 0.62, exponential: { meanMs: 1 / 0.183 } },
  ],
  yammer: [
    { weight: 0.94, pareto: { scaleMs: 3, shape: 3.35 } }, { weight: 0.06, exponential: { meanMs: 1 / 0.0028 } },
  ],
};
/** Distance and mean of the rest, by zone. */
const ZONES = [[0, 1], [75, 3], [140, 10]];

let known = { of: "" };

/**
 * What theory says while the followers with these numbers confirm: for a quorum of `w`, the chance `below(w, ms)` of a
 * commit by then, the `mean(w)` in milliseconds, the `quantile(w, share)`, and `stale(w, ms)`, the share of reads at a random
 * follower that miss a write so long after its commit.
 */
export function theoryOf(config, numbers) {
  const law = config.delay ?? { minMs: config.min_delay_ms, maxMs: config.max_delay_ms };
  const of = JSON.stringify([law, numbers]);
  if (known.of !== of) known = { of, ...compute(law, numbers, !config.delay) };
  return known;
}

function compute(law, numbers, isUniform) {
  const followers = numbers.length;
  const cdfs = numbers.map((number) => cdfOf(lawOfFollower(law, number)));
  const shifts = law.shared ? quantilesOf(cdfOf(law.shared)) : [0];
  // For each count of followers the chance that at least so many have the write by `ms`.
  const reached = (ms) => {
    const chances = new Float64Array(followers + 1);
    for (const shift of shifts) {
      const counts = countsOf(cdfs.map((cdf) => ms < shift ? 0 : cdf(ms - shift)));
      for (let w = followers, sum = 0; w >= 0; w--) chances[w] += (sum += counts[w]) / shifts.length;
    }
    return chances;
  };
  const below = (w, ms) => reached(ms)[w];
  const means = isUniform ? null : integrate(reached, followers, law.shared ? 1.01 : 1.002);
  const mean = (w) => means ? means[w] : law.minMs + (law.maxMs - law.minMs) * w / (followers + 1);
  // The shared part delays the commit and the confirmations alike.
  const stale = (w, ms) => cdfs.reduce((sum, cdf, index) => {
    return sum + missing(cdf, cdfs.filter((_, other) => other !== index), w, ms) / followers;
  }, 0);
  return { isUniform, followers, below, mean, stale, quantile: (w, share) => bisect((ms) => below(w, ms), share) };
}

/** The chance that a follower has a write later than `ms` after `w` of the others have it. */
function missing(cdf, others, w, ms) {
  let sum = 0, before = 0, reached = 0;
  for (let at = 1e-3; before < HOUR_MS && reached < 1 - 1e-9; at = Math.min(at * 1.01, HOUR_MS)) {
    const now = countsOf(others.map((other) => other(at))).slice(w).reduce((total, chance) => total + chance, 0);
    sum += (now - reached) * (1 - cdf((before + at) / 2 + ms));
    [before, reached] = [at, now];
  }
  return sum;
}

/** The mean for each quorum: the integral of the chance that the write is not committed yet. */
function integrate(reached, followers, growth) {
  const means = new Float64Array(followers + 1);
  let before = 0, chances = reached(0);
  for (let ms = 1e-3; before < HOUR_MS && chances[followers] < 1 - 1e-12; ms = Math.min(ms * growth, HOUR_MS)) {
    const now = reached(ms);
    for (let w = 1; w <= followers; w++) means[w] += (ms - before) * (1 - (chances[w] + now[w]) / 2);
    [before, chances] = [ms, now];
  }
  return means;
}

/** The chance of each number of events, of independent ones with these chances. */
function countsOf(chances) {
  const counts = new Float64Array(chances.length + 1);
  counts[0] = 1;
  chances.forEach((chance, seen) => {
    for (let count = seen + 1; count > 0; count--) counts[count] += (counts[count - 1] - counts[count]) * chance;
    counts[0] *= 1 - chance;
  });
  return counts;
}

function lawOfFollower(law, number) {
  const own = law.perFollower?.find(({ follower }) => follower === number);
  if (own || law.preset !== "wan-3-zones") return own ?? law;
  const [distanceMs, meanMs] = ZONES[number % ZONES.length];
  return { exponential: { meanMs }, offsetMs: (law.offsetMs ?? 0) + distanceMs, capMs: law.capMs };
}

function cdfOf(law) {
  const shape = shapeOf(law), offset = law.offsetMs ?? 0, cap = law.capMs ?? HOUR_MS;
  return (ms) => ms >= cap ? 1 : ms < offset ? 0 : shape(ms - offset);
}

function shapeOf({ constant, exponential, lognormal, pareto, mixture, preset, minMs = 0, maxMs }) {
  if (constant) return (ms) => ms >= constant.ms ? 1 : 0;
  if (exponential) return (ms) => -Math.expm1(-ms / exponential.meanMs);
  if (lognormal) return (ms) => ms > 0 ? normal(Math.log(ms / lognormal.medianMs) / lognormal.sigma) : 0;
  if (pareto) return (ms) => ms > pareto.scaleMs ? 1 - (pareto.scaleMs / ms) ** pareto.shape : 0;
  if (mixture ?? preset) {
    const parts = (mixture ?? PRESETS[preset] ?? []).map((part) => [part.weight, cdfOf(part)]);
    const total = parts.reduce((sum, [weight]) => sum + weight, 0);
    return (ms) => parts.reduce((sum, [weight, cdf]) => sum + weight / total * cdf(ms), 0);
  }
  return (ms) => ms >= maxMs ? 1 : Math.max(0, (ms - minMs) / (maxMs - minMs));
}

/** The distribution function of the standard normal law (Abramowitz and Stegun 7.1.26; error below 2e-7). */
function normal(z) {
  const x = Math.abs(z) / Math.SQRT2, t = 1 / (1 + 0.3275911 * x);
  const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
  const erf = 1 - series * Math.exp(-x * x);
  return z < 0 ? (1 - erf) / 2 : (1 + erf) / 2;
}

function quantilesOf(cdf) {
  return Array.from({ length: SHARED_POINTS }, (_, index) => bisect(cdf, (index + 0.5) / SHARED_POINTS));
}

function bisect(cdf, share) {
  let low = 0, high = 1;
  while (high < HOUR_MS && cdf(high) < share) high *= 2;
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2;
    if (cdf(middle) < share) low = middle;
    else high = middle;
  }
  return high;
}
