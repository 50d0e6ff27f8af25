//! Goal: a page of another origin, open in the browser of somebody who reaches a node, neither reads nor writes. Method: a real
//! page in a real browser tries every way that it has, and the same page where the node names its origin shows that they would
//! work. A second page gives its own name the node's address.

use axum::{Router, response::Html, routing::get};
use kv_bench::cluster::LocalCluster;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    chromium::{Chromium, FOREIGN_NAME, installed},
    support::{KV_BENCH, one_follower},
};

/// Each attempt writes a key of its own or reads the key `secret`, and says what the page could see of the answer.
const ATTEMPTS: &str = r#"(async (node) => {
    const put = (key) => JSON.stringify({ key, value: "of a foreign page" });
    const seen = async (attempt) => { try { return await attempt(); } catch { return "nothing"; } };
    const text = async (answer) => (await answer).text();
    const post = (key, options) => text(fetch(`${node}/put`, { method: "POST", body: put(key), ...options }));
    const byForm = () => new Promise((resolve) => {
        const frame = Object.assign(document.createElement("iframe"), { name: "hidden", onload: () => resolve("nothing") });
        const form = Object.assign(document.createElement("form"),
            { action: `${node}/put`, method: "post", enctype: "text/plain", target: "hidden" });
        form.innerHTML = `<input name='{"key":"by-form","value":"' value='"}'>`;
        document.body.append(frame, form);
        form.submit();
    });
    const byEvents = () => new Promise((resolve) => {
        const events = new EventSource(`${node}/watch?prefix=s`);
        events.onmessage = (event) => { events.close(); resolve(event.data); };
        events.onerror = () => { events.close(); resolve("nothing"); };
    });
    return {
        simple: await seen(() => post("simple", { mode: "no-cors", headers: { "content-type": "text/plain" } })),
        cors: await seen(() => post("cors", { headers: { "content-type": "application/json" } })),
        form: await byForm(),
        beacon: String(navigator.sendBeacon(`${node}/put`, put("beacon"))),
        read: await seen(() => text(fetch(`${node}/get?key=secret`))),
        events: await byEvents(),
    };
})"#;

/// Keys that the attempts write.
const KEYS: [&str; 4] = ["simple", "cors", "by-form", "beacon"];

async fn attempt(page: &mut Chromium, node: &str) -> Value {
    page.evaluate(&format!("{ATTEMPTS}('{node}')")).await
}

/// A leader with the key `secret` and these settings.
async fn with_a_secret(logs: &TempDir, settings: &[(&str, &str)]) -> (LocalCluster, Client) {
    let (cluster, client) = (one_follower(KV_BENCH, logs.path(), settings).await, Client::new());
    let body = json!({"key": "secret", "value": "untold"}).to_string();
    let put = client.post(format!("{}/put", cluster.leader_url())).body(body).send().await.expect("an answer");
    assert_eq!(put.status(), StatusCode::OK);
    (cluster, client)
}

async fn has(client: &Client, cluster: &LocalCluster, key: &str) -> bool {
    let answer = client.get(format!("{}/get?key={key}", cluster.leader_url())).send().await.expect("an answer");
    answer.status() == StatusCode::OK
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_origin_neither_reads_nor_writes() {
    let Some(program) = installed() else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    let html = get(|| async { Html("<!doctype html><title>foreign</title><body></body>") });
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", html)).await });
    let logs = [(); 2].map(|()| TempDir::new().expect("a directory"));
    let mut page = Chromium::start(program).await;
    page.open(&origin).await;
    page.until("document.title === 'foreign' && document.body").await;

    let (closed, client) = with_a_secret(&logs[0], &[("HOST_NAMES", "node")]).await;
    let seen = attempt(&mut page, &closed.leader_url()).await;
    for (way, seen) in seen.as_object().expect("an object") {
        let nothing = ["nothing", "", "true"].contains(&seen.as_str().unwrap_or_default());
        assert!(nothing, "{way}: {seen}");
    }
    // The browser has sent them all: the same attempts where the origin is named.
    let (open, _) = with_a_secret(&logs[1], &[("ALLOWED_ORIGINS", &origin)]).await;
    let seen = attempt(&mut page, &open.leader_url()).await;
    assert!(seen["read"].as_str().is_some_and(|answer| answer.contains("untold")), "{seen}");
    assert!(seen["events"].as_str().is_some_and(|event| event.contains("untold")), "{seen}");
    assert!(seen["cors"].as_str().is_some_and(|answer| answer.contains("committed")), "{seen}");
    for key in KEYS {
        crate::support::eventually(key, async || has(&client, &open, key).await.then_some(())).await;
        assert!(!has(&client, &closed, key).await, "{key} was written");
    }

    // The page's name now leads to the node, so that the browser takes both for one origin.
    let rebound = closed.leader_url().replace("127.0.0.1", FOREIGN_NAME);
    page.open(&rebound).await;
    page.until("document.body && document.body.innerText.includes('HOST_NAMES')").await;
    let seen = attempt(&mut page, &rebound).await;
    for way in ["simple", "cors", "read"] {
        assert!(
            seen[way].as_str().is_some_and(|answer| answer.contains("HOST_NAMES does not list it")),
            "{way}: {seen}"
        );
    }
    assert_eq!(seen["events"], "nothing");
    for key in KEYS {
        assert!(!has(&client, &closed, key).await, "{key} was written");
    }
}
