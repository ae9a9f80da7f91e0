//! Is every ClientHello read in one way only, in any fragmentation?

use super::*;
use proptest::prelude::*;

/// A hello, written down by hand as RFC 8446 §4.1.2 has it.
struct Build {
    version: u16,
    session: Vec<u8>,
    suites: Vec<u8>,
    compressions: Vec<u8>,
    extensions: Vec<(u16, Vec<u8>)>,
}

fn v16(bytes: &[u8]) -> Vec<u8> {
    let mut out = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}

fn v8(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![u8::try_from(bytes.len()).unwrap()];
    out.extend_from_slice(bytes);
    out
}

fn sni_entry(name: &[u8]) -> Vec<u8> {
    [vec![0], v16(name)].concat()
}

fn sni(name: &[u8]) -> (u16, Vec<u8>) {
    (EXTENSION_SERVER_NAME, v16(&sni_entry(name)))
}

fn alpn(names: &[&[u8]]) -> (u16, Vec<u8>) {
    (
        EXTENSION_ALPN,
        v16(&names.iter().flat_map(|n| v8(n)).collect::<Vec<_>>()),
    )
}

fn versions(list: &[u16]) -> (u16, Vec<u8>) {
    (
        EXTENSION_SUPPORTED_VERSIONS,
        v8(&list
            .iter()
            .flat_map(|v| v.to_be_bytes())
            .collect::<Vec<_>>()),
    )
}

/// `key_share` with a share of each group, as a client with a hybrid group first sends it:
/// 1,216 bytes of X25519MLKEM768 (0x11ec) and 32 bytes of X25519 (0x001d).
fn key_share() -> (u16, Vec<u8>) {
    let hybrid = [0x11ec_u16.to_be_bytes().to_vec(), v16(&[0xa5; 1216])].concat();
    let plain = [0x001d_u16.to_be_bytes().to_vec(), v16(&[0x5a; 32])].concat();
    (51, v16(&[hybrid, plain].concat()))
}

impl Build {
    /// As rustls sends it to a gateway.
    fn mesh(name: &str) -> Self {
        Self {
            version: 0x0303,
            session: vec![7; 32],
            suites: vec![0x13, 0x02, 0x13, 0x01, 0x13, 0x03, 0x00, 0xff],
            compressions: vec![0],
            extensions: vec![
                sni(name.as_bytes()),
                (10, v16(&[0x11, 0xec, 0x00, 0x1d])),
                alpn(&[b"h2"]),
                (13, v16(&[4, 3, 8, 4])),
                versions(&[0x0304]),
                key_share(),
            ],
        }
    }

    fn with(mut self, extension: (u16, Vec<u8>)) -> Self {
        self.extensions.retain(|(kind, _)| *kind != extension.0);
        self.extensions.push(extension);
        self
    }

    fn without(mut self, kind: u16) -> Self {
        self.extensions.retain(|(k, _)| *k != kind);
        self
    }

    fn message(&self) -> Vec<u8> {
        let mut body = self.version.to_be_bytes().to_vec();
        body.extend([9; 32]);
        body.extend(v8(&self.session));
        body.extend(v16(&self.suites));
        body.extend(v8(&self.compressions));
        if !self.extensions.is_empty() {
            let all = self
                .extensions
                .iter()
                .flat_map(|(kind, data)| [kind.to_be_bytes().to_vec(), v16(data)].concat())
                .collect::<Vec<_>>();
            body.extend(v16(&all));
        }
        let [_, a, b, c] = u32::try_from(body.len()).unwrap().to_be_bytes();
        [vec![CLIENT_HELLO, a, b, c], body].concat()
    }

    fn bytes(&self) -> Vec<u8> {
        records(&self.message(), usize::MAX)
    }
}

/// Cuts a message into records of at most `size` bytes each.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size.min(FRAGMENT_BYTES_MAX))
        .flat_map(|part| [vec![22, 3, 1], v16(part)].concat())
        .collect()
}

const NAME: &str = "aeaqaaaaaaaaaaaa2kyx3pfpgbqtbsh6hcbvs4ji.west.mesh.internal";

#[test]
fn a_hello_with_a_hybrid_key_share_is_read() {
    let bytes = Build::mesh(NAME).bytes();
    assert!(bytes.len() > 1_300, "{}", bytes.len());
    let hello = read(&bytes).unwrap().unwrap();
    assert_eq!(hello.server_name.as_deref(), Some(NAME));
    assert_eq!(hello.alpn, [b"h2"]);
    assert!(hello.tls13 && !hello.encrypted);
}

#[test]
fn one_byte_at_a_time_and_one_byte_a_record_are_the_same_hello() {
    let build = Build::mesh(NAME);
    let whole = read(&build.bytes()).unwrap();
    assert!(whole.is_some());
    // In the finest records not every cut is tried: it would take seconds.
    for (size, step) in [(1, 23), (3, 11), (5, 7), (100, 1), (517, 1), (16_384, 1)] {
        let bytes = records(&build.message(), size);
        for end in (0..bytes.len()).step_by(step) {
            assert_eq!(
                read(&bytes[..end]),
                Ok(None),
                "{end} bytes in records of {size}"
            );
        }
        assert_eq!(read(&bytes), Ok(whole.clone()), "records of {size}");
    }
}

#[test]
fn bytes_after_the_hello_are_not_looked_at() {
    let mut bytes = Build::mesh(NAME).bytes();
    let hello = read(&bytes);
    bytes.extend([20, 3, 3, 0, 1, 1, 0xff, 0xff]);
    assert_eq!(read(&bytes), hello);
    // ... but the record that ends it may hold nothing else.
    let longer = [Build::mesh(NAME).message(), vec![0]].concat();
    assert!(matches!(
        read(&records(&longer, 9_000)),
        Err(InvalidHello::Malformed(_))
    ));
}

#[test]
fn without_a_name_is_said_not_refused() {
    let hello = read(&Build::mesh(NAME).without(EXTENSION_SERVER_NAME).bytes())
        .unwrap()
        .unwrap();
    assert_eq!(hello.server_name, None);
}

#[test]
fn older_versions_are_said() {
    for build in [
        Build::mesh(NAME).without(EXTENSION_SUPPORTED_VERSIONS),
        Build::mesh(NAME).with(versions(&[0x0303, 0x0302])),
        Build {
            version: 0x0301,
            extensions: vec![],
            ..Build::mesh(NAME)
        },
    ] {
        assert!(!read(&build.bytes()).unwrap().unwrap().tls13);
    }
    let greased = Build::mesh(NAME).with(versions(&[0x3a3a, 0x0304, 0x0303]));
    assert!(read(&greased.bytes()).unwrap().unwrap().tls13);
    let hidden = Build::mesh(NAME).with((EXTENSION_ENCRYPTED_HELLO, vec![0; 200]));
    assert!(read(&hidden.bytes()).unwrap().unwrap().encrypted);
}

#[test]
fn names_that_could_be_read_twice_are_refused() {
    let long = format!("{}.internal", ["a"; 130].join("."));
    assert!(long.len() > 253);
    let bad: [&[u8]; 16] = [
        b"",
        b"West.mesh.internal",
        b"west.mesh.internal.",
        b".",
        b"..",
        b"a..b",
        b"west.mesh\0.internal",
        b"west mesh",
        b"*.mesh.internal",
        b"_a.mesh.internal",
        b"-a.mesh.internal",
        b"10.0.0.1",
        b"::1",
        b"[::1]",
        "wést.mesh.internal".as_bytes(),
        long.as_bytes(),
    ];
    for name in bad {
        let got = read(&Build::mesh("x").with(sni(name)).bytes());
        assert!(
            matches!(got, Err(InvalidHello::Name(_))),
            "{}: {got:?}",
            name.escape_ascii()
        );
    }
    let full = format!("{}.b", [&"a".repeat(62)[..]; 4].join("."));
    assert_eq!(full.len(), 253);
    assert!(read(&Build::mesh(&full).bytes()).unwrap().is_some());
}

#[test]
fn two_names_are_refused() {
    let two = [sni_entry(b"a.b"), sni_entry(b"c.d")].concat();
    let build = Build::mesh("x").with((EXTENSION_SERVER_NAME, v16(&two)));
    assert_eq!(read(&build.bytes()), Err(InvalidHello::SeveralNames));
    let mut build = Build::mesh("a.b");
    build.extensions.push(sni(b"c.d"));
    assert!(matches!(
        read(&build.bytes()),
        Err(InvalidHello::Malformed(_))
    ));
    let other = [vec![1], v16(b"a.b")].concat();
    let build = Build::mesh("x").with((EXTENSION_SERVER_NAME, v16(&other)));
    assert!(matches!(read(&build.bytes()), Err(InvalidHello::Name(_))));
}

#[test]
fn what_is_not_a_client_hello_is_refused_at_its_first_byte() {
    for (bytes, why) in [
        (b"G".as_slice(), InvalidHello::NotTls),
        (b"\x80\x2e\x01", InvalidHello::NotTls),
        (b"\x17\x03\x03", InvalidHello::NotTls),
        (b"\x16\x02", InvalidHello::NotTls),
        (b"\x16\x03\x05", InvalidHello::NotTls),
        (b"\x16\x03\x01\x00\x05\x02", InvalidHello::NotClientHello),
        (
            b"\x16\x03\x01\x00\x05\x01\x01\x00\x00",
            InvalidHello::TooLong,
        ),
    ] {
        assert_eq!(read(bytes), Err(why), "{}", bytes.escape_ascii());
    }
    for bytes in [b"\x16\x03\x01\x00\x00".as_slice(), b"\x16\x03\x01\x40\x01"] {
        assert!(matches!(read(bytes), Err(InvalidHello::Malformed(_))));
    }
    // Another record between two fragments (RFC 8446 §5.1).
    let mut bytes = records(&Build::mesh(NAME).message(), 800);
    bytes[805] = 20;
    assert_eq!(read(&bytes), Err(InvalidHello::NotTls));
}

#[test]
fn wrong_lengths_are_refused() {
    let builds = [
        Build {
            session: vec![0; 33],
            ..Build::mesh(NAME)
        },
        Build {
            suites: vec![],
            ..Build::mesh(NAME)
        },
        Build {
            suites: vec![1; 3],
            ..Build::mesh(NAME)
        },
        Build {
            compressions: vec![],
            ..Build::mesh(NAME)
        },
        Build {
            compressions: vec![1],
            ..Build::mesh(NAME)
        },
        Build {
            compressions: vec![1, 0],
            ..Build::mesh(NAME)
        },
        Build {
            version: 0x0304,
            ..Build::mesh(NAME)
        },
        Build {
            version: 0x0200,
            ..Build::mesh(NAME)
        },
        Build::mesh(NAME).with((EXTENSION_SERVER_NAME, vec![])),
        Build::mesh(NAME).with((EXTENSION_SERVER_NAME, v16(&[]))),
        Build::mesh(NAME).with((EXTENSION_SERVER_NAME, vec![0, 9, 0, 0, 1, b'a'])),
        Build::mesh(NAME).with((EXTENSION_SERVER_NAME, [sni(b"a.b").1, vec![0]].concat())),
        Build::mesh(NAME).with((EXTENSION_ALPN, v16(&[]))),
        Build::mesh(NAME).with((EXTENSION_ALPN, v16(&[0]))),
        Build::mesh(NAME).with((EXTENSION_ALPN, v16(&[3, b'h', b'2']))),
        Build::mesh(NAME).with(alpn(&[b"x".as_slice(); 33])),
        Build::mesh(NAME).with(versions(&[])),
        Build::mesh(NAME).with((EXTENSION_SUPPORTED_VERSIONS, vec![3, 3, 4, 3])),
        Build::mesh(NAME).with((EXTENSION_SUPPORTED_VERSIONS, vec![2, 3, 4, 3])),
    ];
    for (at, build) in builds.iter().enumerate() {
        let got = read(&build.bytes());
        assert!(
            matches!(got, Err(InvalidHello::Malformed(_))),
            "{at}: {got:?}"
        );
    }
    let mut many = Build::mesh(NAME);
    many.extensions
        .extend((1_000..1_200).map(|kind| (kind, vec![])));
    assert!(matches!(
        read(&many.bytes()),
        Err(InvalidHello::Malformed(_))
    ));
}

#[test]
fn sixteen_kib_are_the_limit() {
    let fits = Build::mesh(NAME).with((21, vec![0; 14_000]));
    assert!(read(&fits.bytes()).unwrap().is_some());
    let long = Build::mesh(NAME).with((21, vec![0; 20_000]));
    assert_eq!(read(&long.bytes()), Err(InvalidHello::TooLong));
    // It would fit, were it not for the headers of its records.
    let shredded = records(&fits.message(), 1);
    assert_eq!(read(&shredded[..HELLO_BYTES_MAX - 1]), Ok(None));
    assert_eq!(read(&shredded), Err(InvalidHello::TooLong));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = read(&bytes);
        let _ = hello(&bytes);
        let _ = read(&records(&[&[CLIENT_HELLO, 0, 2, 0], bytes.as_slice()].concat(), 200));
    }

    /// Damaged anywhere, cut anywhere: what was decided of a beginning is not taken back.
    #[test]
    fn a_decision_is_not_taken_back(at in 0usize..1_500, to: u8, size in 1usize..2_000, cut in 0usize..1_600) {
        let mut bytes = records(&Build::mesh(NAME).message(), size);
        let at = at % bytes.len();
        bytes[at] = to;
        let early = read(&bytes[..cut.min(bytes.len())]);
        if !matches!(early, Ok(None)) {
            prop_assert_eq!(read(&bytes), early);
        }
    }

    #[test]
    fn a_name_that_is_read_is_the_name_that_was_sent(name in "[a-zA-Z0-9._*-]{0,20}") {
        let sent = Build::mesh("x").with(sni(name.as_bytes())).bytes();
        if let Ok(Some(hello)) = read(&sent) {
            prop_assert_eq!(hello.server_name.as_deref(), Some(name.as_str()));
            prop_assert!(is_dns_name(&name));
        }
    }
}
