//! Goal: a rollout never takes more followers than the quorum spares, and waits for each.

use super::*;

// Goal: a new template moves one follower, within the budget, and the leader keeps its pods until its turn; a follower that
// is down keeps what is not to spare. Method: a cluster whose pods are all of an earlier template.
#[tokio::test]
pub(super) async fn a_new_template_evicts_one_follower_and_pauses_the_leader() {
    for (down, quorum, evicted) in [(vec![], 2, true), (vec![1], 2, false), (vec![1], 3, true)] {
        let (api, client) = ApiServer::start(generation_3);
        let leader = ScriptedLeader::start_with(5, config(4, quorum, 5), (500, json!({}))).await;
        let spec = format!("{{writeQuorum: {quorum}}}");
        let context = rolling(client, leader.port, &down, &spec);
        reconcile(guarded(opened(&spec, 5)), context.clone()).await.expect("it succeeds");
        assert_eq!(api.applied("deployments/demo-leader")["spec"]["paused"], json!(true));
        let evictions: Vec<Asked> = api.asked().into_iter().filter(|asked| asked.path.ends_with("/eviction")).collect();
        let rolled_out = condition_of(&api.applied("/status"), "RolledOut");
        if evicted {
            assert_eq!(evictions.len(), 1, "{evictions:?}");
            assert!(evictions[0].path.ends_with("pods/demo-follower-4/eviction"), "{}", evictions[0].path);
            assert_eq!(evictions[0].body["deleteOptions"]["preconditions"]["uid"], json!("pod-4"));
            assert_eq!(rolled_out["reason"], json!("RollingOut"));
        } else {
            assert!(evictions.is_empty(), "{evictions:?}");
            assert_eq!(rolled_out["reason"], json!("RolloutBlocked"));
            assert!(rolled_out["message"].to_string().contains("demo-follower-1"), "{rolled_out}");
        }
        assert_eq!(context.rollouts.count(), usize::from(evicted));
    }
}

#[tokio::test]
pub(super) async fn what_the_budget_refuses_is_reported_and_where_it_allows_nothing_the_pod_is_deleted() {
    let refuses = |asked: &Asked| {
        let words = "Cannot evict pod as it would violate the pod's disruption budget.";
        let refusal = || failure(429, "TooManyRequests", words);
        asked.path.ends_with("/eviction").then(refusal).or_else(|| generation_3(asked))
    };
    for (quorum, refused) in [(3, true), (5, false)] {
        let (api, client) = ApiServer::start(refuses);
        let leader = ScriptedLeader::start_with(5, config(4, quorum, 5), (500, json!({}))).await;
        let spec = format!("{{writeQuorum: {quorum}}}");
        let context = rolling(client, leader.port, &[], &spec);
        reconcile(guarded(opened(&spec, 5)), context.clone()).await.expect("it succeeds");
        let rolled_out = condition_of(&api.applied("/status"), "RolledOut");
        let deleted = api.asked().into_iter().find(|asked| asked.method == Method::DELETE);
        if refused {
            assert_eq!(rolled_out["reason"], json!("RolloutBlocked"));
            assert!(rolled_out["message"].to_string().contains("violate the pod's disruption budget"), "{rolled_out}");
            assert!(deleted.is_none());
        } else {
            let deleted = deleted.expect("it is deleted");
            assert!(deleted.path.ends_with("pods/demo-follower-4"), "{}", deleted.path);
            assert_eq!(deleted.body["preconditions"]["uid"], json!("pod-4"));
        }
    }
}

// Goal: a pod is judged by the template that is applied, not by one that someone is about to see undone, nor by one that
// the StatefulSet does not have yet. Method: an apply that makes another generation, and another setting in the template.
#[tokio::test]
async fn no_pod_moves_in_the_step_that_changes_the_stateful_set() {
    for (generation, spec, moves) in [(3, "{}", true), (4, "{}", false), (3, "{logLevel: debug}", false)] {
        let (api, client) = ApiServer::start(move |asked| {
            let (code, mut body) = generation_3(asked)?;
            body["metadata"]["generation"] = json!(generation);
            Some((code, body))
        });
        let leader = ScriptedLeader::start_with(5, config(4, 3, 5), (500, json!({}))).await;
        let context = rolling(client, leader.port, &[], "{}");
        reconcile(guarded(opened(spec, 5)), context).await.expect("it succeeds");
        let moved = api.asked().iter().any(|asked| asked.path.ends_with("/eviction"));
        assert_eq!(moved, moves, "generation {generation}, spec {spec}");
    }
}

// Goal: a StatefulSet of an earlier operator gets the new strategy, which the API server refuses beside the old settings.
#[tokio::test]
async fn rolling_updates_of_a_stateful_set_are_stopped_before_it_is_applied() {
    let (api, client) = ApiServer::start(generation_3);
    let mut context = context(client, 1, vec![]);
    let set = json!({"metadata": {"name": "demo-follower", "namespace": "shop", "uid": "made", "ownerReferences": [
            {"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": UID, "controller": true}]},
        "spec": {"replicas": 5, "selector": {}, "template": {},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
    let sets = &mut Arc::get_mut(&mut context).expect("the only reference").stores.stateful_sets;
    *sets = store(vec![serde_json::from_value(set).expect("a set")]);
    reconcile(guarded(opened("{}", 5)), context).await.expect("it succeeds");
    let patches: Vec<Asked> = api.writes().into_iter().filter(|asked| asked.path.contains("statefulsets/")).collect();
    assert_eq!(patches.len(), 2, "{patches:?}");
    let strategy = &patches[0].body["spec"]["updateStrategy"];
    assert_eq!(*strategy, json!({"type": "OnDelete", "rollingUpdate": null}));
    assert_eq!(patches[1].body["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
}
