//! The wall clock, the only place that reads it, so that tests can turn it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells unix time. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Set in tests; the system's clock where absent.
    manual_nanos: Option<Arc<AtomicU64>>,
}

impl Clock {
    pub fn system() -> Clock {
        Clock::default()
    }

    /// A clock that stands at `nanos` until [`Clock::set`].
    pub fn manual(nanos: u64) -> Clock {
        Clock { manual_nanos: Some(Arc::new(AtomicU64::new(nanos))) }
    }

    /// Moves a manual clock; does nothing to the system's.
    pub fn set(&self, nanos: u64) {
        if let Some(manual) = &self.manual_nanos {
            manual.store(nanos, Ordering::Relaxed);
        }
    }

    /// Unix time in nanoseconds; 0 before 1970.
    #[allow(clippy::disallowed_methods)] // the one place
    pub fn now_nanos(&self) -> u64 {
        match &self.manual_nanos {
            Some(manual) => manual.load(Ordering::Relaxed),
            None => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
        }
    }
}
