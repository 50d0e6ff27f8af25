//! `kv-bench advise`: law and targets → table and advice → exit code.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;
use kvcluster_api::{
    config::{FOLLOWERS_MAX, MILLISECONDS_MAX},
    delay::{DelayLaw, Delays},
};

use super::{
    EXIT_DEVIATES,
    cluster::{DEFAULT_FOLLOWERS, law},
    sweep::not_negative,
};
use crate::{
    advise::{self, Advice, Target, trace},
    output::{WrongUsage, print},
    theory,
};

pub(super) const AFTER_HELP: &str = "\
Exit codes: 0 a quorum meets every target; 1 failed (the reason is the last line); 2 wrong usage; 3 none does.";

/// What is known, and what is wanted.
#[derive(Clone, Debug, Args)]
pub struct AdviseArguments {
    /// The law of the delays to the followers: JSON such as {"exponential":{"meanMs":40}}, or linkedin-disk, yammer or
    /// wan-3-zones
    #[arg(long, value_name = "LAW", value_parser = law, required_unless_present = "trace", conflicts_with = "trace",
        help_heading = "Cluster")]
    delay: Option<Arc<DelayLaw>>,

    /// Measured delays in place of a law: a file with one number of milliseconds a line
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    trace: Option<PathBuf>,

    /// Followers, N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(FOLLOWERS_MAX)),
        default_value_t = DEFAULT_FOLLOWERS, help_heading = "Cluster")]
    follower_count: u16,

    /// The mean latency of writes is to be at most this
    #[arg(long, value_name = "MS", value_parser = not_negative, help_heading = "Targets")]
    mean_ms: Option<f64>,

    /// Half of the writes are to take at most this
    #[arg(long, value_name = "MS", value_parser = not_negative, help_heading = "Targets")]
    p50_ms: Option<f64>,

    /// 99 of 100 writes are to take at most this
    #[arg(long, value_name = "MS", value_parser = not_negative, help_heading = "Targets")]
    p99_ms: Option<f64>,

    /// At most so many per cent of the reads at a random follower are to be stale, so many ms after the acknowledgement:
    /// 5@100; may be given more than once
    #[arg(long, value_name = "PERCENT@MS", value_parser = stale, help_heading = "Targets")]
    stale: Vec<Target>,

    /// Writes are to go on with so many followers down
    #[arg(long, value_name = "N", help_heading = "Targets")]
    followers_down: Option<u16>,

    /// No acknowledged write is to be lost with so many of the followers' disks
    #[arg(long, value_name = "N", help_heading = "Targets")]
    disks_lost: Option<u16>,

    /// Print JSON in place of the table
    #[arg(long, help_heading = "Results")]
    json: bool,
}

impl AdviseArguments {
    fn targets(&self) -> Vec<Target> {
        let latency =
            [self.mean_ms.map(Target::MeanMs), self.p50_ms.map(Target::P50Ms), self.p99_ms.map(Target::P99Ms)];
        let losses = [self.followers_down.map(Target::FollowersDown), self.disks_lost.map(Target::DisksLost)];
        latency.into_iter().flatten().chain(self.stale.iter().copied()).chain(losses.into_iter().flatten()).collect()
    }

    /// The delays with their name.
    fn delays(&self) -> Result<(Delays, String)> {
        match (&self.trace, &self.delay) {
            (Some(path), _) => {
                let shown = path.display();
                let text = fs::read_to_string(path).with_context(|| format!("failed to read {shown}"));
                let text = text.map_err(|error| WrongUsage::error(format!("{error:#}")))?;
                let delays = trace::delays(&text);
                let delays = delays.map_err(|error| WrongUsage::error(format!("{shown} is no trace: {error:#}")))?;
                Ok((delays, format!("as in {shown}")))
            }
            (None, Some(law)) => {
                let name = match law.as_bounds() {
                    Some((min_ms, max_ms)) => theory::delays_name(None, min_ms, max_ms),
                    None => theory::delays_name(Some(law), 0, 0),
                };
                Ok((law.resolve()?, name))
            }
            (None, None) => Err(WrongUsage::error("give the delays by --delay or --trace")),
        }
    }
}

/// Advises; the value is the exit code.
pub(super) fn main(arguments: &AdviseArguments) -> Result<u8> {
    let (delays, name) = arguments.delays()?;
    let advice = Advice::new(&delays, &name, arguments.follower_count, &arguments.targets());
    if arguments.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&advice).context("failed to print JSON")?));
    } else {
        print(&advise::text(&advice));
    }
    Ok(if advice.suitable().next().is_some() { 0 } else { EXIT_DEVIATES })
}

fn stale(text: &str) -> Result<Target, String> {
    let (percent, ms) = text.split_once('@').ok_or("expected PERCENT@MS, such as 5@100")?;
    let number = |text: &str| text.trim_end_matches('%').parse::<f64>().map_err(|error| format!("{text:?}: {error}"));
    match (number(percent)?, number(ms.trim_end_matches("ms"))?) {
        (percent, _) if !(0.0..=100.0).contains(&percent) => Err(format!("{percent} % is not from 0 to 100")),
        (_, ms) if !(0.0..=f64::from(MILLISECONDS_MAX)).contains(&ms) => {
            Err(format!("{ms} ms is not from 0 to {MILLISECONDS_MAX}"))
        }
        (percent, after_ms) => Ok(Target::Stale { share: percent / 100.0, after_ms }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<AdviseArguments, String> {
        crate::cli::parse(line)
    }

    #[test]
    fn targets_are_those_of_the_command_line() {
        let line = "--delay yammer --p99-ms 250 --stale 5@100 --stale 0.5%@2000ms --followers-down 1 --disks-lost 2 --p50-ms 9 --mean-ms 20";
        let stale = |share, after_ms| Target::Stale { share, after_ms };
        assert_eq!(
            parse(line).expect("valid").targets(),
            [
                Target::MeanMs(20.0),
                Target::P50Ms(9.0),
                Target::P99Ms(250.0),
                stale(0.05, 100.0),
                stale(0.005, 2000.0),
                Target::FollowersDown(1),
                Target::DisksLost(2)
            ]
        );
    }

    #[test]
    fn the_exit_code_says_whether_a_quorum_meets_the_targets() {
        assert_eq!(main(&parse("--delay yammer --p99-ms 6").expect("valid")).expect("advice"), 0);
        assert_eq!(
            main(&parse("--delay yammer --p99-ms 6 --disks-lost 3 --json").expect("valid")).expect("advice"),
            EXIT_DEVIATES
        );
    }

    #[test]
    fn delays_are_named() {
        let name = |line| parse(line).expect("valid").delays().expect("a law").1;
        assert_eq!(name("--delay {\"maxMs\":200}"), "0-200 ms");
        assert_eq!(name("--delay yammer"), "yammer");
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("delays.txt");
        fs::write(&path, "3\n4\n".repeat(9)).expect("written");
        assert_eq!(name(&format!("--trace {}", path.display())), format!("as in {}", path.display()));
        fs::write(&path, "3\n4 ms\n").expect("written");
        let error = parse(&format!("--trace {}", path.display())).expect("parses").delays().expect_err("no number");
        assert!(
            error.is::<WrongUsage>()
                && error.to_string().contains("delays.txt is no trace: line 2 is no number: \"4 ms\""),
            "{error}"
        );
    }

    #[test]
    fn wrong_values_are_refused() {
        for (line, expected) in [
            ("", "--delay <LAW>"),
            ("--delay yammer --trace delays.txt", "cannot be used with"),
            ("--delay yammer --stale 5", "expected PERCENT@MS, such as 5@100"),
            ("--delay yammer --stale 101@5", "101 % is not from 0 to 100"),
            ("--delay yammer --stale 5@-1", "-1 ms is not from 0 to 3600000"),
            ("--delay yammer --stale NaN@5", "NaN % is not from 0"),
            ("--delay yammer --stale few@5", "invalid float"),
            ("--delay yammer --p99-ms=-3", "0 or more"),
            ("--delay yammer --follower-count 0", "0 is not in 1..=64"),
            ("--delay yammer --disks-lost some", "invalid digit"),
        ] {
            let error = parse(line).expect_err(line);
            assert!(error.contains(expected), "{line}: {error}");
        }
        let error = main(&parse("--trace /nowhere/delays.txt").expect("parses")).expect_err("no file");
        assert!(
            error.is::<WrongUsage>() && error.to_string().starts_with("failed to read /nowhere/delays.txt: "),
            "{error}"
        );
    }
}
