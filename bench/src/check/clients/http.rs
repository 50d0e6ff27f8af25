//! Requests over HTTP.

use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode, header::ETAG};
use serde::Deserialize;
use serde_json::json;

use super::{Answer, Attempt};
use crate::check::history::{Action, Condition, Operation, parse_epoch};

/// An answer's body; each has its part of this.
#[derive(Debug, Default, Deserialize)]
struct Body {
    value: Option<String>,
    seq: Option<u64>,
    epoch: Option<String>,
    staleness_ms: Option<f64>,
    message: Option<String>,
    error: Option<String>,
    outcome: Option<String>,
    #[serde(skip)]
    etag: Option<String>,
}

/// Asks nodes over HTTP.
#[derive(Clone, Debug)]
pub(super) struct Http {
    pub(super) client: reqwest::Client,
    /// What a client waits for an answer.
    pub(super) timeout: Duration,
}

impl Http {
    /// Sends a write once, with `etag` as its condition.
    pub(super) async fn write(
        &self,
        url: &str,
        operation: &Operation,
        token: Option<&str>,
        etag: Option<&str>,
    ) -> Attempt {
        let (route, body) = match operation.action {
            Action::Delete => ("delete", json!({"key": &*operation.key})),
            Action::Increment => ("incr", json!({"key": &*operation.key, "by": operation.by})),
            _ => ("put", json!({"key": &*operation.key, "value": operation.value.as_deref()})),
        };
        let mut request = self.client.post(format!("{url}/{route}")).json(&body);
        if let Some(token) = token {
            request = request.header("Idempotency-Key", token);
        }
        request = match (&operation.condition, etag) {
            (Some(Condition::Absent), _) => request.header("If-None-Match", "*"),
            (Some(Condition::Present), _) => request.header("If-Match", "*"),
            (_, Some(etag)) => request.header("If-Match", etag),
            (_, None) => request,
        };
        match self.send(request).await {
            Ok((StatusCode::OK, body)) => Attempt::Committed(body.answer()),
            Ok((status @ StatusCode::PRECONDITION_FAILED, body)) => {
                let words = body.words(status);
                Attempt::Unmet(body.answer(), words)
            }
            Ok((status, body)) => {
                let words = body.words(status);
                let refused = body.outcome.as_deref() == Some("not_applied") || status.is_client_error();
                if refused { Attempt::NotApplied(words) } else { Attempt::Unknown(body.answer(), words) }
            }
            // No connection: nothing was sent.
            Err(error) if error.is_connect() => Attempt::NotApplied(words_of(error)),
            Err(error) => Attempt::Unknown(Answer::default(), words_of(error)),
        }
    }

    /// Reads a key once.
    ///
    /// # Errors
    /// In words, when there is no answer or it shows nothing.
    pub(super) async fn read(&self, url: &str, key: &str) -> Result<Answer, String> {
        // Keys are of letters, digits, dots and dashes.
        match self.send(self.client.get(format!("{url}/get?key={key}"))).await {
            Ok((StatusCode::OK, body)) => Ok(body.answer()),
            Ok((StatusCode::NOT_FOUND, body)) if body.error.as_deref() == Some("Key not found") => {
                // The version of a key that was deleted is in the ETag alone.
                let seq = body.etag.as_deref().and_then(seq_of);
                Ok(Answer { seq, ..body.answer() })
            }
            Ok((status, body)) => Err(body.words(status)),
            Err(error) => Err(words_of(error)),
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, Body), reqwest::Error> {
        let response = request.timeout(self.timeout).send().await?;
        let status = response.status();
        let etag = response.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(ToOwned::to_owned);
        let bytes = response.bytes().await?;
        let body: Body = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok((status, Body { etag, ..body }))
    }
}

impl Body {
    fn answer(self) -> Answer {
        let Self { value, seq, epoch, staleness_ms, etag, .. } = self;
        let (value, epoch) = (value.map(Into::into), epoch.as_deref().and_then(parse_epoch));
        Answer { value, seq, epoch, staleness_ms, etag, before: None }
    }

    fn words(&self, status: StatusCode) -> String {
        let said = self.message.as_deref().or(self.error.as_deref()).unwrap_or("no message");
        format!("HTTP {}: {said}", status.as_u16())
    }
}

/// The sequence number in an ETag.
fn seq_of(etag: &str) -> Option<u64> {
    etag.strip_prefix('"')?.split_once('-')?.0.parse().ok()
}

fn words_of(error: reqwest::Error) -> String {
    format!("{:#}", anyhow::Error::new(error.without_url()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_key_has_the_version_of_its_etag() {
        assert_eq!(seq_of("\"17-00ab34cd00ab34cd\""), Some(17));
        for wrong in ["", "17-00ab", "\"17\"", "\"x-1\""] {
            assert_eq!(seq_of(wrong), None, "{wrong}");
        }
    }
}
