//! What do the first bytes of a connection speak?
//!
//! Asked only where nobody declared the port's protocol. What is not surely HTTP or TLS is opaque:
//! it is relayed as bytes, under layer 4 policy, where an HTTP term never allows. So to be called
//! opaque gains a client nothing.

use crate::message::is_token;

/// The client's preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: &[u8; DETECT_BYTES_MAX] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What follows an HTTP/1 request's target (RFC 9112 §2.3).
const VERSION_START: &[u8] = b" HTTP/1.";
/// What the name of a version begins with, however the line around it is spelt.
const NAME_START: &[u8] = b"HTTP/";
/// Most bytes that are needed to decide: the length of HTTP/2's preface.
pub const DETECT_BYTES_MAX: usize = 24;
/// Longest method that is taken for one, in bytes. HTTP sets no bound; the longest registered
/// method, UPDATEREDIRECTREF, is one too long, and is rarer than a binary protocol's chance hit.
const METHOD_BYTES_MAX: usize = 16;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detected {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A TLS handshake.
    Tls,
    /// Anything else.
    Opaque,
}

/// What a server has said before its client said anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Greeting {
    /// Like an HTTP/1 answer. There was no request: it is the connection that is refused or over (408, 503).
    Http1,
    /// An HTTP/2 server's preface, which need not wait for the client's (RFC 9113 §3.4).
    Http2,
    /// Something else: here it is the server that speaks first.
    Bytes,
}

/// Looks at the first bytes of a server, as many as came at once.
#[must_use]
pub fn greeting(first: &[u8]) -> Greeting {
    match first {
        // The head of a SETTINGS frame of whole settings (RFC 9113 §6.5).
        [a, b, c, 4, 0, 0, 0, 0, 0, ..]
            if (u32::from_be_bytes([0, *a, *b, *c])).is_multiple_of(6) =>
        {
            Greeting::Http2
        }
        _ if first.starts_with(b"HTTP/1.") => Greeting::Http1,
        _ => Greeting::Bytes,
    }
}

/// Looks at the first bytes. `None`: they fit more than one answer, come back with more; that never
/// happens at [`DETECT_BYTES_MAX`] bytes or more. An answer is not changed by further bytes.
#[must_use]
pub fn detect(first: &[u8]) -> Option<Detected> {
    let first = first.get(..DETECT_BYTES_MAX).unwrap_or(first);
    match first {
        [] => None,
        [0x16, ..] => tls(first),
        _ if PREFACE.starts_with(first) => {
            (first.len() == PREFACE.len()).then_some(Detected::Http2)
        }
        _ => http1(first),
    }
}

/// Of bytes that fit more than one answer: may they become HTTP/2's preface, or TLS, which are longer?
#[must_use]
pub fn may_be_http2_or_tls(first: &[u8]) -> bool {
    PREFACE.starts_with(first) || first.first() == Some(&0x16)
}

/// Of bytes that fit more than one answer: are they all but surely HTTP or TLS? A single word may be
/// anything, and whoever says it may be waiting for an answer.
#[must_use]
pub fn is_promising(first: &[u8]) -> bool {
    first.first() == Some(&0x16) || first.contains(&b' ')
}

/// A plaintext record with the beginning of a ClientHello (RFC 8446 §5.1, §4.1.2).
fn tls(first: &[u8]) -> Option<Detected> {
    let shape: [fn(u8) -> bool; 6] = [
        |b| b == 0x16,
        |b| b == 3,
        |b| b <= 4,
        |b| b <= 0x40,
        |_| true,
        |b| b == 1,
    ];
    if !first.iter().zip(shape).all(|(byte, fits)| fits(*byte)) {
        return Some(Detected::Opaque);
    }
    (first.len() >= shape.len()).then_some(Detected::Tls)
}

/// `METHOD SP target SP HTTP/1.`, as far as the bytes go (RFC 9112 §3).
fn http1(first: &[u8]) -> Option<Detected> {
    let more = first.len() < DETECT_BYTES_MAX;
    let method = first.split(|b| *b == b' ').next().unwrap_or_default();
    if !is_token(method) || method.len() > METHOD_BYTES_MAX {
        return Some(Detected::Opaque);
    }
    let Some(rest) = first.get(method.len().saturating_add(1)..) else {
        // No space yet: at most 16 bytes are here.
        return None;
    };
    // RFC 9113 §11.6 keeps PRI for the preface, which these bytes are not.
    if method == b"PRI" || !is_target_start(method, rest) {
        return Some(Detected::Opaque);
    }
    let target = rest.iter().take_while(|b| b.is_ascii_graphic()).count();
    let after = rest.get(target..).unwrap_or_default();
    if target == 0 || after.is_empty() {
        // The target goes on beyond what is here. Line protocols have commands in small letters
        // ("get /key"); HTTP's methods are in capitals, and others must show their version.
        return match (more, method.iter().any(u8::is_ascii_lowercase)) {
            (true, _) => None,
            (false, true) => Some(Detected::Opaque),
            (false, false) => Some(Detected::Http1),
        };
    }
    if after.starts_with(VERSION_START) {
        return Some(Detected::Http1);
    }
    if !VERSION_START.starts_with(after) {
        return Some(Detected::Opaque);
    }
    (!more).then_some(Detected::Http1)
}

/// Can a target of this method begin so (RFC 9112 §3.2)? A key, a mailbox or a topic can't.
fn is_target_start(method: &[u8], rest: &[u8]) -> bool {
    let begins = |form: &[u8]| {
        let seen = rest.len().min(form.len());
        rest.get(..seen)
            .is_some_and(|r| form.get(..seen).is_some_and(|f| r.eq_ignore_ascii_case(f)))
    };
    match method {
        b"CONNECT" => rest
            .iter()
            .take_while(|b| **b != b' ')
            .all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(b)),
        b"OPTIONS" if begins(b"* ") => true,
        _ => begins(b"/") || begins(b"http://") || begins(b"https://"),
    }
}

/// Where a port declares HTTP: are first bytes that are [`Detected::Opaque`] meant as HTTP/1, so that
/// a 400 is understood? A word of their first line begins with `HTTP/`, or it begins as a request
/// does. Whoever speaks another protocol would take an answer for words of that.
///
/// `None`: the line goes on, come back with more; not where it has `ended`. An answer is not changed
/// by further bytes.
#[must_use]
pub fn is_meant_as_http1(first: &[u8], ended: bool) -> Option<bool> {
    let blank = first.iter().take_while(|b| b"\r\n".contains(b)).count();
    let rest = first.get(blank..).unwrap_or_default();
    let end = rest.iter().position(|b| *b == b'\n');
    let line = match end {
        Some(end) => rest.get(..end).unwrap_or(rest),
        None if ended => rest,
        None => return None,
    };
    let is_version = |word: &[u8]| {
        word.get(..NAME_START.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(NAME_START))
    };
    let method = line.split(|b| *b == b' ').next().unwrap_or_default();
    let target = line.get(method.len().saturating_add(1)..);
    let begins = target.is_some_and(|target| {
        is_token(method) && !target.is_empty() && is_target_start(method, target)
    });
    Some(begins || line.split(|b| b" \t\r".contains(b)).any(is_version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_server_says_first_is_told_apart() {
        let settings = b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64";
        let acknowledged = b"\0\0\0\x04\x01\0\0\0\0";
        for (first, greeting_of) in [
            (&settings[..], Greeting::Http2),
            (b"\0\0\0\x04\0\0\0\0\0", Greeting::Http2),
            (b"\0\0\x05\x04\0\0\0\0\0", Greeting::Bytes),
            (b"\0\0\0\x04\0\0\0\0\x01", Greeting::Bytes),
            (acknowledged, Greeting::Bytes),
            (b"\0\0\0\x04\0", Greeting::Bytes),
            (b"HTTP/1.1 408 Request Timeout\r\n", Greeting::Http1),
            (b"HTTP/1.0 503", Greeting::Http1),
            (b"HTTP/2 ready", Greeting::Bytes),
            (b"220 mail.example ESMTP\r\n", Greeting::Bytes),
            (b"SSH-2.0-OpenSSH_9.9\r\n", Greeting::Bytes),
            // MySQL's.
            (b"\x4a\0\0\0\x0a8.4.0\0", Greeting::Bytes),
            (b"", Greeting::Bytes),
        ] {
            assert_eq!(greeting(first), greeting_of, "{first:?}");
        }
    }

    /// First bytes as the programs send them.
    const EXAMPLES: &[(Detected, &[u8])] = &[
        (Detected::Http1, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        (Detected::Http1, b"GET / HTTP/1.0\r\n\r\n"),
        (Detected::Http1, b"get / HTTP/1.1\r\n\r\n"),
        (
            Detected::Http1,
            b"POST /a/very/long/path/to/somewhere HTTP/1.1\r\n",
        ),
        (Detected::Http1, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n"),
        (Detected::Http1, b"OPTIONS /x HTTP/1.1\r\nHost: a\r\n"),
        (Detected::Http1, b"CONNECT a.b:443 HTTP/1.1\r\n"),
        (
            Detected::Http1,
            b"CONNECT a.very.long.name.internal:443 HTTP/1.1\r\n",
        ),
        (Detected::Http1, b"GET http://a/ HTTP/1.1\r\n\r\n"),
        (
            Detected::Http1,
            b"GET HTTPS://a.very.long.name/ HTTP/1.1\r\n\r\n",
        ),
        (Detected::Http1, b"VERSION-CONTROL /somewhere HTTP/1.1\r\n"),
        (Detected::Http1, b"PRIORITIZE / HTTP/1.1\r\n\r\n"),
        (Detected::Http1, b"M-SEARCH /x HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            Detected::Http2,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        ),
        (Detected::Tls, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"),
        (Detected::Tls, b"\x16\x03\x03\0\x01\x01"),
        (Detected::Opaque, b"\x16\x03\x03\0\x7a\x02\0\0"),
        (Detected::Opaque, b"\x16\x02\x00\0\x7a\x01\0\0"),
        (Detected::Opaque, b"\x80\x2e\x01\0\x02"),
        // Redis
        (Detected::Opaque, b"*1\r\n$4\r\nPING\r\n"),
        (Detected::Opaque, b"*3\r\n$3\r\nSET\r\n$5\r\n/ HTTP\r\n"),
        (Detected::Opaque, b"PING\r\n"),
        (Detected::Opaque, b"GET key\r\n"),
        (Detected::Opaque, b"GET /key\r\n"),
        (Detected::Opaque, b"SET /key value\r\n"),
        (Detected::Opaque, b"get /a/long/key/of/memcached/kind\r\n"),
        // PostgreSQL: startup, SSLRequest, CancelRequest
        (
            Detected::Opaque,
            b"\0\0\0\x29\0\x03\0\0user\0app\0database\0shop\0\0",
        ),
        (Detected::Opaque, b"\0\0\0\x08\x04\xd2\x16\x2f"),
        (
            Detected::Opaque,
            b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02",
        ),
        // MySQL: a client's login; a server's greeting
        (Detected::Opaque, b"U\0\0\x01\x85\xa6\xff\x19\0\0\0\x01\x21"),
        (Detected::Opaque, b"J\0\0\0\x0a8.0.36\0"),
        (Detected::Opaque, b"G\0\0\x01/ HTTP/1.1\r\n"),
        // SMTP, POP3, IMAP, FTP
        (Detected::Opaque, b"EHLO mail.example.com\r\n"),
        (Detected::Opaque, b"HELO /\r\n"),
        (Detected::Opaque, b"MAIL FROM:<a@example.com>\r\n"),
        (Detected::Opaque, b"220 mail.example.com ESMTP\r\n"),
        (Detected::Opaque, b"USER somebody\r\n"),
        (Detected::Opaque, b"a1 LOGIN user secret\r\n"),
        (Detected::Opaque, b"RETR /pub/file\r\n"),
        // SSH
        (Detected::Opaque, b"SSH-2.0-OpenSSH_9.6\r\n"),
        (Detected::Opaque, b"SSH-2.0-Go\r\n"),
        // MQTT CONNECT, Kafka ApiVersions, MongoDB, AMQP, Cassandra, LDAP, DNS over TCP
        (
            Detected::Opaque,
            b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02id",
        ),
        (Detected::Opaque, b"\0\0\0\x23\0\x12\0\x03\0\0\0\x01\0\x07"),
        (
            Detected::Opaque,
            b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0",
        ),
        (Detected::Opaque, b"AMQP\0\0\x09\x01"),
        (Detected::Opaque, b"\x04\0\0\0\x05\0\0\0\0"),
        (Detected::Opaque, b"\x30\x0c\x02\x01\x01\x60\x07"),
        (Detected::Opaque, b"\0\x1d\x12\x34\x01\0\0\x01"),
        // Lines that look like requests, and are none
        (Detected::Opaque, b"CONNECT {\"verbose\":false}\r\n"),
        (Detected::Opaque, b"CONNECT\naccept-version:1.2\n"),
        (Detected::Opaque, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
        (Detected::Opaque, b"OPTIONS rtsp://a/ RTSP/1.0\r\n"),
        (Detected::Opaque, b"OPTIONS * RTSP/1.0\r\n"),
        (Detected::Opaque, b"INVITE sip:bob@example.com SIP/2.0\r\n"),
        (Detected::Opaque, b"GET / HTTP/2.0\r\n"),
        (Detected::Opaque, b"PRI * HTTP/1.1\r\n"),
        (Detected::Opaque, b"PRI / HTTP/1.1\r\n"),
        (Detected::Opaque, b"GET  / HTTP/1.1\r\n"),
        (Detected::Opaque, b"GET\t/ HTTP/1.1\r\n"),
        (Detected::Opaque, b"GET /\tHTTP/1.1\r\n"),
        (Detected::Opaque, b" GET / HTTP/1.1\r\n"),
        (Detected::Opaque, b"\r\nGET / HTTP/1.1\r\n"),
        (Detected::Opaque, b"GET / \r\n"),
        (
            Detected::Opaque,
            b"A-METHOD-THAT-IS-TOO-LONG / HTTP/1.1\r\n",
        ),
        (Detected::Opaque, b"\xff\xfe\0\x01"),
    ];

    #[test]
    fn programs_are_told_apart() {
        for (want, bytes) in EXAMPLES {
            assert_eq!(detect(bytes), Some(*want), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn more_bytes_never_change_an_answer() {
        for (want, bytes) in EXAMPLES {
            for end in 0..bytes.len() {
                let early = detect(&bytes[..end]);
                assert!(
                    early.is_none_or(|e| e == *want),
                    "{} {end}",
                    bytes.escape_ascii()
                );
            }
        }
        assert_eq!(detect(b""), None);
    }

    /// What is no request as it stands: a request that its client has got wrong, or none at all?
    const NOT_AS_IT_STANDS: &[(bool, &[u8])] = &[
        (true, b"GET\t/ HTTP/1.1\r\n"),
        (true, b"GET  / HTTP/1.1\r\n"),
        (true, b" GET / HTTP/1.1\r\n"),
        (true, b"\r\nGET / HTTP/1.1\r\n"),
        (true, b"\r\n\r\nGET / HTTP/1.1\r\n"),
        (true, b"\nGET / HTTP/1.1\n"),
        (true, b"GET x HTTP/1.1 \r\n"),
        (true, b"G(T / http/1.1\r\n"),
        (true, b"GET x HTTP/1.1\rhost: a\r\n"),
        (true, b"/ HTTP/1.1\r\n"),
        (true, b"GET / HTTP/2.0\r\n"),
        (true, b"PRI * HTTP/1.1\r\n"),
        (true, b"A-METHOD-THAT-IS-TOO-LONG / HTTP/1.1\r\n"),
        // HTTP/0.9
        (true, b"GET /\r\n"),
        (true, b"GET /a b\r\n"),
        (false, b"INVALID CONNECTION PREFACE\r\n\r\n"),
        (false, b"PING\r\n"),
        (false, b"PING \r\n"),
        (false, b"*1\r\n$4\r\nPING\r\n"),
        (false, b"SSH-2.0-OpenSSH_9.6\r\n"),
        (false, b"EHLO mail.example.com\r\n"),
        (false, b"USER HTTP\r\n"),
        (false, b"INVITE sip:bob@example.com SIP/2.0\r\n"),
        (false, b"\x16\x03\x01\x02\0\x01\0\n"),
        (false, b"\r\n\r\n\r\n"),
        (false, b""),
    ];

    #[test]
    fn what_is_meant_as_http_is_known_by_its_first_line() {
        for (want, bytes) in NOT_AS_IT_STANDS {
            let shown = bytes.escape_ascii();
            assert_ne!(detect(bytes), Some(Detected::Http1), "{shown}");
            assert_eq!(is_meant_as_http1(bytes, true), Some(*want), "{shown}");
            for end in 0..bytes.len() {
                let early = is_meant_as_http1(&bytes[..end], false);
                assert!(early.is_none_or(|early| early == *want), "{shown} {end}");
            }
        }
        assert_eq!(is_meant_as_http1(b"GET  / HTTP/1.1", false), None);
        assert_eq!(is_meant_as_http1(b"GET  / HTTP/1.1", true), Some(true));
    }

    proptest! {
        #[test]
        fn a_line_with_a_version_is_meant_as_http(line in "[ -~\t]{0,40}[ \t][Hh][Tt][Tt][Pp]/[ -~]{0,9}\r?\n", more in "[ -~\r\n]{0,40}") {
            prop_assert_eq!(is_meant_as_http1(line.as_bytes(), false), Some(true));
            prop_assert_eq!(is_meant_as_http1((line + &more).as_bytes(), true), Some(true));
        }

        #[test]
        fn twenty_four_bytes_are_always_enough(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert!(bytes.len() < DETECT_BYTES_MAX || detect(&bytes).is_some());
        }

        #[test]
        fn any_text_is_decided_once(text in "(GET|get|CONNECT|OPTIONS|PRI|[A-Z]{1,18}) ?[/*h]?[ -~]{0,30}", cut in 0usize..40) {
            let early = detect(&text.as_bytes()[..cut.min(text.len())]);
            if early.is_some() {
                prop_assert_eq!(detect(text.as_bytes()), early);
            }
        }

        #[test]
        fn requests_are_recognised(path in "/[a-z0-9/]{0,40}", method in "[A-Z]{1,16}") {
            prop_assume!(method != "PRI" && method != "CONNECT");
            let line = format!("{method} {path} HTTP/1.1\r\n\r\n");
            prop_assert_eq!(detect(line.as_bytes()), Some(Detected::Http1));
        }
    }
}
