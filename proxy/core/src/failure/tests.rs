//! Do flag, status, blame, retry and name of each failure fit together?

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The next one, after this; `None` after the last. A new failure does not compile until it has its
/// place.
fn next(failure: Failure) -> Option<Failure> {
    use Failure::*;
    Some(match failure {
        BadRequest(why) => NotImplemented(why),
        NotImplemented(_) => HeadTooLarge,
        HeadTooLarge => RequestTimeout,
        RequestTimeout => DownstreamReset,
        DownstreamReset => Unauthenticated,
        Unauthenticated => Denied,
        Denied => PolicyUnknown,
        PolicyUnknown => NoDestination,
        NoDestination => InvalidBackend,
        InvalidBackend => NoRoute,
        NoRoute => NoEndpoint,
        NoEndpoint => NoHealthyEndpoint,
        NoHealthyEndpoint => EndpointsUnknown,
        EndpointsUnknown => NoCertificate,
        NoCertificate => Overflow,
        Overflow => ConnectFailed,
        ConnectFailed => ConnectTimeout,
        ConnectTimeout => IdentityMismatch,
        IdentityMismatch => UpstreamReset,
        UpstreamReset => UpstreamRefused,
        UpstreamRefused => UpstreamProtocol("a rule"),
        UpstreamProtocol(_) => RequestDeadline,
        RequestDeadline => TryTimeout,
        TryTimeout => IdleTimeout,
        IdleTimeout => StreamDeadline,
        StreamDeadline => NoHandle,
        NoHandle => Draining,
        Draining => Internal,
        Internal => return None,
    })
}

fn all(why: &'static str) -> impl Iterator<Item = Failure> {
    std::iter::successors(Some(Failure::BadRequest(why)), |failure| next(*failure))
}

fn any_failure() -> impl Strategy<Value = Failure> {
    // A few hundred short texts, for as long as the tests run.
    let why = "[ -~]{0,20}".prop_map(|text| &*text.leak());
    why.prop_flat_map(|why| prop::sample::select(all(why).collect::<Vec<_>>()))
}

#[test]
fn each_is_found_by_its_name() {
    for failure in all("") {
        let found = Failure::named(failure.name().as_bytes());
        assert_eq!(found.map(Failure::name), Some(failure.name()));
        assert_eq!(
            found.map(|found| found.why().is_some()),
            Some(failure.why().is_some())
        );
    }
    assert_eq!(Failure::named(b"no such"), None);
}

#[test]
fn each_has_a_name_of_its_own() {
    let names: BTreeSet<&str> = all("").map(Failure::name).collect();
    assert_eq!(names.len(), all("").count());
    // Of the metrics' labels.
    let plain = |name: &&str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    assert!(names.iter().all(plain), "{names:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn what_follows_from_a_failure_fits_together(failure in any_failure()) {
        let (status, blame, retry) = (failure.status(), failure.blame(), failure.retry());
        // Nobody is left to be told, or it is an error's status.
        prop_assert_eq!(status == 0, failure == Failure::DownstreamReset);
        prop_assert!(status == 0 || (400..600).contains(&status));
        // Another endpoint is no better for what the caller did, or the mesh decided: but a tunnel to it may
        // be open already.
        prop_assert!(
            retry == Retry::Never || blame == Blame::Upstream || failure == Failure::NoCertificate
        );
        // Whom the client is told to be at fault is who is at fault.
        prop_assert!(blame != Blame::Upstream || status >= 500);
        // The caller's own: 4xx, but for who is gone, who came to a gateway without a handle, and who wants
        // what nobody has to have (RFC 9110 §15.6.2).
        prop_assert!(
            blame != Blame::Downstream
                || status < 500
                || matches!(failure, Failure::NoHandle | Failure::NotImplemented(_))
        );
        // Envoy's flags: capitals.
        prop_assert!(failure.flag().bytes().all(|b| b.is_ascii_uppercase()));
        prop_assert!((2..=4).contains(&failure.flag().len()));
    }

    #[test]
    fn what_is_decided_follows_from_the_name_alone(one in any_failure(), other in any_failure()) {
        // Whether it may be tried again never depends on what the failure says in words.
        if one.name() == other.name() {
            prop_assert_eq!(
                (one.flag(), one.status(), one.blame(), one.retry()),
                (other.flag(), other.status(), other.blame(), other.retry())
            );
        }
        prop_assert_eq!(one == other, one.to_string() == other.to_string());
    }

    #[test]
    fn the_text_begins_with_the_name(failure in any_failure()) {
        let text = failure.to_string();
        let rest = text.strip_prefix(failure.name()).unwrap();
        match failure.why() {
            Some(why) => prop_assert_eq!(rest, format!(": {why}")),
            None => prop_assert_eq!(rest, ""),
        }
    }
}
