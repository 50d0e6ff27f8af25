//! Goal: a client library works as it is. Method: the crate `redis`, its usual calls, in both versions of the protocol and
//! through the loss of leaders. The marked parts are the snippets of docs/clients.md.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use redis::{
    Client, Commands, Connection, ErrorKind, ExistenceCheck, RedisError, RedisResult, ServerErrorKind, SetOptions,
    ValueComparison, cmd, pipe,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{KV_BENCH, eventually};

// snippet: connect
/// A connection to one node, with time for a write to miss its quorum.
fn connect_to(address: &str) -> RedisResult<Connection> {
    let client = Client::open(format!("redis://{address}/?protocol=resp3"))?;
    let connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
    connection.set_read_timeout(Some(Duration::from_secs(15)))?;
    Ok(connection)
}

/// A connection to the node that leads. The other leader processes answer READONLY or LOADING.
fn find_leader(addresses: &[String]) -> RedisResult<Connection> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        for address in addresses {
            let found = connect_to(address).and_then(|mut redis| {
                redis.exists::<_, bool>("any key")?;
                Ok(redis)
            });
            if found.is_ok() || Instant::now() > deadline {
                return found;
            }
        }
        sleep(Duration::from_millis(100));
    }
}
// end

// snippet: use
fn use_it(redis: &mut Connection) -> RedisResult<()> {
    redis.set::<_, _, ()>("color", "blue")?;
    assert_eq!(redis.get::<_, String>("color")?, "blue");
    assert_eq!(redis.get::<_, Option<String>>("no such key")?, None);
    assert_eq!(redis.incr::<_, _, i64>("visits", 2)?, 2);
    let absent = SetOptions::default().conditional_set(ExistenceCheck::NX);
    assert_eq!(redis.set_options::<_, _, Option<String>>("color", "red", absent)?, None); // Refused: it has a value.
    let if_blue = SetOptions::default().value_comparison(ValueComparison::ifeq("blue"));
    redis.set_options::<_, _, ()>("color", "green", if_blue)?;
    assert_eq!(redis.mget::<_, (String, i64)>(&["color", "visits"])?, ("green".to_owned(), 2));
    assert_eq!(redis.del::<_, usize>(&["color", "visits"])?, 2);

    let mut pipeline = pipe();
    for number in 0..100 {
        pipeline.set(format!("p{number}"), number).ignore();
    }
    pipeline.query(redis)
}
// end

// snippet: errors
#[derive(Debug)]
enum Error {
    /// The command was applied, or will be, or never.
    Unknown(RedisError),
    /// The command is wrong, or no node leads.
    Failed(RedisError),
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(error) => write!(f, "it is not known whether the command was applied: {error}"),
            Self::Failed(error) => write!(f, "failed to run the command: {error}"),
        }
    }
}

/// What applying a command twice would do.
#[derive(Clone, Copy, PartialEq)]
enum Repeat {
    Never,
    Harmless,
}

/// Runs commands at the node that leads.
struct Leader {
    addresses: Vec<String>,
    connection: Connection,
}

impl Leader {
    fn new(addresses: Vec<String>) -> Result<Self, Error> {
        let connection = find_leader(&addresses).map_err(Error::Failed)?;
        Ok(Self { addresses, connection })
    }

    /// Repeats the command where nothing was applied, and where that is not known if it does no harm.
    fn run<T>(
        &mut self,
        repeat: Repeat,
        mut command: impl FnMut(&mut Connection) -> RedisResult<T>,
    ) -> Result<T, Error> {
        loop {
            let error = match command(&mut self.connection) {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::Server(ServerErrorKind::BusyLoading | ServerErrorKind::ReadOnly) => {} // Not applied.
                _ if !error.is_io_error() && error.code() != Some("INDETERMINATE") => return Err(Error::Failed(error)),
                _ if repeat == Repeat::Never => return Err(Error::Unknown(error)),
                _ => {}
            }
            self.connection = find_leader(&self.addresses).map_err(Error::Failed)?;
        }
    }
}
// end

async fn cluster(logs: &TempDir, settings: &[(&str, &str)]) -> LocalCluster {
    let environment = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum: 2,
        max_delay_ms: 0,
        environment,
        ..LocalClusterOptions::new(KV_BENCH, logs.path())
    };
    let mut cluster = LocalCluster::start(options).await.expect("starts");
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

fn connect(address: &str, protocol: &str) -> RedisResult<Connection> {
    Client::open(format!("redis://{address}/?protocol={protocol}"))?.get_connection()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_library_works_as_it_is() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, &[]).await;
    let (leader, follower) = (cluster.leader_redis(), cluster.follower_redis(0));
    let used = tokio::task::spawn_blocking(move || -> RedisResult<()> {
        for protocol in ["resp2", "resp3"] {
            let mut redis = connect(&leader, protocol)?;
            let key = |name: &str| format!("{protocol}-{name}");
            redis.set::<_, _, ()>(key("bytes"), &b"\x00\xff"[..])?;
            assert_eq!(redis.get::<_, Vec<u8>>(key("bytes"))?, b"\x00\xff");
            assert_eq!(redis.get::<_, Option<String>>(key("none"))?, None);
            let absent = || SetOptions::default().conditional_set(ExistenceCheck::NX);
            assert_eq!(redis.set_options::<_, _, Option<String>>(key("lock"), "me", absent())?.as_deref(), Some("OK"));
            assert_eq!(redis.set_options::<_, _, Option<String>>(key("lock"), "you", absent())?, None);
            assert_eq!(redis.incr::<_, _, i64>(key("n"), 40)?, 40);
            assert_eq!(redis.incr::<_, _, i64>(key("n"), 2)?, 42);
            assert_eq!(redis.append::<_, _, usize>(key("n"), "7")?, 3);
            assert_eq!(
                redis.mget::<_, (u32, Option<String>, String)>(&[key("n"), key("none"), key("lock")])?,
                (427, None, "me".to_owned())
            );
            assert_eq!(redis.del::<_, usize>(&[key("n"), key("none")])?, 1);
            assert!(!redis.exists::<_, bool>(key("n"))?);

            let mut pipeline = pipe();
            for number in 0..500 {
                pipeline.set(key(&format!("p{number}")), number).ignore().get(key(&format!("p{number}")));
            }
            assert_eq!(pipeline.query::<Vec<u32>>(&mut redis)?, (0..500).collect::<Vec<_>>());
            let found: BTreeSet<String> = redis.scan_match(key("p*"))?.collect::<RedisResult<_>>()?;
            assert_eq!(found.len(), 500);
            assert_eq!(cmd("WAIT").arg(3).arg(0).query::<usize>(&mut redis)?, 3);

            // A transaction is refused, and nothing of it is applied. (`pipe().atomic()` of this version
            // does not expect that MULTI itself fails.)
            let mut transaction = pipe();
            for command in ["MULTI", "INCR", "EXEC"] {
                transaction.cmd(command);
                if command == "INCR" {
                    transaction.arg(key("tx"));
                }
            }
            assert!(transaction.query::<()>(&mut redis).is_err());
            assert!(!redis.exists::<_, bool>(key("tx"))?);
            assert!(redis.expire::<_, bool>(key("lock"), 5).is_err(), "there is no expiry");

            let mut redis = connect(&follower, protocol)?;
            let error = redis.set::<_, _, ()>(key("n"), 1).expect_err("a follower");
            assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly), "{error}");
        }
        Ok(())
    });
    used.await.expect("no panic").expect("every call succeeds");
}

/// Goal: the snippets of docs/clients.md are right: writes go on through the loss of leaders, and nothing that was acknowledged
/// is lost. Method: a leader and its standby, which are killed in turn while a client writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_library_gets_over_the_loss_of_leaders() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, &[("TAKEOVER_AFTER_MS", "500")]).await;
    cluster.start_rival().await.expect("the standby starts");
    let addresses = vec![cluster.leader_redis(), cluster.rivals_redis()[0].clone()];
    let (written, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, stop) = (written.clone(), last.clone());
    let writes = tokio::task::spawn_blocking(move || -> Result<(), Error> {
        let mut leader = Leader::new(addresses)?;
        use_it(&mut leader.connection).map_err(Error::Failed)?;
        let mut keys = Vec::new();
        while !stop.load(Ordering::SeqCst) {
            let key = format!("k{}", keys.len());
            leader.run(Repeat::Harmless, |redis| redis.set::<_, _, ()>(&key, &key))?;
            keys.push(key);
            count.fetch_add(1, Ordering::SeqCst);
        }
        assert_eq!(leader.run(Repeat::Harmless, |redis| redis.mget::<_, Vec<String>>(&keys))?, keys);
        Ok(())
    });
    let more = async |what: &str| {
        let target = written.load(Ordering::SeqCst) + 50;
        eventually(what, async || (written.load(Ordering::SeqCst) >= target).then_some(())).await;
    };
    more("writes").await;
    cluster.kill_leader().expect("killed");
    more("writes at the standby").await;
    cluster.start_leader().await.expect("starts");
    let (client, url) = (reqwest::Client::new(), format!("{}/status", cluster.leader_url()));
    let status = async || client.get(&url).send().await.ok()?.json::<Value>().await.ok();
    let is_standby = async || status().await.filter(|status| status["state"] == "standby");
    eventually("the killed leader is the standby", is_standby).await;
    cluster.kill_rivals().expect("killed");
    more("writes at the first leader").await;
    last.store(true, Ordering::SeqCst);
    if let Err(error) = writes.await.expect("no panic") {
        panic!("{error}");
    }
}

/// Goal: the outcome of a command is reported as it is. Method: two of three followers are stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_library_learns_what_became_of_a_command() {
    let logs = TempDir::new().expect("a directory");
    let settings = [("REPLICATION_TIMEOUT_MS", "300"), ("ANSWER_GRACE_MS", "1500")];
    let cluster = cluster(&logs, &settings).await;
    let address = cluster.leader_redis();
    let mut leader = Leader::new(vec![address]).expect("connects");
    leader.run(Repeat::Harmless, |redis| redis.set::<_, _, ()>("n", 0)).expect("written");
    for index in [0, 1] {
        cluster.pause_follower(index).expect("paused");
    }
    tokio::task::spawn_blocking(move || {
        match leader.run(Repeat::Never, |redis| redis.incr::<_, _, i64>("n", 1)) {
            Err(Error::Unknown(error)) => assert_eq!(error.code(), Some("INDETERMINATE"), "{error}"),
            other => panic!("no quorum: {other:?}"),
        }
        loop {
            let error = leader.connection.set::<_, _, ()>("k", "v").expect_err("no quorum");
            if error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading) {
                break;
            }
            assert_eq!(error.code(), Some("INDETERMINATE"), "{error}");
        }
    })
    .await
    .expect("no panic");
}
