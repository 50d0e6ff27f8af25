//! The chance that a read at a random follower misses an acknowledged write, under any law.
//!
//! **The formula.** A write commits at the `W`-th smallest of its delays `D₁ … D_N`. If follower `i` is later than that by
//! more than `t`, then at least `W` of the *other* followers have delays below `Dᵢ − t`, and the reverse. So with the
//! distribution functions `F₁ … F_N` of independent delays
//!
//! `P(t, W) = 1/N · Σᵢ ∫ P(at least W of the others have delays below x − t) dFᵢ(x)`.
//!
//! The number of the others is Poisson binomial. At `W = N` there are too few others, and the chance is exactly 0. The
//! integral is a sum over the strata of `Fᵢ`: the chance is right to 0.00002 under a smooth law, and to half a stratum (0.0005)
//! under one with steps.
//!
//! **A shared part** is added to every delay of a write, so that all differences stay what they were: it makes no read stale
//! and none fresh. (Only a sum above the hour at which every delay is capped would change a difference.)
//!
//! **Uniform delays** have the closed form of [`stale_read_probability`].

use kvcluster_api::delay::{Delays, Part, Shape};

use super::{
    numbers::{part_cdf, strata},
    stale_read_probability,
};

/// Delays that differ by less count as equal, so that rounding makes no follower of a law with steps late.
const TIE_MS: f64 = 1e-6;

/// Neighbours in a table differ by no more than this at any quorum.
const STEP_MAX: f64 = 0.004;

/// Times in a table that are closer are neighbours, whatever their values.
const CLOSE_MS: f64 = 1e-4;

/// The chances of stale reads at every write quorum of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct StaleReads {
    followers: u16,
    law: Law,
}

#[derive(Clone, Debug, PartialEq)]
enum Law {
    /// All followers have the same uniform law.
    Uniform {
        span_ms: f64,
    },
    Numbers(Vec<Group>),
}

/// Followers with the same law.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    part: Part,
    followers: u16,
    /// Delays with their probabilities.
    strata: Vec<(f64, f64)>,
}

impl StaleReads {
    /// Reads at one random of `followers` that have these delays.
    #[must_use]
    pub fn new(delays: &Delays, followers: u16) -> Self {
        let mut laws: Vec<(&Part, u16)> = Vec::new();
        for number in 0..followers {
            let part = delays.of_follower(number);
            match laws.iter_mut().find(|(law, _)| *law == part) {
                Some((_, count)) => *count += 1,
                None => laws.push((part, 1)),
            }
        }
        if let [(Part { shape: Shape::Uniform { min_ms, max_ms }, offset_ms, cap_ms }, _)] = laws.as_slice()
            && min_ms < max_ms
            && offset_ms + max_ms <= *cap_ms
        {
            return Self { followers, law: Law::Uniform { span_ms: max_ms - min_ms } };
        }
        let group = |(part, followers): (&Part, u16)| Group { part: part.clone(), followers, strata: strata(part) };
        Self { followers, law: Law::Numbers(laws.into_iter().map(group).collect()) }
    }

    /// For each write quorum, from 1 on: the chance that a read misses a write that was committed `elapsed_ms` before.
    #[must_use]
    pub fn probabilities(&self, elapsed_ms: f64) -> Vec<f64> {
        let elapsed_ms = elapsed_ms.max(0.0);
        match &self.law {
            Law::Uniform { span_ms } => (1..=self.followers)
                .map(|write_quorum| stale_read_probability(self.followers, write_quorum, elapsed_ms / span_ms))
                .collect(),
            Law::Numbers(groups) => by_numbers(groups, self.followers, elapsed_ms),
        }
    }

    /// The same for one quorum from 1 to N.
    #[must_use]
    pub fn probability(&self, write_quorum: u16, elapsed_ms: f64) -> f64 {
        self.probabilities(elapsed_ms)[usize::from(write_quorum) - 1]
    }

    /// The chances at all times up to `until_ms`, to look up many of them.
    #[must_use]
    pub fn table(&self, until_ms: f64) -> StaleTable {
        let at = |ms: f64| (ms, self.probabilities(ms));
        let mut rows = vec![at(0.0)];
        // The upper ends of the intervals that are left, the next one last.
        let mut ends = vec![at(until_ms.max(CLOSE_MS))];
        while let (Some((from_ms, from)), Some((to_ms, to))) = (rows.last(), ends.last()) {
            let is_near = from.iter().zip(to).all(|(from, to)| from - to <= STEP_MAX);
            if is_near || to_ms - from_ms < CLOSE_MS {
                rows.extend(ends.pop());
            } else {
                let middle = at(f64::midpoint(*from_ms, *to_ms));
                ends.push(middle);
            }
        }
        StaleTable(rows)
    }
}

fn by_numbers(groups: &[Group], followers: u16, elapsed_ms: f64) -> Vec<f64> {
    let mut stale = vec![0.0; usize::from(followers)];
    for (own, group) in groups.iter().enumerate() {
        let share = f64::from(group.followers) / f64::from(followers);
        for (ms, probability) in &group.strata {
            let until_ms = ms - elapsed_ms - TIE_MS;
            // The chance of each number of others that are earlier, one follower after the other.
            let mut counts = vec![1.0];
            for (other, Group { part, followers, .. }) in groups.iter().enumerate() {
                let chance = part_cdf(part, until_ms);
                for _ in 0..(followers - u16::from(other == own)) {
                    counts.push(0.0);
                    for count in (1..counts.len()).rev() {
                        counts[count] = counts[count] * (1.0 - chance) + counts[count - 1] * chance;
                    }
                    counts[0] *= 1.0 - chance;
                }
            }
            let mut at_least = 0.0;
            for write_quorum in (1..counts.len()).rev() {
                at_least += counts[write_quorum];
                stale[write_quorum - 1] += share * probability * at_least;
            }
        }
    }
    stale
}

/// Chances at times so close that those between them can be interpolated.
#[derive(Clone, Debug, PartialEq)]
pub struct StaleTable(Vec<(f64, Vec<f64>)>);

impl StaleTable {
    /// The chance at this quorum. Beyond the end of the table it is that of the end.
    #[must_use]
    pub fn probability(&self, write_quorum: u16, elapsed_ms: f64) -> f64 {
        let Self(rows) = self;
        let column = usize::from(write_quorum) - 1;
        let above = rows.partition_point(|(at_ms, _)| *at_ms <= elapsed_ms).clamp(1, rows.len());
        let (from_ms, from) = &rows[above - 1];
        let Some((to_ms, to)) = rows.get(above) else { return from[column] };
        let share = ((elapsed_ms - from_ms) / (to_ms - from_ms)).max(0.0);
        from[column] + (to[column] - from[column]) * share
    }

    /// The first time at which the chance is at most `probability`; the end of the table where it is never.
    #[must_use]
    pub fn first_at_most(&self, write_quorum: u16, probability: f64) -> f64 {
        let Self(rows) = self;
        let column = usize::from(write_quorum) - 1;
        let position = rows.partition_point(|(_, chances)| chances[column] > probability);
        let (Some((to_ms, to)), Some((from_ms, from))) =
            (rows.get(position), position.checked_sub(1).map(|before| &rows[before]))
        else {
            return rows.get(position).or(rows.last()).map_or(0.0, |(at_ms, _)| *at_ms);
        };
        from_ms + (to_ms - from_ms) * (from[column] - probability) / (from[column] - to[column])
    }

    /// All times with their chances, from the first on.
    #[must_use]
    pub fn rows(&self) -> &[(f64, Vec<f64>)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    //! Goal: the numbers are the closed form where there is one, and for other laws those of a simulation that shares no
    //! formula with the code.
    use kvcluster_api::delay::DelayLaw;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    fn delays(text: &str) -> Delays {
        serde_json::from_str::<DelayLaw>(text).expect("well-formed").resolve().expect("a law")
    }

    fn by_numbers_of(text: &str, followers: u16) -> StaleReads {
        let reads = StaleReads::new(&delays(text), followers);
        assert!(matches!(reads.law, Law::Numbers(_)), "{text}");
        reads
    }

    fn close(left: f64, right: f64, tolerance: f64, what: &str) {
        assert!((left - right).abs() <= tolerance, "{what}: {left} is not {right} ± {tolerance}");
    }

    /// The numbers of a law that has the closed form, but not its name.
    #[test]
    fn uniform_delays_have_their_closed_form() {
        let half = r#"{"mixture":[{"weight":1,"minMs":20,"maxMs":60},{"weight":1,"minMs":20,"maxMs":60}]}"#;
        for followers in [1, 2, 5, 9] {
            let numbers = by_numbers_of(half, followers);
            let closed = StaleReads::new(&delays(r#"{"minMs":20,"maxMs":60}"#), followers);
            assert_eq!(closed.law, Law::Uniform { span_ms: 40.0 });
            for elapsed_ms in [0.0, 1.0, 4.0, 10.0, 22.5, 30.0, 39.0, 40.0, 80.0] {
                let pairs = numbers.probabilities(elapsed_ms).into_iter().zip(closed.probabilities(elapsed_ms));
                for ((left, right), write_quorum) in pairs.zip(1..) {
                    close(left, right, 1e-5, &format!("W = {write_quorum} of {followers}, {elapsed_ms} ms"));
                }
            }
        }
    }

    /// Exponential delays have no memory: of the followers that miss a commit each still misses it with `exp(-t/mean)`.
    #[test]
    fn exponential_delays_have_their_closed_form() {
        let numbers = by_numbers_of(r#"{"exponential":{"meanMs":40}}"#, 5);
        for elapsed_ms in [0.0, 3.0, 40.0, 200.0] {
            for write_quorum in 1..=5 {
                let expected = f64::from(5 - write_quorum) / 5.0 * (-elapsed_ms / 40.0_f64).exp();
                let what = format!("W = {write_quorum}, {elapsed_ms} ms");
                close(numbers.probability(write_quorum, elapsed_ms), expected, 2e-5, &what);
            }
        }
    }

    #[test]
    fn at_the_commit_w_followers_have_the_write_under_every_law_without_ties() {
        for text in [r#"{"preset":"yammer"}"#, r#"{"preset":"wan-3-zones"}"#, r#"{"preset":"linkedin-disk"}"#] {
            for (chance, missing) in
                by_numbers_of(text, 5).probabilities(0.0).into_iter().zip([4.0, 3.0, 2.0, 1.0, 0.0])
            {
                close(chance, missing / 5.0, 1e-3, text);
            }
        }
    }

    #[test]
    fn with_every_follower_in_the_quorum_no_read_is_stale_at_all() {
        for text in
            [r#"{"maxMs":200}"#, r#"{"preset":"yammer"}"#, r#"{"preset":"wan-3-zones"}"#, r#"{"constant":{"ms":4}}"#]
        {
            for elapsed_ms in [0.0, 0.5, 70.0] {
                assert_eq!(StaleReads::new(&delays(text), 5).probability(5, elapsed_ms), 0.0, "{text}");
            }
        }
    }

    /// A follower with the same delay as the quorum is not late, and one that is 3 ms slower is so for 3 ms.
    #[test]
    fn equal_delays_make_no_follower_late() {
        assert_eq!(by_numbers_of(r#"{"constant":{"ms":7.3}}"#, 5).probabilities(0.0), [0.0; 5]);
        let slow = r#"{"constant":{"ms":7.3},"perFollower":[{"follower":1,"constant":{"ms":10.3}}]}"#;
        let slow = by_numbers_of(slow, 5);
        for (elapsed_ms, expected) in [(0.0, 0.2), (2.9, 0.2), (3.0, 0.0), (9.0, 0.0)] {
            let chances = slow.probabilities(elapsed_ms);
            chances[..4].iter().for_each(|chance| close(*chance, expected, 1e-9, &format!("{elapsed_ms} ms")));
            assert_eq!(chances[4], 0.0, "{elapsed_ms} ms");
        }
    }

    #[test]
    fn the_chance_never_rises_with_time_or_with_the_quorum() {
        for text in [r#"{"preset":"yammer"}"#, r#"{"preset":"wan-3-zones"}"#, r#"{"pareto":{"scaleMs":2,"shape":1.2}}"#]
        {
            let reads = by_numbers_of(text, 7);
            let mut before = vec![1.0; 7];
            for elapsed_ms in [0.0, 0.3, 1.0, 2.5, 8.0, 40.0, 90.0, 500.0] {
                let chances = reads.probabilities(elapsed_ms);
                assert!(chances.windows(2).all(|pair| pair[0] >= pair[1]), "{text}: {chances:?}");
                assert!(chances.iter().zip(&before).all(|(now, before)| *now <= before + 1e-12), "{text}: {chances:?}");
                before = chances;
            }
        }
    }

    /// Draws like a leader, by the inverse of each distribution function.
    fn simulate(text: &str, draw: impl Fn(&mut StdRng) -> Vec<f64>) {
        const WRITES: u32 = 40_000;
        let times = [0.0, 1.0, 4.0, 15.0, 60.0];
        let mut random = StdRng::seed_from_u64(16);
        let reads = by_numbers_of(text, 5);
        let mut stale = [[0_u32; 5]; 5];
        for _ in 0..WRITES {
            let delays = draw(&mut random);
            let mut sorted = delays.clone();
            sorted.sort_by(f64::total_cmp);
            for (time, elapsed_ms) in times.iter().enumerate() {
                let read = delays[random.random_range(0..5)];
                for (quorum, committed) in sorted.iter().enumerate() {
                    stale[time][quorum] += u32::from(read > committed + elapsed_ms);
                }
            }
        }
        for (row, elapsed_ms) in stale.iter().zip(times) {
            for ((count, chance), write_quorum) in row.iter().zip(reads.probabilities(elapsed_ms)).zip(1..) {
                let error = (chance * (1.0 - chance) / f64::from(WRITES)).sqrt();
                let what = format!("{text}, W = {write_quorum}, {elapsed_ms} ms");
                close(f64::from(*count) / f64::from(WRITES), chance, 4.5 * error + 5e-4, &what);
            }
        }
    }

    fn exponential(random: &mut StdRng, mean_ms: f64) -> f64 {
        -mean_ms * (1.0 - random.random::<f64>()).ln()
    }

    fn pareto(random: &mut StdRng, scale_ms: f64, shape: f64) -> f64 {
        scale_ms * (1.0 - random.random::<f64>()).powf(-1.0 / shape)
    }

    #[test]
    fn a_simulation_of_a_heavy_tail_agrees() {
        simulate(r#"{"preset":"linkedin-disk"}"#, |random| {
            let delay = |random: &mut StdRng| {
                if random.random::<f64>() < 0.38 {
                    pareto(random, 1.05, 1.51)
                } else {
                    exponential(random, 1.0 / 0.183)
                }
            };
            (0..5).map(|_| delay(random)).collect()
        });
    }

    #[test]
    fn a_simulation_of_zones_agrees() {
        simulate(r#"{"preset":"wan-3-zones"}"#, |random| {
            let zones = [(0.0, 1.0), (75.0, 3.0), (140.0, 10.0), (0.0, 1.0), (75.0, 3.0)];
            zones.iter().map(|(distance_ms, mean_ms)| distance_ms + exponential(random, *mean_ms)).collect()
        });
    }

    /// The shared part moves commit and arrivals alike.
    #[test]
    fn a_simulation_of_a_shared_part_and_a_slow_follower_agrees() {
        let text = r#"{"exponential":{"meanMs":10},"offsetMs":2,"capMs":25,
            "perFollower":[{"follower":4,"constant":{"ms":30}}],"shared":{"pareto":{"scaleMs":5,"shape":1.2}}}"#;
        simulate(text, |random| {
            let shared_ms = pareto(random, 5.0, 1.2);
            let own = (0..4).map(|_| (2.0 + exponential(random, 10.0)).min(25.0));
            own.chain([30.0]).map(|own_ms| shared_ms + own_ms).collect()
        });
    }

    #[test]
    fn a_table_has_the_chances_and_finds_the_time_of_one() {
        for text in [r#"{"maxMs":200}"#, r#"{"preset":"yammer"}"#] {
            let reads = StaleReads::new(&delays(text), 5);
            let table = reads.table(1_000.0);
            for elapsed_ms in [0.0, 0.7, 3.0, 55.0, 180.0, 900.0] {
                for write_quorum in 1..=5 {
                    let (tabled, exact) =
                        (table.probability(write_quorum, elapsed_ms), reads.probability(write_quorum, elapsed_ms));
                    close(tabled, exact, 5e-4, &format!("{text}, W = {write_quorum}, {elapsed_ms} ms"));
                }
            }
            let half_ms = table.first_at_most(1, 0.4);
            close(reads.probability(1, half_ms), 0.4, 1e-3, text);
            assert_eq!(table.first_at_most(1, 0.95), 0.0, "from the start");
            assert_eq!(table.first_at_most(5, 0.0), 0.0);
            assert_eq!(
                table.rows().len(),
                table.rows().iter().map(|row| row.0.to_bits()).collect::<std::collections::BTreeSet<_>>().len()
            );
        }
        assert_eq!(
            StaleReads::new(&delays(r#"{"preset":"yammer"}"#), 5).table(9.0).first_at_most(1, 0.0),
            9.0,
            "never"
        );
    }
}
