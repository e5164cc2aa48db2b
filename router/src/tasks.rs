//! Where tasks and threads start: named, counted, told to stop by one signal and waited for within a deadline.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

/// Asked of every long-lived task: end soon, leaving what you did durable.
pub type Stop = CancellationToken;

/// The tasks of one node. Clones share the same set.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: Stop,
}

impl Tasks {
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Cancelled when the node is to stop.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Starts a task; `name` stands in its log lines.
    #[allow(clippy::disallowed_methods)] // the one place
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task.instrument(tracing::info_span!("task", task = name)))
    }

    /// Asks all tasks to stop and waits; false where some were still running at the deadline.
    pub async fn shut_down(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

/// Runs work that computes or blocks for more than half a millisecond off the runtime's threads.
#[allow(clippy::disallowed_methods)] // the one place
pub async fn blocking<T, F>(work: F) -> T
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The work is never cancelled, so the only failure is its own panic: carry it on.
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}

/// Starts a named operating-system thread, for loops that own blocking state (the journal's committer).
#[allow(clippy::disallowed_methods)] // the one place
pub fn thread<F>(name: &str, work: F) -> std::io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    std::thread::Builder::new().name(name.into()).spawn(work)
}
