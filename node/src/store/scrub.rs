//! Reads the log again slowly and compares checksums, to find damage while the follower's memory
//! can still repair it.
//!
//! A round reads all segments, oldest first, at a limited number of bytes per second. It first
//! drops a segment from the page cache, so that it reads the disk.

use std::time::{Duration, Instant};

use super::batches::{Batches, Damaged};
use super::files::is_shortage;
use super::log::Log;
use super::segment::HEADER_BYTES;

/// Time between the end of a round and the start of the next one.
const ROUND_EVERY: Duration = Duration::from_secs(600);
/// About how many bytes one step reads. It takes a few hundred microseconds, for which a write may
/// have to wait.
const STEP_BYTES: i64 = 64 << 10;

/// The progress of a round.
#[derive(Debug)]
pub(super) struct Scrub {
    bytes_per_s: u64,
    /// How many bytes may be read now; negative after a long batch.
    allowance: i64,
    counted: Instant,
    /// The earliest start of the next round.
    next_round: Instant,
    /// Batch from which the next segment is looked up.
    position: u64,
    reading: Option<(u64, Batches)>,
    /// How many bytes were compared since the start.
    pub(super) bytes: u64,
}

impl Scrub {
    pub(super) fn new(bytes_per_s: u64, now: Instant) -> Self {
        Self { bytes_per_s, allowance: 0, counted: now, next_round: now, position: 0, reading: None, bytes: 0 }
    }

    /// Reads as many bytes as the time since the last call allows. `written` is the number of the
    /// last batch.
    pub(super) fn step(&mut self, now: Instant, log: &Log, written: u64) -> Result<(), Damaged> {
        if self.bytes_per_s == 0 || now < self.next_round {
            self.counted = now;
            return Ok(());
        }
        let passed = now.saturating_duration_since(self.counted).as_micros();
        let earned = i64::try_from(passed * u128::from(self.bytes_per_s) / 1_000_000).unwrap_or(i64::MAX);
        if earned > 0 {
            self.counted = now;
            self.allowance = self.allowance.saturating_add(earned).min(STEP_BYTES);
        }
        while self.allowance > 0 {
            let read = match self.read(log, written) {
                Ok(Some(read)) => read,
                Ok(None) => {
                    // The round is over.
                    (self.position, self.next_round) = (0, now + ROUND_EVERY);
                    return Ok(());
                }
                Err(damaged) => {
                    // The repair replaces the log, so the next round starts from the beginning.
                    (self.position, self.reading) = (0, None);
                    return Err(damaged);
                }
            };
            self.bytes += read;
            self.allowance -= read as i64;
        }
        Ok(())
    }

    /// After how long the next step is due; `None` if scrubbing is disabled.
    pub(super) fn due(&self, now: Instant) -> Option<Duration> {
        let step = Duration::from_micros(STEP_BYTES.unsigned_abs() * 1_000_000 / self.bytes_per_s.max(1));
        (self.bytes_per_s > 0).then(|| step.max(self.next_round.saturating_duration_since(now)))
    }

    /// Reads one batch. Returns its length, or `None` at the end of the log.
    fn read(&mut self, log: &Log, written: u64) -> Result<Option<u64>, Damaged> {
        if let Some((first, batches)) = &mut self.reading {
            let part = log.part_from(*first).filter(|part| part.first == *first);
            if let Some(part) = part.filter(|part| batches.next() < part.after.min(written + 1)) {
                // The newest segment grows, so the limit moves to its present end.
                batches.extend(part.end);
                batches.read(log.id())?;
                return Ok(Some(batches.bytes().len() as u64));
            }
            self.position = batches.next().max(*first + 1);
            self.reading = None;
        }
        let Some(part) = log.part_from(self.position) else {
            return Ok(None);
        };
        let file = match log.open(part.first) {
            // The next round tries again.
            Err(error) if is_shortage(&error) => return Ok(None),
            other => other.map_err(|_| Damaged(part.first))?,
        };
        file.forget(0, part.end);
        self.reading = Some((part.first, Batches::open(file, log.id(), part.first, part.end)?));
        Ok(Some(HEADER_BYTES as u64))
    }
}
