//! A command whose reply is not known yet.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::backend::Backend;
use super::client::Client;
use super::errors::Error;
use super::output::Output;
use super::part::{Part, Settled};
use super::walk::Walk;
use crate::metrics::WriteResult;
use crate::protocol::leader::NoSum;
use crate::protocol::value::Value;
use crate::replication::coordinator::WriteOutcome;

/// Time between two looks at how many followers have confirmed.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How a reply follows from what is settled.
#[derive(Debug)]
pub(super) enum Form {
    /// These bytes.
    Fixed(Bytes),
    /// OK if it is written, null if it is not.
    Ok,
    /// OK once all are written.
    AllOk,
    /// The value before the write.
    Before(Option<Value>),
    /// This number once it is written, or the reason why it cannot be.
    Number(Result<i64, Error>),
    /// How many are written.
    Written,
    /// The value.
    Value,
    /// All values.
    Values,
    /// How many values there are.
    Present,
    /// The length of the value.
    Length,
    /// The type of the value.
    Type,
    /// How many followers have confirmed every write below `end`.
    Followers { end: u64, wanted: usize, until: Option<Instant>, on_disk: bool },
    /// Something about all keys.
    Walk(Walk),
}

/// A command whose reply is not known yet.
#[derive(Debug)]
pub(super) struct Slot {
    parts: SmallVec<[(u64, Part); 1]>,
    /// How many parts are settled.
    settled: usize,
    form: Form,
    /// When the command arrived.
    begun: Instant,
    /// Whether the reply has the types of version 3.
    resp3: bool,
    writes: bool,
}

impl From<NoSum> for Error {
    fn from(why: NoSum) -> Self {
        match why {
            NoSum::NoInteger => Self::NO_INTEGER,
            NoSum::Overflow => Self::OVERFLOW,
        }
    }
}

impl Slot {
    /// A command of these parts, each with the hash of its key.
    pub(super) fn new(parts: SmallVec<[(u64, Part); 1]>, form: Form, writes: bool, begun: Instant) -> Self {
        Self { parts, settled: 0, form, begun, resp3: false, writes }
    }

    /// A command without keys.
    pub(super) fn of(form: Form, begun: Instant) -> Self {
        Self::new(SmallVec::new(), form, false, begun)
    }

    /// The same with the types of the client's version.
    pub(super) fn in_version(self, resp3: bool) -> Self {
        Self { resp3, ..self }
    }

    /// How many keys it reads or writes.
    pub(super) fn keys(&self) -> usize {
        self.parts.len()
    }

    /// Whether it reads or writes a key with this hash.
    pub(super) fn touches(&self, hash: u64) -> bool {
        self.parts.iter().any(|(other, _)| *other == hash)
    }

    /// Waits until the reply is known. The caller calls it again at [`Slot::next_look`] at the latest.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, client: &Client) -> Poll<()> {
        let Client { backend, answers, now, .. } = client;
        let now = *now;
        while let Some((_, part)) = self.parts.get_mut(self.settled) {
            if let Part::Waiting { number, seq, timeout } = part {
                let settled = match answers.poll(*number, cx) {
                    Poll::Ready(outcome) => settle(outcome, *seq, backend),
                    Poll::Pending if now < self.begun + *timeout => return Poll::Pending,
                    Poll::Pending => {
                        answers.forget(*number);
                        Settled::Failed(match seq {
                            Some(seq) => Error::indeterminate(*seq, *timeout),
                            None => Error::loading(format_args!(
                                "no write quorum confirmed within {} ms that this leader still leads",
                                timeout.as_millis()
                            )),
                        })
                    }
                };
                *part = Part::Settled(settled);
            }
            if let (true, Part::Settled(settled)) = (self.writes, &*part) {
                let result = match settled {
                    Settled::Written => WriteResult::Committed,
                    Settled::Failed(error) if error.is_indeterminate() => WriteResult::Indeterminate,
                    Settled::Found(_) | Settled::Failed(_) => WriteResult::Refused,
                };
                backend.count(result, now - self.begun);
            }
            self.settled += 1;
        }
        match &mut self.form {
            Form::Followers { end, wanted, until, .. } => {
                let there = backend.confirmed_by(*end) >= *wanted || until.is_some_and(|until| until <= now);
                if there { Poll::Ready(()) } else { Poll::Pending }
            }
            Form::Walk(walk) => walk.poll(cx, backend),
            _ => Poll::Ready(()),
        }
    }

    /// When [`Slot::poll`] has to be called again, whatever happens before.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        match (self.parts.get(self.settled), &self.form) {
            (Some((_, Part::Waiting { timeout, .. })), _) => Some(self.begun + *timeout),
            (None, Form::Followers { until, .. }) => {
                Some(until.map_or(now + LOOK_EVERY, |until| until.min(now + LOOK_EVERY)))
            }
            _ => None,
        }
    }

    /// Writes the reply, once [`Slot::poll`] is ready.
    pub(super) fn reply(self, out: &mut Output, backend: &Backend) {
        out.resp3 = self.resp3;
        let several = self.parts.len() > 1;
        let mut settled: SmallVec<[Settled; 1]> = SmallVec::new();
        for (_, part) in self.parts {
            match part {
                Part::Settled(Settled::Failed(error)) => {
                    return out.error(if several && self.writes { error.of_several() } else { error }.text());
                }
                Part::Settled(other) => settled.push(other),
                Part::Waiting { .. } => {}
            }
        }
        let written = settled.iter().filter(|settled| matches!(settled, Settled::Written)).count();
        let mut values = settled.into_iter().map(|settled| match settled {
            Settled::Found(value) => value,
            Settled::Written | Settled::Failed(_) => None,
        });
        match self.form {
            Form::Fixed(bytes) => out.encoded(bytes),
            Form::Ok if written == 0 => out.null(),
            Form::Ok | Form::AllOk => out.ok(),
            Form::Before(value) => backend.send_value(value, out),
            Form::Number(Ok(number)) => out.integer(number),
            Form::Number(Err(error)) => out.error(error.text()),
            Form::Written => out.integer(written as i64),
            Form::Value => backend.send_value(values.next().flatten(), out),
            Form::Values => {
                out.array(values.len());
                values.for_each(|value| backend.send_value(value, out));
            }
            Form::Present => out.integer(values.flatten().count() as i64),
            Form::Length => out.integer(values.next().flatten().map_or(0, |value| value.len() as i64)),
            Form::Type => out.simple(if values.next().flatten().is_some() { "string" } else { "none" }),
            Form::Followers { end, on_disk, .. } => {
                if on_disk {
                    out.array(2);
                    out.integer(0);
                }
                out.integer(backend.confirmed_by(end) as i64);
            }
            Form::Walk(walk) => walk.reply(out),
        }
    }
}

fn settle(outcome: Option<WriteOutcome>, seq: Option<u64>, backend: &Backend) -> Settled {
    match (outcome, seq) {
        (Some(WriteOutcome::Committed(_)), _) => Settled::Written,
        (Some(WriteOutcome::Unmet(found)), _) => Settled::Found(found.and_then(|record| record.value)),
        (Some(WriteOutcome::Indeterminate { seq }), _) | (None, Some(seq)) => Settled::Failed(Error::replaced(seq)),
        (None, None) => Settled::Failed(backend.refusal()),
    }
}
