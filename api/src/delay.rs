//! The law of the random delays: `DELAY`, `"delay"` in `PATCH /config`, and `spec.delay`.
//!
//! [`DelayLaw`] is what users write. [`DelayLaw::resolve`] checks it and returns [`Delays`], the form that a leader draws
//! from and that theory computes with.

mod resolve;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, MILLISECONDS_MAX};

/// The names of the laws that `preset` knows.
pub const PRESETS: [&str; 3] = ["linkedin-disk", "yammer", "wan-3-zones"];

/// The most parts of one mixture.
pub const MIXTURE_PARTS_MAX: usize = 16;

/// How deep mixtures may contain mixtures.
pub const MIXTURE_DEPTH_MAX: usize = 3;

/// The most laws in one document, with all parts of mixtures and all followers.
pub const LAWS_MAX: usize = 256;

/// The largest sigma of a lognormal law. At 4 the mean is 3000 times the median.
pub const SIGMA_MAX: f64 = 4.0;

/// The law of a delay, as users write it. Exactly one of `min_ms`/`max_ms`, `constant`, `exponential`, `lognormal`,
/// `pareto`, `mixture` and `preset` is present. All times are in milliseconds and may have fractions.
///
/// A delay is `offset_ms` plus what the law draws, and at most `cap_ms`: a longer one becomes `cap_ms`. Without
/// `cap_ms` the cap is an hour.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DelayLaw {
    /// Uniform: the shortest delay. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ms: Option<f64>,
    /// Uniform: the longest delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_ms: Option<f64>,
    /// Always the same delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub constant: Option<Constant>,
    /// Exponential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exponential: Option<Exponential>,
    /// Lognormal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lognormal: Option<Lognormal>,
    /// Pareto: a heavy tail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pareto: Option<Pareto>,
    /// One of several laws, drawn by weight for each delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mixture: Option<Vec<DelayLaw>>,
    /// A law by its name: one of [`PRESETS`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// What is added to each delay of the law. Default 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_ms: Option<f64>,
    /// The longest delay. Default: an hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cap_ms: Option<f64>,
    /// In a mixture: how often this part is drawn, relative to the other weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// In `per_follower`: the follower with this law. Followers are numbered from 0, in the order of `FOLLOWERS`, or by
    /// the number at the end of their pod's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follower: Option<u16>,
    /// Laws of followers that differ from the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_follower: Option<Vec<DelayLaw>>,
    /// A further delay, drawn once for each write and added to the delays of all its followers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Box<DelayLaw>>,
}

/// `{"constant": {"ms": 20}}`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Constant {
    /// The delay.
    pub ms: f64,
}

/// `{"exponential": {"meanMs": 40}}`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exponential {
    /// The mean.
    pub mean_ms: f64,
}

/// `{"lognormal": {"medianMs": 20, "sigma": 0.5}}`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lognormal {
    /// The median.
    pub median_ms: f64,
    /// The standard deviation of the logarithm.
    pub sigma: f64,
}

/// `{"pareto": {"scaleMs": 3, "shape": 3.35}}`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pareto {
    /// The shortest delay.
    pub scale_ms: f64,
    /// The tail index: the chance of more than x times the scale is x to the power of minus the shape.
    pub shape: f64,
}

impl DelayLaw {
    /// The uniform law from `min_ms` to `max_ms`.
    #[must_use]
    pub fn uniform(min_ms: u32, max_ms: u32) -> Self {
        Self { min_ms: Some(min_ms.into()), max_ms: Some(max_ms.into()), ..Self::default() }
    }

    /// The law of this name, unchecked.
    #[must_use]
    pub fn preset(name: &str) -> Self {
        Self { preset: Some(name.to_owned()), ..Self::default() }
    }

    /// Checks the law and returns what a leader draws from.
    ///
    /// # Errors
    /// [`ConfigError`] with a sentence that names the field and its value.
    pub fn resolve(&self) -> Result<Delays, ConfigError> {
        resolve::delays(self)
    }

    /// The bounds of the law if `MIN_DELAY_MS` and `MAX_DELAY_MS` say the same: it is uniform, in whole milliseconds, and
    /// has nothing else.
    #[must_use]
    pub fn as_bounds(&self) -> Option<(u32, u32)> {
        let (min_ms, max_ms) = (self.min_ms.unwrap_or(0.0), self.max_ms?);
        let plain = Self { min_ms: self.min_ms, max_ms: self.max_ms, ..Self::default() } == *self;
        Some((whole(min_ms)?, whole(max_ms)?)).filter(|_| plain)
    }
}

fn whole(ms: f64) -> Option<u32> {
    (ms.fract() == 0.0 && (0.0..=f64::from(MILLISECONDS_MAX)).contains(&ms)).then_some(ms as u32)
}

/// A checked law of the delays of all followers.
#[derive(Clone, Debug, PartialEq)]
pub struct Delays {
    laws: Vec<Part>,
    /// For each of the first followers, the position of its law.
    by_follower: Vec<u8>,
    /// How many of the laws the other followers have in turn: follower i the law at position i modulo this.
    common: usize,
    /// The part that all followers of one write have in common.
    shared: Option<Part>,
}

/// A law with its offset and cap.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What is drawn.
    pub shape: Shape,
    /// Added to it, in milliseconds.
    pub offset_ms: f64,
    /// The longest delay, in milliseconds.
    pub cap_ms: f64,
}

/// The distribution of a part. All values are finite and in the bounds that [`DelayLaw::resolve`] checked.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// Uniform. With equal ends it is a constant.
    Uniform {
        /// The shortest, in milliseconds.
        min_ms: f64,
        /// The longest, in milliseconds.
        max_ms: f64,
    },
    /// Exponential.
    Exponential {
        /// The mean, in milliseconds.
        mean_ms: f64,
    },
    /// Lognormal.
    Lognormal {
        /// The median, in milliseconds.
        median_ms: f64,
        /// The standard deviation of the logarithm.
        sigma: f64,
    },
    /// Pareto.
    Pareto {
        /// The shortest, in milliseconds.
        scale_ms: f64,
        /// The tail index.
        shape: f64,
    },
    /// Each part with its probability. The probabilities add up to 1.
    Mixture(Vec<(f64, Part)>),
}

impl Delays {
    /// The uniform law from `min_ms` to `max_ms`, for all followers.
    #[must_use]
    pub fn uniform(min_ms: f64, max_ms: f64) -> Self {
        let shape = Shape::Uniform { min_ms, max_ms };
        Self::same_for_all(Part { shape, offset_ms: 0.0, cap_ms: MILLISECONDS_MAX.into() })
    }

    /// One law for all followers, unchecked.
    #[must_use]
    pub fn same_for_all(part: Part) -> Self {
        Self { laws: vec![part], by_follower: Vec::new(), common: 1, shared: None }
    }

    /// The law of the follower with this number.
    #[must_use]
    pub fn of_follower(&self, number: u16) -> &Part {
        let number = usize::from(number);
        let position = match self.by_follower.get(number) {
            Some(position) => usize::from(*position),
            None => number % self.common,
        };
        &self.laws[position]
    }

    /// The part that all followers of one write have in common.
    #[must_use]
    pub fn shared(&self) -> Option<&Part> {
        self.shared.as_ref()
    }

    /// The shortest and the longest delay that any follower can have, in milliseconds. The longest is at most an hour.
    #[must_use]
    pub fn bounds_ms(&self) -> (f64, f64) {
        let own = self.laws.iter().map(Part::bounds_ms).reduce(|(a, b), (c, d)| (a.min(c), b.max(d)));
        let (min_ms, max_ms) = own.unwrap_or_default();
        let (shared_min_ms, shared_max_ms) = self.shared.as_ref().map(Part::bounds_ms).unwrap_or_default();
        let cap_ms = f64::from(MILLISECONDS_MAX);
        ((min_ms + shared_min_ms).min(cap_ms), (max_ms + shared_max_ms).min(cap_ms))
    }
}

impl Part {
    /// The shortest and the longest delay, in milliseconds.
    #[must_use]
    pub fn bounds_ms(&self) -> (f64, f64) {
        let (min_ms, max_ms) = match &self.shape {
            Shape::Uniform { min_ms, max_ms } => (*min_ms, *max_ms),
            Shape::Exponential { .. } | Shape::Lognormal { .. } => (0.0, f64::INFINITY),
            Shape::Pareto { scale_ms, .. } => (*scale_ms, f64::INFINITY),
            Shape::Mixture(parts) => parts
                .iter()
                .map(|(_, part)| part.bounds_ms())
                .reduce(|(a, b), (c, d)| (a.min(c), b.max(d)))
                .unwrap_or_default(),
        };
        ((self.offset_ms + min_ms).min(self.cap_ms), (self.offset_ms + max_ms).min(self.cap_ms))
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a law is what its document says, and a wrong one is refused in a sentence with field and value.
    use super::*;

    fn resolve(text: &str) -> Result<Delays, ConfigError> {
        serde_json::from_str::<DelayLaw>(text).expect("well-formed").resolve()
    }

    #[test]
    fn each_law_has_its_bounds() {
        for (text, bounds_ms) in [
            (r#"{"minMs":20,"maxMs":60}"#, (20.0, 60.0)),
            (r#"{"maxMs":0}"#, (0.0, 0.0)),
            (r#"{"constant":{"ms":1.5}}"#, (1.5, 1.5)),
            (r#"{"exponential":{"meanMs":40}}"#, (0.0, 3_600_000.0)),
            (r#"{"lognormal":{"medianMs":9,"sigma":1},"offsetMs":7}"#, (7.0, 3_600_000.0)),
            (r#"{"pareto":{"scaleMs":3,"shape":0.9},"capMs":500,"offsetMs":1}"#, (4.0, 500.0)),
            (r#"{"mixture":[{"weight":1,"constant":{"ms":9}},{"weight":3,"minMs":2,"maxMs":4}]}"#, (2.0, 9.0)),
            (r#"{"preset":"yammer"}"#, (0.0, 3_600_000.0)),
            (r#"{"preset":"linkedin-disk","capMs":90}"#, (0.0, 90.0)),
            (
                r#"{"preset":"wan-3-zones","perFollower":[{"follower":4,"constant":{"ms":500}}],"capMs":200}"#,
                (0.0, 500.0),
            ),
            (r#"{"maxMs":5,"shared":{"minMs":10,"maxMs":30}}"#, (10.0, 35.0)),
            (r#"{"maxMs":3600000,"shared":{"maxMs":3600000}}"#, (0.0, 3_600_000.0)),
        ] {
            assert_eq!(resolve(text).map(|delays| delays.bounds_ms()), Ok(bounds_ms), "{text}");
        }
    }

    #[test]
    fn each_follower_has_its_law() {
        let shortest = |text: &str| {
            let delays = resolve(text).expect("a law");
            (0..6).map(|number| delays.of_follower(number).bounds_ms().0).collect::<Vec<_>>()
        };
        let text = r#"{"constant":{"ms":1},
            "perFollower":[{"follower":2,"constant":{"ms":7}},{"follower":0,"constant":{"ms":8}}]}"#;
        assert_eq!(shortest(text), [8.0, 1.0, 7.0, 1.0, 1.0, 1.0]);
        assert_eq!(shortest(r#"{"preset":"wan-3-zones"}"#), [0.0, 75.0, 140.0, 0.0, 75.0, 140.0]);
        let text = r#"{"preset":"wan-3-zones","offsetMs":1,"perFollower":[{"follower":1,"constant":{"ms":9}}]}"#;
        assert_eq!(shortest(text), [1.0, 9.0, 141.0, 1.0, 76.0, 141.0]);
        let Shape::Mixture(parts) = &resolve(r#"{"preset":"yammer"}"#).expect("a law").laws[0].shape else {
            panic!("yammer is a mixture");
        };
        assert!((parts[0].0 + parts[1].0 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn whole_uniform_bounds_are_the_older_form() {
        assert_eq!(DelayLaw::uniform(20, 60).as_bounds(), Some((20, 60)));
        for text in [r#"{"maxMs":1.5}"#, r#"{"maxMs":5,"capMs":3}"#, r#"{"preset":"yammer"}"#] {
            assert_eq!(serde_json::from_str::<DelayLaw>(text).expect("well-formed").as_bounds(), None, "{text}");
        }
    }

    #[test]
    fn wrong_laws_are_refused_in_words() {
        let mut nested = r#"{"weight":1,"constant":{"ms":1}}"#.to_owned();
        for _ in 0..=MIXTURE_DEPTH_MAX {
            nested = format!(r#"{{"weight":1,"mixture":[{nested}]}}"#);
        }
        let nested = nested.replacen(r#""weight":1,"#, "", 1);
        let many = format!(r#"{{"mixture":[{}]}}"#, vec![r#"{"weight":1,"constant":{"ms":1}}"#; 17].join(","));
        for (text, message) in [
            ("{}", "delay names no law: give one of minMs and maxMs, constant, exponential"),
            (r#"{"preset":"yammer","pareto":{"scaleMs":1,"shape":2}}"#, "delay has pareto beside preset: give one law"),
            (r#"{"minMs":4}"#, "delay has minMs without maxMs"),
            (r#"{"minMs":9,"maxMs":8}"#, "delay.minMs 9 is above delay.maxMs 8"),
            (r#"{"maxMs":-1}"#, "delay.maxMs is -1: it must be from 0 to 3600000"),
            (r#"{"constant":{"ms":3600001}}"#, "delay.constant.ms is 3600001: it must be from 0 to 3600000"),
            (r#"{"exponential":{"meanMs":0}}"#, "delay.exponential.meanMs is 0: it must be above 0"),
            (r#"{"lognormal":{"medianMs":-3,"sigma":1}}"#, "delay.lognormal.medianMs is -3: it must be above 0"),
            (
                r#"{"lognormal":{"medianMs":3,"sigma":4.5}}"#,
                "delay.lognormal.sigma is 4.5: it must be above 0 and at most 4",
            ),
            (
                r#"{"lognormal":{"medianMs":3,"sigma":-1}}"#,
                "delay.lognormal.sigma is -1: it must be above 0 and at most 4",
            ),
            (r#"{"pareto":{"scaleMs":3,"shape":1}}"#, "delay.pareto.shape is 1: up to 1 the mean is infinite"),
            (
                r#"{"pareto":{"scaleMs":3,"shape":0},"capMs":9}"#,
                "delay.pareto.shape is 0: a tail index must be above 0",
            ),
            (r#"{"pareto":{"scaleMs":0,"shape":2}}"#, "delay.pareto.scaleMs is 0: it must be above 0"),
            (r#"{"mixture":[]}"#, "delay.mixture has 0 parts: it must have 1 to 16"),
            (&many, "delay.mixture has 17 parts: it must have 1 to 16"),
            (r#"{"mixture":[{"constant":{"ms":1}}]}"#, "delay.mixture[0] has no weight"),
            (
                r#"{"mixture":[{"weight":1,"constant":{"ms":1}},{"weight":0,"constant":{"ms":1}}]}"#,
                "delay.mixture[1].weight is 0: it must be above 0",
            ),
            (r#"{"mixture":[{"weight":-2,"constant":{"ms":1}}]}"#, "delay.mixture[0].weight is -2: it must be above 0"),
            (&nested, ".mixture is nested too deeply: at most 3 mixtures"),
            (
                r#"{"preset":"jammer"}"#,
                "delay.preset is \"jammer\": it must be one of linkedin-disk, yammer, wan-3-zones",
            ),
            (r#"{"maxMs":1,"offsetMs":-2}"#, "delay.offsetMs is -2: it must be from 0"),
            (r#"{"maxMs":1,"capMs":-2}"#, "delay.capMs is -2: it must be from 0"),
            (r#"{"maxMs":1,"offsetMs":3,"capMs":2}"#, "delay.offsetMs 3 is above delay.capMs 2"),
            (r#"{"maxMs":1,"weight":3}"#, "delay.weight is 3: only a part of a mixture has a weight"),
            (r#"{"maxMs":1,"follower":3}"#, "delay.follower is 3: only an entry of perFollower names a follower"),
            (r#"{"maxMs":1,"perFollower":[{"maxMs":2}]}"#, "delay.perFollower[0] names no follower"),
            (
                r#"{"maxMs":1,"perFollower":[{"follower":64,"maxMs":2}]}"#,
                "delay.perFollower[0].follower is 64: followers are numbered from 0 to 63",
            ),
            (
                r#"{"maxMs":1,"perFollower":[{"follower":3,"maxMs":2},{"follower":3,"maxMs":2}]}"#,
                "delay.perFollower[1].follower is 3, as in an earlier entry",
            ),
            (
                r#"{"maxMs":1,"shared":{"maxMs":2,"shared":{"maxMs":1}}}"#,
                "delay.shared.shared is set: it belongs beside the outermost law",
            ),
            (
                r#"{"maxMs":1,"shared":{"preset":"wan-3-zones"}}"#,
                "delay.shared.preset is \"wan-3-zones\", which is a law of all",
            ),
        ] {
            let error = resolve(text).expect_err(text).0;
            assert!(error.contains(message), "{text}: {error}");
        }
        let infinite = DelayLaw { max_ms: Some(f64::INFINITY), ..DelayLaw::default() };
        assert_eq!(infinite.resolve().expect_err("no number").0, "delay.maxMs is inf: it must be from 0 to 3600000");
        let no_number = Exponential { mean_ms: f64::NAN };
        let no_number = DelayLaw { exponential: Some(no_number), ..DelayLaw::default() };
        assert!(no_number.resolve().expect_err("no number").0.starts_with("delay.exponential.meanMs is NaN"));
        for text in [r#"{"maxMs":"x"}"#, r#"{"gamma":{}}"#, r#"{"exponential":{"mean":1}}"#] {
            serde_json::from_str::<DelayLaw>(text).expect_err(text);
        }
    }
}
