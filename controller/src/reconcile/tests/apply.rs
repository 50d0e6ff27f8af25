//! Goal: the objects of a cluster are what its spec asks for, and those of others stay as they are.

use super::*;

#[tokio::test]
pub(super) async fn a_new_cluster_gets_every_object_by_server_side_apply() {
    let (api, client) = ApiServer::start(|_| None);
    reconcile(guarded(cluster("{}")), context(client, 1, vec![])).await.expect("it succeeds");
    let writes = api.writes();
    let paths: Vec<&str> = writes.iter().filter_map(|asked| asked.path.rsplit('/').next()).collect();
    let expected = [
        "demo-config",
        "demo",
        "demo-auth",
        "demo-auth-accepted",
        "demo",
        "demo-followers",
        "demo",
        "demo-read",
        "demo-follower",
        "demo-leader",
        "demo-follower",
        "status",
    ];
    assert_eq!(paths, expected);
    for write in &writes {
        assert_eq!(write.method, Method::PATCH, "{write:?}");
        assert!(write.query.contains("fieldManager=kv-controller") && write.query.contains("force=true"), "{write:?}");
    }
    assert_eq!(api.applied("/status")["status"]["phase"], json!("Creating"));
}

#[tokio::test]
pub(super) async fn a_refused_object_is_reported_with_the_words_of_the_api_server() {
    let (api, client) = ApiServer::start(|asked| {
        asked.path.ends_with("statefulsets/demo-follower").then(|| failure(403, "Forbidden", "exceeded quota: small"))
    });
    let error = reconcile(guarded(cluster("{}")), context(client, 1, vec![])).await.expect_err("it fails");
    assert_eq!(error.reason(), "ApplyFailed");
    let status = api.applied("/status")["status"].clone();
    let progressing =
        status["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == "Progressing")).cloned();
    let progressing = progressing.expect("the condition is there");
    assert_eq!((&progressing["status"], &progressing["reason"]), (&json!("False"), &json!("ApplyFailed")));
    assert!(progressing["message"].to_string().contains("exceeded quota: small"), "{progressing}");
    let events: Vec<Asked> = api.writes().into_iter().filter(|asked| asked.path.ends_with("/events")).collect();
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0].body["reason"], &events[0].body["type"]), (&json!("ApplyFailed"), &json!("Warning")));
}

#[tokio::test]
async fn an_object_of_someone_else_is_not_taken_over() {
    let (api, client) = ApiServer::start(|asked| {
        let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo-read", "namespace": "shop",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Shop", "name": "main", "uid": "other", "controller": true}]}});
        (asked.method == Method::GET && asked.path.ends_with("services/demo-read")).then_some((200, theirs))
    });
    let error = reconcile(guarded(cluster("{}")), context(client, 1, vec![])).await.expect_err("it fails");
    assert_eq!(
        error.to_string(),
        "Service demo-read exists already and belongs to Shop main: rename the KvCluster, or remove that object"
    );
    assert!(!api.writes().iter().any(|asked| asked.path.ends_with("services/demo-read")));
}

#[tokio::test]
pub(super) async fn a_policy_that_is_switched_off_is_deleted_unless_it_has_another_owner() {
    let off = "{networkPolicy: {enabled: false}}";
    let with_policy = |client: Client, owner: &str| {
        let policy = json!({"metadata": {"name": "demo", "namespace": "shop", "uid": "policy", "ownerReferences": [
            {"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": owner, "controller": true}]}});
        let mut context = context(client, 1, vec![]);
        let policies = &mut Arc::get_mut(&mut context).expect("the only reference").stores.policies;
        *policies = store(vec![serde_json::from_value(policy).expect("a policy")]);
        context
    };
    let (api, client) = ApiServer::start(|asked| {
        (asked.method == Method::DELETE).then(|| failure(403, "Forbidden", "the webhook refuses"))
    });
    let error = reconcile(guarded(cluster(off)), with_policy(client, UID)).await.expect_err("it fails").to_string();
    assert!(error.starts_with("failed to delete NetworkPolicy demo: "), "{error}");
    let deleted = api.asked().into_iter().find(|asked| asked.method == Method::DELETE).expect("it is deleted");
    assert_eq!(deleted.body["preconditions"]["uid"], json!("policy"));

    let (api, client) = ApiServer::start(|_| None);
    reconcile(guarded(cluster(off)), with_policy(client, "other")).await.expect("it succeeds");
    assert!(!api.asked().iter().any(|asked| asked.method == Method::DELETE));
}

#[tokio::test]
pub(super) async fn a_budget_that_is_switched_off_is_deleted() {
    let (api, client) = ApiServer::start(|_| None);
    let budget = json!({"metadata": {"name": "demo-follower", "namespace": "shop", "uid": "budget", "ownerReferences": [
        {"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": UID, "controller": true}]}});
    let mut context = context(client, 1, vec![]);
    let budgets = &mut Arc::get_mut(&mut context).expect("the only reference").stores.budgets;
    *budgets = store(vec![serde_json::from_value(budget).expect("a budget")]);
    reconcile(guarded(cluster("{disruptionBudget: {enabled: false}}")), context).await.expect("it succeeds");
    let deleted = api.asked().into_iter().find(|asked| asked.method == Method::DELETE).expect("it is deleted");
    assert!(deleted.path.ends_with("poddisruptionbudgets/demo-follower"), "{}", deleted.path);
    assert_eq!(deleted.body["preconditions"]["uid"], json!("budget"));
    assert!(!api.writes().iter().any(|asked| asked.method == Method::PATCH && asked.path.contains("disruption")));
}

#[tokio::test]
pub(super) async fn a_schedule_of_backups_comes_and_goes_with_the_spec() {
    let (api, client) = ApiServer::start(|_| None);
    let with = "{backup: {schedule: '@daily', destination: 'pvc://backups/shop'}}";
    reconcile(guarded(cluster(with)), context(client, 1, vec![])).await.expect("it succeeds");
    let applied = api.applied("cronjobs/demo-backup");
    assert_eq!(applied["spec"]["schedule"], json!("@daily"));
    let owner = applied["metadata"]["ownerReferences"].clone();

    let (api, client) = ApiServer::start(|_| None);
    let job = json!({"metadata": {"name": "demo-backup", "namespace": "shop", "uid": "job", "ownerReferences": owner}});
    let mut context = context(client, 1, vec![]);
    let jobs = &mut Arc::get_mut(&mut context).expect("the only reference").stores.cron_jobs;
    *jobs = store(vec![serde_json::from_value(job).expect("a CronJob")]);
    reconcile(guarded(cluster("{}")), context).await.expect("it succeeds");
    let deleted = api.asked().into_iter().find(|asked| asked.method == Method::DELETE).expect("it is deleted");
    assert!(deleted.path.ends_with("cronjobs/demo-backup"), "{}", deleted.path);
    assert_eq!(deleted.body["preconditions"]["uid"], json!("job"));
}

// Goal: a cluster that waits for its backup is not Ready and gets the Job, one that has it loses the Job for good, and a Job
// with another template is replaced. Method: what the leader says, the Jobs that there are, and the status.
#[tokio::test]
pub(super) async fn the_job_of_a_bootstrap_comes_when_the_leader_waits_and_goes_when_the_restore_is_recorded() {
    let spec =
        "{replicas: 3, writeQuorum: 2, bootstrap: {fromBackup: {source: 's3://store/of/old', secretName: keys}}}";
    let start = async |start_pending: bool| {
        let followers: Vec<Value> = (0..3)
            .map(|n| json!({"name": format!("demo-follower-{n}"), "state": "streaming", "member": true}))
            .collect();
        let status = json!({"role": "leader", "state": "open", "epoch": {"term": 1, "leader": "a"},
            "config": config(4, 2, 3), "followers": followers, "start_pending": start_pending});
        ScriptedLeader::answering(([127, 0, 0, 1], 0).into(), status, (200, config(4, 2, 3))).await
    };
    let (api, client) = ApiServer::start(|_| None);
    let leader = start(true).await;
    reconcile(guarded(cluster(spec)), context(client, leader.port, vec![leader_pod()])).await.expect("it succeeds");
    let job = api.applied("jobs/demo-bootstrap");
    assert!(api.writes().iter().any(|asked| asked.path.ends_with("networkpolicies/demo-bootstrap")));
    let status = api.applied("/status")["status"].clone();
    assert_eq!((&status["phase"], &status["opened"]), (&json!("Creating"), &json!(false)));
    let condition = |type_: &str| {
        let found = status["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == type_));
        found.map(|one| (one["status"].clone(), one["reason"].clone())).expect("the condition is there")
    };
    assert_eq!(condition("Ready"), (json!("False"), json!("Restoring")));
    assert_eq!(condition("Bootstrapped"), (json!("False"), json!("Restoring")));
    assert_eq!(api.applied("configmaps/demo-config")["data"]["CLUSTER_OPENED"], json!("false"));

    let with_job = |client: Client, port: u16, template: &str| {
        let mut job = job.clone();
        job["metadata"]["uid"] = json!("job");
        job["metadata"]["annotations"]["kvcluster.io/template"] = json!(template);
        let mut context = context(client, port, vec![leader_pod()]);
        let jobs = &mut Arc::get_mut(&mut context).expect("the only reference").stores.jobs;
        *jobs = store(vec![serde_json::from_value(job).expect("a Job")]);
        context
    };
    let template = job["metadata"]["annotations"]["kvcluster.io/template"].as_str().expect("a hash").to_owned();
    let deletions = |api: &ApiServer| -> Vec<Asked> {
        let deleted = |asked: &Asked| asked.method == Method::DELETE && asked.path.ends_with("jobs/demo-bootstrap");
        api.asked().into_iter().filter(deleted).collect()
    };
    // The leader has it, and the status does not say so yet.
    let (api, client) = ApiServer::start(|_| None);
    let done = start(false).await;
    reconcile(guarded(cluster(spec)), with_job(client, done.port, &template)).await.expect("it succeeds");
    assert_eq!(deletions(&api).len(), 0);
    let recorded = api.applied("/status")["status"].clone();
    assert!(recorded["bootstrap"]["completed"].is_string() && recorded["opened"] == json!(true), "{recorded}");
    // Whatever a leader says after that.
    for leader in [&done, &leader] {
        let (api, client) = ApiServer::start(|_| None);
        let mut completed = cluster(spec);
        completed.status = Some(serde_json::from_value(recorded.clone()).expect("a status"));
        reconcile(guarded(completed), with_job(client, leader.port, &template)).await.expect("it succeeds");
        let deleted = deletions(&api);
        assert_eq!(deleted.len(), 1);
        assert_eq!(
            (&deleted[0].body["propagationPolicy"], &deleted[0].body["preconditions"]["uid"]),
            (&json!("Background"), &json!("job"))
        );
        assert!(!api.writes().iter().any(|asked| asked.method == Method::PATCH && asked.path.contains("/jobs/")));
    }
    // The spec has another image, for example.
    let (api, client) = ApiServer::start(|_| None);
    reconcile(guarded(cluster(spec)), with_job(client, leader.port, "another")).await.expect("it succeeds");
    assert_eq!(deletions(&api).len(), 1);
}

// Goal: a drain is safe by each rule that may count. Method: the stricter rule is in turn the one of the spec, the one
// in force, the one that waits at the leader, and the one of the status while no leader answers.
#[tokio::test]
async fn the_budget_follows_the_strictest_of_the_rules_that_may_count() {
    let waits = |write_quorum, followers| {
        let mut waits = config(2, 3, 5);
        waits["pending"] =
            json!({"generation": 4, "write_quorum": write_quorum, "followers": followers, "message": "waits"});
        waits
    };
    for (name, spec, in_force, kept) in [
        ("all agree", "{}", config(4, 3, 5), 3),
        ("the spec asks for more", "{writeQuorum: 4}", config(2, 3, 5), 4),
        ("more is in force", "{}", config(2, 5, 5), 5),
        ("more waits", "{}", waits(4, 5), 4),
        ("a larger size waits", "{replicas: 7}", waits(3, 7), 5),
    ] {
        let (api, client) = ApiServer::start(|_| None);
        let leader = ScriptedLeader::start_with(5, in_force.clone(), (202, in_force)).await;
        reconcile(guarded(opened(spec, 5)), context(client, leader.port, vec![leader_pod()])).await.expect(name);
        let spec = api.applied("poddisruptionbudgets/demo-follower")["spec"].clone();
        assert_eq!(spec["minAvailable"], json!(kept), "{name}");
    }
    let (api, client) = ApiServer::start(|_| None);
    let mut closed = opened("{}", 5);
    closed.status.as_mut().expect("a status").applied_write_quorum = Some(4);
    reconcile(guarded(closed), context(client, 1, vec![])).await.expect("it succeeds");
    let spec = api.applied("poddisruptionbudgets/demo-follower")["spec"].clone();
    assert_eq!(spec["minAvailable"], json!(4), "no leader answers");
}

// Goal: volumes go with the KvCluster as its spec says, and never because a StatefulSet is deleted or a claim is left
// from an earlier cluster. Method: claims with and without the owner, inside and outside the followers in use.
#[tokio::test]
pub(super) async fn the_claims_of_the_followers_are_owned_by_the_cluster_where_they_go_with_it() {
    let claim = |ordinal: i32, owner: Option<&str>| {
        let owners: Vec<Value> = owner
            .map(|uid| json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": uid}))
            .into_iter()
            .collect();
        json!({"metadata": {"name": format!("data-demo-follower-{ordinal}"), "namespace": "shop", "uid": format!("claim-{ordinal}"),
            "labels": build::selector_labels("demo", Some(Component::Follower)), "ownerReferences": owners}})
    };
    let (delete, both) = ("{storage: {onDelete: Delete}}", "{storage: {onDelete: Delete, onScaleDown: Delete}}");
    for (name, spec, ordinal, owner, expected) in [
        ("goes with the cluster", delete, 4, None, Some(true)),
        ("is owned already", delete, 4, Some(UID), None),
        ("is left from an earlier cluster", delete, 5, None, None),
        ("stays after a scale-down and goes with the cluster", delete, 5, Some(UID), None),
        ("goes with its pod", both, 5, Some(UID), Some(false)),
        ("stays when the cluster goes", "{}", 4, Some(UID), Some(false)),
        ("has another owner", "{}", 4, Some("other"), None),
    ] {
        let (api, client) = ApiServer::start(|_| None);
        let mut context = context(client, 1, vec![]);
        let claims = &mut Arc::get_mut(&mut context).expect("the only reference").stores.claims;
        *claims = Indexed::new(store(vec![serde_json::from_value(claim(ordinal, owner)).expect("a claim")]));
        reconcile(guarded(cluster(spec)), context).await.expect(name);
        let writes = api.writes();
        let patched = writes.iter().position(|asked| asked.path.contains("persistentvolumeclaims/"));
        let owns = patched.map(|index| {
            let metadata = &writes[index].body["metadata"];
            assert_eq!(metadata["uid"], json!(format!("claim-{ordinal}")), "{name}");
            let owners = metadata["ownerReferences"].as_array().expect("owners").clone();
            assert!(owners.iter().all(|owner| owner["uid"] == UID && owner.get("controller").is_none()), "{name}");
            !owners.is_empty()
        });
        assert_eq!(owns, expected, "{name}");
        let set =
            writes.iter().position(|asked| asked.path.ends_with("statefulsets/demo-follower")).expect("followers");
        assert!(patched.is_none_or(|patched| patched < set), "{name}: before the StatefulSet shrinks");
        let policy = &writes[set].body["spec"]["persistentVolumeClaimRetentionPolicy"];
        assert_eq!(policy["whenDeleted"], json!("Retain"), "{name}");
    }
}
