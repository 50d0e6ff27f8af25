//! What a write quorum costs, measured beside theory.
//!
//! The [`runner`] brings one quorum after the other into force and lets the [`workload`] write; [`analysis`] sets each run
//! beside [`theory`](crate::theory) with the means of [`stats`](crate::stats), [`consistency`] compares the replicas, [`findings`] says what it means, and
//! [`report`] writes it down.

pub mod analysis;
pub mod consistency;
pub mod findings;
pub mod progress;
pub mod report;
pub mod runner;
#[cfg(test)]
pub(crate) mod testing;
pub mod workload;
