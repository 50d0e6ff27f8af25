//! The node's HTTP interface as the bench uses it: writes, live configuration, status, dumps.

mod credentials;
mod passage;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use kv_node::protocol::value::{Value, from_base64};
use kvcluster_api::{
    config::{ConfigPatch, ConfigView},
    delay::DelayLaw,
    error::ErrorBody,
    status::LeaderStatus,
};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::{Instant, sleep};

pub(crate) use self::credentials::{AdministratorArguments, ClientArguments};
pub(crate) use self::passage::TlsArguments;
pub use self::{credentials::Credentials, passage::Passage};

/// How long a question about state may take before the node counts as not answering.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause before a question is asked again.
const ASK_INTERVAL: Duration = Duration::from_millis(200);

/// The words of a node that has no value of a key.
const NO_VALUE: &str = ": Key not found";

/// The values that a sweep and a check change.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigChange {
    /// Followers that must confirm a write.
    pub write_quorum: u16,
    /// Shortest delay in ms.
    pub min_delay_ms: u32,
    /// Longest delay in ms.
    pub max_delay_ms: u32,
    /// The law of the delays; uniform when absent.
    pub delay: Option<Arc<DelayLaw>>,
}

impl ConfigChange {
    /// Whether exactly these values are in force.
    pub fn is_in_force(&self, config: &ConfigView) -> bool {
        config.pending.is_none() && *self == Self::from(config)
    }
}

#[cfg(feature = "kubernetes")]
impl ConfigChange {
    /// The same change as the operator passes it to a leader.
    pub(crate) fn of_kvcluster(self) -> Self {
        let Some(law) = &self.delay else {
            return self;
        };
        let law = kvcluster_api::resource::capped(DelayLaw::clone(law));
        let (min_ms, max_ms) = law.resolve().map(|delays| delays.bounds_ms()).unwrap_or_default();
        let (min_delay_ms, max_delay_ms) = (min_ms.floor() as u32, max_ms.ceil() as u32);
        Self { min_delay_ms, max_delay_ms, delay: Some(Arc::new(law)), ..self }
    }
}

impl From<&ConfigView> for ConfigChange {
    fn from(config: &ConfigView) -> Self {
        let in_force = &config.in_force;
        Self {
            write_quorum: in_force.write_quorum,
            min_delay_ms: in_force.min_delay_ms,
            max_delay_ms: in_force.max_delay_ms,
            delay: in_force.delay.clone(),
        }
    }
}

impl From<ConfigChange> for ConfigPatch {
    fn from(change: ConfigChange) -> Self {
        let ConfigChange { write_quorum, min_delay_ms, max_delay_ms, delay } = change;
        Self {
            write_quorum: Some(write_quorum),
            min_delay_ms: Some(min_delay_ms).filter(|_| delay.is_none()),
            max_delay_ms: Some(max_delay_ms).filter(|_| delay.is_none()),
            delay,
            ..Self::default()
        }
    }
}

/// One key of a dump.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "EntryBody")]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// The key's sequence number.
    pub seq: u64,
}

/// An [`Entry`] as the node writes it.
#[derive(Deserialize)]
struct EntryBody {
    value: Option<String>,
    value_base64: Option<String>,
    seq: u64,
}

impl TryFrom<EntryBody> for Entry {
    type Error = anyhow::Error;

    fn try_from(body: EntryBody) -> Result<Self> {
        let EntryBody { value, value_base64, seq } = body;
        let value = match (value, value_base64) {
            (Some(text), None) => text.into(),
            (None, Some(base64)) => from_base64(&base64)?.into(),
            _ => bail!("an entry has either value or value_base64"),
        };
        Ok(Self { value, seq })
    }
}

/// What `POST /put?explain=true` adds to an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Explanation {
    /// The quorum under which it was answered.
    pub write_quorum: Option<u16>,
    /// The delay that the quorum had to wait for (the W-th smallest of those drawn), in ms. Whatever a write took beyond
    /// it is the system's own overhead.
    pub quorum_delay_ms: Option<f64>,
}

/// All data of a node, by key.
pub type Dump = BTreeMap<String, Entry>;

/// What a request of a restore is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreStep<'a> {
    /// The digest of the backup.
    pub backup: Option<&'a str>,
    /// `begin`, `end` or `give-up`; none for lines of it.
    pub stage: Option<&'a str>,
    /// Whether they replace keys that are there.
    pub overwrite: bool,
}

/// Keys of a backup were not taken, or may not have been.
#[derive(Debug)]
pub struct RestoreError {
    /// None where there was no answer.
    status: Option<StatusCode>,
    words: String,
}

impl RestoreError {
    /// Whether the same request may be taken a little later.
    pub fn is_temporary(&self) -> bool {
        self.status.is_none_or(|status| status.is_server_error())
    }
}

impl std::fmt::Display for RestoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the leader did not take it: {}", self.words)
    }
}

impl std::error::Error for RestoreError {}

/// Asks again while what went wrong may pass, for as long as `patience`; with none, once.
pub(crate) async fn until_answered<T, E, F: Future<Output = Result<T, E>>>(
    patience: Duration,
    may_pass: impl Fn(&E) -> bool,
    mut ask: impl FnMut() -> F,
) -> Result<T, E> {
    let began = Instant::now();
    loop {
        match ask().await {
            Err(error) if may_pass(&error) && began.elapsed() < patience => sleep(ASK_INTERVAL).await,
            answer => return answer,
        }
    }
}

/// One node over HTTP. Clones share the connections.
#[derive(Clone, Debug)]
pub struct NodeClient {
    http: reqwest::Client,
    url: String,
    token: Option<String>,
}

impl NodeClient {
    /// A client of the node at `url` (`http://host:port`); `token` goes with requests that change settings.
    pub fn new(http: reqwest::Client, url: &str, token: Option<&str>) -> Self {
        Self { http, url: url.trim_end_matches('/').to_owned(), token: token.map(str::to_owned) }
    }

    /// An HTTP client that shows no client's token.
    ///
    /// # Errors
    /// As [`Credentials::http`].
    pub fn http(connections: usize) -> Result<reqwest::Client> {
        Credentials::default().http(connections)
    }

    /// A client of the node at `url` that keeps one connection for each of `connections` concurrent requests.
    ///
    /// # Errors
    /// As [`Credentials::http`].
    pub fn with(credentials: &Credentials, url: &str, connections: usize) -> Result<Self> {
        Ok(Self::new(credentials.http(connections)?, url, credentials.auth_token.as_deref()))
    }

    /// The same for another node of the same cluster.
    #[must_use]
    pub fn at(&self, url: &str) -> Self {
        Self::new(self.http.clone(), url, self.token.as_deref())
    }

    /// Where the node is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A `POST /put` that also asks which delays were drawn, ready to be sent.
    pub fn put(&self, key: &str, value: &str, timeout: Duration) -> RequestBuilder {
        #[derive(Serialize)]
        struct Put<'a> {
            key: &'a str,
            value: &'a str,
        }
        self.http.post(format!("{}/put?explain=true", self.url)).timeout(timeout).json(&Put { key, value })
    }

    /// Writes a value.
    ///
    /// # Errors
    /// When it was not acknowledged, in the leader's words.
    pub async fn write(&self, key: &str, value: &str, timeout: Duration) -> Result<()> {
        self.write_by(self.request(Method::POST, "/put"), key, value, timeout).await
    }

    /// Writes a key that no other client writes, and applies once, however often it is sent.
    ///
    /// # Errors
    /// As [`NodeClient::write`].
    pub async fn write_once(&self, key: &str, value: &str, timeout: Duration) -> Result<()> {
        self.write_by(self.request(Method::POST, "/put").header("Idempotency-Key", "once"), key, value, timeout).await
    }

    async fn write_by(&self, request: RequestBuilder, key: &str, value: &str, timeout: Duration) -> Result<()> {
        let request = request.timeout(timeout).json(&serde_json::json!({"key": key, "value": value}));
        let response = self.send("/put", request).await?;
        // Read to its end, so that the connection can be used again.
        response.bytes().await.map(drop).with_context(|| format!("failed to read the answer of {}", self.url))
    }

    /// Deletes a key, whether or not it is there.
    ///
    /// # Errors
    /// When that was not acknowledged, in the leader's words.
    pub async fn delete(&self, key: &str, timeout: Duration) -> Result<()> {
        let request = self.request(Method::POST, "/delete").timeout(timeout);
        self.send("/delete", request.json(&serde_json::json!({"key": key}))).await.map(drop)
    }

    /// The whole state as a file, to be read chunk by chunk.
    ///
    /// # Errors
    /// When the leader gives none.
    pub async fn backup(&self) -> Result<Response> {
        self.send("/backup", self.with_token(self.request(Method::GET, "/backup"))).await
    }

    /// One step of a restore: to its next stage, or some lines of the backup.
    ///
    /// # Errors
    /// When it was not, or may not have been, taken.
    pub async fn restore(&self, step: RestoreStep<'_>, lines: String, timeout: Duration) -> Result<(), RestoreError> {
        let RestoreStep { backup, stage, overwrite } = step;
        let mut path = format!("/restore?overwrite={overwrite}");
        // A digest and a stage are words that need no escaping.
        for (name, word) in [("backup", backup), ("stage", stage)] {
            path.extend(word.map(|word| format!("&{name}={word}")));
        }
        let request = self.with_token(self.request(Method::POST, &path)).timeout(timeout).body(lines);
        let response = request.send().await.map_err(|error| RestoreError { status: None, words: error.to_string() })?;
        let status = response.status();
        let body = response.text().await.unwrap_or_default();
        if status.is_success() {
            return Ok(());
        }
        Err(RestoreError { status: Some(status), words: format!("{}{}", describe(status), words_of(&body)) })
    }

    /// Has the leader hand over to a standby.
    ///
    /// # Errors
    /// When the node does not lead, or does not accept the token.
    pub async fn hand_over(&self) -> Result<()> {
        let request = self.with_token(self.request(Method::POST, "/hand-over")).timeout(ADMIN_TIMEOUT);
        self.send("/hand-over", request).await.map(drop)
    }

    fn with_token(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Which settings are in force.
    pub async fn config(&self) -> Result<ConfigView> {
        self.get("/config").await
    }

    /// Asks for `change`, and lets the leader wait up to `wait` for it to be in force. Whether it is, says
    /// [`NodeClient::config`].
    pub async fn change_config(&self, change: ConfigChange, wait: Duration) -> Result<()> {
        let path = format!("/config?wait_ms={}", wait.as_millis());
        let request = self.request(Method::PATCH, &path).timeout(wait + ADMIN_TIMEOUT).json(&ConfigPatch::from(change));
        let request = self.with_token(request);
        self.send(&path, request).await.map(drop)
    }

    /// The leader's state.
    pub async fn status(&self) -> Result<LeaderStatus> {
        self.get("/status").await
    }

    /// Whether the node answers HTTP at all.
    pub async fn is_listening(&self) -> bool {
        self.request(Method::GET, "/healthz").timeout(ADMIN_TIMEOUT).send().await.is_ok()
    }

    /// The sequence number of a key at this very node, without asking others; 0 where it has no value there.
    ///
    /// # Errors
    /// When there is no answer in time, or another one than a value or none.
    pub async fn seq(&self, key: &str, timeout: Duration) -> Result<u64> {
        #[derive(Deserialize)]
        struct Body {
            seq: u64,
        }
        // Keys of this bench are words that need no escaping.
        let path = format!("/get?key={key}&consistency=local");
        let response = self.request(Method::GET, &path).timeout(timeout).send().await;
        let response = response.with_context(|| format!("failed to reach {}", self.url))?;
        let status = response.status();
        let body = response.bytes().await.with_context(|| format!("failed to read the answer of {}", self.url))?;
        if status == StatusCode::OK {
            let body: Body = serde_json::from_slice(&body)
                .with_context(|| format!("failed to understand {path} of {}", self.url))?;
            return Ok(body.seq);
        }
        let words = words_of(&String::from_utf8_lossy(&body));
        if status == StatusCode::NOT_FOUND && words == NO_VALUE {
            return Ok(0);
        }
        bail!("{} answered {} to {path}{words}", self.url, describe(status));
    }

    /// All data of the node.
    pub async fn dump(&self) -> Result<Dump> {
        #[derive(Deserialize)]
        struct Body {
            entries: Dump,
        }
        Ok(self.get::<Body>("/dump").await?.entries)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let request = self.request(Method::GET, path).timeout(ADMIN_TIMEOUT);
        let response = self.send(path, request).await?;
        response.json().await.with_context(|| format!("failed to understand {path} of {}", self.url))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Sends, and turns an answer that is no success into an error with the node's own words.
    async fn send(&self, path: &str, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.with_context(|| format!("failed to reach {}", self.url))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.text().await.unwrap_or_default();
        bail!("{} answered {} to {path}{}", self.url, describe(status), words_of(&body));
    }
}

fn describe(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} ({reason})", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}

/// The sentence of a JSON error body, as `: sentence`; nothing for other bodies.
fn words_of(body: &str) -> String {
    let parsed: ErrorBody = serde_json::from_str(body).unwrap_or_default();
    parsed.sentence().map(|sentence| format!(": {sentence}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pending: bool) -> ConfigView {
        let mut body = serde_json::json!({"generation": 7, "write_quorum": 2, "followers": 5, "min_delay_ms": 20,
            "max_delay_ms": 60, "replication_timeout_ms": 5000, "delay_seed": 11, "pending": null});
        if pending {
            body["pending"] =
                serde_json::json!({"generation": 8, "write_quorum": 3, "followers": 5, "message": "waits"});
        }
        serde_json::from_value(body).expect("as the node writes it")
    }

    #[test]
    fn a_change_is_in_force_when_every_value_is_and_none_is_pending() {
        let change = ConfigChange { write_quorum: 2, min_delay_ms: 20, max_delay_ms: 60, delay: None };
        assert!(change.is_in_force(&config(false)));
        assert!(!change.is_in_force(&config(true)));
        assert!(!ConfigChange { write_quorum: 3, ..change.clone() }.is_in_force(&config(false)));
        assert!(!ConfigChange { max_delay_ms: 61, ..change.clone() }.is_in_force(&config(false)));
        let law = Some(Arc::new(DelayLaw::preset("yammer")));
        assert!(!ConfigChange { delay: law, ..change }.is_in_force(&config(false)));
    }

    #[test]
    fn the_words_of_an_error_body_are_found_where_there_are_any() {
        assert_eq!(words_of(r#"{"ok":false,"message":"write quorum 9 above 5"}"#), ": write quorum 9 above 5");
        assert_eq!(words_of(r#"{"error":"Key not found"}"#), ": Key not found");
        assert_eq!(words_of("<html>"), "");
    }

    #[tokio::test]
    async fn who_does_not_answer_is_asked_again_for_so_long() {
        let mut asked = 0;
        let answer = until_answered(
            Duration::from_secs(60),
            |_| true,
            || {
                asked += 1;
                let answer = if asked < 3 { Err(anyhow::anyhow!("no route to host")) } else { Ok(asked) };
                std::future::ready(answer)
            },
        );
        assert_eq!(answer.await.expect("the third time"), 3);
        let never =
            until_answered(Duration::ZERO, |_| true, || std::future::ready(Err::<(), _>(anyhow::anyhow!("gone"))));
        assert_eq!(never.await.expect_err("it never does").to_string(), "gone");
        let for_good = until_answered(Duration::MAX, |_| false, || std::future::ready(Err::<(), _>("refused")));
        assert_eq!(for_good.await.expect_err("it does not pass"), "refused");
    }
}
