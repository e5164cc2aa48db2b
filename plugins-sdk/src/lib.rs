//! Write Sluice plugins: a transform or a dedup key in one plain function.
//!
//! ```
//! use sluice_plugin::prelude::*;
//!
//! #[derive(Deserialize)]
//! pub struct Config {
//!     environment: String,
//!     min_severity: u64,
//! }
//!
//! #[transform]
//! pub fn enrich(config: &Config, record: &mut Record) -> Result<Action> {
//!     if record.u64(2)? < config.min_severity {
//!         return Ok(Action::Drop);
//!     }
//!     record.set_str(7, &config.environment)?;
//!     Ok(Action::Keep)
//! }
//! # fn main() {
//! # let config = Config { environment: "prod".into(), min_severity: 3 };
//! # let rows = sluice_plugin::test::run(enrich, &config, &[vec![16, 9], vec![16, 1]]);
//! # assert_eq!(rows[1], sluice_plugin::test::Row::Drop);
//! # }
//! ```
//!
//! A [`Record`] is one Protobuf message, read and edited on the wire: nothing is decoded that the plugin does not ask
//! for, and what it does not touch leaves byte for byte as it came. Fields are named by number, or by a [`Field`] that
//! was looked up by name in the stream's [`Schema`] once, when the plugin starts:
//!
//! ```
//! use sluice_plugin::prelude::*;
//!
//! #[derive(Deserialize)]
//! pub struct Config {
//!     fields: Vec<String>,
//! }
//!
//! pub struct Cleaner {
//!     fields: Vec<Field>,
//! }
//!
//! fn start(config: Config, schema: &Schema) -> Result<Cleaner> {
//!     let fields = config.fields.iter().map(|name| schema.field(name)).collect::<Result<_>>()?;
//!     Ok(Cleaner { fields })
//! }
//!
//! #[transform(setup = start)]
//! pub fn clean(cleaner: &Cleaner, record: &mut Record) -> Result<Action> {
//!     for field in &cleaner.fields {
//!         record.clear(field)?;
//!     }
//!     Ok(Action::Keep)
//! }
//! # fn main() {}
//! ```
//!
//! A plugin is a pure function of its config and the record: it has no clock, no randomness and no I/O, so a batch that
//! is processed again after a crash gives the same result. An `Err` is that one record's failure: the router puts it
//! into dead letters with the text. `sluice plugin build` makes the component; [`test`] runs the function natively.

mod batch;
mod config;
mod error;
mod fields;
#[cfg(target_arch = "wasm32")]
mod guest;
mod key;
mod log;
mod record;
mod schema;
pub mod test;
mod wire;

pub use error::{Error, Result};
pub use fields::{Edit, Fields};
pub use key::Key;
pub use log::{Level, count, log};
pub use record::{Action, Place, Record};
pub use schema::{Field, Kind, Schema};
pub use sluice_plugin_macros::{dedup, transform};
pub use wire::Value;

/// What a plugin's file begins with.
pub mod prelude {
    pub use crate::{Action, Edit, Error, Field, Fields, Key, Level, Record, Result, Schema, dedup, log, transform};
    pub use serde::Deserialize;
}

/// What the attributes expand to; no part of the interface.
#[doc(hidden)]
pub mod __rt {
    pub use crate::batch::{Dedup, Transform};
    pub use crate::config::{Setup, plain, with};
    #[cfg(target_arch = "wasm32")]
    pub use crate::guest::{dedup_bindings, transform_bindings};
}
