//! Fields of a message as they lie on the wire.

use crate::record::read_varint;

/// Groups within groups within an unknown group; deeper is refused.
const GROUP_DEPTH_MAX: usize = 100;

/// One value, before anybody says what it means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    /// Length-delimited, or what lies between the tags of a group.
    Bytes(&'a [u8]),
}

/// Walks the fields of one message.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { bytes, at: 0 }
    }

    /// The next field's number and value; `None` at the end. An error says what is broken.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, String> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let (number, kind) = self.tag()?;
        let value = match kind {
            3 => Value::Bytes(self.group(number)?),
            _ => self.value(number, kind)?,
        };
        Ok(Some((number, value)))
    }

    fn tag(&mut self) -> Result<(u32, u8), String> {
        let start = self.at;
        let (tag, at) = read_varint(self.bytes, start).ok_or_else(|| format!("tag at byte {start} is broken"))?;
        self.at = at;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| format!("tag at byte {start} has a field number out of range"))?;
        Ok((number, (tag & 7) as u8))
    }

    fn value(&mut self, number: u32, kind: u8) -> Result<Value<'a>, String> {
        let short = || format!("field number {number} is cut short");
        match kind {
            0 => {
                let (value, at) = read_varint(self.bytes, self.at).ok_or_else(short)?;
                self.at = at;
                Ok(Value::Varint(value))
            }
            1 => {
                let bytes = self.take(8).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
                Ok(Value::Fixed64(u64::from_le_bytes(bytes)))
            }
            2 => {
                let (len, at) = read_varint(self.bytes, self.at).ok_or_else(short)?;
                self.at = at;
                let len = usize::try_from(len).map_err(|_| short())?;
                Ok(Value::Bytes(self.take(len).ok_or_else(short)?))
            }
            5 => {
                let bytes = self.take(4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
                Ok(Value::Fixed32(u32::from_le_bytes(bytes)))
            }
            _ => Err(format!("field number {number} has wire type {kind}")),
        }
    }

    /// What lies before the end tag that matches an opened group.
    fn group(&mut self, number: u32) -> Result<&'a [u8], String> {
        let start = self.at;
        let mut open = vec![number];
        loop {
            let tag_at = self.at;
            if tag_at == self.bytes.len() {
                return Err(format!("group {number} has no end"));
            }
            let (inner, kind) = self.tag()?;
            match kind {
                3 if open.len() == GROUP_DEPTH_MAX => return Err(format!("group {number} is nested too deep")),
                3 => open.push(inner),
                4 if open.pop() != Some(inner) => return Err(format!("group {inner} ends but was not begun")),
                4 if open.is_empty() => return Ok(&self.bytes[start..tag_at]),
                4 => {}
                _ => {
                    self.value(inner, kind)?;
                }
            }
        }
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }
}

/// Decodes the values of a packed list, each of `kind` (0 varint, 1 eight bytes, 5 four bytes), until `visit` refuses
/// or the list ends.
pub(super) fn packed<'a>(
    bytes: &'a [u8],
    kind: u8,
    mut visit: impl FnMut(Value<'a>) -> Result<(), String>,
) -> Result<(), String> {
    let mut fields = Fields::new(bytes);
    while fields.at < bytes.len() {
        let value = fields.value(0, kind).map_err(|_| "packed list is cut short".to_owned())?;
        visit(value)?;
    }
    Ok(())
}

pub(super) fn zigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}
