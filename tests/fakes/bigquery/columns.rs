//! Which columns a table can have, which writer schemas fit it, and rows read by them.

use prost_reflect::{DynamicMessage, MessageDescriptor};
use prost_types::field_descriptor_proto::{Label, Type};
use serde_json::Value;

pub(super) fn decode_row(row: &MessageDescriptor, bytes: &[u8]) -> Result<(String, Value), String> {
    let message = DynamicMessage::decode(row.clone(), bytes).map_err(|error| error.to_string())?;
    if message.unknown_fields().count() > 0 {
        return Err("row has fields its descriptor does not".into());
    }
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    let value =
        message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| error.to_string())?;
    let id = value["_id"].as_str().ok_or("row has no _id")?.to_owned();
    Ok((id, value))
}

/// Whether a table can have these columns.
pub(super) fn check_columns(columns: &[Value]) -> Result<(), String> {
    let mut names = std::collections::HashSet::new();
    if columns.is_empty() {
        return Err("a table or record needs columns".into());
    }
    for column in columns {
        let name = column["name"].as_str().unwrap_or_default();
        let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() || !is_plain || !names.insert(name.to_ascii_lowercase()) {
            return Err(format!("column name {name:?}"));
        }
        if column["type"] == "RECORD" {
            check_columns(column["fields"].as_array().map_or(&[], Vec::as_slice))?;
        }
    }
    Ok(())
}

/// Whether every field of the writer's message has its column, of a type that takes it.
pub(super) fn check_writer(message: &MessageDescriptor, columns: &[Value]) -> Result<(), String> {
    for field in message.fields() {
        let column = columns
            .iter()
            .find(|column| column["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(field.name())));
        let Some(column) = column else { return Err(format!("extra proto field {}", field.full_name())) };
        let proto = field.field_descriptor_proto();
        if proto.oneof_index.is_some() || proto.proto3_optional.is_some() {
            return Err(format!("field {} is in a oneof", field.full_name()));
        }
        let is_repeated = proto.label() == Label::Repeated;
        let takes: &[Type] = match column["type"].as_str().unwrap_or_default() {
            "BOOLEAN" => &[Type::Bool, Type::Int32, Type::Int64, Type::Uint32, Type::Uint64],
            "BYTES" => &[Type::Bytes, Type::String],
            "FLOAT" => &[Type::Double, Type::Float],
            "INTEGER" => &[Type::Int32, Type::Int64, Type::Uint32],
            "JSON" | "STRING" => &[Type::String],
            "NUMERIC" => &[Type::Int32, Type::Int64, Type::Uint32, Type::String],
            "TIMESTAMP" => &[Type::Int64],
            "RECORD" => &[Type::Message],
            other => return Err(format!("column type {other:?}")),
        };
        if is_repeated != (column["mode"] == "REPEATED") || !takes.contains(&proto.r#type()) {
            return Err(format!("field {} does not fit column {column}", field.full_name()));
        }
        if let prost_reflect::Kind::Message(inner) = field.kind() {
            check_writer(&inner, column["fields"].as_array().map_or(&[], Vec::as_slice))?;
        }
    }
    Ok(())
}
