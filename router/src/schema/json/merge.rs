//! Fields that lie in pieces.
//!
//! Protobuf allows a message to be written piece by piece: the last of two values counts, two halves of a message are
//! merged, a list may be scattered, the last member of a oneof wins, of two entries of a map with one key the last.
//! Encoders hardly ever do that, so a message is first looked over for it (a few instructions per field), and only where
//! it is so it is copied with each field in one piece.

use super::super::check::{Fault, fits};
use super::super::plan::{Kind, Message, Rule};
use super::super::wire::{self, Fields};
use super::lexer::Read;
use super::read::Seen;

/// Where in the record the bytes lie that are being walked.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Where the message's content starts in the record. Behind a merge it is where the merged parts would start.
    pub at: usize,
    pub depth: usize,
}

impl Place {
    pub fn broken(self) -> impl Fn(wire::Broken) -> Box<Fault> {
        move |broken| Fault::new(self.at + broken.at, broken.reason)
    }

    pub fn inside(self, found: &wire::Field) -> Place {
        Place { at: self.at + found.content_at, depth: self.depth + 1 }
    }
}

/// Whether a single field comes twice, a list is scattered (unknown fields count as well), or two members of a oneof
/// came.
#[inline]
pub(super) fn needs_merge(message: &Message, bytes: &[u8], place: Place) -> Read<bool> {
    let mut seen = Seen::new(message);
    let mut last = None;
    let mut fields = Fields::new(bytes);
    while let Some(found) = fields.read().map_err(place.broken())? {
        let Some(known) = message.by_number(found.number) else {
            last = None;
            continue;
        };
        let field = &message.fields[known];
        let goes_on = last == Some(known) && !matches!(field.rule, Rule::Explicit | Rule::Implicit);
        if !goes_on && seen.add(known, field).is_some() {
            return Ok(true);
        }
        last = Some(known);
    }
    Ok(false)
}

/// The same message with each field in one piece. Unknown fields are left out.
pub(super) fn merge(message: &Message, bytes: &[u8], place: Place) -> Read<Vec<u8>> {
    let mut found = Vec::new();
    let mut fields = Fields::new(bytes);
    while let Some(field) = fields.read().map_err(place.broken())? {
        let Some(known) = message.by_number(field.number) else { continue };
        let is_list = !matches!(message.fields[known].rule, Rule::Explicit | Rule::Implicit);
        if !is_list && !fits(message.fields[known].kind, field.value) {
            return Err(Fault::new(place.at + field.start, "wire type is not that of the field"));
        }
        found.push((known, field));
    }
    settle_oneofs(message, &mut found);
    found.sort_by_key(|(known, _)| *known);
    let mut merged = Vec::with_capacity(bytes.len());
    for parts in found.chunk_by(|(a, _), (b, _)| a == b) {
        let Some((known, last)) = parts.last() else { continue };
        let field = &message.fields[*known];
        match (field.rule, field.kind) {
            (Rule::Explicit | Rule::Implicit, Kind::Message(_) | Kind::Group(_)) => {
                let content: Vec<u8> = parts.iter().flat_map(|(_, part)| part.content).copied().collect();
                if let Kind::Group(_) = field.kind {
                    wire::push_tag(&mut merged, field.number, wire::START_GROUP);
                    merged.extend_from_slice(&content);
                    wire::push_tag(&mut merged, field.number, wire::END_GROUP);
                } else {
                    wire::push_len(&mut merged, field.number, &content);
                }
            }
            (Rule::Explicit | Rule::Implicit, _) => merged.extend_from_slice(&bytes[last.start..last.end]),
            _ => parts.iter().for_each(|(_, part)| merged.extend_from_slice(&bytes[part.start..part.end])),
        }
    }
    Ok(merged)
}

/// Keeps the member of each oneof that came last, and of it what came behind the last other member.
fn settle_oneofs(message: &Message, found: &mut Vec<(usize, wire::Field)>) {
    // Per oneof, from the back: the winner, and whether another member was met before it.
    let mut settled: Vec<Option<(usize, bool)>> = vec![None; message.oneofs];
    let mut kept: Vec<bool> = Vec::with_capacity(found.len());
    for (known, _) in found.iter().rev() {
        let state = message.fields[*known].oneof.and_then(|oneof| settled.get_mut(oneof));
        kept.push(match state {
            None => true,
            Some(state) => {
                let (winner, is_closed) = state.get_or_insert((*known, false));
                *is_closed |= winner != known;
                !*is_closed
            }
        });
    }
    let mut kept = kept.into_iter().rev();
    found.retain(|_| kept.next().unwrap_or(true));
}

/// The key of a map's entry, to tell equal ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'a> {
    Absent,
    Bits(u64),
    Text(&'a [u8]),
}

/// Comparing each with each is faster for maps of up to so many entries.
const FEW_ENTRIES: usize = 16;

/// Places of the entries that no later one of the same key replaces.
pub(super) fn last_of_each_key(entries: &[wire::Field], place: Place) -> Read<Vec<usize>> {
    let mut keys = Vec::with_capacity(entries.len());
    for entry in entries {
        let key = last_of(entry.content, 1, place.inside(entry))?;
        keys.push(match key.map(|key| (key.value, key.content)) {
            None => Key::Absent,
            // An absent key is the default key.
            Some((wire::Value::Len | wire::Value::Group, [])) => Key::Absent,
            Some((wire::Value::Len | wire::Value::Group, text)) => Key::Text(text),
            Some((value, _)) if bits(value) == 0 => Key::Absent,
            Some((value, _)) => Key::Bits(bits(value)),
        });
    }
    if keys.len() <= FEW_ENTRIES {
        return Ok((0..keys.len()).filter(|&at| !keys[at + 1..].contains(&keys[at])).collect());
    }
    let last: std::collections::HashMap<Key, usize> = keys.iter().enumerate().map(|(at, key)| (*key, at)).collect();
    Ok((0..keys.len()).filter(|at| last.get(&keys[*at]) == Some(at)).collect())
}

/// The next field of a number, others passed over.
pub(super) fn next_of<'a>(fields: &mut Fields<'a>, number: u32, place: Place) -> Read<Option<wire::Field<'a>>> {
    while let Some(found) = fields.read().map_err(place.broken())? {
        if found.number == number {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The next field if it has this number.
pub(super) fn next_in_row<'a>(fields: &mut Fields<'a>, number: u32, place: Place) -> Read<Option<wire::Field<'a>>> {
    let mut ahead = fields.clone();
    match ahead.read().map_err(place.broken())? {
        Some(found) if found.number == number => {
            *fields = ahead;
            Ok(Some(found))
        }
        _ => Ok(None),
    }
}

pub(super) fn last_of<'a>(bytes: &'a [u8], number: u32, place: Place) -> Read<Option<wire::Field<'a>>> {
    let mut fields = Fields::new(bytes);
    let mut last = None;
    while let Some(found) = next_of(&mut fields, number, place)? {
        last = Some(found);
    }
    Ok(last)
}

pub(super) fn bits(value: wire::Value) -> u64 {
    match value {
        wire::Value::Varint(bits) | wire::Value::Fixed64(bits) => bits,
        wire::Value::Fixed32(bits) => u64::from(bits),
        wire::Value::Len | wire::Value::Group => 0,
    }
}
