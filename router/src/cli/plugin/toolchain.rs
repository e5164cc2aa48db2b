//! Finds a Rust toolchain that can compile for wasm32-unknown-unknown, or says exactly what to install.
//!
//! In order: the `rustc` and `cargo` of the PATH (rustup's, usually), then the distribution's in `/usr/bin`. Of each the
//! target's standard library if it is installed; else its source, compiled along (`-Zbuild-std`), which stable compilers
//! allow under `RUSTC_BOOTSTRAP=1`. A distribution's compiler may lack the linker; any `rust-lld` or `wasm-ld` will do.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::bail;

pub(super) const TARGET: &str = "wasm32-unknown-unknown";

const HELP: &str = "build plugin: no Rust toolchain for wasm32-unknown-unknown was found; install one of these:
  rustup target add wasm32-unknown-unknown
  apt-get install rustc-web rust-web-src cargo-web lld     (Debian)
  rustup component add rust-src                            (compiles the standard library along)";

/// A cargo that can build plugins, and how it wants to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Toolchain {
    cargo: PathBuf,
    directory: PathBuf,
    environment: Vec<(&'static str, OsString)>,
    arguments: Vec<&'static str>,
    description: String,
}

/// A compiler that was found.
#[derive(Debug)]
struct Compiler {
    rustc: PathBuf,
    cargo: PathBuf,
    sysroot: PathBuf,
    host: String,
}

impl Toolchain {
    /// Looks for a toolchain for the crate in `directory` (its `rust-toolchain.toml` counts).
    pub(super) fn find(directory: &Path) -> anyhow::Result<Toolchain> {
        let places = [("rustc", "cargo"), ("/usr/bin/rustc", "/usr/bin/cargo")];
        let compilers: Vec<Compiler> =
            places.iter().filter_map(|(rustc, cargo)| Compiler::ask(rustc, cargo, directory)).collect();
        let linkers = linkers(&compilers);
        for compiler in &compilers {
            if compiler.sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
                && let Some(toolchain) = compiler.toolchain(directory, &linkers)
            {
                return Ok(toolchain);
            }
        }
        for compiler in &compilers {
            if compiler.sysroot.join("lib/rustlib/src/rust/library/std").is_dir()
                && let Some(mut toolchain) = compiler.toolchain(directory, &linkers)
            {
                toolchain.environment.push(("RUSTC_BOOTSTRAP", "1".into()));
                toolchain.arguments.push("-Zbuild-std=std,panic_abort");
                toolchain.description += ", standard library compiled along";
                return Ok(toolchain);
            }
        }
        bail!(HELP)
    }

    pub(super) fn cargo_program(&self) -> &Path {
        &self.cargo
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn environment(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.environment.iter().map(|(key, value)| (*key, value.as_os_str()))
    }

    pub(super) fn cargo_arguments(&self) -> &[&'static str] {
        &self.arguments
    }

    pub(super) fn description(&self) -> &str {
        &self.description
    }
}

impl Compiler {
    fn ask(rustc: &str, cargo: &str, directory: &Path) -> Option<Compiler> {
        let sysroot = PathBuf::from(answer(rustc, &["--print", "sysroot"], directory)?);
        let version = answer(rustc, &["-vV"], directory)?;
        let host = version.lines().find_map(|line| line.strip_prefix("host: "))?.to_owned();
        answer(cargo, &["--version"], directory)?;
        Some(Compiler { rustc: rustc.into(), cargo: cargo.into(), sysroot, host })
    }

    fn own_linker(&self) -> PathBuf {
        self.sysroot
            .join("lib/rustlib")
            .join(&self.host)
            .join("bin")
            .join(format!("rust-lld{}", std::env::consts::EXE_SUFFIX))
    }

    fn toolchain(&self, directory: &Path, linkers: &[PathBuf]) -> Option<Toolchain> {
        let mut environment = Vec::new();
        if self.rustc.is_absolute() {
            // Else its cargo would call the first rustc of the PATH.
            environment.push(("RUSTC", self.rustc.clone().into_os_string()));
        }
        if !self.own_linker().is_file() {
            let linker = linkers.first()?.clone().into_os_string();
            environment.push(("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker));
        }
        Some(Toolchain {
            cargo: self.cargo.clone(),
            directory: directory.to_owned(),
            environment,
            arguments: Vec::new(),
            description: format!("with {} of {}", self.rustc.display(), self.sysroot.display()),
        })
    }
}

/// Linkers for wasm: those that the compilers bring, then those of the PATH.
fn linkers(compilers: &[Compiler]) -> Vec<PathBuf> {
    let own = compilers.iter().map(Compiler::own_linker);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).flat_map(|directory| {
        ["rust-lld", "wasm-ld"].map(|name| directory.join(format!("{name}{}", std::env::consts::EXE_SUFFIX)))
    });
    own.chain(installed).filter(|linker| linker.is_file()).collect()
}

fn answer(program: &str, arguments: &[&str], directory: &Path) -> Option<String> {
    let mut command = Command::new(program);
    clean_environment(&mut command);
    let output = command.args(arguments).current_dir(directory).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Takes out what `cargo run` and `cargo test` set for the program they start, and flags meant for native code: both
/// would change or break the build for wasm.
pub(super) fn clean_environment(command: &mut Command) {
    for (key, _) in std::env::vars_os() {
        if key.to_str().is_some_and(is_foreign) {
            command.env_remove(key);
        }
    }
}

fn is_foreign(key: &str) -> bool {
    const NAMES: [&str; 10] = [
        "CARGO",
        "CARGO_ENCODED_RUSTFLAGS",
        "LD_LIBRARY_PATH",
        "OUT_DIR",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
    ];
    const PREFIXES: [&str; 8] = [
        "CARGO_BIN_",
        "CARGO_BUILD_",
        "CARGO_CRATE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PRIMARY_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_WASM32_",
    ];
    NAMES.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(root: &Path, name: &str, parts: &[&str]) -> Compiler {
        let sysroot = root.join(name);
        for part in parts {
            let path = sysroot.join("lib/rustlib").join(part);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        Compiler { rustc: format!("/{name}/rustc").into(), cargo: name.into(), sysroot, host: "h".into() }
    }

    #[test]
    fn a_compiler_without_linker_borrows_one() {
        let root = tempfile::tempdir().unwrap();
        let with = compiler(root.path(), "with", &["h/bin/rust-lld"]);
        let without = compiler(root.path(), "without", &[]);
        let linkers = [with.own_linker()];
        let variables = |compiler: &Compiler| {
            let toolchain = compiler.toolchain(root.path(), &linkers).unwrap();
            toolchain.environment.iter().map(|(key, _)| *key).collect::<Vec<_>>()
        };
        assert_eq!(variables(&with), ["RUSTC"]);
        assert_eq!(variables(&without), ["RUSTC", "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER"]);
        assert_eq!(without.toolchain(root.path(), &[]), None);
    }

    #[test]
    fn what_a_surrounding_cargo_sets_is_foreign() {
        for key in ["CARGO", "CARGO_PKG_NAME", "CARGO_MANIFEST_DIR", "RUSTFLAGS", "LD_LIBRARY_PATH"] {
            assert!(is_foreign(key), "{key}");
        }
        for key in ["CARGO_HOME", "CARGO_TARGET_DIR", "CARGO_NET_OFFLINE", "RUSTUP_TOOLCHAIN", "PATH", "RUSTC_WRAPPER"]
        {
            assert!(!is_foreign(key), "{key}");
        }
    }
}
