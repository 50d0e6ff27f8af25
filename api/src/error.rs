//! The body of an answer that reports an error.

use serde::{Deserialize, Serialize};

/// The outcome of a write that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The leader assigned nothing. A retry is safe.
    NotApplied,
    /// The quorum was missed in time. The write may still commit.
    Indeterminate,
}

/// The common fields of errors. Answers to reads have `error`, all others `message`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// False in answers to writes and administration, absent in answers to reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// What happened, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The same in answers to reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The outcome of the write, in answers to writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

impl ErrorBody {
    /// `{"ok":false,"message":…}`, with `outcome` if there is one.
    #[must_use]
    pub fn refusal(message: impl Into<String>, outcome: Option<Outcome>) -> Self {
        Self { ok: Some(false), message: Some(message.into()), error: None, outcome }
    }

    /// `{"error":…}`, the form of the answers to reads.
    #[must_use]
    pub fn read(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), ..Self::default() }
    }

    /// The text, from `message` or `error`.
    #[must_use]
    pub fn sentence(&self) -> Option<&str> {
        self.message.as_deref().or(self.error.as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_reads_as_the_interface_promises() {
        let json = |body: &ErrorBody| serde_json::to_string(body).expect("JSON");
        assert_eq!(json(&ErrorBody::refusal("no", None)), r#"{"ok":false,"message":"no"}"#);
        let refused = ErrorBody::refusal("recovering", Some(Outcome::NotApplied));
        assert_eq!(json(&refused), r#"{"ok":false,"message":"recovering","outcome":"not_applied"}"#);
        assert_eq!(json(&ErrorBody::read("Key not found")), r#"{"error":"Key not found"}"#);
    }

    #[test]
    fn a_reader_finds_the_sentence_in_either_field() {
        let parse = |text| serde_json::from_str::<ErrorBody>(text).expect("a body");
        assert_eq!(parse(r#"{"ok":false,"message":"a","seq":3}"#).sentence(), Some("a"));
        assert_eq!(parse(r#"{"error":"Key not found"}"#).sentence(), Some("Key not found"));
        assert_eq!(parse("{}").sentence(), None);
    }
}
