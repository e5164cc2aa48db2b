//! Compiles the `.proto` files below the proto roots.
//!
//! A file's name, by which others import it, is its path below the deepest root that holds it, so a root inside another
//! is no second copy. Imports are looked for among the files the router brings along (`sluice/options.proto`,
//! `sluice/v1/log_line.proto`: a user's copy of them is passed over), then in the roots in their order, then among
//! Google's well-known types. Every broken file is reported, not only the first.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use prost_reflect::DescriptorPool;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver, IncludeFileResolver};

use super::Error;

/// Files that every node knows.
const BUILT_IN: [(&str, &str); 2] = [
    ("sluice/options.proto", include_str!("../../../proto/sluice/options.proto")),
    ("sluice/v1/log_line.proto", include_str!("../../../proto/sluice/v1/log_line.proto")),
];

/// Folders may nest this deep below a root; more is a loop of links.
const MAX_FOLDER_DEPTH: usize = 64;

/// Compiles everything below `roots`, and the built-in files.
pub fn compile(roots: &[PathBuf]) -> Result<DescriptorPool, Error> {
    let mut resolver = ChainFileResolver::new();
    resolver.add(BuiltIn);
    for root in roots {
        resolver.add(IncludeFileResolver::new(root.clone()));
    }
    resolver.add(GoogleFileResolver::new());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    let mut broken = Vec::new();
    let mut reported = HashSet::new();
    for name in BUILT_IN.iter().map(|(name, _)| (*name).to_owned()).chain(find(roots)?) {
        if let Err(error) = compiler.open_file(&name) {
            // A broken import breaks every importer in the same words; once is enough.
            let reason = format!("{error:?}");
            if reported.insert(reason.clone()) {
                broken.push(reason);
            }
        }
    }
    match broken.as_slice() {
        [] => Ok(compiler.descriptor_pool()),
        _ => Err(Error::Load { place: place(roots), reason: broken.join("\n") }),
    }
}

fn place(roots: &[PathBuf]) -> String {
    let roots: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
    if roots.is_empty() { "the built-in files".into() } else { roots.join(", ") }
}

/// Names of all `.proto` files, sorted, so that a load finds the same errors in the same order each time.
fn find(roots: &[PathBuf]) -> Result<Vec<String>, Error> {
    // Real path -> depth of the root, name below it.
    let mut found: BTreeMap<PathBuf, (usize, String)> = BTreeMap::new();
    for root in roots {
        let mut folders = vec![(root.clone(), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in list(&folder)? {
                let path = entry.path();
                if path.is_dir() {
                    if depth >= MAX_FOLDER_DEPTH {
                        let place = path.display().to_string();
                        return Err(Error::Load { place, reason: "folders nest too deep".into() });
                    }
                    folders.push((path, depth + 1));
                } else if path.extension().is_some_and(|extension| extension == "proto") {
                    let Some(name) = name(root, &path) else {
                        let place = path.display().to_string();
                        return Err(Error::Load { place, reason: "file name is not UTF-8".into() });
                    };
                    let real = |path: &Path| path.canonicalize().map_err(|error| load(path, &error));
                    let root_depth = real(root)?.components().count();
                    let known = found.entry(real(&path)?).or_insert((root_depth, name.clone()));
                    if known.0 < root_depth {
                        *known = (root_depth, name);
                    }
                }
            }
        }
    }
    let mut names: Vec<String> = found.into_values().map(|(_, name)| name).collect();
    names.sort();
    names.dedup();
    names.retain(|name| !is_built_in(name));
    Ok(names)
}

/// A user's copy of a built-in file, in whatever folder.
fn is_built_in(name: &str) -> bool {
    let copies =
        |built_in| name.strip_suffix(built_in).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'));
    BUILT_IN.iter().any(|(built_in, _)| copies(*built_in))
}

fn list(folder: &Path) -> Result<Vec<fs::DirEntry>, Error> {
    fs::read_dir(folder).and_then(Iterator::collect).map_err(|error| load(folder, &error))
}

fn load(path: &Path, error: &std::io::Error) -> Error {
    Error::Load { place: path.display().to_string(), reason: error.to_string() }
}

fn name(root: &Path, path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path.strip_prefix(root).ok()?.iter().map(|part| part.to_str()).collect();
    parts.map(|parts| parts.join("/"))
}

struct BuiltIn;

impl FileResolver for BuiltIn {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            Some((name, source)) => File::from_source(name, source),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}
