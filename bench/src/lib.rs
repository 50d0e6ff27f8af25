//! What a write quorum costs, measured beside theory.
//!
//! A sweep flows through the modules in this order: [`cli`] reads what is asked for, [`target`] finds or starts the
//! cluster ([`cluster`] runs nodes as processes, each of them [`node_command`]), [`runner`] has one quorum after the other
//! put in force by whoever is in [`control`], the leader or a KvCluster, and lets the [`workload`] write through the
//! [`client`], [`analysis`] sets each run beside [`theory`] with the means of [`stats`], [`consistency`] compares the
//! replicas, [`findings`] says what it means, and [`report`] writes it down. What a cluster can do at most, and at what
//! price, is measured by [`load`], set beside other systems by [`compare`], and beside its own settings by [`curves`];
//! how long it needs to be itself again with many keys, by [`recovery`]; what it occupies, by [`footprint`]. [`backup`] takes its state
//! out and puts it in.
//!
//! [`check`] breaks a cluster and says whether what its clients saw was linearizable.

pub mod analysis;
pub mod backup;
pub mod chart;
pub mod check;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod compare;
pub mod consistency;
pub mod control;
pub mod curves;
pub mod findings;
pub mod footprint;
pub mod interrupt;
pub mod load;
pub mod node_command;
pub mod progress;
pub mod recovery;
pub mod report;
pub mod runner;
pub mod stats;
pub mod target;
#[cfg(test)]
mod testing;
pub mod theory;
pub mod workload;
