// node-redis against a cluster. See ../README.md for what the surroundings do for this program.
import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { RESP_TYPES } from "redis";

// snippet: connect
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "redis";

/** A client of one node. It ends with its connection instead of waiting for the same node. */
async function connect(address) {
  const client = createClient({ url: `redis://${address}`, socket: { reconnectStrategy: false } });
  client.on("error", () => {}); // Each command reports it as well.
  await client.connect();
  return client;
}

/** A client of the node that leads. The other leader processes answer READONLY or LOADING. */
async function findLeader(addresses, patienceMs = 30_000) {
  const deadline = performance.now() + patienceMs;
  for (;;) {
    for (const address of addresses) {
      let client;
      try {
        client = await connect(address);
        await client.exists("any key");
        return client;
      } catch (error) {
        client?.destroy();
        if (performance.now() > deadline) throw error;
      }
    }
    await sleep(100);
  }
}
// end

// snippet: use
async function use(client) {
  await client.set("color", "blue");
  assert.equal(await client.get("color"), "blue");
  assert.equal(await client.get("no such key"), null);
  assert.equal(await client.incrBy("visits", 2), 2);
  assert.equal(await client.set("color", "red", { condition: "NX" }), null); // Refused: it has a value.
  assert.equal(await client.set("color", "green", { condition: "IFEQ", matchValue: "blue" }), "OK");
  assert.deepEqual(await client.mGet(["color", "visits"]), ["green", "2"]);
  assert.equal(await client.del(["color", "visits"]), 2);

  // Commands that are sent without waiting in between are one pipeline.
  const numbers = Array.from({ length: 100 }, (_, number) => number);
  await Promise.all(numbers.map((number) => client.set(`p${number}`, number)));
}
// end

// snippet: errors
/** The write was applied, or will be, or never. */
class Unknown extends Error {}

/** Runs commands at the node that leads. */
class Leader {
  static async of(addresses) {
    return Object.assign(new Leader(), { addresses, client: await findLeader(addresses) });
  }

  /** Repeats the command where nothing was applied. Where that is not known, only if it is
   *  repeatable: it reads, or applying it twice does no harm. */
  async run(command, { repeatable = false } = {}) {
    for (;;) {
      try {
        return await command(this.client);
      } catch (error) {
        const word = error.message.split(" ")[0];
        const reply = error.constructor.name === "SimpleError"; // Otherwise the connection was lost.
        if (reply && !["LOADING", "READONLY", "INDETERMINATE"].includes(word)) throw error;
        const notApplied = reply && word !== "INDETERMINATE";
        if (!notApplied && !repeatable) throw new Unknown(error.message, { cause: error });
      }
      this.client.destroy();
      this.client = await findLeader(this.addresses);
    }
  }
}
// end

// snippet: http
/** Adds 1 exactly once, however often it is sent: the nodes know the token. */
async function incrOnce(urls, key, token) {
  const body = JSON.stringify({ key, by: 1 });
  const headers = { "content-type": "application/json", "idempotency-key": token };
  for (;;) {
    for (const url of urls) {
      let answer;
      try {
        answer = await fetch(`${url}/incr`, { method: "POST", headers, body }); // It follows a standby to the leader.
      } catch {
        continue; // The node is gone.
      }
      if (answer.ok) return answer.json();
      const text = await answer.text();
      // 500: unknown. 503: not applied.
      if (answer.status !== 500 && answer.status !== 503) throw new Error(`${answer.status}: ${text}`);
    }
    await sleep(100);
  }
}
// end

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Waits until the surroundings have done something to the cluster. */
async function ask(wish) {
  console.log(`do: ${wish}`);
  await answers.next();
}

async function callsWork(leader, follower) {
  await use(leader.client);
  const bytes = Buffer.from([0, 255, 13, 10]);
  await leader.client.set("bytes", bytes);
  assert.deepEqual(await leader.client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }).get("bytes"), bytes);
  const keys = [];
  for await (const page of leader.client.scanIterator({ MATCH: "p*" })) keys.push(...page);
  assert.equal(new Set(keys).size, 100);
  assert.equal(await leader.client.wait(3, 10_000), 3);
  await assert.rejects(leader.client.expire("p1", 5), /expiry/);

  const replica = await connect(follower);
  assert.equal(await replica.get("p1"), "1");
  await assert.rejects(replica.set("p1", "2"), /READONLY/);
  replica.destroy();
}

/** First the outcome of a write is unknown. Once the leader has missed its followers, it accepts none. */
async function lostQuorum(leader) {
  await leader.client.set("n", 0);
  await ask("stop followers");
  await assert.rejects(leader.run((client) => client.incr("n")), Unknown);
  for (;;) {
    const error = await leader.client.set("k", "v").then(() => assert.fail("no quorum"), (error) => error);
    if (error.message.startsWith("LOADING")) break;
    assert.match(error.message, /^INDETERMINATE/);
  }
  await ask("continue followers");
  assert.ok(["0", "1"].includes(await leader.run((client) => client.get("n"), { repeatable: true })));
}

/** Writes while the wishes are granted, and 50 times more. Every acknowledged value stays. */
async function survives(leader, prefix, ...wishes) {
  let granted = false;
  const granting = (async () => {
    for (const wish of wishes) await ask(wish);
    granted = true;
  })();
  const keys = [];
  for (let more = 50; more > 0; more -= granted) {
    const key = `${prefix}${keys.length}`;
    await leader.run((client) => client.set(key, key), { repeatable: true });
    keys.push(key);
  }
  await granting;
  assert.deepEqual(await leader.run((client) => client.mGet(keys), { repeatable: true }), keys);
}

const leader = await Leader.of(process.env.REDIS.split(","));
const urls = process.env.HTTP.split(",");
await callsWork(leader, process.env.REDIS_FOLLOWER);
await lostQuorum(leader);
assert.equal((await incrOnce(urls, "once", "token 1")).value, "1");
await survives(leader, "killed", "kill leader");
await incrOnce(urls, "once", "token 1");
assert.equal((await incrOnce(urls, "once", "token 2")).value, "2");
await survives(leader, "back", "start other", "kill leader");
await survives(leader, "restarted", "restart leader");
process.exit(0);
