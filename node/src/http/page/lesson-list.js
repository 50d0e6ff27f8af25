// The lessons, in the order of the page. A further one is a further entry here. Its functions take
// - `n`, the number of followers, `w`, the quorum of its settings, and `theory`, what theory says of their delays.
// An entry has
// - `settings`: what to change before the measurement; `least`: the followers that it needs (2 where it does not say);
// - `question`, and what the visitor predicts: `ask` in words, and its `unit`, "ms", "%" or what is counted;
// - `measure`: what is measured, one of measures.js, and `within`, how close to it is right, as a part of it (0.1 where it
//   does not say);
// - `reason`: what happened, and why;
// - `down`: how many followers have to be down (0 where it does not say), and `wait`, how the visitor stops them; "any" where
//   the measure itself watches nodes and settings, once they are in force;
// - `isByHand`: the visitor stops nodes that stay down, which Kubernetes starts again at once;
// - `isQuiet`: the page writes nothing but what the measure writes.

import { duration } from "./draw.js";
import { failures, lost, mean, median, retries, stale } from "./measures.js";

const LONGEST_MS = 200;
const FAR_MS = 500;
const UNIFORM = { minMs: 0, maxMs: LONGEST_MS };
const MEAN_MS = 40;
const OWN_MS = 60, SHARED_MS = 60;
const TIMEOUT_MS = 300;
/** So long that the way of a read does not matter. */
const STALE_MS = 1000;

/** A majority of the followers. */
const majority = (n) => Math.floor(n / 2) + 1;
/** The mean of the W-th of N uniform delays. */
const uniform = (w, n) => `${LONGEST_MS} · ${w}/${n + 1} = ${(LONGEST_MS * w / (n + 1)).toFixed(0)} ms`;
const OF_MEAN = { ask: "Your prediction of the mean, in ms", unit: "ms", measure: mean };

export const LESSONS = [
  {
    title: "One more confirmation",
    settings: ({ n }) => ({ write_quorum: Math.min(n, majority(n) + 1), delay: UNIFORM }),
    ...OF_MEAN,
    question: ({ n, w }) => `The leader delays each write to each of its ${n} followers by a random time between 0 and `
      + `${LONGEST_MS} ms, and every time is equally likely. With W = ${w - 1} a write is committed once ${w - 1} followers have `
      + `confirmed it, which takes ${uniform(w - 1, n)} on average. How long does it take with W = ${w}?`,
    reason: ({ n, w }) => `The ${n} delays cut the span of ${LONGEST_MS} ms into ${n + 1} pieces, which are equally long on `
      + `average. The write waits for the first ${w} of them: ${uniform(w, n)}. Every further confirmation costs one more piece.`,
  },
  {
    title: "Wait for the slowest",
    settings: ({ n }) => ({ write_quorum: n, delay: { exponential: { meanMs: MEAN_MS } } }),
    ...OF_MEAN,
    question: ({ n, w, theory }) => `Most real delays are short and a few are long. These are exponential with a mean of `
      + `${MEAN_MS} ms. With W = 1 of ${n} a write takes ${duration(theory.mean(1))} on average, and with W = ${n - 1} it takes `
      + `${duration(theory.mean(n - 1))}. How long does it take with W = ${w}, when all have to confirm?`,
    reason: ({ n, theory }) => `The last confirmation alone costs ${MEAN_MS} ms, as long as one follower takes by itself: `
      + `${duration(theory.mean(n - 1))} + ${MEAN_MS} ms. With W = N every write pays for the slowest follower, and one `
      + "follower that is down stops all writes.",
  },
  {
    title: "A follower far away",
    settings: ({ n }) => ({
      write_quorum: Math.min(n - 1, majority(n)),
      delay: { ...UNIFORM, perFollower: [{ constant: { ms: FAR_MS }, follower: n - 1 }] },
    }),
    ...OF_MEAN,
    question: ({ n, w }) => `One of your ${n} followers moves far away: each write to it takes ${FAR_MS} ms. The others have `
      + `delays from 0 to ${LONGEST_MS} ms, and W = ${w}. Without the distance a write takes ${uniform(w, n)} on average. `
      + "How long does it take now?",
    reason: ({ n, w }) => `The leader does not wait for the far follower: the other ${n - 1} confirm first, so that the write `
      + `takes ${uniform(w, n - 1)}, as if the far follower were down. With W = ${n} every write would take ${FAR_MS} ms.`,
  },
  {
    title: "Mean and median",
    settings: ({ n }) => ({ write_quorum: n, delay: { preset: "yammer" } }),
    ask: "Your prediction of the median, in ms",
    unit: "ms",
    measure: median,
    within: 0.5,
    question: ({ n, w, theory }) => `These delays were measured at Yammer, a company with a large store: 94 of 100 confirmations `
      + `take 3 to 10 ms, and 6 of 100 take 357 ms on average. With W = ${w} of ${n} the mean of a write is `
      + `${duration(theory.mean(w))}. Half of all writes are faster than the median. How long is that?`,
    reason: ({ n, w, theory }) => `In ${(100 * 0.94 ** n).toFixed(0)} of 100 writes none of the ${n} confirmations is a slow one. `
      + `So the median is ${duration(theory.quantile(w, 0.5))}, and the few slow writes make nearly all of the mean; one in `
      + `a hundred takes more than ${duration(theory.quantile(w, 0.99))}. Of a law with a long tail, the mean describes no `
      + `write that a client sees. With W = ${n - 1} the mean is ${duration(theory.mean(n - 1))}.`,
  },
  {
    title: "A shared delay",
    settings: () => ({ write_quorum: 1, delay: { minMs: 0, maxMs: OWN_MS, shared: { exponential: { meanMs: SHARED_MS } } } }),
    ...OF_MEAN,
    question: ({ n }) => `Each follower has a delay of its own, from 0 to ${OWN_MS} ms. The first of ${n} confirmations would come `
      + `after ${OWN_MS} · 1/${n + 1} = ${(OWN_MS / (n + 1)).toFixed(0)} ms. Now the leader's network is busy: each write has a `
      + `further delay of ${SHARED_MS} ms on average, the same for all followers. How long does a write take with W = 1?`,
    reason: ({ n }) => `The fastest of ${n} delays is short because there are ${n} to choose from. The shared part is the same for `
      + `all, and every quorum pays for it in full: ${SHARED_MS} + ${(OWN_MS / (n + 1)).toFixed(0)} ms. More followers or a `
      + "smaller quorum do not help against it.",
  },
  {
    title: "A follower fails",
    down: 1,
    isByHand: true,
    settings: ({ n }) => ({ write_quorum: Math.min(n - 1, majority(n)), delay: UNIFORM }),
    ...OF_MEAN,
    question: ({ n, w }) => `With W = ${w} of ${n} and delays from 0 to ${LONGEST_MS} ms a write takes ${uniform(w, n)} on `
      + `average. Now one follower fails, and W stays ${w}. How long does a write take?`,
    wait: "Now stop one follower: type kill 2 where kv-bench play runs, or docker compose stop follower2.",
    reason: ({ n, w }) => `Only ${n - 1} delays are left to choose the ${w} shortest from: ${uniform(w, n - 1)}. Writes go on, `
      + `slower, while at least ${w} followers are left. Start the follower again (start 2, or docker compose start `
      + "follower2), and the mean falls back.",
  },
  {
    title: "How many may fail",
    down: "any",
    isByHand: true,
    settings: ({ n }) => ({ write_quorum: majority(n), delay: UNIFORM }),
    ask: "Your prediction: followers that can be down",
    unit: "follower",
    measure: failures,
    question: ({ n, w }) => `You stop one of ${n} followers after the other, and W stays ${w}. How many can be down while writes `
      + "are still acknowledged?",
    reason: ({ n, w }) => `A write needs ${w} confirmations, so N − W = ${n} − ${w} = ${n - w} followers may be down. With one more, `
      + "the leader refuses writes at once rather than promise what it cannot keep. What was acknowledged is safe even if "
      + `the disks of W − 1 = ${w - 1} followers are lost for good. A larger W moves from the first number to the second. `
      + "Start the followers again.",
  },
  {
    title: "Stale reads",
    isQuiet: true,
    settings: () => ({ write_quorum: 1, delay: { minMs: 0, maxMs: STALE_MS } }),
    ask: "Your prediction: stale reads, in %",
    unit: "%",
    measure: stale,
    question: ({ n }) => `With W = 1 a write is acknowledged once one of ${n} followers has it. The delays are from 0 to `
      + `${STALE_MS} ms. The page writes a key, and right after the acknowledgement reads it at each of the ${n} followers. `
      + "What share of these reads is stale, so that it still shows the value before?",
    reason: ({ n, w }) => `Right after the acknowledgement ${w} of ${n} followers has the write, and N − W of N do not: `
      + `${(100 * (n - w) / n).toFixed(0)} %. Fewer, the later the read. With W = ${n} no read at a follower is stale, and every `
      + "write pays for that. Reads at the leader are never stale, with any W.",
  },
  {
    title: "The leader is killed",
    down: "any",
    settings: ({ n }) => ({ write_quorum: majority(n), delay: UNIFORM }),
    ask: "Your prediction: lost writes",
    unit: "lost write",
    measure: lost,
    question: ({ w }) => `The page writes all the time and notes each write that the leader acknowledged, with W = ${w}. Then you `
      + "kill the leader in the middle of that, and start it again. It has no disk and keeps nothing. How many "
      + "acknowledged writes are lost?",
    reason: ({ n, w }) => `The new leader asked the followers first. Each acknowledged write is at ${w} of ${n} followers, so that `
      + `any ${n - w + 1} of them have it. They promised the new leader a higher epoch, and refuse whatever the old one `
      + "might still send. Writes under way when it died have an unknown outcome: each took effect or did not.",
  },
  {
    title: "Outcome unknown",
    isQuiet: true,
    settings: ({ n }) => ({
      write_quorum: n,
      delay: { minMs: TIMEOUT_MS - 10, maxMs: 5 * TIMEOUT_MS },
      replication_timeout_ms: TIMEOUT_MS,
    }),
    ask: "Your prediction: by how much it grew",
    unit: "",
    measure: retries,
    question: ({ w }) => `The leader gives up a write after ${TIMEOUT_MS} ms, and delays are up to ${5 * TIMEOUT_MS} ms with W = ${w}. `
      + "The page adds 1 to a counter. The answer is “quorum not reached”, so the page tries again, and then a third "
      + "time, and gets the same answer. By how much has the counter grown a few seconds later?",
    reason: () => "No quorum in time does not mean no write: the followers still confirmed each of the three. That is why the "
      + "answer says “indeterminate”. A client that repeats sends the same Idempotency-Key each time, and the leader "
      + "applies the request once.",
  },
];
