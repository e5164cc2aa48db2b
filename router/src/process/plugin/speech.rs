//! What a plugin says: log lines, limited in number and length, and the text of its panic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, trace, warn};

use super::abi::Level;
use crate::telemetry;

/// Lines a second that one plugin of one stream may write; the rest is counted.
const LINES_MAX: u32 = 20;
const LINE_MAX_BYTES: usize = 1024;
/// Counters a plugin has.
const COUNTERS: [&str; 16] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15"];

/// How the SDK's panic hook begins its line.
const PANIC: &str = "panicked at ";

/// The plugin's voice. It outlives the instance, so that starting over is no way around the limit.
#[derive(Debug)]
pub(super) struct Speech {
    stream: Arc<str>,
    plugin: Arc<str>,
    second: Instant,
    lines: u32,
    suppressed: u64,
    panic: Option<String>,
}

impl Speech {
    pub(super) fn new(stream: Arc<str>, plugin: Arc<str>) -> Speech {
        Speech { stream, plugin, second: Instant::now(), lines: 0, suppressed: 0, panic: None }
    }

    /// The last panic's text, once.
    pub(super) fn take_panic(&mut self) -> Option<String> {
        self.panic.take()
    }

    /// Logs one line, made by [`clean`].
    pub(super) fn line(&mut self, level: Level, text: String) {
        if level == Level::Error && text.starts_with(PANIC) {
            // It becomes the reason of the failure, which is reported with all that belongs to it.
            self.panic = Some(text);
            return;
        }
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.report_suppressed();
            (self.second, self.lines) = (Instant::now(), 0);
        }
        if self.lines >= LINES_MAX {
            self.suppressed += 1;
            return;
        }
        self.lines += 1;
        let (stream, plugin) = (&*self.stream, &*self.plugin);
        match level {
            Level::Trace => trace!(target: "plugin", stream, plugin, text, "plugin says"),
            Level::Debug => debug!(target: "plugin", stream, plugin, text, "plugin says"),
            Level::Info => info!(target: "plugin", stream, plugin, text, "plugin says"),
            // Whether the operator is needed is for the router to say, so a plugin's error is a warning.
            Level::Warn | Level::Error => warn!(target: "plugin", stream, plugin, text, "plugin says"),
        }
    }

    /// Counters beyond the last are ignored: a plugin's mistake is no reason to stop it.
    pub(super) fn count(&self, counter: u16, delta: u64) {
        if let Some(counter) = COUNTERS.get(usize::from(counter)) {
            let labels = [("stream", &*self.stream), ("plugin", &*self.plugin), ("counter", counter)];
            telemetry::PLUGIN_COUNTED.add(delta, &labels);
        }
    }

    fn report_suppressed(&mut self) {
        if self.suppressed > 0 {
            let (stream, plugin) = (&*self.stream, &*self.plugin);
            warn!(target: "plugin", stream, plugin, lines = self.suppressed, "plugin log lines suppressed");
            self.suppressed = 0;
        }
    }
}

impl Drop for Speech {
    fn drop(&mut self) {
        self.report_suppressed();
    }
}

/// One line of bounded length: what a plugin writes must not look like lines of the router's own.
pub(super) fn clean(text: &str) -> String {
    let mut end = text.len().min(LINE_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut clean: String = text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if end < text.len() {
        clean.push('…');
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_limited_in_number_and_length() {
        let mut speech = Speech::new("s".into(), "p".into());
        (0..1000).for_each(|_| speech.line(Level::Info, "x".into()));
        assert!(speech.suppressed >= 1000 - 2 * u64::from(LINES_MAX), "{speech:?}");
        assert_eq!(clean("a\nb\u{1b}[0m"), "a b [0m");
        assert_eq!(clean(&"é".repeat(LINE_MAX_BYTES)).chars().count(), LINE_MAX_BYTES / 2 + 1);
    }

    #[test]
    fn a_panic_is_kept_and_not_logged() {
        let mut speech = Speech::new("s".into(), "p".into());
        speech.line(Level::Error, clean("panicked at src/lib.rs:1:2:\nboom"));
        speech.line(Level::Error, "other".into());
        assert_eq!(speech.take_panic().as_deref(), Some("panicked at src/lib.rs:1:2: boom"));
        assert_eq!((speech.take_panic(), speech.lines), (None, 1));
    }
}
