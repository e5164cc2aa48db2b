//! Messages that have no columns of their own, as JSON text.

use base64::Engine as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};

use super::Error;

/// A message as JSON. What JSON cannot say (an Any of a type nobody declared) is kept whole in base64.
pub(super) fn text(descriptor: &MessageDescriptor, bytes: &[u8]) -> Result<String, Error> {
    let message = DynamicMessage::decode(descriptor.clone(), bytes)
        .map_err(|error| Error::Record { path: String::new(), reason: error.to_string() })?;
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    let mut text = Vec::new();
    match message.serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options) {
        Ok(()) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(_) => {
            let bytes = base64::engine::general_purpose::STANDARD.encode(bytes);
            Ok(serde_json::json!({ "@message": descriptor.full_name(), "@bytes": bytes }).to_string())
        }
    }
}
