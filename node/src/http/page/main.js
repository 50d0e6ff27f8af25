// The leader's page: takes each update and shows it.

import { show as showControls } from "./controls.js";
import { byId, duration, level, node, number, plural, say, shortName, stateText, usualDelayMs } from "./draw.js";
import { draw, since } from "./histogram.js";
import "./keys.js";
import * as lessons from "./lessons.js";
import * as stage from "./stage.js";
import { follow } from "./updates.js";

/** Writes that began under settings before the present ones end this much later than the longest delay. */
const SETTLE_MS = 300;

let newest = null;
/** The latencies when the present settings came into force. */
let before = null;
let setting = "";
let settlesAt = 0;
/** (time, committed writes) of the last seconds. */
let commits = [];

follow({
  update(update) {
    say(byId("link"), "live");
    byId("link").dataset.state = "live";
    document.body.dataset.state = "live";
    newest = update;
    show(update);
  },
  lost(reason, next) {
    say(byId("link"), `not live: ${reason}. ${next}`.trimEnd());
    byId("link").dataset.state = "lost";
    document.body.dataset.state = "lost";
    byId("state").dataset.state = "bad";
    say(byId("state"), "no contact");
  },
});

byId("clear").addEventListener("click", () => {
  before = newest?.latency ?? null;
  if (newest) showLatency(newest);
});
addEventListener("resize", () => newest && showLatency(newest));

function show(update) {
  const { status, writes } = update;
  const { config } = status;
  showFacts(status);
  showControls(update);
  say(byId("rule"), `${config.write_quorum} of ${config.followers}`);
  stage.show(status);
  for (const write of writes) stage.offer(write);
  showLatency(update);
  showRate(update);
  showFollowers(status);
}

function showFacts({ name, state, epoch, keys, message }) {
  const refuses = state === "open" && message;
  byId("state").dataset.state = state === "open" && !refuses ? "open" : "bad";
  say(byId("state"), refuses ? "refuses clients" : state);
  say(byId("facts"), `${name} leads · epoch ${epoch?.term ?? "–"} · ${number(keys)} keys`);
  document.title = `kvcluster · ${name} · ${state}`;
  byId("message").hidden = !message;
  say(byId("message"), message);
}

/** The numbers of the followers that confirm writes now, by which a law of the delays names them. */
function confirming({ followers }) {
  const numbered = followers.map((follower, position) => {
    const number = follower.name.includes("://") ? null : follower.name.match(/-(\d+)$/)?.[1];
    return { ...follower, number: Number(number ?? position) };
  });
  return numbered.filter(({ state, member }) => state === "streaming" && member).map(({ number }) => number);
}

function showLatency(update) {
  const { at_ms: at, status, latency } = update;
  const { config } = status;
  const followers = confirming(status);
  const now = JSON.stringify([config.write_quorum, config.min_delay_ms, config.max_delay_ms, config.delay, followers]);
  // Another leader, or this one after every page was closed, counts from nothing.
  if (before && latency.count < before.count) before = null;
  if (now !== setting) {
    settlesAt = setting ? at + usualDelayMs(config) + SETTLE_MS : 0;
    setting = now;
  }
  if (at < settlesAt) before = latency;
  const measured = since(latency, before);
  draw(measured, config, followers);
  lessons.update(update, measured, followers);
}

function showRate({ at_ms: at, status }) {
  const { committed } = status.writes;
  if (commits.length && (committed < commits.at(-1).committed || at < commits.at(-1).at)) commits = [];
  commits.push({ at, committed });
  if (commits.length > 9) commits.shift();
  const [first] = commits;
  const rate = at > first.at ? (committed - first.committed) * 1000 / (at - first.at) : 0;
  say(byId("rate"), rate >= 10 ? number(rate) : rate.toFixed(1));
}

function showFollowers({ followers, config, writes }) {
  const body = byId("followers");
  while (body.rows.length > followers.length) body.deleteRow(-1);
  while (body.rows.length < followers.length) body.append(row());
  followers.forEach((follower, index) => {
    const tr = body.rows[index];
    const delayMs = usualDelayMs(config);
    tr.dataset.level = level(follower, delayMs);
    tr.dataset.follower = follower.name;
    const [name, state, lag, age, note] = tr.cells;
    say(name, shortName(follower.name));
    say(state.querySelector(".state"), stateText(follower, delayMs));
    say(lag, number(follower.lag_writes));
    say(age, follower.lag_writes ? duration(follower.lag_ms) : "–");
    say(note, follower.retiring ? "leaves the cluster" : follower.member ? follower.last_error ?? "" : "does not count yet");
  });
  say(byId("backlog"), `Without their quorum: ${plural(writes.in_flight, "write")}. Not yet confirmed by every follower: `
    + `${plural(writes.backlog, "write")}.`);
}

function row() {
  const tr = document.createElement("tr");
  const name = node("th");
  name.scope = "row";
  const state = node("td");
  state.append(node("span", "dot"), node("span", "state"));
  tr.append(name, state, node("td", "number"), node("td", "number"), node("td"));
  return tr;
}
