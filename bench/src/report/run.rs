//! The results of each subcommand as a [`Run`](super::Run).

mod check;
mod compare;
mod curve;
mod load;
mod staleness;
mod sweep;

use anyhow::Result;

use super::{Finding, Run, document::Document};

/// Results of one subcommand.
pub(super) struct Kind {
    /// What writes them.
    pub(super) command: &'static str,
    /// Makes a run of them. Fails where the document is of another kind.
    pub(super) read: fn(Document<'_>) -> Result<Run>,
    pictures: &'static [(&'static str, &'static str)],
}

impl Kind {
    /// The drawings beside a file of results, with what they show.
    pub(super) fn pictures(&self, file: &str) -> Vec<(String, &'static str)> {
        let stem = file.trim_end_matches(".json");
        self.pictures.iter().map(|(name, alt)| (name.replace('*', stem), *alt)).collect()
    }
}

/// What a file of this name is the result of.
pub(super) fn kind_of(name: &str) -> Option<Kind> {
    let kind = |command, read, pictures| Kind { command, read, pictures };
    Some(match name {
        "sweep.json" => kind(
            "kv-bench sweep",
            sweep::read,
            &[
                ("quorum_vs_latency.svg", "Latency at each write quorum, measured and in theory"),
                ("latency_distributions.svg", "Distribution of the latency at each quorum, measured and in theory"),
            ],
        ),
        "staleness.json" => kind(
            "kv-bench staleness",
            staleness::read,
            &[("staleness.svg", "Stale reads by the time since the commit, measured and in theory")],
        ),
        "load.json" => kind("kv-bench load", load::read, &[("load.svg", "Throughput and latency over time")]),
        "compare.json" => kind("kv-bench compare", compare::read, &[]),
        "check.json" => kind("kv-bench check", check::read, &[("violation.svg", "The history around a violation")]),
        name if name.starts_with("curve_") && name.ends_with(".json") => {
            kind("kv-bench curves", curve::read, &[("*.svg", "Throughput, processor time and latency by this setting")])
        }
        _ => return None,
    })
}

/// The findings of a file whose findings have kinds; those of `sound` are no warnings.
fn findings(document: Document<'_>, sound: &[&str]) -> Vec<Finding> {
    let of = |item: Document<'_>| {
        let is_warning = !sound.contains(&item.text("/kind").unwrap_or_default().as_str());
        Finding { is_warning, text: item.text("/text").unwrap_or_default() }
    };
    let mut findings: Vec<Finding> = document.items("/findings").map(of).collect();
    findings.extend(ends(document));
    findings.sort_by_key(|finding| !finding.is_warning);
    findings
}

/// What ended a run before its time.
fn ends(document: Document<'_>) -> Vec<Finding> {
    let warning = |text: String| Finding { is_warning: true, text };
    let interrupted = document.is_true("/interrupted");
    let interrupted = interrupted.then(|| warning("interrupted: these are partial results".to_owned()));
    let failure = document.text("/failure").map(|failure| warning(format!("stopped early: {failure}")));
    interrupted.into_iter().chain(failure).collect()
}

/// Where the cluster was, when, and with which programs, for all runs whose files say so.
fn origin(document: Document<'_>) -> Vec<(&'static str, String)> {
    let versions = ["/versions/node", "/versions/bench", "/bench_version", "/version"];
    let names = ["kv-node", "kv-bench", "kv-bench", "kv-bench"];
    let versions =
        versions.into_iter().zip(names).filter_map(|(path, name)| Some(format!("{name} {}", document.text(path)?)));
    let versions = versions.collect::<Vec<_>>().join(", ");
    let facts = [
        ("cluster", document.text("/target").unwrap_or_default()),
        ("started", document.text("/started_at").unwrap_or_default()),
        ("programs", versions),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

/// The options of a command that name the same cluster; `local` are those of one to start.
fn cluster_options(document: Document<'_>, local: String) -> String {
    match document.text("/target").unwrap_or_default().as_str() {
        "docker compose" => "--compose".to_owned(),
        other => match (other.strip_prefix("cluster at "), other.strip_prefix("KvCluster ")) {
            (Some(url), _) => format!("--leader {url}"),
            (None, Some(rest)) => {
                let mut words = rest.split([' ', ',']).filter(|word| !word.is_empty());
                let (name, namespace) = (words.next().unwrap_or_default(), words.nth(2).unwrap_or_default());
                format!("--kube {name} --namespace {namespace}")
            }
            (None, None) => local,
        },
    }
}

/// `--name value` where the document has the value.
fn option(document: Document<'_>, name: &str, path: &str) -> Option<String> {
    document.text(path).map(|value| format!("{name} {value}"))
}

/// A command of its parts; an empty part is left out.
fn command(parts: impl IntoIterator<Item = String>) -> String {
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The law of the delays as an option, and in words.
fn delays(settings: Document<'_>) -> (String, String) {
    let law = settings.at("/delay");
    if !law.is_there() {
        let (min, max) = (settings.shown("/min_delay_ms"), settings.shown("/max_delay_ms"));
        return (format!("--min-delay-ms {min} --max-delay-ms {max}"), format!("{min}-{max} ms"));
    }
    let is_name = law.0.as_object().is_some_and(|fields| fields.len() == 1);
    match law.text("/preset").filter(|_| is_name) {
        Some(name) => (format!("--delay {name}"), name),
        None => (format!("--delay '{}'", law.0), law.0.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_names_the_cluster_of_the_run() {
        let options = |target: &str| {
            let value = json!({"target": target});
            cluster_options(Document(&value), "--follower-count 5".to_owned())
        };
        assert_eq!(options("local processes"), "--follower-count 5");
        assert_eq!(options("docker compose"), "--compose");
        assert_eq!(options("cluster at http://leader:8000"), "--leader http://leader:8000");
        assert_eq!(options("KvCluster demo in namespace blue, through port-forward"), "--kube demo --namespace blue");
    }

    #[test]
    fn delays_are_options_and_words() {
        let of = |value: serde_json::Value| delays(Document(&value));
        assert_eq!(
            of(json!({"min_delay_ms": 3, "max_delay_ms": 9})),
            ("--min-delay-ms 3 --max-delay-ms 9".into(), "3-9 ms".into())
        );
        assert_eq!(of(json!({"delay": {"preset": "yammer"}})), ("--delay yammer".into(), "yammer".into()));
        let capped = r#"{"preset":"yammer","capMs":9}"#;
        assert_eq!(
            of(json!({"delay": {"preset": "yammer", "capMs": 9}})),
            (format!("--delay '{capped}'"), capped.into())
        );
    }

    #[test]
    fn warnings_come_first() {
        let value = json!({"findings": [{"kind": "agreement", "text": "a"}, {"kind": "queues", "text": "b"}],
            "interrupted": true, "failure": "gone"});
        let texts: Vec<_> =
            findings(Document(&value), &["agreement"]).into_iter().map(|finding| finding.text).collect();
        assert_eq!(texts, ["b", "interrupted: these are partial results", "stopped early: gone", "a"]);
    }
}
