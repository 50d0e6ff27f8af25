//! Requests over Redis' protocol.

use std::time::Duration;

use super::{Answer, Attempt};
use crate::{
    check::history::{Action, Before, Condition, Operation},
    commands::{CommandClient, NoReply, Reply},
};

/// The connections of one client.
#[derive(Debug)]
pub(super) struct Redis(CommandClient);

impl Redis {
    pub(super) fn new(timeout: Duration) -> Self {
        Self(CommandClient::new(timeout))
    }

    /// Sends a write once. With `asks_before` a SET asks for the value before it.
    pub(super) async fn write(&mut self, address: &str, operation: &Operation, asks_before: bool) -> Attempt {
        let key = &*operation.key;
        let by = operation.by.unwrap_or(0).to_string();
        let mut command = match operation.action {
            Action::Increment => vec!["INCRBY", key, &by],
            Action::Delete => vec!["DEL", key],
            _ => vec!["SET", key, operation.value.as_deref().unwrap_or_default()],
        };
        command.extend(match operation.condition {
            Some(Condition::Absent) if operation.action == Action::Put => Some("NX"),
            Some(Condition::Present) if operation.action == Action::Put => Some("XX"),
            _ => None,
        });
        command.extend(asks_before.then_some("GET"));
        match self.0.ask(address, &command).await {
            Ok(Reply::Error(words)) if words.starts_with("INDETERMINATE") => Attempt::Unknown(Answer::default(), words),
            // Every other error says that nothing was applied.
            Ok(Reply::Error(words)) => Attempt::NotApplied(words),
            Ok(reply) => attempt(operation, asks_before, reply),
            Err(NoReply { is_sent: false, why }) => Attempt::NotApplied(why),
            Err(NoReply { is_sent: true, why }) => Attempt::Unknown(Answer::default(), why),
        }
    }

    /// Reads a key once.
    ///
    /// # Errors
    /// In words, when there is no answer or it shows nothing.
    pub(super) async fn read(&mut self, address: &str, key: &str) -> Result<Answer, String> {
        match self.0.ask(address, &["GET", key]).await {
            Ok(Reply::Value(value)) => Ok(Answer { value: value.map(Into::into), ..Answer::default() }),
            Ok(Reply::Error(words)) => Err(words),
            Ok(reply) => Err(format!("{reply:?} is no answer to GET")),
            Err(NoReply { why, .. }) => Err(why),
        }
    }
}

/// What a reply says about a write.
fn attempt(operation: &Operation, asks_before: bool, reply: Reply) -> Attempt {
    let words = format!("the reply {reply:?}");
    let condition = operation.condition.as_ref();
    let shown = |value: Option<String>| Answer { value: value.map(Into::into), ..Answer::default() };
    match (operation.action, reply) {
        (Action::Put, Reply::Ok) if !asks_before => Attempt::Committed(Answer::default()),
        // A refused NX without GET does not show what is there.
        (Action::Put, Reply::Value(None)) if !asks_before && condition.is_some() => Attempt::Unmet(shown(None), words),
        (Action::Put, Reply::Value(before)) if asks_before => {
            let is_met = match condition {
                Some(Condition::Absent) => before.is_none(),
                Some(Condition::Present) => before.is_some(),
                _ => true,
            };
            if is_met {
                let before = Some(Before { value: before.map(Into::into) });
                Attempt::Committed(Answer { before, ..Answer::default() })
            } else {
                Attempt::Unmet(shown(before), words)
            }
        }
        (Action::Increment, Reply::Integer(sum)) => Attempt::Committed(shown(Some(sum.to_string()))),
        (Action::Delete, Reply::Integer(1)) => Attempt::Committed(Answer::default()),
        (Action::Delete, Reply::Integer(0)) => Attempt::Unmet(shown(None), words),
        _ => Attempt::Unknown(Answer::default(), format!("{words} is none to this command")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::check::testing;

    #[test]
    fn what_a_reply_says_depends_on_the_command() {
        let put = |condition| Operation { condition, ..testing::put("k", "a", 0, (0, 0)) };
        let is = |attempt: &Attempt| match attempt {
            Attempt::Committed(answer) => format!("committed, before {:?}", answer.before.as_ref().map(|it| &it.value)),
            Attempt::Unmet(answer, _) => format!("unmet by {:?}", answer.value),
            Attempt::NotApplied(_) => "not applied".to_owned(),
            Attempt::Unknown(..) => "unknown".to_owned(),
        };
        let value = |value: &str| Reply::Value(Some(value.to_owned()));
        for (condition, asks_before, reply, expected) in [
            (None, false, Reply::Ok, "committed, before None"),
            (None, true, Reply::Value(None), "committed, before Some(None)"),
            (None, true, value("b"), "committed, before Some(Some(\"b\"))"),
            (None, false, Reply::Value(None), "unknown"),
            (Some(Condition::Absent), false, Reply::Value(None), "unmet by None"),
            (Some(Condition::Absent), true, Reply::Value(None), "committed, before Some(None)"),
            (Some(Condition::Absent), true, value("b"), "unmet by Some(\"b\")"),
            (Some(Condition::Present), false, Reply::Value(None), "unmet by None"),
            (Some(Condition::Present), true, Reply::Value(None), "unmet by None"),
            (Some(Condition::Present), true, value("b"), "committed, before Some(Some(\"b\"))"),
            (None, false, Reply::Integer(1), "unknown"),
        ] {
            assert_eq!(
                is(&attempt(&put(condition.clone()), asks_before, reply.clone())),
                expected,
                "{condition:?} {reply:?}"
            );
        }
        let delete = Operation { action: Action::Delete, ..put(Some(Condition::Present)) };
        assert_eq!(is(&attempt(&delete, false, Reply::Integer(1))), "committed, before None");
        assert_eq!(is(&attempt(&delete, false, Reply::Integer(0))), "unmet by None");
    }

    /// Goal: nothing that a node may have read counts as refused. Method: a node for each way to fail.
    #[tokio::test]
    async fn what_was_sent_has_an_unknown_outcome_and_what_was_not_has_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let node = tokio::spawn(async move {
            for answers in ["+OK\r\n-LOADING; nothing was applied\r\n-INDETERMINATE no quorum\r\n+O", "+OK\r\n"] {
                let (mut stream, _) = listener.accept().await.expect("a client");
                for answer in answers.split_inclusive('\n') {
                    let mut command = [0; 27];
                    stream.read_exact(&mut command).await.expect("a command");
                    assert_eq!(&command, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\na\r\n");
                    stream.write_all(answer.as_bytes()).await.expect("sent");
                }
            }
        });
        let mut redis = Redis::new(Duration::from_secs(20));
        let put = testing::put("k", "a", 0, (0, 0));
        let mut write = async || redis.write(&address, &put, false).await;
        assert!(matches!(write().await, Attempt::Committed(_)));
        assert!(matches!(write().await, Attempt::NotApplied(_)), "LOADING");
        assert!(matches!(write().await, Attempt::Unknown(..)), "INDETERMINATE");
        assert!(matches!(write().await, Attempt::Unknown(..)), "half of a reply");
        assert!(matches!(write().await, Attempt::Committed(_)), "on a new connection");
        node.await.expect("no panic");
        let mut redis = Redis::new(Duration::from_secs(20));
        assert!(matches!(redis.write(&address, &put, false).await, Attempt::NotApplied(_)), "no node listens");
    }
}
