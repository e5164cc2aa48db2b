//! The gRPC service by hand: the published crate has the client alone.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1 as api;
use prost::Message as _;
use prost_reflect::MessageDescriptor;
use tonic::{Request, Response, Status, Streaming};

use super::Store;

const SERVICE: &str = "google.cloud.bigquery.storage.v1.BigQueryWrite";

#[derive(Clone)]
pub(super) struct Service {
    pub(super) store: Arc<Mutex<Store>>,
}

impl tonic::server::NamedService for Service {
    const NAME: &'static str = SERVICE;
}

/// A function as tonic's idea of a service.
struct Call<F>(F);

impl<F, Fut, M, R> tower_service::Service<Request<M>> for Call<F>
where
    F: FnMut(Request<M>) -> Fut,
    Fut: Future<Output = Result<Response<R>, Status>>,
{
    type Response = Response<R>;
    type Error = Status;
    type Future = Fut;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<M>) -> Fut {
        (self.0)(request)
    }
}

impl tower_service::Service<http::Request<tonic::body::Body>> for Service {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let store = self.store.clone();
        Box::pin(async move {
            let method = request.uri().path().rsplit('/').next().unwrap_or("").to_owned();
            Ok(match method.as_str() {
                "CreateWriteStream" => {
                    let call = Call(move |request| std::future::ready(store.lock().unwrap().create(request)));
                    tonic::server::Grpc::new(tonic_prost::ProstCodec::default()).unary(call, request).await
                }
                "GetWriteStream" => {
                    let call = Call(move |request| std::future::ready(store.lock().unwrap().get(request)));
                    tonic::server::Grpc::new(tonic_prost::ProstCodec::default()).unary(call, request).await
                }
                "FinalizeWriteStream" => {
                    let call = Call(move |request| std::future::ready(store.lock().unwrap().finalize(request)));
                    tonic::server::Grpc::new(tonic_prost::ProstCodec::default()).unary(call, request).await
                }
                "AppendRows" => {
                    let call = Call(move |request| std::future::ready(Connection::open(store.clone(), request)));
                    let grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
                    grpc.max_decoding_message_size(64 << 20).streaming(call, request).await
                }
                _ => Status::unimplemented(method).into_http(),
            })
        })
    }
}

type Answers = futures_util::stream::BoxStream<'static, Result<api::AppendRowsResponse, Status>>;

/// One AppendRows call.
struct Connection {
    store: Arc<Mutex<Store>>,
    requests: Streaming<api::AppendRowsRequest>,
    routing: String,
    stream: String,
    row: Option<MessageDescriptor>,
    is_over: bool,
}

/// What an append is answered.
pub(super) enum Reply {
    Answer(api::AppendRowsResponse),
    End(Status),
    Never,
}

impl Connection {
    fn open(
        store: Arc<Mutex<Store>>,
        request: Request<Streaming<api::AppendRowsRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let routing = routing(&request);
        store.lock().unwrap().connections += 1;
        let requests = request.into_inner();
        let connection = Connection { store, requests, routing, stream: String::new(), row: None, is_over: false };
        let answers = futures_util::stream::unfold(connection, |mut connection| async move {
            let answer = connection.next().await?;
            Some((answer, connection))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn next(&mut self) -> Option<Result<api::AppendRowsResponse, Status>> {
        if self.is_over {
            return None;
        }
        let request = self.requests.message().await.ok()??;
        let latency = self.store.lock().unwrap().faults.latency;
        tokio::time::sleep(latency / 2).await;
        let reply = self.append(request);
        tokio::time::sleep(latency / 2).await;
        match reply {
            Reply::Answer(answer) => Some(Ok(answer)),
            Reply::End(status) => {
                self.is_over = true;
                Some(Err(status))
            }
            Reply::Never => std::future::pending().await,
        }
    }

    fn append(&mut self, request: api::AppendRowsRequest) -> Reply {
        let store = self.store.clone();
        let mut store = store.lock().unwrap();
        if let Some(code) = store.faults.code {
            return Reply::End(Status::new(code, "as the test says"));
        }
        let len = request.encoded_len();
        let is_first = self.stream.is_empty();
        if is_first {
            self.stream.clone_from(&request.write_stream);
        }
        if self.routing != format!("write_stream={}", self.stream) {
            store.violations.push(format!("routing header {:?} for {}", self.routing, self.stream));
            return Reply::End(Status::not_found("no such region"));
        }
        let limit = if store.faults.max_request_bytes == 0 { 10 << 20 } else { store.faults.max_request_bytes };
        if len > limit {
            store.count("too_large");
            return Reply::End(Status::invalid_argument(format!("AppendRows request too large: {len} limit {limit}")));
        }
        let Some(api::append_rows_request::Rows::ProtoRows(data)) = request.rows else {
            return Reply::End(Status::invalid_argument("no rows"));
        };
        let rows = data.rows.unwrap_or_default().serialized_rows;
        if let Some(schema) = data.writer_schema {
            match store.writer_schema(&self.stream, schema) {
                Ok(row) => self.row = Some(row),
                Err(status) => return Reply::End(status),
            }
        }
        match (&self.row, request.offset) {
            (Some(row), Some(offset)) => store.append(&self.stream, offset, row, &rows),
            (_, offset) => {
                store.violations.push(format!("append at {offset:?} without schema or offset"));
                Reply::End(Status::invalid_argument("the first request needs a schema, each one an offset"))
            }
        }
    }
}

pub(super) fn routing<T>(request: &Request<T>) -> String {
    let value = request.metadata().get("x-goog-request-params").and_then(|value| value.to_str().ok());
    value.unwrap_or_default().replace("%2F", "/")
}
