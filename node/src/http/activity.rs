//! The present phase of a connection, so that the node can close it once the phase takes too long.
//!
//! The connection's stream and its requests record changes with a few atomic operations; no timer is set per request.
//! The task of the connection looks at them at intervals, see [`Activity::next`].

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use tokio::time::Instant;

/// How long a connection may stay in each phase.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeLimits {
    /// From the accept, or from the first byte of a request, to the end of the request's head.
    pub(crate) head: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
    /// Without reading any of an answer that waits to be sent.
    pub(crate) stall: Duration,
    /// Reading on after an answer that was sent before the whole request had arrived.
    pub(crate) linger: Duration,
    /// Without a request, once the node ends.
    pub(crate) last: Duration,
}

/// The action for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// None now. Check again at this moment.
    Keep(Instant),
    /// Close it unless a request has just arrived: a client may send one at this very moment.
    Finish,
    /// Close it.
    Close,
}

const HEAD: u64 = 0;
const ANSWER: u64 = 1;
const IDLE: u64 = 2;
const LINGER: u64 = 3;

/// The phase of a connection, and since when it lasts.
#[derive(Debug)]
pub(super) struct Activity {
    accepted: Instant,
    /// Milliseconds since `accepted`, times four, plus the phase.
    phase: AtomicU64,
    /// Milliseconds since `accepted`, plus one, of the first write that the client's full receive window refused. 0 when
    /// the last write succeeded.
    stalled: AtomicU64,
    /// Whether an answer was sent before its request had arrived in full.
    unread: AtomicBool,
    /// Whether bytes that are not sent yet may contain anything.
    anything: AtomicBool,
    /// Whether the node ends, so that the next answer is the last one.
    ends: AtomicBool,
}

impl Activity {
    /// Of a connection on which the time for the first head began at this moment.
    pub(super) fn since(accepted: Instant) -> Self {
        let (phase, stalled) = (AtomicU64::new(HEAD), AtomicU64::new(0));
        let [unread, anything, ends] = [const { AtomicBool::new(false) }; 3];
        Self { accepted, phase, stalled, unread, anything, ends }
    }

    fn enter(&self, phase: u64) {
        self.phase.store(self.now_ms() * 4 + phase, Relaxed);
    }

    fn now_ms(&self) -> u64 {
        // 64 bits of milliseconds outlast every connection, also when multiplied by four.
        self.accepted.elapsed().as_millis() as u64
    }

    /// Bytes of the client arrived.
    pub(super) fn received(&self) {
        if self.phase.load(Relaxed) % 4 == IDLE {
            self.enter(HEAD);
        }
    }

    /// The head of a request is complete.
    pub(super) fn answering(&self) {
        self.phase.store(ANSWER, Relaxed);
    }

    /// The answer is complete, up to what waits to be sent.
    pub(super) fn answered(&self) {
        self.enter(IDLE);
    }

    /// The answer was sent and the connection is closed for writing, while the rest of the request arrives.
    pub(super) fn lingering(&self) {
        self.enter(LINGER);
    }

    /// The client's receive window is full.
    pub(super) fn stalled(&self) {
        if self.stalled.load(Relaxed) == 0 {
            self.stalled.store(self.now_ms() + 1, Relaxed);
        }
    }

    /// The client read some of the answer.
    pub(super) fn wrote(&self) {
        if self.stalled.load(Relaxed) != 0 {
            self.stalled.store(0, Relaxed);
        }
    }

    /// An answer begins whose body may contain anything, also what looks like an answer.
    pub(super) fn sends_anything(&self) {
        self.anything.store(true, Relaxed);
    }

    /// Every byte that hyper was given is sent.
    pub(super) fn flushed(&self) {
        // The body of an answer that is not complete may go on.
        if self.anything.load(Relaxed) && self.phase.load(Relaxed) % 4 != ANSWER {
            self.anything.store(false, Relaxed);
        }
    }

    /// Whether bytes on their way to the client may be of a body that may contain anything.
    pub(super) fn may_send_anything(&self) -> bool {
        self.anything.load(Relaxed)
    }

    /// A handler dropped the body of a request before its end.
    pub(super) fn left_unread(&self) {
        self.unread.store(true, Relaxed);
    }

    pub(super) fn is_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }

    /// The node ends.
    pub(super) fn end(&self) {
        self.ends.store(true, Relaxed);
    }

    pub(super) fn ends(&self) -> bool {
        self.ends.load(Relaxed)
    }

    /// Whether the connection waits for a request.
    pub(super) fn awaits_request(&self) -> bool {
        matches!(self.phase.load(Relaxed) % 4, HEAD | IDLE)
    }

    /// The action for the connection now, by these limits.
    pub(super) fn next(&self, limits: &TimeLimits) -> Verdict {
        let now = self.accepted.elapsed();
        let (phase, stalled) = (self.phase.load(Relaxed), self.stalled.load(Relaxed));
        let since = Duration::from_millis(phase / 4);
        let (end, verdict) = match phase % 4 {
            HEAD => (Some(since + limits.head), Verdict::Close),
            IDLE => (Some(since + limits.idle), Verdict::Finish),
            LINGER => (Some(since + limits.linger), Verdict::Close),
            // The handlers bound how long an answer takes.
            _ => (None, Verdict::Close),
        };
        let stall_end = (stalled > 0).then(|| Duration::from_millis(stalled - 1) + limits.stall);
        if stall_end.is_some_and(|end| end <= now) {
            return Verdict::Close;
        }
        if end.is_some_and(|end| end <= now) {
            return verdict;
        }
        // A phase that begins later may end earlier than this one, but no sooner than after the shortest limit.
        let shortest = limits.head.min(limits.idle).min(limits.stall).min(limits.linger);
        let next = [end, stall_end].into_iter().flatten().fold(now + shortest, Duration::min);
        Verdict::Keep(self.accepted + next)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: each phase ends after its own limit, and no limit is missed because an earlier phase had a longer one.
    //! Method: time passes when a test moves the accept back.

    use super::*;

    const LIMITS: TimeLimits = TimeLimits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(120),
        stall: Duration::from_secs(30),
        linger: Duration::from_secs(5),
        last: Duration::from_secs(1),
    };

    fn pass(activity: &mut Activity, seconds: u64) {
        activity.accepted -= Duration::from_secs(seconds);
    }

    /// Asserts that the phase ends with this verdict after so many seconds and not one second earlier.
    fn ends(activity: &mut Activity, verdict: Verdict, seconds: u64) {
        pass(activity, seconds - 1);
        assert!(matches!(activity.next(&LIMITS), Verdict::Keep(_)), "too early");
        pass(activity, 1);
        assert_eq!(activity.next(&LIMITS), verdict);
    }

    #[test]
    fn each_phase_ends_after_its_limit() {
        let mut activity = Activity::since(Instant::now());
        ends(&mut activity, Verdict::Close, 10);
        activity.answering();
        activity.answered();
        ends(&mut activity, Verdict::Finish, 120);
        activity.received();
        ends(&mut activity, Verdict::Close, 10);
        activity.lingering();
        ends(&mut activity, Verdict::Close, 5);
        activity.answering();
        pass(&mut activity, 600);
        assert!(matches!(activity.next(&LIMITS), Verdict::Keep(_)), "handlers bound the time of an answer");
    }

    #[test]
    fn a_client_that_does_not_read_its_answer_is_closed() {
        let mut activity = Activity::since(Instant::now());
        activity.answering();
        activity.stalled();
        ends(&mut activity, Verdict::Close, 30);
        activity.wrote();
        assert!(matches!(activity.next(&LIMITS), Verdict::Keep(_)), "it read some");
        // The answer is complete, but its end waits to be sent.
        activity.answered();
        activity.stalled();
        ends(&mut activity, Verdict::Close, 30);
    }

    #[test]
    fn a_shorter_limit_that_begins_later_is_not_missed() {
        let activity = Activity::since(Instant::now());
        activity.answered();
        let Verdict::Keep(until) = activity.next(&LIMITS) else { panic!("it has just become idle") };
        assert!(until - Instant::now() <= LIMITS.linger, "the next look comes before any phase can end");
    }
}
