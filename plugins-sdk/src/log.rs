//! What a plugin can say to the operator. In the router both are limited; natively a log line goes to stderr.

/// How urgent a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Writes a line to the router's log. The router caps its length and the number of lines a second.
pub fn log(level: Level, message: &str) {
    #[cfg(target_arch = "wasm32")]
    crate::guest::log(level, message);
    #[cfg(not(target_arch = "wasm32"))]
    eprintln!("{level:?}: {message}");
}

/// Adds to one of the plugin's counters (0 to 15), which the router shows among its metrics.
pub fn count(counter: u16, delta: u64) {
    #[cfg(target_arch = "wasm32")]
    crate::guest::count(counter, delta);
    #[cfg(not(target_arch = "wasm32"))]
    let _ = (counter, delta);
}
