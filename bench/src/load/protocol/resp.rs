//! Redis' protocol: `SET` alone where its reply is the acknowledgement, or with one `WAIT`, or `WAIT` and `WAITAOF`, after the
//! last `SET` of a pipeline, all in one round trip; `GET`.

use std::{collections::VecDeque, io::Write};

use super::{Answer, Operation, Parsed, Protocol, RequestOutcome};
use crate::load::Acknowledgement;

/// A line of an answer (a status, an error, a number) is shorter than this.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// The first word of an error is shorter than this, or it is none.
const WORD_BYTES_MAX: usize = 24;

/// One connection to a node's port for Redis' protocol, or to a Redis master.
#[derive(Debug)]
pub(in crate::load) struct Resp {
    acknowledgement: Acknowledgement,
    wait_ms: u64,
    /// Of a client, where the node asks for one.
    token: Option<String>,
    /// What comes next, the oldest first.
    expected: VecDeque<Expected>,
    /// Answers to writes that count once it is known how many replicas have them.
    held: VecDeque<Answer>,
}

/// One part of the answers to a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// Whether the token is one. If it is not, the answers to what follows say so.
    Auth,
    /// `+OK` of SET.
    Set,
    /// A value.
    Bulk,
    /// That WAITAOF answers two numbers.
    Pair,
    /// Whether the master has synced the writes, which nothing depends on.
    Master,
    /// The number of replicas that have the writes, or have synced them.
    Replicas,
}

impl Resp {
    /// A write counts when the acknowledgement is there; replicas get `wait_ms` for theirs. Each connection begins with the
    /// token.
    pub(in crate::load) fn new(acknowledgement: Acknowledgement, wait_ms: u64, token: Option<&str>) -> Self {
        let token = token.map(str::to_owned);
        Self { acknowledgement, wait_ms, token, expected: VecDeque::new(), held: VecDeque::new() }
    }

    /// Has every write of the pipeline that was accepted end with an unknown outcome, since the acknowledgement did not come.
    fn doubt(&mut self, words: &str) {
        for answer in self.held.iter_mut().filter(|answer| answer.outcome == RequestOutcome::Ok) {
            *answer = Answer {
                outcome: RequestOutcome::Indeterminate,
                words: Some(words.to_owned()),
                error: Some(first_word(words)),
                ..Answer::ok()
            };
        }
    }

    fn replicas(&self) -> u32 {
        match self.acknowledgement {
            Acknowledgement::Reply => 0,
            Acknowledgement::Wait { replicas } | Acknowledgement::WaitAof { replicas } => replicas,
        }
    }
}

impl Protocol for Resp {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.expected.clear();
        self.held.clear();
        if let Some(token) = &self.token {
            command(out, &["AUTH", token]);
            self.expected.push_back(Expected::Auth);
        }
    }

    fn request(&mut self, operation: Operation<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match operation {
            Operation::Put { key, value } => {
                command(out, &["SET", key, value]);
                self.expected.push_back(Expected::Set);
            }
            Operation::Get { key } => {
                command(out, &["GET", key]);
                self.expected.push_back(Expected::Bulk);
            }
        }
        Ok(())
    }

    fn finish(&mut self, out: &mut Vec<u8>) {
        let (replicas, wait_ms) = (self.replicas().to_string(), self.wait_ms.to_string());
        if self.acknowledgement == Acknowledgement::Reply || self.expected.back() != Some(&Expected::Set) {
            return;
        }
        command(out, &["WAIT", &replicas, &wait_ms]);
        self.expected.push_back(Expected::Replicas);
        if matches!(self.acknowledgement, Acknowledgement::WaitAof { .. }) {
            command(out, &["WAITAOF", "0", &replicas, &wait_ms]);
            self.expected.extend([Expected::Pair, Expected::Master, Expected::Replicas]);
        }
    }

    fn parse(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<Parsed, String> {
        let mut consumed = 0;
        loop {
            let Some(expected) = self.expected.front().copied() else {
                return match (self.held.pop_front(), input.len() > consumed) {
                    (None, true) => Err("more came than was asked for".to_owned()),
                    (answer, _) => Ok(Parsed { consumed, answer }),
                };
            };
            let Some((line, length)) = line(&input[consumed..])? else {
                return Ok(Parsed { consumed, answer: None });
            };
            let (kind, rest) = line.split_at_checked(1).ok_or("an empty line came")?;
            let answer = match (expected, kind) {
                (Expected::Auth, "+" | "-") => None,
                (Expected::Set, "+") => Some(Answer::ok()),
                (Expected::Set | Expected::Bulk, "-") => Some(refused(rest)),
                (Expected::Bulk, "$") if rest == "-1" => {
                    Some(Answer { outcome: RequestOutcome::NotFound, ..Answer::ok() })
                }
                (Expected::Bulk, "$") => {
                    let end = consumed + length + number::<usize>(rest)? + 2;
                    if input.len() < end {
                        return Ok(Parsed { consumed, answer: None });
                    }
                    self.expected.pop_front();
                    return Ok(Parsed { consumed: end, answer: Some(Answer::ok()) });
                }
                (Expected::Replicas, ":") => {
                    let replicas: u32 = number(rest)?;
                    if replicas < self.replicas() {
                        self.doubt(&format!("WAIT found only {replicas} replicas with the write"));
                    }
                    None
                }
                (Expected::Master, ":") => None,
                (Expected::Pair, "*") if rest == "2" => None,
                (Expected::Pair, "-") => {
                    // In place of two numbers.
                    self.expected.drain(..2);
                    self.doubt(rest);
                    None
                }
                (Expected::Replicas, "-") => {
                    self.doubt(rest);
                    None
                }
                _ => return Err(format!("'{line}' is no answer to what was asked")),
            };
            self.expected.pop_front();
            consumed += length;
            match answer {
                Some(answer) if expected == Expected::Set && self.acknowledgement != Acknowledgement::Reply => {
                    self.held.push_back(answer);
                }
                Some(answer) => return Ok(Parsed { consumed, answer: Some(answer) }),
                None => {}
            }
        }
    }
}

/// An error in the words of a node or of Redis; what it means for a write is in its first word.
fn refused(words: &str) -> Answer {
    let error = first_word(words);
    let outcome = match error.as_str() {
        "INDETERMINATE" => RequestOutcome::Indeterminate,
        "LOADING" | "READONLY" | "OOM" => RequestOutcome::NotApplied,
        _ => RequestOutcome::Refused,
    };
    // Clients connect anew to find who leads now.
    let keep = error != "READONLY";
    Answer { outcome, words: Some(words.to_owned()), error: Some(error), keep, ..Answer::ok() }
}

/// In capitals, as by convention; otherwise the error counts as one without.
fn first_word(words: &str) -> String {
    let word = words.split(' ').next().unwrap_or_default();
    let is_word = (1..WORD_BYTES_MAX).contains(&word.len()) && word.bytes().all(|letter| letter.is_ascii_uppercase());
    if is_word { word } else { "ERR" }.to_owned()
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("'{text}' is no number"))
}

/// The first line without its end, and its length with it.
fn line(input: &[u8]) -> Result<Option<(&str, usize)>, String> {
    let window = &input[..input.len().min(LINE_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if input.len() > LINE_BYTES_MAX {
            Err(format!("a line of an answer is longer than {LINE_BYTES_MAX} bytes"))
        } else {
            Ok(None)
        };
    };
    let text = std::str::from_utf8(&window[..end]).map_err(|_| "an answer is no text".to_owned())?;
    Ok(Some((text, end + 2)))
}

/// Appends a command as an array of bulk strings. Writing to a Vec cannot fail.
fn command(out: &mut Vec<u8>, words: &[&str]) {
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n{word}\r\n", word.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Acknowledgement = Acknowledgement::Wait { replicas: 3 };
    const WAITAOF: Acknowledgement = Acknowledgement::WaitAof { replicas: 3 };

    /// After a pipeline of so many operations, with what was sent.
    fn asked(acknowledgement: Acknowledgement, operation: Operation<'_>, count: usize) -> (Resp, String) {
        let (mut resp, mut out) = (Resp::new(acknowledgement, 5_000, None), Vec::new());
        for _ in 0..count {
            resp.request(operation, &mut out).expect("expressible");
        }
        resp.finish(&mut out);
        (resp, String::from_utf8(out).expect("text"))
    }

    const PUT: Operation<'_> = Operation::Put { key: "key7", value: "vv" };
    const GET: Operation<'_> = Operation::Get { key: "k" };

    /// Everything that `input` has, which comes in two parts.
    fn in_two(mut resp: Resp, input: &str, cut: usize) -> Vec<Answer> {
        let (mut answers, mut begin) = (Vec::new(), 0);
        for end in [cut, input.len()] {
            loop {
                let parsed = resp.parse(&input.as_bytes()[begin..end], &mut Vec::new()).expect("RESP");
                begin += parsed.consumed;
                let Some(answer) = parsed.answer else { break };
                answers.push(answer);
            }
        }
        assert_eq!(begin, input.len(), "{input:?} cut at {cut}");
        answers
    }

    #[test]
    fn an_answer_cut_anywhere_is_the_same_answer() {
        use RequestOutcome::{Indeterminate, NotApplied, NotFound, Ok, Refused};
        for (acknowledgement, operation, input, outcomes) in [
            (WAIT, PUT, "+OK\r\n:3\r\n", &[Ok][..]),
            (WAIT, PUT, "+OK\r\n:5\r\n", &[Ok]),
            (WAIT, PUT, "+OK\r\n:2\r\n", &[Indeterminate]),
            (WAIT, PUT, "-OOM command not allowed\r\n:5\r\n", &[NotApplied]),
            (WAIT, PUT, "+OK\r\n-ERR no\r\n", &[Indeterminate]),
            (WAIT, PUT, "+OK\r\n-WRONGTYPE no\r\n+OK\r\n:3\r\n", &[Ok, Refused, Ok]),
            (WAIT, PUT, "+OK\r\n-WRONGTYPE no\r\n+OK\r\n:2\r\n", &[Indeterminate, Refused, Indeterminate]),
            (WAITAOF, PUT, "+OK\r\n:3\r\n*2\r\n:0\r\n:3\r\n", &[Ok]),
            (WAITAOF, PUT, "+OK\r\n+OK\r\n:5\r\n*2\r\n:1\r\n:2\r\n", &[Indeterminate, Indeterminate]),
            (WAITAOF, PUT, "+OK\r\n:3\r\n-ERR no\r\n", &[Indeterminate]),
            (Acknowledgement::Reply, PUT, "+OK\r\n", &[Ok]),
            (Acknowledgement::Reply, PUT, "-OOM a limit\r\n+OK\r\n", &[NotApplied, Ok]),
            (Acknowledgement::Reply, PUT, "-INDETERMINATE seq 7\r\n-LOADING\r\n", &[Indeterminate, NotApplied]),
            (WAIT, GET, "$5\r\nhe\r\no\r\n", &[Ok]),
            (WAIT, GET, "$11\r\nab\r\n+OK\r\n:3\r\n$-1\r\n", &[Ok, NotFound]),
            (WAIT, GET, "$0\r\n\r\n", &[Ok]),
            (WAIT, GET, "-MOVED\r\n", &[Refused]),
        ] {
            for cut in 0..=input.len() {
                let (resp, _) = asked(acknowledgement, operation, outcomes.len());
                let answers = in_two(resp, input, cut);
                let found: Vec<_> = answers.iter().map(|answer| answer.outcome).collect();
                assert_eq!(found, outcomes, "{input:?} cut at {cut}");
                for answer in answers {
                    let is_told = !matches!(answer.outcome, Ok | NotFound);
                    assert_eq!((answer.words.is_some(), answer.error.is_some()), (is_told, is_told), "{answer:?}");
                }
            }
        }
    }

    #[test]
    fn a_refusal_counts_by_its_first_word_and_ends_the_connection_to_who_leads_no_more() {
        for (words, error, keep) in [
            ("READONLY this node follows", "READONLY", false),
            ("OOM a limit", "OOM", true),
            ("something went wrong", "ERR", true),
            ("", "ERR", true),
        ] {
            let answer = refused(words);
            assert_eq!((answer.error.as_deref(), answer.keep), (Some(error), keep), "{words}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error_in_words() {
        for (input, expected) in [
            (":3\r\n", "':3' is no answer to what was asked"),
            ("+OK\r\n:x\r\n", "'x' is no number"),
            ("\r\n", "an empty line came"),
            ("+OK\r\n+OK\r\n", "'+OK' is no answer"),
        ] {
            let (mut resp, _) = asked(WAIT, PUT, 1);
            let error = resp.parse(input.as_bytes(), &mut Vec::new()).expect_err(input);
            assert!(error.contains(expected), "{input:?}: {error}");
        }
        let endless = "+".repeat(LINE_BYTES_MAX + 1);
        let (mut resp, _) = asked(WAIT, PUT, 1);
        assert!(resp.parse(endless.as_bytes(), &mut Vec::new()).expect_err("too long").contains("longer than 4096"));
        let mut idle = Resp::new(WAIT, 5_000, None);
        assert_eq!(idle.parse(b"", &mut Vec::new()), Ok(Parsed::nothing_yet()));
        assert!(idle.parse(b"+OK\r\n", &mut Vec::new()).expect_err("unasked").contains("more came"));
    }

    #[test]
    fn a_connection_begins_with_the_token() {
        for (reply, outcome) in [("+OK", RequestOutcome::Ok), ("-WRONGPASS no", RequestOutcome::Refused)] {
            let (mut resp, mut out) = (Resp::new(Acknowledgement::Reply, 5_000, Some("of a client")), Vec::new());
            resp.open(&mut out);
            assert_eq!(out, b"*2\r\n$4\r\nAUTH\r\n$11\r\nof a client\r\n");
            resp.request(PUT, &mut out).expect("expressible");
            let set = if outcome == RequestOutcome::Ok { "+OK" } else { "-NOAUTH Authentication required." };
            let answers = in_two(resp, &format!("{reply}\r\n{set}\r\n"), 3);
            assert_eq!(answers.iter().map(|answer| answer.outcome).collect::<Vec<_>>(), [outcome]);
        }
    }

    #[test]
    fn a_pipeline_of_writes_ends_in_one_acknowledgement() {
        const SET: &str = "*3\r\n$3\r\nSET\r\n$4\r\nkey7\r\n$2\r\nvv\r\n";
        const WAIT_3: &str = "*3\r\n$4\r\nWAIT\r\n$1\r\n3\r\n$4\r\n5000\r\n";
        const WAITAOF_3: &str = "*4\r\n$7\r\nWAITAOF\r\n$1\r\n0\r\n$1\r\n3\r\n$4\r\n5000\r\n";
        assert_eq!(asked(WAIT, PUT, 2).1, [SET, SET, WAIT_3].concat());
        assert_eq!(asked(WAITAOF, PUT, 1).1, [SET, WAIT_3, WAITAOF_3].concat());
        assert_eq!(asked(Acknowledgement::Reply, PUT, 3).1, SET.repeat(3));
        assert!(!asked(WAIT, GET, 2).1.contains("WAIT"), "reads are acknowledged by what they read");
    }
}
