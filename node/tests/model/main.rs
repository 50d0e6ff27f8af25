//! The shipped state machines, explored exhaustively: every order in which a few faults can meet a few requests.
//!
//! The simulation draws worlds at random and goes far; this one draws nothing and leaves nothing out, within bounds: three
//! followers, one key, up to three leader processes, and so many writes, reads, broken connections, repeated and late
//! messages, emptied disks and changes of the quorum as each check names. From the outside in: `checks` and `mutations` say
//! what is explored and what must follow; `search` visits every state once; `actions` says what can happen next; `world`
//! is what it happens to; `clients` is what must hold.
//!
//! What the bounds count is what interrupts: as long as nothing does, two processes talk until both have said all, in one
//! step. So a state is one in which something else could come between, and 1.4 million of them go far.
//!
//! `cargo test -p kv-node --test model -- --nocapture` tells how many states there were. `MODEL_MORE=1` goes further, for
//! as long and with as much memory as there is: one more of everything that the bounds of a check have any of.

mod actions;
mod checks;
mod clients;
#[path = "../protocol/sim/linearizability.rs"]
mod linearizability;
#[allow(dead_code, reason = "shared with the simulation, which uses all of it")]
#[path = "../shared/mutation.rs"]
mod mutation;
mod mutations;
mod search;
mod world;
