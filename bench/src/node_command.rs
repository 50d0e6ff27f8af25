//! `kv-bench node`: this executable as a kvcluster node, so that one binary can start a whole cluster.

use std::{io::Read, process::ExitCode, thread};

/// The hidden subcommand's name.
pub const SUBCOMMAND: &str = "node";

/// First argument after [`SUBCOMMAND`]: end when standard input does.
pub const EXIT_WITH_STDIN: &str = "--exit-with-stdin";

/// Runs the node with the settings of this process's environment and of the arguments after `node`.
///
/// With [`EXIT_WITH_STDIN`] it also ends when standard input does. The parent holds the other end and never writes to
/// it. However the parent ends, kill -9 included, the kernel closes that end, the read returns, and this process ends
/// too: no node outlives its bench.
pub fn main() -> ExitCode {
    let is_subcommand = |place: usize| place == 1;
    let kept = std::env::args_os().enumerate().filter(|(place, _)| !is_subcommand(*place));
    let mut arguments: Vec<_> = kept.map(|(_, argument)| argument).collect();
    if arguments.get(1).is_some_and(|argument| argument == EXIT_WITH_STDIN) {
        arguments.remove(1);
        if let Err(error) = thread::Builder::new().name("parent-watch".into()).spawn(exit_with_stdin) {
            eprintln!("failed to watch the parent process: {error}");
            return ExitCode::FAILURE;
        }
    }
    kv_node::cli::main_from(arguments)
}

fn exit_with_stdin() {
    let mut buffer = [0; 64];
    let mut stdin = std::io::stdin().lock();
    while matches!(stdin.read(&mut buffer), Ok(1..)) {}
    std::process::exit(0);
}
