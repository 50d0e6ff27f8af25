//! `kv-node`: see the library for what it does.

fn main() -> std::process::ExitCode {
    kv_node::cli::main()
}
