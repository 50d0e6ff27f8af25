//! End-to-end tests against the cluster that KUBECONFIG points at, in which the operator is installed and the nodes have
//! the image: see docs/kubernetes.md.
//!
//! Every test makes a namespace of its own and removes it at the end; after a failure it stays, to be looked at. Tests
//! wait for conditions, and report the times they measured without judging them.

#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "tests")]

mod api_server;
mod backup;
mod bootstrap;
mod check;
mod failure;
mod gitops;
mod harness;
mod hibernation;
mod idle;
mod job;
mod lifecycle;
mod many;
mod plugin;
mod pod_template;
mod ports;
mod quorum;
mod refused;
mod repair;
mod scale;
mod standby;
mod sweep;
mod tls;
mod tokens;
mod upgrade;
mod volumes;
mod writer;
