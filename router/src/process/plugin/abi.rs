//! `sluice:plugin@1.0.0` as wasmtime sees it: the records of `wit/plugin.wit`, field by field.
//!
//! Results are owned. wasmtime runs post-return before `call` returns, so a borrowed list (`WasmList`) would point at
//! memory that the plugin has already freed.

use wasmtime::component::{ComponentType, Lift, Lower};

use super::Kind;

pub(super) const HOST: &str = "sluice:plugin/host@1.0.0";

/// What a plugin may import, without the version.
pub(super) const IMPORTS: [&str; 2] = ["sluice:plugin/host", "sluice:plugin/types"];

/// Interface that a plugin of this kind exports, without the version.
pub(super) fn interface(kind: Kind) -> &'static str {
    match kind {
        Kind::Transform => "sluice:plugin/transform",
        Kind::Dedup => "sluice:plugin/dedup",
    }
}

/// Function that takes a batch.
pub(super) fn function(kind: Kind) -> &'static str {
    match kind {
        Kind::Transform => "process",
        Kind::Dedup => "keys",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ComponentType, Lift)]
#[allow(dead_code, reason = "made by lifting only")]
#[component(enum)]
#[repr(u8)]
pub(super) enum Level {
    #[component(name = "trace")]
    Trace,
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

#[derive(Clone, Copy, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct Config<'a> {
    pub(super) stream: &'a str,
    pub(super) json: &'a str,
    pub(super) message: &'a str,
    pub(super) descriptors: &'a [u8],
}

#[derive(Clone, Copy, Debug, ComponentType, Lower)]
#[component(record)]
pub(super) struct Batch<'a> {
    #[component(name = "first-seq")]
    pub(super) first_seq: u64,
    #[component(name = "received-unix-nanos")]
    pub(super) received_nanos: u64,
    pub(super) count: u32,
    pub(super) records: &'a [u8],
}

#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub(super) struct RecordError {
    pub(super) index: u32,
    pub(super) message: String,
}

#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct TransformOutput {
    pub(super) verdicts: Vec<u8>,
    pub(super) routes: Vec<u8>,
    pub(super) replaced: Vec<u8>,
    pub(super) errors: Vec<RecordError>,
}

#[derive(Clone, Debug, ComponentType, Lift)]
#[component(record)]
pub(super) struct DedupOutput {
    pub(super) keys: Vec<u8>,
    pub(super) times: Vec<u64>,
    pub(super) windows: Vec<u32>,
    pub(super) errors: Vec<RecordError>,
}
