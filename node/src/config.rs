//! Settings from the environment or flags, and the check that rejects contradictions at start.

mod followers;
mod http;
mod tls;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use kvcluster_api::config::{ConfigError, LiveConfig};
use kvcluster_api::delay::{DelayLaw, PRESETS};

pub(crate) use self::followers::name_of;
pub use self::followers::{Followers, parse_followers};
pub use self::http::HttpSettings;
pub use self::tls::TlsSettings;
use crate::protocol::leader::{Delay, DelayRange, FOLLOWERS_MAX, Limits};
use crate::tokens::{Access, Tokens};

/// How often a leader sends heartbeats, in milliseconds.
pub const HEARTBEAT_MS: u32 = 100;

/// The shortest silence after which a leader may count as lost: some heartbeats, one of which may be late.
const TAKEOVER_AFTER_MS_MIN: u32 = 3 * HEARTBEAT_MS;

/// Leader or follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Accepts writes and replicates them.
    Leader,
    /// Stores what the leader sends, and serves reads.
    Follower,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Where a follower stores its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// In memory: a follower that restarts is blank and receives the whole state again.
    Memory,
    /// In the data directory: every confirmed write is synced, and a restart keeps it.
    Disk,
}

/// The settings of a node. Each is an environment variable and a flag of the same name.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// What this node is
    #[arg(long, env = "ROLE", value_enum, default_value = "follower", ignore_case = true)]
    pub role: Role,
    /// Port of the HTTP interface; 0 takes a free one
    #[arg(long, env = "PORT", default_value_t = 8000)]
    pub port: u16,
    /// Address to listen on
    #[arg(long, env = "BIND_ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Name of this node; with DNS discovery it is the identity of a follower, and its trailing
    /// number is its ordinal
    #[arg(long, env = "NODE_NAME")]
    pub node_name: Option<String>,
    /// URL of this leader for clients, which followers report [default: http://NODE_NAME:PORT]
    #[arg(long, env = "ADVERTISE_URL")]
    pub advertise_url: Option<String>,
    /// Leader: comma-separated URLs of its followers, or dns://SERVICE:PORT for every address behind a headless service
    #[arg(long, env = "FOLLOWERS", default_value = "")]
    pub followers: String,
    /// Leader with dns://: how many followers are declared, regardless of what DNS answers
    #[arg(long, env = "FOLLOWER_COUNT", default_value_t = 5)]
    pub follower_count: u16,
    /// Leader: this cluster was open before; if all its followers are blank, wait for an operator
    /// instead of opening empty
    #[arg(long, env = "CLUSTER_OPENED", default_value_t = false, action = clap::ArgAction::Set)]
    pub cluster_opened: bool,
    /// This cluster starts from a backup: its nodes serve no client until a restore has ended
    #[arg(long, env = "AWAIT_RESTORE", default_value_t = false, action = clap::ArgAction::Set)]
    pub await_restore: bool,
    /// Leader: how many followers must confirm a write before it is acknowledged
    #[arg(long, env = "WRITE_QUORUM", default_value_t = 1)]
    pub write_quorum: u16,
    /// Leader: shortest random delay before a write is sent to a follower, in milliseconds [default: 0]
    #[arg(long, env = "MIN_DELAY_MS")]
    pub min_delay_ms: Option<u32>,
    /// Leader: longest random delay, in milliseconds [default: 200]
    #[arg(long, env = "MAX_DELAY_MS")]
    pub max_delay_ms: Option<u32>,
    /// Leader: the law of the random delays, in place of the shortest and the longest: JSON such as
    /// {"exponential":{"meanMs":40}}, or the name of a preset
    #[arg(long, env = "DELAY", value_name = "LAW")]
    pub delay: Option<String>,
    /// Leader: after how long a write without its quorum is answered as indeterminate, in milliseconds
    #[arg(long, env = "REPLICATION_TIMEOUT_MS", default_value_t = 5000)]
    pub replication_timeout_ms: u32,
    /// Leader: seed of the random delays [default: random]
    #[arg(long, env = "DELAY_SEED")]
    pub delay_seed: Option<u64>,
    /// Follower: where it stores its state [default: disk if DATA_DIR is set, otherwise memory]
    #[arg(long, env = "DURABILITY", value_enum, ignore_case = true)]
    pub durability: Option<Durability>,
    /// Follower: directory of its own for its state; created if it does not exist
    #[arg(long, env = "DATA_DIR")]
    pub data_dir: Option<String>,
    /// Name of the cluster: a follower refuses a data directory that was made for another one, and a leader writes it into
    /// backups [default at a leader: KVCLUSTER]
    #[arg(long, env = "CLUSTER_NAME")]
    pub cluster_name: Option<String>,
    /// Leader: the KvCluster that decides its configuration, as NAMESPACE/NAME; the page at / then shows the commands
    /// for kubectl
    #[arg(long, env = "KVCLUSTER")]
    pub kvcluster: Option<String>,
    /// Follower: maximum rate at which it reads its log again to find damage, in bytes per second;
    /// 0 disables it
    #[arg(long, env = "SCRUB_BYTES_PER_S", default_value_t = crate::store::disk::SCRUB_BYTES_PER_S)]
    pub scrub_bytes_per_s: u64,
    /// Bearer token that guards replication and administration; without it they are open
    #[arg(long, env = "AUTH_TOKEN", hide_env_values = true)]
    pub auth_token: Option<String>,
    /// File of such tokens, one in a line: the first is shown to other nodes, all are accepted, and a change needs no
    /// restart
    #[arg(long, env = "AUTH_TOKEN_FILE")]
    pub auth_token_file: Option<String>,
    /// File of the tokens of clients, one in a line, for HTTP and Redis' protocol; without it clients need none
    #[arg(long, env = "CLIENT_TOKEN_FILE")]
    pub client_token_file: Option<String>,
    /// Certificate of this node.
    #[command(flatten)]
    pub tls: TlsSettings,
    /// Limits of the HTTP interface.
    #[command(flatten)]
    pub http: HttpSettings,
    /// Leader: writes that may wait for their quorum at once; more are answered with 503
    #[arg(long, env = "WRITES_IN_FLIGHT_MAX", default_value_t = Limits::default().writes_in_flight)]
    pub writes_in_flight_max: usize,
    /// Leader: the same in bytes of keys and values; a single write is always accepted
    #[arg(long, env = "BYTES_IN_FLIGHT_MAX", default_value_t = Limits::default().bytes_in_flight)]
    pub bytes_in_flight_max: usize,
    /// Leader: reads that may wait for the followers to confirm that it still leads; more are answered with 503
    #[arg(long, env = "READS_WAITING_MAX", default_value_t = Limits::default().reads_waiting)]
    pub reads_waiting_max: usize,
    /// Leader: with fewer than WRITE_QUORUM followers connected for longer than this, clients are refused at once, in
    /// milliseconds
    #[arg(long, env = "CONNECT_GRACE_MS", default_value_t = (Limits::default().connect_grace_us / 1_000) as u32)]
    pub connect_grace_ms: u32,
    /// Leader: the same where fewer than WRITE_QUORUM followers answer heartbeats, in milliseconds
    #[arg(long, env = "ANSWER_GRACE_MS", default_value_t = (Limits::default().answer_grace_us / 1_000) as u32)]
    pub answer_grace_ms: u32,
    /// Leader: for how long followers must not have heard the leader before this process takes over, in milliseconds;
    /// 0 takes over at once, whoever leads
    #[arg(long, env = "TAKEOVER_AFTER_MS", default_value_t = 500)]
    pub takeover_after_ms: u32,
    /// Leader: keys that the comparison of followers in the background examines every 100 ms; 0
    /// disables it
    #[arg(long, env = "AUDIT_KEYS", default_value_t = Limits::default().audit_keys)]
    pub audit_keys: usize,
    /// Leader: time between two comparisons of all followers, in milliseconds
    #[arg(long, env = "AUDIT_PAUSE_MS", default_value_t = (Limits::default().audit_pause_us / 1_000) as u32)]
    pub audit_pause_ms: u32,
    /// Leader: writes kept for a follower that is behind; one further behind is caught up by difference
    #[arg(long, env = "BACKLOG_WRITES_MAX", default_value_t = Limits::default().backlog_writes)]
    pub backlog_writes_max: usize,
    /// Leader: the same in bytes of keys and values
    #[arg(long, env = "BACKLOG_BYTES_MAX", default_value_t = Limits::default().backlog_bytes)]
    pub backlog_bytes_max: usize,
    /// Port for Redis' protocol [default: none]
    #[arg(long, env = "RESP_PORT", default_value = "", hide_default_value = true, value_parser = optional_port)]
    pub resp_port: OptionalPort,
    /// Follower: port for replication alone, which FOLLOWERS of the leader then names [default: none, replication is at PORT]
    #[arg(long, env = "REPLICATION_PORT", default_value = "", hide_default_value = true, value_parser = optional_port)]
    pub replication_port: OptionalPort,
    /// Port for administration alone: PATCH /config, /auth, /backup, /hand-over, /recover and /restore [default: none, they
    /// are at PORT]
    #[arg(long, env = "ADMIN_PORT", default_value = "", hide_default_value = true, value_parser = optional_port)]
    pub admin_port: OptionalPort,
    /// Threads that serve connections; more than one pays on machines with cores to spare
    #[arg(long, env = "WORKER_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub worker_threads: u16,
    /// After a first signal: how long to wait for writes under way, in milliseconds
    #[arg(long, env = "DRAIN_TIMEOUT_MS", default_value_t = 10_000)]
    pub drain_timeout_ms: u32,
    /// Form of log lines
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text", ignore_case = true)]
    pub log_format: LogFormat,
    /// Which log lines: error, warn, info, debug, trace, or a filter such as kv_node=debug
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Violates a rule of the protocol, to test the checks
    #[cfg(feature = "deliberate-faults")]
    #[arg(long, env = "DELIBERATE_FAULT", value_enum)]
    pub deliberate_fault: Option<crate::deliberate::DeliberateFault>,
}

// A leader has one slot for each follower.
const _: () = assert!(kvcluster_api::config::FOLLOWERS_MAX as usize == FOLLOWERS_MAX);

impl From<&LiveConfig> for Delay {
    fn from(config: &LiveConfig) -> Self {
        if config.delay.is_some() {
            return Self::Law(Arc::new(config.delays()));
        }
        Self::Range(DelayRange { min_us: config.min_delay_ms * 1000, max_us: config.max_delay_ms * 1000 })
    }
}

/// The shortest and the longest delay where nothing is set, in milliseconds.
const DEFAULT_DELAY_MS: (u32, u32) = (0, 200);

/// The law that this text describes: a JSON object, or the name of a preset.
///
/// # Errors
/// [`ConfigError`] if it is neither, or if the law contradicts itself.
pub fn parse_delay(text: &str) -> Result<DelayLaw, ConfigError> {
    let law = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| ConfigError(format!("the delay {text} is no law: {error}")))?
    } else if PRESETS.contains(&text.trim()) {
        DelayLaw::preset(text.trim())
    } else {
        return fail(format!(
            "the delay {text:?} is neither JSON such as {{\"exponential\":{{\"meanMs\":40}}}} nor one of {}",
            PRESETS.join(", ")
        ));
    };
    law.resolve()?;
    Ok(law)
}

/// A port, unless the setting is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionalPort(Option<u16>);

fn optional_port(text: &str) -> Result<OptionalPort, String> {
    if text.is_empty() {
        return Ok(OptionalPort(None));
    }
    text.parse().map(|port| OptionalPort(Some(port))).map_err(|_| "not a port from 0 to 65535".to_owned())
}

impl Settings {
    /// The port for Redis' protocol; `None` if it is off.
    pub fn resp_port(&self) -> Option<u16> {
        self.resp_port.0
    }

    /// The port for replication; `None` if it has none of its own. A leader has no route of replication.
    pub fn replication_port(&self) -> Option<u16> {
        self.replication_port.0.filter(|_| self.role == Role::Follower)
    }

    /// The port for administration; `None` if it has none of its own.
    pub fn admin_port(&self) -> Option<u16> {
        self.admin_port.0
    }

    /// Refuses a port that is given twice. 0 is another one each time.
    ///
    /// # Errors
    /// [`ConfigError`] that names both settings.
    pub fn check_ports(&self) -> Result<(), ConfigError> {
        let ports = [
            ("PORT", Some(self.port)),
            ("RESP_PORT", self.resp_port()),
            ("REPLICATION_PORT", self.replication_port()),
            ("ADMIN_PORT", self.admin_port()),
        ];
        for (index, (setting, port)) in ports.iter().enumerate() {
            let twice = |(_, other): &&(&str, Option<u16>)| other.is_some_and(|other| other != 0) && other == port;
            if let Some((other, _)) = ports[..index].iter().find(twice) {
                let port = port.unwrap_or_default();
                return fail(format!("{setting} ({port}) is also {other}: give it a port of its own, or leave it out"));
            }
        }
        Ok(())
    }

    /// The checked start settings of a leader.
    ///
    /// # Errors
    /// [`ConfigError`] with one line for the user.
    pub fn leader(&self) -> Result<(Followers, LiveConfig), ConfigError> {
        let followers = parse_followers(&self.followers)?;
        let count = match &followers {
            Followers::Urls(urls) => u16::try_from(urls.len()).unwrap_or(u16::MAX),
            Followers::Dns { .. } => self.follower_count,
        };
        let mut live = LiveConfig {
            generation: 1,
            write_quorum: self.write_quorum,
            followers: count,
            min_delay_ms: self.min_delay_ms.unwrap_or(DEFAULT_DELAY_MS.0),
            max_delay_ms: self.max_delay_ms.unwrap_or(DEFAULT_DELAY_MS.1),
            delay: None,
            replication_timeout_ms: self.replication_timeout_ms,
        };
        // Empty as if it was not set: compose files pass such variables through.
        if let Some(text) = self.delay.as_deref().filter(|text| !text.trim().is_empty()) {
            let bounds = [("MIN_DELAY_MS", self.min_delay_ms), ("MAX_DELAY_MS", self.max_delay_ms)];
            if let Some((name, ms)) = bounds.iter().find_map(|(name, value)| value.map(|ms| (name, ms))) {
                return fail(format!("DELAY ({text}) and {name} ({ms}) are both set: give the law or its bounds"));
            }
            live.set_delay(&parse_delay(text)?)?;
        }
        live.check()?;
        self.limits()?;
        followers.check_scheme(self.tls.files()?.is_some())?;
        Ok((followers, live))
    }

    /// The limits of a leader.
    ///
    /// # Errors
    /// [`ConfigError`] if one contradicts another.
    pub fn limits(&self) -> Result<Limits, ConfigError> {
        let limits = Limits {
            writes_in_flight: self.writes_in_flight_max,
            bytes_in_flight: self.bytes_in_flight_max,
            reads_waiting: self.reads_waiting_max,
            connect_grace_us: u64::from(self.connect_grace_ms) * 1_000,
            answer_grace_us: u64::from(self.answer_grace_ms) * 1_000,
            takeover_rounds: self.takeover_after_ms.div_ceil(HEARTBEAT_MS),
            audit_keys: self.audit_keys,
            audit_pause_us: u64::from(self.audit_pause_ms) * 1_000,
            backlog_writes: self.backlog_writes_max,
            backlog_bytes: self.backlog_bytes_max,
            ..Limits::default()
        };
        if limits.writes_in_flight == 0 || limits.backlog_writes < limits.writes_in_flight {
            return fail(format!(
                "the limit of writes in flight ({}) must be at least 1 and at most the limit of the backlog ({} writes)",
                limits.writes_in_flight, limits.backlog_writes
            ));
        }
        if (1..TAKEOVER_AFTER_MS_MIN).contains(&self.takeover_after_ms) {
            return fail(format!(
                "TAKEOVER_AFTER_MS ({}) must be 0, or at least {TAKEOVER_AFTER_MS_MIN}: followers hear the leader every \
                 {HEARTBEAT_MS} ms",
                self.takeover_after_ms
            ));
        }
        Ok(limits)
    }

    /// The directory of a follower's state; `None` if the state is only in memory.
    ///
    /// # Errors
    /// [`ConfigError`] if durability is disk and no directory is set.
    pub fn data_dir(&self) -> Result<Option<&Path>, ConfigError> {
        let path = self.data_dir.as_deref().filter(|path| !path.is_empty()).map(Path::new);
        match (self.durability, path) {
            (Some(Durability::Memory), _) => Ok(None),
            (Some(Durability::Disk), None) => {
                fail("DURABILITY=disk needs a directory, and DATA_DIR is not set".to_owned())
            }
            (Some(Durability::Disk) | None, path) => Ok(path),
        }
    }

    /// The KvCluster that decides the configuration, `NAMESPACE/NAME`.
    pub fn kvcluster(&self) -> Option<&str> {
        self.kvcluster.as_deref().map(str::trim).filter(|name| !name.is_empty())
    }

    /// The name of the cluster; `None` if it is empty or has a line break.
    pub fn cluster(&self) -> Option<&str> {
        self.cluster_name.as_deref().map(str::trim).filter(|name| !name.is_empty() && !name.contains('\n'))
    }

    /// The name of this node: `NODE_NAME`, else the host name.
    pub fn name(&self) -> Arc<str> {
        let set = self.node_name.clone().filter(|name| !name.is_empty());
        let name = set.or_else(|| std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty()));
        let name = name.or_else(|| std::fs::read_to_string("/etc/hostname").ok().map(|name| name.trim().to_owned()));
        name.unwrap_or_else(|| "localhost".to_owned()).into()
    }

    /// Who may do what.
    ///
    /// # Errors
    /// If a file has no tokens, or the same token is set twice.
    pub fn access(&self) -> Result<Access, ConfigError> {
        let of_file = |setting, path: &Option<String>| match path.as_deref().filter(|path| !path.is_empty()) {
            Some(path) => Tokens::of_file(setting, path.into()).map(Some).or_else(|error| fail(error.to_string())),
            None => Ok(None),
        };
        let fixed = self.auth_token.as_deref().filter(|token| !token.is_empty());
        let cluster = match (fixed, of_file("AUTH_TOKEN_FILE", &self.auth_token_file)?) {
            (Some(_), Some(_)) => {
                let path = self.auth_token_file.as_deref().unwrap_or_default();
                return fail(format!("AUTH_TOKEN and AUTH_TOKEN_FILE ({path}) are both set: give one of them"));
            }
            (Some(token), None) => Some(Tokens::fixed("AUTH_TOKEN", token)),
            (None, of_file) => of_file,
        };
        let clients = of_file("CLIENT_TOKEN_FILE", &self.client_token_file)?;
        if clients.is_some() && cluster.is_none() {
            let path = self.client_token_file.as_deref().unwrap_or_default();
            return fail(format!(
                "CLIENT_TOKEN_FILE ({path}) is set without AUTH_TOKEN_FILE or AUTH_TOKEN: /backup and replication would \
                 show and change every key without a token"
            ));
        }
        Ok(Access { cluster, clients })
    }
}

fn fail<T>(message: String) -> Result<T, ConfigError> {
    Err(ConfigError(message))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        settings: Settings,
    }

    fn leader(arguments: &[&str]) -> Result<(Followers, LiveConfig), ConfigError> {
        let line = ["kv-node", "--role=leader"].iter().chain(arguments);
        Cli::try_parse_from(line).expect("arguments are well-formed").settings.leader()
    }

    const THREE: &str = "--followers=http://a:1,http://b:2,http://c:3";

    /// Each error is one line that names both values.
    #[test]
    fn contradictions_are_named() {
        let table: &[(&[&str], &str)] = &[
            (&[THREE, "--write-quorum=4"], "the write quorum (4) is above the number of followers (3)"),
            (
                &[THREE, "--write-quorum=0"],
                "the write quorum (0) must be at least 1 and at most the number of followers (3)",
            ),
            (
                &[THREE, "--min-delay-ms=300", "--max-delay-ms=200"],
                "the minimum delay (300 ms) is above the maximum delay (200 ms)",
            ),
            (
                &[THREE, "--delay=yammer", "--max-delay-ms=200"],
                "DELAY (yammer) and MAX_DELAY_MS (200) are both set: give the law or its bounds",
            ),
            (
                &[THREE, "--delay=jammer"],
                "the delay \"jammer\" is neither JSON such as {\"exponential\":{\"meanMs\":40}} nor one of linkedin-disk, \
                 yammer, wan-3-zones",
            ),
            (
                &[THREE, "--delay={\"exponential\":{\"meanMs\":-4}}"],
                "delay.exponential.meanMs is -4: it must be above 0 and at most 3600000",
            ),
            (
                &[THREE, "--delay={\"maxMs\":\"4\"}"],
                "the delay {\"maxMs\":\"4\"} is no law: invalid type: string \"4\", expected f64 at line 1 column 12",
            ),
            (&[THREE, "--replication-timeout-ms=0"], "the replication timeout (0 ms) must be from 1 to 3600000 ms"),
            (
                &[THREE, "--min-delay-ms=500", "--max-delay-ms=600", "--replication-timeout-ms=500"],
                "the minimum delay (500 ms) is not below the replication timeout (500 ms): no write could reach its \
                 quorum in time",
            ),
            (
                &["--followers=http://a:1,http://b:2/path"],
                "FOLLOWERS names \"http://b:2/path\", which has a path: expected http://HOST:PORT",
            ),
            (
                &["--followers=http://b:2?query"],
                "FOLLOWERS names \"http://b:2?query\", which has a query: expected http://HOST:PORT",
            ),
            (
                &["--followers=http://user@b:2"],
                "FOLLOWERS names \"http://user@b:2\", which has a user: expected http://HOST:PORT",
            ),
            (&[], "FOLLOWERS is empty: a leader needs at least one follower (URLs, or dns://SERVICE:PORT)"),
            (&["--followers=a:1"], "FOLLOWERS names \"a:1\", which is not an http:// or https:// URL"),
            (
                &["--followers=http://a:1,http://a:1/"],
                "FOLLOWERS names http://a:1 twice: one follower cannot confirm a write twice",
            ),
            (&["--followers=dns://demo"], "FOLLOWERS=dns://demo has no port: expected dns://SERVICE:PORT"),
            (
                &["--followers=dns://demo:8000", "--follower-count=65"],
                "the number of followers (65) must be from 1 to 64",
            ),
            (
                &[THREE, "--writes-in-flight-max=10", "--backlog-writes-max=9"],
                "the limit of writes in flight (10) must be at least 1 and at most the limit of the backlog (9 writes)",
            ),
            (
                &[THREE, "--takeover-after-ms=299"],
                "TAKEOVER_AFTER_MS (299) must be 0, or at least 300: followers hear the leader every 100 ms",
            ),
        ];
        for (arguments, expected) in table {
            let error = leader(arguments).expect_err(expected);
            assert_eq!(error.0, *expected);
            assert!(!error.0.contains('\n'));
        }
    }

    #[test]
    fn a_port_that_is_given_twice_is_refused() {
        let check = |arguments: &[&str]| {
            let line = ["kv-node"].iter().chain(arguments);
            let settings = Cli::try_parse_from(line).expect("arguments are well-formed").settings;
            settings.check_ports().map_err(|error| error.0)
        };
        for (arguments, error) in [
            (["--admin-port=8000", ""], "ADMIN_PORT (8000) is also PORT: give it a port of its own, or leave it out"),
            (["--resp-port=7", "--replication-port=7"], "REPLICATION_PORT (7) is also RESP_PORT"),
            (["--replication-port=9", "--admin-port=9"], "ADMIN_PORT (9) is also REPLICATION_PORT"),
        ] {
            let arguments: Vec<&str> = arguments.into_iter().filter(|one| !one.is_empty()).collect();
            let found = check(&arguments).expect_err(error);
            assert!(found.starts_with(error), "{found}");
        }
        for arguments in [
            &["--admin-port=8002", "--replication-port=8001", "--resp-port=6379"][..],
            &["--port=0", "--admin-port=0", "--replication-port=0"],
            &["--role=leader", "--replication-port=9", "--admin-port=9"],
            &["--admin-port=", "--replication-port="],
        ] {
            assert_eq!(check(arguments), Ok(()), "{arguments:?}");
        }
        let wrong = Cli::try_parse_from(["kv-node", "--admin-port=66000"]);
        assert!(wrong.is_err_and(|error| error.to_string().contains("not a port from 0 to 65535")));
    }

    #[test]
    fn contradicting_limits_are_named() {
        let check = |arguments: &[&str]| {
            let line = ["kv-node"].iter().chain(arguments);
            Cli::try_parse_from(line).expect("arguments are well-formed").settings.http.check().map_err(|error| error.0)
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["--value-bytes-max=60000000"]), Ok(()));
        let error = check(&["--value-bytes-max=66000000", "--key-bytes-max=66000"]).expect_err("too long for a frame");
        assert_eq!(
            error,
            "KEY_BYTES_MAX (66000) and VALUE_BYTES_MAX (66000000) together are above 66060288 bytes, the most that one \
             frame of the replication carries"
        );
        assert!(check(&["--value-bytes-max=18446744073709551615"]).is_err(), "no overflow");
        let error = check(&["--bodies-bytes-max=10000000"]).expect_err("too little");
        assert!(error.starts_with("BODIES_BYTES_MAX (10000000) is below the longest body ("), "{error}");
    }

    #[test]
    fn tokens_that_leave_a_door_open_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tokens");
        std::fs::write(&path, "a-token\n").expect("written");
        let path = path.display();
        let access = |arguments: &[String]| {
            let line = ["kv-node".to_owned()].into_iter().chain(arguments.iter().cloned());
            Cli::try_parse_from(line).expect("arguments are well-formed").settings.access().map_err(|error| error.0)
        };
        let (clients, cluster) = (format!("--client-token-file={path}"), format!("--auth-token-file={path}"));
        let fixed = "--auth-token=another".to_owned();
        assert_eq!(
            access(std::slice::from_ref(&clients)).expect_err("open"),
            format!(
                "CLIENT_TOKEN_FILE ({path}) is set without AUTH_TOKEN_FILE or AUTH_TOKEN: /backup and replication would \
                 show and change every key without a token"
            )
        );
        assert_eq!(
            access(&[fixed.clone(), cluster.clone()]).expect_err("two"),
            format!("AUTH_TOKEN and AUTH_TOKEN_FILE ({path}) are both set: give one of them")
        );
        for arguments in [vec![], vec![fixed.clone()], vec![clients.clone(), fixed], vec![clients, cluster]] {
            access(&arguments).expect("consistent");
        }
    }

    #[test]
    fn durability_follows_the_data_directory() {
        let settings = |arguments: &[&str]| {
            Cli::try_parse_from(["kv-node"].iter().chain(arguments)).expect("arguments are well-formed").settings
        };
        let data = Some(Path::new("/data"));
        assert_eq!(settings(&["--data-dir=/data"]).data_dir(), Ok(data));
        assert_eq!(settings(&["--data-dir=/data", "--durability=Disk"]).data_dir(), Ok(data));
        assert_eq!(settings(&["--data-dir=/data", "--durability=memory"]).data_dir(), Ok(None));
        assert_eq!(settings(&["--data-dir="]).data_dir(), Ok(None));
        let error = settings(&["--durability=disk"]).data_dir().expect_err("no directory");
        assert_eq!(error.0, "DURABILITY=disk needs a directory, and DATA_DIR is not set");
    }

    #[test]
    fn a_service_is_found_by_dns() {
        let (followers, live) = leader(&["--followers=dns://demo-followers:8000", "--write-quorum=3"]).expect("valid");
        assert_eq!(followers, Followers::Dns { host: "demo-followers".to_owned(), port: 8000 });
        assert_eq!((live.followers, live.write_quorum), (5, 3));
    }
}
