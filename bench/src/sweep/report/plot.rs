//! `quorum_vs_latency.svg`: means with their intervals on the left, quantiles on the right, theory as lines.

mod distribution;
mod panel;

use anyhow::Result;

use self::panel::{LONGEST, Panel};
use super::{Exporter, SweepReport};
use crate::draw::svg::{Anchor, GRID, INK, MUTED, Stroke, Style, Svg};
use crate::sweep::analysis::{QuorumReport, Theory};

const WIDTH: f64 = 1500.0;
const HEIGHT: f64 = 860.0;
const LEFT: f64 = 90.0;

const MEASURED: &str = "#0068ad";
const THEORY: Stroke = Stroke { color: "#8a929b", width: 2.5, dashes: "" };
/// Colours that stay apart for colour-blind readers and in grey.
const QUANTILES: [Quantile; 3] = [
    ("p50", "#007a5e", |theory| theory.p50_ms),
    ("p90", "#d98200", |theory| theory.p90_ms),
    ("p99", "#b5321c", |theory| theory.p99_ms),
];

/// A quantile's name, its colour, and its value in theory.
type Quantile = (&'static str, &'static str, fn(&Theory) -> f64);

pub(super) use self::distribution::draw as draw_distributions;

/// Writes the distributions as a drawing whose text stays text.
#[derive(Debug)]
pub struct DistributionsSvg;

impl Exporter for DistributionsSvg {
    fn file_name(&self) -> &'static str {
        "latency_distributions.svg"
    }

    fn render(&self, report: &SweepReport) -> Result<Vec<u8>> {
        Ok(draw_distributions(report).into_bytes())
    }
}

/// Writes the plot as a drawing whose text stays text.
#[derive(Debug)]
pub struct SvgPlot;

impl Exporter for SvgPlot {
    fn file_name(&self) -> &'static str {
        "quorum_vs_latency.svg"
    }

    fn render(&self, report: &SweepReport) -> Result<Vec<u8>> {
        Ok(draw(report).into_bytes())
    }
}

/// The whole plot as an SVG document.
pub(super) fn draw(report: &SweepReport) -> String {
    let mut svg = Svg::new(WIDTH, HEIGHT);
    let title = "What a write quorum costs: write latency by quorum, beside theory";
    svg.text((LEFT, 50.0), title, plain(26.0, INK, Anchor::Start).bold());
    svg.text((LEFT, 80.0), &report.settings_line(), plain(16.0, MUTED, Anchor::Start));
    svg.text((LEFT, 103.0), &report.origin_line(), plain(16.0, MUTED, Anchor::Start));

    let left = Panel::new(LEFT, report);
    let right = Panel::new(LEFT + panel::WIDTH + 120.0, report);
    left.frame(&mut svg, "Mean latency with its 95 % interval");
    means(&mut svg, &left, report);
    right.frame(&mut svg, "Quantiles of the latency");
    quantiles(&mut svg, &right, report);

    let mut y = HEIGHT - 78.0;
    for line in footer(report) {
        svg.text((LEFT, y), &line, plain(15.0, INK, Anchor::Start));
        y += 22.0;
    }
    svg.finish()
}

fn means(svg: &mut Svg, panel: &Panel, report: &SweepReport) {
    panel.theory(svg, report, THEORY, |theory| theory.mean_ms);
    for quorum in &report.quorums {
        let Some(latency) = quorum.latency else { continue };
        let (mean_ms, half_ms) = (latency.mean_ms, latency.mean_interval_ms);
        let point = panel.at(quorum.write_quorum, mean_ms);
        svg.dot(point, 6.5, MEASURED);
        interval(svg, panel, quorum.write_quorum, mean_ms - half_ms, mean_ms + half_ms);
        if panel.is_annotated(quorum.write_quorum, 58.0) {
            // Below and to the right: the theory line rises and passes above. On the axis there is no room for it.
            let crowded = point.1 + 40.0 > panel.y(0.0);
            let (x, y) = (point.0 + 9.0, if crowded { point.1 - 34.0 } else { point.1 + 24.0 });
            svg.text((x, y), &format!("{mean_ms:.1}"), plain(15.0, INK, Anchor::Start).bold());
            svg.text((x, y + 16.0), &format!("± {half_ms:.1}"), plain(12.0, MUTED, Anchor::Start));
        }
    }
    let mut legend = Legend::above(panel);
    legend.dot(svg, MEASURED, "measured", 110.0);
    let theory = theory_name(report);
    legend.line(svg, THEORY, &theory, 60.0 + 8.6 * theory.chars().count() as f64);
    if panel.shows_longest() {
        legend.line(svg, LONGEST, &longest_name(report), 0.0);
    }
}

/// A vertical bar with caps, over the dot: intervals are often smaller than the dot.
fn interval(svg: &mut Svg, panel: &Panel, write_quorum: u16, low_ms: f64, high_ms: f64) {
    let stroke = Stroke { color: INK, width: 1.6, dashes: "" };
    let (low, high) = (panel.at(write_quorum, low_ms.max(0.0)), panel.at(write_quorum, high_ms));
    svg.line(low, high, stroke);
    for (x, y) in [low, high] {
        svg.line((x - 7.0, y), (x + 7.0, y), stroke);
    }
}

/// "theory: 200 · W/6 ms", in the settings' own numbers.
fn theory_name(report: &SweepReport) -> String {
    let settings = &report.settings;
    if settings.delay.is_some() {
        return "theory".to_owned();
    }
    let (shortest, span) = (settings.min_delay_ms, settings.max_delay_ms - settings.min_delay_ms);
    let shift = if shortest == 0 { String::new() } else { format!("{shortest} + ") };
    format!("theory: {shift}{span} · W/{} ms", settings.followers + 1)
}

fn longest_name(report: &SweepReport) -> String {
    format!("longest delay: {} ms", report.settings.max_delay_ms)
}

fn quantiles(svg: &mut Svg, panel: &Panel, report: &SweepReport) {
    for (_, color, of_theory) in QUANTILES {
        panel.theory(svg, report, dashed(color), of_theory);
    }
    for quorum in &report.quorums {
        let Some(values) = measured_quantiles(quorum) else { continue };
        for ((_, color, _), ms) in QUANTILES.iter().zip(values) {
            svg.dot(panel.at(quorum.write_quorum, ms), 5.5, color);
        }
        if panel.is_annotated(quorum.write_quorum, 52.0) {
            // Below and to the right, as the means'.
            let heights = apart(values.map(|ms| panel.y(ms) + 14.0), 14.0);
            for (((_, color, _), ms), y) in QUANTILES.iter().zip(values).zip(heights) {
                let x = panel.at(quorum.write_quorum, ms).0 + 9.0;
                let label = if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") };
                svg.text((x, y), &label, plain(12.5, color, Anchor::Start));
            }
        }
    }
    let mut legend = Legend::above(panel);
    for (name, color, _) in QUANTILES {
        legend.dot(svg, color, name, 62.0);
    }
    legend.words(svg, "measured", 96.0);
    legend.line(svg, dashed(MUTED), "theory", 110.0);
    if panel.shows_longest() {
        legend.line(svg, LONGEST, &longest_name(report), 0.0);
    }
}

fn dashed(color: &'static str) -> Stroke {
    Stroke { color, width: 1.8, dashes: "7 4" }
}

fn measured_quantiles(report: &QuorumReport) -> Option<[f64; 3]> {
    report.latency.map(|latency| [latency.p50_ms, latency.p90_ms, latency.p99_ms])
}

/// Moves labels at least `gap` apart, as little as needed. `heights` fall: later labels are higher in the picture.
fn apart(mut heights: [f64; 3], gap: f64) -> [f64; 3] {
    // In a crowd the highest rises a little; the lower ones give way downwards.
    if heights[0] - heights[2] < 2.0 * gap {
        heights[2] -= gap / 2.0;
    }
    heights[1] = heights[1].max(heights[2] + gap);
    heights[0] = heights[0].max(heights[1] + gap);
    heights
}

/// A row of symbols with their names above a panel; each takes the width it is given.
struct Legend {
    x: f64,
    y: f64,
}

impl Legend {
    fn above(panel: &Panel) -> Self {
        Self { x: panel.x, y: panel::TOP - 19.0 }
    }

    fn dot(&mut self, svg: &mut Svg, color: &str, name: &str, width: f64) {
        svg.dot((self.x + 7.0, self.y - 5.0), 6.0, color);
        svg.text((self.x + 18.0, self.y), name, plain(15.0, INK, Anchor::Start));
        self.x += width;
    }

    fn line(&mut self, svg: &mut Svg, stroke: Stroke, name: &str, width: f64) {
        svg.line((self.x, self.y - 5.0), (self.x + 30.0, self.y - 5.0), stroke);
        svg.text((self.x + 37.0, self.y), name, plain(15.0, INK, Anchor::Start));
        self.x += width;
    }

    fn words(&mut self, svg: &mut Svg, words: &str, width: f64) {
        svg.text((self.x, self.y), words, plain(15.0, INK, Anchor::Start));
        self.x += width;
    }
}

/// The first conclusions, in lines that fit.
fn footer(report: &SweepReport) -> Vec<String> {
    const CHARACTERS_PER_LINE: usize = 160;
    const LINES: usize = 3;
    let mut lines = Vec::new();
    for finding in &report.findings {
        let mut line = String::new();
        for word in finding.text.split(' ') {
            if !line.is_empty() && line.chars().count() + word.chars().count() >= CHARACTERS_PER_LINE {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines.truncate(LINES);
    lines
}

fn plain(size: f64, color: &'static str, anchor: Anchor) -> Style {
    Style { size, color, bold: false, anchor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_report};

    #[test]
    fn labels_keep_their_order_and_a_line_s_distance() {
        for heights in [[300.0, 200.0, 100.0], [112.0, 101.0, 100.0], [100.0; 3]] {
            let [p50, p90, p99] = apart(heights, 14.0);
            assert!(p50 - p90 >= 14.0 && p90 - p99 >= 14.0, "{p50} {p90} {p99}");
            assert!((p99 - heights[2]).abs() <= 7.0, "the highest label stays near its point");
        }
        assert_eq!(apart([300.0, 200.0, 100.0], 14.0), [300.0, 200.0, 100.0]);
    }

    #[test]
    fn the_drawing_is_well_formed_and_says_what_it_shows() {
        let report = synthetic_report(Behaviour::Sound, 5, 20, 60, 200);
        let drawing = draw(&report);
        let document = resvg::usvg::roxmltree::Document::parse(&drawing).expect("well-formed");
        let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
        for expected in ["write latency in ms", "longest delay: 60 ms", "theory: 20 + 40 · W/6 ms", "measured", "p99"]
        {
            assert!(texts.contains(&expected), "{expected} is missing from {texts:?}");
        }
        let mean = format!("{:.1}", report.quorums[1].latency.expect("measured").mean_ms);
        assert!(texts.contains(&mean.as_str()), "the mean {mean} is annotated");
    }

    #[test]
    fn nothing_is_drawn_outside_the_picture() {
        for (behaviour, followers) in [(Behaviour::Queues, 5), (Behaviour::Sound, 30), (Behaviour::WaitsForNone, 2)] {
            let drawing = draw(&synthetic_report(behaviour, followers, 0, 200, 100));
            let document = resvg::usvg::roxmltree::Document::parse(&drawing).expect("well-formed");
            for node in document.descendants() {
                let inside = |name: &str, limit: f64| {
                    let value = node.attribute(name).and_then(|value| value.parse::<f64>().ok());
                    value.is_none_or(|value| (0.0..=limit).contains(&value))
                };
                assert!(inside("cx", WIDTH) && inside("cy", HEIGHT) && inside("x", WIDTH) && inside("y", HEIGHT));
            }
        }
    }
}
