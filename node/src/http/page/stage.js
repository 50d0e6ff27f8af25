// The picture of one write: the leader, its followers, and what travels between them.

import { byId, duration, level, say, shape, shortName, stateText, usualDelayMs } from "./draw.js";

/** Real time that a confirmation takes to be seen on its way back. On the wire it is too short. */
const RETURN_MS = 220;
/** Real time for which the end of a write stays visible. */
const HOLD_MS = 900;
/** No write is played for longer. */
const PLAY_MS_MAX = 9000;
const LEADER_RADIUS = 26;
const PIPS_PER_ROW = 8;

const still = matchMedia("(prefers-reduced-motion: reduce)");
const svg = byId("stage");
const caption = byId("caption");

let width = 0;
let followers = [];
let quorum = 1;
let delayMs = 0;
let places = new Map();
let leader, clock, counter, pips = [], moving;
/** The write that is shown, and the one that is shown next. */
let playing = null;
let next = null;
let paused = false;

byId("pause").addEventListener("click", ({ currentTarget: button }) => {
  paused = !paused;
  button.setAttribute("aria-pressed", String(paused));
  say(button, paused ? "Go on" : "Pause");
});

/** Shows the followers as they are now. */
export function show(status) {
  const config = status.config;
  const names = (list) => list.map((follower) => follower.name).join("\n");
  const isSame = names(status.followers) === names(followers) && config.write_quorum === quorum;
  ({ followers } = status);
  quorum = config.write_quorum;
  delayMs = usualDelayMs(config);
  if (!isSame) layOut();
  else for (const follower of followers) paint(follower);
}

/** Shows this write once the one before it is over. */
export function offer(write) {
  if (!paused) next = write;
}

new ResizeObserver(() => {
  if (svg.clientWidth !== width) layOut();
}).observe(svg);
requestAnimationFrame(frame);

function layOut() {
  width = svg.clientWidth;
  if (!width) return;
  next ??= playing?.write;
  playing = null;
  const narrow = width < 460;
  const row = followers.length > 16 ? 20 : narrow || followers.length > 6 ? 42 : 54;
  const rows = Math.ceil(followers.length / PIPS_PER_ROW);
  const height = Math.max(followers.length * row + 24, 150 + rows * 12);
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  svg.replaceChildren();
  const left = narrow ? 52 : 84, right = width - (narrow ? 126 : 190), middle = height / 2;
  const wires = svg.appendChild(shape("g"));
  moving = svg.appendChild(shape("g"));
  leader = svg.appendChild(shape("circle", { class: "leader", cx: left, cy: middle, r: LEADER_RADIUS }));
  svg.appendChild(shape("text", { x: left, y: middle + 5, "text-anchor": "middle", "font-size": 13 }, "leader"));
  clock = svg.appendChild(shape("text", { class: "soft", x: left, y: middle - LEADER_RADIUS - 12, "text-anchor": "middle",
    "font-size": 13 }));
  layOutPips(left, middle + LEADER_RADIUS + 16);
  counter = svg.appendChild(shape("text", { class: "soft", x: left, y: middle + LEADER_RADIUS + 24 + rows * 12,
    "text-anchor": "middle", "font-size": 12 }));
  places = new Map(followers.map(({ name }, index) => {
    const y = 12 + row * (index + 0.5);
    const wire = wires.appendChild(shape("line", { class: "wire", x1: left + LEADER_RADIUS, y1: middle, x2: right, y2: y }));
    const circle = svg.appendChild(shape("circle", { class: "node", cx: right, cy: y, r: 9 }));
    circle.appendChild(shape("title", {}, name));
    const label = svg.appendChild(shape("text", { x: right + 17, y: row < 30 ? y + 4 : y - 1, "font-size": 12.5 }));
    say(label, shorten(shortName(name), narrow ? 14 : 24));
    const result = svg.appendChild(shape("text", { class: "soft", x: right + 17, y: y + 15, "font-size": 12 }));
    if (row < 30) result.setAttribute("visibility", "hidden");
    return [name, { x: right, y, from: { x: left, y: middle }, wire, circle, label, result, level: "up" }];
  }));
  for (const follower of followers) paint(follower);
}

function layOutPips(x, y) {
  pips = followers.map((_, index) => {
    const column = index % PIPS_PER_ROW, inRow = Math.min(followers.length, PIPS_PER_ROW);
    const cx = x + (column - (inRow - 1) / 2) * 12, cy = y + Math.floor(index / PIPS_PER_ROW) * 12;
    return svg.appendChild(shape("circle", { class: "pip", cx, cy, r: index < quorum ? 4.5 : 2.5 }));
  });
}

const shorten = (text, length) => text.length > length ? `…${text.slice(1 - length)}` : text;

function paint(follower) {
  const place = places.get(follower.name);
  if (!place) return;
  place.level = level(follower, delayMs);
  place.wire.setAttribute("class", `wire ${place.level}`);
  place.label.setAttribute("class", place.level);
  paintNode(place);
  if (place.level !== "up") say(place.result, stateText(follower, delayMs));
  else if (!playing) say(place.result, "");
}

function paintNode(place) {
  place.circle.setAttribute("class", `node ${place.level}${place.confirmed && place.level !== "down" ? " confirmed" : ""}`);
}

/** Begins to show the next write. */
function begin(now) {
  const write = next;
  next = null;
  moving.replaceChildren();
  const legs = write.followers.filter(({ name }) => places.has(name)).map((leg) => {
    const place = places.get(leg.name);
    place.confirmed = false;
    paintNode(place);
    if (place.level === "up") say(place.result, "");
    return { ...leg, place, dot: moving.appendChild(shape("circle", { class: "send", r: 5 })), stage: "sent" };
  });
  for (const [index, pip] of pips.entries()) {
    pip.setAttribute("class", "pip");
    pip.setAttribute("r", index < write.write_quorum ? 4.5 : 2.5);
  }
  leader.setAttribute("class", "leader");
  clock.setAttribute("class", "soft");
  const longest = Math.max(1, ...legs.map((leg) => leg.delay_ms));
  const asked = Number(byId("pace").value);
  const pace = still.matches ? 0 : Math.min(asked, PLAY_MS_MAX / longest);
  playing = { write, legs, begun: now, pace, longest, arrived: 0, over: null };
  say(caption, `${write.key}, seq ${write.seq}: on its way to ${legs.length} followers`);
  sayCount();
}

function frame(now) {
  requestAnimationFrame(frame);
  if (!width || (paused && !playing)) return;
  if (playing && paused && !playing.pausedAt) playing.pausedAt = now;
  if (paused) return;
  if (playing?.pausedAt) {
    playing.begun += now - playing.pausedAt;
    playing.pausedAt = null;
  }
  if (!playing || (playing.over !== null && now - playing.over > HOLD_MS && next)) {
    if (next) begin(now);
    return;
  }
  if (playing.over === null) play(now - playing.begun, now);
}

/** Moves everything to where it is `elapsed` real milliseconds after the start. */
function play(elapsed, now) {
  const { legs, pace, write } = playing;
  for (const leg of [...legs].sort((one, other) => one.delay_ms - other.delay_ms)) move(leg, elapsed, pace);
  const committed = playing.arrived >= write.write_quorum && write.committed_ms !== null;
  const shown = pace ? Math.min(elapsed / pace, playing.longest) : playing.longest;
  say(clock, duration(committed ? write.committed_ms : shown));
  if (legs.every((leg) => leg.stage === "over")) {
    playing.over = now;
    finish();
  }
}

function move(leg, elapsed, pace) {
  if (leg.stage === "over") return;
  const { from, x, y } = leg.place;
  const out = pace ? Math.min(1, elapsed / Math.max(1, leg.delay_ms * pace)) : 1;
  const back = pace ? Math.min(1, (elapsed - leg.delay_ms * pace) / RETURN_MS) : 1;
  const arrives = leg.confirmed_ms !== null;
  // A dot keeps out of the circles at both ends.
  const at = (part) => {
    const length = Math.hypot(x - from.x, y - from.y);
    const [start, end] = [LEADER_RADIUS + 5, length - 14];
    const way = (start + (end - start) * part) / length;
    leg.dot.setAttribute("cx", from.x + (x - from.x) * way);
    leg.dot.setAttribute("cy", from.y + (y - from.y) * way);
  };
  if (out < 1) return at(out);
  if (leg.stage === "sent") {
    leg.stage = "confirms";
    leg.dot.setAttribute("class", arrives ? "back" : "send");
    leg.place.confirmed = arrives;
    paintNode(leg.place);
    say(leg.place.result, arrives ? `after ${duration(leg.delay_ms)}` : leg.place.level === "down" ? "down" : "no confirmation");
  }
  if (arrives && back < 1) return at(1 - back);
  leg.dot.remove();
  leg.stage = "over";
  if (arrives) count();
}

/** A confirmation is back at the leader. */
function count() {
  const { write } = playing;
  pips[playing.arrived]?.setAttribute("class", playing.arrived < write.write_quorum ? "pip full" : "pip late");
  playing.arrived += 1;
  if (playing.arrived === write.write_quorum && write.committed_ms !== null) {
    leader.setAttribute("class", "leader committed");
    clock.setAttribute("class", "measured");
  }
  sayCount();
}

function sayCount() {
  const { arrived, write } = playing;
  const isCommitted = arrived >= write.write_quorum && write.committed_ms !== null;
  say(counter, isCommitted ? "committed" : `${arrived} of ${write.write_quorum}`);
  counter.setAttribute("class", isCommitted ? "measured" : "soft");
}

function finish() {
  const { write, legs, pace } = playing;
  const confirmed = legs.filter((leg) => leg.confirmed_ms !== null).sort((one, other) => one.confirmed_ms - other.confirmed_ms);
  const decisive = confirmed[write.write_quorum - 1];
  const what = `${write.key}, seq ${write.seq}: `;
  const slowed = pace && pace !== Number(byId("pace").value) ? ` Played ${pace < 1 ? "faster" : "slower"} to fit.` : "";
  if (write.committed_ms === null || !decisive) {
    say(caption, `${what}not committed: ${confirmed.length} followers confirmed it, ${write.write_quorum} are needed.`);
    return;
  }
  const by = shortName(decisive.name);
  say(caption, `${what}committed after ${duration(write.committed_ms)}, by confirmation ${write.write_quorum} of ${legs.length}, `
    + `from ${by}, to which the leader sent it after ${duration(decisive.delay_ms)}.${slowed}`);
}
