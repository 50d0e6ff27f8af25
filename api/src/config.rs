//! The configuration that changes on a running leader: `GET /config` and `PATCH /config`.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::delay::{DelayLaw, Delays};

/// The most followers of a cluster.
pub const FOLLOWERS_MAX: u16 = 64;

/// The longest delay and the longest replication timeout that a node accepts, in milliseconds: an hour.
pub const MILLISECONDS_MAX: u32 = 3_600_000;

/// The values that change on a running leader without a restart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LiveConfig {
    /// Orders the configurations of one cluster. It grows with every change.
    pub generation: u64,
    /// W: how many followers confirm a write before the leader acknowledges it.
    pub write_quorum: u16,
    /// N: the declared number of followers.
    pub followers: u16,
    /// The shortest delay before a send to a follower, in milliseconds. With a law of `delay`: its shortest, rounded down.
    pub min_delay_ms: u32,
    /// The longest delay before a send to a follower, in milliseconds. With a law of `delay`: its longest, rounded up.
    pub max_delay_ms: u32,
    /// The law of the delays. Absent: uniform from `min_delay_ms` to `max_delay_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Arc<DelayLaw>>,
    /// How long a write waits for its quorum, in milliseconds. After that its outcome is unknown.
    pub replication_timeout_ms: u32,
}

/// One line that names the values that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl LiveConfig {
    /// Rejects values that contradict each other or are out of bounds.
    ///
    /// # Errors
    /// [`ConfigError`] with a sentence that names the values.
    pub fn check(&self) -> Result<(), ConfigError> {
        let Self { generation: _, write_quorum, followers, min_delay_ms, max_delay_ms, delay, replication_timeout_ms } =
            self;
        if *followers == 0 || *followers > FOLLOWERS_MAX {
            return fail(format!("the number of followers ({followers}) must be from 1 to {FOLLOWERS_MAX}"));
        }
        if *write_quorum == 0 {
            return fail(format!(
                "the write quorum (0) must be at least 1 and at most the number of followers ({followers})"
            ));
        }
        if write_quorum > followers {
            return fail(format!("the write quorum ({write_quorum}) is above the number of followers ({followers})"));
        }
        if min_delay_ms > max_delay_ms {
            return fail(format!(
                "the minimum delay ({min_delay_ms} ms) is above the maximum delay ({max_delay_ms} ms)"
            ));
        }
        if *max_delay_ms > MILLISECONDS_MAX {
            return fail(format!("the maximum delay ({max_delay_ms} ms) is above {MILLISECONDS_MAX} ms"));
        }
        if *replication_timeout_ms == 0 || *replication_timeout_ms > MILLISECONDS_MAX {
            return fail(format!(
                "the replication timeout ({replication_timeout_ms} ms) must be from 1 to {MILLISECONDS_MAX} ms"
            ));
        }
        if min_delay_ms >= replication_timeout_ms {
            return fail(format!(
                "the minimum delay ({min_delay_ms} ms) is not below the replication timeout ({replication_timeout_ms} ms): \
                 no write could reach its quorum in time"
            ));
        }
        if let Some(law) = delay {
            law.resolve()?;
        }
        Ok(())
    }

    /// The law of the delays. If `delay` is a law that [`LiveConfig::check`] refuses: the uniform law.
    #[must_use]
    pub fn delays(&self) -> Delays {
        let law = self.delay.as_ref().and_then(|law| law.resolve().ok());
        law.unwrap_or_else(|| Delays::uniform(self.min_delay_ms.into(), self.max_delay_ms.into()))
    }

    /// Sets the law of the delays and, with it, the shortest and the longest one.
    ///
    /// # Errors
    /// [`ConfigError`] if the law contradicts itself.
    pub fn set_delay(&mut self, law: &DelayLaw) -> Result<(), ConfigError> {
        let (min_ms, max_ms) = law.resolve()?.bounds_ms();
        // An hour at most, so both fit.
        (self.min_delay_ms, self.max_delay_ms) = (min_ms.floor() as u32, max_ms.ceil() as u32);
        self.delay = law.as_bounds().is_none().then(|| Arc::new(law.clone()));
        Ok(())
    }

    /// How long a write waits for its quorum before its outcome is unknown.
    #[must_use]
    pub fn replication_timeout(&self) -> Duration {
        Duration::from_millis(self.replication_timeout_ms.into())
    }

    /// Whether both have the same values, regardless of their generations.
    #[must_use]
    pub fn has_values_of(&self, other: &Self) -> bool {
        Self { generation: other.generation, ..self.clone() } == *other
    }
}

fn fail(message: String) -> Result<(), ConfigError> {
    Err(ConfigError(message))
}

/// The answer to `GET /config` and to an accepted `PATCH /config`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConfigView {
    /// The values in force.
    #[serde(flatten)]
    pub in_force: LiveConfig,
    /// The seed of the random delays.
    #[serde(default)]
    pub delay_seed: Option<u64>,
    /// A change that the leader accepted and that is not in force yet.
    #[serde(default)]
    pub pending: Option<PendingConfig>,
}

impl ConfigView {
    /// The newest configuration that the leader accepted: the pending one, otherwise the one in force. Delays and
    /// timeout of a pending one are in force already, because they need no follower's consent.
    #[must_use]
    pub fn newest(&self) -> LiveConfig {
        match &self.pending {
            Some(PendingConfig { generation, write_quorum, followers, message: _ }) => LiveConfig {
                generation: (*generation).max(self.in_force.generation),
                write_quorum: *write_quorum,
                followers: *followers,
                ..self.in_force.clone()
            },
            None => self.in_force.clone(),
        }
    }

    /// Whether these values are in force, and no other change is pending.
    #[must_use]
    pub fn has_in_force(&self, values: &LiveConfig) -> bool {
        self.pending.is_none() && self.in_force.has_values_of(values)
    }
}

/// A write quorum or a number of followers that the leader accepted and that is not in force yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingConfig {
    /// Its generation.
    pub generation: u64,
    /// W.
    pub write_quorum: u16,
    /// N.
    pub followers: u16,
    /// What it waits for, in one sentence.
    #[serde(default)]
    pub message: String,
}

/// The body of `PATCH /config`. Absent values remain unchanged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigPatch {
    /// The generation of the change. Absent: one above the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// W.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_quorum: Option<u16>,
    /// N. It cannot change where the leader's followers are listed by URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub followers: Option<u16>,
    /// The shortest delay, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_delay_ms: Option<u32>,
    /// The longest delay, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay_ms: Option<u32>,
    /// The law of the delays, in place of the shortest and the longest delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Arc<DelayLaw>>,
    /// The replication timeout, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_timeout_ms: Option<u32>,
}

impl ConfigPatch {
    /// `known` with the values of this patch. A shortest or a longest delay makes the law uniform.
    ///
    /// # Errors
    /// [`ConfigError`] if the patch has a law beside a shortest or a longest delay, or a law that contradicts itself.
    pub fn applied_to(&self, known: &LiveConfig) -> Result<LiveConfig, ConfigError> {
        let bounds = [("min_delay_ms", self.min_delay_ms), ("max_delay_ms", self.max_delay_ms)];
        let bound = bounds.iter().find_map(|(name, value)| value.map(|ms| (name, ms)));
        let mut config = LiveConfig {
            generation: self.generation.unwrap_or(known.generation.saturating_add(1)),
            write_quorum: self.write_quorum.unwrap_or(known.write_quorum),
            followers: self.followers.unwrap_or(known.followers),
            min_delay_ms: self.min_delay_ms.unwrap_or(known.min_delay_ms),
            max_delay_ms: self.max_delay_ms.unwrap_or(known.max_delay_ms),
            delay: known.delay.clone().filter(|_| bound.is_none()),
            replication_timeout_ms: self.replication_timeout_ms.unwrap_or(known.replication_timeout_ms),
        };
        match (&self.delay, bound) {
            (Some(_), Some((name, ms))) => {
                return Err(ConfigError(format!(
                    "delay and {name} ({ms} ms) were both given: give the law or its bounds"
                )));
            }
            (Some(law), None) => config.set_delay(law)?,
            (None, _) => {}
        }
        Ok(config)
    }
}

impl From<LiveConfig> for ConfigPatch {
    /// The patch that sets every value.
    fn from(config: LiveConfig) -> Self {
        let LiveConfig {
            generation,
            write_quorum,
            followers,
            min_delay_ms,
            max_delay_ms,
            delay,
            replication_timeout_ms,
        } = config;
        Self {
            generation: Some(generation),
            write_quorum: Some(write_quorum),
            followers: Some(followers),
            min_delay_ms: Some(min_delay_ms).filter(|_| delay.is_none()),
            max_delay_ms: Some(max_delay_ms).filter(|_| delay.is_none()),
            delay,
            replication_timeout_ms: Some(replication_timeout_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: LiveConfig = LiveConfig {
        generation: 7,
        write_quorum: 2,
        followers: 5,
        min_delay_ms: 20,
        max_delay_ms: 60,
        delay: None,
        replication_timeout_ms: 5000,
    };

    #[test]
    fn an_absent_value_stays_and_the_generation_grows() {
        let patch: ConfigPatch = serde_json::from_str(r#"{"write_quorum":3,"max_delay_ms":90}"#).expect("a patch");
        let expected = LiveConfig { generation: 8, write_quorum: 3, max_delay_ms: 90, ..KNOWN };
        assert_eq!(patch.applied_to(&KNOWN), Ok(expected.clone()));
        assert_eq!(ConfigPatch::from(expected.clone()).applied_to(&KNOWN), Ok(expected));
        assert_eq!(serde_json::to_string(&patch).expect("JSON"), r#"{"write_quorum":3,"max_delay_ms":90}"#);
        serde_json::from_str::<ConfigPatch>(r#"{"quorum":3}"#).expect_err("an unknown field is a mistake");
    }

    #[test]
    fn a_law_replaces_the_bounds_and_bounds_replace_the_law() {
        let patched = |text: &str, known: &LiveConfig| {
            serde_json::from_str::<ConfigPatch>(text).expect("a patch").applied_to(known)
        };
        let lognormal = r#"{"delay":{"lognormal":{"medianMs":9,"sigma":0.5},"offsetMs":2.5,"capMs":80.5}}"#;
        let by_law = patched(lognormal, &KNOWN).expect("a law");
        assert_eq!((by_law.min_delay_ms, by_law.max_delay_ms, by_law.delay.is_some()), (2, 81, true));
        assert_eq!(ConfigPatch::from(by_law.clone()).applied_to(&KNOWN), Ok(by_law.clone()), "the law is passed on");
        let json = serde_json::to_string(&by_law).expect("JSON");
        assert_eq!(serde_json::from_str::<LiveConfig>(&json).expect("the same"), by_law);

        let by_bounds = patched(r#"{"max_delay_ms":90}"#, &by_law).expect("bounds");
        assert_eq!((by_bounds.min_delay_ms, by_bounds.max_delay_ms, by_bounds.delay), (2, 90, None));
        let uniform = patched(r#"{"delay":{"minMs":20,"maxMs":60}}"#, &by_law).expect("a uniform law");
        assert_eq!(uniform, LiveConfig { generation: 9, ..KNOWN }, "whole bounds are the same in either form");
        let fractions = patched(r#"{"delay":{"maxMs":0.5}}"#, &KNOWN).expect("a uniform law");
        assert_eq!((fractions.min_delay_ms, fractions.max_delay_ms, fractions.delay.is_some()), (0, 1, true));

        for (text, message) in [
            (
                r#"{"delay":{"preset":"yammer"},"min_delay_ms":3}"#,
                "delay and min_delay_ms (3 ms) were both given: give the law or its bounds",
            ),
            (r#"{"delay":{"constant":{"ms":-4}}}"#, "delay.constant.ms is -4: it must be from 0 to 3600000"),
        ] {
            assert_eq!(patched(text, &KNOWN), Err(ConfigError(message.to_owned())));
        }
        let late = patched(r#"{"delay":{"constant":{"ms":5000}}}"#, &KNOWN).expect("a law");
        let error = late.check().expect_err("no write in time");
        assert!(error.0.starts_with("the minimum delay (5000 ms) is not below"), "{error}");
    }

    #[test]
    fn values_are_in_force_when_each_is_and_none_is_pending() {
        let view = ConfigView { in_force: KNOWN, delay_seed: Some(11), pending: None };
        assert!(view.has_in_force(&LiveConfig { generation: 99, ..KNOWN }), "whatever its generation");
        assert!(!view.has_in_force(&LiveConfig { min_delay_ms: 21, ..KNOWN }));
        let pending = PendingConfig { generation: 8, write_quorum: 3, followers: 6, message: String::new() };
        let changing = ConfigView { pending: Some(pending), ..view };
        assert!(!changing.has_in_force(&KNOWN));
        assert_eq!(changing.newest(), LiveConfig { generation: 8, write_quorum: 3, followers: 6, ..KNOWN });
    }
}
