//! Tests of what a node does by itself: the shipped state machines step by step, without faults, and the program's start.
//!
//! What takes little code and little time is here, in one program: each program is linked with the whole node.

mod audit;
mod conditions;
mod differences;
#[allow(dead_code, reason = "shared with others, which use all of it")]
#[path = "../shared/direct.rs"]
mod direct;
mod late_members;
mod limits;
mod long_transfer;
mod settings;
mod successor;
mod warm_copies;
