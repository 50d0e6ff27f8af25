//! What is said on a connection, apart from all sockets: requests as bytes to send, answers as bytes that came.
//!
//! A connection has one pipeline of requests under way, which are answered in the order of sending. What comes may be cut
//! anywhere; a protocol says how much of it was used up, and the engine hands it the rest again together with what comes
//! next.

mod etcd;
mod http;
mod resp;

use serde::Serialize;

pub(super) use self::{etcd::Etcd, http::Http, resp::Resp};

/// What one request asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation<'a> {
    /// Store the value under the key.
    Put { key: &'a str, value: &'a str },
    /// Read the key.
    Get { key: &'a str },
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestOutcome {
    /// Done: the write is committed, the value was read.
    Ok,
    /// The read was answered: there is no such key.
    NotFound,
    /// The write's outcome is unknown.
    Indeterminate,
    /// Nothing was done.
    NotApplied,
    /// The request was called wrong.
    Refused,
    /// No answer came, or none that could be understood: a write's outcome is unknown.
    NoAnswer,
    /// There was no connection to send it on.
    NotConnected,
}

impl RequestOutcome {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::NotFound,
        Self::Indeterminate,
        Self::NotApplied,
        Self::Refused,
        Self::NoAnswer,
        Self::NotConnected,
    ];

    /// In words, for tables.
    pub fn words(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not found",
            Self::Indeterminate => "indeterminate",
            Self::NotApplied => "not applied",
            Self::Refused => "refused",
            Self::NoAnswer => "without an answer",
            Self::NotConnected => "without a connection",
        }
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub outcome: RequestOutcome,
    /// What the other side said, when it was not good news.
    pub words: Option<String>,
    /// The first word of an error, in a protocol whose errors begin with one that programs go by.
    pub error: Option<String>,
    /// Whether the connection can be used again.
    pub keep: bool,
    /// How long the other side wants to be left alone.
    pub retry_after_s: Option<u32>,
    /// The delay that the write's quorum had to wait for, where that was asked for.
    pub quorum_delay_ns: Option<u64>,
}

impl Answer {
    pub(super) fn ok() -> Self {
        Self {
            outcome: RequestOutcome::Ok,
            words: None,
            error: None,
            keep: true,
            retry_after_s: None,
            quorum_delay_ns: None,
        }
    }
}

/// How far the bytes at hand lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parsed {
    /// So many bytes were used up.
    pub consumed: usize,
    /// The answer, if they complete it.
    pub answer: Option<Answer>,
}

impl Parsed {
    pub(super) fn nothing_yet() -> Self {
        Self { consumed: 0, answer: None }
    }
}

/// One side of one connection.
pub(super) trait Protocol: Send {
    /// Appends what is sent first on a new connection, and forgets the old one.
    fn open(&mut self, out: &mut Vec<u8>);

    /// Appends a request to the pipeline.
    ///
    /// # Errors
    /// In words, when it cannot be expressed.
    fn request(&mut self, operation: Operation<'_>, out: &mut Vec<u8>) -> Result<(), String>;

    /// Appends what comes after the last request of a pipeline.
    fn finish(&mut self, _out: &mut Vec<u8>) {}

    /// Reads up to one answer of what came since the last one; what has to be said in return without a request is appended to `out`.
    ///
    /// # Errors
    /// In words, when the bytes are no answer in this protocol; the connection is useless then.
    fn parse(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Parsed, String>;
}
