//! Keeps the connection to a central: connect, greet, watch, connect again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quinn::SendStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::TaskTracker;

use super::{Agent, LinkSink, SchemaSource, Settings};
use crate::deliver::retry::Backoff;
use crate::link::frame::{self, Frame, FrameReader};
use crate::link::message::{Hello, fingerprint};
use crate::link::{CloseCode, Error, LANES_MAX, PROGRAM, PROTOCOL_MAJOR, PROTOCOL_MINOR, explain, tls};
use crate::record::Fingerprint;
use crate::tasks::{Stop, Tasks};
use crate::telemetry;

/// First wait after a lost connection or a round of centrals of which none answered.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(200);
/// A connection that lived this long counts as healthy: the next wait starts small again. One that dies sooner does
/// not, so that two edges that share a name do not take turns at full speed.
pub(super) const HEALTHY_AFTER: Duration = Duration::from_secs(10);
/// Addresses tried of one DNS name.
const ADDRESSES_MAX: usize = 8;
/// Fingerprints named in hello.
const FINGERPRINTS_MAX: usize = 1024;
/// At shutdown: for lanes to get the acks of what they sent.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(5);
/// At shutdown: for the close frame to leave.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// The node's link; clones share it.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) agent: Agent,
    pub(super) schemas: SchemaSource,
    session: watch::Sender<Option<Arc<Session>>>,
    /// Running lanes: the connection stays open for them at shutdown.
    pub(super) lanes: TaskTracker,
    /// Schemas that lanes have used, for hello.
    used: Mutex<BTreeSet<Fingerprint>>,
}

/// A greeted connection.
pub(super) struct Session {
    pub(super) connection: quinn::Connection,
    /// As written in the settings.
    pub(super) central: String,
    /// Of those named in hello.
    pub(super) known: BTreeSet<Fingerprint>,
    endpoint: quinn::Endpoint,
    /// Kept open: central takes its end for the end of the connection.
    _control: (SendStream, FrameReader),
}

impl Link {
    /// Reads the certificates and starts the task that keeps the connection.
    pub fn start(settings: Settings, agent: Agent, schemas: SchemaSource, tasks: &Tasks) -> Result<Link, Error> {
        if agent.streams.len() > LANES_MAX as usize {
            return Err(Error::Lanes { count: agent.streams.len(), max: LANES_MAX });
        }
        let config = tls::client(
            &tls::Files {
                ca_certificate: &settings.ca_certificate,
                certificate: &settings.certificate,
                private_key: &settings.private_key,
            },
            settings.keep_alive,
        )?;
        let shared = Arc::new(Shared {
            settings,
            agent,
            schemas,
            session: watch::Sender::new(None),
            lanes: TaskTracker::new(),
            used: Mutex::default(),
        });
        telemetry::LINK_CONNECTED.set(0.0, &[]);
        let connector = Connector { shared: Arc::clone(&shared), config, failing: BTreeMap::new() };
        tasks.spawn("link", connector.run(tasks.stop().clone()));
        Ok(Link { shared })
    }

    /// The sink of one stream. `name` is the sink's, for errors.
    pub fn sink(&self, name: Arc<str>) -> LinkSink {
        LinkSink::new(Arc::clone(&self.shared), name)
    }

    /// Whether there is a connection now.
    pub fn is_connected(&self) -> bool {
        self.shared.session.borrow().is_some()
    }
}

impl Shared {
    /// Waits for a living connection; `None` once the node stops.
    pub(super) async fn session(&self, stop: &Stop) -> Option<Arc<Session>> {
        let mut sessions = self.session.subscribe();
        let is_living = |session: &Option<Arc<Session>>| {
            session.as_ref().is_some_and(|session| session.connection.close_reason().is_none())
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            found = sessions.wait_for(is_living) => found.ok().and_then(|session| session.clone()),
        }
    }

    /// Remembers a schema for the next hello.
    pub(super) fn note_used(&self, fingerprint: Fingerprint) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() < FINGERPRINTS_MAX {
            used.insert(fingerprint);
        }
    }

    fn hello(&self) -> Hello {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        Hello {
            major: PROTOCOL_MAJOR,
            minor: PROTOCOL_MINOR,
            agent: self.agent.id.to_string(),
            epoch: self.agent.epoch,
            program: PROGRAM.to_owned(),
            lanes: self.agent.streams.iter().map(|stream| stream.to_string()).collect(),
            fingerprints: used.iter().map(|used| bytes::Bytes::copy_from_slice(&used.0)).collect(),
        }
    }
}

/// The task behind a [`Link`].
struct Connector {
    shared: Arc<Shared>,
    config: quinn::ClientConfig,
    /// Central -> the reason that was logged last, so that a central that is down for hours is one line, not thousands.
    failing: BTreeMap<String, String>,
}

impl Connector {
    async fn run(mut self, stop: Stop) {
        let mut backoff = Backoff::new(RETRY_FIRST, self.shared.settings.retry_max, self.shared.agent.epoch);
        loop {
            let connected = tokio::select! {
                connected = self.connect_any() => connected,
                () = stop.cancelled() => return,
            };
            if let Some(session) = connected {
                let since = Instant::now();
                self.keep(session, &stop).await;
                if since.elapsed() >= HEALTHY_AFTER {
                    backoff.reset();
                }
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay()) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Offers the session to the lanes until it ends or the node stops.
    async fn keep(&mut self, session: Session, stop: &Stop) {
        let central = session.central.clone();
        let remote = session.connection.remote_address();
        tracing::info!(central, %remote, "link connected");
        self.failing.clear();
        telemetry::LINK_CONNECTED.set(1.0, &[]);
        let session = Arc::new(session);
        self.shared.session.send_replace(Some(Arc::clone(&session)));
        tokio::select! {
            error = session.connection.closed() => {
                tracing::warn!(central, reason = explain(&error), "link lost");
            }
            () = stop.cancelled() => {
                self.shared.lanes.close();
                let _ = timeout(STOP_GRACE, self.shared.lanes.wait()).await;
                session.connection.close(CloseCode::Stopping.code(), b"the edge is stopping");
                let _ = timeout(CLOSE_GRACE, session.endpoint.wait_idle()).await;
            }
        }
        self.shared.session.send_replace(None);
        telemetry::LINK_CONNECTED.set(0.0, &[]);
    }

    /// The first central that answers, in the order of the settings.
    async fn connect_any(&mut self) -> Option<Session> {
        let shared = Arc::clone(&self.shared);
        for central in &shared.settings.centrals {
            match self.connect(central).await {
                Ok(session) => return Some(session),
                Err(reason) => {
                    if self.failing.get(central) != Some(&reason) {
                        tracing::warn!(central, reason, "link not connected: trying again");
                        self.failing.insert(central.clone(), reason);
                    }
                }
            }
        }
        None
    }

    /// Resolves the name anew each time, and tries its addresses in turn. The reason of the last is returned.
    async fn connect(&self, central: &str) -> Result<Session, String> {
        let within = self.shared.settings.connect_timeout;
        let resolved = timeout(within, tokio::net::lookup_host(central)).await;
        let addresses = resolved.map_err(|_| "resolve name: timed out".to_owned())?;
        let addresses = addresses.map_err(|error| format!("resolve name: {error}"))?;
        let mut reason = "resolve name: it has no address".to_owned();
        for address in addresses.take(ADDRESSES_MAX) {
            match timeout(within, self.greet(central, address)).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(error)) => reason = error.chain(),
                Err(_) => reason = "no answer: timed out".to_owned(),
            }
        }
        Err(reason)
    }

    async fn greet(&self, central: &str, address: SocketAddr) -> Result<Session, Error> {
        let local = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let endpoint = quinn::Endpoint::client(local).map_err(|source| Error::Bind { address: local, source })?;
        let connecting = endpoint.connect_with(self.config.clone(), address, server_name(central));
        let connecting = connecting.map_err(|error| Error::Lost { reason: error.to_string() })?;
        let connection = connecting.await?;
        let (mut send, recv) = connection.open_bi().await?;
        let mut reader = FrameReader::new(recv);
        frame::write(&mut send, &Frame::Hello(self.shared.hello())).await?;
        let welcome = match reader.next().await? {
            Some(Frame::Welcome(welcome)) => welcome,
            Some(other) => return Err(other.unexpected("welcome")),
            None => return Err(Error::Cut),
        };
        if !welcome.accepted || welcome.major != PROTOCOL_MAJOR {
            connection.close(CloseCode::Refused.code(), b"refused");
            let (major, minor) = (welcome.major, welcome.minor);
            let reason =
                format!("central ({}, link protocol {major}.{minor}) refused: {}", welcome.program, welcome.refusal);
            return Err(Error::Protocol { reason });
        }
        let known = welcome.known.iter().filter_map(|bytes| fingerprint(bytes)).collect();
        Ok(Session { connection, central: central.to_owned(), known, endpoint, _control: (send, reader) })
    }
}

/// Host part of `host:port`, without the brackets of an IPv6 address: what central's certificate must name.
fn server_name(central: &str) -> &str {
    let host = central.rsplit_once(':').map_or(central, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_the_host() {
        for (central, expected) in
            [("central.example:7400", "central.example"), ("[::1]:7400", "::1"), ("10.0.0.1:7400", "10.0.0.1")]
        {
            assert_eq!(server_name(central), expected);
        }
    }
}
