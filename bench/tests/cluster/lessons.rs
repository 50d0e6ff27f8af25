//! Goal: each lesson of the leader's page comes to its verdict, and the verdict is that of the reader's cluster. Method: a
//! headless Chromium does what a reader does, and the test breaks nodes where the page asks for it. Skipped where no Chromium is
//! installed.

use kv_bench::cluster::{LocalCluster, LocalClusterOptions};
use tempfile::TempDir;

use crate::{
    chromium::{Chromium, installed, text},
    replicas::with_a_late_follower,
    support::{KV_BENCH, one_follower},
};

/// Chooses the lesson with this number, predicts, and has it measured.
async fn predict(page: &mut Chromium, lesson: usize, prediction: &str) {
    page.evaluate(&format!("document.querySelectorAll('#lessons button')[{}].click()", lesson - 1)).await;
    page.evaluate(&format!("document.getElementById('prediction').value = '{prediction}'")).await;
    page.evaluate("document.getElementById('prediction-form').requestSubmit()").await;
}

/// Waits until the page asks for a step, or shows this progress.
async fn step(page: &mut Chromium, words: &str) {
    page.until(&format!("{}.includes('{words}')", text("lesson-step"))).await;
}

/// The verdict, once it is there.
async fn verdict(page: &mut Chromium) -> String {
    page.until("document.getElementById('lesson-result').checkVisibility()").await;
    page.evaluate(&text("grade")).await.as_str().expect("text").to_owned()
}

/// The number after these words.
fn after(verdict: &str, words: &str) -> f64 {
    let rest = verdict.split_once(words).unwrap_or_else(|| panic!("no {words:?} in {verdict}")).1;
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(rest.len());
    rest[..end].trim_end_matches('.').parse().unwrap_or_else(|_| panic!("no number after {words:?}: {verdict}"))
}

/// Both numbers of a verdict about times: theory exactly, and a measurement that is none of another lesson's faster settings.
/// A busy machine may make it slower.
fn assert_times(verdict: &str, theory_ms: f64) {
    let (theory, measured) = (after(verdict, "theory says "), after(verdict, "your cluster measured "));
    assert!((theory / theory_ms - 1.0).abs() < 0.03, "theory is {theory_ms} ms: {verdict}");
    assert!(measured > 0.6 * theory_ms, "{verdict}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_lesson_comes_to_its_verdict() {
    let Some(program) = installed() else {
        println!("skipped: no Chromium is installed (chromium in PATH, or CHROMIUM)");
        return;
    };
    let directory = TempDir::new().expect("a directory");
    let options = LocalClusterOptions {
        write_quorum: 2,
        max_delay_ms: 30,
        // More followers fail at once than disks may be lost.
        data_directory: Some(directory.path().join("data")),
        ..LocalClusterOptions::new(KV_BENCH, directory.path())
    };
    let mut cluster = LocalCluster::start(options).await.expect("the cluster starts");
    let mut page = Chromium::start(program).await;
    page.open(&cluster.leader_url()).await;
    page.until(&format!("{}.startsWith('The leader delays each write to each of its 5 followers')", text("question")))
        .await;

    // The settings alone make the lesson: the W-th of five uniform delays, the slowest of five exponential ones, the third of
    // four without the far one, the median under a long tail, and a shared part.
    for (lesson, theory_ms) in [(1, 200.0 * 4.0 / 6.0), (2, 91.33), (3, 200.0 * 3.0 / 5.0), (4, 6.5), (5, 70.0)] {
        predict(&mut page, lesson, &format!("{theory_ms}")).await;
        let verdict = verdict(&mut page).await;
        assert!(verdict.starts_with("Right"), "lesson {lesson}: {verdict}");
        assert_times(&verdict, theory_ms);
    }

    // The page reports a wrong prediction as wrong. The lesson goes on once the follower is down.
    predict(&mut page, 6, "1").await;
    step(&mut page, "Now stop one follower").await;
    cluster.kill_follower(1).expect("killed");
    let verdict_of_6 = verdict(&mut page).await;
    assert!(verdict_of_6.starts_with("Off by"), "{verdict_of_6}");
    assert_times(&verdict_of_6, 200.0 * 3.0 / 5.0);
    cluster.start_follower(1).await.expect("started");

    // W = 3 of 5: two may be down, and the third stops the writes.
    predict(&mut page, 7, "2").await;
    for (index, down) in [(0, "0 followers are"), (2, "1 follower is"), (4, "2 followers are")] {
        step(&mut page, &format!("{down} down, and writes go on")).await;
        cluster.kill_follower(index).expect("killed");
    }
    let words = "Right: you predicted 2 followers, your cluster measured 2 followers, and theory says 2 followers.";
    assert_eq!(verdict(&mut page).await, words);
    page.until(&format!("{}.startsWith('With 3 down, no write was acknowledged.')", text("reason"))).await;
    for index in [0, 2, 4] {
        cluster.start_follower(index).await.expect("started");
    }

    // W = 1 of 5: four of five miss the write, or fewer where the machine is slow.
    predict(&mut page, 8, "80").await;
    let verdict_of_8 = verdict(&mut page).await;
    let (theory, measured) = (after(&verdict_of_8, "theory says "), after(&verdict_of_8, "your cluster measured "));
    assert!((40.0..=80.0).contains(&theory) && (20.0..=85.0).contains(&measured), "{verdict_of_8}");

    predict(&mut page, 9, "0").await;
    step(&mut page, "Now kill the leader").await;
    cluster.kill_leader().expect("killed");
    cluster.start_leader().await.expect("started");
    let words =
        "Right: you predicted 0 lost writes, your cluster measured 0 lost writes, and theory says 0 lost writes.";
    assert_eq!(verdict(&mut page).await, words);
    page.until(&format!("{}.includes('The epoch rose from 1 to 2.')", text("reason"))).await;

    predict(&mut page, 10, "1").await;
    let words = "Off by 2: you predicted 1, your cluster measured 3, and theory says 3.";
    assert_eq!(verdict(&mut page).await, words);
    let once =
        "/3 of the 3 attempts was unknown.* until it was acknowledged, at attempt [0-9]+: the counter grew by 1/";
    page.until(&format!("{once}.test({})", text("reason"))).await;

    // All are marked, and the settings go back to those before the first one, the timeout among them.
    page.until("[...document.querySelectorAll('#lessons button')].every((button) => 'done' in button.dataset)").await;
    page.evaluate("document.getElementById('restore').click()").await;
    page.until(&format!("{} === '2 of 5' && {} === '30 ms'", text("rule"), text("max-delay-value"))).await;
    let timeout = "fetch('config').then((answer) => answer.json()).then((config) => config.replication_timeout_ms)";
    assert_eq!(page.evaluate(timeout).await, 5000);
    assert!(page.faults.is_empty(), "{:?}", page.faults);
}

/// The followers are read after a put: the late one shows the value before, and is marked, until it has the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_read_is_shown() {
    let Some(program) = installed() else { return };
    let directory = TempDir::new().expect("a directory");
    let cluster = LocalCluster::start(with_a_late_follower(&directory, 3_000.0)).await.expect("the cluster starts");
    let mut page = Chromium::start(program).await;
    page.open(&cluster.leader_url()).await;
    page.until(&format!("{} === 'open'", text("state"))).await;
    let late = "document.querySelectorAll('#replicas li')[2]";
    page.evaluate("document.getElementById('put-form').requestSubmit()").await;
    page.until(&format!("{late}.dataset.stale === 'true' && {late}.textContent.includes('no value')")).await;
    page.until(&format!(
        "/^[0-9.]+ ms after the acknowledgement, 1 of 3 reads .* none is.$/.test({})",
        text("replicas-text")
    ))
    .await;
    page.evaluate("document.getElementById('put-value').value = 'red'").await;
    page.evaluate("document.getElementById('put-form').requestSubmit()").await;
    page.until(&format!("{late}.dataset.stale === 'true' && {late}.textContent.includes('“blue”, seq 1 stale')")).await;
    page.until("document.querySelectorAll('#replicas [data-stale=\"false\"]').length === 2").await;
    page.until(&format!("{late}.dataset.stale === 'false' && {late}.textContent.includes('“red”, seq 2')")).await;
    page.evaluate("document.getElementById('get-at-followers').click()").await;
    page.until(&format!("{} === 'Now, 0 of 3 reads at followers were stale.'", text("replicas-text"))).await;
    assert!(page.faults.is_empty(), "{:?}", page.faults);
}

/// What the reader's cluster cannot do, the lesson says, and what else changes is a command.
#[tokio::test(flavor = "multi_thread")]
async fn under_a_kvcluster_a_lesson_shows_the_command_or_what_it_needs() {
    let Some(program) = installed() else { return };
    let logs = TempDir::new().expect("a directory");
    let mut cluster = one_follower(KV_BENCH, logs.path(), &[("KVCLUSTER", "shop/demo")]).await;
    let mut page = Chromium::start(program).await;
    page.open(&cluster.leader_url()).await;
    page.until(&format!("{} === 'This lesson needs at least 2 followers.'", text("question"))).await;
    page.until("document.getElementById('prediction').disabled").await;
    cluster.kill_leader().expect("killed");
    drop(cluster);

    let options = LocalClusterOptions {
        followers: 2,
        environment: vec![("KVCLUSTER".to_owned(), "shop/demo".to_owned())],
        ..LocalClusterOptions::new(KV_BENCH, logs.path())
    };
    let cluster = LocalCluster::start(options).await.expect("the cluster starts");
    page.open(&cluster.leader_url()).await;
    page.until("document.getElementById('operator').checkVisibility()").await;
    predict(&mut page, 10, "3").await;
    let command = r#"kubectl -n shop patch kvc demo --type merge -p '{"spec":{"writeQuorum":2,"delay":{"minMs":290,"maxMs":1500},"replicationTimeoutMs":300}}'"#;
    page.until(&format!("{}.includes(`Run this: {command}`)", text("lesson-step"))).await;
    page.evaluate("document.querySelectorAll('#lessons button')[5].click()").await;
    page.until(&format!("{}.includes('Kubernetes starts a pod again')", text("question"))).await;
    page.until("document.getElementById('prediction').disabled").await;
    assert!(page.faults.is_empty(), "{:?}", page.faults);
}
