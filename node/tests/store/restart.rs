//! What a restart brings back, and what is refused.

use std::fs;

use kv_node::protocol::digest::Buckets;
use kv_node::protocol::follower::Change;
use kv_node::protocol::types::{Record, Version};
use kv_node::store::StoreError;
use kv_node::store::disk::{self, Found};

use crate::image::{Subject, Writer, copy, epoch, facts, files, rebuild, scratch, synced};

#[test]
fn a_restart_restores_everything() {
    let directory = scratch();
    let path = directory.path().join("data");
    let mut writer = Writer::new(1);
    let mut expected = None;
    for term in 1..=4 {
        let mut subject = Subject::open(&path);
        if let Some(expected) = &expected {
            assert_eq!(&facts(&subject.follower), expected, "after restart {term}");
        }
        subject.commit(vec![Change::Promised(epoch(term))]);
        subject.commit(writer.batch(term, 500, 400));
        subject.commit(vec![Change::Synced { synced: synced(term), drop_older: (term % 2 == 0).then(Buckets::all) }]);
        for _ in 0..50 {
            subject.commit(writer.batch(term, 500, 20));
        }
        expected = Some(facts(&subject.follower));
    }
    let subject = Subject::open(&path);
    assert_eq!(Some(facts(&subject.follower)), expected);
    assert!(subject.follower.records().len() > 100);
}

/// A killed process closes nothing: what it leaves is what was there while it ran.
#[test]
fn a_killed_process_loses_nothing_that_was_stored() {
    let directory = scratch();
    let mut writer = Writer::new(2);
    let mut subject = Subject::open(&directory.path().join("data"));
    for killed in 0..20 {
        subject.commit(writer.batch(1, 50, 1 + killed));
        let left = directory.path().join(format!("left-{killed}"));
        copy(&directory.path().join("data"), &left);
        assert_eq!(facts(&Subject::open(&left).follower), facts(&subject.follower), "killed after batch {killed}");
    }
}

/// Several changes of one key in a batch: the last one stays.
#[test]
fn a_batch_keeps_its_order() {
    let directory = scratch();
    let mut writer = Writer::new(3);
    let mut subject = Subject::open(directory.path());
    subject.commit(writer.batch(1, 3, 100));
    let mut batch = vec![Change::Promised(epoch(2))];
    batch.extend(writer.batch(2, 2, 10));
    batch.push(Change::Synced { synced: synced(2), drop_older: Some(Buckets::all()) });
    batch.extend(writer.batch(2, 5, 10));
    subject.commit(batch);
    let expected = facts(&subject.follower);
    drop(subject);
    assert_eq!(facts(&Subject::open(directory.path()).follower), expected);
}

/// What is overwritten goes away again, also while the process never stops: here thirty times as much as is there. Half
/// of the keys are written once, so that what still counts lies between what does not.
#[test]
fn disk_use_stays_bounded_under_endless_overwrites() {
    let directory = scratch();
    let mut subject = Subject::open(directory.path());
    let record = |key: u64, seq: u64| {
        let value = Some(format!("{seq} {}", "v".repeat(100_000)).into());
        Change::Put(
            format!("key-{key}").into(),
            Record { version: Version { epoch: epoch(1), seq }, value, marks: None },
        )
    };
    subject.commit((0..100).map(|key| record(key, 1)).collect());
    let live = 10_000_000;
    let mut largest = 0;
    for seq in 0..600 {
        subject.commit((0..5).map(|turn| record((seq * 5 + turn) % 50, 2 + seq)).collect());
        largest =
            largest.max(files(directory.path()).iter().map(|file| file.metadata().map_or(0, |file| file.len())).sum());
    }
    assert!(largest > 2 * live, "{largest} bytes: the test writes too little");
    assert!(largest < 5 * live / 2 + (56 << 20), "{largest} bytes for {live}");
    let expected = facts(&subject.follower);
    drop(subject);
    assert_eq!(facts(&Subject::open(directory.path()).follower), expected);
}

#[test]
fn a_directory_in_use_is_refused() {
    let directory = scratch();
    let subject = Subject::open(directory.path());
    let error = disk::open(directory.path(), None).expect_err("in use");
    assert!(matches!(error, StoreError::InUse(_)));
    assert_eq!(
        error.to_string(),
        format!("the data directory {} is in use by another process", directory.path().display())
    );
    drop(subject);
    disk::open(directory.path(), None).expect("free again");
}

#[test]
fn a_directory_of_something_else_is_refused() {
    let directory = scratch();
    fs::write(directory.path().join("thesis.tex"), "do not delete").expect("written");
    let error = disk::open(directory.path(), None).expect_err("not of a follower");
    assert!(error.to_string().contains("thesis.tex"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1, "nothing was touched");
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let directory = scratch();
    drop(disk::open(directory.path(), Some("red")).expect("new"));
    let error = disk::open(directory.path(), Some("blue")).expect_err("of another cluster");
    assert!(
        error.to_string().ends_with("belongs to the cluster \"red\", but this follower belongs to \"blue\""),
        "{error}"
    );
    drop(disk::open(directory.path(), Some("red")).expect("of this cluster"));
    disk::open(directory.path(), None).expect("nothing is compared where no name is set");
}

/// The process ended while it made the directory: nothing was confirmed yet, so that it is simply made again.
#[test]
fn an_unfinished_directory_is_made_again() {
    let directory = scratch();
    drop(Subject::open(&directory.path().join("whole")));
    let data = directory.path().join("data");
    copy(&directory.path().join("whole/state"), &data.join("state.new"));
    fs::remove_file(data.join("state.new/confirmed")).expect("removed");
    let opened = disk::open(&data, None).expect("opens");
    assert_eq!(opened.found, Found::Nothing);
    assert!(rebuild(opened.id, opened.kept).records().is_empty());
}
