//! What clients ask about the node and about themselves: HELLO, INFO, CLIENT, COMMAND and CONFIG.

use std::fmt::Write;
use std::time::Duration;

use super::backend::Backend;
use super::client::Client;
use super::errors::Error;
use super::output::Output;
use super::table::{self, TABLE};
use crate::replication::coordinator::Condition;

/// Longest name of a client, in bytes.
const CLIENT_NAME_BYTES_MAX: usize = 1024;

/// A follower hears its leader every 100 ms.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// The reply to HELLO.
pub(super) fn hello(client: &Client, out: &mut Output) {
    out.map(7);
    let mut text = |name: &str, value: &str| {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    };
    text("server", "kvcluster");
    text("version", env!("CARGO_PKG_VERSION"));
    text("mode", "standalone");
    text("role", role(&client.backend));
    out.bulk(b"proto");
    out.integer(if client.resp3 { 3 } else { 2 });
    out.bulk(b"id");
    out.integer(client.id as i64);
    out.bulk(b"modules");
    out.array(0);
}

fn role(backend: &Backend) -> &'static str {
    match backend {
        Backend::Leader(_) => "master",
        Backend::Follower(_) => "replica",
    }
}

/// A name that a client gives itself.
pub(super) fn client_name(name: &[u8]) -> Result<Vec<u8>, Error> {
    if name.len() > CLIENT_NAME_BYTES_MAX {
        return Err(Error::wrong(format_args!("a client name has at most {CLIENT_NAME_BYTES_MAX} bytes")));
    }
    if name.iter().any(|byte| !(b'!'..=b'~').contains(byte)) {
        return Err(Error::wrong("Client names cannot contain spaces, newlines or special characters."));
    }
    Ok(name.to_vec())
}

/// CLIENT.
pub(super) fn client(client: &mut Client, what: &[u8], rest: &[&[u8]], out: &mut Output) -> Result<(), Error> {
    match (what.to_ascii_uppercase().as_slice(), rest) {
        (b"ID", []) => out.integer(client.id as i64),
        (b"GETNAME", []) if client.name.is_empty() => out.null(),
        (b"GETNAME", []) => out.bulk(&client.name),
        (b"SETNAME", [name]) => {
            client.name = client_name(name)?;
            out.ok();
        }
        (b"SETINFO", [attribute, value]) => {
            if !matches!(attribute.to_ascii_uppercase().as_slice(), b"LIB-NAME" | b"LIB-VER") {
                let attribute = String::from_utf8_lossy(attribute);
                return Err(Error::wrong(format_args!("Unrecognized option '{attribute}'")));
            }
            client_name(value)?;
            out.ok();
        }
        (b"INFO", []) => {
            let (name, resp) = (String::from_utf8_lossy(&client.name), if client.resp3 { 3 } else { 2 });
            out.verbatim(&format!("id={} name={name} db=0 resp={resp}\n", client.id));
        }
        // The node evicts nothing.
        (b"NO-EVICT" | b"NO-TOUCH", [switch]) => match switch.to_ascii_uppercase().as_slice() {
            b"ON" | b"OFF" => out.ok(),
            _ => return Err(Error::SYNTAX),
        },
        (b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO" | b"INFO" | b"NO-EVICT" | b"NO-TOUCH", _) => {
            let what = String::from_utf8_lossy(what).to_ascii_lowercase();
            return Err(Error::arity(&format!("client|{what}")));
        }
        _ => return Err(no_subcommand("CLIENT", what)),
    }
    Ok(())
}

fn no_subcommand(command: &str, what: &[u8]) -> Error {
    let what: String = String::from_utf8_lossy(what).chars().take(128).collect();
    Error::wrong(format_args!("unknown subcommand '{what}' of {command}"))
}

/// COMMAND.
pub(super) fn command(rest: &[&[u8]], out: &mut Output) -> Result<(), Error> {
    let find = |name: &[u8]| table::find(&name.to_ascii_uppercase());
    let Some((what, rest)) = rest.split_first() else {
        out.array(TABLE.len());
        TABLE.iter().for_each(|spec| spec.describe(out));
        return Ok(());
    };
    match (what.to_ascii_uppercase().as_slice(), rest) {
        (b"COUNT", []) => out.integer(TABLE.len() as i64),
        (b"INFO", []) => return command(&[], out),
        (b"INFO", names) => {
            out.array(names.len());
            for name in names {
                match find(name) {
                    Some(spec) => spec.describe(out),
                    None => out.null(),
                }
            }
        }
        (b"DOCS", names) => {
            let asked = |spec: &&table::Spec| {
                names.is_empty() || names.iter().any(|name| name.eq_ignore_ascii_case(spec.name.as_bytes()))
            };
            out.map(TABLE.iter().filter(asked).count());
            TABLE.iter().filter(asked).for_each(|spec| spec.document(out));
        }
        (b"GETKEYS", [name, ..]) => {
            let spec = find(name).ok_or_else(|| Error::wrong("Invalid command specified"))?;
            if !spec.takes(rest.len()) {
                return Err(Error::wrong("Invalid number of arguments specified for command"));
            }
            let keys: Vec<&[u8]> = spec.keys(rest.len()).filter_map(|position| rest.get(position).copied()).collect();
            if keys.is_empty() {
                return Err(Error::wrong("The command has no key arguments"));
            }
            out.array(keys.len());
            keys.iter().for_each(|key| out.bulk(key));
        }
        (b"COUNT" | b"GETKEYS", _) => {
            return Err(Error::arity(&format!("command|{}", String::from_utf8_lossy(what).to_ascii_lowercase())));
        }
        _ => return Err(no_subcommand("COMMAND", what)),
    }
    Ok(())
}

/// CONFIG GET: settings of Redis that clients and tools ask for.
pub(super) fn config(backend: &Backend, what: &[u8], rest: &[&[u8]], out: &mut Output) -> Result<(), Error> {
    if !what.eq_ignore_ascii_case(b"GET") {
        return Err(match what.to_ascii_uppercase().as_slice() {
            b"SET" | b"REWRITE" | b"RESETSTAT" => {
                Error::wrong("the settings of a leader change by PATCH /config, others by a restart")
            }
            _ => no_subcommand("CONFIG", what),
        });
    }
    if rest.is_empty() {
        return Err(Error::arity("config|get"));
    }
    let longest = backend.site().value_bytes_max.to_string();
    let settings = [
        ("appendonly", "no"),
        ("databases", "1"),
        ("maxmemory", "0"),
        ("maxmemory-policy", "noeviction"),
        ("proto-max-bulk-len", &*longest),
        ("save", ""),
        ("timeout", "0"),
    ];
    let asked = |(name, _): &&(&str, &str)| {
        rest.iter().any(|pattern| super::glob::matches(&pattern.to_ascii_lowercase(), name.as_bytes()))
    };
    let found: Vec<_> = settings.iter().filter(asked).collect();
    out.map(found.len());
    for (name, value) in found {
        out.bulk(name.as_bytes());
        out.bulk(value.as_bytes());
    }
    Ok(())
}

/// INFO.
pub(super) fn info(client: &Client, sections: &[&[u8]], out: &mut Output) {
    let all = [("server", server as fn(&Backend) -> String), ("replication", replication), ("keyspace", keyspace)];
    let wanted = |name: &str| {
        let every = |section: &&[u8]| {
            [&b"all"[..], b"everything", b"default"].iter().any(|all| section.eq_ignore_ascii_case(all))
        };
        sections.is_empty()
            || sections.iter().any(|section| every(section) || section.eq_ignore_ascii_case(name.as_bytes()))
    };
    let mut text = String::new();
    for (name, describe) in all.iter().filter(|(name, _)| wanted(name)) {
        let (first, rest) = name.split_at(1);
        // Writing into a string cannot fail.
        let _ = write!(text, "# {}{rest}\r\n{}\r\n", first.to_ascii_uppercase(), describe(&client.backend));
    }
    out.verbatim(&text);
}

fn server(backend: &Backend) -> String {
    format!(
        "server_name:kvcluster\r\nkvcluster_version:{}\r\nredis_mode:standalone\r\nnode_name:{}\r\nprocess_id:{}\r\n\
         several_keys:MSET and DEL of several keys are one write for each key and not atomic together\r\n",
        env!("CARGO_PKG_VERSION"),
        backend.site().name,
        std::process::id(),
    )
}

fn replication(backend: &Backend) -> String {
    match backend {
        Backend::Leader(leader) => {
            let view = leader.leader.view();
            let connected = view.followers.iter().filter(|place| place.follower.lag_writes == 0).count();
            let state = match view.condition {
                Condition::Open(_) => "open",
                Condition::CutOff(_) => "cut_off",
                Condition::Candidate(..) => "standby",
                Condition::Recovering(_) | Condition::Opening(_) => "recovering",
                Condition::Fenced(_) | Condition::Resigned => "replaced",
            };
            format!(
                "role:master\r\nconnected_slaves:{}\r\nfollowers_without_lag:{connected}\r\nwrite_quorum:{}\r\n\
                 epoch:{}\r\nleader_state:{state}\r\nwrites_in_flight:{}\r\n",
                leader.leader.confirmed_by(0),
                view.config.in_force.write_quorum,
                view.epoch,
                view.in_flight,
            )
        }
        Backend::Follower(follower) => {
            let view = follower.replica.view();
            let staleness = view.staleness.map_or("unknown".to_owned(), |staleness| staleness.as_millis().to_string());
            let hears = view.heard.is_some_and(|heard| heard < HEARD_WITHIN);
            let link = if hears { "up" } else { "down" };
            format!(
                "role:slave\r\nmaster_link_status:{link}\r\nmaster_url:{}\r\nstaleness_ms:{staleness}\r\n",
                view.leader.as_deref().unwrap_or("unknown"),
            )
        }
    }
}

fn keyspace(backend: &Backend) -> String {
    format!("keys_with_deleted_ones:{}\r\n", backend.positions())
}
