//! Opening and closing: the lock, the engine, the format version, the facts, the committer's thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::watch;

use super::commit::Committer;
use super::facts::{Facts, Working};
use super::queue::{GroupLimits, Queue};
use super::space::{FreeBytes, Space};
use super::store::{self, Batch, DirectoryLock, Store};
use super::{Engine, Error, FORMAT_VERSION, Journal, Settings, Shared, keys, lock};
use crate::clock::Clock;
use crate::tasks;

/// The committer's thread, ended with the last handle on the journal.
pub(super) struct Running {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Held until the store is closed.
    directory_lock: Mutex<Option<DirectoryLock>>,
}

impl Journal {
    /// Opens or creates the journal. Everything acknowledged before is there on return.
    pub fn open(settings: Settings, clock: Clock) -> Result<Journal, Error> {
        Journal::open_over(settings, clock, |path| fs2::available_space(path), |store| store)
    }

    /// As [`Journal::open`]; tests put something between the journal and its surroundings.
    pub(super) fn open_over(
        settings: Settings,
        clock: Clock,
        free_bytes: FreeBytes,
        wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>,
    ) -> Result<Journal, Error> {
        let directory = settings.directory.clone();
        let failed = |source| Error::Store { operation: "open", directory: directory.clone(), source };
        fs::create_dir_all(&directory).map_err(failed)?;
        let Some(directory_lock) = DirectoryLock::take(&directory).map_err(failed)? else {
            return Err(Error::InUse { directory });
        };
        check_engine(&directory, settings.engine)?;
        let store: Arc<dyn Store> =
            store::open(&directory, settings.engine, settings.cache_bytes).map_err(failed)?.into();
        let epoch = check_format(&*store, &directory, &clock)?;
        let store = wrap(store);
        let facts = Facts::load(&*store).map_err(failed)?;
        let space = Space::new(directory.clone(), settings.engine, settings.max_bytes, free_bytes);
        space.measure(facts.live_bytes()).map_err(failed)?;
        let working = Working::new(&facts);
        let shared = Arc::new(Shared {
            agent: settings.agent,
            epoch,
            dead_letter_max_bytes: settings.dead_letter_max_bytes,
            store: RwLock::new(Some(Arc::clone(&store))),
            facts: Mutex::new(facts),
            queue: Queue::new(),
            space: Arc::new(space),
            sinks: Mutex::new(BTreeMap::new()),
            ends: Mutex::new(BTreeMap::new()),
            quarantined: Mutex::new(BTreeSet::new()),
            failure: watch::channel(None).0,
            ended: tasks::Stop::new(),
            directory,
        });
        let limits = GroupLimits { max_delay: settings.group_max_delay, max_bytes: settings.group_max_bytes };
        let expiries = VecDeque::new();
        let committer = Committer { shared: Arc::clone(&shared), store, working, limits, expiries };
        let thread = tasks::thread("journal-commit", move || committer.run()).map_err(shared.store_error("open"))?;
        let running = Running {
            shared: Arc::clone(&shared),
            thread: Mutex::new(Some(thread)),
            directory_lock: Mutex::new(Some(directory_lock)),
        };
        Ok(Journal { shared, committer: Arc::new(running) })
    }

    /// Flushes and closes; later calls fail.
    pub async fn close(&self) -> Result<(), Error> {
        let running = Arc::clone(&self.committer);
        tasks::blocking(move || running.end()).await;
        match self.shared.failure.borrow().as_deref() {
            None => Ok(()),
            Some(reason) => Err(Error::Poisoned { reason: reason.to_owned() }),
        }
    }
}

impl Running {
    /// Has the committer finish what is queued, then closes the store. Does nothing the second time.
    fn end(&self) {
        self.shared.end();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            // A panic of the committer was already caught and told to `failure`.
            let _ = thread.join();
        }
        self.shared.store.write().unwrap_or_else(PoisonError::into_inner).take();
        lock(&self.directory_lock).take();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// Refuses a directory that the other engine wrote.
fn check_engine(directory: &Path, set: Engine) -> Result<(), Error> {
    let found = match set {
        Engine::Sled => Engine::Redb,
        Engine::Redb => Engine::Sled,
    };
    if !store::engine_directory(directory, found).exists() {
        return Ok(());
    }
    Err(Error::Engine { directory: directory.to_owned(), found, set })
}

/// Checks the format version, or writes it into a new store; returns the epoch.
fn check_format(store: &dyn Store, directory: &Path, clock: &Clock) -> Result<u64, Error> {
    let failed = |source| Error::Store { operation: "open", directory: PathBuf::from(directory), source };
    let unreadable =
        || failed(io::Error::new(io::ErrorKind::InvalidData, "its format version or epoch cannot be read"));
    if let Some(version) = store.get(&keys::meta("format")).map_err(failed)? {
        let found = u32::from_le_bytes(version[..].try_into().map_err(|_| unreadable())?);
        if found != FORMAT_VERSION {
            return Err(Error::Format { directory: directory.to_owned(), found, supported: FORMAT_VERSION });
        }
        let epoch = store.get(&keys::meta("epoch")).map_err(failed)?.ok_or_else(unreadable)?;
        return Ok(u64::from_le_bytes(epoch[..].try_into().map_err(|_| unreadable())?));
    }
    // A store without a version is new, or its creation was cut short: then there is nothing else in it.
    let mut is_empty = true;
    let (from, to) = ([keys::BLOCK], keys::end_of(keys::DEAD));
    let visit = &mut |_: &[u8], _| {
        is_empty = false;
        ControlFlow::Break(())
    };
    store.range(&from, &to, visit).map_err(failed)?;
    if !is_empty {
        return Err(Error::Format { directory: directory.to_owned(), found: 0, supported: FORMAT_VERSION });
    }
    let epoch = draw_epoch(clock);
    let mut batch = Batch::default();
    batch.put(keys::meta("format"), Bytes::copy_from_slice(&FORMAT_VERSION.to_le_bytes()));
    batch.put(keys::meta("epoch"), Bytes::copy_from_slice(&epoch.to_le_bytes()));
    store.apply(batch).and_then(|()| store.flush()).map_err(failed)?;
    Ok(epoch)
}

/// A number that no other data directory of this agent has: the standard library's seed, which is the operating
/// system's randomness, and the time.
fn draw_epoch(clock: &Clock) -> u64 {
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u64(clock.now_nanos());
    hasher.finish().max(1)
}
