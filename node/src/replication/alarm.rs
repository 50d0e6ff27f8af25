//! Alarms with the precision of the operating system.
//!
//! The timers of the asynchronous runtime count in milliseconds and round up. With five followers
//! and delays of 0 to 200 ms, that error would show in every measurement.

use std::io;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

#[cfg(not(target_os = "linux"))]
use self::thread::Alarm as SystemAlarm;
#[cfg(target_os = "linux")]
use self::timerfd::Alarm as SystemAlarm;

/// An alarm for one moment.
pub(super) enum Alarm {
    /// An alarm of the operating system.
    System(SystemAlarm),
    /// An alarm of the runtime's clock, which a simulation controls.
    Runtime(RuntimeAlarm),
}

/// See [`Alarm::Runtime`].
#[derive(Default)]
pub(super) struct RuntimeAlarm {
    at: Mutex<Option<Instant>>,
    changed: Notify,
}

impl Alarm {
    /// Creates an alarm of the operating system. Must be called inside a runtime.
    ///
    /// # Errors
    /// If the operating system cannot create it.
    pub(super) fn system() -> io::Result<Self> {
        SystemAlarm::new().map(Self::System)
    }

    /// Creates an alarm of the runtime's clock, with a precision of a millisecond.
    pub(super) fn runtime() -> Self {
        Self::Runtime(RuntimeAlarm::default())
    }

    /// Rings after this time, and not when it would have before.
    pub(super) fn set(&self, after: Duration) {
        match self {
            Self::System(alarm) => alarm.set(after),
            Self::Runtime(alarm) => alarm.set(after),
        }
    }

    /// Waits until it rings. Returns immediately if it rang since the last call.
    ///
    /// # Errors
    /// If waiting fails in the operating system.
    pub(super) async fn rung(&self) -> io::Result<()> {
        match self {
            Self::System(alarm) => alarm.rung().await,
            Self::Runtime(alarm) => {
                alarm.rung().await;
                Ok(())
            }
        }
    }
}

impl RuntimeAlarm {
    fn set(&self, after: Duration) {
        *self.at.lock() = Some(Instant::now() + after);
        self.changed.notify_one();
    }

    async fn rung(&self) {
        loop {
            let at = *self.at.lock();
            let reached = async {
                match at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = reached => {
                    *self.at.lock() = None;
                    return;
                }
            }
        }
    }
}

/// A kernel timer that the runtime's own thread waits for together with its sockets. The thread
/// that wakes sends the writes that are due, without passing them to another thread.
#[cfg(target_os = "linux")]
mod timerfd {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };
    use tokio::io::unix::AsyncFd;

    pub(in super::super) struct Alarm {
        timer: AsyncFd<OwnedFd>,
    }

    impl Alarm {
        /// Must be called inside a runtime.
        #[allow(
            deprecated,
            reason = "unsound only for what changes its descriptor, as an OwnedFd never does; what replaces it is unsafe to call"
        )]
        pub(in super::super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            Ok(Self { timer: AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)? })
        }

        /// Rings after this time, and not when it would have before.
        pub(in super::super) fn set(&self, after: Duration) {
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            // Zero would disarm the timer.
            let after = after.max(Duration::from_nanos(1));
            let it_value = Timespec {
                tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: after.subsec_nanos().into(),
            };
            let set = timerfd_settime(
                self.timer.get_ref(),
                TimerfdTimerFlags::empty(),
                &Itimerspec { it_interval: zero, it_value },
            );
            debug_assert!(set.is_ok(), "the descriptor is a timer and the time is in range: {set:?}");
        }

        /// Waits until it rings. Returns immediately if it rang since the last wait.
        ///
        /// The count of expirations is not read, which saves a system call for every send. The
        /// runtime reports only changes, and setting the timer resets the count.
        pub(in super::super) async fn rung(&self) -> io::Result<()> {
            self.timer.readable().await?.clear_ready();
            Ok(())
        }
    }
}

/// The same with a thread that sleeps on a condition variable, for systems without such timers.
#[cfg(any(test, not(target_os = "linux")))]
#[cfg_attr(target_os = "linux", allow(dead_code, reason = "only tested here"))]
mod thread {
    use std::io;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use parking_lot::{Condvar, Mutex};
    use tokio::sync::Notify;

    #[derive(Default)]
    struct Shared {
        state: Mutex<State>,
        changed: Condvar,
        rung: Notify,
    }

    #[derive(Default)]
    struct State {
        at: Option<Instant>,
        closed: bool,
    }

    pub(in super::super) struct Alarm {
        shared: Arc<Shared>,
    }

    impl Alarm {
        pub(in super::super) fn new() -> io::Result<Self> {
            let shared = Arc::new(Shared::default());
            let of_thread = shared.clone();
            std::thread::Builder::new().name("delays".to_owned()).spawn(move || of_thread.run())?;
            Ok(Self { shared })
        }

        pub(in super::super) fn set(&self, after: Duration) {
            self.shared.state.lock().at = Some(Instant::now() + after);
            self.shared.changed.notify_one();
        }

        pub(in super::super) async fn rung(&self) -> io::Result<()> {
            self.shared.rung.notified().await;
            Ok(())
        }
    }

    impl Drop for Alarm {
        fn drop(&mut self) {
            self.shared.state.lock().closed = true;
            self.shared.changed.notify_one();
        }
    }

    impl Shared {
        fn run(&self) {
            let mut state = self.state.lock();
            while !state.closed {
                match state.at {
                    Some(at) if at <= Instant::now() => {
                        state.at = None;
                        self.rung.notify_one();
                    }
                    Some(at) => drop(self.changed.wait_until(&mut state, at)),
                    None => self.changed.wait(&mut state),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! Goal: an alarm rings after its time, at the moment set last, and again when set again.
    //! Method: the real clock, and only lower bounds.

    use std::time::{Duration, Instant};

    macro_rules! rings_when_it_was_set_to {
        ($name:ident, $alarm:path) => {
            #[tokio::test]
            async fn $name() {
                let alarm = <$alarm>::new().expect("an alarm");
                let begun = Instant::now();
                alarm.set(Duration::from_secs(3600));
                alarm.set(Duration::from_millis(20));
                alarm.rung().await.expect("rings");
                assert!(begun.elapsed() >= Duration::from_millis(20));
                alarm.set(Duration::ZERO);
                alarm.rung().await.expect("rings");
                let later = Instant::now();
                alarm.set(Duration::from_millis(10));
                alarm.rung().await.expect("rings again");
                assert!(later.elapsed() >= Duration::from_millis(10));
            }
        };
    }

    #[cfg(target_os = "linux")]
    rings_when_it_was_set_to!(a_timer_of_the_kernel_rings_when_it_was_set_to, super::timerfd::Alarm);
    rings_when_it_was_set_to!(a_thread_rings_when_it_was_set_to, super::thread::Alarm);

    #[tokio::test(start_paused = true)]
    async fn an_alarm_of_the_runtime_rings_when_it_was_set_to() {
        let alarm = super::Alarm::runtime();
        let begun = tokio::time::Instant::now();
        alarm.set(Duration::from_secs(3600));
        alarm.set(Duration::from_millis(20));
        alarm.rung().await.expect("rings");
        assert_eq!(begun.elapsed(), Duration::from_millis(20));
        alarm.set(Duration::ZERO);
        alarm.rung().await.expect("rings again");
        assert!(begun.elapsed() < Duration::from_millis(25));
    }
}
