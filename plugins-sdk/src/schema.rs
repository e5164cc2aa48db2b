//! The stream's schema, as far as a plugin needs it: names to numbers.

use std::collections::BTreeMap;

use crate::fields::{Fields, Target};
use crate::wire::{Value, walk};
use crate::{Error, Result};

/// What a field holds, as far as editing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bytes,
    Message,
    /// An entry per key; a path that ends here means the values.
    Map,
    /// Numbers, booleans, enums.
    Number,
}

/// A field found by name: its numbers from the record inwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    path: Vec<u32>,
    kind: Kind,
    is_repeated: bool,
}

impl Field {
    pub fn path(&self) -> &[u32] {
        &self.path
    }

    /// What lies there; a map's is [`Kind::Map`].
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it, or a message around it, may occur several times.
    pub fn is_repeated(&self) -> bool {
        self.is_repeated
    }

    /// The one field as a set, for [`Record::edit`](crate::Record::edit) and [`Record::visit`](crate::Record::visit).
    pub fn select(&self) -> Fields {
        Fields::path(&self.path)
    }
}

/// The message types of a stream, read from its descriptors.
#[derive(Debug)]
pub struct Schema {
    root: String,
    messages: BTreeMap<String, Message>,
}

#[derive(Debug, Default)]
struct Message {
    fields: Vec<Declared>,
    is_map_entry: bool,
}

#[derive(Debug, Default)]
struct Declared {
    name: String,
    number: u32,
    /// As in FieldDescriptorProto.Type.
    type_code: u64,
    /// Full name, for messages.
    type_name: String,
    is_repeated: bool,
}

const TYPE_STRING: u64 = 9;
const TYPE_GROUP: u64 = 10;
const TYPE_MESSAGE: u64 = 11;
const TYPE_BYTES: u64 = 12;
const LABEL_REPEATED: u64 = 3;
const MAP_VALUE: u32 = 2;

impl Schema {
    /// Reads a serialized FileDescriptorSet. Fails where it does not define `message`.
    pub fn read(message: &str, descriptors: &[u8]) -> Result<Schema> {
        let mut schema = Schema { root: message.to_owned(), messages: BTreeMap::new() };
        for (_, file) in nested(descriptors)?.filter(|(number, _)| *number == 1) {
            let package = texts(file, 2)?.last().cloned().unwrap_or_default();
            for (_, message) in nested(file)?.filter(|(number, _)| *number == 4) {
                schema.add(&package, message, 0)?;
            }
        }
        if !schema.messages.contains_key(message) {
            return Err(Error::new(format_args!("find message {message}: the descriptors do not define it")));
        }
        Ok(schema)
    }

    /// Full name of the stream's message.
    pub fn message(&self) -> &str {
        &self.root
    }

    /// Finds a field by name, or by dotted path through nested messages: `user.email`, `labels` (a map's values).
    pub fn field(&self, path: &str) -> Result<Field> {
        let mut field = Field { path: Vec::new(), kind: Kind::Message, is_repeated: false };
        let mut message = Some(self.root.as_str());
        for name in path.split('.') {
            let Some(within) = message else {
                return Err(Error::new(format_args!("find field {path}: nothing lies inside the field before {name}")));
            };
            let declared = self.messages.get(within).and_then(|message| message.fields.iter().find(|f| f.name == name));
            let Some(declared) = declared else {
                return Err(Error::new(format_args!("find field {path}: message {within} has no field {name}")));
            };
            field.path.push(declared.number);
            field.is_repeated |= declared.is_repeated;
            field.kind = declared.kind();
            message = (field.kind == Kind::Message).then_some(declared.type_name.as_str());
            if let Some(value) = self.map_value(declared) {
                field.path.push(MAP_VALUE);
                field.kind = Kind::Map;
                message = (value.kind() == Kind::Message).then_some(value.type_name.as_str());
            }
        }
        Ok(field)
    }

    /// A set of fields by name.
    pub fn fields<N: AsRef<str>>(&self, names: &[N]) -> Result<Fields> {
        let mut fields = Fields::none();
        for name in names {
            fields.add(self.field(name.as_ref())?.path());
        }
        Ok(fields)
    }

    /// Every field of type `string`, at any depth; of maps the values.
    pub fn text_fields(&self) -> Fields {
        let mut fields = Fields::none();
        let mut places = BTreeMap::from([(self.root.as_str(), 0)]);
        let mut open = vec![self.root.as_str()];
        while let Some(name) = open.pop() {
            let Some(message) = self.messages.get(name) else { continue };
            let node = places[name];
            for declared in &message.fields {
                if message.is_map_entry && declared.number != MAP_VALUE {
                    continue;
                }
                let target = match declared.kind() {
                    Kind::Text => Target::Value,
                    Kind::Message => Target::Message(*places.entry(&declared.type_name).or_insert_with(|| {
                        open.push(&declared.type_name);
                        fields.nodes.push(Vec::new());
                        fields.nodes.len() - 1
                    })),
                    Kind::Bytes | Kind::Number | Kind::Map => continue,
                };
                fields.nodes[node].push((declared.number, target));
            }
        }
        fields
    }

    fn map_value(&self, declared: &Declared) -> Option<&Declared> {
        let entry = self.messages.get(&declared.type_name).filter(|message| message.is_map_entry)?;
        entry.fields.iter().find(|field| field.number == MAP_VALUE)
    }

    /// Adds a DescriptorProto and those nested in it.
    fn add(&mut self, scope: &str, descriptor: &[u8], depth: usize) -> Result<()> {
        if depth > crate::wire::DEPTH_MAX {
            return Err(Error::new("read descriptors: message types nested too deep"));
        }
        let name = texts(descriptor, 1)?.last().cloned().unwrap_or_default();
        let name = if scope.is_empty() { name } else { format!("{scope}.{name}") };
        let mut message = Message::default();
        for (number, bytes) in nested(descriptor)? {
            match number {
                2 => message.fields.push(Declared::read(bytes)?),
                3 => self.add(&name, bytes, depth + 1)?,
                7 => message.is_map_entry = number_of(bytes, 7)? != 0,
                _ => {}
            }
        }
        self.messages.insert(name, message);
        Ok(())
    }
}

impl Declared {
    /// Reads a FieldDescriptorProto.
    fn read(descriptor: &[u8]) -> Result<Declared> {
        let type_name = texts(descriptor, 6)?.last().cloned().unwrap_or_default();
        Ok(Declared {
            name: texts(descriptor, 1)?.last().cloned().unwrap_or_default(),
            number: u32::try_from(number_of(descriptor, 3)?)?,
            type_code: number_of(descriptor, 5)?,
            type_name: type_name.trim_start_matches('.').to_owned(),
            is_repeated: number_of(descriptor, 4)? == LABEL_REPEATED,
        })
    }

    fn kind(&self) -> Kind {
        match self.type_code {
            TYPE_STRING => Kind::Text,
            TYPE_BYTES => Kind::Bytes,
            TYPE_MESSAGE => Kind::Message,
            // Groups are skipped on the wire, so nothing inside them can be found.
            TYPE_GROUP => Kind::Number,
            _ => Kind::Number,
        }
    }
}

/// The length-delimited fields of a message.
fn nested(message: &[u8]) -> Result<impl Iterator<Item = (u32, &[u8])>> {
    let fields = walk(message).collect::<Result<Vec<_>>>()?;
    Ok(fields.into_iter().filter_map(|field| match field.value {
        Value::Bytes(bytes) => Some((field.number, bytes)),
        _ => None,
    }))
}

fn texts(message: &[u8], number: u32) -> Result<Vec<String>> {
    nested(message)?
        .filter(|(found, _)| *found == number)
        .map(|(_, bytes)| Ok(std::str::from_utf8(bytes)?.to_owned()))
        .collect()
}

fn number_of(message: &[u8], number: u32) -> Result<u64> {
    let mut last = 0;
    for field in walk(message) {
        let field = field?;
        if let (true, Value::Varint(value)) = (field.number == number, field.value) {
            last = value;
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::Proto;

    fn schema() -> Schema {
        let descriptors = Proto::new("app.v1")
            .message("Event", &[("id", 1, "string"), ("user", 2, "User"), ("tags", 3, "repeated string")])
            .message("User", &[("email", 1, "string"), ("age", 2, "int64"), ("parent", 3, "User"), ("key", 4, "bytes")])
            .map("Event", "labels", 9, "string")
            .map("Event", "users", 10, "User")
            .descriptors();
        Schema::read("app.v1.Event", &descriptors).unwrap()
    }

    #[test]
    fn names_become_numbers() {
        let schema = schema();
        let check = |name: &str, path: &[u32], kind: Kind, is_repeated: bool| {
            let expected = Field { path: path.to_vec(), kind, is_repeated };
            assert_eq!(schema.field(name).unwrap(), expected, "{name}");
        };
        check("id", &[1], Kind::Text, false);
        check("user", &[2], Kind::Message, false);
        check("user.email", &[2, 1], Kind::Text, false);
        check("user.parent.parent.age", &[2, 3, 3, 2], Kind::Number, false);
        check("user.key", &[2, 4], Kind::Bytes, false);
        check("tags", &[3], Kind::Text, true);
        check("labels", &[9, 2], Kind::Map, true);
        check("users.email", &[10, 2, 1], Kind::Text, true);
    }

    #[test]
    fn unknown_names_say_where() {
        let schema = schema();
        let check = |name: &str, expected: &str| assert_eq!(schema.field(name).unwrap_err().to_string(), expected);
        check("mail", "find field mail: message app.v1.Event has no field mail");
        check("user.mail", "find field user.mail: message app.v1.User has no field mail");
        check("id.x", "find field id.x: nothing lies inside the field before x");
        check("labels.x", "find field labels.x: nothing lies inside the field before x");
        check("", "find field : message app.v1.Event has no field ");
        assert!(Schema::read("app.v1.Other", &[]).is_err());
        assert!(Schema::read("app.v1.Event", &[0x0a, 9]).is_err());
    }

    #[test]
    fn text_fields_are_found_at_any_depth() {
        let texts = schema().text_fields();
        let user = vec![(1, Target::Value), (3, Target::Message(1))];
        assert_eq!(texts.nodes[0][..3], [(1, Target::Value), (2, Target::Message(1)), (3, Target::Value)]);
        assert_eq!(texts.nodes[1], user);
        assert_eq!(texts.nodes[2], vec![(2, Target::Value)]);
        assert_eq!(texts.nodes[3], vec![(2, Target::Message(1))]);
        assert_eq!(texts.nodes.len(), 4);
    }
}
