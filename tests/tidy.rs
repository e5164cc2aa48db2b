//! Keeps the house in order: what DESIGN and CONTRIBUTING ask of the sources as a whole, and no compiler checks.
//!
//! Each rule is a function from a file to what is wrong with it; `the_sources_are_tidy` applies all of them to all files,
//! and below it each rule is shown something bad, for a rule that cannot fail keeps nothing.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
/// Waits a random time before it kills: the moment is what such a test is about.
const KILLERS: [&str; 1] = ["tests/journal_crash.rs"];
const STAGES: [&str; 3] = ["ingest", "process", "deliver"];
/// Names that say nothing: whatever has no place ends there.
const DRAWERS: [&str; 10] =
    ["utils", "util", "helpers", "helper", "common", "misc", "types", "models", "manager", "handler"];

/// One text file of the repository.
struct Source {
    /// From the repository's root, with slashes.
    path: String,
    text: String,
    /// `text` with comments and the insides of literals blanked, line by line as long as before.
    code: String,
    /// Whether all of it is compiled for tests only.
    is_test: bool,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let is_test = path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/");
        Source { path: path.into(), text: text.into(), code: blank(text), is_test }
    }

    /// The part of the router this is: the first name below `router/src`.
    fn part(&self) -> Option<&str> {
        let below = self.path.strip_prefix("router/src/")?;
        Some(below.split('/').next().unwrap_or(below).trim_end_matches(".rs"))
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Code that ships: modules of tests inside the file are left out.
    fn shipped(&self) -> String {
        if self.is_test { String::new() } else { without_test_modules(&self.code) }
    }
}

type Rule = fn(&Source) -> Vec<String>;
const RULES: [Rule; 11] = [
    stages_do_not_meet,
    settings_stay_above,
    libraries_stay_in_their_place,
    clock_and_tasks_have_one_place,
    environment_is_read_above,
    metrics_are_declared_in_one_file,
    names_say_something,
    files_are_short,
    functions_fit_a_screen,
    tests_are_run_and_wait_for_conditions,
    nothing_names_a_machine,
];

#[test]
fn the_sources_are_tidy() {
    let root = root();
    let mut sources = sources(&root);
    mark_test_modules(&mut sources);
    assert!(sources.iter().filter(|source| source.is_rust()).count() > 50, "the sources were found");
    let mut problems = Vec::new();
    for source in &sources {
        for rule in RULES {
            problems.extend(rule(source).into_iter().map(|problem| format!("{}: {problem}", source.path)));
        }
        if ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].contains(&source.path.as_str()) {
            let gone = named_paths(&source.text, &|name| root.join(name).exists());
            problems
                .extend(gone.into_iter().map(|path| format!("{}: names `{path}`, which does not exist", source.path)));
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

// ---- rules ----

/// Stages are joined by `pipeline` and started by `role`; `config` and `cli` name their settings. What lies below the
/// stages knows none of them.
fn stages_do_not_meet(source: &Source) -> Vec<String> {
    let Some(part) = source.part() else { return Vec::new() };
    let code = source.shipped();
    let named: BTreeSet<String> = crate_paths(&code)
        .into_iter()
        .filter_map(|path| STAGES.contains(&path[0].as_str()).then(|| path[0].clone()))
        .filter(|stage| stage != part)
        .collect();
    let named: Vec<String> = named.into_iter().collect();
    match part {
        "pipeline" | "role" | "config" | "cli" => Vec::new(),
        "record" | "clock" | "tasks" | "telemetry" | "schema" | "journal" if !named.is_empty() => {
            vec![format!("lies below the stages, but uses {}", named.join(" and "))]
        }
        _ if STAGES.contains(&part) && !named.is_empty() => {
            vec![format!("stage {part} uses stage {}: only pipeline.rs joins stages", named.join(" and "))]
        }
        _ if named.len() > 1 => vec![format!("joins stages {}: only pipeline.rs does", named.join(" and "))],
        _ => Vec::new(),
    }
}

/// Below `role` nobody knows settings as the user wrote them.
fn settings_stay_above(source: &Source) -> Vec<String> {
    match source.part() {
        None | Some("role" | "config" | "cli" | "main" | "lib") => Vec::new(),
        Some(_) => crate_paths(&source.shipped())
            .into_iter()
            .filter(|path| ["config", "cli", "role"].contains(&path[0].as_str()))
            .map(|path| format!("uses crate::{}, which lies above it", path.join("::")))
            .collect(),
    }
}

fn libraries_stay_in_their_place(source: &Source) -> Vec<String> {
    let places: [(&str, &[&str]); 3] = [
        ("wasmtime", &["router/src/process/plugin/", "router/src/process/plugin.rs"]),
        ("sled", &["router/src/journal/"]),
        ("redb", &["router/src/journal/"]),
    ];
    if source.part().is_none() || source.is_test {
        return Vec::new();
    }
    let code = source.shipped();
    let strays = places.iter().filter(|(library, places)| {
        let uses = [format!("{library}::"), format!("use {library};")];
        !places.iter().any(|place| source.path.starts_with(place)) && uses.iter().any(|needle| has_word(&code, needle))
    });
    strays.map(|(library, places)| format!("uses {library}, which belongs in {}", places[0])).collect()
}

fn clock_and_tasks_have_one_place(source: &Source) -> Vec<String> {
    let tasks = ["tokio::spawn", "task::spawn", "spawn_blocking", "thread::spawn", "thread::Builder"];
    let Some(part) = source.part() else { return Vec::new() };
    let code = source.shipped();
    let clock =
        (part != "clock" && code.contains("SystemTime::now")).then(|| "reads the wall clock: use clock.rs".into());
    let task = tasks.iter().filter(|call| part != "tasks" && has_word(&code, call));
    clock.into_iter().chain(task.map(|call| format!("calls {call}: tasks start in tasks.rs"))).collect()
}

fn environment_is_read_above(source: &Source) -> Vec<String> {
    let is_above = matches!(source.part(), None | Some("cli" | "config" | "main"));
    let code = source.shipped();
    // The compiler's `env!` is no environment.
    let reads = ["std::env", "env::var", "env::args"].iter().any(|needle| has_word(&code, needle));
    if !is_above && reads { vec!["reads the environment: only cli, config and main do".into()] } else { Vec::new() }
}

fn metrics_are_declared_in_one_file(source: &Source) -> Vec<String> {
    let macros = ["counter!", "gauge!", "histogram!", "describe_counter!", "describe_gauge!", "describe_histogram!"];
    if source.part().is_none_or(|part| part == "telemetry") {
        return Vec::new();
    }
    let used = macros.iter().filter(|name| has_word(&source.code, name));
    used.map(|name| format!("uses {name}(): metrics are declared in telemetry.rs")).collect()
}

fn names_say_something(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let parts = source.path.split('/').map(|part| part.split('.').next().unwrap_or(part).to_lowercase());
    let drawers =
        parts.filter(|part| DRAWERS.iter().any(|drawer| part == drawer || part.ends_with(&format!("_{drawer}"))));
    drawers.map(|part| format!("is called {part}, which says nothing")).collect()
}

fn files_are_short(source: &Source) -> Vec<String> {
    let lines = if source.is_rust() { source.shipped().trim_end().lines().count() } else { 0 };
    if lines > FILE_LINES_MAX {
        vec![format!("has {lines} lines without tests, {FILE_LINES_MAX} at most")]
    } else {
        Vec::new()
    }
}

fn functions_fit_a_screen(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let long = functions(&source.shipped()).into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX);
    long.map(|(name, lines)| format!("fn {name} has {lines} lines, {FUNCTION_LINES_MAX} at most")).collect()
}

fn tests_are_run_and_wait_for_conditions(source: &Source) -> Vec<String> {
    if !source.is_rust() {
        return Vec::new();
    }
    let tests = if source.is_test { source.code.clone() } else { test_modules(&source.code) };
    let needles = ["todo!", "#[ignore", "thread::sleep"];
    let is_allowed = |needle: &str| needle == "thread::sleep" && KILLERS.contains(&source.path.as_str());
    let found = needles.iter().filter(|needle| tests.contains(*needle) && !is_allowed(needle));
    found.map(|needle| format!("has {needle} in a test")).collect()
}

/// Paths that exist on one machine only.
fn nothing_names_a_machine(source: &Source) -> Vec<String> {
    // Put together here, for this file is looked at, too.
    let homes = ["root", "work", "home", "Users"].map(|folder| format!("/{folder}/"));
    let mut problems = Vec::new();
    for (number, line) in source.text.lines().enumerate() {
        let is_named = homes.iter().any(|home| {
            line.match_indices(home)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "./-_*}".contains(c)))
        });
        if is_named {
            problems.push(format!("line {} names a path of one machine", number + 1));
        }
    }
    problems
}

/// Paths in backticks that look as if they lay in this repository, and do not.
fn named_paths(text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut gone = Vec::new();
    for line in text.lines() {
        // Every second piece is in backticks.
        for name in line.split('`').skip(1).step_by(2) {
            let is_path = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
            let is_inside = !name.starts_with(['/', '.']) || name.starts_with(".ci/");
            let (first, is_file) =
                (name.split('/').next().unwrap_or(name), name.ends_with(".md") || name.ends_with(".toml"));
            let is_ours = name.contains('/') && first != "target" && (exists(first) || name.ends_with(".rs"));
            if is_path && is_inside && (is_ours || is_file) && !exists(name) {
                gone.push(name.to_owned());
            }
        }
    }
    gone
}

// ---- reading sources ----

fn root() -> PathBuf {
    let router = Path::new(env!("CARGO_MANIFEST_DIR"));
    router.parent().map(Path::to_owned).unwrap_or_default()
}

fn sources(root: &Path) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap_or_default());
            if entry.file_type().unwrap().is_dir() {
                if !["target", ".git", "proptest-regressions", "node_modules"].contains(&name.as_str()) {
                    folders.push(path);
                }
                continue;
            }
            let kinds = [".rs", ".md", ".toml", ".yaml", ".yml", ".proto", ".wit", ".sh"];
            let is_known =
                kinds.iter().any(|kind| name.ends_with(kind)) || ["Makefile", "run", "setup"].contains(&&*name);
            if is_known && let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push(Source::new(&path, &text));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// Files of modules that are declared behind `#[cfg(test)]` are tests, whatever they are called.
fn mark_test_modules(sources: &mut [Source]) {
    let mut places = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let stem = source.path.trim_end_matches(".rs");
        let folder = match stem.rsplit_once('/') {
            Some((folder, "mod" | "lib" | "main")) => folder,
            _ => stem,
        };
        for name in declared_for_tests(&source.code) {
            places.push(format!("{folder}/{name}"));
        }
    }
    for source in sources {
        let is_below =
            |place: &String| source.path == format!("{place}.rs") || source.path.starts_with(&format!("{place}/"));
        source.is_test |= places.iter().any(is_below);
    }
}

fn declared_for_tests(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, attribute) in code.match_indices("#[cfg(test)]") {
        let mut rest = code[at + attribute.len()..].trim_start();
        while rest.starts_with("#[") {
            rest = rest.split_once(']').map_or("", |(_, behind)| behind.trim_start());
        }
        let rest = rest.strip_prefix("pub(crate) ").or(rest.strip_prefix("pub ")).unwrap_or(rest);
        if let Some((name, _)) = rest.strip_prefix("mod ").and_then(|rest| rest.split_once(';')) {
            names.extend((!name.contains('{')).then(|| name.trim().to_owned()));
        }
    }
    names
}

/// Blanks comments and the insides of strings and characters, keeping line breaks.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match literal_end(&chars, at) {
            Some(end) => end,
            None => {
                out.push(chars[at]);
                at += 1;
                continue;
            }
        };
        out.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `None` where none begins.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let is = |at: usize, text: &str| text.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    let find = |from: usize, text: &str| (from..chars.len()).find(|&at| is(at, text)).unwrap_or(chars.len());
    if is(at, "//") {
        return Some(find(at, "\n"));
    }
    if is(at, "/*") {
        return Some((find(at, "*/") + 2).min(chars.len()));
    }
    let is_inside_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    if !is_inside_word && (chars[at] == 'r' || is(at, "br")) {
        let quote = (at + 1..).find(|&at| !matches!(chars.get(at), Some('r' | '#')))?;
        if chars.get(quote) == Some(&'"') {
            let hashes = chars[at..quote].iter().filter(|&&c| c == '#').count();
            let close = format!("\"{}", "#".repeat(hashes));
            return Some((find(quote + 1, &close) + close.len()).min(chars.len()));
        }
    }
    if chars[at] == '"' {
        return Some(escaped_end(chars, at + 1, '"'));
    }
    // A character, not a lifetime.
    if chars[at] == '\'' && (is(at + 1, "\\") || chars.get(at + 2) == Some(&'\'')) {
        return Some(escaped_end(chars, at + 1, '\''));
    }
    None
}

fn escaped_end(chars: &[char], mut at: usize, close: char) -> usize {
    while at < chars.len() && chars[at] != close {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Places of `#[cfg(test)]` items that have a body: from the attribute to the closing brace.
fn test_spans(code: &str) -> Vec<(usize, usize)> {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    for (at, _) in code.match_indices("#[cfg(test)]") {
        let end = match (code[at..].find('{'), code[at..].find(';')) {
            (Some(open), semicolon) if semicolon.is_none_or(|semicolon| open < semicolon) => closing(code, at + open),
            (_, semicolon) => at + semicolon.map_or(0, |semicolon| semicolon + 1),
        };
        if spans.last().is_none_or(|&(_, last)| at >= last) {
            spans.push((at, end));
        }
    }
    spans
}

fn without_test_modules(code: &str) -> String {
    let mut out = String::new();
    let mut from = 0;
    for (start, end) in test_spans(code) {
        out.push_str(&code[from..start]);
        from = end;
    }
    out + &code[from..]
}

fn test_modules(code: &str) -> String {
    test_spans(code).into_iter().map(|(start, end)| &code[start..end]).collect()
}

/// Place behind the brace that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (i, c) in code[open..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return open + i + 1;
        }
    }
    code.len()
}

/// Every function with a body: its name and its lines.
fn functions(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let body = code[at..].find(['{', ';']).filter(|&end| code[at + end..].starts_with('{'));
        if let (false, Some(open)) = (name.is_empty(), body) {
            found.push((name, code[at..closing(code, at + open)].lines().count()));
        }
    }
    found
}

/// All paths that begin with `crate::`, groups in braces unfolded.
fn crate_paths(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        if !code[..at].ends_with(|c: char| c.is_alphanumeric() || "_$:".contains(c)) {
            unfold(&code[at + prefix.len()..], Vec::new(), &mut paths);
        }
    }
    paths
}

/// Adds the paths that `tail` holds below `head`; returns what is behind them.
fn unfold<'a>(mut tail: &'a str, mut head: Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    loop {
        tail = tail.trim_start();
        if let Some(mut group) = tail.strip_prefix('{') {
            loop {
                group = unfold(group, head.clone(), paths).trim_start();
                match group.strip_prefix(',') {
                    Some(rest) if !rest.trim_start().starts_with('}') => group = rest,
                    Some(rest) => return rest.trim_start().strip_prefix('}').unwrap_or(rest),
                    None => return group.strip_prefix('}').unwrap_or(group),
                }
            }
        }
        let len = tail.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(tail.len());
        head.push(tail[..len].to_owned());
        tail = tail[len..].trim_start();
        match tail.strip_prefix("::") {
            Some(rest) => tail = rest,
            None => {
                paths.push(head);
                let alias = tail
                    .strip_prefix("as ")
                    .map(|rest| rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
                return alias.unwrap_or(tail);
            }
        }
    }
}

/// Whether `needle` stands in `code` and does not merely end a longer name.
fn has_word(code: &str, needle: &str) -> bool {
    code.match_indices(needle).any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

// ---- each rule can fail ----

mod rules {
    use super::*;

    /// `rule` finds `problems` in a file of this text.
    #[track_caller]
    fn check(rule: Rule, path: &str, text: &str, problems: &[&str]) {
        assert_eq!(rule(&Source::new(path, text)), problems, "{path}: {text}");
    }

    #[test]
    fn stages() {
        let rule: Rule = stages_do_not_meet;
        let meets = "stage ingest uses stage deliver: only pipeline.rs joins stages";
        check(rule, "router/src/ingest/http/mod.rs", "use crate::deliver::Sink;", &[meets]);
        check(rule, "router/src/ingest/x.rs", "use crate::{journal, deliver::{self, Sink}};", &[meets]);
        check(rule, "router/src/ingest/x.rs", "fn f() { crate::deliver::stdout::run() }", &[meets]);
        check(rule, "router/src/ingest/x.rs", "use crate::ingest::parse; // not crate::deliver", &[]);
        check(rule, "router/src/ingest/x.rs", "#[cfg(test)]\nmod tests { use crate::deliver::Sink; }", &[]);
        check(rule, "router/src/ingest/tests.rs", "use crate::deliver::Sink;", &[]);
        check(rule, "router/src/schema/x.rs", "use crate::ingest::A;", &["lies below the stages, but uses ingest"]);
        let joins = "joins stages deliver and process: only pipeline.rs does";
        check(rule, "router/src/admin/mod.rs", "use crate::{process, deliver};", &[joins]);
        check(rule, "router/src/admin/mod.rs", "use crate::deliver;", &[]);
        check(rule, "router/src/pipeline/lane.rs", "use crate::{process, deliver};", &[]);
    }

    #[test]
    fn what_lies_above() {
        let above = "uses crate::config::Settings, which lies above it";
        check(settings_stay_above, "router/src/journal/mod.rs", "use crate::config::Settings;", &[above]);
        check(settings_stay_above, "router/src/role/node.rs", "use crate::config::Settings;", &[]);
        let environment = "reads the environment: only cli, config and main do";
        check(environment_is_read_above, "router/src/link/mod.rs", "let a = std::env::var(A);", &[environment]);
        check(environment_is_read_above, "router/src/link/mod.rs", "let a = env!(\"CARGO_PKG_VERSION\");", &[]);
        check(environment_is_read_above, "router/src/config/file.rs", "let a = std::env::var(A);", &[]);
    }

    #[test]
    fn places() {
        let rule: Rule = libraries_stay_in_their_place;
        check(
            rule,
            "router/src/role/x.rs",
            "use wasmtime::Engine;",
            &["uses wasmtime, which belongs in router/src/process/plugin/"],
        );
        check(rule, "router/src/process/plugin/host.rs", "use wasmtime::Engine;", &[]);
        check(
            rule,
            "router/src/schema/x.rs",
            "let db = sled::open(p);",
            &["uses sled, which belongs in router/src/journal/"],
        );
        check(rule, "router/src/schema/x.rs", "let a = unsled::open(p); // sled::open", &[]);
        let rule: Rule = clock_and_tasks_have_one_place;
        check(rule, "router/src/link/x.rs", "let t = SystemTime::now();", &["reads the wall clock: use clock.rs"]);
        check(rule, "router/src/link/x.rs", "tokio::spawn(f);", &["calls tokio::spawn: tasks start in tasks.rs"]);
        check(rule, "router/src/tasks.rs", "tokio::spawn(f);", &[]);
        let rule: Rule = metrics_are_declared_in_one_file;
        check(
            rule,
            "router/src/link/x.rs",
            "counter!(\"x\");",
            &["uses counter!(): metrics are declared in telemetry.rs"],
        );
        check(rule, "router/src/telemetry.rs", "counter!(\"x\");", &[]);
    }

    #[test]
    fn names_and_sizes() {
        check(names_say_something, "router/src/utils.rs", "", &["is called utils, which says nothing"]);
        check(
            names_say_something,
            "router/src/link/frame_helpers/mod.rs",
            "",
            &["is called frame_helpers, which says nothing"],
        );
        check(names_say_something, "router/src/link/frame.rs", "", &[]);
        let long = "let a = 1;\n".repeat(501);
        check(files_are_short, "router/src/x.rs", &long, &["has 501 lines without tests, 500 at most"]);
        let tests = format!("let a = 1;\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        check(files_are_short, "router/src/x.rs", &tests, &[]);
        let body =
            |lines: usize| format!("fn long() {{\n{}}}\nfn short() {{ '}}'; \"}}\"; }}\n", "    a();\n".repeat(lines));
        check(functions_fit_a_screen, "router/src/x.rs", &body(69), &["fn long has 71 lines, 70 at most"]);
        check(functions_fit_a_screen, "router/src/x.rs", &body(68), &[]);
    }

    #[test]
    fn tests_and_texts() {
        let rule: Rule = tests_are_run_and_wait_for_conditions;
        check(rule, "tests/e2e.rs", "#[test]\n#[ignore]\nfn a() {}", &["has #[ignore in a test"]);
        check(
            rule,
            "router/src/x.rs",
            "#[cfg(test)]\nmod tests { fn a() { thread::sleep(d); } }",
            &["has thread::sleep in a test"],
        );
        check(rule, "router/src/cli/x.rs", "fn a() { thread::sleep(d); }", &[]);
        let home = ["see /ro", "ot/notes.md"].concat();
        check(nothing_names_a_machine, "README.md", &home, &["line 1 names a path of one machine"]);
        check(nothing_names_a_machine, "README.md", "see tests/work/a and https://x.example/home/", &[]);
        let exists = |name: &str| ["router", "router/src", "README.md"].contains(&name);
        let text = "`router/src` `router/gone.rs` `GONE.md` `README.md` `/metrics` `a b/c` `target/x` `text/plain`";
        assert_eq!(named_paths(text, &exists), ["router/gone.rs", "GONE.md"]);
    }

    #[test]
    fn reading() {
        let text = "a \"b\\\"{\" 'c' '\\'' &'d e // f\ng /* h\n */ r#\"i\"\"# j";
        let blanked = blank(text);
        assert_eq!(blanked.split_whitespace().collect::<Vec<_>>(), ["a", "&'d", "e", "g", "j"]);
        assert_eq!(blanked.lines().map(str::len).collect::<Vec<_>>(), text.lines().map(str::len).collect::<Vec<_>>());
        let paths = crate_paths("use crate::{a, b::{self as x, c}, d::*}; crate::e::f(g); my_crate::h");
        let paths: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
        assert_eq!(paths, ["a", "b::self", "b::c", "d::*", "e::f"]);
        let mut sources = vec![
            Source::new("router/src/link/mod.rs", "#[cfg(test)]\npub mod fixture;\nmod real;"),
            Source::new("router/src/link/fixture.rs", ""),
            Source::new("router/src/link/real.rs", ""),
        ];
        mark_test_modules(&mut sources);
        assert_eq!(sources.iter().map(|source| source.is_test).collect::<Vec<_>>(), [false, true, false]);
    }
}
