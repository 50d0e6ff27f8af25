//! The random delay before each send of a write.

use std::sync::Arc;

use kvcluster_api::config::MILLISECONDS_MAX;
use kvcluster_api::delay::{Delays, Part, Shape};
use rand::RngExt;
use rand::rngs::SmallRng;
use rand_distr::{Exp1, OpenClosed01, StandardNormal};

/// Range of the random delay before each send of a write, in microseconds. Uniform, both ends
/// included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayRange {
    /// Shortest delay.
    pub min_us: u32,
    /// Longest delay.
    pub max_us: u32,
}

/// What the leader draws the delays of a write from.
#[derive(Clone, Debug)]
pub enum Delay {
    /// A uniform law.
    Range(DelayRange),
    /// Any other law.
    Law(Arc<Delays>),
}

impl From<DelayRange> for Delay {
    fn from(range: DelayRange) -> Self {
        Self::Range(range)
    }
}

impl Delay {
    /// Draws the part that all followers of one write have in common, in milliseconds.
    pub(super) fn draw_shared_ms(&self, rng: &mut SmallRng) -> f64 {
        match self {
            Self::Range(_) => 0.0,
            Self::Law(delays) => delays.shared().map_or(0.0, |part| draw_ms(part, rng)),
        }
    }

    /// Draws the delay for the follower with this number, in microseconds.
    pub(super) fn draw_us(&self, follower: u16, shared_ms: f64, rng: &mut SmallRng) -> u32 {
        match self {
            Self::Range(DelayRange { max_us: 0, .. }) => 0,
            Self::Range(DelayRange { min_us, max_us }) => rng.random_range(*min_us..=*max_us),
            Self::Law(delays) => microseconds(shared_ms + draw_ms(delays.of_follower(follower), rng)),
        }
    }
}

/// An hour in microseconds fits into 32 bits.
fn microseconds(ms: f64) -> u32 {
    (ms.min(f64::from(MILLISECONDS_MAX)) * 1_000.0).round() as u32
}

fn draw_ms(part: &Part, rng: &mut SmallRng) -> f64 {
    let drawn_ms = match &part.shape {
        Shape::Uniform { min_ms, max_ms } => min_ms + (max_ms - min_ms) * rng.random::<f64>(),
        Shape::Exponential { mean_ms } => mean_ms * rng.sample::<f64, _>(Exp1),
        Shape::Lognormal { median_ms, sigma } => median_ms * (sigma * rng.sample::<f64, _>(StandardNormal)).exp(),
        // Not 0, whose power would be infinite.
        Shape::Pareto { scale_ms, shape } => scale_ms * rng.sample::<f64, _>(OpenClosed01).powf(-1.0 / shape),
        Shape::Mixture(parts) => {
            let mut rest: f64 = rng.random();
            let chosen = parts.iter().find(|(probability, _)| {
                rest -= probability;
                rest < 0.0
            });
            // The probabilities may add up to a little less than 1.
            chosen.or(parts.last()).map_or(0.0, |(_, part)| draw_ms(part, rng))
        }
    };
    (part.offset_ms + drawn_ms).min(part.cap_ms)
}

/// The number by which a law names a follower: the one at the end of the name that it reports, or, of
/// a follower that is identified by its URL, its position in the list.
pub(super) fn follower_number(name: &str, position: usize) -> u16 {
    let reported = if name.contains("://") { None } else { name.rsplit_once('-') };
    let number = reported.and_then(|(_, number)| number.parse().ok());
    number.unwrap_or(u16::try_from(position).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    //! Goal: what is drawn has the law. Method: the share of 40,000 draws below values at which the
    //! distribution function is known, within five standard errors.
    use kvcluster_api::delay::DelayLaw;
    use rand::SeedableRng;

    use super::*;

    const DRAWS: u32 = 40_000;

    fn law(text: &str) -> Delay {
        let law: DelayLaw = serde_json::from_str(text).expect("well-formed");
        Delay::Law(Arc::new(law.resolve().expect("a law")))
    }

    #[test]
    fn draws_have_the_law() {
        let mut rng = SmallRng::seed_from_u64(16);
        for (text, expected) in [
            (r#"{"minMs":1.5,"maxMs":2.5}"#, &[(1.4, 0.0), (1.75, 0.25), (2.25, 0.75), (2.5, 1.0)][..]),
            (r#"{"constant":{"ms":7.25}}"#, &[(7.249, 0.0), (7.25, 1.0)]),
            (r#"{"exponential":{"meanMs":40}}"#, &[(40.0, 0.632_121), (4.0, 0.095_163), (160.0, 0.981_684)]),
            (
                r#"{"exponential":{"meanMs":40},"offsetMs":10,"capMs":90}"#,
                &[(9.9, 0.0), (50.0, 0.632_121), (89.9, 0.864_326), (90.0, 1.0)],
            ),
            (
                r#"{"lognormal":{"medianMs":20,"sigma":0.5}}"#,
                &[(20.0, 0.5), (32.974_4, 0.841_345), (12.130_6, 0.158_655)],
            ),
            (r#"{"pareto":{"scaleMs":3,"shape":2}}"#, &[(2.999, 0.0), (6.0, 0.75), (30.0, 0.99)]),
            (r#"{"pareto":{"scaleMs":3,"shape":0.5},"capMs":300}"#, &[(12.0, 0.5), (299.9, 0.9), (300.0, 1.0)]),
            (
                r#"{"mixture":[{"weight":3,"constant":{"ms":5}},{"weight":1,"minMs":10,"maxMs":20}]}"#,
                &[(4.9, 0.0), (5.0, 0.75), (15.0, 0.875), (20.0, 1.0)],
            ),
            (r#"{"preset":"yammer"}"#, &[(2.9, 0.000_493), (6.0, 0.847_926), (500.0, 0.984_958)]),
            (r#"{"constant":{"ms":2},"shared":{"maxMs":10}}"#, &[(1.9, 0.0), (7.0, 0.5), (12.0, 1.0)]),
        ] {
            let delay = law(text);
            let drawn_ms: Vec<f64> = (0..DRAWS)
                .map(|_| {
                    let shared_ms = delay.draw_shared_ms(&mut rng);
                    f64::from(delay.draw_us(0, shared_ms, &mut rng)) / 1_000.0
                })
                .collect();
            for (at_ms, probability) in expected {
                let share = drawn_ms.iter().filter(|ms| *ms <= at_ms).count() as f64 / f64::from(DRAWS);
                let error = (probability * (1.0 - probability) / f64::from(DRAWS)).sqrt();
                assert!(
                    (share - probability).abs() <= 5.0 * error,
                    "{text} up to {at_ms} ms: {share}, not {probability}"
                );
            }
        }
    }

    #[test]
    fn the_shared_part_is_the_same_for_all_and_the_rest_is_the_follower_s_own() {
        let mut rng = SmallRng::seed_from_u64(5);
        let text =
            r#"{"constant":{"ms":2},"perFollower":[{"follower":1,"constant":{"ms":5}}],"shared":{"maxMs":1000}}"#;
        let delay = law(text);
        let shared_ms = delay.draw_shared_ms(&mut rng);
        let [first, second] = [0, 1].map(|number| delay.draw_us(number, shared_ms, &mut rng));
        assert_eq!(second - first, 3_000);
        assert_ne!(delay.draw_shared_ms(&mut rng), shared_ms, "drawn anew for each write");
    }

    #[test]
    fn no_delay_is_longer_than_an_hour() {
        let mut rng = SmallRng::seed_from_u64(6);
        let delay = law(r#"{"constant":{"ms":3600000},"shared":{"constant":{"ms":3600000}}}"#);
        let shared_ms = delay.draw_shared_ms(&mut rng);
        assert_eq!(delay.draw_us(0, shared_ms, &mut rng), 3_600_000_000);
        let heavy = law(r#"{"lognormal":{"medianMs":3600000,"sigma":4}}"#);
        assert!((0..1_000).all(|_| heavy.draw_us(0, 0.0, &mut rng) <= 3_600_000_000));
    }

    #[test]
    fn a_follower_has_the_number_of_its_name_or_of_its_place() {
        assert_eq!(follower_number("demo-follower-3", 0), 3);
        assert_eq!(follower_number("http://follower1:8001", 2), 2);
        assert_eq!(follower_number("http://demo-9", 2), 2);
        assert_eq!(follower_number("laptop", 4), 4);
    }
}
