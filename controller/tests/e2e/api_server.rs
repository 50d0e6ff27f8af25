//! Goal: the API server goes away and comes back; the pods run on as they are, and the operator carries on.

use std::process::Command;

use kvcluster_api::resource::Phase;
use serde_json::json;

use crate::harness::{Demo, PATIENCE, phase};
use crate::writer::Writer;

#[tokio::test]
#[ignore = "needs E2E_API_SERVER: a program that kills the API server and starts it again"]
async fn a_restart_of_the_api_server_touches_no_pod_and_the_operator_carries_on() {
    let program =
        std::env::var("E2E_API_SERVER").expect("E2E_API_SERVER names the program that restarts the API server");
    let spec = json!({"replicas": 5, "writeQuorum": 3, "delay": {"maxMs": 20}, "storage": {"size": "64Mi"}});
    let demo = Demo::ready(spec).await;
    let before = demo.identities().await;
    // Its way to the leader leads through the API server, and is cut for a while.
    let writer = Writer::start(&demo).await;
    assert!(Command::new(&program).status().unwrap().success(), "{program}");
    let patched = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(patched) = demo.patch(json!({"writeQuorum": 4})).await {
                return patched;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    });
    let patched = patched.await.expect("the API server is back");
    let took = demo
        .until("applied", |cluster| {
            let status = cluster.status.as_ref();
            phase(cluster) == Phase::Ready
                && status.is_some_and(|s| {
                    s.applied_write_quorum == Some(4) && s.observed_generation >= patched.metadata.generation
                })
        })
        .await;
    println!("a quorum is applied {took:?} after the API server came back");
    writer.progress().await;
    println!("API server restarted: {}", writer.finish(&demo).await);
    assert_eq!(demo.identities().await, before, "no pod was restarted or replaced");
    demo.remove().await;
}
