//! `violation.svg` and `.png`: the operations on one key around a violation, a row for each client; faults above.

use crate::check::{
    history::{Action, History, Operation, OperationOutcome},
    violation::{Rule, Violation},
};
use crate::draw::svg::{Anchor, GRID, INK, MUTED, Stroke, Style, Svg};

const WIDTH: f64 = 1500.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 1470.0;
const TOP: f64 = 178.0;
const ROW: f64 = 40.0;
const BAR: f64 = 16.0;
/// Pixels of a character of a label, about.
const LETTER: f64 = 6.4;
/// Characters in a line of the title.
const TITLE_LINE: usize = 150;
/// How much is shown before and after the operations of the violation, in microseconds; more where they take long.
const MARGIN_US: u64 = 120_000;
/// How far the next fault after a lost write is looked for.
const NEXT_FAULT_US: u64 = 3_000_000;

const GUILTY: &str = "#c21d1d";
const FAULT: &str = "#f6d9c9";
const PUT: &str = "#0068ad";
const GET: &str = "#007a5e";
const LOCAL_GET: &str = "#d98200";
const UNKNOWN: &str = "#8a6fb0";
const REFUSED: &str = "#b6bdc5";

/// What is seen of the history.
struct View<'a> {
    history: &'a History,
    from_us: u64,
    to_us: u64,
    /// Numbers of the operations in it, and the row of each.
    shown: Vec<(usize, usize)>,
    clients: Vec<u32>,
    guilty: Vec<usize>,
}

/// The history around the first of `violations`, with all that came out by the same operation, as an SVG document.
pub(super) fn draw(history: &History, violations: &[Violation]) -> String {
    let (Some(violation), view) = (violations.first(), View::around(history, violations)) else {
        return Svg::new(WIDTH, TOP).finish();
    };
    let fault_rows = view.fault_rows();
    let faults_height = 12.0 + 20.0 * fault_rows.iter().map(|(_, row)| row + 1).max().unwrap_or(0) as f64;
    let rows_top = TOP + faults_height;
    let bottom = rows_top + ROW * view.clients.len() as f64;
    let mut svg = Svg::new(WIDTH, bottom + 90.0);
    svg.text((30.0, 44.0), &format!("Violation: {}", violation.rule.words()), plain(24.0, GUILTY).bold());
    let mut y = 74.0;
    let same = violations.iter().filter(|other| is_of_the_same(violation, other));
    for line in same.flat_map(|violation| wrapped(&violation.text)).take(2) {
        svg.text((30.0, y), &line, plain(15.0, INK));
        y += 20.0;
    }
    legend(&mut svg, 128.0);
    view.axis(&mut svg, bottom);
    for (number, row) in fault_rows {
        let fault = &history.faults[number];
        let (from, to) = (view.x(fault.from_us), view.x(fault.to_us));
        svg.rectangle(from, TOP, (to - from).max(2.0), bottom - TOP, FAULT);
        svg.text((from.max(LEFT) + 4.0, TOP + 16.0 + 20.0 * row as f64), &fault.text, plain(13.0, INK));
    }
    for (row, client) in view.clients.iter().enumerate() {
        let y = rows_top + ROW * (row as f64 + 1.0);
        svg.line((LEFT, y), (RIGHT, y), Stroke { color: GRID, width: 1.0, dashes: "" });
        let style = Style { anchor: Anchor::End, ..plain(14.0, MUTED) };
        svg.text((LEFT - 12.0, y - 10.0), &format!("client {client}"), style);
    }
    let mut label_ends = vec![f64::NEG_INFINITY; view.clients.len()];
    for (number, row) in &view.shown {
        view.bar(&mut svg, *number, rows_top + ROW * (*row as f64 + 1.0), &mut label_ends[*row]);
    }
    svg.finish()
}

/// Whether both came out by the same operation.
fn is_of_the_same(first: &Violation, other: &Violation) -> bool {
    first.key == other.key && first.operations.last() == other.operations.last()
}

fn plain(size: f64, color: &'static str) -> Style {
    Style { size, color, bold: false, anchor: Anchor::Start }
}

fn legend(svg: &mut Svg, y: f64) {
    let mut x = 30.0;
    for (color, name) in [
        (GUILTY, "shows the violation"),
        (PUT, "write, acknowledged"),
        (UNKNOWN, "write of unknown outcome"),
        (GET, "read at the leader, or refused by a condition"),
        (LOCAL_GET, "read at a follower"),
        (REFUSED, "refused or failed"),
        (FAULT, "fault"),
    ] {
        svg.rectangle(x, y - 11.0, 14.0, 14.0, color);
        svg.text((x + 20.0, y), name, plain(14.0, INK));
        x += 52.0 + 8.0 * name.chars().count() as f64;
    }
}

impl<'a> View<'a> {
    fn around(history: &'a History, violations: &[Violation]) -> Self {
        let all = &history.operations;
        let (first, key) = (violations.first(), violations.first().and_then(|violation| violation.key.as_deref()));
        let same = violations.iter().filter(|other| first.is_some_and(|first| is_of_the_same(first, other)));
        let guilty: Vec<usize> = same.flat_map(|violation| violation.operations.iter().copied()).collect();
        let end_us = all.iter().map(|operation| operation.ended_us).max().unwrap_or(0);
        let from_us = guilty.iter().map(|number| all[*number].called_us).min();
        let from_us = from_us.unwrap_or(end_us.saturating_sub(1_000_000));
        let mut to_us = guilty.iter().map(|number| all[*number].ended_us).max().unwrap_or(end_us);
        if first.is_some_and(|violation| violation.rule == Rule::InFinalDumps) {
            // It was there, and then something was done to it.
            let next = history.faults.iter().find(|fault| fault.from_us >= to_us);
            to_us = next.map_or(to_us, |fault| fault.to_us.min(to_us + NEXT_FAULT_US));
        }
        let margin_us = MARGIN_US.max((to_us - from_us) / 8);
        let (from_us, to_us) = (from_us.saturating_sub(margin_us), to_us + margin_us);
        let is_shown = |operation: &Operation| {
            let same_key = key.is_none_or(|key| key == &*operation.key);
            same_key && operation.called_us <= to_us && operation.ended_us >= from_us
        };
        let numbers: Vec<usize> = (0..all.len()).filter(|number| is_shown(&all[*number])).collect();
        let mut clients: Vec<u32> = numbers.iter().map(|number| all[*number].client).collect();
        clients.sort_unstable();
        clients.dedup();
        let row = |client: u32| clients.binary_search(&client).unwrap_or(0);
        let mut shown: Vec<(usize, usize)> = numbers.iter().map(|number| (*number, row(all[*number].client))).collect();
        shown.sort_by_key(|(number, _)| (all[*number].called_us, *number));
        // The guilty last: nothing covers them.
        shown.sort_by_key(|(number, _)| guilty.contains(number));
        Self { history, from_us, to_us, shown, clients, guilty }
    }

    fn x(&self, at_us: u64) -> f64 {
        let at_us = at_us.clamp(self.from_us, self.to_us);
        LEFT + (RIGHT - LEFT) * (at_us - self.from_us) as f64 / (self.to_us - self.from_us) as f64
    }

    /// The faults in sight, each with a row in which its name covers no other's.
    fn fault_rows(&self) -> Vec<(usize, usize)> {
        let mut ends: Vec<f64> = Vec::new();
        let mut rows = Vec::new();
        for (number, fault) in self.history.faults.iter().enumerate() {
            if fault.from_us > self.to_us || fault.to_us < self.from_us {
                continue;
            }
            let start = self.x(fault.from_us);
            let row = ends.iter().position(|end| *end < start).unwrap_or(ends.len());
            let end = start + 12.0 + 7.2 * fault.text.chars().count() as f64;
            if row == ends.len() {
                ends.push(end)
            } else {
                ends[row] = end
            }
            rows.push((number, row));
        }
        rows
    }

    fn axis(&self, svg: &mut Svg, bottom: f64) {
        let step_us = step_us(self.to_us - self.from_us);
        let mut at_us = self.from_us.div_ceil(step_us) * step_us;
        while at_us <= self.to_us {
            let x = self.x(at_us);
            svg.line((x, TOP), (x, bottom + 6.0), Stroke { color: GRID, width: 1.0, dashes: "" });
            let label = format!("{:.*}", if step_us < 1_000_000 { 2 } else { 0 }, at_us as f64 / 1e6);
            svg.text((x, bottom + 26.0), &label, Style { anchor: Anchor::Middle, ..plain(14.0, MUTED) });
            at_us += step_us;
        }
        let name = Style { anchor: Anchor::Middle, ..plain(15.0, INK) };
        svg.text(((LEFT + RIGHT) / 2.0, bottom + 56.0), "seconds since the check began", name);
    }

    /// One operation from its call to its end, on the line at `y`; its words above it where there is room.
    fn bar(&self, svg: &mut Svg, number: usize, y: f64, label_end: &mut f64) {
        let operation = &self.history.operations[number];
        let is_guilty = self.guilty.contains(&number);
        let color = if is_guilty { GUILTY } else { color(operation) };
        let (from, to) = (self.x(operation.called_us), self.x(operation.ended_us));
        svg.rectangle(from, y - BAR - 2.0, (to - from).max(2.0), BAR, color);
        if operation.outcome == OperationOutcome::Unknown {
            // It may take effect long after its client gave up.
            let middle = y - BAR / 2.0 - 2.0;
            svg.line((to, middle), ((to + 60.0).min(RIGHT), middle), Stroke { color, width: 2.0, dashes: "4 4" });
        }
        let words = label(operation, is_guilty);
        let width = LETTER * words.chars().count() as f64;
        let start = from.min(RIGHT - width);
        if is_guilty || start > *label_end {
            let style = if is_guilty { plain(12.0, GUILTY).bold() } else { plain(11.0, MUTED) };
            svg.text((start, y - BAR - 6.0), &words, style);
            *label_end = start + width + 6.0;
        }
    }
}

fn color(operation: &Operation) -> &'static str {
    match (operation.action, operation.outcome) {
        (_, OperationOutcome::NotApplied | OperationOutcome::Failed) => REFUSED,
        (_, OperationOutcome::Unknown) => UNKNOWN,
        (Action::Put | Action::Increment | Action::Delete, _) => PUT,
        (Action::Get | Action::Unmet, _) => GET,
        (Action::LocalGet, _) => LOCAL_GET,
    }
}

/// Short for bystanders, in full for the guilty.
fn label(operation: &Operation, is_guilty: bool) -> String {
    if is_guilty {
        return operation.words();
    }
    let value = match (operation.by, operation.value.as_deref()) {
        (Some(by), Some(sum)) => format!("{by:+} → {sum}"),
        (Some(by), None) => format!("{by:+}"),
        (None, value) => value.unwrap_or("none").to_owned(),
    };
    match operation.seq.filter(|_| operation.is_answered()) {
        Some(seq) => format!("{value} #{seq}"),
        None => value,
    }
}

/// A round step that makes about ten marks.
fn step_us(span_us: u64) -> u64 {
    let rough = span_us / 12 + 1;
    let steps = (4..14).flat_map(|power| [1, 2, 5].map(|factor| factor * 10_u64.pow(power)));
    steps.into_iter().find(|step| *step >= rough).unwrap_or(rough)
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().filter(|line| line.chars().count() + word.chars().count() < TITLE_LINE);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{
        history::FaultRecord,
        testing::{get, history, put, unknown},
        verdict::judge,
    };

    /// The guilty read is drawn in red, what is far away is not drawn, and nothing leaves the picture.
    #[test]
    fn the_guilty_ones_are_red_and_everything_is_inside() {
        let mut history = history(vec![
            put("k", "long-ago", 1, (1_000, 9_000)),
            put("k", "kept", 2, (30_000_000, 30_020_000)),
            put("other", "elsewhere", 1, (30_000_000, 30_020_000)),
            unknown("k", "late", (30_010_000, 30_200_000)),
            get("k", "long-ago", 1, (30_050_000, 30_060_000)),
        ]);
        let text = "all nodes killed".to_owned();
        let record =
            FaultRecord { kind: "all", text, round: 1, from_us: 30_021_000, to_us: 30_040_000, recovered_us: Some(5) };
        history.faults.push(record);
        let verdict = judge(&history);
        let drawing = draw(&history, &verdict.violations);
        assert!(drawing.contains("get → long-ago (seq 1)") && drawing.contains("all nodes killed"), "{drawing}");
        assert!(!drawing.contains("elsewhere"), "another key");
        let document = resvg::usvg::roxmltree::Document::parse(&drawing).expect("well-formed");
        let height: f64 = document.root_element().attribute("height").expect("a height").parse().expect("a number");
        let bars = document.descendants().filter(|node| node.has_tag_name("rect"));
        let mut red = 0;
        for bar in bars {
            let number = |name: &str| bar.attribute(name).expect("set").parse::<f64>().expect("a number");
            assert!(number("x") >= 0.0 && number("x") + number("width") <= WIDTH + 2.0);
            assert!(number("y") >= 0.0 && number("y") + number("height") <= height);
            red += usize::from(bar.attribute("fill") == Some(GUILTY));
        }
        assert_eq!(red, 1 + 1 + 1, "the read, the write that it should have shown, the legend");
        assert!(crate::draw::rasterize(&drawing).expect("rendered").starts_with(b"\x89PNG"));
    }

    #[test]
    fn steps_are_round_and_lines_are_short() {
        for span_us in [240_000, 1_000_000, 7_500_000, 600_000_000] {
            assert!((4..=13).contains(&(span_us / step_us(span_us))), "{span_us}");
        }
        let lines = wrapped(&"word ".repeat(100));
        assert!(lines.len() > 2 && lines.iter().all(|line| line.chars().count() <= TITLE_LINE));
    }
}
