// What the visitor can change: the settings, and a gentle load.

import { byId, lawText, say } from "./draw.js";
import { accepted, another, refused, shown } from "./tokens.js";

const LOAD_PER_S = 10;
const LOAD_KEYS = 10;
/** A browser opens six connections to one node, and the updates need one. */
const LOAD_AT_ONCE = 4;

/** Laws to choose from, beside the uniform one. */
const LAWS = {
  "exponential, mean 40 ms": { exponential: { meanMs: 40 } },
  "lognormal, median 20 ms": { lognormal: { medianMs: 20, sigma: 0.5 } },
  "linkedin-disk": { preset: "linkedin-disk" },
  yammer: { preset: "yammer" },
  "wan-3-zones": { preset: "wan-3-zones" },
};

const law = byId("law");
const quorum = byId("quorum"), minDelay = byId("min-delay"), maxDelay = byId("max-delay");
let kvcluster = null;
let lawInForce = {};
/** Whether the visitor moved a slider and the leader has not answered yet. */
let busy = false;
/** What was refused for want of a token, while the page waits for one. */
let refusedPatch = null;

/** A request to this leader with the token of this kind. Returns its status and its JSON body; status 0 for no answer. */
export async function ask(path, options = {}, kind = "client") {
  try {
    const response = await fetch(path, { ...options, headers: shown(kind) });
    const body = await response.json().catch(() => ({}));
    if (response.status === 401) body.message = refused(kind);
    return { status: response.status, body };
  } catch {
    return { status: 0, body: { message: "the leader cannot be reached" } };
  }
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const reason = ({ status, body }) => body.message || body.error || `status ${status}`;

export function answer(id, text, isBad = false) {
  byId(id).dataset.kind = isBad ? "bad" : "good";
  say(byId(id), text);
}

// --- settings

/** Shows the settings that are in force. */
export function show({ status, kvcluster: owner }) {
  const { config, tolerates } = status;
  kvcluster = owner;
  lawInForce = config.delay ?? { minMs: config.min_delay_ms, maxMs: config.max_delay_ms };
  byId("operator").hidden = !kvcluster;
  if (!busy) {
    quorum.max = config.followers;
    quorum.value = config.write_quorum;
    showLaw(config);
    if (config.pending) answer("settings-answer", `A change is on its way: ${config.pending.message}.`);
    else if (byId("settings-answer").textContent.startsWith("A change")) answer("settings-answer", "");
    showValues();
  }
  say(byId("tolerates"), `Followers that may be down before writes stop: ${tolerates.followers_down}. `
    + `Disks that may be lost without losing a committed write: ${tolerates.disks_lost}.`);
}

for (const name of ["uniform", ...Object.keys(LAWS)]) law.append(new Option(name));
/** A law that is in force and not among those to choose from. */
const otherLaw = new Option();

function showLaw(config) {
  const same = (one) => JSON.stringify(one) === JSON.stringify(config.delay);
  const name = config.delay ? Object.keys(LAWS).find((key) => same(LAWS[key])) : "uniform";
  if (name) {
    otherLaw.remove();
    law.value = name;
  } else {
    say(otherLaw, lawText(config));
    law.append(otherLaw);
    otherLaw.selected = true;
  }
  for (const row of document.querySelectorAll(".of-uniform")) row.hidden = Boolean(config.delay);
  if (config.delay) return;
  for (const slider of [minDelay, maxDelay]) slider.max = Math.max(500, config.max_delay_ms);
  minDelay.value = config.min_delay_ms;
  maxDelay.value = config.max_delay_ms;
}

/** The law that is chosen, in the words of `PATCH /config` and of a KvCluster. */
const chosenLaw = () => LAWS[law.value] ?? { minMs: Number(minDelay.value), maxMs: Number(maxDelay.value) };

function showValues() {
  say(byId("quorum-value"), `${quorum.value} of ${quorum.max}`);
  say(byId("min-delay-value"), `${minDelay.value} ms`);
  say(byId("max-delay-value"), `${maxDelay.value} ms`);
  quorum.setAttribute("aria-valuetext", `${quorum.value} of ${quorum.max} followers`);
  if (!kvcluster) return;
  say(byId("kvcluster"), kvcluster);
  say(byId("command"), commandFor({ write_quorum: Number(quorum.value), delay: chosenLaw() }));
}

/** The command that makes a KvCluster have these settings. */
function commandFor({ write_quorum: writeQuorum, delay: law, replication_timeout_ms: replicationTimeoutMs }) {
  const [namespace, name] = kvcluster.split("/");
  // A merge keeps what it does not name, and two laws are refused.
  const gone = Object.keys(lawInForce).filter((field) => !(field in law)).map((field) => [field, null]);
  const delay = { ...Object.fromEntries(gone), ...law };
  return `kubectl -n ${namespace} patch kvc ${name} --type merge -p '${JSON.stringify({ spec: { writeQuorum, delay, replicationTimeoutMs } })}'`;
}

/** Changes quorum and delays. Where the KvCluster decides them, returns the command for that. */
export function apply(patch) {
  if (kvcluster) return commandFor(patch);
  change(patch);
  return null;
}

for (const slider of [quorum, minDelay, maxDelay]) {
  slider.addEventListener("input", () => {
    busy = true;
    // The shortest delay is never above the longest one.
    if (slider === minDelay) maxDelay.value = Math.max(minDelay.value, maxDelay.value);
    if (slider === maxDelay) minDelay.value = Math.min(minDelay.value, maxDelay.value);
    showValues();
  });
}
quorum.addEventListener("change", () => change({ write_quorum: Number(quorum.value) }));
for (const slider of [minDelay, maxDelay]) {
  slider.addEventListener("change", () => change({ delay: chosenLaw() }));
}
law.addEventListener("change", () => {
  busy = true;
  for (const row of document.querySelectorAll(".of-uniform")) row.hidden = law.value in LAWS;
  showValues();
  change({ delay: chosenLaw() });
});
byId("settings").addEventListener("submit", (event) => event.preventDefault());

async function change(patch) {
  // The operator would set its own values again.
  if (kvcluster) return;
  const result = await ask("config?wait_ms=1000", { method: "PATCH", body: JSON.stringify(patch) }, "cluster");
  busy = false;
  if (result.status === 401) {
    answer("settings-answer", `${sentence(result.body.message)}.`, true);
    if (!refusedPatch) {
      another("cluster").then(() => {
        const again = refusedPatch;
        refusedPatch = null;
        change(again);
      });
    }
    refusedPatch = patch;
    return;
  }
  refusedPatch = null;
  if (result.status === 200) {
    accepted("cluster");
    answer("settings-answer", "In force.");
  } else if (result.status === 202) {
    answer("settings-answer", `A change is on its way: ${result.body.pending?.message ?? "accepted"}.`);
  } else {
    answer("settings-answer", `Not changed: ${reason(result)}.`, true);
  }
}

/** Writes a key. */
export const put = (key, value) => ask("put", { method: "POST", body: JSON.stringify({ key, value }) });

// --- load

let timer = null, underWay = 0, written = 0, failed = 0, last = "";

/** Of each key that this page wrote, the newest acknowledged `seq`, and the `count` of acknowledged writes. */
export const acknowledged = new Map();

byId("load").addEventListener("click", () => load(timer === null ? LOAD_PER_S : 0));

/** Writes so many times a second, or fewer where writes take long; stops at 0. */
export function load(perS = LOAD_PER_S) {
  const button = byId("load");
  button.setAttribute("aria-pressed", String(perS > 0));
  say(button, perS ? "Stop writing" : `Write ${LOAD_PER_S} times a second`);
  if (perS && timer === null) [written, failed] = [0, 0];
  clearInterval(timer);
  timer = perS ? setInterval(write, 1000 / perS) : null;
}

async function write() {
  if (underWay >= LOAD_AT_ONCE) return;
  underWay += 1;
  const key = `live-page/${(written + failed + underWay) % LOAD_KEYS}`;
  const result = await put(key, new Date().toISOString());
  underWay -= 1;
  if (result.status === 200) {
    written += 1;
    const { seq = 0, count = 0 } = acknowledged.get(key) ?? {};
    acknowledged.set(key, { seq: Math.max(seq, result.body.seq), count: count + 1 });
  } else {
    failed += 1;
    last = reason(result);
  }
  const keys = `live-page/0 to live-page/${LOAD_KEYS - 1}`;
  const refused = failed ? `, ${failed} not: ${last}` : "";
  answer("load-answer", `This page wrote ${keys}: ${written} committed${refused}.`, failed > 0);
}
