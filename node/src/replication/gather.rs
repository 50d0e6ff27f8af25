//! How long a write without a delay waits for others before it leaves for the followers.
//!
//! A follower syncs what arrived together with one sync, and what arrives during a sync waits for the next one. A quorum
//! that confirms answers many clients at once, and these write again within a fraction of a sync. Were the first of
//! these writes sent alone, all others would wait for two syncs. So a frame of writes waits until as many are under way
//! as lately, at most for a part of the time that followers take. A client that writes alone never waits.

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
/// Fractions of a write in [`Gather::usual`].
const FRACTIONS: u64 = 256;

/// Decides how long a frame waits.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// How many writes have been under way lately, at most, in fractions. It falls with every frame.
    usual: u64,
    /// How long the quickest follower takes to confirm, on average.
    round_trip: Duration,
    /// The last write of a frame that left, and when it left.
    timed: Option<(u64, Instant)>,
}

impl Gather {
    /// One that waits for so many writes.
    #[cfg(test)]
    pub(super) fn expecting(writes: usize) -> Self {
        let mut gather = Self { round_trip: WAIT_MAX, ..Self::default() };
        gather.joined(writes);
        gather
    }

    /// A frame begins. Returns how long it may wait, if others are to be expected.
    pub(super) fn begins(&mut self, in_flight: usize) -> Option<Duration> {
        self.usual -= self.usual / 64;
        self.joined(in_flight);
        if self.is_complete(in_flight) || self.round_trip < ROUND_TRIP_MIN {
            return None;
        }
        Some((self.round_trip / PART).min(WAIT_MAX))
    }

    /// A write has joined the frame, and so many are under way now.
    pub(super) fn joined(&mut self, in_flight: usize) {
        self.usual = self.usual.max((in_flight as u64).saturating_mul(FRACTIONS));
    }

    /// Whether no more writes are to be expected than are under way.
    pub(super) fn is_complete(&self, in_flight: usize) -> bool {
        self.usual.div_ceil(FRACTIONS) <= in_flight as u64
    }

    /// A frame whose last write has this index has left.
    pub(super) fn left(&mut self, index: u64) {
        let now = Instant::now();
        if self.timed.is_none_or(|(_, at)| now.saturating_duration_since(at) > TIMED_MAX) {
            self.timed = Some((index, now));
        }
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
        let mut gather = Gather::default();
        round_trip(&mut gather, 1, SYNC).await;
        gather
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_writes_alone_never_waits() {
        let mut gather = measured().await;
        for _ in 0..100 {
            assert_eq!(gather.begins(1), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_were_answered_together_leave_together() {
        let mut gather = measured().await;
        for round in 0..100 {
            let wait = gather.begins(1);
            assert_eq!(wait, (round > 0).then_some(SYNC / 4), "the first round teaches how many there are");
            for in_flight in 2..10 {
                gather.joined(in_flight);
                assert_eq!(gather.is_complete(in_flight), round == 0, "{in_flight} in round {round}");
            }
            gather.joined(10);
            assert!(gather.is_complete(10));
        }
    }

    // Clients that stopped are waited for less and less.
    #[tokio::test(start_paused = true)]
    async fn clients_that_are_gone_are_forgotten() {
        let mut gather = measured().await;
        gather.joined(100);
        let waits = (0..1_000).take_while(|_| gather.begins(1).is_some()).count();
        assert!((1..1_000).contains(&waits), "{waits} frames wait for them");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_bounded_and_only_for_followers_that_sync() {
        let mut gather = Gather::default();
        gather.joined(10);
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
        let mut gather = Gather::default();
        gather.left(1_000);
        gather.confirmed(7);
        tokio::time::advance(TIMED_MAX * 2).await;
        gather.joined(10);
        round_trip(&mut gather, 8, SYNC).await;
        assert_eq!(gather.begins(1), Some(SYNC / 4));
    }
}
