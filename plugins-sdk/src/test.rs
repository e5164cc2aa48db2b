//! Run a plugin's function natively, in `cargo test`, through the same code that runs it in the component.

use crate::batch::{self, messages, push_frame};
use crate::wire::{Value, push_field, read_varint};
use crate::{Action, Key, Record, Result, Schema, config};

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Keep,
    Drop,
    Replace(Vec<u8>),
    Split(Vec<Vec<u8>>),
    Failed(String),
}

/// Runs a transform's function over records.
///
/// # Panics
/// Where the result does not fit its own verdicts: a defect of the SDK.
pub fn run<S>(function: impl Fn(&S, &mut Record) -> Result<Action>, state: &S, records: &[Vec<u8>]) -> Vec<Row> {
    let frames = frames(records);
    let out =
        batch::transform(&frames, records.len() as u32, |record| function(state, record)).expect("frames are whole");
    let mut replaced = out.replaced.as_slice();
    let mut errors = out.errors.into_iter();
    (0..records.len())
        .map(|index| match out.verdicts.get(index).copied().unwrap_or(batch::KEEP) {
            batch::KEEP => Row::Keep,
            batch::DROP => Row::Drop,
            batch::REPLACE => Row::Replace(next_frame(&mut replaced)),
            batch::SPLIT => {
                let (count, start) = read_varint(replaced, 0).expect("a split says into how many");
                replaced = &replaced[start..];
                Row::Split((0..count).map(|_| next_frame(&mut replaced)).collect())
            }
            _ => Row::Failed(errors.next().expect("a failed record has its reason").1),
        })
        .collect()
}

/// Runs a dedup function over records: each one's key (empty = never a duplicate), or why it has none.
///
/// # Panics
/// Where the result does not have a key for each record: a defect of the SDK.
pub fn keys<S>(
    function: impl Fn(&S, &mut Record, &mut Key) -> Result<()>,
    state: &S,
    records: &[Vec<u8>],
) -> Vec<Result<Vec<u8>, String>> {
    let frames = frames(records);
    let out = batch::keys(&frames, 0, |record, key| function(state, record, key)).expect("frames are whole");
    let mut rows: Vec<_> = messages(&out.keys).map(|key| Ok(key.expect("keys are frames").to_vec())).collect();
    assert_eq!(rows.len(), records.len());
    for (index, reason) in out.errors {
        rows[index as usize] = Err(reason);
    }
    rows
}

/// Reads a config as the component does.
pub fn config<C: serde::de::DeserializeOwned>(json: &str) -> Result<C> {
    config::parse(json)
}

/// Starts a plugin as the component does: `start` is the function named in `setup = ...`.
pub fn setup<C: serde::de::DeserializeOwned, S>(
    json: &str,
    message: &str,
    descriptors: &[u8],
    start: impl FnOnce(C, &Schema) -> Result<S>,
) -> Result<S> {
    config::with(&config::Setup { json, message, descriptors }, start)
}

fn frames(records: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    records.iter().for_each(|record| push_frame(&mut out, record));
    out
}

fn next_frame(frames: &mut &[u8]) -> Vec<u8> {
    let (len, start) = read_varint(frames, 0).expect("a frame for each verdict that takes one");
    let (frame, rest) = frames[start..].split_at(len as usize);
    *frames = rest;
    frame.to_vec()
}

/// Writes a message field by field, for tests that have no generated types.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    pub fn new() -> Message {
        Message::default()
    }

    pub fn text(self, number: u32, value: &str) -> Message {
        self.value(number, Value::Bytes(value.as_bytes()))
    }

    pub fn varint(self, number: u32, value: u64) -> Message {
        self.value(number, Value::Varint(value))
    }

    pub fn message(self, number: u32, value: Message) -> Message {
        self.value(number, Value::Bytes(&value.0))
    }

    pub fn value(mut self, number: u32, value: Value<'_>) -> Message {
        push_field(&mut self.0, number, value);
        self
    }

    pub fn encode(self) -> Vec<u8> {
        self.0
    }
}

/// Declares message types in code and gives their descriptors, for tests that have no `.proto`.
#[derive(Clone, Debug)]
pub struct Proto {
    package: String,
    messages: Vec<MessageType>,
}

#[derive(Clone, Debug)]
struct MessageType {
    name: String,
    /// Name, number, type.
    fields: Vec<(String, u32, String)>,
    /// Descriptors of the types of its maps' entries.
    entries: Vec<Message>,
}

impl Proto {
    pub fn new(package: &str) -> Proto {
        Proto { package: package.to_owned(), messages: Vec::new() }
    }

    /// Adds a message; a field is (name, number, type), the type as in a `.proto` (`string`, `repeated int64`, `User`).
    pub fn message(mut self, name: &str, fields: &[(&str, u32, &str)]) -> Proto {
        let fields = fields.iter().map(|&(name, number, kind)| (name.to_owned(), number, kind.to_owned())).collect();
        self.messages.push(MessageType { name: name.to_owned(), fields, entries: Vec::new() });
        self
    }

    /// Adds a `map<string, value>` field to a message that was added before.
    pub fn map(mut self, message: &str, field: &str, number: u32, value: &str) -> Proto {
        let entry = format!("{message}.{field}Entry");
        let key = self.field("key", 1, "string");
        let value = self.field("value", 2, value);
        let options = Message::new().varint(7, 1);
        let nested =
            Message::new().text(1, &format!("{field}Entry")).message(2, key).message(2, value).message(7, options);
        if let Some(within) = self.messages.iter_mut().find(|known| known.name == message) {
            within.fields.push((field.to_owned(), number, format!("repeated {entry}")));
            within.entries.push(nested);
        }
        self
    }

    /// A serialized FileDescriptorSet.
    pub fn descriptors(&self) -> Vec<u8> {
        let mut file = Message::new().text(1, "test.proto").text(2, &self.package);
        for MessageType { name, fields, entries } in &self.messages {
            let mut message = Message::new().text(1, name);
            for (name, number, kind) in fields {
                message = message.message(2, self.field(name, *number, kind));
            }
            for entry in entries {
                message = message.message(3, entry.clone());
            }
            file = file.message(4, message);
        }
        Message::new().message(1, file.text(12, "proto3")).encode()
    }

    fn field(&self, name: &str, number: u32, kind: &str) -> Message {
        let (label, kind) = kind.strip_prefix("repeated ").map_or((1, kind), |kind| (3, kind));
        let codes = ["double", "float", "int64", "uint64", "int32", "fixed64", "fixed32", "bool", "string"];
        let code = match codes.iter().position(|&code| code == kind) {
            Some(index) => index as u64 + 1,
            None if kind == "bytes" => 12,
            None => 11,
        };
        let field = Message::new().text(1, name).varint(3, u64::from(number)).varint(4, label).varint(5, code);
        if code == 11 { field.text(6, &format!(".{}.{kind}", self.package)) } else { field }
    }
}
