//! Goal: kstatus finds a cluster current exactly where it is as the spec asks for, and gives up on it exactly where a person has
//! to change something. Method: every reason for the contrary, one at a time.

use super::*;

/// Something in the way of a cluster that is otherwise as the spec asks for.
struct Case {
    spec: &'static str,
    leader: LeaderSeen,
    configured: Configured,
    plan: Plan,
    clients: ClientTokens,
    certificates: certificates::State,
    problem: Option<(&'static str, String)>,
    pods: Vec<Arc<Pod>>,
    claims: Vec<Arc<PersistentVolumeClaim>>,
    claim_refused: Option<&'static str>,
}

impl Case {
    fn settled() -> Self {
        Self {
            spec: W3,
            leader: all_well(),
            configured: Configured::Unchanged,
            plan: done(),
            clients: ClientTokens::NotNeeded,
            certificates: certificates::State::NotNeeded,
            problem: None,
            pods: pods(),
            claims: vec![],
            claim_refused: None,
        }
    }

    /// Status and reason of Reconciling and of Stalled.
    fn standing(&self, previous: &KvClusterStatus) -> [(String, String); 2] {
        let (deployment, set) = workloads();
        let seen = Seen {
            leader: &self.leader,
            configured: &self.configured,
            deployment: Some(&deployment),
            stateful_set: Some(&set),
            follower_pods: &self.pods,
            leader_pods: &[],
            backup_pods: &[],
            bootstrap_pods: &[],
            claims: &self.claims,
            claim_refused: self.claim_refused,
            plan: &self.plan,
            tokens: &tokens(Stage::Applied),
            clients: &self.clients,
            certificates: &self.certificates,
            problem: self.problem.clone(),
        };
        let now = Timestamp::from_second(200).expect("a time");
        standing_of(&compute(&validated(self.spec), &seen, previous, now))
    }
}

fn standing_of(status: &KvClusterStatus) -> [(String, String); 2] {
    ["Reconciling", "Stalled"].map(|type_| {
        let (status, reason) = condition(status, type_);
        (status.to_owned(), reason.to_owned())
    })
}

fn opened() -> KvClusterStatus {
    computed(&all_well(), &KvClusterStatus::default(), 100)
}

fn reconciling(reason: &str) -> [(String, String); 2] {
    [("True", reason), ("False", "NotStalled")].map(|(status, reason)| (status.to_owned(), reason.to_owned()))
}

fn stalled(reason: &str) -> [(String, String); 2] {
    [("False", reason), ("True", reason)].map(|(status, reason)| (status.to_owned(), reason.to_owned()))
}

fn current() -> [(String, String); 2] {
    [("False", "Settled"), ("False", "NotStalled")].map(|(status, reason)| (status.to_owned(), reason.to_owned()))
}

fn refused(status: u16) -> Configured {
    Configured::Failed(LeaderError::Refused { status, message: "no".to_owned() })
}

fn pending() -> LeaderSeen {
    leader(
        "open",
        &["streaming"; 5],
        json!({"config": {"generation": 4, "write_quorum": 2, "followers": 5, "min_delay_ms": 0, "max_delay_ms": 200,
            "replication_timeout_ms": 5000, "pending": {"generation": 5, "write_quorum": 3, "followers": 5,
                "message": "waits for demo-follower-1"}}}),
    )
}

/// A volume of a follower that has half of what the spec asks for.
fn half() -> Vec<Arc<PersistentVolumeClaim>> {
    let claim = json!({"metadata": {"name": "data-demo-follower-2"}, "status": {"phase": "Bound", "capacity": {"storage": "512Mi"}}});
    vec![Arc::new(serde_json::from_value(claim).expect("a claim"))]
}

fn plan(rollout: Rollout) -> Plan {
    Plan { rollout, message: "why".to_owned(), ..done() }
}

#[test]
fn what_is_as_the_spec_asks_for_is_current() {
    assert_eq!(Case::settled().standing(&opened()), current());
    let paused = Case { spec: "{replicas: 5, writeQuorum: 3, paused: true}", ..Case::settled() };
    assert_eq!(paused.standing(&opened()), current(), "nothing that a pause holds up");
    let gone = LeaderSeen::NotRunning("no leader pod runs".to_owned());
    let spec = "{replicas: 5, writeQuorum: 3, hibernated: true}";
    let hibernated = Case { spec, leader: gone, pods: vec![], ..Case::settled() };
    assert_eq!(hibernated.standing(&opened()), current(), "without pods as the spec asks for");
}

#[test]
fn what_heals_or_proceeds_by_itself_is_reconciling() {
    let gone = || LeaderSeen::NotRunning("no leader pod runs".to_owned());
    let missing = leader("open", &["streaming", "streaming", "unreachable", "streaming", "streaming"], json!({}));
    let tokens = ClientTokens::Invalid { reason: "SecretMissing", message: "no Secret".to_owned() };
    let certificate = certificates::State::Invalid { reason: "Expired", message: "expired".to_owned() };
    let LeaderSeen::Answered(mut fresh) = all_well() else { panic!("it answers") };
    fresh.reached = false;
    let settled = Case::settled;
    for (case, reason) in [
        (Case { leader: gone(), ..settled() }, "LeaderNotRunning"),
        (Case { leader: LeaderSeen::Answered(fresh), ..settled() }, "LeaderNotReady"),
        (Case { leader: missing, ..settled() }, "FollowersMissing"),
        (Case { leader: pending(), ..settled() }, "Configuring"),
        (Case { configured: refused(503), ..settled() }, "Refused"),
        (Case { plan: plan(Rollout::Moving), ..settled() }, "RollingOut"),
        (Case { plan: plan(Rollout::Queued), ..settled() }, "RolloutQueued"),
        (Case { plan: plan(Rollout::Blocked), ..settled() }, "RolloutBlocked"),
        (Case { problem: Some(("ApplyFailed", "quota".to_owned())), ..settled() }, "ApplyFailed"),
        (Case { claims: half(), ..settled() }, "Growing"),
        (Case { claims: half(), claim_refused: Some("no"), ..settled() }, "Refused"),
        (Case { clients: tokens, ..settled() }, "SecretMissing"),
        (Case { certificates: certificate, ..settled() }, "Expired"),
    ] {
        assert_eq!(case.standing(&opened()), reconciling(reason));
    }
    let new = Case { leader: gone(), ..settled() };
    assert_eq!(new.standing(&KvClusterStatus::default()), reconciling("Creating"));
    let spec = "{replicas: 5, writeQuorum: 3, hibernated: true}";
    assert_eq!(Case { spec, ..settled() }.standing(&opened()), reconciling("Hibernating"), "while pods end");
}

#[test]
fn what_a_person_has_to_change_is_stalled() {
    const FROM_BACKUP: &str = "{replicas: 5, writeQuorum: 3, bootstrap: {fromBackup: {source: 's3://store/of/old'}}}";
    const PAUSED: &str = "{replicas: 5, writeQuorum: 3, paused: true}";
    let settled = Case::settled;
    for (case, reason) in [
        (Case { problem: Some(("NameTaken", "Service demo".to_owned())), ..settled() }, "NameTaken"),
        (Case { configured: refused(400), ..settled() }, "ConfigRefused"),
        (Case { spec: FROM_BACKUP, ..settled() }, "ImageTooOld"),
        (Case { spec: PAUSED, plan: plan(Rollout::Paused), ..settled() }, "Paused"),
        (Case { spec: PAUSED, leader: pending(), ..settled() }, "Paused"),
        (Case { spec: PAUSED, claims: half(), ..settled() }, "Paused"),
    ] {
        assert_eq!(case.standing(&opened()), stalled(reason));
    }
    let now = Timestamp::from_second(200).expect("a time");
    assert_eq!(standing_of(&invalid(Some(9), "writeQuorum 6", &opened(), now)), stalled("InvalidSpec"));
}
