//! Every command: its arguments, and what COMMAND says about it.

use super::errors::Error;
use super::output::Output;

/// A command.
#[derive(Debug)]
pub(super) struct Spec {
    /// In upper case.
    pub(super) name: &'static str,
    /// The number of arguments with the name; at least so many if it is negative.
    pub(super) arity: i32,
    /// Positions of its keys: the first, the last (from the end, if it is negative), and the step.
    keys: (i32, i32, i32),
    flags: &'static [&'static str],
    group: &'static str,
    summary: &'static str,
}

const READ: &[&str] = &["readonly", "fast"];
const WRITE: &[&str] = &["write", "denyoom", "fast"];
const LONG: &[&str] = &["readonly"];
const CONNECTION: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const SERVER: &[&str] = &["loading", "stale"];
const NO_KEYS: (i32, i32, i32) = (0, 0, 0);
const ONE: (i32, i32, i32) = (1, 1, 1);
const ALL: (i32, i32, i32) = (1, -1, 1);

const fn spec(
    name: &'static str,
    arity: i32,
    keys: (i32, i32, i32),
    flags: &'static [&'static str],
    group: &'static str,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, keys, flags, group, summary }
}

/// Sorted by name.
pub(super) const TABLE: &[Spec] = &[
    spec("APPEND", 3, ONE, WRITE, "string", "Appends bytes to the value of a key."),
    spec("AUTH", -2, NO_KEYS, CONNECTION, "connection", "Gives the token."),
    spec("CLIENT", -2, NO_KEYS, CONNECTION, "connection", "Names this connection, or returns what is known of it."),
    spec("COMMAND", -1, NO_KEYS, SERVER, "server", "Describes the commands."),
    spec("CONFIG", -2, NO_KEYS, SERVER, "server", "Returns settings that clients ask for."),
    spec("DBSIZE", 1, NO_KEYS, LONG, "server", "Counts the keys."),
    spec("DECR", 2, ONE, WRITE, "string", "Subtracts 1 from the integer of a key."),
    spec("DECRBY", 3, ONE, WRITE, "string", "Subtracts from the integer of a key."),
    spec("DEL", -2, ALL, WRITE, "generic", "Deletes keys, each for itself."),
    spec("ECHO", 2, NO_KEYS, CONNECTION, "connection", "Returns its argument."),
    spec("EXISTS", -2, ALL, READ, "generic", "Counts the keys that have a value."),
    spec("GET", 2, ONE, READ, "string", "Returns the value of a key."),
    spec("GETDEL", 2, ONE, WRITE, "string", "Deletes a key and returns the value that it had."),
    spec("GETSET", 3, ONE, WRITE, "string", "Sets a value and returns the one before."),
    spec("HELLO", -1, NO_KEYS, CONNECTION, "connection", "Chooses the version of the protocol."),
    spec("INCR", 2, ONE, WRITE, "string", "Adds 1 to the integer of a key."),
    spec("INCRBY", 3, ONE, WRITE, "string", "Adds to the integer of a key."),
    spec("INFO", -1, NO_KEYS, SERVER, "server", "Describes the node."),
    spec("KEYS", 2, NO_KEYS, LONG, "generic", "Returns the keys that match a pattern."),
    spec("MGET", -2, ALL, READ, "string", "Returns the values of keys, each for itself."),
    spec("MSET", -3, (1, -1, 2), WRITE, "string", "Sets values, each for itself: not atomic."),
    spec("PING", -1, NO_KEYS, CONNECTION, "connection", "Answers PONG."),
    spec("QUIT", -1, NO_KEYS, CONNECTION, "connection", "Closes the connection."),
    spec("RANDOMKEY", 1, NO_KEYS, LONG, "generic", "Returns a key."),
    spec("RESET", 1, NO_KEYS, CONNECTION, "connection", "Makes the connection as new."),
    spec("SCAN", -2, NO_KEYS, LONG, "generic", "Returns the keys in parts."),
    spec("SELECT", 2, NO_KEYS, CONNECTION, "connection", "Accepts database 0 alone."),
    spec("SET", -3, ONE, WRITE, "string", "Sets the value of a key, with or without a condition."),
    spec("SETNX", 3, ONE, WRITE, "string", "Sets the value of a key that has none."),
    spec("STRLEN", 2, ONE, READ, "string", "Returns the length of a value."),
    spec("TIME", 1, NO_KEYS, SERVER, "server", "Returns the time of the node."),
    spec("TYPE", 2, ONE, READ, "generic", "Returns string for a key that has a value."),
    spec("UNLINK", -2, ALL, WRITE, "generic", "Deletes keys, each for itself."),
    spec("WAIT", 3, NO_KEYS, SERVER, "generic", "Waits until more followers have the writes of this connection."),
    spec("WAITAOF", 4, NO_KEYS, SERVER, "generic", "Waits until more followers have the writes of this connection."),
];

/// The first bytes of the names in [`TABLE`], as numbers, which are compared faster.
static BEGINS: [u64; TABLE.len()] = {
    let mut begins = [0; TABLE.len()];
    let mut at = 0;
    while at < TABLE.len() {
        begins[at] = begin(TABLE[at].name.as_bytes());
        at += 1;
    }
    begins
};

/// The first eight bytes of a name, in the order of names. They differ among the commands.
const fn begin(name: &[u8]) -> u64 {
    let (mut bytes, mut at) = ([0; 8], 0);
    while at < name.len() && at < bytes.len() {
        bytes[at] = name[at];
        at += 1;
    }
    u64::from_be_bytes(bytes)
}

/// The command with this name in upper case.
pub(super) fn find(name: &[u8]) -> Option<&'static Spec> {
    let position = BEGINS.binary_search(&begin(name)).ok()?;
    TABLE.get(position).filter(|spec| spec.name.as_bytes() == name)
}

/// What this store is not, for the families of other commands.
const NOT: &[(&str, &[&str])] = &[
    (
        "expiry",
        &[
            "EXPIRE",
            "PEXPIRE",
            "EXPIREAT",
            "PEXPIREAT",
            "EXPIRETIME",
            "PEXPIRETIME",
            "TTL",
            "PTTL",
            "PERSIST",
            "SETEX",
            "PSETEX",
            "GETEX",
            "MSETEX",
        ],
    ),
    ("transactions over several keys", &["MULTI", "EXEC", "DISCARD", "WATCH", "UNWATCH", "MSETNX"]),
    (
        "publish and subscribe",
        &[
            "SUBSCRIBE",
            "PSUBSCRIBE",
            "SSUBSCRIBE",
            "UNSUBSCRIBE",
            "PUNSUBSCRIBE",
            "SUNSUBSCRIBE",
            "PUBLISH",
            "SPUBLISH",
            "PUBSUB",
        ],
    ),
    ("scripts", &["EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO", "SCRIPT", "FCALL", "FCALL_RO", "FUNCTION"]),
    ("databases other than 0", &["MOVE", "SWAPDB"]),
    ("a command that deletes all keys", &["FLUSHALL", "FLUSHDB"]),
];

/// The reply to a command that is not in the table.
pub(super) fn unknown(name: &[u8]) -> Error {
    let shown: String = String::from_utf8_lossy(name).chars().take(128).collect();
    let upper = shown.to_ascii_uppercase();
    let not = NOT
        .iter()
        .find(|(_, names)| names.contains(&upper.as_str()))
        .map_or("types other than strings, scripts, transactions or expiry", |(what, _)| what);
    Error::wrong(format_args!("unknown command '{shown}': this store has strings under keys, and no {not}"))
}

impl Spec {
    /// Whether the command may have so many arguments, its name included.
    pub(super) fn takes(&self, count: usize) -> bool {
        let wanted = self.arity.unsigned_abs() as usize;
        if self.arity < 0 { count >= wanted } else { count == wanted }
    }

    /// The name as errors and COMMAND have it.
    pub(super) fn lower(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    /// Whether it reads or writes keys that its arguments name.
    pub(super) fn has_keys(&self) -> bool {
        self.keys != NO_KEYS
    }

    /// The positions of its keys among so many arguments.
    pub(super) fn keys(&self, count: usize) -> impl Iterator<Item = usize> {
        let (first, last, step) = self.keys;
        let last = if last < 0 { count as i32 + last } else { last };
        (first..=if first == 0 { -1 } else { last }).step_by(step.max(1) as usize).map(|position| position as usize)
    }

    /// Whether a client may use it before it has given its token.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.name, "AUTH" | "HELLO" | "QUIT" | "RESET")
    }

    /// As COMMAND returns it.
    pub(super) fn describe(&self, out: &mut Output) {
        let (first, last, step) = self.keys;
        out.array(10);
        out.bulk(self.lower().as_bytes());
        out.integer(self.arity.into());
        out.set(self.flags.len());
        self.flags.iter().for_each(|flag| out.simple(flag));
        [first, last, step].into_iter().for_each(|number| out.integer(number.into()));
        out.set(0);
        (0..3).for_each(|_| out.array(0));
    }

    /// As COMMAND DOCS returns it, after its name.
    pub(super) fn document(&self, out: &mut Output) {
        out.bulk(self.lower().as_bytes());
        out.map(3);
        for (name, text) in [("summary", self.summary), ("since", "0.1.0"), ("group", self.group)] {
            out.bulk(name.as_bytes());
            out.bulk(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by(|one, next| one.name < next.name));
        for spec in TABLE {
            assert_eq!(find(spec.name.as_bytes()).map(|found| found.name), Some(spec.name));
        }
        for unknown in ["get", "LPUSH", "", "SE", "SETS", "RANDOMKEYS", "RANDOMK"] {
            assert!(find(unknown.as_bytes()).is_none(), "{unknown}");
        }
    }

    #[test]
    fn keys_are_found_among_the_arguments() {
        let keys = |name: &str, count| find(name.as_bytes()).expect("known").keys(count).collect::<Vec<_>>();
        assert_eq!(keys("GET", 2), [1]);
        assert_eq!(keys("DEL", 4), [1, 2, 3]);
        assert_eq!(keys("MSET", 5), [1, 3]);
        assert_eq!(keys("PING", 2), Vec::<usize>::new());
    }

    #[test]
    fn other_commands_are_refused_by_what_they_need() {
        let text = |name: &str| unknown(name.as_bytes()).text().to_owned();
        assert_eq!(text("expire"), "ERR unknown command 'expire': this store has strings under keys, and no expiry");
        assert!(text("MULTI").ends_with("no transactions over several keys"));
        assert!(text("LPUSH").ends_with("no types other than strings, scripts, transactions or expiry"));
        assert!(text(&"x".repeat(1_000)).len() < 300);
    }
}
