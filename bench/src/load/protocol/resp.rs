//! Redis' protocol: `SET` and `WAIT` in one round trip, or `SET` alone where its reply is the acknowledgement; `GET`.

use std::io::Write;

use super::{Answer, Operation, Parsed, Protocol, RequestOutcome};

/// A line of an answer (a status, an error, a number) is shorter than this.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// One connection to a Redis master.
#[derive(Debug)]
pub(in crate::load) struct Resp {
    replicas: u32,
    wait_ms: u64,
    expected: Expected,
    /// What SET was refused with: WAIT is answered too, and says nothing about this write.
    refusal: Option<String>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// `+OK` of SET, and nothing else.
    Set,
    /// `+OK` of SET, then the number of WAIT.
    SetThenWait,
    /// The number of replicas that have the write.
    Wait,
    /// A value.
    Bulk,
}

impl Resp {
    /// A write counts once `replicas` have it, within `wait_ms`; with 0 replicas, once SET is answered.
    pub(in crate::load) fn new(replicas: u32, wait_ms: u64) -> Self {
        Self { replicas, wait_ms, expected: Expected::Set, refusal: None }
    }
}

impl Protocol for Resp {
    fn open(&mut self, _: &mut Vec<u8>) {
        self.refusal = None;
    }

    fn request(&mut self, operation: Operation<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        match operation {
            Operation::Put { key, value } => {
                command(out, &["SET", key, value]);
                self.expected = Expected::Set;
                if self.replicas > 0 {
                    command(out, &["WAIT", &self.replicas.to_string(), &self.wait_ms.to_string()]);
                    self.expected = Expected::SetThenWait;
                }
            }
            Operation::Get { key } => {
                command(out, &["GET", key]);
                self.expected = Expected::Bulk;
            }
        }
        Ok(())
    }

    fn parse(&mut self, input: &[u8], _: &mut Vec<u8>) -> Result<Parsed, String> {
        let mut consumed = 0;
        loop {
            let Some((line, length)) = line(&input[consumed..])? else {
                return Ok(Parsed { consumed, answer: None });
            };
            let (kind, rest) = line.split_at_checked(1).ok_or("an empty line came")?;
            let finished = |answer| Ok(Parsed { consumed: consumed + length, answer: Some(answer) });
            match (self.expected, kind) {
                (Expected::Set, "+") => return finished(Answer::ok()),
                (Expected::Set, "-") if rest.starts_with("INDETERMINATE") => {
                    let words = Some(rest.to_owned());
                    return finished(Answer { outcome: RequestOutcome::Indeterminate, words, ..Answer::ok() });
                }
                (Expected::SetThenWait, "+" | "-") => {
                    self.refusal = (kind == "-").then(|| rest.to_owned());
                    self.expected = Expected::Wait;
                    consumed += length;
                }
                (Expected::Wait, ":") => {
                    let replicas: u32 = number(rest)?;
                    return finished(match self.refusal.take() {
                        Some(words) => refused(&words),
                        None if replicas >= self.replicas => Answer::ok(),
                        None => too_few(replicas),
                    });
                }
                (Expected::Bulk, "$") if rest == "-1" => {
                    return finished(Answer { outcome: RequestOutcome::NotFound, ..Answer::ok() });
                }
                (Expected::Bulk, "$") => {
                    let end = consumed + length + number::<usize>(rest)? + 2;
                    let answer = (input.len() >= end).then(Answer::ok);
                    return Ok(Parsed { consumed: if answer.is_some() { end } else { consumed }, answer });
                }
                (_, "-") => return finished(refused(rest)),
                _ => return Err(format!("'{line}' is no answer to what was asked")),
            }
        }
    }
}

fn refused(words: &str) -> Answer {
    Answer { outcome: RequestOutcome::Refused, words: Some(words.to_owned()), ..Answer::ok() }
}

fn too_few(replicas: u32) -> Answer {
    let words = Some(format!("WAIT found only {replicas} replicas with the write"));
    Answer { outcome: RequestOutcome::Indeterminate, words, ..Answer::ok() }
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

    fn put() -> Resp {
        let mut resp = Resp::new(3, 5_000);
        resp.request(Operation::Put { key: "k", value: "v" }, &mut Vec::new()).expect("expressible");
        resp
    }

    fn set() -> Resp {
        let mut resp = Resp::new(0, 5_000);
        resp.request(Operation::Put { key: "k", value: "v" }, &mut Vec::new()).expect("expressible");
        resp
    }

    fn get() -> Resp {
        let mut resp = Resp::new(3, 5_000);
        resp.request(Operation::Get { key: "k" }, &mut Vec::new()).expect("expressible");
        resp
    }

    /// Hands over `input` in two parts, as the engine does.
    fn in_two(mut resp: Resp, input: &str, cut: usize) -> (usize, Answer) {
        let mut out = Vec::new();
        let first = resp.parse(&input.as_bytes()[..cut], &mut out).expect("RESP");
        if let Some(answer) = first.answer {
            return (first.consumed, answer);
        }
        let second = resp.parse(&input.as_bytes()[first.consumed..], &mut out).expect("RESP");
        (first.consumed + second.consumed, second.answer.expect("complete"))
    }

    #[test]
    fn an_answer_cut_anywhere_is_the_same_answer() {
        for (make, input, outcome) in [
            (put as fn() -> Resp, "+OK\r\n:3\r\n", RequestOutcome::Ok),
            (put, "+OK\r\n:5\r\n", RequestOutcome::Ok),
            (put, "+OK\r\n:2\r\n", RequestOutcome::Indeterminate),
            (put, "-OOM command not allowed\r\n:5\r\n", RequestOutcome::Refused),
            (put, "+OK\r\n-ERR no\r\n", RequestOutcome::Refused),
            (set, "+OK\r\n", RequestOutcome::Ok),
            (set, "-OOM a limit\r\n", RequestOutcome::Refused),
            (set, "-INDETERMINATE seq 7\r\n", RequestOutcome::Indeterminate),
            (get, "$5\r\nhe\r\no\r\n", RequestOutcome::Ok),
            (get, "$11\r\nab\r\n+OK\r\n:3\r\n", RequestOutcome::Ok),
            (get, "$0\r\n\r\n", RequestOutcome::Ok),
            (get, "$-1\r\n", RequestOutcome::NotFound),
            (get, "-MOVED\r\n", RequestOutcome::Refused),
        ] {
            for cut in 0..=input.len() {
                let (consumed, answer) = in_two(make(), input, cut);
                assert_eq!((consumed, answer.outcome), (input.len(), outcome), "{input:?} cut at {cut}");
                assert_eq!(answer.words.is_some(), !matches!(outcome, RequestOutcome::Ok | RequestOutcome::NotFound));
            }
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
            let error = put().parse(input.as_bytes(), &mut Vec::new()).expect_err(input);
            assert!(error.contains(expected), "{input:?}: {error}");
        }
        let endless = "+".repeat(LINE_BYTES_MAX + 1);
        assert!(put().parse(endless.as_bytes(), &mut Vec::new()).expect_err("too long").contains("longer than 4096"));
    }

    #[test]
    fn a_write_is_set_and_wait_in_one_or_set_alone() {
        let mut out = Vec::new();
        Resp::new(3, 5_000).request(Operation::Put { key: "key7", value: "vv" }, &mut out).expect("expressible");
        let expected = "*3\r\n$3\r\nSET\r\n$4\r\nkey7\r\n$2\r\nvv\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n3\r\n$4\r\n5000\r\n";
        assert_eq!(String::from_utf8(out).expect("text"), expected);
        let mut out = Vec::new();
        Resp::new(0, 5_000).request(Operation::Put { key: "key7", value: "vv" }, &mut out).expect("expressible");
        assert_eq!(String::from_utf8(out).expect("text"), "*3\r\n$3\r\nSET\r\n$4\r\nkey7\r\n$2\r\nvv\r\n");
    }
}
