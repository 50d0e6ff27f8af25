//! Goal: a request that is wrong, or that a browser sends for a foreign page, is refused in words and changes nothing.
//! Method: tables of requests as bytes on a socket to real nodes, each with its status and the words of its error.

use std::{fs, path::PathBuf};

use kv_bench::cluster::LocalCluster;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::support::{KV_BENCH, PATIENCE, connect, one_follower};

const WRITE: &str = r#"{"key":"k","value":"bad"}"#;

/// An open cluster of one follower.
async fn cluster(logs: &TempDir, settings: &[(&str, &str)]) -> LocalCluster {
    let mut cluster = one_follower(KV_BENCH, logs.path(), settings).await;
    cluster.wait_until_open().await.expect("the leader opens");
    cluster
}

struct Answer {
    status: u16,
    head: String,
    body: Value,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line[name.len() + 1..].trim())
    }
}

/// The first answer to these bytes.
async fn send(url: &str, request: &[u8]) -> Answer {
    let mut stream = connect(url).await;
    stream.write_all(request).await.expect("sent");
    let mut bytes = Vec::new();
    let ended = timeout(PATIENCE, async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let answer =
                    Answer { status: head[9..12].parse().expect("a status"), head: head.to_owned(), body: Value::Null };
                let length: usize =
                    answer.header("content-length").map_or(0, |length| length.parse().expect("a length"));
                if body.len() >= length {
                    return Answer { body: serde_json::from_str(&body[..length]).unwrap_or_default(), ..answer };
                }
            }
            let read = stream.read_buf(&mut bytes).await.expect("no reset before the answer");
            assert!(read > 0, "the connection ended with {text:?}");
        }
    });
    ended.await.expect("an answer in time")
}

/// A request with these headers and, if it is not empty, this body.
fn request(line: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{line} HTTP/1.1\r\nHost: node:1\r\n{headers}{length}\r\n{body}").into_bytes()
}

fn post(headers: &str) -> Vec<u8> {
    request("POST /put", headers, WRITE)
}

fn get(query: &str) -> Vec<u8> {
    request(&format!("GET /get?{query}"), "", "")
}

type Row = (&'static str, Vec<u8>, u16, &'static str);

fn of_browsers() -> Vec<Row> {
    let foreign = |origin: &str| post(&format!("Content-Type: text/plain\r\nOrigin: {origin}\r\n"));
    let words = "may not use this node: ALLOWED_ORIGINS does not list it";
    let caused = |line: &str, site: &str, mode: &str| {
        request(line, &format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: {mode}\r\n"), "")
    };
    let of_another = "pages of other origins may not use this node, and Sec-Fetch-Site is";
    vec![
        ("a simple POST of any page", foreign("http://evil.example"), 403, words),
        ("of a page without an origin", foreign("null"), 403, words),
        ("of a page at another port", foreign("http://node:2"), 403, words),
        ("of a page at the default port", foreign("http://node"), 403, words),
        ("of a host that contains the node's", foreign("http://node:1.evil.example"), 403, words),
        ("of a host that ends like the node's", foreign("http://evil-node:1"), 403, words),
        ("of an extension", foreign("moz-extension://node:1"), 403, words),
        ("of an empty origin", foreign(""), 403, words),
        ("of two origins in one", foreign("http://node:1 http://evil.example"), 403, words),
        (
            "two origins",
            foreign("http://node:1\r\nOrigin: http://evil.example"),
            400,
            "the header origin appears more than once",
        ),
        ("a read", request("GET /get?key=k", "Origin: http://evil.example\r\n", ""), 403, words),
        ("a dump", request("GET /dump", "Origin: http://evil.example\r\n", ""), 403, words),
        ("administration", request("PATCH /config", "Origin: http://evil.example\r\n", "{}"), 403, words),
        (
            "a preflight",
            request("OPTIONS /put", "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n", ""),
            403,
            words,
        ),
        ("an unknown route", request("POST /nowhere", "Origin: http://evil.example\r\n", WRITE), 403, words),
        ("an image of any page", caused("GET /backup", "cross-site", "no-cors"), 403, of_another),
        ("a link of any page to data", caused("GET /dump", "cross-site", "navigate"), 403, of_another),
        ("a page at another port", caused("GET /backup", "same-site", "no-cors"), 403, of_another),
        ("a frame with the page", caused("GET /", "cross-site", "no-cors"), 403, of_another),
    ]
}

fn of_ambiguous_heads() -> Vec<Row> {
    let coded = |coding: &str| {
        let chunk = format!("{:x}\r\n{WRITE}\r\n0\r\n\r\n", WRITE.len());
        format!("POST /put HTTP/1.1\r\nHost: node:1\r\n{coding}\r\n\r\n{chunk}").into_bytes()
    };
    let only_chunked = "the only transfer encoding that this node decodes is chunked";
    vec![
        ("two hosts", post("Host: other\r\n"), 400, "the header host appears more than once"),
        ("the same host twice", post("Host: node:1\r\n"), 400, "the header host appears more than once"),
        (
            "two tokens of a retry",
            post("Idempotency-Key: a\r\nIdempotency-Key: b\r\n"),
            400,
            "the header idempotency-key appears more than once",
        ),
        (
            "the same token twice",
            post("Idempotency-Key: a\r\nIDEMPOTENCY-KEY: a\r\n"),
            400,
            "the header idempotency-key appears more than once",
        ),
        (
            "two credentials",
            post("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n"),
            400,
            "the header authorization appears more than once",
        ),
        ("an empty token", post("Idempotency-Key: \r\n"), 400, "Idempotency-Key must be 1 to 255"),
        ("gzip inside chunked", coded("Transfer-Encoding: gzip, chunked"), 501, only_chunked),
        (
            "gzip in a header of its own",
            coded("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked"),
            501,
            only_chunked,
        ),
        ("chunked twice", coded("Transfer-Encoding: chunked, chunked"), 501, only_chunked),
        ("gzip alone", coded("Transfer-Encoding: gzip"), 400, "not valid HTTP/1.1"),
        ("a length that is no number", coded("Content-Length: many"), 400, "not valid HTTP/1.1"),
        ("two lengths", coded("Content-Length: 5\r\nContent-Length: 6"), 400, "not valid HTTP/1.1"),
        (
            "a chunk without a length",
            b"POST /put HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
            400,
            "failed to read the body",
        ),
    ]
}

fn of_queries() -> Vec<Row> {
    let no_digits = "the query has a % that two hexadecimal digits do not follow";
    vec![
        ("letters that are no digits", get("key=%zz"), 400, no_digits),
        ("one digit", get("key=k%4"), 400, no_digits),
        ("no digits", get("key=100%"), 400, no_digits),
        ("a sign in place of a digit", get("key=%+1"), 400, no_digits),
        ("an invalid escape elsewhere", get("key=k&other=%g0"), 400, no_digits),
        ("a byte that is not UTF-8", get("key=%FF"), 400, "the query is not UTF-8: %FF begins no character"),
        ("half a character", get("key=%C3"), 400, "the query is not UTF-8: %C3 begins no character"),
        ("a character across two parameters", get("key=%C3&x=%A9"), 400, "the query is not UTF-8: %C3"),
        ("a surrogate", get("key=%ED%A0%80"), 400, "the query is not UTF-8: %ED"),
        ("an overlong slash", get("key=%C0%AF"), 400, "the query is not UTF-8: %C0"),
        ("the query of a write", request("POST /put?explain=%zz", "", WRITE), 400, no_digits),
        (
            "a bare byte",
            [b"GET /get?key=", &[0xff][..], b" HTTP/1.1\r\nHost: n\r\n\r\n"].concat(),
            400,
            "not valid HTTP/1.1",
        ),
        ("a key twice", get("key=a&key=b"), 400, "duplicate field `key`"),
        ("no key", get("k=1"), 400, "Missing key parameter"),
    ]
}

fn of_bodies() -> Vec<Row> {
    let put = |body: &str| request("POST /put", "", body);
    let missing = "Missing key or value";
    let strings = "key and value must be strings";
    let version = "a version is * or one ETag in quotes";
    let long_key = format!(r#"{{"key":"{}","value":"v"}}"#, "k".repeat(4097));
    let long_value = format!(r#"{{"key":"k","value":"{}"}}"#, "v".repeat(1_048_577));
    vec![
        ("no body", put(""), 400, "malformed JSON: EOF while parsing a value"),
        ("half an object", put("{"), 400, "malformed JSON: EOF while parsing an object"),
        ("a list", put("[]"), 400, "the body must be a JSON object"),
        ("null", put("null"), 400, "the body must be a JSON object"),
        ("a text", put(r#""x""#), 400, "the body must be a JSON object"),
        ("an empty object", put("{}"), 400, missing),
        ("no value", put(r#"{"key":"k"}"#), 400, missing),
        ("no key of a write", put(r#"{"value":"v"}"#), 400, missing),
        ("an empty key", put(r#"{"key":"","value":"v"}"#), 400, missing),
        ("null as a key", put(r#"{"key":null,"value":"v"}"#), 400, missing),
        ("null as a value", put(r#"{"key":"k","value":null}"#), 400, missing),
        ("a number as a key", put(r#"{"key":1,"value":"v"}"#), 400, strings),
        ("a number as a value", put(r#"{"key":"k","value":1}"#), 400, strings),
        ("a list as a key", put(r#"{"key":["k"],"value":"v"}"#), 400, strings),
        ("an object as a value", put(r#"{"key":"k","value":{}}"#), 400, strings),
        ("more after the object", put(&format!("{WRITE} x")), 400, "malformed JSON: trailing characters"),
        ("a key twice in a body", put(r#"{"key":"k","key":"j","value":"v"}"#), 400, "duplicate field `key`"),
        ("half a surrogate pair", put(r#"{"key":"\ud800","value":"v"}"#), 400, "malformed JSON: unexpected end of hex"),
        (
            "both forms of a value",
            put(r#"{"key":"k","value":"v","value_base64":"dg=="}"#),
            400,
            "a request has value or value_base64, not both",
        ),
        ("no Base64", put(r#"{"key":"k","value_base64":"*"}"#), 400, "value_base64 is not Base64: Invalid symbol 42"),
        (
            "half of Base64",
            put(r#"{"key":"k","value_base64":"dg"}"#),
            400,
            "value_base64 is not Base64: Invalid padding",
        ),
        ("a number for Base64", put(r#"{"key":"k","value_base64":7}"#), 400, "value_base64 must be a string"),
        ("a number as a version", put(r#"{"key":"k","value":"v","if_match":1}"#), 400, "if_match must be a string"),
        ("no version", put(r#"{"key":"k","value":"v","if_match":"x"}"#), 400, version),
        ("no version in a header", post("If-Match: x\r\n"), 400, version),
        ("another version than none", post("If-None-Match: \"1\"\r\n"), 400, "If-None-Match must be *"),
        ("a text for a truth", put(r#"{"key":"k","value":"v","if_absent":"yes"}"#), 400, "expected a boolean"),
        (
            "two conditions",
            put(r#"{"key":"k","value":"v","if_absent":true,"if_match":"1-0000000000000000"}"#),
            400,
            "a write has at most one condition",
        ),
        (
            "a long token of a retry",
            post(&format!("Idempotency-Key: {}\r\n", "x".repeat(256))),
            400,
            "Idempotency-Key must be 1 to 255",
        ),
        ("a key that is too long", put(&long_key), 413, "the key has 4097 bytes (limit 4096)"),
        ("a value that is too long", put(&long_value), 413, "the value has 1048577 bytes (limit 1048576)"),
    ]
}

fn of_other_operations() -> Vec<Row> {
    let post = |path: &str, body: &str| request(&format!("POST {path}"), "", body);
    let config = |body: &str| request("PATCH /config", "", body);
    let read = |path: &str| request(&format!("GET {path}"), "", "");
    vec![
        ("a deletion of nothing", post("/delete", "{}"), 400, "Missing key"),
        ("a deletion of a number", post("/delete", r#"{"key":7}"#), 400, "key must be a string"),
        ("an increment of nothing", post("/incr", r#"{"by":1}"#), 400, "Missing key"),
        (
            "an increment by a text",
            post("/incr", r#"{"key":"n","by":"x"}"#),
            400,
            "by must be a 64-bit integer, not \"x\"",
        ),
        (
            "an increment by a half",
            post("/incr", r#"{"key":"n","by":1.5}"#),
            400,
            "by must be a 64-bit integer, not 1.5",
        ),
        ("an increment by too much", post("/incr", r#"{"key":"n","by":99999999999999999999}"#), 400, "not 1e+20"),
        ("no keys at once", read("/keys?limit=0"), 400, "limit (0) must be from 1 to 10000"),
        ("too many keys at once", read("/keys?limit=10001"), 400, "limit (10001) must be from 1 to 10000"),
        ("a limit that is no number", read("/keys?limit=x"), 400, "limit: invalid digit found in string"),
        ("a watch of nothing", read("/watch"), 400, "a watch has either key or prefix"),
        ("a watch of two things", read("/watch?key=a&prefix=b"), 400, "a watch has either key or prefix"),
        ("an unknown consistency", get("key=k&consistency=none"), 400, "expected `linearizable` or `local`"),
        ("a raw read that may be", get("key=k&raw=maybe"), 400, "provided string was not `true` or `false`"),
        ("a read of an empty key", get("key="), 400, "Missing key parameter"),
        ("half a configuration", config("{"), 400, "malformed JSON"),
        ("a quorum above the followers", config(r#"{"write_quorum":2}"#), 400, "the write quorum (2) is above"),
        ("a quorum of none", config(r#"{"write_quorum":0}"#), 400, "the write quorum (0) must be at least 1"),
        ("a quorum as a text", config(r#"{"write_quorum":"1"}"#), 400, "invalid type: string \"1\", expected u16"),
        ("a negative delay", config(r#"{"max_delay_ms":-1}"#), 400, "invalid value: integer `-1`"),
        (
            "delays the wrong way round",
            config(r#"{"min_delay_ms":9,"max_delay_ms":3}"#),
            400,
            "the minimum delay (9 ms) is above the maximum delay (3 ms)",
        ),
        ("an unknown setting", config(r#"{"nothing":1}"#), 400, "unknown field `nothing`"),
        ("a law that cannot be", config(r#"{"delay":{"exponential":{"meanMs":-4}}}"#), 400, "meanMs is -4"),
        ("a wait that is no number", request("PATCH /config?wait_ms=x", "", "{}"), 400, "wait_ms: invalid digit"),
        ("a loss that nobody accepts", post("/recover", "{}"), 400, "missing field `accept_data_loss`"),
        ("a restore of no backup", post("/restore", "x"), 400, "malformed JSON"),
        ("replication to a leader", post("/replicate", "{}"), 404, "no such route: /replicate"),
    ]
}

fn of_heads() -> Vec<Row> {
    let invalid = "the request is not valid HTTP/1.1";
    let too_large = "the head of the request is longer than 65536 bytes or has more than 100 headers";
    let raw = |text: &str| text.as_bytes().to_vec();
    vec![
        ("no HTTP", raw("hello node\r\n\r\n"), 400, invalid),
        ("a TLS greeting", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3], 400, invalid),
        ("another version", raw("GET /get?key=k HTTP/3.0\r\nHost: n\r\n\r\n"), 400, invalid),
        ("a header without a colon", raw("GET /get?key=k HTTP/1.1\r\nHost n\r\n\r\n"), 400, invalid),
        ("a space before the colon", raw("GET /get?key=k HTTP/1.1\r\nHost : n\r\n\r\n"), 400, invalid),
        ("a folded header", raw("GET /get?key=k HTTP/1.1\r\nHost: n\r\n folded\r\n\r\n"), 400, invalid),
        ("a zero byte in a header", raw("GET /get?key=k HTTP/1.1\r\nHost: n\0\r\n\r\n"), 400, invalid),
        ("a space in the URL", raw("GET /get?key=a b HTTP/1.1\r\nHost: n\r\n\r\n"), 400, invalid),
        ("a long head", request("GET /get?key=k", &format!("X: {}\r\n", "x".repeat(300_000)), ""), 431, too_large),
        ("many headers", request("GET /get?key=k", &"X: y\r\n".repeat(101), ""), 431, too_large),
        ("a long URL", get(&format!("key={}", "k".repeat(65_530))), 414, "the URL is longer than 65534 bytes"),
        ("a long body", request("POST /put", "", &"x".repeat(7_000_000)), 413, "the body is longer than"),
    ]
}

fn of_routes() -> Vec<Row> {
    let not_allowed = "is not allowed here";
    vec![
        ("GET", request("GET /put", "", ""), 405, not_allowed),
        ("PUT", request("PUT /put", "", WRITE), 405, not_allowed),
        ("OPTIONS without an origin", request("OPTIONS /put", "", ""), 405, not_allowed),
        ("TRACE", request("TRACE /get?key=k", "", ""), 405, not_allowed),
        ("POST of the page", request("POST /", "", WRITE), 405, not_allowed),
        ("DELETE of a file of the page", request("DELETE /page/main.js", "", ""), 405, not_allowed),
        ("an unknown method", request("BREW /delete", "", ""), 405, not_allowed),
        ("POST of a read", request("POST /get?key=k", "", WRITE), 405, not_allowed),
        ("DELETE of a dump", request("DELETE /dump", "", ""), 405, not_allowed),
        ("POST of the settings", request("POST /config", "", "{}"), 405, not_allowed),
        ("GET of an order", request("GET /recover", "", ""), 405, not_allowed),
        ("no path", request("OPTIONS *", "", ""), 404, "no such route"),
        ("an unknown path", request("GET /put/", "", ""), 404, "no such route: /put/"),
        ("an escaped path", request("GET /%67et?key=k", "", ""), 404, "no such route: /%67et"),
    ]
}

fn check(what: &str, answer: &Answer, status: u16, words: &str) {
    let Answer { status: seen, body, head } = answer;
    assert_eq!(*seen, status, "{what}: {head}\n{body}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{what}: {head}");
    let error = body.get("message").or_else(|| body.get("error")).and_then(Value::as_str).unwrap_or_default();
    assert!(error.contains(words), "{what}: {body}");
}

/// Of the process of a node.
fn threads_and_memory_kib(url: &str) -> (u64, u64) {
    let setting = format!("PORT={}", url.rsplit(':').next().expect("a port")).into_bytes();
    let is_it = |process: &PathBuf| {
        let settings = fs::read(process.join("environ")).unwrap_or_default();
        settings.split(|byte| *byte == 0).any(|other| other == setting)
    };
    let processes = fs::read_dir("/proc").expect("a list").filter_map(|entry| Some(entry.ok()?.path()));
    let process = processes.into_iter().find(is_it).expect("the node runs");
    let status = fs::read_to_string(process.join("status")).expect("its status");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.split_whitespace().next().expect("a value").parse().expect("a number")
    };
    (field("Threads:"), field("VmRSS:"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_is_refused_in_words() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, &[]).await;
    let leader = cluster.leader_url();
    let of_data = [of_queries(), of_bodies(), of_other_operations()].concat();
    let table = [of_browsers(), of_ambiguous_heads(), of_data, of_heads(), of_routes()].concat();
    assert!(table.len() >= 120, "{} requests", table.len());
    let mut first = None;
    for _ in 0..4 {
        for (what, request, status, words) in &table {
            let answer = send(&leader, request).await;
            check(what, &answer, *status, words);
            if *status == 405 {
                assert!(answer.header("allow").is_some(), "{what}: {}", answer.head);
            }
        }
        // What the first round used is used again.
        let (threads, memory_kib) = threads_and_memory_kib(&leader);
        let (threads_before, memory_before_kib) = *first.get_or_insert((threads, memory_kib));
        assert!(threads <= threads_before, "{threads_before} threads, and now {threads}");
        assert!(memory_kib < memory_before_kib + (16 << 10), "{memory_before_kib} KiB, and now {memory_kib} KiB");
    }
    let found = send(&leader, &get("key=k")).await;
    assert_eq!(found.status, 404, "a refused write is not applied: {}", found.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_answered_with_the_right_ones() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, &[]).await;
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    let table = [
        (&leader, "/put", "POST"),
        (&leader, "/delete", "POST"),
        (&leader, "/incr", "POST"),
        (&leader, "/get", "GET,HEAD"),
        (&leader, "/dump", "GET,HEAD"),
        (&leader, "/config", "GET,HEAD,PATCH"),
        (&leader, "/recover", "POST"),
        (&leader, "/backup", "GET,HEAD"),
        (&leader, "/", "GET,HEAD"),
        (&follower, "/", "GET,HEAD"),
        (&follower, "/get", "GET,HEAD"),
        (&follower, "/replicate", "POST"),
        (&follower, "/status", "GET,HEAD"),
    ];
    for (node, path, allowed) in table {
        let answer = send(node, &request(&format!("DELETE {path}"), "", "")).await;
        check(path, &answer, 405, "the method DELETE is not allowed here");
        let mut seen: Vec<&str> = answer.header("allow").expect(path).split(',').map(str::trim).collect();
        seen.sort_unstable();
        assert_eq!(seen.join(","), allowed, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_names_the_leader_on_every_route_that_is_not_its_own() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, &[]).await;
    let (leader, follower) = (cluster.leader_url(), cluster.follower_url(0));
    let routes =
        ["POST /put", "POST /delete", "POST /incr", "GET /config", "PATCH /config", "POST /recover", "POST /hand-over"];
    for line in routes.into_iter().chain(["GET /backup", "POST /restore", "GET /nowhere"]) {
        let answer = send(&follower, &request(line, "", "")).await;
        check(line, &answer, 404, "");
        assert_eq!(answer.body["leader"], leader.as_str(), "{line}: {}", answer.body);
    }
}

/// What is no foreign page is served as before.
#[tokio::test(flavor = "multi_thread")]
async fn programs_pages_of_the_node_and_named_origins_are_served() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, &[("ALLOWED_ORIGINS", "https://app.example, http://localhost:3000")]).await;
    let leader = cluster.leader_url();
    let named = "Origin: https://app.example\r\n";
    for (headers, origin) in [
        ("", None),
        ("Origin: http://node:1\r\n", None),
        ("Origin: https://NODE:1\r\n", None),
        (named, Some("https://app.example")),
        ("Origin: http://localhost:3000\r\n", Some("http://localhost:3000")),
    ] {
        let answer = send(&leader, &post(headers)).await;
        assert_eq!(answer.status, 200, "{headers}: {}", answer.body);
        assert_eq!(answer.header("access-control-allow-origin"), origin, "{headers}");
        assert_eq!(answer.header("vary"), origin.map(|_| "Origin"), "{headers}");
    }
    // What a visitor does, a script of the node's own page, and a link to that page.
    for (line, site, status) in [
        ("GET /get?key=k", "none", 200),
        ("GET /get?key=k", "same-origin", 200),
        ("POST /put", "cross-site", 200),
        ("GET /", "cross-site", 200),
    ] {
        let headers = format!("Sec-Fetch-Site: {site}\r\nSec-Fetch-Mode: navigate\r\nAccept: text/html\r\n");
        let body = if line.starts_with("POST") { WRITE } else { "" };
        let answer = send(&leader, &request(line, &headers, body)).await;
        assert_eq!(answer.status, status, "{line} of {site}: {}", answer.body);
    }
    let refused = send(&leader, &post("Origin: https://app.example.evil\r\n")).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None));

    let asks =
        format!("{named}Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: idempotency-key\r\n");
    let preflight = send(&leader, &request("OPTIONS /put", &asks, "")).await;
    assert_eq!(preflight.status, 204, "{}", preflight.head);
    assert_eq!(preflight.header("access-control-allow-origin"), Some("https://app.example"));
    assert!(preflight.header("access-control-allow-methods").is_some_and(|methods| methods.contains("PATCH")));
    let headers = preflight.header("access-control-allow-headers").unwrap_or_default();
    assert!(headers.contains("Idempotency-Key") && headers.contains("Authorization"), "{headers}");
    assert!(preflight.header("access-control-max-age").is_some());

    let escaped = send(&leader, &get("key=%6B")).await;
    assert_eq!((escaped.status, &escaped.body["key"]), (200, &"k".into()), "{}", escaped.body);
    let chunked = format!("{:X}\r\n{WRITE}\r\n0\r\n\r\n", WRITE.len());
    let chunked = format!("POST /put HTTP/1.1\r\nHost: node:1\r\nTransfer-Encoding: Chunked\r\n\r\n{chunked}");
    assert_eq!(send(&leader, chunked.as_bytes()).await.status, 200);
}

/// A page whose host name points at this node (DNS rebinding) is of the node's own origin.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_knows_its_names_serves_no_other() {
    let logs = TempDir::new().expect("a directory");
    let cluster = cluster(&logs, &[("HOST_NAMES", "kv.example,kv-leader")]).await;
    let leader = cluster.leader_url();
    let host = |host: &str| {
        format!(
            "POST /put HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nContent-Length: {}\r\n\r\n{WRITE}",
            WRITE.len()
        )
    };
    for served in
        ["kv.example", "KV.example:8000", "kv-leader:80", "kv.example.", "127.0.0.1:8000", "[::1]:8000", "localhost"]
    {
        let answer = send(&leader, host(served).as_bytes()).await;
        assert_eq!(answer.status, 200, "{served}: {}", answer.body);
    }
    for other in
        ["evil.example", "evil.example:8000", "kv.example.evil.example", "127.0.0.1.evil.example", "example", ""]
    {
        let answer = send(&leader, host(other).as_bytes()).await;
        check(other, &answer, 421, "HOST_NAMES does not list it");
    }
    let absolute = "GET http://evil.example/get?key=k HTTP/1.1\r\nHost: kv.example\r\n\r\n";
    check("an absolute URL", &send(&leader, absolute.as_bytes()).await, 421, "does not serve the host evil.example");
    let old = send(&leader, b"GET /get?key=k HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.status, 200, "a program without a host");
}
