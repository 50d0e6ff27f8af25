//! Where the cluster under test comes from: one file per way, all ending in a [`Target`].

mod compose;
#[cfg(feature = "kubernetes")]
mod kube;
mod local;
mod remote;
#[cfg(feature = "kubernetes")]
mod tunnel;

#[cfg(feature = "kubernetes")]
pub(crate) use self::kube::Way;
#[cfg(feature = "kubernetes")]
pub use self::kube::kube;
pub use self::{compose::compose, local::local, remote::remote};
use crate::control::Control;

/// A running cluster to measure. What keeps it running is released when this is dropped.
pub struct Target {
    /// What it is, for the reports: "local processes", "docker compose", …
    pub description: String,
    /// Where the leader is, `http://host:port`.
    pub leader_url: String,
    /// Where the followers are; empty when their answers are not to be compared.
    pub follower_urls: Vec<String>,
    /// Bearer token for changing settings, where the cluster asks for one.
    pub token: Option<String>,
    /// Whom the sweep asks for a quorum.
    pub control: Control,
    /// Processes, tunnels and the like; dropping it ends them.
    held: Option<Box<dyn Send>>,
}

impl Target {
    /// A target that runs by itself, and whose leader takes its settings from whoever asks.
    pub fn standing(description: &str, leader_url: String, follower_urls: Vec<String>, token: Option<String>) -> Self {
        let control = Control::Leader;
        Self { description: description.to_owned(), leader_url, follower_urls, token, control, held: None }
    }

    /// The same target, its settings in the hands of someone else than its leader.
    pub fn controlled(self, control: Control) -> Self {
        Self { control, ..self }
    }

    /// The same target, keeping `guard` for as long as it lives.
    pub fn holding(self, guard: impl Send + 'static) -> Self {
        Self { held: Some(Box::new(guard)), ..self }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Target")
            .field("description", &self.description)
            .field("leader_url", &self.leader_url)
            .field("follower_urls", &self.follower_urls)
            .field("control", &self.control)
            .field("held", &self.held.is_some())
            .finish_non_exhaustive()
    }
}
