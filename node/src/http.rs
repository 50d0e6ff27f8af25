//! The HTTP interface of a node: JSON, errors included.
//!
//! - [`listen`] opens sockets. [`connections`] accepts connections and serves requests on them. [`activity`] decides when to
//!   close one, from the progress that [`client_stream`] records.
//! - [`doors`] keeps routes to the ports that are theirs.
//! - [`gate`] checks the head of a request, and [`refusal`] answers one that is not HTTP. [`routes`]
//!   decides which handler answers a request; [`guard`] checks the token first.
//! - [`body`] reads and parses request bodies. [`answer`] and [`error`] make answers, [`stream`]
//!   long ones. A [`budget`] bounds the memory of bodies and of long answers.
//! - [`kv`], [`batch`], [`keys`], [`dump`], [`backup`], [`restore`], [`replica`] and [`admin`] are the handlers.
//! - [`status`] makes the answers of `GET /status`.
//! - [`openapi`] serves the description of the routes.
//! - [`page`] is the page for browsers, [`live`] the events that it shows, and [`replicas`] its reads at
//!   followers. [`watch`] sends committed changes, [`leadership`] who leads.

mod activity;
mod admin;
mod answer;
mod backup;
mod batch;
mod body;
mod budget;
mod client_stream;
mod conditions;
mod connections;
mod doors;
mod dump;
pub mod error;
mod first;
mod gate;
mod guard;
mod http1;
mod http2;
mod incr;
mod keys;
mod kv;
mod leadership;
mod listen;
mod live;
mod openapi;
mod page;
mod refusal;
mod replica;
mod replicas;
mod restore;
mod routes;
mod status;
mod stream;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Notify, Semaphore};

pub(crate) use self::activity::TimeLimits;
pub use self::body::Bodies;
pub use self::budget::Budget;
pub(crate) use self::connections::{ConnectionLimits, SPARE_CONNECTIONS, Service, accept, open, serve};
pub(crate) use self::doors::{Apart, Behind};
pub(crate) use self::first::{HTTP1, HTTP2};
pub use self::gate::Gate;
pub(crate) use self::guard::Purpose;
pub(crate) use self::keys::PAGES_AT_ONCE;
pub use self::kv::put_fields;
pub(crate) use self::listen::listen;
use self::live::Pages;
use self::replicas::Replicas;
pub(crate) use self::restore::RESTORE_BYTES_MAX;
pub use self::routes::{FollowerService, LeaderService};
use crate::metrics::LeaderMetrics;
use crate::replication::coordinator::Coordinator;
use crate::replication::replica::Replica;
use crate::tls::{self, Tls};
use crate::tokens::{Access, FileState};

/// Settings and resources that all handlers share.
#[derive(Clone, Debug)]
pub struct Site {
    /// Name of this node.
    pub name: Arc<str>,
    /// Who may do what.
    pub access: Access,
    /// The certificate of this node; `None` where its ports speak without TLS.
    pub tls: Option<Arc<Tls>>,
    /// Longest key, in bytes.
    pub key_bytes_max: usize,
    /// Longest value, in bytes.
    pub value_bytes_max: usize,
    /// Bounds of the request bodies.
    pub bodies: Bodies,
    /// Memory for long answers that clients have not read yet.
    pub answers: Budget,
    /// Places for dumps.
    pub dumps: Arc<Semaphore>,
    /// Places for pages of keys.
    pub key_pages: Arc<Semaphore>,
    /// The origins and names that this node serves.
    pub gate: Arc<Gate>,
    /// Set once this node is shutting down.
    pub draining: Arc<AtomicBool>,
    /// The KvCluster that decides the configuration of this node, `NAMESPACE/NAME`.
    pub kvcluster: Option<Arc<str>>,
    /// The name of the cluster, which a leader writes into backups.
    pub cluster: Option<Arc<str>>,
}

impl Site {
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The files that this node reads again while it runs.
    pub(crate) fn files(&self) -> Vec<FileState> {
        let certificate = self.tls.iter().map(|tls| FileState { setting: tls::SETTING, trouble: tls.trouble() });
        self.access.files().chain(certificate).collect()
    }

    fn body_bytes_max(&self) -> usize {
        body_bytes_max(self.key_bytes_max, self.value_bytes_max)
    }

    /// Small limits.
    #[cfg(test)]
    fn for_tests() -> Self {
        Self {
            name: "node".into(),
            access: Access::default(),
            tls: None,
            key_bytes_max: 100,
            value_bytes_max: 1_000,
            bodies: Bodies::new(1 << 20, std::time::Duration::from_secs(30)),
            answers: Budget::new(1 << 20),
            dumps: Arc::new(Semaphore::new(2)),
            key_pages: Arc::new(Semaphore::new(2)),
            gate: Arc::default(),
            draining: Arc::default(),
            kvcluster: None,
            cluster: None,
        }
    }
}

/// Longest body of a single write, in bytes. JSON may escape every byte of a string as six.
pub(crate) const fn body_bytes_max(key_bytes_max: usize, value_bytes_max: usize) -> usize {
    (key_bytes_max + value_bytes_max) * 6 + 1024
}

/// The state of a leader's handlers.
#[derive(Clone)]
pub struct LeaderSite {
    pub(crate) site: Site,
    pub(crate) leader: Arc<Coordinator>,
    pub(crate) metrics: Arc<LeaderMetrics>,
    /// Whether the number of followers can change: it cannot where they are listed by URL.
    pub(crate) resizable: bool,
    /// Allows one backup at a time: during a backup the leader may keep a second version of every
    /// key.
    pub(crate) backups: Arc<Semaphore>,
    /// Ends this leader in order.
    pub(crate) hand_over: Arc<Notify>,
    pub(crate) pages: Arc<Pages>,
    pub(crate) replicas: Arc<Replicas>,
    /// Places for watches.
    pub(crate) watches: Arc<Semaphore>,
    /// Places for streams of the leadership.
    pub(crate) leaderships: Arc<Semaphore>,
}

/// The state of a follower's handlers.
#[derive(Clone)]
pub struct FollowerSite {
    pub(crate) site: Site,
    pub(crate) replica: Arc<Replica>,
    /// Places for leaders that speak the replication protocol.
    pub(crate) leaders: Arc<Semaphore>,
}
