//! Does one host mean one thing, to routes, to policy and to the application? (SECURITY S15)
//!
//! More than three hundred spellings, in origin form, absolute form and over HTTP/2, alone and beside
//! another host: refused, or routed, judged and forwarded as one host, the same in each form.

use std::collections::BTreeSet;

use isthmus_tests::plan::MeshPlan;
use isthmus_tests::wait::check;
use isthmus_tests::{Client, Mesh, until};

use crate::ambiguous::outcome;
use crate::canonical::status;

/// A name and two addresses that are denied.
const SECRETS: [&str; 3] = ["secret.test", "10.0.0.1", "[2001:db8::1]"];
/// Ways to deny them.
const MATCHES: [&str; 4] = [
    "secret.test, 10.0.0.1, '[2001:db8::1]'",
    "{prefix: secret.}, {prefix: 10.0.0.}, {prefix: '[2001:db8::1'}",
    "{suffix: .test}, {suffix: .0.0.1}, {suffix: 'b8::1]'}",
    "{regex: 'secret[.]test'}, {regex: '10[.]0[.]0[.]1'}, {regex: '.*db8::1.*'}",
];
/// What goes to another service.
const CANARY: &str = "canary.internal";

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: echo, namespace: shop}
spec:
  parentRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: echo}]
  rules:
  - matches: [{headers: [{name: Host, value: canary.internal}]}]
    backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: canary, port: 80}]
  - backendRefs: [{group: multicluster.x-k8s.io, kind: ServiceImport, name: echo, port: 80}]
";

/// How a host may be written; some of these are another host, or none.
fn spellings() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for host in [SECRETS[0], SECRETS[1], SECRETS[2], CANARY] {
        let inner = host.trim_matches(['[', ']']);
        let upper = host.to_ascii_uppercase();
        let escaped = format!("%{:02x}{}", host.as_bytes()[0], &host[1..]);
        for form in [host, &upper, inner, &escaped] {
            for behind in [
                "", ".", "..", ":80", ".:80", ":080", ":", ":0", ":65536", ":81", ":80:80", ":+80",
                ":80.", "%2e", "%00", "\\", ";x", "@echo", ",echo", ", echo", "]", "%25eth0", "_",
            ] {
                all.insert(format!("{form}{behind}"));
            }
            for before in [
                ".",
                "user@",
                "user:word@",
                "@",
                "echo,",
                "echo, ",
                "[",
                "[::ffff:",
            ] {
                all.insert(format!("{before}{form}"));
            }
        }
    }
    for address in [
        "10.1",
        "10.0.1",
        "10.0.0.01",
        "012.0.0.1",
        "0xa.0.0.1",
        "167772161",
        "0x0a000001",
        "[2001:0db8:0:0:0:0:0:1]",
        "[2001:db8:0::1]",
        "[2001:db8::0.0.0.1]",
        "[2001:DB8::1]:80",
        "[::ffff:10.0.0.1]",
        "[::ffff:a00:1]",
        "[2001:db8::1%eth0]",
        "[v1.fe80::1]",
        "[]",
        "",
    ] {
        all.insert(address.to_owned());
    }
    all
}

/// As a tolerant application reads it: the last of a list, behind what names a user, without its port and
/// the root's dot, addresses by their value.
fn read(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.rsplit([',', ' ']).next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    if let Some((inside, _)) = bracketed {
        let address = inside.split('%').next().unwrap_or_default();
        return match address.parse::<std::net::Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => host.to_owned(),
        };
    }
    let host = host.split(':').next().unwrap_or_default();
    host.trim_end_matches('.').replace("%2e", ".")
}

/// Two services in another network.
fn shops() -> MeshPlan {
    Mesh::builder()
        .cluster("east", |c| c.client("web").manifest("route.yaml", ROUTE))
        .cluster("west", |c| c.service("echo", 1).service("canary", 1))
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Refused,
    Denied,
    /// Which pod saw it, under which host.
    Seen(String, String),
}

/// Sends requests and looks which application has seen them.
struct Asker<'a> {
    mesh: &'a Mesh,
    /// To port 80.
    client: Client,
    sent: usize,
}

impl Asker<'_> {
    fn path(&mut self) -> String {
        self.sent += 1;
        format!("/n{}", self.sent)
    }

    fn fate(&self, status: &str, path: &str) -> Fate {
        let mut seen = Vec::new();
        for pod in ["west/echo-1", "west/canary-1"] {
            for head in self.mesh.app(pod).record.heads() {
                let mut lines = head.lines();
                let target = lines.next().unwrap_or_default();
                if target.split(' ').nth(1) == Some(path) {
                    let host = lines.find_map(|line| line.strip_prefix("host: "));
                    seen.push((pod.to_owned(), host.unwrap_or_default().to_owned()));
                }
            }
        }
        match (status, seen.as_slice()) {
            ("200", [(pod, host)]) => Fate::Seen(pod.clone(), host.clone()),
            ("403", []) => Fate::Denied,
            ("400" | "reset" | "gone", []) => Fate::Refused,
            _ => panic!("{path}: {status}, and {seen:?}"),
        }
    }

    async fn http1(&mut self, target: &str, lines: &str) -> Fate {
        let path = self.path();
        let words = format!("GET {target}{path} HTTP/1.1\r\n{lines}connection: close\r\n\r\n");
        self.fate(&status(&self.client, &words).await, &path)
    }

    async fn http2(&mut self, hosts: &[(&str, &str)]) -> Fate {
        let path = self.path();
        let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":path", &*path)];
        fields.extend_from_slice(hosts);
        let io = self.client.tcp().await.unwrap();
        let status = outcome(io, &fields).await;
        self.fate(&status, &path)
    }

    /// One host in every form.
    async fn forms(&mut self, host: &str) -> Vec<Fate> {
        let line = format!("host: {host}\r\n");
        let mut fates = vec![
            self.http1("", &line).await,
            self.http1(&format!("http://{host}"), &line).await,
            self.http2(&[(":authority", host)]).await,
            self.http2(&[("host", host)]).await,
            self.http2(&[(":authority", host), ("host", host)]).await,
        ];
        fates.dedup();
        fates
    }

    /// Two hosts, one of them this one.
    async fn beside(&mut self, host: &str) -> Vec<Fate> {
        let (this, other) = (format!("host: {host}\r\n"), "host: echo\r\n");
        vec![
            self.http1("", &format!("{this}{other}")).await,
            self.http1("", &format!("{other}{this}")).await,
            self.http1("", &format!("{this}{this}")).await,
            self.http1(&format!("http://{host}"), other).await,
            self.http1("http://echo", &this).await,
            self.http2(&[(":authority", host), ("host", "echo")]).await,
            self.http2(&[(":authority", "echo"), ("host", host)]).await,
            self.http2(&[("host", "echo"), ("host", host)]).await,
        ]
    }
}

/// Until the denial of these hosts is in force, and no older one.
async fn deny(mesh: &Mesh, client: &Client, (number, matched): (usize, &str)) {
    let policy = format!(
        "apiVersion: isthmus.dev/v1alpha1\nkind: AccessPolicy\n\
         metadata: {{name: secret, namespace: shop}}\n\
         spec:\n  action: Deny\n  rules:\n  - to: [{{hosts: [{matched}]}}]\n\
         \x20 - to: [{{paths: ['/now/{number}']}}]\n"
    );
    mesh.write("west", "secret.yaml", &policy);
    until(&format!("{matched} is in force"), async || {
        let status = client.get(&format!("/now/{number}")).await.status;
        check(status == 403, status)
    })
    .await;
}

#[tokio::test]
async fn each_spelling_of_a_host_is_one_host_to_all_or_refused() {
    let mesh = shops().start().await;
    let client = || mesh.client("east/web").port("echo", 80);
    let spellings = spellings();
    assert!(spellings.len() >= 300, "{}", spellings.len());
    let mut asker = Asker {
        mesh: &mesh,
        client: client(),
        sent: 0,
    };
    for (number, matched) in MATCHES.into_iter().enumerate() {
        deny(&mesh, &client(), (number, matched)).await;
        let (mut denied, mut routed) = (0, 0);
        for host in &spellings {
            let fates = asker.forms(host).await;
            let [fate] = &fates[..] else {
                panic!("{host:?} means several things: {fates:?}");
            };
            match fate {
                Fate::Refused => {}
                Fate::Denied => {
                    let secret = SECRETS.contains(&read(host).as_str());
                    assert!(secret || number > 0, "{host:?} is denied");
                    denied += usize::from(secret);
                }
                Fate::Seen(pod, seen) => {
                    let meant = read(seen);
                    assert!(!SECRETS.contains(&meant.as_str()), "{host:?} as {seen:?}");
                    assert_eq!(meant, read(host), "{seen:?}");
                    // A port that is not 80 is part of what a route compares.
                    let to_canary = seen == CANARY;
                    assert_eq!(pod == "west/canary-1", to_canary, "{host:?} as {seen:?}");
                    routed += usize::from(to_canary);
                }
            }
        }
        assert!(
            denied >= 15 && routed >= 4,
            "{matched}: {denied}, {routed} of {}",
            spellings.len()
        );
    }
}

#[tokio::test]
async fn who_names_two_hosts_or_none_is_refused() {
    let mesh = shops().start().await;
    let client = mesh.client("east/web").port("echo", 80);
    assert_eq!(client.get("/").await.status, 200);
    let mut asker = Asker {
        mesh: &mesh,
        client,
        sent: 0,
    };
    for host in spellings() {
        let fates = asker.beside(&host).await;
        assert!(
            fates.iter().all(|fate| *fate == Fate::Refused),
            "{host:?}: {fates:?}"
        );
    }
    let none = [asker.http1("", "").await, asker.http2(&[]).await];
    assert_eq!(none, [Fate::Refused, Fate::Refused]);
    // An absolute form and a host that is written otherwise name one host.
    for lines in ["host: ECHO.:80\r\n", "host: echo\r\n"] {
        let fate = asker.http1("http://Echo:80", lines).await;
        let seen = Fate::Seen("west/echo-1".to_owned(), "echo".to_owned());
        assert_eq!(fate, seen);
    }
}

#[test]
fn the_tolerant_reading_is_tolerant() {
    for host in [
        "SECRET.test.",
        "a@secret.test:81",
        "echo, secret.test:80",
        "secret%2Etest",
    ] {
        assert_eq!(read(host), SECRETS[0], "{host}");
    }
    assert_eq!(read("[2001:DB8:0::1]:80"), SECRETS[2]);
    assert_ne!(read("secret.tes"), SECRETS[0]);
}
