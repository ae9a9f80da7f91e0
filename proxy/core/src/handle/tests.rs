//! Does a gateway relay to exported endpoints only?

use super::*;
use bytes::Bytes;
use isthmus_proto::handle::HANDLE_CHARS;
use proptest::prelude::*;

const DOMAIN: &str = "west.mesh.internal";

fn key(epoch: u8) -> HandleKey {
    HandleKey::new(epoch, [epoch.wrapping_add(1); 32])
}

fn endpoint(id: u64) -> resource::ExportedEndpoint {
    resource::ExportedEndpoint {
        id,
        workload: format!("west/shop/cart-{id}"),
        address: Bytes::from_static(&[10, 2, 0, 7]),
        port: 15008,
        origin: None,
        service: "shop/cart.shop.svc.clusterset.local".to_owned(),
    }
}

fn table() -> ExportTable {
    let (table, refused) = ExportTable::compile(&[endpoint(5), endpoint(6)]);
    assert_eq!(refused, []);
    table
}

#[test]
fn an_exported_endpoint_is_found_by_its_handle() {
    let exports = table();
    let sni = format!("{}.{DOMAIN}", key(1).encode(5));
    let export = admit(Some(&sni), DOMAIN, &[key(2), key(1)], &exports).unwrap();
    assert_eq!(export.address.to_string(), "10.2.0.7:15008");
    assert_eq!(export.workload.as_str(), "west/shop/cart-5");
    let service = export.service.as_ref().map(ServiceName::as_str);
    assert_eq!(service, Some("shop/cart.shop.svc.clusterset.local"));
    // Of a control plane that does not say it yet.
    let silent = resource::ExportedEndpoint {
        service: String::new(),
        ..endpoint(5)
    };
    assert_eq!(Export::compile(&silent).unwrap().service, None);
}

#[test]
fn every_refusal_has_its_name() {
    let exports = table();
    let keys = [key(1)];
    let ask = |sni: &str| admit(Some(sni), DOMAIN, &keys, &exports).map(|e| e.id);
    let good = key(1).encode(5);
    assert_eq!(admit(None, DOMAIN, &keys, &exports), Err(Refused::NoSni));
    let shape = Refused::Invalid(InvalidHandle::Shape);
    for (sni, why) in [
        (String::new(), Refused::ForeignDomain),
        (good.clone(), Refused::ForeignDomain),
        (DOMAIN.to_owned(), Refused::ForeignDomain),
        (format!("{good}.east.mesh.internal"), Refused::ForeignDomain),
        (format!("{good}.{DOMAIN}."), Refused::ForeignDomain),
        (
            format!("{good}.{}", DOMAIN.to_uppercase()),
            Refused::ForeignDomain,
        ),
        (format!("{good}{DOMAIN}"), Refused::ForeignDomain),
        (format!("{good}.x{DOMAIN}"), Refused::ForeignDomain),
        (
            format!("{good}.{DOMAIN}.evil.example"),
            Refused::ForeignDomain,
        ),
        (format!(".{DOMAIN}"), shape),
        (format!("{good}..{DOMAIN}"), shape),
        (format!("{good}.x.{DOMAIN}"), shape),
        (format!("x.{good}.{DOMAIN}"), shape),
        (format!("{}.{DOMAIN}", good.to_uppercase()), shape),
        (format!("{}\0.{DOMAIN}", &good[..39]), shape),
        (format!("cart.shop.{DOMAIN}"), shape),
        (
            format!("{}.{DOMAIN}", key(9).encode(5)),
            Refused::Invalid(InvalidHandle::Epoch(9)),
        ),
        (
            format!("{}.{DOMAIN}", HandleKey::new(1, [9; 32]).encode(5)),
            Refused::Invalid(InvalidHandle::Mac),
        ),
        (
            format!("{}.{DOMAIN}", key(1).encode(7)),
            Refused::NotExported(7),
        ),
        (
            format!("{}.{DOMAIN}", key(1).encode(0)),
            Refused::NotExported(0),
        ),
    ] {
        assert_eq!(ask(&sni), Err(why), "{sni:?}");
        assert!(!why.name().is_empty() && !why.to_string().is_empty());
    }
    let sni = format!("{good}.{DOMAIN}");
    assert_eq!(
        admit(Some(&sni), "", &keys, &exports),
        Err(Refused::ForeignDomain)
    );
    assert_eq!(
        admit(Some(&format!("{good}.")), "", &keys, &exports),
        Err(Refused::ForeignDomain)
    );
    assert!(admit(Some(&sni), DOMAIN, &[], &exports).is_err());
    let nothing = ExportTable::default();
    assert_eq!(
        admit(Some(&sni), DOMAIN, &keys, &nothing),
        Err(Refused::NotExported(5))
    );
}

#[test]
fn endpoints_that_no_pod_can_be_are_refused() {
    let with = |bytes: &[u8]| resource::ExportedEndpoint {
        address: Bytes::copy_from_slice(bytes),
        ..endpoint(5)
    };
    let v6 = |text: &str| with(&text.parse::<Ipv6Addr>().unwrap().octets());
    for bad in [
        endpoint(0),
        resource::ExportedEndpoint {
            port: 0,
            ..endpoint(5)
        },
        resource::ExportedEndpoint {
            port: 65_536,
            ..endpoint(5)
        },
        resource::ExportedEndpoint {
            workload: "cart".into(),
            ..endpoint(5)
        },
        resource::ExportedEndpoint {
            service: "cart".into(),
            ..endpoint(5)
        },
        with(&[]),
        with(&[1; 5]),
        with(&[0, 0, 0, 0]),
        with(&[224, 0, 0, 1]),
        with(&[255, 255, 255, 255]),
        with(&[169, 254, 169, 254]),
        v6("::"),
        v6("fe80::1"),
        v6("ff02::1"),
        v6("::ffff:10.0.0.1"),
    ] {
        assert!(Export::compile(&bad).is_err(), "{bad:?}");
    }
    assert_eq!(
        Export::compile(&v6("fd00::7")).unwrap().address.to_string(),
        "[fd00::7]:15008"
    );
    let (table, refused) = ExportTable::compile(&[
        endpoint(5),
        with(&[10, 2, 0, 8]),
        endpoint(5),
        resource::ExportedEndpoint {
            port: 0,
            ..endpoint(8)
        },
    ]);
    assert_eq!((table.len(), refused.len()), (1, 2));
    assert_eq!(table.get(5).unwrap().address.to_string(), "10.2.0.7:15008");
}

#[test]
fn keys_are_checked_and_never_shown() {
    let raw = |epoch, secret: &[u8]| resource::HandleKey {
        epoch,
        secret: Bytes::copy_from_slice(secret),
    };
    let keys = |cluster: &str, keys| resource::HandleKeys {
        cluster: cluster.into(),
        keys,
    };
    let good =
        HandleKeys::compile(&keys("west", vec![raw(2, &[3; 32]), raw(1, &[2; 32])])).unwrap();
    assert_eq!(good.keys, [key(2), key(1)]);
    assert!(!format!("{good:?}").contains("3, 3"));
    for bad in [
        keys("West", vec![]),
        keys("west", vec![raw(256, &[3; 32])]),
        keys("west", vec![raw(1, &[3; 31])]),
        keys("west", vec![raw(1, &[0; 32])]),
        keys("west", vec![raw(1, &[3; 32]), raw(1, &[4; 32])]),
        keys("west", (0..9).map(|n| raw(n, &[3; 32])).collect()),
    ] {
        let why = HandleKeys::compile(&bad).unwrap_err();
        assert!(!why.to_string().contains("3, 3"), "{why}");
    }
}

/// S23: nothing is reached by guessing.
#[test]
fn ten_thousand_made_up_names_reach_nothing() {
    let exports = table();
    let keys = [key(1)];
    let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut state = 1u64;
    for _ in 0..10_000 {
        let label: String = (0..HANDLE_CHARS)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                char::from(alphabet[usize::try_from(state >> 59).unwrap()])
            })
            .collect();
        assert!(admit(Some(&format!("{label}.{DOMAIN}")), DOMAIN, &keys, &exports).is_err());
    }
}

proptest! {
    #[test]
    fn a_handle_reaches_its_own_endpoint_only(id: u64) {
        let exports = table();
        let sni = format!("{}.{DOMAIN}", key(1).encode(id));
        let got = admit(Some(&sni), DOMAIN, &[key(1)], &exports).map(|e| e.id);
        if id == 5 || id == 6 {
            prop_assert_eq!(got, Ok(id));
        } else {
            prop_assert_eq!(got, Err(Refused::NotExported(id)));
        }
    }

    #[test]
    fn no_name_panics(sni in "\\PC{0,80}", domain in "\\PC{0,20}") {
        let _ = admit(Some(&sni), &domain, &[key(1)], &table());
    }
}
