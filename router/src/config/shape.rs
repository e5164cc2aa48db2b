//! Whether the tree has the shape of a configuration: known keys, required keys, right kinds of values.
//!
//! Checked against the same JSON Schema that editors get, so that the two cannot differ, and so that everything wrong
//! is found in one pass; serde would stop at the first. Supports what the types of `file` use of JSON Schema.

use serde_json::Value as Schema;

use super::problem::{Place, Problem, closest};
use super::tree::{Entry, Node, Path, Value};
use super::units;

/// Everything wrong with the shape of `root`. Where nothing is, `root` deserializes as the type `schema` came from.
pub fn check(root: &Node, schema: &Schema) -> Vec<Problem> {
    let mut check = Check { root: schema, problems: Vec::new() };
    check.node(root, At { schema, path: Path::default(), secret: false });
    check.problems
}

struct Check<'a> {
    root: &'a Schema,
    problems: Vec<Problem>,
}

/// Where the check is.
struct At<'a> {
    schema: &'a Schema,
    path: Path,
    /// Values here are not to be shown.
    secret: bool,
}

impl At<'_> {
    fn show(&self, node: &Node) -> String {
        match &node.value {
            Value::Text(text) if self.secret && text.written.is_none() => "this text".to_owned(),
            Value::Number(_) if self.secret => "this number".to_owned(),
            _ => node.to_string(),
        }
    }
}

/// What may stand where the schema offers several kinds.
#[derive(Default)]
struct Kinds<'a> {
    words: Vec<&'a str>,
    keys: Vec<(&'a str, &'a Schema)>,
}

impl<'a> Kinds<'a> {
    fn of(schema: &'a Schema) -> Option<Kinds<'a>> {
        let mut kinds = Kinds::default();
        kinds.add(schema);
        for branch in schema.get("oneOf").and_then(Schema::as_array).into_iter().flatten() {
            kinds.add(branch);
            let properties = branch.get("properties").and_then(Schema::as_object).into_iter().flatten();
            kinds.keys.extend(properties.map(|(key, schema)| (key.as_str(), schema)));
        }
        (!kinds.words.is_empty() || !kinds.keys.is_empty()).then_some(kinds)
    }

    fn add(&mut self, schema: &'a Schema) {
        self.words.extend(schema.get("const").and_then(Schema::as_str));
        let listed = schema.get("enum").and_then(Schema::as_array).into_iter().flatten();
        self.words.extend(listed.filter_map(Schema::as_str));
    }

    fn help(&self) -> String {
        let words = self.words.iter().map(|word| (*word).to_owned());
        let all: Vec<String> = words.chain(self.keys.iter().map(|(key, _)| format!("{{ {key}: ... }}"))).collect();
        match all.as_slice() {
            [only] => format!("write {only}"),
            _ => format!("write one of {}", all.join(", ")),
        }
    }
}

impl<'a> Check<'a> {
    fn node(&mut self, node: &Node, at: At<'a>) {
        let at = self.resolved(at);
        if let Some(kinds) = Kinds::of(at.schema) {
            return self.kind(node, at, &kinds);
        }
        let Some(wanted) = at.schema.get("type").and_then(Schema::as_str) else {
            return self.anything(node, &at.path); // a plugin's own settings
        };
        match (wanted, &node.value) {
            ("object", Value::Map(entries)) => self.object(node.place, entries, at),
            ("array", Value::List(nodes)) => {
                for (i, item) in nodes.iter().enumerate() {
                    self.node(item, At { schema: &at.schema["items"], path: at.path.index(i), secret: at.secret });
                }
            }
            ("string", Value::Text(text)) => {
                let kind = at.schema.get("x-kind").and_then(Schema::as_str);
                if let Some(refusal) = kind.and_then(|kind| units::check(kind, &text.value)) {
                    self.report(
                        node.place,
                        &at.path,
                        format!("{} {}", at.show(node), refusal.what),
                        Some(refusal.help),
                    );
                }
            }
            ("integer", Value::Number(number)) if number.is_u64() => {}
            ("boolean", Value::Bool(_)) => {}
            _ => self.wrong_type(node, &at, wanted),
        }
    }

    /// Follows references; what stands beside a reference counts too.
    fn resolved(&self, mut at: At<'a>) -> At<'a> {
        loop {
            at.secret |= at.schema.get("writeOnly").is_some();
            let reference = at.schema.get("$ref").and_then(Schema::as_str).and_then(|name| name.strip_prefix('#'));
            match reference.and_then(|pointer| self.root.pointer(pointer)) {
                Some(schema) => at.schema = schema,
                None => return at,
            }
        }
    }

    fn kind(&mut self, node: &Node, at: At<'a>, kinds: &Kinds<'a>) {
        let refuse = |what: String| (node.place, at.path.clone(), what, kinds.help());
        let (place, path, what, help) = match &node.value {
            Value::Text(text) if kinds.words.contains(&text.value.as_str()) => return,
            Value::Map(entries) if !kinds.keys.is_empty() => match entries.as_slice() {
                [entry] => match kinds.keys.iter().find(|(key, _)| *key == entry.key) {
                    Some((key, schema)) => {
                        return self.node(&entry.value, At { schema, path: at.path.key(key), secret: at.secret });
                    }
                    None => {
                        let help = match closest(&entry.key, kinds.keys.iter().map(|(key, _)| *key)) {
                            Some(key) => format!("did you mean {key}? {}", kinds.help()),
                            None => kinds.help(),
                        };
                        (entry.place, at.path.key(&entry.key), "unknown kind".to_owned(), help)
                    }
                },
                [] => refuse("names no kind".to_owned()),
                _ => refuse(format!("names {} kinds", entries.len())),
            },
            Value::Null => refuse("has no value".to_owned()),
            Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) | Value::Map(_) => {
                refuse(format!("{} is not allowed here", at.show(node)))
            }
        };
        self.problems.push(Problem::new(place, path, what).help(help));
    }

    fn object(&mut self, place: Place, entries: &[Entry], at: At<'a>) {
        self.repeated(entries, &at.path);
        let properties = at.schema.get("properties").and_then(Schema::as_object);
        let other = at.schema.get("additionalProperties").filter(|other| **other != Schema::Bool(false));
        let mut meant = Vec::new();
        for entry in entries {
            let path = at.path.key(&entry.key);
            match properties.and_then(|known| known.get(&entry.key)).or(other) {
                Some(schema) => self.node(&entry.value, At { schema, path, secret: at.secret }),
                None => {
                    let known = || properties.into_iter().flat_map(|known| known.keys()).map(String::as_str);
                    let help = match closest(&entry.key, known()) {
                        Some(key) => {
                            meant.push(key);
                            format!("did you mean {key}?")
                        }
                        None if known().next().is_none() => "nothing is set here: write {}".to_owned(),
                        None => format!("allowed here: {}", known().collect::<Vec<_>>().join(", ")),
                    };
                    self.problems.push(Problem::new(entry.place, path, "unknown key").help(help));
                }
            }
        }
        let required = at.schema.get("required").and_then(Schema::as_array).into_iter().flatten();
        for key in required.filter_map(Schema::as_str) {
            if meant.contains(&key) || entries.iter().any(|entry| entry.key == key) {
                continue;
            }
            let description = properties.and_then(|known| known[key].get("description")).and_then(Schema::as_str);
            self.report(place, &at.path.key(key), "is required".to_owned(), description);
        }
    }

    fn repeated(&mut self, entries: &[Entry], path: &Path) {
        for (i, entry) in entries.iter().enumerate() {
            if let Some(first) = entries[..i].iter().find(|first| first.key == entry.key) {
                let what = format!("is written twice, first in line {}", first.place.line);
                self.report(entry.place, &path.key(&entry.key), what, Some("keep one"));
            }
        }
    }

    /// Free form: only repeated keys are wrong.
    fn anything(&mut self, node: &Node, path: &Path) {
        match &node.value {
            Value::Map(entries) => {
                self.repeated(entries, path);
                entries.iter().for_each(|entry| self.anything(&entry.value, &path.key(&entry.key)));
            }
            Value::List(nodes) => {
                nodes.iter().enumerate().for_each(|(i, node)| self.anything(node, &path.index(i)));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
        }
    }

    fn wrong_type(&mut self, node: &Node, at: &At<'a>, wanted: &str) {
        if node.value == Value::Null {
            let help = match wanted {
                "object" => "write {} to take every default, or remove the key",
                "array" => "write [] for none, or remove the key",
                _ => "write a value, or remove the key",
            };
            return self.report(node.place, &at.path, "has no value".to_owned(), Some(help));
        }
        let unit = at.schema.get("x-kind").and_then(Schema::as_str).and_then(units::wanted);
        if let (Some(refusal), Value::Number(_)) = (unit, &node.value) {
            return self.report(
                node.place,
                &at.path,
                format!("{} {}", at.show(node), refusal.what),
                Some(refusal.help),
            );
        }
        let (name, help) = match wanted {
            "object" => ("a mapping", "write keys and values below it, or { key: value }"),
            "array" => ("a list", "write [one, two], or each on a line of its own after a dash"),
            "integer" => ("a whole number", "write digits alone, as in 1000"),
            "boolean" => ("true or false", "write true or false"),
            _ if matches!(node.value, Value::Number(_) | Value::Bool(_)) => ("a text", "put it in quotes"),
            _ => ("a text", "write a single text"),
        };
        self.report(node.place, &at.path, format!("{} is not {name}", at.show(node)), Some(help));
    }

    fn report(&mut self, place: Place, path: &Path, what: String, help: Option<&str>) {
        let problem = Problem::new(place, path.clone(), what);
        self.problems.push(match help {
            Some(help) => problem.help(help),
            None => problem,
        });
    }
}
