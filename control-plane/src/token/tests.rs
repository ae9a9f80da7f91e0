//! Is every token but a good one refused?

use std::fs;

use super::*;
use proptest::prelude::*;

struct Fixture {
    _folder: tempfile::TempDir,
    key: TokenKey,
    other: TokenKey,
    now: SystemTime,
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let state = StateDir::open(folder.path()).unwrap();
    let key = TokenKey::open(&state, &east()).unwrap();
    let other = TokenKey::open(&state, &"west".parse().unwrap()).unwrap();
    Fixture {
        _folder: folder,
        key,
        other,
        now: UNIX_EPOCH + Duration::from_secs(2_000_000_000),
    }
}

fn east() -> ClusterId {
    "east".parse().unwrap()
}

impl Fixture {
    fn claims(&self) -> Claims {
        Claims::new(
            &"east/shop/cart-1".parse().unwrap(),
            "cart",
            self.now + TOKEN_LIFETIME,
        )
        .unwrap()
    }

    /// A token with these parts, signed by the cluster's own key.
    fn signed(&self, header: &str, payload: &str) -> String {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let tag = mac(&self.key, signed.as_bytes()).finalize().into_bytes();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    fn payload(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut json = serde_json::json!({
            "iss": "east", "sub": "system:serviceaccount:shop:cart", "aud": ["isthmus"],
            "exp": 2_000_000_600u64,
            "kubernetes.io": { "namespace": "shop", "pod": { "name": "cart-1", "uid": "x" },
                "serviceaccount": { "name": "cart" } },
        });
        change(&mut json);
        self.signed(r#"{"alg":"HS256"}"#, &json.to_string())
    }

    fn verify(&self, token: &str) -> Result<Claims, Refused> {
        verify(&self.key, &east(), token, self.now)
    }
}

#[test]
fn a_minted_token_says_what_was_minted() {
    let f = fixture();
    let token = sign(&f.key, &f.claims());
    assert_eq!(f.verify(&token).unwrap(), f.claims());
}

#[test]
fn wrong_claims_are_refused_with_their_reason() {
    let f = fixture();
    let audience: fn(&mut Value) = |j| j["aud"] = serde_json::json!(["kubernetes"]);
    assert_eq!(f.verify(&f.payload(audience)), Err(Refused::Audience));
    assert_eq!(
        f.verify(&f.payload(|j| j["aud"] = "isthmus.evil".into())),
        Err(Refused::Audience)
    );
    assert!(
        f.verify(&f.payload(|j| j["aud"] = "isthmus".into()))
            .is_ok()
    );
    assert_eq!(
        f.verify(&f.payload(|j| j["exp"] = 2_000_000_000u64.into())),
        Err(Refused::Expired)
    );
    let never = f.verify(&f.payload(|j| j["exp"] = u64::MAX.into()));
    assert_eq!(never, Err(Refused::Malformed("it never ends")));
    let later = f.verify(&f.payload(|j| j["nbf"] = 2_000_000_001u64.into()));
    assert_eq!(later, Err(Refused::Malformed("it is not valid yet")));
    for subject in ["system:serviceaccount:shop:admin", "system:node:x", "cart"] {
        assert_eq!(
            f.verify(&f.payload(|j| j["sub"] = subject.into())),
            Err(Refused::Subject)
        );
    }
    let slashed = f.payload(|j| j["kubernetes.io"]["pod"]["name"] = "a/b".into());
    assert_eq!(f.verify(&slashed), Err(Refused::Subject));
    let colon = f.payload(|j| {
        j["sub"] = "system:serviceaccount:shop:a:b".into();
        j["kubernetes.io"]["serviceaccount"]["name"] = "a:b".into();
    });
    assert_eq!(f.verify(&colon), Err(Refused::Subject));
}

#[test]
fn another_clusters_token_is_refused() {
    let f = fixture();
    let west = Claims::new(
        &"west/shop/cart-1".parse().unwrap(),
        "cart",
        f.now + TOKEN_LIFETIME,
    );
    let token = sign(&f.other, &west.unwrap());
    let foreign = Refused::Foreign {
        cluster: east(),
        issuer: "west".to_owned(),
    };
    assert_eq!(f.verify(&token), Err(foreign.clone()));
    // Signed by the other cluster's key, but said to be ours.
    assert_eq!(
        f.verify(&sign(&f.other, &f.claims())),
        Err(Refused::Signature(east()))
    );
    // Signed by our key, said to be the other's.
    assert_eq!(
        f.verify(&f.payload(|j| j["iss"] = "west".into())),
        Err(foreign)
    );
}

#[test]
fn tricks_with_the_algorithm_are_refused() {
    let f = fixture();
    let token = sign(&f.key, &f.claims());
    let payload = token.split('.').nth(1).unwrap();
    for alg in ["none", "None", "HS384", "RS256", "hs256", ""] {
        let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}"}}"#));
        assert_eq!(
            f.verify(&format!("{header}.{payload}.")),
            Err(Refused::Algorithm)
        );
    }
    let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap();
    let header = Refused::Malformed("the header is not understood");
    for bad in [
        r#"{"alg":"HS256","crit":["exp"]}"#,
        r#"{"alg":"HS256","jwk":{}}"#,
        "{}",
        "x",
    ] {
        assert_eq!(
            f.verify(&f.signed(bad, &claims)),
            Err(header.clone()),
            "{bad}"
        );
    }
    let (signed, tag) = token.rsplit_once('.').unwrap();
    let cut = format!("{signed}.{}", &tag[..20]);
    assert_eq!(
        f.verify(&cut),
        Err(Refused::Signature(east())),
        "a shortened tag"
    );
    assert_eq!(f.verify(signed), Err(Refused::Malformed("not three parts")));
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(
        f.verify(&long),
        Err(Refused::Malformed("larger than 16 KiB"))
    );
}

#[test]
fn a_minted_token_is_reviewed_with_the_key_in_the_state_folder() {
    let folder = tempfile::tempdir().unwrap();
    let expires = SystemTime::now() + TOKEN_LIFETIME;
    let claims = Claims::new(&"east/shop/cart-1".parse().unwrap(), "cart", expires).unwrap();
    // A key that nobody checks tokens with would be worth nothing, and is not made.
    let none = mint(folder.path(), &claims).unwrap_err();
    assert!(none.to_string().ends_with("east.key"), "{none}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let state = StateDir::open(folder.path()).unwrap();
    let reviewer = KeyReviewer::open(&state, [&east(), &"west".parse().unwrap()]).unwrap();
    let token = mint(folder.path(), &claims).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let good = runtime.block_on(reviewer.review("east", &token)).unwrap();
    assert_eq!(
        good,
        Reviewed::from(Claims {
            expires: good.expires,
            ..claims
        })
    );
    assert_eq!(good.pod.as_deref(), Some("cart-1"));
    let foreign = runtime
        .block_on(reviewer.review("west", &token))
        .unwrap_err();
    assert!(matches!(foreign, Refused::Foreign { .. }));
    let unknown = runtime
        .block_on(reviewer.review("north", &token))
        .unwrap_err();
    assert_eq!(unknown, Refused::UnknownCluster("north".to_owned()));
}

/// One for all cases: making keys writes files.
static FIXTURE: std::sync::LazyLock<Fixture> = std::sync::LazyLock::new(fixture);

proptest! {
    #[test]
    fn one_changed_byte_is_refused(at: prop::sample::Index, by in 1..128u8) {
        let f = &FIXTURE;
        let mut token = sign(&f.key, &f.claims()).into_bytes();
        let at = at.index(token.len());
        token[at] = (token[at] ^ by) & 0x7f;
        let token = String::from_utf8(token).unwrap();
        prop_assert!(f.verify(&token).is_err());
    }

    #[test]
    fn no_text_panics(token in "\\PC{0,80}") {
        let _ = FIXTURE.verify(&token);
    }
}
