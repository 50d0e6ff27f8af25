//! The types that nodes, operator and bench share: the bodies of HTTP requests and answers, and the
//! KvCluster resource.
//!
//! - [`config`]: `GET /config` and `PATCH /config`, and the bounds of each value.
//! - [`delay`]: the law of the random delays, and its checks.
//! - [`status`]: `GET /status` of a leader and of a follower.
//! - [`error`]: the body of an answer that reports an error.
//! - [`tolerance`]: which failures a cluster of N followers with write quorum W survives.
//! - `resource` (feature `resource`): the KvCluster, its spec and its status.
//!
//! A reader ignores fields that it does not know, so that a newer node can add some. Counts of followers are `u16`,
//! milliseconds `u32`, generations `u64`.

pub mod config;
pub mod delay;
pub mod error;
#[cfg(feature = "resource")]
pub mod resource;
pub mod status;
pub mod tolerance;
