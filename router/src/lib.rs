//! Sluice: a durable, WASM-extensible log router.
//!
//! Records enter at a source ([`ingest`]), become durable in the [`journal`], pass through plugins and dedup
//! ([`process`]) and leave through sinks ([`deliver`]). [`pipeline`] is the only place where the stages meet; [`role`]
//! starts them. ARCHITECTURE.md walks the same way, with the guarantees.

pub mod admin;
pub mod cli;
pub mod clock;
pub mod config;
pub mod deliver;
pub mod fleet;
pub mod ingest;
pub mod journal;
pub mod link;
pub mod pipeline;
pub mod process;
pub mod record;
pub mod role;
pub mod schema;
pub mod tasks;
pub mod telemetry;
