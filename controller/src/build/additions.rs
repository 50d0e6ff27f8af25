//! What the spec adds to the pods: `podTemplate` of leader and followers.
//!
//! It comes last, so that what the operator sets for its own container reaches no other one. The API server has refused
//! the names that the operator sets.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, PodSecurityContext, PodSpec, PodTemplateSpec, SecurityContext, TopologySpreadConstraint,
    Volume,
};
use kvcluster_api::resource::{PodTemplate, PodVolume};
use serde_json::Value;

use crate::build::{Component, selector};
use crate::reconcile::validate::Validated;

/// Adds to a pod template what the spec asks for.
pub(super) fn add(template: &mut PodTemplateSpec, cluster: &Validated, component: Component) {
    let settings = match component {
        Component::Leader => &cluster.leader,
        Component::Follower => &cluster.followers,
    };
    let PodTemplate {
        labels,
        annotations,
        affinity,
        topology_spread_constraints,
        env,
        security_context,
        sidecars,
        volumes,
    } = settings.pod_template.clone();
    let metadata = template.metadata.get_or_insert_default();
    metadata.labels.get_or_insert_default().extend(labels);
    metadata.annotations.get_or_insert_default().extend(annotations);
    let spec = template.spec.get_or_insert_default();
    spec.affinity = affinity;
    spread(spec, topology_spread_constraints, cluster, component);
    for container in &mut spec.containers {
        container.env.get_or_insert_default().extend(env.clone());
    }
    if let Some(given) = security_context {
        spec.security_context = Some(replaced(spec.security_context.take(), given));
    }
    spec.containers.extend(sidecars.into_iter().map(sidecar));
    if !volumes.is_empty() {
        spec.volumes.get_or_insert_default().extend(volumes.into_iter().map(volume));
    }
}

/// Adds the constraints. The API server accepts no two with one topologyKey and one effect, so one of the user takes the
/// place of the operator's for the same key.
fn spread(spec: &mut PodSpec, given: Vec<TopologySpreadConstraint>, cluster: &Validated, component: Component) {
    if given.is_empty() {
        return;
    }
    let constraints = spec.topology_spread_constraints.get_or_insert_default();
    constraints.retain(|ours| given.iter().all(|given| given.topology_key != ours.topology_key));
    constraints.extend(given.into_iter().map(|given| TopologySpreadConstraint {
        // Without a selector a constraint counts no pods.
        label_selector: given.label_selector.or_else(|| Some(selector(cluster, Some(component)))),
        ..given
    }));
}

/// The fields that are given, and the operator's values of the others.
fn replaced(ours: Option<PodSecurityContext>, given: PodSecurityContext) -> PodSecurityContext {
    let fields = |context: &PodSecurityContext| match serde_json::to_value(context) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let mut merged = ours.as_ref().map(fields).unwrap_or_default();
    merged.extend(fields(&given));
    serde_json::from_value(Value::Object(merged)).unwrap_or(given)
}

/// A sidecar that does not say otherwise has no privileges, as namespaces with the restricted profile require.
fn sidecar(container: Container) -> Container {
    let restricted = SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    };
    Container { security_context: container.security_context.or(Some(restricted)), ..container }
}

fn volume(volume: PodVolume) -> Volume {
    let PodVolume { name, config_map, secret, empty_dir, projected } = volume;
    Volume { name, config_map, secret, empty_dir, projected, ..Volume::default() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
    use kube::CustomResourceExt;
    use kvcluster_api::resource::KvCluster;
    use serde_json::{Value, json};

    use crate::build::{Inputs, Resources, build};
    use crate::fixtures::validated;
    use crate::reconcile::certificates::Certificates;
    use crate::reconcile::tokens::{Stage, Tokens};

    const ADDED: &str = "
labels: {team: shop}
annotations: {example.com/scrape: 'yes'}
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
  {matchExpressions: [{key: disk, operator: In, values: [ssd]}]}]}}}
topologySpreadConstraints:
- {maxSkew: 2, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule}
env: [{name: CONNECTIONS_MAX, value: '77'}]
securityContext: {fsGroup: 4242, supplementalGroups: [7]}
sidecars:
- {name: shipper, image: 'shipper:1', volumeMounts: [{name: conf, mountPath: /conf}]}
- {name: open, image: 'open:1', securityContext: {runAsUser: 5}}
volumes: [{name: conf, configMap: {name: shipper}}]
";

    fn objects(spec: &str) -> Resources {
        let inputs = Inputs {
            tokens: Tokens {
                wanted: b"0123".to_vec(),
                accepted: vec!["0123".to_owned()],
                dropped: vec![],
                stage: Stage::Applied,
            },
            follower_pods: 5,
            asleep: false,
            spare_followers: 2,
            leader_pods: 2,
            opened: true,
            bootstraps: false,
            leader_by_label: true,
            certificates: Certificates::none(),
        };
        build(&validated(spec), &inputs)
    }

    fn templates(spec: &str) -> [Value; 2] {
        let resources = objects(spec);
        let template = |workload: Value| workload["spec"]["template"].clone();
        [
            template(serde_json::to_value(&resources.leader).expect("an object")),
            template(serde_json::to_value(&resources.followers).expect("an object")),
        ]
    }

    fn with_additions() -> String {
        let added = ADDED.replace('\n', "\n    ");
        format!("leader:\n  podTemplate:\n    {added}\nfollowers:\n  podTemplate:\n    {added}\n")
    }

    #[test]
    fn what_the_spec_adds_is_in_the_pods_beside_what_the_operator_sets() {
        for (pod, component) in templates(&with_additions()).into_iter().zip(["leader", "follower"]) {
            assert_eq!(pod["metadata"]["labels"]["team"], json!("shop"));
            assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/component"], json!(component));
            assert_eq!(pod["metadata"]["annotations"]["example.com/scrape"], json!("yes"));
            assert_eq!(
                pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"],
                json!("kv-node"),
                "{pod}"
            );
            let spec = &pod["spec"];
            let terms = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
            assert_eq!(terms["nodeSelectorTerms"][0]["matchExpressions"][0]["values"], json!(["ssd"]));
            let security = &spec["securityContext"];
            assert_eq!((&security["fsGroup"], &security["runAsUser"]), (&json!(4242), &json!(65_532)));
            assert_eq!((&security["supplementalGroups"], &security["runAsNonRoot"]), (&json!([7]), &json!(true)));
            let volumes = spec["volumes"].as_array().expect("volumes");
            assert!(volumes.contains(&json!({"name": "conf", "configMap": {"name": "shipper"}})), "{volumes:?}");
        }
    }

    // Goal: a sidecar has nothing of a node: no token, no settings, no data. Method: its whole container.
    #[test]
    fn a_sidecar_is_as_it_is_given_and_has_no_privileges() {
        let [_, followers] = templates(&with_additions());
        let containers = &followers["spec"]["containers"];
        let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
        let mounts = json!([{"name": "conf", "mountPath": "/conf"}]);
        assert_eq!(
            containers[1],
            json!({"name": "shipper", "image": "shipper:1", "volumeMounts": mounts, "securityContext": restricted})
        );
        assert_eq!(containers[2]["securityContext"], json!({"runAsUser": 5}));
        let env = containers[0]["env"].as_array().expect("env");
        assert!(env.contains(&json!({"name": "CONNECTIONS_MAX", "value": "77"})), "{env:?}");
    }

    #[test]
    fn a_constraint_of_the_spec_takes_the_place_of_the_one_with_its_key_and_counts_the_component() {
        for (pod, component) in templates(&with_additions()).into_iter().zip(["leader", "follower"]) {
            let constraints = pod["spec"]["topologySpreadConstraints"].as_array().expect("constraints").clone();
            let zones: Vec<&Value> =
                constraints.iter().filter(|one| one["topologyKey"] == "topology.kubernetes.io/zone").collect();
            assert_eq!(zones.len(), 1, "{constraints:?}");
            assert_eq!(zones[0]["labelSelector"]["matchLabels"]["app.kubernetes.io/component"], json!(component));
        }
        let [_, same_key] = templates(
            "followers: {podTemplate: {topologySpreadConstraints: [
                {maxSkew: 3, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway}]}}",
        );
        let constraints = same_key["spec"]["topologySpreadConstraints"].as_array().expect("constraints").clone();
        assert_eq!(constraints.len(), 1, "{constraints:?}");
        assert_eq!(constraints[0]["maxSkew"], json!(3));
    }

    /// The schema of a field of podTemplate.
    fn schema(field: &str) -> JSONSchemaProps {
        let crd = KvCluster::crd();
        let root = crd.spec.versions[0].schema.clone().and_then(|schema| schema.open_api_v3_schema).expect("a schema");
        ["spec", "followers", "podTemplate", field].iter().fold(root, |schema, name| {
            schema.properties.as_ref().and_then(|properties| properties.get(*name)).expect(name).clone()
        })
    }

    // Goal: no name that the operator sets may be given. Method: every name in the pods of a cluster with everything on,
    // beside the rules of the CRD; the API server runs them in the end-to-end tests.
    #[test]
    fn every_name_that_the_operator_sets_is_refused_by_a_rule() {
        let rules = |field: &str| -> String {
            let rules = schema(field).x_kubernetes_validations.unwrap_or_default();
            rules.into_iter().map(|rule| rule.rule).collect()
        };
        let spec = "leader: {standbys: 1}";
        let config = serde_json::to_value(objects(spec).config).expect("an object")["data"].clone();
        let law =
            serde_json::to_value(objects("delay: {constant: {ms: 3}}").config).expect("an object")["data"].clone();
        let keys = |map: &Value| map.as_object().expect("a map").keys().cloned().collect::<BTreeSet<String>>();
        let mut variables: BTreeSet<String> = keys(&config).union(&keys(&law)).cloned().collect();
        for pod in templates(spec) {
            let node = &pod["spec"]["containers"][0];
            let names = |list: &Value| -> Vec<String> {
                let list = list.as_array().cloned().unwrap_or_default();
                list.iter().filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
            };
            variables.extend(names(&node["env"]));
            assert!(rules("sidecars").contains(&format!("'{}'", node["name"].as_str().expect("a name"))));
            for volume in names(&node["volumeMounts"]) {
                let refused = volume.starts_with("kv-") || rules("volumes").contains(&format!("'{volume}'"));
                assert!(refused, "the volume {volume}");
            }
            for (field, rules) in [("labels", rules("labels")), ("annotations", rules("annotations"))] {
                for key in keys(&pod["metadata"][field]) {
                    let refused = key.starts_with("kvcluster.io/") || rules.contains(&format!("'{key}'"));
                    assert!(refused, "{key} of {field}");
                }
            }
        }
        for variable in variables {
            assert!(rules("env").contains(&format!("'{variable}'")), "the variable {variable}");
        }
    }
}
