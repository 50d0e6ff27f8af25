//! What one thread of the load saw: latencies in histograms, outcomes counted, each second by itself.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use hdrhistogram::{Counter, Histogram};

use super::protocol::RequestOutcome;

/// Latencies are counted with a precision of 0.1 %. A run has a histogram per second, so those have 1 %.
const DIGITS: u8 = 3;
const DIGITS_OF_SECONDS: u8 = 2;

/// Of so many keys it is known whether a write of them was acknowledged, so that they can be read back.
const KEYS_REMEMBERED_MAX: u64 = 10_000;

/// Errors are counted by so many different first words, and the rest together.
const ERRORS_MAX: usize = 16;
const OTHER_ERRORS: &str = "others";

/// Puts or gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Put,
    Get,
}

/// One pipeline under way, in ns since the run began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flight {
    /// Of all its operations.
    pub kind: Kind,
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
    /// Of whole pipelines, from sending to the last answer.
    pub service_ns: Histogram<u64>,
    /// From when it should have been sent to the last answer.
    pub response_ns: Histogram<u64>,
    /// The same two beyond the delay that the quorum had to wait for, of writes that were explained.
    pub service_overhead_ns: Histogram<u64>,
    pub response_overhead_ns: Histogram<u64>,
    pub outcomes: [u64; RequestOutcome::ALL.len()],
    /// How many errors began with which word.
    pub errors: BTreeMap<String, u64>,
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
            errors: BTreeMap::new(),
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

    /// Counts a pipeline of which every operation was done: its latency, and what it took beyond the delay that its quorum
    /// had to wait for, where that is known.
    pub(super) fn done(&mut self, flight: Flight, now_ns: u64, quorum_delay_ns: Option<u64>) {
        let Flight { kind, intended_ns, sent_ns } = flight;
        if let Some(delay_ns) = quorum_delay_ns {
            self.explained(flight, now_ns, delay_ns);
        }
        let response_ns = now_ns.saturating_sub(intended_ns);
        if self.window.contains(intended_ns) {
            let is_open_loop = self.is_open_loop;
            let of_kind = self.kind(kind);
            record(&mut of_kind.service_ns, now_ns.saturating_sub(sent_ns));
            if is_open_loop {
                record(&mut of_kind.response_ns, response_ns);
                self.late_ns_max = self.late_ns_max.max(sent_ns.saturating_sub(intended_ns));
            }
        }
        if self.window.contains(now_ns)
            && let Some(second) = self.second(now_ns)
        {
            record(&mut second.response_us, response_ns / 1_000);
        }
    }

    /// Counts an error by its first word.
    pub(super) fn error(&mut self, flight: Flight, word: String) {
        if self.window.contains(flight.intended_ns) {
            count_error(&mut self.kind(flight.kind).errors, word, 1);
        }
    }

    fn kind(&mut self, kind: Kind) -> &mut KindRecord {
        if kind == Kind::Put { &mut self.puts } else { &mut self.gets }
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

    /// Counts an operation on the key of this number, however it ended.
    pub(super) fn ended(
        &mut self,
        flight: Flight,
        key: u64,
        now_ns: u64,
        outcome: RequestOutcome,
        words: impl FnOnce() -> String,
    ) {
        let Flight { kind, intended_ns, .. } = flight;
        let is_done = matches!(outcome, RequestOutcome::Ok | RequestOutcome::NotFound);
        if let (Kind::Put, RequestOutcome::Ok) = (kind, outcome)
            && let Some(acknowledged) = usize::try_from(key).ok().and_then(|key| self.acknowledged.get_mut(key))
        {
            *acknowledged = true;
        }
        let (is_due_within, is_within) = (self.window.contains(intended_ns), self.window.contains(now_ns));
        let of_kind = self.kind(kind);
        of_kind.outcomes[outcome as usize] += u64::from(is_due_within);
        of_kind.done_within += u64::from(is_done && is_within);
        if !is_done {
            self.first_failure.get_or_insert_with(words);
        }
        if let (true, Some(second)) = (is_within, self.second(now_ns)) {
            match (is_done, kind) {
                (false, _) => second.failures += 1,
                (true, Kind::Put) => second.puts += 1,
                (true, Kind::Get) => second.gets += 1,
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
            theirs.errors.into_iter().for_each(|(word, count)| count_error(&mut mine.errors, word, count));
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

/// Adds to the count of a word, or to that of the others once there are many.
fn count_error(errors: &mut BTreeMap<String, u64>, word: String, count: u64) {
    let is_known = errors.len() < ERRORS_MAX || errors.contains_key(&word);
    *errors.entry(if is_known { word } else { OTHER_ERRORS.to_owned() }).or_default() += count;
}

fn record<C: Counter>(histogram: &mut Histogram<C>, value: u64) {
    // A histogram that grows takes every value up to 2^62: no latency is longer.
    let _ = histogram.record(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_their_first_words_and_many_words_together() {
        let window = Window { from_ns: 100, until_ns: 200 };
        let mut recorder = Recorder::new(window, false, 10).expect("made");
        let flight = |intended_ns| Flight { intended_ns, ..Flight::default() };
        for number in 0..40 {
            recorder.error(flight(150), format!("ERROR{number:02}"));
            recorder.error(flight(150), "ERROR00".to_owned());
            recorder.error(flight(250), "LATE".to_owned());
        }
        let errors = &recorder.puts.errors;
        assert_eq!((errors["ERROR00"], errors["ERROR15"], errors[OTHER_ERRORS]), (41, 1, 24));
        assert_eq!(errors.len(), ERRORS_MAX + 1);
        let copy = recorder.clone();
        recorder.merge(copy).expect("alike");
        assert_eq!((recorder.puts.errors["ERROR00"], recorder.puts.errors[OTHER_ERRORS]), (82, 48));
    }

    #[test]
    fn a_pipeline_has_one_latency_and_each_operation_counts() {
        let window = Window { from_ns: 100, until_ns: 2_000 };
        let mut recorder = Recorder::new(window, true, 10).expect("made");
        let flight = Flight { kind: Kind::Put, intended_ns: 110, sent_ns: 120 };
        for key in [3, 4, 5] {
            recorder.ended(flight, key, 1_000, RequestOutcome::Ok, String::new);
        }
        recorder.done(flight, 1_120, None);
        let puts = &recorder.puts;
        assert_eq!((puts.done_within, puts.outcomes[RequestOutcome::Ok as usize]), (3, 3));
        assert_eq!((puts.service_ns.len(), puts.service_ns.max()), (1, 1_000));
        assert_eq!((puts.response_ns.max(), recorder.late_ns_max), (1_010, 10));
        assert_eq!((recorder.seconds[0].puts, recorder.seconds[0].response_us.len()), (3, 1));
        let acknowledged: Vec<_> = (0..10).filter(|key| recorder.acknowledged[*key]).collect();
        assert_eq!(acknowledged, [3, 4, 5]);
    }
}
