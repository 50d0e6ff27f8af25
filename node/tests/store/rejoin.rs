//! Goal: one flipped bit does not cost a whole state transfer, and nothing that was acknowledged.
//!
//! Method: what a follower of a cluster has is stored on a real disk, a bit is flipped while it is away, and it joins again
//! under the id that the store gives it. The records that go over the wire are counted.

use std::fs;

use kv_node::protocol::follower::{Change, Follower};
use kv_node::protocol::leader::NewWrite;
use kv_node::store::disk::{self, Found};

use crate::direct::{Core, Followers, Traffic, connect, deliver, followers, leader};
use crate::image::{Subject, newest, scratch};

const KEYS: usize = 10_000;

fn put(leader: &mut Core, followers: &mut Followers, number: usize, value: &str) {
    let key = format!("key-{number}").into();
    let new = NewWrite { key, value: Some(value.into()), retry_token: None, explain: false, now_us: 0 };
    leader.put(new, 0).expect("an open leader takes writes");
    deliver(leader, followers);
}

#[test]
fn a_follower_with_one_flipped_bit_is_sent_what_differs() {
    let (mut first, mut followers) = (leader(1), followers());
    (0..5).for_each(|place| connect(&mut first, &mut followers, place));
    assert!(first.is_open());
    (0..KEYS).for_each(|number| put(&mut first, &mut followers, number, "first"));
    let mut leader = leader(2);
    (0..5).for_each(|place| connect(&mut leader, &mut followers, place));
    assert!(leader.is_open());

    // Its disk, written in batches as they came.
    let directory = scratch();
    let old = &followers.places[4];
    let mut subject = Subject::open(directory.path());
    subject.commit(vec![Change::Promised(old.promised())]);
    let synced = old.synced().expect("installed").clone();
    subject.commit(vec![Change::Synced { synced, drop_older: None }]);
    let records: Vec<_> = old.records().iter().map(|(key, record)| Change::Put(key.clone(), record.clone())).collect();
    records.chunks(10).for_each(|batch| subject.commit(batch.to_vec()));
    let (old_id, name, promised) = (subject.follower.id(), old.hello().name, old.promised());
    drop(subject);
    let segment = newest(directory.path());
    let mut bytes = fs::read(&segment).expect("read");
    let written = bytes.iter().rposition(|byte| *byte != 0).expect("written");
    bytes[written / 2] ^= 4;
    fs::write(&segment, bytes).expect("written");

    let opened = disk::open(directory.path(), None).expect("opens");
    let Found::Damage { hints, .. } = opened.found else { panic!("{:?}", opened.found) };
    assert!((KEYS - 10..KEYS).contains(&hints), "{hints} records can be read");
    assert_ne!(opened.id, old_id);
    let follower = Follower::with(opened.id, name, opened.kept);
    assert_eq!((follower.synced(), follower.promised()), (None, promised), "it does not vote, and keeps its promise");

    let slot = leader.declare(&follower.hello().name).expect("a slot");
    leader.closed(slot, 5);
    deliver(&mut leader, &mut followers);
    put(&mut leader, &mut followers, 7, "second");
    followers.places[4] = follower;
    followers.traffic = Traffic::default();
    connect(&mut leader, &mut followers, 4);
    let installed = followers.traffic.installed;
    assert!((1..KEYS / 10).contains(&installed), "{installed} records of {KEYS}");
    let follower = &followers.places[4];
    assert_eq!(follower.synced().map(|synced| synced.epoch), Some(leader.epoch()));
    for number in 0..KEYS {
        let key = format!("key-{number}");
        let expected = leader.latest(&key).map(|(record, _)| (record.version.seq, record.value.clone()));
        assert_eq!(follower.get(&key).map(|record| (record.version.seq, record.value.clone())), expected, "{key}");
    }
}
