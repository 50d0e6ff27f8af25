//! What a cluster has to offer to be broken: a place for each way of running one.

use std::{future::Future, sync::Arc};

use anyhow::Result;
use tokio::sync::watch;

use super::{faults::Fault, history::FinalDump};

/// A node as clients reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, for people.
    pub name: Arc<str>,
    /// `http://host:port`.
    pub url: String,
    /// Which life of its process it is, counted from 1; nothing while it is being ended or started.
    pub incarnation: Option<u32>,
}

/// Whom clients may ask just now, whether or not they answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// One, or more while leaders replace each other.
    pub leaders: Vec<Endpoint>,
    /// All followers.
    pub followers: Vec<Endpoint>,
}

/// A cluster that can be broken and mended.
pub trait Breakable: Send {
    /// What it is, for the reports.
    fn description(&self) -> String;

    /// Where its nodes are; it changes.
    fn endpoints(&self) -> watch::Receiver<Endpoints>;

    /// Does it.
    ///
    /// # Errors
    /// When it cannot be done; the check ends there.
    fn strike(&mut self, fault: Fault) -> impl Future<Output = Result<()>> + Send;

    /// Undoes it: what was killed starts, what stood still goes on.
    ///
    /// # Errors
    /// When it cannot be undone.
    fn mend(&mut self, fault: Fault) -> impl Future<Output = Result<()>> + Send;

    /// Waits, once everything is mended, until one leader is open under the quorum that was asked for, every follower
    /// takes part, and each has everything that was accepted before.
    ///
    /// # Errors
    /// When it takes too long or a node ended by itself.
    fn heal(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// What every node holds, the leader's first.
    ///
    /// # Errors
    /// When one does not answer.
    fn dumps(&mut self) -> impl Future<Output = Result<Vec<FinalDump>>> + Send;
}
