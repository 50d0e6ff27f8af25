//! Goal: each type reads what real nodes answer, and writes the same again.
//! Method: the recorded answers, which a test of kv-bench compares with real nodes.

use std::path::Path;

use kvcluster_api::config::ConfigView;
use kvcluster_api::status::{FollowerStatus, LeaderStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn same_again<T: Serialize + DeserializeOwned>(names: &[&str]) {
    for name in names {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/answers").join(name);
        let recorded = std::fs::read_to_string(path).expect(name);
        let read: T = serde_json::from_str(&recorded).expect(name);
        assert_eq!(serde_json::to_string_pretty(&read).expect("JSON") + "\n", recorded, "{name}");
    }
}

#[test]
fn recorded_answers_are_read_and_written_the_same() {
    same_again::<LeaderStatus>(&["leader-open.json", "leader-recovering.json"]);
    same_again::<FollowerStatus>(&["follower-blank.json", "follower-synced.json"]);
    same_again::<ConfigView>(&["config.json", "config-pending.json"]);
}
