//! How do results reach the user? Lines on standard output, complaints on standard error.

use std::io::{self, Write as _};

use serde_json::{Value, json};

use crate::args::Format;

/// Prints a line. A reader that went away (`| head`) is no error.
pub(crate) fn line(text: &str) {
    let _gone = writeln!(io::stdout().lock(), "{text}");
}

/// Prints a line to standard error.
pub(crate) fn complain(text: &str) {
    let _gone = writeln!(io::stderr().lock(), "{text}");
}

/// Says why a command failed, on standard error.
pub(crate) fn failure(error: &anyhow::Error, format: Format) {
    match format {
        Format::Text => complain(&format!("isthmus: {error:#}")),
        Format::Json => {
            let because: Vec<String> = error.chain().skip(1).map(ToString::to_string).collect();
            complain(&json!({ "error": error.to_string(), "because": because }).to_string());
        }
    }
}

/// Prints a value, indented.
pub(crate) fn json(value: &Value) {
    line(&format!("{value:#}"));
}

/// Rows under a head, each column as wide as its widest cell. Empty: a line that says so.
pub(crate) fn table(title: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return format!("{title}\n  none\n");
    }
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, name)| {
            let cells = rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|c| c.chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let mut text = format!("{title}\n");
    let head: Vec<String> = head.iter().map(|name| name.to_uppercase()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push_str("  ");
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A value as indented lines: `key: value`, lists as dashes. For answers whose shape may grow.
pub(crate) fn tree(value: &Value) -> String {
    let mut text = String::new();
    branch(value, 1, &mut text);
    text
}

fn branch(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let key = key.replace('_', " ");
                if is_leaf(value) {
                    text.push_str(&format!("{indent}{key}: {}\n", shown(value)));
                } else {
                    text.push_str(&format!("{indent}{key}:\n"));
                    branch(value, depth + 1, text);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                if is_leaf(item) {
                    text.push_str(&format!("{indent}- {}\n", shown(item)));
                } else {
                    let mut inner = String::new();
                    branch(item, depth + 1, &mut inner);
                    // The dash takes the place of the first line's indent.
                    let body = inner.strip_prefix(&format!("{indent}  ")).unwrap_or(&inner);
                    text.push_str(&format!("{indent}- {body}"));
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text.push_str(&format!("{indent}{}\n", leaf(value)));
        }
    }
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

/// A single value behind its key: an empty text is one that is not there.
fn shown(value: &Value) -> String {
    Some(leaf(value))
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "-".to_owned())
}

/// A single value as text; strings without quotes.
pub(crate) fn leaf(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        // Nobody reads more of a measurement.
        Value::Number(number) if number.is_f64() => {
            format!("{:.3}", number.as_f64().unwrap_or_default())
        }
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Object(fields) if fields.is_empty() => "none".to_owned(),
        Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["east".into(), "1".into()],
            vec!["w".into(), "22".into()],
        ];
        let text = table("Clusters", &["name", "n"], &rows);
        assert_eq!(text, "Clusters\n  NAME  N\n  east  1\n  w     22\n");
    }

    #[test]
    fn an_empty_table_says_so() {
        assert_eq!(table("Proxies", &["name"], &[]), "Proxies\n  none\n");
    }

    #[test]
    fn a_tree_reads_like_a_list() {
        let figures = json!({ "mean": 5.688_129_999_999_999, "count": 7, "why": "" });
        assert_eq!(tree(&figures), "  count: 7\n  mean: 5.688\n  why: -\n");
        let text = tree(&json!({ "ok": true, "steps": [{ "what": "a", "why": null }, "b"] }));
        assert_eq!(
            text,
            "  ok: yes\n  steps:\n    - what: a\n      why: -\n    - b\n"
        );
    }
}
