//! Batches through a plugin, whatever the plugin does: fresh instance, one more try, then the search for the records
//! at fault.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::check::{Keyed, Transformed};
use super::host::Plugin;
use super::instance::{Call, Failure, Instance};
use super::manifest::Kind;
use super::speech::Speech;
use super::{Error, InstanceConfig, abi};
use crate::record::Frames;
use crate::telemetry;

/// A result may exceed its batch's multiple by this much: small batches may grow a lot.
const OUTPUT_EXTRA_BYTES: usize = 1 << 20;
/// Failing calls that the search for poison records may make in one batch. Twenty such records in a thousand take some
/// 250; a plugin that fails on everything is broken, and searching on would only delay saying so.
const FAILURES_MAX: u32 = 1024;
/// The same in time, as a multiple of a call's deadline: what matters where records loop instead of panicking.
const FAILURE_DEADLINES_MAX: u32 = 32;
/// A batch of this many records that fail one and all tells of a broken plugin, not of broken records.
const ALL_FAILED_MIN: u32 = 8;

/// A transform serving one stream on one worker.
pub struct Transform {
    runner: Runner,
}

/// A dedup plugin serving one stream on one worker.
pub struct Dedup {
    runner: Runner,
}

impl Plugin {
    /// Starts an instance for a stream. Fails with `Init` where the plugin does not like its config.
    pub fn transform(self: &Arc<Self>, config: InstanceConfig) -> Result<Transform, Error> {
        Ok(Transform { runner: Runner::start(self, Kind::Transform, config)? })
    }

    /// As [`Plugin::transform`], for a dedup plugin.
    pub fn dedup(self: &Arc<Self>, config: InstanceConfig) -> Result<Dedup, Error> {
        Ok(Dedup { runner: Runner::start(self, Kind::Dedup, config)? })
    }
}

impl Transform {
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.runner.plugin
    }

    /// Runs one batch on the calling thread, for at most the deadline unless the plugin fails. An error means that the
    /// batch is untouched: the stream waits and the same batch is tried again later.
    pub fn run(&mut self, first_seq: u64, received_nanos: u64, frames: &Frames) -> Result<Transformed, Error> {
        let work = Work { first_seq, received_nanos, frames };
        self.runner.run(&TransformCall, &work)
    }
}

impl Dedup {
    pub fn plugin(&self) -> &Arc<Plugin> {
        &self.runner.plugin
    }

    /// As [`Transform::run`].
    pub fn run(&mut self, first_seq: u64, received_nanos: u64, frames: &Frames) -> Result<Keyed, Error> {
        let work = Work { first_seq, received_nanos, frames };
        self.runner.run(&DedupCall { received_seconds: received_nanos / 1_000_000_000 }, &work)
    }
}

struct Work<'a> {
    first_seq: u64,
    received_nanos: u64,
    frames: &'a Frames,
}

/// What differs between the kinds.
trait Form {
    type Output: Default;
    fn call(&self, instance: &mut Instance, call: &Call<'_>) -> Result<Self::Output, Failure>;
    /// The result of one record that cannot be processed.
    fn failed(&self, reason: String) -> Self::Output;
    fn join(&self, first: Self::Output, second: Self::Output) -> Self::Output;
}

struct TransformCall;

impl Form for TransformCall {
    type Output = Transformed;

    fn call(&self, instance: &mut Instance, call: &Call<'_>) -> Result<Transformed, Failure> {
        let output: abi::TransformOutput = instance.call(call)?;
        Transformed::check(output, call.batch.count).map_err(|reason| Failure(format!("its output is wrong: {reason}")))
    }

    fn failed(&self, reason: String) -> Transformed {
        Transformed::failed(reason)
    }

    fn join(&self, first: Transformed, second: Transformed) -> Transformed {
        first.join(second)
    }
}

struct DedupCall {
    received_seconds: u64,
}

impl Form for DedupCall {
    type Output = Keyed;

    fn call(&self, instance: &mut Instance, call: &Call<'_>) -> Result<Keyed, Failure> {
        let output: abi::DedupOutput = instance.call(call)?;
        Keyed::check(output, call.batch.count).map_err(|reason| Failure(format!("its output is wrong: {reason}")))
    }

    fn failed(&self, reason: String) -> Keyed {
        Keyed::failed(reason, self.received_seconds)
    }

    fn join(&self, first: Keyed, second: Keyed) -> Keyed {
        first.join(second, self.received_seconds)
    }
}

struct Runner {
    plugin: Arc<Plugin>,
    config: InstanceConfig,
    /// Absent after a failure, until the next call.
    instance: Option<Instance>,
    /// Present while there is no instance to hold it.
    speech: Option<Speech>,
}

/// A call that gave no output.
enum NoOutput {
    Failed(Failure),
    Fatal(Error),
}

impl Runner {
    fn start(plugin: &Arc<Plugin>, wanted: Kind, config: InstanceConfig) -> Result<Runner, Error> {
        if plugin.kind() != wanted {
            return Err(Error::Kind { name: plugin.name.to_string(), wanted, found: plugin.kind() });
        }
        let speech = Speech::new(config.stream.clone(), plugin.name.clone());
        let mut runner = Runner { plugin: plugin.clone(), config, instance: None, speech: Some(speech) };
        runner.renew()?;
        Ok(runner)
    }

    fn run<F: Form>(&mut self, form: &F, work: &Work<'_>) -> Result<F::Output, Error> {
        if work.frames.is_empty() {
            return Ok(F::Output::default());
        }
        let first = match self.call(form, work, work.frames) {
            Ok(output) => return Ok(output),
            Err(NoOutput::Fatal(error)) => return Err(error),
            Err(NoOutput::Failed(failure)) => failure,
        };
        warn!(
            stream = &*self.config.stream,
            plugin = &*self.plugin.name,
            seq = work.first_seq,
            records = work.frames.count(),
            reason = first.0,
            "plugin call failed, trying a fresh instance"
        );
        match self.call(form, work, work.frames) {
            Ok(output) => Ok(output),
            Err(NoOutput::Fatal(error)) => Err(error),
            Err(NoOutput::Failed(failure)) => self.isolate(form, work, failure),
        }
    }

    /// Halves the batch until each failing part is one record; the others' results are kept.
    fn isolate<F: Form>(&mut self, form: &F, work: &Work<'_>, whole: Failure) -> Result<F::Output, Error> {
        let ends: Vec<usize> = work.frames.ranges().map(|range| range.end).collect();
        let count = ends.len();
        let mut search = Search::new(self.plugin.shared.settings.deadline);
        let mut output = F::Output::default();
        let mut failed_count = 0;
        // Parts still to do, the next one last. Each failed already, or is half of one that did.
        let mut parts = vec![(0..count, Some(whole))];
        while let Some((part, failure)) = parts.pop() {
            let failure = match failure {
                Some(failure) => failure,
                None => {
                    let started = Instant::now();
                    match self.call(form, work, &slice(work.frames, &ends, &part)) {
                        Ok(result) => {
                            output = form.join(output, result);
                            continue;
                        }
                        Err(NoOutput::Fatal(error)) => return Err(error),
                        Err(NoOutput::Failed(failure)) => {
                            if search.is_hopeless(started.elapsed()) {
                                return Err(self.broken(&failure));
                            }
                            failure
                        }
                    }
                }
            };
            if part.len() == 1 {
                failed_count += 1;
                if failed_count == count as u32 && failed_count >= ALL_FAILED_MIN {
                    return Err(self.broken(&failure));
                }
                output = form.join(output, form.failed(failure.0));
            } else {
                let middle = part.start + part.len() / 2;
                parts.push((middle..part.end, None));
                parts.push((part.start..middle, None));
            }
        }
        Ok(output)
    }

    /// One call on the instance there is, or on a fresh one. A failed instance is thrown away.
    fn call<F: Form>(&mut self, form: &F, work: &Work<'_>, frames: &Frames) -> Result<F::Output, NoOutput> {
        if self.instance.is_none() {
            self.renew().map_err(NoOutput::Fatal)?;
        }
        let Some(instance) = &mut self.instance else {
            return Err(NoOutput::Fatal(self.broken(&Failure("no instance".into()))));
        };
        let records = frames.bytes();
        let ratio = self.plugin.shared.settings.output_max_ratio;
        let batch = abi::Batch {
            first_seq: work.first_seq,
            received_nanos: work.received_nanos,
            count: frames.count(),
            records,
        };
        let output_max_bytes = records.len().saturating_mul(ratio).saturating_add(OUTPUT_EXTRA_BYTES);
        let result = form.call(instance, &Call { batch, output_max_bytes });
        let is_spent = result.is_err() || instance.is_worn();
        if is_spent {
            self.speech = self.instance.take().map(Instance::into_speech);
        }
        result.map_err(|failure| {
            let labels = [("stream", &*self.config.stream), ("plugin", &*self.plugin.name)];
            telemetry::PLUGIN_TRAPS.add(1, &labels);
            NoOutput::Failed(failure)
        })
    }

    fn renew(&mut self) -> Result<(), Error> {
        let speech = self.speech.take();
        let speech = speech.unwrap_or_else(|| Speech::new(self.config.stream.clone(), self.plugin.name.clone()));
        match Instance::start(&self.plugin, &self.config, speech) {
            Ok(instance) => {
                self.instance = Some(instance);
                Ok(())
            }
            Err((failure, speech)) => {
                self.speech = Some(speech);
                let (name, stream) = (self.plugin.name.to_string(), self.config.stream.clone());
                Err(Error::Init { name, stream, reason: failure.0 })
            }
        }
    }

    fn broken(&self, failure: &Failure) -> Error {
        let (name, stream) = (self.plugin.name.to_string(), self.config.stream.clone());
        Error::Broken { name, stream, reason: failure.0.clone() }
    }
}

/// What the search for poison records has cost so far.
struct Search {
    failures: u32,
    spent: Duration,
    spent_max: Duration,
}

impl Search {
    fn new(deadline: Duration) -> Search {
        Search { failures: 0, spent: Duration::ZERO, spent_max: deadline.saturating_mul(FAILURE_DEADLINES_MAX) }
    }

    /// Counts a failing call; true where enough has been tried.
    fn is_hopeless(&mut self, took: Duration) -> bool {
        self.failures += 1;
        self.spent += took;
        self.failures >= FAILURES_MAX || self.spent >= self.spent_max
    }
}

/// The frames of some of the records; `ends` holds where each record ends.
fn slice(frames: &Frames, ends: &[usize], part: &Range<usize>) -> Frames {
    let start = part.start.checked_sub(1).map_or(0, |before| ends[before]);
    // A part of checked frames is frames.
    Frames::check(frames.bytes().slice(start..ends[part.end - 1])).unwrap_or_default()
}
