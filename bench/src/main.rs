//! kv-bench: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kv_bench::cli::main()
}
