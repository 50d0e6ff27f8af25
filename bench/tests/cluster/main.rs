//! Tests of whole clusters: real nodes, and the programs as people use them.
//!
//! What measures, or needs the machine for itself, is a program of its own: `dumps`, `load`, `staleness` and `sweep`.

mod answers;
mod backup;
mod bad_requests;
mod batch;
mod browser;
#[allow(dead_code, reason = "tests of the node use the rest")]
#[path = "../../../node/tests/tls/certificates.rs"]
mod certificates;
mod check;
mod chromium;
mod compare;
mod conditions;
mod connections;
mod contract;
mod foreign_page;
mod half_states;
mod http2;
mod keys;
mod lessons;
mod local_cluster;
mod operations;
mod page;
mod play;
mod ports;
mod redis;
mod redis_client;
mod replicas;
mod replication;
mod restore;
mod standby;
mod start_from_backup;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod tokens;
mod top;
mod values;
mod versions;
mod watch;
