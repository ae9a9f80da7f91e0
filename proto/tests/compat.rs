//! Do proxies and control planes of other versions still understand the contract?
//!
//! No number is ever reused or retyped: `contract.golden` holds all that were ever given away.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::FileDescriptorSet;

// The generator's own reading of a contract: this crate can't depend on what generates it.
#[path = "../gen/src/contract.rs"]
#[expect(unreachable_pub, reason = "a module of another crate")]
mod contract;

fn golden() -> BTreeSet<String> {
    contract::read(include_str!("contract.golden"))
}

fn now() -> BTreeSet<String> {
    let bytes: &[u8] = include_bytes!("../src/gen/contract.binpb");
    contract::lines(&FileDescriptorSet::decode(bytes).expect("written by the generator"))
}

#[test]
fn no_number_is_reused_or_retyped() {
    let broken = contract::broken(&golden(), &now());
    assert!(
        broken.is_empty(),
        "older versions read these wrongly:\n{}",
        broken.join("\n")
    );
}

#[test]
fn every_number_is_accepted() {
    let fresh = contract::unaccepted(&golden(), &now());
    let lines = fresh.join("\n");
    assert!(
        fresh.is_empty(),
        "new in the contract; run `cargo gen -- --accept` to keep:\n{lines}"
    );
}

#[test]
fn a_changed_number_is_found() {
    let now = now();
    let identity = "isthmus.resource.v1.Endpoint 5 identity: optional string";
    assert!(
        now.contains(identity),
        "the example of this test is gone: take another one"
    );
    for (instead, why) in [
        (None, "is gone"),
        (
            Some("isthmus.resource.v1.Endpoint 5 identity: optional bytes"),
            "has become",
        ),
        (
            Some("isthmus.resource.v1.Endpoint 5 name_of_peer: optional string"),
            "has become",
        ),
    ] {
        let mut changed = now.clone();
        changed.remove(identity);
        changed.extend(instead.map(ToOwned::to_owned));
        let broken = contract::broken(&now, &changed);
        assert!(
            matches!(&broken[..], [one] if one.contains(why)),
            "{broken:?}"
        );
    }
    let mut retired = now.clone();
    retired.remove(identity);
    retired.insert("isthmus.resource.v1.Endpoint 5 reserved".to_owned());
    assert!(contract::broken(&now, &retired).is_empty());
}
