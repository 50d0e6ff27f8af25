// The leader's events, with a new connection whenever one ends.

import { accepted, another, refused, shown } from "./tokens.js";

const RETRY_MS = 500;
const RETRY_MS_MAX = 4000;
/** The leader sends four updates a second. After this long without one the page connects anew. */
const SILENCE_MS = 4000;
/** A leader that restarts is a standby for a moment. One that stays a standby has another page. */
const ELSEWHERE_MS = 5000;

/** Since when this node is no leader. */
let elsewhereSince = null;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** The leader asks for a token: a new connection needs one. */
class Refused extends Error {}

/** Calls `update` with each update, and `lost` with the reason and what comes next when there are none. */
export async function follow({ update, lost }) {
  for (let wait = RETRY_MS; ; wait = Math.min(wait * 2, RETRY_MS_MAX)) {
    const heard = (data) => {
      wait = RETRY_MS;
      update(data);
    };
    try {
      await connect(heard);
    } catch (error) {
      // Browsers word a broken connection differently.
      const needsToken = error instanceof Refused;
      lost(error instanceof TypeError ? "the connection broke" : error.message, needsToken ? "" : "Connecting again …");
      if (needsToken) {
        await another("client");
        continue;
      }
    }
    await sleep(wait);
  }
}

async function connect(heard) {
  const attempt = new AbortController();
  let watch;
  const expectMore = () => {
    clearTimeout(watch);
    watch = setTimeout(() => attempt.abort(new Error("the leader is silent")), SILENCE_MS);
  };
  try {
    expectMore();
    const response = await ask(attempt.signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the leader ended the connection");
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      // Only the newest matters, except for the writes of those before it.
      for (const event of events) heard(JSON.parse(event.slice("data: ".length)));
      if (events.length) expectMore();
    }
  } finally {
    clearTimeout(watch);
  }
}

async function ask(signal) {
  let response;
  try {
    response = await fetch("live", { signal, cache: "no-store", redirect: "manual", headers: shown("client") });
  } catch {
    throw new Error(signal.aborted ? "the leader is silent" : "the leader cannot be reached");
  }
  if (response.type === "opaqueredirect" || response.status === 404) {
    elsewhereSince ??= performance.now();
    if (performance.now() - elsewhereSince > ELSEWHERE_MS) location.reload();
    throw new Error("this node does not lead");
  }
  elsewhereSince = null;
  if (response.status === 401) throw new Refused(refused("client"));
  if (!response.ok) {
    const body = await response.json().catch(() => ({}));
    throw new Error(body.message || `status ${response.status}`);
  }
  accepted("client");
  return response;
}
