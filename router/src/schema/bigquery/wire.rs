//! Protobuf on the wire: fields one after the other, without a schema.

use super::Error;
use crate::record::{push_varint, read_varint};

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const BYTES: u8 = 2;
const GROUP: u8 = 3;
const GROUP_END: u8 = 4;
pub(super) const FIXED32: u8 = 5;

/// Groups inside groups, at most: what the official decoders allow.
const DEPTH_MAX: u32 = 100;

/// One field as it stands in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) number: u32,
    pub(super) value: Value<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32([u8; 4]),
    /// A string, bytes, a message or packed scalars.
    Bytes(&'a [u8]),
    /// The fields between a group's two tags.
    Group(&'a [u8]),
}

/// Walks the fields of a message.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0 }
    }

    /// The next field; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, Error> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let start = self.at;
        let (number, wire) = self.tag()?;
        let value = match wire {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => Value::Fixed64(self.fixed()?),
            FIXED32 => Value::Fixed32(self.fixed()?),
            BYTES => Value::Bytes(self.bytes()?),
            GROUP => Value::Group(self.group(number)?),
            _ => return Err(broken(start)),
        };
        Ok(Some(Field { number, value }))
    }

    fn tag(&mut self) -> Result<(u32, u8), Error> {
        let start = self.at;
        let tag = self.varint()?;
        match u32::try_from(tag >> 3) {
            Ok(number) if number > 0 && number < 1 << 29 => Ok((number, (tag & 7) as u8)),
            _ => Err(broken(start)),
        }
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let (value, end) = read_varint(self.bytes, self.at).ok_or_else(|| broken(self.at))?;
        self.at = end;
        Ok(value)
    }

    fn fixed<const LEN: usize>(&mut self) -> Result<[u8; LEN], Error> {
        let bytes = self.bytes.get(self.at..).and_then(<[u8]>::first_chunk).ok_or_else(|| broken(self.at))?;
        self.at += LEN;
        Ok(*bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], Error> {
        let start = self.at;
        let len = self.varint()?;
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len)).ok_or_else(|| broken(start))?;
        let bytes = self.bytes.get(self.at..end).ok_or_else(|| broken(start))?;
        self.at = end;
        Ok(bytes)
    }

    /// Goes past the end of the group that has just begun.
    fn group(&mut self, number: u32) -> Result<&'a [u8], Error> {
        let start = self.at;
        let mut open = vec![number];
        loop {
            let end = self.at;
            match self.tag()? {
                (_, VARINT) => drop(self.varint()?),
                (_, FIXED64) => drop(self.fixed::<8>()?),
                (_, FIXED32) => drop(self.fixed::<4>()?),
                (_, BYTES) => drop(self.bytes()?),
                (number, GROUP) if open.len() < DEPTH_MAX as usize => open.push(number),
                (number, GROUP_END) if open.last() == Some(&number) => {
                    open.pop();
                    if open.is_empty() {
                        return Ok(&self.bytes[start..end]);
                    }
                }
                _ => return Err(broken(end)),
            }
        }
    }
}

fn broken(at: usize) -> Error {
    Error::Record { path: String::new(), reason: format!("no Protobuf message: byte {at} begins no whole field") }
}

pub(super) fn push_tag(out: &mut Vec<u8>, number: u32, wire: u8) {
    push_varint(out, u64::from(number) << 3 | u64::from(wire));
}

pub(super) fn push_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    push_tag(out, number, BYTES);
    push_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends a message field whose content `write` appends.
pub(super) fn push_message<F>(out: &mut Vec<u8>, number: u32, write: F) -> Result<(), Error>
where
    F: FnOnce(&mut Vec<u8>) -> Result<(), Error>,
{
    push_tag(out, number, BYTES);
    let start = out.len();
    write(out)?;
    let end = out.len();
    // The length comes first but is known last: append it and turn it to the front.
    push_varint(out, (end - start) as u64);
    let len_bytes = out.len() - end;
    out[start..].rotate_right(len_bytes);
    Ok(())
}
