//! A law from delays that were measured: a file with one number of milliseconds a line.

use anyhow::{Context, Result, bail};
use kvcluster_api::{
    config::MILLISECONDS_MAX,
    delay::{Delays, Part, Shape},
};

use crate::stats::quantile;

/// Fewer delays say nothing of a law.
const DELAYS_MIN: usize = 10;
/// More are no law of a few followers but a log to be summarized first.
const DELAYS_MAX: usize = 10_000_000;
/// Between so many quantiles the delays are taken as uniform, up to the 99 % quantile.
const STEPS: u32 = 250;
/// And between so many beyond it, ever finer.
const TAIL_STEPS: i32 = 80;

/// Delays of all followers as in the text of a file: numbers of milliseconds, one a line. Empty lines and those that begin
/// with `#` are not read.
///
/// # Errors
/// When a line is no delay, named by its number, or there are too few.
pub fn delays(text: &str) -> Result<Delays> {
    let mut measured = Vec::new();
    for (number, line) in text.lines().map(str::trim).enumerate() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let ms: f64 = line.parse().with_context(|| format!("line {} is no number: {line:?}", number + 1))?;
        if !(0.0..=f64::from(MILLISECONDS_MAX)).contains(&ms) {
            bail!("line {} is {line}: a delay must be from 0 to {MILLISECONDS_MAX} ms", number + 1);
        }
        measured.push(ms);
    }
    if !(DELAYS_MIN..=DELAYS_MAX).contains(&measured.len()) {
        bail!("it has {} delays: a law needs {DELAYS_MIN} to {DELAYS_MAX}", measured.len());
    }
    measured.sort_by(f64::total_cmp);
    Ok(Delays::same_for_all(law(&measured)))
}

/// Uniform between quantiles, which are closest in the upper tail.
fn law(sorted: &[f64]) -> Part {
    let body = (0..=STEPS).map(|step| 0.99 * f64::from(step) / f64::from(STEPS));
    let tail = (1..=TAIL_STEPS).map(|step| 1.0 - 0.01 * 0.9_f64.powi(step));
    let places: Vec<f64> = body.chain(tail).chain([1.0]).collect();
    let part = |shape| Part { shape, offset_ms: 0.0, cap_ms: MILLISECONDS_MAX.into() };
    let between = |pair: &[f64]| {
        let (min_ms, max_ms) = (quantile(sorted, pair[0]), quantile(sorted, pair[1]));
        (pair[1] - pair[0], part(Shape::Uniform { min_ms, max_ms }))
    };
    part(Shape::Mixture(places.windows(2).map(between).collect()))
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::theory::{QuorumDelay, StaleReads};

    #[test]
    fn many_delays_of_a_law_have_its_figures() {
        let mut random = StdRng::seed_from_u64(4);
        let lines: Vec<String> =
            (0..40_000).map(|_| format!("{:.4}", -40.0 * (1.0 - random.random::<f64>()).ln())).collect();
        let traced = delays(&format!("# measured\n\n{}\n", lines.join("\n"))).expect("a law");
        for (write_quorum, mean_ms, p99_ms) in [(1, 8.0, 36.8), (3, 31.3, 90.0), (5, 91.3, 248.0)] {
            let law = QuorumDelay::of(&traced, 5, write_quorum).expect("a quorum");
            assert!((law.mean_ms() - mean_ms).abs() < 0.03 * mean_ms, "W = {write_quorum}: {}", law.mean_ms());
            assert!(
                (law.quantile_ms(0.99) - p99_ms).abs() < 0.06 * p99_ms,
                "W = {write_quorum}: {}",
                law.quantile_ms(0.99)
            );
        }
        let stale = StaleReads::new(&traced, 5).probability(1, 40.0);
        assert!((stale - 0.8 / std::f64::consts::E).abs() < 0.01, "{stale}");
    }

    #[test]
    fn equal_delays_are_a_constant() {
        let law = delays(&"7.5\n".repeat(20)).expect("a law");
        let law = QuorumDelay::of(&law, 5, 2).expect("a quorum");
        assert!((law.mean_ms() - 7.5).abs() < 1e-9 && (law.quantile_ms(0.5) - 7.5).abs() < 1e-6, "{law:?}");
    }

    #[test]
    fn what_is_no_delay_is_refused_with_its_line() {
        let good = "1\n".repeat(20);
        for (text, expected) in [
            (format!("{good}soon\n"), "line 21 is no number: \"soon\""),
            (format!("-3\n{good}"), "line 1 is -3: a delay must be from 0 to 3600000 ms"),
            (format!("# delays\n\nNaN\n{good}"), "line 3 is NaN: a delay must be from 0"),
            ("1\n2\n".to_owned(), "it has 2 delays: a law needs 10"),
            (String::new(), "it has 0 delays"),
        ] {
            let error = format!("{:#}", delays(&text).expect_err(expected));
            assert!(error.contains(expected), "{error}");
        }
    }
}
