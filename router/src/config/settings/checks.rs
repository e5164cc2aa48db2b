//! Checks of single values, with the bounds of each named where it is used and the reason beside it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::problem::Problem;
use super::super::tree::{Node, Path, Text, Value};
use super::super::units::{ByteSize, Period, Secret};

/// Longest name of an agent, stream, sink, source or plugin: it becomes part of keys, labels and file names.
const NAME_MAX_LEN: usize = 100;

/// Collects what is wrong while settings are built.
pub struct Checks<'a> {
    tree: &'a Node,
    problems: Vec<Problem>,
}

impl<'a> Checks<'a> {
    pub fn new(tree: &'a Node) -> Checks<'a> {
        Checks { tree, problems: Vec::new() }
    }

    pub fn finish(self) -> Vec<Problem> {
        self.problems
    }

    /// Whether the user wrote the key.
    pub fn is_written(&self, path: &Path) -> bool {
        self.tree.get(path).is_some()
    }

    pub fn refuse(&mut self, path: &Path, what: impl Into<String>, help: impl Into<String>) {
        self.problems.push(Problem::new(self.tree.place(path), path.clone(), what).help(help));
    }

    /// Refuses the value at `path`, showing it as it was written.
    pub fn refuse_value(&mut self, path: &Path, what: &str, help: impl Into<String>) {
        let shown = self.tree.get(path).map(Node::to_string);
        self.refuse(path, shown.map_or_else(|| what.to_owned(), |shown| format!("{shown} {what}")), help);
    }

    /// The size in bytes, inside `range`.
    pub fn size(&mut self, path: &Path, size: ByteSize, range: RangeInclusive<ByteSize>, why: &str) -> u64 {
        if !range.contains(&size) {
            self.refuse_value(path, &outside(&range), why);
        }
        size.0
    }

    /// Like `size`, for what is held in memory.
    pub fn memory(&mut self, path: &Path, size: ByteSize, range: RangeInclusive<ByteSize>, why: &str) -> usize {
        usize::try_from(self.size(path, size, range, why)).unwrap_or(usize::MAX)
    }

    pub fn time(&mut self, path: &Path, period: Period, range: RangeInclusive<Period>, why: &str) -> Duration {
        if !range.contains(&period) {
            self.refuse_value(path, &outside(&range), why);
        }
        period.0
    }

    pub fn count(&mut self, path: &Path, count: u64, range: RangeInclusive<u64>, why: &str) -> usize {
        if !range.contains(&count) {
            self.refuse_value(path, &outside(&range), why);
        }
        usize::try_from(count).unwrap_or(usize::MAX)
    }

    /// The text at `path` for a message: as it was written where `${...}` was replaced, else `text`, which was made
    /// from it.
    pub fn shown(&self, path: &Path, text: String) -> String {
        match self.tree.get(path).map(|node| &node.value) {
            Some(Value::Text(Text { written: Some(written), .. })) => written.clone(),
            _ => text,
        }
    }

    /// A name that can stand in keys, labels, addresses and file names: the value at `path`, or its last key.
    pub fn name(&mut self, path: &Path, name: &str) {
        let starts_well = name.starts_with(|first: char| first.is_ascii_alphanumeric());
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if !starts_well || !plain || name.len() > NAME_MAX_LEN {
            let help =
                format!("write up to {NAME_MAX_LEN} letters, digits, - _ and . and begin with a letter or digit");
            self.refuse(path, format!("{:?} is not a name", self.shown(path, name.to_owned())), help);
        }
    }

    /// A secret that is there: an empty one comes from a variable or file that nobody filled.
    pub fn secret(&mut self, path: &Path, secret: &Secret) -> String {
        if secret.0.is_empty() {
            self.refuse(path, "is empty", "fill the variable or file it comes from, or write auth: none");
        }
        secret.0.clone()
    }

    /// An address with scheme, without user and password: those would be printed with it.
    pub fn url(&mut self, path: &Path, url: &str) {
        const HELP: &str = "write http:// or https://, the host and its port, as in https://search.example:9200";
        if url.contains('@') {
            // Not shown either.
            return self.refuse(
                path,
                "holds a user or password",
                "write them below auth, where they are never printed",
            );
        }
        let parsed = url.parse::<http::Uri>().ok();
        let authority = parsed.as_ref().and_then(http::Uri::authority);
        let scheme = parsed.as_ref().and_then(http::Uri::scheme_str);
        if !matches!(scheme, Some("http" | "https")) || authority.is_none_or(|authority| authority.host().is_empty()) {
            self.refuse_value(path, "is not a URL", HELP);
        }
    }
}

fn outside<T: std::fmt::Display>(range: &RangeInclusive<T>) -> String {
    format!("is not between {} and {}", range.start(), range.end())
}
