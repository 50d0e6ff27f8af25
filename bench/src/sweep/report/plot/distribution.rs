//! `latency_distributions.svg`: for every quorum the measured distribution on the one that theory predicts.
//!
//! The left panel shows the share of the writes up to each latency, the right one the share above it on a logarithmic
//! axis, where a heavy tail ends late.

use super::{footer, panel::power_below, plain};
use crate::{
    draw::{
        svg::{Anchor, GRID, INK, MUTED, Stroke, Svg},
        tick_step,
    },
    sweep::{
        analysis::{Distribution, QuorumReport},
        report::SweepReport,
    },
};

const WIDTH: f64 = 1500.0;
const HEIGHT: f64 = 860.0;
const LEFT: f64 = 90.0;
const TOP: f64 = 178.0;
const PANEL_HEIGHT: f64 = 520.0;
const PANEL_WIDTH: f64 = 630.0;

/// Colours that differ for colour-blind readers and in grey. With more quorums than this, a reader confuses them.
const COLORS: [&str; 6] = ["#0068ad", "#d98200", "#007a5e", "#b5321c", "#7a4fa3", "#57606a"];

/// From this ratio of the largest to the smallest latency on, the horizontal axis is logarithmic.
const LOGARITHMIC_FROM: f64 = 100.0;

/// The whole picture as an SVG document.
pub(in crate::sweep::report) fn draw(report: &SweepReport) -> String {
    let mut svg = Svg::new(WIDTH, HEIGHT);
    let title = "Whole distributions: write latency at each quorum, beside theory";
    svg.text((LEFT, 50.0), title, plain(26.0, INK, Anchor::Start).bold());
    svg.text((LEFT, 80.0), &report.settings_line(), plain(16.0, MUTED, Anchor::Start));
    let without = if report.quorums.iter().all(|quorum| quorum.overhead.is_some()) {
        "; measured without the median of the overhead"
    } else {
        ""
    };
    svg.text((LEFT, 103.0), &format!("{}{without}", report.origin_line()), plain(16.0, MUTED, Anchor::Start));
    let lines = lines(report);
    let x = Horizontal::new(&lines);
    let up_to = Panel { left: LEFT, x, y: Vertical::Share, lines: &lines };
    up_to.draw(&mut svg, "Share of the writes up to a latency");
    let smallest = lines.iter().map(|line| line.smallest_share).fold(0.1, f64::min);
    let right = LEFT + PANEL_WIDTH + 120.0;
    let above = Panel { left: right, x, y: Vertical::Above { lowest: power_below(smallest) }, lines: &lines };
    above.draw(&mut svg, "Share of the writes above a latency: the tail");
    let mut y = HEIGHT - 78.0;
    for line in footer(report) {
        svg.text((LEFT, y), &line, plain(15.0, INK, Anchor::Start));
        y += 22.0;
    }
    svg.finish()
}

/// One quorum: latencies with the share of the writes up to each.
struct Line {
    write_quorum: u16,
    color: &'static str,
    band: f64,
    /// The share that is one write.
    smallest_share: f64,
    measured: Vec<(f64, f64)>,
    predicted: Vec<(f64, f64)>,
}

fn lines(report: &SweepReport) -> Vec<Line> {
    let measured = report.quorums.iter().filter_map(|quorum| Some((quorum, quorum.distribution.as_ref()?)));
    let measured: Vec<(&QuorumReport, &Distribution)> = measured.collect();
    let every = measured.len().div_ceil(COLORS.len()).max(1);
    let line = |((quorum, distribution), color): ((&QuorumReport, &Distribution), &'static str)| Line {
        write_quorum: quorum.write_quorum,
        color,
        band: distribution.band,
        smallest_share: 1.0 / quorum.committed().max(1) as f64,
        measured: distribution.points.clone(),
        predicted: distribution.predicted.clone(),
    };
    measured.into_iter().step_by(every).zip(COLORS).map(line).collect()
}

#[derive(Clone, Copy)]
struct Horizontal {
    low_ms: f64,
    high_ms: f64,
    is_logarithmic: bool,
}

impl Horizontal {
    fn new(lines: &[Line]) -> Self {
        let all = || lines.iter().flat_map(|line| line.predicted.iter().chain(&line.measured));
        let high_ms = all().map(|point| point.0).fold(1.0, f64::max);
        let visible = all().filter(|(_, share)| *share >= 0.02).map(|point| point.0);
        let lowest_ms = visible.fold(f64::INFINITY, f64::min).clamp(0.05, high_ms);
        let is_logarithmic = high_ms / lowest_ms > LOGARITHMIC_FROM;
        let low_ms = if is_logarithmic { power_below(lowest_ms) } else { 0.0 };
        Self { low_ms, high_ms: high_ms * 1.03, is_logarithmic }
    }

    /// From 0 at the left end to 1 at the right one.
    fn place(self, ms: f64) -> f64 {
        let place = if self.is_logarithmic {
            (ms.max(self.low_ms) / self.low_ms).ln() / (self.high_ms / self.low_ms).ln()
        } else {
            ms / self.high_ms
        };
        place.clamp(0.0, 1.0)
    }

    fn ticks(self) -> Vec<f64> {
        let step_ms = tick_step(self.high_ms);
        let next = |ms: &f64| Some(if self.is_logarithmic { ms * 10.0 } else { ms + step_ms });
        std::iter::successors(Some(self.low_ms), next).take_while(|ms| *ms <= self.high_ms).collect()
    }
}

#[derive(Clone, Copy)]
enum Vertical {
    /// The share up to a latency, on a linear axis.
    Share,
    /// The share above it, on a logarithmic axis that begins at the lowest share.
    Above { lowest: f64 },
}

impl Vertical {
    /// From 0 at the bottom to 1 at the top.
    fn place(self, share: f64) -> f64 {
        let place = match self {
            Self::Share => share,
            Self::Above { lowest } => 1.0 - (1.0 - share).max(lowest).log10() / lowest.log10(),
        };
        place.clamp(0.0, 1.0)
    }

    /// Shares up to a latency that have a line, with their labels.
    fn ticks(self) -> Vec<(f64, String)> {
        let percent = |share: f64| format!("{} %", (share * 1e9).round() / 1e7);
        match self {
            Self::Share => (0..=10).map(|tenth| f64::from(tenth) / 10.0).map(|share| (share, percent(share))).collect(),
            Self::Above { lowest } => {
                let powers = std::iter::successors(Some(1.0), |above| Some(above / 10.0));
                let powers = powers.take_while(|above| *above >= lowest * 0.999);
                powers.map(|above| (1.0 - above, percent(above))).collect()
            }
        }
    }
}

struct Panel<'a> {
    left: f64,
    x: Horizontal,
    y: Vertical,
    lines: &'a [Line],
}

impl Panel<'_> {
    fn at(&self, (ms, share): (f64, f64)) -> (f64, f64) {
        (self.left + PANEL_WIDTH * self.x.place(ms), TOP + PANEL_HEIGHT * (1.0 - self.y.place(share)))
    }

    fn draw(&self, svg: &mut Svg, title: &str) {
        let (end, bottom) = (self.left + PANEL_WIDTH, TOP + PANEL_HEIGHT);
        svg.text((self.left, TOP - 42.0), title, plain(18.0, INK, Anchor::Start).bold());
        for (share, label) in self.y.ticks() {
            let y = self.at((self.x.low_ms, share)).1;
            svg.line((self.left, y), (end, y), Stroke { color: GRID, width: 1.2, dashes: "" });
            svg.text((self.left - 10.0, y + 5.0), &label, plain(14.0, MUTED, Anchor::End));
        }
        svg.line((self.left, bottom), (end, bottom), Stroke { color: MUTED, width: 1.2, dashes: "" });
        for ms in self.x.ticks() {
            let x = self.at((ms, 0.0)).0;
            svg.line((x, bottom), (x, bottom + 6.0), Stroke { color: MUTED, width: 1.2, dashes: "" });
            let label = ((ms * 1e6).round() / 1e6).to_string();
            svg.text((x, bottom + 25.0), &label, plain(15.0, MUTED, Anchor::Middle));
        }
        let middle = (self.left + PANEL_WIDTH / 2.0, bottom + 52.0);
        svg.text(middle, "write latency in ms", plain(16.0, INK, Anchor::Middle));
        for line in self.lines {
            for shift in [-line.band, line.band] {
                let edge = line.predicted.iter().map(|(ms, share)| self.at((*ms, (share + shift).clamp(0.0, 1.0))));
                svg.polyline(&edge.collect::<Vec<_>>(), Stroke { color: line.color, width: 0.6, dashes: "2 3" });
            }
            let measured: Vec<_> = line.measured.iter().map(|point| self.at(*point)).collect();
            svg.polyline(&measured, Stroke { color: line.color, width: 4.0, dashes: "" });
        }
        for line in self.lines {
            let predicted: Vec<_> = line.predicted.iter().map(|point| self.at(*point)).collect();
            svg.polyline(&predicted, Stroke { color: INK, width: 1.4, dashes: "6 4" });
        }
        self.legend(svg);
    }

    fn legend(&self, svg: &mut Svg) {
        let (mut x, y) = (self.left, TOP - 19.0);
        for line in self.lines {
            svg.line((x, y - 5.0), (x + 22.0, y - 5.0), Stroke { color: line.color, width: 4.0, dashes: "" });
            svg.text((x + 27.0, y), &format!("W = {}", line.write_quorum), plain(14.0, INK, Anchor::Start));
            x += 84.0;
        }
        svg.line((x, y - 5.0), (x + 26.0, y - 5.0), Stroke { color: INK, width: 1.4, dashes: "6 4" });
        svg.text((x + 31.0, y), "theory, with band", plain(14.0, INK, Anchor::Start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_report, with_law};

    #[test]
    fn every_quorum_has_its_lines_inside_the_picture() {
        for (followers, law) in [(5, None), (30, None), (5, Some("yammer")), (1, Some("wan-3-zones"))] {
            let report = synthetic_report(Behaviour::Sound, followers, 0, 200, 400);
            let report = law.map_or(report.clone(), |name| with_law(report, name));
            let drawing = draw(&report);
            let document = resvg::usvg::roxmltree::Document::parse(&drawing).expect("well-formed");
            let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
            let last = if followers == 30 { "W = 26".to_owned() } else { format!("W = {followers}") };
            assert!(texts.contains(&"W = 1") && texts.contains(&last.as_str()), "{texts:?}");
            assert!(texts.contains(&"0.1 %"), "the tail is divided by powers of ten: {texts:?}");
            for points in document.descendants().filter_map(|node| node.attribute("points")) {
                let mut numbers = points.split([' ', ',']).map(|number| number.parse::<f64>().expect("a number"));
                assert!(numbers.all(|number| (0.0..=WIDTH).contains(&number)), "{points}");
            }
        }
    }

    #[test]
    fn axes_are_logarithmic_where_the_tail_asks_for_it() {
        let report = synthetic_report(Behaviour::Sound, 5, 20, 60, 400);
        assert!(!Horizontal::new(&lines(&report)).is_logarithmic);
        let x = Horizontal::new(&lines(&with_law(report, "yammer")));
        assert!(x.is_logarithmic);
        assert_eq!(x.ticks().first(), Some(&1.0));
    }
}
