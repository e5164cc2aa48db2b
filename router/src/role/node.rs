//! A running node: its parts, started in order and stopped in the other.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tracing::{info, warn};

use super::sinks;
use super::status::NodeStatus;
use crate::clock::Clock;
use crate::config::{Role, Settings, Stream};
use crate::ingest::file::FileSource;
use crate::ingest::http::HttpSource;
use crate::ingest::link::{LinkSource, StreamFilter};
use crate::journal::Journal;
use crate::pipeline::{self, Lane};
use crate::process::plugin::{Host, Plugin};
use crate::process::{DedupRecipe, Recipe};
use crate::schema::Schema;
use crate::schema::registry::Registry;
use crate::tasks::{self, Tasks};
use crate::{admin, telemetry};

pub(super) struct Node {
    pub(super) registry: Registry,
    journal: Journal,
    status: Arc<NodeStatus>,
    /// Why the node cannot go on, if a source found that.
    failure: watch::Sender<Option<Arc<str>>>,
    sources: Tasks,
    deliveries: Tasks,
    admin: Tasks,
}

/// Share of the drain deadline that sources may use.
const SOURCES_SHARE: f64 = 0.5;

impl Node {
    pub(super) async fn start(settings: &Settings) -> anyhow::Result<Node> {
        let clock = Clock::system();
        let journal_settings = settings.journal.clone();
        let journal_clock = clock.clone();
        let journal = tasks::blocking(move || Journal::open(journal_settings, journal_clock)).await?;
        let registry = load_schemas(settings, &journal).await?;
        let host = Arc::new(Host::new(settings.plugins.clone()).context("start plugin host")?);
        let (sources, deliveries, admin) = (Tasks::new(), Tasks::new(), Tasks::new());

        let mut lanes = Vec::with_capacity(settings.streams.len());
        let link = sinks::link(settings, &journal, &registry, &deliveries).context("start link")?;
        for stream in &settings.streams {
            let recipe = match settings.role {
                Role::Edge => None,
                Role::Central | Role::Solo => {
                    let schema = registry.message(&stream.message)?;
                    let (host, stream) = (Arc::clone(&host), stream.clone());
                    Some(tasks::blocking(move || recipe(&host, &stream, &schema)).await?)
                }
            };
            let names = sinks::names(settings.role, stream);
            let lane = Lane::open(&stream.name, &journal, &registry, recipe, &names).await?;
            let parts = sinks::build(settings, stream, link.as_ref())?;
            pipeline::start(&lane, parts, &deliveries).await?;
            lanes.push(lane);
        }
        warn_of_lanes_without_stream(settings, &journal);

        let status = Arc::new(NodeStatus::new(settings, journal.clone(), lanes));
        if let Some(admin_settings) = &settings.admin {
            let metrics = telemetry::install_metrics()?;
            admin::serve(admin_settings, status.clone(), metrics, &admin).await?;
        }
        let failure = watch::Sender::new(None);
        let node = Node { registry, journal, status, failure, sources, deliveries, admin };
        node.start_sources(settings, &clock).await?;
        node.status.started();
        Ok(node)
    }

    async fn start_sources(&self, settings: &Settings, clock: &Clock) -> anyhow::Result<()> {
        let mut schemas: BTreeMap<Arc<str>, Arc<Schema>> = BTreeMap::new();
        for stream in &settings.streams {
            schemas.insert(Arc::clone(&stream.name), self.registry.message(&stream.message)?);
        }
        if let Some(link) = &settings.link_source {
            let streams: HashSet<Arc<str>> = schemas.keys().cloned().collect();
            let accepts: StreamFilter = Arc::new(move |stream| streams.contains(stream));
            let (source, address) =
                LinkSource::bind(link, self.journal.clone(), self.registry.clone(), accepts, &self.sources)?;
            self.sources.spawn("link source", source.run());
            info!(%address, "link listens");
        }
        if let Some(http) = &settings.http_source {
            let address =
                HttpSource::bind(http.clone(), schemas.clone(), self.journal.clone(), clock.clone(), &self.sources)
                    .await?;
            info!(%address, "http source listens");
        }
        for file in &settings.file_sources {
            let Some(schema) = schemas.get(&file.stream) else { continue };
            let source = FileSource::new(file.clone(), Arc::clone(schema), self.journal.clone(), clock.clone());
            let (stop, failure) = (self.sources.stop().clone(), self.failure.clone());
            self.sources.spawn("file source", async move {
                // A node that silently stopped reading a log would look healthy: it ends, and says why.
                if let Err(reason) = source.run(stop).await {
                    failure.send_replace(Some(telemetry::chain(&reason).to_string().into()));
                }
            });
        }
        Ok(())
    }

    /// Waits until the node cannot go on, and says why.
    pub(super) async fn failed(&self) -> Arc<str> {
        let (mut journal, mut source) = (self.journal.failure(), self.failure.subscribe());
        loop {
            let failed = tokio::select! {
                failed = journal.wait_for(Option::is_some) => failed.ok().and_then(|reason| reason.clone()),
                failed = source.wait_for(Option::is_some) => failed.ok().and_then(|reason| reason.clone()),
            };
            match failed {
                Some(reason) => return reason,
                // Its sender is gone, so nothing more can be said.
                None => std::future::pending().await,
            }
        }
    }

    /// Stops in order; false where something was still busy at the deadline.
    pub(super) async fn stop(self, deadline: Duration) -> bool {
        self.status.stopping();
        let sources = deadline.mul_f64(SOURCES_SHARE);
        let drained = self.sources.shut_down(sources).await;
        let settled = self.deliveries.shut_down(deadline - sources).await;
        self.admin.shut_down(Duration::from_secs(1)).await;
        if let Err(reason) = self.journal.close().await {
            warn!(error = %telemetry::chain(&reason), "journal did not close cleanly");
        }
        drained && settled
    }
}

/// Schemas from the configured folders, and every version that blocks in the journal still carry.
async fn load_schemas(settings: &Settings, journal: &Journal) -> anyhow::Result<Registry> {
    let folders = settings.schema.clone();
    let registry = tasks::blocking(move || Registry::load(&folders)).await?;
    for (fingerprint, message, descriptors) in journal.schemas()? {
        if let Err(reason) = registry.add(fingerprint, &message, &descriptors) {
            warn!(%message, %fingerprint, error = %telemetry::chain(&reason), "stored schema is not readable");
        }
    }
    for stream in &settings.streams {
        let schema = registry.message(&stream.message).with_context(|| format!("stream {}", stream.name))?;
        journal.put_schema(schema.fingerprint, schema.message(), schema.descriptors.clone()).await?;
    }
    Ok(registry)
}

/// Loads a stream's plugins and tries them once. Compiles: blocks.
fn recipe(host: &Arc<Host>, stream: &Stream, schema: &Arc<Schema>) -> anyhow::Result<Recipe> {
    let load = |plugin| host.load(plugin).with_context(|| format!("stream {}", stream.name));
    let transforms: Vec<Arc<Plugin>> = stream.transforms.iter().map(load).collect::<Result<_, _>>()?;
    let dedup = match &stream.dedup {
        None => None,
        Some(dedup) => {
            Some(DedupRecipe { plugin: load(&dedup.plugin)?, window: dedup.window, keys_max: dedup.keys_max })
        }
    };
    let recipe = Recipe { stream: Arc::clone(&stream.name), transforms, dedup };
    recipe.check(schema)?;
    Ok(recipe)
}

/// Records of a stream that is no longer configured stay where they are, and somebody should know.
fn warn_of_lanes_without_stream(settings: &Settings, journal: &Journal) {
    for stream in journal.streams() {
        if !settings.streams.iter().any(|configured| configured.name == stream) {
            warn!(%stream, "journal holds a stream that the configuration does not name, its blocks stay in the journal");
        }
    }
}

/// What a run would load, without opening the journal or a port. Blocks.
pub(super) fn check(settings: &Settings) -> anyhow::Result<()> {
    let registry = Registry::load(&settings.schema)?;
    let host = Arc::new(Host::new(settings.plugins.clone()).context("start plugin host")?);
    for stream in &settings.streams {
        let schema = registry.message(&stream.message).with_context(|| format!("stream {}", stream.name))?;
        if settings.role != Role::Edge {
            recipe(&host, stream, &schema)?;
        }
    }
    sinks::check(settings)
}
