//! Goal: a client of Redis works as it is, whatever it sends leaves the node unharmed, and a reply means what it means over
//! HTTP. Method: real nodes, and bytes on their sockets.

use std::time::{Duration, Instant};

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{KV_BENCH, PATIENCE, eventually};

/// Followers without delays unless `more` says otherwise.
async fn cluster(logs: &TempDir, more: impl FnOnce(&mut LocalClusterOptions)) -> LocalCluster {
    let mut options = LocalClusterOptions {
        followers: 1,
        max_delay_ms: 0,
        ..LocalClusterOptions::new(KV_BENCH, logs.path().join("logs"))
    };
    more(&mut options);
    let mut cluster = LocalCluster::start(options).await.expect("starts");
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

fn with(settings: &[(&str, &str)]) -> impl FnOnce(&mut LocalClusterOptions) {
    let settings: Vec<_> = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    |options| options.environment = settings
}

/// A client that shows replies as text: the type and the content of each, arrays in brackets.
struct Redis {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Redis {
    async fn connect(address: &str) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("connects"), received: Vec::new() }
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("sent");
    }

    /// The reply to a command of words that have no spaces.
    async fn ask(&mut self, command: &str) -> String {
        self.send(&frame(command)).await;
        self.reply().await
    }

    /// The next reply.
    async fn reply(&mut self) -> String {
        let reply = async {
            loop {
                if let Some((reply, rest)) = read(&self.received) {
                    let length = self.received.len() - rest.len();
                    self.received.drain(..length);
                    return reply;
                }
                let count = self.stream.read_buf(&mut self.received).await.expect("no reset before the reply");
                assert!(count > 0, "the connection ended with {:?}", String::from_utf8_lossy(&self.received));
            }
        };
        timeout(PATIENCE, reply).await.expect("a reply in time")
    }

    async fn replies(&mut self, count: usize) -> Vec<String> {
        let mut replies = Vec::new();
        for _ in 0..count {
            replies.push(self.reply().await);
        }
        replies
    }

    /// Everything until the node closes the connection.
    async fn rest(mut self) -> String {
        // A reset is a close as well.
        let _ = timeout(PATIENCE, self.stream.read_to_end(&mut self.received)).await.expect("the node closes");
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

/// A command of words that have no spaces.
fn frame(command: &str) -> Vec<u8> {
    frame_of(&command.split(' ').map(str::as_bytes).collect::<Vec<_>>())
}

fn frame_of(args: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        bytes.extend_from_slice(arg);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// The first reply in these bytes, and what follows it.
fn read(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let (line, rest) = (String::from_utf8_lossy(&bytes[1..end]).into_owned(), &bytes[end + 2..]);
    let list = |count: usize, name: &str| {
        let (mut items, mut rest) = (Vec::new(), rest);
        for _ in 0..count {
            let (item, more) = read(rest)?;
            items.push(item);
            rest = more;
        }
        Some((format!("{name}[{}]", items.join(" ")), rest))
    };
    match bytes[0] {
        b'$' | b'=' if line != "-1" => {
            let length: usize = line.parse().expect("a length");
            let text = rest.get(..length + 2)?;
            Some((format!("\"{}\"", String::from_utf8_lossy(&text[..length])), &rest[length + 2..]))
        }
        b'$' | b'_' => Some(("nil".to_owned(), rest)),
        b'*' => list(line.parse().expect("a length"), ""),
        b'~' => list(line.parse().expect("a length"), "set"),
        b'%' => list(2 * line.parse::<usize>().expect("a length"), "map"),
        b'+' => Some((line, rest)),
        b'-' => Some((format!("-{line}"), rest)),
        b':' => Some((format!(":{line}"), rest)),
        other => panic!("a reply of type {}", char::from(other)),
    }
}

const SYNTAX: &str = "-ERR syntax error";
const NO_INTEGER: &str = "-ERR value is not an integer or out of range";

#[tokio::test(flavor = "multi_thread")]
async fn commands_answer_as_redis_does() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, |_| ()).await;
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    let table = [
        ("PING", "PONG"),
        ("ping hello", "\"hello\""),
        ("ECHO hello", "\"hello\""),
        ("SELECT 0", "OK"),
        ("SELECT 1", "-ERR DB index is out of range: this store has database 0 alone"),
        ("SELECT x", "-ERR invalid DB index"),
        ("GET a", "nil"),
        ("SET a 1", "OK"),
        ("get a", "\"1\""),
        ("GETSET a 2", "\"1\""),
        ("GETSET b 2", "nil"),
        ("SET a 3 GET", "\"2\""),
        ("SET c 3 GET", "nil"),
        ("SET a 4 NX", "nil"),
        ("SET d 4 NX", "OK"),
        ("SET a 4 NX GET", "\"3\""),
        ("SET e 4 XX", "nil"),
        ("SET e 4 XX GET", "nil"),
        ("GET e", "nil"),
        ("SET a 5 xx", "OK"),
        ("SET a 6 IFEQ 4", "nil"),
        ("SET a 6 IFEQ 5", "OK"),
        ("SET a 7 GET IFEQ 6", "\"6\""),
        ("SET e 7 IFEQ 6", "nil"),
        ("SETNX a 8", ":0"),
        ("SETNX e 8", ":1"),
        ("MGET a b none e a", "[\"7\" \"2\" nil \"8\" \"7\"]"),
        ("EXISTS a none a b", ":3"),
        ("STRLEN a", ":1"),
        ("STRLEN none", ":0"),
        ("TYPE a", "string"),
        ("TYPE none", "none"),
        ("DEL a none b a", ":2"),
        ("UNLINK c", ":1"),
        ("UNLINK c", ":0"),
        ("GETDEL d", "\"4\""),
        ("GETDEL d", "nil"),
        ("APPEND t ab", ":2"),
        ("APPEND t cd", ":4"),
        ("GET t", "\"abcd\""),
        ("INCR n", ":1"),
        ("INCRBY n 41", ":42"),
        ("DECR n", ":41"),
        ("DECRBY n 50", ":-9"),
        ("GET n", "\"-9\""),
        ("INCR t", NO_INTEGER),
        ("INCRBY n 1.5", NO_INTEGER),
        ("INCRBY n 9223372036854775808", NO_INTEGER),
        ("DECRBY n -9223372036854775808", "-ERR decrement would overflow"),
        ("DECRBY n 9223372036854775807", "-ERR increment or decrement would overflow"),
        ("MSET p 1 q 2 p 3", "OK"),
        ("MGET p q", "[\"3\" \"2\"]"),
        ("MSET p 1 q", "-ERR wrong number of arguments for 'mset' command"),
        ("DBSIZE", ":5"),
        ("KEYS [pq]", "[\"p\" \"q\"]"),
        ("KEYS nothing*", "[]"),
        ("SCAN 0 MATCH p COUNT 1000", "[\"0\" [\"p\"]]"),
        ("SCAN 0 COUNT 1000 TYPE list", "[\"0\" []]"),
        ("SCAN 0 COUNT 1000 TYPE string MATCH q", "[\"0\" [\"q\"]]"),
        ("SCAN 0 COUNT 0", SYNTAX),
        ("SCAN 0 COUNT x", NO_INTEGER),
        ("SCAN 0 MATCH", SYNTAX),
        ("SCAN -1", "-ERR invalid cursor"),
        ("WAIT 1 0", ":1"),
        ("WAIT 9 1", ":1"),
        ("WAIT -1 0", "-ERR value is out of range, must be positive"),
        ("WAIT 1 -1", "-ERR timeout is negative"),
        ("WAIT 1 x", "-ERR timeout is not an integer or out of range"),
        ("WAITAOF 0 1 0", "[:0 :1]"),
        ("WAITAOF 1 1 0", "-ERR a leader keeps nothing on its own disk: WAITAOF needs 0 for it"),
        ("SET a", "-ERR wrong number of arguments for 'set' command"),
        ("GET", "-ERR wrong number of arguments for 'get' command"),
        ("GET a b", "-ERR wrong number of arguments for 'get' command"),
        ("PING a b", "-ERR wrong number of arguments for 'ping' command"),
        ("SET a b NX XX", SYNTAX),
        ("SET a b NX IFEQ c", SYNTAX),
        ("SET a b IFEQ", SYNTAX),
        ("SET a b SOON", SYNTAX),
        ("SET a b EX 5", "-ERR this store has no expiry: EX is not supported"),
        ("SET a b keepttl", "-ERR this store has no expiry: keepttl is not supported"),
        ("EXPIRE a 5", "-ERR unknown command 'EXPIRE': this store has strings under keys, and no expiry"),
        (
            "EXEC",
            "-ERR unknown command 'EXEC': this store has strings under keys, and no transactions over several keys",
        ),
        (
            "multi",
            "-ERR unknown command 'MULTI': this store has strings under keys, and no transactions over several keys",
        ),
        ("SET tx 1", "-ERR this store has no transactions: nothing between MULTI and EXEC or DISCARD is applied"),
        ("EXEC", "-EXECABORT this store has no transactions over several keys: nothing was applied"),
        ("EXISTS tx", ":0"),
        (
            "LPUSH a b",
            "-ERR unknown command 'LPUSH': this store has strings under keys, and no types other than strings, scripts, \
             transactions or expiry",
        ),
        ("CLIENT GETNAME", "nil"),
        ("CLIENT SETNAME me", "OK"),
        ("CLIENT GETNAME", "\"me\""),
        ("CLIENT SETINFO LIB-NAME test", "OK"),
        ("CLIENT SETINFO LIB-AGE test", "-ERR Unrecognized option 'LIB-AGE'"),
        ("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command"),
        ("CLIENT NO-EVICT on", "OK"),
        ("CLIENT NO-TOUCH maybe", SYNTAX),
        ("CLIENT LIST", "-ERR unknown subcommand 'LIST' of CLIENT"),
        ("CONFIG GET save", "[\"save\" \"\"]"),
        ("CONFIG GET none", "[]"),
        ("CONFIG GET", "-ERR wrong number of arguments for 'config|get' command"),
        ("CONFIG SET save x", "-ERR the settings of a leader change by PATCH /config, others by a restart"),
        ("COMMAND COUNT", ":35"),
        ("COMMAND GETKEYS MSET a 1 b 2", "[\"a\" \"b\"]"),
        ("COMMAND GETKEYS PING", "-ERR The command has no key arguments"),
        ("COMMAND INFO get none", "[[\"get\" :2 [readonly fast] :1 :1 :1 [] [] [] []] nil]"),
        (
            "COMMAND DOCS time",
            "[\"time\" [\"summary\" \"Returns the time of the node.\" \"since\" \"0.1.0\" \"group\" \"server\"]]",
        ),
        ("HELLO 4", "-NOPROTO unsupported protocol version"),
        ("HELLO x", "-ERR Protocol version is not an integer or out of range"),
        ("HELLO 3 SOON", "-ERR Syntax error in HELLO option 'SOON'"),
        (
            "AUTH x",
            "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        ),
        ("AUTH default x", "OK"),
        ("AUTH other x", "-WRONGPASS invalid username-password pair or user is disabled."),
    ];
    for (command, expected) in table {
        assert_eq!(redis.ask(command).await, expected, "{command}");
    }
    let info = redis.ask("INFO").await;
    for line in ["# Server\r\n", "server_name:kvcluster\r\n", "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n"]
    {
        assert!(info.contains(line), "{info}");
    }
    assert!(!redis.ask("INFO replication").await.contains("# Server"));
    let id = redis.ask("CLIENT ID").await;
    assert!(redis.ask("CLIENT INFO").await.starts_with(&format!("\"id={} name=me db=0 resp=2", &id[1..])));
    assert!(redis.ask("COMMAND").await.contains("[\"set\" :-3 [write denyoom fast] :1 :1 :1 [] [] [] []]"));
    assert_eq!(redis.ask("TIME").await.split(' ').count(), 2);
    assert!(redis.ask("RANDOMKEY").await.starts_with('"'));

    let hello = redis.ask("HELLO 3 SETNAME you").await;
    assert!(
        hello.starts_with("map[\"server\" \"kvcluster\" ") && hello.contains("\"role\" \"master\" \"proto\" :3"),
        "{hello}"
    );
    for (command, expected) in [
        ("GET none", "nil"),
        ("CLIENT GETNAME", "\"you\""),
        ("CONFIG GET save", "map[\"save\" \"\"]"),
        ("RESET", "RESET"),
        ("CONFIG GET save", "[\"save\" \"\"]"),
        ("CLIENT GETNAME", "nil"),
        ("QUIT", "OK"),
    ] {
        assert_eq!(redis.ask(command).await, expected, "{command}");
    }
    assert_eq!(redis.rest().await, "", "QUIT closes the connection");
}

/// Values and keys are seen over HTTP as they were written here, and are any bytes.
#[tokio::test(flavor = "multi_thread")]
async fn keys_and_values_are_those_of_http() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, with(&[("VALUE_BYTES_MAX", "300000"), ("KEY_BYTES_MAX", "10")])).await;
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    let value: Vec<u8> = (0..=255).collect();
    redis.send(&frame_of(&[b"SET", b"k", &value])).await;
    assert_eq!(redis.reply().await, "OK");
    let raw = reqwest::get(format!("{}/get?key=k&raw=true", cluster.leader_url())).await.expect("answers");
    assert_eq!(raw.bytes().await.expect("a body"), value);
    // The longest value, in many parts and there and back in one pipeline.
    let long = "x".repeat(300_000);
    redis.send(&[frame(&format!("SET k {long}")), frame("GET k"), frame("STRLEN k")].concat()).await;
    assert_eq!(redis.replies(3).await, ["OK".to_owned(), format!("\"{long}\""), ":300000".to_owned()]);

    let longer = "x".repeat(300_001);
    redis.send(&frame(&format!("SET k {longer}"))).await;
    assert_eq!(redis.reply().await, "-OOM the command or one of its arguments has 300001 bytes");
    assert_eq!(redis.ask("STRLEN k").await, ":300000", "the connection goes on, and nothing changed");
    assert_eq!(redis.ask("APPEND k x").await, "-OOM the value would have 300001 bytes (limit 300000)");
    assert_eq!(redis.ask("SET 12345678901 v").await, "-OOM the key has 11 bytes (limit 10)");
    assert_eq!(redis.ask("MSET a 1 12345678901 v").await, "-OOM the key has 11 bytes (limit 10)");
    assert_eq!(redis.ask("EXISTS a").await, ":0", "a command that is wrong changes nothing");
    for (key, error) in [(&b""[..], "-ERR a key has at least one byte"), (b"\xff", "-ERR a key must be UTF-8 text")] {
        for command in [&[&b"GET"[..], key][..], &[b"SET", key, b"v"], &[b"DEL", b"k", key]] {
            redis.send(&frame_of(command)).await;
            assert_eq!(redis.reply().await, error);
        }
    }
    assert_eq!(redis.ask("EXISTS k").await, ":1");
}

/// Goal: what is not the protocol ends its connection with one error, and costs no other.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_commands_end_their_connection() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, with(&[("BODY_TIMEOUT_MS", "300")])).await;
    let mut other = Redis::connect(&cluster.leader_redis()).await;
    let inline = vec![b'x'; 1 << 20];
    let table: &[(&[u8], &str)] = &[
        (b"*2\r\n*1\r\n$3\r\nGET\r\n", "-ERR Protocol error: expected '$', got '*'\r\n"),
        (b"*1\r\n$3\r\nPINGPONG\r\n", "-ERR Protocol error: expected a line break after 3 bytes\r\n"),
        (b"*9999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n$99999999999\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        (b"PING\r\n*1\r\n$-5\r\n", "+PONG\r\n-ERR Protocol error: invalid bulk length\r\n"),
        (&inline, "-ERR Protocol error: too big inline request\r\n"),
        (b"SET k 'v\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n"),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET k stolen\r\n", "-ERR this port speaks Redis' protocol, not HTTP\r\n"),
        (b"*2\r\n$3\r\nGET\r\n$5\r\nha", "-ERR Protocol error: no whole command within 300 ms\r\n"),
        (b"GET half", "-ERR Protocol error: no whole command within 300 ms\r\n"),
        (b"SET k before\r\nGET k\r\nQUIT\r\nSET k after\r\n", "+OK\r\n$6\r\nbefore\r\n+OK\r\n"),
    ];
    for (bytes, expected) in table {
        let mut redis = Redis::connect(&cluster.leader_redis()).await;
        // The node may close its side before it has read all.
        let _ = redis.stream.write_all(bytes).await;
        assert_eq!(redis.rest().await, *expected, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
    }
    assert_eq!(other.ask("GET k").await, "\"before\"", "others go on");
}

/// Goal: the writes of a pipeline are replicated side by side, and a read shows exactly the writes before it. Method: random
/// delays, in which later writes overtake earlier ones, and one key that every command uses.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_takes_one_delay_and_keeps_its_order() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, |options| {
        (options.followers, options.write_quorum, options.min_delay_ms, options.max_delay_ms) = (3, 2, 50, 150);
    })
    .await;
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    let begun = Instant::now();
    assert_eq!(redis.ask("SET k 0").await, "OK");
    let one = begun.elapsed();

    let (mut commands, mut expected) = (Vec::new(), Vec::new());
    for number in 1..=100 {
        commands.extend(frame(&format!("SET k {number}")));
        commands.extend(frame("GET k"));
        commands.extend(frame(&format!("INCR n{}", number % 7)));
        commands.extend(frame("MGET k other"));
        commands.extend(frame("PING"));
        expected.extend([
            "OK".to_owned(),
            format!("\"{number}\""),
            format!(":{}", number / 7 + i32::from(number % 7 != 0)),
        ]);
        expected.extend([format!("[\"{number}\" nil]"), "PONG".to_owned()]);
    }
    let begun = Instant::now();
    redis.send(&commands).await;
    assert_eq!(redis.replies(500).await, expected);
    // One after the other, 200 writes take at least 200 times the shortest delay, which is a third of the longest.
    let all = begun.elapsed();
    assert!(all < 20 * one, "200 writes took {all:?}, one took {one:?}");
}

/// Goal: a client that never reads is cut off, and until then holds a bounded part of the node's memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_is_cut_off() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, with(&[("STALL_TIMEOUT_MS", "300")])).await;
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    assert_eq!(redis.ask(&format!("SET k {}", "x".repeat(1 << 20))).await, "OK");
    let request = frame("GET k").repeat(1_000);
    let cut = async {
        // Until the node reads no more, and then until it closes.
        while redis.stream.write_all(&request).await.is_ok() {}
    };
    timeout(PATIENCE, cut).await.expect("the node closes the connection");
    assert_eq!(Redis::connect(&cluster.leader_redis()).await.ask("STRLEN k").await, ":1048576");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_get_an_error() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, with(&[("CONNECTIONS_MAX", "3")])).await;
    let address = cluster.leader_redis();
    let mut kept = Vec::new();
    // The start of the cluster has used connections over HTTP, which may still be there.
    let refused = eventually("a connection beyond the limit", async || {
        let mut redis = Redis::connect(&address).await;
        redis.send(&frame("PING")).await;
        match redis.reply().await.as_str() {
            "PONG" => kept.push(redis),
            other => return Some(other.to_owned()),
        }
        None
    })
    .await;
    assert_eq!(refused, "-ERR max number of clients reached");
    assert!((1..=3).contains(&kept.len()), "{} connections", kept.len());
    assert_eq!(kept[0].ask("PING").await, "PONG");
    drop(kept);
    eventually("a free place", async || {
        let mut redis = Redis::connect(&address).await;
        redis.send(&frame("PING")).await;
        (redis.reply().await == "PONG").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for() {
    let logs = TempDir::new().expect("a directory");
    let file = logs.path().join("clients");
    std::fs::write(&file, "correct-horse\n").expect("written");
    let file = file.display().to_string();
    let cluster = cluster(&logs, with(&[("CLIENT_TOKEN_FILE", &file), ("AUTH_TOKEN", "of-the-cluster")])).await;
    for address in [cluster.leader_redis(), cluster.follower_redis(0)] {
        let mut redis = Redis::connect(&address).await;
        let refused = "-NOAUTH Authentication required.";
        for command in ["GET k", "PING", "SET k v", "INFO", "NONSENSE"] {
            assert_eq!(redis.ask(command).await, refused, "{command}");
        }
        assert!(redis.ask("HELLO 3").await.starts_with("-NOAUTH HELLO must be called"));
        let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
        for command in ["AUTH wrong-horse", "AUTH of-the-cluster", "AUTH default wrong", "AUTH other correct-horse"] {
            assert_eq!(redis.ask(command).await, wrong, "{command}");
        }
        assert_eq!(redis.ask("HELLO 3 AUTH default wrong").await, wrong);
        assert_eq!(redis.ask("GET k").await, refused);
        assert_eq!(redis.ask("AUTH correct-horse").await, "OK");
        assert_eq!(redis.ask("GET k").await, "nil");
        assert_eq!(redis.ask("RESET").await, "RESET");
        assert_eq!(redis.ask("GET k").await, refused);
        assert!(redis.ask("HELLO 3 AUTH default correct-horse").await.starts_with("map["));
        assert_eq!(redis.ask("GET k").await, "nil");
        // Before the token, a client may not send much.
        let mut redis = Redis::connect(&address).await;
        redis.send(b"*11\r\n").await;
        assert_eq!(redis.rest().await, "-ERR Protocol error: unauthenticated multibulk length\r\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_reads_and_does_not_write() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, |_| ()).await;
    let mut leader = Redis::connect(&cluster.leader_redis()).await;
    let mut follower = Redis::connect(&cluster.follower_redis(0)).await;
    assert_eq!(leader.ask("MSET a 1 b 2").await, "OK");
    eventually("both keys", async || (follower.ask("MGET a b none").await == "[\"1\" \"2\" nil]").then_some(())).await;
    let refused = format!("-READONLY this node is a follower; writes go to the leader at {}", cluster.leader_url());
    for command in ["SET a 3", "DEL a", "INCR a", "APPEND a b", "SETNX c 1", "GETDEL a", "MSET a 4 b 4"] {
        assert_eq!(follower.ask(command).await, refused, "{command}");
    }
    assert_eq!(follower.ask("DBSIZE").await, ":2");
    assert_eq!(follower.ask("WAIT 1 0").await, "-ERR WAIT cannot be used with a follower: it has no followers");
    let up = "role:slave\r\nmaster_link_status:up\r\n";
    eventually("a heartbeat", async || follower.ask("INFO replication").await.contains(up).then_some(())).await;
    assert!(follower.ask("HELLO").await.contains("\"role\" \"replica\""));
}

/// Goal: the first word of an error says what a client can do. Method: followers that are stopped or killed, a leader that
/// recovers, and one that is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn errors_say_what_became_of_a_write() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, |options| {
        (options.followers, options.write_quorum, options.replication_timeout_ms) = (3, 2, 400);
        options.environment = vec![("ANSWER_GRACE_MS".to_owned(), "600000".to_owned())];
    })
    .await;
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    assert_eq!(redis.ask("SET k 1").await, "OK");
    for index in 0..2 {
        cluster.pause_follower(index).expect("paused");
    }
    // One after the other, so that the reply to the second does not wait for the first alone.
    redis
        .send(&[frame("SET k 2"), frame("SET other 3 NX"), frame("SET k 4 NX"), frame("GET k"), frame("PING")].concat())
        .await;
    let expected = [
        "-INDETERMINATE no write quorum within 400 ms: the write with seq 2 may still take effect, or never",
        "-INDETERMINATE no write quorum within 400 ms: the write with seq 1 may still take effect, or never",
        "-LOADING no write quorum confirmed within 400 ms that this leader still leads; nothing was applied",
        "-LOADING no write quorum confirmed within 400 ms that this leader still leads; nothing was applied",
        "PONG",
    ];
    assert_eq!(redis.replies(5).await, expected);
    redis.send(&frame("MSET k 5 other 6")).await;
    let reply = redis.reply().await;
    assert!(
        reply.starts_with("-INDETERMINATE ") && reply.ends_with("; other keys of this command may be written"),
        "{reply}"
    );
    for index in 0..2 {
        cluster.resume_follower(index).expect("resumed");
    }
    eventually("the last write", async || (redis.ask("GET k").await == "\"5\"").then_some(())).await;
    assert_eq!(redis.ask("GET other").await, "\"6\"");

    // A leader that another one replaces. Its client sees that, and reads nothing old.
    cluster.start_rival().await.expect("starts");
    let words = eventually("the end of this leader", async || {
        let reply = redis.ask("SET k 7").await;
        reply.starts_with("-READONLY this leader was replaced").then_some(reply)
    })
    .await;
    assert!(words.contains("by the leader of epoch 2."), "{words}");
    assert!(redis.ask("GET k").await.starts_with("-READONLY "));

    // A leader that finds no followers.
    cluster.kill_all().expect("killed");
    cluster.start_leader().await.expect("starts");
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    for command in ["SET k 8", "GET k", "DEL k", "INCR k", "DBSIZE", "SCAN 0"] {
        assert_eq!(redis.ask(command).await, "-LOADING the leader is recovering; nothing was applied", "{command}");
    }
    assert_eq!(redis.ask("PING").await, "PONG");
}

/// Goal: an acknowledgement over Redis' protocol survives the leader. Method: a leader that is killed under a pipeline.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_leader_acknowledged_stays() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, |options| {
        (options.followers, options.write_quorum, options.max_delay_ms) = (3, 2, 20);
    })
    .await;
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    let commands: Vec<u8> = (1..=2_000).flat_map(|number| frame(&format!("SET key{number} {number}"))).collect();
    redis.send(&commands).await;
    assert_eq!(redis.replies(200).await, vec!["OK"; 200]);
    cluster.kill_leader().expect("killed");
    let mut acknowledged = 200;
    while let Some((reply, rest)) = read(&redis.received) {
        assert_eq!(reply, "OK");
        acknowledged += 1;
        redis.received = rest.to_vec();
    }
    let received = redis.rest().await;
    acknowledged += received.matches("+OK\r\n").count();
    cluster.start_leader().await.expect("starts");
    cluster.wait_until_open().await.expect("opens");
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    for number in 1..=acknowledged {
        assert_eq!(redis.ask(&format!("GET key{number}")).await, format!("\"{number}\""));
    }
}

/// Every key is returned by a scan, also while others are written, and cursors of other nodes are refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_returns_every_key() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, |_| ()).await;
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    let commands: Vec<u8> = (0..3_000).flat_map(|number| frame(&format!("SET key{number} v"))).collect();
    redis.send(&commands).await;
    assert_eq!(redis.replies(3_000).await, vec!["OK"; 3_000]);
    assert_eq!(redis.ask("DEL key7 key8").await, ":2");
    assert_eq!(redis.ask("DBSIZE").await, ":2998");
    let mut follower = Redis::connect(&cluster.follower_redis(0)).await;
    eventually("every key at the follower", async || (follower.ask("DBSIZE").await == ":2998").then_some(())).await;
    let mut cursors = Vec::new();
    for redis in [&mut redis, &mut follower] {
        let (mut found, mut cursor, mut steps) = (std::collections::BTreeSet::new(), "0".to_owned(), 0);
        loop {
            let reply = redis.ask(&format!("SCAN {cursor} COUNT 700")).await;
            let (next, keys) = reply[2..].split_once("\" [").expect("a cursor and keys");
            found.extend(keys.trim_end_matches(']').split(' ').filter(|key| !key.is_empty()).map(str::to_owned));
            (cursor, steps) = (next.to_owned(), steps + 1);
            if cursor == "0" {
                break;
            }
            cursors.push(cursor.clone());
            assert_eq!(
                redis.ask(&format!("SET later{steps} v")).await.starts_with('-'),
                redis.ask("INFO").await.contains("role:slave")
            );
        }
        let expected = (0..3_000).filter(|number| ![7, 8].contains(number)).map(|number| format!("\"key{number}\""));
        assert!(expected.into_iter().all(|key| found.contains(&key)), "{} keys", found.len());
        assert!(steps > 3, "{steps} steps");
    }
    let foreign = cursors.last().expect("a cursor of the follower");
    assert!(redis.ask(&format!("SCAN {foreign}")).await.starts_with("-ERR the cursor is of another node"));
}

/// `WAIT` counts followers beyond the quorum, and waits for its time alone.
#[tokio::test(flavor = "multi_thread")]
async fn wait_waits_for_more_followers() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, |options| options.followers = 3).await;
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    assert_eq!(redis.ask("SET k 1").await, "OK");
    assert_eq!(redis.ask("WAIT 3 0").await, ":3");
    cluster.pause_follower(2).expect("paused");
    redis.send(&[frame("SET k 2"), frame("WAIT 3 50"), frame("WAITAOF 0 2 0"), frame("GET k")].concat()).await;
    assert_eq!(redis.replies(4).await, ["OK", ":2", "[:0 :2]", "\"2\""]);
    redis.send(&[frame("WAIT 3 0"), frame("GET k")].concat()).await;
    let mut other = Redis::connect(&cluster.leader_redis()).await;
    assert_eq!(other.ask("SET other 1").await, "OK", "a WAIT holds up no other connection");
    assert!(timeout(Duration::from_millis(50), redis.reply()).await.is_err(), "the third follower is stopped");
    cluster.resume_follower(2).expect("resumed");
    assert_eq!(redis.replies(2).await, [":3", "\"2\""]);
}

/// A node that shuts down ends idle connections and answers what is under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_answers_what_is_under_way() {
    let logs = TempDir::new().expect("a directory");
    let mut cluster = cluster(&logs, |options| (options.min_delay_ms, options.max_delay_ms) = (300, 300)).await;
    let idle = Redis::connect(&cluster.leader_redis()).await;
    let mut redis = Redis::connect(&cluster.leader_redis()).await;
    redis.send(&frame("SET k 1")).await;
    let metrics = format!("{}/status", cluster.leader_url());
    eventually("a write under way", async || {
        let status: Value = reqwest::get(&metrics).await.ok()?.json().await.ok()?;
        (status["writes"]["in_flight"] == json!(1)).then_some(())
    })
    .await;
    let code = cluster.terminate_leader().await.expect("ends");
    assert_eq!(code, Some(0));
    assert_eq!(redis.rest().await, "+OK\r\n");
    assert_eq!(idle.rest().await, "");
}
