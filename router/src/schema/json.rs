//! JSON <-> Protobuf by schema.
use prost::Message as _;
use prost_reflect::DynamicMessage;

use super::{Error, Schema};

/// Appends the wire form of a JSON object to `out`. Unknown keys are dropped.
pub fn from_json(schema: &Schema, json: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let options = prost_reflect::DeserializeOptions::new().deny_unknown_fields(false);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let refused = |error: serde_json::Error| Error::Record { path: String::new(), reason: error.to_string() };
    let message =
        DynamicMessage::deserialize_with_options(schema.descriptor.clone(), &mut reader, &options).map_err(refused)?;
    reader.end().map_err(refused)?;
    message.encode(out).map_err(|error| Error::Record { path: String::new(), reason: error.to_string() })
}

/// Appends a record as one JSON object (proto field names, default values left out) to `out`.
pub fn to_json(schema: &Schema, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let refused = |reason: String| Error::Record { path: String::new(), reason };
    let message = DynamicMessage::decode(schema.descriptor.clone(), message).map_err(|e| refused(e.to_string()))?;
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    let mut writer = serde_json::Serializer::new(out);
    message.serialize_with_options(&mut writer, &options).map_err(|e| refused(e.to_string()))
}
