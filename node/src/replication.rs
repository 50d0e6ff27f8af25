//! Carries a leader's decisions to its followers, and a follower's decisions to its store.

mod alarm;
mod contact;
pub mod coordinator;
pub(crate) mod dialer;
pub(crate) mod discovery;
mod gather;
pub(crate) mod link;
pub(crate) mod outbox;
pub mod replica;
pub mod session;
pub mod timer;
pub mod wire;
