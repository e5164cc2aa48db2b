//! Whole files: those that must load, and those that must be refused, word for word.

use std::path::{Path as FilePath, PathBuf};

use super::*;

/// A file's problems as golden text lies beside it: `NAME.yaml`, `NAME.err`. `UPDATE=1` writes them anew.
#[test]
fn wrong_files_are_refused_word_for_word() {
    let folder = root().join("tests/config");
    let mut checked = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let refused = match load_with(&file, &environment) {
            Ok(_) => panic!("{} loads", file.display()),
            Err(error) => format!("{error}\n").replace(&format!("{}/", folder.display()), ""),
        };
        let golden = file.with_extension("err");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &refused).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(refused, expected, "{}: UPDATE=1 accepts the new text", golden.display());
        assert!(!refused.contains("hunter2"), "{} shows a secret", golden.display());
        checked += 1;
    }
    assert!(checked >= 12, "only {checked} files in {}", folder.display());
}

fn root() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn environment(name: &str) -> Option<String> {
    match name {
        "SLUICE_PASSWORD" => Some("hunter2".to_owned()),
        "SLUICE_WINDOW" => Some("hunter2 days".to_owned()),
        _ => None,
    }
}
