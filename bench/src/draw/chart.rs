//! Line charts for measurements over time or over a setting: panels side by side, as SVG and as pixels.

use super::{
    axis::tick_step,
    png::rasterize,
    svg::{Anchor, GRID, INK, MUTED, Stroke, Style, Svg},
};

const PANEL_WIDTH: f64 = 560.0;
const PANEL_HEIGHT: f64 = 400.0;
const LEFT: f64 = 90.0;
const BETWEEN: f64 = 110.0;
const RIGHT: f64 = 50.0;
const TOP: f64 = 190.0;
const BOTTOM: f64 = 90.0;

/// Colours that stay apart for colour-blind readers and in grey.
const COLORS: [&str; 5] = ["#0068ad", "#d98200", "#007a5e", "#b5321c", "#7a4fa3"];
/// Beyond this many points a line alone is clearer.
const DOTS_MAX: usize = 40;
/// So few whole places are marked themselves, in place of round steps.
const MARKED_MAX: usize = 12;

/// A picture of several panels.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// How that was measured, in lines of small print.
    pub subtitles: Vec<String>,
    /// From left to right.
    pub panels: Vec<Panel>,
}

/// One coordinate system; a linear vertical axis begins at 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// Above it.
    pub title: String,
    /// Name and unit of the horizontal axis.
    pub x_name: String,
    /// How the horizontal axis is divided.
    pub x_scale: Scale,
    /// Name and unit of the vertical axis.
    pub y_name: String,
    /// How the vertical axis is divided.
    pub y_scale: Scale,
    /// The lines.
    pub series: Vec<Series>,
}

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal steps.
    Linear,
    /// Equal factors; on the horizontal axis every measured place is marked.
    Logarithmic,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

impl Chart {
    /// As a drawing whose text stays text.
    pub fn svg(&self) -> String {
        let count = self.panels.len().max(1) as f64;
        let width = LEFT + count * PANEL_WIDTH + (count - 1.0) * BETWEEN + RIGHT;
        let mut svg = Svg::new(width, TOP + PANEL_HEIGHT + BOTTOM);
        svg.text((LEFT, 50.0), &self.title, style(24.0, INK, Anchor::Start).bold());
        for (line, subtitle) in self.subtitles.iter().enumerate() {
            svg.text((LEFT, 78.0 + 21.0 * line as f64), subtitle, style(14.0, MUTED, Anchor::Start));
        }
        for (number, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut svg, LEFT + number as f64 * (PANEL_WIDTH + BETWEEN));
        }
        svg.finish()
    }

    /// As pixels.
    ///
    /// # Errors
    /// When the drawing cannot be rendered.
    pub fn png(&self) -> anyhow::Result<Vec<u8>> {
        rasterize(&self.svg())
    }
}

impl Panel {
    fn draw(&self, svg: &mut Svg, left: f64) {
        let all = || self.series.iter().flat_map(|series| &series.points);
        let vertical = Vertical::new(self.y_scale, all().map(|point| point.1));
        let y = |value: f64| TOP + PANEL_HEIGHT * (1.0 - vertical.place(value));
        let bottom = TOP + PANEL_HEIGHT;
        let axis = Horizontal::new(self.x_scale, all().map(|point| point.0));
        let x = |value: f64| left + PANEL_WIDTH * axis.place(value);

        for (place, (value, label)) in vertical.ticks().into_iter().enumerate() {
            let color = if place == 0 { MUTED } else { GRID };
            svg.line((left, y(value)), (left + PANEL_WIDTH, y(value)), Stroke { color, width: 1.2, dashes: "" });
            svg.text((left - 10.0, y(value) + 5.0), &label, style(14.0, MUTED, Anchor::End));
        }
        let mut last_label = f64::NEG_INFINITY;
        for (value, label) in axis.ticks() {
            let at = x(value);
            svg.line((at, bottom), (at, bottom + 6.0), Stroke { color: MUTED, width: 1.2, dashes: "" });
            if at - last_label >= 34.0 {
                svg.text((at, bottom + 24.0), &label, style(14.0, MUTED, Anchor::Middle));
                last_label = at;
            }
        }
        let middle = (left + PANEL_WIDTH / 2.0, TOP + PANEL_HEIGHT + 52.0);
        svg.text(middle, &self.x_name, style(15.0, INK, Anchor::Middle));
        svg.upward_text((left - 66.0, TOP + PANEL_HEIGHT / 2.0), &self.y_name, style(15.0, INK, Anchor::Middle));
        svg.text((left, TOP - 40.0), &self.title, style(17.0, INK, Anchor::Start).bold());

        let mut legend = left;
        for (series, color) in self.series.iter().zip(COLORS.iter().cycle()) {
            let points: Vec<(f64, f64)> = series.points.iter().map(|point| (x(point.0), y(point.1))).collect();
            svg.polyline(&points, Stroke { color, width: 2.2, dashes: "" });
            if points.len() <= DOTS_MAX {
                points.iter().for_each(|point| svg.dot(*point, 4.5, color));
            }
            svg.line((legend, TOP - 20.0), (legend + 22.0, TOP - 20.0), Stroke { color, width: 3.0, dashes: "" });
            svg.text((legend + 28.0, TOP - 15.0), &series.name, style(14.0, INK, Anchor::Start));
            legend += 56.0 + 8.2 * series.name.chars().count() as f64;
        }
    }
}

/// The vertical axis: from values to places between 0 and 1.
struct Vertical {
    scale: Scale,
    low: f64,
    high: f64,
    step: f64,
}

impl Vertical {
    fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let positive: Vec<f64> = values.filter(|value| *value > 0.0).collect();
        let highest = positive.iter().copied().fold(1e-9, f64::max);
        match scale {
            Scale::Linear => {
                let step = tick_step(highest * 1.04);
                Self { scale, low: 0.0, high: (highest * 1.04 / step).ceil() * step, step }
            }
            Scale::Logarithmic => {
                // Whole powers of ten, so that there are always two.
                let power = |value: f64| value.log10().floor();
                let lowest = positive.iter().copied().fold(highest, f64::min);
                Self { scale, low: 10_f64.powf(power(lowest)), high: 10_f64.powf(power(highest) + 1.0), step: 10.0 }
            }
        }
    }

    fn place(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value / self.high,
            Scale::Logarithmic => (value.max(self.low) / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        let Self { scale, low, high, step } = *self;
        match scale {
            Scale::Linear => {
                let count = (high / step).round() as usize;
                (0..=count).map(|place| place as f64 * step).map(|value| (value, number(value, step))).collect()
            }
            Scale::Logarithmic => {
                let powers = (high / low).log10().round() as i32;
                (0..=powers).map(|power| low * step.powi(power)).map(|value| (value, number(value, value))).collect()
            }
        }
    }
}

/// The horizontal axis: from values to places between 0 and 1.
struct Horizontal {
    scale: Scale,
    low: f64,
    high: f64,
    measured: Vec<f64>,
}

impl Horizontal {
    fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let mut measured: Vec<f64> = values.collect();
        measured.sort_by(f64::total_cmp);
        measured.dedup();
        let (low, high) = (measured.first().copied().unwrap_or(0.0), measured.last().copied().unwrap_or(1.0));
        let low = if scale == Scale::Linear { low.min(0.0) } else { low };
        Self { scale, low, high, measured }
    }

    fn place(&self, value: f64) -> f64 {
        // A little air on either side, so that dots do not sit on the edge.
        const AIR: f64 = 0.02;
        let (low, high, value) = match self.scale {
            Scale::Linear => (self.low, self.high, value),
            Scale::Logarithmic => (self.low.ln(), self.high.ln(), value.ln()),
        };
        let part = if high > low { (value - low) / (high - low) } else { 0.5 };
        AIR + (1.0 - 2.0 * AIR) * part
    }

    fn ticks(&self) -> Vec<(f64, String)> {
        match self.scale {
            Scale::Logarithmic => self.measured.iter().map(|value| (*value, short(*value))).collect(),
            Scale::Linear
                if self.measured.len() <= MARKED_MAX && self.measured.iter().all(|value| value.fract() == 0.0) =>
            {
                self.measured.iter().map(|value| (*value, format!("{value}"))).collect()
            }
            Scale::Linear => {
                let step = tick_step((self.high - self.low).max(1e-9));
                let count = ((self.high - self.low) / step).floor() as usize;
                (0..=count).map(|place| self.low + place as f64 * step).map(|at| (at, number(at, step))).collect()
            }
        }
    }
}

/// 65536 as "64Ki": sizes and counts that are powers of two.
fn short(value: f64) -> String {
    const KIBI: f64 = 1024.0;
    if value >= KIBI * KIBI && value % (KIBI * KIBI) == 0.0 {
        format!("{:.0}Mi", value / KIBI / KIBI)
    } else if value >= 10.0 * KIBI && value % KIBI == 0.0 {
        format!("{:.0}Ki", value / KIBI)
    } else {
        format!("{value}")
    }
}

fn number(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).max(0.0) as usize;
    // A step of 2.5 or 0.25 needs one digit more.
    let digits = if (step * 10_f64.powi(digits as i32)).fract() > 1e-9 { digits + 1 } else { digits };
    format!("{value:.digits$}")
}

fn style(size: f64, color: &'static str, anchor: Anchor) -> Style {
    Style { size, color, bold: false, anchor }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale) -> Chart {
        let points: Vec<(f64, f64)> =
            (0..8).map(|power| (f64::from(1 << (2 * power)), f64::from(power) * 7.5)).collect();
        let panel = |name: &str| Panel {
            title: format!("{name} <title>"),
            x_name: "value size in bytes".into(),
            x_scale: scale,
            y_name: format!("{name} in ms"),
            y_scale: scale,
            series: vec![
                Series { name: "p50".into(), points: points.clone() },
                Series { name: "p99".into(), points: vec![] },
            ],
        };
        Chart { title: "test".into(), subtitles: vec!["how".into()], panels: vec![panel("left"), panel("right")] }
    }

    #[test]
    fn everything_is_drawn_inside_the_picture_and_named() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            let drawing = chart(scale).svg();
            let document = resvg::usvg::roxmltree::Document::parse(&drawing).expect("well-formed");
            let texts: Vec<&str> = document.descendants().filter_map(|node| node.text()).collect();
            for expected in ["test", "how", "left <title>", "right in ms", "value size in bytes", "p50"] {
                assert!(texts.contains(&expected), "{expected} is missing from {texts:?}");
            }
            let root = document.root_element();
            let limit = |name| root.attribute(name).and_then(|text| text.parse::<f64>().ok()).expect("a size");
            let dots: Vec<_> = document.descendants().filter(|node| node.has_tag_name("circle")).collect();
            assert_eq!(dots.len(), 16);
            for dot in dots {
                let at = |name| dot.attribute(name).and_then(|text| text.parse::<f64>().ok()).expect("a place");
                assert!((LEFT..limit("width")).contains(&at("cx")) && (TOP..limit("height")).contains(&at("cy")));
            }
        }
    }

    #[test]
    fn a_logarithmic_axis_has_equal_steps_for_equal_factors() {
        let axis = Horizontal::new(Scale::Logarithmic, [16.0, 256.0, 4096.0].into_iter());
        assert!((axis.place(256.0) - 0.5).abs() < 1e-9);
        assert_eq!(axis.ticks().into_iter().map(|tick| tick.1).collect::<Vec<_>>(), ["16", "256", "4096"]);
        assert_eq!((short(65_536.0), short(1_048_576.0)), ("64Ki".to_owned(), "1Mi".to_owned()));
    }

    #[test]
    fn numbers_have_as_many_digits_as_their_steps() {
        let shown = [(250.0, 50.0), (7.5, 2.5), (0.25, 0.25), (0.02, 0.01), (20_000.0, 5_000.0)];
        let shown: Vec<String> = shown.into_iter().map(|(value, step)| number(value, step)).collect();
        assert_eq!(shown, ["250", "7.5", "0.25", "0.02", "20000"]);
    }

    #[test]
    fn nothing_measured_is_still_a_picture() {
        let mut empty = chart(Scale::Linear);
        empty.panels.iter_mut().for_each(|panel| panel.series.clear());
        assert!(empty.png().expect("rendered").starts_with(b"\x89PNG"));
    }
}
