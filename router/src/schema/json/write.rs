//! Wire -> JSON: walks the bytes once and appends each field as it lies.
//!
//! Fields that lie in pieces are put together first (`merge`); encoders hardly ever write them so.

use base64::Engine as _;

use super::super::check::{Fault, fits, is_packable};
use super::super::plan::{Field, Kind, Message, Plan, Rule, Shape};
use super::super::wire::{self, Fields};
use super::lexer::{Read, plain_len};
use super::merge::{Place, bits, last_of, last_of_each_key, merge, needs_merge, next_in_row, next_of};
use super::{known, number};
use crate::record::read_varint;

pub(super) fn write(plan: &Plan, message: &[u8], out: &mut Vec<u8>) -> Read<()> {
    Writer { plan, out }.message(plan.root(), message, Place { at: 0, depth: 0 })
}

struct Writer<'p, 'o> {
    plan: &'p Plan,
    out: &'o mut Vec<u8>,
}

impl<'p> Writer<'p, '_> {
    fn message(&mut self, message: &'p Message, bytes: &[u8], place: Place) -> Read<()> {
        if place.depth > wire::MAX_DEPTH {
            return Err(Fault::new(place.at, format!("messages nest more than {} deep", wire::MAX_DEPTH)));
        }
        if needs_merge(message, bytes, place)? {
            let merged = merge(message, bytes, place)?;
            return self.shaped(message, &merged, place);
        }
        self.shaped(message, bytes, place)
    }

    fn shaped(&mut self, message: &'p Message, bytes: &[u8], place: Place) -> Read<()> {
        match message.shape {
            Shape::Object | Shape::Empty => {
                self.out.push(b'{');
                self.fields(message, bytes, place)?;
                self.out.push(b'}');
                Ok(())
            }
            Shape::Timestamp | Shape::Duration => seconds(message.shape, bytes, self.out, place),
            Shape::FieldMask => field_mask(bytes, self.out, place),
            Shape::Struct => {
                self.out.push(b'{');
                let mut fields = Fields::new(bytes);
                if let Some(first) = next_of(&mut fields, 1, place)? {
                    self.map(&message.fields[0], first, &mut fields, place)?;
                }
                self.out.push(b'}');
                Ok(())
            }
            Shape::List => {
                self.out.push(b'[');
                let mut fields = Fields::new(bytes);
                while let Some(found) = next_of(&mut fields, 1, place)? {
                    comma(self.out);
                    self.value(&message.fields[0], &found, place)?;
                }
                self.out.push(b']');
                Ok(())
            }
            Shape::Value => self.any_json(message, bytes, place),
            Shape::Wrapper => {
                let field = &message.fields[0];
                match last_of(bytes, field.number, place)? {
                    Some(found) => self.value(field, &found, place),
                    None => self.default(field.kind, place),
                }
            }
            Shape::Any => self.any(bytes, place),
        }
    }

    /// Appends the fields of an object between its braces.
    fn fields(&mut self, message: &'p Message, bytes: &[u8], place: Place) -> Read<()> {
        let mut fields = Fields::new(bytes);
        // The list that is being written, by its place, if any.
        let mut open = None;
        while let Some(found) = fields.read().map_err(place.broken())? {
            let Some(known) = message.by_number(found.number) else { continue };
            let field = &message.fields[known];
            if open.is_some_and(|open| open != known) {
                self.out.push(b']');
                open = None;
            }
            let is_open = self.field(field, &found, &mut fields, open.is_some(), place);
            open = is_open.map_err(|fault| fault.inside(&field.name))?.then_some(known);
        }
        if open.is_some() {
            self.out.push(b']');
        }
        Ok(())
    }

    /// Appends one field, or the next part of a list that is open; returns whether a list is open now.
    #[inline]
    fn field(
        &mut self,
        field: &'p Field,
        found: &wire::Field,
        fields: &mut Fields,
        is_open: bool,
        place: Place,
    ) -> Read<bool> {
        match field.rule {
            Rule::Implicit if is_default(field.kind, found) => Ok(false),
            Rule::Explicit | Rule::Implicit => {
                comma(self.out);
                self.out.extend_from_slice(&field.json_key);
                self.value(field, found, place)?;
                Ok(false)
            }
            Rule::List | Rule::PackedList => {
                let is_packed = found.value == wire::Value::Len && is_packable(field.kind);
                if is_packed && found.content.is_empty() {
                    return Ok(is_open);
                }
                if !is_open {
                    comma(self.out);
                    self.out.extend_from_slice(&field.json_key);
                    self.out.push(b'[');
                }
                if is_packed {
                    self.packed(field.kind, found, place)?;
                } else {
                    comma(self.out);
                    self.value(field, found, place)?;
                }
                Ok(true)
            }
            Rule::Map => {
                comma(self.out);
                self.out.extend_from_slice(&field.json_key);
                self.out.push(b'{');
                self.map(field, *found, fields, place)?;
                self.out.push(b'}');
                Ok(false)
            }
        }
    }

    #[inline]
    fn value(&mut self, field: &'p Field, found: &wire::Field, place: Place) -> Read<()> {
        match (field.kind, found.value) {
            (Kind::String, wire::Value::Len) => push_text(self.out, found.content, place.at + found.content_at),
            (Kind::Bytes, wire::Value::Len) => {
                push_base64(self.out, found.content);
                Ok(())
            }
            (Kind::Message(inner), wire::Value::Len) | (Kind::Group(inner), wire::Value::Group) => {
                self.message(&self.plan.messages[inner], found.content, place.inside(found))
            }
            (kind, value) if fits(kind, value) => {
                self.scalar(kind, bits(value));
                Ok(())
            }
            _ => Err(Fault::new(place.at + found.start, "wire type is not that of the field")),
        }
    }

    fn packed(&mut self, kind: Kind, found: &wire::Field, place: Place) -> Read<()> {
        let short = |at: usize| Fault::new(place.at + found.content_at + at, "packed list is cut short");
        let content = found.content;
        let mut at = 0;
        while at < content.len() {
            let (bits, next) = match kind.wire_type() {
                wire::FIXED64 => {
                    let chunk = content[at..].first_chunk().ok_or_else(|| short(at))?;
                    (u64::from_le_bytes(*chunk), at + 8)
                }
                wire::FIXED32 => {
                    let chunk = content[at..].first_chunk().ok_or_else(|| short(at))?;
                    (u64::from(u32::from_le_bytes(*chunk)), at + 4)
                }
                _ => read_varint(content, at).ok_or_else(|| short(at))?,
            };
            comma(self.out);
            self.scalar(kind, bits);
            at = next;
        }
        Ok(())
    }

    /// Appends the entries of a map, the first of which was read; of one key the last entry counts.
    fn map(&mut self, field: &'p Field, first: wire::Field, fields: &mut Fields, place: Place) -> Read<()> {
        let Kind::Message(entry) = field.kind else { return Ok(()) };
        let entry = &self.plan.messages[entry];
        let mut entries = vec![first];
        while let Some(found) = next_in_row(fields, field.number, place)? {
            entries.push(found);
        }
        for place_of in last_of_each_key(&entries, place)? {
            let found = &entries[place_of];
            if found.value != wire::Value::Len {
                return Err(Fault::new(place.at + found.start, "wire type is not that of the field"));
            }
            // An entry is no level of its own: decoders do not count it.
            let inside = Place { depth: place.depth, ..place.inside(found) };
            if needs_merge(entry, found.content, inside)? {
                let merged = merge(entry, found.content, inside)?;
                self.entry(entry, &merged, inside)?;
            } else {
                self.entry(entry, found.content, inside)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, entry: &'p Message, bytes: &[u8], place: Place) -> Read<()> {
        let [key, value] = entry.fields.as_slice() else { return Ok(()) };
        comma(self.out);
        let is_text = key.kind == Kind::String;
        if !is_text {
            self.out.push(b'"');
        }
        match last_of(bytes, key.number, place)? {
            Some(found) => self.value(key, &found, place)?,
            None => self.default(key.kind, place)?,
        }
        self.out.extend_from_slice(if is_text { b":" } else { b"\":" });
        match last_of(bytes, value.number, place)? {
            Some(found) => self.value(value, &found, place),
            None => self.default(value.kind, place),
        }
    }

    /// Appends a number, bool or enum.
    #[inline]
    fn scalar(&mut self, kind: Kind, bits: u64) {
        match kind {
            Kind::Double => push_double(self.out, f64::from_bits(bits)),
            Kind::Float => push_float(self.out, f32::from_bits(bits as u32)),
            Kind::Int32 | Kind::Sfixed32 => number::push_signed(self.out, i64::from(bits as i32)),
            Kind::Int64 | Kind::Sfixed64 => number::push_signed(self.out, bits as i64),
            Kind::Uint32 | Kind::Fixed32 => number::push_unsigned(self.out, u64::from(bits as u32)),
            Kind::Uint64 | Kind::Fixed64 => number::push_unsigned(self.out, bits),
            Kind::Sint32 => number::push_signed(self.out, wire::unzigzag(u64::from(bits as u32))),
            Kind::Sint64 => number::push_signed(self.out, wire::unzigzag(bits)),
            Kind::Bool => self.out.extend_from_slice(if bits == 0 { b"false" } else { b"true" }),
            Kind::Enum(inner) => {
                let known = &self.plan.enums[inner];
                match known.json_name(bits as i32) {
                    _ if known.is_null => self.out.extend_from_slice(b"null"),
                    Some(name) => self.out.extend_from_slice(name),
                    None => number::push_signed(self.out, i64::from(bits as i32)),
                }
            }
            Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Group(_) => {}
        }
    }

    /// Appends the value of a field that is absent where JSON has no absence.
    fn default(&mut self, kind: Kind, place: Place) -> Read<()> {
        match kind {
            Kind::String | Kind::Bytes => self.out.extend_from_slice(b"\"\""),
            Kind::Message(inner) | Kind::Group(inner) => {
                let place = Place { depth: place.depth + 1, ..place };
                return self.message(&self.plan.messages[inner], &[], place);
            }
            Kind::Enum(inner) => self.scalar(kind, self.plan.enums[inner].default as u64),
            _ => self.scalar(kind, 0),
        }
        Ok(())
    }

    /// `google.protobuf.Value`: the member that is set; none is null.
    fn any_json(&mut self, message: &'p Message, bytes: &[u8], place: Place) -> Read<()> {
        let mut fields = Fields::new(bytes);
        while let Some(found) = fields.read().map_err(place.broken())? {
            let Some(known) = message.by_number(found.number) else { continue };
            if let wire::Value::Fixed64(bits) = found.value
                && !f64::from_bits(bits).is_finite()
            {
                return Err(Fault::new(place.at + found.start, "JSON value is not a finite number"));
            }
            return self.value(&message.fields[known], &found, place);
        }
        self.out.extend_from_slice(b"null");
        Ok(())
    }

    fn any(&mut self, bytes: &[u8], place: Place) -> Read<()> {
        let type_url = last_of(bytes, 1, place)?.map_or(&[][..], |found| found.content);
        let value = last_of(bytes, 2, place)?;
        if type_url.is_empty() && value.is_none_or(|value| value.content.is_empty()) {
            self.out.extend_from_slice(b"{}");
            return Ok(());
        }
        let known = std::str::from_utf8(type_url).ok().and_then(|type_url| self.plan.any(type_url));
        let Some(inner) = known else {
            let type_url = String::from_utf8_lossy(type_url);
            return Err(Fault::new(place.at, format!("no loaded schema defines {type_url:?}")));
        };
        self.out.extend_from_slice(b"{\"@type\":");
        push_string(self.out, type_url);
        let content = value.map_or(&[][..], |value| value.content);
        let place = value.map_or(place, |value| place.inside(&value));
        if inner.shape == Shape::Object {
            if place.depth > wire::MAX_DEPTH {
                return Err(Fault::new(place.at, format!("messages nest more than {} deep", wire::MAX_DEPTH)));
            }
            if needs_merge(inner, content, place)? {
                self.fields(inner, &merge(inner, content, place)?, place)?;
            } else {
                self.fields(inner, content, place)?;
            }
        } else {
            self.out.extend_from_slice(b",\"value\":");
            self.message(inner, content, place)?;
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// Whether a value is the same as absence. Varints may be longer than their kind; what counts is what is left of them.
fn is_default(kind: Kind, found: &wire::Field) -> bool {
    match (kind, found.value) {
        (Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Enum(_), wire::Value::Varint(value)) => value as u32 == 0,
        (_, wire::Value::Len) => matches!(kind, Kind::String | Kind::Bytes) && found.content.is_empty(),
        (_, wire::Value::Group) => false,
        (kind, value) => fits(kind, value) && bits(value) == 0,
    }
}

fn seconds(shape: Shape, bytes: &[u8], out: &mut Vec<u8>, place: Place) -> Read<()> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut fields = Fields::new(bytes);
    while let Some(found) = fields.read().map_err(place.broken())? {
        match (found.number, found.value) {
            (1, wire::Value::Varint(value)) => seconds = value as i64,
            (2, wire::Value::Varint(value)) => nanos = value as i32,
            (1 | 2, _) => return Err(Fault::new(place.at + found.start, "wire type is not that of the field")),
            _ => {}
        }
    }
    out.push(b'"');
    let pushed = match shape {
        Shape::Timestamp => known::push_timestamp(out, seconds, nanos),
        _ => known::push_duration(out, seconds, nanos),
    };
    pushed.ok_or_else(|| Fault::new(place.at, "time is out of range"))?;
    out.push(b'"');
    Ok(())
}

fn field_mask(bytes: &[u8], out: &mut Vec<u8>, place: Place) -> Read<()> {
    let mut text = Vec::new();
    let mut fields = Fields::new(bytes);
    while let Some(found) = next_of(&mut fields, 1, place)? {
        if !text.is_empty() {
            text.push(b',');
        }
        let path = known::push_camel(&mut text, found.content);
        path.ok_or_else(|| Fault::new(place.at + found.content_at, "field mask is not in snake case"))?;
    }
    push_text(out, &text, place.at)
}

/// A comma, unless the object or list was just opened.
#[inline]
fn comma(out: &mut Vec<u8>) {
    if !matches!(out.last(), Some(b'{' | b'[')) {
        out.push(b',');
    }
}

fn push_double(out: &mut Vec<u8>, value: f64) {
    match value {
        _ if value.is_finite() => push_shortest(out, &value),
        _ if value.is_nan() => out.extend_from_slice(b"\"NaN\""),
        _ if value > 0.0 => out.extend_from_slice(b"\"Infinity\""),
        _ => out.extend_from_slice(b"\"-Infinity\""),
    }
}

fn push_float(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() { push_shortest(out, &value) } else { push_double(out, f64::from(value)) }
}

/// The fewest digits that turn back into the same number.
fn push_shortest(out: &mut Vec<u8>, value: &impl serde::Serialize) {
    // Writing a finite number to memory has nothing to go wrong with.
    let _ = serde_json::to_writer(out, value);
}

fn push_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, b'=');
    let len = base64::engine::general_purpose::STANDARD.encode_slice(bytes, &mut out[start..]);
    out.truncate(start + len.unwrap_or(0));
    out.push(b'"');
}

fn push_text(out: &mut Vec<u8>, text: &[u8], at: usize) -> Read<()> {
    let wrong = |error: std::str::Utf8Error| Fault::new(at + error.valid_up_to(), "string is not UTF-8");
    std::str::from_utf8(text).map_err(wrong)?;
    push_string(out, text);
    Ok(())
}

/// Appends UTF-8 text as a JSON string.
pub(in crate::schema) fn push_string(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let mut left = text;
    loop {
        let (plain, rest) = left.split_at(plain_len(left));
        out.extend_from_slice(plain);
        let Some((&byte, rest)) = rest.split_first() else { break };
        left = rest;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            }
        }
    }
    out.push(b'"');
}
