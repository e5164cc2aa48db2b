//! Protobuf's wire format: reading the fields of one message, and appending them.
//!
//! `Fields` walks one level: a nested message, string or packed list is a range of bytes that the caller may walk in
//! turn. Nothing is allocated. Whatever the bytes are, reading ends in `None` or an error, never in a panic.
//! Limits: groups nest at most [`MAX_DEPTH`] deep, which is also what prost accepts for messages.

use crate::record::{push_varint, read_varint};

/// How deep messages may nest below the record itself.
pub const MAX_DEPTH: usize = 100;

/// Bytes that are not a message: where, counted from the start of the bytes that were walked, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken {
    pub at: usize,
    pub reason: &'static str,
}

/// How a field's value lies on the wire, with the value of the scalar ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    /// Length-delimited; the content is `Field::content`.
    Len,
    /// Between a start and an end tag; the content is `Field::content`.
    Group,
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    pub number: u32,
    pub value: Value,
    /// Content of a length-delimited field or group; empty for scalars.
    pub content: &'a [u8],
    /// Where the content starts in the walked bytes.
    pub content_at: usize,
    /// Place of the whole field, its tag included.
    pub start: usize,
    pub end: usize,
}

/// The fields of a message in the order they lie.
#[derive(Clone)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0 }
    }

    /// The next field; `None` at the end of the message.
    #[inline]
    pub fn read(&mut self) -> Result<Option<Field<'a>>, Broken> {
        if self.at >= self.bytes.len() {
            return Ok(None);
        }
        let start = self.at;
        let (number, kind) = self.tag()?;
        let mut field = Field { number, value: Value::Len, content: &[], content_at: self.at, start, end: 0 };
        match kind {
            0 => field.value = Value::Varint(self.varint()?),
            1 => field.value = Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = self.varint()?;
                field.content_at = self.at;
                field.content = self.take(len)?;
            }
            3 => {
                field.value = Value::Group;
                field.content = self.group(number, 0)?;
            }
            5 => field.value = Value::Fixed32(u32::from_le_bytes(self.array()?)),
            4 => return Err(Broken { at: start, reason: "end of a group that did not start" }),
            _ => return Err(Broken { at: start, reason: "no such wire type" }),
        }
        field.end = self.at;
        Ok(Some(field))
    }

    #[inline]
    fn tag(&mut self) -> Result<(u32, u32), Broken> {
        let start = self.at;
        let tag = u32::try_from(self.varint()?).map_err(|_| Broken { at: start, reason: "field number too large" })?;
        if tag < 8 {
            return Err(Broken { at: start, reason: "field number 0" });
        }
        Ok((tag >> 3, tag & 7))
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Broken> {
        if let Some(&byte) = self.bytes.get(self.at)
            && byte < 0x80
        {
            self.at += 1;
            return Ok(u64::from(byte));
        }
        let broken = Broken { at: self.at, reason: "number is cut short or over ten bytes" };
        let (value, at) = read_varint(self.bytes, self.at).ok_or(broken)?;
        self.at = at;
        Ok(value)
    }

    #[inline]
    fn take(&mut self, len: u64) -> Result<&'a [u8], Broken> {
        let broken = Broken { at: self.at, reason: "length points past the end" };
        let len = usize::try_from(len).ok().filter(|&len| len <= self.bytes.len() - self.at).ok_or(broken)?;
        let taken = &self.bytes[self.at..self.at + len];
        self.at += len;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        let broken = Broken { at: self.at, reason: "value is cut short" };
        let array = self.bytes[self.at..].first_chunk::<N>().ok_or(broken)?;
        self.at += N;
        Ok(*array)
    }

    /// Passes over a group whose start tag was read; returns what lies before its end tag.
    fn group(&mut self, number: u32, depth: usize) -> Result<&'a [u8], Broken> {
        let start = self.at;
        if depth >= MAX_DEPTH {
            return Err(Broken { at: start, reason: "groups nest too deep" });
        }
        loop {
            let end = self.at;
            if end >= self.bytes.len() {
                return Err(Broken { at: start, reason: "group does not end" });
            }
            match self.tag()? {
                (_, 0) => drop(self.varint()?),
                (_, 1) => drop(self.array::<8>()?),
                (_, 2) => {
                    let len = self.varint()?;
                    self.take(len)?;
                }
                (inner, 3) => drop(self.group(inner, depth + 1)?),
                (inner, 4) if inner == number => return Ok(&self.bytes[start..end]),
                (_, 4) => return Err(Broken { at: end, reason: "end of another group" }),
                (_, 5) => drop(self.array::<4>()?),
                _ => return Err(Broken { at: end, reason: "no such wire type" }),
            }
        }
    }
}

/// Wire types as they stand in a tag.
pub const VARINT: u32 = 0;
pub const FIXED64: u32 = 1;
pub const LEN: u32 = 2;
pub const START_GROUP: u32 = 3;
pub const END_GROUP: u32 = 4;
pub const FIXED32: u32 = 5;

#[inline]
pub fn push_tag(out: &mut Vec<u8>, number: u32, wire_type: u32) {
    push_varint(out, u64::from(number) << 3 | u64::from(wire_type));
}

/// Appends a length-delimited field.
#[inline]
pub fn push_len(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    push_tag(out, number, LEN);
    push_varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

/// Makes room for a length that is not known yet; give the result to `close_len` behind the content.
#[inline]
pub fn open_len(out: &mut Vec<u8>) -> usize {
    out.push(0);
    out.len()
}

/// Writes the length of what lies from `start` to the end into the room that `open_len` made. Most contents are
/// shorter than 128 bytes and need only that one byte; longer ones move up.
#[inline]
pub fn close_len(out: &mut Vec<u8>, start: usize) {
    let len = out.len() - start;
    if len < 0x80 {
        out[start - 1] = len as u8;
        return;
    }
    let end = out.len();
    push_varint(out, len as u64);
    let room = out.len() - end;
    let mut varint = [0; 10];
    varint[..room].copy_from_slice(&out[end..]);
    out.truncate(end + room - 1);
    out.copy_within(start..end, start + room - 1);
    out[start - 1..start - 1 + room].copy_from_slice(&varint[..room]);
}

pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_patched_at_every_size() {
        for len in [0, 1, 127, 128, 300, 16_383, 16_384, 70_000] {
            let content: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut patched = vec![9, 9];
            push_tag(&mut patched, 3, LEN);
            let start = open_len(&mut patched);
            patched.extend_from_slice(&content);
            close_len(&mut patched, start);
            let mut expected = vec![9, 9];
            push_len(&mut expected, 3, &content);
            assert!(patched == expected, "len {len}");
        }
    }

    #[test]
    fn zigzag_turns_back() {
        for value in [0, -1, 1, i64::MIN, i64::MAX, i64::from(i32::MIN)] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn broken_bytes_name_the_place() {
        let check = |bytes: &[u8], at, reason| {
            let mut fields = Fields::new(bytes);
            let broken = loop {
                match fields.read() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{bytes:?} was accepted"),
                    Err(broken) => break broken,
                }
            };
            assert_eq!(broken, Broken { at, reason }, "{bytes:?}");
        };
        check(&[8, 1, 0x10], 3, "number is cut short or over ten bytes");
        check(&[0, 1], 0, "field number 0");
        check(&[0x0a, 5, 1], 2, "length points past the end");
        check(&[0x09, 1, 2], 1, "value is cut short");
        check(&[0x0d, 1, 2], 1, "value is cut short");
        check(&[0x0b, 8, 1], 1, "group does not end");
        check(&[0x0b, 0x14], 1, "end of another group");
        check(&[0x0c], 0, "end of a group that did not start");
        check(&[0x0e], 0, "no such wire type");
        check(&[0xff; 5], 0, "number is cut short or over ten bytes");
        check(&vec![0x0b; 500], 101, "groups nest too deep");
    }

    #[test]
    fn groups_are_passed_as_one_field() {
        let mut fields = Fields::new(&[0x0b, 0x13, 8, 1, 0x14, 0x0c, 0x18, 7]);
        let group = fields.read().unwrap().unwrap();
        assert_eq!((group.number, group.value, group.content), (1, Value::Group, &[0x13, 8, 1, 0x14][..]));
        let varint = fields.read().unwrap().unwrap();
        assert_eq!((varint.number, varint.value), (3, Value::Varint(7)));
        assert!(fields.read().unwrap().is_none());
    }
}
