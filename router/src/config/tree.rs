//! The file as it was written: every value and every key with the place it stands at.
//!
//! The YAML is read once into this tree. Everything later (expansion, shape, settings) reports a problem by key path, and
//! the tree says where that path lies, so the types of `file` stay free of places.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap as _, SerializeSeq as _, Serializer};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::{DuplicateKeyPolicy, Location, Spanned};

use super::problem::{Place, Problem};

/// Deepest nesting; the deepest key of ours lies eight levels down, the rest is left to the configs of plugins.
const DEPTH_MAX: usize = 32;
/// Values in a file at most, aliases expanded.
const NODES_MAX: usize = 100_000;

/// A value and where it stands.
#[derive(Clone, PartialEq)]
pub struct Node {
    pub value: Value,
    pub place: Place,
}

#[derive(Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(Text),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, PartialEq)]
pub struct Text {
    pub value: String,
    /// As the user wrote it, where `${...}` was replaced: the only form that is ever printed.
    pub written: Option<String>,
}

/// A key with its value. Keys may repeat until `shape` has looked.
#[derive(Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub value: Node,
}

/// One step from a mapping or list to a value in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Where a value lies in the tree, shown as `streams.playback.sinks[0]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(Vec<Step>);

impl Path {
    /// The path of `key` in the mapping at this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Path {
        let mut path = self.clone();
        path.0.push(Step::Key(key.to_owned()));
        path
    }

    /// The path of the element at `index` of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Path {
        let mut path = self.clone();
        path.0.push(Step::Index(index));
        path
    }

    /// A path of keys alone, from the root.
    pub fn of(keys: &[&str]) -> Path {
        Path(keys.iter().map(|&key| Step::Key(key.to_owned())).collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let dot = if i == 0 { "" } else { "." };
                    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
                    if plain { write!(f, "{dot}{key}")? } else { write!(f, "{dot}{key:?}")? }
                }
            }
        }
        Ok(())
    }
}

impl Node {
    /// Reads a file's text. A syntax error ends the reading, so it is the only problem that comes alone.
    pub fn parse(text: &str) -> Result<Node, Problem> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: DEPTH_MAX, max_nodes: NODES_MAX, max_documents: 1 },
            // Repeated keys are reported by `shape`, all of them at once.
            duplicate_keys: DuplicateKeyPolicy::PassThrough,
            // `no`, `off` and `y` are text, as in YAML 1.2.
            strict_booleans: true,
            with_snippet: false,
            // Long comments are welcome: none is kept, so none counts against a limit.
            emit_comments: false,
        };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let place = error.location().map_or(Place::START, Place::from);
            Problem::new(place, Path::default(), unreadable(error.without_snippet()))
        })
    }

    /// The value at `path`, if the user wrote one.
    pub fn get(&self, path: &Path) -> Option<&Node> {
        path.0.iter().try_fold(self, Node::step)
    }

    pub fn get_mut(&mut self, path: &Path) -> Option<&mut Node> {
        path.0.iter().try_fold(self, |node, step| match (&mut node.value, step) {
            (Value::Map(entries), Step::Key(key)) => {
                entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.value)
            }
            (Value::List(nodes), Step::Index(index)) => nodes.get_mut(*index),
            _ => None,
        })
    }

    /// Drops keys of the mapping at `path`.
    pub fn retain(&mut self, path: &Path, keep: impl Fn(&str) -> bool) {
        if let Some(Node { value: Value::Map(entries), .. }) = self.get_mut(path) {
            entries.retain(|entry| keep(&entry.key));
        }
    }

    /// Where the value at `path` stands; where it is not written, where its nearest written parent does.
    pub fn place(&self, path: &Path) -> Place {
        let mut node = self;
        for step in &path.0 {
            match node.step(step) {
                Some(next) => node = next,
                None => break,
            }
        }
        node.place
    }

    fn step(&self, step: &Step) -> Option<&Node> {
        match (&self.value, step) {
            (Value::Map(entries), Step::Key(key)) => {
                entries.iter().find(|entry| entry.key == *key).map(|entry| &entry.value)
            }
            (Value::List(nodes), Step::Index(index)) => nodes.get(*index),
            _ => None,
        }
    }

    /// The value without places.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => number.clone().into(),
            Value::Text(text) => text.value.clone().into(),
            Value::List(nodes) => nodes.iter().map(Node::to_json).collect(),
            Value::Map(entries) => entries.iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect(),
        }
    }

    /// Calls `visit` with every text below and its path.
    pub fn visit_texts(&mut self, path: &Path, visit: &mut dyn FnMut(&Path, Place, &mut Text)) {
        let place = self.place;
        match &mut self.value {
            Value::Text(text) => visit(path, place, text),
            Value::List(nodes) => {
                nodes.iter_mut().enumerate().for_each(|(i, node)| node.visit_texts(&path.index(i), visit));
            }
            Value::Map(entries) => {
                entries.iter_mut().for_each(|entry| entry.value.visit_texts(&path.key(&entry.key), visit));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// How a value is called in a message: itself where it is short, its kind where not.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_MAX: usize = 60;
        match &self.value {
            Value::Null => f.write_str("no value"),
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::Text(text) => {
                let shown = text.written.as_ref().unwrap_or(&text.value);
                match shown.char_indices().nth(SHOWN_MAX) {
                    None => write!(f, "{shown:?}"),
                    Some((end, _)) => write!(f, "{:?}...", &shown[..end]),
                }
            }
            Value::List(_) => f.write_str("a list"),
            Value::Map(_) => f.write_str("a mapping"),
        }
    }
}

/// Prints as written, in the order of the file, so that no replaced `${...}` is shown.
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.value {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Number(number) => number.serialize(serializer),
            Value::Text(text) => serializer.serialize_str(text.written.as_ref().unwrap_or(&text.value)),
            Value::List(nodes) => {
                let mut list = serializer.serialize_seq(Some(nodes.len()))?;
                nodes.iter().try_for_each(|node| list.serialize_element(node))?;
                list.end()
            }
            Value::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                entries.iter().try_for_each(|entry| map.serialize_entry(&entry.key, &entry.value))?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Node { value: spanned.value, place: Place::from(spanned.defined) })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

impl From<Location> for Place {
    fn from(location: Location) -> Place {
        Place { line: location.line().max(1), column: location.column().max(1) }
    }
}

/// Why a text is not a tree.
fn unreadable(error: &serde_saphyr::Error) -> String {
    match error {
        serde_saphyr::Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("is nested deeper than {DEPTH_MAX} levels")
        }
        serde_saphyr::Error::Budget { breach: BudgetBreach::Documents { .. }, .. }
        | serde_saphyr::Error::MultipleDocuments { .. } => "a second document begins here; one is allowed".to_owned(),
        serde_saphyr::Error::Budget { .. } => format!("is too large: more than {NODES_MAX} values, aliases expanded"),
        error => {
            // The library ends its sentence with the place; ours stands in front.
            let said = error.to_string();
            let said = said.split(" at line ").next().unwrap_or_default();
            format!("is not YAML: {}", said.trim_end_matches([',', '.', ' ']))
        }
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        Ok(Value::Number(number.ok_or_else(|| E::custom("a number must be finite"))?))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(Text { value, written: None }))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = seq.next_element()? {
            nodes.push(node);
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, mut value)) = map.next_entry::<Spanned<String>, Node>()? {
            let place = Place::from(key.defined);
            if matches!(value.value, Value::List(_) | Value::Map(_) | Value::Null) {
                // What spans lines (or none) is best found by its key.
                value.place = place;
            }
            entries.push(Entry { key: key.value, place, value });
        }
        Ok(Value::Map(entries))
    }
}
