//! Goal: the pod that leads has the label, and none has it where there are no standbys.

use super::*;

// Goal: of two pods that claim to lead, the one with the higher epoch gets the label, by which the Service selects, and
// the task ends with the last pod that may be a standby. Method: the old leader has the label, and both answer.
#[tokio::test]
pub(super) async fn the_label_is_on_the_open_leader_with_the_highest_epoch() {
    let (api, client) = ApiServer::start(|_| None);
    let old = ScriptedLeader::start(config(4, 3, 5), (500, json!({}))).await;
    let address = SocketAddr::from(([127, 0, 0, 2], old.port));
    let _new = ScriptedLeader::start_at(address, 2, 5, config(4, 3, 5), (500, json!({}))).await;
    let mut labelled = leader_pod();
    labelled.labels_mut().insert(build::LEADS.to_owned(), "true".to_owned());
    let pods = vec![labelled, leader_pod_at("demo-leader-y", "127.0.0.2")];
    let context = context(client, old.port, pods);
    reconcile(guarded(opened("{leader: {standbys: 1}}", 5)), context.clone()).await.expect("it succeeds");
    assert_eq!(api.applied("services/demo")["spec"]["selector"][build::LEADS], json!("true"));
    let patched = || -> Vec<Asked> { api.writes().into_iter().filter(|asked| asked.path.contains("/pods/")).collect() };
    tokio::time::timeout(Duration::from_secs(10), async {
        while patched().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("both pods are labelled");
    for (pod, leads) in [("demo-leader-y", json!("true")), ("demo-leader-x", Value::Null)] {
        assert_eq!(api.applied(pod)["metadata"]["labels"][build::LEADS], leads, "{pod}");
    }
}

#[tokio::test]
async fn without_standbys_no_pod_is_labelled_and_the_service_selects_by_readiness_alone() {
    let (api, client) = ApiServer::start(|_| None);
    let leader = ScriptedLeader::start(config(4, 3, 5), (500, json!({}))).await;
    let context = context(client, leader.port, vec![leader_pod()]);
    let pods = [Arc::new(leader_pod())];
    reconcile(guarded(opened("{}", 5)), context.clone()).await.expect("it succeeds");
    assert_eq!(api.applied("services/demo")["spec"]["selector"].get(build::LEADS), None);
    assert!(!context.lead_labels.keep(&validated("{}"), &pods, &context));
    assert_eq!(context.lead_labels.running(), 0);
    assert!(context.lead_labels.keep(&validated("{leader: {standbys: 1}}"), &pods, &context));
    assert_eq!(context.lead_labels.running(), 1);
    assert!(!context.lead_labels.keep(&validated("{}"), &pods, &context));
    assert_eq!(context.lead_labels.running(), 0, "the last pod that may be a standby is gone");
}
