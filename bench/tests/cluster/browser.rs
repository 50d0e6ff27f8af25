//! Goal: the leader's page shows the cluster as it is, changes what it offers to change, and survives the loss of its
//! leader. Method: real nodes, and a headless Chromium that uses the page as a person with a keyboard does. Skipped where
//! no Chromium is installed.

use kv_bench::{
    cluster::{LocalCluster, LocalClusterOptions},
    theory::stale_read_probability,
};
use tempfile::TempDir;

use crate::{
    chromium::{Chromium, installed, number, text},
    support::{KV_BENCH, one_follower},
};

const TOKEN: &str = "token of the page's test";

const OF_CLIENTS: &str = "token-of-clients";

/// The means of five followers by the page's theory, for W = 1 to 5.
async fn means(page: &mut Chromium, law: &str) -> Vec<f64> {
    let theory = format!("theoryOf({{ delay: {law} }}, [0, 1, 2, 3, 4])");
    let all = format!("import('/page/theory.js').then(({{ theoryOf }}) => [1, 2, 3, 4, 5].map({theory}.mean))");
    serde_json::from_value(page.evaluate(&all).await).expect("numbers")
}

/// Uniform and exponential laws have closed forms. The means of yammer are those of 200,000 simulated writes.
async fn theory_agrees_with_closed_forms(page: &mut Chromium) {
    let uniform: Vec<f64> = (1..=5).map(|w| 20.0 + 60.0 * f64::from(w) / 6.0).collect();
    let harmonic = |upto: u32| (1..=upto).map(|n| 1.0 / f64::from(n)).sum::<f64>();
    let exponential = (1..=5).map(|w| 40.0 * (harmonic(5) - harmonic(5 - w))).collect();
    for (law, expected, error) in [
        ("{ minMs: 20, maxMs: 80 }", uniform.clone(), 0.002),
        ("{ mixture: [{ weight: 7, maxMs: 60 }], offsetMs: 20 }", uniform.clone(), 0.002),
        ("{ maxMs: 60, shared: { constant: { ms: 20 } } }", uniform, 0.01),
        ("{ exponential: { meanMs: 40 } }", exponential, 0.002),
        ("{ preset: 'yammer' }", vec![3.2, 3.5, 4.2, 10.8, 106.0], 0.03),
        ("{ preset: 'wan-3-zones' }", vec![0.5, 1.5, 76.5, 79.5, 150.0], 0.03),
    ] {
        let found = means(page, law).await;
        let agree = found.iter().zip(&expected).all(|(found, expected)| (found / expected - 1.0).abs() < error);
        assert!(found.len() == 5 && agree, "{law}: {found:?}, not {expected:?}");
    }
    for (write_quorum, passed) in [(1, 0.0), (1, 0.1), (2, 0.25), (3, 0.5), (5, 0.0)] {
        let law = "theoryOf({ delay: { minMs: 50, maxMs: 250 } }, [0, 1, 2, 3, 4])";
        let stale = format!("{law}.stale({write_quorum}, {})", 200.0 * passed);
        let found = page.evaluate(&format!("import('/page/theory.js').then(({{ theoryOf }}) => {stale})")).await;
        let (found, expected) = (found.as_f64().expect("a number"), stale_read_probability(5, write_quorum, passed));
        assert!(
            (found - expected).abs() < 0.003,
            "W = {write_quorum}, after {passed} of the span: {found}, not {expected}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_and_changes_the_cluster() {
    let Some(program) = installed() else {
        println!("skipped: no Chromium is installed (chromium in PATH, or CHROMIUM)");
        return;
    };
    let logs = TempDir::new().expect("a directory");
    let options = LocalClusterOptions {
        followers: 3,
        max_delay_ms: 60,
        environment: vec![("AUTH_TOKEN".to_owned(), TOKEN.to_owned())],
        ..LocalClusterOptions::new(KV_BENCH, logs.path())
    };
    let mut cluster = LocalCluster::start(options).await.expect("the cluster starts");
    let mut page = Chromium::start(program).await;
    page.open(&cluster.leader_url()).await;

    // What is there: W = 1 of 3 between 0 and 60 ms has a mean of 60 · 1/4.
    page.until(&format!("{} === 'open' && {} === '15.0 ms'", text("state"), text("predicted"))).await;
    page.evaluate("document.getElementById('pace').value = '1'; document.getElementById('load').click()").await;
    page.until(&format!("{} >= 20 && {} > 0", number("count"), number("measured"))).await;
    page.until(&format!("/seq .* committed after .* confirmation 1 of 3/.test({})", text("caption"))).await;
    let curve = page.evaluate("document.querySelector('#histogram .curve').getAttribute('d')").await;

    // The quorum, with the keyboard: the leader asks for the token, once.
    page.evaluate("document.getElementById('quorum').focus()").await;
    page.press("ArrowRight", 39).await;
    page.until("document.activeElement.id === 'token' && document.activeElement.checkVisibility()").await;
    page.enter("another token").await;
    page.evaluate("document.getElementById('token-form').requestSubmit()").await;
    page.until(&format!("{} === 'The leader refuses this token.'", text("settings-answer"))).await;
    page.enter(TOKEN).await;
    page.evaluate("document.getElementById('token-form').requestSubmit()").await;
    page.until(&format!("{} === '30.0 ms' && {} === '2 of 3'", text("predicted"), text("rule"))).await;
    page.until(&format!("{} >= 5", number("count"))).await;
    page.evaluate("document.getElementById('quorum').focus()").await;
    page.press("ArrowRight", 39).await;
    page.until(&format!("{} === '45.0 ms' && {} === '3 of 3'", text("predicted"), text("rule"))).await;
    // The measurement starts anew, and the bars move with the curve.
    page.until(&format!("{} < 5", number("count"))).await;
    page.until(&format!("{} >= 20 && {} > 30", number("count"), number("measured"))).await;
    page.until("document.querySelectorAll('#histogram .bar').length > 2").await;
    assert_ne!(page.evaluate("document.querySelector('#histogram .curve').getAttribute('d')").await, curve);

    // A follower that is killed turns red, and comes back.
    let row = format!("document.querySelector('tr[data-follower=\"{}\"]')", cluster.follower_url(1));
    page.until(&format!("{row}.dataset.level === 'up'")).await;
    cluster.kill_follower(1).expect("killed");
    page.until(&format!("{row}.dataset.level === 'down' && {row}.innerText.includes('down')")).await;
    let red = "['rgb(198, 40, 40)', 'rgb(255, 107, 102)']";
    page.until(&format!("{red}.includes(getComputedStyle({row}.querySelector('.state')).color)")).await;
    page.until(&format!("{red}.includes(getComputedStyle(document.querySelector('#stage .node.down')).fill)")).await;
    page.until(&format!("{}.includes('none can be committed')", text("histogram-text"))).await;
    cluster.start_follower(1).await.expect("started");
    page.until(&format!("{row}.dataset.level === 'up' && !document.querySelector('#stage .down')")).await;

    // The leader is killed: the page reports it, and goes on by itself with the next one.
    page.evaluate("window.since = 'before'").await;
    cluster.kill_leader().expect("killed");
    page.until("document.getElementById('link').dataset.state === 'lost'").await;
    cluster.start_leader().await.expect("started");
    page.until("document.getElementById('link').dataset.state === 'live'").await;
    page.until(&format!("{} === 'open' && {}.includes('epoch 2')", text("state"), text("facts"))).await;
    page.until(&format!("{} >= 5", number("count"))).await;
    assert_eq!(page.evaluate("window.since").await, "before", "the page was not loaded again");

    // Get shows what put wrote.
    page.evaluate("document.getElementById('put-form').requestSubmit()").await;
    page.until(&format!("/^Committed: color has seq 1,/.test({})", text("kv-answer"))).await;
    page.evaluate("document.getElementById('get').click()").await;
    page.until(&format!("{}.startsWith('color is “blue”')", text("kv-answer"))).await;

    // Another law of the delays, and what theory says about it.
    let choose =
        "const law = document.getElementById('law'); law.value = 'yammer'; law.dispatchEvent(new Event('change'))";
    page.evaluate(choose).await;
    page.until(&format!("{}.includes('3 delays, yammer')", text("histogram-text"))).await;
    page.until("document.getElementById('max-delay').checkVisibility() === false").await;
    theory_agrees_with_closed_forms(&mut page).await;

    // A lesson under the cluster's token, and back: the far follower does not matter at W = 2 of 3, where the mean is 200 · 2/3.
    page.evaluate("document.querySelectorAll('#lessons button')[2].click()").await;
    let predict = "document.getElementById('prediction').value = '133'; \
                   document.getElementById('prediction-form').requestSubmit()";
    page.evaluate(predict).await;
    page.until("document.getElementById('lesson-result').checkVisibility()").await;
    page.until(&format!("/you predicted 133 ms, .* theory says 133.3 ms/.test({})", text("grade"))).await;
    page.until(&format!("{}.includes('and other laws for 1 follower')", text("histogram-text"))).await;
    page.evaluate("document.getElementById('restore').click()").await;
    page.until(&format!("{}.includes('3 delays, yammer')", text("histogram-text"))).await;

    // A follower's page names the leader.
    page.open(&cluster.follower_url(0)).await;
    page.until(&format!("{}.includes('{}')", text("rows"), cluster.leader_url())).await;
    page.until(&format!("{} === 'synced'", text("state"))).await;
    assert!(page.faults.is_empty(), "{:?}", page.faults);
}

/// Clients have a token of their own: the page asks for it when it opens, once for all that it does with keys.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_the_token_of_clients() {
    let Some(program) = installed() else { return };
    let logs = TempDir::new().expect("a directory");
    let file = logs.path().join("tokens");
    std::fs::write(&file, format!("{OF_CLIENTS}\n")).expect("written");
    let settings = [("AUTH_TOKEN", TOKEN), ("CLIENT_TOKEN_FILE", file.to_str().expect("text"))];
    let cluster = one_follower(KV_BENCH, logs.path(), &settings).await;
    let mut page = Chromium::start(program).await;
    page.open(&cluster.leader_url()).await;
    page.until("document.activeElement.id === 'client-token' && document.activeElement.checkVisibility()").await;
    page.until(&format!("{} === 'not live: the leader asks for the token of a client.'", text("link"))).await;
    page.enter("another token").await;
    page.evaluate("document.getElementById('client-token-form').requestSubmit()").await;
    page.until(&format!("{} === 'not live: the leader refuses this token.'", text("link"))).await;
    page.enter(OF_CLIENTS).await;
    page.evaluate("document.getElementById('client-token-form').requestSubmit()").await;
    page.until(&format!("{} === 'open' && {} === 'live'", text("state"), text("link"))).await;
    page.until("!document.getElementById('client-token-form').checkVisibility()").await;
    page.evaluate("document.getElementById('put-form').requestSubmit()").await;
    page.until(&format!("/^Committed: color has seq 1,/.test({})", text("kv-answer"))).await;
    // Settings need the other token.
    // Both at once, as by hand: an update of the page between them would move the slider back.
    let longest = "const longest = document.getElementById('max-delay'); longest.value = '7'; \
                   longest.dispatchEvent(new Event('input')); longest.dispatchEvent(new Event('change'))";
    page.evaluate(longest).await;
    page.until(&format!("{} === 'The leader asks for the token of the cluster.'", text("settings-answer"))).await;
    page.enter(TOKEN).await;
    page.evaluate("document.getElementById('token-form').requestSubmit()").await;
    page.until(&format!("{} === '7 ms'", text("max-delay-value"))).await;
    page.until("!document.getElementById('token-form').checkVisibility()").await;
    assert!(page.faults.is_empty(), "{:?}", page.faults);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_kvcluster_decides_the_page_shows_the_command() {
    let Some(program) = installed() else { return };
    let logs = TempDir::new().expect("a directory");
    let cluster = one_follower(KV_BENCH, logs.path(), &[("KVCLUSTER", "shop/demo")]).await;
    let mut page = Chromium::start(program).await;
    page.open(&cluster.leader_url()).await;
    page.until("document.getElementById('operator').checkVisibility()").await;
    let command = "kubectl -n shop patch kvc demo --type merge -p ";
    let uniform = r#"'{"spec":{"writeQuorum":1,"delay":{"minMs":0,"maxMs":0}}}'"#;
    page.until(&format!("{} === `{command}{uniform}`", text("command"))).await;
    // A change makes up another command, and nothing else.
    page.evaluate(
        "window.asked = 0; const before = fetch; window.fetch = (...all) => { asked += 1; return before(...all); }",
    )
    .await;
    let choose =
        "const law = document.getElementById('law'); law.value = 'yammer'; law.dispatchEvent(new Event('change'))";
    page.evaluate(choose).await;
    let yammer = r#"'{"spec":{"writeQuorum":1,"delay":{"minMs":null,"maxMs":null,"preset":"yammer"}}}'"#;
    page.until(&format!("{} === `{command}{yammer}`", text("command"))).await;
    assert_eq!(page.evaluate("window.asked").await, 0);
    assert!(page.faults.is_empty(), "{:?}", page.faults);
}
