//! Errors as clients of Redis know them: the first word says what a client can do.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::protocol::leader::Refusal;

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Error(Cow<'static, str>);

impl Error {
    pub(super) const SYNTAX: Self = Self(Cow::Borrowed("ERR syntax error"));
    pub(super) const NO_INTEGER: Self = Self(Cow::Borrowed("ERR value is not an integer or out of range"));
    pub(super) const OVERFLOW: Self = Self(Cow::Borrowed("ERR increment or decrement would overflow"));
    pub(super) const NO_AUTH: Self = Self(Cow::Borrowed("NOAUTH Authentication required."));
    pub(super) const WRONG_PASS: Self =
        Self(Cow::Borrowed("WRONGPASS invalid username-password pair or user is disabled."));
    pub(super) const TOO_MANY_CONNECTIONS: Self = Self(Cow::Borrowed("ERR max number of clients reached"));

    /// EXEC after a refused MULTI.
    pub(super) fn aborted() -> Self {
        Self("EXECABORT this store has no transactions over several keys: nothing was applied".into())
    }

    /// HELLO asks for another version.
    pub(super) fn no_proto() -> Self {
        Self("NOPROTO unsupported protocol version".into())
    }

    /// HELLO comes before the token.
    pub(super) fn hello_without_auth() -> Self {
        Self(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> \
             option can be used to authenticate the client and select the RESP protocol version at the same time"
                .into(),
        )
    }

    /// `ERR`: the command is wrong.
    pub(super) fn wrong(text: impl fmt::Display) -> Self {
        Self(format!("ERR {text}").into())
    }

    /// The command has too few or too many arguments.
    pub(super) fn arity(name: &str) -> Self {
        Self::wrong(format_args!("wrong number of arguments for '{name}' command"))
    }

    /// `OOM`: a limit is reached, and nothing was applied.
    pub(super) fn limit(text: impl fmt::Display) -> Self {
        Self(format!("OOM {text}").into())
    }

    /// `LOADING`: the node does not serve now, and nothing was applied.
    pub(super) fn loading(text: impl fmt::Display) -> Self {
        Self(format!("LOADING {text}; nothing was applied").into())
    }

    /// `READONLY`: another node leads.
    pub(super) fn read_only(text: impl fmt::Display) -> Self {
        Self(format!("READONLY {text}").into())
    }

    /// `INDETERMINATE`: too few followers confirmed the write in time.
    pub(super) fn indeterminate(seq: u64, timeout: Duration) -> Self {
        let timeout_ms = timeout.as_millis();
        let text = format!(
            "INDETERMINATE no write quorum within {timeout_ms} ms: the write with seq {seq} may still take effect, or never"
        );
        Self(text.into())
    }

    /// `INDETERMINATE`: this leader can no longer commit the write.
    pub(super) fn replaced(seq: u64) -> Self {
        let text =
            format!("INDETERMINATE another leader took over: the write with seq {seq} may take effect, or never");
        Self(text.into())
    }

    /// The same error for a command of several keys.
    pub(super) fn of_several(self) -> Self {
        Self(format!("{}; other keys of this command may be written", self.0).into())
    }

    pub(super) fn is_indeterminate(&self) -> bool {
        self.0.starts_with("INDETERMINATE")
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Standby { leader } => {
                Self::read_only(format_args!("this node is a standby; the leader is at {leader}"))
            }
            Refusal::Resigned | Refusal::Fenced(_) => Self::read_only(refusal),
            Refusal::Overloaded { .. } | Refusal::OverloadedBytes { .. } | Refusal::OverloadedReads { .. } => {
                Self::limit(refusal)
            }
            Refusal::Recovering
            | Refusal::CutOff(_)
            | Refusal::Restoring(_)
            | Refusal::AwaitsRestore
            | Refusal::RestoreEnds => Self::loading(refusal),
            Refusal::TokenReused { .. }
            | Refusal::SequenceTooHigh { .. }
            | Refusal::Exists { .. }
            | Refusal::NotEmpty { .. }
            | Refusal::NotRestoring { .. } => Self::wrong(refusal),
        }
    }
}
