//! One coordinate system of the plot: quorums to the right, milliseconds up.

use super::{GRID, INK, MUTED, plain};
use crate::{
    draw::{
        svg::{Anchor, Stroke, Svg},
        tick_step,
    },
    sweep::{analysis::Theory, report::SweepReport},
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
    /// The lowest value of a logarithmic axis; a linear one begins at 0.
    low_ms: Option<f64>,
}

/// From this ratio of the highest to the lowest value on, the axis of a law with a tail is logarithmic.
const LOGARITHMIC_FROM: f64 = 50.0;

impl Panel {
    pub(super) fn new(x: f64, report: &SweepReport) -> Self {
        let highest_ms = highest_ms(report);
        let step_ms = tick_step(highest_ms);
        let top_ms = (highest_ms / step_ms).ceil() * step_ms;
        let settings = &report.settings;
        let lowest_ms = lowest_ms(report);
        let is_logarithmic = settings.delay.is_some() && highest_ms / lowest_ms > LOGARITHMIC_FROM;
        let low_ms = is_logarithmic.then(|| power_below(lowest_ms));
        let top_ms = if is_logarithmic { highest_ms } else { top_ms };
        let max_delay_ms = settings.max_delay_ms as f64;
        Self { x, followers: settings.followers, max_delay_ms, step_ms, top_ms, low_ms }
    }

    pub(super) fn at(&self, write_quorum: u16, ms: f64) -> (f64, f64) {
        (self.x + (f64::from(write_quorum) - 0.5) * self.slot(), self.y(ms))
    }

    pub(super) fn y(&self, ms: f64) -> f64 {
        let share = match self.low_ms {
            Some(low_ms) => (ms.max(low_ms) / low_ms).ln() / (self.top_ms / low_ms).ln(),
            None => ms / self.top_ms,
        };
        TOP + HEIGHT * (1.0 - share)
    }

    /// The values of the axis that have a line, from the lowest on.
    fn ticks(&self) -> Vec<f64> {
        let next = |ms: &f64| Some(if self.low_ms.is_some() { ms * 10.0 } else { ms + self.step_ms });
        let ticks = std::iter::successors(Some(self.low_ms.unwrap_or(0.0)), next);
        ticks.take_while(|ms| *ms <= self.top_ms * 1.0001).collect()
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
        for (place, ms) in self.ticks().into_iter().enumerate() {
            let y = self.y(ms);
            let color = if place == 0 { MUTED } else { GRID };
            svg.line((self.x, y), (end, y), Stroke { color, width: 1.2, dashes: "" });
            let label = match self.low_ms {
                Some(_) => ((ms * 1e6).round() / 1e6).to_string(),
                None if self.step_ms.fract() > 0.0 => format!("{ms:.1}"),
                None => format!("{ms:.0}"),
            };
            svg.text((self.x - 10.0, y + 5.0), &label, plain(15.0, MUTED, Anchor::End));
        }
        for quorum in (1..=self.followers).step_by(self.every(28.0) as usize) {
            let (x, y) = self.at(quorum, 0.0);
            svg.line((x, y), (x, y + 6.0), Stroke { color: MUTED, width: 1.2, dashes: "" });
            svg.text((x, y + 25.0), &quorum.to_string(), plain(15.0, MUTED, Anchor::Middle));
        }
        if self.shows_longest() {
            let y = self.y(self.max_delay_ms);
            svg.line((self.x, y), (end, y), LONGEST);
        }
        svg.text((self.x, TOP - 42.0), title, plain(18.0, INK, Anchor::Start).bold());
        let name = format!("write quorum W (confirmations of {} followers)", self.followers);
        let middle = self.x + WIDTH / 2.0;
        svg.text((middle, TOP + HEIGHT + 52.0), &name, plain(16.0, INK, Anchor::Middle));
        let center = (self.x - 58.0, TOP + HEIGHT / 2.0);
        svg.upward_text(center, "write latency in ms", plain(16.0, INK, Anchor::Middle));
    }

    /// Whether the longest delay there is lies on the axis. That of most laws with a tail does not.
    pub(super) fn shows_longest(&self) -> bool {
        self.max_delay_ms <= self.top_ms
    }

    /// Theory's value at every quorum as a line.
    pub(super) fn theory(&self, svg: &mut Svg, report: &SweepReport, stroke: Stroke, value: impl Fn(&Theory) -> f64) {
        let measured = |quorum| report.quorums.iter().find(|report| report.write_quorum == quorum);
        let theory = |quorum| match measured(quorum) {
            Some(report) => Some(report.theory),
            // In closed form at once, and only then.
            None if report.settings.delay.is_none() => Some(Theory::of(&report.settings.law(quorum)?)),
            None => None,
        };
        let at = |quorum| Some(self.at(quorum, value(&theory(quorum)?)));
        let points: Vec<(f64, f64)> = (1..=self.followers).filter_map(at).collect();
        svg.polyline(&points, stroke);
    }
}

/// The highest value that must be visible, in ms, with some air.
fn highest_ms(report: &SweepReport) -> f64 {
    let measured = report.quorums.iter().filter_map(|quorum| {
        let latency = quorum.latency?;
        Some(latency.p99_ms.max(latency.mean_ms + latency.mean_interval_ms))
    });
    let longest_ms = match report.settings.delay {
        Some(_) => report.quorums.iter().map(|quorum| quorum.theory.p99_ms).fold(0.0, f64::max),
        None => report.settings.max_delay_ms as f64,
    };
    measured.chain([longest_ms, 1.0]).fold(0.0, f64::max) * 1.04
}

/// The lowest value that must be visible, in ms.
fn lowest_ms(report: &SweepReport) -> f64 {
    let measured = report.quorums.iter().filter_map(|quorum| Some(quorum.latency?.p50_ms));
    let theory = report.quorums.iter().map(|quorum| quorum.theory.p50_ms);
    measured.chain(theory).fold(f64::INFINITY, f64::min).max(0.01)
}

/// The next power of ten that is not above.
pub(super) fn power_below(value: f64) -> f64 {
    10_f64.powf(value.log10().floor())
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
