// What a lesson measures. Each measure is a function that begins one: the result takes every update, and returns what to
// show as `step` until it has the `value`, with its `error`, what `theory` says, and further facts in `detail`.

import { acknowledged, ask, put, reason } from "./controls.js";
import { number, plural } from "./draw.js";

const WRITES = 100;
/** Writes that show that the leader still acknowledges them. */
const PROOF = 10;
/** Nothing was committed for so long: writes have stopped. */
const STOPPED_MS = 1500;
/** Reads at followers, and the key that is written before them. */
const READS = 100;
const STALE_KEYS = ["live-page/stale-0", "live-page/stale-1"];
const COUNTER = "live-page/counter";
const ATTEMPTS = 3;
/** Before the page gives up. */
const ATTEMPTS_MAX = 60;
const PAUSE_MS = 50;

/** The mean of a hundred writes. */
export const mean = () => ({ measured, theory, w }) =>
  counting(measured) ?? { value: measured.meanMs, error: measured.errorMs, theory: theory.mean(w) };

/** The median of a hundred writes, and half the width of its 95 % interval. */
export const median = () => ({ measured, theory, w }) => {
  const at = (share) => quantile(measured, share);
  const margin = 1 / Math.sqrt(measured.count);
  return counting(measured)
    ?? { value: at(0.5), error: (at(0.5 + margin) - at(0.5 - margin)) / 2, theory: theory.quantile(w, 0.5) };
};

function counting({ count }) {
  // A screen reader says every tenth part.
  const done = Math.floor(count / 10) * 10;
  return count < WRITES ? { step: `Measuring: ${done} of ${WRITES} writes.` } : null;
}

function quantile({ count, buckets }, share) {
  let seen = 0;
  const found = buckets.find(([, , inBucket]) => (seen += inBucket) >= share * count);
  return found ? (found[0] + found[1]) / 2 : 0;
}

/** How many of the reads at followers right after an acknowledgement are stale, in per cent. */
export function stale() {
  let result = null, step = "";
  let reads = 0, missed = 0, passedMs = 0;
  const run = async (key) => {
    while (reads < READS) {
      const written = await put(key, new Date().toISOString());
      if (written.status !== 200) throw new Error(reason(written));
      const begun = performance.now();
      const read = await ask(`replicas?key=${key}`);
      if (read.status !== 200) throw new Error(reason(read));
      const answers = read.body.replicas.filter((replica) => replica.stale !== null);
      passedMs += (performance.now() - begun) * answers.length;
      reads += answers.length;
      missed += answers.filter((replica) => replica.stale).length;
      step = `Measuring: ${Math.floor(reads / 20) * 20} of ${READS} reads.`;
    }
  };
  Promise.all(STALE_KEYS.map(run)).then(
    () => { result = { share: missed / reads, laterMs: passedMs / reads }; },
    (error) => { step = `Not measured: ${error.message}.`; },
  );
  return ({ theory, w }) => {
    if (!result) return { step };
    const { share, laterMs } = result;
    const detail = `The reads were answered ${laterMs.toFixed(0)} ms after the acknowledgement, on average.`;
    const error = 200 * Math.sqrt(share * (1 - share) / reads);
    return { value: 100 * share, error, theory: 100 * theory.stale(w, laterMs), detail };
  };
}

/** The most followers that were down while writes were acknowledged, once they no longer are. */
export function failures() {
  let survived = -1, down = -1, since = 0, committed = 0, lastAt = 0;
  return ({ at, status, followers, n, w }) => {
    const now = status.writes.committed;
    if (n - followers.length !== down) [down, since, lastAt] = [n - followers.length, now, at];
    if (now !== committed) [committed, lastAt] = [now, at];
    if (committed - since >= PROOF) survived = Math.max(survived, down);
    const areDown = down === 1 ? "1 follower is down" : `${down} followers are down`;
    if (survived >= down) {
      const which = down === 0 ? "Now stop a follower: type kill 1 where kv-bench play runs, or docker compose stop follower1."
        : `Stop another one: kill ${down + 1}, or docker compose stop follower${down + 1}.`;
      return { step: `${areDown}, and writes go on. ${which}` };
    }
    if (followers.length >= w || at - lastAt < STOPPED_MS) return { step: `${areDown}. Are writes still acknowledged?` };
    if (survived < down - 1) {
      return { step: `${areDown}, and writes have stopped. Did they with ${down - 1}? Start one again to see.` };
    }
    return { value: survived, error: 0, theory: n - w, detail: `With ${down} down, no write was acknowledged.` };
  };
}

/** The acknowledged writes that a leader of a later epoch does not show. */
export function lost() {
  let term = null, noted = null, result = null;
  acknowledged.clear();
  return ({ status, kvcluster }) => {
    if (result) return result;
    term ??= status.epoch.term;
    const count = [...acknowledged.values()].reduce((sum, { count }) => sum + count, 0);
    if (noted) return { step: "Reading everything back …" };
    if (status.epoch.term === term || status.state !== "open") {
      return { step: count < WRITES ? `${number(count)} writes are acknowledged so far.` : `${plural(count, "write")} are acknowledged. ${
        killLeader(kvcluster)}` };
    }
    noted = new Map(acknowledged);
    readBack(noted).then((missing) => {
      const detail = `${plural(count, "write")} had been acknowledged when the page read them back. The epoch rose from ${term} to `
        + `${status.epoch.term}.`;
      result = { value: missing, error: 0, theory: 0, detail };
    }, () => {
      // The leader is not ready yet: the next update tries again.
      noted = null;
    });
    return { step: "Reading everything back …" };
  };
}

function killLeader(kvcluster) {
  if (!kvcluster) {
    return "Now kill the leader, and start it again: type kill leader and then start leader where kv-bench play runs, or "
      + "docker compose kill leader and then docker compose start leader.";
  }
  const [namespace, name] = kvcluster.split("/");
  return `Now replace the leader: kubectl -n ${namespace} rollout restart deployment/${name}-leader. A port-forward ends with its `
    + "pod: start it again.";
}

/** How many of these writes are not there. The numbers of a key have no gaps. */
async function readBack(writes) {
  let missing = 0;
  for (const [key, { seq }] of writes) {
    const { status, body } = await ask(`get?key=${encodeURIComponent(key)}`);
    if (status !== 200 && status !== 404) throw new Error(`failed to read ${key} back: status ${status}`);
    missing += Math.max(0, seq - (body.seq ?? 0));
  }
  return missing;
}

/** By how much a counter grows by attempts that were not acknowledged, and then by one with an `Idempotency-Key`. */
export function retries() {
  let result = null, step = "";
  const run = async () => {
    const before = await settled();
    let unknown = 0;
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      step = `Attempt ${attempt} of ${ATTEMPTS} …`;
      const { body } = await add(1);
      unknown += body.outcome === "indeterminate";
    }
    step = "Now the page waits until the counter is settled …";
    const without = await settled();
    const attempts = await untilAcknowledged(1);
    const more = await settled() - without;
    const detail = `The outcome of ${unknown} of the ${ATTEMPTS} attempts was unknown. Then the page added 1 with an `
      + `Idempotency-Key, and repeated that until it was acknowledged, at attempt ${attempts}: the counter grew by ${more}.`;
    result = { value: without - before, error: 0, theory: ATTEMPTS, detail };
  };
  run().catch((error) => { step = `Not measured: ${error.message}.`; });
  return () => result ?? { step };
}

const add = (by, token) => ask("incr", { method: "POST", body: JSON.stringify({ key: COUNTER, by, idempotency_key: token }) });

/** Repeats an increment with the same Idempotency-Key. Returns how often it was sent. */
async function untilAcknowledged(by) {
  const token = `${Date.now()}-${Math.random()}`;
  for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt++) {
    const { status, body } = await add(by, token);
    if (status === 200) return attempt;
    if (status && status < 500) throw new Error(body.message ?? `status ${status}`);
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  throw new Error("the leader acknowledges nothing");
}

/** The counter once everything before has its outcome: an increment by 0 comes after all of that. */
async function settled() {
  await untilAcknowledged(0);
  return Number((await ask(`get?key=${COUNTER}`)).body.value);
}
