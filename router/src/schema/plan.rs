//! Plans: what transcoding needs to know of a message type, as flat tables.
//!
//! A descriptor answers through strings, locks and maps; a plan is made from it once per schema and then only indexed:
//! a field by its number or its name, a message or enum by its place in the plan. Types that refer to themselves are
//! references to the same place, so a plan is finite however deep its messages nest.
//! Extensions that the schema's own files define are fields like others, named `[package.name]`.

use std::collections::HashMap;

use prost_reflect::{Cardinality, EnumDescriptor, FieldDescriptor, MessageDescriptor};

use super::options::{Epoch, FieldOptions};
use super::plan_names::Names;

/// All message and enum types that a record of one type may hold; the record's own is message 0.
#[derive(Debug)]
pub struct Plan {
    pub messages: Vec<Message>,
    pub enums: Vec<Enum>,
    /// Messages by full name, where a record may hold any of them (`google.protobuf.Any`); else empty.
    any: HashMap<String, usize>,
}

#[derive(Debug)]
pub struct Message {
    pub shape: Shape,
    /// In the order of their numbers.
    pub fields: Vec<Field>,
    /// Number of oneofs with more than one member.
    pub oneofs: usize,
    names: Names,
    /// Place + 1 in `fields` by number, for small numbers; 0 = none.
    dense: Vec<u32>,
}

#[derive(Debug)]
pub struct Field {
    pub number: u32,
    pub name: Box<str>,
    /// `"name":` as it stands in JSON.
    pub json_key: Box<[u8]>,
    pub kind: Kind,
    pub rule: Rule,
    /// Which oneof of the message it belongs to; `None` as well for proto3 `optional`.
    pub oneof: Option<usize>,
    /// Unit in which a time may be given as a number.
    pub epoch: Option<Epoch>,
}

/// How often a field may stand in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// At most once; its default value is told apart from its absence.
    Explicit,
    /// At most once; its default value is its absence.
    Implicit,
    List,
    /// Written packed; read either way, as is `List`.
    PackedList,
    /// `kind` is the entry: a message whose fields are the key and the value.
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    Enum(usize),
    Message(usize),
    Group(usize),
}

/// How a message looks in JSON: an object, or the special forms of the well-known types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Object,
    Timestamp,
    Duration,
    FieldMask,
    Struct,
    List,
    Value,
    Wrapper,
    Any,
    /// An object without fields; it differs from one only inside an `Any`.
    Empty,
}

#[derive(Debug)]
pub struct Enum {
    pub names: Names,
    /// `google.protobuf.NullValue`, which is JSON's null.
    pub is_null: bool,
    /// First value, which is the default.
    pub default: i32,
    /// Number and `"NAME"`, by number; of several names for one number the first.
    values: Vec<(i32, Box<[u8]>)>,
    numbers: Vec<i32>,
}

impl Plan {
    pub fn new(root: &MessageDescriptor) -> Plan {
        Builder::default().build(root)
    }

    pub fn root(&self) -> &Message {
        &self.messages[0]
    }

    /// The message type that an `Any` names.
    pub fn any(&self, type_url: &str) -> Option<&Message> {
        let name = type_url.rsplit_once('/')?.1;
        self.any.get(name).map(|&place| &self.messages[place])
    }
}

impl Message {
    #[inline]
    pub fn by_number(&self, number: u32) -> Option<usize> {
        match self.dense.get(number as usize) {
            Some(&place) => (place as usize).checked_sub(1),
            None => self.fields.binary_search_by_key(&number, |field| field.number).ok(),
        }
    }

    /// By JSON name or proto name. `guess` is tried first: logs repeat their keys in one order.
    #[inline]
    pub fn by_name(&self, name: &[u8], guess: usize) -> Option<usize> {
        match self.fields.get(guess) {
            Some(field) if field.name.as_bytes() == name => Some(guess),
            _ => self.names.find(name),
        }
    }
}

impl Enum {
    pub fn number(&self, name: &[u8]) -> Option<i32> {
        self.names.find(name).map(|place| self.numbers[place])
    }

    /// The name of a number, quoted.
    pub fn json_name(&self, number: i32) -> Option<&[u8]> {
        self.values.binary_search_by_key(&number, |(number, _)| *number).ok().map(|place| &*self.values[place].1)
    }
}

impl Kind {
    /// Wire type of a single value.
    pub fn wire_type(self) -> u32 {
        match self {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => super::wire::FIXED64,
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => super::wire::FIXED32,
            Kind::String | Kind::Bytes | Kind::Message(_) => super::wire::LEN,
            Kind::Group(_) => super::wire::START_GROUP,
            Kind::Int32
            | Kind::Int64
            | Kind::Uint32
            | Kind::Uint64
            | Kind::Sint32
            | Kind::Sint64
            | Kind::Bool
            | Kind::Enum(_) => super::wire::VARINT,
        }
    }
}

/// Numbers the types in the order they are met; a worklist instead of recursion, for hostile descriptors nest deep.
#[derive(Default)]
struct Builder {
    messages: HashMap<String, usize>,
    enums: HashMap<String, usize>,
    todo: Vec<MessageDescriptor>,
    made_enums: Vec<Enum>,
}

impl Builder {
    fn build(mut self, root: &MessageDescriptor) -> Plan {
        self.message(root);
        let mut messages = Vec::new();
        let mut has_any = false;
        while messages.len() < self.todo.len() {
            let descriptor = self.todo[messages.len()].clone();
            if !has_any && shape(&descriptor) == Shape::Any {
                has_any = true;
                descriptor.parent_pool().all_messages().for_each(|message| {
                    self.message(&message);
                });
            }
            let message = self.plan_message(&descriptor);
            messages.push(message);
        }
        let any = if has_any { self.messages } else { HashMap::new() };
        Plan { messages, enums: self.made_enums, any }
    }

    fn message(&mut self, descriptor: &MessageDescriptor) -> usize {
        if let Some(&place) = self.messages.get(descriptor.full_name()) {
            return place;
        }
        self.todo.push(descriptor.clone());
        self.messages.insert(descriptor.full_name().to_owned(), self.todo.len() - 1);
        self.todo.len() - 1
    }

    fn enumeration(&mut self, descriptor: &EnumDescriptor) -> usize {
        if let Some(&place) = self.enums.get(descriptor.full_name()) {
            return place;
        }
        self.enums.insert(descriptor.full_name().to_owned(), self.made_enums.len());
        self.made_enums.push(plan_enum(descriptor));
        self.made_enums.len() - 1
    }

    fn plan_message(&mut self, descriptor: &MessageDescriptor) -> Message {
        let mut oneofs = HashMap::new();
        let mut fields: Vec<(Field, String)> = Vec::new();
        for field in descriptor.fields() {
            let next = oneofs.len();
            let oneof = field.containing_oneof().filter(|oneof| oneof.fields().len() > 1);
            let oneof = oneof.map(|oneof| *oneofs.entry(oneof.name().to_owned()).or_insert(next));
            let kind = self.kind(field.kind(), field.is_group());
            let json_name = field.json_name().to_owned();
            let epoch = FieldOptions::of(&field).epoch;
            let json_key = json_key(field.name());
            let (number, name, rule) = (field.number(), field.name().into(), rule(&field));
            fields.push((Field { number, name, json_key, kind, rule, oneof, epoch }, json_name));
        }
        for extension in descriptor.extensions() {
            let kind = self.kind(extension.kind(), extension.is_group());
            let rule = match (extension.is_list(), extension.is_packed()) {
                (false, _) => Rule::Explicit,
                (true, false) => Rule::List,
                (true, true) => Rule::PackedList,
            };
            let name = extension.json_name();
            let (number, json_key) = (extension.number(), json_key(name));
            let field = Field { number, name: name.into(), json_key, kind, rule, oneof: None, epoch: None };
            fields.push((field, name.to_owned()));
        }
        fields.sort_by_key(|(field, _)| field.number);
        fields.dedup_by_key(|(field, _)| field.number);
        // A name in JSON wins over a proto name that spells the same.
        let json_names = fields.iter().enumerate().map(|(place, (_, name))| (name.as_bytes(), place));
        let proto_names = fields.iter().enumerate().map(|(place, (field, _))| (field.name.as_bytes(), place));
        let names = Names::new(json_names.chain(proto_names));
        let fields: Vec<Field> = fields.into_iter().map(|(field, _)| field).collect();
        Message { shape: shape(descriptor), oneofs: oneofs.len(), names, dense: dense(&fields), fields }
    }

    fn kind(&mut self, kind: prost_reflect::Kind, is_group: bool) -> Kind {
        use prost_reflect::Kind as Described;
        match kind {
            Described::Double => Kind::Double,
            Described::Float => Kind::Float,
            Described::Int32 => Kind::Int32,
            Described::Int64 => Kind::Int64,
            Described::Uint32 => Kind::Uint32,
            Described::Uint64 => Kind::Uint64,
            Described::Sint32 => Kind::Sint32,
            Described::Sint64 => Kind::Sint64,
            Described::Fixed32 => Kind::Fixed32,
            Described::Fixed64 => Kind::Fixed64,
            Described::Sfixed32 => Kind::Sfixed32,
            Described::Sfixed64 => Kind::Sfixed64,
            Described::Bool => Kind::Bool,
            Described::String => Kind::String,
            Described::Bytes => Kind::Bytes,
            Described::Enum(descriptor) => Kind::Enum(self.enumeration(&descriptor)),
            Described::Message(descriptor) if is_group => Kind::Group(self.message(&descriptor)),
            Described::Message(descriptor) => Kind::Message(self.message(&descriptor)),
        }
    }
}

fn rule(field: &FieldDescriptor) -> Rule {
    if is_sound_map(field) {
        Rule::Map
    } else if field.cardinality() == Cardinality::Repeated {
        if field.is_packed() { Rule::PackedList } else { Rule::List }
    } else if field.supports_presence() {
        Rule::Explicit
    } else {
        Rule::Implicit
    }
}

/// An entry is marked by an option that anybody may write; it is one only if it has a key and a value.
fn is_sound_map(field: &FieldDescriptor) -> bool {
    let prost_reflect::Kind::Message(entry) = field.kind() else { return false };
    field.cardinality() == Cardinality::Repeated
        && entry.is_map_entry()
        && entry.fields().map(|field| field.number()).eq([1, 2])
        && entry.fields().all(|field| field.cardinality() != Cardinality::Repeated)
}

/// The special forms apply where a message has the name *and* the fields of the well-known type.
fn shape(descriptor: &MessageDescriptor) -> Shape {
    use prost_reflect::Kind as Described;
    let Some(name) = descriptor.full_name().strip_prefix("google.protobuf.") else { return Shape::Object };
    let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
    let kinds: Vec<(u32, Described)> = fields.iter().map(|field| (field.number(), field.kind())).collect();
    match (name, kinds.as_slice()) {
        ("Timestamp", [(1, Described::Int64), (2, Described::Int32)]) => Shape::Timestamp,
        ("Duration", [(1, Described::Int64), (2, Described::Int32)]) => Shape::Duration,
        ("FieldMask", [(1, Described::String)]) if fields[0].is_list() => Shape::FieldMask,
        ("Struct", [(1, Described::Message(_))]) if is_sound_map(&fields[0]) => Shape::Struct,
        ("ListValue", [(1, Described::Message(_))]) if fields[0].is_list() => Shape::List,
        (
            "Value",
            [
                (1, Described::Enum(_)),
                (2, Described::Double),
                (3, Described::String),
                (4, Described::Bool),
                (5, Described::Message(_)),
                (6, Described::Message(_)),
            ],
        ) if fields.iter().all(|field| field.containing_oneof().is_some()) => Shape::Value,
        ("Empty", []) => Shape::Empty,
        ("Any", [(1, Described::String), (2, Described::Bytes)]) => Shape::Any,
        (
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value" | "BoolValue"
            | "StringValue" | "BytesValue",
            [(1, kind)],
        ) if kind.as_message().is_none() && fields[0].cardinality() != Cardinality::Repeated => Shape::Wrapper,
        _ => Shape::Object,
    }
}

fn plan_enum(descriptor: &EnumDescriptor) -> Enum {
    let all: Vec<(i32, String)> = descriptor.values().map(|value| (value.number(), value.name().to_owned())).collect();
    let names = Names::new(all.iter().enumerate().map(|(place, (_, name))| (name.as_bytes(), place)));
    let quoted = |name: &str| format!("\"{name}\"").into_bytes().into_boxed_slice();
    let mut values: Vec<(i32, Box<[u8]>)> = all.iter().map(|(number, name)| (*number, quoted(name))).collect();
    values.sort_by_key(|(number, _)| *number);
    values.dedup_by_key(|(number, _)| *number);
    Enum {
        names,
        is_null: descriptor.full_name() == "google.protobuf.NullValue",
        default: descriptor.default_value().number(),
        values,
        numbers: all.into_iter().map(|(number, _)| number).collect(),
    }
}

/// Protobuf names hold only letters, digits, `_`, `.` and brackets; a hostile one is escaped like any string.
fn json_key(name: &str) -> Box<[u8]> {
    let mut key = Vec::with_capacity(name.len() + 3);
    super::json::push_string(&mut key, name.as_bytes());
    key.push(b':');
    key.into_boxed_slice()
}

/// A table by number costs at most four places per field; larger numbers are searched for.
fn dense(fields: &[Field]) -> Vec<u32> {
    let limit = fields.len() as u32 * 4 + 16;
    let mut dense = vec![0; 1];
    for (place, field) in fields.iter().enumerate() {
        if field.number < limit {
            dense.resize(field.number as usize + 1, 0);
            dense[field.number as usize] = place as u32 + 1;
        }
    }
    dense
}
