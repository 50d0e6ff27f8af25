//! The values of keys: any bytes.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use base64::Engine;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The value of a key: any bytes, which the map, the window and the wire share without copying.
///
/// In binary formats it is its length and its bytes, as a string is. JSON has no bytes: there a value
/// is the member `value` or `value_base64`, see [`InJson`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value(Arc<[u8]>);

impl Value {
    /// The value as text; `None` if it is not UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
}

/// Decodes the text of a member `value_base64`: the standard alphabet, with padding.
///
/// # Errors
/// [`NoBase64`] with the reason.
pub fn from_base64(text: &str) -> Result<Vec<u8>, NoBase64> {
    STANDARD.decode(text).map_err(|error| NoBase64(error.to_string()))
}

/// A text that is not Base64.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("value_base64 is not Base64: {0}")]
pub struct NoBase64(String);

impl Deref for Value {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<Cow<'_, [u8]>> for Value {
    fn from(bytes: Cow<'_, [u8]>) -> Self {
        Self(bytes.into())
    }
}

impl PartialEq<str> for Value {
    fn eq(&self, text: &str) -> bool {
        *self.0 == *text.as_bytes()
    }
}

/// The text, or Base64 for bytes that are not UTF-8.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_text() {
            Some(text) => f.write_str(text),
            None => write!(f, "base64:{}", Base64Display::new(&self.0, &STANDARD)),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_text() {
            Some(text) => text.fmt(f),
            None => write!(f, "base64:{}", Base64Display::new(&self.0, &STANDARD)),
        }
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Value;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Value, E> {
                Ok(bytes.into())
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

/// The two members of a JSON object that contain a value: `value` where it is UTF-8, `value_base64`
/// otherwise. Exactly one of them is there.
#[derive(Clone, Copy, Debug)]
pub struct InJson<'a> {
    /// The value, if it is UTF-8.
    pub text: Option<&'a str>,
    /// The value, if it is not.
    pub base64: Option<Base64<'a>>,
}

impl<'a> From<&'a [u8]> for InJson<'a> {
    fn from(value: &'a [u8]) -> Self {
        match std::str::from_utf8(value) {
            Ok(text) => Self { text: Some(text), base64: None },
            Err(_) => Self { text: None, base64: Some(Base64(value)) },
        }
    }
}

/// Bytes that are serialised as Base64.
#[derive(Clone, Copy, Debug)]
pub struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logs and messages that contain text have the same bytes as when values were text alone.
    #[test]
    fn a_value_that_is_text_is_encoded_as_text() {
        for text in ["", "blue", "\u{1f511}", &"x".repeat(300)] {
            let (value, bytes) = (Value::from(text), postcard::to_allocvec(text).expect("encoded"));
            assert_eq!(postcard::to_allocvec(&value).expect("encoded"), bytes);
            assert_eq!(postcard::from_bytes::<Value>(&bytes).expect("decoded"), value);
        }
    }

    #[test]
    fn every_byte_comes_back_from_base64() {
        let bytes: Vec<u8> = (0..=255).collect();
        let InJson { text: None, base64: Some(base64) } = InJson::from(&bytes[..]) else { panic!("not UTF-8") };
        let text: String = serde_json::from_value(serde_json::json!(base64)).expect("a string");
        assert_eq!(from_base64(&text), Ok(bytes));
        for text in ["/", "/w", "/w=", "_w==", "/w==\n", "/x==", "value"] {
            let error = from_base64(text).expect_err(text).to_string();
            assert!(error.starts_with("value_base64 is not Base64: "), "{error}");
        }
    }
}
