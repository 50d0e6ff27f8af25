//! Clients that go on writing while something happens, and remember what was acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use reqwest::redirect::Policy;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::harness::{Demo, PATIENCE, http};

const CLIENTS: usize = 4;

/// The number of writers so far, so that each writes keys of its own.
static WRITERS: AtomicU64 = AtomicU64::new(0);

#[derive(Default)]
struct Log {
    acknowledged: Mutex<BTreeMap<String, String>>,
    times: Mutex<Vec<Instant>>,
    failed: AtomicU64,
    redirected: AtomicU64,
    stop: AtomicBool,
}

/// Clients that go on writing.
pub struct Writer {
    log: Arc<Log>,
    clients: JoinSet<()>,
}

/// What became of the writes.
pub struct Report {
    acknowledged: usize,
    /// How many had another answer, or none.
    pub failed: u64,
    /// How many answers named another leader.
    pub redirected: u64,
    /// The longest time without an acknowledgement.
    pub longest_gap: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acknowledged, failed, redirected, longest_gap } = self;
        write!(
            f,
            "{acknowledged} writes acknowledged and none lost, {failed} not acknowledged ({redirected} of them \
             redirected), none for {longest_gap:?} at most"
        )
    }
}

impl Writer {
    /// Starts writing to the leader, each client one write after the other.
    pub async fn start(demo: &Demo) -> Self {
        // Longer than a leader may take to answer, and shorter than the gap that a failure leaves, so that a connection to
        // a pod that is gone is given up.
        Self::start_at(vec![demo.url("leader").await], Duration::from_secs(6)).await
    }

    /// Starts writing at the first URL. A client that fails, or has no answer within `timeout`, goes on at the next URL, or
    /// where it is redirected to if it knows several.
    pub async fn start_at(urls: Vec<String>, timeout: Duration) -> Self {
        let log = Arc::new(Log::default());
        let mut clients = JoinSet::new();
        let writer = WRITERS.fetch_add(1, Relaxed);
        for client in (0..CLIENTS).map(|client| format!("writer-{writer}-client-{client}")) {
            clients.spawn(write(client, urls.clone(), timeout, log.clone()));
        }
        let writer = Self { log, clients };
        writer.progress().await;
        writer
    }

    /// Waits until writes that begin from now on are acknowledged.
    pub async fn progress(&self) {
        let (started, before) = (Instant::now(), self.log.times.lock().await.len());
        // As many as there are clients may have begun before.
        while self.log.times.lock().await.len() < before + 2 * CLIENTS {
            assert!(started.elapsed() < PATIENCE, "no write is acknowledged for {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops, and checks that the leader has every acknowledged write, with its value.
    pub async fn finish(self, demo: &Demo) -> Report {
        let url = demo.service().await;
        self.finish_at(&url).await
    }

    /// The same, where the leader is at this URL.
    pub async fn finish_at(mut self, url: &str) -> Report {
        self.log.stop.store(true, Relaxed);
        while self.clients.join_next().await.is_some() {}
        let acknowledged = self.log.acknowledged.lock().await.clone();
        let dump = dump(&format!("{url}/dump")).await;
        let entries = &dump["entries"];
        let lost: Vec<&String> = acknowledged
            .iter()
            .filter(|(key, value)| entries[key.as_str()]["value"] != value.as_str())
            .map(|(key, _)| key)
            .collect();
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged writes are lost: {:?}",
            lost.len(),
            acknowledged.len(),
            &lost[..lost.len().min(5)]
        );
        let mut times = self.log.times.lock().await.clone();
        times.sort();
        let longest_gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        Report {
            acknowledged: acknowledged.len(),
            failed: self.log.failed.load(Relaxed),
            redirected: self.log.redirected.load(Relaxed),
            longest_gap,
        }
    }
}

/// What the leader has. A connection may still fail while a lost pod is being removed from the Service.
async fn dump(url: &str) -> Value {
    let started = Instant::now();
    loop {
        let failure = match http().get(url).send().await {
            Ok(response) if response.status().is_success() => return response.json().await.unwrap(),
            Ok(response) => response.status().to_string(),
            Err(error) => format!("{error:?}"),
        };
        println!("failed to read {url}: {failure}");
        assert!(started.elapsed() < PATIENCE, "{url} is not answered for {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn write(client: String, urls: Vec<String>, timeout: Duration, log: Arc<Log>) {
    let http = reqwest::Client::builder().timeout(timeout).connect_timeout(timeout / 4).redirect(Policy::none());
    let http = http.no_proxy().build().unwrap();
    let several = urls.len() > 1;
    let mut urls = urls.into_iter().cycle();
    let mut url = urls.next().unwrap();
    for number in 0_u64.. {
        if log.stop.load(Relaxed) {
            return;
        }
        let (key, value) = (format!("{client}-write-{number}"), format!("{client}:{number}"));
        let response = http.post(format!("{url}/put")).json(&json!({"key": key, "value": value})).send().await;
        if response.as_ref().is_ok_and(|response| response.status().is_success()) {
            log.times.lock().await.push(Instant::now());
            log.acknowledged.lock().await.insert(key, value);
        } else {
            log.failed.fetch_add(1, Relaxed);
            let elsewhere = response.ok().and_then(|response| {
                let location = response.headers().get(reqwest::header::LOCATION)?.to_str().ok()?;
                Some(location.trim_end_matches("/put").to_owned())
            });
            log.redirected.fetch_add(u64::from(elsewhere.is_some()), Relaxed);
            url = elsewhere.filter(|_| several).or_else(|| urls.next()).unwrap();
            // Neither hammer a leader that is not there, nor miss its return by much.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
