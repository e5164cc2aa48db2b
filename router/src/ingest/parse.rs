//! Turns input into records: JSON or text becomes a message of the stream's schema; Protobuf is checked against it.
//!
//! One input (a line, a frame of a request) gives one record, nothing, or a refusal with the reason. A refusal is for
//! that input only: the caller puts it among the dead letters and goes on. No line limit is kept here; sources have one.

use std::sync::Arc;

use crate::record::push_varint;
use crate::schema::{self, Schema, wire};

/// How a source's bytes become records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, by the stream's schema.
    Json,
    /// One line of text per record: `sluice.v1.LogLine`.
    Line,
}

/// Full name of the message that lines of text become.
pub const LOG_LINE: &str = "sluice.v1.LogLine";

/// Where an input was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// File; empty where it came another way.
    pub path: &'a str,
    /// Of the input's first byte in that file.
    pub position: u64,
}

/// What an input gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// One record was appended.
    Record,
    /// A line of JSON input that holds nothing but white space: no record, and no mistake.
    Blank,
}

/// Why an input is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refused {
    /// For people: the field and the byte.
    pub reason: String,
    /// For metrics: one of [`class`].
    pub class: &'static str,
}

/// Kinds of refusal.
pub mod class {
    /// Not JSON, or cut short.
    pub const JSON: &str = "json";
    pub const UTF8: &str = "utf8";
    /// It does not fit the stream's schema.
    pub const SCHEMA: &str = "schema";
    /// It is no Protobuf message of the stream's schema.
    pub const PROTOBUF: &str = "protobuf";
    /// Longer than the source allows; given by sources.
    pub const LONG: &str = "long";
}

/// Parser of one stream.
#[derive(Clone, Debug)]
pub struct Parser {
    format: Format,
    schema: Arc<Schema>,
}

impl Parser {
    /// `schema` is that of [`LOG_LINE`] for `Format::Line`.
    pub fn new(format: Format, schema: Arc<Schema>) -> Parser {
        Parser { format, schema }
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Appends the message of one line (without its line break) to `out`. After a refusal `out` is as it was.
    pub fn parse(&mut self, input: &[u8], place: Place, out: &mut Vec<u8>) -> Result<Parsed, Refused> {
        match self.format {
            Format::Json if input.trim_ascii().is_empty() => Ok(Parsed::Blank),
            Format::Json => {
                let refused = |error| refused_json(input, &error);
                schema::json::from_json(&self.schema, input, out).map_err(refused)?;
                Ok(Parsed::Record)
            }
            Format::Line => {
                push_log_line(input, place, out);
                Ok(Parsed::Record)
            }
        }
    }

    /// Checks a message that came as Protobuf. It is taken as it is, unknown fields included.
    pub fn check_protobuf(&self, message: &[u8]) -> Result<(), Refused> {
        let refused = |error: schema::Error| Refused { reason: error.to_string(), class: class::PROTOBUF };
        schema::check(&self.schema, message).map_err(refused)
    }
}

/// Tells bad text from text that is good JSON and another shape than the schema's. Costs only where something is wrong.
fn refused_json(input: &[u8], error: &schema::Error) -> Refused {
    let class = match std::str::from_utf8(input) {
        Err(_) => class::UTF8,
        Ok(text) if serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok() => class::SCHEMA,
        Ok(_) => class::JSON,
    };
    Refused { reason: error.to_string(), class }
}

/// Appends a `sluice.v1.LogLine`. Its numbers are as fixed as any Protobuf message's.
fn push_log_line(input: &[u8], place: Place, out: &mut Vec<u8>) {
    // Borrowed where the line is UTF-8.
    let line = String::from_utf8_lossy(input);
    for (number, text) in [(1, line.as_ref()), (2, place.path)] {
        if !text.is_empty() {
            wire::push_len(out, number, text.as_bytes());
        }
    }
    if place.position != 0 {
        wire::push_tag(out, 3, wire::VARINT);
        push_varint(out, place.position);
    }
}
