//! Settings of the HTTP interface. docs/limits.md lists all limits, with what happens beyond each.

use std::time::Duration;

use clap::Args;

use super::{ConfigError, fail};
use crate::http::{Bodies, Budget, Gate, RESTORE_BYTES_MAX, TimeLimits, body_bytes_max};
use crate::replication::replica::ForeignLimits;
use crate::replication::wire::RECORD_BYTES_MAX;
use crate::shutdown;

/// Default memory for bodies, unless one body alone needs more.
const BODIES_BYTES: usize = 64 << 20;

/// Default memory for long answers, unless one answer alone needs more.
const ANSWERS_BYTES: usize = 256 << 20;

/// Settings of the HTTP interface. Each is an environment variable and a flag of the same name.
#[derive(Clone, Debug, Args)]
pub struct HttpSettings {
    /// Longest key, in bytes
    #[arg(long, env = "KEY_BYTES_MAX", default_value_t = 4096)]
    pub key_bytes_max: usize,
    /// Longest value, in bytes
    #[arg(long, env = "VALUE_BYTES_MAX", default_value_t = 1 << 20)]
    pub value_bytes_max: usize,
    /// Connections that are served at once, as far as the limit of open files allows; more are answered with 503
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 16_384)]
    pub connections_max: usize,
    /// How long the head of a request may take, from the connection or from its first byte, in milliseconds
    #[arg(long, env = "HEAD_TIMEOUT_MS", default_value_t = 10_000, value_parser = milliseconds())]
    pub head_timeout_ms: u32,
    /// How long the body of a request may take, in milliseconds; then 408
    #[arg(long, env = "BODY_TIMEOUT_MS", default_value_t = 30_000, value_parser = milliseconds())]
    pub body_timeout_ms: u32,
    /// How long a connection may be idle between two requests, in milliseconds
    #[arg(long, env = "IDLE_TIMEOUT_MS", default_value_t = 120_000, value_parser = milliseconds())]
    pub idle_timeout_ms: u32,
    /// How long a client may read nothing of its answer, in milliseconds
    #[arg(long, env = "STALL_TIMEOUT_MS", default_value_t = 30_000, value_parser = milliseconds())]
    pub stall_timeout_ms: u32,
    /// How long the rest of a request is read after an early answer, such as 413, in milliseconds
    #[arg(long, env = "LINGER_TIMEOUT_MS", default_value_t = 5_000, value_parser = milliseconds())]
    pub linger_timeout_ms: u32,
    /// Memory for the bodies of all requests together, in bytes; beyond it 503 [default: 64 MiB, or more for long values]
    #[arg(long, env = "BODIES_BYTES_MAX")]
    pub bodies_bytes_max: Option<usize>,
    /// Memory for the long answers of reads until clients have read them, in bytes; beyond it 503 [default: 256 MiB, or more
    /// for long values]
    #[arg(long, env = "ANSWERS_BYTES_MAX")]
    pub answers_bytes_max: Option<usize>,
    /// Dumps that are sent at once; more are answered with 429
    #[arg(long, env = "DUMPS_MAX", default_value_t = 8)]
    pub dumps_max: usize,
    /// Comma-separated origins of web pages, other than the node's own, that may use this node, such as
    /// https://app.example
    #[arg(long, env = "ALLOWED_ORIGINS", default_value = "")]
    pub allowed_origins: String,
    /// Comma-separated names of this node; requests for other names are answered with 421. Addresses and localhost are
    /// always served [default: every name]
    #[arg(long, env = "HOST_NAMES", default_value = "", hide_default_value = true)]
    pub host_names: String,
    /// Follower: keys that POST /replicate may store; more are answered with 503
    #[arg(long, env = "FOREIGN_KEYS_MAX", default_value_t = ForeignLimits::default().keys)]
    pub foreign_keys_max: usize,
    /// Follower: the same in bytes of keys and values
    #[arg(long, env = "FOREIGN_BYTES_MAX", default_value_t = ForeignLimits::default().bytes)]
    pub foreign_bytes_max: usize,
}

fn milliseconds() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(kvcluster_api::config::MILLISECONDS_MAX))
}

/// Rejects a budget that is too small for one body or answer, or too large for a semaphore.
fn check_budget(setting: &str, bytes: Option<usize>, what: &str, longest: usize) -> Result<(), ConfigError> {
    match bytes {
        Some(bytes) if bytes < longest => fail(format!(
            "{setting} ({bytes}) is below the longest {what} ({longest} bytes, by KEY_BYTES_MAX and VALUE_BYTES_MAX)"
        )),
        Some(bytes) if bytes > u32::MAX as usize => fail(format!("{setting} ({bytes}) is above {} bytes", u32::MAX)),
        _ => Ok(()),
    }
}

impl HttpSettings {
    /// Rejects limits that contradict each other.
    ///
    /// # Errors
    /// [`ConfigError`] with one line that names the values.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { key_bytes_max, value_bytes_max, .. } = self;
        if key_bytes_max.saturating_add(*value_bytes_max) > RECORD_BYTES_MAX {
            return fail(format!(
                "KEY_BYTES_MAX ({key_bytes_max}) and VALUE_BYTES_MAX ({value_bytes_max}) together are above \
                 {RECORD_BYTES_MAX} bytes, the most that one frame of the replication carries"
            ));
        }
        self.gate()?;
        check_budget("BODIES_BYTES_MAX", self.bodies_bytes_max, "body", self.longest_body())?;
        check_budget("ANSWERS_BYTES_MAX", self.answers_bytes_max, "answer", self.longest_answer())
    }

    /// The longest body that a route accepts, in bytes.
    fn longest_body(&self) -> usize {
        self.longest_answer() + RESTORE_BYTES_MAX
    }

    /// The longest answer of a read, in bytes. It contains a key and a value, like the longest body
    /// of a write.
    fn longest_answer(&self) -> usize {
        body_bytes_max(self.key_bytes_max, self.value_bytes_max)
    }

    /// The origins and names that the node serves.
    ///
    /// # Errors
    /// [`ConfigError`] if a value is no origin or no name.
    pub fn gate(&self) -> Result<Gate, ConfigError> {
        Gate::new(&self.allowed_origins, &self.host_names)
    }

    /// Bounds of the request bodies.
    pub fn bodies(&self) -> Bodies {
        let bytes = self.bodies_bytes_max.unwrap_or_else(|| BODIES_BYTES.max(2 * self.longest_body()));
        Bodies::new(bytes, Duration::from_millis(self.body_timeout_ms.into()))
    }

    /// Memory for long answers.
    pub fn answers(&self) -> Budget {
        Budget::new(self.answers_bytes_max.unwrap_or_else(|| ANSWERS_BYTES.max(2 * self.longest_answer())))
    }

    /// How long each phase of a connection may take.
    pub(crate) fn times(&self) -> TimeLimits {
        let milliseconds = |milliseconds: u32| Duration::from_millis(milliseconds.into());
        TimeLimits {
            head: milliseconds(self.head_timeout_ms),
            idle: milliseconds(self.idle_timeout_ms),
            stall: milliseconds(self.stall_timeout_ms),
            linger: milliseconds(self.linger_timeout_ms),
            last: shutdown::LAST_REQUEST_MAX,
        }
    }

    /// Bounds of what `POST /replicate` may store.
    pub fn foreign(&self) -> ForeignLimits {
        ForeignLimits { keys: self.foreign_keys_max, bytes: self.foreign_bytes_max }
    }
}
