//! kv-bench: see the library.

use std::process::ExitCode;

/// The same as the node's: a local cluster's nodes are processes of this program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kv_bench::cli::main()
}
