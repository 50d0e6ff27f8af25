//! How throughput, processor time and latency change with one setting: a load at each of its values, as a plot.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{
    draw::chart::{Chart, Panel, Scale, Series},
    load::{Latencies, LoadReport, RequestOutcome, align},
};

/// The setting that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Number of followers, W being more than half of them.
    Followers,
    /// Number of connections, each with one write under way.
    Connections,
    /// Size of each value.
    ValueSize,
    /// Who answers reads: 1 the leader (linearizable), 2 the leader (local), 3 the followers.
    Reads,
}

impl Dimension {
    /// Its values unless others are asked for.
    pub fn default_values(self) -> Vec<u64> {
        match self {
            Self::Followers => vec![1, 2, 3, 5, 8, 13, 19, 25],
            Self::Connections => vec![1, 4, 16, 64, 256, 1024],
            Self::ValueSize => (2..=10).map(|power| 1 << (2 * power)).collect(),
            Self::Reads => vec![1, 2, 3],
        }
    }

    fn axis(self) -> (&'static str, Scale) {
        match self {
            Self::Followers => ("followers", Scale::Linear),
            Self::Connections => ("connections", Scale::Logarithmic),
            Self::ValueSize => ("value size in bytes", Scale::Logarithmic),
            Self::Reads => ("reads: 1 linearizable, 2 local, 3 at followers", Scale::Linear),
        }
    }

    /// A value in the table.
    fn shown(self, value: u64) -> String {
        match (self, value) {
            (Self::Reads, 1) => "leader, linearizable".to_owned(),
            (Self::Reads, 2) => "leader, local".to_owned(),
            (Self::Reads, _) => "followers".to_owned(),
            _ => value.to_string(),
        }
    }

    fn file_stem(self) -> &'static str {
        match self {
            Self::Followers => "curve_followers",
            Self::Connections => "curve_connections",
            Self::ValueSize => "curve_value_size",
            Self::Reads => "curve_reads",
        }
    }
}

/// A load at each value of one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// The setting.
    pub by: Dimension,
    /// In the order of measuring.
    pub points: Vec<CurvePoint>,
}

/// The load at one value.
#[derive(Clone, Debug, Serialize)]
pub struct CurvePoint {
    /// The value of the setting.
    pub value: u64,
    /// What was measured.
    pub report: LoadReport,
}

impl CurvePoint {
    fn latency(&self) -> Option<&Latencies> {
        [&self.report.puts, &self.report.gets].into_iter().flatten().find_map(|kind| kind.service.as_ref())
    }

    /// Processor time per operation, in µs: of the leader, of the followers together, of the load.
    fn cpu_us(&self) -> [Option<f64>; 3] {
        let cpu = self.report.cpu;
        [
            cpu.and_then(|cpu| cpu.leader).map(|time| time.total_us()),
            cpu.and_then(|cpu| cpu.followers).map(|time| time.total_us()),
            cpu.map(|cpu| cpu.load.total_us()),
        ]
    }
}

impl Curve {
    /// How many operations failed at all values.
    pub fn failures(&self) -> u64 {
        self.points.iter().map(|point| point.report.failures()).sum()
    }

    /// For a terminal, ending in a line break.
    pub fn text(&self) -> String {
        let (name, _) = self.by.axis();
        let header = [
            name,
            "done/s",
            "failed",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "leader µs",
            "followers µs",
            "load µs",
            "all µs",
        ];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        rows.extend(self.points.iter().map(|point| {
            let latency = |of: fn(&Latencies) -> f64| number(point.latency().map(of), 3);
            let [leader, followers, load] = point.cpu_us();
            let all = leader.zip(load).map(|(leader, load)| leader + followers.unwrap_or(0.0) + load);
            let mut cells = vec![
                self.by.shown(point.value),
                format!("{:.0}", point.report.per_second()),
                point.report.failures().to_string(),
            ];
            cells.extend([
                latency(|latency| latency.p50_ms),
                latency(|latency| latency.p99_ms),
                latency(|latency| latency.p999_ms),
            ]);
            cells.extend([leader, followers, load, all].map(|us| number(us, 1)));
            cells
        }));
        let not_found: u64 = self.points.iter().map(|point| point.report.count(RequestOutcome::NotFound)).sum();
        let mut lines = align(&rows);
        if not_found > 0 {
            lines.push(format!("{not_found} reads found no value"));
        }
        lines.join("\n") + "\n"
    }

    /// Throughput, processor time and latency beside each other.
    pub fn chart(&self) -> Chart {
        let (x_name, x_scale) = self.by.axis();
        let series = |name: &str, value: &dyn Fn(&CurvePoint) -> Option<f64>| Series {
            name: name.to_owned(),
            points: self.points.iter().filter_map(|point| Some((point.value as f64, value(point)?))).collect(),
        };
        let panel = |title: &str, y_name: &str, series: Vec<Series>| Panel {
            title: title.to_owned(),
            x_name: x_name.to_owned(),
            x_scale,
            y_name: y_name.to_owned(),
            // Over four powers of ten of size everything but the largest would lie on the axis.
            y_scale: if self.by == Dimension::ValueSize { Scale::Logarithmic } else { Scale::Linear },
            series: series.into_iter().filter(|series| !series.points.is_empty()).collect(),
        };
        let throughput = vec![series("done", &|point| Some(point.report.per_second()))];
        let cpu = ["leader", "followers together", "load"]
            .iter()
            .enumerate()
            .map(|(place, name)| series(name, &|point| point.cpu_us()[place]))
            .collect();
        let latencies = vec![
            series("p50", &|point| point.latency().map(|latency| latency.p50_ms)),
            series("p99", &|point| point.latency().map(|latency| latency.p99_ms)),
        ];
        let told = |point: &CurvePoint| {
            let CurvePoint { value, report } = point;
            format!("at {}: {}; {}", self.by.shown(*value), report.target, report.settings_line())
        };
        // The first and the last say between them what changes and what does not.
        let ends = [self.points.first(), self.points.last()];
        Chart {
            title: format!("Throughput, processor time and latency by {x_name}"),
            subtitles: ends.into_iter().flatten().map(told).collect(),
            panels: vec![
                panel("Throughput", "operations per second", throughput),
                panel("Processor time", "µs per operation", cpu),
                panel("Latency", "ms", latencies),
            ],
        }
    }

    /// The names and contents of its files.
    ///
    /// # Errors
    /// When one cannot be rendered.
    pub fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let stem = self.by.file_stem();
        let chart = self.chart();
        let mut json = serde_json::to_vec_pretty(self).with_context(|| format!("failed to render {stem}.json"))?;
        json.push(b'\n');
        Ok(vec![
            (format!("{stem}.png"), chart.png().with_context(|| format!("failed to render {stem}.png"))?),
            (format!("{stem}.svg"), chart.svg().into_bytes()),
            (format!("{stem}.csv"), self.csv().into_bytes()),
            (format!("{stem}.json"), json),
        ])
    }

    /// One line per value; unknown values are empty fields.
    fn csv(&self) -> String {
        let mut text = "value,done_per_second,p50_ms,p99_ms,leader_us,followers_us,load_us\n".to_owned();
        for point in &self.points {
            let [leader, followers, load] = point.cpu_us();
            let (p50, p99) = (point.latency().map(|of| of.p50_ms), point.latency().map(|of| of.p99_ms));
            let fields = [Some(point.report.per_second()), p50, p99, leader, followers, load];
            let fields = fields.map(|field| field.map(|value| format!("{value:.3}")).unwrap_or_default());
            text.push_str(&format!("{},{}\n", point.value, fields.join(",")));
        }
        text
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
