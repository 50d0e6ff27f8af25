//! Goal: where certificates are set every port speaks TLS alone, only nodes of the same authority replicate, and a renewed
//! certificate is taken over without a refused request. Method: real nodes with certificates of authorities made here, and
//! clients with real sockets.

mod certificates;
mod node;

use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::certificates::{Authority, Kind, Pair};
use self::node::{Node, ask, client, eventually, exchange, healthcheck, plainly, refused, session};

const PUT: &str = r#"POST /put {"key":"k","value":"v"}"#;

fn with(settings: &[(&'static str, String)], more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
    settings.iter().cloned().chain(more).collect()
}

/// A leader with one follower of the same authority.
struct Cluster {
    authority: Authority,
    pair: Pair,
    leader: Node,
    follower: Node,
    directory: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let directory = TempDir::new().expect("a directory");
        let authority = Authority::new(directory.path(), "authority");
        let pair = authority.sign("node", Kind::Node);
        let settings = pair.settings(&authority);
        let follower = Node::start(&settings).await;
        let followers = follower.url("https");
        let leader = Node::start(&with(&settings, &[("ROLE", "leader"), ("FOLLOWERS", &followers)])).await;
        let cluster = Self { authority, pair, leader, follower, directory };
        eventually("a write", async || {
            cluster.ask(cluster.leader.port, PUT).await.is_some_and(|it| it.0 == 200).then_some(())
        })
        .await;
        cluster
    }

    async fn ask(&self, port: u16, request: &str) -> Option<(u16, String)> {
        ask(port, &client(&self.authority.file, None), request).await.ok()
    }

    async fn json(&self, port: u16, path: &str) -> Value {
        let (status, body) = self.ask(port, &format!("GET {path}")).await.expect("an answer");
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_port_speaks_tls_alone() {
    let cluster = Cluster::start().await;
    let Cluster { leader, follower, authority, .. } = &cluster;
    let status = cluster.json(leader.port, "/status").await;
    assert_eq!(status["followers"][0]["state"], "streaming", "{status}");
    // The name of a follower is the same with and without TLS.
    assert_eq!(status["followers"][0]["name"], follower.url("http").as_str(), "{status}");
    assert_eq!(status["followers"][0]["url"], follower.url("https").as_str(), "{status}");
    let read = cluster.ask(follower.port, "GET /get?key=k").await.expect("an answer");
    assert!(read.1.contains(r#""value":"v""#), "{read:?}");
    assert_eq!(cluster.json(follower.port, "/status").await["leader"], format!("https://node:{}", leader.port));

    let trusting = client(&authority.file, None);
    let mut redis = session(leader.redis_port, &trusting).await.expect("a session");
    // More than one record, and more than a window.
    let value = "x".repeat(900_000);
    let set = format!("*3\r\n$3\r\nSET\r\n$1\r\nr\r\n${}\r\n{value}\r\n", value.len());
    redis.write_all(format!("{set}*2\r\n$3\r\nGET\r\n$1\r\nr\r\n").as_bytes()).await.expect("sent");
    redis.flush().await.expect("sent");
    let expected = format!("+OK\r\n${}\r\n{value}\r\n", value.len());
    let mut answer = vec![0; expected.len()];
    redis.read_exact(&mut answer).await.expect("replies");
    assert!(answer == expected.as_bytes(), "the value comes back");

    for node in [leader, follower] {
        let answer = plainly(node.port, b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{answer}");
        let body: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["message"], "this port speaks TLS: use https://");
        assert_eq!(plainly(node.redis_port, b"PING\r\n").await, "-ERR this port speaks TLS\r\n");
    }
    let files = cluster.pair.settings(authority);
    let (ready, words) = healthcheck(leader.port, &files);
    assert!(ready && words.contains(r#""ok":true"#), "{words}");
    let (ready, words) = healthcheck(leader.port, &[]);
    assert!(!ready && words.contains("this port speaks TLS"), "{words}");
}

/// A session of a client that speaks HTTP/2 too uses it, as any browser's does.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_names_http2_gets_it() {
    let cluster = Cluster::start().await;
    let mut both = Arc::unwrap_or_clone(client(&cluster.authority.file, None));
    both.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = session(cluster.leader.port, &Arc::new(both.clone())).await.expect("a session");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let executor = hyper_util::rt::TokioExecutor::new();
    let stream = hyper_util::rt::TokioIo::new(stream);
    let (mut requests, connection) = hyper::client::conn::http2::handshake(executor, stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let url = format!("{}/put", cluster.leader.url("https"));
    let request = hyper::Request::post(url).body(r#"{"key":"k","value":"v2"}"#.to_owned()).expect("a request");
    assert_eq!(requests.send_request(request).await.expect("an answer").status(), 200);

    both.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut older = session(cluster.leader.port, &Arc::new(both)).await.expect("a session");
    assert_eq!(exchange(&mut older, "GET /get?key=k").await.expect("an answer").0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_a_port_without_tls_fails_at_once() {
    let directory = TempDir::new().expect("a directory");
    let authority = Authority::new(directory.path(), "authority");
    // A command may take long to arrive, and this is none.
    let node = Node::start(&with(&[], &[("BODY_TIMEOUT_MS", "600000"), ("HEAD_TIMEOUT_MS", "600000")])).await;
    let trusting = client(&authority.file, None);
    for port in [node.port, node.redis_port] {
        session(port, &trusting).await.expect_err("no TLS here");
    }
    let (ready, words) = healthcheck(node.port, &authority.sign("node", Kind::Node).settings(&authority));
    assert!(!ready && words.contains("failed to reach https://127.0.0.1"), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_of_another_authority_is_refused() {
    let cluster = Cluster::start().await;
    let (port, own) = (cluster.follower.port, &cluster.authority.file);
    let other = Authority::new(cluster.directory.path(), "other");
    let stranger = other.sign("stranger", Kind::Node);

    // A client trusts another authority, or shows a certificate of another, or one that has expired.
    let error = session(port, &client(&other.file, None)).await.expect_err("it trusts another").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    let expired = cluster.authority.sign("expired", Kind::Expired);
    for pair in [&stranger, &expired] {
        let refused = ask(port, &client(own, Some(pair)), "GET /healthz").await;
        assert!(refused.is_err(), "{pair:?}: {refused:?}");
    }

    // Without a certificate a client reads and writes, and replicates nothing.
    for request in ["GET /replication", r#"POST /replicate {"key":"k","value":"bad","seq":99}"#] {
        let (status, body) = ask(port, &client(own, None), request).await.expect("an answer");
        assert_eq!(status, 403, "{request}: {body}");
        assert!(body.contains("this route needs a certificate of the CA of this cluster"), "{body}");
    }
    let node = client(own, Some(&cluster.pair));
    assert_eq!(ask(port, &node, "GET /replication").await.expect("an answer").0, 101);
    let replicate = r#"POST /replicate {"key":"other","value":"v","seq":1}"#;
    assert_eq!(ask(port, &node, replicate).await.expect("an answer").0, 200);

    // A leader of another authority, and one without TLS, lead nothing. Their status says why.
    let (secure, plain) = (cluster.follower.url("https"), cluster.follower.url("http"));
    let of_other = with(&stranger.settings(&other), &[("ROLE", "leader"), ("FOLLOWERS", &secure)]);
    let without = with(&[], &[("ROLE", "leader"), ("FOLLOWERS", &plain)]);
    let (of_other, without) = (Node::start(&of_other).await, Node::start(&without).await);
    let trusting = client(&other.file, None);
    eventually("a reason", async || {
        let (_, status) = ask(of_other.port, &trusting, "GET /status").await.expect("an answer");
        status.contains("failed to open a session of TLS: invalid peer certificate: UnknownIssuer").then_some(())
    })
    .await;
    eventually("a reason", async || {
        let status = plainly(without.port, b"GET /status HTTP/1.0\r\n\r\n").await;
        status.contains("refused with status 400").then_some(())
    })
    .await;
    let status = cluster.json(cluster.leader.port, "/status").await;
    assert_eq!((&status["state"], &status["epoch"]["term"]), (&json!("open"), &json!(1)), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_would_refuse_ends_the_start_in_words() {
    let directory = TempDir::new().expect("a directory");
    let (authority, other) = (Authority::new(directory.path(), "authority"), Authority::new(directory.path(), "other"));
    let [node, second] = ["node", "second"].map(|name| authority.sign(name, Kind::Node));
    let swapped = Pair { key: second.key.clone(), ..node.clone() };
    let reversed = Pair { certificate: node.key.clone(), key: node.certificate.clone() };
    let missing = Pair { key: directory.path().join("nothing"), ..node.clone() };
    let expired = authority.sign("expired", Kind::Expired);
    for (pair, authority, words) in [
        (&swapped, &authority, "second.key is not the key of the certificate in TLS_CERT_FILE"),
        (&reversed, &authority, "has no certificate in PEM"),
        (&missing, &authority, "failed to read TLS_KEY_FILE"),
        (&expired, &authority, "expired.crt has expired"),
        (&authority.sign("early", Kind::Early), &authority, "early.crt is not valid yet"),
        (&authority.sign("server", Kind::Server), &authority, "may not be used by a client: nodes need both uses"),
        (&node, &other, "is not of the CA in TLS_CA_FILE"),
    ] {
        let (code, line) = refused(&pair.settings(authority));
        assert!(code == Some(2) && line.contains(words) && line.trim_end().lines().count() == 1, "{words}: {line}");
    }
    let leads = |urls: &str, files: &[(&'static str, String)]| {
        refused(&with(files, &[("ROLE", "leader"), ("FOLLOWERS", urls)])).1
    };
    let line = leads("http://a:1", &node.settings(&authority));
    assert!(line.contains("FOLLOWERS names http://a:1, but TLS_CERT_FILE is set: expected https://"), "{line}");
    let line = leads("https://a:1", &[]);
    assert!(line.contains("FOLLOWERS names https://a:1, but TLS_CERT_FILE is not set: expected http://"), "{line}");
}

/// Clients write all the time, one on a connection that stays and one on a new connection for each write.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_pair_is_taken_over_and_a_broken_one_is_not() {
    let cluster = Cluster::start().await;
    let (port, trusting) = (cluster.leader.port, client(&cluster.authority.file, None));
    let mut kept = session(port, &trusting).await.expect("a session");
    let shown = async || {
        let stream = session(port, &trusting).await.expect("a session");
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].clone()
    };
    let mut write = async || {
        assert_eq!(exchange(&mut kept, PUT).await.expect("an answer on the old connection").0, 200);
        assert_eq!(ask(port, &trusting, PUT).await.expect("an answer on a new connection").0, 200);
    };
    let first = shown().await;
    let renewed = cluster.authority.sign("renewed", Kind::Node);
    cluster.pair.replace_by(&renewed);
    eventually("the new certificate", async || {
        write().await;
        (shown().await != first).then_some(())
    })
    .await;
    let second = shown().await;

    // A pair that does not belong together, one of another authority, and one that has expired.
    let other = Authority::new(cluster.directory.path(), "other").sign("stranger", Kind::Node);
    let swapped = Pair { key: cluster.authority.sign("swapped", Kind::Node).key, ..renewed.clone() };
    let expired = cluster.authority.sign("expired", Kind::Expired);
    for (pair, words) in [
        (&swapped, "is not the key of the certificate"),
        (&other, "is not of the CA in TLS_CA_FILE"),
        (&expired, "has expired"),
    ] {
        cluster.pair.replace_by(pair);
        let warning = eventually(words, async || {
            write().await;
            let status = cluster.json(port, "/status").await;
            status["warnings"][0].as_str().filter(|warning| warning.contains(words)).map(str::to_owned)
        })
        .await;
        assert!(warning.ends_with("the certificate that it had before stays in use"), "{warning}");
        assert!(cluster.leader.log().contains(words), "{}", cluster.leader.log());
        assert_eq!(shown().await, second, "{words}");
    }
    let metrics = cluster.ask(port, "GET /metrics").await.expect("an answer").1;
    assert!(metrics.contains("kvcluster_setting_file_unusable{setting=\"TLS_CERT_FILE\"} 1\n"), "{metrics}");
    cluster.pair.replace_by(&cluster.authority.sign("third", Kind::Node));
    eventually("the third certificate", async || {
        write().await;
        let warns = cluster.json(port, "/status").await["warnings"].is_array();
        (shown().await != second && !warns).then_some(())
    })
    .await;
    // Nodes find each other with it.
    let status = cluster.json(port, "/status").await;
    assert_eq!(status["followers"][0]["state"], "streaming", "{status}");
}

/// A client that begins a handshake and goes no further takes a place for as long as a slow head.
#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_end_is_closed() {
    let directory = TempDir::new().expect("a directory");
    let authority = Authority::new(directory.path(), "authority");
    let settings = authority.sign("node", Kind::Node).settings(&authority);
    let node = Node::start(&with(&settings, &[("HEAD_TIMEOUT_MS", "200")])).await;
    for port in [node.port, node.redis_port] {
        for begin in [&b""[..], &[0x16], &[0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc, 3, 3]] {
            assert_eq!(plainly(port, begin).await, "", "{begin:?}");
        }
    }
}
