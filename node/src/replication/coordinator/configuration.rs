//! Requests of operators: configuration, and the acceptance of data loss.

use std::sync::Arc;
use std::time::Duration;

use kvcluster_api::config::{ConfigError, LiveConfig};
use tokio::sync::watch;
use tracing::info;

use super::{Coordinator, State};

impl Coordinator {
    /// The cluster was open before: if all its followers are blank, the leader waits instead of opening empty.
    pub(crate) fn expect_state(self: &Arc<Self>) {
        self.step(|state| state.core.expect_state());
    }

    /// The cluster starts from a backup: until a restore has ended in it, the leader serves no client.
    pub(crate) fn await_restore(self: &Arc<Self>) {
        self.step(|state| state.core.await_restore());
    }

    /// Opens with the records of the followers that answered. Returns false if the leader is not
    /// recovering.
    pub(crate) fn accept_loss(self: &Arc<Self>) -> bool {
        self.step(|state| state.core.accept_loss())
    }

    /// Generation of the configuration in force.
    pub(crate) fn generation_in_force(&self) -> u64 {
        self.look(|state| state.in_force.generation)
    }

    /// How long a request waits before its outcome is unknown.
    pub(crate) fn replication_timeout(&self) -> Duration {
        self.look(|state| state.in_force.replication_timeout())
    }

    /// Reports every change of the configuration in force, and of whether the leader is open.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Requests the configuration that `decide` makes of the newest requested one. Concurrent calls
    /// are serialised, so no two of them change the same configuration. Returns the generation of
    /// the new configuration, which is in force once [`Coordinator::generation_in_force`] reaches
    /// it.
    ///
    /// # Errors
    /// The error of `decide`, or a [`ConfigError`] if the configuration contradicts itself. Nothing
    /// has changed then.
    pub fn configure<E: From<ConfigError>>(
        self: &Arc<Self>,
        decide: impl FnOnce(&LiveConfig) -> Result<LiveConfig, E>,
    ) -> Result<u64, E> {
        self.step(|state| {
            let wanted = decide(&state.wanted)?;
            wanted.check()?;
            if wanted.followers != state.wanted.followers {
                for follower in state.core.followers(0) {
                    if !is_member(&follower.name, wanted.followers) {
                        state.core.retire(follower.slot);
                    } else if follower.retired {
                        state.core.declare(&follower.name);
                    }
                }
            }
            state.core.set(wanted.write_quorum, wanted.followers, &wanted);
            // Delays and timeouts need no quorum; they apply from the next write on.
            state.in_force.min_delay_ms = wanted.min_delay_ms;
            state.in_force.max_delay_ms = wanted.max_delay_ms;
            state.in_force.delay = wanted.delay.clone();
            state.in_force.replication_timeout_ms = wanted.replication_timeout_ms;
            let generation = wanted.generation;
            state.wanted = wanted;
            self.settle(state);
            Ok(generation)
        })
    }

    /// Records the configuration that came into force.
    pub(super) fn settle(&self, state: &mut State) {
        if state.core.is_open() && state.core.settled() && state.in_force != state.wanted {
            state.in_force = state.wanted.clone();
            let LiveConfig { generation, write_quorum, followers, min_delay_ms, max_delay_ms, .. } = state.in_force;
            info!(generation, write_quorum, followers, min_delay_ms, max_delay_ms, "configuration in force");
        } else if let Some(config) = state.core.config() {
            state.in_force.write_quorum = config.quorum;
            state.in_force.followers = config.size;
        }
        self.changed.send_modify(|changes| *changes += 1);
    }
}

/// Whether a name is declared when there are `count` followers. A name that ends in a number, as a StatefulSet's pods
/// have, is declared when the number is below the count; any other name is, as long as a slot is free.
pub(super) fn is_member(name: &str, count: u16) -> bool {
    let ordinal = name.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse::<u32>().ok());
    ordinal.is_none_or(|ordinal| ordinal < u32::from(count))
}

#[cfg(test)]
mod tests {
    use super::is_member;

    #[test]
    fn places_are_numbered_from_zero() {
        assert!(is_member("demo-follower-0", 1));
        assert!(is_member("demo-follower-4", 5));
        assert!(!is_member("demo-follower-5", 5));
        assert!(is_member("laptop", 1));
    }
}
