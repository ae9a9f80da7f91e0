//! Which requests are refused, by which rule, and what is read from the others?

use super::super::*;
use super::Refused;
use crate::detect::{Detected, detect, is_meant_as_http1};
use crate::failure::Failure;
use crate::message::{BodyLength, Method, RequestHead, Version};

#[rustfmt::skip]
pub(super) const REFUSED: &[Refused] = &[
    // Framing.
    Refused("length, then coding", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both content-length"),
    Refused("coding, then length", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", "both content-length"),
    Refused("length 0 and coding", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "both content-length"),
    Refused("two equal lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "two content-length"),
    Refused("two different lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "two content-length"),
    Refused("list of equal lengths", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", "content-length is not"),
    Refused("length with plus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nabcde", "content-length is not"),
    Refused("length with minus", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\nabcde", "content-length is not"),
    Refused("length in hexadecimal", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nabcde", "content-length is not"),
    Refused("length with inner space", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1 0\r\n\r\nabcde", "content-length is not"),
    Refused("length with zero in front", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\nabcde", "content-length is not"),
    Refused("length with fraction", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5.0\r\n\r\nabcde", "content-length is not"),
    Refused("length with underscore", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1_0\r\n\r\nabcde", "content-length is not"),
    Refused("length is empty", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "content-length is not"),
    Refused("length in quotes", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: \"5\"\r\n\r\nabcde", "content-length is not"),
    Refused("length overflows 64 bits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551617\r\n\r\n", "content-length is not"),
    Refused("length overflows 63 bits", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775808\r\n\r\n", "content-length is not"),
    Refused("coding twice", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "two transfer-encoding"),
    Refused("coding, then identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", "two transfer-encoding"),
    Refused("identity, then coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("chunked, chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused(",chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("chunked,", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("chunked, gzip", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("identity", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n", "transfer codings"),
    Refused("xchunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("gzip", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer codings"),
    Refused("chunked with parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("chunked in quotes", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("empty coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", "transfer codings"),
    Refused("vertical tab before chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", "control character"),
    Refused("coding in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer-encoding in HTTP/1.0"),
    Refused("length and another coding", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "both content-length"),
    Refused("another coding, then length", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "transfer codings"),
    Refused("another coding in HTTP/1.0", b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "transfer-encoding in HTTP/1.0"),
    Refused("chunked, gzip, chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip, chunked\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("gzip, chunked,", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked,\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("another coding and two hosts", b"POST / HTTP/1.1\r\nHost: a\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "two host"),
    Refused("another coding with parameter", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: x;q=\"a, chunked\", chunked\r\n\r\n0\r\n\r\n", "transfer codings"),
    Refused("CONNECT with another coding", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "CONNECT or TRACE"),
    Refused("CONNECT with length", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 3\r\n\r\nabc", "CONNECT or TRACE"),
    Refused("CONNECT with chunks", b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "CONNECT or TRACE"),
    Refused("TRACE with length", b"TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "CONNECT or TRACE"),
    // Authority.
    Refused("no host", b"GET / HTTP/1.1\r\n\r\n", "no host"),
    Refused("two hosts", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "two host"),
    Refused("two equal hosts", b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "two host"),
    Refused("two hosts in HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", "two host"),
    Refused("list of hosts", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "list in the authority"),
    Refused("hosts without space", b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", "list in the authority"),
    Refused("hosts by space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "character in the host"),
    Refused("empty host", b"GET / HTTP/1.1\r\nHost:\r\n\r\n", "host is empty"),
    Refused("user in host", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "user information"),
    Refused("user and password in host", b"GET / HTTP/1.1\r\nHost: u:p@a\r\n\r\n", "port is no number"),
    Refused("path in host", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "character in the host"),
    Refused("scheme in host", b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n", "port is no number"),
    Refused("escape in host", b"GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", "character in the host"),
    Refused("host not ASCII", b"GET / HTTP/1.1\r\nHost: \xc3\xa4\r\n\r\n", "character in the host"),
    Refused("host with port 0", b"GET / HTTP/1.1\r\nHost: a:0\r\n\r\n", "port is no number"),
    Refused("host with port 65536", b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", "port is no number"),
    Refused("host with port of letters", b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n", "port is no number"),
    Refused("host with two ports", b"GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", "port is no number"),
    Refused("IPv6 host without brackets", b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n", "port is no number"),
    Refused("IPv6 host not closed", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "host is no IPv6"),
    Refused("octal IPv4 host", b"GET / HTTP/1.1\r\nHost: 0177.0.0.1\r\n\r\n", "host is no IPv4"),
    Refused("absolute form is not host", b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", "host is not the target's"),
    Refused("absolute form has another port", b"GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n", "host is not the target's"),
    Refused("absolute form with https has another port", b"GET https://a:80/ HTTP/1.1\r\nHost: a\r\n\r\n", "host is not the target's"),
    Refused("absolute form without host", b"GET http://a/ HTTP/1.1\r\n\r\n", "no host"),
    Refused("absolute form with user", b"GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "user information"),
    Refused("absolute form without authority", b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", "host is empty"),
    Refused("absolute form with a bad host", b"GET http://a/ HTTP/1.1\r\nHost: a, a\r\n\r\n", "list in the authority"),
    Refused("CONNECT is not host", b"CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", "host is not the target's"),
    Refused("CONNECT without port", b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT without a port"),
    Refused("CONNECT with a path", b"CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", "character in the host"),
    Refused("CONNECT with *", b"CONNECT * HTTP/1.1\r\nHost: a\r\n\r\n", "character in the host"),
    Refused("CONNECT with a URI", b"CONNECT http://a:1/ HTTP/1.1\r\nHost: a:1\r\n\r\n", "port is no number"),
    // Target.
    Refused("authority form with GET", b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "target is no path"),
    Refused("* with GET", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", "* with another method"),
    Refused("** with OPTIONS", b"OPTIONS ** HTTP/1.1\r\nHost: a\r\n\r\n", "target is no path"),
    Refused("path without slash", b"GET x HTTP/1.1\r\nHost: a\r\n\r\n", "target is no path"),
    Refused("query without path", b"GET ?x HTTP/1.1\r\nHost: a\r\n\r\n", "target is no path"),
    Refused("path with dots in front", b"GET ../x HTTP/1.1\r\nHost: a\r\n\r\n", "target is no path"),
    Refused("another scheme", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", "target is no path"),
    Refused("fragment", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", "fragment"),
    Refused("fragment after the query", b"GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", "fragment"),
    Refused("fragment after the authority", b"GET http://a#b HTTP/1.1\r\nHost: a\r\n\r\n", "fragment"),
    Refused("path not ASCII", b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", "character in the target is not"),
    Refused("path not UTF-8", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", "method, target"),
    Refused("query not ASCII", b"GET /?\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", "character in the target is not"),
    Refused("angle bracket in the path", b"GET /<a> HTTP/1.1\r\nHost: a\r\n\r\n", "character in the target"),
    Refused("quote in the path", b"GET /\"a\" HTTP/1.1\r\nHost: a\r\n\r\n", "character in the target"),
    Refused("quote in the query", b"GET /?\"a\" HTTP/1.1\r\nHost: a\r\n\r\n", "character in the target"),
    Refused("backtick in the path", b"GET /`a` HTTP/1.1\r\nHost: a\r\n\r\n", "character in the target"),
    Refused("NUL in the path", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", "method, target"),
    Refused("DEL in the path", b"GET /\x7f HTTP/1.1\r\nHost: a\r\n\r\n", "method, target"),
    // Request line.
    Refused("tab after the method", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", "method, target"),
    Refused("two spaces after the method", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "method, target"),
    Refused("tab after the target", b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", "method, target"),
    Refused("two spaces after the target", b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "version"),
    Refused("space after the version", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "line end"),
    Refused("space before the method", b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "method, target"),
    Refused("method is no token", b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "method, target"),
    Refused("no method", b"/ HTTP/1.1\r\nHost: a\r\n\r\n", "method, target"),
    Refused("HTTP/0.9", b"GET /\r\nHost: a\r\n\r\n", "method, target"),
    Refused("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "version"),
    Refused("HTTP/1.10", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", "line end"),
    Refused("HTTP/2.0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "version"),
    Refused("http/1.1 in lower case", b"GET / http/1.1\r\nHost: a\r\n\r\n", "version"),
    Refused("two empty lines in front", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "empty lines"),
    Refused("bare LF in front", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "empty lines"),
    Refused("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "method, target"),
    // Line ends.
    Refused("bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", "line end without CR"),
    Refused("bare LF after a field", b"GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n", "line end without CR"),
    Refused("bare LF after an empty field", b"GET / HTTP/1.1\r\nHost: a\r\nx:\ny: z\r\n\r\n", "line end without CR"),
    Refused("bare LF after the last field", b"GET / HTTP/1.1\r\nHost: a\n\r\n", "line end without CR"),
    Refused("bare LF as the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\n", "line end without CR"),
    Refused("bare LF without fields", b"GET / HTTP/1.0\n\n", "line end without CR"),
    Refused("bare CR in a value", b"GET / HTTP/1.1\r\nHost: a\r\nx: a\rb\r\n\r\n", "control character"),
    Refused("bare CR after the request line", b"GET / HTTP/1.1\rHost: a\r\n\r\n", "line end"),
    Refused("bare CR before CRLF", b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "control character"),
    Refused("bare CR as the empty line", b"GET / HTTP/1.1\r\nHost: a\r\n\rGET", "line end"),
    Refused("fold by space", b"GET / HTTP/1.1\r\nHost: a\r\nx: a\r\n b\r\n\r\n", "field name"),
    Refused("fold by tab", b"GET / HTTP/1.1\r\nHost: a\r\nx: a\r\n\tb\r\n\r\n", "field name"),
    Refused("fold before the first field", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "field name"),
    Refused("fold that hides a coding", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", "field name"),
    // Fields.
    Refused("space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "field name"),
    Refused("tab before the colon", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\t: chunked\r\n\r\n", "field name"),
    Refused("name with space", b"GET / HTTP/1.1\r\nHost: a\r\nx y: z\r\n\r\n", "field name"),
    Refused("name is empty", b"GET / HTTP/1.1\r\nHost: a\r\n: z\r\n\r\n", "field name"),
    Refused("name is a pseudo-field", b"GET / HTTP/1.1\r\nHost: a\r\n:path: /x\r\n\r\n", "field name"),
    Refused("name with a parenthesis", b"GET / HTTP/1.1\r\nHost: a\r\nx(y: z\r\n\r\n", "field name"),
    Refused("name not ASCII", b"GET / HTTP/1.1\r\nHost: a\r\n\xc3\xa4: z\r\n\r\n", "field name"),
    Refused("name with NUL", b"GET / HTTP/1.1\r\nHost: a\r\nx\0y: z\r\n\r\n", "field name"),
    Refused("line without colon", b"GET / HTTP/1.1\r\nHost: a\r\nxyz\r\n\r\n", "field name"),
    Refused("NUL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nx: a\0b\r\n\r\n", "control character"),
    Refused("escape character in a value", b"GET / HTTP/1.1\r\nHost: a\r\nx: \x1b[31m\r\n\r\n", "control character"),
    Refused("DEL in a value", b"GET / HTTP/1.1\r\nHost: a\r\nx: \x7f\r\n\r\n", "control character"),
    // Connection.
    Refused("connection names host", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", "connection names a field"),
    Refused("connection names Host among others", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Host\r\n\r\n", "connection names a field"),
    Refused("connection names content-length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: content-length\r\n\r\nx", "connection names a field"),
    Refused("connection names a pseudo-field", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: :path\r\n\r\n", "a connection option is not a token"),
    Refused("connection names what the mesh says", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Mesh-Port\r\n\r\n", "connection names a field"),
    Refused("connection names the caller's certificate", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-forwarded-client-cert\r\n\r\n", "connection names a field"),
    Refused("connection names the caller's address", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Forwarded-For\r\n\r\n", "connection names a field"),
    Refused("connection names forwarded", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: forwarded\r\n\r\n", "connection names a field"),
    Refused("connection names the real address", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-real-ip\r\n\r\n", "connection names a field"),
    Refused("connection option is no token", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n", "a connection option is not a token"),
    Refused("33 connection options", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a,a\r\n\r\n", "too many connection options"),
];

#[rustfmt::skip]
pub(super) const NOT_IMPLEMENTED: &[Refused] = &[
    Refused("gzip, chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "a transfer coding other"),
    Refused("br, gzip ,chunked", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: br, gzip\t,CHUNKED\r\n\r\n0\r\n\r\n", "a transfer coding other"),
];

#[test]
fn ambiguous_requests_are_refused_by_their_rule() {
    for Refused(name, bytes, rule) in REFUSED {
        match parse_request(bytes, &Limits::default()) {
            Err(Failure::BadRequest(why)) => assert!(why.starts_with(rule), "{name}: {why}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// RFC 9112 §6.1: a coding that is not understood is 501. §6.3: where `chunked` is not last it is 400, as is every
/// other doubt about framing.
#[test]
fn a_coding_that_is_not_understood_is_not_implemented() {
    for Refused(name, bytes, rule) in NOT_IMPLEMENTED {
        match parse_request(bytes, &Limits::default()) {
            Err(failure @ Failure::NotImplemented(why)) => {
                assert!(why.starts_with(rule), "{name}: {why}");
                assert_eq!(failure.status(), 501);
            }
            other => panic!("{name}: {other:?}"),
        }
    }
}

/// Also by a driver that looks at the first bytes before: who speaks TLS is the only one that it does
/// not hand on.
#[test]
fn every_refused_request_is_meant_as_http() {
    for Refused(name, bytes, _) in REFUSED.iter().chain(NOT_IMPLEMENTED) {
        let meant = match detect(bytes) {
            Some(Detected::Http1 | Detected::Http2) => true,
            Some(Detected::Opaque) | None => is_meant_as_http1(bytes, true) == Some(true),
            Some(Detected::Tls) => false,
        };
        assert_eq!(meant, *name != "TLS", "{name}");
    }
}

#[test]
fn every_rule_cites_its_section_or_bound() {
    for Refused(name, bytes, _) in REFUSED.iter().chain(NOT_IMPLEMENTED) {
        let Err(Failure::BadRequest(why) | Failure::NotImplemented(why)) =
            parse_request(bytes, &Limits::default())
        else {
            panic!("{name}")
        };
        assert!(
            why.contains("RFC ") || why.contains("IPv4"),
            "{name}: {why}"
        );
    }
}

pub(super) fn request(bytes: &[u8]) -> RequestHead {
    let (head, used) = parse_request(bytes, &Limits::default()).unwrap().unwrap();
    assert_eq!(
        used,
        head_end(bytes, 0).unwrap(),
        "{:?}",
        bytes.escape_ascii().to_string()
    );
    head
}

fn of(lines: &str) -> RequestHead {
    request(format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).as_bytes())
}

fn fields(head: &RequestHead) -> Vec<String> {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    head.fields
        .iter()
        .map(|(name, value)| format!("{}: {}", text(name), text(value)))
        .collect()
}

#[test]
fn a_plain_request_is_read() {
    let head =
        of("GET /a?b=c HTTP/1.1\nHost: Shop.Test:8080\nUser-Agent: x  y \nX-EMPTY:\nB:1\nb:\t2");
    assert_eq!(head.method, Method::Get);
    assert_eq!(head.version, Version::Http11);
    assert_eq!(head.authority, b"Shop.Test:8080");
    assert_eq!(head.path, b"/a?b=c");
    assert_eq!(
        fields(&head),
        ["user-agent: x  y", "x-empty: ", "b: 1", "b: 2"]
    );
    assert_eq!(head.body, BodyLength::Empty);
    assert!(head.keep_alive && !head.https && !head.expects_continue && head.protocol.is_empty());
}

#[test]
fn methods_are_tokens_in_their_case() {
    for method in ["get", "PURGE", "M-SEARCH", "!#$%&'*+-.^_`|~09"] {
        assert_eq!(
            of(&format!("{method} / HTTP/1.1\nHost: a")).method.as_str(),
            method
        );
    }
}

#[test]
fn one_empty_line_in_front_is_skipped() {
    let (head, used) = parse_request(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", &Limits::default())
        .unwrap()
        .unwrap();
    assert_eq!((head.path.as_slice(), used), (b"/".as_slice(), 29));
}

#[test]
fn a_head_is_read_only_when_it_is_whole() {
    let head = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
    for length in 0..head.len() {
        assert_eq!(
            parse_request(&head[..length], &Limits::default()),
            Ok(None),
            "{length}"
        );
    }
    let mut longer = head.to_vec();
    longer.extend_from_slice(b"abcGET / ");
    assert_eq!(
        parse_request(&longer, &Limits::default())
            .unwrap()
            .unwrap()
            .1,
        head.len()
    );
}

#[test]
fn lengths_are_read() {
    let body = |line: &str| of(&format!("POST / HTTP/1.1\nHost: a\n{line}")).body;
    assert_eq!(body("X: y"), BodyLength::Empty);
    assert_eq!(body("Content-Length: 0"), BodyLength::Exact(0));
    assert_eq!(body("Content-Length:  42 "), BodyLength::Exact(42));
    assert_eq!(
        body("Content-Length: 9223372036854775807"),
        BodyLength::Exact(9_223_372_036_854_775_807)
    );
    assert_eq!(body("Transfer-Encoding: chunked"), BodyLength::Marked);
    assert_eq!(body("TRANSFER-encoding: \t ChunKed "), BodyLength::Marked);
    assert_eq!(
        of("GET / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked").body,
        BodyLength::Marked
    );
}

#[test]
fn content_length_stays_and_transfer_encoding_goes() {
    let head = of("POST / HTTP/1.1\nHost: a\nContent-Length: 3");
    assert_eq!(fields(&head), ["content-length: 3"]);
    let head = of("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked");
    assert!(fields(&head).is_empty());
}

#[test]
fn the_fields_of_the_hop_are_dropped() {
    let head = of(
        "GET / HTTP/1.1\nX-One: 1\nConnection: X-One, keep-alive,,Three\nHost: a\n\
         Keep-Alive: timeout=5\nProxy-Connection: close\nX-Two: 2\nthree: 3\n\
         Upgrade: h2c\nHTTP2-Settings: AAA\nTE: gzip\nTrailer: x-sum\nconnection: two",
    );
    assert_eq!(fields(&head), ["x-two: 2", "trailer: x-sum"]);
    assert!(head.keep_alive);
}

#[test]
fn te_keeps_only_trailers() {
    let te = |value: &str| {
        fields(&of(&format!(
            "GET / HTTP/1.1\nHost: a\nTE:{value}\nConnection: te"
        )))
    };
    assert_eq!(te(" trailers"), ["te: trailers"]);
    assert_eq!(te(" Trailers"), ["te: trailers"]);
    assert_eq!(te("gzip, trailers"), ["te: trailers"]);
    assert!(te("gzip;q=1").is_empty());
    assert!(te("").is_empty());
}

#[test]
fn connections_persist_by_version_and_option() {
    let keeps = |version: &str, line: &str| {
        of(&format!("GET / HTTP/{version}\nHost: a\n{line}")).keep_alive
    };
    assert!(keeps("1.1", "X: y"));
    assert!(!keeps("1.1", "Connection: close"));
    assert!(!keeps("1.1", "Connection: keep-alive, CLOSE"));
    assert!(!keeps("1.1", "Connection: close\nConnection: keep-alive"));
    assert!(!keeps("1.0", "X: y"));
    assert!(keeps("1.0", "Connection: Keep-Alive"));
    assert!(!keeps("1.0", "Connection: keep-alive\nConnection: close"));
}

#[test]
fn http_1_0_needs_no_host() {
    let head = of("GET /health HTTP/1.0");
    assert!(head.authority.is_empty() && head.version == Version::Http10);
}

#[test]
fn absolute_targets_are_taken_apart() {
    let parts = |line: &str| {
        let head = of(&format!("{line} HTTP/1.1\nHost: A:80"));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (head.https, text(head.authority), text(head.path))
    };
    let is = |https, authority: &str, path: &str| (https, authority.to_owned(), path.to_owned());
    assert_eq!(parts("GET http://a/x?y"), is(false, "a", "/x?y"));
    assert_eq!(parts("GET HTTP://a./"), is(false, "a.", "/"));
    assert_eq!(parts("GET http://a:80"), is(false, "a:80", "/"));
    assert_eq!(parts("GET http://a?x"), is(false, "a", "/?x"));
    assert_eq!(parts("GET https://a:80/"), is(true, "a:80", "/"));
    assert_eq!(parts("OPTIONS http://a"), is(false, "a", "*"));
    assert_eq!(parts("OPTIONS http://a/"), is(false, "a", "/"));
    assert_eq!(parts("OPTIONS *"), is(false, "A:80", "*"));
}

#[test]
fn connect_has_an_authority_and_no_path() {
    let head = of("CONNECT 10.0.0.1:8080 HTTP/1.1\nHost: 10.0.0.1:8080");
    assert_eq!(
        (head.authority.as_slice(), head.path.as_slice()),
        (&b"10.0.0.1:8080"[..], &b""[..])
    );
    assert_eq!(
        of("CONNECT [::1]:1 HTTP/1.1\nHost: [0::1]:1").authority,
        b"[::1]:1"
    );
}

#[test]
fn one_protocol_named_by_connection_is_an_upgrade() {
    let protocol = |lines: &str| {
        String::from_utf8(of(&format!("GET / HTTP/1.1\nHost: a\n{lines}")).protocol).unwrap()
    };
    assert_eq!(
        protocol("Connection: Upgrade\nUpgrade: WebSocket"),
        "websocket"
    );
    assert_eq!(
        protocol("Upgrade: foo/2\nConnection: keep-alive, upgrade"),
        "foo/2"
    );
    assert_eq!(
        protocol("Upgrade: websocket"),
        "",
        "not named by connection"
    );
    assert_eq!(protocol("Connection: upgrade"), "", "nothing to upgrade to");
    for method in ["POST", "DELETE", "PURGE"] {
        let asked = of(&format!(
            "{method} / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket"
        ));
        assert_eq!(asked.protocol, b"", "{method} would become GET");
    }
    assert_eq!(protocol("Connection: upgrade\nUpgrade: a, b"), "", "two");
    assert_eq!(
        protocol("Connection: upgrade\nUpgrade: a\nUpgrade: b"),
        "",
        "two"
    );
    assert_eq!(
        protocol("Connection: upgrade\nUpgrade: a b"),
        "",
        "no token"
    );
    assert_eq!(
        protocol("Connection: upgrade\nUpgrade: h2c"),
        "",
        "hides requests"
    );
    assert_eq!(
        protocol("Connection: upgrade\nUpgrade: HTTP/2.0"),
        "",
        "hides requests"
    );
    assert_eq!(
        protocol("Connection: upgrade\nUpgrade: TLS/1.0"),
        "",
        "hides requests"
    );
    assert_eq!(
        protocol("Connection: upgrade\nUpgrade: websocket\nContent-Length: 1"),
        "",
        "content before the upgrade"
    );
    let old = of("GET / HTTP/1.0\nHost: a\nConnection: upgrade\nUpgrade: websocket");
    assert!(old.protocol.is_empty());
    let upgrade = of("GET / HTTP/1.1\nHost: a\nConnection: upgrade\nUpgrade: websocket\nX: y");
    assert_eq!(fields(&upgrade), ["x: y"]);
}

#[test]
fn expectations_are_seen_in_http_1_1_only() {
    let head = of("PUT / HTTP/1.1\nHost: a\nExpect: 100-Continue\nContent-Length: 1");
    assert!(head.expects_continue);
    assert_eq!(head.fields.get(b"expect"), Some(&b"100-Continue"[..]));
    let head = of("PUT / HTTP/1.0\nHost: a\nExpect: 100-continue\nContent-Length: 1");
    assert!(!head.expects_continue && head.fields.get(b"expect").is_none());
}

#[test]
fn a_head_has_a_bound_in_bytes() {
    let limits = Limits {
        head_bytes_max: 64,
        fields_max: 100,
    };
    let head = |length: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\nx: ".to_vec();
        head.resize(length - 4, b'y');
        head.extend_from_slice(b"\r\n\r\n");
        head
    };
    assert!(parse_request(&head(64), &limits).unwrap().is_some());
    assert_eq!(
        parse_request(&head(65), &limits),
        Err(Failure::HeadTooLarge)
    );
    assert_eq!(
        parse_request(&head(80)[..65], &limits),
        Err(Failure::HeadTooLarge)
    );
    assert_eq!(parse_request(&head(80)[..64], &limits), Ok(None));
    let mut with_body = head(64);
    with_body.resize(100_000, b'z');
    assert!(parse_request(&with_body, &limits).unwrap().is_some());
    let endless = vec![b'a'; 60 * 1024 + 1];
    assert_eq!(
        parse_request(&endless, &Limits::default()),
        Err(Failure::HeadTooLarge)
    );
}

#[test]
fn a_head_has_a_bound_in_fields() {
    let head = |fields: usize| {
        let mut head = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        for _ in 1..fields {
            head.extend_from_slice(b"x: y\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    };
    let limits = Limits::default();
    assert_eq!(
        parse_request(&head(100), &limits)
            .unwrap()
            .unwrap()
            .0
            .fields
            .len(),
        99
    );
    assert_eq!(
        parse_request(&head(101), &limits),
        Err(Failure::HeadTooLarge)
    );
    let few = Limits {
        fields_max: 3,
        ..limits
    };
    assert!(parse_request(&head(3), &few).unwrap().is_some());
    assert_eq!(parse_request(&head(4), &few), Err(Failure::HeadTooLarge));
    let many = Limits {
        fields_max: 1000,
        ..limits
    };
    assert_eq!(parse_request(&head(101), &many), Err(Failure::HeadTooLarge));
}
