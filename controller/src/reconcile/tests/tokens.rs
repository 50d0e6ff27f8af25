//! Goal: tokens change without a moment in which a node refuses those in use.

use super::*;

// Goal: a deleted and an edited Secret lead to a new token that the nodes accept beside the old one, until each of them
// says that it has it; then the old one goes. Nothing waits for what the operator remembers. Method: a node whose file is
// in the test's hands, and an operator that restarts before each look.
#[tokio::test]
async fn a_token_is_rotated_step_by_step_by_what_the_nodes_say() {
    let secrets: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let (api, client) = ApiServer::start(with_secrets(&secrets));
    let file: Arc<Mutex<Vec<String>>> = Arc::default();
    let accepted = file.clone();
    let auth = move |headers: axum::http::HeaderMap| async move {
        let given = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let known = given.is_some_and(|given| accepted.lock().iter().any(|token| token == given));
        if known { axum::http::StatusCode::OK } else { axum::http::StatusCode::UNAUTHORIZED }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/auth", get(auth))).await });
    let mut pod = leader_pod_at("demo-follower-0", "127.0.0.1");
    pod.metadata.labels = Some(labels("demo", Some(Component::Follower)));
    pod.spec = Some(serde_json::from_value(json!({"nodeName": "machine", "containers": []})).expect("a spec"));
    let look = async || {
        reconcile(guarded(opened("{}", 5)), context(client.clone(), port, vec![pod.clone()]))
            .await
            .expect("it succeeds");
        let condition = condition_of(&api.applied("/status"), "TokenApplied");
        (condition["status"].clone(), condition["reason"].clone(), condition["message"].to_string())
    };
    let nodes_accept = || lines_of(&secrets, "demo-auth-accepted", "tokens");
    assert_eq!(look().await.1, json!("Applied"));
    let first = nodes_accept();
    assert_eq!((first.len(), lines_of(&secrets, "demo-auth", "token")), (1, first.clone()));
    file.lock().clone_from(&first);

    secrets.lock().remove("demo-auth");
    look().await;
    let second = lines_of(&secrets, "demo-auth", "token");
    assert_ne!(second, first, "a new one");
    assert_eq!(nodes_accept(), [second.clone(), first.clone()].concat());
    let (status, reason, message) = look().await;
    assert_eq!((status, reason), (json!("False"), json!("AddingToken")));
    assert!(message.contains("accepted by 0 of 1 nodes: demo-follower-0: has not read the new token yet"), "{message}");
    assert_eq!(nodes_accept().len(), 2, "the node has the first one alone");
    let version = secrets.lock()["demo-auth-accepted"]["metadata"]["resourceVersion"].clone();
    let hurried = api.applied("pods/demo-follower-0")["metadata"]["annotations"]["kvcluster.io/auth-version"].clone();
    assert_eq!(hurried, version, "its kubelet writes the file at once");

    file.lock().clone_from(&nodes_accept());
    assert_eq!(look().await.1, json!("DroppingToken"));
    assert_eq!((nodes_accept(), lines_of(&secrets, "demo-auth-accepted", "dropped")), (second.clone(), first.clone()));
    let (_, reason, message) = look().await;
    assert_eq!(reason, json!("DroppingToken"));
    assert!(message.contains("demo-follower-0: still accepts an earlier token"), "{message}");
    file.lock().clone_from(&second);
    assert_eq!(look().await.1, json!("Applied"));

    secrets.lock().get_mut("demo-auth").expect("a Secret")["data"]["token"] = json!("dHdvIHdvcmRz");
    let (status, reason, message) = look().await;
    assert_eq!((status, reason), (json!("False"), json!("MalformedToken")));
    assert!(message.contains("Secret demo-auth: the key token has no token"), "{message}");
    assert_eq!((nodes_accept(), lines_of(&secrets, "demo-auth", "token")), (second, vec!["two words".to_owned()]));
    assert!(!api.writes().iter().any(|asked| asked.path.ends_with("/eviction")));
}

// Goal: the nodes' Secret comes back with the tokens that the nodes have, and no annotation shows what a token could be
// guessed from.
#[tokio::test]
async fn the_secret_of_the_nodes_comes_back_and_its_fingerprint_has_no_token() {
    let secrets: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let (_api, client) = ApiServer::start(with_secrets(&secrets));
    let context = context(client, 1, vec![]);
    let look = async || reconcile(guarded(cluster("{}")), context.clone()).await.expect("it succeeds");
    look().await;
    let first = secrets.lock().clone();
    let edited = |token: &str| {
        let mut secrets = secrets.lock();
        secrets.get_mut("demo-auth").expect("a Secret")["data"]["token"] = json!(token);
        secrets.get_mut("demo-auth").expect("a Secret")["metadata"]["resourceVersion"] = json!("7");
    };
    edited("bmV3");
    look().await;
    let both = lines_of(&secrets, "demo-auth-accepted", "tokens");
    assert_eq!((both.len(), both[0].as_str()), (2, "new"));
    secrets.lock().remove("demo-auth-accepted");
    look().await;
    // Without pods every node has the new one.
    assert_eq!(lines_of(&secrets, "demo-auth-accepted", "tokens"), ["new"]);
    assert_eq!(lines_of(&secrets, "demo-auth-accepted", "dropped"), both[1..]);
    let mark = |secrets: &BTreeMap<String, Value>| {
        ["demo-auth", "demo-auth-accepted"]
            .map(|name| secrets[name]["metadata"]["annotations"]["kvcluster.io/applied"].clone())
    };
    assert_eq!(mark(&first), mark(&secrets.lock()));
}

// Goal: a Secret of clients that is missing is reported in words, and one that changes reaches the pods at once. Method: the
// Secret comes, and changes, while the operator works.
#[tokio::test]
async fn the_tokens_of_clients_are_checked_and_hurried_to_the_pods() {
    let secrets: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let (api, client) = ApiServer::start(with_secrets(&secrets));
    let context = context(client, 1, vec![leader_pod_at("demo-follower-0", "127.0.0.1")]);
    let mut pod = leader_pod_at("demo-follower-0", "127.0.0.1");
    pod.metadata.labels = Some(labels("demo", Some(Component::Follower)));
    let mut context = context;
    Arc::get_mut(&mut context).expect("the only reference").stores.pods = Indexed::new(store(vec![pod]));
    let cluster = opened("{auth: {secretName: shops}}", 5);
    let look = async || {
        reconcile(guarded(cluster.clone()), context.clone()).await.expect("it succeeds");
        let condition = condition_of(&api.applied("/status"), "ClientTokensValid");
        (condition["reason"].clone(), condition["message"].to_string())
    };
    let hurried = || api.writes().iter().filter(|asked| asked.path.ends_with("pods/demo-follower-0")).count();
    let (reason, message) = look().await;
    assert_eq!(reason, json!("SecretMissing"));
    assert!(message.contains("the Secret shops does not exist"), "{message}");
    let put = |token: &str, version: &str| {
        let secret = json!({"metadata": {"name": "shops", "resourceVersion": version},
            "data": {"tokens": k8s_openapi::ByteString(token.as_bytes().to_vec())}});
        secrets.lock().insert("shops".to_owned(), secret);
    };
    put("first", "1");
    assert_eq!(look().await.0, json!("Valid"));
    assert_eq!(hurried(), 0, "a pod that starts has it");
    put("second\nfirst", "2");
    assert!(look().await.1.contains("has 2 tokens"));
    assert_eq!(hurried(), 1);
    look().await;
    assert_eq!(hurried(), 1, "nothing has changed");
    assert!(!api.writes().iter().any(|asked| asked.path.ends_with("secrets/shops")));
}
