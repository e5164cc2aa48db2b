//! Records -> columns: one walk over a message's bytes, field by field, with the levels that say where each value
//! stands.
//!
//! The fields of a message may lie in any order on the wire, and each more than once. So its occurrences are gathered
//! first and sorted by field (they nearly always are already), and then each field is written from its own run.

use std::collections::HashSet;

use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};

use super::Extra;
use super::columns::{Cell, Column, Levels};
use super::plan::{Content, Field, Group, Label, Plan, Primitive, Scalar};
use super::wire::{self, Fields, Value};
use crate::schema::Error;

/// A field that lies on the wire.
#[derive(Clone, Copy, Debug)]
struct Occurrence<'a> {
    /// Index in its group's `fields`.
    field: usize,
    value: Value<'a>,
}

/// Why a record is refused; the path grows on the way up.
struct Refusal {
    path: String,
    reason: String,
}

impl Refusal {
    fn below(mut self, field: &str) -> Refusal {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.path = format!("{field}{dot}{}", self.path);
        self
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Refusal {
        Refusal { path: String::new(), reason }
    }
}

/// Writes one record into all columns. On error some of them hold a part of it.
pub(super) fn record(plan: &Plan, message: &[u8], extra: Extra<'_>, columns: &mut [Column]) -> Result<(), Error> {
    let refused = |Refusal { path, reason }| Error::Record { path, reason };
    let (own, extras) = columns.split_at_mut(columns.len().saturating_sub(3));
    let mut out = Out { columns: own };
    out.group(&plan.root, message, Levels { repetition: 0, definition: 0 }).map_err(refused)?;
    let received_micros = i64::try_from(extra.received_nanos / 1_000).unwrap_or(i64::MAX);
    let cells = [Cell::Bytes(extra.id.as_bytes()), Cell::Int64(received_micros), Cell::Bytes(extra.agent.as_bytes())];
    for (column, cell) in extras.iter_mut().zip(cells) {
        column.push(0, cell).map_err(|reason| refused(reason.into()))?;
    }
    Ok(())
}

struct Out<'c> {
    columns: &'c mut [Column],
}

impl Out<'_> {
    fn group(&mut self, group: &Group, message: &[u8], levels: Levels) -> Result<(), Refusal> {
        let occurrences = gather(group, message)?;
        let mut rest = occurrences.as_slice();
        for (index, field) in group.fields.iter().enumerate() {
            let (run, behind) = rest.split_at(rest.iter().take_while(|occurrence| occurrence.field == index).count());
            rest = behind;
            self.field(field, run, levels).map_err(|refusal| refusal.below(&field.name))?;
        }
        Ok(())
    }

    /// `run` is all that the message says of this field.
    fn field(&mut self, field: &Field, run: &[Occurrence<'_>], levels: Levels) -> Result<(), Refusal> {
        match field.label {
            Label::Required => self.singular(field, run, levels),
            Label::Optional if run.is_empty() => {
                self.nulls(field, levels);
                Ok(())
            }
            Label::Optional => self.singular(field, run, Levels { definition: field.definition, ..levels }),
            Label::List => self.list(field, run, levels),
            Label::Map(key) => self.map(field, key.0, run, levels),
        }
    }

    fn nulls(&mut self, field: &Field, levels: Levels) {
        self.columns[field.leaves.clone()].iter_mut().for_each(|column| column.push_null(levels));
    }

    fn singular(&mut self, field: &Field, run: &[Occurrence<'_>], levels: Levels) -> Result<(), Refusal> {
        let first = field.leaves.start;
        match (&field.content, run) {
            (Content::Scalar(_), _) | (_, [] | [_]) => {
                self.content(&field.content, first, run.last().map(|one| one.value), levels)
            }
            // Parts of one message are merged, and the wire form of a merged message is its parts in a row.
            _ => {
                let mut merged = Vec::new();
                for part in run {
                    merged.extend_from_slice(message_bytes(part.value)?);
                }
                self.content(&field.content, first, Some(Value::Bytes(&merged)), levels)
            }
        }
    }

    fn list(&mut self, field: &Field, run: &[Occurrence<'_>], outer: Levels) -> Result<(), Refusal> {
        let first = field.leaves.start;
        let mut levels = Levels { repetition: outer.repetition, definition: field.definition };
        let mut count = 0usize;
        for occurrence in run {
            match (packed_kind(&field.content), occurrence.value) {
                (Some(kind), Value::Bytes(bytes)) => {
                    let content = &field.content;
                    wire::packed(bytes, kind, |value| {
                        self.content(content, first, Some(value), levels).map_err(|refusal| refusal.reason)?;
                        levels.repetition = field.repetition;
                        count += 1;
                        Ok(())
                    })?;
                }
                (_, value) => {
                    self.content(&field.content, first, Some(value), levels)
                        .map_err(|refusal| refusal.below(&format!("[{count}]")))?;
                    levels.repetition = field.repetition;
                    count += 1;
                }
            }
        }
        if count == 0 {
            self.nulls(field, outer);
        }
        Ok(())
    }

    fn map(&mut self, field: &Field, key: Primitive, run: &[Occurrence<'_>], outer: Levels) -> Result<(), Refusal> {
        if run.is_empty() {
            self.nulls(field, outer);
            return Ok(());
        }
        let mut entries = Vec::with_capacity(run.len());
        for occurrence in run {
            entries.push(entry(message_bytes(occurrence.value)?)?);
        }
        // Of equal keys the last holds: seen from the end, it is the first.
        let mut seen = HashSet::with_capacity(entries.len());
        let mut holds = vec![true; entries.len()];
        for (entry, holds) in entries.iter().zip(&mut holds).rev() {
            *holds = seen.insert(scalar_key(key, entry.key)?);
        }
        let mut levels = Levels { repetition: outer.repetition, definition: field.definition };
        for (entry, _) in entries.iter().zip(holds).filter(|(_, holds)| *holds) {
            self.plain(key, field.leaves.start, entry.key, levels)?;
            self.content(&field.content, field.leaves.start + 1, entry.value, levels)?;
            levels.repetition = field.repetition;
        }
        Ok(())
    }

    /// One value of a field, or its default where there is none, into the columns from `leaf` on.
    fn content(
        &mut self,
        content: &Content,
        leaf: usize,
        value: Option<Value<'_>>,
        levels: Levels,
    ) -> Result<(), Refusal> {
        match content {
            Content::Scalar(scalar) => self.scalar(scalar, leaf, value, levels),
            Content::Group(group) => self.group(group, optional_bytes(value)?, levels),
            Content::Timestamp => {
                let micros = timestamp_micros(optional_bytes(value)?)?;
                Ok(self.columns[leaf].push(levels.repetition, Cell::Int64(micros))?)
            }
            Content::Wrapper(scalar) => {
                let mut inner = None;
                let mut fields = Fields::new(optional_bytes(value)?);
                while let Some((number, value)) = fields.next()? {
                    inner = if number == 1 { Some(value) } else { inner };
                }
                self.scalar(scalar, leaf, inner, levels)
            }
            Content::Json(descriptor) => {
                let json = json(descriptor, optional_bytes(value)?)?;
                Ok(self.columns[leaf].push(levels.repetition, Cell::Bytes(&json))?)
            }
        }
    }

    fn scalar(&mut self, scalar: &Scalar, leaf: usize, value: Option<Value<'_>>, at: Levels) -> Result<(), Refusal> {
        let names = match scalar {
            Scalar::Plain(primitive) => return self.plain(*primitive, leaf, value, at),
            Scalar::Enum(names) => names,
        };
        let number = match value {
            None => 0,
            // Negative values are sign-extended to ten bytes; the lower half is the value.
            Some(Value::Varint(value)) => value as i32,
            Some(other) => return Err(mismatch(other, "an enum")),
        };
        let column = &mut self.columns[leaf];
        match names.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(found) => Ok(column.push(at.repetition, Cell::Bytes(names[found].1.as_bytes()))?),
            Err(_) => Ok(column.push(at.repetition, Cell::Bytes(number.to_string().as_bytes()))?),
        }
    }

    fn plain(
        &mut self,
        primitive: Primitive,
        leaf: usize,
        value: Option<Value<'_>>,
        levels: Levels,
    ) -> Result<(), Refusal> {
        let cell = cell(primitive, value)?;
        Ok(self.columns[leaf].push(levels.repetition, cell)?)
    }
}

/// Known fields of a message, sorted by field; those of one field in the order of the wire.
fn gather<'a>(group: &Group, message: &'a [u8]) -> Result<Vec<Occurrence<'a>>, Refusal> {
    let mut occurrences: Vec<Occurrence<'a>> = Vec::with_capacity(group.fields.len());
    let mut fields = Fields::new(message);
    while let Some((number, value)) = fields.next()? {
        // Numbers mostly run from 1 without gaps, so the field is mostly where its number says.
        let guess = group.fields.get(number as usize - 1).filter(|field| field.number == number);
        let found = match guess {
            Some(_) => Ok(number as usize - 1),
            None => group.fields.binary_search_by_key(&number, |field| field.number),
        };
        if let Ok(field) = found {
            occurrences.push(Occurrence { field, value });
        }
    }
    if group.has_oneof {
        keep_last_members(group, &mut occurrences);
    }
    occurrences.sort_by_key(|occurrence| occurrence.field);
    Ok(occurrences)
}

/// Of each oneof only the member set last is there; setting another in between had cleared it, too.
fn keep_last_members(group: &Group, occurrences: &mut Vec<Occurrence<'_>>) {
    let mut is_ended: Vec<(usize, usize, bool)> = Vec::new();
    let mut keep = vec![true; occurrences.len()];
    for (occurrence, keep) in occurrences.iter().zip(&mut keep).rev() {
        let Some(oneof) = group.fields[occurrence.field].oneof else { continue };
        match is_ended.iter_mut().find(|(of, ..)| *of == oneof) {
            None => is_ended.push((oneof, occurrence.field, false)),
            Some((_, last, ended)) => {
                *ended |= *last != occurrence.field;
                *keep = !*ended;
            }
        }
    }
    let mut keep = keep.into_iter();
    occurrences.retain(|_| keep.next().unwrap_or(true));
}

struct Entry<'a> {
    key: Option<Value<'a>>,
    value: Option<Value<'a>>,
}

fn entry(bytes: &[u8]) -> Result<Entry<'_>, Refusal> {
    let mut entry = Entry { key: None, value: None };
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            1 => entry.key = Some(value),
            2 => entry.value = Some(value),
            _ => {}
        }
    }
    Ok(entry)
}

/// A map key in a form in which equal keys are equal, however they lie on the wire.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Number(i64),
    Text(&'a [u8]),
}

fn scalar_key(primitive: Primitive, value: Option<Value<'_>>) -> Result<Key<'_>, Refusal> {
    Ok(match cell(primitive, value)? {
        Cell::Bool(value) => Key::Number(value.into()),
        Cell::Int32(value) => Key::Number(value.into()),
        Cell::Int64(value) => Key::Number(value),
        Cell::Bytes(value) => Key::Text(value),
        Cell::Float(_) | Cell::Double(_) => return Err("map key is a floating point number".to_owned().into()),
    })
}

/// What a value means where `primitive` is expected; the default where there is none.
fn cell(primitive: Primitive, value: Option<Value<'_>>) -> Result<Cell<'_>, Refusal> {
    use Primitive as P;
    let Some(value) = value else { return Ok(default_cell(primitive)) };
    Ok(match (primitive, value) {
        (P::Bool, Value::Varint(value)) => Cell::Bool(value != 0),
        (P::Int32 | P::Uint32, Value::Varint(value)) => Cell::Int32(value as i32),
        (P::Sint32, Value::Varint(value)) => Cell::Int32(wire::zigzag(value & 0xffff_ffff) as i32),
        (P::Sfixed32 | P::Fixed32, Value::Fixed32(value)) => Cell::Int32(value as i32),
        (P::Int64 | P::Uint64, Value::Varint(value)) => Cell::Int64(value as i64),
        (P::Sint64, Value::Varint(value)) => Cell::Int64(wire::zigzag(value)),
        (P::Sfixed64 | P::Fixed64, Value::Fixed64(value)) => Cell::Int64(value as i64),
        (P::Float, Value::Fixed32(value)) => Cell::Float(f32::from_bits(value)),
        (P::Double, Value::Fixed64(value)) => Cell::Double(f64::from_bits(value)),
        (P::Text, Value::Bytes(bytes)) => match std::str::from_utf8(bytes) {
            Ok(_) => Cell::Bytes(bytes),
            Err(error) => return Err(format!("string is not UTF-8 from byte {} on", error.valid_up_to()).into()),
        },
        (P::Bytes, Value::Bytes(bytes)) => Cell::Bytes(bytes),
        (expected, other) => return Err(mismatch(other, &format!("{expected:?}").to_lowercase())),
    })
}

fn default_cell(primitive: Primitive) -> Cell<'static> {
    use Primitive as P;
    match primitive {
        P::Bool => Cell::Bool(false),
        P::Int32 | P::Sint32 | P::Sfixed32 | P::Uint32 | P::Fixed32 => Cell::Int32(0),
        P::Int64 | P::Sint64 | P::Sfixed64 | P::Uint64 | P::Fixed64 => Cell::Int64(0),
        P::Float => Cell::Float(0.0),
        P::Double => Cell::Double(0.0),
        P::Text | P::Bytes => Cell::Bytes(&[]),
    }
}

/// Wire type of the elements of a packed list; `None` where lists of this are never packed.
fn packed_kind(content: &Content) -> Option<u8> {
    use Primitive as P;
    match content {
        Content::Scalar(Scalar::Enum(_)) => Some(0),
        Content::Scalar(Scalar::Plain(primitive)) => match primitive {
            P::Bool | P::Int32 | P::Sint32 | P::Uint32 | P::Int64 | P::Sint64 | P::Uint64 => Some(0),
            P::Fixed64 | P::Sfixed64 | P::Double => Some(1),
            P::Fixed32 | P::Sfixed32 | P::Float => Some(5),
            P::Text | P::Bytes => None,
        },
        Content::Timestamp | Content::Wrapper(_) | Content::Group(_) | Content::Json(_) => None,
    }
}

fn timestamp_micros(bytes: &[u8]) -> Result<i64, Refusal> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    let mut fields = Fields::new(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Varint(value)) => seconds = value as i64,
            (2, Value::Varint(value)) => nanos = i64::from(value as i32),
            (1 | 2, other) => return Err(mismatch(other, "part of a timestamp")),
            _ => {}
        }
    }
    let micros = seconds.checked_mul(1_000_000).and_then(|micros| micros.checked_add(nanos.div_euclid(1_000)));
    micros.ok_or_else(|| format!("timestamp of {seconds} seconds is out of range").into())
}

/// Cold: what has no columns of its own is decoded and printed as Protobuf's JSON.
fn json(descriptor: &MessageDescriptor, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let message = DynamicMessage::decode(descriptor.clone(), bytes).map_err(|error| error.to_string())?;
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    let mut out = Vec::new();
    match message.serialize_with_options(&mut serde_json::Serializer::new(&mut out), &options) {
        Ok(()) => Ok(out),
        // An Any of a type that is not known here has no JSON of its own.
        Err(_) if descriptor.full_name() == "google.protobuf.Any" => any_json(bytes),
        Err(error) => Err(error.to_string().into()),
    }
}

fn any_json(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    use base64::Engine as _;
    let (mut url, mut value) = (&[][..], &[][..]);
    let mut fields = Fields::new(bytes);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => url = message_bytes(field)?,
            2 => value = message_bytes(field)?,
            _ => {}
        }
    }
    let value = base64::engine::general_purpose::STANDARD.encode(value);
    Ok(serde_json::json!({ "@type": String::from_utf8_lossy(url), "value": value }).to_string().into_bytes())
}

fn message_bytes(value: Value<'_>) -> Result<&[u8], Refusal> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_) => Err(mismatch(value, "a message")),
    }
}

fn optional_bytes(value: Option<Value<'_>>) -> Result<&[u8], Refusal> {
    value.map_or(Ok(&[]), message_bytes)
}

fn mismatch(found: Value<'_>, expected: &str) -> Refusal {
    let found = match found {
        Value::Varint(_) => "a varint",
        Value::Fixed64(_) => "eight bytes",
        Value::Fixed32(_) => "four bytes",
        Value::Bytes(_) => "a run of bytes",
    };
    format!("wire has {found}, schema says {expected}").into()
}
