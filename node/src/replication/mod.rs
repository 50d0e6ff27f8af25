//! How what was decided reaches the followers, and how it is taken there.

mod alarm;
mod contact;
pub mod coordinator;
pub(crate) mod dialer;
pub(crate) mod discovery;
pub(crate) mod link;
pub(crate) mod outbox;
pub mod replica;
pub mod session;
pub mod timer;
pub mod wire;
