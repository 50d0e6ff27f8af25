//! The checks of a law, and what its names mean.

use super::{
    Constant, DelayLaw, Delays, Exponential, LAWS_MAX, Lognormal, MIXTURE_DEPTH_MAX, MIXTURE_PARTS_MAX, PRESETS,
    Pareto, Part, SIGMA_MAX, Shape,
};
use crate::config::{ConfigError, FOLLOWERS_MAX, MILLISECONDS_MAX};

const LAWS: &str = "minMs and maxMs, constant, exponential, lognormal, pareto, mixture, preset";

/// Checks the law of a cluster.
pub(super) fn delays(law: &DelayLaw) -> Result<Delays, ConfigError> {
    let mut resolver = Resolver { laws: 0 };
    refuse(law.weight, "delay.weight", "only a part of a mixture has a weight")?;
    refuse(law.follower, "delay.follower", "only an entry of perFollower names a follower")?;
    let zones = law.preset.as_deref() == Some("wan-3-zones");
    let mut delays = if zones {
        resolver.only_one_law(law, "delay")?;
        let (offset_ms, cap_ms) = offset_and_cap(law, "delay")?;
        let zone = |(distance_ms, mean_ms)| Part {
            shape: Shape::Exponential { mean_ms },
            offset_ms: offset_ms + distance_ms,
            cap_ms,
        };
        let laws = [(0.0, 1.0), (75.0, 3.0), (140.0, 10.0)].map(zone).into();
        Delays { laws, by_follower: Vec::new(), common: 3, shared: None }
    } else {
        let laws = vec![resolver.part(law, "delay", 0)?];
        Delays { laws, by_follower: Vec::new(), common: 1, shared: None }
    };
    for (index, entry) in law.per_follower.iter().flatten().enumerate() {
        resolver.follower(&mut delays, entry, &format!("delay.perFollower[{index}]"))?;
    }
    if let Some(shared) = &law.shared {
        refuse(shared.weight, "delay.shared.weight", "only a part of a mixture has a weight")?;
        refuse(shared.follower, "delay.shared.follower", "all followers have the shared part")?;
        refuse_followers(shared, "delay.shared")?;
        delays.shared = Some(resolver.part(shared, "delay.shared", 0)?);
    }
    Ok(delays)
}

struct Resolver {
    /// How many laws the document has so far.
    laws: usize,
}

impl Resolver {
    /// The law of one follower.
    fn follower(&mut self, delays: &mut Delays, entry: &DelayLaw, path: &str) -> Result<(), ConfigError> {
        refuse(entry.weight, &format!("{path}.weight"), "only a part of a mixture has a weight")?;
        refuse_followers(entry, path)?;
        let number = match entry.follower {
            Some(number) if number < FOLLOWERS_MAX => number,
            Some(number) => {
                return fail(format!(
                    "{path}.follower is {number}: followers are numbered from 0 to {}",
                    FOLLOWERS_MAX - 1
                ));
            }
            None => return fail(format!("{path} names no follower: give its number, from 0")),
        };
        let part = self.part(entry, path, 0)?;
        let number_in_list = usize::from(number);
        // Every follower up to this one gets an entry. Those without a law of their own keep the common one.
        for other in delays.by_follower.len()..=number_in_list {
            delays.by_follower.push((other % delays.common) as u8);
        }
        if usize::from(delays.by_follower[number_in_list]) >= delays.common {
            return fail(format!("{path}.follower is {number}, as in an earlier entry: a follower has one law"));
        }
        delays.by_follower[number_in_list] = delays.laws.len() as u8;
        delays.laws.push(part);
        Ok(())
    }

    fn part(&mut self, law: &DelayLaw, path: &str, depth: usize) -> Result<Part, ConfigError> {
        self.only_one_law(law, path)?;
        let (offset_ms, cap_ms) = offset_and_cap(law, path)?;
        let shape = if let Some(Constant { ms }) = law.constant {
            let ms = milliseconds(ms, &format!("{path}.constant.ms"))?;
            Shape::Uniform { min_ms: ms, max_ms: ms }
        } else if let Some(Exponential { mean_ms }) = law.exponential {
            Shape::Exponential { mean_ms: positive_ms(mean_ms, &format!("{path}.exponential.meanMs"))? }
        } else if let Some(Lognormal { median_ms, sigma }) = law.lognormal {
            let median_ms = positive_ms(median_ms, &format!("{path}.lognormal.medianMs"))?;
            if !(sigma > 0.0 && sigma <= SIGMA_MAX) {
                return fail(format!("{path}.lognormal.sigma is {sigma}: it must be above 0 and at most {SIGMA_MAX}"));
            }
            Shape::Lognormal { median_ms, sigma }
        } else if let Some(Pareto { scale_ms, shape }) = law.pareto {
            let scale_ms = positive_ms(scale_ms, &format!("{path}.pareto.scaleMs"))?;
            if !(shape > 0.0 && shape.is_finite()) {
                return fail(format!("{path}.pareto.shape is {shape}: a tail index must be above 0"));
            }
            if shape <= 1.0 && law.cap_ms.is_none() {
                return fail(format!(
                    "{path}.pareto.shape is {shape}: up to 1 the mean is infinite, so give the longest delay as capMs"
                ));
            }
            Shape::Pareto { scale_ms, shape }
        } else if let Some(parts) = &law.mixture {
            self.mixture(parts, path, depth + 1)?
        } else if let Some(name) = &law.preset {
            preset(name, path)?
        } else {
            uniform(law, path)?
        };
        Ok(Part { shape, offset_ms, cap_ms })
    }

    fn mixture(&mut self, parts: &[DelayLaw], path: &str, depth: usize) -> Result<Shape, ConfigError> {
        if depth > MIXTURE_DEPTH_MAX {
            return fail(format!("{path}.mixture is nested too deeply: at most {MIXTURE_DEPTH_MAX} mixtures"));
        }
        if parts.is_empty() || parts.len() > MIXTURE_PARTS_MAX {
            let parts = parts.len();
            return fail(format!("{path}.mixture has {parts} parts: it must have 1 to {MIXTURE_PARTS_MAX}"));
        }
        let mut weighted = Vec::with_capacity(parts.len());
        for (index, part) in parts.iter().enumerate() {
            let path = format!("{path}.mixture[{index}]");
            let Some(weight) = part.weight else {
                return fail(format!("{path} has no weight"));
            };
            if !(weight > 0.0 && weight <= 1e9) {
                return fail(format!("{path}.weight is {weight}: it must be above 0 and at most 1000000000"));
            }
            refuse(part.follower, &format!("{path}.follower"), "only an entry of perFollower names a follower")?;
            refuse_followers(part, &path)?;
            weighted.push((weight, self.part(part, &path, depth)?));
        }
        let total: f64 = weighted.iter().map(|(weight, _)| weight).sum();
        weighted.iter_mut().for_each(|(weight, _)| *weight /= total);
        Ok(Shape::Mixture(weighted))
    }

    fn only_one_law(&mut self, law: &DelayLaw, path: &str) -> Result<(), ConfigError> {
        self.laws += 1;
        if self.laws > LAWS_MAX {
            return fail(format!("{path}: there are more than {LAWS_MAX} laws in all"));
        }
        let named: Vec<&str> = [
            ("minMs and maxMs", law.min_ms.is_some() || law.max_ms.is_some()),
            ("constant", law.constant.is_some()),
            ("exponential", law.exponential.is_some()),
            ("lognormal", law.lognormal.is_some()),
            ("pareto", law.pareto.is_some()),
            ("mixture", law.mixture.is_some()),
            ("preset", law.preset.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_named)| is_named.then_some(name))
        .collect();
        match named.as_slice() {
            [_] => Ok(()),
            [] => fail(format!("{path} names no law: give one of {LAWS}")),
            [first, second, ..] => fail(format!("{path} has {first} beside {second}: give one law")),
        }
    }
}

fn uniform(law: &DelayLaw, path: &str) -> Result<Shape, ConfigError> {
    let Some(max_ms) = law.max_ms else {
        return fail(format!("{path} has minMs without maxMs"));
    };
    let min_ms = milliseconds(law.min_ms.unwrap_or(0.0), &format!("{path}.minMs"))?;
    let max_ms = milliseconds(max_ms, &format!("{path}.maxMs"))?;
    if min_ms > max_ms {
        return fail(format!("{path}.minMs {min_ms} is above {path}.maxMs {max_ms}"));
    }
    Ok(Shape::Uniform { min_ms, max_ms })
}

/// The write latencies that Bailis et al. fitted for LinkedIn's disks and for Yammer ("Probabilistically Bounded
/// Staleness", VLDB 2012).
fn preset(name: &str, path: &str) -> Result<Shape, ConfigError> {
    let part = |shape| Part { shape, offset_ms: 0.0, cap_ms: MILLISECONDS_MAX.into() };
    let pareto_or_exponential = |weight: f64, scale_ms, shape, rate_per_ms: f64| {
        Shape::Mixture(vec![
            (weight, part(Shape::Pareto { scale_ms, shape })),
            (1.0 - weight, part(Shape::Exponential { mean_ms: 1.0 / rate_per_ms })),
        ])
    };
    match name {
        "linkedin-disk" => Ok(pareto_or_exponential(0.38, 1.05, 1.51, 0.183)),
        "yammer" => Ok(pareto_or_exponential(0.939, 3.0, 3.35, 0.0028)),
        "wan-3-zones" => fail(format!("{path}.preset is \"wan-3-zones\", which is a law of all followers together")),
        _ => fail(format!("{path}.preset is {name:?}: it must be one of {}", PRESETS.join(", "))),
    }
}

fn offset_and_cap(law: &DelayLaw, path: &str) -> Result<(f64, f64), ConfigError> {
    let offset_ms = milliseconds(law.offset_ms.unwrap_or(0.0), &format!("{path}.offsetMs"))?;
    let cap_ms = milliseconds(law.cap_ms.unwrap_or(MILLISECONDS_MAX.into()), &format!("{path}.capMs"))?;
    if offset_ms > cap_ms {
        return fail(format!("{path}.offsetMs {offset_ms} is above {path}.capMs {cap_ms}"));
    }
    Ok((offset_ms, cap_ms))
}

fn milliseconds(value: f64, field: &str) -> Result<f64, ConfigError> {
    if (0.0..=f64::from(MILLISECONDS_MAX)).contains(&value) {
        return Ok(value);
    }
    fail(format!("{field} is {value}: it must be from 0 to {MILLISECONDS_MAX}"))
}

fn positive_ms(value: f64, field: &str) -> Result<f64, ConfigError> {
    if value > 0.0 && value <= f64::from(MILLISECONDS_MAX) {
        return Ok(value);
    }
    fail(format!("{field} is {value}: it must be above 0 and at most {MILLISECONDS_MAX}"))
}

fn refuse_followers(law: &DelayLaw, path: &str) -> Result<(), ConfigError> {
    refuse(
        law.per_follower.as_ref().map(|_| "set"),
        &format!("{path}.perFollower"),
        "it belongs beside the outermost law",
    )?;
    refuse(law.shared.as_ref().map(|_| "set"), &format!("{path}.shared"), "it belongs beside the outermost law")
}

fn refuse(value: Option<impl std::fmt::Display>, field: &str, why: &str) -> Result<(), ConfigError> {
    value.map_or(Ok(()), |value| fail(format!("{field} is {value}: {why}")))
}

fn fail<T>(message: String) -> Result<T, ConfigError> {
    Err(ConfigError(message))
}
