//! Advice as a person reads it.

use super::{Advice, Quorum, Target};

/// The table and the advice below it, ending in a line break.
pub fn text(advice: &Advice) -> String {
    let Advice { followers, delays, targets, .. } = advice;
    let mut lines = vec![format!("{followers} followers, delays {delays}")];
    if !targets.is_empty() {
        let targets: Vec<String> = targets.iter().map(words).collect();
        lines.push(format!("targets: {}", targets.join("; ")));
    }
    lines.push(String::new());
    lines.extend(table(advice));
    lines.extend([
        String::new(),
        "(what the delays alone make; a cluster adds its own time, which kv-bench sweep measures)".to_owned(),
        conclusion(advice),
    ]);
    lines.join("\n") + "\n"
}

/// A target in words.
fn words(target: &Target) -> String {
    match target {
        Target::MeanMs(ms) => format!("a mean of at most {ms} ms"),
        Target::P50Ms(ms) => format!("a p50 of at most {ms} ms"),
        Target::P99Ms(ms) => format!("a p99 of at most {ms} ms"),
        Target::Stale { share, after_ms } => {
            format!("at most {} % of reads stale after {after_ms} ms", rounded(100.0 * share))
        }
        Target::FollowersDown(1) => "1 follower may be down".to_owned(),
        Target::FollowersDown(count) => format!("{count} followers may be down"),
        Target::DisksLost(1) => "1 disk may be lost".to_owned(),
        Target::DisksLost(count) => format!("{count} disks may be lost"),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

fn table(advice: &Advice) -> Vec<String> {
    let mut header = ["W", "mean, ms", "p50, ms", "p99, ms"].map(str::to_owned).to_vec();
    header.extend(advice.stale_after_ms.iter().map(|ms| format!("stale after {ms} ms")));
    header.extend(["may be down", "disks lost"].map(str::to_owned));
    header.extend((!advice.targets.is_empty()).then(|| "all targets".to_owned()));
    let header = header.into_iter().map(|name| (name, false)).collect();
    let rows: Vec<Vec<(String, bool)>> =
        std::iter::once(header).chain(advice.quorums.iter().map(|quorum| row(advice, quorum))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].0.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<(String, bool)>| {
        let cells = row.iter().zip(&widths).map(|((cell, misses), wide)| {
            format!("{}{cell}{}", " ".repeat(wide - cell.chars().count()), if *misses { "*" } else { " " })
        });
        cells.collect::<Vec<_>>().join(" ").trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    if advice.quorums.iter().any(|quorum| !quorum.misses.is_empty()) {
        lines.push("(* misses a target)".to_owned());
    }
    lines
}

/// The cells of a quorum, each with whether it misses a target.
fn row(advice: &Advice, quorum: &Quorum) -> Vec<(String, bool)> {
    let misses = |is_of: &dyn Fn(&Target) -> bool| quorum.misses.iter().any(is_of);
    let ms = |value: f64, is_of: &dyn Fn(&Target) -> bool| (format!("{value:.1}"), misses(is_of));
    let mut cells = vec![
        (quorum.write_quorum.to_string(), false),
        ms(quorum.mean_ms, &|target| matches!(target, Target::MeanMs(_))),
        ms(quorum.p50_ms, &|target| matches!(target, Target::P50Ms(_))),
        ms(quorum.p99_ms, &|target| matches!(target, Target::P99Ms(_))),
    ];
    cells.extend(quorum.stale.iter().zip(&advice.stale_after_ms).map(|(share, ms)| {
        let is_of = |target: &Target| matches!(target, Target::Stale { after_ms, .. } if after_ms == ms);
        (format!("{:.1} %", 100.0 * share), misses(&is_of))
    }));
    cells.extend([
        (quorum.followers_down.to_string(), misses(&|target| matches!(target, Target::FollowersDown(_)))),
        (quorum.disks_lost.to_string(), misses(&|target| matches!(target, Target::DisksLost(_)))),
    ]);
    if !advice.targets.is_empty() {
        let verdict = if quorum.misses.is_empty() { "yes" } else { "no" };
        cells.push((verdict.to_owned(), false));
    }
    cells
}

fn conclusion(advice: &Advice) -> String {
    let suitable: Vec<&Quorum> = advice.suitable().collect();
    if advice.targets.is_empty() {
        return "advice: name targets, such as --p99-ms, --stale, --followers-down and --disks-lost".to_owned();
    }
    match suitable.as_slice() {
        [] => none(advice),
        [only] => format!("advice: W = {}, the only quorum that meets every target", only.write_quorum),
        [fastest, .., safest] => {
            let numbers: Vec<String> = suitable.iter().map(|quorum| quorum.write_quorum.to_string()).collect();
            let disks = safest.disks_lost - fastest.disks_lost;
            format!(
                "advice: W = {} meet every target. W = {} is the fastest; W = {} takes {:.1} ms more at p99 and keeps every \
                 acknowledged write with {disks} more {} lost",
                numbers.join(", "),
                fastest.write_quorum,
                safest.write_quorum,
                safest.p99_ms - fastest.p99_ms,
                if disks == 1 { "disk" } else { "disks" },
            )
        }
    }
}

/// What contradicts itself: each target is met by the quorums on one side.
fn none(advice: &Advice) -> String {
    let needs = advice.targets.iter().map(|target| {
        let met = |quorum: &&Quorum| !quorum.misses.contains(target);
        let met: Vec<u16> = advice.quorums.iter().filter(met).map(|quorum| quorum.write_quorum).collect();
        let words = words(target);
        match (met.first(), met.last()) {
            (Some(1), Some(last)) if *last == advice.followers => format!("  {words}: every W"),
            (Some(1), Some(last)) => format!("  {words}: W of at most {last}"),
            (Some(first), Some(_)) => format!("  {words}: W of at least {first}"),
            _ => format!("  {words}: no W"),
        }
    });
    let mut lines =
        vec![format!("advice: no quorum of {} followers meets every target. What meets each:", advice.followers)];
    lines.extend(needs);
    lines.extend(advice.larger.map(|(followers, write_quorum)| {
        format!("With {followers} followers W = {write_quorum} would meet all of them.")
    }));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::tests::advice;

    #[test]
    fn the_fastest_and_the_safest_are_named_with_what_is_between_them() {
        let shown = text(&advice("yammer", 5, &[Target::P99Ms(300.0), Target::FollowersDown(1), Target::DisksLost(2)]));
        assert!(shown.contains("advice: W = 3, 4 meet every target. W = 3 is the fastest; W = 4 takes 21"), "{shown}");
        assert!(shown.contains("with 1 more disk lost"), "{shown}");
        let row = |start: &str| shown.lines().skip(3).find(|line| line.starts_with(start)).expect(start);
        assert!(row("5").contains(".2*") && row("5").contains(" 0* ") && row("5").ends_with(" no"), "{shown}");
        assert!(row("3").ends_with(" yes") && !row("3").contains('*'), "{shown}");
        let shown = text(&advice("yammer", 5, &[Target::FollowersDown(1), Target::DisksLost(3)]));
        assert!(shown.contains("advice: W = 4, the only quorum"), "{shown}");
        let shown = text(&advice("yammer", 5, &[]));
        assert!(shown.contains("advice: name targets") && !shown.contains("all targets"), "{shown}");
    }

    #[test]
    fn targets_that_contradict_each_other_are_named_with_what_they_need() {
        let stale = Target::Stale { share: 0.1, after_ms: 10.0 };
        let targets = [Target::P99Ms(6.0), stale, Target::FollowersDown(4), Target::DisksLost(2)];
        let shown = text(&advice("yammer", 5, &targets));
        let expected = "advice: no quorum of 5 followers meets every target. What meets each:
  a p99 of at most 6 ms: W of at most 2
  at most 10 % of reads stale after 10 ms: every W
  4 followers may be down: W of at most 1
  2 disks may be lost: W of at least 3";
        assert!(shown.contains(expected), "{shown}");
        let impossible = text(&advice("yammer", 5, &[Target::P99Ms(0.5), Target::DisksLost(5)]));
        let expected = "  a p99 of at most 0.5 ms: no W\n  5 disks may be lost: no W\n";
        assert!(impossible.ends_with(expected), "{impossible}");
        let more = text(&advice(r#"{"maxMs":200}"#, 5, &[Target::FollowersDown(3), Target::DisksLost(2)]));
        assert!(more.ends_with("\nWith 6 followers W = 3 would meet all of them.\n"), "{more}");
    }

    #[test]
    fn every_row_is_as_the_header() {
        let shown = text(&advice(r#"{"maxMs":200}"#, 12, &[Target::Stale { share: 0.25, after_ms: 12.5 }]));
        let lines: Vec<&str> = shown.lines().skip(3).take(13).collect();
        assert!(lines[0].contains("stale after 0 ms  stale after 12.5 ms"), "{shown}");
        for line in &lines[1..] {
            let is_met = line.ends_with("        yes") && !line.contains('*');
            assert!(is_met || line.ends_with("         no") && line.matches('*').count() == 1, "{shown}");
            assert_eq!(line.chars().count(), lines[0].chars().count(), "{shown}");
        }
    }
}
