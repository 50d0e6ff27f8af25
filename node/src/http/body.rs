//! Request bodies: reading them within their limit, and parsing their JSON.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Site;
use super::budget::Budget;
use super::error::ApiError;
use crate::protocol::value;

/// First capacity of a body whose length is unknown.
const CAPACITY_BYTES: usize = 16 << 10;

/// Bounds of the bodies that a node reads at once.
#[derive(Clone, Debug)]
pub struct Bodies {
    budget: Budget,
    within: Duration,
}

impl Bodies {
    /// At most `bytes` of memory for all bodies together, and at most `within` for each body to
    /// arrive.
    pub fn new(bytes: usize, within: Duration) -> Self {
        Self { budget: Budget::new(bytes), within }
    }

    /// The share of the memory for bodies that so many bytes take. `None` when others use it.
    pub(crate) fn share(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        self.budget.take(bytes)
    }

    /// How long a body may take to arrive.
    pub(crate) fn within(&self) -> Duration {
        self.within
    }

    /// The memory for all bodies, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.budget.bytes()
    }

    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        self.budget.take(bytes).ok_or_else(|| {
            let limit = self.budget.bytes();
            ApiError::not_applied(format!("the bodies of other requests use the limit of {limit} bytes"))
        })
    }
}

/// A whole body, with the share of [`Bodies`] that it uses until it is dropped.
pub(super) struct Received {
    bytes: Bytes,
    _taken: Option<OwnedSemaphorePermit>,
}

impl Deref for Received {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Reads a body of at most `bytes_max`.
///
/// # Errors
/// The answer for the client: 413 for a longer body, 503 when other bodies use all the memory for bodies, 408 when it
/// takes too long to arrive, 400 when it does not arrive in full.
pub(super) async fn read<B>(site: &Site, body: B, bytes_max: usize) -> Result<Received, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(ApiError::too_long());
    }
    let within = site.bodies.within;
    timeout(within, collect(&site.bodies, body, bytes_max)).await.unwrap_or_else(|_| Err(ApiError::late_body(within)))
}

async fn collect<B>(bodies: &Bodies, mut body: B, bytes_max: usize) -> Result<Received, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    let first = match next(&mut body).await? {
        // The usual case: the body arrived with its head, in the connection's own buffer. It needs
        // no copy and no share of the memory for bodies.
        Some(bytes) if body.is_end_stream() && bytes.len() <= bytes_max => return Ok(Received { bytes, _taken: None }),
        Some(bytes) => bytes,
        None => return Ok(Received { bytes: Bytes::new(), _taken: None }),
    };
    let known = body.size_hint().exact().and_then(|rest| usize::try_from(rest).ok()).map(|rest| rest + first.len());
    let (mut whole, mut taken): (BytesMut, Option<OwnedSemaphorePermit>) = (BytesMut::new(), None);
    let mut part = Some(first);
    while let Some(bytes) = part {
        let length = whole.len() + bytes.len();
        if length > bytes_max {
            return Err(ApiError::too_long());
        }
        if length > whole.capacity() {
            // Memory grows with the bytes that arrived: an announced length alone allocates
            // nothing.
            let capacity = length.max(2 * whole.capacity()).max(CAPACITY_BYTES).min(known.unwrap_or(bytes_max));
            let more = bodies.take(capacity - whole.capacity())?;
            match &mut taken {
                Some(taken) => taken.merge(more),
                None => taken = Some(more),
            }
            whole.reserve(capacity - whole.len());
        }
        whole.extend_from_slice(&bytes);
        part = next(&mut body).await?;
    }
    Ok(Received { bytes: whole.freeze(), _taken: taken })
}

/// The next bytes of a body; `None` at its end.
pub(super) async fn next<B>(body: &mut B) -> Result<Option<Bytes>, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(ApiError::unreadable(&error)),
            Some(Ok(frame)) => {
                // Trailers are ignored.
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// Parses a JSON object.
///
/// # Errors
/// 400 with the reason why the body is invalid.
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
pub(super) fn check_lengths(site: &Site, key: &str, value: Option<&[u8]>) -> Result<(), ApiError> {
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

/// The value in a JSON object.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ValueField<'a> {
    Absent,
    Bytes(Cow<'a, [u8]>),
    OtherType,
}

impl<'a> ValueField<'a> {
    /// The value in the members `value` and `value_base64`, of which at most one is there.
    ///
    /// # Errors
    /// 400 if both are there, or if the second one is not Base64.
    pub(super) fn of(value: Field<'a>, base64: Field<'_>) -> Result<Self, ApiError> {
        match (value, base64) {
            (Field::Text(Cow::Borrowed(text)), Field::Absent) => Ok(Self::Bytes(text.as_bytes().into())),
            (Field::Text(Cow::Owned(text)), Field::Absent) => Ok(Self::Bytes(text.into_bytes().into())),
            (Field::Absent, Field::Text(base64)) => {
                let bytes = value::from_base64(&base64).map_err(|error| ApiError::bad(error.to_string()))?;
                Ok(Self::Bytes(bytes.into()))
            }
            (Field::Absent, Field::Absent) => Ok(Self::Absent),
            (Field::OtherType, Field::Absent) => Ok(Self::OtherType),
            (Field::Absent, Field::OtherType) => Err(ApiError::bad("value_base64 must be a string")),
            _ => Err(ApiError::bad("a request has value or value_base64, not both")),
        }
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

#[cfg(test)]
mod tests {
    //! Goal: bodies use bounded memory and time. Method: bodies from channels, so that the test decides what has arrived.

    use axum::response::IntoResponse;
    use futures::channel::mpsc;
    use futures::{StreamExt, stream};

    use super::*;

    fn site(bytes: usize) -> Site {
        Site { bodies: Bodies::new(bytes, Duration::from_secs(30)), ..Site::for_tests() }
    }

    fn body(parts: impl futures::Stream<Item = Bytes> + Send + 'static) -> axum::body::Body {
        axum::body::Body::from_stream(parts.map(Ok::<_, std::convert::Infallible>))
    }

    fn status<T>(answer: Result<T, ApiError>) -> u16 {
        answer.map_or_else(|error| error.into_response().status().as_u16(), |_| 200)
    }

    #[tokio::test]
    async fn a_body_of_many_parts_is_read_in_order() {
        let parts: Vec<Bytes> = (0..100u8).map(|part| Bytes::from(vec![part; 1_000])).collect();
        let expected: Vec<u8> = parts.iter().flatten().copied().collect();
        let Ok(read) = read(&site(1 << 20), body(stream::iter(parts)), 100_000).await else { panic!("it fits") };
        assert_eq!(*read, *expected);
    }

    #[tokio::test]
    async fn all_bodies_together_use_no_more_than_their_limit() {
        let site = site(64 << 10);
        let part = || Bytes::from(vec![b'x'; 30 << 10]);
        let (sender, parts) = mpsc::unbounded();
        sender.unbounded_send(part()).expect("open");
        let first = tokio::spawn({
            let site = site.clone();
            async move { status(read(&site, body(parts), 1 << 20).await) }
        });
        let taken = async {
            while site.bodies.budget.free() == 64 << 10 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), taken).await.expect("the first body takes its share");
        // The second body needs more than the first one leaves.
        let second = || body(stream::iter([part(), part()]));
        assert_eq!(status(read(&site, second(), 1 << 20).await), 503);
        drop(sender);
        assert_eq!(first.await.expect("no panic"), 200);
        assert_eq!(status(read(&site, second(), 1 << 20).await), 200, "the memory is free again");
        assert_eq!(site.bodies.budget.free(), 64 << 10);
    }

    #[tokio::test]
    async fn a_body_that_takes_too_long_is_answered() {
        let (sender, parts) = mpsc::unbounded();
        sender.unbounded_send(Bytes::from("half")).expect("open");
        let site = Site { bodies: Bodies::new(1 << 20, Duration::from_millis(20)), ..Site::for_tests() };
        assert_eq!(status(read(&site, body(parts), 100).await), 408);
        drop(sender);
    }

    #[tokio::test]
    async fn a_body_without_length_is_cut_at_the_limit() {
        let endless = stream::repeat(Bytes::from_static(b"0123456789"));
        assert_eq!(status(read(&site(1 << 20), body(endless), 95).await), 413);
    }
}
