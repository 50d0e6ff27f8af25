//! Tests of the protocol core: the shipped state machines in simulated worlds, and cases told step by step.

mod cases;
mod mutations;
mod sim;
mod simulation;
