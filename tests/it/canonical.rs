//! Does one path mean one thing, to policy and to the application, however it is spelled? (SECURITY S14)
//!
//! More than four hundred spellings, each in origin form, absolute form and over HTTP/2, against a denial by
//! each kind of match: refused, denied, or seen by the application as a path that is not the denied one
//! in any reading.

use std::collections::BTreeSet;

use isthmus_tests::{Client, Mesh, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::ambiguous::outcome;
use crate::protocols::{AT_ONCE, all_protocols};

/// What is denied.
const SECRET: &str = "/admin/keys";
/// Ways to deny it.
const MATCHES: [&str; 4] = [
    "/admin/keys",
    "{prefix: /admin}",
    "{suffix: /keys}",
    "{regex: '/admin/k.*'}",
];

/// What may stand between the segments of a path ...
const BETWEEN: [&str; 12] = [
    "/",
    "//",
    "/./",
    "/x/../",
    "/%2e/",
    "/x/%2E%2e/",
    "%2f",
    "%2F",
    "%5c",
    "\\",
    "/;a/",
    "/..;/",
];
/// ... and behind it.
const BEHIND: [&str; 12] = [
    "", "/", "?q=/", "#f", "%00", ";a=b", "/.", "/x/..", "%20", "%", "%zz", "%c0%af",
];
/// How its names may be written.
const NAMES: [(&str, &str); 4] = [
    ("admin", "keys"),
    ("%61dmin", "key%73"),
    ("%2561dmin", "keys"),
    ("ADMIN", "keys"),
];

fn spellings() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for between in BETWEEN {
        for behind in BEHIND {
            for (first, second) in NAMES {
                all.insert(format!("/{first}{between}{second}{behind}"));
            }
        }
    }
    all.extend(BETWEEN.map(|between| format!("{between}admin/keys")));
    all
}

/// As the most tolerant application could read it: decoded once, without parameters, empty segments and
/// dots.
fn read(path: &str) -> String {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let escaped = behind.get(..2).filter(|_| *first == b'%');
        let escaped = escaped.and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &behind[2..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    // Another path: `/a/` is not `/a` to a policy, nor to a file system.
    let last = text.rsplit('/').next().unwrap_or_default();
    let folder = matches!(last, "" | "." | "..");
    format!("/{}{}", segments.join("/"), if folder { "/" } else { "" })
}

/// What a request came to: its status, and how often the application had been called before.
async fn http1(client: &Client, target: &str) -> String {
    let words = format!("GET {target} HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n");
    status(client, &words).await
}

/// The status that a client gets who says this.
pub(crate) async fn status(client: &Client, words: &str) -> String {
    let mut io = client.tcp().await.unwrap();
    // It may be refused before all is said.
    let _ = io.write_all(words.as_bytes()).await;
    let mut said = Vec::new();
    let _ = timeout(AT_ONCE, io.read_to_end(&mut said))
        .await
        .expect("an answer");
    let said = String::from_utf8_lossy(&said).into_owned();
    said.split(' ').nth(1).unwrap_or("gone").to_owned()
}

async fn http2(client: &Client, path: &str) -> String {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "echo"),
    ];
    outcome(client.tcp().await.unwrap(), &fields).await
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_around_a_denial() {
    let mesh = all_protocols().start().await;
    let (one, two) = (
        mesh.client("east/web").port("echo", 80),
        mesh.client("east/web").port("echo", 81),
    );
    let spellings = spellings();
    assert!(spellings.len() >= 400, "{}", spellings.len());
    for matched in MATCHES {
        deny(&mesh, &one, matched).await;
        let mut denied = 0;
        for path in &spellings {
            let outcomes = [
                http1(&one, path).await,
                http1(&one, &format!("http://echo{path}")).await,
                http2(&two, path).await,
            ];
            denied += outcomes.iter().filter(|outcome| *outcome == "403").count();
        }
        assert!(denied > 50, "{matched}: {denied} were denied at all");
        for port in [80, 81] {
            for head in mesh.app_on("west/echo-1", port).record.heads() {
                let path = head.split(' ').nth(1).unwrap_or_default();
                assert_ne!(read(path), SECRET, "{matched} on {port}: {head}");
            }
        }
    }
}

/// `OPTIONS *` is about the server as a whole: whoever denies every path denies it.
#[tokio::test]
async fn a_denial_of_every_path_is_one_of_the_server_as_a_whole() {
    let mesh = all_protocols().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    let words = "OPTIONS * HTTP/1.1\r\nhost: echo\r\nconnection: close\r\n\r\n";
    assert_eq!(status(&client, words).await, "200");
    deny(&mesh, &client, "{prefix: /}").await;
    assert_eq!(status(&client, words).await, "403");
}

/// Until the denial by this match is in force, and no older one.
async fn deny(mesh: &Mesh, client: &Client, matched: &str) {
    let policy = format!(
        "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\n\
         metadata: {{name: secret, namespace: shop}}\n\
         spec:\n  action: Deny\n  rules:\n  - to: [{{paths: [{matched}]}}]\n\
         \x20 - to: [{{paths: ['/now/{}']}}]\n",
        matched.len()
    );
    mesh.write("west", "secret.yaml", &policy);
    let marker = format!("/now/{}", matched.len());
    until(&format!("{matched} is in force"), async || {
        let status = http1(client, &marker).await;
        if status == "403" { Ok(()) } else { Err(status) }
    })
    .await;
}

#[test]
fn the_tolerant_reading_is_tolerant() {
    for path in [
        "/admin/keys",
        "//admin/./keys",
        "/x/../admin/%6beys",
        "/admin%2fkeys",
        "/admin;a/keys;b?q",
        "\\admin\\keys",
        "/x/%2e%2e/admin/keys#f",
    ] {
        assert_eq!(read(path), SECRET, "{path}");
    }
    assert_ne!(read("/admin/key"), SECRET);
}
