//! The real binary's exit codes, and what it prints where.

#![allow(clippy::unwrap_used)] // in a test, a panic is how it fails

use std::path::Path;
use std::process::{Command, Output};

fn sluice(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).env("SLUICE_PASSWORD", "hunter2").output();
    output.expect("the binary runs")
}

fn check(arguments: &[&str], code: i32) -> (String, String) {
    let output = sluice(arguments);
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
    (out, err)
}

fn write(folder: &Path, text: &str) -> String {
    let file = folder.join("node.yaml");
    std::fs::write(&file, text).expect("written");
    file.to_string_lossy().into_owned()
}

const SOLO: &str = "\
role: solo
data: data
sources: { http: { listen: 127.0.0.1:0 } }
streams: { messages: { message: sluice.v1.LogLine, sinks: [console, search] } }
sinks:
  console: { stdout: {} }
  search:
    elasticsearch: { urls: [http://127.0.0.1:9], auth: { basic: { user: u, password: '${env:SLUICE_PASSWORD}' } } }
";

#[test]
fn a_right_configuration_is_printed_without_its_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let (out, err) = check(&["check", &write(folder.path(), SOLO)], 0);
    assert!(out.contains("drain_deadline: 30s\n") && out.contains("${env:SLUICE_PASSWORD}"), "{out}");
    assert!(!out.contains("hunter2") && err.is_empty(), "{out}{err}");
    assert!(!folder.path().join("data").exists(), "a check leaves nothing behind");
}

#[test]
fn wrong_configurations_end_with_3_and_wrong_command_lines_with_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = write(folder.path(), "role: solo\nstreams: { a: { mesage: m } }\n");
    for arguments in [["check", &file].as_slice(), &["run", "-c", &file]] {
        let (out, err) = check(arguments, 3);
        let first = format!("{file}:2:17: streams.a.mesage: unknown key\n  help: did you mean message?\n");
        assert!(out.is_empty() && err.starts_with(&first), "{out}{err}");
        assert!(err.ends_with(&format!("error: 1 problem in {file}\n")), "{err}");
    }
    let (_, err) = check(&["check", "no/such/file.yaml"], 3);
    assert!(err.starts_with("error: read configuration no/such/file.yaml: "), "{err}");
    check(&["run"], 2);
    check(&["frobnicate"], 2);
}

#[test]
fn the_schema_is_json_and_help_names_the_exit_codes() {
    let (out, _) = check(&["config", "schema"], 0);
    let schema: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(schema["title"], "Sluice configuration");
    assert!(check(&["--help"], 0).0.contains("\nExit codes:\n  0  done\n"));
}

#[test]
fn a_node_that_is_not_there_has_no_ledger() {
    // Bound and closed again: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address").to_string();
    drop(listener);
    let (_, err) = check(&["ledger", "--admin", &address], 1);
    assert!(err.starts_with(&format!("error: read ledger of {address}: connect (is the node up?): ")), "{err}");
}
