//! `kv-controller check`: whether an installed operator works. `helm test` runs it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use kube::api::ListParams;
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use kvcluster_api::resource::KvCluster;

/// The settings of `kv-controller check`.
#[derive(Clone, Debug, Args)]
pub struct CheckSettings {
    /// The operator's URL, such as http://kvcluster:8080
    #[arg(long, env = "OPERATOR_URL")]
    pub url: String,
    /// The namespace to list KvClusters in
    #[arg(long, env, default_value = "default")]
    pub namespace: String,
    /// How long one request may take, in milliseconds
    #[arg(long, env, default_value_t = 5000)]
    pub timeout_ms: u64,
}

/// Asks the operator for its health, and the API server for the KvClusters.
///
/// # Errors
/// When either does not answer or answers with an error, with the cause.
pub async fn run(settings: CheckSettings) -> anyhow::Result<()> {
    let http = reqwest::Client::builder().timeout(Duration::from_millis(settings.timeout_ms)).no_proxy().build()?;
    let url = format!("{}/healthz", settings.url.trim_end_matches('/'));
    let response = http.get(&url).send().await.with_context(|| format!("failed to reach the operator at {url}"))?;
    let status = response.status();
    if !status.is_success() {
        bail!("the operator is not healthy: {status}: {}", response.text().await.unwrap_or_default());
    }
    let client = Client::try_default().await.context("failed to find the API server")?;
    let clusters: Api<DeserializeGuard<KvCluster>> = Api::namespaced(client, &settings.namespace);
    let found = clusters.list(&ListParams::default()).await.context("failed to list KvClusters")?;
    println!("the operator is healthy; {} KvClusters in {}", found.items.len(), settings.namespace);
    Ok(())
}
