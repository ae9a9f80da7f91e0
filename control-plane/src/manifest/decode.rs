//! What does a text say as this type, and if it does not fit, which field is it?
//!
//! Whoever reads the error of an API server's object has no line to look at, and one who reads
//! `expected u16` of a file does not know of what. The path is looked for only when something is wrong:
//! what is right is read once.

use serde::Deserializer;
use serde::de::DeserializeOwned;

use super::Failure;

/// A document of YAML. Lines count from its beginning.
pub(super) fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, Failure> {
    serde_saphyr::from_str(text).map_err(|error| {
        let mut path = None;
        let again = serde_saphyr::with_deserializer_from_str(text, |document| {
            path = path_of::<T, _>(document);
            Ok(())
        });
        // A text that is no YAML fails here, too; its error is told as it is.
        drop(again);
        let at = error.location();
        Failure {
            // Both count from 1.
            line: at.map_or(1, |l| l.line()).max(1),
            column: at.map_or(0, |l| l.column()),
            message: about(path, plain(&error)),
        }
    })
}

/// An object of an API server. Its lines are nobody's.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        let path = path_of::<T, _>(&mut serde_json::Deserializer::from_slice(bytes));
        let text = error.to_string();
        let cause = text.rsplit_once(" at line ").map(|(cause, _)| cause);
        about(path, cause.unwrap_or(&text).to_owned())
    })
}

/// An item of a List.
pub(super) fn item<T: DeserializeOwned>(value: &serde_json::Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| about(path_of::<T, _>(value), error.to_string()))
}

/// The field at which it does not fit; `None`: none, or the whole.
fn path_of<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D) -> Option<String> {
    let error = serde_path_to_error::deserialize::<D, T>(from).err()?;
    let mut fields = error.path().iter().peekable();
    fields.peek()?;
    let path = error.path().to_string();
    // Behind an alternative nobody knows which field was meant.
    Some(path.trim_end_matches(".?").to_owned()).filter(|path| path != "?")
}

fn about(path: Option<String>, cause: String) -> String {
    match path {
        Some(path) => format!("{path}: {cause}"),
        None => cause,
    }
}

/// The error without the picture of the text around it, in one line.
fn plain(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    // The position is told apart; the library appends it.
    let text = text.split(" at line ").next().unwrap_or(&text);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
