//! The conditions of writes: from the request, and in the answer to a write that is refused by one.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;

use super::LeaderSite;
use super::answer::{self, Answer};
use super::body::Field;
use super::error::ApiError;
use crate::protocol::etag::Etag;
use crate::protocol::leader::Condition;
use crate::protocol::types::Record;
use crate::protocol::value::{Base64, InJson};

/// The condition of a write. `if_match` and `if_absent` are members of its body.
///
/// # Errors
/// 400 if a condition is malformed, or if there are several.
pub(super) fn of_request(
    headers: &HeaderMap,
    if_match: &Field<'_>,
    if_absent: Option<bool>,
) -> Result<Condition, ApiError> {
    let matching = match only(headers, &header::IF_MATCH)? {
        Some("*") => Some(Condition::Present),
        Some(text) => Some(version(quoted(text))?),
        None => None,
    };
    let absent = match only(headers, &header::IF_NONE_MATCH)? {
        Some("*") => Some(Condition::Absent),
        Some(_) => return Err(ApiError::bad("If-None-Match must be *")),
        None => None,
    };
    let in_body = match if_match {
        Field::Absent => None,
        Field::Text(text) if text == "*" => Some(Condition::Present),
        Field::Text(text) => Some(version(quoted(text).or(Some(text)))?),
        Field::OtherType => return Err(ApiError::bad("if_match must be a string")),
    };
    let absent_in_body = if_absent.filter(|absent| *absent).map(|_| Condition::Absent);
    let mut given = [matching, absent, in_body, absent_in_body].into_iter().flatten();
    match (given.next(), given.next()) {
        (None, _) => Ok(Condition::Always),
        (Some(condition), None) => Ok(condition),
        _ => Err(ApiError::bad("a write has at most one condition")),
    }
}

/// The value of a header that occurs at most once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let text = |value: &'a HeaderValue| value.to_str().map_err(|_| ApiError::bad(format!("{name} is not text")));
    headers.get(name).map(text).transpose()
}

fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('"')?.strip_suffix('"')
}

fn version(text: Option<&str>) -> Result<Condition, ApiError> {
    let etag = text.and_then(|text| text.parse().ok());
    let malformed = r#"a version is * or one ETag in quotes: "<seq>-<16 hexadecimal digits>""#;
    etag.map(Condition::Version).ok_or_else(|| ApiError::bad(malformed))
}

#[derive(Serialize)]
struct Unmet<'a> {
    ok: bool,
    message: &'static str,
    outcome: &'static str,
    key: &'a str,
    /// Null if the key has no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Option<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<Base64<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
}

/// 412 with the record that refused the write.
///
/// # Errors
/// 503 when long answers that other clients have not read use up their memory.
pub(super) async fn unmet(state: &LeaderSite, key: &str, found: Option<&Record>) -> Result<Answer, ApiError> {
    let value = found.and_then(|record| record.value.as_deref());
    let value_bytes = value.map_or(0, <[u8]>::len);
    let value = value.map(InJson::from);
    let value_base64 = value.and_then(|value| value.base64);
    let body = Unmet {
        ok: false,
        message: "the condition does not hold",
        outcome: "not_applied",
        key,
        value: value_base64.is_none().then(|| value.and_then(|value| value.text)),
        value_base64,
        seq: found.map(|record| record.version.seq),
    };
    let mut answer = answer::read(&state.site.answers, value_bytes, &body, found.map(Etag::of))
        .await
        .map_err(|_| ApiError::not_applied("other clients have not read their answers, which use up the memory"))?;
    *answer.status_mut() = StatusCode::PRECONDITION_FAILED;
    Ok(answer)
}
