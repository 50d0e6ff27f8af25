//! The operator of kvcluster: from a `KvCluster` resource to a leader, its followers and their Services.
//!
//! A change goes from the resource to its status through these modules:
//!
//! - [`crd`]: the CustomResourceDefinition. The resource itself is in [`kvcluster_api::resource`].
//! - [`controller`]: the watches that notice a change. [`election`]: which replica of the operator acts on it.
//! - [`reconcile`]: the pipeline: validate, observe, scale, build, apply, configure, report.
//! - [`build`]: the Kubernetes objects, one file each.
//! - [`health`] and [`metrics`]: what the operator reports about itself.
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
#[cfg(test)]
mod rights;
pub mod settings;
