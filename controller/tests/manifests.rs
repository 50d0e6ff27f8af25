//! Goal: what is committed in `deploy/` and `charts/` is what this source prints.
//! Method: print it, and compare the objects (and, for the chart's templates, the text).

use std::fs;
use std::path::PathBuf;

use kv_controller::manifests;
use serde_json::{Value, json};

fn committed(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn objects(yaml: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(yaml).expect("YAML")
}

#[test]
fn the_crd_is_the_committed_one() {
    assert_eq!(
        objects(&committed("deploy/crd.yaml")),
        objects(&manifests::crd()),
        "regenerate it: cargo run -p kv-controller -- crd > deploy/crd.yaml"
    );
}

// Goal: `kubectl apply -f deploy/crd.yaml` works, which keeps the whole CRD in an annotation of at most 256 KiB.
#[test]
fn the_crd_fits_into_an_annotation() {
    let crd = serde_json::to_string(&objects(&manifests::crd())[0]).expect("JSON");
    assert!(crd.len() < 240_000, "{} bytes", crd.len());
}

#[test]
fn the_install_manifest_is_the_committed_one() {
    assert_eq!(
        objects(&committed("deploy/operator.yaml")),
        objects(&manifests::print(&manifests::ManifestSettings::default())),
        "regenerate it: cargo run -p kv-controller -- manifests --part operator > deploy/operator.yaml"
    );
}

#[test]
fn the_templates_of_the_chart_are_the_committed_ones() {
    for (path, text, command) in [
        ("charts/kvcluster/templates/operator.yaml", manifests::chart_operator(), "chart-operator"),
        ("charts/kvcluster/templates/crd.yaml", manifests::chart_crd(), "chart-crd"),
    ] {
        let mut sorted: Vec<String> = committed(path).lines().map(str::to_owned).collect();
        let mut printed: Vec<String> = text.lines().map(str::to_owned).collect();
        // The order of keys depends on what else is built along; nothing else does.
        sorted.sort();
        printed.sort();
        assert_eq!(sorted, printed, "regenerate it: cargo run -p kv-controller -- manifests --part {command} > {path}");
    }
}

#[test]
fn the_samples_are_kvclusters() {
    for path in ["deploy/kvcluster.yaml", "deploy/kvcluster-memory.yaml"] {
        let sample: kvcluster_api::resource::KvCluster = serde_saphyr::from_str(&committed(path)).expect(path);
        assert!(sample.spec.write_quorum <= sample.spec.replicas, "{path}");
    }
}

#[test]
fn a_supplied_job_may_do_to_the_one_kvcluster_what_it_has_to_and_nothing_else() {
    let operator = objects(&committed("deploy/operator.yaml"));
    let operator = operator.iter().find(|document| document["kind"] == "Deployment").expect("the operator");
    let spec = json!({"apiGroups": ["kvcluster.io"], "resources": ["kvclusters"], "resourceNames": ["demo"],
        "verbs": ["get", "patch"]});
    let ca = json!({"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["demo-ca"], "verbs": ["get"]});
    let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "delete"]});
    let leader = json!({"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["demo-leader"],
        "verbs": ["patch"]});
    for (path, rules) in
        [("deploy/sweep-job.yaml", json!([spec, ca])), ("deploy/check-job.yaml", json!([pods, spec, ca, leader]))]
    {
        let documents = objects(&committed(path));
        let of_kind = |kind: &str| documents.iter().find(|document| document["kind"] == kind).expect(kind);
        assert_eq!(of_kind("Role")["rules"], rules, "{path}");
        let pod = &of_kind("Job")["spec"]["template"]["spec"];
        let arguments = pod["containers"][0]["args"].as_array().expect("arguments");
        assert!(arguments.contains(&"--kube=demo".into()), "{path}: {arguments:?}");
        assert_eq!(pod["containers"][0]["image"], operator["spec"]["template"]["spec"]["containers"][0]["image"]);
    }
}
