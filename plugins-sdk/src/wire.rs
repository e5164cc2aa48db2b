//! The Protobuf wire format: a walk over the fields of one message that checks every length and decodes nothing else.

use std::ops::Range;

use crate::{Error, Result};

/// Nesting of messages and groups, as in the official libraries: deeper input is refused, so that no recursion of ours
/// can exhaust the stack.
pub(crate) const DEPTH_MAX: usize = 100;

const FIELD_NUMBER_MAX: u64 = (1 << 29) - 1;

/// A field's value as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    /// A string, bytes, a message, or a packed list.
    Bytes(&'a [u8]),
    /// A group (a form given up long ago): skipped as a whole, its content is not offered.
    Group,
    Fixed32(u32),
}

/// One field of a message.
#[derive(Clone, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) number: u32,
    pub(crate) value: Value<'a>,
    /// Place of the whole field in the message, tag included.
    pub(crate) range: Range<usize>,
}

/// Fields of `message` in the order they lie there. After an error it ends.
pub(crate) fn walk(message: &[u8]) -> Walk<'_> {
    Walk { message, at: 0 }
}

pub(crate) struct Walk<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<Found<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.message.len() {
            return None;
        }
        let found = self.field();
        if found.is_err() {
            self.at = self.message.len();
        }
        Some(found)
    }
}

impl<'a> Walk<'a> {
    #[inline]
    fn field(&mut self) -> Result<Found<'a>> {
        let start = self.at;
        let (number, wire) = self.tag()?;
        let value = match wire {
            3 => self.group(number)?,
            wire => self.value(wire, start)?,
        };
        Ok(Found { number, value, range: start..self.at })
    }

    #[inline]
    fn tag(&mut self) -> Result<(u32, u8)> {
        let at = self.at;
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > FIELD_NUMBER_MAX {
            return Err(broken("field number out of range", at));
        }
        Ok((number as u32, (tag & 7) as u8))
    }

    #[inline]
    fn value(&mut self, wire: u8, start: usize) -> Result<Value<'a>> {
        Ok(match wire {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.fixed()?)),
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).map_err(|_| broken("length past the end", start))?;
                Value::Bytes(self.take(len)?)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.fixed()?)),
            _ => return Err(broken("unknown wire type or stray end of group", start)),
        })
    }

    /// Skips to the end of the group that `number` opened; groups inside it must close in order.
    fn group(&mut self, number: u32) -> Result<Value<'a>> {
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            let start = self.at;
            let (number, wire) = self.tag()?;
            match wire {
                3 if open.len() == DEPTH_MAX => return Err(broken("groups nested too deep", start)),
                3 => open.push(number),
                4 if number == innermost => drop(open.pop()),
                4 => return Err(broken("end of another group", start)),
                wire => drop(self.value(wire, start)?),
            }
        }
        Ok(Value::Group)
    }

    #[inline]
    fn varint(&mut self) -> Result<u64> {
        let (value, next) = read_varint(self.message, self.at).ok_or_else(|| broken("broken varint", self.at))?;
        self.at = next;
        Ok(value)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N]> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| broken("value past the end", at))
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.message.len());
        let Some(end) = end else { return Err(broken("value past the end", self.at)) };
        let taken = &self.message[self.at..end];
        self.at = end;
        Ok(taken)
    }
}

#[cold]
fn broken(what: &str, at: usize) -> Error {
    Error::new(format_args!("read record: {what} at byte {at}"))
}

/// Reads the varint at `at`: its value and the place behind it.
#[inline]
pub(crate) fn read_varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((u64::from(first), at + 1));
    }
    let mut value = u64::from(first & 0x7f);
    for (i, &byte) in bytes.get(at + 1..)?.iter().take(9).enumerate() {
        if i == 8 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * (i + 1));
        if byte < 0x80 {
            return Some((value, at + i + 2));
        }
    }
    None
}

#[inline]
pub(crate) fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a whole field; a group cannot be written and leaves `out` as it is.
pub(crate) fn push_field(out: &mut Vec<u8>, number: u32, value: Value<'_>) {
    let tag = u64::from(number) << 3;
    match value {
        Value::Varint(value) => {
            push_varint(out, tag);
            push_varint(out, value);
        }
        Value::Fixed64(value) => {
            push_varint(out, tag | 1);
            out.extend_from_slice(&value.to_le_bytes());
        }
        Value::Bytes(bytes) => {
            push_varint(out, tag | 2);
            push_varint(out, bytes.len() as u64);
            out.extend_from_slice(bytes);
        }
        Value::Group => {}
        Value::Fixed32(value) => {
            push_varint(out, tag | 5);
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wire_type_is_walked() {
        let values = [Value::Varint(u64::MAX), Value::Fixed64(7), Value::Bytes(b"abc"), Value::Fixed32(9)];
        let mut message = Vec::new();
        for (i, &value) in values.iter().enumerate() {
            push_field(&mut message, 1000 + i as u32, value);
        }
        // A group in a group, with a field inside.
        message.extend_from_slice(&[0x0b, 0x13, 0x18, 5, 0x14, 0x0c, 0x20, 1]);
        let found: Vec<_> = walk(&message).map(|field| field.unwrap()).map(|f| (f.number, f.value)).collect();
        let mut expected: Vec<_> = values.iter().enumerate().map(|(i, &value)| (1000 + i as u32, value)).collect();
        expected.extend([(1, Value::Group), (4, Value::Varint(1))]);
        assert_eq!(found, expected);
    }

    #[test]
    fn broken_messages_are_refused_once() {
        let nested_groups = vec![0x0b; 1000];
        let cases: [&[u8]; 9] = [
            &[0x80],
            &[0x00, 1],
            &[0x0a, 5, 1],
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
            &[0x09, 1, 2, 3],
            &[0x0d, 1],
            &[0x0c],
            &[0x0b, 0x14],
            &nested_groups,
        ];
        for case in cases {
            let results: Vec<_> = walk(case).collect();
            assert_eq!(results.len(), 1, "{case:?}");
            assert!(results[0].is_err(), "{case:?}");
        }
    }
}
