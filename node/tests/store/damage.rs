//! Torn tails and flipped bits: never a wrong value, never silently less.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use kv_node::protocol::digest::Buckets;
use kv_node::protocol::follower::Change;
use kv_node::store::disk::{self, Found, Opened};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::image::{Subject, Writer, copy, epoch, facts, files, newest, rebuild, scratch, synced, written};

/// What opening a harmed directory may lead to: all of it, or blank under another id with the reason said.
fn open_harmed(data: &Path, whole: &Opened, what: &str) -> Option<Found> {
    let opened = disk::open(data, None).unwrap_or_else(|error| panic!("{what}: refused: {error}"));
    let expected = facts(&rebuild(whole.id, whole.kept.clone()));
    match &opened.found {
        Found::Nothing => panic!("{what}: taken for new"),
        Found::State { .. } => {
            assert_eq!(facts(&rebuild(opened.id, opened.kept)), expected, "{what}: something else came back");
            None
        }
        Found::Damage { reason, aside, hints } => {
            assert!(!reason.is_empty() && aside.join("log").is_dir(), "{what}");
            assert_ne!(opened.id, whole.id, "{what}");
            let blank = rebuild(opened.id, opened.kept);
            assert_eq!((blank.synced(), blank.records().len()), (None, *hints), "{what}");
            let highest = blank.records().iter().map(|(_, record)| record.version.epoch).max().unwrap_or_default();
            assert!(blank.promised() >= highest, "{what}");
            Some(opened.found)
        }
    }
}

/// A directory with deleted and dropped records, opened several times,, as a killed process leaves it.
fn harmed_later(base: &Path) {
    let mut writer = Writer::new(4);
    for term in 1..=3 {
        let mut subject = Subject::open(&base.join("running"));
        subject.commit(vec![Change::Promised(epoch(term))]);
        subject.commit(writer.batch(term, 300, 300));
        subject.commit(vec![Change::Synced { synced: synced(term), drop_older: Some(Buckets::all()) }]);
        for _ in 0..20 {
            subject.commit(writer.batch(term, 300, 15));
        }
        if term == 3 {
            copy(&base.join("running"), &base.join("image"));
        }
    }
}

#[test]
fn a_thousand_flipped_bits() {
    let directory = scratch();
    let base = directory.path();
    harmed_later(base);
    copy(&base.join("image"), &base.join("whole"));
    let whole = disk::open(&base.join("whole"), None).expect("intact");
    assert_eq!(whole.found, Found::State { torn_bytes: 0 });

    let image = base.join("image/state");
    // Every file counts the same: most bytes are in few of them, and the small ones matter as much.
    let files: Vec<_> = files(&image).into_iter().map(|path| (written(&path).len() as u64, path)).collect();
    let files: Vec<_> = files.into_iter().filter(|(length, _)| *length > 0).collect();
    let (next, blank) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    if turn >= 1000 {
                        return;
                    }
                    let mut random = StdRng::seed_from_u64(turn as u64);
                    let (length, path) = &files[turn % files.len()];
                    let (byte, bit) = (random.random_range(0..*length), random.random_range(0..8));
                    let name = path.strip_prefix(&image).expect("below the image");
                    let what = format!("turn {turn}: bit {bit} of byte {byte} of {}", name.display());
                    let data = base.join(format!("turn-{turn}"));
                    copy(&base.join("image"), &data);
                    flip(&data.join("state").join(name), byte, bit);
                    if open_harmed(&data, &whole, &what).is_some() {
                        blank.fetch_add(1, Ordering::Relaxed);
                    }
                    fs::remove_dir_all(&data).expect("removed");
                }
            });
        }
    });
    let blank = blank.into_inner();
    println!("1000 flipped bits: {blank} times blank with the reason said, {} times nothing was lost", 1000 - blank);
    assert!(blank > 300, "most of what is there should matter: {blank}");
}

fn flip(path: &Path, byte: u64, bit: u32) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("opened");
    let mut value = [0];
    file.read_exact_at(&mut value, byte).expect("read");
    file.write_all_at(&[value[0] ^ (1 << bit)], byte).expect("written");
}

/// The last batch ends an install and drops what is older; the machine stops at every byte of it. What is there
/// afterwards is the state before it or the state after it, whichever way the rest of the file looks.
#[test]
fn a_torn_last_batch_is_cut_off_at_every_byte() {
    let directory = scratch();
    let base = directory.path();
    let mut writer = Writer::new(5);
    let mut subject = Subject::open(&base.join("running"));
    subject.commit(writer.batch(1, 20, 40));
    let before = facts(&subject.follower);
    copy(&base.join("running"), &base.join("before"));
    let mut last = writer.batch(2, 4, 3);
    last.push(Change::Synced { synced: synced(2), drop_older: Some(Buckets::all()) });
    subject.commit(last);
    let after = facts(&subject.follower);
    assert!(after.3.len() < before.3.len(), "older records were dropped");
    copy(&base.join("running"), &base.join("after"));

    let (start, end) = (written(&newest(&base.join("before"))).len(), written(&newest(&base.join("after"))).len());
    assert!(end > start + 100);
    let next = AtomicUsize::new(start);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let cut = next.fetch_add(1, Ordering::Relaxed);
                    if cut > end {
                        return;
                    }
                    torn_at(base, cut, end, &before, &after);
                }
            });
        }
    });
}

type Facts = (
    kv_node::protocol::types::FollowerId,
    kv_node::protocol::types::Epoch,
    Option<kv_node::protocol::types::Synced>,
    Vec<(kv_node::protocol::types::Key, kv_node::protocol::types::Record)>,
);

fn torn_at(base: &Path, cut: usize, end: usize, before: &Facts, after: &Facts) {
    // As a file system leaves it: the rest is missing, or reads as zeros.
    for zeros in [false, true] {
        let data = base.join(format!("cut-{cut}-{zeros}"));
        copy(&base.join("after"), &data);
        let torn = OpenOptions::new().write(true).open(newest(&data)).expect("opened");
        let length = torn.metadata().expect("known").len();
        torn.set_len(cut as u64).expect("cut");
        torn.set_len(if zeros { length } else { cut as u64 }).expect("lengthened");
        drop(torn);

        // The batch was confirmed, and is gone: that is damage.
        let confirmed = base.join(format!("confirmed-{cut}-{zeros}"));
        copy(&data, &confirmed);
        let opened = disk::open(&confirmed, None).expect("opens");
        if cut < end {
            let Found::Damage { reason, .. } = &opened.found else {
                panic!("cut at {cut} of {end}: a confirmed batch is gone, and found {:?}", opened.found);
            };
            assert!(reason.contains("was confirmed"), "{reason}");
        } else {
            assert_eq!(&facts(&rebuild(opened.id, opened.kept)), after);
        }

        // It was not confirmed: it is cut off, and the rest is what it was.
        fs::copy(base.join("before/state/confirmed"), data.join("state/confirmed")).expect("copied");
        let opened = disk::open(&data, None).expect("opens");
        assert!(matches!(opened.found, Found::State { .. }), "cut at {cut} of {end}: {:?}", opened.found);
        assert_eq!(&facts(&rebuild(opened.id, opened.kept)), if cut < end { before } else { after }, "cut at {cut}");
        drop(opened.store);
        // And once cut off, it stays so.
        assert_eq!(&facts(&Subject::open(&data).follower), if cut < end { before } else { after }, "cut at {cut}");
        fs::remove_dir_all(&data).and_then(|()| fs::remove_dir_all(&confirmed)).expect("removed");
    }
}

/// Only the last damaged state is kept, so that a failing disk does not fill up.
#[test]
fn damaged_states_do_not_pile_up() {
    let directory = scratch();
    let data = directory.path();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let mut subject = Subject::open(data);
        ids.push(subject.follower.id());
        subject.commit(Writer::new(6).batch(1, 10, 10));
        drop(subject);
        flip(&data.join("state/format"), 3, 3);
    }
    let opened = disk::open(data, None).expect("opens");
    assert!(opened.found.to_string().contains("the file `format`"), "{}", opened.found);
    assert!(!ids.contains(&opened.id));
    let names: Vec<_> = fs::read_dir(data).expect("listed").map(|entry| entry.expect("listed").file_name()).collect();
    assert_eq!(names.iter().filter(|name| name.to_string_lossy().starts_with("damaged-")).count(), 1, "{names:?}");
}
