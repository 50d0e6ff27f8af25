//! The three Services: for the leader to find its followers, for clients that write, for clients that read.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kvcluster_api::resource::ServiceSettings;

use crate::build::{Component, LEADS, metadata, names, ports, selector_labels};
use crate::reconcile::validate::Validated;

/// The addresses of all followers, ready or not: a follower becomes ready only after the leader has found it and sent it
/// the data.
pub(super) fn peers(cluster: &Validated) -> Service {
    let mut service = service(cluster, names::peers(&cluster.name), Component::Follower);
    if let Some(spec) = service.spec.as_mut() {
        spec.cluster_ip = Some("None".to_owned());
        spec.publish_not_ready_addresses = Some(true);
    }
    service
}

/// The leader, once it is open. A standby is ready too, so beside one the leader is selected `by_label`. The operator
/// labels a pod that is open, so the Service does not wait until Kubernetes finds it ready.
pub(super) fn write(cluster: &Validated, by_label: bool) -> Service {
    let mut service = for_clients(cluster, names::write(&cluster.name), Component::Leader);
    if let Some(spec) = service.spec.as_mut()
        && by_label
    {
        spec.selector.get_or_insert_default().insert(LEADS.to_owned(), "true".to_owned());
        spec.publish_not_ready_addresses = Some(true);
    }
    service
}

/// The followers that are up to date.
pub(super) fn read(cluster: &Validated) -> Service {
    let mut service = for_clients(cluster, names::read(&cluster.name), Component::Follower);
    if let Some(spec) = service.spec.as_mut() {
        spec.traffic_distribution = cluster.service.traffic_distribution.map(|preferred| format!("{preferred:?}"));
    }
    service
}

fn for_clients(cluster: &Validated, name: String, component: Component) -> Service {
    let mut service = service(cluster, name, component);
    let ServiceSettings { type_, annotations, traffic_distribution: _ } = &cluster.service;
    if !annotations.is_empty() {
        service.metadata.annotations = Some(annotations.clone());
    }
    if let Some(spec) = service.spec.as_mut() {
        spec.type_ = Some(format!("{type_:?}"));
    }
    service
}

fn service(cluster: &Validated, name: String, component: Component) -> Service {
    let selector: BTreeMap<String, String> = selector_labels(&cluster.name, Some(component));
    Service {
        metadata: metadata(cluster, name, Some(component)),
        spec: Some(ServiceSpec {
            selector: Some(selector),
            ports: Some(ports(cluster, component).into_iter().map(|(name, number)| port(name, number)).collect()),
            type_: Some("ClusterIP".to_owned()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// A port of the container with the same name.
fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}
