//! HTTP/1.1 as far as a node's clients need it: `POST /put`, `GET /get`, answers with a content length.

use std::io::Write;

use serde::Deserialize;

use super::{Answer, Operation, Parsed, Protocol, RequestOutcome};
use crate::client::Explanation;

/// More headers than any node sends.
const HEADERS_MAX: usize = 32;
/// More than the head of any answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// More than any value, escaped.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// One connection to a node.
#[derive(Debug)]
pub(in crate::load) struct Http {
    put_head: Vec<u8>,
    get_head: Vec<u8>,
    get_tail: Vec<u8>,
    /// Whether writes ask which delays were drawn.
    explain: bool,
    under_way: Kind,
    head: Option<Head>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Get,
}

/// What matters of an answer's head, once it is complete.
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    status: u16,
    body_length: usize,
    keep: bool,
    retry_after_s: Option<u32>,
}

impl Http {
    /// Talks to `host` and shows it the token of a client; reads carry `get_suffix` after the key (`&consistency=local`), and
    /// writes ask which delays were drawn if they should `explain` how long they took.
    pub(in crate::load) fn new(host: &str, get_suffix: &str, explain: bool, token: Option<&str>) -> Self {
        let query = if explain { "?explain=true" } else { "" };
        let host = match token {
            Some(token) => format!("{host}\r\nAuthorization: Bearer {token}"),
            None => host.to_owned(),
        };
        let put_head =
            format!("POST /put{query} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: ");
        Self {
            put_head: put_head.into_bytes(),
            get_head: b"GET /get?key=".to_vec(),
            get_tail: format!("{get_suffix} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes(),
            explain,
            under_way: Kind::Put,
            head: None,
        }
    }

    fn answer(&self, head: Head, body: &[u8]) -> Answer {
        let quorum_delay_ns = (self.explain && self.under_way == Kind::Put).then(|| quorum_delay_ns(body)).flatten();
        Answer { quorum_delay_ns, ..answer(self.under_way, head, body) }
    }
}

impl Protocol for Http {
    fn open(&mut self, _: &mut Vec<u8>) {
        self.head = None;
    }

    /// Keys and values of the load need no escaping, neither in JSON nor in a URL.
    fn request(&mut self, operation: Operation<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match operation {
            Operation::Put { key, value } => {
                const AROUND: usize = r#"{"key":"","value":""}"#.len();
                out.extend_from_slice(&self.put_head);
                // Writing to a Vec cannot fail.
                let _ = write!(out, "{}", AROUND + key.len() + value.len());
                for part in ["\r\n\r\n{\"key\":\"", key, "\",\"value\":\"", value, "\"}"] {
                    out.extend_from_slice(part.as_bytes());
                }
                self.under_way = Kind::Put;
            }
            Operation::Get { key } => {
                out.extend_from_slice(&self.get_head);
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(&self.get_tail);
                self.under_way = Kind::Get;
            }
        }
        Ok(())
    }

    fn parse(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<Parsed, String> {
        let head = match self.head {
            Some(head) => head,
            None => match read_head(input)? {
                Some(head) => *self.head.insert(head),
                None if input.len() > HEAD_BYTES_MAX => {
                    return Err(format!("the head of an answer is longer than {HEAD_BYTES_MAX} bytes"));
                }
                None => return Ok(Parsed::nothing_yet()),
            },
        };
        let end = head.length + head.body_length;
        let Some(body) = input.get(head.length..end) else {
            return Ok(Parsed::nothing_yet());
        };
        self.head = None;
        Ok(Parsed { consumed: end, answer: Some(self.answer(head, body)) })
    }
}

fn read_head(input: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(input) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("the answer is not HTTP/1.1: {error}")),
    };
    let status = response.code.unwrap_or_default();
    if status < 200 {
        return Err(format!("an interim answer ({status}) was not asked for"));
    }
    let mut body_length = None;
    let mut keep = response.version == Some(1);
    let mut retry_after_s = None;
    for header in response.headers {
        let text = || std::str::from_utf8(header.value).unwrap_or_default().trim();
        if header.name.eq_ignore_ascii_case("content-length") {
            let bytes: usize = text().parse().map_err(|_| format!("the content length '{}' is no number", text()))?;
            if bytes > BODY_BYTES_MAX {
                return Err(format!("an answer of {bytes} bytes (limit {BODY_BYTES_MAX})"));
            }
            if body_length.is_some_and(|before| before != bytes) {
                return Err("the answer has two content lengths".to_owned());
            }
            body_length = Some(bytes);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(format!("the answer comes in transfer encoding '{}', which the load does not read", text()));
        } else if header.name.eq_ignore_ascii_case("connection") {
            keep &= !text().eq_ignore_ascii_case("close");
        } else if header.name.eq_ignore_ascii_case("retry-after") {
            retry_after_s = text().parse().ok();
        }
    }
    let body_length = body_length.ok_or("the answer has no content length")?;
    Ok(Some(Head { length, status, body_length, keep, retry_after_s }))
}

fn answer(kind: Kind, head: Head, body: &[u8]) -> Answer {
    let Head { status, keep, retry_after_s, .. } = head;
    // What a node says of a committed write begins so; anything else is looked at closely.
    if status == 200 && (kind == Kind::Get || body.starts_with(br#"{"ok":true"#)) {
        return Answer { keep, ..Answer::ok() };
    }
    let told: Told = serde_json::from_slice(body).unwrap_or_default();
    let outcome = match (kind, status, told.outcome.as_deref()) {
        (Kind::Put, 200, _) if told.ok => RequestOutcome::Ok,
        (_, _, Some("not_applied")) => RequestOutcome::NotApplied,
        (_, _, Some("indeterminate")) => RequestOutcome::Indeterminate,
        (Kind::Get, 404, _) if told.error.as_deref() == Some("Key not found") => RequestOutcome::NotFound,
        (_, 429, _) | (Kind::Get, 503, _) => RequestOutcome::NotApplied,
        (_, 400..=499, _) => RequestOutcome::Refused,
        _ => RequestOutcome::Indeterminate,
    };
    let words = (!matches!(outcome, RequestOutcome::Ok | RequestOutcome::NotFound)).then(|| {
        let message = told.message.or(told.error);
        format!("HTTP {status}: {}", message.as_deref().unwrap_or("no message"))
    });
    Answer { outcome, words, keep, retry_after_s, ..Answer::ok() }
}

/// What is said of the delays in the answer to a write; nothing by a node that does not explain.
fn quorum_delay_ns(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Explained {
        explain: Explanation,
    }
    let Explained { explain } = serde_json::from_slice(body).ok()?;
    explain.quorum_delay_ms.map(|ms| (ms * 1e6) as u64)
}

#[derive(Debug, Default, Deserialize)]
struct Told {
    #[serde(default)]
    ok: bool,
    outcome: Option<String>,
    message: Option<String>,
    error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 38\r\n\r\n\
                             {\"ok\":true,\"seq\":1,\"message\":\"commit\"}";

    fn parsed(kind: Kind, text: &str) -> Result<Parsed, String> {
        let mut http = Http::new("leader", "", false, None);
        http.under_way = kind;
        http.parse(text.as_bytes(), &mut Vec::new())
    }

    fn answered(kind: Kind, status: &str, headers: &str, body: &str) -> Answer {
        let text = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len());
        parsed(kind, &text).expect("HTTP").answer.expect("complete")
    }

    #[test]
    fn an_answer_cut_anywhere_is_the_same_answer() {
        let two = format!("{COMMITTED}{COMMITTED}");
        for first in 0..COMMITTED.len() {
            let mut http = Http::new("leader", "", false, None);
            let mut out = Vec::new();
            assert_eq!(http.parse(&two.as_bytes()[..first], &mut out), Ok(Parsed::nothing_yet()), "cut at {first}");
            let second = first + (COMMITTED.len() - first) / 2;
            if second < COMMITTED.len() {
                assert_eq!(http.parse(&two.as_bytes()[..second], &mut out), Ok(Parsed::nothing_yet()));
            }
            let whole = http.parse(two.as_bytes(), &mut out).expect("HTTP");
            assert_eq!(whole, Parsed { consumed: COMMITTED.len(), answer: Some(Answer::ok()) }, "cut at {first}");
            assert_eq!(http.parse(&two.as_bytes()[whole.consumed..], &mut out).expect("HTTP"), whole, "the next one");
        }
    }

    #[test]
    fn requests_are_whole_and_their_length_is_right() {
        let mut http = Http::new("h:1", "&consistency=local", false, None);
        let mut out = Vec::new();
        http.request(Operation::Put { key: "k7", value: "abc" }, &mut out).expect("expressible");
        let text = String::from_utf8(out).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert_eq!(body, r#"{"key":"k7","value":"abc"}"#);
        assert!(head.starts_with("POST /put HTTP/1.1\r\nHost: h:1\r\n"), "{head}");
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
        let mut out = Vec::new();
        http.request(Operation::Get { key: "k7" }, &mut out).expect("expressible");
        assert_eq!(out, b"GET /get?key=k7&consistency=local HTTP/1.1\r\nHost: h:1\r\n\r\n");
        let mut out = Vec::new();
        http = Http::new("h:1", "", false, Some("of a client"));
        http.request(Operation::Get { key: "k7" }, &mut out).expect("expressible");
        assert_eq!(out, b"GET /get?key=k7 HTTP/1.1\r\nHost: h:1\r\nAuthorization: Bearer of a client\r\n\r\n");
    }

    #[test]
    fn outcomes_follow_the_node_s_word_and_then_the_status() {
        for (kind, status, body, expected) in [
            (Kind::Put, "200 OK", r#"{ "ok" : true }"#, RequestOutcome::Ok),
            (Kind::Put, "200 OK", r#"{"ok":false}"#, RequestOutcome::Indeterminate),
            (Kind::Put, "500 E", r#"{"ok":false,"message":"quorum not reached"}"#, RequestOutcome::Indeterminate),
            (Kind::Put, "503 E", r#"{"outcome":"not_applied"}"#, RequestOutcome::NotApplied),
            (Kind::Put, "503 E", "<html>", RequestOutcome::Indeterminate),
            (Kind::Put, "429 E", "", RequestOutcome::NotApplied),
            (Kind::Put, "413 E", "{}", RequestOutcome::Refused),
            (Kind::Put, "404 E", "{}", RequestOutcome::Refused),
            (Kind::Get, "200 OK", r#"{"key":"k","value":"v","seq":1}"#, RequestOutcome::Ok),
            (Kind::Get, "404 E", r#"{"error":"Key not found"}"#, RequestOutcome::NotFound),
            (Kind::Get, "404 E", r#"{"error":"no such route"}"#, RequestOutcome::Refused),
            (Kind::Get, "503 E", "{}", RequestOutcome::NotApplied),
        ] {
            assert_eq!(answered(kind, status, "", body).outcome, expected, "{status} {body}");
        }
        let busy = answered(Kind::Put, "503 E", "Retry-After: 2\r\nConnection: close\r\n", r#"{"message":"busy"}"#);
        assert_eq!((busy.keep, busy.retry_after_s), (false, Some(2)));
        assert_eq!(busy.words.as_deref(), Some("HTTP 503: busy"));
    }

    #[test]
    fn what_is_not_understood_is_an_error_in_words() {
        for (text, expected) in [
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer encoding 'chunked'"),
            ("HTTP/1.1 200 OK\r\n\r\n", "no content length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", "'many' is no number"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "two content lengths"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", "limit 67108864"),
            ("HTTP/1.1 100 Continue\r\n\r\n", "interim answer (100)"),
            ("+OK\r\n", "not HTTP/1.1"),
        ] {
            let error = parsed(Kind::Put, text).expect_err(text);
            assert!(error.contains(expected), "{text}: {error}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
        assert!(parsed(Kind::Put, &endless).expect_err("too long").contains("longer than 16384 bytes"));
    }

    #[test]
    fn the_delay_of_the_quorum_is_asked_for_and_read() {
        let mut http = Http::new("h:1", "", true, None);
        let mut out = Vec::new();
        http.request(Operation::Put { key: "k7", value: "abc" }, &mut out).expect("expressible");
        assert!(out.starts_with(b"POST /put?explain=true HTTP/1.1\r\nHost: h:1\r\n"));
        let mut delay_of = |body: &str| {
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let answer = http.parse(text.as_bytes(), &mut Vec::new()).expect("HTTP").answer.expect("complete");
            assert_eq!(answer.outcome, RequestOutcome::Ok);
            answer.quorum_delay_ns
        };
        let explained = r#"{"ok":true,"seq":1,"explain":{"write_quorum":3,"generation":1,"quorum_delay_ms":97.125}}"#;
        assert_eq!(delay_of(explained), Some(97_125_000));
        assert_eq!(delay_of(r#"{"ok":true,"seq":1}"#), None, "a node that does not explain");
    }

    #[test]
    fn an_old_server_s_connection_is_not_used_again() {
        let old = COMMITTED.replace("HTTP/1.1", "HTTP/1.0");
        assert!(!parsed(Kind::Put, &old).expect("HTTP").answer.expect("complete").keep);
    }
}
