//! Goal: a paused cluster is left alone, and a hibernated one keeps its volumes.

use super::*;

// Goal: the operator leaves a paused cluster alone, and reports what it sees. Method: a cluster that has an earlier template,
// an earlier quorum and a leader that was left behind, and every request that changes something.
#[tokio::test]
async fn a_paused_cluster_is_left_alone_and_its_status_is_reported() {
    let changes = |spec: &'static str| async move {
        let (api, client) = ApiServer::start(generation_3);
        let leader = ScriptedLeader::start_with(5, config(3, 2, 5), (200, config(4, 3, 5))).await;
        let context = rolling(client, leader.port, &[], spec);
        reconcile(guarded(opened(spec, 5)), context.clone()).await.expect("it succeeds");
        let writes: Vec<String> = api.writes().into_iter().map(|asked| asked.path).collect();
        let others = writes.iter().filter(|path| !path.ends_with("/status") && !path.ends_with("/events")).count();
        (others, leader.patched().len(), api, context.rollouts.count())
    };
    let (objects, configured, api, rolls) = changes("{writeQuorum: 3, paused: true}").await;
    assert_eq!((objects, configured, rolls), (0, 0, 0));
    let status = api.applied("/status");
    for (type_, expected) in [
        ("Paused", "True"),
        ("Ready", "True"),
        ("Progressing", "False"),
        ("RolledOut", "False"),
        ("ConfigApplied", "False"),
    ] {
        assert_eq!(condition_of(&status, type_)["status"], json!(expected), "{type_}: {status}");
    }
    assert_eq!(status["status"]["phase"], json!("Ready"));
    assert!(status["status"]["message"].to_string().contains("until spec.paused is false"), "{status}");

    let (objects, configured, api, rolls) = changes("{writeQuorum: 3}").await;
    assert!(objects > 0 && configured == 1 && rolls == 1, "{objects} objects, {configured} changes, {rolls} rolling");
    assert_eq!(condition_of(&api.applied("/status"), "Paused")["status"], json!("False"));
}

// Goal: a hibernation ends the leader before the followers, and a Deployment that was paused for a rollout does not stay so.
#[tokio::test]
async fn a_hibernation_ends_the_leader_before_the_followers() {
    for (leader_runs, replicas) in [(true, 5), (false, 0)] {
        let (api, client) = ApiServer::start(generation_3);
        let spec = "{hibernated: true}";
        let leader = ScriptedLeader::start_with(5, config(4, 3, 5), (500, json!({}))).await;
        let mut context = rolling(client, leader.port, &[], spec);
        let stores = &mut Arc::get_mut(&mut context).expect("the only reference").stores;
        if !leader_runs {
            stores.pods = Indexed::new(store(vec![]));
        }
        let mut deployment = (*stores.deployments.state()[0]).clone();
        deployment.spec.get_or_insert_default().paused = Some(true);
        stores.deployments = store(vec![deployment]);
        reconcile(guarded(opened(spec, 5)), context.clone()).await.expect("it succeeds");
        let deployment = api.applied("deployments/demo-leader");
        assert_eq!(deployment["spec"]["replicas"], json!(0));
        assert_eq!(deployment["spec"]["paused"], json!(false));
        // A StatefulSet that is as it should be is not applied.
        let writes = api.writes();
        let set = writes.iter().rev().find(|asked| asked.path.ends_with("statefulsets/demo-follower"));
        assert_eq!(set.map_or(json!(5), |set| set.body["spec"]["replicas"].clone()), json!(replicas));
        let status = api.applied("/status");
        let (verdict, reason) = if leader_runs { ("False", "Hibernating") } else { ("True", "Hibernated") };
        let hibernated = condition_of(&status, "Hibernated");
        assert_eq!((&hibernated["status"], &hibernated["reason"]), (&json!(verdict), &json!(reason)), "{hibernated}");
        assert_eq!(status["status"]["phase"], json!(reason));
        assert_eq!(condition_of(&status, "Degraded")["status"], json!("False"));
        assert_eq!(condition_of(&status, "Ready")["reason"], json!(reason));
    }
}

// Goal: the volumes of a hibernated cluster still go with the KvCluster. Method: a claim that it owns, of a follower that a
// scale-down would take the claim of.
#[tokio::test]
async fn a_hibernated_cluster_goes_on_owning_its_volumes() {
    let spec = "{hibernated: true, storage: {onDelete: Delete, onScaleDown: Delete}}";
    let (api, client) = ApiServer::start(generation_3);
    let mut context = rolling(client, 1, &[], spec);
    let claim = json!({"metadata": {"name": "data-demo-follower-4", "namespace": "shop", "uid": "claim",
        "labels": labels("demo", Some(Component::Follower)), "ownerReferences": [
            {"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": UID}]}});
    let stores = &mut Arc::get_mut(&mut context).expect("the only reference").stores;
    stores.pods = Indexed::new(store(vec![]));
    stores.claims = Indexed::new(store(vec![serde_json::from_value(claim).expect("a claim")]));
    reconcile(guarded(opened(spec, 5)), context).await.expect("it succeeds");
    assert_eq!(api.applied("statefulsets/demo-follower")["spec"]["replicas"], json!(0));
    let changed: Vec<Asked> =
        api.writes().into_iter().filter(|asked| asked.path.contains("persistentvolume")).collect();
    assert!(changed.is_empty(), "{changed:?}");
}
