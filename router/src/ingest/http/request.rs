//! One request, from its head to its answer.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request, Version};
use hyper::body::Body;
use tokio::sync::oneshot;

use super::answer::{Answer, Outcome, Problem};
use super::body::{self, Encoding, Share};
use super::records::{self, Layout};
use super::{Input, Service};
use crate::ingest::gather::{Entry, Waiter};
use crate::tasks;

impl Service {
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        match self.take(request).await {
            Ok(outcome) => Answer::Taken(outcome),
            Err(problem) => Answer::Problem(problem),
        }
    }

    async fn take<B>(&self, request: Request<B>) -> Result<Outcome, Problem>
    where
        B: Body<Data = Bytes>,
        B::Error: std::fmt::Display,
    {
        let (head, body) = request.into_parts();
        let input = self.input(head.uri.path())?;
        if head.method != Method::POST {
            return Err(Problem::Method);
        }
        let layout = Layout::of(&head.headers)?;
        let encoding = Encoding::of(&head.headers)?;
        let measured = head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
        if head.version < Version::HTTP_2 && !measured {
            return Err(Problem::Length);
        }
        self.ready()?;
        let max = self.body_max_bytes;
        let mut share = Share::new(&self.in_flight);
        let body = body::read(&head.headers, body, max, &mut share, &self.patience).await?;
        let received_nanos = self.clock.now_nanos();
        let origin = input.origin.clone();
        let (entry, outcome, share) = tasks::blocking(move || {
            let body = body::decompress(encoding, body, max, &mut share)?;
            let (entry, outcome) = records::take(layout, &body, &origin, received_nanos);
            Ok((entry, outcome, share))
        })
        .await?;
        if !entry.is_empty() {
            self.store(input, entry, share).await?;
        }
        Ok(outcome)
    }

    /// The stream that a path names.
    fn input(&self, path: &str) -> Result<&Input, Problem> {
        let name = path.strip_prefix("/v1/streams/").and_then(|rest| rest.strip_suffix("/records"));
        let name = name.filter(|name| !name.is_empty() && !name.contains('/')).ok_or(Problem::Path)?;
        self.inputs.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.inputs.keys().map(AsRef::as_ref).collect();
            Problem::Stream { name: name.into(), known: known.join(", ") }
        })
    }

    /// Refuses early what would be refused, or wait without end, later.
    fn ready(&self) -> Result<(), Problem> {
        if self.stop.is_cancelled() {
            return Err(Problem::Stopping);
        }
        if self.journal.failure().borrow().is_some() {
            return Err(Problem::Failed);
        }
        if self.journal.is_full() {
            return Err(Problem::Full);
        }
        Ok(())
    }

    /// Returns when the entry is durable. The entry keeps its share of memory even if nobody waits any more.
    async fn store(&self, input: &Input, mut entry: Entry, share: Share) -> Result<(), Problem> {
        let (durable, told) = oneshot::channel();
        entry.waiter = Some(Waiter { durable, held: share.into_held() });
        let stored = async {
            let room = input.feeder.room().await.map_err(|_ended| Problem::Failed)?;
            room.put(entry);
            told.await.map_err(|_dropped| Problem::Failed)
        };
        let late = |_| Problem::Late { seconds: self.patience.durable.as_secs() };
        tokio::time::timeout(self.patience.durable, stored).await.map_err(late)?
    }
}
