//! STAGE 3: what becomes of a record: plugins, then dedup.
pub mod plugin;
