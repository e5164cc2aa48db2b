//! Arguments -> settings -> run -> exit code.
pub mod demo;
pub mod pki;
pub mod plugin;
