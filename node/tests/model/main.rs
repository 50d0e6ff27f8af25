//! Goal: no order of a few faults and a few requests breaks what clients rely on. Method: every order within bounds, with
//! the shipped state machines.
//!
//! The simulation draws worlds at random and goes far. The model leaves nothing out, within bounds: three followers, one or
//! two keys, up to three leader processes, and as many writes, reads, broken connections, repeated and late messages,
//! emptied disks and changes of the rule as each check names. `checks` and `mutations` state what is explored and what
//! must follow. `search` visits every state once. `actions` lists what can happen next, `world` is the state, `clients`
//! checks what must hold.
//!
//! The bounds count interruptions. Without one, two processes exchange messages until neither has more to send, in one
//! step. A state is therefore one in which something else can come between, and 1.4 million of them cover much.
//!
//! The checks whose names begin with `walks_` do not visit every state: there are too many. They take thousands of random
//! walks of bounded length from a fixed seed. They cover two keys with deletes, writes that are retried under their
//! idempotency key, followers that fall behind the backlog, followers that leave and return with another disk, restores of
//! backups, and much larger bounds of everything else. All other checks visit every state. The search for a mutation ends
//! at the first state in which something does not hold, as do the walks.
//!
//! `cargo test -p kv-node --test model -- --nocapture` prints how many states there were. `MODEL_MORE=1` goes further, for
//! as long and with as much memory as there is: one more of everything that the bounds of a check have any of, and twenty
//! times as many walks.

mod actions;
mod checks;
mod clients;
#[path = "../protocol/sim/linearizability.rs"]
mod linearizability;
mod members;
#[allow(dead_code, reason = "shared with the simulation, which uses all of it")]
#[path = "../shared/mutation.rs"]
mod mutation;
mod mutations;
mod restores;
mod search;
mod world;
