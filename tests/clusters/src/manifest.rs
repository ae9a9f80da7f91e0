//! Which objects does a file of YAML have, and where does the API server keep each?

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Every object of a text: several documents, and lists in them, are fine.
///
/// # Errors
/// It is no YAML.
pub fn objects(text: &str) -> anyhow::Result<Vec<Value>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| anyhow::anyhow!("no YAML: {error}"))?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut map) if map.get("kind").is_some_and(|kind| kind == "List") => {
                match map.remove("items") {
                    Some(Value::Array(items)) => objects.extend(items),
                    _ => bail!("a List without items"),
                }
            }
            object => objects.push(object),
        }
    }
    Ok(objects)
}

/// A field that every object has.
pub(crate) fn field<'a>(object: &'a Value, path: &str) -> anyhow::Result<&'a str> {
    object
        .pointer(path)
        .and_then(Value::as_str)
        .with_context(|| format!("an object without {path}"))
}

/// What is said of an object in words: `Pod shop/cart-1`.
pub(crate) fn title(object: &Value) -> String {
    let text = |path| object.pointer(path).and_then(Value::as_str).unwrap_or("?");
    let kind = text("/kind");
    match object
        .pointer("/metadata/namespace")
        .and_then(Value::as_str)
    {
        Some(namespace) => format!("{kind} {namespace}/{}", text("/metadata/name")),
        None => format!("{kind} {}", text("/metadata/name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists_are_taken_apart() {
        let text = "# first\nkind: A\n---\nkind: List\nitems:\n- kind: B\n- kind: C\n---\n";
        let kinds: Vec<Value> = objects(text).unwrap();
        let kinds: Vec<&str> = kinds.iter().map(|o| field(o, "/kind").unwrap()).collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert!(objects("a: [").is_err());
        assert!(objects("kind: List\n").is_err());
    }
}
