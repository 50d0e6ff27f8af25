// Writes and reads one key, at the leader and at its followers.

import { answer, ask, put, reason } from "./controls.js";
import { byId } from "./draw.js";
import { watch } from "./replicas.js";

byId("put-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = byId("put-key").value, value = byId("put-value").value;
  answer("kv-answer", `Writing ${key} …`);
  const begun = performance.now();
  const result = await put(key, value);
  const took = (performance.now() - begun).toFixed(0);
  if (result.status === 200) {
    answer("kv-answer", `Committed: ${key} has seq ${result.body.seq}, after ${took} ms in this browser.`);
    watch(key, performance.now());
  } else answer("kv-answer", `Not acknowledged: ${reason(result)}.`, true);
});

byId("get-at-followers").addEventListener("click", () => watch(byId("put-key").value));

byId("get").addEventListener("click", async () => {
  const key = byId("put-key").value;
  const result = await ask(`get?key=${encodeURIComponent(key)}`);
  if (result.status === 200) answer("kv-answer", `${key} is “${shorten(result.body.value)}”, seq ${result.body.seq}.`);
  else answer("kv-answer", `${key}: ${reason(result)}.`, true);
});

const shorten = (text = "") => text.length > 200 ? `${text.slice(0, 200)}…` : text;
