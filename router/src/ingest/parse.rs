//! Turns input into records: JSON or text becomes a message of the stream's schema; Protobuf is checked against it.

use std::sync::Arc;

use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};

use crate::schema::{self, Schema};

/// How a source's bytes become records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, by the stream's schema.
    Json,
    /// One line of text per record: `sluice.v1.LogLine`.
    Line,
}

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
    /// For people.
    pub reason: String,
    /// For metrics.
    pub class: &'static str,
}

/// Parser of one stream.
#[derive(Clone, Debug)]
pub struct Parser {
    format: Format,
    schema: Arc<Schema>,
}

impl Parser {
    pub fn new(format: Format, schema: Arc<Schema>) -> Parser {
        Parser { format, schema }
    }

    /// Appends the message of one line (without its line break) to `out`. After a refusal `out` is as it was.
    pub fn parse(&mut self, input: &[u8], place: Place<'_>, out: &mut Vec<u8>) -> Result<Parsed, Refused> {
        let refused = |class| move |reason: String| Refused { reason, class };
        match self.format {
            Format::Json if input.trim_ascii().is_empty() => return Ok(Parsed::Blank),
            Format::Json => schema::json::from_json(&self.schema, input, out)
                .map_err(|error| error.to_string())
                .map_err(refused("json"))?,
            Format::Line => {
                let mut line = DynamicMessage::new(self.schema.descriptor.clone());
                let text = String::from_utf8_lossy(input).into_owned();
                for (name, value) in [
                    ("line", Value::String(text)),
                    ("path", Value::String(place.path.to_owned())),
                    ("position", Value::U64(place.position)),
                ] {
                    line.try_set_field_by_name(name, value)
                        .map_err(|error| error.to_string())
                        .map_err(refused("schema"))?;
                }
                line.encode(out).map_err(|error| error.to_string()).map_err(refused("schema"))?;
            }
        }
        Ok(Parsed::Record)
    }

    /// Checks a message that came as Protobuf. It is taken as it is, unknown fields included.
    pub fn check_protobuf(&self, message: &[u8]) -> Result<(), Refused> {
        DynamicMessage::decode(self.schema.descriptor.clone(), message)
            .map(drop)
            .map_err(|error| Refused { reason: error.to_string(), class: "protobuf" })
    }
}
