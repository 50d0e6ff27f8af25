//! How long a write without a delay waits for others before it leaves for the followers.
//!
//! A follower syncs what arrived together with one sync, and what arrives during a sync waits for the next one. A quorum
//! that confirms answers many clients at once, and these write again within a fraction of a sync. Were the first of
//! these writes sent alone, all others would wait for two syncs. So a frame of writes waits until as many are under way
//! as lately, at most for a part of the time that followers take. A client that writes alone never waits. Neither do
//! clients that write at times of their own, so that hardly any write joins a frame while it waits: only one frame in
//! some waits then, to notice when that changes.

use std::time::Duration;

use tokio::time::Instant;

/// A frame waits for at most this part of the time that followers take to confirm.
const PART: u32 = 4;
/// Followers that confirm sooner sync nothing: a wait would save nothing.
const ROUND_TRIP_MIN: Duration = Duration::from_micros(200);
/// The longest wait, also where disks are slow.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// A measurement without an end is given up after this time: the follower is gone.
const TIMED_MAX: Duration = Duration::from_secs(1);
/// Fractions of a write in [`Gather::usual`] and [`Gather::gained`].
const FRACTIONS: u64 = 256;
/// Waiting is worth it while at least so many fractions of a write join a frame that waits, on average.
const GAIN_MIN: u64 = FRACTIONS / 2;
/// Where it is not, one of so many frames waits nevertheless.
const TRIED_EVERY: u32 = 16;

/// Decides how long a frame waits.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// How many writes have been under way lately, at most, in fractions. It falls with every frame.
    usual: u64,
    /// How long the quickest follower takes to confirm, on average.
    round_trip: Duration,
    /// The last write of a frame that left, and when it left.
    timed: Option<(u64, Instant)>,
    /// How many writes the present frame has while it waits.
    waiting: Option<u64>,
    /// How many writes have joined the first one of a frame that waited, on average, in fractions.
    gained: u64,
    /// How many frames have not waited since the last one that did, because waiting was not worth it.
    skipped: u32,
}

impl Gather {
    /// One that waits for so many writes.
    #[cfg(test)]
    pub(super) fn expecting(writes: usize) -> Self {
        let mut gather = Self { round_trip: WAIT_MAX, gained: GAIN_MIN, ..Self::default() };
        gather.expect(writes);
        gather
    }

    /// A frame begins. Returns how long it may wait, if others are to be expected.
    pub(super) fn begins(&mut self, in_flight: usize) -> Option<Duration> {
        self.usual -= self.usual / 64;
        self.expect(in_flight);
        if self.is_complete(in_flight) || self.round_trip < ROUND_TRIP_MIN {
            return None;
        }
        if self.gained < GAIN_MIN && self.skipped + 1 < TRIED_EVERY {
            self.skipped += 1;
            return None;
        }
        self.skipped = 0;
        self.waiting = Some(0);
        Some((self.round_trip / PART).min(WAIT_MAX))
    }

    /// A write is in the frame, and so many are under way now. Returns whether a frame that waits has what it waits for.
    pub(super) fn joined(&mut self, in_flight: usize) -> bool {
        self.expect(in_flight);
        let Some(writes) = &mut self.waiting else { return false };
        *writes += 1;
        self.is_complete(in_flight)
    }

    /// A frame whose last write has this index has left. Returns whether it waited.
    pub(super) fn left(&mut self, index: u64) -> bool {
        let now = Instant::now();
        if self.timed.is_none_or(|(_, at)| now.saturating_duration_since(at) > TIMED_MAX) {
            self.timed = Some((index, now));
        }
        let Some(writes) = self.waiting.take() else { return false };
        self.gained = (self.gained * 7 + writes.saturating_sub(1) * FRACTIONS) / 8;
        true
    }

    fn expect(&mut self, in_flight: usize) {
        self.usual = self.usual.max((in_flight as u64).saturating_mul(FRACTIONS));
    }

    /// Whether no more writes are to be expected than are under way.
    fn is_complete(&self, in_flight: usize) -> bool {
        self.usual.div_ceil(FRACTIONS) <= in_flight as u64
    }

    /// A follower has confirmed writes up to this index.
    pub(super) fn confirmed(&mut self, index: u64) {
        if let Some((_, left)) = self.timed.take_if(|(timed, _)| *timed <= index) {
            let took = left.elapsed();
            self.round_trip = if self.round_trip.is_zero() { took } else { (self.round_trip * 7 + took) / 8 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn round_trip(gather: &mut Gather, index: u64, time: Duration) {
        gather.left(index);
        tokio::time::advance(time).await;
        gather.confirmed(index);
    }

    const SYNC: Duration = Duration::from_micros(800);

    async fn measured() -> Gather {
        let mut gather = Gather { gained: GAIN_MIN, ..Gather::default() };
        round_trip(&mut gather, 1, SYNC).await;
        gather
    }

    /// A frame to which so many writes come together, of which `late` come after it left.
    fn frame(gather: &mut Gather, writes: usize, late: usize) -> Option<Duration> {
        let wait = gather.begins(1);
        for in_flight in 1..=writes {
            let complete = gather.joined(in_flight);
            assert!(!complete || in_flight == writes, "{in_flight} of {writes}");
        }
        gather.left(2);
        for in_flight in 1..=late {
            gather.expect(writes + in_flight);
        }
        wait
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_writes_alone_never_waits() {
        let mut gather = measured().await;
        for _ in 0..100 {
            assert_eq!(frame(&mut gather, 1, 0), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_were_answered_together_leave_together() {
        for writes in [2, 10, 60] {
            let mut gather = measured().await;
            for round in 0..100 {
                let wait = frame(&mut gather, writes, 0);
                assert_eq!(wait, (round > 0).then_some(SYNC / 4), "the first round teaches how many there are");
            }
        }
    }

    // Goal: writes at times of their own leave at once, and it is noticed when they come together. Method: a write is under
    // way that never comes while a frame waits; then as many come together.
    #[tokio::test(start_paused = true)]
    async fn waits_that_gain_nothing_become_rare_until_they_gain_something() {
        let mut gather = measured().await;
        let waits = (0..160).filter(|_| frame(&mut gather, 1, 1).is_some()).count();
        assert!((10..20).contains(&waits), "{waits} of 160 frames waited for nothing");
        let together = (0..160).filter(|_| frame(&mut gather, 10, 0).is_some()).count();
        assert!((144..160).contains(&together), "{together} of 160 frames waited for others that came");
    }

    // Clients that stopped are waited for less and less.
    #[tokio::test(start_paused = true)]
    async fn clients_that_are_gone_are_forgotten() {
        let mut gather = measured().await;
        gather.expect(100);
        let frames = (0..1_000).take_while(|_| {
            gather.begins(1);
            gather.joined(1);
            gather.left(2);
            !gather.is_complete(1)
        });
        let frames = frames.count();
        assert!((1..999).contains(&frames), "expected for {frames} frames");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_bounded_and_only_for_followers_that_sync() {
        let mut gather = Gather { gained: GAIN_MIN, ..Gather::default() };
        gather.expect(10);
        assert_eq!(gather.begins(1), None, "nothing is measured");
        round_trip(&mut gather, 1, Duration::from_micros(100)).await;
        assert_eq!(gather.begins(1), None, "in memory");
        for index in 2..50 {
            round_trip(&mut gather, index, Duration::from_millis(100)).await;
        }
        assert_eq!(gather.begins(1), Some(WAIT_MAX));
    }

    // A follower that is lost does not end the measurements.
    #[tokio::test(start_paused = true)]
    async fn a_confirmation_that_never_comes_is_given_up() {
        let mut gather = Gather { gained: GAIN_MIN, ..Gather::default() };
        gather.left(1_000);
        gather.confirmed(7);
        tokio::time::advance(TIMED_MAX * 2).await;
        gather.expect(10);
        round_trip(&mut gather, 8, SYNC).await;
        assert_eq!(gather.begins(1), Some(SYNC / 4));
    }
}
