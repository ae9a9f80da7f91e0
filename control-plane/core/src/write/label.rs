//! Which exported labels and annotations can an import carry?

use crate::model::{Labels, MANAGED_LABEL, short_hash};

/// Longest name or value of a label.
const LABEL_BYTES_MAX: usize = 63;
/// Longest prefix of a key.
const PREFIX_BYTES_MAX: usize = 253;
/// All annotations of an import together. Kubernetes takes 256 KiB; every importing cluster stores them.
const ANNOTATIONS_BYTES_MAX: usize = 8 * 1024;
/// Labels, and annotations, of an import.
const WORDS_MAX: usize = 64;
/// What only the mesh, or the API itself, says of an import.
const RESERVED: [&str; 3] = [
    "multicluster.kubernetes.io/",
    "isthmus.dev/",
    "kubectl.kubernetes.io/",
];

/// The exported labels that Kubernetes takes, the first ones if there are many; one that it would refuse must not keep the import from
/// being written.
pub(super) fn labels(exported: &Labels) -> Labels {
    let fits = |(key, value): &(&String, &String)| {
        is_key(key) && (value.is_empty() || is_name(value)) && key.as_str() != MANAGED_LABEL
    };
    let kept = exported.iter().filter(fits).take(WORDS_MAX);
    kept.map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The exported annotations that Kubernetes takes; the first ones, if there are too many.
pub(super) fn annotations(exported: &Labels) -> Labels {
    let mut bytes = 0usize;
    let kept = exported.iter().filter(|(key, value)| {
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
        is_key(key) && bytes <= ANNOTATIONS_BYTES_MAX
    });
    let kept = kept.take(WORDS_MAX);
    kept.map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Tells whether what was exported has changed: what is no longer exported must go from the import,
/// and nothing else there says which of its labels were exported. `None`: nothing is.
pub(super) fn digest(labels: &Labels, annotations: &Labels) -> Option<String> {
    if labels.is_empty() && annotations.is_empty() {
        return None;
    }
    let marked = [(labels, "l"), (annotations, "a")].into_iter();
    let parts = marked.flat_map(|(list, mark)| {
        let words = list.iter();
        words.flat_map(move |(key, value)| [mark, key.as_str(), value.as_str()])
    });
    Some(short_hash(parts))
}

/// `prefix/name` or `name`.
fn is_key(key: &str) -> bool {
    if RESERVED.iter().any(|reserved| key.starts_with(reserved)) {
        return false;
    }
    match key.split_once('/') {
        Some((prefix, name)) => {
            prefix.len() <= PREFIX_BYTES_MAX
                && isthmus_proto::ids::is_dns_name(prefix)
                && is_name(name)
        }
        None => is_name(key),
    }
}

fn is_name(text: &str) -> bool {
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_BYTES_MAX
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::labels as of;

    #[test]
    fn what_kubernetes_would_refuse_is_not_carried() {
        let long = "x".repeat(64);
        let exported = of(&[
            ("team", "cart"),
            ("example.com/tier", ""),
            ("bad key", "x"),
            ("a/b/c", "x"),
            ("Upper.example/x", "x"),
            ("value", "with space"),
            ("long", &long),
            ("multicluster.kubernetes.io/service-name", "other"),
            ("app.kubernetes.io/managed-by", "helm"),
        ]);
        assert_eq!(
            labels(&exported),
            of(&[("team", "cart"), ("example.com/tier", "")])
        );
    }

    #[test]
    fn annotations_are_bounded_and_their_values_free() {
        let large = "x".repeat(5 * 1024);
        let exported = of(&[
            ("a", &large),
            ("b", &large),
            ("c d", ""),
            ("z", "{\"any\": 1}"),
        ]);
        let kept = annotations(&exported);
        assert_eq!(kept.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(annotations(&of(&[("z", "{\"any\": 1}")])).len(), 1);
        let many: Labels = (0..100).map(|n| (format!("n{n}"), String::new())).collect();
        assert_eq!((annotations(&many).len(), labels(&many).len()), (64, 64));
    }

    #[test]
    fn the_digest_tells_lists_apart() {
        let none = Labels::new();
        assert_eq!(digest(&none, &none), None);
        let one = digest(&of(&[("a", "b")]), &none);
        assert_ne!(one, digest(&none, &of(&[("a", "b")])));
        assert_ne!(one, digest(&of(&[("a", "")]), &none));
        assert_eq!(one, digest(&of(&[("a", "b")]), &none));
    }
}
