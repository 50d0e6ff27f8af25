//! Request bodies: reading them within their limit, and parsing their JSON.

use std::borrow::Cow;
use std::fmt;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::Site;
use super::error::ApiError;

/// Reads a body of at most `bytes_max`.
///
/// # Errors
/// The answer for the client: 413, or 400 when the body did not arrive in full.
pub(super) async fn read(body: Incoming, bytes_max: usize) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(ApiError::too_long());
    }
    match Limited::new(body, bytes_max).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_long()),
        Err(error) => Err(ApiError::unreadable(&error)),
    }
}

/// Maps the router's outcome of reading a body to the answer for the client.
pub(super) fn received(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_long(),
        _ => ApiError::unreadable(&rejection),
    })
}

/// Parses a JSON object.
///
/// # Errors
/// 400 that says what is wrong with the body.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| b"[\"tfn-0123456789".contains(byte)) {
        return Err(ApiError::bad("the body must be a JSON object"));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let message = match error.classify() {
            serde_json::error::Category::Data => {
                format!("the body is not the expected JSON object: {error}")
            }
            _ => format!("malformed JSON: {error}"),
        };
        ApiError::bad(message)
    })
}

/// Rejects a key or a value above its limit with 413.
pub(super) fn check_lengths(site: &Site, key: &str, value: Option<&str>) -> Result<(), ApiError> {
    let too_long = |what: &str, bytes: usize, most: usize| {
        let message = format!("the {what} has {bytes} bytes (limit {most})");
        Err(ApiError::plain(StatusCode::PAYLOAD_TOO_LARGE, message).with("outcome", "not_applied"))
    };
    if key.len() > site.key_bytes_max {
        return too_long("key", key.len(), site.key_bytes_max);
    }
    match value {
        Some(value) if value.len() > site.value_bytes_max => too_long("value", value.len(), site.value_bytes_max),
        _ => Ok(()),
    }
}

/// A member of a JSON object that must be a string. It distinguishes an absent member, a string, and any other type.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Field<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    OtherType,
}

impl<'de: 'a, 'a> Deserialize<'de> for Field<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Field<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Field::Absent)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Field::OtherType)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Field::OtherType)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Field::OtherType)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Field::OtherType)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
                while sequence.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Field::OtherType)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::OtherType)
            }
        }
        deserializer.deserialize_any(Any)
    }
}
