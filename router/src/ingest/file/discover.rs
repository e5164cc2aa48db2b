//! Finds files: those that the patterns name, and those that were renamed away from them.

use std::collections::{HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glob::{MatchOptions, Pattern};

use super::identity::{FileId, State};
use crate::ingest::Error;

/// A shell's rules: `*` takes no slash and no hidden file.
const INCLUDE: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };
/// What is excluded may be hidden.
const EXCLUDE: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };
/// Places that were complained of and are remembered, so that each is complained of once.
const WARNED_MAX: usize = 1_000;

/// Which files a source reads.
#[derive(Debug)]
pub(super) struct Patterns {
    name: Arc<str>,
    include: Vec<String>,
    exclude: Vec<Pattern>,
    /// Places that could not be looked into at the last look.
    warned: HashSet<PathBuf>,
}

/// A file as it was found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Its names that the patterns take: more than one for links.
    pub(super) paths: Vec<PathBuf>,
    pub(super) state: State,
}

impl Patterns {
    pub(super) fn new(name: &Arc<str>, include: &[String], exclude: &[String]) -> Result<Patterns, Error> {
        let wrong = |pattern: &str, source| Error::Pattern { name: Arc::clone(name), pattern: pattern.into(), source };
        for pattern in include {
            Pattern::new(pattern).map_err(|source| wrong(pattern, source))?;
        }
        let exclude = exclude.iter().map(|pattern| Pattern::new(pattern).map_err(|source| wrong(pattern, source)));
        Ok(Patterns {
            name: Arc::clone(name),
            include: include.to_vec(),
            exclude: exclude.collect::<Result<_, _>>()?,
            warned: HashSet::new(),
        })
    }

    /// Looks for files now. What cannot be looked at is warned of once and passed over.
    pub(super) fn find(&mut self) -> HashMap<FileId, Found> {
        let mut found: HashMap<FileId, Found> = HashMap::new();
        let mut refused = HashSet::new();
        for pattern in &self.include {
            // Checked in `new`.
            let Ok(paths) = glob::glob_with(pattern, INCLUDE) else { continue };
            for path in paths {
                let looked = path.map_err(|error| (error.path().to_owned(), error.into()));
                let looked = looked.and_then(|path| match self.look(&path) {
                    Ok(metadata) => Ok((path, metadata)),
                    Err(error) => Err((path, error)),
                });
                match looked {
                    Ok((path, Some(metadata))) => {
                        let new = Found { paths: Vec::new(), state: State::of(&metadata) };
                        let paths = &mut found.entry(FileId::of(&metadata)).or_insert(new).paths;
                        if !paths.contains(&path) {
                            paths.push(path);
                        }
                    }
                    Ok((_, None)) => {}
                    Err((path, error)) => {
                        if !self.warned.contains(&path) && refused.len() < WARNED_MAX {
                            tracing::warn!(source = %self.name, path = %path.display(), %error, "file cannot be looked at");
                        }
                        refused.insert(path);
                    }
                }
            }
        }
        self.warned = refused;
        found
    }

    /// Metadata of a file that is to be read; `None` of anything else.
    fn look(&self, path: &Path) -> io::Result<Option<Metadata>> {
        if self.exclude.iter().any(|pattern| pattern.matches_path_with(path, EXCLUDE)) {
            return Ok(None);
        }
        match fs::metadata(path) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata)),
            // Gone since it was listed, or a link to nowhere.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Looks for a file in the folder where it was first seen, by its inode: a renamed file is there under another name. The
/// device is not asked for, since its number may change when the machine starts anew; the head has to be checked.
pub(super) fn renamed(first_seen: &Path, id: FileId) -> Option<PathBuf> {
    let folder = fs::read_dir(first_seen.parent()?).ok()?;
    let inode = |entry: &fs::DirEntry| entry.ino() == id.inode;
    folder.flatten().find(inode).map(|entry| entry.path()).filter(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_what_a_shell_would_and_leave_what_is_excluded() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for path in ["a.log", "b.log", "b.txt", ".hidden.log", "deep/er/c.log", "deep/old/d.log", "folder.log/e.log"] {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), path).unwrap();
        }
        std::os::unix::fs::symlink(root.join("a.log"), root.join("link.log")).unwrap();
        std::os::unix::fs::symlink(root.join("nowhere"), root.join("broken.log")).unwrap();
        let check = |include: &[&str], exclude: &[&str], expected: &[&str]| {
            let rooted =
                |patterns: &[&str]| patterns.iter().map(|p| format!("{}/{p}", root.display())).collect::<Vec<_>>();
            let mut patterns = Patterns::new(&"test".into(), &rooted(include), &rooted(exclude)).unwrap();
            let found = patterns.find();
            let mut names: Vec<String> = found
                .values()
                .map(|file| file.paths[0].strip_prefix(root).unwrap().to_string_lossy().into_owned())
                .collect();
            names.sort();
            assert_eq!(names, expected, "{include:?} without {exclude:?}");
        };
        check(&["*.log"], &[], &["a.log", "b.log"]);
        check(&["*.log", "a*"], &["b.*"], &["a.log"]);
        check(&["**/*.log"], &[], &["a.log", "b.log", "deep/er/c.log", "deep/old/d.log", "folder.log/e.log"]);
        check(&["**/*.log"], &["**/old/*", "folder.log/*"], &["a.log", "b.log", "deep/er/c.log"]);
        check(&["?.log", "deep/*"], &[], &["a.log", "b.log"]);
        check(&[".hidden.log"], &[], &[".hidden.log"]);
        check(&["nowhere/*.log"], &[], &[]);
    }

    #[test]
    fn a_broken_pattern_is_refused_by_name() {
        let error = Patterns::new(&"app".into(), &["/var/log/***".into()], &[]).unwrap_err();
        assert_eq!(error.to_string(), r#"read pattern "/var/log/***" of file source app"#);
    }

    #[test]
    fn a_renamed_file_is_found_by_its_inode() {
        let directory = tempfile::tempdir().unwrap();
        let [old, new, other] = ["app.log", "app.log.1", "other"].map(|name| directory.path().join(name));
        fs::write(&old, "x").unwrap();
        fs::write(&other, "y").unwrap();
        let id = FileId::of(&fs::metadata(&old).unwrap());
        fs::rename(&old, &new).unwrap();
        fs::write(&old, "z").unwrap();
        assert_eq!(renamed(&old, id), Some(new.clone()));
        // The inode stays in use while the file is open, so that no other can get it.
        let _open = fs::File::open(&new).unwrap();
        fs::remove_file(&new).unwrap();
        assert_eq!(renamed(&old, id), None);
    }
}
