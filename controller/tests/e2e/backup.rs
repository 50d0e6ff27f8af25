//! Goal: a scheduled backup under load counts once it is verified, the status and an event say what failed, and a cluster gets
//! back what it had, key by key. Method: a volume as the destination, and Jobs made from the CronJob by hand.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt;
use kube::api::{ListParams, PostParams};
use kvcluster_api::resource::{BackupStatus, KvCluster};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Demo, ask, condition, is_true};
use crate::plugin::kv;
use crate::writer::Writer;

/// Never, during a test.
const NEVER: &str = "0 0 29 2 *";

#[tokio::test]
async fn a_backup_counts_once_it_is_verified_and_comes_back_key_by_key() {
    let demo = Demo::ready(json!({"replicas": 3, "writeQuorum": 2, "delay": {"maxMs": 20}})).await;
    claim(&demo, "archive").await;
    let backup = |destination: &str| json!({"schedule": NEVER, "destination": destination, "keep": 2});
    demo.patch(json!({"backup": backup("pvc://archive/of/demo")})).await.unwrap();
    demo.until("says that there is no backup yet", |cluster| condition(cluster, "BackupSucceeded").1 == "NoneYet")
        .await;
    demo.until_object::<CronJob>("demo-backup", "there", |job| job.is_some()).await;

    let writer = Writer::start(&demo).await;
    writer.progress().await;
    kv(&demo, &["backup", "demo", "--now"]).await;
    demo.until("has a backup", |cluster| is_true(cluster, "BackupSucceeded")).await;
    println!("under load: {:?}; {}", status(&demo).await.last_success, writer.finish(&demo).await);

    let leader = demo.service().await;
    let put = async |key: &str, value: &str| {
        let answer = ask(Method::POST, &format!("{leader}/put"), Some(json!({"key": key, "value": value}))).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
    };
    put("fruit", "quince").await;
    let before = values(&leader).await;
    let saved = job(&demo, "second", None).await;
    assert_eq!(saved, "Complete");
    put("fruit", "medlar").await;
    assert_eq!(job(&demo, "restore", Some(&["--from", "/backups/of/demo/", "--cluster", "x/other"])).await, "Failed");
    assert_ne!(values(&leader).await, before, "the backup is not of that cluster");
    let cluster = format!("{}/demo", demo.namespace);
    let words = ["--from", "/backups/of/demo/", "--cluster", &cluster, "--overwrite"];
    assert_eq!(job(&demo, "restore-own", Some(&words)).await, "Complete");
    assert_eq!(values(&leader).await, before, "every key is as in the backup");

    // What fails is said with its reason, as a condition, in the status and as an event, and the cluster serves on.
    let gone = json!({"schedule": NEVER, "destination": "s3://bucket/of/demo", "secretName": "keys"});
    demo.patch(json!({"backup": gone})).await.unwrap();
    demo.until_object::<CronJob>("demo-backup", "with the new destination", |job| {
        job.is_some_and(|job| serde_json::to_string(job).unwrap().contains("s3://bucket/of/demo"))
    })
    .await;
    let last = status(&demo).await.last_success.expect("a backup");
    create_job(&demo, "without-a-secret", None).await;
    demo.until("says that the Secret is missing", |cluster| {
        let failure = cluster.status.clone().unwrap_or_default().backup.unwrap_or_default().last_failure;
        condition(cluster, "BackupSucceeded") == ("False".to_owned(), "Failed".to_owned())
            && failure.is_some_and(|failure| failure.reason.contains("secret \"keys\" not found"))
    })
    .await;
    assert!(is_true(&demo.api::<KvCluster>().get("demo").await.unwrap(), "Ready"));
    assert_eq!(status(&demo).await.last_success, Some(last), "the last good one stays known");
    let events = demo.api::<Event>().list(&ListParams::default()).await.unwrap().items;
    for reason in ["BackupSucceeded", "BackupFailed"] {
        assert!(events.iter().any(|event| event.reason.as_deref() == Some(reason)), "no event {reason}");
    }

    // A merge patch removes the schedule.
    demo.patch(json!({"backup": null})).await.unwrap();
    demo.until_object::<CronJob>("demo-backup", "gone", |job| job.is_none()).await;
    demo.remove().await;
}

async fn status(demo: &Demo) -> BackupStatus {
    demo.api::<KvCluster>().get("demo").await.unwrap().status.unwrap().backup.unwrap_or_default()
}

/// The values of all keys.
pub async fn values(leader: &str) -> Vec<(String, Value)> {
    let (code, dump) = ask(Method::GET, &format!("{leader}/dump"), None).await;
    assert_eq!(code, 200);
    let entries = dump["entries"].as_object().unwrap();
    let mut values: Vec<_> = entries.iter().map(|(key, entry)| (key.clone(), entry["value"].clone())).collect();
    values.sort_by(|a, b| a.0.cmp(&b.0));
    values
}

pub async fn claim(demo: &Demo, name: &str) {
    let claim = json!({"metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}});
    let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
    demo.api::<PersistentVolumeClaim>().create(&PostParams::default(), &claim).await.unwrap();
}

/// As `kubectl create job --from=cronjob/demo-backup NAME`; or with the same pod to run `kvctl restore`.
async fn create_job(demo: &Demo, name: &str, restore: Option<&[&str]>) {
    let template = demo.api::<CronJob>().get("demo-backup").await.unwrap().spec.unwrap().job_template;
    let mut spec = template.spec.unwrap();
    if let Some(words) = restore {
        spec.backoff_limit = Some(0);
        // Not as a backup, which the operator would report on.
        spec.template.metadata.as_mut().unwrap().labels.as_mut().unwrap().remove("app.kubernetes.io/managed-by");
        let container = &mut spec.template.spec.as_mut().unwrap().containers[0];
        let leader = format!("http://demo.{}.svc:8000", demo.namespace);
        let words = [&["restore", "--leader", &leader], words].concat();
        container.args = Some(words.into_iter().map(str::to_owned).collect());
    }
    let mut job = Job { metadata: template.metadata.unwrap_or_default(), spec: Some(spec), status: None };
    job.metadata.name = Some(name.to_owned());
    let made = demo.api::<Job>().create(&PostParams::default(), &job).await.unwrap();
    assert_eq!(made.name_any(), name);
}

/// Makes a Job, and waits until it has ended: `Complete` or `Failed`.
async fn job(demo: &Demo, name: &str, restore: Option<&[&str]>) -> String {
    create_job(demo, name, restore).await;
    demo.until_object::<Job>(name, "ended", |job| job.is_some_and(|job| ended(job).is_some())).await;
    ended(&demo.api::<Job>().get(name).await.unwrap()).unwrap()
}

fn ended(job: &Job) -> Option<String> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ends = |type_: &str| ["Complete", "Failed"].contains(&type_);
    conditions.iter().find(|c| ends(&c.type_) && c.status == "True").map(|c| c.type_.clone())
}
