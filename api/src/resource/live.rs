//! Converts a spec to the values that a leader uses.

use std::ops::RangeInclusive;

use super::{Delay, KvCluster, capped};
use crate::config::{ConfigError, FOLLOWERS_MAX, LiveConfig};

/// The longest delay and the longest replication timeout of a KvCluster, in milliseconds: ten minutes.
const MILLISECONDS_MAX: u32 = 600_000;

/// The most standbys of a KvCluster.
const STANDBYS_MAX: u16 = 4;

impl KvCluster {
    /// The values that the spec asks a leader to use, with the generation of the spec.
    ///
    /// The API server refuses contradictions by the rules of the CRD. A resource may still break them: it was stored
    /// before a rule existed, or the CRD in the cluster is an older one.
    ///
    /// # Errors
    /// [`ConfigError`] with a sentence that names the fields of the spec and their values.
    pub fn live_config(&self) -> Result<LiveConfig, ConfigError> {
        let spec = &self.spec;
        let Delay { min_ms, max_ms, .. } = &spec.delay;
        let uniform = Delay::default();
        let bound = |given: &Option<i32>, default: Option<i32>| given.or(default).unwrap_or_default();
        let (min_ms, max_ms) = match spec.delay.is_uniform() {
            true => (bound(min_ms, uniform.min_ms), bound(max_ms, uniform.max_ms)),
            // The law has bounds of its own.
            false => (0, 0),
        };
        let mut config = LiveConfig {
            generation: self.metadata.generation.and_then(|generation| u64::try_from(generation).ok()).unwrap_or(0),
            write_quorum: within("writeQuorum", spec.write_quorum, 1..=FOLLOWERS_MAX)?,
            followers: within("replicas", spec.replicas, 1..=FOLLOWERS_MAX)?,
            min_delay_ms: within("delay.minMs", min_ms, 0..=MILLISECONDS_MAX)?,
            max_delay_ms: within("delay.maxMs", max_ms, 0..=MILLISECONDS_MAX)?,
            delay: None,
            replication_timeout_ms: within("replicationTimeoutMs", spec.replication_timeout_ms, 1..=MILLISECONDS_MAX)?,
        };
        if config.write_quorum > config.followers {
            let (write_quorum, replicas) = (spec.write_quorum, spec.replicas);
            return Err(ConfigError(format!("writeQuorum {write_quorum} is greater than replicas {replicas}")));
        }
        if min_ms > max_ms {
            return Err(ConfigError(format!("delay.minMs {min_ms} is greater than delay.maxMs {max_ms}")));
        }
        if config.min_delay_ms >= config.replication_timeout_ms {
            let timeout_ms = config.replication_timeout_ms;
            return Err(ConfigError(format!("delay.minMs {min_ms} is not below replicationTimeoutMs {timeout_ms}")));
        }
        if let Some(law) = spec.delay.law()? {
            config.set_delay(&capped(law))?;
            config.check()?;
        }
        Ok(config)
    }

    /// The number of leader pods beside the one that leads.
    ///
    /// # Errors
    /// [`ConfigError`] if it is out of bounds.
    pub fn standbys(&self) -> Result<u16, ConfigError> {
        within("leader.standbys", self.spec.leader.standbys, 0..=STANDBYS_MAX)
    }
}

fn within<T: TryFrom<i32> + PartialOrd + std::fmt::Display>(
    field: &str,
    value: i32,
    range: RangeInclusive<T>,
) -> Result<T, ConfigError> {
    T::try_from(value)
        .ok()
        .filter(|value| range.contains(value))
        .ok_or_else(|| ConfigError(format!("{field} is {value}: it must be from {} to {}", range.start(), range.end())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delay::DelayLaw;

    fn config(spec: &str) -> Result<LiveConfig, ConfigError> {
        let mut cluster = KvCluster::new("demo", serde_json::from_str(spec).expect("a spec"));
        cluster.metadata.generation = Some(4);
        cluster.live_config()
    }

    #[test]
    fn a_spec_of_nothing_asks_for_the_documented_defaults() {
        let expected = LiveConfig {
            generation: 4,
            write_quorum: 3,
            followers: 5,
            min_delay_ms: 0,
            max_delay_ms: 200,
            delay: None,
            replication_timeout_ms: 5000,
        };
        assert_eq!(config("{}"), Ok(expected.clone()));
        assert_eq!(config(r#"{"delay": {}}"#), Ok(expected.clone()));
        assert_eq!(config(r#"{"delay": {"minMs": 7}}"#), Ok(LiveConfig { min_delay_ms: 7, ..expected }));
    }

    #[test]
    fn a_law_reaches_the_leader_with_a_cap_of_ten_minutes() {
        let law = |spec: &str| config(spec).map(|config| (config.min_delay_ms, config.max_delay_ms, config.delay));
        let (min_ms, max_ms, delay) = law(r#"{"delay": {"preset": "wan-3-zones", "offsetMs": 1.5,
            "perFollower": [{"follower": 4, "mixture": [{"weight": 1, "maxMs": 3}, {"weight": 2, "pareto": {"scaleMs": 1, "shape": 2}}]}],
            "shared": {"constant": {"ms": 2}}}}"#)
        .expect("a law");
        assert_eq!((min_ms, max_ms), (2, 600_002), "the shared part is always 2 ms");
        let expected: DelayLaw = serde_json::from_str(
            r#"{"preset": "wan-3-zones", "offsetMs": 1.5, "capMs": 600000, "perFollower": [{"follower": 4, "capMs": 600000,
                "mixture": [{"weight": 1, "maxMs": 3}, {"weight": 2, "pareto": {"scaleMs": 1, "shape": 2}}]}],
                "shared": {"constant": {"ms": 2}, "capMs": 600000}}"#,
        )
        .expect("a law");
        assert_eq!(delay.as_deref(), Some(&expected));
        // An older CRD may have filled in the bounds.
        let error = law(r#"{"delay": {"minMs": 0, "maxMs": 200, "preset": "yammer"}}"#).expect_err("two laws");
        assert_eq!(error.0, "delay has minMs and maxMs beside preset: give one law");
        let error = law(r#"{"delay": {"pareto": {"scaleMs": 1, "shape": 0.5}}}"#).expect_err("no mean");
        assert!(error.0.starts_with("delay.pareto.shape is 0.5: up to 1 the mean is infinite"), "{error}");
        let error = law(r#"{"delay": {"constant": {"ms": 5000}}}"#).expect_err("too late");
        assert!(error.0.starts_with("the minimum delay (5000 ms) is not below the replication timeout"), "{error}");
    }

    #[test]
    fn contradictions_are_refused_with_both_values() {
        for (spec, message) in [
            (r#"{"replicas": 2, "writeQuorum": 3}"#, "writeQuorum 3 is greater than replicas 2"),
            (r#"{"writeQuorum": 0}"#, "writeQuorum is 0: it must be from 1 to 64"),
            (r#"{"replicas": 70000}"#, "replicas is 70000: it must be from 1 to 64"),
            (r#"{"delay": {"minMs": 30, "maxMs": 20}}"#, "delay.minMs 30 is greater than delay.maxMs 20"),
            (r#"{"delay": {"minMs": -4}}"#, "delay.minMs is -4: it must be from 0 to 600000"),
            (r#"{"delay": {"maxMs": 600001}}"#, "delay.maxMs is 600001: it must be from 0 to 600000"),
            (
                r#"{"delay": {"minMs": 90}, "replicationTimeoutMs": 90}"#,
                "delay.minMs 90 is not below replicationTimeoutMs 90",
            ),
            (r#"{"replicationTimeoutMs": 0}"#, "replicationTimeoutMs is 0: it must be from 1 to 600000"),
        ] {
            assert_eq!(config(spec), Err(ConfigError(message.to_owned())));
        }
    }
}
