//! Runs worlds that are made of seeds, many or one.
//!
//! With the prefix `NAME`: `NAME_SEED=17` runs one world and prints its trace, the last `NAME_LINES` of it. `NAME_SEEDS`
//! says how many run, and `NAME_FIRST` which is the first.

use std::fmt::Debug;

/// A verdict and the lines of a trace.
type Traced<S> = (Result<S, String>, Vec<String>);

/// The worlds of a test.
pub(crate) struct Seeds {
    pub(crate) prefix: &'static str,
    /// How many worlds a plain test run looks at.
    pub(crate) worlds: u64,
    /// How many lines of a trace a failure prints.
    pub(crate) lines: u64,
}

impl Seeds {
    fn number(&self, name: &str) -> Option<u64> {
        std::env::var(format!("{}_{name}", self.prefix)).ok().and_then(|text| text.parse().ok())
    }

    /// The first line of a trace, its end and the verdict, for people.
    pub(crate) fn shown<S: Debug>(&self, (verdict, trace): &Traced<S>) -> String {
        let lines = self.number("LINES").unwrap_or(self.lines);
        let from = trace.len().saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX));
        let first = trace.first().map_or("", String::as_str);
        format!("{first}\n…{from} lines before…\n{}\n{verdict:?}", trace[from..].join("\n"))
    }

    /// Runs one world with its trace where a seed is given. Otherwise runs all worlds, adds up what they amount to, and
    /// returns how many there were.
    ///
    /// # Panics
    /// Where a world fails, with the trace of the first one.
    pub(crate) fn run<S: Debug>(&self, world: impl Fn(u64, bool) -> Traced<S>, mut add: impl FnMut(&S)) -> Option<u64> {
        if let Some(seed) = self.number("SEED") {
            let traced = world(seed, true);
            println!("{}", self.shown(&traced));
            assert!(traced.0.is_ok(), "seed {seed} fails");
            return None;
        }
        let (first, worlds) = (self.number("FIRST").unwrap_or(0), self.number("SEEDS").unwrap_or(self.worlds));
        let mut failures = Vec::new();
        for seed in first..first + worlds {
            match world(seed, false).0 {
                Ok(summary) => add(&summary),
                Err(why) => failures.push((seed, why)),
            }
        }
        for (seed, why) in failures.iter().take(40) {
            println!("seed {seed}: {why}");
        }
        if let Some((seed, _)) = failures.first() {
            let trace = self.shown(&world(*seed, true));
            panic!("{} of {worlds} worlds fail; the first, seed {seed}:\n{trace}", failures.len());
        }
        Some(worlds)
    }
}
