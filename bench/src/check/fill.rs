//! State that a cluster has before anything is broken, so that a recovery takes many messages: keys that are
//! written once and must all exist at the end.

use std::{ops::Range, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    target::Endpoints,
    violation::{Rule, Violation},
};
use crate::client::{Credentials, Dump, Entry, NodeClient, until_answered};

/// Requests under way at once.
const CONNECTIONS: usize = 64;
/// How long one write or read may take, all its attempts included.
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Fill {
    /// Number of keys.
    pub keys: u32,
    /// Size of each value in bytes.
    pub value_bytes: usize,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FillReport {
    /// How much there was.
    #[serde(flatten)]
    pub fill: Fill,
    /// Keys that a linearizable read found in the end, as they were written.
    pub intact: u32,
}

/// The keys of one check in one cluster. Clones are the same keys.
#[derive(Clone, Debug)]
pub(super) struct FilledKeys {
    fill: Fill,
    /// Prefix of the keys of this run.
    run: Arc<str>,
    http: reqwest::Client,
    endpoints: watch::Receiver<Endpoints>,
}

impl FilledKeys {
    pub(super) fn new(
        fill: Fill,
        run: &str,
        credentials: &Credentials,
        endpoints: watch::Receiver<Endpoints>,
    ) -> Result<Self> {
        Ok(Self { fill, run: run.into(), http: credentials.http(CONNECTIONS)?, endpoints })
    }

    /// The name of a key, from 0.
    pub(super) fn key(&self, number: u32) -> String {
        format!("{}fill{number}", self.run)
    }

    pub(super) fn numbers(&self) -> Range<u32> {
        0..self.fill.keys
    }

    /// A value that names its key, so that swapped values show.
    fn value(&self, number: u32) -> String {
        let mut value = format!("{number} ").repeat(self.fill.value_bytes / 2 + 1);
        value.truncate(self.fill.value_bytes);
        value
    }

    fn leader(&self) -> Result<NodeClient> {
        let endpoints = self.endpoints.borrow();
        let leader = endpoints.leaders.first().context("no leader is known")?;
        Ok(NodeClient::new(self.http.clone(), &leader.url, None))
    }

    /// Writes every key once.
    ///
    /// # Errors
    /// When one is not acknowledged.
    pub(super) async fn write(&self) -> Result<()> {
        let write = async |number: u32| {
            let (leader, key, value) = (self.leader()?, self.key(number), self.value(number));
            // A repetition under another sequence number would look like a change.
            until_answered(PATIENCE, |_| true, || leader.write_once(&key, &value, REQUEST_TIMEOUT)).await
        };
        for_each(self.numbers(), write).await.map(drop).context("failed to fill the cluster")
    }

    /// Whether the leader knows of at least as many keys as were written.
    ///
    /// # Errors
    /// When it does not say.
    pub(super) async fn are_counted(&self) -> Result<bool> {
        Ok(self.leader()?.status().await?.keys >= u64::from(self.fill.keys))
    }

    /// Reads every key at the leader, and looks for all of them in what each node has. Takes them out of the dumps.
    ///
    /// # Errors
    /// When a read is not answered.
    pub(super) async fn judge<'a>(
        &self,
        dumps: impl Iterator<Item = (&'a str, &'a mut Dump)>,
    ) -> Result<(FillReport, Vec<Violation>)> {
        let read = async |number: u32| {
            let key = self.key(number);
            let read = until_answered(PATIENCE, |_| true, || self.read(&key)).await?;
            anyhow::Ok(read.map(|entry| (key, entry)))
        };
        let read: Dump = for_each(self.numbers(), read)
            .await
            .context("failed to read the filled keys")?
            .into_iter()
            .flatten()
            .collect();
        let mut violations: Vec<Violation> = self.loss("a read at the leader", &read).into_iter().collect();
        let intact = self.numbers().filter(|number| self.is_intact(*number, &read)).count();
        for (node, entries) in dumps {
            let filled: Dump = self.numbers().filter_map(|number| entries.remove_entry(&self.key(number))).collect();
            violations.extend(self.loss(node, &filled));
        }
        Ok((FillReport { fill: self.fill, intact: intact as u32 }, violations))
    }

    /// What of a node's keys is missing or changed, as one violation.
    fn loss(&self, node: &str, entries: &Dump) -> Option<Violation> {
        let lost: Vec<u32> = self.numbers().filter(|number| !self.is_intact(*number, entries)).collect();
        let (first, last) = (*lost.first()?, *lost.last()?);
        let text = format!(
            "{} of the {} keys that were written before the faults are lost or changed in the end, says {node}: {} to {}",
            lost.len(),
            self.fill.keys,
            self.key(first),
            self.key(last),
        );
        Some(Violation { rule: Rule::InFinalDumps, key: Some(self.key(first)), operations: Vec::new(), text })
    }

    fn is_intact(&self, number: u32, entries: &Dump) -> bool {
        let entry = entries.get(&self.key(number));
        entry.is_some_and(|entry| entry.seq == 1 && entry.value == *self.value(number))
    }

    /// A linearizable read; nothing where there is no such key.
    async fn read(&self, key: &str) -> Result<Option<Entry>> {
        #[derive(Deserialize)]
        struct Missing {
            error: String,
        }
        let url = format!("{}/get?key={key}", self.leader()?.url());
        let response = self.http.get(url).timeout(REQUEST_TIMEOUT).send().await?;
        if response.status() == reqwest::StatusCode::NOT_FOUND {
            let Missing { error } = response.json().await?;
            anyhow::ensure!(error == "Key not found", "the leader answered: {error}");
            return Ok(None);
        }
        Ok(Some(response.error_for_status()?.json().await?))
    }
}

/// Does something for every number, many at once; returns what came of each, in any order.
async fn for_each<T, F: Future<Output = Result<T>>>(numbers: Range<u32>, what: impl Fn(u32) -> F) -> Result<Vec<T>> {
    stream::iter(numbers).map(what).buffer_unordered(CONNECTIONS).try_collect().await
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::{Json, Router, extract::Query, http::StatusCode, routing};
    use serde_json::json;

    use super::*;
    use crate::check::target::Endpoint;

    fn filled() -> FilledKeys {
        let fill = Fill { keys: 30, value_bytes: 100 };
        FilledKeys::new(fill, "run-", &Credentials::default(), watch::channel(Endpoints::default()).1)
            .expect("an HTTP client")
    }

    fn whole(keys: &FilledKeys) -> Dump {
        keys.numbers().map(|number| (keys.key(number), Entry { value: keys.value(number).into(), seq: 1 })).collect()
    }

    /// A leader that lost one of the keys.
    async fn leader_without(keys: &FilledKeys, lost: u32) -> watch::Receiver<Endpoints> {
        let mut entries = whole(keys);
        entries.remove(&keys.key(lost));
        let config = json!({"generation": 1, "write_quorum": 1, "followers": 1, "min_delay_ms": 0, "max_delay_ms": 0,
            "replication_timeout_ms": 500});
        let status = json!({"role": "leader", "state": "open", "keys": entries.len(), "config": config});
        let get = async move |Query(query): Query<BTreeMap<String, String>>| match entries.get(&query["key"]) {
            Some(entry) => Ok(Json(json!({"value": entry.value.as_text(), "seq": entry.seq}))),
            None => Err((StatusCode::NOT_FOUND, Json(json!({"error": "Key not found"})))),
        };
        let routes = Router::new().route("/get", routing::get(get));
        let routes = routes.route("/status", routing::get(async || Json(status)));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let leader = Endpoint { name: "leader".into(), url, redis: String::new(), incarnation: None };
        watch::channel(Endpoints { leaders: vec![leader], followers: Vec::new() }).1
    }

    #[tokio::test]
    async fn a_key_that_a_recovery_dropped_is_missed() {
        let keys = filled();
        let keys = FilledKeys { endpoints: leader_without(&keys, 8).await, ..keys };
        assert!(!keys.are_counted().await.expect("an answer"));
        let mut dump = whole(&keys);
        dump.insert("run-k0".to_owned(), Entry { value: "c1-4".into(), seq: 3 });
        let (report, violations) = keys.judge([("follower1", &mut dump)].into_iter()).await.expect("answers");
        assert_eq!(report.intact, 29);
        let texts: Vec<&str> = violations.iter().map(|violation| violation.text.as_str()).collect();
        let expected = "1 of the 30 keys that were written before the faults are lost or changed in the end, says a read \
                        at the leader: run-fill8 to run-fill8";
        assert_eq!(texts, [expected]);
        assert_eq!(dump.keys().collect::<Vec<_>>(), ["run-k0"], "what is judged here is judged nowhere else");
    }

    #[test]
    fn values_are_as_long_as_asked_for_and_tell_their_keys() {
        let keys = filled();
        assert!(keys.numbers().all(|number| keys.value(number).len() == 100));
        assert!(keys.value(7).starts_with("7 7 7 ") && keys.value(29).starts_with("29 29 "));
        assert_eq!(keys.loss("leader", &whole(&keys)), None);
    }

    #[test]
    fn what_is_missing_or_changed_at_a_node_is_a_loss() {
        let keys = filled();
        let mut entries = whole(&keys);
        entries.remove("run-fill4");
        entries.get_mut("run-fill9").expect("there").seq = 2;
        let other = keys.value(7);
        entries.get_mut("run-fill17").expect("there").value = other.into();
        let Violation { rule, text, .. } = keys.loss("follower2", &entries).expect("a loss");
        assert_eq!(rule, Rule::InFinalDumps);
        assert_eq!(
            text,
            "3 of the 30 keys that were written before the faults are lost or changed in the end, says follower2: \
             run-fill4 to run-fill17"
        );
    }
}
