//! Goal: what fails or does not answer is asked again later each time, and what waits is woken.

use super::*;

#[tokio::test]
async fn everybody_who_waits_for_the_watches_is_woken() {
    let (_api, client) = ApiServer::start(|_| None);
    let mut context = context(client, 1, vec![]);
    let (pods, mut writer) = reflector::store();
    Arc::get_mut(&mut context).expect("the only reference").stores.pods = Indexed::new(pods);
    let waiters: Vec<_> = (0..20)
        .map(|_| {
            let context = context.clone();
            tokio::spawn(async move { context.stores.ready().await })
        })
        .collect();
    tokio::task::yield_now().await; // all of them have begun to wait
    writer.apply_watcher_event(&watcher::Event::Init);
    writer.apply_watcher_event(&watcher::Event::InitDone);
    for waiter in waiters {
        tokio::time::timeout(Duration::from_secs(10), waiter).await.expect("it is woken").expect("it does not panic");
    }
}

// Goal: leaders out of reach do not hold up the others. Method: a leader that never gives a usable answer, and what it was
// asked in the first reconciliation and in the next.
#[tokio::test]
async fn a_leader_that_did_not_answer_is_asked_once_and_later_each_time() {
    let asked: Arc<Mutex<u32>> = Arc::default();
    let count = asked.clone();
    let refuse = move || async move {
        *count.lock() += 1;
        axum::http::StatusCode::INTERNAL_SERVER_ERROR
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/status", get(refuse))).await });
    let (_api, client) = ApiServer::start(|_| None);
    let context = context(client, port, vec![leader_pod()]);
    reconcile(guarded(opened("{}", 5)), context.clone()).await.expect("it succeeds");
    let first = *asked.lock();
    assert!(first > 1, "at first it may be a NetworkPolicy that does not know the operator yet");
    reconcile(guarded(opened("{}", 5)), context).await.expect("it succeeds");
    assert_eq!(*asked.lock() - first, 1);

    let looks = [0, 1, 2, 3, 4, 5, 40].map(|times| next_look(false, times, Duration::from_secs(3)).as_secs());
    assert_eq!(looks, [1, 1, 2, 4, 8, 15, 15]);
    assert_eq!(next_look(true, 0, Duration::from_secs(3)).as_secs(), 3);
}

// Goal: a leader that was replaced, and whose successor is gone, starts again; one with a successor is left alone.
#[test]
fn a_leader_left_behind_is_the_only_one_and_fenced() {
    let leader = |state: &str| {
        let status = json!({"role": "leader", "state": state, "config": config(4, 3, 5)});
        LeaderSeen::Answered(Box::new(leader_client::Leader {
            pod: "demo-leader-x".to_owned(),
            url: String::new(),
            reached: false,
            status: serde_json::from_value(status).expect("a status"),
        }))
    };
    let (one, other) = (Arc::new(leader_pod()), Arc::new(leader_pod_at("demo-leader-y", "127.0.0.2")));
    let found = |state: &str, pods: &[Arc<Pod>]| roll::left_behind(&leader(state), pods).map(ResourceExt::name_any);
    assert_eq!(found("fenced", std::slice::from_ref(&one)).as_deref(), Some("demo-leader-x"));
    assert_eq!(found("fenced", &[one.clone(), other.clone()]), None);
    assert_eq!(found("fenced", &[other]), None, "a pod that is not the one that answered");
    assert_eq!(found("recovering", &[one]), None);
}

#[test]
fn a_leader_that_answers_the_same_is_asked_later_each_time() {
    let looks = [0, 1, 2, 3, 4, 8, 9, 400].map(|times| next_calm_look(times, Duration::from_secs(3)).as_secs());
    assert_eq!(looks, [3, 3, 6, 6, 9, 15, 15, 15]);
}

#[test]
fn failures_in_a_row_wait_longer_up_to_a_minute() {
    let waits: Vec<u128> = [1, 2, 3, 7, 8, 40].map(|failures| backoff(failures).as_millis()).to_vec();
    assert_eq!(waits, [500, 1000, 2000, 32_000, 60_000, 60_000]);
}
