//! JSON <-> Protobuf by schema: the proto3 JSON mapping, straight from bytes to bytes.
//!
//! [`from_json`] reads JSON once and appends the record's wire form; [`to_json`] walks the wire form and appends JSON.
//! Both go by the schema's plan; no message is built in between.
//!
//! From JSON: keys are JSON names or proto names, unknown ones are passed over; `null` is absence; integers may be
//! strings, and numbers like `1e3` or `2.0` where they are whole; enums come as names or numbers; bytes as base64 or
//! base64url, padded or not; lists may not hold `null`. Timestamps are RFC 3339 text, or numbers where the field's
//! `epoch` option gives their unit. Refused: a key that comes twice (of a map the last entry counts, as on the wire),
//! two members of a oneof, an enum name the schema does not know, numbers out of range, invalid UTF-8, lone surrogates,
//! more than [`wire::MAX_DEPTH`](super::wire::MAX_DEPTH) levels of messages. An error names the field and the byte.
//!
//! To JSON: proto names; default values are left out where the schema does not tell them from absence; 64-bit integers
//! are numbers; NaN and infinities are strings; enum numbers without a name stay numbers; unknown fields are left out.
//!
//! Where this differs from prost-reflect's DynamicMessage, the oracle of the tests: that drops unknown enum names, lets
//! the last of two keys win, rounds large integers written as fractions, and takes -0.0 for absence.

#[cfg(test)]
mod generate;
mod known;
mod lexer;
mod merge;
mod number;
#[cfg(test)]
mod oracle;
mod read;
#[cfg(test)]
mod tests;
mod write;

use super::{Error, Schema};

pub(super) use write::push_string;

/// Appends the wire form of a JSON object to `out`. Unknown keys are dropped. On error `out` is as it was.
pub fn from_json(schema: &Schema, json: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    read::read(schema.plan(), json, out).map_err(|fault| {
        out.truncate(start);
        Error::from(fault)
    })
}

/// Appends a record as one JSON object (proto field names, default values left out) to `out`. On error `out` is as it
/// was.
pub fn to_json(schema: &Schema, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let start = out.len();
    write::write(schema.plan(), message, out).map_err(|fault| {
        out.truncate(start);
        Error::from(fault)
    })
}
