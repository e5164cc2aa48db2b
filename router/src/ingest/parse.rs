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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Settings;
    use crate::schema::registry::Registry;

    fn parser(format: Format) -> Parser {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/proto");
        let settings = Settings { proto_roots: vec![root], descriptor_sets: Vec::new() };
        let registry = Registry::load(&settings).unwrap();
        let message = if format == Format::Line { LOG_LINE } else { "demo.v1.PlaybackEvent" };
        Parser::new(format, registry.message(message).unwrap())
    }

    fn to_json(parser: &Parser, message: &[u8]) -> String {
        let mut out = Vec::new();
        schema::json::to_json(parser.schema(), message, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_of_json_become_records() {
        let mut parser = parser(Format::Json);
        let json = r#"{"event_id":"e1","action":"ACTION_PLAY","position_ms":5}"#;
        let mut out = Vec::new();
        assert_eq!(parser.parse(json.as_bytes(), Place::default(), &mut out), Ok(Parsed::Record));
        assert_eq!(to_json(&parser, &out), json);
        assert_eq!(parser.check_protobuf(&out), Ok(()));
        for blank in [&b""[..], b" \t\r"] {
            out.clear();
            assert_eq!(parser.parse(blank, Place::default(), &mut out), Ok(Parsed::Blank));
            assert!(out.is_empty());
        }
    }

    #[test]
    fn refusals_have_a_class_and_a_place() {
        let mut parser = parser(Format::Json);
        let mut check = |input: &[u8], class: &str, reason: &str| {
            let mut out = b"kept".to_vec();
            let refused = parser.parse(input, Place::default(), &mut out).unwrap_err();
            assert_eq!((refused.class, refused.reason.as_str()), (class, reason));
            assert_eq!(out, b"kept");
        };
        check(b"{\"event_id\":", class::JSON, "event_id: expected a string, found the end at byte 12");
        check(b"Jan 1 00:00:00 host", class::JSON, "expected an object, found 'J' at byte 0");
        check(b"{\"event_id\":\"\xff\"}", class::UTF8, "text is not UTF-8 at byte 13");
        check(b"{\"event_id\":5}", class::SCHEMA, "event_id: expected a string, found a number at byte 12");
        check(b"[]", class::SCHEMA, "expected an object, found a list at byte 0");
    }

    #[test]
    fn lines_of_text_become_log_lines() {
        let mut parser = parser(Format::Line);
        let mut check = |input: &[u8], place: Place, expected: &str| {
            let mut out = Vec::new();
            assert_eq!(parser.parse(input, place, &mut out), Ok(Parsed::Record));
            assert_eq!(to_json(&parser, &out), expected);
        };
        let place = Place { path: "/var/log/x", position: 300 };
        check(b"a line", place, r#"{"line":"a line","path":"/var/log/x","position":300}"#);
        check(b"a\xffb", Place::default(), "{\"line\":\"a\u{fffd}b\"}");
        check(b"", Place::default(), "{}");
    }

    #[test]
    fn protobuf_is_checked_to_the_byte() {
        let parser = parser(Format::Json);
        let check = |message: &[u8], expected: &str| {
            let refused = parser.check_protobuf(message).unwrap_err();
            assert_eq!((refused.class, refused.reason.as_str()), (class::PROTOBUF, expected));
        };
        check(&[10, 2, b'a', 0xff], "event_id: string is not UTF-8 at byte 3");
        check(&[10, 9, 1], "length points past the end at byte 2");
        check(&[8, 1], "event_id: wire type is not that of the field at byte 0");
        check(&[18, 2, 8, 0x80], "time: number is cut short or over ten bytes at byte 3");
        // Fields that nobody knows travel along.
        assert_eq!(parser.check_protobuf(&[0xf8, 0x7f, 1]), Ok(()));
    }
}
