//! Where in a document stands what is wrong with it?
//!
//! What is read is checked after it was read, and by then nobody knows lines. A message begins with the
//! field that it is about (`spec.ports.port: …`) and often quotes the value: both are looked for in the text.
//! Block style is followed by its indentation; of a flow (`{a: b}`) the line is found.

use std::ops::Range;

/// Line and column in the text, both from 1, of what the message is about.
pub(super) fn of(text: &str, message: &str) -> Option<(u64, u64)> {
    let (path, rest) = message.split_once(": ")?;
    let is_path = |c: char| c.is_ascii_alphanumeric() || "._-/[]".contains(c);
    if path.is_empty() || !path.chars().all(is_path) {
        return None;
    }
    let lines: Vec<&str> = text.lines().collect();
    let (mut at, mut within) = (None, 0..lines.len());
    for part in path.split('.') {
        let (field, number) = part.split_once('[').unwrap_or((part, ""));
        let Some((line, column)) = find(&lines, within.clone(), field) else {
            break;
        };
        within = block(&lines, line, column);
        at = Some((line, column));
        let number = number.strip_suffix(']').and_then(|n| n.parse().ok());
        if let Some(item) = number.and_then(|number| item(&lines, &within, number)) {
            at = Some((item.start, indent(lines.get(item.start)?)));
            within = item;
        }
    }
    let (line, column) = at?;
    let quoted = rest.split('"').nth(1).filter(|value| !value.is_empty());
    let of_value = quoted.and_then(|value| {
        let mut candidates = line..within.end;
        candidates.find_map(|at| Some((at, lines.get(at)?.find(value)?)))
    });
    let (line, column) = of_value.unwrap_or((line, column));
    let from_one = |number: usize| u64::try_from(number.saturating_add(1)).ok();
    Some((from_one(line)?, from_one(column)?))
}

/// The first line in the range that begins with this key, or has it in a flow.
fn find(lines: &[&str], within: Range<usize>, key: &str) -> Option<(usize, usize)> {
    let begins = |line: &str| {
        let column = indent(line);
        let rest = line.get(column..)?.strip_prefix(key)?;
        rest.starts_with(':').then_some(column)
    };
    let flows = |line: &str| {
        let at = line.find(&format!("{key}:"))?;
        let before = line.get(..at)?.trim_end();
        before.ends_with(['{', ',']).then_some(at)
    };
    let look = |of: &dyn Fn(&str) -> Option<usize>| {
        within
            .clone()
            .find_map(|at| Some((at, of(lines.get(at)?)?)))
    };
    look(&begins).or_else(|| look(&flows))
}

/// The lines that belong to a key: its own, for what flows behind it, and what is further in.
fn block(lines: &[&str], line: usize, column: usize) -> Range<usize> {
    let ends = |text: &&str| {
        let spaces = text.len() - text.trim_start().len();
        let content = text.trim();
        let item = content.starts_with("- ") && spaces == column;
        !content.is_empty() && !content.starts_with('#') && spaces <= column && !item
    };
    let behind = lines.iter().skip(line.saturating_add(1));
    let length = behind.clone().position(ends);
    let length = length.unwrap_or_else(|| behind.count());
    line..line.saturating_add(1).saturating_add(length)
}

/// The lines of an item of the list in the block of a key, counted from 0; `None`: it is a flow, or not there.
fn item(lines: &[&str], within: &Range<usize>, number: usize) -> Option<Range<usize>> {
    let spaces = |line: &str| line.len() - line.trim_start().len();
    let all = within.clone().skip(1);
    let mark = |at: &usize| {
        lines
            .get(*at)
            .filter(|line| line.trim_start().starts_with('-'))
    };
    let outer = spaces(all.clone().find_map(|at| mark(&at))?);
    let mut items = all.filter(|at| mark(at).is_some_and(|line| spaces(line) == outer));
    let begin = items.nth(number)?;
    Some(begin..items.next().unwrap_or(within.end))
}

/// Where a line's first key is: behind spaces and the marks of lists.
fn indent(line: &str) -> usize {
    let rest = line.trim_start_matches([' ', '-']);
    line.len() - rest.len()
}

#[cfg(test)]
mod tests {
    use super::of;

    const TEXT: &str = "kind: Pod
metadata:
  name: a
spec:
  containers:
  - name: app
    ports:
    - {name: http, containerPort: 80}
    - {name: x, containerPort: 0}
  tolerations:
    - key: b
status:
  podIP: 10.0.0.1
  podIPs:
  # both
  - ip: 10.0.0.1
  - ip: 10.0.0.300
flow: {deep: {name: 7}}
";

    #[test]
    fn a_field_is_found_by_its_path_and_a_value_by_its_text() {
        let cases = [
            ("metadata.name: no", Some((3, 3))),
            ("spec.containers.name: no", Some((6, 5))),
            ("spec.containers[0].ports: port 0", Some((7, 5))),
            (
                "spec.containers[0].ports[1].containerPort: 0",
                Some((9, 17)),
            ),
            ("status.podIPs[1].ip: no", Some((17, 5))),
            ("status.podIPs[7].ip: no", Some((16, 5))),
            ("spec.tolerations.key: no", Some((11, 7))),
            ("status.podIPs: \"10.0.0.300\" is no address", Some((17, 9))),
            ("status.podIP: \"elsewhere\" is no address", Some((13, 3))),
            ("flow.deep.name: no", Some((18, 15))),
            // As far as it is there.
            ("spec.none.at.all: no", Some((4, 1))),
            ("none: no", None),
            ("no path at all", None),
            ("two words: no", None),
        ];
        for (message, place) in cases {
            assert_eq!(of(TEXT, message), place, "{message}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "[a-c:{} \\n-]{0,40}", message in "[a-c.\\[\\]]{1,6}: \"?[a-c]{0,3}\"?") {
            let found = of(&text, &message);
            let lines = u64::try_from(text.lines().count()).unwrap();
            proptest::prop_assert!(found.is_none_or(|(line, _)| line <= lines));
        }
    }
}
