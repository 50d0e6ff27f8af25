//! JSON bodies for the answers that hyper gives by itself.
//!
//! Hyper answers a head that it cannot parse before any handler sees it: with a status and an empty
//! body. [`ClientStream`](super::client_stream::ClientStream) replaces these answers on their way out.

use super::connections::READ_AHEAD_BYTES;
use super::error::early_body;

/// The end of every head. A body of JSON never ends like this, since JSON escapes line breaks in
/// strings. The stream passes no other bodies to [`replace`].
const END: &[u8] = b"\r\n\r\n";

/// The bytes to send instead of `written`, if these end with an answer of hyper's own.
pub(super) fn replace(written: &[u8]) -> Option<Vec<u8>> {
    if !written.ends_with(END) {
        return None;
    }
    // Answers to earlier requests of the connection may precede it in the same write.
    let head = written[..written.len() - END.len()].windows(END.len()).rposition(|bytes| bytes == END);
    let begin = head.map_or(0, |end| end + END.len());
    let begin = begin + find(&written[begin..], b"HTTP/1.")?;
    let (before, head) = written.split_at(begin);
    let length = b"\r\ncontent-length: 0\r\n";
    let at = find(head, length)?;
    let body = early_body(reason(head.get(b"HTTP/1.1 ".len()..)?)?).to_string();
    let headers =
        format!("\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
    Some([before, &head[..at], headers.as_bytes(), &head[at + length.len()..], body.as_bytes()].concat())
}

/// Why hyper answers with this status.
fn reason(status: &[u8]) -> Option<String> {
    Some(match status.get(..3)? {
        b"400" => "the request is not valid HTTP/1.1".to_owned(),
        b"414" => "the URL is longer than 65534 bytes".to_owned(),
        b"431" => {
            format!("the head of the request is longer than {READ_AHEAD_BYTES} bytes or has more than 100 headers")
        }
        _ => return None,
    })
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    //! Goal: exactly hyper's own answers get a body, alone or behind another answer.
    //! bench/tests/cluster/bad_requests.rs receives them from real nodes.

    use super::*;

    const OF_HYPER: &str = "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ndate: Thu\r\n\r\n";
    const GOOD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"ok\":true}";
    const OF_A_HANDLER: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 12\r\n\r\n{\"ok\":false}";

    #[test]
    fn an_answer_of_hyper_gets_a_body() {
        for before in ["", GOOD, OF_A_HANDLER] {
            let replaced = replace(format!("{before}{OF_HYPER}").as_bytes()).expect("a body");
            let text = String::from_utf8(replaced).expect("text");
            let rest = text.strip_prefix(before).expect("what precedes it stays");
            let (head, body) = rest.split_once("\r\n\r\n").expect("a body");
            assert!(
                head.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"),
                "{head}"
            );
            assert!(head.contains(&format!("content-length: {}\r\ndate: Thu", body.len())), "{head}");
            assert!(body.contains("more than 100 headers"), "{body}");
        }
    }

    #[test]
    fn other_answers_stay() {
        let no_content = "HTTP/1.1 204 No Content\r\ndate: Thu\r\n\r\n";
        let empty = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n";
        for answer in ["", GOOD, OF_A_HANDLER, no_content, empty, chunks, "0\r\n\r\n", &OF_HYPER[..40]] {
            assert_eq!(replace(answer.as_bytes()), None, "{answer}");
        }
    }
}
