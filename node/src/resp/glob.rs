//! Patterns of KEYS and SCAN: `*`, `?`, `[a-z]`, `[^a]`, and `\` for a literal byte.

/// Whether the text matches the pattern. Takes at most their lengths multiplied.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut begin) = (pattern, text);
    // What follows the last star, and the text from which it was tried last.
    let mut again: Option<(&[u8], &[u8])> = None;
    loop {
        if let [b'*', rest @ ..] = at {
            at = rest;
            again = Some((rest, begin));
            continue;
        }
        let one = match begin.split_first() {
            Some((byte, rest)) => one(at, *byte).map(|pattern| (pattern, rest)),
            None if at.is_empty() => return true,
            None => return false,
        };
        if let Some(next) = one {
            (at, begin) = next;
        } else if let Some((pattern, [_, rest @ ..])) = again {
            // The star takes one more byte.
            again = Some((pattern, rest));
            (at, begin) = (pattern, rest);
        } else {
            return false;
        }
    }
}

/// The rest of the pattern, if its first element matches the byte.
fn one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some(rest),
        [b'[', rest @ ..] => class(rest, byte),
        [b'\\', literal, rest @ ..] | [literal, rest @ ..] => (*literal == byte).then_some(rest),
    }
}

/// The rest behind a class, if the class contains the byte. A class without an end contains what
/// follows.
fn class(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        _ => (false, pattern),
    };
    let mut contains = false;
    loop {
        rest = match rest {
            [] => break,
            [b']', after @ ..] => {
                rest = after;
                break;
            }
            [b'\\', literal, after @ ..] => {
                contains |= *literal == byte;
                after
            }
            [from, b'-', to, after @ ..] if *to != b']' => {
                let (low, high) = if from <= to { (from, to) } else { (to, from) };
                contains |= (*low..=*high).contains(&byte);
                after
            }
            [literal, after @ ..] => {
                contains |= *literal == byte;
                after
            }
        };
    }
    (contains != negated).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let table: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("*b*b*", "abab", true),
            ("*b*b*", "aba", false),
            ("h?llo", "hallo", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hello", false),
            ("h[^e]llo", "hallo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-", "h-", true),
            ("[\\]]", "]", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a\\", "a\\", true),
            ("user:*:name", "user:7:name", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), *expected, "{pattern} {text}");
        }
    }

    /// A pattern of many stars takes no exponential time.
    #[test]
    fn many_stars_are_no_trap() {
        let (pattern, text) = ("*a".repeat(5_000) + "b", "a".repeat(10_000));
        assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    }
}
