//! The operator of kvcluster: from a `KvCluster` resource to a leader, its followers and their Services.
//!
//! The way of a change, from the resource to its status:
//!
//! - [`crd`]: the resource, its rules, and the manual that `kubectl explain` shows.
//! - [`controller`]: the watches that notice a change; [`election`]: which replica of the operator acts on it.
//! - [`reconcile`]: the pipeline: validate, build, apply, configure the leader, report.
//! - [`build`]: the Kubernetes objects, one file each.
//! - [`health`] and [`metrics`]: what the operator tells about itself.
//! - [`manifests`]: what installs it, for `kubectl apply` and for the chart, from one source.

pub mod build;
pub mod check;
pub mod context;
pub mod controller;
pub mod crd;
pub mod election;
#[cfg(test)]
pub(crate) mod fixtures;
mod hash;
pub mod health;
pub mod manifests;
pub mod metrics;
pub mod pods;
pub mod reconcile;
pub mod settings;
