//! Goal: what a KvCluster makes is what the design says, down to the fields that matter when something fails.
//! Method: a spec in YAML goes in, and the objects are looked at as the JSON that the API server would get.

use serde_json::{Value, json};

use super::*;
use crate::fixtures::{UID, validated};
use crate::reconcile::certificates::{Issued, Pair};
use crate::reconcile::tokens::Stage;
use crate::reconcile::validate::Platform;

const SPEC: &str = "
replicas: 7
writeQuorum: 4
delay: {minMs: 11, maxMs: 222}
replicationTimeoutMs: 3333
storage: {size: 9Gi, storageClassName: fast, onDelete: Delete}
logLevel: debug
imagePullSecrets: [registry]
leader: {resources: {limits: {memory: 1Gi}}, nodeSelector: {disk: none}}
followers: {tolerations: [{key: data, operator: Exists}], priorityClassName: high}
spread: {topologyKey: topology.kubernetes.io/zone, mode: Required}
";

const BACKUP_SPEC: &str = "
backup: {schedule: '30 2 * * *', timeZone: Europe/Berlin, destination: 's3://store/of/demo', secretName: s3-keys, keep: 9, keepDays: 31}
";

fn objects(spec: &str) -> Resources {
    let cluster = validated(spec);
    build(&cluster, &Inputs { leader_pods: 1 + i32::from(cluster.standbys), ..inputs() })
}

fn inputs() -> Inputs {
    Inputs {
        tokens: tokens("0123"),
        follower_pods: 7,
        asleep: false,
        spare_followers: 3,
        leader_pods: 1,
        opened: true,
        bootstraps: false,
        leader_by_label: false,
        certificates: Certificates::none(),
    }
}

/// The objects of a cluster with certificates of the operator.
fn with_certificates(spec: &str) -> Resources {
    let pair = |what: &str| Pair { certificate: format!("{what} certificate"), key: format!("{what} key") };
    let issued = Some(Issued { authority: pair("CA"), node: pair("node") });
    let certificates = Certificates { issued, trusted: Some("CAs".to_owned()), ..Certificates::none() };
    build(&validated(spec), &Inputs { certificates, bootstraps: true, ..inputs() })
}

fn tokens(wanted: &str) -> Tokens {
    Tokens {
        wanted: wanted.as_bytes().to_vec(),
        accepted: vec![wanted.to_owned(), "before".to_owned()],
        dropped: vec!["long-ago".to_owned()],
        stage: Stage::Applied,
    }
}

fn json_of(object: &impl serde::Serialize) -> Value {
    serde_json::to_value(object).expect("an object is JSON")
}

/// The variables of a workload's container, by name.
fn env_of(workload: &impl serde::Serialize) -> BTreeMap<String, Value> {
    let pod = pod_of(workload);
    let env = pod["spec"]["containers"][0]["env"].as_array().expect("env").clone();
    env.into_iter().map(|one| (one["name"].as_str().expect("a name").to_owned(), one)).collect()
}

fn pod_of(workload: &impl serde::Serialize) -> Value {
    json_of(workload)["spec"]["template"].clone()
}

#[test]
fn everything_is_owned_by_the_cluster_and_has_its_labels() {
    let Resources {
        account,
        secret,
        accepted,
        authority,
        certificate,
        trusted,
        config,
        peers,
        write,
        read,
        followers,
        leader,
        budget,
        policy,
        backup,
        backup_policy,
        bootstrap,
        bootstrap_policy,
    } = with_certificates(&format!("{SPEC}{BACKUP_SPEC}bootstrap: {{fromBackup: {{source: 's3://store/of/old'}}}}\n"));
    let all = [
        json_of(&backup),
        json_of(&backup_policy),
        json_of(&bootstrap),
        json_of(&bootstrap_policy),
        json_of(&account),
        json_of(&secret),
        json_of(&accepted),
        json_of(&authority),
        json_of(&certificate),
        json_of(&trusted),
        json_of(&config),
        json_of(&peers),
        json_of(&write),
        json_of(&read),
        json_of(&followers),
        json_of(&leader),
        json_of(&budget),
        json_of(&policy),
    ];
    for object in all {
        let owner = &object["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], json!(UID), "{object}");
        assert_eq!(owner["controller"], json!(true));
        assert_eq!(object["metadata"]["namespace"], json!("shop"));
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/instance"], json!("demo"));
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], json!("kv-controller"));
    }
}

#[test]
fn what_changes_on_a_running_leader_is_in_the_config_map_and_never_in_a_pod() {
    let other = "{replicas: 6, writeQuorum: 2, delay: {minMs: 5, maxMs: 6}, replicationTimeoutMs: 77}";
    let (before, after) = (objects("{}"), objects(other));
    assert_eq!(pod_of(&before.leader), pod_of(&after.leader));
    assert_eq!(pod_of(&before.followers), pod_of(&after.followers));
    assert_eq!(
        json_of(&objects(SPEC).config)["data"],
        json!({"FOLLOWER_COUNT": "7", "WRITE_QUORUM": "4", "MIN_DELAY_MS": "11", "MAX_DELAY_MS": "222",
            "REPLICATION_TIMEOUT_MS": "3333", "CLUSTER_OPENED": "true", "TAKEOVER_AFTER_MS": "0"})
    );
}

/// A node refuses a law beside its bounds.
#[test]
fn a_law_of_the_delays_takes_the_place_of_its_bounds() {
    let data = json_of(&objects("delay: {exponential: {meanMs: 40}, capMs: 90}").config)["data"].clone();
    assert_eq!(data["DELAY"], json!(r#"{"exponential":{"meanMs":40.0},"capMs":90.0}"#));
    assert_eq!((data.get("MIN_DELAY_MS"), data.get("MAX_DELAY_MS")), (None, None));
}

#[test]
fn the_leader_is_soft_state_and_leaves_a_lost_node_soon() {
    let leader = objects(SPEC).leader;
    let pod = pod_of(&leader);
    let volumes = pod["spec"]["volumes"].as_array().expect("volumes");
    assert!(volumes.iter().all(|volume| volume["secret"].is_object()), "{volumes:?}");
    assert_eq!(json_of(&leader)["spec"]["strategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    let env = &pod["spec"]["containers"][0]["env"];
    let followers =
        env.as_array().and_then(|all| all.iter().find(|one| one["name"] == "FOLLOWERS")).expect("FOLLOWERS is set");
    assert_eq!(followers["value"], json!("dns://demo-followers.shop.svc.cluster.example.:8000"));
    assert!(env.as_array().is_some_and(|all| all.contains(&json!({"name": "KVCLUSTER", "value": "shop/demo"}))));
    assert_eq!(pod["spec"]["containers"][0]["envFrom"], json!([{"configMapRef": {"name": "demo-config"}}]));
    let tolerations = pod["spec"]["tolerations"].as_array().expect("tolerations");
    assert!(tolerations.iter().all(|one| one["tolerationSeconds"] == json!(5)), "{tolerations:?}");
    assert_eq!(pod["spec"]["nodeSelector"], json!({"disk": "none"}));
    assert_eq!(pod["spec"]["containers"][0]["resources"], json!({"limits": {"memory": "1Gi"}}));
}

#[test]
fn followers_on_disk_have_a_volume_each_that_outlives_the_stateful_set() {
    let set = json_of(&objects(SPEC).followers)["spec"].clone();
    assert_eq!(set["podManagementPolicy"], json!("Parallel"));
    assert_eq!(set["replicas"], json!(7));
    let claim = &set["volumeClaimTemplates"][0]["spec"];
    assert_eq!(claim["resources"]["requests"]["storage"], json!("9Gi"));
    assert_eq!(claim["storageClassName"], json!("fast"));
    assert_eq!(set["persistentVolumeClaimRetentionPolicy"], json!({"whenDeleted": "Retain", "whenScaled": "Retain"}));
    let container = &set["template"]["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    assert!(mounts.contains(&json!({"name": "data", "mountPath": "/data"})), "{mounts:?}");
    let env = container["env"].as_array().expect("env");
    assert!(env.contains(&json!({"name": "DATA_DIR", "value": "/data"})));
    assert!(env.contains(&json!({"name": "DURABILITY", "value": "disk"})));
    assert!(env.contains(&json!({"name": "CLUSTER_NAME", "value": "shop/demo"})));
    let spread = &set["template"]["spec"]["topologySpreadConstraints"][0];
    assert_eq!(spread["whenUnsatisfiable"], json!("DoNotSchedule"));
    assert_eq!(spread["topologyKey"], json!("topology.kubernetes.io/zone"));
}

#[test]
fn every_node_and_service_has_a_port_for_the_protocol_of_redis() {
    let objects = objects("{}");
    for template in [&json_of(&objects.leader)["spec"]["template"], &json_of(&objects.followers)["spec"]["template"]] {
        let container = &template["spec"]["containers"][0];
        assert_eq!(container["ports"][1], json!({"name": "redis", "containerPort": 6379, "protocol": "TCP"}));
        assert!(container["env"].as_array().expect("env").contains(&json!({"name": "RESP_PORT", "value": "6379"})));
    }
    for service in [&objects.write, &objects.read] {
        let port = &json_of(service)["spec"]["ports"][1];
        assert_eq!(*port, json!({"name": "redis", "port": 6379, "protocol": "TCP", "targetPort": "redis"}));
    }
}

#[test]
fn followers_in_memory_have_no_volume() {
    let set = json_of(&objects("{durability: Memory}").followers)["spec"].clone();
    assert_eq!(set["volumeClaimTemplates"], Value::Null);
    let container = &set["template"]["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    assert!(mounts.iter().all(|mount| mount["name"] != "data"), "{mounts:?}");
    assert!(container["env"].as_array().expect("env").contains(&json!({"name": "DURABILITY", "value": "memory"})));
}

#[test]
fn pods_keep_to_the_restricted_profile_and_have_no_token_of_kubernetes() {
    for pod in [pod_of(&objects(SPEC).leader), pod_of(&objects(SPEC).followers)] {
        let spec = &pod["spec"];
        assert_eq!(spec["automountServiceAccountToken"], json!(false));
        assert_eq!(spec["securityContext"]["runAsNonRoot"], json!(true));
        assert_eq!(spec["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
        let container = &spec["containers"][0];
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], json!(false));
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], json!(true));
        assert_eq!(container["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
            assert_eq!(container[probe]["httpGet"]["port"], json!("http"), "{probe}");
        }
    }
}

// Goal: no probe ends a recovery: of a follower that reads a large disk, or of a leader by restarting the one that it
// replaced, which would take the lead back.
#[test]
fn no_probe_ends_a_recovery() {
    for pod in [pod_of(&objects(SPEC).leader), pod_of(&objects(SPEC).followers)] {
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["livenessProbe"]["httpGet"]["path"], json!("/status"), "which a replaced leader answers");
        let startup = &container["startupProbe"];
        let patience = startup["periodSeconds"].as_i64().zip(startup["failureThreshold"].as_i64()).expect("numbers");
        assert!(patience.0 * patience.1 >= 3600, "{startup}");
    }
}

// Goal: a rotation restarts no pod, and nothing that others may read shows a token, nor what it could be guessed from.
#[test]
fn tokens_are_files_of_the_pods_and_no_part_of_their_template() {
    let build_with = |token: &str| build(&validated("{}"), &Inputs { tokens: tokens(token), ..inputs() });
    let (one, two) = (build_with("one-secret"), build_with("another"));
    for (one, two) in [(json_of(&one.leader), json_of(&two.leader)), (json_of(&one.followers), json_of(&two.followers))]
    {
        assert_eq!(one, two);
        let pod = &one["spec"]["template"]["spec"];
        let volume = json!({"name": "kv-auth", "secret": {"secretName": "demo-auth-accepted", "defaultMode": 0o440,
            "items": [{"key": "tokens", "path": "tokens"}]}});
        assert!(pod["volumes"].as_array().expect("volumes").contains(&volume), "{pod}");
        let container = &pod["containers"][0];
        let file = json!({"name": "AUTH_TOKEN_FILE", "value": "/etc/kvcluster/kv-auth/tokens"});
        assert!(container["env"].as_array().expect("env").contains(&file), "{container}");
        let mount = json!({"name": "kv-auth", "mountPath": "/etc/kvcluster/kv-auth", "readOnly": true});
        assert!(container["volumeMounts"].as_array().expect("mounts").contains(&mount), "{container}");
    }
    let data = |secret: &Secret, key: &str| String::from_utf8(secret.data.as_ref().expect("data")[key].0.clone());
    assert_eq!(data(&one.secret, "token").as_deref(), Ok("one-secret"));
    assert_eq!(data(&one.accepted, "tokens").as_deref(), Ok("one-secret\nbefore\n"));
    assert_eq!(data(&one.accepted, "dropped").as_deref(), Ok("long-ago\n"));
    assert_eq!(new_token().len(), 64);
    assert_ne!(new_token(), new_token());
}

#[test]
fn clients_need_a_token_at_every_node_where_the_spec_names_a_secret() {
    let with = objects("{auth: {secretName: shops, key: list}}");
    for workload in [json_of(&with.leader), json_of(&with.followers)] {
        let pod = &workload["spec"]["template"]["spec"];
        let volume = json!({"name": "kv-clients", "secret": {"secretName": "shops", "defaultMode": 0o440,
            "items": [{"key": "list", "path": "tokens"}]}});
        assert!(pod["volumes"].as_array().expect("volumes").contains(&volume), "{pod}");
        let container = &pod["containers"][0];
        let file = json!({"name": "CLIENT_TOKEN_FILE", "value": "/etc/kvcluster/kv-clients/tokens"});
        assert!(container["env"].as_array().expect("env").contains(&file), "{container}");
        let mount = json!({"name": "kv-clients", "mountPath": "/etc/kvcluster/kv-clients", "readOnly": true});
        assert!(container["volumeMounts"].as_array().expect("mounts").contains(&mount), "{container}");
    }
    let default = json_of(&objects("{auth: {secretName: shops}}").leader);
    assert_eq!(default["spec"]["template"]["spec"]["volumes"][1]["secret"]["items"][0]["key"], json!("tokens"));
    assert!(!env_of(&objects("{}").leader).contains_key("CLIENT_TOKEN_FILE"));
}

#[test]
fn peers_are_published_before_they_are_ready_and_clients_see_ready_pods_only() {
    let Resources { peers, write, read, .. } = objects(SPEC);
    assert_eq!(json_of(&peers)["spec"]["publishNotReadyAddresses"], json!(true));
    assert_eq!(json_of(&peers)["spec"]["clusterIP"], json!("None"));
    for (service, name, component) in [(write, "demo", "leader"), (read, "demo-read", "follower")] {
        let service = json_of(&service);
        assert_eq!(service["metadata"]["name"], json!(name));
        assert_eq!(service["spec"]["publishNotReadyAddresses"], Value::Null);
        assert_eq!(service["spec"]["selector"]["app.kubernetes.io/component"], json!(component));
    }
}

#[test]
fn the_budget_keeps_every_follower_pod_but_the_spare_ones_unless_it_is_switched_off() {
    let budget = |spec: &str, follower_pods, spare_followers| {
        json_of(&build(&validated(spec), &Inputs { follower_pods, spare_followers, ..inputs() }).budget)
    };
    for (pods, spare, kept) in [(7, 3, 4), (7, 0, 7), (5, 2, 3), (1, 0, 1)] {
        assert_eq!(budget("{}", pods, spare)["spec"]["minAvailable"], json!(kept), "{pods} pods, {spare} to spare");
    }
    assert_eq!(budget("{disruptionBudget: {enabled: false}}", 7, 3), Value::Null);
}

#[test]
fn pods_resolve_names_also_where_dns_listens_on_another_port() {
    let egress = json_of(&objects("{}").policy)["spec"]["egress"][1].clone();
    let ports: Vec<(i64, &str)> = egress["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .map(|port| (port["port"].as_i64().expect("a number"), port["protocol"].as_str().expect("a protocol")))
        .collect();
    assert_eq!(ports, [(53, "UDP"), (53, "TCP"), (5353, "UDP"), (5353, "TCP")]);
    assert_eq!(egress["to"], Value::Null);
}

#[test]
fn a_platform_may_assign_the_user_and_have_ipv6_alone() {
    let on = |fixed_user, ipv6| {
        let cluster = Validated { platform: Platform { fixed_user, ipv6 }, ..validated("{}") };
        build(&cluster, &inputs())
    };
    for (fixed_user, id) in [(true, json!(65532)), (false, Value::Null)] {
        for pod in [pod_of(&on(fixed_user, false).leader), pod_of(&on(fixed_user, false).followers)] {
            let context = &pod["spec"]["securityContext"];
            assert_eq!([&context["runAsUser"], &context["runAsGroup"], &context["fsGroup"]], [&id; 3]);
            assert_eq!(context["runAsNonRoot"], json!(true));
        }
    }
    let (four, six) = (on(true, false), on(true, true));
    assert!(!env_of(&four.leader).contains_key("BIND_ADDRESS"));
    for env in [env_of(&six.leader), env_of(&six.followers)] {
        assert_eq!(env["BIND_ADDRESS"]["value"], json!("::"));
    }
    assert_eq!(env_of(&six.leader)["ADVERTISE_URL"]["value"], json!("http://[$(POD_IP)]:8000"));
}

// Goal: a node without TLS is the same as before, and no key is where it need not be. Method: the objects of a cluster with
// certificates of the operator, with a Secret of somebody else, and without.
#[test]
fn with_tls_pods_have_the_certificate_and_the_ca_and_never_the_key_of_the_ca() {
    let (none, own) = (objects("{}"), with_certificates("{tls: {}}"));
    let given = objects("{tls: {secretName: shops-tls}}");
    assert!(none.authority.is_none() && none.certificate.is_none() && none.trusted.is_none());
    assert!(given.authority.is_none() && given.certificate.is_none());
    let data = |object: &Option<Secret>| object.as_ref().and_then(|secret| secret.data.clone()).expect("data");
    let text = |part: &k8s_openapi::ByteString| String::from_utf8(part.0.clone()).expect("text");
    let authority: Vec<_> = data(&own.authority).iter().map(|(key, part)| (key.clone(), text(part))).collect();
    let expected = [("tls.crt", "CA certificate"), ("tls.key", "CA key")];
    assert_eq!(authority, expected.map(|(key, part)| (key.to_owned(), part.to_owned())));
    let node: Vec<_> = data(&own.certificate).iter().map(|(key, part)| (key.clone(), text(part))).collect();
    let expected = [("ca.crt", "CAs"), ("tls.crt", "node certificate"), ("tls.key", "node key")];
    assert_eq!(node, expected.map(|(key, part)| (key.to_owned(), part.to_owned())));
    assert_eq!(json_of(&own.trusted)["data"], json!({"ca.crt": "CAs"}));

    let volume = |workload: &Value| {
        let volumes = workload["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes").clone();
        volumes.into_iter().find(|volume| volume["name"] == "kv-tls").map(|volume| volume["secret"].clone())
    };
    for (resources, secret) in [(&none, None), (&own, Some("demo-tls")), (&given, Some("shops-tls"))] {
        for workload in [json_of(&resources.leader), json_of(&resources.followers)] {
            let mounted = volume(&workload);
            assert_eq!(mounted.as_ref().map(|mounted| mounted["secretName"].clone()), secret.map(|name| json!(name)));
            assert!(!workload.to_string().contains("demo-ca"), "{workload}");
            // The chart's PodMonitor scrapes by it.
            let scheme = &workload["spec"]["template"]["metadata"]["annotations"]["kvcluster.io/scheme"];
            assert_eq!(scheme.as_str(), secret.map(|_| "https"));
            let pod: Pod = serde_json::from_value(workload["spec"]["template"].clone()).expect("a pod");
            assert_eq!(speaks_tls(&pod), secret.is_some());
            let env = env_of(&workload);
            let files = ["TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE"]
                .map(|name| env.get(name).map(|one| one["value"].clone()));
            let expected = ["tls.crt", "tls.key", "ca.crt"]
                .map(|file| secret.map(|_| json!(format!("/etc/kvcluster/kv-tls/{file}"))));
            assert_eq!(files, expected);
            let container = &workload["spec"]["template"]["spec"]["containers"][0];
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                let scheme = if secret.is_some() { "HTTPS" } else { "HTTP" };
                assert_eq!(container[probe]["httpGet"]["scheme"], json!(scheme), "{probe}");
            }
        }
    }
    let url = "https://demo.shop.svc:8000";
    assert_eq!(env_of(&own.leader)["ADVERTISE_URL"]["value"], json!(url), "no certificate names an address");
}

#[test]
fn without_named_clients_every_source_may_connect() {
    let ingress = json_of(&objects("{}").policy)["spec"]["ingress"][0].clone();
    assert_eq!(ingress["from"], Value::Null, "{ingress}");
    assert_eq!(ingress["ports"][0]["port"], json!(8000));
    assert_eq!(ingress["ports"][1]["port"], json!(6379));
}

// Goal: with separate ports every object names them, and the policy admits nobody to them but those who need it; without, no
// object knows of them. Method: the two ports as text, and the rules of the policy.
#[test]
fn separate_ports_are_those_of_leaders_and_of_administrators() {
    let plain = objects(&format!("{BACKUP_SPEC}networkPolicy: {{clients: [{{podSelector: {{}}}}]}}\n"));
    let of_all = |one: &Resources| {
        [json_of(&one.leader), json_of(&one.followers), json_of(&one.write), json_of(&one.policy), json_of(&one.backup)]
    };
    for object in of_all(&plain) {
        let text = object.to_string();
        assert!(!text.contains("8001") && !text.contains("8002") && !text.contains("admin"), "{text}");
    }
    let spec = format!("{BACKUP_SPEC}networkPolicy: {{clients: [{{podSelector: {{}}}}]}}\nseparatePorts: true\n");
    let apart = objects(&spec);
    let [leader, followers, write, policy, backup] = of_all(&apart);
    let setting = |workload: &Value, name: &str| env_of(workload).get(name).map(|one| one["value"].clone());
    for (workload, replication) in [(&leader, None), (&followers, Some(json!("8001")))] {
        assert_eq!(setting(workload, "REPLICATION_PORT"), replication);
        assert_eq!(setting(workload, "ADMIN_PORT"), Some(json!("8002")));
    }
    let found = setting(&leader, "FOLLOWERS").expect("FOLLOWERS");
    assert!(found.as_str().is_some_and(|url| url.ends_with(":8001")), "{found}");
    let named = |ports: &Value| -> Vec<(String, i64)> {
        let one = |port: &Value| {
            let number = port["containerPort"].as_i64().or(port["port"].as_i64());
            (port["name"].as_str().unwrap_or_default().to_owned(), number.expect("a number"))
        };
        ports.as_array().expect("ports").iter().map(one).collect()
    };
    let container = |workload: &Value| named(&workload["spec"]["template"]["spec"]["containers"][0]["ports"]);
    let expected = |names: &[(&str, i64)]| -> Vec<(String, i64)> {
        names.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
    };
    assert_eq!(container(&leader), expected(&[("http", 8000), ("redis", 6379), ("admin", 8002)]));
    assert_eq!(
        container(&followers),
        expected(&[("http", 8000), ("redis", 6379), ("replication", 8001), ("admin", 8002)])
    );
    assert_eq!(named(&write["spec"]["ports"]), container(&leader));
    assert!(backup.to_string().contains("http://demo.shop.svc:8002"), "{backup}");
    let spec = format!("{spec}bootstrap: {{fromBackup: {{source: 's3://store/of/old'}}}}\n");
    let starting = build(&validated(&spec), &Inputs { bootstraps: true, ..inputs() });
    let (bootstrap, of_starting) = (json_of(&starting.bootstrap), json_of(&starting.policy));
    assert!(bootstrap.to_string().contains("http://demo.shop.svc:8002"), "{bootstrap}");
    let restores = &of_starting["spec"]["ingress"][2]["from"][2]["podSelector"]["matchLabels"];
    assert_eq!(restores["app.kubernetes.io/component"], json!("bootstrap"));
    for (name, value) in restores.as_object().expect("labels") {
        assert_eq!(&bootstrap["spec"]["template"]["metadata"]["labels"][name], value, "{name}");
    }

    let ingress = policy["spec"]["ingress"].as_array().expect("ingress");
    let rules: Vec<(Vec<i64>, usize)> = ingress
        .iter()
        .map(|rule| {
            let ports = rule["ports"].as_array().expect("ports").iter().filter_map(|port| port["port"].as_i64());
            (ports.collect(), rule["from"].as_array().map_or(0, Vec::len))
        })
        .collect();
    assert_eq!(rules, [(vec![8000, 6379], 3), (vec![8001], 1), (vec![8002], 2)]);
    let component = |peer: &Value| peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"].clone();
    let of_cluster = |peer: &Value| peer["podSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "demo";
    let (leaders, backups) = (&ingress[1]["from"][0], &ingress[2]["from"][1]);
    assert_eq!((component(leaders), of_cluster(leaders)), (json!("leader"), true));
    assert_eq!((component(backups), of_cluster(backups)), (json!("backup"), true));
    assert_eq!(ingress[2]["from"][0]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], "operators");
    let egress: Vec<i64> = policy["spec"]["egress"][0]["ports"]
        .as_array()
        .expect("ports")
        .iter()
        .filter_map(|p| p["port"].as_i64())
        .collect();
    assert_eq!(egress, [8001, 8002]);
}

#[test]
fn the_network_policy_admits_the_operator_whatever_clients_are_named() {
    let policy = json_of(&objects("{networkPolicy: {clients: [{podSelector: {matchLabels: {app: web}}}]}}").policy);
    let from = policy["spec"]["ingress"][0]["from"].as_array().expect("from");
    assert_eq!(from.len(), 3, "the clients, the pods themselves, the operator: {from:?}");
    assert!(from.iter().any(|peer| {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] == "operators"
            && peer["podSelector"]["matchLabels"]["app.kubernetes.io/name"] == "kv-controller"
    }));
    assert!(objects("{networkPolicy: {enabled: false}}").policy.is_none());
}

// Goal: with standbys several pods wait for one another, and their number is no part of the pods. Without standbys nothing
// is there that a standby needs, so that an upgrade of the operator leaves the pods alone.
#[test]
fn standbys_are_pods_of_the_leader_that_redirect_to_one_another_on_other_machines() {
    let (none, one, two) = (objects("{}"), objects("{leader: {standbys: 1}}"), objects("{leader: {standbys: 2}}"));
    let replicas = |resources: &Resources| json_of(&resources.leader)["spec"]["replicas"].clone();
    assert_eq!([replicas(&none), replicas(&one), replicas(&two)], [json!(1), json!(2), json!(3)]);
    assert_eq!(pod_of(&one.leader), pod_of(&two.leader));

    // Without standbys too: followers name the leader by this URL, and its name is not in DNS.
    assert_eq!(env_of(&none.leader)["ADVERTISE_URL"], env_of(&one.leader)["ADVERTISE_URL"]);
    let env = env_of(&one.leader);
    assert_eq!(env["ADVERTISE_URL"]["value"], json!("http://$(POD_IP):8000"));
    assert_eq!(env["POD_IP"]["valueFrom"]["fieldRef"]["fieldPath"], json!("status.podIP"));
    let spread = pod_of(&one.leader)["spec"]["topologySpreadConstraints"][0].clone();
    assert_eq!(spread["topologyKey"], json!("kubernetes.io/hostname"));
    assert_eq!(spread["whenUnsatisfiable"], json!("ScheduleAnyway"));
    assert_eq!(spread["labelSelector"]["matchLabels"]["app.kubernetes.io/component"], json!("leader"));
    assert_eq!(spread["matchLabelKeys"], json!(["pod-template-hash"]));
    assert_eq!(env["TAKEOVER_AFTER_MS"]["value"], json!("500"));

    assert_eq!(json_of(&none.config)["data"], json_of(&one.config)["data"]);
    assert!(!env_of(&none.leader).contains_key("TAKEOVER_AFTER_MS"));
    assert_eq!(pod_of(&none.leader)["spec"]["topologySpreadConstraints"], Value::Null);
    let pod = |resources: &Resources| -> Pod { serde_json::from_value(pod_of(&resources.leader)).expect("a pod") };
    assert!(may_stand_by(&pod(&one)) && !may_stand_by(&pod(&none)));
}

#[test]
fn the_service_selects_the_pod_that_leads_by_label_where_it_is_asked_to() {
    let selector = |leader_by_label| {
        let inputs = Inputs { leader_by_label, ..inputs() };
        let spec = json_of(&build(&validated("{}"), &inputs).write)["spec"].clone();
        assert_eq!(spec["publishNotReadyAddresses"] == true, leader_by_label, "the label alone says who leads");
        spec["selector"].clone()
    };
    let plain = json!({"app.kubernetes.io/name": "kvcluster", "app.kubernetes.io/instance": "demo",
        "app.kubernetes.io/component": "leader"});
    assert_eq!(selector(false), plain);
    let mut labelled = plain;
    labelled["kvcluster.io/leads"] = json!("true");
    assert_eq!(selector(true), labelled);
}

// Goal: clients' Services are as the spec asks for, and the followers' own one is not touched.
#[test]
fn the_services_of_clients_have_the_type_and_annotations_of_the_spec() {
    let spec = "service: {type: LoadBalancer, annotations: {lb: internal}, trafficDistribution: PreferSameZone}";
    let Resources { peers, write, read, .. } = objects(spec);
    for (service, preferred) in [(&write, Value::Null), (&read, json!("PreferSameZone"))] {
        let service = json_of(service);
        assert_eq!(service["spec"]["type"], json!("LoadBalancer"));
        assert_eq!(service["metadata"]["annotations"], json!({"lb": "internal"}));
        assert_eq!(service["spec"]["trafficDistribution"], preferred, "the leader is one pod");
    }
    assert_eq!(json_of(&peers)["spec"]["type"], json!("ClusterIP"));
    assert_eq!(json_of(&peers)["metadata"]["annotations"], Value::Null);
    let write = json_of(&objects("{}").write);
    assert_eq!((&write["spec"]["type"], &write["metadata"]["annotations"]), (&json!("ClusterIP"), &Value::Null));
}

// Goal: a hibernated cluster keeps every volume and the number of its followers. Method: the policy that would delete them.
#[test]
fn a_hibernated_stateful_set_has_no_pods_and_keeps_volumes_that_a_scale_down_would_delete() {
    let set = |spec: &str, asleep: bool| json_of(&build(&validated(spec), &Inputs { asleep, ..inputs() }).followers);
    let deletes = "storage: {onScaleDown: Delete}";
    let asleep = set(&format!("{deletes}\nhibernated: true"), true);
    assert_eq!(asleep["spec"]["replicas"], json!(0));
    assert_eq!(asleep["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"], json!("Retain"));
    assert_eq!(asleep["metadata"]["annotations"]["kvcluster.io/awake-followers"], json!("7"));
    let awake = set(deletes, false);
    assert_eq!(awake["spec"]["replicas"], json!(7));
    assert_eq!(awake["spec"]["persistentVolumeClaimRetentionPolicy"]["whenScaled"], json!("Delete"));
    assert_eq!(awake["metadata"]["annotations"]["kvcluster.io/awake-followers"], Value::Null);
}

#[test]
fn a_backup_is_made_by_a_job_without_rights_that_has_the_tokens_of_administration_and_those_of_the_store() {
    let objects = objects(&format!("{SPEC}{BACKUP_SPEC}"));
    let job = json_of(&objects.backup);
    let spec = &job["spec"];
    assert_eq!((&spec["schedule"], &spec["timeZone"]), (&json!("30 2 * * *"), &json!("Europe/Berlin")));
    assert_eq!((&spec["concurrencyPolicy"], &spec["suspend"]), (&json!("Forbid"), &json!(false)));
    let pod = &spec["jobTemplate"]["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/component"], json!("backup"));
    assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/managed-by"], json!("kv-controller"), "the watch sees it");
    let (container, pod) = (&pod["spec"]["containers"][0], &pod["spec"]);
    assert_eq!(
        container["args"],
        json!([
            "backup",
            "--leader",
            "http://demo.shop.svc:8000",
            "--to",
            "s3://store/of/demo",
            "--keep",
            "9",
            "--keep-days",
            "31",
            "--report",
            "/dev/termination-log"
        ])
    );
    assert_eq!(container["command"], json!(["kvctl"]));
    assert_eq!(container["image"], json!("registry.example/kvcluster:7"));
    assert_eq!(container["envFrom"], json!([{"secretRef": {"name": "s3-keys"}}]));
    assert_eq!(container["env"], json!([{"name": "AUTH_TOKEN_FILE", "value": "/etc/kvcluster/kv-auth/tokens"}]));
    assert_eq!(container["terminationMessagePolicy"], json!("FallbackToLogsOnError"));
    assert_eq!(pod["volumes"].as_array().map(Vec::len), Some(1));
    assert_eq!(pod["volumes"][0]["secret"]["secretName"], json!("demo-auth-accepted"));
    assert_eq!((&pod["restartPolicy"], &pod["automountServiceAccountToken"]), (&json!("Never"), &json!(false)));
    assert_eq!(pod["imagePullSecrets"], json!([{"name": "registry"}]));
    // As the profile `restricted` requires.
    assert_eq!(
        (&pod["securityContext"]["runAsNonRoot"], &pod["securityContext"]["runAsUser"]),
        (&json!(true), &json!(65532))
    );
    assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}));
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true})
    );
}

#[test]
fn a_backup_of_a_cluster_with_tls_trusts_its_ca() {
    let objects = objects(&format!("{BACKUP_SPEC}tls: {{}}\n"));
    let pod = json_of(&objects.backup)["spec"]["jobTemplate"]["spec"]["template"]["spec"].clone();
    let container = &pod["containers"][0];
    assert_eq!(container["args"][2], json!("https://demo.shop.svc:8000"));
    assert_eq!(container["env"][1], json!({"name": "TLS_CA_FILE", "value": "/etc/kvcluster/kv-tls/ca.crt"}));
    assert_eq!(
        pod["volumes"][1]["secret"]["items"],
        json!([{"key": "ca.crt", "path": "ca.crt"}]),
        "and no private key"
    );
    assert_eq!(container["volumeMounts"].as_array().map(Vec::len), Some(2));
}

#[test]
fn a_backup_goes_onto_a_volume_and_rests_with_the_cluster() {
    let spec = "{backup: {schedule: '@daily', destination: 'pvc://archive/of/demo'}, hibernated: true}";
    let objects = objects(spec);
    let job = json_of(&objects.backup);
    assert_eq!(job["spec"]["suspend"], json!(true), "no leader runs");
    let pod = &job["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let args = pod["containers"][0]["args"].as_array().expect("arguments");
    assert_eq!(args[4..7], [json!("/backups/of/demo/"), json!("--keep"), json!("7")]);
    assert_eq!(pod["volumes"][1]["persistentVolumeClaim"]["claimName"], json!("archive"));
    assert_eq!(pod["containers"][0]["volumeMounts"][1], json!({"name": "backups", "mountPath": "/backups"}));
    assert_eq!(objects.backup_policy, None, "it needs no more than the leader");
}

#[test]
fn the_pods_of_backups_may_reach_the_store_and_no_other_pod_may() {
    let policy = json_of(&objects(BACKUP_SPEC).backup_policy)["spec"].clone();
    assert_eq!(policy["policyTypes"], json!(["Egress"]));
    assert_eq!(policy["egress"], json!([{}]));
    assert_eq!(policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"], json!("backup"));
    assert_eq!(policy["podSelector"]["matchLabels"]["app.kubernetes.io/instance"], json!("demo"));
    let open = format!("{BACKUP_SPEC}networkPolicy: {{enabled: false}}");
    assert_eq!(objects(&open).backup_policy, None);
    assert!(objects("{}").backup.is_none());
}

#[test]
fn a_cluster_that_starts_from_a_backup_restores_it_by_a_job_and_its_nodes_wait_for_that() {
    let spec = "{bootstrap: {fromBackup: {source: 's3://store/of/old', secretName: s3-keys, backup: shop.old-1, cluster: shop/old}}}";
    let with = |spec: &str, bootstraps: bool| build(&validated(spec), &Inputs { bootstraps, ..inputs() });
    let resources = with(spec, true);
    let job = json_of(&resources.bootstrap);
    assert_eq!(job["metadata"]["name"], json!("demo-bootstrap"));
    let pod = &job["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/component"], json!("bootstrap"));
    assert_eq!(pod["spec"]["restartPolicy"], json!("OnFailure"), "it tries again");
    let container = &pod["spec"]["containers"][0];
    let expected = [
        "restore",
        "--leader",
        "http://demo.shop.svc:8000",
        "--from",
        "s3://store/of/old",
        "--backup",
        "shop.old-1",
        "--cluster",
        "shop/old",
        "--report",
        "/dev/termination-log",
    ];
    assert_eq!(container["args"], json!(expected));
    assert_eq!(container["envFrom"], json!([{"secretRef": {"name": "s3-keys"}}]));
    let policy = json_of(&resources.bootstrap_policy);
    assert_eq!(policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"], json!("bootstrap"));

    let waits = |object: Value| {
        let env = object["spec"]["template"]["spec"]["containers"][0]["env"].as_array().cloned().expect("variables");
        env.iter().any(|one| *one == json!({"name": "AWAIT_RESTORE", "value": "true"}))
    };
    let after = with(spec, false);
    assert!(after.bootstrap.is_none() && after.bootstrap_policy.is_none());
    assert_eq!(json_of(&after.leader), json_of(&resources.leader), "no pod restarts at its end");
    assert_eq!(json_of(&after.followers), json_of(&resources.followers));
    assert!(waits(json_of(&after.leader)) && waits(json_of(&after.followers)));
    let without = with("{}", true);
    assert!(without.bootstrap.is_none() && !waits(json_of(&without.leader)) && !waits(json_of(&without.followers)));

    let volume = with("{bootstrap: {fromBackup: {source: 'pvc://archive/of/old'}}}", true);
    let job = json_of(&volume.bootstrap);
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["args"][4], json!("/backups/of/old/"));
    let mount = json!({"name": "backups", "mountPath": "/backups", "readOnly": true});
    assert_eq!(container["volumeMounts"][1], mount);
    assert_eq!(volume.bootstrap_policy, None, "it needs no more than the leader");
}
