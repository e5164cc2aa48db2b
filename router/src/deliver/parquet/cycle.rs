//! A cycle: the rows of a run of blocks on their way into files, one per day and schema version.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use time::{OffsetDateTime, UtcDateTime};

use super::part::Part;
use super::pending::{Pending, Rename};
use super::{Failure, Settings};
use crate::record::{DeadLetter, Fingerprint, Row, Rows, Seq};
use crate::schema::Schema;
use crate::schema::parquet::{Extra, Plan};

/// Files open at once. A block that needs more puts the rest into the day of its arrival.
pub(super) const PARTITIONS_MAX: usize = 64;
/// A file's buffers are written as a row group at this size.
const ROW_GROUP_MAX_BYTES: usize = 16 << 20;
/// All buffers together: beyond it the fullest file's are written.
const BUFFERS_MAX_BYTES: usize = 48 << 20;
/// Refused records kept in memory; beyond it the cycle ends early.
const DEAD_MAX_BYTES: usize = 8 << 20;
const SECONDS_PER_DAY: i64 = 86_400;

/// Where a sink's files of one stream go.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) sink: Arc<str>,
    pub(super) stream: Arc<str>,
    /// `dead letter` stage.
    stage: Arc<str>,
    /// The stream's directory.
    pub(super) directory: PathBuf,
    file_max_bytes: usize,
}

impl Target {
    /// Fails where a name cannot be part of a path.
    pub(super) fn new(sink: &Arc<str>, stream: &Arc<str>, settings: &Settings) -> Result<Arc<Target>, String> {
        for name in [sink, stream] {
            if name.is_empty() || name.starts_with('.') || name.contains(['/', '\0']) {
                return Err(format!("name {name:?} cannot be a folder: it is empty, begins with a dot or has a slash"));
            }
        }
        Ok(Arc::new(Target {
            sink: sink.clone(),
            stream: stream.clone(),
            stage: format!("sink:{sink}").into(),
            directory: settings.directory.join(&**stream),
            file_max_bytes: settings.file_max_bytes,
        }))
    }

    /// What the names of this sink's temporary files begin with.
    pub(super) fn temporary_prefix(&self) -> String {
        format!(".{}-", self.sink)
    }
}

/// Day since 1970-01-01, and schema version.
type PartKey = (i64, Fingerprint);

pub(super) struct Cycle {
    target: Arc<Target>,
    plans: HashMap<Fingerprint, Arc<Plan>>,
    parts: BTreeMap<PartKey, Part>,
    /// Files made so far, to name the next.
    part_count: usize,
    first: Option<Seq>,
    through: Option<Seq>,
    message_bytes: usize,
    dead: Vec<DeadLetter>,
    dead_bytes: usize,
}

/// A cycle whose files are complete, but hidden.
pub(super) struct Done {
    pub(super) pending: Pending,
    pub(super) dead: Vec<DeadLetter>,
}

impl Cycle {
    pub(super) fn new(target: Arc<Target>) -> Cycle {
        Cycle {
            target,
            plans: HashMap::new(),
            parts: BTreeMap::new(),
            part_count: 0,
            first: None,
            through: None,
            message_bytes: 0,
            dead: Vec::new(),
            dead_bytes: 0,
        }
    }

    /// Seq behind the last block; `None` before the first.
    pub(super) fn through(&self) -> Option<Seq> {
        self.through
    }

    /// Whether it is time to finish the files.
    pub(super) fn is_full(&self) -> bool {
        self.message_bytes >= self.target.file_max_bytes
            || self.parts.len() >= PARTITIONS_MAX
            || self.dead_bytes >= DEAD_MAX_BYTES
    }

    /// Shreds the rows of whole blocks, until the cycle is full: `through` says how far. Computes and writes files:
    /// call it off the runtime. On error the cycle is gone, its files with it.
    pub(super) fn add(mut self, blocks: Vec<Rows>) -> Result<Cycle, Failure> {
        for rows in blocks {
            if self.is_full() {
                break;
            }
            self.add_block(&rows)?;
            self.first = self.first.or(Some(rows.seq));
            self.through = Some(rows.seq + 1);
        }
        Ok(self)
    }

    fn add_block(&mut self, rows: &Rows) -> Result<(), Failure> {
        if rows.records.is_empty() {
            return Ok(());
        }
        let plan = self.plan(&rows.schema)?;
        let arrival_day = (rows.received_nanos / 1_000_000_000) as i64 / SECONDS_PER_DAY;
        for row in &rows.records {
            let event_nanos = rows.schema.event_time_nanos(&row.message);
            let day = event_nanos.map_or(arrival_day, |nanos| nanos.div_euclid(SECONDS_PER_DAY * 1_000_000_000));
            let mut key = (day, rows.schema.fingerprint);
            if self.parts.len() >= PARTITIONS_MAX && !self.parts.contains_key(&key) {
                key = (arrival_day, rows.schema.fingerprint);
            }
            self.add_row(key, &plan, rows, row)?;
        }
        self.message_bytes += rows.len_bytes();
        self.bound_buffers()
    }

    fn add_row(&mut self, key: PartKey, plan: &Arc<Plan>, rows: &Rows, row: &Row) -> Result<(), Failure> {
        let id = row.id.to_string();
        let part = match self.parts.entry(key) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let name = format!("{}{:06}-{id}.tmp", self.target.temporary_prefix(), self.part_count);
                self.part_count += 1;
                let path = self.target.directory.join(day_directory(key.0)).join(name);
                entry.insert(Part::create(path, plan.clone(), id.clone())?)
            }
        };
        let extra = Extra { id: &id, received_nanos: rows.received_nanos, agent: &rows.agent };
        if let Err(error) = part.push(&row.message, extra) {
            self.dead_bytes += row.message.len();
            self.dead.push(DeadLetter {
                stream: rows.stream.clone(),
                stage: self.target.stage.clone(),
                reason: error.to_string(),
                id: Some(row.id),
                schema: Some(rows.schema.fingerprint),
                received_nanos: rows.received_nanos,
                // A copy: a slice would keep the whole block in memory.
                bytes: bytes::Bytes::copy_from_slice(&row.message),
            });
        } else if part.buffered_message_bytes() >= ROW_GROUP_MAX_BYTES {
            // Within a block, too: one of many megabytes is unusual, but legal.
            part.flush()?;
        }
        Ok(())
    }

    /// Writes row groups until the buffers are within their bounds.
    fn bound_buffers(&mut self) -> Result<(), Failure> {
        let mut total = 0;
        for part in self.parts.values_mut() {
            if part.measure() >= ROW_GROUP_MAX_BYTES {
                part.flush()?;
            }
            total += part.buffered_bytes;
        }
        while total > BUFFERS_MAX_BYTES {
            let Some(fullest) = self.parts.values_mut().max_by_key(|part| part.buffered_bytes) else { break };
            total -= fullest.buffered_bytes;
            fullest.flush()?;
        }
        Ok(())
    }

    fn plan(&mut self, schema: &Schema) -> Result<Arc<Plan>, Failure> {
        if let Some(plan) = self.plans.get(&schema.fingerprint) {
            return Ok(plan.clone());
        }
        let plan = Plan::new(&schema.descriptor).map_err(|error| Failure::Stopped(error.to_string()))?;
        let plan = Arc::new(plan);
        self.plans.insert(schema.fingerprint, plan.clone());
        Ok(plan)
    }

    /// Completes all files under their temporary names, durably. On error they are deleted.
    pub(super) fn finish(self) -> Result<Done, Failure> {
        let (first, through) = (self.first.unwrap_or(0), self.through.unwrap_or(0));
        let mut pending = Pending::new(through);
        for ((day, _), part) in self.parts {
            // Every record for it was refused: dropped, so deleted.
            if part.row_count == 0 {
                continue;
            }
            let finished = part.finish().inspect_err(|_| pending.delete())?;
            let name = format!("{first:020}-{through:020}-{}.parquet", finished.first_id);
            let target = self.target.directory.join(day_directory(day)).join(name);
            pending.delivered += finished.row_count;
            pending.renames.push(Rename { from: finished.temporary, to: target });
            pending.files.push(finished.file);
        }
        // Their names, too: once journaled, a file that a power cut takes away stops the sink.
        pending.sync_directories().inspect_err(|_| pending.delete())?;
        Ok(Done { pending, dead: self.dead })
    }
}

/// `date=YYYY-MM-DD`, as Hive writes partitions, so that readers know the column.
pub(super) fn day_directory(day: i64) -> String {
    let date = UtcDateTime::from_unix_timestamp(day.saturating_mul(SECONDS_PER_DAY)).map(UtcDateTime::date);
    // Nanoseconds in 64 bits end long before dates do.
    let date = date.unwrap_or(OffsetDateTime::UNIX_EPOCH.date());
    format!("date={:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}
