//! Draws what is known, on any terminal of ratatui.

use kvcluster_api::status::{FollowerState, FollowerView, LeaderState};
use ratatui::{
    Frame, Terminal,
    backend::TestBackend,
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Sparkline, Table},
};

use super::{
    feed::Update,
    model::{Level, Measured, Model, level},
};
use crate::theory::{QuorumDelay, delays_name};

/// The rows above the followers.
const HEAD_ROWS: u16 = 12;

/// Draws one frame.
pub fn draw(frame: &mut Frame<'_>, model: &Model) {
    let [top, rates, table, foot] = Layout::vertical([
        Constraint::Length(HEAD_ROWS - 2),
        Constraint::Length(2),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let Some(update) = &model.update else {
        frame.render_widget(Paragraph::new(status_line(model, None)), top);
        return frame.render_widget(foot_line(), foot);
    };
    let mut lines = vec![status_line(model, Some(update))];
    lines.extend(settings_lines(update));
    lines.push(Line::default());
    lines.extend(latency_lines(model.measured(), model.theory.as_ref()));
    lines.push(Line::default());
    lines.push(writes_line(model, update));
    frame.render_widget(Paragraph::new(lines), top);
    let shown = usize::from(rates.width);
    let from = model.rates.len().saturating_sub(shown);
    frame.render_widget(Sparkline::default().data(model.rates.iter().skip(from)).style(Color::Blue), rates);
    frame.render_widget(followers(update), table);
    frame.render_widget(foot_line(), foot);
}

/// One frame as text, without colours, so wide and as high as its contents.
pub fn text(model: &Model, width: u16) -> String {
    let followers = model.update.as_ref().map_or(0, |update| update.status.followers.len());
    let height = HEAD_ROWS + 2 + u16::try_from(followers).unwrap_or(u16::MAX / 2);
    let backend = TestBackend::new(width, height);
    // A frame in memory cannot fail.
    let Ok(mut terminal) = Terminal::new(backend);
    let Ok(_) = terminal.draw(|frame| draw(frame, model));
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width)).map(|row| {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned() + "\n"
    });
    // The last row says which key ends the program.
    let count = usize::from(height - 1);
    rows.take(count).collect()
}

fn status_line<'a>(model: &'a Model, update: Option<&'a Update>) -> Line<'a> {
    let mut spans = vec!["kvcluster  ".bold()];
    if let Some(Update { status, .. }) = update {
        let is_open = status.state == LeaderState::Open && status.message.is_empty() && model.lost.is_none();
        spans.push(Span::styled(status.state.to_string(), if is_open { Color::Green } else { Color::Red }));
        let term = status.epoch.as_ref().map_or_else(|| "–".to_owned(), |epoch| epoch.term.to_string());
        let leader = if status.name.is_empty() { &model.leader } else { &status.name };
        spans.push(format!("  {leader} leads at {}, epoch {term}, {} keys", model.leader, status.keys).into());
        if !status.message.is_empty() {
            spans.push(format!("  {}", status.message).red());
        }
    }
    match (&model.lost, update) {
        (Some(reason), _) => spans.push(format!("  not live: {reason}").red().bold()),
        (None, None) => spans.push("connecting …".into()),
        (None, Some(_)) => {}
    }
    Line::from(spans)
}

fn settings_lines(update: &Update) -> Vec<Line<'_>> {
    let config = &update.status.config.in_force;
    let tolerates = &update.status.tolerates;
    let by = update.kvcluster.as_ref().map(|name| format!(", as the KvCluster {name} has it")).unwrap_or_default();
    let delays = delays_name(config.delay.as_deref(), config.min_delay_ms, config.max_delay_ms);
    let mut lines = vec![
        Line::from(vec![
            format!("W = {} of {}", config.write_quorum, config.followers).bold(),
            format!(", delays {delays}{by}").into(),
        ]),
        Line::from(format!(
            "{} may be down before writes stop, {} may be lost without losing a committed write",
            plural(tolerates.followers_down, "follower"),
            plural(tolerates.disks_lost, "disk")
        )),
    ];
    if let Some(pending) = &update.status.config.pending {
        lines.push(Line::from(format!("a change is on its way: {}", pending.message).yellow()));
    }
    lines
}

fn plural(count: u16, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Measured and in theory, in columns.
fn latency_lines(measured: Option<Measured>, theory: Option<&QuorumDelay>) -> Vec<Line<'static>> {
    let ms = |value: f64| if value >= 100.0 { format!("{value:.0} ms") } else { format!("{value:.1} ms") };
    let row = |name: &str, mean: String, median: String, p99: String, rest: String| {
        Line::from(format!("{name:<18}{mean:>12}{median:>12}{p99:>12}  {rest}").trim_end().to_owned())
    };
    let none = || "–".to_owned();
    let measured = match measured {
        Some(Measured { count, mean_ms, error_ms, median_ms, p99_ms }) => {
            let rest = format!("of {count} writes, mean ± {error_ms:.1}");
            row("latency measured", ms(mean_ms), ms(median_ms), ms(p99_ms), rest)
        }
        None => row("latency measured", none(), none(), none(), "no write yet".to_owned()),
    };
    let theory = match theory {
        Some(law) => {
            row("  in theory", ms(law.mean_ms()), ms(law.quantile_ms(0.5)), ms(law.quantile_ms(0.99)), String::new())
        }
        None => row("  in theory", none(), none(), none(), String::new()),
    };
    let head = row("", "mean".to_owned(), "median".to_owned(), "99 %".to_owned(), String::new());
    vec![head.style(Style::new().dim()), measured, theory]
}

fn writes_line(model: &Model, update: &Update) -> Line<'static> {
    let writes = &update.status.writes;
    let rate = model.per_second();
    let rate = if rate >= 10.0 { format!("{rate:.0}") } else { format!("{rate:.1}") };
    Line::from(vec![
        format!("{rate} writes/s").bold(),
        format!(
            ", {} committed by this leader, {} without their quorum, {} not yet at every follower",
            writes.committed, writes.in_flight, writes.backlog
        )
        .into(),
    ])
}

fn followers(update: &Update) -> Table<'_> {
    let config = &update.status.config.in_force;
    let rows = update.status.followers.iter().map(|follower| {
        let color = match level(follower, config) {
            Level::Up => Color::Green,
            Level::Behind => Color::Yellow,
            Level::Down => Color::Red,
        };
        let age = if follower.lag_writes > 0 { format!("{:.0} ms", follower.lag_ms) } else { "–".to_owned() };
        Row::new([
            Cell::from(follower.name.trim_start_matches("http://").trim_start_matches("https://")),
            Cell::from(state(follower, level(follower, config))).style(color),
            Cell::from(Line::from(follower.lag_writes.to_string()).right_aligned()),
            Cell::from(Line::from(age).right_aligned()),
            Cell::from(note(follower)),
        ])
    });
    let widths = [
        Constraint::Max(32),
        Constraint::Length(12),
        Constraint::Length(13),
        Constraint::Length(14),
        Constraint::Min(10),
    ];
    let head = ["FOLLOWER", "STATE", "WRITES BEHIND", "OLDEST OF THEM", "NOTE"];
    Table::new(rows, widths).header(Row::new(head).dim()).column_spacing(2)
}

fn state(follower: &FollowerView, shown: Level) -> &'static str {
    match (shown, follower.state) {
        (Level::Down, _) => "down",
        (_, FollowerState::Streaming) if shown == Level::Behind => "behind",
        (_, FollowerState::Streaming) => "streaming",
        (_, FollowerState::Connecting) => "connecting",
        (_, FollowerState::Installing) => "installing",
        _ => "unknown",
    }
}

fn note(follower: &FollowerView) -> &str {
    match (follower.retiring, follower.member) {
        (true, _) => "leaves the cluster",
        (false, false) => "does not count yet",
        (false, true) => follower.last_error.as_deref().unwrap_or_default(),
    }
}

fn foot_line() -> Paragraph<'static> {
    Paragraph::new("q or Ctrl-C ends it".dim())
}

#[cfg(test)]
mod tests {
    use ratatui::buffer::Buffer;

    use super::*;
    use crate::top::testing::{after, update};

    fn drawn(model: &Model) -> Buffer {
        let Ok(mut terminal) = Terminal::new(TestBackend::new(110, 18));
        let Ok(_) = terminal.draw(|frame| draw(frame, model));
        terminal.backend().buffer().clone()
    }

    /// The colour of a word on the screen.
    fn color_of(buffer: &Buffer, word: &str) -> Color {
        let (columns, first) = (usize::from(buffer.area.width), word.chars().next().expect("a letter").to_string());
        let cells = buffer.content();
        let found = (0..cells.len()).find(|&at| {
            let line: String =
                cells[at..cells.len().min((at / columns + 1) * columns)].iter().map(|cell| cell.symbol()).collect();
            cells[at].symbol() == first && line.starts_with(word)
        });
        cells[found.unwrap_or_else(|| panic!("no {word} in {buffer:?}"))].fg
    }

    #[test]
    fn a_frame_shows_settings_latencies_and_followers() {
        let model =
            after([update(0.0, 100, &[]), update(2_000.0, 300, &[(90_000, 110_000, 60), (140_000, 160_000, 140)])]);
        let text = text(&model, 110);
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        for line in [
            "kvcluster  open  leader leads at http://leader:8000, epoch 3, 42 keys",
            "W = 2 of 3, delays 0-200 ms, as the KvCluster shop/demo has it",
            "1 follower may be down before writes stop, 1 disk may be lost without losing a committed write",
            "latency measured 135 ms 150 ms 150 ms of 200 writes, mean ± 3.2",
            "in theory 133 ms 141 ms 199 ms",
            "100 writes/s, 300 committed by this leader, 4 without their quorum, 7 not yet at every follower",
            "f1:8001 streaming 0 –",
            "f2:8002 down 9 1234 ms connection refused",
            "f3:8003 behind 2 1234 ms",
        ] {
            assert!(text.lines().any(|shown| words(shown) == words(line)), "no {line:?} in\n{text}");
        }
        assert!(text.lines().all(|line| line.trim_end() == line) && !text.contains("Ctrl-C"), "{text}");
    }

    #[test]
    fn what_is_down_is_red_and_what_is_behind_yellow() {
        let buffer = drawn(&after([update(0.0, 100, &[])]));
        assert_eq!(color_of(&buffer, "open"), Color::Green);
        assert_eq!(color_of(&buffer, "streaming"), Color::Green);
        assert_eq!(color_of(&buffer, "down   "), Color::Red);
        assert_eq!(color_of(&buffer, "behind"), Color::Yellow);
    }

    #[test]
    fn what_was_lost_is_reported_beside_what_was_known() {
        let mut model = after([update(0.0, 100, &[])]);
        model.apply(crate::top::feed::Event::Lost("failed to reach http://leader:8000".to_owned()));
        let buffer = drawn(&model);
        assert_eq!(color_of(&buffer, "not live: failed to reach"), Color::Red);
        assert_eq!(color_of(&buffer, "open"), Color::Red);
        assert!(text(&Model::default(), 80).starts_with("kvcluster  connecting …\n"));
    }
}
