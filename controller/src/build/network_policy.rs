//! Who may connect to the pods, and what the pods may connect to: each other and DNS.
//!
//! A policy tells ports apart, and no paths. So clients are kept from replication and administration where these have ports of
//! their own.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::build::{
    ADMIN_PORT, BACKUP, BOOTSTRAP, COMPONENT, Component, MANAGER, PORT, REPLICATION_PORT, RESP_PORT, admin_port,
    metadata, replication_port, selector, selector_labels,
};
use crate::reconcile::validate::Validated;

pub(super) fn network_policy(cluster: &Validated) -> Option<NetworkPolicy> {
    if !cluster.network.enabled {
        return None;
    }
    let own_pods = NetworkPolicyPeer { pod_selector: Some(selector(cluster, None)), ..NetworkPolicyPeer::default() };
    // Without `from` every source may connect. A selector of all namespaces would leave out clients from outside.
    let clients = &cluster.network.clients;
    let admitted =
        (!clients.is_empty()).then(|| clients.iter().cloned().chain([own_pods.clone(), operator(cluster)]).collect());
    Some(NetworkPolicy {
        metadata: metadata(cluster, cluster.name.clone(), None),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(cluster, None)),
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(
                std::iter::once(NetworkPolicyIngressRule {
                    from: admitted,
                    ports: Some(vec![port("TCP", PORT), port("TCP", RESP_PORT)]),
                })
                .chain(separate(cluster))
                .collect(),
            ),
            egress: Some(vec![
                NetworkPolicyEgressRule { to: Some(vec![own_pods]), ports: Some(own_ports(cluster)) },
                // To any address: DNS may be a pod, a cache on the machine, or an external server.
                NetworkPolicyEgressRule { to: None, ports: Some(dns_ports().collect()) },
            ]),
        }),
    })
}

/// Who may connect to the ports for replication and for administration.
fn separate(cluster: &Validated) -> Vec<NetworkPolicyIngressRule> {
    if !cluster.separate_ports {
        return Vec::new();
    }
    let own = |component: &str| {
        let mut labels = selector_labels(&cluster.name, None);
        labels.insert(COMPONENT.to_owned(), component.to_owned());
        let selector = LabelSelector { match_labels: Some(labels), match_expressions: None };
        NetworkPolicyPeer { pod_selector: Some(selector), ..NetworkPolicyPeer::default() }
    };
    let rule = |from: Vec<NetworkPolicyPeer>, number| NetworkPolicyIngressRule {
        from: Some(from),
        ports: Some(vec![port("TCP", number)]),
    };
    let bootstrap = cluster.bootstrap.as_ref().map(|_| own(BOOTSTRAP));
    let administrators = [operator(cluster), own(BACKUP)].into_iter().chain(bootstrap);
    vec![rule(vec![own(Component::Leader.as_str())], REPLICATION_PORT), rule(administrators.collect(), ADMIN_PORT)]
}

/// Where the cluster's pods connect to each other: a leader to its followers, a backup or a restore to the leader.
fn own_ports(cluster: &Validated) -> Vec<NetworkPolicyPort> {
    let mut numbers = vec![replication_port(cluster), admin_port(cluster)];
    numbers.dedup();
    numbers.into_iter().map(|number| port("TCP", number)).collect()
}

/// The operator, which asks leaders for their status and sends them their configuration.
fn operator(cluster: &Validated) -> NetworkPolicyPeer {
    let labelled = |key: &str, value: &str| {
        Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
            match_expressions: None,
        })
    };
    NetworkPolicyPeer {
        namespace_selector: labelled("kubernetes.io/metadata.name", &cluster.operator_namespace),
        pod_selector: labelled("app.kubernetes.io/name", MANAGER),
        ip_block: None,
    }
}

/// A policy counts the port of the pod behind the Service of DNS, which is 5353 on OpenShift.
fn dns_ports() -> impl Iterator<Item = NetworkPolicyPort> {
    [53, 5353].into_iter().flat_map(|number| ["UDP", "TCP"].map(|protocol| port(protocol, number)))
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort { protocol: Some(protocol.to_owned()), port: Some(IntOrString::Int(number)), end_port: None }
}
