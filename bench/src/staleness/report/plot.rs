//! The plot: for each law a panel, the time since the acknowledgement to the right, the share of stale reads up.

use super::{LawReport, StalenessReport, confidence};
use crate::{
    draw::{
        svg::{Anchor, GRID, INK, MUTED, Stroke, Style, Svg},
        tick_step,
    },
    staleness::analysis::{Cell, QuorumReport},
};

const PANEL_WIDTH: f64 = 620.0;
const PANEL_HEIGHT: f64 = 470.0;
const LEFT: f64 = 90.0;
const BETWEEN: f64 = 100.0;
const RIGHT: f64 = 50.0;
const TOP: f64 = 190.0;
const BOTTOM: f64 = 90.0;

/// Colours that stay apart for colour-blind readers and in grey.
const COLORS: [&str; 5] = ["#0068ad", "#d98200", "#007a5e", "#b5321c", "#7a4fa3"];

/// A tail that is so much longer than half of the fall asks for a logarithmic axis.
const LOGARITHMIC_FROM: f64 = 10.0;

/// The picture.
pub(super) fn draw(report: &StalenessReport) -> String {
    let count = report.laws.len().max(1) as f64;
    let width = LEFT + count * PANEL_WIDTH + (count - 1.0) * BETWEEN + RIGHT;
    let mut svg = Svg::new(width, TOP + PANEL_HEIGHT + BOTTOM);
    svg.text(
        (LEFT, 50.0),
        "Reads at a random follower that miss an acknowledged write",
        style(24.0, INK, Anchor::Start).bold(),
    );
    let explained = format!(
        "Lines: theory. Points: measured, with the intervals that hold together in {} of all measurements, and with what is \
         known of the time since the commit.",
        confidence()
    );
    // A single panel has no room for long lines.
    let size = if report.laws.len() > 1 { 14.0 } else { 10.5 };
    for (line, subtitle) in [report.settings_line(), report.origin_line(), explained].iter().enumerate() {
        svg.text((LEFT, 78.0 + 21.0 * line as f64), subtitle, style(size, MUTED, Anchor::Start));
    }
    for (number, law) in report.laws.iter().enumerate() {
        Panel::new(law, LEFT + number as f64 * (PANEL_WIDTH + BETWEEN)).draw(&mut svg, law);
    }
    svg.finish()
}

/// One law's coordinate system.
struct Panel<'a> {
    left: f64,
    latest_ms: f64,
    /// Where a logarithmic axis begins: earlier times, and 0, are at its left end.
    first_ms: Option<f64>,
    highest: f64,
    lines: Vec<(&'a QuorumReport, &'static str)>,
}

impl<'a> Panel<'a> {
    fn new(law: &'a LawReport, left: f64) -> Self {
        let ends = law.quorums.iter().flat_map(|quorum| &quorum.cells).map(|cell| cell.elapsed_ms.1);
        let times_ms = &law.settings.times_ms;
        let latest_ms = ends.chain(times_ms.iter().copied()).fold(1.0, f64::max) * 1.02;
        let middle_ms = times_ms.get(times_ms.len() / 2).copied().unwrap_or_default();
        let smallest_ms = times_ms.iter().copied().find(|ms| *ms > 0.0).unwrap_or(1.0);
        let is_logarithmic = middle_ms > 0.0 && latest_ms / middle_ms > LOGARITHMIC_FROM;
        let highest =
            law.quorums.iter().flat_map(|quorum| &quorum.cells).map(|cell| cell.interval.1.max(cell.theory.1));
        let highest = highest.chain(law.theory.first().map(|row| row.1[0])).fold(0.01, f64::max);
        let step = tick_step(highest);
        Self {
            left,
            latest_ms,
            first_ms: is_logarithmic.then(|| 10_f64.powf(smallest_ms.log10().floor())),
            highest: (highest / step).ceil() * step,
            // Of many quorums as many as there are colours, evenly.
            lines: law.quorums.iter().step_by(law.quorums.len().div_ceil(COLORS.len()).max(1)).zip(COLORS).collect(),
        }
    }

    fn x(&self, ms: f64) -> f64 {
        let place = match self.first_ms {
            Some(first_ms) => (ms.max(first_ms) / first_ms).ln() / (self.latest_ms / first_ms).ln(),
            None => ms / self.latest_ms,
        };
        self.left + PANEL_WIDTH * place.clamp(0.0, 1.0)
    }

    fn y(&self, share: f64) -> f64 {
        TOP + PANEL_HEIGHT * (1.0 - (share / self.highest).clamp(0.0, 1.0))
    }

    fn draw(&self, svg: &mut Svg, law: &LawReport) {
        self.frame(svg, &format!("delays {}", law.settings.name()));
        for (quorum, color) in &self.lines {
            let column = usize::from(quorum.write_quorum) - 1;
            let shown = law.theory.iter().filter(|(ms, _)| *ms >= self.first_ms.unwrap_or_default());
            let line: Vec<(f64, f64)> = shown.map(|(ms, chances)| (self.x(*ms), self.y(chances[column]))).collect();
            svg.polyline(&line, Stroke { color, width: 1.6, dashes: "" });
        }
        for (quorum, color) in &self.lines {
            quorum.cells.iter().filter(|cell| cell.reads > 0).for_each(|cell| self.point(svg, cell, color));
        }
        self.legend(svg);
    }

    fn point(&self, svg: &mut Svg, cell: &Cell, color: &'static str) {
        let thin = Stroke { color, width: 1.2, dashes: "" };
        let (from_ms, to_ms) = cell.elapsed_ms;
        let (x, y) = (self.x(f64::midpoint(from_ms, to_ms)), self.y(cell.share));
        svg.line((x, self.y(cell.interval.0)), (x, self.y(cell.interval.1)), thin);
        svg.line((self.x(from_ms), y), (self.x(to_ms), y), thin);
        svg.dot((x, y), 4.0, color);
    }

    fn frame(&self, svg: &mut Svg, title: &str) {
        let (end, bottom) = (self.left + PANEL_WIDTH, TOP + PANEL_HEIGHT);
        svg.text((self.left, TOP - 42.0), title, style(17.0, INK, Anchor::Start).bold());
        let step = tick_step(self.highest);
        for number in 0..=(self.highest / step).round() as usize {
            let share = number as f64 * step;
            let color = if number == 0 { MUTED } else { GRID };
            svg.line((self.left, self.y(share)), (end, self.y(share)), Stroke { color, width: 1.2, dashes: "" });
            let label = format!("{} %", (share * 1e5).round() / 1e3);
            svg.text((self.left - 10.0, self.y(share) + 5.0), &label, style(14.0, MUTED, Anchor::End));
        }
        let step_ms = tick_step(self.latest_ms);
        let next = |ms: &f64| Some(if self.first_ms.is_some() { ms * 10.0 } else { ms + step_ms });
        let ticks = std::iter::successors(Some(self.first_ms.unwrap_or(0.0)), next);
        for (number, ms) in ticks.take_while(|ms| *ms <= self.latest_ms).enumerate() {
            let x = self.x(ms);
            svg.line((x, bottom), (x, bottom + 6.0), Stroke { color: MUTED, width: 1.2, dashes: "" });
            let at_most = if number == 0 && self.first_ms.is_some() { "≤ " } else { "" };
            let label = format!("{at_most}{}", (ms * 1e6).round() / 1e6);
            svg.text((x, bottom + 25.0), &label, style(14.0, MUTED, Anchor::Middle));
        }
        let middle = (self.left + PANEL_WIDTH / 2.0, bottom + 55.0);
        svg.text(middle, "ms from the commit to the read", style(15.0, INK, Anchor::Middle));
        svg.upward_text((self.left - 66.0, TOP + PANEL_HEIGHT / 2.0), "stale reads", style(15.0, INK, Anchor::Middle));
    }

    fn legend(&self, svg: &mut Svg) {
        for (number, (quorum, color)) in self.lines.iter().enumerate() {
            let (x, y) = (self.left + 88.0 * number as f64, TOP - 19.0);
            svg.dot((x + 8.0, y - 5.0), 5.0, color);
            svg.text((x + 20.0, y), &format!("W = {}", quorum.write_quorum), style(14.0, INK, Anchor::Start));
        }
    }
}

fn style(size: f64, color: &'static str, anchor: Anchor) -> Style {
    Style { size, color, bold: false, anchor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        draw::rasterize,
        staleness::testing::{Behaviour, synthetic_report},
    };

    #[test]
    fn every_law_and_quorum_has_its_points_inside_the_picture() {
        for (followers, lines) in [(5, 5), (9, 5), (1, 1)] {
            let report = synthetic_report(Behaviour::AppliesLate, followers, 200);
            let drawing = draw(&report);
            let document = resvg::usvg::roxmltree::Document::parse(&drawing).expect("well-formed");
            let width = LEFT + 2.0 * PANEL_WIDTH + BETWEEN + RIGHT;
            let dots: Vec<_> = document.descendants().filter(|node| node.has_tag_name("circle")).collect();
            assert_eq!(dots.len(), 2 * lines * (20 + 1), "points and legend");
            for dot in dots {
                let at = |name| dot.attribute(name).and_then(|text| text.parse::<f64>().ok()).expect("a place");
                assert!((LEFT..width).contains(&at("cx")) && (0.0..=TOP + PANEL_HEIGHT).contains(&at("cy")));
            }
            let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
            assert!(texts.contains(&"delays 0-100 ms") && texts.contains(&"delays yammer"), "{texts:?}");
        }
    }

    #[test]
    fn a_long_tail_has_a_logarithmic_axis() {
        let mut report = synthetic_report(Behaviour::Sound, 3, 50);
        assert!(Panel::new(&report.laws[0], 0.0).first_ms.is_none());
        report.laws[0].settings.times_ms = vec![0.0, 0.4, 3.0, 800.0];
        let panel = Panel::new(&report.laws[0], 0.0);
        assert_eq!(panel.first_ms, Some(0.1));
        assert_eq!((panel.x(0.0), panel.x(0.1)), (0.0, 0.0));
        assert!(rasterize(&draw(&report)).expect("rendered").starts_with(b"\x89PNG"));
    }
}
