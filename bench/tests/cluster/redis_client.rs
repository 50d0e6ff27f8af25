//! Goal: a client library works as it is. Method: the crate `redis`, its usual calls, in both versions of the protocol and
//! through the loss of a leader.

use std::collections::BTreeSet;

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use redis::{
    Client, Commands, Connection, ErrorKind, ExistenceCheck, RedisResult, ServerErrorKind, SetOptions, cmd, pipe,
};
use tempfile::TempDir;

use crate::support::{KV_BENCH, eventually};

async fn cluster(logs: &TempDir) -> LocalCluster {
    let options = LocalClusterOptions {
        followers: 3,
        write_quorum: 2,
        max_delay_ms: 0,
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
    let cluster = cluster(&logs).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_client_library_gets_over_the_loss_of_a_leader() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs).await;
    let client = Client::open(format!("redis://{}/", cluster.leader_redis())).expect("a URL");
    let mut redis = client.get_connection().expect("connects");
    redis.set::<_, _, ()>("k", "before").expect("written");
    cluster.kill_leader().expect("killed");
    let error = redis.set::<_, _, ()>("k", "lost").expect_err("no leader");
    assert!(error.is_connection_dropped() || error.is_io_error(), "{error}");
    // As a program does: connect again, and send again while the node is loading.
    cluster.start_leader().await.expect("starts");
    let value = eventually("the leader again", async || {
        let mut redis = client.get_connection().ok()?;
        match redis.get::<_, String>("k") {
            Ok(value) => Some(value),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Server(ServerErrorKind::BusyLoading), "{error}");
                None
            }
        }
    })
    .await;
    assert_eq!(value, "before");
}
