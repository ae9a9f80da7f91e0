//! Do filters change what they say and nothing else?

use super::*;
use crate::canonical;
use crate::message::{BodyLength, Method, Version};
use proptest::prelude::*;

fn head(authority: &str, path: &str) -> RequestHead {
    RequestHead {
        method: Method::Get,
        version: Version::Http11,
        https: false,
        authority: authority.into(),
        path: path.into(),
        protocol: Vec::new(),
        fields: Fields::default(),
        body: BodyLength::Empty,
        keep_alive: true,
        expects_continue: false,
    }
}

fn chosen<'a>(filters: &'a [Filter], prefix: Option<&'a str>) -> Chosen<'a> {
    let backend = BackendRef {
        service: "shop/cart".parse().unwrap(),
        port: 80,
    };
    Chosen {
        filters,
        prefix,
        ..Chosen::plain(None, backend)
    }
}

fn one(kind: route_filter::Kind) -> Result<Box<[Filter]>, String> {
    compile_rule(&[resource::RouteFilter { kind: Some(kind) }], true)
}

fn path_modifier(kind: path_modifier::Kind) -> Option<resource::PathModifier> {
    Some(resource::PathModifier { kind: Some(kind) })
}

/// The table of the Gateway API's `ReplacePrefixMatch`.
#[test]
fn a_replaced_prefix_keeps_exactly_one_slash() {
    for (path, prefix, replacement, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/bar?a=/foo", "/", "/xyz", "/xyz/bar?a=/foo"),
    ] {
        let kind = path_modifier::Kind::ReplacePrefix(replacement.to_owned());
        let rewrite = resource::Rewrite {
            hostname: String::new(),
            path: path_modifier(kind),
        };
        let filters = one(route_filter::Kind::Rewrite(rewrite)).unwrap();
        let mut head = head("cart", path);
        let canonical = canonical::path(path.as_bytes()).unwrap();
        let chosen = chosen(&filters, Some(prefix.trim_end_matches('/')));
        apply_request(&chosen, &mut head, &canonical, 80, 0);
        assert_eq!(
            String::from_utf8(head.path).unwrap(),
            expected,
            "{path} {prefix} {replacement}"
        );
    }
}

#[test]
fn a_redirect_keeps_what_it_does_not_name() {
    let location = |redirect, port| {
        let filters = one(route_filter::Kind::Redirect(redirect)).unwrap();
        let canonical = canonical::path(b"/a?b=c").unwrap();
        let chosen = chosen(&filters, Some(""));
        match apply_request(
            &chosen,
            &mut head("cart:8080", "/a?b=c"),
            &canonical,
            port,
            0,
        ) {
            Outcome::Redirect { status, location } => (status, location),
            Outcome::Forward(_) => panic!("forwarded"),
        }
    };
    let none = resource::Redirect::default;
    assert_eq!(location(none(), 80), (302, "http://cart/a?b=c".to_owned()));
    assert_eq!(
        location(none(), 8080),
        (302, "http://cart:8080/a?b=c".to_owned())
    );
    let https = resource::Redirect {
        scheme: "https".into(),
        status: 308,
        ..none()
    };
    assert_eq!(
        location(https, 8080),
        (308, "https://cart/a?b=c".to_owned())
    );
    let moved = resource::Redirect {
        hostname: "new.example".into(),
        port: 8443,
        path: path_modifier(path_modifier::Kind::ReplaceFull("/x".into())),
        ..none()
    };
    assert_eq!(
        location(moved, 80),
        (302, "http://new.example:8443/x?b=c".to_owned())
    );
}

#[test]
fn headers_are_set_added_and_removed() {
    let pair = |name: &str, value: &str| resource::Header {
        name: name.into(),
        value: value.into(),
    };
    let edit = resource::HeaderModifier {
        set: vec![pair("X-Env", " canary ")],
        add: vec![pair("x-tag", "b")],
        remove: vec!["X-Old".into()],
    };
    let both = [
        route_filter::Kind::RequestHeaders(edit.clone()),
        route_filter::Kind::ResponseHeaders(edit),
    ]
    .map(|kind| resource::RouteFilter { kind: Some(kind) });
    let filters = compile_rule(&both, false).unwrap();
    let mut request = head("cart", "/");
    let mut response = ResponseHead::new(200, BodyLength::Empty);
    let fill = |fields: &mut Fields| {
        for (name, value) in [
            ("x-env", "1"),
            ("x-env", "2"),
            ("x-tag", "a"),
            ("x-old", "z"),
        ] {
            fields.push(name.as_bytes(), value.as_bytes());
        }
    };
    fill(&mut request.fields);
    fill(&mut response.fields);
    let chosen = chosen(&filters, None);
    apply_request(
        &chosen,
        &mut request,
        &canonical::path(b"/").unwrap(),
        80,
        0,
    );
    apply_response(&chosen, &mut response);
    for fields in [&request.fields, &response.fields] {
        assert_eq!(fields.get_all(b"x-env").collect::<Vec<_>>(), [b"canary"]);
        assert_eq!(fields.get_all(b"x-tag").collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(fields.get(b"x-old"), None);
    }
}

#[test]
fn what_frames_a_message_or_speaks_for_the_mesh_is_out_of_reach() {
    for name in [
        ":authority",
        "Host",
        "connection",
        "Content-Length",
        "transfer-encoding",
        "upgrade",
        "x-mesh-port",
        "X-Mesh-Anything",
        "X-Forwarded-Client-Cert",
        "",
        "a b",
        "te",
    ] {
        let pair = resource::Header {
            name: name.to_owned(),
            value: "1".to_owned(),
        };
        for edit in [
            resource::HeaderModifier {
                set: vec![pair.clone()],
                ..Default::default()
            },
            resource::HeaderModifier {
                add: vec![pair.clone()],
                ..Default::default()
            },
            resource::HeaderModifier {
                remove: vec![name.to_owned()],
                ..Default::default()
            },
        ] {
            assert!(
                one(route_filter::Kind::RequestHeaders(edit.clone())).is_err(),
                "{name}"
            );
            assert!(
                one(route_filter::Kind::ResponseHeaders(edit)).is_err(),
                "{name}"
            );
        }
    }
    let split = resource::Header {
        name: "a".into(),
        value: "1\r\nx-mesh-port: 2".into(),
    };
    let edit = resource::HeaderModifier {
        set: vec![split],
        ..Default::default()
    };
    assert!(one(route_filter::Kind::RequestHeaders(edit)).is_err());
}

#[test]
fn contradictions_and_odd_paths_are_refused() {
    let filter = |kind| resource::RouteFilter { kind: Some(kind) };
    let redirect = || filter(route_filter::Kind::Redirect(resource::Redirect::default()));
    let rewrite = || filter(route_filter::Kind::Rewrite(resource::Rewrite::default()));
    assert!(compile_rule(&[redirect(), rewrite()], true).is_err());
    assert!(compile_rule(&[redirect(), redirect()], true).is_err());
    assert!(compile_backend(&[redirect()]).is_err());
    assert!(compile_rule(&[resource::RouteFilter { kind: None }], true).is_err());
    for bad in [
        "x", "/a?b", "/a#b", "/a b", "/a/../b", "//a", "/\u{e9}", "/a\r\n",
    ] {
        let path = path_modifier(path_modifier::Kind::ReplaceFull(bad.to_owned()));
        let rewrite = resource::Rewrite {
            hostname: String::new(),
            path,
        };
        assert!(one(route_filter::Kind::Rewrite(rewrite)).is_err(), "{bad}");
    }
    let path = path_modifier(path_modifier::Kind::ReplacePrefix("/x".to_owned()));
    let by_prefix = resource::Rewrite {
        hostname: String::new(),
        path,
    };
    assert!(compile_rule(&[filter(route_filter::Kind::Rewrite(by_prefix))], false).is_err());
}

#[test]
fn a_mirror_gets_its_share() {
    let backend = resource::WeightedBackend {
        service: "shop/copy".into(),
        port: 80,
        ..Default::default()
    };
    let share = |millionths| {
        let mirror = resource::Mirror {
            backend: Some(backend.clone()),
            millionths,
        };
        let filters = one(route_filter::Kind::Mirror(mirror)).unwrap();
        let canonical = canonical::path(b"/").unwrap();
        let step = u64::MAX / 10_007;
        (0..10_000u64)
            .filter(|n| {
                let random = n.wrapping_mul(step);
                let chosen = chosen(&filters, None);
                let outcome = apply_request(&chosen, &mut head("a", "/"), &canonical, 80, random);
                matches!(outcome, Outcome::Forward(mirrors) if !mirrors.is_empty())
            })
            .count()
    };
    assert_eq!(share(None), 10_000);
    assert_eq!(share(Some(0)), 0);
    let quarter = share(Some(250_000));
    assert!((2_200..2_800).contains(&quarter), "{quarter}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_rewritten_path_stays_absolute(path in "(/[a-z]{0,3}){1,4}", replacement in "(/[a-z]{1,3}){0,2}/?") {
        let kind = path_modifier::Kind::ReplacePrefix(replacement);
        let rewrite = resource::Rewrite { hostname: String::new(), path: path_modifier(kind) };
        if let Ok(filters) = one(route_filter::Kind::Rewrite(rewrite)) {
            let canonical = canonical::path(path.as_bytes()).unwrap();
            let prefix = canonical.as_str().rsplit_once('/').map_or("", |(parent, _)| parent);
            let mut head = head("a", &path);
            apply_request(&chosen(&filters, Some(prefix)), &mut head, &canonical, 80, 0);
            prop_assert!(head.path.starts_with(b"/"));
        }
    }
}
