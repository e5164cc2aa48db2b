//! The component's side of the interface: bindings, generated from `wit/`, and their translation to [`crate::batch`].
#![allow(unsafe_code, reason = "generated bindings only: the canonical ABI passes pointers into this module's memory")]

use std::sync::OnceLock;

use crate::batch::{self, Dedup, Transform};
use crate::config::Setup;
use crate::log::Level;

pub mod transform_bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "transform-plugin",
        pub_export_macro: true,
        export_macro_name: "export_transform",
        default_bindings_module: "sluice_plugin::__rt::transform_bindings",
    });
}

pub mod dedup_bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "dedup-plugin",
        pub_export_macro: true,
        export_macro_name: "export_dedup",
        default_bindings_module: "sluice_plugin::__rt::dedup_bindings",
        with: {
            "sluice:plugin/host@1.0.0": crate::guest::transform_bindings::sluice::plugin::host,
            "sluice:plugin/types@1.0.0": crate::guest::transform_bindings::sluice::plugin::types,
        },
    });
}

use dedup_bindings::exports::sluice::plugin::dedup;
use transform_bindings::exports::sluice::plugin::transform;
use transform_bindings::sluice::plugin::host;
use transform_bindings::sluice::plugin::types::{Batch, Config, RecordError};

pub(crate) fn log(level: Level, message: &str) {
    let level = match level {
        Level::Trace => host::Level::Trace,
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    };
    host::log(level, message);
}

pub(crate) fn count(counter: u16, delta: u64) {
    host::count(counter, delta);
}

impl<T: Transform> transform::Guest for T {
    fn init(config: Config) -> Result<(), String> {
        start(&config, T::state(), T::setup)
    }

    fn process(batch: Batch) -> Result<transform::Output, String> {
        let state = T::state().get().ok_or("process was called before init")?;
        let out = batch::transform(&batch.records, batch.count, |record| T::apply(state, record)).map_err(text)?;
        let (verdicts, replaced) = (out.verdicts, out.replaced);
        Ok(transform::Output { verdicts, routes: Vec::new(), replaced, errors: errors(out.errors) })
    }
}

impl<T: Dedup> dedup::Guest for T {
    fn init(config: Config) -> Result<(), String> {
        start(&config, T::state(), T::setup)
    }

    fn keys(batch: Batch) -> Result<dedup::Output, String> {
        let state = T::state().get().ok_or("keys was called before init")?;
        let apply = |record: &mut crate::Record<'_>, key: &mut crate::Key| T::key(state, record, key);
        let out = batch::keys(&batch.records, batch.received_unix_nanos, apply).map_err(text)?;
        let (keys, times, windows) = (out.keys, out.times, out.windows);
        Ok(dedup::Output { keys, times, windows, errors: errors(out.errors) })
    }
}

fn start<S>(
    config: &Config,
    state: &OnceLock<S>,
    setup: impl FnOnce(&Setup<'_>) -> crate::Result<S>,
) -> Result<(), String> {
    // A panic becomes a trap without a word; the router's log is the only place where its text can go.
    std::panic::set_hook(Box::new(|panic| log(Level::Error, &panic.to_string())));
    let setup_of = Setup { json: &config.json, message: &config.message, descriptors: &config.descriptors };
    let made = setup(&setup_of).map_err(text)?;
    state.set(made).map_err(|_| "init was called twice".to_owned())
}

fn errors(errors: Vec<(u32, String)>) -> Vec<RecordError> {
    errors.into_iter().map(|(index, message)| RecordError { index, message }).collect()
}

fn text(error: crate::Error) -> String {
    error.to_string()
}
