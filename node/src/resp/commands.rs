//! The commands by name: which arguments they take, and what answers them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngExt;

use super::about;
use super::backend::{Backend, Turn};
use super::client::{Client, Under};
use super::errors::Error;
use super::frames::integer;
use super::output::Output;
use super::slot::{Form, Slot};
use super::table::{self, Spec};
use super::walk::Walk;

/// Longest name that is compared, in bytes.
const NAME_BYTES_MAX: usize = 16;

/// Keys that one step of SCAN looks at.
const SCAN_KEYS: i64 = 10;
const SCAN_KEYS_MAX: i64 = 65_536;

impl Client {
    /// Handles a command. Writes the reply, or returns the slot in which it will be known.
    pub(super) fn handle(
        &mut self,
        args: &[&[u8]],
        under: &Under<'_>,
        turn: &mut Turn<'_>,
        out: &mut Output,
    ) -> Option<Slot> {
        match self.dispatch(args, under, turn, out) {
            Ok(slot) => slot,
            Err(error) => {
                out.error(error.text());
                None
            }
        }
    }

    fn dispatch(
        &mut self,
        args: &[&[u8]],
        under: &Under<'_>,
        turn: &mut Turn<'_>,
        out: &mut Output,
    ) -> Result<Option<Slot>, Error> {
        let Some((name, rest)) = args.split_first() else { return Ok(None) };
        let mut upper = [0; NAME_BYTES_MAX];
        let upper = upper.get_mut(..name.len()).unwrap_or_default();
        upper.copy_from_slice(&name[..upper.len()]);
        upper.make_ascii_uppercase();
        if matches!(&*upper, b"POST" | b"HOST:") {
            // A browser or an HTTP client: what follows could be a command of a foreign page.
            self.quits = true;
            return Err(Error::wrong("this port speaks Redis' protocol, not HTTP"));
        }
        let spec = table::find(upper);
        if !self.authenticated && !spec.is_some_and(Spec::is_open) {
            return Err(Error::NO_AUTH);
        }
        self.refuse_transaction(upper)?;
        let spec = spec.ok_or_else(|| table::unknown(name))?;
        if !spec.takes(args.len()) {
            return Err(Error::arity(&spec.lower()));
        }
        if !spec.has_keys() {
            // Such a command uses the node by itself.
            turn.end();
        }
        let slot = match (spec.name, rest) {
            ("SET", _) => self.set(args, turn)?,
            ("GET", keys) => self.read(keys, Form::Value, under, turn)?,
            ("MGET", keys) => self.read(keys, Form::Values, under, turn)?,
            ("EXISTS", keys) => self.read(keys, Form::Present, under, turn)?,
            ("STRLEN", keys) => self.read(keys, Form::Length, under, turn)?,
            ("TYPE", keys) => self.read(keys, Form::Type, under, turn)?,
            ("SETNX", [key, new]) => self.set_absent(key, new, turn)?,
            ("GETSET", [key, new]) => self.replace(key, Some(new), turn)?,
            ("GETDEL", [key]) => self.replace(key, None, turn)?,
            ("APPEND", [key, more]) => self.append(key, more, turn)?,
            ("INCR", [key]) => self.increment(key, b"1", turn)?,
            ("INCRBY", [key, by]) => self.increment(key, by, turn)?,
            ("DECR", [key]) => self.decrement(key, b"1", turn)?,
            ("DECRBY", [key, by]) => self.decrement(key, by, turn)?,
            ("MSET", pairs) => self.set_all(pairs, turn)?,
            ("DEL" | "UNLINK", keys) => self.delete(keys, turn)?,
            ("WAIT", [wanted, timeout]) => self.wait(wanted, timeout, false)?,
            ("WAITAOF", [local, wanted, timeout]) => {
                if *local != b"0" {
                    return Err(Error::wrong("a leader keeps nothing on its own disk: WAITAOF needs 0 for it"));
                }
                self.wait(wanted, timeout, true)?
            }
            ("DBSIZE", _) => self.walk(Walk::count()),
            ("KEYS", [pattern]) => self.walk(Walk::all(pattern)),
            ("SCAN", [cursor, options @ ..]) => self.scan(cursor, options)?,
            ("RANDOMKEY", _) => {
                let positions = self.backend.positions();
                self.walk(Walk::any(if positions == 0 { 0 } else { rand::rng().random_range(0..positions) }))
            }
            (name, rest) => {
                self.answer(name, rest, out)?;
                return Ok(None);
            }
        };
        Ok(Some(slot))
    }

    /// Refuses the commands from MULTI to EXEC. Clients send them together: without this, the writes
    /// between the two would be applied although the client sees an error.
    fn refuse_transaction(&mut self, upper: &[u8]) -> Result<(), Error> {
        match (upper, self.in_transaction) {
            (b"MULTI", _) => {
                self.in_transaction = true;
                Err(table::unknown(upper))
            }
            (b"EXEC", true) => {
                self.in_transaction = false;
                Err(Error::aborted())
            }
            (b"DISCARD", true) => {
                self.in_transaction = false;
                Err(table::unknown(upper))
            }
            (b"QUIT" | b"RESET", _) | (_, false) => Ok(()),
            (_, true) => Err(Error::wrong(
                "this store has no transactions: nothing between MULTI and EXEC or DISCARD is applied",
            )),
        }
    }

    /// Answers a command that waits for nothing.
    fn answer(&mut self, name: &str, rest: &[&[u8]], out: &mut Output) -> Result<(), Error> {
        match (name, rest) {
            ("PING", []) => out.simple("PONG"),
            ("PING" | "ECHO", [text]) => out.bulk(text),
            ("PING", _) => return Err(Error::arity("ping")),
            ("QUIT", _) => {
                self.quits = true;
                out.ok();
            }
            ("RESET", _) => {
                // The outcomes of commands before it are still to come.
                let answers = std::mem::take(&mut self.answers);
                *self = Self { end: self.end, now: self.now, answers, ..Self::new(self.id, self.backend.clone()) };
                out.resp3 = false;
                out.simple("RESET");
            }
            ("SELECT", [database]) => match integer(database) {
                Some(0) => out.ok(),
                Some(_) => return Err(Error::wrong("DB index is out of range: this store has database 0 alone")),
                None => return Err(Error::wrong("invalid DB index")),
            },
            ("AUTH", [token]) => {
                if self.backend.site().access.clients.is_none() {
                    return Err(Error::wrong(
                        "AUTH <password> called without any password configured for the default user. Are you sure your \
                         configuration is correct?",
                    ));
                }
                self.authenticate(b"default", token)?;
                out.ok();
            }
            ("AUTH", [user, token]) => {
                self.authenticate(user, token)?;
                out.ok();
            }
            ("AUTH", _) => return Err(Error::SYNTAX),
            ("TIME", _) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                out.array(2);
                out.bulk(now.as_secs().to_string().as_bytes());
                out.bulk(now.subsec_micros().to_string().as_bytes());
            }
            ("HELLO", rest) => self.hello(rest, out)?,
            ("INFO", sections) => about::info(self, sections, out),
            ("CLIENT", [what, rest @ ..]) => about::client(self, what, rest, out)?,
            ("COMMAND", rest) => about::command(rest, out)?,
            ("CONFIG", [what, rest @ ..]) => about::config(&self.backend, what, rest, out)?,
            // Every command of the table is above, with every number of arguments that it takes.
            _ => return Err(Error::SYNTAX),
        }
        Ok(())
    }

    /// Accepts the token.
    fn authenticate(&mut self, user: &[u8], token: &[u8]) -> Result<(), Error> {
        let tokens = self.backend.site().access.clients.as_ref();
        if user != b"default" || tokens.is_some_and(|tokens| !tokens.accept(token)) {
            return Err(Error::WRONG_PASS);
        }
        self.authenticated = true;
        Ok(())
    }

    fn hello(&mut self, rest: &[&[u8]], out: &mut Output) -> Result<(), Error> {
        let (version, mut options) = match rest.split_first() {
            None => (None, rest),
            Some((version, options)) => {
                let version = integer(version)
                    .ok_or_else(|| Error::wrong("Protocol version is not an integer or out of range"))?;
                if !(2..=3).contains(&version) {
                    return Err(Error::no_proto());
                }
                (Some(version), options)
            }
        };
        let (mut credentials, mut new_name) = (None, None);
        while let Some((option, more)) = options.split_first() {
            options = match (option.to_ascii_uppercase().as_slice(), more) {
                (b"AUTH", [user, token, more @ ..]) => {
                    credentials = Some((*user, *token));
                    more
                }
                (b"SETNAME", [name, more @ ..]) => {
                    new_name = Some(about::client_name(name)?);
                    more
                }
                _ => {
                    let option = String::from_utf8_lossy(option);
                    return Err(Error::wrong(format_args!("Syntax error in HELLO option '{option}'")));
                }
            };
        }
        if let Some((user, token)) = credentials {
            self.authenticate(user, token)?;
        }
        if !self.authenticated {
            return Err(Error::hello_without_auth());
        }
        self.name = new_name.unwrap_or(std::mem::take(&mut self.name));
        self.resp3 = version.map_or(self.resp3, |version| version == 3);
        out.resp3 = self.resp3;
        about::hello(self, out);
        Ok(())
    }

    /// WAIT and WAITAOF.
    fn wait(&self, wanted: &[u8], timeout: &[u8], on_disk: bool) -> Result<Slot, Error> {
        if let Backend::Follower(_) = *self.backend {
            return Err(Error::wrong("WAIT cannot be used with a follower: it has no followers"));
        }
        let wanted = integer(wanted).ok_or(Error::NO_INTEGER)?;
        let wanted = usize::try_from(wanted).map_err(|_| Error::wrong("value is out of range, must be positive"))?;
        let timeout = integer(timeout).ok_or_else(|| Error::wrong("timeout is not an integer or out of range"))?;
        let timeout = u64::try_from(timeout).map_err(|_| Error::wrong("timeout is negative"))?;
        let until = (timeout > 0).then(|| self.now.checked_add(Duration::from_millis(timeout))).flatten();
        Ok(Slot::of(Form::Followers { end: self.end, wanted, until, on_disk }, self.now))
    }

    /// SCAN.
    fn scan(&self, cursor: &[u8], options: &[&[u8]]) -> Result<Slot, Error> {
        let cursor = std::str::from_utf8(cursor).ok().and_then(|cursor| cursor.parse().ok());
        let cursor = cursor.ok_or_else(|| Error::wrong("invalid cursor"))?;
        if !options.len().is_multiple_of(2) {
            return Err(Error::SYNTAX);
        }
        let (mut pattern, mut count) = (None, SCAN_KEYS);
        for option in options.chunks_exact(2) {
            match option[0].to_ascii_uppercase().as_slice() {
                b"MATCH" => pattern = Some(option[1].to_vec()),
                b"COUNT" => {
                    count = integer(option[1]).ok_or(Error::NO_INTEGER)?;
                    if count < 1 {
                        return Err(Error::SYNTAX);
                    }
                }
                b"TYPE" if option[1].eq_ignore_ascii_case(b"string") => {}
                // No key has another type.
                b"TYPE" => pattern = Some(b"[]".to_vec()),
                _ => return Err(Error::SYNTAX),
            }
        }
        let count = count.min(SCAN_KEYS_MAX) as usize;
        Ok(self.walk(Walk::some(cursor, count, pattern, &self.backend)?))
    }

    fn walk(&self, walk: Walk) -> Slot {
        Slot::of(Form::Walk(walk), self.now)
    }
}
