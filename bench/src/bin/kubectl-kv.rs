//! kubectl-kv: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kv_bench::kubectl::main()
}
