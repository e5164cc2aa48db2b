//! Wire -> row: a record's bytes walked once with a plan, field by field.

use std::collections::HashMap;

use prost_reflect::MessageDescriptor;

use super::wire::{self, Field, Fields, Value};
use super::{Error, json};
use crate::record::{push_varint, read_varint};

/// Seconds of 0001-01-01 and of the last second of 9999: the range of TIMESTAMP, and of the Protobuf type.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// Seconds of a Duration, either way.
const DURATION_SECONDS_MAX: i64 = 315_576_000_000;

/// How a message's fields become a row's.
#[derive(Debug, Default)]
pub(super) struct MessagePlan {
    /// Sorted by number.
    pub(super) fields: Vec<FieldPlan>,
    /// Map entries: a key or value that is left out was the default, not absent.
    pub(super) has_defaults: bool,
}

#[derive(Debug)]
pub(super) struct FieldPlan {
    pub(super) number: u32,
    /// For errors.
    pub(super) name: String,
    pub(super) is_repeated: bool,
    /// Wire type of one value.
    pub(super) wire: u8,
    pub(super) how: How,
}

/// What happens to a value.
#[derive(Debug)]
pub(super) enum How {
    Copy,
    /// Copied once it is known to be UTF-8.
    Text,
    /// sint32, sint64.
    Zigzag,
    /// fixed32, sfixed32, sfixed64.
    Fixed {
        is_signed: bool,
    },
    /// uint64, fixed64.
    Decimal,
    Enum(HashMap<i32, String>),
    Record(MessagePlan),
    Timestamp,
    Duration,
    /// A wrapper; the plan of its field `value`, with the number of the field that holds the wrapper.
    Wrapped(Box<FieldPlan>),
    Json(MessageDescriptor),
}

impl MessagePlan {
    /// Appends the row of a message.
    pub(super) fn push(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut seen = 0u8;
        let mut fields = Fields::new(message);
        while let Some(Field { number, value }) = fields.next()? {
            // Unknown fields have no column yet.
            let Ok(index) = self.fields.binary_search_by_key(&number, |field| field.number) else { continue };
            seen |= 1 << index.min(7);
            let field = &self.fields[index];
            field.push(value, out).map_err(|error| field.place(error))?;
        }
        if self.has_defaults {
            for (_, field) in self.fields.iter().enumerate().filter(|(index, _)| seen & (1 << index) == 0) {
                field.push_default(out)?;
            }
        }
        Ok(())
    }
}

impl FieldPlan {
    /// Appends one value, or several that are packed.
    fn push(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        match value {
            Value::Bytes(packed) if self.wire != wire::BYTES && self.is_repeated => self.push_packed(packed, out),
            value => self.push_one(value, out),
        }
    }

    fn push_packed(&self, packed: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut at = 0;
        while at < packed.len() {
            let torn = || refused(format!("packed values end inside of one, at byte {at} of {}", packed.len()));
            let rest = &packed[at..];
            let (value, end) = match self.wire {
                wire::FIXED64 => (Value::Fixed64(*rest.first_chunk().ok_or_else(torn)?), at + 8),
                wire::FIXED32 => (Value::Fixed32(*rest.first_chunk().ok_or_else(torn)?), at + 4),
                _ => {
                    let (value, end) = read_varint(packed, at).ok_or_else(torn)?;
                    (Value::Varint(value), end)
                }
            };
            self.push_one(value, out)?;
            at = end;
        }
        Ok(())
    }

    fn push_one(&self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Error> {
        let number = self.number;
        match (&self.how, value) {
            (How::Copy, value) if self.fits(value) => push_value(out, number, value),
            (How::Text, Value::Bytes(text)) => {
                std::str::from_utf8(text).map_err(|error| refused(error.to_string()))?;
                wire::push_bytes(out, number, text);
            }
            (How::Zigzag, Value::Varint(value)) => {
                push_integer(out, number, (value >> 1) as i64 ^ -((value & 1) as i64))
            }
            (How::Fixed { is_signed: true }, Value::Fixed32(bytes)) => {
                push_integer(out, number, i64::from(i32::from_le_bytes(bytes)));
            }
            (How::Fixed { is_signed: false }, Value::Fixed32(bytes)) => {
                push_integer(out, number, i64::from(u32::from_le_bytes(bytes)));
            }
            (How::Fixed { .. }, Value::Fixed64(bytes)) => push_integer(out, number, i64::from_le_bytes(bytes)),
            (How::Decimal, Value::Varint(value)) => wire::push_bytes(out, number, value.to_string().as_bytes()),
            (How::Decimal, Value::Fixed64(bytes)) => {
                wire::push_bytes(out, number, u64::from_le_bytes(bytes).to_string().as_bytes());
            }
            (How::Enum(names), Value::Varint(value)) => match names.get(&(value as i32)) {
                Some(name) => wire::push_bytes(out, number, name.as_bytes()),
                None => wire::push_bytes(out, number, (value as i32).to_string().as_bytes()),
            },
            (how, Value::Bytes(message) | Value::Group(message)) => return self.push_nested(how, message, out),
            _ => return Err(refused("has the wire type of another type of field".into())),
        }
        Ok(())
    }

    fn push_nested(&self, how: &How, message: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        match how {
            How::Record(plan) => wire::push_message(out, self.number, |out| plan.push(message, out))?,
            How::Timestamp => push_integer(out, self.number, timestamp_micros(message)?),
            How::Duration => wire::push_bytes(out, self.number, duration_seconds(message)?.as_bytes()),
            How::Json(descriptor) => wire::push_bytes(out, self.number, json::text(descriptor, message)?.as_bytes()),
            How::Wrapped(inner) => {
                let mut last = None;
                let mut fields = Fields::new(message);
                while let Some(field) = fields.next()? {
                    last = if field.number == 1 { Some(field.value) } else { last };
                }
                match last {
                    Some(value) => inner.push_one(value, out)?,
                    None => inner.push_default(out)?,
                }
            }
            How::Copy | How::Text | How::Zigzag | How::Fixed { .. } | How::Decimal | How::Enum(_) => {
                return Err(refused("has the wire type of another type of field".into()));
            }
        }
        Ok(())
    }

    /// Appends the value a reader sees where the field is left out.
    fn push_default(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let zero = match self.wire {
            wire::FIXED64 => Value::Fixed64([0; 8]),
            wire::FIXED32 => Value::Fixed32([0; 4]),
            wire::BYTES => Value::Bytes(&[]),
            _ => Value::Varint(0),
        };
        self.push_one(zero, out)
    }

    fn fits(&self, value: Value<'_>) -> bool {
        match value {
            Value::Varint(_) => self.wire == wire::VARINT,
            Value::Fixed64(_) => self.wire == wire::FIXED64,
            Value::Fixed32(_) => self.wire == wire::FIXED32,
            Value::Bytes(_) => self.wire == wire::BYTES,
            Value::Group(_) => false,
        }
    }

    /// Puts this field in front of an error's path.
    fn place(&self, error: Error) -> Error {
        match error {
            Error::Record { path, reason } if path.is_empty() => Error::Record { path: self.name.clone(), reason },
            Error::Record { path, reason } => Error::Record { path: format!("{}.{path}", self.name), reason },
            error => error,
        }
    }
}

fn push_value(out: &mut Vec<u8>, number: u32, value: Value<'_>) {
    match value {
        Value::Varint(value) => {
            wire::push_tag(out, number, wire::VARINT);
            push_varint(out, value);
        }
        Value::Fixed64(bytes) => {
            wire::push_tag(out, number, wire::FIXED64);
            out.extend_from_slice(&bytes);
        }
        Value::Fixed32(bytes) => {
            wire::push_tag(out, number, wire::FIXED32);
            out.extend_from_slice(&bytes);
        }
        Value::Bytes(bytes) | Value::Group(bytes) => wire::push_bytes(out, number, bytes),
    }
}

fn push_integer(out: &mut Vec<u8>, number: u32, value: i64) {
    push_value(out, number, Value::Varint(value as u64));
}

/// Fields 1 (seconds) and 2 (nanos) of a Timestamp or Duration.
fn seconds_and_nanos(message: &[u8]) -> Result<(i64, i32), Error> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Fields::new(message);
    while let Some(field) = fields.next()? {
        match (field.number, field.value) {
            (1, Value::Varint(value)) => seconds = value as i64,
            (2, Value::Varint(value)) => nanos = value as i32,
            (1 | 2, _) => return Err(refused("has seconds or nanos of another type".into())),
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

fn timestamp_micros(message: &[u8]) -> Result<i64, Error> {
    let (seconds, nanos) = seconds_and_nanos(message)?;
    if !TIMESTAMP_SECONDS.contains(&seconds) || !(0..1_000_000_000).contains(&nanos) {
        return Err(refused(format!("{seconds} s {nanos} ns is no time from year 1 to 9999")));
    }
    Ok(seconds * 1_000_000 + i64::from(nanos / 1_000))
}

/// Decimal seconds, such as `-1.500000000`.
fn duration_seconds(message: &[u8]) -> Result<String, Error> {
    let (seconds, nanos) = seconds_and_nanos(message)?;
    if seconds.unsigned_abs() > DURATION_SECONDS_MAX as u64 || nanos.unsigned_abs() >= 1_000_000_000 {
        return Err(refused(format!("{seconds} s {nanos} ns is no duration")));
    }
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let sign = if total < 0 { "-" } else { "" };
    let total = total.unsigned_abs();
    Ok(format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000))
}

fn refused(reason: String) -> Error {
    Error::Record { path: String::new(), reason }
}
