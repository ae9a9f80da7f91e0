//! Where does one document of a file end, and the next one begin?

use super::{Body, Document};

/// Cuts a file at its document markers (YAML 1.2 §9.1.2: at the beginning of a line, whatever is
/// around them), so that each document keeps its line number.
pub(super) fn of(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 1, 0);
    for (line, number) in text.split_inclusive('\n').zip(1u64..) {
        // Directives (§6.8) are about the document that follows them.
        let begins = is_marker(line, "---") && at > start;
        if begins && !text.get(start..at).is_some_and(are_directives) {
            push(&mut found, text.get(start..at), start_line);
            (start, start_line) = (at, number);
        }
        at += line.len();
        if is_marker(line, "...") {
            push(&mut found, text.get(start..at), start_line);
            (start, start_line) = (at, number + 1);
        }
    }
    push(&mut found, text.get(start..), start_line);
    found
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Is there a directive, and nothing but such and comments?
fn are_directives(text: &str) -> bool {
    let says_nothing = |line: &str| line.trim().is_empty() || line.starts_with(['%', '#']);
    text.lines().all(says_nothing) && text.lines().any(|line| line.starts_with('%'))
}

fn push<'a>(found: &mut Vec<Document<'a>>, text: Option<&'a str>, line: u64) {
    let says = |line: &str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with('#') && line != "---" && line != "..."
    };
    if let Some(text) = text.filter(|text| text.lines().any(says)) {
        found.push(Document {
            body: Body::Text(text),
            line,
        });
    }
}
