//! `kv-bench top`: follows a cluster in the terminal, as the leader's page does in a browser.
//!
//! [`feed`] reads the leader's events and finds the next leader, [`model`] keeps what they say, and [`view`] draws it.

pub mod feed;
pub mod model;
#[cfg(test)]
mod testing;
pub mod view;
