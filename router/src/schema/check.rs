//! Checks a record that came as Protobuf: one walk over its bytes, no message is built.
//!
//! A record passes if every decoder will read it: tags, lengths and groups are sound, known fields have the wire type
//! of their kind, strings are UTF-8, messages nest at most [`wire::MAX_DEPTH`] deep. Unknown fields only have to be
//! sound; they travel along.

use super::plan::{Field, Kind, Message, Plan, Rule};
use super::{Error, Schema, wire};

/// Fails with the field's path and the byte position.
pub fn check(schema: &Schema, message: &[u8]) -> Result<(), Error> {
    let plan = schema.plan();
    walk(plan, plan.root(), message, Place { at: 0, depth: 0 }).map_err(Error::from)
}

#[derive(Clone, Copy)]
struct Place {
    /// Where the walked message's content starts in the record.
    at: usize,
    depth: usize,
}

/// Built only where a record is refused; the path grows on the way out.
pub(super) struct Fault {
    path: Vec<String>,
    at: usize,
    reason: String,
}

impl Fault {
    pub(super) fn new(at: usize, reason: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { path: Vec::new(), at, reason: reason.into() })
    }

    pub(super) fn inside(mut self: Box<Fault>, name: &str) -> Box<Fault> {
        self.path.push(name.to_owned());
        self
    }
}

impl From<Box<Fault>> for Error {
    fn from(mut fault: Box<Fault>) -> Error {
        fault.path.reverse();
        Error::Record { path: fault.path.join("."), reason: format!("{} at byte {}", fault.reason, fault.at) }
    }
}

fn walk(plan: &Plan, message: &Message, bytes: &[u8], place: Place) -> Result<(), Box<Fault>> {
    if place.depth > wire::MAX_DEPTH {
        return Err(Fault::new(place.at, format!("messages nest more than {} deep", wire::MAX_DEPTH)));
    }
    let broken = |broken: wire::Broken| Fault::new(place.at + broken.at, broken.reason);
    let mut fields = wire::Fields::new(bytes);
    while let Some(found) = fields.read().map_err(broken)? {
        if let Some(known) = message.by_number(found.number) {
            let field = &message.fields[known];
            check_field(plan, field, &found, place).map_err(|fault| fault.inside(&field.name))?;
        }
    }
    Ok(())
}

fn check_field(plan: &Plan, field: &Field, found: &wire::Field, place: Place) -> Result<(), Box<Fault>> {
    let at = place.at + found.content_at;
    match (field.kind, found.value) {
        (Kind::String, wire::Value::Len) => {
            let wrong = |error: std::str::Utf8Error| Fault::new(at + error.valid_up_to(), "string is not UTF-8");
            std::str::from_utf8(found.content).map(|_| ()).map_err(wrong)
        }
        (Kind::Bytes, wire::Value::Len) => Ok(()),
        (Kind::Message(inner), wire::Value::Len) => {
            // A map's entry is no level of its own: decoders do not count it.
            let depth = place.depth + usize::from(field.rule != Rule::Map);
            walk(plan, &plan.messages[inner], found.content, Place { at, depth })
        }
        (Kind::Group(inner), wire::Value::Group) => {
            walk(plan, &plan.messages[inner], found.content, Place { at, depth: place.depth + 1 })
        }
        (kind, wire::Value::Len) if matches!(field.rule, Rule::List | Rule::PackedList) && is_packable(kind) => {
            check_packed(kind, found.content).map_err(|inner| Fault::new(at + inner, "packed list is cut short"))
        }
        (kind, value) if fits(kind, value) => Ok(()),
        _ => Err(Fault::new(place.at + found.start, "wire type is not that of the field")),
    }
}

pub(super) fn is_packable(kind: Kind) -> bool {
    matches!(kind.wire_type(), wire::VARINT | wire::FIXED32 | wire::FIXED64)
}

/// Whether a single scalar value lies as its kind says.
pub(super) fn fits(kind: Kind, value: wire::Value) -> bool {
    let found = match value {
        wire::Value::Varint(_) => wire::VARINT,
        wire::Value::Fixed64(_) => wire::FIXED64,
        wire::Value::Fixed32(_) => wire::FIXED32,
        wire::Value::Len => wire::LEN,
        wire::Value::Group => wire::START_GROUP,
    };
    kind.wire_type() == found
}

fn check_packed(kind: Kind, content: &[u8]) -> Result<(), usize> {
    let width = match kind.wire_type() {
        wire::FIXED64 => 8,
        wire::FIXED32 => 4,
        _ => {
            let mut at = 0;
            while at < content.len() {
                at = crate::record::read_varint(content, at).ok_or(at)?.1;
            }
            return Ok(());
        }
    };
    match content.len() % width {
        0 => Ok(()),
        rest => Err(content.len() - rest),
    }
}
