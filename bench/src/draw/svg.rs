//! A small SVG writer: shapes and text in pixels, escaped, in one font family.

use std::fmt::Write as _;

/// The embedded font's family first, then fonts of about its width for viewers that lack it.
const FONT_FAMILIES: &str = "DejaVu Sans, Verdana, Geneva, sans-serif";

/// Text and axes, small print, and the lines behind everything, in every picture.
pub(crate) const INK: &str = "#1b1f24";
pub(crate) const MUTED: &str = "#57606a";
pub(crate) const GRID: &str = "#e3e6ea";

/// A picture being drawn; later shapes cover earlier ones.
#[derive(Debug)]
pub(crate) struct Svg {
    body: String,
    width: f64,
    height: f64,
}

/// Where a text's reference point lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// How a text looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub size: f64,
    pub color: &'static str,
    pub bold: bool,
    pub anchor: Anchor,
}

impl Style {
    pub(crate) fn bold(self) -> Self {
        Self { bold: true, ..self }
    }
}

/// How a line looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stroke {
    pub color: &'static str,
    pub width: f64,
    pub dashes: &'static str,
}

impl Svg {
    /// A white picture.
    pub(crate) fn new(width: f64, height: f64) -> Self {
        let mut svg = Self { body: String::new(), width, height };
        svg.rectangle(0.0, 0.0, width, height, "#ffffff");
        svg
    }

    pub(crate) fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.push(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#
        ));
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), stroke: Stroke) {
        self.polyline(&[from, to], stroke);
    }

    pub(crate) fn polyline(&mut self, points: &[(f64, f64)], Stroke { color, width, dashes }: Stroke) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let dashes = if dashes.is_empty() { String::new() } else { format!(r#" stroke-dasharray="{dashes}""#) };
        self.push(format_args!(
            r#"<polyline points="{}" fill="none" stroke="{color}" stroke-width="{width}"{dashes}/>"#,
            points.join(" ")
        ));
    }

    /// A filled circle with a white rim, so that neighbours stay apart.
    pub(crate) fn dot(&mut self, (x, y): (f64, f64), radius: f64, fill: &str) {
        self.push(format_args!(
            r##"<circle cx="{x:.1}" cy="{y:.1}" r="{radius:.1}" fill="{fill}" stroke="#ffffff" stroke-width="1.5"/>"##
        ));
    }

    /// Text with a white halo, readable across lines.
    pub(crate) fn text(&mut self, (x, y): (f64, f64), text: &str, style: Style) {
        self.placed_text(&format!(r#"x="{x:.1}" y="{y:.1}""#), text, style);
    }

    /// Text that reads upwards.
    pub(crate) fn upward_text(&mut self, (x, y): (f64, f64), text: &str, style: Style) {
        self.placed_text(&format!(r#"transform="translate({x:.1} {y:.1}) rotate(-90)""#), text, style);
    }

    fn placed_text(&mut self, place: &str, text: &str, Style { size, color, bold, anchor }: Style) {
        let weight = if bold { r#" font-weight="bold""# } else { "" };
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        self.push(format_args!(
            r##"<text {place} font-size="{size}"{weight} text-anchor="{anchor}" fill="{color}" stroke="#ffffff" stroke-width="4" stroke-linejoin="round" paint-order="stroke">{}</text>"##,
            escape(text)
        ));
    }

    /// The whole document.
    pub(crate) fn finish(self) -> String {
        let Self { body, width, height } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" font-family=\"{FONT_FAMILIES}\">\n{body}</svg>\n"
        )
    }

    fn push(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.body, "{element}");
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut svg = Svg::new(100.0, 50.0);
        let style = Style { size: 12.0, color: "#000", bold: true, anchor: Anchor::End };
        svg.text((1.0, 2.0), "a < b & c", style);
        let document = svg.finish();
        assert!(document.contains(">a &lt; b &amp; c</text>"), "{document}");
        assert!(document.contains(r#"viewBox="0 0 100 50""#));
    }
}
