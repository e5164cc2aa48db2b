//! One record, read and edited on the wire.
//!
//! A get walks the message's fields and stops decoding at their edges; an edit copies the message once into a buffer
//! that is kept from record to record, with the new value in place. What is not edited leaves byte for byte as it
//! came, unknown fields included.

use std::mem;

use crate::fields::{Edit, Fields};
use crate::schema::Field;
use crate::wire::{DEPTH_MAX, Value, push_field, push_varint, walk};
use crate::{Error, Result};

/// What becomes of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on, with the edits made to it.
    Keep,
    /// It is filtered out, and counted as such.
    Drop,
    /// These messages go on in its place.
    Split(Vec<Vec<u8>>),
    /// It goes to dead letters with this reason.
    Refuse(String),
}

/// Where a value lies: a field number, a path of numbers through nested messages, or a [`Field`] found by name.
pub trait Place {
    fn numbers(&self) -> &[u32];
}

impl Place for u32 {
    fn numbers(&self) -> &[u32] {
        std::slice::from_ref(self)
    }
}

impl Place for [u32] {
    fn numbers(&self) -> &[u32] {
        self
    }
}

impl<const N: usize> Place for [u32; N] {
    fn numbers(&self) -> &[u32] {
        self
    }
}

impl Place for Field {
    fn numbers(&self) -> &[u32] {
        self.path()
    }
}

impl<P: Place + ?Sized> Place for &P {
    fn numbers(&self) -> &[u32] {
        (**self).numbers()
    }
}

/// Kept from record to record, so that editing allocates nothing once they have grown.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    current: Vec<u8>,
    next: Vec<u8>,
    value: Vec<u8>,
}

/// One record of the batch.
///
/// Gets follow Protobuf: where a field lies several times the last one counts, and a field that is absent has its
/// default (0, false, empty). A record that is not a Protobuf message fails at the first access.
#[derive(Debug)]
pub struct Record<'a> {
    source: &'a [u8],
    buffers: &'a mut Buffers,
    edited: bool,
}

impl<'a> Record<'a> {
    pub(crate) fn new(source: &'a [u8], buffers: &'a mut Buffers) -> Record<'a> {
        Record { source, buffers, edited: false }
    }

    /// The message as it is now.
    pub fn message(&self) -> &[u8] {
        if self.edited { &self.buffers.current } else { self.source }
    }

    pub(crate) fn is_edited(&self) -> bool {
        self.edited
    }

    /// The value as it lies on the wire; `None` where it is absent.
    pub fn value(&self, place: impl Place) -> Result<Option<Value<'_>>> {
        find(self.message(), checked(place.numbers())?)
    }

    pub fn has(&self, place: impl Place) -> Result<bool> {
        Ok(self.value(place)?.is_some())
    }

    /// Bytes, a string's bytes, or a nested message.
    pub fn bytes(&self, place: impl Place) -> Result<&[u8]> {
        match find(self.message(), checked(place.numbers())?)? {
            None => Ok(&[]),
            Some(Value::Bytes(bytes)) => Ok(bytes),
            Some(other) => Err(mismatch(place.numbers(), other, "bytes")),
        }
    }

    pub fn str(&self, place: impl Place) -> Result<&str> {
        let numbers = place.numbers();
        std::str::from_utf8(self.bytes(numbers)?)
            .map_err(|error| Error::new(format_args!("read field {}: {error}", Dotted(numbers))))
    }

    /// An unsigned integer of any width.
    pub fn u64(&self, place: impl Place) -> Result<u64> {
        match find(self.message(), checked(place.numbers())?)? {
            None => Ok(0),
            Some(Value::Varint(value) | Value::Fixed64(value)) => Ok(value),
            Some(Value::Fixed32(value)) => Ok(u64::from(value)),
            Some(other) => Err(mismatch(place.numbers(), other, "an integer")),
        }
    }

    /// A signed integer (`int32`, `int64`, `sfixed32`, `sfixed64`) or an enum; [`sint`](Record::sint) for the zigzag types.
    pub fn i64(&self, place: impl Place) -> Result<i64> {
        match find(self.message(), checked(place.numbers())?)? {
            None => Ok(0),
            Some(Value::Varint(value) | Value::Fixed64(value)) => Ok(value as i64),
            Some(Value::Fixed32(value)) => Ok(i64::from(value as i32)),
            Some(other) => Err(mismatch(place.numbers(), other, "an integer")),
        }
    }

    /// A `sint32` or `sint64`.
    pub fn sint(&self, place: impl Place) -> Result<i64> {
        let value = self.u64(place)?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    pub fn bool(&self, place: impl Place) -> Result<bool> {
        Ok(self.u64(place)? != 0)
    }

    /// A `double` or `float`.
    pub fn f64(&self, place: impl Place) -> Result<f64> {
        match find(self.message(), checked(place.numbers())?)? {
            None => Ok(0.0),
            Some(Value::Fixed64(value)) => Ok(f64::from_bits(value)),
            Some(Value::Fixed32(value)) => Ok(f64::from(f32::from_bits(value))),
            Some(other) => Err(mismatch(place.numbers(), other, "a float")),
        }
    }

    /// Replaces the value, or adds it where it is absent (with the messages around it).
    pub fn set_str(&mut self, place: impl Place, value: &str) -> Result<()> {
        self.set_bytes(place, value.as_bytes())
    }

    pub fn set_bytes(&mut self, place: impl Place, value: &[u8]) -> Result<()> {
        self.put(place.numbers(), &|_| Value::Bytes(value))
    }

    /// Keeps the width the field has on the wire; a field that is absent becomes a varint.
    /// For an absent `fixed32` or `fixed64` use [`set_value`](Record::set_value).
    pub fn set_u64(&mut self, place: impl Place, value: u64) -> Result<()> {
        self.put(place.numbers(), &|old| match old {
            Some(Value::Fixed64(_)) => Value::Fixed64(value),
            Some(Value::Fixed32(_)) => Value::Fixed32(value as u32),
            _ => Value::Varint(value),
        })
    }

    /// As [`set_u64`](Record::set_u64), for the types of [`i64`](Record::i64).
    pub fn set_i64(&mut self, place: impl Place, value: i64) -> Result<()> {
        self.set_u64(place, value as u64)
    }

    /// A `sint32` or `sint64`.
    pub fn set_sint(&mut self, place: impl Place, value: i64) -> Result<()> {
        self.set_u64(place, ((value << 1) ^ (value >> 63)) as u64)
    }

    pub fn set_bool(&mut self, place: impl Place, value: bool) -> Result<()> {
        self.set_u64(place, u64::from(value))
    }

    /// Keeps the width the field has on the wire; a field that is absent becomes a `double`.
    pub fn set_f64(&mut self, place: impl Place, value: f64) -> Result<()> {
        self.put(place.numbers(), &|old| match old {
            Some(Value::Fixed32(_)) => Value::Fixed32((value as f32).to_bits()),
            _ => Value::Fixed64(value.to_bits()),
        })
    }

    /// Writes exactly this wire value.
    pub fn set_value(&mut self, place: impl Place, value: Value<'_>) -> Result<()> {
        self.put(place.numbers(), &|_| value)
    }

    /// Removes every occurrence of the field.
    pub fn clear(&mut self, place: impl Place) -> Result<()> {
        let fields = Fields::path(checked(place.numbers())?);
        self.edit(&fields, |_, _| Edit::Remove)
    }

    /// Replaces the whole message.
    pub fn set_message(&mut self, message: &[u8]) {
        self.buffers.next.clear();
        self.buffers.next.extend_from_slice(message);
        self.commit();
    }

    /// Shows `each` every occurrence of the selected fields (through repeated fields, maps and nested messages), with
    /// a buffer for the new text or bytes. The buffer is empty at each call and counts for [`Edit::Replace`] only.
    pub fn edit(&mut self, fields: &Fields, mut each: impl FnMut(Value<'_>, &mut Vec<u8>) -> Edit) -> Result<()> {
        let Buffers { current, next, value } = &mut *self.buffers;
        let message = if self.edited { current.as_slice() } else { self.source };
        next.clear();
        if fields.rewrite(message, next, value, &mut each)? {
            self.commit();
        }
        Ok(())
    }

    /// Shows `each` every occurrence of the selected fields.
    pub fn visit(&self, fields: &Fields, mut each: impl FnMut(Value<'_>)) -> Result<()> {
        let mut unused = (Vec::new(), Vec::new());
        fields.rewrite(self.message(), &mut unused.0, &mut unused.1, &mut |value, _| {
            each(value);
            Edit::Keep
        })?;
        Ok(())
    }

    fn put(&mut self, path: &[u32], make: Make<'_, '_>) -> Result<()> {
        let path = checked(path)?;
        let Buffers { current, next, .. } = &mut *self.buffers;
        let message = if self.edited { current.as_slice() } else { self.source };
        next.clear();
        splice(message, path, make, next)?;
        self.commit();
        Ok(())
    }

    /// What lies in `next` is the message from here on.
    fn commit(&mut self) {
        mem::swap(&mut self.buffers.current, &mut self.buffers.next);
        self.edited = true;
    }
}

/// The new value, given the old one.
type Make<'f, 'v> = &'f dyn Fn(Option<Value<'_>>) -> Value<'v>;

fn checked(path: &[u32]) -> Result<&[u32]> {
    if path.is_empty() || path.len() > DEPTH_MAX || path.iter().any(|&number| number == 0 || number >= 1 << 29) {
        return Err(Error::new(format_args!("find field {}: not a path of field numbers", Dotted(path))));
    }
    Ok(path)
}

fn find<'m>(message: &'m [u8], path: &[u32]) -> Result<Option<Value<'m>>> {
    let Some((&number, rest)) = path.split_first() else { return Ok(None) };
    let mut last = None;
    for field in walk(message) {
        let field = field?;
        if field.number != number {
            continue;
        }
        if rest.is_empty() {
            last = Some(field.value);
        } else if let Value::Bytes(nested) = field.value
            && let Some(value) = find(nested, rest)?
        {
            last = Some(value);
        }
    }
    Ok(last)
}

/// Copies `message` with the value at `path` replaced by what `make` makes of the old one.
fn splice(message: &[u8], path: &[u32], make: Make<'_, '_>, out: &mut Vec<u8>) -> Result<()> {
    let Some((&number, rest)) = path.split_first() else { return Ok(()) };
    let mut last = None;
    for field in walk(message) {
        let field = field?;
        if field.number == number {
            last = Some(field);
        }
    }
    let (old, range) = match last {
        Some(field) => (Some(field.value), field.range),
        None => (None, message.len()..message.len()),
    };
    out.extend_from_slice(&message[..range.start]);
    if rest.is_empty() {
        push_field(out, number, make(old));
    } else {
        let nested = match old {
            None => &[],
            Some(Value::Bytes(nested)) => nested,
            Some(other) => return Err(mismatch(&[number], other, "a message")),
        };
        let mut body = Vec::with_capacity(nested.len() + 16);
        splice(nested, rest, make, &mut body)?;
        push_varint(out, u64::from(number) << 3 | 2);
        push_varint(out, body.len() as u64);
        out.extend_from_slice(&body);
    }
    out.extend_from_slice(&message[range.end..]);
    Ok(())
}

#[cold]
fn mismatch(path: &[u32], value: Value<'_>, expected: &str) -> Error {
    let found = match value {
        Value::Varint(_) => "a varint",
        Value::Fixed64(_) => "8 fixed bytes",
        Value::Bytes(_) => "bytes",
        Value::Group => "a group",
        Value::Fixed32(_) => "4 fixed bytes",
    };
    Error::new(format_args!("read field {}: expected {expected}, found {found}", Dotted(path)))
}

struct Dotted<'a>(&'a [u32]);

impl std::fmt::Display for Dotted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, number) in self.0.iter().enumerate() {
            let dot = if i == 0 { "" } else { "." };
            write!(f, "{dot}{number}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(fields: &[(u32, Value<'_>)]) -> Vec<u8> {
        let mut out = Vec::new();
        fields.iter().for_each(|&(number, value)| push_field(&mut out, number, value));
        out
    }

    #[test]
    fn gets_follow_protobuf() {
        let inner = message(&[(1, Value::Bytes(b"deep")), (2, Value::Varint(7))]);
        let later = message(&[(2, Value::Varint(8))]);
        let source = message(&[
            (1, Value::Bytes(b"first")),
            (1, Value::Bytes(b"last")),
            (2, Value::Varint(-3i64 as u64)),
            (3, Value::Fixed32(-2i32 as u32)),
            (4, Value::Fixed64(1.5f64.to_bits())),
            (5, Value::Fixed32(0.25f32.to_bits())),
            (6, Value::Varint(5)),
            (7, Value::Bytes(&inner)),
            (7, Value::Bytes(&later)),
            (8, Value::Bytes(&[0xff])),
        ]);
        let mut buffers = Buffers::default();
        let record = Record::new(&source, &mut buffers);
        assert_eq!(record.str(1).unwrap(), "last");
        assert_eq!(record.i64(2).unwrap(), -3);
        assert_eq!(record.i64(3).unwrap(), -2);
        assert_eq!(record.f64(4).unwrap(), 1.5);
        assert_eq!(record.f64(5).unwrap(), 0.25);
        assert_eq!(record.sint(6).unwrap(), -3);
        assert_eq!(record.str([7, 1]).unwrap(), "deep");
        assert_eq!(record.u64([7, 2]).unwrap(), 8);
        assert!(record.bool(6).unwrap() && !record.bool(99).unwrap() && !record.has(99).unwrap());
        assert_eq!(
            record.str(8).unwrap_err().to_string(),
            "read field 8: invalid utf-8 sequence of 1 bytes from index 0"
        );
        assert_eq!(record.str([7, 2]).unwrap_err().to_string(), "read field 7.2: expected bytes, found a varint");
        assert!(record.u64(0).is_err() && record.u64(&[][..]).is_err());
    }

    #[test]
    fn edits_touch_their_field_alone() {
        let inner = message(&[(1, Value::Bytes(b"x")), (9, Value::Varint(1))]);
        let source = message(&[
            (1, Value::Bytes(b"a")),
            (2, Value::Fixed32(1)),
            (7, Value::Bytes(&inner)),
            (8, Value::Varint(3)),
        ]);
        let mut buffers = Buffers::default();
        let mut record = Record::new(&source, &mut buffers);
        assert!(!record.is_edited());
        record.set_str(1, &"long ".repeat(60)).unwrap();
        record.set_i64(2, -1).unwrap();
        record.set_str([7, 1], &"y".repeat(200)).unwrap();
        record.set_f64([20, 3], 0.5).unwrap();
        record.set_sint(21, -5).unwrap();
        record.clear(8).unwrap();
        assert!(record.is_edited());
        let inner = message(&[(1, Value::Bytes("y".repeat(200).as_bytes())), (9, Value::Varint(1))]);
        let created = message(&[(3, Value::Fixed64(0.5f64.to_bits()))]);
        let expected = message(&[
            (1, Value::Bytes("long ".repeat(60).as_bytes())),
            (2, Value::Fixed32(u32::MAX)),
            (7, Value::Bytes(&inner)),
            (20, Value::Bytes(&created)),
            (21, Value::Varint(9)),
        ]);
        assert_eq!(record.message(), expected);
        record.set_message(b"");
        assert_eq!(record.message(), b"");
    }

    #[test]
    fn a_failed_edit_changes_nothing() {
        let source = message(&[(1, Value::Varint(1))]);
        let mut buffers = Buffers::default();
        let mut record = Record::new(&source, &mut buffers);
        assert!(record.set_str([1, 2], "x").is_err());
        assert_eq!(record.message(), source);
        let broken = [0x0a, 9];
        let mut record = Record::new(&broken, &mut buffers);
        assert!(record.set_u64(5, 1).is_err() && record.clear(5).is_err() && record.u64(5).is_err());
    }
}
