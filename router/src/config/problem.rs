//! What is wrong with a configuration, in the form its author needs:
//!
//! ```text
//! config/central.yaml:14:9: streams.playback.dedup.window: "24x" is not a duration
//!   help: write a whole number and its unit (ms, s, m, h, d), as in 24h
//! ```

use std::fmt;
use std::path::{Path as FilePath, PathBuf};

use super::tree::Path;

/// A place in the file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u64,
    pub column: u64,
}

impl Place {
    pub const START: Place = Place { line: 1, column: 1 };
}

/// One thing that is wrong. Never holds a secret: values are shown as they were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub place: Place,
    pub path: Path,
    /// Begins with the value where there is one.
    pub what: String,
    pub help: Option<String>,
}

impl Problem {
    pub fn new(place: Place, path: Path, what: impl Into<String>) -> Problem {
        Problem { place, path, what: what.into(), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Problem {
        self.help = Some(help.into());
        self
    }
}

/// All that is wrong with one file, in the order of the file. Never empty.
#[derive(Debug)]
pub struct Problems {
    pub file: PathBuf,
    pub list: Vec<Problem>,
}

impl Problems {
    pub fn new(file: &FilePath, mut list: Vec<Problem>) -> Problems {
        list.sort_by_key(|problem| problem.place);
        Problems { file: file.to_owned(), list }
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, Problem { place, path, what, help }) in self.list.iter().enumerate() {
            let line_break = if i == 0 { "" } else { "\n" };
            write!(f, "{line_break}{}:{}:{}: ", self.file.display(), place.line, place.column)?;
            let path = path.to_string();
            if !path.is_empty() {
                write!(f, "{path}: ")?;
            }
            f.write_str(what)?;
            if let Some(help) = help {
                write!(f, "\n  help: {help}")?;
            }
        }
        Ok(())
    }
}

/// The one of `allowed` that `written` was most likely meant to be.
pub fn closest<'a>(written: &str, allowed: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &&str| {
        let distance = edits(written, candidate);
        (distance <= candidate.chars().count().max(3) / 3).then_some(distance)
    };
    allowed.filter_map(|candidate| near(&candidate).map(|distance| (distance, candidate))).min().map(|(_, best)| best)
}

/// Letters to insert, remove, replace or swap with their neighbour to turn `a` into `b`.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_what_was_meant() {
        let keys = ["message", "transforms", "dedup", "sinks"];
        for (written, meant) in [
            ("dedpu", Some("dedup")),
            ("transfroms", Some("transforms")),
            ("sink", Some("sinks")),
            ("Message", Some("message")),
            ("window", None),
            ("", None),
        ] {
            assert_eq!(closest(written, keys.into_iter()), meant, "{written}");
        }
    }
}
