//! What the Secret with the tokens of clients has, by the rules of the node's file. Pure.

use k8s_openapi::api::core::v1::Secret;
use kvcluster_api::resource::ClientAuth;

use super::tokens::is_token;

/// The longest file of tokens that a node reads, in bytes.
const FILE_BYTES_MAX: usize = 64 << 10;

/// What the Secret has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientTokens {
    /// The spec names none.
    NotNeeded,
    /// Tokens.
    Valid {
        /// Its name.
        secret: String,
        /// How many.
        count: usize,
    },
    /// No tokens, or none that a node would take.
    Invalid {
        /// One word.
        reason: &'static str,
        /// A sentence with the consequences.
        message: String,
    },
}

/// Checks the Secret that the spec names.
#[must_use]
pub fn check(auth: Option<&ClientAuth>, secret: Option<&Secret>) -> ClientTokens {
    let Some(ClientAuth { secret_name, key }) = auth else { return ClientTokens::NotNeeded };
    let invalid = |reason, what: String| ClientTokens::Invalid {
        reason,
        message: format!("{what}: nodes that run keep the tokens that they had, and no pod can start"),
    };
    let Some(secret) = secret else {
        return invalid("SecretMissing", format!("the Secret {secret_name} does not exist"));
    };
    let Some(file) = secret.data.as_ref().and_then(|data| data.get(key)) else {
        return invalid("KeyMissing", format!("the Secret {secret_name} has no key {key}"));
    };
    if file.0.len() > FILE_BYTES_MAX {
        let what = format!("the key {key} of the Secret {secret_name} is longer than {FILE_BYTES_MAX} bytes");
        return invalid("TooLong", what);
    }
    let mut count = 0;
    for (number, line) in (1..).zip(file.0.split(|byte| *byte == b'\n')) {
        match std::str::from_utf8(line.trim_ascii()) {
            Ok(line) if line.is_empty() || line.starts_with('#') => {}
            Ok(line) if is_token(line) => count += 1,
            _ => {
                let what = format!(
                    "line {number} of the key {key} of the Secret {secret_name} is no token (printable ASCII without spaces, at \
                     most 1024 bytes)"
                );
                return invalid("MalformedLine", what);
            }
        }
    }
    if count == 0 {
        return invalid("NoToken", format!("the key {key} of the Secret {secret_name} has no token"));
    }
    ClientTokens::Valid { secret: secret_name.clone(), count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_no_node_would_take_is_reported_in_words() {
        let auth = ClientAuth { secret_name: "shops".to_owned(), key: "list".to_owned() };
        let secret = |key: &str, text: &str| -> Secret {
            let data = json!({key: k8s_openapi::ByteString(text.as_bytes().to_vec())});
            serde_json::from_value(json!({"data": data})).expect("a Secret")
        };
        let long = "t\n".repeat(40_000);
        for (found, reason, words) in [
            (None, "SecretMissing", "the Secret shops does not exist: nodes that run keep"),
            (Some(secret("tokens", "a")), "KeyMissing", "the Secret shops has no key list"),
            (Some(secret("list", "# none\n\n")), "NoToken", "the key list of the Secret shops has no token"),
            (
                Some(secret("list", "a\nb c\n")),
                "MalformedLine",
                "line 2 of the key list of the Secret shops is no token",
            ),
            (Some(secret("list", &long)), "TooLong", "is longer than 65536 bytes"),
        ] {
            let ClientTokens::Invalid { reason: seen, message } = check(Some(&auth), found.as_ref()) else {
                panic!("{reason} is not found");
            };
            assert_eq!(seen, reason);
            assert!(message.contains(words) && message.ends_with("no pod can start"), "{message}");
        }
        let valid = ClientTokens::Valid { secret: "shops".to_owned(), count: 2 };
        assert_eq!(check(Some(&auth), Some(&secret("list", "# new\nab\r\n\ncd"))), valid);
        assert_eq!(check(None, None), ClientTokens::NotNeeded);
    }
}
