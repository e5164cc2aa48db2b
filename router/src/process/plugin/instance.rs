//! One instance of a plugin: a store with its limits, entered by one call at a time, and never again after a failure.

use std::time::Duration;

use wasmtime::component::{ComponentNamedList, Func, Lift};
use wasmtime::{ResourceLimiter, Store, Trap, bail};

use super::host::{Plugin, TABLE_ELEMENTS_MAX, TICK};
use super::speech::{Speech, clean};
use super::{InstanceConfig, abi};

/// What the router keeps with an instance.
pub(super) struct Guest {
    pub(super) speech: Speech,
    memory_max_bytes: usize,
    memory_bytes: usize,
    /// Set where growth was refused: tells want of memory from a panic.
    refused_bytes: Option<usize>,
}

pub(super) struct Instance {
    store: Store<Guest>,
    call: Func,
    deadline: Duration,
}

/// Why a call failed, in words for the operator. The instance is done for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure(pub(super) String);

/// A batch, and how much the plugin may return for it.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) batch: abi::Batch<'a>,
    pub(super) output_max_bytes: usize,
}

/// Transferred by `init` and by one log line at most.
const INIT_MAX_BYTES: usize = 1 << 20;

impl Instance {
    /// Instantiates the plugin and runs its `init`. The voice comes back with a failure.
    pub(super) fn start(
        plugin: &Plugin,
        config: &InstanceConfig,
        speech: Speech,
    ) -> Result<Instance, (Failure, Speech)> {
        let settings = &plugin.shared.settings;
        let guest = Guest { speech, memory_max_bytes: settings.memory_max_bytes, memory_bytes: 0, refused_bytes: None };
        let mut store = Store::new(plugin.shared.engine(), guest);
        store.limiter(|guest| guest);
        store.set_epoch_deadline(ticks(settings.deadline));
        store.set_hostcall_fuel(INIT_MAX_BYTES);
        match init(&mut store, plugin, config) {
            Ok(Ok(call)) => Ok(Instance { store, call, deadline: settings.deadline }),
            Ok(Err(refusal)) => Err((Failure(clean(&refusal)), store.into_data().speech)),
            Err(error) => {
                let failure = failure(&error, store.data_mut(), settings.deadline);
                Err((failure, store.into_data().speech))
            }
        }
    }

    /// Runs one batch. After a failure the instance must be dropped.
    pub(super) fn call<R>(&mut self, call: &Call<'_>) -> Result<R, Failure>
    where
        R: Lift + 'static,
        (Result<R, String>,): ComponentNamedList + Lift,
    {
        self.store.set_epoch_deadline(ticks(self.deadline));
        self.store.set_hostcall_fuel(call.output_max_bytes);
        let typed = self.call.typed::<(abi::Batch<'_>,), (Result<R, String>,)>(&self.store);
        match typed.and_then(|typed| typed.call(&mut self.store, (call.batch,))) {
            Ok((Ok(output),)) => Ok(output),
            Ok((Err(reason),)) => Err(Failure(clean(&reason))),
            Err(error) => Err(failure(&error, self.store.data_mut(), self.deadline)),
        }
    }

    /// True once it has taken half the memory it may have: better replaced between batches than stopped inside one.
    pub(super) fn is_worn(&self) -> bool {
        let guest = self.store.data();
        guest.memory_bytes > guest.memory_max_bytes / 2
    }

    pub(super) fn into_speech(self) -> Speech {
        self.store.into_data().speech
    }
}

fn init(store: &mut Store<Guest>, plugin: &Plugin, config: &InstanceConfig) -> wasmtime::Result<Result<Func, String>> {
    let compiled = &plugin.compiled;
    let instance = compiled.pre.instantiate(&mut *store)?;
    let Some(init) = instance.get_func(&mut *store, compiled.init) else { bail!("init is no function") };
    let Some(call) = instance.get_func(&mut *store, compiled.call) else { bail!("its export is no function") };
    let init = init.typed::<(abi::Config<'_>,), (Result<(), String>,)>(&*store)?;
    let config = abi::Config {
        stream: &config.stream,
        json: &plugin.config_json,
        message: &config.message,
        descriptors: &config.descriptors,
    };
    let (result,) = init.call(store, (config,))?;
    Ok(result.map(|()| call))
}

fn ticks(deadline: Duration) -> u64 {
    // The first tick may come at once.
    (deadline.as_nanos().div_ceil(TICK.as_nanos()) as u64).max(1) + 1
}

fn failure(error: &wasmtime::Error, guest: &mut Guest, deadline: Duration) -> Failure {
    let panic = guest.speech.take_panic();
    if let Some(refused) = guest.refused_bytes.take() {
        let max = guest.memory_max_bytes;
        return Failure(format!("it asked for {refused} bytes of memory, {max} are allowed"));
    }
    let reason = match (error.downcast_ref::<Trap>(), panic) {
        (Some(Trap::Interrupt), _) => format!("it ran longer than {} ms", deadline.as_millis()),
        (Some(Trap::UnreachableCodeReached), Some(panic)) => panic,
        (Some(trap), _) => format!("it trapped: {trap}"),
        (None, _) => {
            let root = error.root_cause().to_string();
            // The one limit that wasmtime words for itself; see `Store::set_hostcall_fuel`.
            if root.contains("fuel allocated for hostcalls") {
                "its output is larger than allowed".into()
            } else {
                root
            }
        }
    };
    Failure(clean(&reason))
}

impl ResourceLimiter for Guest {
    fn memory_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        if desired > self.memory_max_bytes {
            self.refused_bytes = Some(desired);
            bail!("memory limit");
        }
        self.memory_bytes = desired;
        Ok(true)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}
