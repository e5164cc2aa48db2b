//! The journal's bound: who may append, and who waits until there is room.
//!
//! Two sizes are watched. *Live* is what the journal keeps, summed by the committer; *disk* is what the files take, as
//! `du` counts. They differ: a store frees space in its files for its own use long before it gives it back to the
//! file system, if ever. So a bound on disk alone would never open again after it closed once, and a bound on live alone
//! would not hold on disk.
//!
//! So what may be live falls in steps as the files grow:
//!
//! | files take, of `max_bytes` | may be live, sled | redb |
//! |---|---|---|
//! | below 50 % | 40 % | 50 % |
//! | below 70 % | 20 % | 30 % |
//! | more | 5 % | 5 % |
//!
//! The last step is what opens again in any case once sinks have drained: the files then have room inside. It lets in one
//! append in 50 ms, so that the store's cleaning, which finds that room, keeps ahead. Measured with
//! 40 KB and 250 KB blocks: filling a new sled takes 1.8 to 2.0 bytes on disk per live byte, redb 1.6; filled and drained
//! again and again, sled's files settle at 2.0 to 2.8 times the largest live size (its cleaner is behind by that much, and
//! a deletion writes before it frees), redb's at 2.0. With a bound of 256 MiB and eight
//! times as much filled and drained in bursts, sled's files took at most 208 MiB. An earlier rule (steps at 60 and 80 %, up to
//! 45 and 25 % live, no pace in the last) passed the bound: 264 MiB; which of the changes it took was not measured apart.
//! A sled whose sinks keep up takes about 40 MiB, so a bound below 256 MiB leaves little to live in.
//! `tests/soak.rs` holds it to the bound.
//!
//! Only appends wait, in the order they came. Decisions, advances and trimming never do: they are what makes room.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Engine;

/// Bytes of a key and its place in the store, added to each value's length.
pub(super) const KEY_BYTES: u64 = 64;
/// While less than this is free on the file system, appends wait, so that a disk filled by others slows the sources
/// instead of failing a commit.
const FILE_SYSTEM_RESERVE: u64 = 64 << 20;
/// From this share of the bound on, every append is delayed by up to [`SLOW_MAX_DELAY`].
const SLOW_FROM: f64 = 0.9;
const SLOW_MAX_DELAY: Duration = Duration::from_millis(50);

/// The bound as steps: while the files take less than `.0`, up to `.1` may be live. The last step has no end.
#[derive(Clone, Copy, Debug)]
struct Limits {
    steps: [(u64, u64); 3],
}

impl Limits {
    fn new(engine: Engine, max_bytes: u64) -> Limits {
        let share = |percent: u64| max_bytes / 100 * percent;
        let [most, some, least] = match engine {
            Engine::Sled => [40, 20, 5],
            Engine::Redb => [50, 30, 5],
        };
        Limits { steps: [(share(50), share(most)), (share(70), share(some)), (u64::MAX, share(least))] }
    }

    /// Whether the files are so large that only their own cleaning can make room.
    fn is_last_step(&self, disk: u64) -> bool {
        disk >= self.steps[1].0
    }

    fn live_max(&self, disk: u64) -> u64 {
        self.steps.iter().find(|(below, _)| disk < *below).map_or(0, |(_, live)| *live)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Use {
    live: u64,
    /// Let in and not yet part of `live`.
    reserved: u64,
    disk: u64,
    file_system_free: u64,
}

/// Free bytes of the file system that holds a path.
pub(super) type FreeBytes = fn(&Path) -> io::Result<u64>;

pub(super) struct Space {
    directory: PathBuf,
    limits: Limits,
    free_bytes: FreeBytes,
    now: Mutex<Use>,
    changed: Notify,
    /// Appends pass one behind the other, so none is overtaken for ever.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

/// Space for one append, given back when it is part of the journal or has failed.
pub(super) struct Reservation {
    space: Arc<Space>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.lock().reserved -= self.bytes;
    }
}

/// Counts who waits, also where the wait is given up.
struct Wait<'a>(&'a AtomicUsize);

impl<'a> Wait<'a> {
    fn new(count: &'a AtomicUsize) -> Wait<'a> {
        count.fetch_add(1, Ordering::SeqCst);
        Wait(count)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Space {
    pub(super) fn new(directory: PathBuf, engine: Engine, max_bytes: u64, free_bytes: FreeBytes) -> Space {
        Space {
            directory,
            limits: Limits::new(engine, max_bytes),
            free_bytes,
            now: Mutex::default(),
            changed: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
            waiting: AtomicUsize::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Use> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Most that one append may take.
    pub(super) fn append_max_bytes(&self) -> u64 {
        self.limits.live_max(u64::MAX - 1)
    }

    /// Waits until there is room for `bytes`, at most [`Space::append_max_bytes`], and reserves it.
    pub(super) async fn reserve(self: &Arc<Self>, bytes: u64) -> Reservation {
        let _turn = self.turn.lock().await;
        let delay = self.lock().delay(&self.limits);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut waiting = None;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(reservation) = self.try_reserve(bytes) {
                return reservation;
            }
            waiting.get_or_insert_with(|| Wait::new(&self.waiting));
            changed.await;
        }
    }

    fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let mut now = self.lock();
        if !now.has_room(&self.limits, bytes) {
            return None;
        }
        now.reserved += bytes;
        Some(Reservation { space: Arc::clone(self), bytes })
    }

    /// Measures the files and takes in what is live now; lets in who waited.
    pub(super) fn measure(&self, live: u64) -> io::Result<u64> {
        let disk = super::store::disk_bytes(&self.directory)?;
        let file_system_free = (self.free_bytes)(&self.directory)?;
        let mut now = self.lock();
        *now = Use { live, disk, file_system_free, ..*now };
        drop(now);
        self.changed.notify_waiters();
        Ok(disk)
    }

    /// Whether an append waits for room.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

impl Use {
    fn has_room(&self, limits: &Limits, bytes: u64) -> bool {
        let live = self.live + self.reserved + bytes;
        live <= limits.live_max(self.disk) && self.file_system_free >= FILE_SYSTEM_RESERVE
    }

    /// How long an append is held up, growing towards the bound.
    fn delay(&self, limits: &Limits) -> Duration {
        if limits.is_last_step(self.disk) {
            return SLOW_MAX_DELAY;
        }
        let live = self.live + self.reserved;
        let fullness = (live as f64 / limits.live_max(self.disk).max(1) as f64).min(1.0);
        SLOW_MAX_DELAY.mul_f64(((fullness - SLOW_FROM) / (1.0 - SLOW_FROM)).max(0.0))
    }
}
