//! Does a certificate that should count for nothing count for anything, at either end? (SECURITY S2,
//! S3, S7)
//!
//! Whoever makes them here has the keys of the cluster's own authority.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;
use isthmus_tests::client::full;
use isthmus_tests::programs::{find, run, said};
use isthmus_tests::tls::{self, Authority, Identity, ca_file};
use isthmus_tests::wait::{check, until_within};
use isthmus_tests::{App, Mesh, until};
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::mtls::{RIGHT, expect_refused, one_cluster, own, status_of, status_of_from};

/// URI names below this domain only, as RFC 5280 §4.2.1.10 writes it.
fn only_below(domain: &str) -> CustomExtension {
    let wrapped = |tag: u8, inner: &[u8]| {
        let length = u8::try_from(inner.len()).unwrap();
        [&[tag, length], inner].concat()
    };
    // permittedSubtrees [0], a GeneralSubtree, uniformResourceIdentifier [6].
    let subtree = wrapped(0x30, &wrapped(0x86, domain.as_bytes()));
    let names = wrapped(0x30, &wrapped(0xa0, &subtree));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], names);
    extension.set_criticality(true);
    extension
}

/// S2: what only an odd authority signs.
#[tokio::test]
async fn what_no_authority_of_ours_would_sign_is_refused() {
    let mesh = one_cluster().await;
    let cart = mesh.proxy("east/cart-1");
    let root = Authority::root_of_cluster(mesh.control().state_dir(), "east");
    // An authority below the root may sign: it is what is odd about the others that counts.
    let plain = root.below(|_| {}).leaf(&[RIGHT], |_| {});
    assert_eq!(status_of(&mesh, cart, plain).await.unwrap(), 200);
    let let_in = mesh.app("east/cart-1").record.accepts();
    for domain in ["elsewhere.example", "east.mesh.internal"] {
        // Also where the name is within: who reads it otherwise than we do would let others in.
        let bound = root.below(|p| p.custom_extensions.push(only_below(domain)));
        let leaf = bound.leaf(&[RIGHT], |_| {});
        expect_refused(&mesh, cart, &format!("bound to {domain}"), Some(leaf)).await;
    }
    let leaf = own(&mesh).leaf(&[RIGHT], |p| {
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    });
    expect_refused(&mesh, cart, "for code", Some(leaf)).await;
    let nul = format!("{RIGHT}\0.evil");
    for uris in [
        &[nul.as_str()][..],
        &["spiffe://east.mesh.internal\0/ns/shop/sa/web"],
    ] {
        let leaf = own(&mesh).leaf(uris, |_| {});
        expect_refused(&mesh, cart, "a NUL in the name", Some(leaf)).await;
    }
    assert_eq!(mesh.app("east/cart-1").record.accepts(), let_in);
}

/// What `openssl` is asked for: our own libraries make nothing so weak.
struct Openssl<'a> {
    program: std::path::PathBuf,
    folder: &'a Path,
}

const LEAF: &str = "basicConstraints=CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=clientAuth,serverAuth
subjectAltName=URI:spiffe://east.mesh.internal/ns/shop/sa/web
";
const CA: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";

impl Openssl<'_> {
    async fn run(&self, arguments: &str) {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let out = run(&self.program, &arguments).await;
        assert!(out.status.success(), "{arguments:?}: {}", said(&out));
    }

    /// `name.pem` with a key of this kind and a certificate that `by` signs, with this digest.
    async fn sign(&self, name: &str, (key, digest): (&str, &str), by: &Path, what: &str) {
        let at = self.folder.join(name);
        let (at, by) = (at.display(), by.display());
        std::fs::write(format!("{at}.cnf"), what).unwrap();
        let kind = match key {
            "ec" => "ec -pkeyopt ec_paramgen_curve:P-256".to_owned(),
            rsa => rsa.to_owned(),
        };
        self.run(&format!(
            "req -new -nodes -newkey {kind} -subj /CN={name} -keyout {at}.key -out {at}.csr"
        ))
        .await;
        self.run(&format!("x509 -req -in {at}.csr -CA {by} -CAkey {by} -set_serial 7 -days 1 -{digest} -extfile {at}.cnf -out {at}.crt")).await;
        let text = |end: &str| std::fs::read_to_string(format!("{at}.{end}")).unwrap();
        std::fs::write(format!("{at}.pem"), text("crt") + &text("key")).unwrap();
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.join(format!("{name}.pem"))
    }

    /// The leaf, and who signed it.
    fn identity(&self, leaf: &str, above: &Path) -> Identity {
        let certificate = |file: &Path| CertificateDer::from_pem_file(file).unwrap();
        Identity {
            chain: vec![certificate(&self.file(leaf)), certificate(above)],
            key: PrivateKeyDer::from_pem_file(self.file(leaf)).unwrap(),
        }
    }
}

/// S2: signatures that others can make, too, in every place where one is looked at.
#[tokio::test]
async fn signatures_that_can_be_forged_are_refused() {
    let (Some(program), Some(sh)) = (find("openssl"), find("sh")) else {
        return;
    };
    let mesh = one_cluster().await;
    let cart = mesh.proxy("east/cart-1");
    let folder = tempfile::tempdir().unwrap();
    let openssl = Openssl {
        program,
        folder: folder.path(),
    };
    let state = mesh.control().state_dir();
    let (issuer, root) = (
        ca_file(state, "east", "issuer-1"),
        ca_file(state, "east", "root"),
    );
    let refused =
        async |what: &str, identity| expect_refused(&mesh, cart, what, Some(identity)).await;
    let taken = async |identity| status_of(&mesh, cart, identity).await.unwrap();
    // The authority's signature, by SHA-1.
    for digest in ["sha256", "sha1"] {
        openssl.sign(digest, ("ec", digest), &issuer, LEAF).await;
    }
    assert_eq!(taken(openssl.identity("sha256", &issuer)).await, 200);
    refused("SHA-1", openssl.identity("sha1", &issuer)).await;
    // The authority's signature, by a key that is too short.
    for bits in ["rsa:2048", "rsa:1024"] {
        let (ca, leaf) = (bits.replace(':', "-ca-"), bits.replace(':', "-by-"));
        openssl.sign(&ca, (bits, "sha256"), &root, CA).await;
        openssl
            .sign(&leaf, ("ec", "sha256"), &openssl.file(&ca), LEAF)
            .await;
        let identity = openssl.identity(&leaf, &openssl.file(&ca));
        match bits {
            "rsa:2048" => assert_eq!(taken(identity).await, 200),
            _ => refused(bits, identity).await,
        }
    }
    let accepts = mesh.app("east/cart-1").record.accepts();
    // The workload's own signature, in the handshake.
    for (bits, greeted) in [("rsa:2048", true), ("rsa:1024", false)] {
        let leaf = bits.replace(':', "-leaf-");
        openssl.sign(&leaf, (bits, "sha256"), &issuer, LEAF).await;
        let (file, from) = (openssl.file(&leaf), mesh.proxy("east/web-1").address());
        let script = format!(
            "echo a preface that is none, so it ends | timeout 20 {openssl} s_client -quiet -connect {to} -bind {from} -alpn h2 -cert {file} -key {file} -cert_chain {issuer} -cipher DEFAULT@SECLEVEL=0",
            openssl = openssl.program.display(),
            to = cart.mesh(),
            file = file.display(),
            issuer = issuer.display(),
        );
        let out = run(&sh, &["-c", &script]).await;
        // An HTTP/2 server begins with its SETTINGS (RFC 9113 §3.4).
        let settings = out.stdout.get(3) == Some(&4);
        assert_eq!(settings, greeted, "{bits}: {}", said(&out));
        // Refused by the proxy, and not by what asks it.
        assert!(greeted || said(&out).contains(" alert "), "{}", said(&out));
    }
    assert_eq!(mesh.app("east/cart-1").record.accepts(), accepts);
}

/// S3: whoever has the keys of one cluster can't be called as a pod of another one.
#[tokio::test]
async fn a_callee_whose_name_is_vouched_for_by_another_domains_root_gets_nothing() {
    const CART: &str = "spiffe://east.mesh.internal/ns/shop/sa/cart";
    let mut mesh = Mesh::builder()
        .cluster("east", |c| c.client("web").service("cart", 1))
        .cluster("west", |c| c.service("far", 1))
        .start()
        .await;
    let state = mesh.control().state_dir().to_owned();
    let own = |cluster| Authority::of_cluster(&state, cluster).leaf(&[CART], |_| {});
    let cart = mesh.proxy_mut("east/cart-1");
    cart.stop().await;
    let listener = TcpListener::bind(cart.mesh()).await.unwrap();
    let (called, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let shown = Arc::new(std::sync::Mutex::new(own("west")));
    let serving = {
        let (called, heard, shown) = (Arc::clone(&called), Arc::clone(&heard), Arc::clone(&shown));
        tokio::spawn(async move {
            loop {
                let (io, _) = listener.accept().await.unwrap();
                let identity = shown.lock().unwrap().clone();
                let read = match tls::accept(io, identity).await {
                    Ok(mut io) => io.read(&mut [0; 64]).await.unwrap_or(0),
                    Err(_) => 0,
                };
                heard.fetch_add(read, Ordering::SeqCst);
                called.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let client = mesh.client("east/web").http("cart");
    until("it was called, in vain", async || {
        let reply = client.get("/").await;
        assert_eq!(reply.status, 503, "{}", reply.text());
        check(called.load(Ordering::SeqCst) >= 3, reply.text())
    })
    .await;
    assert_eq!(heard.load(Ordering::SeqCst), 0, "bytes behind a handshake");
    // The right root's word is believed: then the caller speaks.
    *shown.lock().unwrap() = own("east");
    until("the caller speaks", async || {
        let _ = timeout(Duration::from_secs(1), client.get("/")).await;
        check(heard.load(Ordering::SeqCst) > 0, "nothing")
    })
    .await;
    serving.abort();
}

const CUT_WEST: &str = "apiVersion: isthmus.dev/v1alpha1
kind: TrustPolicy
metadata: {name: cut}
spec: {distrustedClusters: [west]}
";

/// S7: at the sidecars, both ways: who called and who was called.
#[tokio::test]
async fn a_cluster_that_is_cut_off_is_refused_in_ten_seconds_and_cut_in_thirty() {
    let mesh = Mesh::builder()
        .proxies("mesh_accept_from", serde_json::json!([]))
        .cluster("east", |c| {
            c.network("flat").client("web").service("cart", 1)
        })
        .cluster("west", |c| {
            c.network("flat")
                .client("desk")
                .service_with("far", 1, |s| s.port("bytes", 81, "tcp", App::Tcp))
        })
        .start()
        .await;
    let west = Identity::of_state_dir(mesh.proxy("west/desk-1").state_dir());
    let cart = mesh.proxy("east/cart-1");
    let knock = async || status_of_from(&mesh, "west/desk-1", cart, west.clone()).await;
    assert_eq!(knock().await.unwrap(), 200);
    let mut called = mesh.client("east/web").port("far", 81).tcp().await.unwrap();
    called.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    called.read_exact(&mut back).await.unwrap();
    let http = mesh.client("west/desk").http("cart");
    let mut sender = http.http1().await.unwrap();
    let ticks = http.request("GET", "/ticks").body(full("")).unwrap();
    let mut calling = sender.send_request(ticks).await.unwrap();
    assert!(calling.frame().await.unwrap().is_ok());
    mesh.write("east", "cut.yaml", CUT_WEST);
    until_within(Duration::from_secs(10), "west is refused", async || {
        check(knock().await.is_err(), "it is let in")
    })
    .await;
    let ends = async {
        let read = called.read(&mut back).await;
        assert!(!matches!(read, Ok(1..)), "{read:?}");
        while let Some(Ok(_)) = calling.frame().await {}
    };
    timeout(Duration::from_secs(30), ends)
        .await
        .expect("what is open is cut");
}
