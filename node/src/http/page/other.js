// The page of a follower or a standby: its name, and the leader that it obeys.

import { byId, duration, node, number, say } from "./draw.js";

const ASK_EVERY_MS = 1000;

async function ask() {
  try {
    const response = await fetch("status", { cache: "no-store", signal: AbortSignal.timeout(3000) });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const status = await response.json();
    // A standby that took over has the leader's page.
    if (status.role === "leader" && status.state !== "standby") return location.reload();
    show(status);
    say(byId("link"), "live");
    byId("link").dataset.state = "live";
  } catch (error) {
    say(byId("link"), "not live: the node cannot be reached. Asking again …");
    byId("link").dataset.state = "lost";
    byId("state").dataset.state = "bad";
    say(byId("state"), "no contact");
  }
}

function show(status) {
  const { state } = status;
  byId("state").dataset.state = ["synced", "standby"].includes(state) ? "synced" : "bad";
  say(byId("state"), state);
  say(byId("name"), `${status.role === "leader" ? "standby" : "follower"} ${status.name}`);
  document.title = `kvcluster · ${status.name} · ${state}`;
  const rows = status.role === "leader" ? ofStandby(status) : ofFollower(status);
  byId("rows").replaceChildren(...rows.flatMap(([name, value]) => {
    const description = node("dd");
    description.append(value);
    return [node("dt", "", name), description];
  }));
}

const epochText = (epoch) => epoch ? `${epoch.term} (leader ${epoch.leader})` : "none";

function ofFollower(status) {
  const { leader, epoch, promised, keys, durability, staleness_ms: staleness } = status;
  return [
    ["Obeys", leader ? link(leader) : "no leader yet"],
    ["Epoch of its state", epochText(epoch)],
    ["Promised epoch", epochText(promised)],
    ["Keys", number(keys)],
    ["Keeps them", durability === "disk" ? `on disk: ${status.disk?.message ?? ""}` : "in memory"],
    ["Its state is", staleness === null ? "of unknown age" : `at most ${duration(staleness)} old`],
    ["Disk", status.id],
    ["Version", status.version],
  ];
}

function ofStandby(status) {
  const leader = status.message.match(/^(https?:\/\/\S+) leads/)?.[1];
  return [
    ["Leader", leader ? link(leader) : "unknown"],
    ["It waits", status.message],
    ["Would ask for epoch", epochText(status.epoch)],
    ["Version", status.version],
  ];
}

function link(url) {
  const anchor = node("a", "", url);
  if (/^https?:/.test(url)) anchor.href = url;
  anchor.rel = "noreferrer";
  return anchor;
}

(async () => {
  for (;;) {
    await ask();
    await new Promise((resolve) => setTimeout(resolve, ASK_EVERY_MS));
  }
})();
