//! Tests of a follower's data directory.
//!
//! Method: directories are made by the shipped store, copied while it runs (that is what a killed process leaves behind),
//! harmed, and opened again. What comes back is compared with a follower that was never stopped. Every fault of every file
//! operation is tried on a simulated disk.

mod crash;
mod damage;
#[allow(dead_code, reason = "shared with others, which use all of it")]
#[path = "../shared/direct.rs"]
mod direct;
#[allow(dead_code, reason = "shared with others, which use all of it")]
#[path = "../shared/files.rs"]
mod files;
mod image;
mod mend;
mod rejoin;
mod restart;
