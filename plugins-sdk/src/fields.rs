//! A set of fields, visited or edited in one pass over the record.

use crate::wire::{DEPTH_MAX, Value, push_varint, walk};
use crate::{Error, Result};

/// What an edit makes of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    Keep,
    /// The buffer's content takes its place, as a string, bytes or message.
    Replace,
    /// The field goes.
    Remove,
}

/// Fields chosen once, when the plugin starts: see [`Schema::fields`](crate::Schema::fields) and
/// [`Schema::text_fields`](crate::Schema::text_fields).
///
/// It is a graph, not a list of paths: a node for each message, so that a message type that contains itself is one
/// node that points to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The first is the record itself.
    pub(crate) nodes: Vec<Vec<(u32, Target)>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The field is selected.
    Value,
    /// Selected fields lie inside it.
    Message(usize),
}

impl Fields {
    pub(crate) fn none() -> Fields {
        Fields { nodes: vec![Vec::new()] }
    }

    pub(crate) fn path(path: &[u32]) -> Fields {
        let mut fields = Fields::none();
        fields.add(path);
        fields
    }

    /// True where nothing is selected.
    pub fn is_empty(&self) -> bool {
        self.nodes.iter().flatten().all(|(_, target)| *target != Target::Value)
    }

    /// Selects one more path. A selected message takes in all that lies inside it.
    pub(crate) fn add(&mut self, path: &[u32]) {
        let mut node = 0;
        for (i, &number) in path.iter().enumerate() {
            let is_last = i + 1 == path.len();
            let known = self.nodes[node].iter_mut().find(|(known, _)| *known == number);
            node = match known {
                Some((_, Target::Value)) => return,
                Some((_, target)) if is_last => {
                    *target = Target::Value;
                    return;
                }
                Some((_, Target::Message(next))) => *next,
                None if is_last => {
                    self.nodes[node].push((number, Target::Value));
                    return;
                }
                None => {
                    let next = self.nodes.len();
                    self.nodes[node].push((number, Target::Message(next)));
                    self.nodes.push(Vec::new());
                    next
                }
            };
        }
    }

    /// Copies `message` with the edits into `out` and says true; leaves `out` empty and says false where `each` keeps
    /// everything. `value` is scratch space.
    pub(crate) fn rewrite(
        &self,
        message: &[u8],
        out: &mut Vec<u8>,
        value: &mut Vec<u8>,
        each: &mut dyn FnMut(Value<'_>, &mut Vec<u8>) -> Edit,
    ) -> Result<bool> {
        Rewrite { fields: self, value, each }.message(0, message, out, 0)
    }
}

struct Rewrite<'a> {
    fields: &'a Fields,
    value: &'a mut Vec<u8>,
    each: &'a mut dyn FnMut(Value<'_>, &mut Vec<u8>) -> Edit,
}

impl Rewrite<'_> {
    fn message(&mut self, node: usize, message: &[u8], out: &mut Vec<u8>, depth: usize) -> Result<bool> {
        if depth > DEPTH_MAX {
            return Err(Error::new(format_args!("read record: messages nested deeper than {DEPTH_MAX}")));
        }
        let fields = self.fields;
        let targets = &fields.nodes[node];
        // Everything before this place is in `out`, or nothing has changed yet.
        let mut copied = 0;
        let mut is_changed = false;
        for field in walk(message) {
            let field = field?;
            let Some(&(_, target)) = targets.iter().find(|(number, _)| *number == field.number) else { continue };
            let nested;
            let new: Option<&[u8]> = match (target, field.value) {
                (Target::Value, old) => {
                    self.value.clear();
                    match (self.each)(old, self.value) {
                        Edit::Keep => continue,
                        Edit::Replace => Some(self.value),
                        Edit::Remove => None,
                    }
                }
                (Target::Message(next), Value::Bytes(old)) => {
                    let mut body = Vec::new();
                    if !self.message(next, old, &mut body, depth + 1)? {
                        continue;
                    }
                    nested = body;
                    Some(&nested)
                }
                // The schema says message, the record says number: not ours to judge.
                (Target::Message(_), _) => continue,
            };
            out.extend_from_slice(&message[copied..field.range.start]);
            if let Some(new) = new {
                push_varint(out, u64::from(field.number) << 3 | 2);
                push_varint(out, new.len() as u64);
                out.extend_from_slice(new);
            }
            copied = field.range.end;
            is_changed = true;
        }
        if is_changed {
            out.extend_from_slice(&message[copied..]);
        }
        Ok(is_changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::push_field;

    fn message(fields: &[(u32, Value<'_>)]) -> Vec<u8> {
        let mut out = Vec::new();
        fields.iter().for_each(|&(number, value)| push_field(&mut out, number, value));
        out
    }

    fn rewrite(
        fields: &Fields,
        message: &[u8],
        each: &mut dyn FnMut(Value<'_>, &mut Vec<u8>) -> Edit,
    ) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let is_changed = fields.rewrite(message, &mut out, &mut Vec::new(), each).unwrap();
        assert!(is_changed || out.is_empty());
        is_changed.then_some(out)
    }

    #[test]
    fn every_occurrence_is_edited_and_the_rest_kept() {
        let item =
            |text: &'static [u8]| message(&[(1, Value::Varint(5)), (2, Value::Bytes(text)), (3, Value::Fixed32(1))]);
        let source = message(&[
            (1, Value::Bytes(b"keep")),
            (4, Value::Bytes(&item(b"keep"))),
            (4, Value::Bytes(&item(b"change"))),
            (5, Value::Bytes(b"remove")),
            (6, Value::Varint(1)),
        ]);
        let mut fields = Fields::none();
        [&[1][..], &[4, 2], &[5], &[6, 2]].iter().for_each(|path| fields.add(path));
        let result = rewrite(&fields, &source, &mut |value, out| match value {
            Value::Bytes(b"change") => {
                out.extend_from_slice(&[b'x'; 300]);
                Edit::Replace
            }
            Value::Bytes(b"remove") => Edit::Remove,
            _ => Edit::Keep,
        });
        let changed = message(&[(1, Value::Varint(5)), (2, Value::Bytes(&[b'x'; 300])), (3, Value::Fixed32(1))]);
        let expected = message(&[
            (1, Value::Bytes(b"keep")),
            (4, Value::Bytes(&item(b"keep"))),
            (4, Value::Bytes(&changed)),
            (6, Value::Varint(1)),
        ]);
        assert_eq!(result, Some(expected));
        assert_eq!(rewrite(&fields, &source, &mut |_, _| Edit::Keep), None);
    }

    #[test]
    fn recursion_of_a_record_is_bounded() {
        let fields = Fields { nodes: vec![vec![(1, Target::Message(0)), (2, Target::Value)]] };
        let mut source = message(&[(2, Value::Bytes(b"x"))]);
        for _ in 0..DEPTH_MAX {
            source = message(&[(1, Value::Bytes(&source))]);
        }
        assert!(rewrite(&fields, &source, &mut |_, _| Edit::Remove).is_some());
        source = message(&[(1, Value::Bytes(&source))]);
        assert!(fields.rewrite(&source, &mut Vec::new(), &mut Vec::new(), &mut |_, _| Edit::Keep).is_err());
    }

    #[test]
    fn a_selected_message_takes_in_its_fields() {
        let mut fields = Fields::none();
        [&[4, 2][..], &[4], &[4, 3]].iter().for_each(|path| fields.add(path));
        let source = message(&[(4, Value::Bytes(&message(&[(2, Value::Varint(1))])))]);
        assert_eq!(rewrite(&fields, &source, &mut |_, _| Edit::Remove), Some(Vec::new()));
        assert!(!fields.is_empty() && Fields::none().is_empty());
    }
}
