//! Tests of the protocol core: the shipped state machines in simulated worlds, and cases told step by step.

mod cases;
#[allow(dead_code, reason = "shared with the model, which uses all of it")]
#[path = "../shared/mutation.rs"]
mod mutation;
mod mutations;
#[path = "../shared/seeds.rs"]
mod seeds;
mod sim;
mod simulation;
