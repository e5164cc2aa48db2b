//! The manifest that the SDK leaves in a plugin: read without compiling or running anything.
//!
//! It is a custom section named `sluice:manifest`, in the core module that the component carries. Both forms share one
//! outer layout: 8 bytes of header, then sections of (id byte, varint length, content); a component nests modules and
//! components as sections of their own.

use std::fmt;

use serde::Deserialize;

use crate::record::read_varint;

/// What a plugin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Transform,
    Dedup,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Transform => "transform",
            Kind::Dedup => "dedup",
        })
    }
}

/// What a plugin says of itself. Unknown keys are of a newer SDK, and no reason to refuse it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    pub kind: Kind,
    pub name: String,
    pub version: String,
}

const SECTION: &[u8] = b"sluice:manifest";
const HEADER_LEN: usize = 8;
const CUSTOM: u8 = 0;
/// Section ids of a component.
const CORE_MODULE: u8 = 1;
const COMPONENT: u8 = 4;
/// A module in a component, with room for tools that wrap once more.
const NESTING_MAX: usize = 4;

/// Finds the manifest in a component or core module; `Ok(None)` where there is none.
pub(super) fn read(wasm: &[u8]) -> Result<Option<Manifest>, String> {
    match find(wasm, NESTING_MAX) {
        Some(json) => serde_json::from_slice(json).map(Some).map_err(|error| format!("read its manifest: {error}")),
        None => Ok(None),
    }
}

fn find(wasm: &[u8], nesting: usize) -> Option<&[u8]> {
    let is_component = wasm.get(4..HEADER_LEN)? == [0x0d, 0, 1, 0];
    let mut at = HEADER_LEN;
    while let Some(&id) = wasm.get(at) {
        let (len, start) = read_varint(wasm, at + 1)?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        let content = wasm.get(start..end)?;
        let found = match id {
            CUSTOM => custom(content),
            CORE_MODULE | COMPONENT if is_component && nesting > 0 => find(content, nesting - 1),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
        at = end;
    }
    None
}

fn custom(content: &[u8]) -> Option<&[u8]> {
    let (len, start) = read_varint(content, 0)?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    (content.get(start..end)? == SECTION).then(|| &content[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section(id: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![id];
        crate::record::push_varint(&mut out, content.len() as u64);
        out.extend_from_slice(content);
        out
    }

    fn module(json: &str) -> Vec<u8> {
        let mut content = vec![SECTION.len() as u8];
        content.extend_from_slice(SECTION);
        content.extend_from_slice(json.as_bytes());
        [b"\0asm\x01\0\0\0".to_vec(), section(1, &[0; 300]), section(CUSTOM, &content)].concat()
    }

    #[test]
    fn the_manifest_is_found_inside_a_component() {
        let json = r#"{"kind":"dedup","name":"n","version":"1.2.3","later":[]}"#;
        let expected = Manifest { kind: Kind::Dedup, name: "n".into(), version: "1.2.3".into() };
        let wrap = |inner: &[u8], id| [b"\0asm\x0d\0\x01\0".to_vec(), section(7, &[1]), section(id, inner)].concat();
        let component = wrap(&module(json), CORE_MODULE);
        for wasm in [&module(json), &component, &wrap(&component, COMPONENT)] {
            assert_eq!(read(wasm), Ok(Some(expected.clone())));
        }
        let deep = (0..9).fold(component, |inner, _| wrap(&inner, COMPONENT));
        assert_eq!(read(&deep), Ok(None));
    }

    #[test]
    fn broken_files_are_no_panic() {
        let whole = module("{}");
        for len in 0..whole.len() - 2 {
            assert_eq!(read(&whole[..len]), Ok(None), "{len}");
        }
        assert!(read(&whole).unwrap_err().contains("missing field `kind`"));
    }
}
