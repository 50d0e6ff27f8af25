//! Wakes the poll at a time, to the microsecond: arrivals that are late by a poll's milliseconds would be measured.

#[cfg(target_os = "linux")]
pub(super) use self::timer::Alarm;
#[cfg(not(target_os = "linux"))]
pub(super) use self::without::Alarm;

/// A timer of the kernel that a poll watches.
#[cfg(target_os = "linux")]
mod timer {
    use std::{
        os::fd::{AsRawFd, OwnedFd},
        time::Duration,
    };

    use anyhow::{Context, Result};
    use mio::{Interest, Registry, Token, unix::SourceFd};
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
    };

    #[derive(Debug)]
    pub(in crate::load) struct Alarm {
        timer: OwnedFd,
        set_for_ns: Option<u64>,
    }

    impl Alarm {
        /// How much earlier than due one has to be awake to be in time.
        pub(in crate::load) const TOLERANCE: Duration = Duration::ZERO;

        pub(in crate::load) fn new(registry: &Registry, token: Token) -> Result<Self> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
                .context("failed to make a timer")?;
            registry
                .register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)
                .context("failed to watch a timer")?;
            Ok(Self { timer, set_for_ns: None })
        }

        /// Rings after `wait`, at `at_ns` of the run; setting it for the same time again costs nothing. Returns whether it rings.
        pub(in crate::load) fn set(&mut self, wait: Duration, at_ns: u64) -> Result<bool> {
            if self.set_for_ns == Some(at_ns) {
                return Ok(true);
            }
            let it_value = Timespec {
                tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: wait.subsec_nanos().into(),
            };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).context("failed to set a timer")?;
            self.set_for_ns = Some(at_ns);
            Ok(true)
        }
    }
}

/// Where there is no such timer the poll's own timeout has to do, and the last milliseconds are waited for without sleeping.
#[cfg(not(target_os = "linux"))]
mod without {
    use std::time::Duration;

    use anyhow::Result;
    use mio::{Registry, Token};

    #[derive(Debug)]
    pub(in crate::load) struct Alarm;

    impl Alarm {
        pub(in crate::load) const TOLERANCE: Duration = Duration::from_millis(2);

        pub(in crate::load) fn new(_: &Registry, _: Token) -> Result<Self> {
            Ok(Self)
        }

        pub(in crate::load) fn set(&mut self, _: Duration, _: u64) -> Result<bool> {
            Ok(false)
        }
    }
}
