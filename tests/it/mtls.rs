//! Is every hop authenticated at both ends? (SECURITY S1, S2, S3, S5, S6)

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use isthmus_tests::proxy::{MESH_PORT, Proxy};
use isthmus_tests::tls::{self, Authority, Identity};
use isthmus_tests::wait::check;
use isthmus_tests::{Mesh, admin, until};
use rcgen::{CertificateParams, IsCa, KeyUsagePurpose, SanType};
use rustls::pki_types::ServerName;
use rustls::{HandshakeKind, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

pub(crate) const RIGHT: &str = "spiffe://east.mesh.internal/ns/shop/sa/web";
/// Refusals come at once; this is for a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_request_crosses_networks_with_the_callers_identity() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 2))
        .start()
        .await;
    let reply = mesh.client("east/web").http("cart").get("/heads").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(reply.pod().starts_with("west/cart-"), "{}", reply.pod());
    let head = reply.text();
    assert!(head.contains(&format!("x-mesh-peer: {RIGHT}")), "{head}");
    assert!(!head.contains("x-mesh-port"), "{head}");
}

/// S5: the pod's manifest names another account than the one that answers there.
#[tokio::test]
async fn nothing_is_sent_to_somebody_else_than_was_expected() {
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("near", 1))
        .cluster("west", |c| c.service("far", 1))
        .start()
        .await;
    for (service, pod) in [("near", "east/near-1"), ("far", "west/far-1")] {
        let client = mesh.client("east/web").http(service);
        assert_eq!(client.get("/").await.status, 200);
        mesh.edit_pod(pod, |pod| pod.account = "impostor".to_owned());
        let before = mesh.app(pod).record.requests();
        let reply = until("the other identity is expected", async || {
            let reply = client.get("/").await;
            if reply.status == 200 {
                Err("the old one is")
            } else {
                Ok(reply)
            }
        })
        .await;
        assert_eq!(reply.status, 503);
        assert!(
            reply.text().starts_with("UF identity_mismatch"),
            "{}",
            reply.text()
        );
        // A request that was answered before the change is no surprise; none after it may come.
        let settled = mesh.app(pod).record.requests();
        assert_eq!(client.get("/").await.status, 503);
        assert_eq!(
            mesh.app(pod).record.requests(),
            settled,
            "{before} before the change"
        );
        let why = mesh.proxy("east/web-1").why(reply.reason()).await;
        assert_eq!(why["event"]["flag"], "UF", "{why}");
    }
}

#[tokio::test]
async fn strangers_never_reach_the_application() {
    let mesh = one_cluster().await;
    let cart = mesh.proxy("east/cart-1");
    let nobody = Authority::new();
    let west = "spiffe://west.mesh.internal/ns/shop/sa/web";
    let strangers = [
        ("no certificate", None),
        ("self-signed", Some(tls::self_signed(&[RIGHT]))),
        ("an unknown authority", Some(nobody.leaf(&[RIGHT], |_| {}))),
        (
            "an unknown trust domain",
            Some(nobody.leaf(&[west], |_| {})),
        ),
        // Signed by our own authority, but its name is another trust domain's (S3).
        ("a foreign name", Some(own(&mesh).leaf(&[west], |_| {}))),
    ];
    let mut refused = 0;
    for (who, identity) in strangers {
        expect_refused(&mesh, cart, who, identity).await;
        refused += 1;
    }
    assert_eq!(mesh.app("east/cart-1").record.accepts(), 0);
    until("every handshake that failed is counted", async || {
        let counted = cart.metric("handshakes_failed_total", &[]).await;
        check(counted >= f64::from(refused), counted)
    })
    .await;
    // The same path is open to who has the right certificate.
    let right = Identity::of_state_dir(mesh.proxy("east/web-1").state_dir());
    assert_eq!(status_of(&mesh, cart, right).await.unwrap(), 200);
    assert_eq!(mesh.app("east/cart-1").record.accepts(), 1);
}

/// A change of a certificate.
type Change = Box<dyn FnOnce(&mut CertificateParams)>;

/// S2: the authority's signature is right, and the leaf is not an identity all the same.
#[tokio::test]
async fn a_malformed_identity_is_refused_even_if_it_is_signed() {
    let mesh = one_cluster().await;
    let cart = mesh.proxy("east/cart-1");
    let authority = own(&mesh);
    let long = format!("{RIGHT}{}", "a".repeat(2049 - RIGHT.len()));
    let uris: [&[&str]; 14] = [
        &[],
        &[RIGHT, "spiffe://east.mesh.internal/ns/shop/sa/cart"],
        &["https://east.mesh.internal/ns/shop/sa/web"],
        &["spiffe://East.mesh.internal/ns/shop/sa/web"],
        &["spiffe://u@east.mesh.internal/ns/shop/sa/web"],
        &["spiffe://east.mesh.internal:1/ns/shop/sa/web"],
        &["spiffe://east.mesh.internal/ns/shop/sa/web?x"],
        &["spiffe://east.mesh.internal/ns/shop/sa/web#x"],
        &["spiffe://east.mesh.internal/ns/shop/sa/%77eb"],
        &["spiffe://east.mesh.internal/ns//shop/sa/web"],
        &["spiffe://east.mesh.internal/ns/shop/../shop/sa/web"],
        &["spiffe://east.mesh.internal/ns/shop/sa/web/"],
        &["spiffe://east.mesh.internal"],
        &[&long],
    ];
    for uris in uris {
        expect_refused(
            &mesh,
            cart,
            &format!("{uris:?}"),
            Some(authority.leaf(uris, |_| {})),
        )
        .await;
    }
    let changes: [(&str, Change); 6] = [
        (
            "a CA",
            Box::new(|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained)),
        ),
        (
            "may sign certificates",
            Box::new(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
        (
            "may sign CRLs",
            Box::new(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
        ),
        (
            "expired",
            Box::new(|p| p.not_after = rcgen::date_time_ymd(2024, 1, 1)),
        ),
        (
            "not valid yet",
            Box::new(|p| {
                p.not_before = rcgen::date_time_ymd(2090, 1, 1);
                p.not_after = rcgen::date_time_ymd(2091, 1, 1);
            }),
        ),
        (
            "only a DNS name",
            Box::new(|p| {
                p.subject_alt_names = vec![SanType::DnsName("web.shop".try_into().unwrap())];
            }),
        ),
    ];
    for (what, change) in changes {
        expect_refused(&mesh, cart, what, Some(authority.leaf(&[RIGHT], change))).await;
    }
    assert_eq!(mesh.app("east/cart-1").record.accepts(), 0);
    let right = authority.leaf(&[RIGHT], |_| {});
    assert_eq!(status_of(&mesh, cart, right).await.unwrap(), 200);
}

/// S2: before any signature of it is checked.
#[tokio::test]
async fn a_chain_of_twenty_is_refused() {
    let mesh = one_cluster().await;
    let cart = mesh.proxy("east/cart-1");
    let right = own(&mesh).leaf(&[RIGHT], |_| {});
    let mut long = right.clone();
    let above = long.chain.last().cloned().unwrap();
    long.chain.resize(20, above);
    expect_refused(&mesh, cart, "a chain of 20", Some(long)).await;
    assert_eq!(mesh.app("east/cart-1").record.accepts(), 0);
    assert_eq!(status_of(&mesh, cart, right).await.unwrap(), 200);
}

/// S1
#[tokio::test]
async fn plaintext_to_the_mesh_port_reaches_nobody() {
    let mesh = one_cluster().await;
    let cart = mesh.proxy("east/cart-1");
    let from = mesh.proxy("east/web-1").address();
    let words: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: cart\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0",
        b"\x16\x03\x01\xff\xff",
    ];
    const TRIES: usize = 1_000;
    for word in words.into_iter().cycle().take(TRIES) {
        let mut io = tls::dial(from, cart.mesh()).await.unwrap();
        // It may be closed before all is said.
        let _ = io.write_all(word).await;
        let _ = io.shutdown().await;
        let mut said = Vec::new();
        // An alert may come; or the connection breaks.
        let _ = timeout(REFUSED_WITHIN, io.read_to_end(&mut said))
            .await
            .expect("closed");
        assert!(said.len() < 64, "{}", String::from_utf8_lossy(&said));
    }
    assert_eq!(mesh.app("east/cart-1").record.accepts(), 0);
}

/// A ClientHello of TLS 1.2: it knows of no other version.
fn old_hello() -> Vec<u8> {
    // X25519 and P-256; ECDSA with P-256 and SHA-256, RSA-PSS, RSA with PKCS #1.
    let extensions = [
        [0, 10, 0, 6, 0, 4, 0, 29, 0, 23].as_slice(),
        &[0, 11, 0, 2, 1, 0],
        &[0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1],
    ]
    .concat();
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap().to_be_bytes();
    let body = [
        [3, 3].as_slice(),
        &[7; 32],
        // No session; ECDHE with ECDSA or RSA and AES-128-GCM; no compression.
        &[0, 0, 4, 0xc0, 0x2b, 0xc0, 0x2f, 1, 0],
        &length(&extensions),
        &extensions,
    ]
    .concat();
    let message = [[1, 0].as_slice(), &length(&body), &body].concat();
    [[22, 3, 1].as_slice(), &length(&message), &message].concat()
}

/// S6
#[tokio::test]
async fn nothing_older_than_tls_1_3_is_spoken_and_nothing_is_resumed() {
    const PROTOCOL_VERSION: u8 = 70;
    let mesh = one_cluster().await;
    let cart = mesh.proxy("east/cart-1");
    let from = mesh.proxy("east/web-1").address();
    let mut io = tls::dial(from, cart.mesh()).await.unwrap();
    io.write_all(&old_hello()).await.unwrap();
    let mut alert = [0; 7];
    timeout(REFUSED_WITHIN, io.read_exact(&mut alert))
        .await
        .expect("an answer")
        .unwrap();
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, PROTOCOL_VERSION]);

    let identity = Identity::of_state_dir(mesh.proxy("east/web-1").state_dir());
    let connector = TlsConnector::from(tls::client_config(Some(identity)).unwrap());
    for round in 1..=3 {
        let io = tls::dial(from, cart.mesh()).await.unwrap();
        let name = ServerName::try_from("cart").unwrap();
        let mut io = connector.connect(name, io).await.unwrap();
        // What the server says comes behind any ticket.
        timeout(REFUSED_WITHIN, io.read_u8())
            .await
            .expect("its settings")
            .unwrap();
        let tls = io.get_ref().1;
        assert_eq!(tls.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Full), "{round}");
        assert!(!tls.is_early_data_accepted(), "{round}");
    }
    assert_eq!(mesh.app("east/cart-1").record.accepts(), 0);
}

/// From another network only the gateway is open.
#[tokio::test]
async fn the_mesh_port_is_closed_to_other_networks() {
    let mesh = Mesh::builder()
        .cluster("east", |c| c.client("web"))
        .cluster("west", |c| c.service("cart", 1))
        .start()
        .await;
    let right = Identity::of_state_dir(mesh.proxy("east/web-1").state_dir());
    assert!(
        status_of_from(&mesh, "east/web-1", mesh.proxy("west/cart-1"), right)
            .await
            .is_err()
    );
    assert_eq!(mesh.app("west/cart-1").record.accepts(), 0);
}

/// S21: the application shares the address with its sidecar's admin listener, and not its files.
#[tokio::test]
async fn who_shows_no_token_gets_nothing_out_of_admin_and_ends_nobody() {
    let mesh = one_cluster().await;
    let cart = mesh.proxy("east/cart-1");
    let at = cart_admin(&mesh);
    let at = SocketAddr::new(cart.listeners().admin.unwrap().ip(), at);
    let others = admin::token(mesh.proxy("east/web-1").state_dir()).unwrap();
    for token in [None, Some(&others)] {
        for (method, path) in [
            ("GET", "/config"),
            ("GET", "/listeners"),
            ("GET", "/why?reason=x"),
            ("GET", "/why/inbound?port=8080"),
            ("GET", "/"),
            ("POST", "/drain"),
        ] {
            let (status, text) = admin::ask(at, method, path, token).await.unwrap();
            assert!(
                status == 401 && text.contains("/admin-token"),
                "{path} {text}"
            );
        }
        for path in ["/ready", "/metrics"] {
            assert_eq!(admin::ask(at, "GET", path, token).await.unwrap().0, 200);
        }
    }
    let file = cart.state_dir().join("admin-token");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(cart.get("/config").await.unwrap().0, 200);
}

/// S20, S21: the proxy's own ports are beside the application's, and are not for peers.
#[tokio::test]
async fn no_peer_reaches_what_the_proxy_itself_listens_on() {
    let mut mesh = one_cluster().await;
    // Where applications are by default, and admin always.
    let cart = mesh.proxy_mut("east/cart-1");
    cart.configure("application", "127.0.0.1".into());
    cart.restart().await;
    let (cart, admin) = (mesh.proxy("east/cart-1"), cart_admin(&mesh));
    assert_eq!(cart.get("/listeners").await.unwrap().0, 200);
    let identity = Identity::of_state_dir(mesh.proxy("east/web-1").state_dir());
    let mut sender = session(&mesh, "east/web-1", cart, identity).await.unwrap();
    for port in [admin, MESH_PORT] {
        let request = asking(&port.to_string());
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 403, "{port}");
        let id = answer.headers()["x-mesh-reason"].to_str().unwrap();
        let why = cart.why(id).await.to_string();
        assert!(why.contains("the proxy itself listens"), "{why}");
        let target = SocketAddr::new(cart.address(), port);
        let connect = hyper::Request::connect(target.to_string());
        let answer = sender.send_request(connect.body(Empty::new()).unwrap());
        assert_eq!(answer.await.unwrap().status(), 403, "CONNECT {port}");
        let replay = cart
            .json(&format!("/why/inbound?port={port}&path=/&method=GET"))
            .await;
        assert_eq!(replay["allowed"], false, "{replay}");
    }
    // Of the others, the application is asked; there is none now.
    let answer = sender.send_request(asking("8080")).await.unwrap();
    assert_eq!(answer.status(), 503);
}

fn cart_admin(mesh: &Mesh) -> u16 {
    let admin = mesh.proxy("east/cart-1").listeners().admin;
    admin.expect("an admin listener").port()
}

/// A client and a pod of a service, on one network.
pub(crate) async fn one_cluster() -> Mesh {
    Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 1))
        .start()
        .await
}

pub(crate) fn own(mesh: &Mesh) -> Authority {
    Authority::of_cluster(mesh.control().state_dir(), "east")
}

pub(crate) async fn expect_refused(
    mesh: &Mesh,
    server: &Proxy,
    who: &str,
    identity: Option<Identity>,
) {
    let from = mesh.proxy("east/web-1").address();
    let io = tls::dial(from, server.mesh()).await.unwrap();
    let knocking = async {
        let mut io = tls::connect(io, "cart", identity).await?;
        io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await?;
        // TLS 1.3: the refusal comes with the first read.
        anyhow::Ok(io.read(&mut [0; 64]).await?)
    };
    let read = timeout(REFUSED_WITHIN, knocking)
        .await
        .expect("an answer in time");
    assert!(!matches!(read, Ok(1..)), "{who}: the server speaks to it");
}

pub(crate) async fn status_of(
    mesh: &Mesh,
    server: &Proxy,
    identity: Identity,
) -> anyhow::Result<u16> {
    status_of_from(mesh, "east/web-1", server, identity).await
}

/// Asks the mesh port as a standard client would: mutual TLS and HTTP/2.
pub(crate) async fn status_of_from(
    mesh: &Mesh,
    from: &str,
    server: &Proxy,
    identity: Identity,
) -> anyhow::Result<u16> {
    let mut sender = session(mesh, from, server, identity).await?;
    Ok(sender.send_request(asking("8080")).await?.status().as_u16())
}

/// A connection to the mesh port, as a peer of this pod and identity makes it.
async fn session(
    mesh: &Mesh,
    from: &str,
    server: &Proxy,
    identity: Identity,
) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    session_at(mesh.proxy(from).address(), server.mesh(), identity).await
}

async fn session_at(
    from: IpAddr,
    to: SocketAddr,
    identity: Identity,
) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
    let io = tls::dial(from, to).await?;
    let io = TokioIo::new(Box::new(tls::connect(io, "cart", Some(identity)).await?));
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn asking(port: &str) -> hyper::Request<Empty<Bytes>> {
    hyper::Request::get("http://cart.shop.svc.cluster.local/")
        .header("x-mesh-port", port)
        .body(Empty::new())
        .expect("a request")
}

/// What a peer's request to the application comes to that goes to the mesh port without a sidecar.
pub(crate) async fn ask_directly(
    from: IpAddr,
    to: SocketAddr,
    identity: Identity,
) -> anyhow::Result<u16> {
    let mut sender = session_at(from, to, identity).await?;
    Ok(sender.send_request(asking("8080")).await?.status().as_u16())
}
