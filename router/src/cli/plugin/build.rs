//! From a plugin's crate to a component: cargo compiles a core module, wit-component wraps it, and the router's own
//! checks have the last word.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use wit_component::ComponentEncoder;

use super::inspect;
use super::toolchain::{TARGET, Toolchain, clean_environment};
use crate::process::plugin::Inspection;

/// How plugins are compiled, whatever the crate's own profile says: size-optimised code is up to three times slower,
/// and unwinding has nowhere to go.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "false"),
    // Names stay, for backtraces.
    ("CARGO_PROFILE_RELEASE_STRIP", "debuginfo"),
];

/// A component that was built and checked.
#[derive(Debug)]
pub struct Built {
    pub out: PathBuf,
    pub inspection: Inspection,
}

/// Builds the crate in `directory` and writes the component to `out`, or to `plugins/NAME.wasm` in its target
/// directory. Nothing is written unless the component passes the router's checks.
pub fn build(directory: &Path, out: Option<&Path>) -> anyhow::Result<Built> {
    let directory = std::path::absolute(directory)?;
    let manifest_path = directory.join("Cargo.toml");
    if !manifest_path.is_file() {
        bail!("build plugin: {} has no Cargo.toml", directory.display());
    }
    let toolchain = Toolchain::find(&directory)?;
    let package = Package::find(&toolchain, &manifest_path)?;
    // Beside the ordinary one: another compiler and profile in the same directory would undo its work.
    let target_directory = package.target_directory.join("wasm");
    let module = compile(&toolchain, &package, &manifest_path, &target_directory)?;
    let component = encode(&module).with_context(|| format!("encode component of {}", package.name))?;
    let inspection = inspect(&component).with_context(|| format!("check component of {}", package.name))?;
    if inspection.manifest.is_none() {
        bail!("check component of {}: it has no manifest; mark its function #[transform] or #[dedup]", package.name);
    }
    let out = match out {
        Some(out) => out.to_owned(),
        None => package.target_directory.join("plugins").join(format!("{}.wasm", package.name)),
    };
    write(&out, &component).with_context(|| format!("write {}", out.display()))?;
    Ok(Built { out, inspection })
}

/// What cargo says of the crate.
struct Package {
    name: String,
    /// File name of its library, without extension.
    library: String,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    manifest_path: PathBuf,
    targets: Vec<MetadataTarget>,
}

#[derive(Deserialize)]
struct MetadataTarget {
    name: String,
    kind: Vec<String>,
}

impl Package {
    fn find(toolchain: &Toolchain, manifest_path: &Path) -> anyhow::Result<Package> {
        let mut cargo = toolchain.cargo();
        cargo.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest_path);
        cargo.stderr(Stdio::inherit());
        let output = cargo.output().with_context(|| format!("run {}", toolchain.cargo_program().display()))?;
        if !output.status.success() {
            bail!("read {}: cargo metadata ended with {}", manifest_path.display(), output.status);
        }
        let metadata: Metadata = serde_json::from_slice(&output.stdout).context("read cargo metadata")?;
        let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let wanted = canonical(manifest_path);
        let package = metadata.packages.into_iter().find(|package| canonical(&package.manifest_path) == wanted);
        let Some(package) = package else { bail!("{} is no package", manifest_path.display()) };
        let is_library = |target: &&MetadataTarget| {
            target.kind.iter().any(|kind| matches!(kind.as_str(), "lib" | "rlib" | "cdylib"))
        };
        let Some(library) = package.targets.iter().find(is_library) else {
            bail!("build plugin: package {} has no library (src/lib.rs)", package.name);
        };
        let library = library.name.replace('-', "_");
        Ok(Package { name: package.name, library, target_directory: metadata.target_directory })
    }
}

fn compile(
    toolchain: &Toolchain,
    package: &Package,
    manifest_path: &Path,
    target_directory: &Path,
) -> anyhow::Result<Vec<u8>> {
    let mut cargo = toolchain.cargo();
    cargo
        // The crate need not say it is a cdylib, which would make every native build link one.
        .args(["rustc", "--release", "--lib", "--crate-type", "cdylib", "--target", TARGET])
        .args(toolchain.cargo_arguments())
        .arg("--manifest-path")
        .arg(manifest_path)
        .arg("--target-dir")
        .arg(target_directory)
        .envs(PROFILE)
        .stdout(Stdio::null());
    let status = cargo.status().with_context(|| format!("run {}", toolchain.cargo_program().display()))?;
    if !status.success() {
        bail!("build plugin {}: cargo ended with {status} ({})", package.name, toolchain.description());
    }
    let module = target_directory.join(TARGET).join("release").join(format!("{}.wasm", package.library));
    std::fs::read(&module).with_context(|| format!("read {}", module.display()))
}

fn encode(module: &[u8]) -> anyhow::Result<Vec<u8>> {
    ComponentEncoder::default().validate(true).module(module)?.encode()
}

/// Writes under another name first: a running router that is told of the file must never see half of it.
fn write(out: &Path, component: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent)?;
    }
    let mut partial = out.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, component)?;
    std::fs::rename(&partial, out)
}

impl Toolchain {
    /// A cargo command of this toolchain, without what a surrounding cargo left in the environment.
    fn cargo(&self) -> Command {
        let mut cargo = Command::new(self.cargo_program());
        clean_environment(&mut cargo);
        cargo.current_dir(self.directory()).envs(self.environment()).stdin(Stdio::null());
        cargo
    }
}
