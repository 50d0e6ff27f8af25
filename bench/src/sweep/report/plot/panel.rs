//! One coordinate system of the plot: quorums to the right, milliseconds up.

use super::{GRID, INK, MUTED, plain};
use crate::{
    draw::{
        svg::{Anchor, Stroke, Svg},
        tick_step,
    },
    sweep::{report::SweepReport, theory::QuorumDelay},
};

pub(super) const TOP: f64 = 178.0;
pub(super) const HEIGHT: f64 = 520.0;
pub(super) const WIDTH: f64 = 630.0;

/// The line of the longest delay there is.
pub(super) const LONGEST: Stroke = Stroke { color: MUTED, width: 1.6, dashes: "2 4" };

/// A panel whose left edge is at `x`.
#[derive(Debug)]
pub(super) struct Panel {
    pub x: f64,
    followers: u16,
    max_delay_ms: f64,
    step_ms: f64,
    top_ms: f64,
}

impl Panel {
    pub(super) fn new(x: f64, report: &SweepReport) -> Self {
        let highest_ms = highest_ms(report);
        let step_ms = tick_step(highest_ms);
        let top_ms = (highest_ms / step_ms).ceil() * step_ms;
        let settings = &report.settings;
        Self { x, followers: settings.followers, max_delay_ms: settings.max_delay_ms as f64, step_ms, top_ms }
    }

    pub(super) fn at(&self, write_quorum: u16, ms: f64) -> (f64, f64) {
        (self.x + (f64::from(write_quorum) - 0.5) * self.slot(), self.y(ms))
    }

    pub(super) fn y(&self, ms: f64) -> f64 {
        TOP + HEIGHT * (1.0 - ms / self.top_ms)
    }

    /// Pixels between two quorums.
    fn slot(&self) -> f64 {
        WIDTH / f64::from(self.followers)
    }

    /// Whether this quorum's values are written out: as many are as have room for text of this width.
    pub(super) fn is_annotated(&self, write_quorum: u16, text_width: f64) -> bool {
        (write_quorum - 1).is_multiple_of(self.every(text_width))
    }

    fn every(&self, text_width: f64) -> u16 {
        (text_width / self.slot()).ceil().max(1.0) as u16
    }

    /// Grid, axes, their names, and the longest delay there is.
    pub(super) fn frame(&self, svg: &mut Svg, title: &str) {
        let end = self.x + WIDTH;
        let mut ms = 0.0;
        while ms <= self.top_ms * 1.0001 {
            let y = self.y(ms);
            let color = if ms == 0.0 { MUTED } else { GRID };
            svg.line((self.x, y), (end, y), Stroke { color, width: 1.2, dashes: "" });
            let label = if self.step_ms.fract() > 0.0 { format!("{ms:.1}") } else { format!("{ms:.0}") };
            svg.text((self.x - 10.0, y + 5.0), &label, plain(15.0, MUTED, Anchor::End));
            ms += self.step_ms;
        }
        for quorum in (1..=self.followers).step_by(self.every(28.0) as usize) {
            let (x, y) = self.at(quorum, 0.0);
            svg.line((x, y), (x, y + 6.0), Stroke { color: MUTED, width: 1.2, dashes: "" });
            svg.text((x, y + 25.0), &quorum.to_string(), plain(15.0, MUTED, Anchor::Middle));
        }
        let y = self.y(self.max_delay_ms);
        svg.line((self.x, y), (end, y), LONGEST);
        svg.text((self.x, TOP - 42.0), title, plain(18.0, INK, Anchor::Start).bold());
        let name = format!("write quorum W (confirmations of {} followers)", self.followers);
        let middle = self.x + WIDTH / 2.0;
        svg.text((middle, TOP + HEIGHT + 52.0), &name, plain(16.0, INK, Anchor::Middle));
        let center = (self.x - 58.0, TOP + HEIGHT / 2.0);
        svg.upward_text(center, "write latency in ms", plain(16.0, INK, Anchor::Middle));
    }

    /// Theory's value at every quorum as a line.
    pub(super) fn theory(
        &self,
        svg: &mut Svg,
        report: &SweepReport,
        stroke: Stroke,
        value: impl Fn(&QuorumDelay) -> f64,
    ) {
        let (min_ms, max_ms) = (report.settings.min_delay_ms as f64, report.settings.max_delay_ms as f64);
        let law = |quorum| QuorumDelay::new(self.followers, quorum, min_ms, max_ms);
        let points: Vec<(f64, f64)> =
            (1..=self.followers).filter_map(|quorum| Some(self.at(quorum, value(&law(quorum)?)))).collect();
        svg.polyline(&points, stroke);
    }
}

/// The highest value that must be visible, in ms, with some air.
fn highest_ms(report: &SweepReport) -> f64 {
    let measured = report.quorums.iter().filter_map(|quorum| {
        let latency = quorum.latency?;
        Some(latency.p99_ms.max(latency.mean_ms + latency.mean_interval_ms))
    });
    measured.chain([report.settings.max_delay_ms as f64, 1.0]).fold(0.0, f64::max) * 1.04
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_neither_few_nor_many() {
        for highest in [0.4, 1.0, 7.0, 62.4, 208.0, 1_448.0, 30_000.0] {
            let ticks = (highest / tick_step(highest)).ceil();
            assert!((4.0..=10.0).contains(&ticks), "{ticks} ticks up to {highest}");
        }
        assert_eq!((tick_step(208.0), tick_step(62.4)), (25.0, 10.0));
    }
}
