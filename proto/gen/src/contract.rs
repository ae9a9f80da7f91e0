//! Which numbers has the contract given away?
//!
//! One line for each: `isthmus.resource.v1.Endpoint 5 identity: optional string`. The lines of
//! every accepted version stay in `proto/tests/contract.golden`; a number that once meant something
//! means it for ever, or nobody (`reserved`). Lines are for people to read in a review.

use std::collections::BTreeSet;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

/// What a line says in place of a name when nobody may use the number again.
const RESERVED: &str = "reserved";

/// Every number of our files, one line each. Files of others (`google.protobuf`) are left out.
#[must_use]
pub fn lines(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for file in set
        .file
        .iter()
        .filter(|file| !file.package().starts_with("google."))
    {
        for message in &file.message_type {
            of_message(file.package(), message, &mut lines);
        }
        for one in &file.enum_type {
            of_enum(file.package(), one, &mut lines);
        }
        for service in &file.service {
            of_service(file.package(), service, &mut lines);
        }
    }
    lines
}

fn of_message(scope: &str, message: &DescriptorProto, lines: &mut BTreeSet<String>) {
    let scope = format!("{scope}.{}", message.name());
    for field in &message.field {
        lines.insert(format!(
            "{scope} {} {}: {}",
            field.number(),
            field.name(),
            kind(message, field)
        ));
    }
    for range in &message.reserved_range {
        // The end is exclusive here, and inclusive in enums.
        for number in range.start()..range.end() {
            lines.insert(format!("{scope} {number} {RESERVED}"));
        }
    }
    for nested in &message.nested_type {
        of_message(&scope, nested, lines);
    }
    for nested in &message.enum_type {
        of_enum(&scope, nested, lines);
    }
}

/// All that the bytes on the wire and the meaning of absence depend on.
fn kind(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated",
        Label::Required => "required",
        Label::Optional if field.proto3_optional() => "present",
        Label::Optional => "optional",
    };
    let oneof = field
        .oneof_index
        .filter(|_| !field.proto3_optional())
        .and_then(|at| message.oneof_decl.get(usize::try_from(at).ok()?))
        .map_or_else(String::new, |oneof| format!(" in {}", oneof.name()));
    let kind = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => {
            field.type_name().trim_start_matches('.').to_owned()
        }
        scalar => scalar
            .as_str_name()
            .trim_start_matches("TYPE_")
            .to_ascii_lowercase(),
    };
    format!("{label} {kind}{oneof}")
}

fn of_enum(scope: &str, one: &EnumDescriptorProto, lines: &mut BTreeSet<String>) {
    let scope = format!("{scope}.{}", one.name());
    for value in &one.value {
        lines.insert(format!("{scope} {} {}", value.number(), value.name()));
    }
    for range in &one.reserved_range {
        for number in range.start()..=range.end() {
            lines.insert(format!("{scope} {number} {RESERVED}"));
        }
    }
}

fn of_service(scope: &str, service: &ServiceDescriptorProto, lines: &mut BTreeSet<String>) {
    for method in &service.method {
        let stream = |is: bool| if is { "stream " } else { "" };
        lines.insert(format!(
            "{scope}.{} {}({}{}) -> {}{}",
            service.name(),
            method.name(),
            stream(method.client_streaming()),
            method.input_type().trim_start_matches('.'),
            stream(method.server_streaming()),
            method.output_type().trim_start_matches('.'),
        ));
    }
}

/// What `now` breaks of what was accepted in `golden`, as sentences. Empty: nothing.
#[must_use]
pub fn broken(golden: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    golden
        .iter()
        .filter(|line| !now.contains(*line))
        .filter_map(|line| {
            let number = number_of(line);
            let reserved = format!("{number} {RESERVED}");
            if now.contains(&reserved) {
                return None;
            }
            let instead = now.iter().find(|other| number_of(other) == number);
            Some(match instead {
                Some(other) => format!("`{line}` has become `{other}`: take a new number"),
                None => format!("`{line}` is gone: write `reserved` for its number and name"),
            })
        })
        .collect()
}

/// What `now` has and nobody has accepted yet.
#[must_use]
pub fn unaccepted(golden: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    now.difference(golden).cloned().collect()
}

/// The accepted lines in a file's text.
#[must_use]
pub fn read(text: &str) -> BTreeSet<String> {
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(ToOwned::to_owned).collect()
}

/// `package.Message 5`; for a method, the method's name in place of the number.
fn number_of(line: &str) -> &str {
    let end = line
        .char_indices()
        .filter(|(_, c)| matches!(c, ' ' | '('))
        .nth(1);
    end.and_then(|(at, _)| line.get(..at)).unwrap_or(line)
}
