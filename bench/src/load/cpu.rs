//! Processor time of processes on this machine, from `/proc`.
//!
//! On a machine that others use too, what a write costs in processor time says more than how many were written: it is hardly
//! touched by who else was running.

use std::fs;

use serde::Serialize;

/// User and system time, in µs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ProcessorTime {
    /// In the program.
    pub user_us: f64,
    /// In the kernel on its behalf.
    pub system_us: f64,
}

impl ProcessorTime {
    /// Of a process and all its threads so far; `None` where it does not run or there is no `/proc`.
    pub fn of_process(process_id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
        parse(&stat, rustix::param::clock_ticks_per_second())
    }

    /// Of this process so far.
    pub fn of_this_process() -> Option<Self> {
        Self::of_process(std::process::id())
    }

    /// Of processes together; `None` unless all run.
    pub fn of_processes(process_ids: &[u32]) -> Option<Self> {
        process_ids.iter().try_fold(Self::default(), |sum, id| {
            let Self { user_us, system_us } = Self::of_process(*id)?;
            Some(Self { user_us: sum.user_us + user_us, system_us: sum.system_us + system_us })
        })
    }

    /// What was used since `before`, for each of `operations`.
    pub fn since(self, before: Self, operations: u64) -> Option<Self> {
        let each = |used_us: f64| used_us / operations as f64;
        (operations > 0).then(|| Self {
            user_us: each(self.user_us - before.user_us),
            system_us: each(self.system_us - before.system_us),
        })
    }

    /// User and system time together.
    pub fn total_us(self) -> f64 {
        self.user_us + self.system_us
    }
}

/// The name of the program, which may contain any characters, is in brackets; user and system time are the 14th and 15th fields.
fn parse(stat: &str, ticks_per_second: u64) -> Option<ProcessorTime> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next_us = || Some(fields.next()?.parse::<f64>().ok()? * 1e6 / ticks_per_second as f64);
    Some(ProcessorTime { user_us: next_us()?, system_us: next_us()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194560 1 2 3 4 250 50 9 9 20 0 1 0 100 1 1";
        assert_eq!(parse(stat, 100), Some(ProcessorTime { user_us: 2_500_000.0, system_us: 500_000.0 }));
        assert_eq!(parse("7 (a) R 1", 100), None);
    }

    #[test]
    fn work_of_this_process_is_seen() {
        let before = ProcessorTime::of_this_process().expect("it runs");
        let mut turns = 0_u64;
        while ProcessorTime::of_this_process().expect("it runs").total_us() < before.total_us() + 50_000.0 {
            turns += 1;
        }
        assert!(turns > 0);
        assert_eq!(ProcessorTime::of_processes(&[std::process::id(), u32::MAX]), None);
    }
}
