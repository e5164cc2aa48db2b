//! What each kind of node starts, in which order, and how it stops.
//!
//! Start goes downstream to upstream, so that nothing arrives before there is somewhere to put it: journal, schemas,
//! plugins, lanes with their sinks, then sources, then the admin port. Stop goes the other way: sources first (they
//! flush what they have gathered), then sinks (they settle what they have in flight), then the journal.

mod books;
mod node;
mod reload;
mod sinks;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

use crate::cli::{Exit, StartFailed};
use crate::config::{Role, Settings};
use node::Node;

pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Edge => "edge",
        Role::Central => "central",
        Role::Solo => "solo",
    }
}

/// Runs a node until SIGTERM, SIGINT or a failure that only a restart can heal. SIGHUP reloads from `config_path`.
pub async fn run(settings: Settings, config_path: PathBuf) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut hang_up = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
    let deadline = settings.drain_deadline;
    let role = role_name(settings.role);
    let node = Box::pin(Node::start(&settings)).await.context(StartFailed { role })?;
    info!(role, agent = %settings.agent, "node started");
    let failed = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hang_up.recv() => reload::reload(&settings, &config_path, &node),
            reason = node.failed() => break Some(reason),
        }
    };
    if let Some(reason) = failed {
        error!(%reason, "node cannot go on, stopping; nothing more is acknowledged");
        node.stop(deadline).await;
        return Ok(Exit::Failed.into());
    }
    info!(role, "stopping");
    if node.stop(deadline).await {
        info!(role, "node stopped");
        return Ok(Exit::Ok.into());
    }
    warn!(role, deadline_seconds = deadline.as_secs_f64(), "drain deadline passed, the rest waits in the journal");
    Ok(Exit::Drain.into())
}

/// Loads everything a run would, without opening the journal or a port.
pub fn check(settings: &Settings) -> anyhow::Result<()> {
    node::check(settings)
}
