//! How long to wait before trying again: exponential with full jitter, bounded.

use std::time::Duration;

/// Delays that double from `first` to `max`. Each is drawn between half and the whole of its step, so that many
/// senders that failed together do not return together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempt: u32,
    seed: u64,
}

impl Backoff {
    /// `seed` only has to differ between senders.
    pub fn new(first: Duration, max: Duration, seed: u64) -> Backoff {
        Backoff { first, max, attempt: 0, seed: seed | 1 }
    }

    /// Delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        let step = self.first.saturating_mul(1u32.checked_shl(self.attempt.min(20)).unwrap_or(u32::MAX)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        // xorshift64: jitter needs to differ, not to be unpredictable.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        step / 2 + (step / 2).mul_f64((self.seed % 1_000) as f64 / 1_000.0)
    }

    /// Attempts since the last success.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_start_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), 7);
        for attempt in 0..50u32 {
            let step = Duration::from_millis(100).saturating_mul(1 << attempt.min(10)).min(Duration::from_secs(5));
            let delay = backoff.next_delay();
            assert!(delay >= step / 2 && delay <= step, "{attempt}: {delay:?} of {step:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }
}
