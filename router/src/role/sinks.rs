//! Makes a stream's sinks from the settings.

use std::sync::Arc;

use anyhow::Context as _;

use crate::config::{Role, Settings, SinkKind, Stream};
use crate::deliver::bigquery::BigquerySink;
use crate::deliver::elasticsearch::ElasticsearchSink;
use crate::deliver::link::{Link, LinkSink, SchemaSource};
use crate::deliver::parquet::ParquetSink;
use crate::deliver::stdout::StdoutSink;
use crate::deliver::{self, Sink};
use crate::journal::Journal;
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

/// Makes a stream's sinks. `link` is the node's one connection, made with the first stream.
pub(super) fn build(
    settings: &Settings,
    stream: &Stream,
    journal: &Journal,
    registry: &Registry,
    link: &mut Option<Arc<Link>>,
    tasks: &Tasks,
) -> anyhow::Result<Vec<(Arc<str>, Box<dyn Sink>)>> {
    match (&settings.link_sink, settings.role) {
        (Some(link_settings), Role::Edge) => {
            if link.is_none() {
                let schemas: SchemaSource = schema_source(registry);
                *link = Some(Link::start(link_settings.clone(), journal.agent(), journal.epoch(), schemas, tasks)?);
            }
            let link = link.as_ref().context("start link")?;
            Ok(vec![(Arc::from(LINK), Box::new(LinkSink::new(Arc::clone(link), &stream.name)))])
        }
        _ => {
            let made = settings.sinks.iter().filter(|sink| stream.sinks.contains(&sink.name));
            made.map(|sink| Ok((Arc::clone(&sink.name), one(&sink.name, &sink.kind)?))).collect()
        }
    }
}

fn one(name: &Arc<str>, kind: &SinkKind) -> Result<Box<dyn Sink>, deliver::Error> {
    let name = Arc::clone(name);
    Ok(match kind.clone() {
        SinkKind::Parquet(settings) => Box::new(ParquetSink::new(name, settings)),
        SinkKind::Elasticsearch(settings) => Box::new(ElasticsearchSink::new(name, settings)?),
        SinkKind::Bigquery(settings) => Box::new(BigquerySink::new(name, settings)?),
        SinkKind::Stdout => Box::new(StdoutSink::new(name)),
    })
}

fn schema_source(registry: &Registry) -> SchemaSource {
    let registry = registry.clone();
    Arc::new(move |fingerprint| {
        let schema = registry.by_fingerprint(fingerprint)?;
        Some((schema.message().to_owned(), schema.descriptors.clone()))
    })
}

/// Makes every sink once and drops it, so that what its settings name (certificates, addresses) is looked at.
pub(super) fn check(settings: &Settings) -> anyhow::Result<()> {
    for sink in &settings.sinks {
        one(&sink.name, &sink.kind).with_context(|| format!("sink {}", sink.name))?;
    }
    Ok(())
}
