//! The node of kvcluster: a leader that accepts writes, or a follower that stores them.
//!
//! The journey of a write, in the order of the modules:
//!
//! 1. [`http`] reads `POST /put`, or `resp` a command of Redis' protocol, and hands the write to the
//!    leader.
//! 2. [`protocol::leader`] assigns the next sequence number of the key, draws a random delay for
//!    each follower, and keeps the write as pending. It only decides; it uses neither clock nor
//!    socket.
//! 3. [`replication::timer`] waits for the delays. [`replication::coordinator`] locks the leader
//!    and carries out its decisions.
//! 4. The connection to each follower sends all writes that are due together, as frames of
//!    [`replication::wire`].
//! 5. [`replication::replica`] passes them to [`protocol::follower`], which keeps the newer
//!    records. [`store`] stores them, in memory or on a disk. Then the follower confirms them.
//! 6. The W-th confirmation commits the write, and the leader answers the client.
//!
//! [`config`] has the settings, [`kvcluster_api`] the types of the HTTP API, [`backup`] the format
//! of a backup, and [`cli`] the program.

pub mod backup;
pub mod cli;
pub mod config;
pub mod deliberate;
pub mod descriptors;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
pub mod http;
pub mod metrics;
pub mod protocol;
pub mod replication;
mod resp;
pub mod shutdown;
pub mod store;
pub mod tls;
pub mod tokens;
