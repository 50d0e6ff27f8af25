//! Goal: the tools work with a cluster whose ports speak TLS, and say why where they do not trust it. Method: real nodes with
//! certificates of an authority that the test makes.

use kv_bench::client::Passage;
use tempfile::TempDir;

use crate::certificates::{Authority, Kind};
use crate::support::{
    KVCTL, eventually, kv_bench,
    node::{Node, free_ports},
    stderr, stdout,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_speak_tls() {
    let directory = TempDir::new().expect("a directory");
    let authority = Authority::new(directory.path(), "authority");
    let other = Authority::new(directory.path(), "other");
    let settings = authority.sign("node", Kind::Node).settings(&authority);
    let [leader, redis, follower] = free_ports();
    let start = |name: &str, port: u16, settings: &[(&str, String)]| {
        Node::start(directory.path(), name, &[settings, &[("PORT", port.to_string())]].concat())
    };
    let _follower = start("follower", follower, &settings);
    let (followers, redis) = (format!("https://localhost:{follower}"), redis.to_string());
    let of_leader = [("ROLE", "leader"), ("FOLLOWERS", &followers), ("MAX_DELAY_MS", "0"), ("RESP_PORT", &redis)];
    let of_leader = of_leader.map(|(name, value)| (name, value.to_owned()));
    let _leader = start("leader", leader, &[&settings[..], &of_leader].concat());
    let leader = format!("https://localhost:{leader}");
    let mut passage = Passage::new(&authority.file).expect("an authority");
    eventually("an open leader", async || {
        let near = passage.url(&leader).await.ok()?;
        let ready = reqwest::get(format!("{near}/readyz")).await.ok()?;
        ready.status().is_success().then_some(())
    })
    .await;

    let out = directory.path().join("out");
    let (ca, wrong) = (authority.file.display().to_string(), other.file.display().to_string());
    let running = ["--leader", &leader, "--followers", &followers];
    let redis = format!("--redis-address=localhost:{redis}");
    let sweep = ["sweep", "--writes", "20", "--concurrency", "2", "--max-delay-ms", "1"];
    let load = ["load", "--connections", "2", "--seconds", "0.2", "--warmup-seconds", "0", "--reads", "0.5"];
    let over_redis = [&load[..], &["--protocol", "redis", "--pipeline", "4", &redis]].concat();
    for command in [&sweep[..], &load, &over_redis] {
        let output = kv_bench(&out, &[command, &running, &["--tls-ca-file", &ca]].concat()).await;
        assert!(output.status.success(), "{command:?}: {} {}", stdout(&output), stderr(&output));
        let refused = kv_bench(&out, &[command, &running, &["--tls-ca-file", &wrong]].concat()).await;
        let words = stderr(&refused);
        assert!(words.contains("failed to open a session of TLS") && words.contains("UnknownIssuer"), "{words}");
        let without = kv_bench(&out, &[command, &running].concat()).await;
        let words = format!("{leader} needs the certificates of the nodes' CA: --tls-ca-file");
        assert!(without.status.code() == Some(2) && stderr(&without).contains(&words), "{}", stderr(&without));
    }
    let file = directory.path().join("backup").display().to_string();
    for (step, succeeds) in [(["backup", "--to"], true), (["restore", "--from"], false)] {
        let mut command = tokio::process::Command::new(KVCTL);
        command.arg(step[0]).args(["--leader", &leader, step[1], &file, "--tls-ca-file", &ca]);
        let output = command.output().await.expect("kvctl runs");
        assert_eq!(output.status.success(), succeeds, "{}", stderr(&output));
        // The backup is whole, and the cluster that it is of is not empty.
        assert!(succeeds || stderr(&output).contains("(Conflict)"), "{}", stderr(&output));
    }
}
