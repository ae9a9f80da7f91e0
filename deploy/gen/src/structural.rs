//! How does a JSON schema become a structural one?
//!
//! Kubernetes takes a part of OpenAPI v3: a type for everything, no references, no unions. What
//! can't be said is left out, and [`crate::rules`] says it otherwise.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::rules;

/// How often a type may lie in itself: the decoder's own limit (`except` in `except`).
const NESTED_MAX: usize = 4;

/// The structural schema of a kind's spec.
///
/// # Errors
/// The schema has something that is not foreseen here, or a rule leads nowhere.
pub(crate) fn of(kind: &str, root: &Value) -> Result<Value> {
    let mut types = root
        .get("$defs")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let mut top = root.clone();
    if let Some(fields) = top.as_object_mut() {
        fields.remove("$defs");
        fields.remove("$schema");
    }
    types.insert(rules::TOP.to_owned(), top);
    for schema in types.values_mut() {
        *schema = plain(schema)?;
    }
    for (place, rule) in rules::of(kind) {
        add(&mut types, place, &rule).with_context(|| format!("the rule for {place}"))?;
    }
    let top = json!({ "$ref": format!("#/$defs/{}", rules::TOP) });
    Ok(resolve(&top, &types, &[])?.unwrap_or(Value::Null))
}

/// Adds to the schema of `Type` or of `Type.field`; `[]` behind it means its items.
fn add(types: &mut Map<String, Value>, place: &str, rule: &Value) -> Result<()> {
    let (name, field) = place.split_once('.').unwrap_or((place, ""));
    let mut schema = types.get_mut(name).context("there is no such type")?;
    if !field.is_empty() {
        let (field, items) = match field.strip_suffix("[]") {
            Some(field) => (field, true),
            None => (field, false),
        };
        schema = schema
            .pointer_mut(&format!("/properties/{field}"))
            .context("there is no such field")?;
        if items {
            schema = schema.get_mut("items").context("it has no items")?;
        }
    }
    let (Value::Object(schema), Value::Object(rule)) = (schema, rule) else {
        bail!("it is no object");
    };
    for (key, value) in rule {
        schema.insert(key.clone(), value.clone());
    }
    Ok(())
}

/// Without what Kubernetes does not have.
fn plain(schema: &Value) -> Result<Value> {
    let Value::Object(fields) = schema else {
        // `true`: anything.
        return Ok(json!({ "x-kubernetes-preserve-unknown-fields": true }));
    };
    let mut out = Map::new();
    if let Some(options) = fields.get("anyOf").and_then(Value::as_array) {
        let some = options.iter().filter(|option| !is_null(option));
        out = match some.collect::<Vec<_>>()[..] {
            [only] => object(plain(only)?)?,
            // A union: what it may be is a rule's business.
            _ => object(json!({ "x-kubernetes-preserve-unknown-fields": true }))?,
        };
    }
    if let Some(options) = fields.get("oneOf").and_then(Value::as_array) {
        let names: Option<Vec<&Value>> = options.iter().map(|option| option.get("const")).collect();
        let names = names.context("oneOf of something else than names")?;
        out.insert("type".to_owned(), "string".into());
        out.insert("enum".to_owned(), json!(names));
        out.insert("description".to_owned(), told(options).into());
    }
    for (key, value) in fields {
        match key.as_str() {
            "anyOf" | "oneOf" | "title" | "default" | "format" => {}
            // Structural schemas prune what is not named.
            "additionalProperties" if *value == Value::Bool(false) => {}
            "additionalProperties" | "items" => {
                out.insert(key.clone(), plain(value)?);
            }
            "type" => {
                out.insert(key.clone(), single(value)?);
            }
            "properties" => {
                let mut properties = Map::new();
                for (name, schema) in value.as_object().into_iter().flatten() {
                    properties.insert(name.clone(), plain(schema)?);
                }
                out.insert(key.clone(), Value::Object(properties));
            }
            "description" => {
                // One line: a doc comment's breaks mean nothing.
                let words: Vec<&str> = value
                    .as_str()
                    .unwrap_or_default()
                    .split_whitespace()
                    .collect();
                out.insert(key.clone(), words.join(" ").into());
            }
            "$ref" | "required" | "enum" | "minimum" | "maximum" | "pattern" => {
                out.insert(key.clone(), value.clone());
            }
            other => bail!("{other} is not foreseen"),
        }
    }
    match fields.get("format").and_then(Value::as_str) {
        Some("uint16") => {
            out.insert("maximum".to_owned(), u16::MAX.into());
            out.insert("format".to_owned(), "int32".into());
        }
        Some("uint32") => {
            out.insert("maximum".to_owned(), u32::MAX.into());
            out.insert("format".to_owned(), "int64".into());
        }
        Some(other) => bail!("format {other} is not foreseen"),
        None => {}
    }
    Ok(Value::Object(out))
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

fn object(value: Value) -> Result<Map<String, Value>> {
    match value {
        Value::Object(map) => Ok(map),
        other => bail!("{other} is no schema"),
    }
}

/// `["string", "null"]` is `string`: a field that is null is one that is not written.
fn single(value: &Value) -> Result<Value> {
    let Value::Array(all) = value else {
        return Ok(value.clone());
    };
    let some: Vec<&Value> = all.iter().filter(|name| *name != "null").collect();
    ensure!(some.len() == 1, "a union of types: {value}");
    Ok(some.first().map_or(Value::Null, |name| (*name).clone()))
}

/// What each name of an enumeration means.
fn told(options: &[Value]) -> String {
    let one = |option: &Value| {
        let name = option.get("const")?.as_str()?;
        let means = option.get("description").and_then(Value::as_str)?;
        let words: Vec<&str> = means.split_whitespace().collect();
        Some(format!("{name}: {}", words.join(" ")))
    };
    options.iter().filter_map(one).collect::<Vec<_>>().join(" ")
}

/// With every reference replaced by what it refers to. `None`: too deep, it is left out.
fn resolve(schema: &Value, types: &Map<String, Value>, inside: &[String]) -> Result<Option<Value>> {
    let Value::Object(fields) = schema else {
        return Ok(Some(schema.clone()));
    };
    if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
        let name = target.trim_start_matches("#/$defs/").to_owned();
        let schema = types
            .get(&name)
            .with_context(|| format!("no type {name}"))?;
        if inside.iter().filter(|outer| **outer == name).count() >= NESTED_MAX {
            return Ok(None);
        }
        let inside: Vec<String> = inside.iter().cloned().chain([name]).collect();
        let Some(Value::Object(mut found)) = resolve(schema, types, &inside)? else {
            return Ok(None);
        };
        // What the field says of itself stands before what its type says.
        for (key, value) in fields.iter().filter(|(key, _)| *key != "$ref") {
            let before = found
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
            let value = match value.as_str() {
                Some(text) if key == "description" && !before.is_empty() => {
                    format!("{text} {before}").into()
                }
                _ => value.clone(),
            };
            found.insert(key.clone(), value);
        }
        return Ok(Some(Value::Object(found)));
    }
    let mut out = Map::new();
    for (key, value) in fields {
        let value = match key.as_str() {
            "properties" => {
                let mut properties = Map::new();
                for (name, schema) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = resolve(schema, types, inside)? {
                        properties.insert(name.clone(), schema);
                    }
                }
                Value::Object(properties)
            }
            "items" | "additionalProperties" => match resolve(value, types, inside)? {
                Some(schema) => schema,
                None => return Ok(None),
            },
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    Ok(Some(Value::Object(out)))
}
