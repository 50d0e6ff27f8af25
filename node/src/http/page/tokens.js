// The tokens that the visitor gave, and the forms that ask for them. They stay in the memory of this page.

import { byId } from "./draw.js";

/** Of a client, for keys and for what the page shows; and of the cluster, for its settings. */
const KINDS = {
  client: { form: "client-token-form", input: "client-token", words: "the token of a client" },
  cluster: { form: "token-form", input: "token", words: "the token of the cluster" },
};

const given = { client: "", cluster: "" };
/** Who waits for a token of each kind. */
const waiting = { client: [], cluster: [] };

/** The headers of a request that needs a token of this kind. */
export const shown = (kind) => given[kind] ? { authorization: `Bearer ${given[kind]}` } : {};

/** The leader refused a request: asks the visitor for a token. Returns what happened, in words. */
export function refused(kind) {
  const { form, input, words } = KINDS[kind];
  if (byId(form).hidden) {
    byId(form).hidden = false;
    byId(input).focus();
  }
  return given[kind] ? "the leader refuses this token" : `the leader asks for ${words}`;
}

/** The leader answered a request: nothing is to be asked for. */
export const accepted = (kind) => { byId(KINDS[kind].form).hidden = true; };

/** Resolves once the visitor gave another token. */
export const another = (kind) => new Promise((resolve) => waiting[kind].push(resolve));

for (const [kind, { form, input }] of Object.entries(KINDS)) {
  byId(form).addEventListener("submit", (event) => {
    event.preventDefault();
    given[kind] = byId(input).value;
    byId(input).value = "";
    for (const resolve of waiting[kind].splice(0)) resolve();
  });
}
