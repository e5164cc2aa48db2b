//! The engine all plugins share, and the components loaded into it.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use wasmtime::component::{Component, ComponentExportIndex, InstancePre, Linker, WasmStr};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, StoreContextMut};

use super::instance::Guest;
use super::manifest::{self, Kind, Manifest};
use super::{COMPONENT_MAX_BYTES, Error, HostSettings, INTERFACE_VERSION, Settings, abi};
use crate::tasks;

/// What the deadline of a call is counted in.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// A component of the SDK instantiates three core modules; this leaves room for other tools' shims.
const CORE_INSTANCES_PER_PLUGIN: u32 = 8;
const TABLES_PER_PLUGIN: u32 = 4;
pub(super) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Pages of an instance that stay mapped when its slot is reused: covers a batch's working set, so that a fresh
/// instance costs no page faults.
const KEEP_RESIDENT_BYTES: usize = 4 << 20;

/// The engine of the process, with its limits. Clones share it; it ends when the last clone and plugin are gone.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    engine: Engine,
    linker: Linker<Guest>,
    pub(super) settings: HostSettings,
    /// Compiled components still in use, by digest: streams that share a plugin share its code.
    compiled: Mutex<HashMap<[u8; 32], Weak<Compiled>>>,
    _ticker: Ticker,
}

/// A component's code and the places of its functions.
pub(super) struct Compiled {
    pub(super) pre: InstancePre<Guest>,
    pub(super) init: ComponentExportIndex,
    pub(super) call: ComponentExportIndex,
    inspection: Inspection,
}

/// What a component is, as far as can be told without running it.
#[derive(Clone, Debug)]
pub struct Inspection {
    pub kind: Kind,
    /// Version of `sluice:plugin` it was built for.
    pub interface_version: String,
    /// Absent in components that were not made with the SDK.
    pub manifest: Option<Manifest>,
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub len_bytes: usize,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
}

impl Inspection {
    /// The digest as hexadecimal digits.
    pub fn digest_hex(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A plugin with its config, ready to serve streams.
pub struct Plugin {
    pub(super) shared: Arc<Shared>,
    pub(super) compiled: Arc<Compiled>,
    pub(super) name: Arc<str>,
    pub(super) config_json: String,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("name", &self.name).field("inspection", &self.compiled.inspection).finish()
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

impl Plugin {
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn kind(&self) -> Kind {
        self.compiled.inspection.kind
    }

    pub fn inspection(&self) -> &Inspection {
        &self.compiled.inspection
    }
}

impl Host {
    /// Starts the engine and the thread that counts its time.
    pub fn new(settings: HostSettings) -> Result<Host, Error> {
        let failed = |reason: &dyn fmt::Display| Error::Host { reason: reason.to_string() };
        let engine = Engine::new(&engine_config(&settings)).map_err(|error| failed(&format_args!("{error:#}")))?;
        let linker = linker(&engine).map_err(|error| failed(&format_args!("{error:#}")))?;
        let ticker = Ticker::start(&engine).map_err(|error| failed(&format_args!("start its ticker: {error}")))?;
        let shared = Shared { engine, linker, settings, compiled: Mutex::default(), _ticker: ticker };
        Ok(Host { shared: Arc::new(shared) })
    }

    /// Reads and compiles a plugin; takes some 0.2 s of computing where its code is not yet loaded.
    pub fn load(&self, settings: &Settings) -> Result<Arc<Plugin>, Error> {
        let Settings { name, path, config_json } = settings;
        let wasm = read(name, path)?;
        let compiled =
            self.compiled(&wasm).map_err(|reason| Error::Load { name: name.clone(), path: path.clone(), reason })?;
        let (shared, config_json) = (self.shared.clone(), config_json.clone());
        Ok(Arc::new(Plugin { shared, compiled, name: name.as_str().into(), config_json }))
    }

    /// Checks a component as [`Host::load`] does; the error says what is wrong with it.
    pub fn inspect(&self, wasm: &[u8]) -> Result<Inspection, String> {
        Ok(self.compiled(wasm)?.inspection.clone())
    }

    fn compiled(&self, wasm: &[u8]) -> Result<Arc<Compiled>, String> {
        let digest: [u8; 32] = Sha256::digest(wasm).into();
        let lock = || self.shared.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(compiled) = lock().get(&digest).and_then(Weak::upgrade) {
            return Ok(compiled);
        }
        let compiled = Arc::new(self.shared.compile(wasm, digest)?);
        let mut known = lock();
        known.retain(|_, compiled| compiled.strong_count() > 0);
        known.insert(digest, Arc::downgrade(&compiled));
        Ok(compiled)
    }
}

impl Shared {
    fn compile(&self, wasm: &[u8], digest: [u8; 32]) -> Result<Compiled, String> {
        if wasm.len() > COMPONENT_MAX_BYTES {
            return Err(format!("it has {} bytes, {COMPONENT_MAX_BYTES} are allowed", wasm.len()));
        }
        if wasm.get(4..8) == Some(&[1, 0, 0, 0]) {
            return Err("it is a core module, not a component: build it with `sluice plugin build`".into());
        }
        let manifest = manifest::read(wasm)?;
        let component = Component::from_binary(&self.engine, wasm).map_err(|error| format!("compile it: {error:#}"))?;
        let component_type = component.component_type();
        let names = |item: (&str, _)| item.0.to_owned();
        let imports: Vec<String> = component_type.imports(&self.engine).map(names).collect();
        let exports: Vec<String> = component_type.exports(&self.engine).map(names).collect();
        check_imports(&imports)?;
        let (kind, interface_version) = find_interface(&exports)?;
        if let Some(manifest) = manifest.as_ref().filter(|manifest| manifest.kind != kind) {
            return Err(format!("its manifest says {}, its exports say {kind}", manifest.kind));
        }
        if let Some(count) = component.resources_required().map(|required| required.num_memories).filter(|&n| n > 1) {
            return Err(format!("it has {count} memories, 1 is allowed"));
        }
        let export = |parent: Option<&ComponentExportIndex>, name: &str| {
            component.get_export_index(parent, name).ok_or_else(|| format!("it does not export {name}"))
        };
        let interface = export(None, &format!("{}@{interface_version}", abi::interface(kind)))?;
        let init = export(Some(&interface), "init")?;
        let call = export(Some(&interface), abi::function(kind))?;
        let pre = self.linker.instantiate_pre(&component).map_err(|error| format!("link it: {error:#}"))?;
        let inspection =
            Inspection { kind, interface_version, manifest, imports, exports, len_bytes: wasm.len(), digest };
        Ok(Compiled { pre, init, call, inspection })
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }
}

fn read(name: &str, path: &Path) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Read { name: name.to_owned(), path: path.to_owned(), source };
    let len = std::fs::metadata(path).map_err(failed)?.len();
    if len > COMPONENT_MAX_BYTES as u64 {
        let reason = format!("it has {len} bytes, {COMPONENT_MAX_BYTES} are allowed");
        return Err(Error::Load { name: name.to_owned(), path: path.to_owned(), reason });
    }
    std::fs::read(path).map_err(failed)
}

fn engine_config(settings: &HostSettings) -> Config {
    let instances = settings.instances_max;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_PLUGIN))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(TABLES_PER_PLUGIN))
        .max_core_instances_per_component(CORE_INSTANCES_PER_PLUGIN)
        .max_memories_per_component(1)
        .max_tables_per_component(TABLES_PER_PLUGIN)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(settings.memory_max_bytes)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES.min(settings.memory_max_bytes));
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        // The same batch must give the same output everywhere.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false);
    config
}

fn linker(engine: &Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    let mut host = linker.instance(abi::HOST)?;
    host.func_wrap("log", |mut store: StoreContextMut<'_, Guest>, (level, text): (abi::Level, WasmStr)| {
        // Copied only as far as a line goes: the plugin may hand over as much as it has memory.
        let text = super::speech::clean(&text.to_str(&store)?);
        store.data_mut().speech.line(level, text);
        Ok(())
    })?;
    host.func_wrap("count", |store: StoreContextMut<'_, Guest>, (counter, delta): (u16, u64)| {
        store.data().speech.count(counter, delta);
        Ok(())
    })?;
    Ok(linker)
}

fn check_imports(imports: &[String]) -> Result<(), String> {
    for import in imports {
        let (interface, version) = import.split_once('@').unwrap_or((import, ""));
        if !abi::IMPORTS.contains(&interface) {
            return Err(format!("it imports {import}; a plugin may import {} only", abi::IMPORTS.join(" and ")));
        }
        check_version(version)?;
    }
    Ok(())
}

/// Kind and interface version, told by what the component exports.
fn find_interface(exports: &[String]) -> Result<(Kind, String), String> {
    let found = exports.iter().find_map(|export| {
        let (interface, version) = export.split_once('@')?;
        let kind = [Kind::Transform, Kind::Dedup].into_iter().find(|&kind| abi::interface(kind) == interface)?;
        Some((kind, version.to_owned()))
    });
    let (kind, version) = found.ok_or_else(|| {
        let exports = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
        format!("it exports {exports}; a plugin exports sluice:plugin/transform or sluice:plugin/dedup")
    })?;
    check_version(&version)?;
    Ok((kind, version))
}

/// A minor version only adds, and a function that this build lacks shows when linking; a major one breaks.
fn check_version(version: &str) -> Result<(), String> {
    let major = |version: &str| version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major(version) == major(INTERFACE_VERSION) {
        return Ok(());
    }
    Err(format!("it was built for sluice:plugin@{version}, this build runs sluice:plugin@{INTERFACE_VERSION}"))
}

/// Advances the engine's epoch, which is how a call's deadline is noticed. Ends with the host.
struct Ticker {
    /// Dropped to end the thread.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: &Engine) -> std::io::Result<Ticker> {
        let (stop, stopped) = sync_channel(0);
        let engine = engine.weak();
        let thread = tasks::thread("plugin-epoch", move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                match engine.upgrade() {
                    Some(engine) => engine.increment_epoch(),
                    None => return,
                }
            }
        })?;
        Ok(Ticker { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and nothing hangs on how it ended.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn imports_outside_the_list_are_named() {
        let check = |names: &[&str]| check_imports(&texts(names));
        assert_eq!(check(&["sluice:plugin/host@1.0.0", "sluice:plugin/types@1.3.0"]), Ok(()));
        assert!(check(&["wasi:cli/environment@0.2.0"]).unwrap_err().starts_with("it imports wasi:cli/environment"));
        assert!(
            check(&["sluice:plugin/host@2.0.0"]).unwrap_err().contains("2.0.0, this build runs sluice:plugin@1.0.0")
        );
    }

    #[test]
    fn the_interface_tells_kind_and_version() {
        let find = |names: &[&str]| find_interface(&texts(names));
        assert_eq!(find(&["sluice:plugin/dedup@1.4.2"]), Ok((Kind::Dedup, "1.4.2".into())));
        assert_eq!(find(&["x:y/z@1.0.0", "sluice:plugin/transform@1.0.0"]), Ok((Kind::Transform, "1.0.0".into())));
        assert!(find(&["sluice:plugin/dedup@2.0.0"]).unwrap_err().contains("built for sluice:plugin@2.0.0"));
        assert!(find(&["run"]).unwrap_err().starts_with("it exports run;"));
        assert!(find(&[]).unwrap_err().starts_with("it exports nothing;"));
    }
}
