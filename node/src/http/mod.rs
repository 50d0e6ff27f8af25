//! How the world reaches a node: JSON over HTTP, errors included.
//!
//! - [`connections`] accepts connections and serves requests on them.
//! - [`routes`] decides which handler answers a request; [`guard`] checks the token first.
//! - [`body`] reads and parses request bodies, [`answer`] and [`error`] make answers, [`stream`] makes long ones.
//! - [`kv`], [`dump`], [`backup`], [`restore`], [`replica`] and [`admin`] are the handlers.

mod admin;
mod answer;
mod backup;
mod body;
mod connections;
mod dump;
pub mod error;
mod guard;
mod kv;
mod replica;
mod restore;
mod routes;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

pub(crate) use self::connections::{Service, serve};
pub use self::kv::put_fields;
pub use self::routes::{FollowerService, LeaderService};
use crate::metrics::LeaderMetrics;
use crate::replication::coordinator::Coordinator;
use crate::replication::replica::Replica;

/// What every handler needs beside the node itself.
#[derive(Clone, Debug)]
pub struct Site {
    /// Name of this node.
    pub name: Arc<str>,
    /// Guards replication and administration.
    pub token: Option<Arc<str>>,
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
    /// Set once this node is shutting down.
    pub draining: Arc<AtomicBool>,
}

impl Site {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Longest body of a single write. JSON may escape every byte of a string as six.
    fn body_bytes_max(&self) -> usize {
        (self.key_bytes_max + self.value_bytes_max) * 6 + 1024
    }
}

/// The state of a leader's handlers.
#[derive(Clone)]
pub struct LeaderSite {
    pub(crate) site: Site,
    pub(crate) leader: Arc<Coordinator>,
    pub(crate) metrics: Arc<LeaderMetrics>,
    /// Whether the number of followers can change: it cannot where they are listed by URL.
    pub(crate) resizable: bool,
    /// One backup at a time: each holds a list of all keys.
    pub(crate) backups: Arc<Semaphore>,
}

/// The state of a follower's handlers.
#[derive(Clone)]
pub struct FollowerSite {
    pub(crate) site: Site,
    pub(crate) replica: Arc<Replica>,
}
