//! What one thread of the load saw: latencies in histograms, outcomes counted, each second by itself.

use anyhow::{Context, Result};
use hdrhistogram::{Counter, Histogram};

use super::protocol::{Answer, RequestOutcome};

/// Latencies are counted with a precision of 0.1 %. A run has a histogram per second, so those have 1 %.
const DIGITS: u8 = 3;
const DIGITS_OF_SECONDS: u8 = 2;

/// Of so many keys it is known whether a write of them was acknowledged, so that they can be read back.
const KEYS_REMEMBERED_MAX: u64 = 10_000;

/// Puts or gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Put,
    Get,
}

/// One operation under way, in ns since the run began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub kind: Kind,
    /// The number of its key.
    pub key: u64,
    /// When it should have been sent; in a closed loop, when it was.
    pub intended_ns: u64,
    pub sent_ns: u64,
}

/// The part of the run that is measured, in ns since it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub from_ns: u64,
    pub until_ns: u64,
}

impl Window {
    pub(super) fn contains(&self, ns: u64) -> bool {
        (self.from_ns..self.until_ns).contains(&ns)
    }
}

/// The operations of one kind that were due within the window, however long they took.
#[derive(Clone, Debug)]
pub(super) struct KindRecord {
    /// From sending to the whole answer.
    pub service_ns: Histogram<u64>,
    /// From when it should have been sent to the whole answer.
    pub response_ns: Histogram<u64>,
    /// The same two beyond the delay that the quorum had to wait for, of writes that were explained.
    pub service_overhead_ns: Histogram<u64>,
    pub response_overhead_ns: Histogram<u64>,
    pub outcomes: [u64; RequestOutcome::ALL.len()],
    /// Done within the window, whenever they were due: what throughput is computed from.
    pub done_within: u64,
}

/// What was answered within one second of the window.
#[derive(Clone, Debug)]
pub(super) struct Second {
    pub puts: u64,
    pub gets: u64,
    pub failures: u64,
    pub response_us: Histogram<u32>,
    pub overhead_us: Histogram<u32>,
}

/// What one thread saw.
#[derive(Clone, Debug)]
pub(super) struct Recorder {
    window: Window,
    /// Whether response times differ from service times.
    is_open_loop: bool,
    pub puts: KindRecord,
    pub gets: KindRecord,
    pub seconds: Vec<Second>,
    /// What the first operation without success met.
    pub first_failure: Option<String>,
    /// By number of the key; no longer than there are keys.
    pub acknowledged: Vec<bool>,
    /// Operations that were due and never sent.
    pub unsent: u64,
    /// The longest time by which an operation was sent late, in ns.
    pub late_ns_max: u64,
}

impl Recorder {
    /// # Errors
    /// Never with the bounds above; the histogram's constructor is one that can fail.
    pub(super) fn new(window: Window, is_open_loop: bool, keys: u64) -> Result<Self> {
        let kind = KindRecord {
            service_ns: histogram(DIGITS)?,
            response_ns: histogram(DIGITS)?,
            service_overhead_ns: histogram(DIGITS)?,
            response_overhead_ns: histogram(DIGITS)?,
            outcomes: [0; RequestOutcome::ALL.len()],
            done_within: 0,
        };
        let second = Second {
            puts: 0,
            gets: 0,
            failures: 0,
            response_us: histogram(DIGITS_OF_SECONDS)?,
            overhead_us: histogram(DIGITS_OF_SECONDS)?,
        };
        let seconds = (window.until_ns - window.from_ns).div_ceil(1_000_000_000);
        Ok(Self {
            window,
            is_open_loop,
            puts: kind.clone(),
            gets: kind,
            seconds: vec![second; usize::try_from(seconds).context("failed to make room for so many seconds")?],
            first_failure: None,
            acknowledged: vec![false; usize::try_from(keys.min(KEYS_REMEMBERED_MAX)).unwrap_or(0)],
            unsent: 0,
            late_ns_max: 0,
        })
    }

    /// Counts an answered operation.
    pub(super) fn answered(&mut self, flight: Flight, now_ns: u64, answer: Answer) {
        if let (RequestOutcome::Ok, Some(delay_ns)) = (answer.outcome, answer.quorum_delay_ns) {
            self.explained(flight, now_ns, delay_ns);
        }
        if let (Kind::Put, RequestOutcome::Ok) = (flight.kind, answer.outcome)
            && let Some(acknowledged) = usize::try_from(flight.key).ok().and_then(|key| self.acknowledged.get_mut(key))
        {
            *acknowledged = true;
        }
        self.ended(flight, now_ns, answer.outcome, || answer.words.unwrap_or_default());
    }

    /// Counts what a write took beyond the delay that its quorum had to wait for.
    fn explained(&mut self, flight: Flight, now_ns: u64, delay_ns: u64) {
        let Flight { intended_ns, sent_ns, .. } = flight;
        let over_ns = |since_ns: u64| now_ns.saturating_sub(since_ns).saturating_sub(delay_ns);
        if self.window.contains(intended_ns) {
            record(&mut self.puts.service_overhead_ns, over_ns(sent_ns));
            if self.is_open_loop {
                record(&mut self.puts.response_overhead_ns, over_ns(intended_ns));
            }
        }
        if let Some(second) = self.second(now_ns) {
            record(&mut second.overhead_us, over_ns(intended_ns) / 1_000);
        }
    }

    /// The second of the window at a time within it.
    fn second(&mut self, now_ns: u64) -> Option<&mut Second> {
        let index = now_ns.checked_sub(self.window.from_ns)? / 1_000_000_000;
        self.seconds.get_mut(usize::try_from(index).ok()?)
    }

    /// Counts an operation, however it ended.
    pub(super) fn ended(
        &mut self,
        flight: Flight,
        now_ns: u64,
        outcome: RequestOutcome,
        words: impl FnOnce() -> String,
    ) {
        let Flight { kind, intended_ns, sent_ns, .. } = flight;
        let is_done = matches!(outcome, RequestOutcome::Ok | RequestOutcome::NotFound);
        let response_ns = now_ns.saturating_sub(intended_ns);
        let of_kind = if kind == Kind::Put { &mut self.puts } else { &mut self.gets };
        if self.window.contains(intended_ns) {
            of_kind.outcomes[outcome as usize] += 1;
            if is_done {
                record(&mut of_kind.service_ns, now_ns.saturating_sub(sent_ns));
                if self.is_open_loop {
                    record(&mut of_kind.response_ns, response_ns);
                    self.late_ns_max = self.late_ns_max.max(sent_ns.saturating_sub(intended_ns));
                }
            }
        }
        if !is_done {
            self.first_failure.get_or_insert_with(words);
        }
        if !self.window.contains(now_ns) {
            return;
        }
        of_kind.done_within += u64::from(is_done);
        if let Some(second) = self.second(now_ns) {
            match (is_done, kind) {
                (false, _) => second.failures += 1,
                (true, Kind::Put) => second.puts += 1,
                (true, Kind::Get) => second.gets += 1,
            }
            if is_done {
                record(&mut second.response_us, response_ns / 1_000);
            }
        }
    }

    /// Takes in what another thread saw of the same window.
    pub(super) fn merge(&mut self, other: Self) -> Result<()> {
        for (mine, theirs) in [(&mut self.puts, other.puts), (&mut self.gets, other.gets)] {
            mine.service_ns.add(&theirs.service_ns).context("failed to add up latencies")?;
            for (mine, theirs) in [
                (&mut mine.response_ns, &theirs.response_ns),
                (&mut mine.service_overhead_ns, &theirs.service_overhead_ns),
                (&mut mine.response_overhead_ns, &theirs.response_overhead_ns),
            ] {
                mine.add(theirs).context("failed to add up latencies")?;
            }
            mine.done_within += theirs.done_within;
            for (mine, theirs) in mine.outcomes.iter_mut().zip(theirs.outcomes) {
                *mine += theirs;
            }
        }
        for (mine, theirs) in self.seconds.iter_mut().zip(other.seconds) {
            mine.puts += theirs.puts;
            mine.gets += theirs.gets;
            mine.failures += theirs.failures;
            mine.response_us.add(&theirs.response_us).context("failed to add up latencies")?;
            mine.overhead_us.add(&theirs.overhead_us).context("failed to add up latencies")?;
        }
        for (mine, theirs) in self.acknowledged.iter_mut().zip(other.acknowledged) {
            *mine |= theirs;
        }
        self.first_failure = self.first_failure.take().or(other.first_failure);
        self.unsent += other.unsent;
        self.late_ns_max = self.late_ns_max.max(other.late_ns_max);
        Ok(())
    }
}

/// An empty histogram, which grows with what it sees: seconds are many, and most see nothing long.
pub(super) fn histogram<C: Counter>(digits: u8) -> Result<Histogram<C>> {
    Histogram::new(digits).context("failed to make a histogram")
}

fn record<C: Counter>(histogram: &mut Histogram<C>, value: u64) {
    // A histogram that grows takes every value up to 2^62: no latency is longer.
    let _ = histogram.record(value);
}
