//! Replaces `${env:NAME}` and `${file:PATH}` inside any text of the file; `$${` stands for a literal `${`.
//!
//! What was replaced may be a secret, so the text keeps what the user wrote, and only that is ever printed.

use std::path::Path as FilePath;

use super::problem::Problem;
use super::tree::{Node, Path};

/// A secret's file is small; a larger one is a mistake (a device, a log).
const FILE_MAX_BYTES: u64 = 64 << 10;

const HELP: &str = "write ${env:NAME}, ${file:PATH}, or $${ for a literal ${";

/// Where replaced values come from.
pub struct Surroundings<'a> {
    /// Folder of the configuration file: relative paths start here.
    pub folder: &'a FilePath,
    /// Value of an environment variable.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// Replaces all references below `root`; returns those that could not be.
pub fn expand(root: &mut Node, surroundings: &Surroundings<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    root.visit_texts(&Path::default(), &mut |path, place, text| {
        if !text.value.contains("${") {
            return;
        }
        match surroundings.expanded(&text.value) {
            Ok(value) => text.written = Some(std::mem::replace(&mut text.value, value)),
            Err((what, help)) => {
                // Its shape is not to be judged by the reference's letters: the one problem is enough.
                text.written = Some(text.value.clone());
                problems.push(Problem::new(place, path.clone(), what).help(help));
            }
        }
    });
    problems
}

impl Surroundings<'_> {
    /// `text` with all references replaced, or what is wrong and what helps.
    fn expanded(&self, text: &str) -> Result<String, (String, String)> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if let Some(before) = rest[..at].strip_suffix('$') {
                expanded.push_str(before);
                expanded.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            expanded.push_str(&rest[..at]);
            let Some(len) = rest[at..].find('}') else {
                return Err((format!("{:?} has no closing brace", &rest[at..]), HELP.to_owned()));
            };
            let reference = &rest[at..=at + len];
            expanded.push_str(&self.value(reference)?);
            rest = &rest[at + len + 1..];
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    /// The value of a `${...}`.
    fn value(&self, reference: &str) -> Result<String, (String, String)> {
        let name = reference.trim_start_matches("${").trim_end_matches('}');
        match name.split_once(':') {
            Some(("env", name)) if !name.is_empty() => (self.environment)(name).ok_or_else(|| {
                let what = format!("environment variable {name} is not set, or is not UTF-8");
                (what, format!("set {name}, or write the value another way"))
            }),
            Some(("file", path)) if !path.is_empty() => {
                let path = self.folder.join(path);
                read(&path).map_err(|error| {
                    let what = format!("{reference} cannot be read: {}: {error}", path.display());
                    (what, "a relative path starts at the folder of this file".to_owned())
                })
            }
            _ => Err((format!("{reference:?} is no reference"), HELP.to_owned())),
        }
    }
}

/// A file's text without its last line break.
fn read(path: &FilePath) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_MAX_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {FILE_MAX_BYTES} bytes")));
    }
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_and_all_else_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "s3cret\n").unwrap();
        let environment = |name: &str| (name == "HOST").then(|| "example".to_owned());
        let surroundings = Surroundings { folder: folder.path(), environment: &environment };
        for (text, expanded) in [
            ("plain", "plain"),
            ("https://${env:HOST}:9200", "https://example:9200"),
            ("${file:key}", "s3cret"),
            ("${env:HOST}${env:HOST}", "exampleexample"),
            ("$${env:HOST}", "${env:HOST}"),
            ("^a{2}$", "^a{2}$"),
        ] {
            assert_eq!(surroundings.expanded(text).as_deref(), Ok(expanded), "{text}");
        }
        for text in ["${env:NONE}", "${file:none}", "${HOST}", "${env:}", "${env:HOST", "${}", "a${env:HOST}${"] {
            assert!(surroundings.expanded(text).is_err(), "{text}");
        }
    }
}
