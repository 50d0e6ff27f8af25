//! `spec.delay`: the law of the delays, with the rules by which the API server refuses wrong ones.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::delay::DelayLaw;

/// The longest delay of a KvCluster, in milliseconds: ten minutes.
const LONGEST_MS: f64 = 600_000.0;

// A number in milliseconds that may be 0, or may not: its field, and the CEL of its value.
macro_rules! at_most_ten_minutes {
    ($field:literal, $value:literal) => {
        rule!(
            concat!($value, " >= 0.0 && ", $value, " <= 600000.0"),
            concat!("'", $field, " is %s: it must be from 0 to 600000 milliseconds'.format([", $value, "])")
        )
    };
}
macro_rules! above_zero {
    ($field:literal, $value:literal) => {
        rule!(
            concat!($value, " > 0.0 && ", $value, " <= 600000.0"),
            concat!("'", $field, " is %s: it must be above 0 and at most 600000 milliseconds'.format([", $value, "])")
        )
    };
}
macro_rules! offset_and_cap {
    () => {
        rule!(
            "!has(self.offsetMs) || self.offsetMs >= 0.0 && self.offsetMs <= (has(self.capMs) ? self.capMs : 600000.0)",
            "'offsetMs is %s: it must be from 0 to capMs (%s)'.format([self.offsetMs, has(self.capMs) ? self.capMs : 600000.0])"
        )
    };
}
macro_rules! cap_in_bounds {
    () => {
        rule!(
            "!has(self.capMs) || self.capMs >= 0.0 && self.capMs <= 600000.0",
            "'capMs is %s: it must be from 0 to 600000 milliseconds'.format([self.capMs])"
        )
    };
}
macro_rules! tail_has_a_mean {
    () => {
        rule!(
            "!has(self.pareto) || self.pareto.shape > 1.0 || has(self.capMs)",
            "'pareto.shape is %s: up to 1 the mean is infinite, so give the longest delay as capMs'.format([self.pareto.shape])"
        )
    };
}
macro_rules! one_law {
    ($count:literal, $message:literal) => {
        rule!(
            concat!(
                "[has(self.minMs) || has(self.maxMs), has(self.constant), has(self.exponential), has(self.lognormal), ",
                "has(self.pareto), has(self.mixture), has(self.preset)].filter(named, named).size() ",
                $count
            ),
            $message
        )
    };
}
macro_rules! part_bounds {
    () => {
        rule!(
            "!has(self.minMs) && !has(self.maxMs) || has(self.maxMs) && self.maxMs <= 600000.0 && \
             (has(self.minMs) ? self.minMs : 0.0) >= 0.0 && (has(self.minMs) ? self.minMs : 0.0) <= self.maxMs",
            "'minMs and maxMs must be from 0 to 600000 milliseconds, and minMs not above maxMs'"
        )
    };
}

macro_rules! of_one_follower {
    () => {
        rule!(
            "!has(self.preset) || self.preset != 'wan-3-zones'",
            "'preset wan-3-zones is a law of all followers together: it belongs to delay itself'"
        )
    };
}

/// The law of the delay before each send of a write to a follower. Without a law it is uniform from minMs to maxMs; both 0:
/// no delay. Otherwise give one of constant, exponential, lognormal, pareto, mixture and preset, and set minMs and maxMs to
/// null where they are set. A delay is offsetMs plus what the law draws, and at most capMs.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = rule!(
        "!has(self.minMs) || self.minMs >= 0",
        "'delay.minMs is %d: a delay cannot be negative'.format([self.minMs])"
    ),
    validation = rule!(
        "!has(self.maxMs) || self.maxMs >= 0",
        "'delay.maxMs is %d: a delay cannot be negative'.format([self.maxMs])"
    ),
    validation = rule!(
        "!has(self.minMs) || self.minMs <= (has(self.maxMs) ? self.maxMs : 200)",
        "'delay.minMs %d is greater than delay.maxMs %d'.format([self.minMs, has(self.maxMs) ? self.maxMs : 200])"
    ),
    validation = rule!(
        "!has(self.maxMs) || self.maxMs <= 600000",
        "'delay.maxMs is %d: at most 600000 milliseconds'.format([self.maxMs])"
    ),
    validation = one_law!(
        "<= 1",
        "'delay has more than one law: give minMs and maxMs, or one of constant, exponential, lognormal, pareto, mixture \
         and preset, and set the others to null'"
    ),
    validation = tail_has_a_mean!(),
    validation = cap_in_bounds!(),
    validation = offset_and_cap!()
)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// Uniform: the shortest delay, in milliseconds. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<i32>,
    /// Uniform: the longest delay, in milliseconds, at least minMs, at most 600000. Default: 200.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<i32>,
    /// Any other law.
    #[serde(flatten)]
    pub law: Law,
    /// One of several laws, drawn by weight for each delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub mixture: Option<Vec<MixturePart>>,
    /// Laws of followers that differ from the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = rule!(
        "self.all(one, self.filter(other, other.follower == one.follower).size() == 1)",
        "'perFollower names a follower twice: a follower has one law'"
    ))]
    pub per_follower: Option<Vec<FollowerDelay>>,
    /// A further delay, drawn once for each write and added to the delays of all its followers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedDelay>,
}

impl Default for Delay {
    fn default() -> Self {
        Self {
            min_ms: Some(0),
            max_ms: Some(200),
            law: Law::default(),
            mixture: None,
            per_follower: None,
            shared: None,
        }
    }
}

/// A law by its name, with what every law may have.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Law {
    /// Always the same delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant: Option<Constant>,
    /// An exponential law.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exponential: Option<Exponential>,
    /// A lognormal law.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lognormal: Option<Lognormal>,
    /// A Pareto law: a heavy tail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pareto: Option<Pareto>,
    /// A law by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<DelayPreset>,
    /// What is added to each delay of this law, in milliseconds. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_ms: Option<f64>,
    /// The longest delay of this law, in milliseconds: a longer one becomes capMs. Default: 600000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_ms: Option<f64>,
}

/// Always the same delay.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = at_most_ten_minutes!("constant.ms", "self.ms"))]
pub struct Constant {
    /// The delay, in milliseconds.
    pub ms: f64,
}

/// An exponential law.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = above_zero!("exponential.meanMs", "self.meanMs"))]
#[serde(rename_all = "camelCase")]
pub struct Exponential {
    /// The mean, in milliseconds.
    pub mean_ms: f64,
}

/// A lognormal law.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = above_zero!("lognormal.medianMs", "self.medianMs"),
    validation = rule!(
        "self.sigma > 0.0 && self.sigma <= 4.0",
        "'lognormal.sigma is %s: it must be above 0 and at most 4'.format([self.sigma])"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Lognormal {
    /// The median, in milliseconds.
    pub median_ms: f64,
    /// The standard deviation of the logarithm, above 0, at most 4.
    pub sigma: f64,
}

/// A Pareto law.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = above_zero!("pareto.scaleMs", "self.scaleMs"),
    validation = rule!(
        "self.shape > 0.0",
        "'pareto.shape is %s: a tail index must be above 0'.format([self.shape])"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct Pareto {
    /// The shortest delay, in milliseconds.
    pub scale_ms: f64,
    /// The tail index. 1 or less needs capMs.
    pub shape: f64,
}

/// A law by its name: fits of published write latencies, or three zones, of which follower i has zone i modulo 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names say it, and a description each would only lengthen the manual")]
pub enum DelayPreset {
    LinkedinDisk,
    Yammer,
    #[serde(rename = "wan-3-zones")]
    WanThreeZones,
}

/// One of the laws of a mixture.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = rule!(
        "self.weight > 0.0 && self.weight <= 1000000000.0",
        "'weight is %s: it must be above 0 and at most 1000000000'.format([self.weight])"
    ),
    validation = rule!(
        "[has(self.minMs) || has(self.maxMs), has(self.constant), has(self.exponential), has(self.lognormal), \
         has(self.pareto), has(self.preset)].filter(named, named).size() == 1",
        "'a part of a mixture has one law: minMs and maxMs, constant, exponential, lognormal, pareto or preset'"
    ),
    validation = part_bounds!(),
    validation = of_one_follower!(),
    validation = tail_has_a_mean!(),
    validation = cap_in_bounds!(),
    validation = offset_and_cap!()
)]
#[serde(rename_all = "camelCase")]
pub struct MixturePart {
    /// How often this part is drawn, relative to the other weights.
    pub weight: f64,
    /// Uniform: the shortest delay, in milliseconds. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<f64>,
    /// Uniform: the longest delay, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// Any other law.
    #[serde(flatten)]
    pub law: Law,
}

/// The law of one follower.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = rule!(
        "self.follower >= 0 && self.follower <= 63",
        "'follower is %d: followers are numbered from 0 to 63'.format([self.follower])"
    ),
    validation = one_law!(
        "== 1",
        "'an entry of perFollower has one law: minMs and maxMs, constant, exponential, lognormal, pareto, mixture or preset'"
    ),
    validation = part_bounds!(),
    validation = of_one_follower!(),
    validation = tail_has_a_mean!(),
    validation = cap_in_bounds!(),
    validation = offset_and_cap!()
)]
#[serde(rename_all = "camelCase")]
pub struct FollowerDelay {
    /// The number of the follower: that at the end of its pod's name.
    pub follower: i32,
    /// Uniform: the shortest delay, in milliseconds. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<f64>,
    /// Uniform: the longest delay, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// Any other law.
    #[serde(flatten)]
    pub law: Law,
    /// One of several laws, drawn by weight for each delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub mixture: Option<Vec<MixturePart>>,
}

/// A delay that all followers of one write have in common.
#[derive(Clone, Debug, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = one_law!(
        "== 1",
        "'delay.shared has one law: minMs and maxMs, constant, exponential, lognormal, pareto, mixture or preset'"
    ),
    validation = part_bounds!(),
    validation = of_one_follower!(),
    validation = tail_has_a_mean!(),
    validation = cap_in_bounds!(),
    validation = offset_and_cap!()
)]
#[serde(rename_all = "camelCase")]
pub struct SharedDelay {
    /// Uniform: the shortest delay, in milliseconds. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<f64>,
    /// Uniform: the longest delay, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// Any other law.
    #[serde(flatten)]
    pub law: Law,
    /// One of several laws, drawn by weight for each delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub mixture: Option<Vec<MixturePart>>,
}

impl Delay {
    /// Whether nothing but minMs and maxMs is set.
    pub(super) fn is_uniform(&self) -> bool {
        let Self { min_ms: _, max_ms: _, law, mixture, per_follower, shared } = self;
        *law == Law::default() && mixture.is_none() && per_follower.is_none() && shared.is_none()
    }

    /// The law that this spells out; nothing where minMs and maxMs say it all.
    ///
    /// # Errors
    /// [`ConfigError`] if it contradicts itself.
    pub fn law(&self) -> Result<Option<DelayLaw>, ConfigError> {
        if self.is_uniform() {
            return Ok(None);
        }
        let convert = || serde_json::from_value(serde_json::to_value(self)?);
        let mut law: DelayLaw =
            convert().map_err(|error: serde_json::Error| ConfigError(format!("delay is no law: {error}")))?;
        if law.min_ms.is_some() && law.max_ms.is_none() {
            law.max_ms = Self::default().max_ms.map(Into::into);
        }
        law.resolve()?;
        Ok(Some(law))
    }
}

/// The same law with the caps that the operator adds before it passes a law to a leader: no delay of a KvCluster's law is
/// longer than ten minutes.
#[must_use]
pub fn capped(mut law: DelayLaw) -> DelayLaw {
    let cap = |law: &mut DelayLaw| law.cap_ms = Some(law.cap_ms.unwrap_or(LONGEST_MS).min(LONGEST_MS));
    cap(&mut law);
    law.per_follower.iter_mut().flatten().for_each(cap);
    law.shared.iter_mut().for_each(|shared| cap(shared));
    law
}
