//! What is in a page, and in a line of a watch?
//!
//! Objects stay as they came until it is known whether they are news.

use std::borrow::Cow;

use isthmus_control_plane_core::watch::{Event, Meta, Page};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Longest name, in bytes. Kubernetes has 253.
const NAME_BYTES_MAX: usize = 253;

/// Most objects of a page, whatever was asked for.
const ITEMS_MAX: usize = 10_000;

/// An object as it came.
pub(super) type Raw<'a> = &'a RawValue;

#[derive(Deserialize)]
struct RawPage<'a> {
    metadata: ListMeta<'a>,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta<'a> {
    #[serde(borrow, default)]
    resource_version: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    r#continue: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct RawObject<'a> {
    #[serde(borrow)]
    metadata: RawMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta<'a> {
    #[serde(borrow, default)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    resource_version: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: Option<u16>,
    #[serde(default)]
    message: Option<String>,
}

/// A page, and how many of its objects have no name and can't be told apart.
pub(super) fn page(bytes: &[u8]) -> Result<(Page<Raw<'_>>, usize), String> {
    let raw: RawPage<'_> = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let all = raw.items.unwrap_or_default();
    let count = all.len();
    if count > ITEMS_MAX {
        return Err(format!("a page of {count} objects"));
    }
    let items: Vec<_> = all
        .into_iter()
        .filter_map(|item| Some((meta(item).ok()?, item)))
        .collect();
    let nameless = count.saturating_sub(items.len());
    let page = Page {
        items,
        resource_version: raw
            .metadata
            .resource_version
            .unwrap_or_default()
            .into_owned(),
        token: raw.metadata.r#continue.map(Cow::into_owned),
    };
    Ok((page, nameless))
}

/// One line of a watch.
pub(super) fn event(line: &[u8]) -> Result<Event<Raw<'_>>, String> {
    let raw: Line<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    match raw.r#type.as_ref() {
        "ADDED" | "MODIFIED" => Ok(Event::Put(meta(raw.object)?, raw.object)),
        "DELETED" => Ok(Event::Deleted(meta(raw.object)?)),
        "BOOKMARK" => {
            let object: RawObject<'_> =
                serde_json::from_str(raw.object.get()).map_err(|error| error.to_string())?;
            let version = object.metadata.resource_version.unwrap_or_default();
            Ok(Event::Bookmark(version.into_owned()))
        }
        "ERROR" => {
            let status: Status =
                serde_json::from_str(raw.object.get()).map_err(|error| error.to_string())?;
            Ok(Event::Error {
                code: status.code.unwrap_or(500),
                message: status.message.unwrap_or_default(),
            })
        }
        other => Err(format!("an event of the type {:?}", short(other))),
    }
}

pub(super) fn meta(item: Raw<'_>) -> Result<Meta, String> {
    let object: RawObject<'_> =
        serde_json::from_str(item.get()).map_err(|error| error.to_string())?;
    let raw = object.metadata;
    let text = |text: Option<Cow<'_, str>>| text.unwrap_or_default().into_owned();
    let meta = Meta {
        namespace: raw
            .namespace
            .map(Cow::into_owned)
            .filter(|text| !text.is_empty()),
        name: text(raw.name),
        uid: text(raw.uid),
        resource_version: text(raw.resource_version),
    };
    let texts = [Some(&meta.name), Some(&meta.uid), meta.namespace.as_ref()];
    let long = texts
        .into_iter()
        .flatten()
        .any(|text| text.len() > NAME_BYTES_MAX);
    if meta.name.is_empty() || long {
        return Err("an object without a name".to_owned());
    }
    Ok(meta)
}

fn short(text: &str) -> String {
    text.chars().take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_its_objects_as_they_came() {
        let json = br#"{"kind":"PodList","metadata":{"resourceVersion":"7","continue":"x\"y"},
            "items":[{"metadata":{"name":"a","namespace":"shop","uid":"u","resourceVersion":"3"},"spec":{ "x":1}},
                     {"metadata":{"namespace":"shop"}}, 5]}"#;
        let (page, nameless) = page(json).unwrap();
        assert_eq!(
            (page.resource_version.as_str(), page.token.as_deref()),
            ("7", Some("x\"y"))
        );
        assert_eq!((page.items.len(), nameless), (1, 2));
        let (meta, raw) = &page.items[0];
        assert_eq!(
            (meta.name.as_str(), meta.namespace.as_deref()),
            ("a", Some("shop"))
        );
        assert!(raw.get().contains("{ \"x\":1}"));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"metadata":{"resourceVersion":"7"},"items":[{]}"#,
        ] {
            assert!(super::page(bad.as_bytes()).is_err(), "{bad}");
        }
        let none = br#"{"metadata":{"resourceVersion":"7","continue":""},"items":null}"#;
        assert_eq!(super::page(none).unwrap().0.items.len(), 0);
    }

    #[test]
    fn every_type_of_event_is_read() {
        let put = br#"{"type":"ADDED","object":{"metadata":{"name":"a","resourceVersion":"3"}}}"#;
        assert!(matches!(event(put), Ok(Event::Put(meta, _)) if meta.name == "a"));
        let bookmark = br#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}"#;
        assert!(matches!(event(bookmark), Ok(Event::Bookmark(version)) if version == "9"));
        let error = br#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"old"}}"#;
        assert!(matches!(event(error), Ok(Event::Error { code: 410, .. })));
        let deep = format!(
            r#"{{"type":"MODIFIED","object":{{"metadata":{{"name":"a"}},"spec":{}{}}}}}"#,
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        // How deep it is matters only to whoever looks at that part.
        assert!(matches!(event(deep.as_bytes()), Ok(Event::Put(..))));
        for bad in [
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"}"#,
            r#"{"type":"ADDED","object":{"metadata":{}}}"#,
            r#"{"type":"MOVED","object":{"metadata":{"name":"a"}}}"#,
            r#"{"type":"ADDED"}"#,
        ] {
            assert!(event(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
