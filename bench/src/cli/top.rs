//! `kv-bench top`: which cluster → its events → frames, until a key ends it.

use std::{
    io::{self, IsTerminal},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::timeout,
};

use super::cluster::RunningArguments;
use crate::{
    cluster::RunningCluster,
    interrupt::EXIT_INTERRUPTED,
    output::{WrongUsage, print},
    top::{
        feed::{self, Event},
        model::Model,
        view,
    },
};

pub(super) const AFTER_HELP: &str = "\
Keys: q, Esc or Ctrl-C end it. A leader that is replaced is followed by the next one.
Exit codes: 0 ended by a key, or one frame was printed; 1 failed (the reason is the last line); 2 wrong usage; 130 ended by a
signal.";

const DEFAULT_LEADER: &str = "http://localhost:8000";
/// Updates before one frame is printed: a second, so that writes per second are counted.
const ONCE_UPDATES: usize = 5;
/// How long the first of them may take.
const ONCE_PATIENCE: Duration = Duration::from_secs(10);
const ONCE_COLUMNS: u16 = 120;
/// Events and keys that wait for the next frame.
const WAITING_MAX: usize = 16;

/// Which cluster, and how it is shown.
#[derive(Clone, Debug, Args)]
pub struct TopArguments {
    #[command(flatten)]
    cluster: RunningArguments,

    /// Print one frame as text after a second, and end
    #[arg(long)]
    once: bool,
}

/// Shows the cluster until a key ends it.
///
/// # Errors
/// When the cluster cannot be reached at all, or there is no terminal to draw on.
pub(super) fn main(arguments: &TopArguments) -> Result<u8> {
    if !arguments.once && !io::stdout().is_terminal() {
        return Err(WrongUsage::error("standard output is no terminal: --once prints one frame"));
    }
    super::run(async {
        let mut wanted = arguments.cluster.clone();
        if !wanted.is_named() {
            wanted.leader = Some(DEFAULT_LEADER.to_owned());
        }
        let cluster = wanted.reach().await?.context("no cluster is named")?;
        let (sender, events) = mpsc::channel(WAITING_MAX);
        let watched = async { if arguments.once { once(events).await } else { on_the_screen(events).await } };
        tokio::select! {
            ended = feeding(&cluster, sender) => ended,
            ended = watched => ended,
        }
    })
}

/// Feeds without end; the other side decides when it is over.
async fn feeding(cluster: &RunningCluster, sender: mpsc::Sender<Event>) -> Result<u8> {
    feed::follow(cluster, sender).await?;
    std::future::pending().await
}

async fn once(mut events: mpsc::Receiver<Event>) -> Result<u8> {
    let mut model = Model::default();
    for _ in 0..ONCE_UPDATES {
        let event = timeout(ONCE_PATIENCE, events.recv()).await.context("the leader is silent")?;
        match event.context("there are no events")? {
            Event::Lost(reason) => return Err(anyhow::anyhow!(reason)),
            update @ Event::Update(..) => model.apply(update),
        }
    }
    print(&view::text(&model, ONCE_COLUMNS));
    Ok(0)
}

/// The terminal while this program draws on it. Dropped, it is as it was before, and so it is after a panic.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

async fn on_the_screen(mut events: mpsc::Receiver<Event>) -> Result<u8> {
    let Screen(terminal) = &mut Screen(ratatui::try_init().context("failed to draw on the terminal")?);
    let (mut interrupted, mut terminated) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut keys = keys();
    let mut model = Model::default();
    loop {
        terminal.draw(|frame| view::draw(frame, &model)).context("failed to draw on the terminal")?;
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    // A way to a KvCluster reports what fails on standard error, which is on this screen.
                    if matches!(event, Event::Lost(_)) {
                        terminal.clear().context("failed to draw on the terminal")?;
                    }
                    model.apply(event);
                }
                None => return Ok(0),
            },
            key = keys.recv() => match key {
                Some(Key::Ends) => return Ok(0),
                Some(Key::Redraws) => {}
                None => return Err(anyhow::anyhow!("failed to read keys from the terminal")),
            },
            _ = interrupted.recv() => return Ok(EXIT_INTERRUPTED),
            _ = terminated.recv() => return Ok(EXIT_INTERRUPTED),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Ends,
    /// The size of the terminal is another one.
    Redraws,
}

/// Keys, from a thread of their own: a read of a terminal cannot be cancelled.
fn keys() -> mpsc::Receiver<Key> {
    let (sender, keys) = mpsc::channel(WAITING_MAX);
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if meaning(&event).is_some_and(|key| sender.blocking_send(key).is_err()) {
                return;
            }
        }
    });
    keys
}

fn meaning(event: &event::Event) -> Option<Key> {
    match event {
        event::Event::Key(KeyEvent { code, modifiers, kind: KeyEventKind::Press, .. }) => match code {
            KeyCode::Char('q') | KeyCode::Esc => Some(Key::Ends),
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Ends),
            _ => None,
        },
        event::Event::Resize(..) => Some(Key::Redraws),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q_escape_and_control_c_end_it() {
        let key = |code, modifiers| meaning(&event::Event::Key(KeyEvent::new(code, modifiers)));
        for (code, modifiers, expected) in [
            (KeyCode::Char('q'), KeyModifiers::NONE, Some(Key::Ends)),
            (KeyCode::Esc, KeyModifiers::NONE, Some(Key::Ends)),
            (KeyCode::Char('c'), KeyModifiers::CONTROL, Some(Key::Ends)),
            (KeyCode::Char('c'), KeyModifiers::NONE, None),
            (KeyCode::Enter, KeyModifiers::NONE, None),
        ] {
            assert_eq!(key(code, modifiers), expected, "{code:?} {modifiers:?}");
        }
    }
}
