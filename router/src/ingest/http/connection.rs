//! One connection: HTTP/1.1 or HTTP/2, as its first bytes say.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Service;
use crate::tasks::Tasks;

/// Requests at a time on an HTTP/2 connection.
const REQUESTS_MAX: u32 = 64;
/// Headers of a request, all together.
const HEADERS_MAX_LEN: usize = 32 << 10;

/// Serves requests until the client hangs up, has been idle for too long, or the node stops and all are answered.
pub(super) async fn serve(socket: TcpStream, service: Arc<Service>, tasks: Tasks) {
    // Answers are small, and the client waits for them. Where it cannot be set they are a little slower.
    let _slower = socket.set_nodelay(true);
    let idle = service.patience.idle;
    let mut builder = Builder::new(Spawn(tasks.clone()));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(service.patience.headers)
        .max_buf_size(HEADERS_MAX_LEN);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(REQUESTS_MAX)
        .max_header_list_size(HEADERS_MAX_LEN as u32);
    let activity = Arc::new(Activity::new());
    let answering = Arc::clone(&activity);
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        let busy = Busy::new(&answering);
        async move {
            let answer = service.answer(request).await;
            drop(busy);
            Ok::<_, Infallible>(answer.into_response())
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(socket), answer));
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "connection broke off");
                }
                return;
            }
            () = tasks.stop().cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            // Of its own accord hyper waits without end for a first byte, and for requests on HTTP/2.
            () = tokio::time::sleep_until(activity.checked_next(idle)) => {
                if activity.idle_since().is_some_and(|since| since.elapsed() >= idle) {
                    return;
                }
            }
        }
    }
}

/// When a connection last had a request.
struct Activity(Mutex<(usize, Instant)>);

impl Activity {
    fn new() -> Activity {
        Activity(Mutex::new((0, Instant::now())))
    }

    /// `None` while there is a request.
    fn idle_since(&self) -> Option<Instant> {
        let (requests, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (requests == 0).then_some(since)
    }

    /// When to look whether it has been idle for as long as `idle`.
    fn checked_next(&self, idle: std::time::Duration) -> Instant {
        self.idle_since().unwrap_or_else(Instant::now) + idle
    }
}

/// A request, while it is one.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Busy {
        let busy = Busy(Arc::clone(activity));
        busy.0.0.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        busy
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut activity = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        *activity = (activity.0 - 1, Instant::now());
    }
}

/// Starts the tasks of HTTP/2 as all others.
#[derive(Clone)]
struct Spawn(Tasks);

impl<F> hyper::rt::Executor<F> for Spawn
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn("http2", task);
    }
}
