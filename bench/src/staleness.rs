//! How often a read at a follower misses an acknowledged write, measured beside theory.
//!
//! The [`runner`] brings each law and quorum into force and lets the clients of [`probe`] write, and read what they wrote
//! at followers; [`analysis`] sets the stale reads beside [`theory`](crate::theory), and [`report`] writes them down.
//!
//! **What is known of an instant.** Only the clocks of the clients count, and one client sends a write and its reads. It
//! sends the write at `s` and has its answer at `a`. The leader draws the delays after `s`, and the quorum's delay `q` is
//! over before `a`; so the commit is between `s + q` and `a`. A read that begins at `b` and ends at `e` reads at an instant
//! in between. So from commit to read it takes from `b − a` to `e − s − q`, and theory allows a stale read with a chance
//! between its values at these two times. What a follower needs to receive and apply a write beyond its delay is part of
//! the measurement: it makes reads stale for longer.

pub mod analysis;
pub mod probe;
pub mod report;
pub mod runner;
#[cfg(test)]
pub(crate) mod testing;
