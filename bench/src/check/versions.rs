//! Rules for the versions in the answers, key by key. The time is that of sorting the history.
//!
//! The sequence numbers of a key order what was committed. Where the rules here hold for writes and linearizable reads,
//! that very order (by number, each write before its reads) is a linearization: it puts no operation before one that had
//! ended when it began, and every read shows the write before it. So their verdict needs no search; the search of
//! [`linearizability`](super::linearizability) is there because it believes no version.

use std::collections::{BTreeMap, HashMap};

use kv_node::protocol::types::Epoch;

use super::{
    history::{Action, Condition, History, Operation, OperationOutcome},
    violation::{Rule, Violation},
};

/// Every rule, for the operations on one key, given in the order of their calls.
pub(super) fn check_key(history: &History, key: &str, numbers: &[usize]) -> Vec<Violation> {
    let is_counter = numbers.iter().any(|number| history.operations[*number].action == Action::Increment);
    let is_deleted = numbers.iter().any(|number| {
        let Operation { action, outcome, .. } = &history.operations[*number];
        *action == Action::Delete && *outcome != OperationOutcome::NotApplied
    });
    let writes = if is_counter { HashMap::new() } else { writes_by_value(history, numbers) };
    let key = Key { history, key, numbers, is_counter, is_deleted, writes };
    let mut violations = Vec::new();
    key.one_value_per_version(&mut violations);
    if is_counter {
        key.sums_of_the_version_before(&mut violations);
    } else {
        key.values_were_written(&mut violations);
        key.applied_once(&mut violations);
    }
    key.never_back(&mut violations);
    key.conditions_kept(&mut violations);
    key.not_after_a_recovery_without_it(&mut violations);
    key.local_reads_never_back(&mut violations);
    key.no_staler_than_it_says(&mut violations);
    key.in_every_final_dump(&mut violations);
    violations
}

fn writes_by_value<'a>(history: &'a History, numbers: &[usize]) -> HashMap<&'a str, usize> {
    let writes = numbers.iter().filter(|number| history.operations[**number].action == Action::Put);
    writes.filter_map(|number| Some((history.operations[*number].value.as_deref()?, *number))).collect()
}

struct Key<'a> {
    history: &'a History,
    key: &'a str,
    numbers: &'a [usize],
    /// Whether clients increment it, so that values are sums, and one may be there several times.
    is_counter: bool,
    /// Whether clients delete it, after which a follower and a dump show no version of it.
    is_deleted: bool,
    /// Every write has a value of its own. None of a counter.
    writes: HashMap<&'a str, usize>,
}

impl<'a> Key<'a> {
    fn operations(&self) -> impl Iterator<Item = (usize, &'a Operation)> {
        self.numbers.iter().map(|number| (*number, &self.history.operations[*number]))
    }

    /// Writes that were answered, and linearizable reads, with their sequence numbers.
    fn settled(&self) -> impl Iterator<Item = (usize, &'a Operation, u64)> {
        let settled = self.operations().filter(|(_, operation)| operation.is_settled());
        settled.filter_map(|(number, operation)| Some((number, operation, operation.seq?)))
    }

    /// The same without increments whose answer shows no sum.
    fn settled_values(&self) -> impl Iterator<Item = (usize, &'a Operation, u64)> {
        self.settled().filter(|(_, operation, _)| operation.shows_value())
    }

    fn violation(&self, rule: Rule, operations: Vec<usize>, text: String) -> Violation {
        Violation { rule, key: Some(self.key.to_owned()), operations, text: format!("{}: {text}", self.key) }
    }

    /// A value that is shown was written to this key, by a write that had begun and was not refused.
    fn values_were_written(&self, violations: &mut Vec<Violation>) {
        for (number, read) in self.operations().filter(|(_, operation)| operation.action != Action::Put) {
            let Some(value) = read.value.as_deref().filter(|_| read.is_answered()) else { continue };
            let mut report = |operations: Vec<usize>, text: &str| {
                let text = format!("{} shows {text}", read.words());
                violations.push(self.violation(Rule::ValueWritten, operations, text));
            };
            match self.writes.get(value).map(|write| (*write, &self.history.operations[*write])) {
                None => report(vec![number], "a value that no client wrote there"),
                Some((write, it)) if it.outcome == OperationOutcome::NotApplied => {
                    report(vec![write, number], "a write that was refused");
                }
                Some((write, it)) if it.called_us > read.ended_us => {
                    report(vec![write, number], "a value before it was written");
                }
                Some(_) => {}
            }
        }
    }

    /// Each sequence number that was committed has one value; and each version, committed or not.
    fn one_value_per_version(&self, violations: &mut Vec<Violation>) {
        let mut settled: HashMap<u64, (Option<&str>, usize)> = HashMap::new();
        for (number, operation, seq) in self.settled_values() {
            let value = operation.value.as_deref();
            let (known, first) = *settled.entry(seq).or_insert((value, number));
            if known != value {
                let (known, value) = (known.unwrap_or("no value"), value.unwrap_or("no value"));
                let text = format!("seq {seq} was shown with two values, {known} and {value}");
                violations.push(self.violation(Rule::OneValuePerVersion, vec![first, number], text));
            }
        }
        let mut told: HashMap<(Epoch, u64), (Option<&str>, usize)> = HashMap::new();
        for (number, operation) in self.operations() {
            let (Some(epoch), Some(seq)) = (operation.epoch, operation.seq) else { continue };
            if !operation.shows_value() {
                continue;
            }
            let value = operation.value.as_deref();
            let (known, first) = *told.entry((epoch, seq)).or_insert((value, number));
            // Of those that are settled it was said above.
            let news = !operation.is_settled() || !self.history.operations[first].is_settled();
            if known != value && news {
                let (known, value) = (known.unwrap_or("no value"), value.unwrap_or("no value"));
                let text = format!("seq {seq} of epoch {epoch} was shown with two values, {known} and {value}");
                violations.push(self.violation(Rule::OneValuePerVersion, vec![first, number], text));
            }
        }
    }

    /// A value is committed under one sequence number, however often its write was sent; and where it was sent once, under
    /// the one that its client received.
    fn applied_once(&self, violations: &mut Vec<Violation>) {
        let mut known: HashMap<&str, (u64, usize)> = HashMap::new();
        for (value, number) in &self.writes {
            let write = &self.history.operations[*number];
            if let Some(seq) = write.seq.filter(|_| write.is_answered() || write.attempts == 1) {
                known.insert(value, (seq, *number));
            }
        }
        for (number, operation, seq) in self.settled() {
            let Some(value) = operation.value.as_deref() else { continue };
            let (first_seq, first) = *known.entry(value).or_insert((seq, number));
            if first_seq != seq {
                let text = format!("{value} was committed as seq {first_seq} and as seq {seq}");
                violations.push(self.violation(Rule::AppliedOnce, vec![first, number], text));
            }
        }
    }

    /// The sum of an increment is larger than the value of the version before its own by what it adds.
    fn sums_of_the_version_before(&self, violations: &mut Vec<Violation>) {
        let number_of = |operation: &Operation| operation.value.as_deref()?.parse::<i64>().ok();
        let known: HashMap<u64, (i64, usize)> = self
            .settled()
            .filter_map(|(number, operation, seq)| Some((seq, (number_of(operation)?, number))))
            .collect();
        for (number, operation, seq) in self.settled() {
            let Some((by, sum)) = operation.by.zip(number_of(operation)) else { continue };
            let before = match seq.checked_sub(1) {
                Some(0) | None => None,
                Some(before) => match known.get(&before) {
                    Some(known) => Some(*known),
                    None => continue,
                },
            };
            let (value, earlier) = before.unzip();
            let value = value.unwrap_or(0);
            if value.checked_add(by) != Some(sum) {
                let text = format!("{} adds to {value} (seq {})", operation.words(), seq.saturating_sub(1));
                let operations = earlier.into_iter().chain([number]).collect();
                violations.push(self.violation(Rule::SumOfVersionBefore, operations, text));
            }
        }
    }

    /// An operation that began after another one had ended does not show an older version; a write has a newer one.
    fn never_back(&self, violations: &mut Vec<Violation>) {
        let mut begun: Vec<(u64, usize, u64, bool)> = self
            .settled()
            .map(|(number, operation, seq)| (operation.called_us, number, seq, operation.is_write()))
            .collect();
        // A write without an answer whose value was read: its number is known, and it began when it did.
        let shown = self.settled().filter(|(_, operation, _)| !operation.is_write());
        let shown: BTreeMap<usize, u64> = shown
            .filter_map(|(_, read, seq)| Some((*self.writes.get(read.value.as_deref()?)?, seq)))
            .filter(|(write, _)| self.history.operations[*write].outcome == OperationOutcome::Unknown)
            .collect();
        begun.extend(shown.iter().map(|(write, seq)| (self.history.operations[*write].called_us, *write, *seq, true)));
        begun.sort_unstable();
        let mut ended: Vec<(u64, usize, u64)> =
            self.settled().map(|(number, operation, seq)| (operation.ended_us, number, seq)).collect();
        ended.sort_unstable();
        let mut ended = ended.into_iter().peekable();
        let mut newest: Option<(u64, usize)> = None;
        for (called_us, number, seq, is_write) in begun {
            while let Some((_, earlier, seq)) = ended.next_if(|(ended_us, ..)| *ended_us < called_us) {
                newest = newest.max(Some((seq, earlier)));
            }
            let Some((before, earlier)) = newest else { continue };
            if seq < before || (is_write && seq == before) {
                let (now, then) = (&self.history.operations[number], &self.history.operations[earlier]);
                let text = format!("{} after {} had ended", now.words(), then.words());
                violations.push(self.violation(Rule::NeverBack, vec![earlier, number], text));
            }
        }
    }

    /// A write with a condition is the next version after the one that it names, and is refused only by another version.
    fn conditions_kept(&self, violations: &mut Vec<Violation>) {
        for (number, operation, seq) in self.settled() {
            let Some(condition) = &operation.condition else { continue };
            let is_kept = match (condition, operation.action) {
                (Condition::Version { seq: before, .. }, Action::Put) => seq == before + 1,
                (Condition::Version { seq: before, .. }, _) => seq != *before,
                (Condition::Absent, Action::Put) => seq == 1 || self.is_deleted,
                (Condition::Absent, _) => operation.value.is_some(),
                (Condition::Present, Action::Put | Action::Delete) => seq > 1,
                (Condition::Present, _) => operation.value.is_none(),
            };
            if !is_kept {
                violations.push(self.violation(Rule::ConditionKept, vec![number], operation.words()));
            }
        }
    }

    /// A write whose outcome is unknown does not turn up under a leader that follows one which opened without it.
    fn not_after_a_recovery_without_it(&self, violations: &mut Vec<Violation>) {
        // What a leader showed of its own epoch. The answer to a retry may report an old number under a new epoch.
        let of_epoch = |(number, operation, seq): (usize, &Operation, u64)| {
            Some((operation.epoch?, seq, number)).filter(|_| operation.attempts == 1)
        };
        let shown: Vec<(Epoch, u64, usize)> = self.settled().filter_map(of_epoch).collect();
        // The first epoch above a given one may have had the key at a lower number: the lowest number of each epoch.
        let mut lowest: BTreeMap<Epoch, (u64, usize)> = BTreeMap::new();
        for (epoch, seq, number) in &shown {
            let known = lowest.entry(*epoch).or_insert((*seq, *number));
            *known = (*seq, *number).min(*known);
        }
        for (epoch, seq, number) in &shown {
            let read = &self.history.operations[*number];
            let write = read.value.as_deref().and_then(|value| self.writes.get(value));
            let Some((write, it)) = write.map(|write| (*write, &self.history.operations[*write])) else { continue };
            let born = it.epoch.filter(|_| it.outcome == OperationOutcome::Unknown && it.attempts == 1);
            let Some(born) = born.filter(|born| born < epoch) else { continue };
            let without = lowest.range(born..=*epoch).find(|(at, (low, _))| **at > born && low < seq);
            if let Some((without, (low, witness))) = without {
                let text = format!(
                    "{} was accepted in epoch {born}; epoch {without} went on without it from seq {low}, and epoch \
                     {epoch} shows it",
                    it.words()
                );
                violations.push(self.violation(Rule::NotAfterRecovery, vec![write, *witness, *number], text));
            }
        }
    }

    /// One life of a follower's process never shows an older version of a key than before, nor loses an acknowledged one.
    fn local_reads_never_back(&self, violations: &mut Vec<Violation>) {
        type Newest = Option<((Epoch, u64), usize)>;
        let mut lives: HashMap<(&str, u32), Vec<usize>> = HashMap::new();
        for (number, operation) in self.operations() {
            let Some(incarnation) = operation.incarnation else { continue };
            if operation.action == Action::LocalGet && operation.is_answered() {
                lives.entry((&operation.node, incarnation)).or_default().push(number);
            }
        }
        for reads in lives.into_values() {
            // Given in the order of their calls.
            let mut ended = reads.clone();
            ended.sort_by_key(|number| self.history.operations[*number].ended_us);
            let mut ended = ended.into_iter().peekable();
            let mut newest: Newest = None;
            for number in reads {
                let now = &self.history.operations[number];
                while let Some(earlier) = ended.next_if(|at| self.history.operations[*at].ended_us < now.called_us) {
                    let then = &self.history.operations[earlier];
                    newest = newest.max(then.epoch.zip(then.seq).map(|version| (version, earlier)));
                }
                let Some((version, earlier)) = newest else { continue };
                let then = &self.history.operations[earlier];
                let went_back = match (now.epoch, now.seq) {
                    (Some(epoch), Some(seq)) => (epoch, seq) < version,
                    // Gone is only what was deleted, or what another leader's state did not have: nothing acknowledged.
                    _ => !self.is_deleted && self.is_acknowledged(then.value.as_deref()),
                };
                if went_back {
                    let text = format!("{} after {} had ended", now.words(), then.words());
                    violations.push(self.violation(Rule::LocalNeverBack, vec![earlier, number], text));
                }
            }
        }
    }

    /// A follower that says how old what it shows may be shows everything that was settled before that.
    fn no_staler_than_it_says(&self, violations: &mut Vec<Violation>) {
        let reads = self.operations().filter_map(|(number, read)| {
            let is_shown = read.is_answered() && !(self.is_deleted && read.value.is_none());
            let staleness_us = read.staleness_ms.filter(|_| is_shown)? * 1e3;
            Some((read.called_us.checked_sub(staleness_us.ceil() as u64)?, number))
        });
        let mut reads: Vec<(u64, usize)> = reads.collect();
        reads.sort_unstable();
        let mut ended: Vec<(u64, usize, u64)> =
            self.settled().map(|(number, operation, seq)| (operation.ended_us, number, seq)).collect();
        ended.sort_unstable();
        let mut ended = ended.into_iter().peekable();
        let mut newest: Option<(u64, usize)> = None;
        for (as_of_us, number) in reads {
            while let Some((_, earlier, seq)) = ended.next_if(|(ended_us, ..)| *ended_us < as_of_us) {
                newest = newest.max(Some((seq, earlier)));
            }
            let read = &self.history.operations[number];
            if let Some((_, earlier)) = newest.filter(|(seq, _)| read.seq.unwrap_or(0) < *seq) {
                let (then, staleness_ms) = (&self.history.operations[earlier], read.staleness_ms.unwrap_or(0.0));
                let age_ms = (read.called_us - then.ended_us) as f64 / 1e3;
                let text = format!(
                    "{} says that it is at most {staleness_ms:.0} ms old, and {} had ended {age_ms:.0} ms before",
                    read.words(),
                    then.words()
                );
                violations.push(self.violation(Rule::StalenessBound, vec![earlier, number], text));
            }
        }
    }

    fn is_acknowledged(&self, value: Option<&str>) -> bool {
        let write = value.and_then(|value| self.writes.get(value));
        write.is_some_and(|write| self.history.operations[*write].is_answered())
    }

    /// What was acknowledged or read is in every final dump, or below what is there; and what is there was written.
    fn in_every_final_dump(&self, violations: &mut Vec<Violation>) {
        let newest = self.settled().max_by_key(|(number, _, seq)| (*seq, *number));
        for dump in &self.history.dumps {
            let entry = dump.entries.get(self.key);
            if let Some((number, operation, seq)) = newest.filter(|(_, _, seq)| *seq > 0) {
                let lost = match entry {
                    None if self.is_deleted => None,
                    None => Some("has no such key".to_owned()),
                    Some(entry) if entry.seq < seq => Some(format!("ends at seq {}", entry.seq)),
                    Some(entry)
                        if entry.seq == seq
                            && operation.shows_value()
                            && entry.value.as_text() != operation.value.as_deref() =>
                    {
                        Some(format!("has {} there", entry.value))
                    }
                    Some(_) => None,
                };
                if let Some(lost) = lost {
                    let text = format!("{}, and in the end {} {lost}", operation.words(), dump.node);
                    violations.push(self.violation(Rule::InFinalDumps, vec![number], text));
                }
            }
            let Some(entry) = entry.filter(|_| !self.is_counter) else { continue };
            match entry.value.as_text().and_then(|value| self.writes.get(value)) {
                None => {
                    let text = format!("in the end {} has {}, which no client wrote there", dump.node, entry.value);
                    violations.push(self.violation(Rule::ValueWritten, Vec::new(), text));
                }
                Some(write) if self.history.operations[*write].outcome == OperationOutcome::NotApplied => {
                    let text = format!("in the end {} has {}, whose write was refused", dump.node, entry.value);
                    violations.push(self.violation(Rule::ValueWritten, vec![*write], text));
                }
                Some(_) => {}
            }
        }
    }
}

impl Operation {
    /// Whether its value is that of its version: an answer to the retry of an increment may show none.
    fn shows_value(&self) -> bool {
        self.action != Action::Increment || self.value.is_some()
    }
}
