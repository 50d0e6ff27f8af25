// The lessons: the visitor predicts what a change costs or does, and the visitor's own cluster measures it.

import { apply, load } from "./controls.js";
import { byId, node, number, plural, say } from "./draw.js";
import { LESSONS } from "./lesson-list.js";
import { theoryOf } from "./theory.js";

/** As fast as a browser's few connections allow. */
const WRITES_PER_S = 50;
const OUT_OF_REACH = "Kubernetes starts a pod again as soon as it ends, sooner than this lesson can measure. Start a cluster "
  + "on your machine for it: kv-bench play.";

/** Why a measurement in this unit may differ from theory in a cluster that is sound. */
const REST = { ms: "and the cluster needs some time of its own", "%": "and the reads took some time" };

let lesson = LESSONS[0];
let newest = null;
/** What the visitor predicted and asked for, and its measure: null before that, and once it is measured. */
let asked = null;
/** The settings before the first lesson. */
let before = null;

for (const [index, one] of LESSONS.entries()) {
  const button = node("button", "", `${index + 1}. ${one.title}`);
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

/** What an entry of the list is given. */
function given(n) {
  const { write_quorum: w, delay } = lesson.settings({ n });
  return { n, w, theory: theoryOf({ delay }, Array.from({ length: n }, (_, index) => index)) };
}

function ask() {
  const n = newest?.status.config.followers ?? 0;
  [...byId("lessons").children].forEach((button, index) => {
    button.setAttribute("aria-pressed", String(LESSONS[index] === lesson));
  });
  const least = lesson.least ?? 2;
  const obstacle = n < least ? `This lesson needs at least ${least} followers.` : newest.kvcluster && lesson.isByHand ? OUT_OF_REACH : "";
  for (const element of byId("prediction-form").elements) element.disabled = Boolean(obstacle);
  say(byId("prediction-label"), lesson.ask);
  say(byId("question"), n < least ? obstacle : `${lesson.question(given(n))} ${obstacle}`.trimEnd());
}

byId("prediction-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { config } = newest.status;
  before ??= { write_quorum: config.write_quorum, delay: lawOf(config), replication_timeout_ms: config.replication_timeout_ms };
  const { replication_timeout_ms } = before;
  const settings = { replication_timeout_ms, ...lesson.settings({ n: config.followers }) };
  asked = { settings, predicted: Number(byId("prediction").value), command: apply(settings), observe: null };
  byId("lesson-result").hidden = true;
  say(byId("lesson-step"), "Changing the settings …");
  load(lesson.isQuiet ? 0 : WRITES_PER_S);
});

byId("next-lesson").addEventListener("click", () => {
  choose(LESSONS[(LESSONS.indexOf(lesson) + 1) % LESSONS.length]);
  byId("prediction").focus();
});

byId("restore").addEventListener("click", () => {
  const command = apply(before);
  if (command) say(byId("lesson-step"), `The KvCluster decides the settings: ${command}`);
  else before = null;
  load(0);
});

const lawOf = (known) => known.delay ?? { minMs: known.min_delay_ms, maxMs: known.max_delay_ms };

function isInForce({ write_quorum: quorum, delay, replication_timeout_ms: timeoutMs }, config) {
  return config.write_quorum === quorum && sorted(lawOf(config)) === sorted(delay) && config.replication_timeout_ms === timeoutMs;
}

/** JSON with the names in order, since the leader has an order of its own. No law of a lesson reaches a cap. */
function sorted(value) {
  return JSON.stringify(value, (name, inner) => {
    if (name === "capMs") return undefined;
    const isObject = inner && !Array.isArray(inner) && typeof inner === "object";
    return isObject ? Object.fromEntries(Object.entries(inner).sort()) : inner;
  });
}

/** Takes an update, and what was measured under its settings. `followers` are the numbers of those that confirm. */
export function update(update, measured, followers) {
  const { status, kvcluster, at_ms: at } = update;
  const { config } = status;
  const isOther = newest?.status.config.followers !== config.followers || newest.kvcluster !== kvcluster;
  newest = update;
  if (isOther) ask();
  if (!asked) return;
  const { followers: n, write_quorum: w } = config;
  const expected = lesson.down === "any" ? followers.length : n - (lesson.down ?? 0);
  // A new leader has the settings with which it was started.
  const isBegun = asked.observe && lesson.down === "any";
  if (!isBegun && !isInForce(asked.settings, config)) {
    if (asked.command) say(byId("lesson-step"), `The KvCluster decides the settings. Run this: ${asked.command}`);
  } else if (followers.length > expected) {
    say(byId("lesson-step"), lesson.wait);
  } else if (followers.length < expected) {
    say(byId("lesson-step"), `Too many followers are down: ${followers.length} confirm, and ${expected} should. Start the others.`);
  } else {
    asked.observe ??= lesson.measure();
    const theory = theoryOf(config, followers);
    const result = asked.observe({ at, status, kvcluster, measured, followers, theory, n, w });
    if (result.step !== undefined) say(byId("lesson-step"), result.step);
    else finish(result, given(n));
  }
}

function finish({ value, error, theory, detail = "" }, about) {
  const { unit, within = 0.1 } = lesson;
  const { predicted } = asked;
  asked = null;
  const margin = (of) => unit === "ms" ? Math.max(error, of * within) : unit === "%" ? Math.max(error, 5) : error;
  const off = Math.abs(predicted - value);
  const grade = off <= margin(value) ? "Right"
    : Math.abs(predicted - theory) <= margin(theory) ? `Right in theory, ${REST[unit] ?? "but not in your cluster"}`
      : `Off by ${show(off, unit)}`;
  const measured = error ? `${value.toFixed(unit === "%" ? 0 : 1)} ± ${show(error, unit)}` : show(value, unit);
  load(lesson.isQuiet ? 0 : undefined);
  say(byId("lesson-step"), "");
  say(byId("grade"), `${grade}: you predicted ${unit === "ms" || unit === "%" ? `${predicted} ${unit}` : show(predicted, unit)}, your cluster measured ${measured}, and theory says `
    + `${show(theory, unit)}.`);
  say(byId("reason"), `${detail} ${lesson.reason(about)}`.trimStart());
  byId("lessons").children[LESSONS.indexOf(lesson)].dataset.done = "";
  byId("lesson-result").hidden = false;
}

/** "98.2 ms", "3 followers". */
function show(value, unit) {
  if (unit === "ms") return `${value.toFixed(1)} ms`;
  if (unit === "%") return `${value.toFixed(0)} %`;
  return unit ? plural(value, unit) : number(value);
}
