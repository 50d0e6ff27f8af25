//! What a comparison found: every round's figures, their medians, and the ratios.

use std::time::Duration;

use serde::Serialize;

use super::{CompareOptions, Contender, Peer, Place, ReadBack, sync::WRITE_BYTES};
use crate::load::{LoadReport, align};

/// Everything about a comparison; `compare.json` is this, field by field.
#[derive(Clone, Debug, Serialize)]
pub struct CompareReport {
    /// Version of kv-bench.
    pub bench_version: String,
    /// How long each point was measured in each round, in ms.
    pub duration_ms: u64,
    /// How often each point was to be measured.
    pub rounds: usize,
    /// Number of keys.
    pub keys: u64,
    /// Size of each value.
    pub value_size_bytes: usize,
    /// Clients and pipelines, in the order of measuring.
    pub places: Vec<Place>,
    /// The median duration of one write and its sync by themselves, in each round, in ms.
    pub bare_sync_ms: Vec<f64>,
    /// What was compared.
    pub systems: Vec<SystemReport>,
    /// What could not be compared, and why.
    pub missing: Vec<String>,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

/// One system at every place.
#[derive(Clone, Debug, Serialize)]
pub struct SystemReport {
    /// With its version.
    pub name: String,
    /// Whether it is not kvcluster.
    pub is_peer: bool,
    /// Whether a write is on disk when it is answered.
    pub is_stored: bool,
    /// Whether it always writes to disk: then the table compares it with kvcluster in memory too.
    pub always_stores: bool,
    /// One for each place. Empty where the system takes no pipelines.
    pub points: Vec<Point>,
    /// What was found of the acknowledged writes afterwards; nothing when interrupted.
    pub read_back: Option<ReadBack>,
}

/// One system at one place: a value for each round.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    /// Writes done per second.
    pub writes_per_second: Vec<f64>,
    /// Median latency, of whole pipelines, in ms.
    pub p50_ms: Vec<f64>,
    /// 99 % of the latencies are at or below, in ms.
    pub p99_ms: Vec<f64>,
    /// Processor time of all servers for each write, in µs.
    pub servers_us: Vec<f64>,
    /// Processor time of the load for each write, in µs.
    pub load_us: Vec<f64>,
    /// Writes that failed, in all rounds.
    pub failures: u64,
}

/// kvcluster's figure over the peer's at one place: the median of the rounds' ratios.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Of writes per second: above 1, kvcluster does more.
    pub writes: f64,
    /// Of the median latencies: below 1, kvcluster is faster.
    pub p50: f64,
    /// Of the 99th percentiles.
    pub p99: f64,
}

impl CompareReport {
    pub(super) fn new(contenders: &[Contender], missing: Vec<String>, options: &CompareOptions) -> Self {
        let points = vec![Point::default(); options.places.len()];
        let system = |contender: &Contender| SystemReport {
            name: contender.system.name.clone(),
            is_peer: contender.peer.is_some(),
            is_stored: contender.is_stored,
            always_stores: contender.peer.is_some_and(Peer::always_stores),
            points: points.clone(),
            read_back: None,
        };
        Self {
            bench_version: env!("CARGO_PKG_VERSION").to_owned(),
            duration_ms: u64::try_from(options.duration.as_millis()).unwrap_or(u64::MAX),
            rounds: options.rounds,
            keys: options.keys,
            value_size_bytes: options.value_size_bytes,
            places: options.places.clone(),
            bare_sync_ms: Vec::new(),
            systems: contenders.iter().map(system).collect(),
            missing,
            interrupted: false,
        }
    }

    pub(super) fn add(&mut self, system: usize, place: usize, measured: &LoadReport) {
        let point = self.systems.get_mut(system).and_then(|system| system.points.get_mut(place));
        let (Some(point), Some(puts)) = (point, &measured.puts) else { return };
        point.failures += puts.failures();
        point.writes_per_second.push(puts.per_second);
        let (p50_ms, p99_ms) = puts.service.map_or((f64::NAN, f64::NAN), |latency| (latency.p50_ms, latency.p99_ms));
        point.p50_ms.push(p50_ms);
        point.p99_ms.push(p99_ms);
        if let Some(cpu) = measured.cpu {
            let servers = [cpu.leader, cpu.followers].into_iter().flatten().map(|time| time.total_us()).sum();
            point.servers_us.push(servers);
            point.load_us.push(cpu.load.total_us());
        }
    }

    /// Of a round, in order of their length.
    pub(super) fn add_syncs(&mut self, syncs: &[Duration]) {
        let in_ms: Vec<f64> = syncs.iter().map(|sync| sync.as_secs_f64() * 1e3).collect();
        self.bare_sync_ms.extend(median(&in_ms));
    }

    pub(super) fn read_back(&mut self, system: usize, found: ReadBack) {
        if let Some(system) = self.systems.get_mut(system) {
            system.read_back = Some(found);
        }
    }

    /// Each peer beside kvcluster as durable as it is; one that always stores, beside kvcluster in memory too.
    pub fn pairs(&self) -> Vec<Pair<'_>> {
        let ours = || self.systems.iter().filter(|system| !system.is_peer);
        let peers = self.systems.iter().filter(|system| system.is_peer);
        let beside =
            |peer: &'_ SystemReport, ours: &SystemReport| ours.is_stored == peer.is_stored || peer.always_stores;
        let mut pairs: Vec<_> = peers
            .flat_map(|peer| ours().filter(|ours| beside(peer, ours)).map(move |ours| Pair { ours, peer }))
            .collect();
        // The like comes first.
        pairs.sort_by_key(|pair| {
            let place = self.systems.iter().position(|system| std::ptr::eq(system, pair.peer));
            (place, pair.ours.is_stored != pair.peer.is_stored)
        });
        pairs
    }

    fn how(&self) -> String {
        format!(
            "closed loop, values of {} bytes on {} keys; median of {} rounds of {} s at each point; all on this machine",
            self.value_size_bytes,
            self.keys,
            self.rounds,
            self.duration_ms as f64 / 1e3
        )
    }
}

/// kvcluster beside a peer.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// One of kvcluster's.
    pub ours: &'a SystemReport,
    /// The other maker's.
    pub peer: &'a SystemReport,
}

impl Pair<'_> {
    /// kvcluster over the peer at each place; `None` where one was not measured.
    pub fn ratios(&self) -> Vec<Option<Ratio>> {
        self.ours.points.iter().zip(&self.peer.points).map(|(ours, theirs)| Ratio::of(ours, theirs)).collect()
    }

    fn name(&self) -> String {
        format!("{}; {}", self.peer.name, self.ours.name)
    }
}

impl Ratio {
    fn of(ours: &Point, theirs: &Point) -> Option<Self> {
        let ratio = |ours: &[f64], theirs: &[f64]| {
            median(&ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<_>>())
        };
        Some(Self {
            writes: ratio(&ours.writes_per_second, &theirs.writes_per_second)?,
            p50: ratio(&ours.p50_ms, &theirs.p50_ms)?,
            p99: ratio(&ours.p99_ms, &theirs.p99_ms)?,
        })
    }
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub(super) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (!sorted.is_empty()).then(|| crate::stats::quantile(&sorted, 0.5))
}

/// For a terminal, ending in a line break: a table for each place.
pub fn text(report: &CompareReport) -> String {
    let mut lines = vec![report.how()];
    for (place, Place { connections, pipeline }) in report.places.iter().enumerate() {
        let title = if *connections == 1 { "1 connection".to_owned() } else { format!("{connections} connections") };
        let title = if *pipeline > 1 { format!("{title}, pipelines of {pipeline}") } else { title };
        let header = ["writes/s", "p50 ms", "p99 ms", "servers µs/write", "load µs/write"];
        let mut rows = vec![std::iter::once(title.as_str()).chain(header).map(str::to_owned).collect::<Vec<_>>()];
        let measured = report.systems.iter().filter(|system| !system.points[place].writes_per_second.is_empty());
        rows.extend(measured.map(|system| row(system, place)));
        lines.push(String::new());
        lines.extend(align(&rows));
        let mut rows = vec![["kvcluster's over the peer's", "writes/s", "p50", "p99"].map(str::to_owned).to_vec()];
        rows.extend(report.pairs().iter().filter_map(|pair| {
            let Ratio { writes, p50, p99 } = pair.ratios()[place]?;
            Some(std::iter::once(pair.name()).chain([writes, p50, p99].map(times)).collect())
        }));
        if rows.len() > 1 {
            lines.push(String::new());
            lines.extend(align(&rows));
        }
    }
    lines.extend(remarks(report));
    lines.join("\n") + "\n"
}

fn row(system: &SystemReport, place: usize) -> Vec<String> {
    let point = &system.points[place];
    let shown = |values: &[f64], digits: usize| {
        median(values).map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    vec![
        system.name.clone(),
        shown(&point.writes_per_second, 0),
        shown(&point.p50_ms, 3),
        shown(&point.p99_ms, 3),
        shown(&point.servers_us, 1),
        shown(&point.load_us, 1),
    ]
}

fn times(ratio: f64) -> String {
    format!("× {ratio:.2}")
}

fn remarks(report: &CompareReport) -> Vec<String> {
    let mut lines = Vec::new();
    for system in &report.systems {
        let failures: u64 = system.points.iter().map(|point| point.failures).sum();
        if failures > 0 {
            lines.push(format!("warning: {failures} writes of {} failed", system.name));
        }
    }
    if let Some(bare) = median(&report.bare_sync_ms) {
        let kib = WRITE_BYTES >> 10;
        lines.push(format!(
            "one write of {kib} KiB and its sync by themselves: {bare:.2} ms (p50) on the disk of all systems"
        ));
    }
    let complete: Vec<_> = report.systems.iter().filter_map(|system| system.read_back.as_ref()).collect();
    if !complete.is_empty() && complete.iter().all(|found| found.is_complete()) {
        let keys: usize = complete.iter().map(|found| found.keys).sum();
        let systems = complete.len();
        lines.push(format!("read back afterwards: {keys} keys of {systems} systems, each as it was acknowledged last"));
    }
    for system in &report.systems {
        let Some(ReadBack { keys, correct, first_difference: Some(difference) }) = &system.read_back else { continue };
        lines.push(format!("warning: {correct} of {keys} keys of {} read back; {difference}", system.name));
    }
    lines.extend(report.missing.iter().map(|missing| format!("not compared: {missing}")));
    if report.interrupted {
        lines.push("interrupted: these are partial results".to_owned());
    }
    if !lines.is_empty() {
        lines.insert(0, String::new());
    }
    lines
}

/// As a section of a report: the ratios first, then the figures behind them.
pub fn markdown(report: &CompareReport) -> String {
    let heading = |first: &str| {
        let column = |place: &Place| match place {
            Place { connections, pipeline: 1 } => connections.to_string(),
            Place { connections, pipeline } => format!("{connections} × {pipeline}"),
        };
        let columns: Vec<String> = report.places.iter().map(column).collect();
        format!("| {first} | {} |\n|---|{}", columns.join(" | "), " ---: |".repeat(columns.len()))
    };
    let mut parts = vec!["# kvcluster beside its peers".to_owned(), report.how()];
    let mut lines = vec![heading("kvcluster's writes/s over the peer's, at connections (× pipeline)")];
    for pair in report.pairs() {
        let cells = pair.ratios().into_iter().map(|ratio| ratio.map_or("-".to_owned(), |ratio| times(ratio.writes)));
        lines.push(format!("| {} | {} |", pair.name(), cells.collect::<Vec<_>>().join(" | ")));
    }
    parts.push(lines.join("\n"));
    let mut lines = vec![heading("writes/s (p50, p99 in ms), at connections (× pipeline)")];
    for system in &report.systems {
        let cells = system.points.iter().map(|point| {
            let shown = |values: &[f64], digits: usize| median(values).map(|value| format!("{value:.digits$}"));
            let all = (shown(&point.writes_per_second, 0), shown(&point.p50_ms, 2), shown(&point.p99_ms, 2));
            let (Some(writes), Some(p50), Some(p99)) = all else { return "-".to_owned() };
            format!("{writes} ({p50}, {p99})")
        });
        lines.push(format!("| {} | {} |", system.name, cells.collect::<Vec<_>>().join(" | ")));
    }
    parts.push(lines.join("\n"));
    let remarks = remarks(report);
    if !remarks.is_empty() {
        parts.push(
            remarks
                .iter()
                .filter(|line| !line.is_empty())
                .map(|line| format!("- {line}"))
                .collect::<Vec<_>>()
                .join("\n"),
        );
    }
    parts.join("\n\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(writes: &[f64]) -> Point {
        let latency = |factor: f64| writes.iter().map(|writes| factor / writes).collect();
        Point { writes_per_second: writes.to_vec(), p50_ms: latency(1e3), p99_ms: latency(5e3), ..Point::default() }
    }

    fn report() -> CompareReport {
        let system = |name: &str, is_peer, is_stored, writes: &[f64]| SystemReport {
            name: name.to_owned(),
            is_peer,
            is_stored,
            always_stores: name == "etcd",
            points: vec![point(writes), Point::default()],
            read_back: Some(ReadBack { keys: 100, correct: 100, first_difference: None }),
        };
        CompareReport {
            bench_version: "0.1.0".into(),
            duration_ms: 1_500,
            rounds: 3,
            keys: 10_000,
            value_size_bytes: 64,
            places: vec![Place { connections: 1, pipeline: 1 }, Place { connections: 16, pipeline: 64 }],
            bare_sync_ms: Vec::new(),
            systems: vec![
                system("kvcluster, in memory", false, false, &[100.0, 50.0, 200.0]),
                system("kvcluster, on disk", false, true, &[10.0, 5.0, 20.0]),
                system("Redis", true, false, &[50.0, 10.0, 100.0]),
                system("Redis, always", true, true, &[5.0, 10.0, 40.0]),
                system("etcd", true, true, &[4.0, 4.0, 4.0]),
            ],
            missing: vec!["another is not installed".into()],
            interrupted: false,
        }
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_beside_the_like() {
        let report = report();
        let pairs = report.pairs();
        let ratio = pairs[0].ratios()[0].expect("measured");
        assert_eq!(ratio.writes, 2.0, "of 2, 5 and 2");
        assert_eq!((ratio.p50, ratio.p99), (0.5, 0.5), "latency is the inverse here");
        assert_eq!(pairs[1].ratios()[0].map(|ratio| ratio.writes), Some(0.5), "of 2, 0.5 and 0.5");
        assert_eq!(pairs[1].ratios()[1], None, "pipelines were not measured");
        let names: Vec<_> = pairs.iter().map(Pair::name).collect();
        let expected = [
            "Redis; kvcluster, in memory",
            "Redis, always; kvcluster, on disk",
            "etcd; kvcluster, on disk",
            "etcd; kvcluster, in memory",
        ];
        assert_eq!(names, expected);
        let of_etcd: Vec<_> = pairs[2..].iter().map(|pair| pair.ratios()[0].map(|ratio| ratio.writes)).collect();
        assert_eq!(of_etcd, [Some(2.5), Some(25.0)]);
    }

    #[test]
    fn both_tables_tell_medians_ratios_and_what_is_missing() {
        let mut report = report();
        let text = text(&report);
        let row = text.lines().find(|line| line.starts_with("Redis  ")).expect("a row");
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells[1..4], ["50", "20.000", "100.000"], "{row}");
        assert_eq!(text.matches("\nRedis  ").count(), 1, "no row where nothing was measured: {text}");
        let ratio = text.lines().find(|line| line.starts_with("Redis;") && line.contains('×')).expect("a row");
        assert!(ratio.contains("× 2.00"), "{ratio}");
        assert!(text.contains("not compared: another is not installed"), "{text}");
        assert!(text.contains("read back afterwards: 500 keys of 5 systems, each as it was"), "{text}");
        report.add_syncs(&[1, 2, 30].map(Duration::from_millis));
        report.add_syncs(&[4, 5, 60].map(Duration::from_millis));
        let markdown = markdown(&report);
        assert!(markdown.contains("- one write of 4 KiB and its sync by themselves: 3.50 ms (p50)"), "{markdown}");
        assert!(markdown.contains("(× pipeline) | 1 | 16 × 64 |"), "{markdown}");
        assert!(markdown.contains("| Redis; kvcluster, in memory | × 2.00 | - |"), "{markdown}");
        assert!(markdown.contains("| kvcluster, on disk | 10 (100.00, 500.00) | - |"), "{markdown}");
        let found = ReadBack { keys: 100, correct: 99, first_difference: Some("key7 is not there".into()) };
        report.read_back(2, found);
        let text = super::text(&report);
        assert!(text.contains("warning: 99 of 100 keys of Redis read back; key7 is not there"), "{text}");
        assert!(!text.contains("each as it was acknowledged last"), "{text}");
    }
}
