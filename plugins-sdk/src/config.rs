//! From the JSON of the stream's configuration to the value a plugin's function gets.

use serde::de::DeserializeOwned;

use crate::{Error, Result, Schema};

/// What a plugin is started with.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    pub json: &'a str,
    /// Full name of the stream's message.
    pub message: &'a str,
    /// Serialized FileDescriptorSet.
    pub descriptors: &'a [u8],
}

/// The config itself is what the function gets.
pub fn plain<C: DeserializeOwned>(setup: &Setup<'_>) -> Result<C> {
    parse(setup.json)
}

/// What `start` makes of the config and the schema is what the function gets.
pub fn with<C: DeserializeOwned, S>(setup: &Setup<'_>, start: impl FnOnce(C, &Schema) -> Result<S>) -> Result<S> {
    let config = parse(setup.json)?;
    let schema = Schema::read(setup.message, setup.descriptors)?;
    start(config, &schema)
}

/// Reads the config; an error says at which key.
pub(crate) fn parse<C: DeserializeOwned>(json: &str) -> Result<C> {
    serde_json::from_str(json).map_err(|error| {
        let key = key_at(json, error.line(), error.column());
        if key.is_empty() {
            Error::new(format_args!("config: {error}"))
        } else {
            Error::new(format_args!("config key {key}: {error}"))
        }
    })
}

/// Path of the value that ends at or holds the given place (counted from 1), such as `rules[2].field`; empty at the
/// root. serde_json names a wrong value by line and column only, and nobody counts columns in a config.
fn key_at(json: &str, line: usize, column: usize) -> String {
    let line_start: usize = json.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let end = (line_start + column).min(json.len());
    let bytes = &json.as_bytes()[..end];
    let mut path: Vec<Step> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => path.push(Step::Key(String::new())),
            b'[' => path.push(Step::Index(0)),
            // The error may lie on the closing bracket itself: then the container is what is wrong.
            b'}' | b']' => drop(path.pop()),
            b',' => {
                if let Some(Step::Index(index)) = path.last_mut() {
                    *index += 1;
                }
            }
            b'"' => {
                let close = string_end(bytes, at);
                let is_key = json.as_bytes()[close.min(json.len())..].iter().find(|byte| !byte.is_ascii_whitespace())
                    == Some(&b':');
                if let (true, Some(Step::Key(key))) = (is_key, path.last_mut()) {
                    *key = String::from_utf8_lossy(&bytes[at + 1..close.saturating_sub(1).max(at + 1)]).into_owned();
                }
                at = close;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    path.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) if key.is_empty() => path,
        Step::Key(key) if path.is_empty() => key.clone(),
        Step::Key(key) => format!("{path}.{key}"),
        Step::Index(index) => format!("{path}[{index}]"),
    })
}

enum Step {
    Key(String),
    Index(usize),
}

/// Place behind the closing quote of the string that opens at `at`.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != b'"' {
        end += if bytes[end] == b'\\' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Config {
        name: String,
        rules: Vec<Rule>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only parsed")]
    struct Rule {
        field: u32,
    }

    #[test]
    fn errors_name_the_key() {
        let check = |json: &str, expected: &str| {
            let text = parse::<Config>(json).unwrap_err().to_string();
            assert!(text.starts_with(expected), "{json}: {text}");
        };
        check("{}", "config: missing field `name`");
        check(r#"{"name": 5, "rules": []}"#, "config key name: invalid type: integer `5`");
        check(r#"{"name": "a\"{", "rules": 7}"#, "config key rules: invalid type: integer `7`");
        check(
            "{\"name\": \"x\",\n \"rules\": [{\"field\": 1}, {\"field\": \"two\"}]}",
            "config key rules[1].field: invalid type: string",
        );
        check(r#"{"name": "x", "other": 1}"#, "config key other: unknown field `other`");
        check(r#"{"name": "x", "rules": [{"felt": 1}]}"#, "config key rules[0].felt: unknown field `felt`");
        check("", "config: EOF");
        check("{\"name\": \"\u{fffd}", "config");
    }
}
