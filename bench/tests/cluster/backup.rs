//! Goal: a backup is one moment of the whole state, comes back as it was, and is refused where it is not whole or would
//! undo something. Method: real clusters, and the program as people use it.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    self,
    backup::{TOKEN, backup, cluster, dump, post, put, restore},
    stderr, stdout,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back_as_it_was_and_goes_on() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let first = cluster(&directory.path().join("first")).await;
    for number in 0..40 {
        put(&first, &format!("key {} \"\u{1f511}\"", number % 15), &format!("value {number}\n")).await;
    }
    put(&first, "empty", "").await;
    put(&first, "deleted", "x").await;
    assert_eq!(post(&first, "/delete", None, json!({"key": "deleted"})).await.0, 200);
    let once = json!({"key": "once", "value": "applied"});
    assert_eq!(post(&first, "/put", Some("retry-7"), once.clone()).await.1["seq"], 1);
    let file = directory.path().join("state.jsonl");
    let output = backup(&first, &file).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("18 keys in "), "{}", stdout(&output));
    let before = dump(&first).await;
    drop(first);

    let second = cluster(&directory.path().join("second")).await;
    let output = restore(&second, &file, &[]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(dump(&second).await, before);
    assert_eq!(put(&second, "deleted", "again").await, 3, "the numbers of a deleted key go on");
    assert_eq!(put(&second, "key 3 \"\u{1f511}\"", "next").await, 4);
    let (status, retried) = post(&second, "/put", Some("retry-7"), once).await;
    assert_eq!((status, &retried["seq"]), (200, &json!(1)), "a retry is still known");

    // `--overwrite` replaces later values, too; sequence numbers never go back.
    let output = restore(&second, &file, &["--overwrite"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let after = dump(&second).await;
    for (key, entry) in &before {
        assert_eq!(after.get(key).map(|entry| &entry.value), Some(&entry.value), "{key}");
    }
    assert_eq!(after.get("key 3 \"\u{1f511}\"").map(|entry| entry.seq), Some(5));
    assert_eq!(after.get("deleted"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_or_would_undo_something_is_refused() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let first = cluster(&directory.path().join("first")).await;
    for number in 0..20 {
        put(&first, &format!("key {number}"), "saved").await;
    }
    let file = directory.path().join("state.jsonl");
    assert!(backup(&first, &file).await.status.success());
    let before = dump(&first).await;

    let output = restore(&first, &file, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("has 20 keys already"), "{}", stderr(&output));
    let conflict = json!({"key": "key 3", "seq": 9, "value": "other"});
    let client = reqwest::Client::new();
    let url = format!("{}/restore", first.leader_url());
    let answer = client.post(&url).bearer_auth(TOKEN).body(conflict.to_string()).send().await.expect("answers");
    assert_eq!(answer.status(), 409, "{}", answer.text().await.expect("text"));
    let answer = client.post(&url).body(conflict.to_string()).send().await.expect("answers");
    assert_eq!(answer.status(), 401, "it takes the token");
    let answer = reqwest::get(format!("{}/backup", first.leader_url())).await.expect("answers");
    assert_eq!(answer.status(), 401, "it takes the token");
    assert_eq!(dump(&first).await, before);

    let second = cluster(&directory.path().join("second")).await;
    let whole = fs::read_to_string(&file).expect("text");
    let last = whole.trim_end().rfind('\n').expect("lines") + 1;
    let harmed = [
        (whole[..last].to_owned(), "is cut off"),
        (whole[..last - 5].to_owned(), "is cut off"),
        (whole.replacen("saved", "mined", 1), "was changed after it was made"),
        (whole.replacen("\"kvcluster_backup\":2", "\"kvcluster_backup\":7", 1), "use a newer release"),
        ("key,value\n".to_owned(), "is no backup"),
        (String::new(), "it is empty"),
    ];
    for (text, expected) in harmed {
        let harmed = directory.path().join("harmed.jsonl");
        fs::write(&harmed, text).expect("written");
        let output = restore(&second, &harmed, &[]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(expected), "{expected}: {}", stderr(&output));
    }
    assert!(dump(&second).await.is_empty(), "nothing of them was taken");
}

/// Two keys far apart in the order of keys are written in turn, each after the other's answer, so that the second one is never
/// ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_is_one_moment() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let cluster = cluster(&directory.path().join("cluster")).await;
    put(&cluster, "first", "0").await;
    let filler: String = (0..20_000)
        .map(|number| {
            format!(
                "{}\n",
                json!({"key": format!("filler {number}"), "seq": 1,
        "value": "x".repeat(100)})
            )
        })
        .collect();
    let url = format!("{}/restore", cluster.leader_url());
    let answer = reqwest::Client::new().post(url).bearer_auth(TOKEN).body(filler).send().await.expect("answers");
    assert_eq!(answer.status(), 200);
    put(&cluster, "second", "0").await;

    let writing = async {
        for number in 1.. {
            put(&cluster, "first", &number.to_string()).await;
            put(&cluster, "second", &number.to_string()).await;
        }
    };
    let saving = async {
        for round in 0..5 {
            let known = dump(&cluster).await;
            let file = directory.path().join(format!("{round}.jsonl"));
            let output = backup(&cluster, &file).await;
            assert!(output.status.success(), "{}", stderr(&output));
            let text = fs::read_to_string(&file).expect("text");
            let number = |key: &str| -> u64 {
                let start = format!("{{\"key\":\"{key}\",");
                let line = text.lines().find(|line| line.starts_with(&start)).expect("the key is there");
                let line: Value = serde_json::from_str(line).expect("JSON");
                line["value"].as_str().expect("a value").parse().expect("a number")
            };
            let (first, second) = (number("first"), number("second"));
            assert!(first == second || first == second + 1, "first is {first}, second is {second}");
            let acknowledged: u64 = known["second"].value.to_string().parse().expect("a number");
            assert!(second + 1 >= acknowledged, "{second} is older than {acknowledged}, which was there before");
        }
    };
    tokio::select! {
        () = writing => unreachable!("it writes for ever"),
        () = saving => {}
    }
}

#[test]
fn commands_that_moved_name_the_new_program() {
    let run =
        |arguments: &[&str]| std::process::Command::new(support::KV_BENCH).args(arguments).output().expect("runs");
    for (arguments, expected) in [
        (&["backup", "--leader", "http://a:1", "--to", "f"][..], "kvctl backup --leader http://a:1 --to f"),
        (&["restore", "--give-up"], "kvctl restore --give-up"),
        (&["restore", "--help"], "kvctl restore --help"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(stderr(&output), format!("error: {} is a command of kvctl now: {expected}\n", arguments[0]));
    }
}
