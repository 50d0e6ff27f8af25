//! The operator's command line: `run`, `crd`, `manifests`, `check`.

use clap::{Parser, Subcommand};
use kv_controller::{check, controller, manifests, settings};
use tracing_subscriber::EnvFilter;

/// The operator of kvcluster: from a KvCluster resource to a leader, its followers and their Services
#[derive(Parser)]
#[command(name = "kv-controller", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator
    Run(Box<settings::Settings>),
    /// Print the CustomResourceDefinition
    Crd,
    /// Print what installs the operator: CRD, namespace, rights, Deployment
    Manifests(manifests::ManifestSettings),
    /// Ask an installed operator whether it works
    Check(check::CheckSettings),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = Cli::parse().command;
    let filter = EnvFilter::try_from_env("LOG_LEVEL").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match command {
        Command::Run(settings) => controller::run(*settings).await,
        Command::Crd => {
            print!("{}", manifests::crd());
            Ok(())
        }
        Command::Manifests(settings) => {
            print!("{}", manifests::print(&settings));
            Ok(())
        }
        Command::Check(settings) => check::run(settings).await,
    }
}
