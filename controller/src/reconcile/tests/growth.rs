//! Goal: volumes grow without a pod that ends, and what cannot grow stays as it is and is reported. Method: the claims and the
//! StatefulSet as the API server would have them.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::*;

const SPEC: &str = "{storage: {size: 128Mi}}";

/// The claims of five followers and one that is left from before, and the StatefulSet with so many pods.
fn grown_from(size: &str, replicas: i32, client: Client) -> Arc<Context> {
    let claim = |ordinal: i32| -> PersistentVolumeClaim {
        let claim = json!({"metadata": {"name": format!("data-demo-follower-{ordinal}"), "namespace": "shop",
                "uid": format!("claim-{ordinal}"), "labels": build::selector_labels("demo", Some(Component::Follower))},
            "spec": {"resources": {"requests": {"storage": size}}},
            "status": {"phase": if ordinal == 4 { "Pending" } else { "Bound" }, "capacity": {"storage": size}}});
        serde_json::from_value(claim).expect("a claim")
    };
    let template = json!({"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": size}}}});
    let owner = json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": UID,
        "controller": true});
    let set = json!({
        "metadata": {"name": "demo-follower", "namespace": "shop", "uid": "set-1", "ownerReferences": [owner]},
        "spec": {"replicas": replicas, "selector": {}, "template": {}, "volumeClaimTemplates": [template],
            "updateStrategy": {"type": "OnDelete"}}});
    let set: StatefulSet = serde_json::from_value(set).expect("a StatefulSet");
    let mut context = context(client, 1, vec![]);
    let stores = &mut Arc::get_mut(&mut context).expect("the only reference").stores;
    stores.claims = Indexed::new(store((0..6).map(claim).collect()));
    stores.stateful_sets = store(vec![set]);
    context
}

fn of_claims(api: &ApiServer) -> Vec<Asked> {
    api.writes().into_iter().filter(|asked| asked.path.contains("/persistentvolumeclaims/")).collect()
}

fn of_the_set(api: &ApiServer) -> Vec<Asked> {
    api.writes().into_iter().filter(|asked| asked.path.ends_with("/statefulsets/demo-follower")).collect()
}

fn template_size(set: &Asked) -> &Value {
    &set.body["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
}

fn grown(api: &ApiServer) -> Value {
    let status = api.applied("/status")["status"].clone();
    let found = status["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == "VolumesGrown"));
    found.cloned().expect("the condition is there")
}

#[tokio::test]
pub(super) async fn volumes_grow_and_the_stateful_set_is_replaced_without_its_pods() {
    let (api, client) = ApiServer::start(|_| None);
    let context = grown_from("64Mi", 5, client);
    reconcile(guarded(opened(SPEC, 5)), context).await.expect("it succeeds");
    let claims = of_claims(&api);
    let uids: Vec<&Value> = claims.iter().map(|claim| &claim.body["metadata"]["uid"]).collect();
    assert_eq!(uids, ["claim-0", "claim-1", "claim-2", "claim-3"], "not one without a volume, nor one of no follower");
    assert!(claims.iter().all(|claim| claim.body["spec"]["resources"]["requests"]["storage"] == "128Mi"));
    let set = of_the_set(&api);
    assert_eq!(set.len(), 1, "it cannot be applied: {set:?}");
    assert_eq!(set[0].method, Method::DELETE);
    assert_eq!(set[0].body["propagationPolicy"], json!("Orphan"), "its pods run on");
    assert_eq!(set[0].body["preconditions"]["uid"], json!("set-1"));
    let condition = grown(&api);
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Growing")));
    assert!(condition["message"].to_string().contains("data-demo-follower-0 has 64Mi of 128Mi"), "{condition}");

    // The same size in other words, and a volume that is larger, need nothing.
    for size in ["128Mi", "131072Ki", "1Gi"] {
        let (api, client) = ApiServer::start(|_| None);
        reconcile(guarded(opened(SPEC, 5)), grown_from(size, 5, client)).await.expect("it succeeds");
        assert!(of_claims(&api).is_empty(), "{size}");
        assert!(of_the_set(&api).iter().all(|asked| asked.method == Method::PATCH), "{size}");
        assert_eq!(grown(&api)["status"], json!("True"), "{size}");
    }
}

#[tokio::test]
async fn a_volume_that_may_not_grow_is_reported_and_the_cluster_goes_on_as_it_is() {
    let (api, client) = ApiServer::start(|asked| {
        asked
            .path
            .contains("/persistentvolumeclaims/")
            .then(|| failure(403, "Forbidden", "the class must support resize"))
    });
    reconcile(guarded(opened(SPEC, 5)), grown_from("64Mi", 5, client)).await.expect("it succeeds");
    assert_eq!(of_claims(&api).len(), 1, "one refusal is enough");
    let set = of_the_set(&api);
    assert!(set.len() == 1 && set[0].method == Method::PATCH, "{set:?}");
    assert_eq!(template_size(&set[0]), &json!("64Mi"), "the size of the template cannot change");
    let condition = grown(&api);
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("Refused")));
    let message = json!("data-demo-follower-0 cannot grow from 64Mi to 128Mi: the class must support resize");
    assert_eq!(condition["message"], message);
}

// What a StatefulSet says of its pods is needed while they change: how many there were before a hibernation, for example.
#[tokio::test]
async fn a_stateful_set_whose_pods_change_stays() {
    for (name, spec, replicas) in
        [("a scale-up", SPEC, 3), ("a hibernation", "{hibernated: true, storage: {size: 128Mi}}", 0)]
    {
        let (api, client) = ApiServer::start(|_| None);
        reconcile(guarded(opened(spec, 5)), grown_from("64Mi", replicas, client)).await.expect(name);
        let set = of_the_set(&api);
        assert!(set.len() == 1 && set[0].method == Method::PATCH, "{name}: {set:?}");
        assert_eq!(template_size(&set[0]), &json!("64Mi"), "{name}");
    }
}

// Goal: a pod stays although the StatefulSet that adopted it has named no revision yet. Method: pods of an earlier revision, and
// a status that says that all were rolled out.
#[tokio::test]
async fn no_pod_moves_before_the_new_stateful_set_knows_its_revision() {
    for (status, moves) in [
        (json!({"replicas": 0}), false),
        (json!({"replicas": 5, "observedGeneration": 3, "updateRevision": "new"}), true),
    ] {
        let (api, client) = ApiServer::start(generation_3);
        let leader = ScriptedLeader::start_with(5, config(4, 3, 5), (500, json!({}))).await;
        let mut context = rolling(client, leader.port, &[], "{}");
        let stores = &mut Arc::get_mut(&mut context).expect("the only reference").stores;
        let mut set = stores.stateful_sets.state()[0].as_ref().clone();
        set.status = Some(serde_json::from_value(status).expect("a status"));
        stores.stateful_sets = store(vec![set]);
        let mut cluster = opened("{}", 5);
        let rolled_out = json!([{"type": "RolledOut", "status": "True", "reason": "Current", "message": "",
            "lastTransitionTime": "2026-05-04T03:02:01Z"}]);
        cluster.status.as_mut().expect("a status").conditions = serde_json::from_value(rolled_out).expect("conditions");
        reconcile(guarded(cluster), context).await.expect("it succeeds");
        assert_eq!(api.asked().iter().any(|asked| asked.path.ends_with("/eviction")), moves);
    }
}
