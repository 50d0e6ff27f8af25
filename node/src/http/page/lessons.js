// Three lessons: the visitor predicts what a change costs, and the visitor's own cluster measures it.

import { apply, load } from "./controls.js";
import { byId, node, say } from "./draw.js";
import { theoryOf } from "./theory.js";

const WRITES = 100;
const LONGEST_MS = 200;
const FAR_MS = 500;
const UNIFORM = { minMs: 0, maxMs: LONGEST_MS };

/** A majority of the followers. */
const majority = (n) => Math.floor(n / 2) + 1;
const mean = (w, n) => `${LONGEST_MS} · ${w}/${n + 1} = ${(LONGEST_MS * w / (n + 1)).toFixed(0)} ms`;

/** Each lesson needs `least` followers, of which `down` have to be down. */
const LESSONS = [
  {
    title: "One more confirmation",
    least: 2,
    down: 0,
    settings: (n) => ({ write_quorum: Math.min(n, majority(n) + 1), delay: UNIFORM }),
    question: (n, w) => `The delays to your ${n} followers are uniform from 0 to ${LONGEST_MS} ms. With W = ${w - 1} a write `
      + `takes ${mean(w - 1, n)} on average. What does it take with W = ${w}?`,
    reason: (n, w) => `The ${n} delays cut the span of ${LONGEST_MS} ms into ${n + 1} pieces, which are equally long on `
      + `average. The write waits for the first ${w} of them: ${mean(w, n)}. Every further confirmation costs the same.`,
  },
  {
    title: "A follower fails",
    least: 2,
    down: 1,
    settings: (n) => ({ write_quorum: Math.min(n - 1, majority(n)), delay: UNIFORM }),
    question: (n, w) => `With W = ${w} of ${n} a write takes ${mean(w, n)} on average. Now one follower fails, and W stays `
      + `${w}. What does a write take?`,
    wait: "Now stop one follower: type kill 2 where kv-bench play runs, or docker compose stop follower2.",
    reason: (n, w) => `Only ${n - 1} delays are left to choose the ${w} shortest from: ${mean(w, n - 1)}. Writes go on, `
      + `slower, while at least ${w} followers are left. Start the follower again, and the mean falls back.`,
  },
  {
    title: "A follower far away",
    least: 2,
    down: 0,
    settings: (n) => ({
      write_quorum: Math.min(n - 1, majority(n)),
      delay: { ...UNIFORM, perFollower: [{ constant: { ms: FAR_MS }, follower: n - 1 }] },
    }),
    question: (n, w) => `One of your ${n} followers moves far away: each write to it takes ${FAR_MS} ms. The others have `
      + `delays from 0 to ${LONGEST_MS} ms, and W = ${w}. Without the distance a write takes ${mean(w, n)} on average. `
      + "What does it take now?",
    reason: (n, w) => `The leader does not wait for it: the other ${n - 1} confirm first, so that the write takes `
      + `${mean(w, n - 1)}, as if the far follower were down. With W = ${n} every write would take ${FAR_MS} ms.`,
  },
];

let lesson = LESSONS[0];
let config = null;
/** What the visitor predicted and asked for: null before that, and once it is measured. */
let asked = null;
/** The settings before the first lesson. */
let before = null;

for (const one of LESSONS) {
  const button = node("button", "", one.title);
  button.type = "button";
  button.addEventListener("click", () => choose(one));
  byId("lessons").append(button);
}

function choose(one) {
  lesson = one;
  asked = null;
  byId("prediction").value = "";
  byId("lesson-result").hidden = true;
  say(byId("lesson-step"), "");
  ask();
}

function ask() {
  const n = config?.followers ?? 0;
  [...byId("lessons").children].forEach((button, index) => {
    button.setAttribute("aria-pressed", String(LESSONS[index] === lesson));
  });
  const isPossible = n >= lesson.least;
  for (const element of byId("prediction-form").elements) element.disabled = !isPossible;
  say(byId("question"), isPossible
    ? lesson.question(n, lesson.settings(n).write_quorum)
    : `This lesson needs at least ${lesson.least} followers.`);
}

byId("prediction-form").addEventListener("submit", (event) => {
  event.preventDefault();
  before ??= { write_quorum: config.write_quorum, delay: lawOf(config) };
  const settings = lesson.settings(config.followers);
  asked = { settings, predictedMs: Number(byId("prediction").value), command: apply(settings) };
  byId("lesson-result").hidden = true;
  say(byId("lesson-step"), "Changing the settings …");
  load(true);
});

byId("restore").addEventListener("click", () => {
  const command = apply(before);
  if (command) say(byId("lesson-step"), `The KvCluster decides the settings: ${command}`);
  else before = null;
  load(false);
});

const lawOf = (known) => known.delay ?? { minMs: known.min_delay_ms, maxMs: known.max_delay_ms };

function isInForce({ write_quorum: quorum, delay }) {
  const wanted = delay.perFollower ? delay : { minMs: delay.minMs, maxMs: delay.maxMs };
  return config.write_quorum === quorum && sorted(lawOf(config)) === sorted(wanted);
}

/** JSON with the names in order, since the leader has an order of its own. No law of a lesson reaches a cap. */
function sorted(value) {
  return JSON.stringify(value, (name, inner) => {
    if (name === "capMs") return undefined;
    const isObject = inner && !Array.isArray(inner) && typeof inner === "object";
    return isObject ? Object.fromEntries(Object.entries(inner).sort()) : inner;
  });
}

/** Takes what is in force and what was measured under it. `followers` are the numbers of those that confirm. */
export function update(now, measured, followers) {
  const isOther = config?.followers !== now.followers;
  config = now;
  if (isOther) ask();
  if (!asked) return;
  const { settings, command } = asked;
  const expected = config.followers - lesson.down;
  if (!isInForce(settings)) {
    if (command) say(byId("lesson-step"), `The KvCluster decides the settings. Run this: ${command}`);
  } else if (followers.length > expected) {
    say(byId("lesson-step"), lesson.wait);
  } else if (followers.length < expected) {
    say(byId("lesson-step"), `Too many followers are down: ${followers.length} confirm, and ${expected} should.`);
  } else if (measured.count < WRITES) {
    // A screen reader says every tenth part.
    const done = Math.floor(measured.count / 10) * 10;
    say(byId("lesson-step"), `Measuring: ${done} of ${WRITES} writes.`);
  } else {
    finish(measured, theoryOf(config, followers).mean(settings.write_quorum));
  }
}

function finish({ meanMs, errorMs }, theoryMs) {
  const { predictedMs, settings } = asked;
  asked = null;
  const off = Math.abs(predictedMs - meanMs);
  const isRight = off <= Math.max(errorMs, theoryMs * 0.1);
  say(byId("lesson-step"), "");
  say(byId("grade"), `${isRight ? "Right" : `Off by ${off.toFixed(0)} ms`}: you predicted ${predictedMs} ms, your cluster `
    + `measured ${meanMs.toFixed(1)} ± ${errorMs.toFixed(1)} ms, and theory says ${theoryMs.toFixed(1)} ms.`);
  say(byId("reason"), lesson.reason(config.followers, settings.write_quorum));
  byId("lesson-result").hidden = false;
}
