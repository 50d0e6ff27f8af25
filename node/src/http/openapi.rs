//! `GET /openapi.yaml`: the description of these routes, for generators of clients and for testers.

use axum::http::header;
use axum::response::IntoResponse;

/// The path of the description.
pub(super) const PATH: &str = "/openapi.yaml";

const DESCRIPTION: &str = include_str!("openapi.yaml");

/// `GET /openapi.yaml` at every node.
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/yaml")], DESCRIPTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_the_version_of_the_program() {
        let version = format!("\n  version: {}\n", env!("CARGO_PKG_VERSION"));
        assert!(DESCRIPTION.contains(&version), "{version:?}");
    }
}
