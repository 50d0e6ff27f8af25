//! The replication protocol as pure state machines: messages in, decisions out.
//!
//! These modules use no clock, no socket and no disk; the caller passes randomness in as a seed.
//! The same code serves real traffic and the tests, which drop, delay, duplicate and reorder every
//! message.
//!
//! The rules, and the modules that implement them:
//!
//! | rule | where |
//! | --- | --- |
//! | a follower accepts only messages of the epoch that it promised | [`follower`] |
//! | a candidate asks for promises only when no leader can commit | [`leader`], `candidate` |
//! | a leader starts from N − W + 1 promises and merges the records of those followers | [`leader`], `recovery` |
//! | a leader acknowledges a write after W confirmations and waits for no more | [`leader`], `window` |
//! | a new quorum or member counts only once every recovery finds it | [`leader`], `membership` |
//! | a leader sends a follower only the records that differ | [`leader`], `install`; [`digest`] |
//! | a standby uses its copy of a state only where a follower that promised has the same | [`leader`], `warm` |
//! | a leader answers a read once W followers confirmed that they promised no higher epoch | [`leader`], `reads` |
//! | a leader refuses a write because of a record only once that is committed and it still leads | [`leader`], `conditions` |

pub mod changes;
pub mod digest;
pub mod etag;
pub mod follower;
pub mod keymap;
pub mod leader;
pub mod messages;
pub mod types;
pub mod value;
pub mod watch;
