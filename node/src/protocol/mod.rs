//! The replication protocol as pure state machines: messages in, decisions out.
//!
//! No clock, no socket and no disk is touched here, and randomness is passed in as a seed. The same code serves real
//! traffic and tests that drop, delay, duplicate and reorder every message.
//!
//! The rules, and where they stand:
//!
//! | rule | where |
//! | --- | --- |
//! | a follower takes nothing but under the epoch it promised | [`follower`] |
//! | a leader starts from N − W + 1 promises and merges what they hold | [`leader`], `recovery` |
//! | W confirmations acknowledge a write; nobody waits for more | [`leader`], `window` |
//! | a new quorum or member counts only when every recovery will know of it | [`leader`], `membership` |
//! | a follower is sent what differs from what it has, and nothing else | [`leader`], `install`; [`digest`] |
//! | a read is answered once W followers confirmed that they promised nobody else | [`leader`], `reads` |

pub mod digest;
pub mod follower;
pub mod keymap;
pub mod leader;
pub mod types;
