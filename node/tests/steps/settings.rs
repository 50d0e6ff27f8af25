//! What a wrong setting does: it ends the start.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_kv-node");

/// Goal: a setting that cannot be ends the start, with status 2 and one line that names the values.
#[test]
fn a_contradiction_ends_the_start_with_one_line() {
    let three = "http://127.0.0.1:1,http://127.0.0.1:2,http://127.0.0.1:3";
    let table: &[(&[(&str, &str)], &str)] = &[
        (&[("FOLLOWERS", three), ("WRITE_QUORUM", "4")], "the write quorum (4) is above the number of followers (3)"),
        (
            &[("FOLLOWERS", three), ("MIN_DELAY_MS", "201")],
            "the minimum delay (201 ms) is above the maximum delay (200 ms)",
        ),
        (&[("FOLLOWERS", "")], "FOLLOWERS is empty"),
        (&[("FOLLOWERS", three), ("PORT", "http")], "invalid value 'http' for '--port <PORT>'"),
        (&[("FOLLOWERS", three), ("PORT", "70000")], "70000 is not in 0..=65535"),
        (&[("FOLLOWERS", three), ("WRITE_QUORUM", "-1")], "invalid value '-1' for '--write-quorum <WRITE_QUORUM>'"),
        (
            &[("FOLLOWERS", three), ("MIN_DELAY_MS", "100"), ("REPLICATION_TIMEOUT_MS", "100")],
            "the minimum delay (100 ms) is not below the replication timeout (100 ms)",
        ),
        (&[("FOLLOWERS", "http://127.0.0.1:1/path")], "\"http://127.0.0.1:1/path\", which has a path"),
        (
            &[("ROLE", "follower"), ("VALUE_BYTES_MAX", "67108864")],
            "KEY_BYTES_MAX (4096) and VALUE_BYTES_MAX (67108864) together are above 66060288 bytes",
        ),
        (&[("ROLE", "chief")], "invalid value 'chief' for '--role <ROLE>'"),
        (&[("FOLLOWERS", three), ("LOG_LEVEL", "=loud")], "LOG_LEVEL==loud is no filter"),
    ];
    for (settings, expected) in table {
        let mut command = Command::new(PROGRAM);
        command.env_clear().env("ROLE", "leader").envs(settings.iter().copied());
        let output = ended(command, settings);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{settings:?}: {message}");
        assert!(message.contains(expected), "{settings:?}: {message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{settings:?}: {message}");
    }
}

/// The output of a program that ends by itself. One that starts to serve is killed, and the test fails.
fn ended(mut command: Command, settings: &[(&str, &str)]) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().expect("a child").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("killed");
            panic!("{settings:?} were accepted");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().expect("its output")
}
