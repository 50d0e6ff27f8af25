//! A cluster that runs somewhere: its URLs are given.

use super::Target;

/// The cluster of the leader at `leader_url`; without followers their answers are not compared.
pub fn remote(leader_url: String, follower_urls: Vec<String>, token: Option<String>) -> Target {
    let description = format!("cluster at {leader_url}");
    Target::standing(&description, leader_url, follower_urls, token)
}
