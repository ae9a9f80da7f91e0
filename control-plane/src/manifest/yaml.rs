//! How is an object written down?
//!
//! Block style, keys in their order, every text that could be read as something else in quotes.

use serde_json::Value;

/// The value as a YAML document.
#[must_use]
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = scalar(key);
                if let Some(short) = inline(value) {
                    out.push_str(&format!("{indent}{key}: {short}\n"));
                } else {
                    out.push_str(&format!("{indent}{key}:\n"));
                    let deeper = usize::from(value.is_object());
                    block(value, depth + deeper, out);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if let Some(short) = inline(item) {
                    out.push_str(&format!("{indent}- {short}\n"));
                } else {
                    let mut inner = String::new();
                    block(item, depth + 1, &mut inner);
                    let body = inner.strip_prefix(&format!("{indent}  ")).unwrap_or(&inner);
                    out.push_str(&format!("{indent}- {body}"));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&format!("{indent}{}\n", inline(value).unwrap_or_default()));
        }
    }
}

fn inline(value: &Value) -> Option<String> {
    match value {
        Value::Object(fields) if fields.is_empty() => Some("{}".to_owned()),
        Value::Array(items) if items.is_empty() => Some("[]".to_owned()),
        Value::Object(_) | Value::Array(_) => None,
        Value::Null => Some("null".to_owned()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::String(text) => Some(scalar(text)),
    }
}

/// Plain where that can only be read as this text, else as JSON has it, which YAML reads alike.
fn scalar(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let plain = text.chars().all(word)
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&text.to_ascii_lowercase().as_str());
    if plain {
        text.to_owned()
    } else {
        Value::String(text.to_owned()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Values as objects of Kubernetes have them: no numbers with a fraction.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[ -~\\n\\t\u{e9}]{0,12}".prop_map(Value::from),
            // As they stand: a text alone would be taken for a pattern.
            proptest::sample::select(vec![
                "true", "No", "~", "- a", "a: b", "#x", "0x1f", "1e3", "*a", "y",
            ])
            .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ -~]{1,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(value in prop::collection::btree_map("[a-z]{1,4}", value(), 1..4)) {
            let value = Value::Object(value.into_iter().collect());
            let read: Value = serde_saphyr::from_str(&text(&value)).unwrap();
            prop_assert_eq!(read, value);
        }
    }
}
