//! Wakes the poll at a time, to the microsecond: arrivals that are late by a poll's milliseconds would be measured.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result};
use mio::{Interest, Registry, Token, unix::SourceFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer of the kernel that a poll watches.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    set_for_ns: Option<u64>,
}

impl Alarm {
    pub(super) fn new(registry: &Registry, token: Token) -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)
            .context("failed to make a timer")?;
        registry
            .register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)
            .context("failed to watch a timer")?;
        Ok(Self { timer, set_for_ns: None })
    }

    /// Rings after `wait`, at `at_ns` of the run; setting it for the same time again costs nothing.
    pub(super) fn set(&mut self, wait: Duration, at_ns: u64) -> Result<()> {
        if self.set_for_ns == Some(at_ns) {
            return Ok(());
        }
        let it_value =
            Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: wait.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once).context("failed to set a timer")?;
        self.set_for_ns = Some(at_ns);
        Ok(())
    }
}
