//! Is there one form only, and can nothing be written around it?

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::failure::Failure;

fn canonical(raw: &str) -> String {
    path(raw.as_bytes())
        .unwrap_or_else(|failure| panic!("{raw}: {failure}"))
        .full()
        .to_owned()
}

fn refusal(raw: &[u8]) -> &'static str {
    match path(raw) {
        Err(Failure::BadRequest(why)) => why,
        other => panic!("{}: {other:?}", raw.escape_ascii()),
    }
}

#[rustfmt::skip]
const FORMS: &[(&str, &str)] = &[
    ("*", "*"), ("/", "/"), ("/a/b", "/a/b"), ("/a/b/", "/a/b/"), ("/A", "/A"),
    // Escapes.
    ("/%61dmin", "/admin"), ("/%41", "/A"), ("/%7euser", "/~user"), ("/%2D%5f%2e%7E1", "/-_.~1"),
    ("/a%20b", "/a%20b"), ("/%c3%a4", "/%C3%A4"), ("/%f0%9f%98%80", "/%F0%9F%98%80"),
    ("/%3f", "/%3F"), ("/%23", "/%23"), ("/%252f", "/%252f"), ("/%25%32%66", "/%252f"),
    ("/%2b%3a%40", "/%2B%3A%40"), ("/{a}|^[b]", "/%7Ba%7D%7C%5E%5Bb%5D"),
    ("/!$&'()*+,=:@", "/!$&'()*+,=:@"),
    // Dots.
    ("/.", "/"), ("/..", "/"), ("/./", "/"), ("/../", "/"), ("/../a", "/a"), ("/../../a", "/a"),
    ("/a/.", "/a/"), ("/a/..", "/"), ("/a/../", "/"), ("/a/./b", "/a/b"), ("/a/../b", "/b"),
    ("/a/b/../../c", "/c"), ("/a/b/..", "/a/"), ("/a/%2e%2e/b", "/b"), ("/a/.%2E/b", "/b"),
    ("/a/%2e/b", "/a/b"), ("/...", "/..."), ("/.a", "/.a"), ("/a.", "/a."), ("/a..", "/a.."),
    ("/..a/b", "/..a/b"), ("/a/..%20/b", "/a/..%20/b"),
    // Empty segments.
    ("//", "/"), ("///", "/"), ("//a", "/a"), ("/a//b", "/a/b"), ("/a//", "/a/"), ("/a///b//c", "/a/b/c"),
    ("/a//./b", "/a/b"), ("/a/..//b", "/b"), ("/./a//b", "/a/b"),
    // Parameters.
    ("/a;v=1/b", "/a;v=1/b"), ("/a;", "/a;"), ("/a;v=1/../b", "/b"), ("/a%3Bv", "/a%3Bv"), ("/...;x", "/...;x"),
    // Queries.
    ("/?", "/?"), ("/a?b=c", "/a?b=c"), ("/a?b=/../c//d", "/a?b=/../c//d"), ("/a?%2f%00%", "/a?%2f%00%"),
    ("/a/../b?x?y", "/b?x?y"), ("/?{}|\\^`[];", "/?{}|\\^`[];"),
];

#[test]
fn paths_have_one_form() {
    for (raw, form) in FORMS {
        assert_eq!(canonical(raw), *form, "{raw}");
    }
}

#[rustfmt::skip]
const REFUSED: &[(&[u8], &str)] = &[
    (b"", "path does not"), (b"a", "path does not"), (b"a/b", "path does not"), (b"?a", "path does not"),
    (b"**", "path does not"), (b"*/", "path does not"), (b"http://a/", "path does not"), (b"%2fa", "path does not"),
    (b"\\a", "path does not"), (b"../a", "path does not"), (b" /a", "path does not"),
    (b"/a%2fb", "a slash"), (b"/a%2Fb", "a slash"), (b"/a%5cb", "a slash"), (b"/a%5Cb", "a slash"), (b"/a\\b", "a slash"),
    (b"/..%2fadmin", "a slash"), (b"/..\\admin", "a slash"), (b"/%2e%2e%5cadmin", "a slash"),
    (b"/%00", "control"), (b"/a%00.png", "control"), (b"/%0d%0aset-cookie:", "control"), (b"/%7f", "control"), (b"/%1b", "control"),
    (b"/\0", "control"), (b"/\t", "control"), (b"/\r\n", "control"), (b"/\x7f", "control"),
    (b"/%", "escape"), (b"/%2", "escape"), (b"/%zz", "escape"), (b"/%2x", "escape"), (b"/a%/b", "escape"), (b"/%u002f", "escape"),
    (b"/%%32%66", "escape"), (b"/%+2", "escape"), (b"/% 2", "escape"), (b"/%2/f", "escape"), (b"/%2?f", "escape"),
    (b"/%c0%af", "escapes are not UTF-8"), (b"/%c0%ae%c0%ae/", "escapes are not UTF-8"), (b"/%e0%80%af", "escapes are not UTF-8"),
    (b"/%f0%80%80%af", "escapes are not UTF-8"), (b"/%c1%9c", "escapes are not UTF-8"), (b"/%ff", "escapes are not UTF-8"),
    (b"/%e4", "escapes are not UTF-8"), (b"/%c3/%a4", "escapes are not UTF-8"), (b"/%c3a", "escapes are not UTF-8"),
    (b"/%ed%a0%80", "escapes are not UTF-8"), (b"/%f4%90%80%80", "escapes are not UTF-8"), (b"/%80", "escapes are not UTF-8"),
    (b"/\xc3\xa4", "path is not ASCII"), (b"/\xff", "path is not ASCII"), (b"/%c3\xa4", "path is not ASCII"),
    (b"/a#b", "character in the path"), (b"/#", "character in the path"), (b"/a b", "character in the path"), (b"/<a>", "character in the path"),
    (b"/\"a\"", "character in the path"), (b"/`a`", "character in the path"),
    (b"/..;/a", "a dot or empty"), (b"/.;/a", "a dot or empty"), (b"/..;x=y/a", "a dot or empty"), (b"/a/..;", "a dot or empty"),
    (b"/%2e%2e;/a", "a dot or empty"), (b"/..%3b/a", "a dot or empty"), (b"/.%3Bx/a", "a dot or empty"), (b"/;/a", "a dot or empty"),
    (b"/;x/a", "a dot or empty"), (b"/a/;", "a dot or empty"), (b"/%3b/a", "a dot or empty"), (b"/..;;/a", "a dot or empty"),
    (b"/a//../b", "a dot segment after"), (b"//../b", "a dot segment after"), (b"/a//b/../c", "a dot segment after"), (b"/a//%2e%2e", "a dot segment after"),
    (b"/a?b#c", "character in the query"), (b"/?a b", "character in the query"), (b"/?\xc3\xa4", "character in the query"),
    (b"/?\r\n", "character in the query"), (b"/?\0", "character in the query"), (b"/?<", "character in the query"), (b"/?\"", "character in the query"),
];

#[test]
fn ambiguous_paths_are_refused() {
    for (raw, rule) in REFUSED {
        let why = refusal(raw);
        assert!(
            why.starts_with(rule) && why.contains("RFC "),
            "{}: {why}",
            raw.escape_ascii()
        );
    }
}

#[test]
fn path_and_query_are_told_apart() {
    let told = |raw: &str| {
        let path = path(raw.as_bytes()).unwrap();
        (path.as_str().to_owned(), path.query().map(str::to_owned))
    };
    assert_eq!(
        told("/a/../b?c=/d?e"),
        ("/b".to_owned(), Some("c=/d?e".to_owned()))
    );
    assert_eq!(told("/a?"), ("/a".to_owned(), Some(String::new())));
    assert_eq!(told("/a"), ("/a".to_owned(), None));
    assert_eq!(told("*"), ("*".to_owned(), None));
}

#[test]
fn a_lax_reader_sees_no_escapes_and_no_parameters() {
    let lax = |raw: &str| path(raw.as_bytes()).unwrap().lax().into_owned();
    assert_eq!(lax("/a/b"), "/a/b");
    assert_eq!(lax("/admin;x=1/%40me;y"), "/admin/@me");
    assert_eq!(lax("/%C3%A4%20%25"), "/\u{e4} %");
    assert_eq!(lax("/a%3Bb"), "/a;b");
    assert_eq!(lax("/a?b;c%20"), "/a");
}

/// One way of writing a byte.
fn spell(byte: u8, way: usize) -> String {
    match way {
        0 => char::from(byte).to_string(),
        1 => format!("%{byte:02x}"),
        _ => format!("%{byte:02X}"),
    }
}

/// Ways to write `/admin/secret` that differ for a reader who compares bytes.
fn bypasses() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let words = ["admin", "secret"];
    for way in 1..3 {
        for (word, text) in words.iter().enumerate() {
            for at in 0..text.len() {
                let mut spelled: Vec<String> = words.map(str::to_owned).to_vec();
                let byte = text.as_bytes()[at];
                spelled[word] = [&text[..at], &spell(byte, way), &text[at + 1..]].concat();
                all.insert(format!("/{}", spelled.join("/")));
            }
        }
        let every = |text: &str| text.bytes().map(|b| spell(b, way)).collect::<String>();
        all.insert(format!("/{}/{}", every("admin"), every("secret")));
    }
    let dots = [".", "%2e", "%2E"];
    let doubles: Vec<_> = dots
        .iter()
        .flat_map(|a| dots.map(|b| format!("{a}{b}")))
        .collect();
    for separator in ["/", "//", "///"] {
        all.insert(format!("{separator}admin/secret"));
        all.insert(format!("/admin{separator}secret"));
        for dot in dots {
            all.insert(format!("/{dot}{separator}admin/secret"));
            all.insert(format!("/admin{separator}{dot}/secret"));
            all.insert(format!("/admin/{dot}{separator}secret"));
        }
        for double in &doubles {
            all.insert(format!("/{double}{separator}admin/secret"));
            all.insert(format!("/x/{double}{separator}admin/secret"));
            all.insert(format!("/admin/x/{double}{separator}secret"));
            all.insert(format!("/x/y/{double}/{double}{separator}admin/secret"));
            all.insert(format!("/admin/y/x/{double}/{double}{separator}secret"));
            for dot in dots {
                all.insert(format!("/x/{dot}/{double}{separator}admin/{dot}/secret"));
            }
        }
    }
    all
}

#[rustfmt::skip]
const SLASHES: [&[u8]; 12] = [
    b"%2f", b"%2F", b"%5c", b"%5C", b"\\", b"%c0%af", b"%e0%80%af", b"%c1%9c", b"%00/", b"\t/",
    b"%0a/", b"\xef\xbc\x8f",
];
#[rustfmt::skip]
const TAILS: [&[u8]; 14] = [
    b"%00", b"%00.html", b"#", b"#x", b"%", b"%2", b"%zz", b"\\", b" ", b"%0d%0a", b"\xff", b"%ff",
    b"/..;/x", b"/;",
];
#[rustfmt::skip]
const UPS: [&[u8]; 14] = [
    b"..;", b".;", b"..;a=b", b"%2e%2e;", b"%2e;", b"..%3b", b".%3B", b"..%2f", b"..\\", b"..%5c",
    b"%c0%ae%c0%ae", b"..%00", b"..%0d", b";",
];

/// Ways to write it, or around it, that readers understand differently.
fn ambiguities() -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    for slash in SLASHES {
        all.insert([b"/admin", slash, b"secret"].concat());
        all.insert([b"/", slash, b"admin/secret"].concat());
        all.insert([b"/x/..", slash, b"admin/secret"].concat());
        all.insert([b"/admin/x", slash, b"../secret"].concat());
    }
    for tail in TAILS {
        all.insert([b"/admin/secret", tail].concat());
        all.insert([b"/admin", tail, b"/secret"].concat());
    }
    for up in UPS {
        for before in [&b"/x/"[..], b"/", b"/admin/x/", b"//", b"/x/y/z/"] {
            all.insert([before, up, b"/admin/secret"].concat());
            all.insert([b"/admin", before, up, b"/secret"].concat());
        }
    }
    for raw in [
        "/admin//../secret",
        "//../admin/secret",
        "/x//y/../../admin/secret",
        "/x//%2e%2e/admin/secret",
    ] {
        all.insert(raw.as_bytes().to_vec());
    }
    all
}

#[test]
fn no_spelling_gets_around_a_policy() {
    let (bypasses, ambiguities) = (bypasses(), ambiguities());
    assert!(
        bypasses.len() + ambiguities.len() >= 400,
        "{} {}",
        bypasses.len(),
        ambiguities.len()
    );
    for raw in &bypasses {
        let path = path(raw.as_bytes()).unwrap_or_else(|failure| panic!("{raw}: {failure}"));
        assert_eq!(path.as_str(), "/admin/secret", "{raw}");
    }
    for raw in &ambiguities {
        refusal(raw);
    }
}

#[rustfmt::skip]
const AUTHORITIES: &[(&str, &str)] = &[
    ("a", "a"), ("Shop.TEST", "shop.test"), ("a.", "a"), ("a.b.:8080", "a.b:8080"), ("a:80", "a"), ("a.:80", "a"), ("a:443", "a:443"),
    ("a:1", "a:1"), ("a:65535", "a:65535"), ("my_app-1.x", "my_app-1.x"), ("xn--p1ai", "xn--p1ai"), ("1a", "1a"), ("1.2.3.4.a", "1.2.3.4.a"),
    ("127.0.0.1", "127.0.0.1"), ("127.0.0.1.", "127.0.0.1"), ("127.0.0.1:80", "127.0.0.1"), ("0xg", "0xg"),
    ("[::1]", "[::1]"), ("[::1]:80", "[::1]"), ("[::1]:8080", "[::1]:8080"), ("[0:0:0:0:0:0:0:1]", "[::1]"), ("[2001:DB8::0:1]", "[2001:db8::1]"),
    ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]"),
];

#[rustfmt::skip]
const NO_AUTHORITIES: &[(&[u8], &str)] = &[
    (b"", "host is empty"), (b".", "host is empty"), (b":80", "host is empty"), (b"..", "empty label"), (b"a..b", "empty label"), (b".a", "empty label"), (b"a..", "empty label"),
    (b"u@a", "user information"), (b"u:p@a", "port"), (b"a@", "user information"), (b"u@a:80", "user information"),
    (b"a,b", "list"), (b"a, a", "list"), (b"a b", "character in the host"), (b" a", "character in the host"), (b"a\t", "character in the host"),
    (b"a/b", "character in the host"), (b"a?b", "character in the host"), (b"a#b", "character in the host"), (b"a\\b", "character in the host"),
    (b"a%2eb", "character in the host"), (b"*.a", "character in the host"), (b"a;b", "character in the host"), (b"a\0", "character in the host"),
    (b"\xc3\xa4", "character in the host"), (b"a!", "character in the host"), (b"a]", "character in the host"),
    (b"a:", "port"), (b"a:0", "port"), (b"a:080", "port"), (b"a:65536", "port"), (b"a:99999", "port"), (b"a:100000", "port"), (b"a:+1", "port"), (b"a:-1", "port"),
    (b"a: 1", "port"), (b"a:1 ", "port"), (b"a:http", "port"), (b"a:1:2", "port"), (b"a:0x50", "port"), (b"::1", "port"), (b"2001:db8::1", "port"),
    (b"[::1", "host is no IPv6"), (b"[]", "host is no IPv6"), (b"[::1]a", "host is no IPv6"), (b"[::1]:", "port"), (b"[::1]:0", "port"), (b"[::1%25eth0]", "host is no IPv6"),
    (b"[fe80::1%eth0]", "host is no IPv6"), (b"[v1.a]", "host is no IPv6"), (b"[127.0.0.1]", "host is no IPv6"), (b"[::1]]", "host is no IPv6"), (b"[[::1]]", "host is no IPv6"),
    (b"[1:2:3:4:5:6:7:8:9]", "host is no IPv6"), (b"[::1].", "host is no IPv6"),
    (b"127.1", "host is no IPv4"), (b"2130706433", "host is no IPv4"), (b"0x7f.0.0.1", "host is no IPv4"), (b"0x7f000001", "host is no IPv4"), (b"0177.0.0.1", "host is no IPv4"),
    (b"127.0.0.01", "host is no IPv4"), (b"256.0.0.1", "host is no IPv4"), (b"1.2.3.4.5", "host is no IPv4"), (b"a.1", "host is no IPv4"), (b"127.0.0.0x1", "host is no IPv4"),
];

#[test]
fn authorities_have_one_form() {
    for (raw, form) in AUTHORITIES {
        let read = authority(raw.as_bytes()).unwrap_or_else(|failure| panic!("{raw}: {failure}"));
        assert_eq!(read.to_string(), *form, "{raw}");
        assert!(read.is(form.as_bytes()), "{form}");
        assert_eq!(read.is(raw.as_bytes()), raw == form, "{raw}");
        assert_eq!(authority(form.as_bytes()), Ok(read), "{raw}");
    }
}

#[test]
fn ambiguous_authorities_are_refused() {
    for (raw, rule) in NO_AUTHORITIES {
        match authority(raw) {
            Err(Failure::BadRequest(why)) => {
                assert!(why.starts_with(rule), "{}: {why}", raw.escape_ascii());
            }
            other => panic!("{}: {other:?}", raw.escape_ascii()),
        }
    }
}

#[test]
fn names_and_labels_are_bounded_as_in_dns() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
    assert_eq!(longest.len(), 253);
    assert!(
        authority(longest.as_bytes()).is_ok()
            && authority(format!("{longest}.").as_bytes()).is_ok()
    );
    assert!(authority(format!("{longest}a").as_bytes()).is_err());
    assert!(authority("a".repeat(64).as_bytes()).is_err());
}

#[test]
fn two_authorities_are_compared_by_what_they_name() {
    let same = |a: &str, b: &str, https| same_authority(a.as_bytes(), b.as_bytes(), https).unwrap();
    assert!(
        same("A", "a.:80", false)
            && same("[::1]", "[0::1]", false)
            && same("1.2.3.4", "1.2.3.4.", false)
    );
    assert!(same("a:443", "a", true) && !same("a:443", "a", false) && !same("a:80", "a", true));
    assert!(!same("a", "b", false) && !same("a:81", "a", false) && !same("[::1]", "a", false));
    assert!(same_authority(b"a", b"a,a", false).is_err());
}

/// Pieces that canonicalisation cares about, in any order.
fn raw_path() -> impl Strategy<Value = String> {
    let pieces = select(
        &[
            "/", "//", ".", "..", "/./", "/../", "%2e", "%2E%2e", "a", "b", "%61", "%7E", "%25",
            "%252e", "%2561", "%c3%a4", ";", "%3b", "%20", "{", "+", "%2B", "?", "=", "%2", "%5c",
            "*", ":", "\\", "#",
        ][..],
    );
    vec(pieces, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_form_of_a_form_is_itself(raw in raw_path()) {
        if let Ok(once) = path(raw.as_bytes()) {
            prop_assert_eq!(path(once.full().as_bytes()), Ok(once.clone()));
            let text = once.as_str();
            prop_assert!(!text.contains("//") && text.starts_with('/'));
            prop_assert!(!text.split('/').any(|segment| matches!(segment, "." | "..")));
            prop_assert!(!once.lax().split('/').any(|segment| matches!(segment, "." | "..")));
            prop_assert_eq!(once.query(), raw.split_once('?').map(|(_, query)| query));
        }
    }

    #[test]
    fn any_bytes_have_a_form_or_are_refused(raw in vec(any::<u8>(), 0..40)) {
        if let Ok(once) = path(&raw) {
            prop_assert_eq!(path(once.full().as_bytes()), Ok(once));
        }
        if let Ok(once) = authority(&raw) {
            prop_assert_eq!(authority(once.to_string().as_bytes()), Ok(once));
        }
    }

    #[test]
    fn escaping_what_needs_none_changes_nothing(text in "[a-z0-9._~-]{1,12}", mask in any::<u16>()) {
        prop_assume!(text != "." && text != "..");
        let spelled: String = text
            .bytes()
            .enumerate()
            .map(|(at, byte)| spell(byte, usize::from(mask >> at) & 1))
            .collect();
        prop_assert_eq!(canonical(&format!("/x/{spelled}/y")), format!("/x/{text}/y"));
    }

    #[test]
    fn authorities_survive_their_form(raw in "[a-zA-Z0-9._-]{1,20}(:[0-9]{1,5})?|\\[[0-9a-f:.]{2,20}\\](:[0-9]{1,5})?") {
        if let Ok(once) = authority(raw.as_bytes()) {
            let text = once.to_string();
            prop_assert_eq!(authority(text.as_bytes()), Ok(once));
            prop_assert_eq!(same_authority(raw.as_bytes(), text.as_bytes(), false), Ok(true));
        }
    }
}
