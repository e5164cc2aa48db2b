//! A dead letter as JSON.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::record::DeadLetter;

/// Who refused it, why and when; with `content` also what it was: as `text` where it is UTF-8, else as `base64`.
pub(super) fn to_json(letter: &DeadLetter, content: bool) -> Value {
    let received_at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(letter.received_nanos))
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok());
    let mut value = json!({
        "stream": &*letter.stream,
        "stage": &*letter.stage,
        "reason": letter.reason,
        "received_at": received_at,
        "length": letter.bytes.len(),
    });
    if let Some(id) = letter.id {
        value["id"] = json!(id.to_string());
    }
    if content {
        match std::str::from_utf8(&letter.bytes) {
            // What did not parse is text; a message is bytes, even where they happen to be UTF-8.
            Ok(text) if letter.id.is_none() => value["text"] = json!(text),
            _ => {
                use base64::Engine as _;
                value["base64"] = json!(base64::engine::general_purpose::STANDARD.encode(&letter.bytes));
            }
        }
    }
    value
}
