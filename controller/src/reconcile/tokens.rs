//! The tokens that guard replication and administration, and their rotation. Pure.
//!
//! The Secret `NAME-auth` has the token that a user may read, edit or delete. The Secret `NAME-auth-accepted` has the file
//! that the pods mount: every token that a node accepts, the wanted one first. A node reads the file again when it
//! changes, and a leader shows its other tokens to a follower that refuses the first. So two nodes work together as long
//! as their files have a token in common:
//!
//! 1. The wanted token goes to the top of the file, above those before. Nodes with and without it share the ones before.
//! 2. Once every node accepts the wanted token, by its own answer, the file shrinks to that one. Nodes before and after
//!    share it.
//! 3. The rotation is over once every node refuses the dropped ones.
//!
//! No step depends on what the operator remembers: it may restart at any point. The old tokens are in a Secret of their
//! own, because a user may delete the first one while no operator works.

use k8s_openapi::api::core::v1::Secret;

use crate::build::{ACCEPTED_KEY, DROPPED_KEY, TOKEN_KEY};

/// How many tokens a file may have, and how many may be dropped and not refused yet. A further edit waits.
const TOKENS_MAX: usize = 8;
/// The longest token, in bytes. It has to fit into a header.
const TOKEN_BYTES_MAX: usize = 1024;

/// What the two Secrets have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The token that the user sees, as it is stored. None where it is absent or empty.
    pub wanted: Option<Vec<u8>>,
    /// The tokens in the file of the nodes.
    pub accepted: Vec<String>,
    /// Those that were in it, and that a node may still accept.
    pub dropped: Vec<String>,
}

impl Stored {
    /// Reads both Secrets.
    #[must_use]
    pub fn of(wanted: Option<&Secret>, accepted: Option<&Secret>) -> Self {
        let bytes = |secret: Option<&Secret>, key: &str| {
            secret.and_then(|secret| secret.data.as_ref()?.get(key)).map(|value| value.0.clone()).unwrap_or_default()
        };
        let lines = |key: &str| {
            let text = String::from_utf8(bytes(accepted, key)).unwrap_or_default();
            text.lines().filter(|line| is_token(line)).map(str::to_owned).collect()
        };
        let wanted = Some(bytes(wanted, TOKEN_KEY)).filter(|bytes| !bytes.trim_ascii().is_empty());
        Self { wanted, accepted: lines(ACCEPTED_KEY), dropped: lines(DROPPED_KEY) }
    }
}

/// What a node answers to a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It accepts it.
    Accepts,
    /// It refuses it.
    Refuses,
    /// It is not known, and why.
    Nothing(String),
}

/// What the nodes have to be asked before the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether they accept this token.
    Accepts(String),
    /// Whether they refuse these.
    Refuse(Vec<String>),
}

/// How far the rotation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Every node accepts the wanted token alone.
    Applied,
    /// The nodes accept the wanted token beside the ones before. What is waited for.
    Adding(String),
    /// The nodes drop the tokens before. What is waited for.
    Dropping(String),
    /// The wanted token waits until the rotation before it is over. What that waits for.
    Queued(String),
    /// The wanted token is none. Those before stay in force.
    Malformed(String),
}

/// The tokens that there have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The value of `NAME-auth`. As the user stored it, also where it is malformed.
    pub wanted: Vec<u8>,
    /// The file of the nodes. Never empty.
    pub accepted: Vec<String>,
    /// Those that a node may still accept.
    pub dropped: Vec<String>,
    /// How far the rotation is.
    pub stage: Stage,
}

impl Tokens {
    /// Whether the nodes have something to read again.
    #[must_use]
    pub fn rotates(&self) -> bool {
        self.accepted.len() > 1 || !self.dropped.is_empty() || matches!(self.stage, Stage::Queued(_))
    }
}

/// The step that the Secrets alone decide: the wanted token goes into the file. `new_token` makes one where there is none.
#[must_use]
pub fn add(stored: &Stored, new_token: impl Fn() -> String) -> Tokens {
    let Stored { accepted, dropped, .. } = stored;
    let wanted = stored.wanted.clone().unwrap_or_else(|| new_token().into_bytes());
    let with = |accepted: Vec<String>, stage: Stage| {
        let dropped = dropped.iter().filter(|token| !accepted.contains(token)).cloned().collect();
        Tokens { wanted: wanted.clone(), accepted, dropped, stage }
    };
    let token = match std::str::from_utf8(wanted.trim_ascii()) {
        Ok(token) if is_token(token) => token.to_owned(),
        _ if accepted.is_empty() => return with(vec![new_token()], Stage::Malformed(malformed())),
        _ => return with(accepted.clone(), Stage::Malformed(malformed())),
    };
    let first = accepted.first();
    if first == Some(&token) {
        return with(accepted.clone(), Stage::Applied);
    }
    if accepted.len() >= TOKENS_MAX || dropped.len() >= TOKENS_MAX {
        return with(accepted.clone(), Stage::Queued(String::new()));
    }
    let before = accepted.iter().filter(|before| **before != token).cloned();
    let accepted: Vec<String> = std::iter::once(token.clone()).chain(before).collect();
    let stage =
        if accepted.len() == 1 { Stage::Applied } else { Stage::Adding("the nodes read the new token".to_owned()) };
    with(accepted, stage)
}

/// What the nodes have to be asked. Nothing before they could have read the file as it is.
#[must_use]
pub fn question(tokens: &Tokens, stored: &Stored) -> Option<Question> {
    if tokens.accepted != stored.accepted {
        return None;
    }
    match tokens.accepted.as_slice() {
        [first, _, ..] => Some(Question::Accepts(first.clone())),
        _ if !tokens.dropped.is_empty() => Some(Question::Refuse(tokens.dropped.clone())),
        _ => None,
    }
}

/// The step that the nodes' answers decide, of each node by its name.
#[must_use]
pub fn drop_old(mut tokens: Tokens, question: &Question, said: &[(String, Said)]) -> Tokens {
    let expected = if matches!(question, Question::Accepts(_)) { Said::Accepts } else { Said::Refuses };
    let waits: Vec<String> = said
        .iter()
        .filter_map(|(node, said)| match said {
            said if *said == expected => None,
            Said::Nothing(why) => Some(why.clone()),
            Said::Refuses => Some(format!("{node}: has not read the new token yet")),
            Said::Accepts => Some(format!("{node}: still accepts an earlier token")),
        })
        .collect();
    let done = said.len() - waits.len();
    let message = format!("{done} of {} nodes: {}", said.len(), waits.join("; "));
    let stage = match question {
        Question::Accepts(_) if waits.is_empty() => {
            tokens.dropped.extend(tokens.accepted.split_off(1));
            Stage::Dropping("the nodes drop the earlier token".to_owned())
        }
        Question::Accepts(_) => Stage::Adding(format!("the new token is accepted by {message}")),
        Question::Refuse(_) if waits.is_empty() => {
            tokens.dropped.clear();
            Stage::Applied
        }
        Question::Refuse(_) => Stage::Dropping(format!("earlier tokens are refused by {message}")),
    };
    tokens.stage = match tokens.stage {
        Stage::Malformed(why) => Stage::Malformed(why),
        // The wanted one is not in the file yet.
        Stage::Queued(_) => Stage::Queued(message),
        _ => stage,
    };
    tokens
}

/// Whether a line of a file counts as a token at a node.
pub(super) fn is_token(line: &str) -> bool {
    !line.is_empty()
        && line.len() <= TOKEN_BYTES_MAX
        && !line.starts_with('#')
        && line.bytes().all(|byte| byte.is_ascii_graphic())
}

fn malformed() -> String {
    format!(
        "the key {TOKEN_KEY} has no token: it needs one line of printable ASCII without spaces, not beginning with #, of at \
         most {TOKEN_BYTES_MAX} bytes"
    )
}

#[cfg(test)]
mod tests;
