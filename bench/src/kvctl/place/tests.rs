//! Goal: only whole backups with a record count, and nothing of another cluster is chosen or removed. Method: a directory, and
//! a store in memory whose objects change behind its back. What goes wrong on the way is in tests/backup.py.

use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use kv_node::{backup::Writer, protocol::leader::Saved as SavedKey};
use object_store::memory::InMemory;

use super::*;

fn text(cluster: Option<&str>, keys: u64) -> String {
    let mut writer = Writer::of_cluster(cluster);
    let mut text = writer.header("4.01".to_owned(), keys);
    for seq in 1..=keys {
        let key = format!("key {seq}").into();
        text.push_str(&writer.key(&SavedKey { key, seq, value: Some("value".into()), marks: None }));
    }
    text + &writer.trailer()
}

fn chunks(text: &str) -> Chunks {
    let chunks: Vec<_> = text.as_bytes().chunks(50).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    stream::iter(chunks).boxed()
}

fn in_memory() -> Place {
    Place { store: Arc::new(InMemory::new()), prefix: Path::from("some/where"), named: "memory".to_owned() }
}

async fn save(place: &Place, cluster: Option<&str>, keys: u64, at_s: u64, keep: Keep) -> Saved {
    let taken = SystemTime::UNIX_EPOCH + Duration::from_secs(at_s);
    place.save(chunks(&text(cluster, keys)), taken, keep).await.expect("saved")
}

async fn names(place: &Place) -> Vec<String> {
    place.list(None).await.expect("listed").into_iter().map(|kept| kept.record.name).collect()
}

#[tokio::test]
async fn the_backup_whose_restore_is_under_way_is_found_by_its_digest() {
    let place = in_memory();
    let older = save(&place, Some("shop/demo"), 3, 100, Keep::default()).await.record;
    save(&place, Some("shop/demo"), 5, 200, Keep::default()).await;
    let found = place.with_digest(&older.digest).await.expect("it is there");
    assert_eq!(found.record, older);
    let error = place.with_digest("ab12").await.map(|kept| kept.record).expect_err("it is not there").to_string();
    let words = "the restore of the backup with digest ab12 is not finished, and memory does not have that backup";
    assert_eq!(error, words);
}

#[tokio::test]
async fn a_directory_has_what_was_saved_and_the_newest_first() {
    let directory = tempfile::tempdir().expect("a directory");
    let inner = directory.path().join("not/there/yet");
    assert!(Place::of(&inner.display().to_string(), false).is_err(), "a restore makes no directory");
    let place = Place::of(&inner.display().to_string(), true).expect("a place");
    for (keys, at_s) in [(3, 100), (5, 300), (4, 200)] {
        save(&place, Some("shop/demo"), keys, at_s, Keep::default()).await;
    }
    let found = place.list(None).await.expect("listed");
    assert_eq!(found.iter().map(|kept| kept.record.keys).collect::<Vec<_>>(), [5, 4, 3]);
    let newest = place.choose(None, None).await.expect("the newest");
    assert_eq!((newest.record.keys, newest.record.taken.as_str()), (5, "1970-01-01T00:05:00Z"));
    let (whole, bytes) = lines::check(newest.open().await.expect("there")).await.expect("whole");
    newest.record.compare(&whole, bytes).expect("the same");
    assert_eq!(bytes, text(Some("shop/demo"), 5).len() as u64);
    let mut files: Vec<_> =
        fs::read_dir(&inner).expect("a directory").map(|file| file.expect("a file").file_name()).collect();
    files.sort();
    assert_eq!(files.len(), 6, "three with their records, and nothing else: {files:?}");
}

#[tokio::test]
async fn those_of_another_cluster_are_neither_chosen_nor_removed() {
    let place = in_memory();
    save(&place, Some("shop/demo"), 1, 100, Keep::default()).await;
    save(&place, Some("shop/other"), 2, 200, Keep::default()).await;
    save(&place, None, 3, 300, Keep::default()).await;
    let error = place.choose(None, None).await.map(drop).expect_err("of which").to_string();
    assert_eq!(error, "memory has backups of (unnamed), shop/demo, shop/other: choose by --cluster or --backup");
    assert_eq!(place.choose(None, Some("shop/demo")).await.expect("one").record.keys, 1);
    let error = place.choose(None, Some("shop/third")).await.map(drop).expect_err("none").to_string();
    assert_eq!(error, "memory has no backup of shop/third, only of (unnamed), shop/demo, shop/other");

    let saved = save(&place, Some("shop/demo"), 4, 400, Keep { newest: Some(1), days: None }).await;
    assert_eq!(saved.removed.len(), 1);
    let keys: Vec<_> = place.list(None).await.expect("listed").into_iter().map(|kept| kept.record.keys).collect();
    assert_eq!(keys, [4, 3, 2]);
}

#[tokio::test]
async fn what_breaks_off_or_is_no_backup_leaves_nothing_and_removes_nothing() {
    let place = in_memory();
    save(&place, Some("shop/demo"), 1, 100, Keep::default()).await;
    let whole = text(Some("shop/demo"), 30);
    let now = SystemTime::now();
    let keep = Keep { newest: Some(1), days: None };
    for cut in [0, 10, 300, whole.len() - 1] {
        place.save(chunks(&whole[..cut]), now, keep).await.map(drop).expect_err("cut off");
        let broken = chunks(&whole[..cut]).chain(stream::iter([Err(anyhow::anyhow!("the backup broke off"))])).boxed();
        place.save(broken, now, keep).await.map(drop).expect_err("broken off");
    }
    place.save(chunks(&whole.replacen("value", "volue", 1)), now, keep).await.map(drop).expect_err("changed");
    assert_eq!(names(&place).await, ["shop.demo-19700101T000140Z".to_owned() + &names(&place).await[0][26..]]);
    let objects = place.store.list_with_delimiter(Some(&place.prefix)).await.expect("listed").objects;
    assert_eq!(objects.len(), 2, "the first one and its record: {objects:?}");
}

#[tokio::test]
async fn what_is_changed_cut_off_or_without_a_record_does_not_count() {
    let place = in_memory();
    let saved = save(&place, Some("shop/demo"), 7, 100, Keep::default()).await.record;
    let path = place.path(&saved.name, DATA);
    let whole = text(Some("shop/demo"), 7);
    let put = async |text: String| drop(place.store.put(&path, text.into()).await.expect("written"));

    // Of the same length: only a read shows the difference.
    put(whole.replacen("key 3", "key 8", 1)).await;
    let kept = place.choose(None, None).await.expect("it is listed");
    let error = lines::check(kept.open().await.expect("there")).await.map(drop).expect_err("changed").to_string();
    assert!(error.contains("was changed after it was made"), "{error}");
    // A whole backup of another cluster in its place.
    put(text(Some("shop/dem0"), 7)).await;
    let kept = place.choose(None, None).await.expect("it is listed");
    let (other, bytes) = lines::check(kept.open().await.expect("there")).await.expect("whole");
    let error = kept.record.compare(&other, bytes).expect_err("another").to_string();
    assert!(error.contains("are another backup than the one of its record"), "{error}");
    // Replaced between two reads of one restore.
    put(whole.clone()).await;
    assert!(kept.open().await.is_err(), "it is not what was listed");

    put(whole[..whole.len() - 1].to_owned()).await;
    assert_eq!(
        place.choose(None, None).await.map(drop).expect_err("cut off").to_string(),
        "memory has no verified backup"
    );
    put(whole).await;
    assert_eq!(names(&place).await.len(), 1);
    place.store.delete(&place.path(&saved.name, RECORD)).await.expect("removed");
    assert!(names(&place).await.is_empty());
}

#[test]
fn other_places_are_refused_in_words() {
    let refused = |named: &str| Place::of(named, false).map(drop).expect_err(named).to_string();
    assert_eq!(
        refused("gs://bucket/x"),
        "gs://bucket/x begins with gs://: a place for backups is s3://BUCKET/PREFIX or a directory"
    );
    assert_eq!(refused("s3:///x"), "s3:///x names no bucket: s3://BUCKET/PREFIX");
}
