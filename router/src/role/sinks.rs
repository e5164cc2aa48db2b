//! Makes a stream's sinks from the settings.

use std::sync::Arc;

use anyhow::Context as _;

use crate::config::{Role, Settings, SinkKind, Stream};
use crate::deliver::bigquery::BigQuerySink;
use crate::deliver::elasticsearch::ElasticsearchSink;
use crate::deliver::link::{Agent, Link, SchemaSource};
use crate::deliver::parquet::ParquetSink;
use crate::deliver::stdout::StdoutSink;
use crate::deliver::{self, Sink};
use crate::journal::Journal;
use crate::pipeline::NamedSink;
use crate::schema::registry::Registry;
use crate::tasks::Tasks;

/// The one sink of an edge's streams.
const LINK: &str = "link";

/// Names of a stream's sinks, as cursors and the ledger know them.
pub(super) fn names(role: Role, stream: &Stream) -> Vec<Arc<str>> {
    match role {
        Role::Edge => vec![Arc::from(LINK)],
        Role::Central | Role::Solo => stream.sinks.clone(),
    }
}

/// The node's connection to central, if it is an edge.
pub(super) fn link(
    settings: &Settings,
    journal: &Journal,
    registry: &Registry,
    tasks: &Tasks,
) -> anyhow::Result<Option<Link>> {
    let Some(link) = &settings.link_sink else { return Ok(None) };
    let agent = Agent {
        id: Arc::clone(journal.agent()),
        epoch: journal.epoch(),
        streams: settings.streams.iter().map(|stream| Arc::clone(&stream.name)).collect(),
    };
    let registry = registry.clone();
    let schemas: SchemaSource = Arc::new(move |fingerprint| registry.by_fingerprint(fingerprint));
    Ok(Some(Link::start(link.clone(), agent, schemas, tasks)?))
}

/// Makes a stream's sinks.
pub(super) fn build(settings: &Settings, stream: &Stream, link: Option<&Link>) -> anyhow::Result<Vec<NamedSink>> {
    if let Some(link) = link {
        let name: Arc<str> = Arc::from(LINK);
        return Ok(vec![(Arc::clone(&name), Box::new(link.sink(name)))]);
    }
    let made = settings.sinks.iter().filter(|sink| stream.sinks.contains(&sink.name));
    made.map(|sink| Ok((Arc::clone(&sink.name), one(&sink.name, &sink.kind)?))).collect()
}

fn one(name: &Arc<str>, kind: &SinkKind) -> Result<Box<dyn Sink>, deliver::Error> {
    let name = Arc::clone(name);
    Ok(match kind.clone() {
        SinkKind::Parquet(settings) => Box::new(ParquetSink::new(name, settings)),
        SinkKind::Elasticsearch(settings) => Box::new(ElasticsearchSink::new(name, settings)?),
        SinkKind::Bigquery(settings) => Box::new(BigQuerySink::new(name, settings)?),
        SinkKind::Stdout => Box::new(StdoutSink::new(name)),
    })
}

/// Makes every sink once and drops it, so that what its settings name (certificates, addresses) is looked at.
pub(super) fn check(settings: &Settings) -> anyhow::Result<()> {
    for sink in &settings.sinks {
        one(&sink.name, &sink.kind).with_context(|| format!("sink {}", sink.name))?;
    }
    Ok(())
}
