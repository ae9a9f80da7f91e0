//! Is it one of the words that Kubernetes takes there?

use super::{Document, Failure};

/// The word, if there is one; an empty one is none.
pub(super) fn one_of<'a>(
    document: &Document<'_>,
    key: &str,
    word: Option<&'a str>,
    known: &[&str],
) -> Result<Option<&'a str>, Failure> {
    match word.filter(|word| !word.is_empty()) {
        Some(word) if !known.contains(&word) => Err(document.failure(format!(
            "{key}: {word:?} is unknown; it must be {}",
            known.join(" or ")
        ))),
        word => Ok(word),
    }
}

/// `sessionAffinity`: does a client stay with its pod?
pub(super) fn client_affinity(
    document: &Document<'_>,
    word: Option<&str>,
) -> Result<bool, Failure> {
    let known = ["ClientIP", "None"];
    let word = one_of(document, "spec.sessionAffinity", word, &known)?;
    Ok(word == Some("ClientIP"))
}
