//! The cluster of `deploy/docker-compose.yml`: leader on port 8000, followers on 8001-8005.

use super::Target;

/// The compose cluster, which must be up already.
pub fn compose(token: Option<String>) -> Target {
    let followers = (8001..=8005).map(|port| format!("http://localhost:{port}")).collect();
    Target::standing("docker compose", "http://localhost:8000".to_owned(), followers, token)
}
