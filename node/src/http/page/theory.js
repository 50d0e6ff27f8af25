// The latency of a write in theory: the W-th smallest of N delays, each uniform in [min, max].
// In units of max - min it has the distribution Beta(W, N - W + 1).

/** What theory can be computed for: null without delays, or where W followers do not confirm. */
export function law({ quorum, followers, minMs, maxMs }) {
  if (quorum < 1 || quorum > followers || !(maxMs > minMs)) return null;
  return { quorum, followers, minMs, maxMs };
}

/** The mean in milliseconds. */
export function mean({ quorum, followers, minMs, maxMs }) {
  return minMs + (maxMs - minMs) * quorum / (followers + 1);
}

/** The density at `ms`, per millisecond. */
export function density({ quorum, followers, minMs, maxMs }, ms) {
  const x = (ms - minMs) / (maxMs - minMs);
  if (x < 0 || x > 1) return 0;
  let log = Math.log(followers) + logChoose(followers - 1, quorum - 1);
  // 0 to the power of 0 is 1: the density of the smallest delay is highest at its lower end.
  log += quorum > 1 ? (quorum - 1) * Math.log(x) : 0;
  log += followers > quorum ? (followers - quorum) * Math.log1p(-x) : 0;
  return Math.exp(log) / (maxMs - minMs);
}

function logChoose(n, k) {
  let log = 0;
  for (let i = 1; i <= k; i++) log += Math.log((n - k + i) / i);
  return log;
}
