//! Servers that speak the real protocols, and an in-memory feed: what the sinks are tested against.
//!
//! A fake keeps what a real server keeps and refuses what its documentation says the real one refuses; faults come by
//! script or by seed.
#![allow(dead_code)] // every test binary includes this module and uses its part
#![allow(clippy::unwrap_used)] // a fake that cannot go on fails its test

pub mod bigquery;
pub mod elastic;
pub mod feed;
pub mod rng;
