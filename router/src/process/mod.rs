//! STAGE 3: what becomes of a record: schema, transforms in order, then dedup.
//!
//! A block comes in as frames, and each of its records becomes one or more *rows* (a transform may split). A row passes,
//! is filtered, is a duplicate, or is dead; that is its verdict, decided once, journaled with the block and never
//! decided again: a sink that reads the block later gets the same rows from [`Processor::replay`].
//!
//! Always: rows are in the order of their records; a record that no plugin touches is never copied, its bytes are a
//! slice of the block's buffer; the same block, plugins and seen-set give the same rows.

pub mod dedup;
pub mod plugin;
mod rows;
mod verdicts;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::journal::{Block, DecisionCounts, SeenKeys};
use crate::record::{DeadLetter, Fingerprint, Frames, RecordIds, Row, Rows, Verdict};
use crate::schema::Schema;
use dedup::SeenSet;
use plugin::{InstanceConfig, Plugin};
use rows::{Fate, RowList};
pub use verdicts::Verdicts;

/// Why a block could not be processed. The block waits in the journal; nothing is lost by any of these.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("process block: its payload cannot be read")]
    Block(#[source] crate::journal::BlockError),
    /// The plugin as a whole fails, not one record: processing halts, sources slow down.
    #[error("run plugins of stream {stream}")]
    Plugin {
        stream: Arc<str>,
        #[source]
        source: plugin::Error,
    },
}

/// What a stream's records go through. Shared; makes any number of processors.
#[derive(Clone)]
pub struct Recipe {
    pub stream: Arc<str>,
    pub transforms: Vec<Arc<Plugin>>,
    pub dedup: Option<DedupRecipe>,
}

#[derive(Clone)]
pub struct DedupRecipe {
    pub plugin: Arc<Plugin>,
    pub window: Duration,
    pub keys_max: usize,
}

/// A block with its verdicts.
pub struct Decided {
    pub rows: Rows,
    pub verdicts: Verdicts,
    pub seen: Vec<SeenKeys>,
    pub dead: Vec<DeadLetter>,
    pub counts: DecisionCounts,
}

/// Runs one stream's recipe. Owned by one worker at a time.
pub struct Processor {
    recipe: Recipe,
    /// Instances are made for the descriptors of one schema version; a stream has few versions at a time.
    instances: HashMap<Fingerprint, Instances>,
}

struct Instances {
    transforms: Vec<plugin::Transform>,
    dedup: Option<plugin::Dedup>,
}

/// A block in hand.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    pub seq: u64,
    pub block: &'a Block,
    pub schema: &'a Arc<Schema>,
}

impl Processor {
    pub fn new(recipe: Recipe) -> Processor {
        Processor { recipe, instances: HashMap::new() }
    }

    /// Decides the verdicts of a block that has none. `seen` learns its keys, so call it once per block, in order.
    pub fn decide(&mut self, work: Work<'_>, seen: Option<&mut SeenSet>) -> Result<Decided, Error> {
        let mut list = self.transform(work)?;
        let keys = match seen {
            Some(seen) => self.dedup(work, &mut list, seen)?,
            None => Vec::new(),
        };
        let mut counts = DecisionCounts { split: list.split_count(), ..DecisionCounts::default() };
        for verdict in list.verdicts() {
            match verdict {
                Verdict::Kept => counts.kept += 1,
                Verdict::Filtered => counts.filtered += 1,
                Verdict::Duplicate => counts.duplicate += 1,
                Verdict::Dead => counts.dead += 1,
            }
        }
        let verdicts = Verdicts::new(list.verdicts());
        let ids = ids(work.block);
        let dead = list.take_dead(|index, part, stage, reason, bytes| DeadLetter {
            stream: Arc::clone(&self.recipe.stream),
            stage,
            reason,
            id: Some(ids.id(index, part)),
            schema: Some(work.block.fingerprint),
            received_nanos: work.block.first_received_nanos,
            bytes,
        });
        Ok(Decided { rows: self.kept(work, &list), verdicts, seen: keys, dead, counts })
    }

    /// The rows of a block whose verdicts are known. Where the plugins now make other rows of it than when it was
    /// decided (they were changed in between), all rows that pass are given, so that none is lost, and the second
    /// value is false.
    pub fn replay(&mut self, work: Work<'_>, verdicts: &Verdicts) -> Result<(Rows, bool), Error> {
        let mut list = self.transform(work)?;
        let same = list.apply(verdicts);
        Ok((self.kept(work, &list), same))
    }

    fn transform(&mut self, work: Work<'_>) -> Result<RowList, Error> {
        let frames = work.block.frames().map_err(Error::Block)?;
        let mut list = RowList::new(frames);
        let stream = Arc::clone(&self.recipe.stream);
        let instances = self.instances(work.schema)?;
        let failed = |source| Error::Plugin { stream: Arc::clone(&stream), source };
        for transform in &mut instances.transforms {
            let output = transform.run(work.seq, work.block.first_received_nanos, list.passing()).map_err(failed)?;
            list.transform(&stage(transform.plugin()), &output);
        }
        Ok(list)
    }

    fn dedup(&mut self, work: Work<'_>, list: &mut RowList, seen: &mut SeenSet) -> Result<Vec<SeenKeys>, Error> {
        let stream = Arc::clone(&self.recipe.stream);
        let received_seconds = work.block.first_received_nanos / 1_000_000_000;
        let instances = self.instances(work.schema)?;
        let Some(plugin) = &mut instances.dedup else { return Ok(Vec::new()) };
        let failed = |source| Error::Plugin { stream: Arc::clone(&stream), source };
        let keyed = plugin.run(work.seq, work.block.first_received_nanos, list.passing()).map_err(failed)?;
        let mut block = seen.block(received_seconds);
        let mut is_duplicate = keyed.keys.iter().enumerate().map(|(row, key)| {
            let time = keyed.times.get(row).copied();
            let window = keyed.windows.get(row).filter(|&&window| window > 0).map(|&window| u64::from(window));
            // No key, or none that the plugin could make: never a duplicate, for dropping is what cannot be undone.
            !key.is_empty() && block.is_duplicate(dedup::key(&stream, key), time, window)
        });
        list.mark(|| if is_duplicate.next() == Some(true) { Fate::Duplicate } else { Fate::Pass });
        drop(is_duplicate);
        Ok(block.finish())
    }

    fn instances(&mut self, schema: &Arc<Schema>) -> Result<&mut Instances, Error> {
        if !self.instances.contains_key(&schema.fingerprint) {
            let made = self.recipe.instantiate(schema)?;
            self.instances.insert(schema.fingerprint, made);
        }
        // Inserted above where it was absent.
        Ok(self.instances.get_mut(&schema.fingerprint).expect("present"))
    }

    fn kept(&self, work: Work<'_>, list: &RowList) -> Rows {
        let ids = ids(work.block);
        let records = list.kept().map(|(index, part, message)| Row { id: ids.id(index, part), message }).collect();
        Rows {
            stream: Arc::clone(&self.recipe.stream),
            seq: work.seq,
            schema: Arc::clone(work.schema),
            agent: Arc::clone(&work.block.origin.agent),
            received_nanos: work.block.first_received_nanos,
            records,
            received_count: work.block.record_count,
        }
    }
}

impl Recipe {
    /// Makes and drops one instance of each plugin, so that a bad plugin or config is found before any record.
    pub fn check(&self, schema: &Arc<Schema>) -> Result<(), Error> {
        self.instantiate(schema).map(drop)
    }

    fn instantiate(&self, schema: &Arc<Schema>) -> Result<Instances, Error> {
        let config = || InstanceConfig {
            stream: Arc::clone(&self.stream),
            message: schema.message().to_owned(),
            descriptors: schema.descriptors.clone(),
        };
        let failed = |source| Error::Plugin { stream: Arc::clone(&self.stream), source };
        let transforms = self.transforms.iter().map(|plugin| plugin.transform(config()).map_err(failed));
        let dedup = self.dedup.as_ref().map(|recipe| recipe.plugin.dedup(config()).map_err(failed));
        Ok(Instances { transforms: transforms.collect::<Result<_, _>>()?, dedup: dedup.transpose()? })
    }

    pub fn seen_set(&self) -> Option<SeenSet> {
        self.dedup.as_ref().map(|dedup| SeenSet::new(dedup.window, dedup.keys_max))
    }
}

fn ids(block: &Block) -> RecordIds {
    RecordIds::new(&block.stream, &block.origin, block.first_received_nanos)
}

/// Who refused a record, as dead letters say it.
fn stage(plugin: &Plugin) -> Arc<str> {
    Arc::from(format!("plugin:{}", plugin.name()))
}

/// Slices a buffer's frames without copying.
fn slices(frames: &Frames) -> impl Iterator<Item = Bytes> + '_ {
    frames.ranges().map(|range| frames.bytes().slice(range))
}
