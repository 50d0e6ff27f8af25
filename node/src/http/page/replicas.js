// One key at every follower, read there: shows which of them are stale, until none is.

import { ask } from "./controls.js";
import { byId, duration, node, plural, say, shortName } from "./draw.js";

/** The followers are asked again after this long. */
const AGAIN_MS = 40;
/** A follower that is still stale then is behind for another reason than its delay. */
const GIVE_UP_MS = 5000;

let newest = 0;

/** Reads the key at every follower, at once and again while one is stale. `since` is when a write was acknowledged, if one was. */
export async function watch(key, since) {
  const mine = newest += 1;
  const begun = since ?? performance.now();
  let first = null;
  for (let asked = 1; ; asked++) {
    const { status, body } = await ask(`replicas?key=${encodeURIComponent(key)}`);
    if (mine !== newest) return;
    if (status !== 200) {
      say(byId("replicas-text"), `The followers were not read: ${body.message || body.error || `status ${status}`}.`);
      return;
    }
    show(body);
    const tookMs = performance.now() - begun;
    const answered = body.replicas.filter((replica) => replica.stale !== null).length;
    const stale = body.replicas.filter((replica) => replica.stale).length;
    first ??= `${since ? `${duration(tookMs)} after the acknowledgement` : "Now"}, ${stale} of ${plural(answered, "read")} `
      + `at followers ${stale === 1 ? "was" : "were"} stale.`;
    const isOver = !stale || tookMs > GIVE_UP_MS;
    const now = stale ? `After ${duration(tookMs)}, ${stale} still ${stale === 1 ? "is" : "are"}.` : `After ${duration(tookMs)} none is.`;
    say(byId("replicas-text"), isOver && asked > 1 ? `${first} ${now}` : first);
    if (isOver) return;
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

function show({ replicas }) {
  byId("replicas").replaceChildren(...replicas.map(({ follower, seq, value, stale, message }) => {
    const item = node("li");
    item.dataset.stale = String(stale);
    const shows = message ?? (seq === null ? "no value" : `“${value}”, seq ${seq}`);
    item.append(node("b", "", shortName(follower)), ` ${shows}`);
    if (stale) item.append(" ", node("span", "mark-stale", "stale"));
    return item;
  }));
}
