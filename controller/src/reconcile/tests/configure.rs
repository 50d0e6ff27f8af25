//! Goal: the leader gets the settings of the spec once, and what it refuses is reported.

use super::*;

// Goal: a pod with a port for administration is asked there, whatever the usual port is.
#[tokio::test]
async fn a_node_is_asked_at_its_port_for_administration() {
    let leader = ScriptedLeader::start(config(4, 3, 5), (200, json!({}))).await;
    let mut pod = serde_json::to_value(leader_pod()).expect("JSON");
    let port = json!({"name": "admin", "containerPort": leader.port});
    pod["spec"] = json!({"containers": [{"name": "sidecar", "ports": [{"name": "admin", "containerPort": 2}]},
        {"name": "kv-node", "ports": [{"name": "http", "containerPort": 1}, port]}]});
    let pods = [Arc::new(serde_json::from_value(pod).expect("a pod"))];
    let leaders = LeaderClients::on_port(1).expect("a client");
    let seen = leaders.of("shop", "demo").observe(&pods, false).await;
    assert!(seen.answered().is_some(), "{seen:?}");
}

#[tokio::test]
async fn a_new_quorum_goes_to_the_leader_with_the_token_and_the_generation() {
    let (api, client) = ApiServer::start(|_| None);
    let leader = ScriptedLeader::start(config(2, 3, 5), (200, config(4, 5, 5))).await;
    reconcile(guarded(opened("{writeQuorum: 5}", 5)), context(client, leader.port, vec![leader_pod()]))
        .await
        .expect("it succeeds");
    let patched = leader.patched();
    assert_eq!(patched.len(), 1);
    let token: Secret = serde_json::from_value(api.applied("secrets/demo-auth")).expect("a Secret");
    let token = String::from_utf8(token.data.expect("data")["token"].0.clone()).expect("text");
    assert_eq!(patched[0].0, format!("Bearer {token}"));
    assert_eq!(patched[0].1["write_quorum"], json!(5));
    assert_eq!(patched[0].1["generation"], json!(4), "the generation of the resource");
    let status = api.applied("/status")["status"].clone();
    assert_eq!(status["appliedWriteQuorum"], json!(5));
}

#[tokio::test]
async fn a_leader_that_has_the_values_is_not_asked_again() {
    let (_api, client) = ApiServer::start(|_| None);
    let leader = ScriptedLeader::start(config(9, 3, 5), (500, json!({}))).await;
    reconcile(guarded(opened("{}", 5)), context(client, leader.port, vec![leader_pod()])).await.expect("it succeeds");
    assert!(leader.patched().is_empty());
}

#[tokio::test]
async fn a_refusal_of_the_leader_is_reported_in_its_words() {
    let (api, client) = ApiServer::start(|_| None);
    let refusal = json!({"ok": false, "message": "a newer generation is known"});
    let leader = ScriptedLeader::start(config(7, 3, 5), (409, refusal)).await;
    reconcile(guarded(opened("{writeQuorum: 2}", 5)), context(client, leader.port, vec![leader_pod()]))
        .await
        .expect("it succeeds");
    assert_eq!(leader.patched()[0].1["generation"], json!(8), "one more than the leader knows");
    let status = api.applied("/status")["status"].to_string();
    assert!(status.contains("the leader answered 409: a newer generation is known"), "{status}");
}

#[tokio::test]
async fn a_scale_down_shrinks_the_stateful_set_only_once_the_leader_has_let_go_of_those_that_leave() {
    let with_pending = |followers| {
        let mut config = config(2, 3, followers);
        config["pending"] = json!({"generation": 4, "write_quorum": 3, "followers": 3, "message": "waits"});
        config
    };
    for (before, after, listed, pods) in [
        (config(2, 3, 7), with_pending(7), 7, 7),
        (with_pending(7), with_pending(7), 7, 7),
        // The smaller number is in force, but not on so many followers that no leader would go by the larger one.
        (with_pending(3), with_pending(3), 7, 7),
        (config(4, 3, 3), json!({}), 7, 7),
        (config(4, 3, 3), json!({}), 3, 3),
    ] {
        let (api, client) = ApiServer::start(|_| None);
        let leader = ScriptedLeader::start_with(listed, before.clone(), (202, after)).await;
        reconcile(guarded(opened("{replicas: 3}", 7)), context(client, leader.port, vec![leader_pod()]))
            .await
            .expect("it succeeds");
        let applied = api.applied("statefulsets/demo-follower")["spec"]["replicas"].clone();
        assert_eq!(applied, json!(pods), "{before} with {listed} followers listed");
    }
}
