//! `kv-node`: see the library for what it does.

/// A write is a dozen small allocations; see docs/performance.md for what this one saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    kv_node::cli::main()
}
