//! Goal: what reconciling does when the API server or the leader does not do as it should.
//! Method: a scripted API server and a scripted leader; what they were asked is compared.

mod apply;
mod configure;
mod growth;
mod label;
mod lead;
mod many;
mod pause;
mod report;
mod rollout;
mod support;
mod tls;
mod tokens;
mod waits;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::{get, patch};
use axum::{Json, Router};
use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::client::Body;
use kube::runtime::{reflector, watcher};
use kvcluster_api::resource::KvClusterStatus;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower_test::mock;

use self::support::*;
use super::*;
use crate::build::{Component, labels};
use crate::context::{Indexed, Stores};
use crate::fixtures::{UID, cluster, defaults, validated};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::reconcile::applier::Applier;
use crate::reconcile::events::Recorder;
use crate::reconcile::lead::LeadLabels;
use crate::reconcile::leader_client::{LeaderClients, LeaderSeen};
use crate::reconcile::roll::Rollouts;
use crate::reconcile::tokens::{Stage, Tokens};
use crate::rights;

/// Tests whose requests together need every right of the operator.
pub(crate) fn scenarios() {
    apply::a_new_cluster_gets_every_object_by_server_side_apply();
    apply::a_policy_that_is_switched_off_is_deleted_unless_it_has_another_owner();
    apply::a_budget_that_is_switched_off_is_deleted();
    apply::a_schedule_of_backups_comes_and_goes_with_the_spec();
    apply::the_job_of_a_bootstrap_comes_when_the_leader_waits_and_goes_when_the_restore_is_recorded();
    apply::the_claims_of_the_followers_are_owned_by_the_cluster_where_they_go_with_it();
    growth::volumes_grow_and_the_stateful_set_is_replaced_without_its_pods();
    report::a_malformed_resource_does_not_stay_ready();
    apply::a_refused_object_is_reported_with_the_words_of_the_api_server();
    label::the_label_is_on_the_open_leader_with_the_highest_epoch();
    rollout::a_new_template_evicts_one_follower_and_pauses_the_leader();
    rollout::what_the_budget_refuses_is_reported_and_where_it_allows_nothing_the_pod_is_deleted();
}
