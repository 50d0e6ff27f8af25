//! Leader processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kv_node::protocol::types::Record;
use kv_node::replication::coordinator::{Condition, Coordinator, Environment};
use kv_node::replication::session::{Backoff, dial};
use kvcluster_api::config::{ConfigError, LiveConfig};
use kvcluster_api::status::FollowerState;
use rand::RngExt;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::followers::Network;
use crate::plan::{Mutation, PLACES_MAX};
use crate::world::World;

/// One leader process.
pub(crate) struct Lead {
    /// Nothing once it was killed.
    pub(crate) coordinator: Option<Arc<Coordinator>>,
    /// It opened, and the history has its state: clients may use it.
    pub(crate) serving: bool,
    /// New connections to these places are stalled until then.
    pub(crate) stalled: Vec<(usize, Instant)>,
    tasks: Vec<AbortHandle>,
}

impl World {
    fn live_config(&self) -> LiveConfig {
        let state = self.state.lock();
        LiveConfig {
            generation: state.generation,
            write_quorum: state.wanted.0,
            followers: state.wanted.1,
            min_delay_ms: 0,
            max_delay_ms: self.plan.delay_ms,
            delay: None,
            replication_timeout_ms: 5_000,
        }
    }

    /// Starts a leader process that knows nothing but the wanted rule.
    pub(crate) fn start_leader(self: &Arc<Self>) {
        let live = self.live_config();
        let identity = match self.plan.mutation {
            Some(Mutation::LeadersShareAnId) => 7,
            _ => self.seed(),
        };
        let environment = Environment::simulated(identity);
        let coordinator = Coordinator::start_in(live, self.plan.leader, self.seed(), environment);
        let lead =
            Lead { coordinator: Some(coordinator.clone()), serving: false, stalled: Vec::new(), tasks: Vec::new() };
        let number = {
            let mut state = self.state.lock();
            state.leads.push(lead);
            state.leads.len() - 1
        };
        self.note(|| format!("start L{number}"));
        let mut tasks = vec![
            tokio::spawn(Coordinator::beat(Arc::downgrade(&coordinator), Duration::from_millis(100))).abort_handle(),
            tokio::spawn(self.clone().observe(number, coordinator.clone())).abort_handle(),
        ];
        for place in 0..PLACES_MAX {
            tasks.push(tokio::spawn(self.clone().follow(number, coordinator.clone(), place)).abort_handle());
        }
        self.state.lock().leads[number].tasks = tasks;
    }

    /// Keeps a connection to the follower at a place, as discovery by DNS does.
    async fn follow(self: Arc<Self>, number: usize, coordinator: Arc<Coordinator>, place: usize) {
        let network = Network { world: self.clone(), leader: number };
        let (url, mut backoff) = (format!("f-{place}"), Backoff::seeded(self.seed()));
        loop {
            match dial(&network, &url).await {
                Ok(session) => match coordinator.slot_for(&session.hello) {
                    Ok(slot) => {
                        backoff.connected();
                        self.note(|| format!("L{number} connects to {url}: {:?}", session.hello));
                        let error = session.run(&coordinator, slot, &url).await;
                        self.note(|| format!("L{number} loses {url}: {error}"));
                    }
                    Err(reason) => self.note(|| format!("L{number} does not take {url}: {reason}")),
                },
                Err(error) => self.note(|| format!("L{number} does not reach {url}: {error}")),
            }
            backoff.wait().await;
        }
    }

    /// Writes into the history with which state a leader opened, before any client uses it.
    async fn observe(self: Arc<Self>, number: usize, coordinator: Arc<Coordinator>) {
        let opened = loop {
            let mut opened: BTreeMap<String, Record> = BTreeMap::new();
            let read = coordinator.for_each_entry(0, usize::MAX >> 1, |key, record, _| {
                opened.insert(key.to_string(), record.clone());
                true
            });
            if read.is_ok() {
                break opened;
            }
            sleep(Duration::from_millis(5)).await;
        };
        let epoch = coordinator.epoch();
        self.note(|| format!("L{number} opens {epoch} with {} keys", opened.len()));
        let mut state = self.state.lock();
        state.history.opened(epoch, opened);
        state.leads[number].serving = true;
    }

    pub(crate) fn kill_leader(&self, number: usize) {
        self.note(|| format!("kill L{number}"));
        let lead = &mut self.state.lock().leads[number];
        lead.tasks.drain(..).for_each(|task| task.abort());
        lead.serving = false;
        lead.coordinator = None;
    }

    /// Leaders that run and were not replaced, as far as they know.
    pub(crate) fn leading(&self) -> Vec<(usize, Arc<Coordinator>)> {
        self.running().into_iter().filter(|(_, leader)| leader.fenced_by().is_none()).collect()
    }

    /// The same without standbys.
    fn contending(&self) -> Vec<(usize, Arc<Coordinator>)> {
        let mut leading = self.leading();
        leading.retain(|(_, leader)| !matches!(leader.condition(), Condition::Candidate(..) | Condition::Resigned));
        leading
    }

    /// Asks a leader to hand over, and ends it.
    pub(crate) fn hand_over(self: &Arc<Self>, number: usize) {
        let Some(leader) = self.state.lock().leads[number].coordinator.clone() else { return };
        self.note(|| format!("L{number} hands over"));
        let world = self.clone();
        tokio::spawn(async move {
            // Clients go on writing, so that a moment without a write under way may not come.
            let resigned = timeout(Duration::from_secs(2), leader.resign()).await;
            world.note(|| format!("L{number} has resigned: {}", resigned.is_ok()));
            world.kill_leader(number);
        });
    }

    fn running(&self) -> Vec<(usize, Arc<Coordinator>)> {
        let state = self.state.lock();
        state.leads.iter().enumerate().filter_map(|(number, lead)| Some((number, lead.coordinator.clone()?))).collect()
    }

    /// Ends leaders that were replaced, as their liveness probe would, and starts one when there are too few.
    pub(crate) async fn supervise(self: Arc<Self>) {
        loop {
            for (number, leader) in self.running() {
                if leader.fenced_by().is_some() && self.state.lock().rng.random_bool(0.3) {
                    self.kill_leader(number);
                }
            }
            let chance = {
                let state = &mut *self.state.lock();
                !state.faults_on || state.rng.random_bool(0.5)
            };
            if self.leading().len() <= self.plan.standbys && chance {
                self.start_leader();
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Asks the leaders for the wanted rule.
    pub(crate) fn configure(&self, only: impl Fn(usize) -> bool) {
        let wanted = self.live_config();
        for (number, leader) in self.leading().into_iter().filter(|(number, _)| only(*number)) {
            self.note(|| format!("L{number} is asked for {wanted:?}"));
            if let Err(error) = leader.configure(|_| Ok::<_, ConfigError>(wanted.clone())) {
                self.fail(format!("a rule without contradiction is refused: {error}"));
            }
        }
    }

    /// What is not as it should be once nothing fails any more; empty when all is.
    pub(crate) fn why_not_converged(&self) -> String {
        let unsettled = self.why_not_settled();
        let leading = self.contending();
        let Some((number, leader)) = leading.first().filter(|_| unsettled.is_empty()) else { return unsettled };
        let backlog = leader.view().backlog;
        if backlog > 0 {
            return format!("L{number} has a backlog of {backlog}");
        }
        let size = usize::from(self.state.lock().wanted.1);
        self.why_states_differ(leader, size)
    }

    /// Whether the rule in force is the wanted one, and every follower that lost its state has received it again.
    pub(crate) fn nothing_is_missing(&self) -> bool {
        let (true, Some((_, leader))) = (self.why_not_settled().is_empty(), self.contending().into_iter().next())
        else {
            return false;
        };
        let epoch = leader.epoch();
        let places = &mut self.state.lock().places;
        for place in places.iter_mut().filter(|place| place.lost) {
            let synced = place.live.as_ref().and_then(|live| live.replica.view().hello.synced);
            place.lost = synced.is_none_or(|synced| synced.epoch != epoch);
        }
        places.iter().all(|place| !place.lost)
    }

    /// Why not every wanted follower takes writes of one leader under the wanted rule; empty when all do.
    pub(crate) fn why_not_settled(&self) -> String {
        let leading = self.contending();
        let [(number, leader)] = &leading[..] else {
            return format!("{} leaders", leading.len());
        };
        if !self.state.lock().leads[*number].serving {
            return format!("L{number} does not serve clients yet");
        }
        let view = leader.view();
        match &view.condition {
            Condition::Open(None) => {}
            Condition::Recovering(recovery) => return format!("L{number} recovers: {recovery:?}"),
            _ => return format!("L{number} is not open"),
        }
        let (quorum, size) = self.state.lock().wanted;
        if let Some(pending) = &view.config.pending {
            return format!("L{number} has not in force {pending:?}");
        }
        if (view.config.in_force.write_quorum, view.config.in_force.followers) != (quorum, size) {
            return format!("L{number} has in force {:?}", view.config.in_force);
        }
        let followers: Vec<_> = view.followers.iter().map(|place| &place.follower).collect();
        if followers.len() != usize::from(size) {
            return format!("L{number} has {} followers", followers.len());
        }
        if let Some(follower) =
            followers.iter().find(|follower| follower.state != FollowerState::Streaming || !follower.member)
        {
            return format!("{} is {:?}, member: {}", follower.name, follower.state, follower.member);
        }
        String::new()
    }

    fn why_states_differ(&self, leader: &Coordinator, size: usize) -> String {
        let mut records: BTreeMap<String, (Record, bool)> = BTreeMap::new();
        let read = leader.for_each_entry(0, usize::MAX >> 1, |key, record, committed| {
            records.insert(key.to_string(), (record.clone(), committed));
            true
        });
        if let Err(refusal) = read {
            return refusal.to_string();
        }
        let replicas: Vec<_> = {
            let state = self.state.lock();
            let live = state.places[..size].iter().map(|place| place.live.as_ref().map(|live| live.replica.clone()));
            live.collect()
        };
        for (place, replica) in replicas.into_iter().enumerate() {
            let Some(replica) = replica else { return format!("f-{place} does not run") };
            let view = replica.view();
            if view.hello.synced.is_none_or(|synced| synced.epoch != leader.epoch()) {
                return format!("f-{place} is of another epoch");
            }
            if view.keys != records.len() {
                return format!("f-{place} has {} of {} keys", view.keys, records.len());
            }
            for (key, (record, committed)) in &records {
                let there = replica.get(key).shown;
                let same = there.as_ref().map(|shown| (&shown.value, shown.seq))
                    == record.value.as_ref().map(|value| (value, record.version.seq));
                if !same || !committed {
                    return format!("f-{place} differs in {key}");
                }
            }
        }
        String::new()
    }
}
