//! Goal: no moment at which a node refuses another or a client, whatever is renewed, deleted or written by others.
//! Method: Secrets in memory and a clock in the test's hands. What is checked is what nodes check.

use std::sync::Arc;

use k8s_openapi::ByteString;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};

use super::*;
use crate::fixtures::validated;

fn start() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a time")
}

fn days(count: i32) -> SignedDuration {
    DAY.saturating_mul(count)
}

fn secret(parts: &[(&str, &str)]) -> Arc<Secret> {
    let data = parts.iter().map(|(key, part)| ((*key).to_owned(), ByteString(part.as_bytes().to_vec()))).collect();
    Arc::new(Secret { data: Some(data), ..Secret::default() })
}

/// What the operator writes.
fn written(of: &Certificates) -> Secrets {
    let Issued { authority, node } = of.issued.as_ref().expect("certificates of the operator");
    let trusted = of.trusted.as_deref().expect("a CA");
    let authority = secret(&[(CERTIFICATE_KEY, &authority.certificate), (PRIVATE_KEY, &authority.key)]);
    let node = [(CERTIFICATE_KEY, node.certificate.as_str()), (PRIVATE_KEY, &node.key), (CA_KEY, trusted)];
    Secrets { authority: Some(authority), certificate: Some(secret(&node)), ..Secrets::none() }
}

fn node_of(of: &Certificates) -> &Pair {
    &of.issued.as_ref().expect("certificates of the operator").node
}

fn authority_of(of: &Certificates) -> &Pair {
    &of.issued.as_ref().expect("certificates of the operator").authority
}

fn trusted_of(of: &Certificates) -> &str {
    of.trusted.as_deref().expect("a CA")
}

/// Whether nodes with the files of `one` accept the certificate of `other`.
fn accepts(one: &Certificates, other: &Certificates, now: Timestamp) -> bool {
    let Pair { certificate, key } = node_of(other);
    inspect(certificate.as_bytes(), key.as_bytes(), trusted_of(one).as_bytes(), &[], now).is_ok()
}

fn message(state: &State) -> (&'static str, String) {
    match state {
        State::NotNeeded => ("NotNeeded", String::new()),
        State::Valid(message) => ("Valid", message.clone()),
        State::ExpiresSoon(message) => ("ExpiresSoon", message.clone()),
        State::Invalid { reason, message } => (reason, message.clone()),
    }
}

#[test]
fn the_first_certificate_is_valid_for_every_name_of_the_cluster() {
    let cluster = validated("{tls: {}}");
    let first = decide(&cluster, &Secrets::none(), start());
    let Pair { certificate, key } = node_of(&first);
    let all = [
        "demo",
        "demo.shop",
        "demo.shop.svc",
        "demo.shop.svc.cluster.example",
        "demo-read.shop.svc",
        "demo-followers.shop.svc.cluster.example",
        "demo-follower-3.demo-followers.shop",
        "demo-follower-63.demo-followers.shop.svc",
        "demo-follower-0.demo-followers.shop.svc.cluster.example",
        "localhost",
        "127.0.0.1",
        "::1",
    ]
    .map(str::to_owned);
    let check = |names: &[String]| {
        inspect(certificate.as_bytes(), key.as_bytes(), trusted_of(&first).as_bytes(), names, start())
    };
    let validity = check(&all).expect("it is accepted");
    assert_eq!(validity, Validity { not_before: start() - BACKDATED, not_after: start() + days(90) });
    for other in ["other.shop.svc", "demo.elsewhere.svc", "a.b.demo-followers.shop.svc", "10.0.0.1"] {
        assert!(check(&[other.to_owned()]).is_err(), "{other}");
    }
    assert_eq!(message(&first.state).0, "Valid");
    assert!(message(&first.state).1.ends_with("is valid until 2026-05-30T12:00:00Z"), "{:?}", first.state);
    assert_eq!(decide(&validated("{}"), &Secrets::none(), start()), Certificates::none());
}

#[test]
fn nothing_changes_before_it_is_due_and_then_the_certificate_alone() {
    let cluster = validated("{tls: {}}");
    let first = decide(&cluster, &Secrets::none(), start());
    for day in [0, 1, 59] {
        let later = decide(&cluster, &written(&first), start() + days(day));
        assert_eq!((&later.issued, &later.trusted), (&first.issued, &first.trusted), "day {day}");
        assert_eq!(later.due, Some(start() + days(60)), "day {day}");
    }
    let renewed = decide(&cluster, &written(&first), start() + days(60));
    assert_ne!(node_of(&renewed), node_of(&first));
    assert_eq!((authority_of(&renewed), &renewed.trusted), (authority_of(&first), &first.trusted));
    assert_eq!(renewed.due, Some(start() + days(120)));
    for (one, other) in [(&first, &renewed), (&renewed, &first)] {
        assert!(accepts(one, other, start() + days(60)), "nodes read the new one at different times");
    }
}

/// Until the operator is back nodes refuse each other. It must not wait any longer.
#[test]
fn one_that_has_expired_or_was_damaged_is_replaced_at_once() {
    let cluster = validated("{tls: {}}");
    let first = decide(&cluster, &Secrets::none(), start());
    let other = decide(&cluster, &Secrets::none(), start());
    let with = |key: &str, part: &str| {
        let mut secrets = written(&first);
        let mut node = (*secrets.certificate.take().expect("a Secret")).clone();
        node.data.get_or_insert_default().insert(key.to_owned(), ByteString(part.as_bytes().to_vec()));
        Secrets { certificate: Some(Arc::new(node)), ..secrets }
    };
    for (what, secrets, now) in [
        ("expired", written(&first), start() + days(91)),
        ("deleted", Secrets { certificate: None, ..written(&first) }, start()),
        ("the key of another", with(PRIVATE_KEY, &node_of(&other).key), start()),
        ("no certificate", with(CERTIFICATE_KEY, "gone"), start()),
        ("of another CA", with(CERTIFICATE_KEY, &node_of(&other).certificate), start()),
    ] {
        let next = decide(&cluster, &secrets, now);
        assert_ne!(node_of(&next), node_of(&first), "{what}");
        assert_eq!(authority_of(&next), authority_of(&first), "{what}");
        assert!(accepts(&next, &next, now), "{what}");
    }
}

#[test]
fn other_names_are_another_certificate() {
    let first = decide(&validated("{tls: {}}"), &Secrets::none(), start());
    let mut moved = validated("{tls: {}}");
    moved.domain = Some("other.example".to_owned());
    let now = start() + SPREAD;
    let next = decide(&moved, &written(&first), now);
    assert_ne!(node_of(&next), node_of(&first));
    assert_eq!(decide(&moved, &written(&next), now).issued, next.issued);
}

// Goal: a CA that is due, and one that was deleted by hand, are replaced while each pair of nodes accepts each other, however
// late one of the two reads its files. Method: every step by the hour; each node has the files of a step or of the one before.
#[test]
fn a_new_ca_is_trusted_by_all_before_it_signs() {
    let cluster = validated("{tls: {}}");
    let first = decide(&cluster, &Secrets::none(), start());
    let due = start() + days(3650 - 365);
    // With a certificate of the old CA that is not due itself.
    let before = decide(&cluster, &Secrets { certificate: None, ..written(&first) }, due - days(1));
    assert_eq!(authority_of(&before), authority_of(&first));
    let lost = Secrets { authority: None, ..written(&before) };
    for (what, mut secrets, begin) in [("due", written(&before), due), ("deleted", lost, due - days(1))] {
        let mut history = vec![before.clone()];
        for minutes in (0..=180).step_by(10) {
            let now = begin + SignedDuration::from_mins(minutes);
            let next = decide(&cluster, &secrets, now);
            let previous = history.last().expect("a step");
            for (one, other) in [(previous, &next), (&next, previous), (&next, &next)] {
                assert!(accepts(one, other, now), "{what} after {minutes} minutes");
            }
            secrets = written(&next);
            history.push(next);
        }
        let last = history.last().expect("a step");
        assert_ne!(authority_of(last), authority_of(&before), "{what}");
        assert_ne!(node_of(last), node_of(&before), "{what}");
        assert_eq!(inspect::blocks(trusted_of(last)).count(), 2, "{what}");
        let changes = history.windows(2).filter(|pair| node_of(&pair[0]) != node_of(&pair[1])).count();
        assert_eq!(changes, 1, "{what}");
        let expired = decide(&cluster, &written(last), start() + days(3651));
        assert_eq!(inspect::blocks(trusted_of(&expired)).count(), 1, "{what}: the old CA has expired");
    }
}

#[test]
fn the_operator_looks_again_when_the_new_ca_may_sign() {
    let cluster = validated("{tls: {}}");
    let first = decide(&cluster, &Secrets::none(), start());
    let now = start() + days(1);
    let replaced = decide(&cluster, &Secrets { authority: None, ..written(&first) }, now);
    assert_eq!(replaced.due, Some(now + SPREAD));
    assert_eq!(node_of(&replaced), node_of(&first));
}

#[test]
fn a_paused_cluster_reports_what_it_has_and_not_what_would_be_next() {
    let paused = validated("{tls: {}, paused: true}");
    let first = decide(&validated("{tls: {}}"), &Secrets::none(), start());
    let state = |secrets: &Secrets, day: i32| message(&decide(&paused, secrets, start() + days(day)).state);
    assert_eq!(state(&written(&first), 65).0, "Valid");
    let (reason, soon) = state(&written(&first), 73);
    assert_eq!(reason, "ExpiresSoon");
    assert!(soon.contains("expires at 2026-05-30T12:00:00Z"), "{soon}");
    assert_eq!(state(&written(&first), 91).0, "Expired");
    let (reason, missing) = state(&Secrets::none(), 0);
    assert_eq!(reason, "SecretMissing");
    assert!(missing.contains("demo-tls does not exist, and the cluster is paused"), "{missing}");
}

/// A certificate of somebody else's CA.
fn foreign(names: &[&str], change: impl Fn(&mut CertificateParams)) -> (String, Pair) {
    let authority = issue::authority(&validated("{}"), days(1000), start()).expect("a CA");
    let issuer = KeyPair::from_pem(&authority.key).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&authority.certificate, issuer).expect("a CA");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = rcgen::date_time_ymd(2026, 2, 1);
    params.not_after = rcgen::date_time_ymd(2026, 5, 2);
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    (authority.certificate, Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

#[test]
fn a_secret_of_cert_manager_is_checked_in_words() {
    const NAMES: [&str; 2] = ["demo.shop.svc", "demo-followers.shop.svc.cluster.example"];
    let cluster = validated("{tls: {secretName: shops}}");
    let (ca, good) = foreign(&NAMES, |_| {});
    let (other_ca, _) = foreign(&NAMES, |_| {});
    let (server_ca, server) = foreign(&NAMES, |params| params.extended_key_usages.truncate(1));
    let (short_ca, short) = foreign(&NAMES[..1], |_| {});
    let of =
        |pair: &Pair, ca: &str| secret(&[(CERTIFICATE_KEY, &pair.certificate), (PRIVATE_KEY, &pair.key), (CA_KEY, ca)]);
    let swapped = Pair { key: server.key.clone(), ..good.clone() };
    let (soon, late): (Timestamp, Timestamp) =
        ("2026-04-20T00:00:00Z".parse().expect("a time"), "2026-05-03T00:00:00Z".parse().expect("a time"));
    for (found, now, expected, words) in [
        (None, start(), "SecretMissing", "the Secret shops does not exist: nodes that run keep the certificate"),
        (Some(secret(&[])), start(), "KeyMissing", "the Secret shops has no key tls.crt"),
        (Some(of(&good, "")), start(), "KeyMissing", "has no key ca.crt"),
        (Some(of(&good, "none")), start(), "Malformed", "ca.crt has no certificate in PEM"),
        (Some(of(&Pair { certificate: "x".to_owned(), ..good.clone() }, &ca)), start(), "Malformed", "tls.crt has no"),
        (Some(of(&Pair { key: "x".to_owned(), ..good.clone() }, &ca)), start(), "Malformed", "tls.key has no private"),
        (Some(of(&swapped, &ca)), start(), "KeyMismatch", "tls.key is not the key of the certificate"),
        (Some(of(&good, &other_ca)), start(), "UnknownIssuer", "is not of a CA in ca.crt"),
        (Some(of(&server, &server_ca)), start(), "WrongUsage", "nodes need both usages"),
        (Some(of(&short, &short_ca)), start(), "NameMissing", "does not name demo-followers.shop.svc.cluster.example"),
        (Some(of(&good, &ca)), late, "Expired", "expired at 2026-05-02T00:00:00Z"),
        (Some(of(&good, &ca)), start() - days(100), "NotValidYet", "is not valid before 2026-02-01T00:00:00Z"),
        (Some(of(&good, &ca)), soon, "ExpiresSoon", "should have been renewed by now"),
        (Some(of(&good, &ca)), start(), "Valid", "the certificate of the Secret shops is valid until 2026-05-02"),
    ] {
        let decided = decide(&cluster, &Secrets { certificate: found, ..Secrets::none() }, now);
        let (reason, message) = message(&decided.state);
        assert_eq!(reason, expected, "{message}");
        assert!(message.contains(words), "{message}");
        assert!(decided.issued.is_none(), "the operator issues nothing");
    }
    let decided = decide(&cluster, &Secrets { certificate: Some(of(&swapped, &ca)), ..Secrets::none() }, start());
    assert_eq!(decided.trusted, Some(ca), "nodes that run still have certificates of it");
}

#[test]
fn the_key_is_in_no_text() {
    let first = decide(&validated("{tls: {}}"), &Secrets::none(), start());
    assert!(!format!("{first:?}").contains("PRIVATE KEY"));
}
