//! Measures what a write quorum costs, and checks that nothing is lost.
//!
//! Each wing is one subcommand or a few of them, and [`cli`] reads what is asked for:
//! - [`sweep`] measures each quorum beside theory;
//! - [`staleness`] measures how often reads at followers are stale, beside theory;
//! - [`advise`] says which quorums meet targets, by theory alone;
//! - [`load`] measures what a cluster can do at most and at what price, also beside other systems and its own settings;
//! - [`check`] breaks a cluster and says whether what its clients saw was linearizable;
//! - [`report`] makes one document of the results in a directory;
//! - [`top`] follows a cluster in the terminal;
//! - [`kvctl`], a program of its own, saves a cluster's state and restores it. `kubectl-kv` (module `kubectl`) does this and
//!   more for KvClusters, with [`cli`] for a sweep and a check.
//!
//! They share [`cluster`], which finds or starts the cluster (each local node is a [`node_command`]), the [`client`] of one
//! node, [`draw`] for pictures, [`stats`], [`theory`], [`progress`], [`output`] and [`interrupt`]. Wings do not use each other, and no two modules
//! use each other in a circle.

pub mod advise;
pub mod check;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod commands;
pub mod draw;
pub mod interrupt;
#[cfg(feature = "kubernetes")]
pub mod kubectl;
pub mod kvctl;
pub mod load;
pub mod node_command;
pub mod output;
pub mod progress;
pub mod report;
pub mod staleness;
pub mod stats;
pub mod sweep;
pub mod theory;
pub mod top;
