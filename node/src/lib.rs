//! The node of kvcluster: a leader that takes writes, or a follower that keeps them.
//!
//! The journey of a write, in the order of the modules:
//!
//! 1. [`http`] reads `POST /put` and hands the write to the leader.
//! 2. [`protocol::leader`] gives it the next sequence number of its key, draws a random wait for each follower, and
//!    remembers it as pending. It decides; it touches neither clock nor socket.
//! 3. [`replication::timer`] waits. [`replication::coordinator`] is the lock around the decisions, and carries them out.
//! 4. The connection to each follower sends everything that is due in one go, as [`replication::wire`] frames it.
//! 5. [`replication::replica`] takes it to [`protocol::follower`], which keeps what is newer, [`store`] makes it as durable
//!    as it is meant to be, and the confirmation goes back.
//! 6. The W-th confirmation commits the write, and the client is answered.
//!
//! [`config`] says what can be set, [`kvcluster_api`] what is shown, [`backup`] what a state looks like in a file, [`cli`]
//! is the program.

pub mod backup;
pub mod cli;
pub mod config;
pub mod deliberate;
pub mod descriptors;
pub mod http;
pub mod metrics;
pub mod protocol;
pub mod replication;
pub mod shutdown;
pub mod store;
