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

/// Where a key may not stand in a role's file, by the beginning of its path.
const REFUSED: [(&str, &[&str]); 3] = [
    ("edge", &["plugins", "sinks", "sources.link", "streams.*.transforms", "streams.*.dedup", "streams.*.sinks"]),
    ("central", &["link"]),
    ("solo", &["link", "sources.link"]),
];

/// `config/ROLE.yaml` hold every key a role may have; above each stands its true default.
#[test]
fn the_files_that_explain_every_key_are_complete_and_true() {
    let schema = file::schema();
    let mut keys = Vec::new();
    collect_keys(&schema, &schema, String::new(), &mut keys);
    assert!(keys.len() > 80, "{} keys", keys.len());
    for (role, refused) in REFUSED {
        let file = root().join(format!("config/{role}.yaml"));
        let text = std::fs::read_to_string(&file).unwrap();
        let shown = shown_keys(&file, &text);
        for key in &keys {
            let is_refused = refused.iter().any(|start| {
                key.path.strip_prefix(start).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            });
            let lines = shown.get(&key.path);
            assert_eq!(lines.is_none(), is_refused, "{role}.yaml: {}", key.path);
            let Some(expected) = lines.and(key.says.as_ref()) else { continue };
            let name = key.path.rsplit('.').next().unwrap();
            let own_line = |line: &&usize| text.lines().nth(**line - 1).is_some_and(|line| begins_with(line, name));
            let own_lines: Vec<&usize> = lines.into_iter().flatten().filter(own_line).collect();
            if own_lines.is_empty() {
                continue; // inside `{ ... }`: its parent's comment speaks for it
            }
            let said: Vec<String> = own_lines.into_iter().filter_map(|&line| says(&text, line)).collect();
            // Key by role, so the schema cannot say it.
            let by_role = key.path == "streams.*.sinks" && said.contains(&"required".to_owned());
            let is_said = said.contains(expected) || (expected.is_empty() && !said.is_empty()) || by_role;
            assert!(is_said, "{role}.yaml: {}: {said:?} stands above it, not {expected:?}", key.path);
        }
        let unknown = shown.keys().find(|path| !keys.iter().any(|key| key.path == **path));
        assert_eq!(unknown, None, "{role}.yaml explains a key that is not");
    }
}

struct Key {
    path: String,
    /// What its comment must end with; `""` for any default that the schema cannot name; `None` where keys lie below.
    says: Option<String>,
}

/// Every key of the schema, names as `*` and list elements as `[]`.
fn collect_keys(root: &serde_json::Value, schema: &serde_json::Value, path: String, keys: &mut Vec<Key>) {
    let dot = if path.is_empty() { "" } else { "." };
    if let Some(reference) = schema["$ref"].as_str() {
        return collect_keys(root, root.pointer(&reference[1..]).unwrap(), path, keys);
    }
    let branches = schema["oneOf"].as_array().into_iter().flatten();
    for place in branches.chain([schema]) {
        for (key, property) in place["properties"].as_object().into_iter().flatten() {
            let before = keys.len();
            let path = format!("{path}{dot}{key}");
            collect_keys(root, property, path.clone(), keys);
            let is_required = place["required"].as_array().is_some_and(|keys| keys.iter().any(|name| name == key));
            let says = match &property["default"] {
                _ if keys.len() > before => None,
                _ if is_required && place["properties"].as_object().unwrap().len() == 1 => None, // a kind
                _ if is_required => Some("required".to_owned()),
                serde_json::Value::Null => Some(String::new()),
                serde_json::Value::String(text) => Some(format!("default: {text}")),
                value => Some(format!("default: {value}")),
            };
            keys.push(Key { path, says });
        }
    }
    if schema["additionalProperties"].is_object() {
        collect_keys(root, &schema["additionalProperties"], format!("{path}{dot}*"), keys);
    }
    if schema["items"].is_object() {
        collect_keys(root, &schema["items"], format!("{path}[]"), keys);
    }
}

/// Keys of a file with the lines they stand in. A line `#key: value` is an alternative: the file must load with it, too.
fn shown_keys(file: &FilePath, text: &str) -> std::collections::BTreeMap<String, Vec<usize>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut shown = std::collections::BTreeMap::new();
    let mut variants = vec![text.to_owned()];
    for (i, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let Some(alternative) = line.trim_start().strip_prefix('#').filter(|rest| !rest.is_empty()) else { continue };
        if alternative.starts_with(' ') {
            continue;
        }
        let key = alternative.split(':').next().unwrap();
        let mut variant = lines.clone();
        let enabled = format!("{}{alternative}", &line[..indent]);
        variant[i] = &enabled;
        let same = format!("{}{key}:", &line[..indent]);
        if let Some(active) = (0..i).rev().take_while(|&j| !lines[j].is_empty()).find(|&j| lines[j].starts_with(&same))
        {
            variant[active] = "";
        }
        variants.push(variant.join("\n"));
    }
    for variant in variants {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join(file.file_name().unwrap());
        std::fs::write(&copy, &variant).unwrap();
        load_with(&copy, &|_| Some("hunter2".to_owned())).unwrap_or_else(|error| panic!("{error}\nin {variant}"));
        collect_shown(&tree::Node::parse(&variant).unwrap(), String::new(), &mut shown);
    }
    shown
}

fn collect_shown(node: &tree::Node, path: String, shown: &mut std::collections::BTreeMap<String, Vec<usize>>) {
    let names = ["streams", "sinks", "sources.files"];
    match &node.value {
        tree::Value::Map(entries) if path.ends_with(".config") => assert!(!entries.is_empty()),
        tree::Value::Map(entries) => {
            for entry in entries {
                let dot = if path.is_empty() { "" } else { "." };
                let is_name = names.contains(&path.as_str());
                let path = format!("{path}{dot}{}", if is_name { "*" } else { &entry.key });
                if !is_name {
                    shown.entry(path.clone()).or_default().push(entry.place.line as usize);
                }
                collect_shown(&entry.value, path, shown);
            }
        }
        tree::Value::List(nodes) => nodes.iter().for_each(|node| collect_shown(node, format!("{path}[]"), shown)),
        _ => {}
    }
}

/// Whether a line begins with this key, perhaps as an alternative or as the first of a list's element.
fn begins_with(line: &str, key: &str) -> bool {
    let line = line.trim_start();
    let line = line.strip_prefix('#').or(line.strip_prefix("- ")).unwrap_or(line);
    line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'))
}

/// The last line of the comment above a line, where it names a default or `required`.
fn says(text: &str, line: usize) -> Option<String> {
    let above = text.lines().nth(line.checked_sub(2)?)?.trim_start().strip_prefix("# ")?;
    (above == "required" || above.starts_with("default: ")).then(|| above.to_owned())
}

/// What `sluice check` prints loads again, and means the same.
#[test]
fn the_effective_configuration_is_one() {
    for (role, _) in REFUSED {
        let first = load_with(&root().join(format!("config/{role}.yaml")), &environment).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let again = folder.path().join("again.yaml");
        std::fs::write(&again, &first.effective).unwrap();
        let second = load_with(&again, &environment).unwrap_or_else(|error| panic!("{error}\nin {}", first.effective));
        assert_eq!(second.effective, first.effective);
        assert_eq!(format!("{:?}", second.settings), format!("{:?}", first.settings));
    }
}

#[test]
fn secrets_reach_the_settings_and_are_not_printed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("solo.yaml");
    std::fs::write(folder.path().join("key"), "hunter2\n").unwrap();
    let text = std::fs::read_to_string(root().join("config/solo.yaml")).unwrap();
    for (auth, shown) in [
        ("{ basic: { user: sluice, password: \"${env:SLUICE_PASSWORD}\" } }", "${env:SLUICE_PASSWORD}"),
        ("{ basic: { user: sluice, password: hunter2 } }", units::Secret::SHOWN),
        ("{ api_key: \"${file:key}\" }", "${file:key}"),
        ("{ api_key: hunter2 }", units::Secret::SHOWN),
    ] {
        let text = text.replace("      auth: none\n", &format!("      auth: {auth}\n"));
        std::fs::write(&file, text).unwrap();
        let loaded = load_with(&file, &environment).unwrap();
        assert!(loaded.effective.contains(shown) && !loaded.effective.contains("hunter2"), "{}", loaded.effective);
        let reached = loaded.settings.sinks.iter().any(|sink| match &sink.kind {
            SinkKind::Elasticsearch(deliver::elasticsearch::Settings { auth, .. }) => match auth {
                deliver::elasticsearch::Auth::Basic { user, password } => user == "sluice" && password == "hunter2",
                deliver::elasticsearch::Auth::ApiKey { encoded } => encoded == "hunter2",
                deliver::elasticsearch::Auth::None => false,
            },
            SinkKind::Parquet(_) | SinkKind::Bigquery(_) | SinkKind::Stdout => false,
        });
        assert!(reached, "{auth}");
    }
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.yaml");
    let text = "role: solo\ndata: data\nschemas: { proto_roots: [proto] }\nsources: { files: { app: { stream: s, \
                include: ['*.log', /var/log/x], exclude: [old/**/*] } } }\nstreams: { s: { message: m, sinks: [a], \
                transforms: [{ name: t, path: t.wasm }] } }\nsinks: { a: { parquet: { directory: out } } }\n";
    std::fs::write(&file, text).unwrap();
    let settings = load_with(&file, &environment).unwrap().settings;
    let here = |path: &str| folder.path().join(path);
    assert_eq!(settings.data_directory, here("data"));
    assert_eq!(settings.journal.directory, here("data/journal"));
    assert_eq!(settings.schema.proto_roots, [here("proto")]);
    assert_eq!(settings.streams[0].transforms[0].path, here("t.wasm"));
    assert_eq!(settings.file_sources[0].include, [here("*.log").to_string_lossy().into_owned(), "/var/log/x".into()]);
    assert_eq!(settings.file_sources[0].exclude, [here("old/**/*").to_string_lossy().into_owned()]);
    let SinkKind::Parquet(parquet) = &settings.sinks[0].kind else { panic!("{:?}", settings.sinks) };
    assert_eq!(parquet.directory, here("out"));
    assert!(!settings.agent.is_empty(), "takes the host's name");
}

#[test]
fn files_of_other_editors_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("node.yaml");
    let text = std::fs::read_to_string(root().join("config/solo.yaml")).unwrap();
    std::fs::write(&file, format!("\u{feff}{}", text.replace('\n', "\r\n"))).unwrap();
    load_with(&file, &environment).unwrap();
    std::fs::write(&file, "\u{feff}role: solo\r\nstreams:\r\n  a: { mesage: m }\r\n").unwrap();
    let refused = load_with(&file, &environment).err().unwrap().to_string();
    assert!(refused.contains("node.yaml:3:8: streams.a.mesage: unknown key"), "{refused}");
    std::fs::write(&file, b"role: \xff\n").unwrap();
    assert_eq!(
        load_with(&file, &environment).err().unwrap().to_string(),
        format!("read configuration {}", file.display())
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load(FilePath::new("no/such/file.yaml")).err().unwrap();
    assert_eq!(error.to_string(), "read configuration no/such/file.yaml");
    assert!(std::error::Error::source(&error).is_some());
}

proptest::proptest! {
    /// Whatever value stands wherever: it loads, or the problem has a place of its own. What `shape` lets pass, serde
    /// takes; else the one problem would stand at the start of the file, without a path.
    #[test]
    fn no_value_anywhere_goes_unplaced(line in 0usize..300, value in VALUES) {
        let text = std::fs::read_to_string(root().join("config/solo.yaml")).unwrap();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let line = line % lines.len();
        let written = lines[line].clone();
        proptest::prop_assume!(!written.trim_start().starts_with('#') && written.contains(": "));
        let key = written.split(": ").next().unwrap();
        lines[line] = format!("{key}: {value}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("solo.yaml");
        std::fs::write(&file, lines.join("\n")).unwrap();
        match load_with(&file, &environment) {
            Ok(_) => {}
            Err(Error::Invalid(problems)) => {
                for problem in &problems.list {
                    proptest::prop_assert_ne!(problem.path.to_string(), "", "{}", problems);
                }
            }
            Err(error) => return Err(proptest::test_runner::TestCaseError::fail(error.to_string())),
        }
    }
}

/// Values of every kind, ordinary and extreme.
const VALUES: &str = "(-?[0-9]{1,25}|[0-9]{1,3}(B|KiB|GiB|ms|s|d)|true|null|~|'[a-z.:/-]{0,9}'|\\[\\]|\\{\\}|\\[a, b\\]|\
                      \\{ a: b \\}|\\{ basic: 5 \\}|1\\.5|none|127\\.0\\.0\\.1:1)";
