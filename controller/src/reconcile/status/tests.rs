//! Goal: the conditions tell the truth, name the pod and the reason, and stay the same while nothing happens.
//! Method: a leader's answer in JSON goes in, and the status comes out.

use serde_json::{Value, json};

use super::*;
use crate::fixtures::validated;
use crate::reconcile::leader_client::LeaderError;
use crate::reconcile::plan::Rollout;

mod standing;

const W3: &str = "{replicas: 5, writeQuorum: 3}";

fn leader(state: &str, followers: &[&str], extra: Value) -> LeaderSeen {
    let followers: Vec<Value> = followers
        .iter()
        .enumerate()
        .map(|(ordinal, state)| json!({"name": format!("demo-follower-{ordinal}"), "state": state, "member": true}))
        .collect();
    let mut status = json!({"role": "leader", "state": state, "message": "", "epoch": {"term": 3, "leader": "9f3a"}, "followers": followers,
        "config": {"generation": 4, "write_quorum": 3, "followers": 5, "min_delay_ms": 0, "max_delay_ms": 200,
            "replication_timeout_ms": 5000, "pending": null}});
    for (key, value) in extra.as_object().expect("an object") {
        status[key] = value.clone();
    }
    let status = serde_json::from_value(status).expect("a leader's status");
    LeaderSeen::Answered(Box::new(Leader {
        pod: "demo-leader-x".to_owned(),
        url: String::new(),
        reached: true,
        status,
    }))
}

fn pods() -> Vec<Arc<Pod>> {
    (0..5)
        .map(|ordinal| {
            let pod = json!({"metadata": {"name": format!("demo-follower-{ordinal}")}, "status": {"phase": "Running"}});
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        })
        .collect()
}

fn workloads() -> (Deployment, StatefulSet) {
    let deployment = json!({"metadata": {"generation": 1}, "spec": {"selector": {}, "template": {}, "replicas": 1},
        "status": {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}});
    let set = json!({"metadata": {"generation": 1}, "spec": {"selector": {}, "template": {}, "replicas": 5},
        "status": {"observedGeneration": 1, "replicas": 5, "updatedReplicas": 5, "currentRevision": "a", "updateRevision": "a"}});
    (serde_json::from_value(deployment).expect("a deployment"), serde_json::from_value(set).expect("a stateful set"))
}

fn computed(leader: &LeaderSeen, previous: &KvClusterStatus, second: i64) -> KvClusterStatus {
    let (deployment, _) = workloads();
    with_leader_pods(W3, leader, &deployment, &[], previous, second)
}

fn with_leader_pods(
    spec: &str,
    leader: &LeaderSeen,
    deployment: &Deployment,
    leader_pods: &[Arc<Pod>],
    previous: &KvClusterStatus,
    second: i64,
) -> KvClusterStatus {
    let (_, set) = workloads();
    let seen = Seen {
        leader,
        configured: &Configured::Unchanged,
        deployment: Some(deployment),
        stateful_set: Some(&set),
        follower_pods: &pods(),
        leader_pods,
        backup_pods: &[],
        bootstrap_pods: &[],
        claims: &[],
        claim_refused: None,
        plan: &done(),
        tokens: &tokens(Stage::Applied),
        clients: &ClientTokens::NotNeeded,
        certificates: &certificates::State::NotNeeded,
        problem: None,
    };
    compute(&validated(spec), &seen, previous, Timestamp::from_second(second).expect("a time"))
}

fn tokens(stage: Stage) -> Tokens {
    Tokens { wanted: b"t".to_vec(), accepted: vec!["t".to_owned()], dropped: vec![], stage }
}

fn done() -> Plan {
    Plan { next: None, rollout: Rollout::Done, message: "every pod has the newest template".to_owned(), rolls: false }
}

fn condition<'a>(status: &'a KvClusterStatus, type_: &str) -> (&'a str, &'a str) {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_).expect(type_);
    (found.status.as_str(), found.reason.as_str())
}

fn all_well() -> LeaderSeen {
    leader("open", &["streaming"; 5], json!({}))
}

#[test]
fn a_settled_cluster_reads_ready_and_says_what_it_can_stand() {
    let status = computed(&all_well(), &KvClusterStatus::default(), 100);
    assert_eq!(status.phase, Phase::Ready);
    assert_eq!(status.message, "");
    assert_eq!(status.followers, "5/5");
    assert_eq!(status.applied_write_quorum, Some(3));
    assert_eq!(
        status.tolerates,
        Some(kvcluster_api::resource::Tolerates { followers_down: 2, disks_lost: 2, followers_needed_to_restart: 3 })
    );
    for (type_, expected) in [
        ("Ready", "True"),
        ("Progressing", "False"),
        ("QuorumAvailable", "True"),
        ("ConfigApplied", "True"),
        ("Degraded", "False"),
        ("Drainable", "True"),
        ("RolledOut", "True"),
        ("TokenApplied", "True"),
        ("ClientTokensValid", "True"),
    ] {
        assert_eq!(condition(&status, type_).0, expected, "{type_}");
    }
    assert!(status.conditions.iter().all(|c| !c.reason.is_empty() && c.observed_generation == Some(4)));
}

#[test]
fn the_status_says_whether_a_drain_may_evict_followers() {
    let of = |spec: &str| {
        let (deployment, _) = workloads();
        with_leader_pods(spec, &all_well(), &deployment, &[], &KvClusterStatus::default(), 100)
    };
    for (spec, expected) in [
        ("{replicas: 5, writeQuorum: 3}", ("True", "SpareFollowers")),
        ("{replicas: 5, writeQuorum: 5}", ("False", "NoSpareFollower")),
        ("{replicas: 5, writeQuorum: 1, durability: Memory}", ("False", "NoSpareFollower")),
        ("{replicas: 5, writeQuorum: 5, disruptionBudget: {enabled: false}}", ("True", "BudgetDisabled")),
    ] {
        assert_eq!(condition(&of(spec), "Drainable"), expected, "{spec}");
    }
    let all_needed = leader(
        "open",
        &["streaming"; 5],
        json!({"config": {"generation": 2, "write_quorum": 5, "followers": 5, "min_delay_ms": 0, "max_delay_ms": 200,
            "replication_timeout_ms": 5000, "pending": null}}),
    );
    let status = computed(&all_needed, &KvClusterStatus::default(), 100);
    assert_eq!(condition(&status, "Drainable"), ("False", "ConfigPending"));
}

#[test]
fn nothing_changes_while_nothing_happens() {
    let first = computed(&all_well(), &KvClusterStatus::default(), 100);
    assert_eq!(computed(&all_well(), &first, 200), first);
}

#[test]
fn a_transition_is_dated_and_the_others_keep_their_dates() {
    let first = computed(&all_well(), &KvClusterStatus::default(), 100);
    let one_down = leader("open", &["streaming", "streaming", "unreachable", "streaming", "streaming"], json!({}));
    let second = computed(&one_down, &first, 200);
    let date =
        |type_: &str| second.conditions.iter().find(|c| c.type_ == type_).map(|c| c.last_transition_time.0.as_second());
    assert_eq!(date("Degraded"), Some(200));
    assert_eq!(date("Ready"), Some(100));
    assert_eq!(condition(&second, "Degraded"), ("True", "FollowersMissing"));
    assert_eq!(condition(&second, "Ready").0, "True");
    assert_eq!((second.phase, second.followers.as_str()), (Phase::Degraded, "4/5"));
    assert_eq!(second.message, "1 of 5 followers: demo-follower-2: unreachable from the leader");
}

#[test]
fn a_lost_quorum_is_not_ready_and_says_the_numbers() {
    let first = computed(&all_well(), &KvClusterStatus::default(), 100);
    let lost = leader("open", &["streaming", "unreachable", "unreachable", "unreachable", "lagging"], json!({}));
    let status = computed(&lost, &first, 200);
    assert_eq!(condition(&status, "QuorumAvailable"), ("False", "QuorumLost"));
    assert_eq!(condition(&status, "Ready"), ("False", "QuorumLost"));
    assert_eq!(status.phase, Phase::Unavailable);
    assert_eq!(status.message, "1 of 5 followers confirm writes, and the write quorum is 3");
}

#[test]
fn a_leader_that_does_not_answer_has_its_own_reason_and_the_values_in_force_stay() {
    let first = computed(&all_well(), &KvClusterStatus::default(), 100);
    let silent = LeaderSeen::Unreachable {
        pod: "demo-leader-x".to_owned(),
        error: LeaderError::Refused { status: 500, message: "broken".to_owned() },
    };
    let status = computed(&silent, &first, 200);
    assert_eq!(condition(&status, "QuorumAvailable"), ("Unknown", "LeaderUnreachable"));
    assert_eq!(condition(&status, "Degraded"), ("True", "LeaderUnreachable"));
    assert_eq!(status.applied_write_quorum, Some(3));
    assert!(status.opened);
    assert_eq!(status.leader, None);
}

// Goal: while the operator alone is cut off, the status does not say that the cluster is. Method: a leader that does not
// answer, with and without a pod that its kubelet finds ready; the followers' readiness in place of the leader's report.
#[test]
fn what_the_operator_alone_cannot_see_is_unknown_and_followers_count_by_their_own_readiness() {
    let first = computed(&all_well(), &KvClusterStatus::default(), 100);
    let cut = LeaderSeen::Unreachable {
        pod: "demo-leader-x".to_owned(),
        error: LeaderError::Refused { status: 500, message: "broken".to_owned() },
    };
    let pod = |name: &str, ready: bool| -> Arc<Pod> {
        let conditions = json!([{"type": "Ready", "status": if ready { "True" } else { "False" }}]);
        let pod = json!({"metadata": {"name": name}, "status": {"phase": "Running", "conditions": conditions}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    };
    let (deployment, set) = workloads();
    let of = |leader_ready: bool| {
        let followers: Vec<Arc<Pod>> = (0..5).map(|n| pod(&format!("demo-follower-{n}"), n != 2)).collect();
        let seen = Seen {
            leader: &cut,
            configured: &Configured::Unchanged,
            deployment: Some(&deployment),
            stateful_set: Some(&set),
            follower_pods: &followers,
            leader_pods: &[pod("demo-leader-x", leader_ready)],
            backup_pods: &[],
            bootstrap_pods: &[],
            claims: &[],
            claim_refused: None,
            plan: &done(),
            tokens: &tokens(Stage::Applied),
            clients: &ClientTokens::NotNeeded,
            certificates: &certificates::State::NotNeeded,
            problem: None,
        };
        compute(&validated(W3), &seen, &first, Timestamp::from_second(200).expect("a time"))
    };
    let status = of(true);
    for type_ in ["Ready", "Degraded", "QuorumAvailable"] {
        assert_eq!(condition(&status, type_), ("Unknown", "LeaderUnreachable"), "{type_}");
    }
    assert_eq!((status.phase, status.followers.as_str()), (Phase::Ready, "4/5"));
    let status = of(false);
    assert_eq!(condition(&status, "Ready"), ("False", "LeaderUnreachable"));
    assert_eq!(status.phase, Phase::Unavailable);
}

#[test]
fn a_quota_that_keeps_the_leader_from_starting_is_named() {
    let mut deployment = serde_json::to_value(workloads().0).expect("JSON");
    deployment["status"]["conditions"] = json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
        "message": "exceeded quota: small"}]);
    let deployment = serde_json::from_value(deployment).expect("a deployment");
    let gone = LeaderSeen::NotRunning("no leader pod runs".to_owned());
    let first = computed(&all_well(), &KvClusterStatus::default(), 100);
    let status = with_leader_pods(W3, &gone, &deployment, &[], &first, 200);
    assert_eq!(condition(&status, "Ready"), ("False", "LeaderNotRunning"));
    assert_eq!(status.conditions[0].message, "no leader pod can be made: exceeded quota: small");
}

#[test]
fn a_quorum_that_is_not_in_force_yet_says_what_it_waits_for() {
    let pending = json!({"config": {"generation": 4, "write_quorum": 2, "followers": 5, "min_delay_ms": 0, "max_delay_ms": 200,
        "replication_timeout_ms": 5000, "pending": {"generation": 5, "write_quorum": 3, "followers": 5, "message": "waits for demo-follower-1"}}});
    let status = computed(&leader("open", &["streaming"; 5], pending), &KvClusterStatus::default(), 100);
    assert_eq!(condition(&status, "ConfigApplied"), ("False", "Pending"));
    assert_eq!(status.applied_write_quorum, Some(2), "what is in force, not what was asked for");
    assert_eq!((status.phase, status.message.as_str()), (Phase::Updating, "waits for demo-follower-1"));
}

#[test]
fn a_recovering_leader_is_reported_in_its_own_words() {
    let opened = computed(&all_well(), &KvClusterStatus::default(), 100);
    let recovering =
        leader("recovering", &["streaming", "connecting"], json!({"message": "waits for 2 more followers"}));
    let status = computed(&recovering, &opened, 200);
    assert_eq!(status.phase, Phase::Recovering);
    assert_eq!(status.message, "demo-leader-x: waits for 2 more followers");
    assert_eq!(condition(&computed(&recovering, &KvClusterStatus::default(), 1), "Degraded"), ("False", "Creating"));
}

#[test]
fn half_of_a_backup_is_not_ready() {
    let words = "the restore of the backup with digest 1ba62d6a2cbe21ec is not finished";
    let restore = json!({"message": words, "restore": {"backup": "1ba62d6a2cbe21ec", "overwrite": false}});
    let first = computed(&all_well(), &KvClusterStatus::default(), 100);
    let status = computed(&leader("open", &["streaming"; 5], restore), &first, 200);
    assert_eq!(condition(&status, "Ready"), ("False", "Restoring"));
    assert_eq!(condition(&status, "QuorumAvailable").0, "True");
    assert_eq!((status.phase, status.message), (Phase::Unavailable, format!("demo-leader-x: {words}")));
}

#[test]
fn an_invalid_spec_keeps_what_runs_and_says_why() {
    let first = computed(&all_well(), &KvClusterStatus::default(), 100);
    let status = invalid(
        Some(9),
        "writeQuorum 6 is greater than replicas 5",
        &first,
        Timestamp::from_second(200).expect("a time"),
    );
    assert_eq!((status.phase, status.observed_generation), (Phase::Invalid, Some(9)));
    assert_eq!(status.applied_write_quorum, Some(3));
    assert_eq!(condition(&status, "Ready"), ("Unknown", "InvalidSpec"));
}

#[test]
fn a_leader_that_is_not_behind_its_service_yet_is_not_ready_and_not_degraded() {
    let LeaderSeen::Answered(mut fresh) = all_well() else { panic!("it answers") };
    fresh.reached = false;
    let status = computed(&LeaderSeen::Answered(fresh), &KvClusterStatus::default(), 100);
    assert_eq!(condition(&status, "Ready"), ("False", "LeaderNotReady"));
    assert_eq!(condition(&status, "Degraded").0, "False");
}

// Goal: a standby that is lost is reported, and one that starts during a rollout is not.
#[test]
fn a_missing_standby_is_reported_once_the_rollout_is_over() {
    let spec = "{replicas: 5, writeQuorum: 3, leader: {standbys: 1}}";
    let pod = |name: &str, ready: &str, waiting: Value| -> Arc<Pod> {
        let container = json!({"name": "kv-node", "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": waiting}});
        let status = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": ready}],
            "containerStatuses": if waiting.is_null() { json!([]) } else { json!([container]) }});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).expect("a pod"))
    };
    let deployment = |reason: &str, available: i32| -> Deployment {
        let status = json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": available,
            "conditions": [{"type": "Progressing", "status": "True", "reason": reason}]});
        let spec = json!({"selector": {}, "template": {}, "replicas": 2});
        serde_json::from_value(json!({"metadata": {"generation": 1}, "spec": spec, "status": status}))
            .expect("a deployment")
    };
    let leads = pod("demo-leader-x", "True", Value::Null);
    let of = |deployment: &Deployment, standby: Arc<Pod>| {
        let before = KvClusterStatus::default();
        with_leader_pods(spec, &all_well(), deployment, &[leads.clone(), standby], &before, 100)
    };

    let status = of(&deployment("NewReplicaSetAvailable", 2), pod("demo-leader-y", "True", Value::Null));
    assert_eq!(status.phase, Phase::Ready, "{status:?}");
    let waits = json!({"reason": "ImagePullBackOff"});
    let status = of(&deployment("NewReplicaSetAvailable", 1), pod("demo-leader-y", "False", waits));
    assert_eq!(condition(&status, "Degraded"), ("True", "StandbysMissing"));
    assert_eq!(status.message, "0 of 1 standbys are ready; demo-leader-y: ImagePullBackOff");
    assert_eq!(condition(&status, "Ready").0, "True");
    let status = of(&deployment("ReplicaSetUpdated", 1), pod("demo-leader-y", "False", Value::Null));
    assert_eq!((condition(&status, "Degraded").0, status.phase), ("False", Phase::Updating));
    assert_eq!(status.message, "leader: 2 of 2 pods are updated, 1 of all pods are available");
}

// Goal: a cluster that wakes up is not reported as broken until its leader is open, and one that lost its leader is.
#[test]
fn a_cluster_that_wakes_is_not_degraded_until_its_leader_is_open() {
    let asleep = |reason: &str| {
        let mut before = computed(&all_well(), &KvClusterStatus::default(), 1);
        for condition in before.conditions.iter_mut().filter(|condition| condition.type_ == "Hibernated") {
            condition.reason = reason.to_owned();
        }
        before
    };
    let no_leader = LeaderSeen::NotRunning("no leader pod runs".to_owned());
    let waking = computed(&no_leader, &asleep("Hibernated"), 2);
    assert_eq!(condition(&waking, "Hibernated"), ("False", "Waking"));
    assert_eq!(condition(&waking, "Degraded"), ("False", "Waking"));
    assert_eq!(condition(&waking, "Progressing"), ("True", "Waking"));
    assert_eq!(waking.phase, Phase::Recovering);
    assert!(waking.message.ends_with("no leader pod runs"), "what it waits for: {}", waking.message);
    assert_eq!(condition(&computed(&no_leader, &waking, 3), "Hibernated"), ("False", "Waking"));
    let awake = computed(&all_well(), &waking, 4);
    assert_eq!((condition(&awake, "Hibernated"), awake.phase), (("False", "Awake"), Phase::Ready));
    assert_eq!(condition(&computed(&no_leader, &awake, 5), "Degraded"), ("True", "LeaderNotRunning"));
}

/// The condition of the backups with this schedule and what was known before.
fn backups(spec: &str, before: Option<BackupStatus>) -> (String, String, String) {
    let previous = KvClusterStatus { backup: before, ..KvClusterStatus::default() };
    let (deployment, _) = workloads();
    let status = with_leader_pods(spec, &all_well(), &deployment, &[], &previous, 100);
    assert_eq!(status.backup, previous.backup, "what was known stays");
    let found = status.conditions.iter().find(|condition| condition.type_ == "BackupSucceeded").expect("a condition");
    (found.status.clone(), found.reason.clone(), found.message.clone())
}

#[test]
fn the_last_backup_decides_and_a_failure_names_its_reason_and_the_last_good_one() {
    const SPEC: &str = "backup: {schedule: '@daily', destination: 's3://store/x'}";
    let known = |success: Option<&str>, failure: Option<&str>| -> Option<BackupStatus> {
        let success = success.map(|time| json!({"time": time, "name": "demo-1", "keys": 41, "bytes": 7007}));
        let failure = failure.map(|time| json!({"time": time, "pod": "demo-backup-x", "reason": "NoSuchBucket"}));
        Some(serde_json::from_value(json!({"lastSuccess": success, "lastFailure": failure})).expect("a status"))
    };
    let (early, late) = (Some("2026-11-26T02:30:00Z"), Some("2026-11-27T02:30:00Z"));
    let short = |found: (String, String, String)| format!("{} {}: {}", found.0, found.1, found.2);
    assert_eq!(short(backups("{}", None)), "Unknown NotScheduled: the spec has no schedule of backups");
    assert_eq!(short(backups(SPEC, None)), "Unknown NoneYet: no backup has ended yet: the schedule is @daily");
    let verified = "demo-1 has 41 keys in 7007 bytes, and was verified at 2026-11-27T02:30:00Z";
    assert_eq!(short(backups(SPEC, known(late, early))), format!("True Verified: {verified}"));
    let (status, reason, message) = backups(SPEC, known(early, late));
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Failed"));
    assert!(message.starts_with("demo-backup-x: NoSuchBucket; demo-1 has 41 keys"), "{message}");
    let (_, _, message) = backups(SPEC, known(None, late));
    assert_eq!(message, "demo-backup-x: NoSuchBucket; no backup before it succeeded");
    // A cluster is ready whether or not it has a backup.
    let previous = KvClusterStatus { backup: known(early, late), ..KvClusterStatus::default() };
    let (deployment, _) = workloads();
    assert_eq!(with_leader_pods(SPEC, &all_well(), &deployment, &[], &previous, 100).phase, Phase::Ready);
}
