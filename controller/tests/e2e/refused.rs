//! Goal: the API server itself refuses what contradicts itself, in words that name the values.

use kube::api::{Patch, PatchParams};
use kvcluster_api::resource::KvCluster;
use serde_json::{Value, json};

use crate::harness::Demo;

/// A spec whose leader has this field in its podTemplate.
fn pod_template(field: &str, value: Value) -> Value {
    json!({"leader": {"podTemplate": {field: value}}})
}

/// A spec with backups that have this field.
fn backup(field: Value) -> Value {
    let mut backup = json!({"schedule": "*/5 0-3,12 1,15 jan-MAR 1-5", "destination": "s3://bucket/of/demo"});
    for (name, value) in field.as_object().unwrap() {
        backup[name] = value.clone();
    }
    json!({"backup": backup})
}

#[tokio::test]
async fn contradictions_are_refused_in_words() {
    let demo = Demo::empty().await;
    let cases = [
        (json!({"writeQuorum": 0}), "writeQuorum is 0: it must be at least 1"),
        (
            json!({"replicas": 3, "writeQuorum": 4}),
            "writeQuorum 4 is greater than replicas 3: no write could ever be acknowledged",
        ),
        (json!({"replicas": 0, "writeQuorum": 1}), "replicas is 0: it must be 1 to 64"),
        (json!({"replicas": 65}), "replicas is 65: it must be 1 to 64"),
        (json!({"delay": {"minMs": 30, "maxMs": 20}}), "delay.minMs 30 is greater than delay.maxMs 20"),
        (json!({"delay": {"minMs": 201}}), "delay.minMs 201 is greater than delay.maxMs 200"),
        (json!({"delay": {"minMs": -5}}), "delay.minMs is -5: a delay cannot be negative"),
        (json!({"delay": {"minMs": -9, "maxMs": -1}}), "delay.maxMs is -1: a delay cannot be negative"),
        (json!({"delay": {"maxMs": 600_001}}), "delay.maxMs is 600001: at most 600000 milliseconds"),
        (json!({"delay": {"preset": "jammer"}}), "supported values: \"linkedin-disk\", \"yammer\", \"wan-3-zones\""),
        (json!({"delay": {"maxMs": 5, "preset": "yammer"}}), "delay has more than one law"),
        (
            json!({"delay": {"exponential": {"meanMs": -4}}}),
            "exponential.meanMs is -4: it must be above 0 and at most 600000 milliseconds",
        ),
        (
            json!({"delay": {"pareto": {"scaleMs": 3, "shape": 0.9}}}),
            "pareto.shape is 0.9: up to 1 the mean is infinite, so give the longest delay as capMs",
        ),
        (
            json!({"delay": {"mixture": [{"weight": 0, "constant": {"ms": 1}}]}}),
            "weight is 0: it must be above 0 and at most 1000000000",
        ),
        (json!({"replicationTimeoutMs": 0}), "replicationTimeoutMs is 0: it must be 1 to 600000 milliseconds"),
        (
            json!({"delay": {"minMs": 100}, "replicationTimeoutMs": 100}),
            "delay.minMs 100 is not below replicationTimeoutMs 100",
        ),
        (json!({"storage": {"size": "much"}}), "storage.size much is not a size such as 1Gi"),
        (json!({"storage": {"size": "0"}}), "storage.size 0 is not a size such as 1Gi"),
        (json!({"storage": {"size": "-1Gi"}}), "storage.size -1Gi is not a size such as 1Gi"),
        (json!({"storage": {"size": "63Mi"}}), "storage.size 63Mi is too small for the log of a follower"),
        (json!({"storage": {"size": "67108863"}}), "storage.size 67108863 is too small for the log of a follower"),
        (json!({"durability": "Tape"}), "supported values: \"Disk\", \"Memory\""),
        (json!({"tls": {"secretName": "A_b"}}), "tls.secretName A_b is not the name of a Secret"),
        (json!({"tls": {"secretName": "demo-auth"}}), "tls.secretName demo-auth is the Secret of the token"),
        (json!({"auth": {"secretName": "demo-ca"}}), "auth.secretName demo-ca is a Secret of the nodes"),
        (json!({"leader": {"standbys": 5}}), "leader.standbys is 5: it must be 0 to 4"),
        (json!({"leader": {"standbys": -1}}), "leader.standbys is -1: it must be 0 to 4"),
        (json!({"leader": {"resources": {"requests": {"cpu": "lots"}}}}), "spec.leader.resources.requests.cpu"),
        (
            pod_template("labels", json!({"kvcluster.io/leads": "true"})),
            "the label kvcluster.io/leads is set by the operator",
        ),
        (
            pod_template("labels", json!({"app.kubernetes.io/component": "x"})),
            "the label app.kubernetes.io/component is set by the operator or by Kubernetes",
        ),
        (pod_template("labels", json!({"a key": "x"})), "a key cannot be the key of a label"),
        (pod_template("labels", json!({"team": "no value/"})), "should match"),
        (
            pod_template("annotations", json!({"kvcluster.io/token": "x"})),
            "the annotation kvcluster.io/token is set by",
        ),
        (
            pod_template(
                "env",
                json!([{"name": "CONNECTIONS_MAX", "value": "9"}, {"name": "AUTH_TOKEN", "value": "x"}]),
            ),
            "the variable AUTH_TOKEN is set by the operator: it follows from other fields of the spec",
        ),
        (
            pod_template("env", json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}])),
            "duplicate entries for key [name=\"A\"]",
        ),
        (
            pod_template("sidecars", json!([{"name": "kv-node", "image": "x"}])),
            "the container kv-node belongs to the operator",
        ),
        (pod_template("sidecars", json!([{"name": "shipper"}])), "the sidecar shipper has no image"),
        (pod_template("volumes", json!([{"name": "data", "emptyDir": {}}])), "the volume data belongs to the operator"),
        (
            pod_template("volumes", json!([{"name": "conf", "emptyDir": {}, "secret": {"secretName": "x"}}])),
            "the volume conf needs one of configMap, secret, emptyDir and projected",
        ),
        (
            json!({"service": {"type": "ExternalName"}}),
            "supported values: \"ClusterIP\", \"NodePort\", \"LoadBalancer\"",
        ),
        (
            json!({"service": {"annotations": {"kvcluster.io/x": "y"}}}),
            "the annotation kvcluster.io/x is set by the operator",
        ),
        (
            json!({"durability": "Memory", "hibernated": true}),
            "hibernated: true would lose all data: with durability Memory the followers have it only in their pods",
        ),
        (backup(json!({"schedule": "every night"})), "backup.schedule every night is not a schedule: minute (0-59)"),
        (backup(json!({"schedule": "60 2 * * *"})), "backup.schedule 60 2 * * * is not a schedule"),
        (backup(json!({"schedule": "0 24 * * *"})), "backup.schedule 0 24 * * * is not a schedule"),
        (backup(json!({"schedule": "0 2 * *"})), "backup.schedule 0 2 * * is not a schedule"),
        (backup(json!({"schedule": "0 2 * * 1-8"})), "backup.schedule 0 2 * * 1-8 is not a schedule"),
        (backup(json!({"timeZone": "Local"})), "backup.timeZone Local is not the name of a time zone"),
        (
            backup(json!({"destination": "gs://bucket/x"})),
            "backup.destination gs://bucket/x is neither s3://BUCKET/PREFIX nor pvc://CLAIM/DIRECTORY",
        ),
        (backup(json!({"destination": "pvc://claim/../x"})), "backup.destination pvc://claim/../x is neither"),
        (backup(json!({"destination": "s3://UPPER/x"})), "backup.destination s3://UPPER/x is neither"),
        (
            backup(json!({"destination": "pvc://claim", "secretName": "keys"})),
            "backup.secretName keys has no use: pvc://claim is a volume",
        ),
        (backup(json!({"keep": 0})), "backup.keep is 0: it must be 1 to 1000"),
        (backup(json!({"keepDays": 0})), "backup.keepDays is 0: it must be 1 to 3650"),
        (
            json!({"bootstrap": {"fromBackup": {"source": "gs://bucket/x"}}}),
            "bootstrap.fromBackup.source gs://bucket/x is neither s3://BUCKET/PREFIX nor pvc://CLAIM/DIRECTORY",
        ),
        (
            json!({"bootstrap": {"fromBackup": {"source": "pvc://claim", "secretName": "keys"}}}),
            "bootstrap.fromBackup.secretName keys has no use: pvc://claim is a volume",
        ),
        (
            json!({"bootstrap": {"fromBackup": {"source": "pvc://claim", "backup": "../x"}}}),
            "bootstrap.fromBackup.backup ../x is not the name of a backup",
        ),
    ];
    for (spec, message) in cases {
        let error = demo.create(spec.clone()).await.expect_err(&spec.to_string()).to_string();
        assert!(error.to_lowercase().contains(&message.to_lowercase()), "{spec}: {error}");
    }
    demo.remove().await;
}

#[tokio::test]
async fn changes_that_running_followers_cannot_follow_are_refused_in_words() {
    let demo = Demo::empty().await;
    // The smallest that is taken.
    let smallest = json!({"replicas": 2, "writeQuorum": 2, "durability": "Memory", "storage": {"size": "64Mi"}});
    demo.create(smallest).await.unwrap();
    demo.patch(json!({"storage": {"size": "65Mi"}})).await.expect("it may grow");
    let cases = [
        (json!({"durability": "Disk"}), "durability cannot change from Memory to Disk"),
        (
            json!({"storage": {"size": "66000Ki"}}),
            "storage.size cannot shrink from 65Mi to 66000Ki: a volume only grows",
        ),
        (json!({"storage": {"storageClassName": "fast"}}), "storage.storageClassName cannot change"),
        (
            json!({"bootstrap": {"fromBackup": {"source": "pvc://claim"}}}),
            "bootstrap is for new clusters: it cannot be added, changed or removed",
        ),
    ];
    for (spec, message) in cases {
        let error = demo.patch(spec.clone()).await.expect_err(&spec.to_string()).to_string();
        assert!(error.contains(message), "{spec}: {error}");
    }
    // `kubectl scale` goes through the same rules.
    let scale = json!({"spec": {"replicas": 1}});
    let error = demo
        .api::<KvCluster>()
        .patch_scale("demo", &PatchParams::default(), &Patch::Merge(&scale))
        .await
        .expect_err("below the quorum");
    assert!(error.to_string().contains("writeQuorum 2 is greater than replicas 1"), "{error}");
    demo.remove().await;
}

#[tokio::test]
async fn names_that_no_service_can_have_are_refused_in_words() {
    let demo = Demo::empty().await;
    for (name, message) in [
        ("a-name-that-is-far-too-long-for-its-pods-x", "has 42 characters; at most 40 fit into the names of its pods"),
        ("1st", "the name 1st cannot name a Service"),
        ("a.b", "the name a.b cannot name a Service"),
    ] {
        let body =
            json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": name}, "spec": {}});
        let error = demo
            .api::<KvCluster>()
            .patch(name, &PatchParams::apply("e2e"), &Patch::Apply(&body))
            .await
            .expect_err(name);
        assert!(error.to_string().contains(message), "{name}: {error}");
    }
    demo.remove().await;
}
