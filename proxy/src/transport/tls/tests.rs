//! Does TLS by the unbuffered API do what tokio-rustls does?

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::tls::provider;

/// Mutual TLS with one authority for both.
fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let mut roots = RootCertStore::empty();
    roots
        .add(params.self_signed(&key).unwrap().der().clone())
        .unwrap();
    let (roots, issuer) = (Arc::new(roots), Issuer::new(params, key));
    let leaf = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["peer".to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap().der().clone();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![leaf], key)
    };
    let (chain, key) = leaf();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(Arc::clone(&roots))
        .with_client_auth_cert(chain, key)
        .unwrap();
    let (chain, key) = leaf();
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    (Arc::new(client), Arc::new(server))
}

fn name() -> ServerName<'static> {
    "peer".try_into().unwrap()
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// Ours, as the server of a client that is `tokio-rustls`.
async fn served() -> (tokio_rustls::client::TlsStream<TcpStream>, (TcpStream, Tls)) {
    let (client, server) = configs();
    let (theirs, ours) = sockets().await;
    let (theirs, tls) = tokio::join!(
        TlsConnector::from(client).connect(name(), theirs),
        Tls::accept(&ours, server)
    );
    (theirs.unwrap(), (ours, tls.unwrap()))
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(bytes).collect()
}

async fn give((io, tls): &mut (TcpStream, Tls), data: &[u8]) {
    let mut left = data;
    while !left.is_empty() {
        match tls.write(io, left) {
            Ok(n) => left = &left[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => io.writable().await.unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    while !tls.flush(io).unwrap() {
        io.writable().await.unwrap();
    }
}

async fn take((io, tls): &mut (TcpStream, Tls), bytes: usize) -> Vec<u8> {
    let mut got = Vec::new();
    while got.len() < bytes {
        let read = tls.read(io, &mut |plain| {
            got.extend_from_slice(plain);
            Ok(())
        });
        match read.unwrap() {
            Progress::More => {}
            Progress::Blocked => io.readable().await.unwrap(),
            Progress::Ended => break,
        }
    }
    got
}

#[tokio::test]
async fn bytes_cross_whole_and_an_idle_connection_holds_none() {
    let (client, server) = configs();
    let (near, far) = sockets().await;
    let (a, b) = tokio::join!(
        Tls::connect(&near, client, name()),
        Tls::accept(&far, server)
    );
    let (mut a, mut b) = ((near, a.unwrap()), (far, b.unwrap()));
    assert_eq!((a.1.chain().len(), b.1.chain().len()), (1, 1));
    // Around the edges of a record, of what is encrypted at once, and of what a socket takes.
    for bytes in [1, 16_383, 16_384, 16_385, WRITE_BYTES_MAX + 1, 3_000_000] {
        let data = pattern(bytes);
        let (got, ()) = tokio::join!(take(&mut b, bytes), give(&mut a, &data));
        assert!(got == data, "{bytes}");
        let (got, ()) = tokio::join!(take(&mut a, bytes), give(&mut b, &data));
        assert!(got == data, "{bytes}");
    }
    for (_, tls) in [&a, &b] {
        let held = tls.rest.capacity() + tls.early.capacity() + tls.wire.capacity();
        assert_eq!(held, 0);
    }
}

#[tokio::test]
async fn what_comes_with_the_end_of_the_handshake_is_held() {
    let (client, server) = configs();
    let (theirs, ours) = sockets().await;
    // What is written before the handshake goes out with its last flight.
    let connecting = TlsConnector::from(client).connect_with(name(), theirs, |tls| {
        io::Write::write_all(&mut tls.writer(), b"first").unwrap();
    });
    let (theirs, tls) = tokio::join!(connecting, Tls::accept(&ours, server));
    let mut tls = tls.unwrap();
    assert_eq!(tls.take_early(), b"first");
    let mut theirs = theirs.unwrap();
    theirs.write_all(b"second").await.unwrap();
    assert_eq!(take(&mut (ours, tls), 6).await, b"second");
}

#[tokio::test]
async fn new_keys_are_taken_and_answered() {
    let (mut theirs, mut ours) = served().await;
    for round in 0..3u8 {
        theirs.get_mut().1.refresh_traffic_keys().unwrap();
        theirs.write_all(&[round; 100]).await.unwrap();
        assert_eq!(take(&mut ours, 100).await, [round; 100]);
        give(&mut ours, &[round; 200]).await;
        let mut answer = [0; 200];
        theirs.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, [round; 200]);
    }
}

#[tokio::test]
async fn tickets_after_the_handshake_are_no_data() {
    let (client, server) = configs();
    let (ours, theirs) = sockets().await;
    assert!(server.send_tls13_tickets > 0);
    let (tls, theirs) = tokio::join!(
        Tls::connect(&ours, client, name()),
        TlsAcceptor::from(server).accept(theirs)
    );
    let (mut ours, mut theirs) = ((ours, tls.unwrap()), theirs.unwrap());
    theirs.write_all(b"data").await.unwrap();
    assert_eq!(take(&mut ours, 4).await, b"data");
}

#[tokio::test]
async fn a_bad_record_is_an_error_and_the_peer_hears_why() {
    let (mut theirs, (io, mut tls)) = served().await;
    theirs
        .get_mut()
        .0
        .write_all(&[0x17, 3, 3, 0, 32])
        .await
        .unwrap();
    theirs.get_mut().0.write_all(&[7; 32]).await.unwrap();
    let error = loop {
        match tls.read(&io, &mut |_| panic!("nothing is to be read")) {
            Ok(_) => io.readable().await.unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let told = theirs.read(&mut [0; 1]).await.unwrap_err();
    assert!(told.to_string().contains("BadRecordMac"), "{told}");
    // Nothing more comes of it.
    let write = tls.write(&io, b"more").unwrap_err();
    assert_eq!(write.kind(), ErrorKind::BrokenPipe);
    assert_eq!(tls.read(&io, &mut |_| Ok(())).unwrap(), Progress::Ended);
}

#[tokio::test]
async fn a_sink_that_fails_leaves_room_for_last_words() {
    let (mut theirs, mut ours) = served().await;
    theirs.write_all(&pattern(100_000)).await.unwrap();
    let error = loop {
        let refuse = &mut |_: &[u8]| Err(io::Error::other("enough"));
        match ours.1.read(&ours.0, refuse) {
            Ok(_) => ours.0.readable().await.unwrap(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.to_string(), "enough");
    give(&mut ours, b"goodbye").await;
    ours.1.close(&ours.0).unwrap();
    let mut heard = Vec::new();
    theirs.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"goodbye");
}

#[tokio::test]
async fn either_end_says_when_it_ends() {
    let (mut theirs, mut ours) = served().await;
    theirs.shutdown().await.unwrap();
    assert_eq!(take(&mut ours, 1).await, b"");
    // The other direction goes on until it is closed.
    give(&mut ours, b"still here").await;
    ours.1.close(&ours.0).unwrap();
    let mut heard = Vec::new();
    // An end without a close_notify would be an error.
    theirs.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"still here");
}

#[tokio::test]
async fn a_peer_that_does_not_read_holds_little_and_loses_nothing() {
    let (mut theirs, mut ours) = served().await;
    let data = pattern(WRITE_BYTES_MAX);
    let mut written = 0;
    loop {
        match ours.1.write(&ours.0, &data) {
            Ok(n) => written += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(ours.1.wire.len() <= WRITE_BYTES_MAX + 4096, "{ours:?}");
    let reading = async {
        let mut got = vec![0; written];
        theirs.read_exact(&mut got).await.unwrap();
        got
    };
    let (got, ()) = tokio::join!(reading, give(&mut ours, b""));
    assert!(got.chunks(data.len()).all(|chunk| chunk == data));
}

#[tokio::test]
async fn a_stranger_is_refused_and_hears_it() {
    let (client, _) = configs();
    let (_, server) = configs();
    let (theirs, ours) = sockets().await;
    let (theirs, tls) = tokio::join!(
        TlsConnector::from(client).connect(name(), theirs),
        Tls::accept(&ours, server)
    );
    // The client met another authority first, and said so.
    assert!(theirs.is_err());
    let error = tls.unwrap_err();
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    assert!(
        matches!(inner, Some(rustls::Error::AlertReceived(_))),
        "{error}"
    );
}
