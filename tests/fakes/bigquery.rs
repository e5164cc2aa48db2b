//! BigQuery as far as the router uses it: the Storage Write API for committed streams over gRPC, and tables over REST.
//!
//! Refused, as the documentation says the real one does: a call without its routing header, an append without offset,
//! at a wrong offset, over the size limit, with a descriptor that is not self-contained or names a column the table
//! lacks, rows that do not decode with that descriptor. An append is taken as a whole or not at all. A row whose JSON
//! holds `poison` gets a row error; one that holds `cursed` makes the whole request INVALID_ARGUMENT, without a list.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1 as api;
use gcp_bigquery_client::google::rpc;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use prost_types::field_descriptor_proto::{Label, Type};
use serde_json::{Value, json};
use sluice::tasks::Tasks;
use tokio::net::TcpListener;
use tonic::{Code, Request, Response, Status, Streaming};

use super::rng::Rng;

const SERVICE: &str = "google.cloud.bigquery.storage.v1.BigQueryWrite";

/// How often each fault strikes: one append in so many; 0 = never.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The call ends with UNAVAILABLE before the rows are taken.
    pub unavailable: u64,
    /// The rows are taken, then the call ends with UNAVAILABLE.
    pub lost_ack: u64,
    /// Answered ABORTED or RESOURCE_EXHAUSTED, nothing taken.
    pub aborted: u64,
    /// The write stream is finalized by somebody, before or after the rows are taken.
    pub finalized: u64,
    /// Answered never; in every second case the rows are taken.
    pub silent: u64,
    /// Answered OUT_OF_RANGE although the offset is right.
    pub out_of_range: u64,
    /// Of several row errors only the first is listed.
    pub is_partial_list: bool,
    /// Largest AppendRows request; 0 = 10 MiB.
    pub max_request_bytes: usize,
    /// Every call is answered with this until it is taken back.
    pub code: Option<Code>,
}

#[derive(Default)]
pub struct Store {
    /// Full name -> columns as REST says them.
    pub tables: BTreeMap<String, Value>,
    pub streams: BTreeMap<String, WriteStream>,
    /// table -> `_id` -> each copy of the row.
    pub rows: HashMap<String, HashMap<String, Vec<Value>>>,
    /// Answers by kind.
    pub answers: BTreeMap<&'static str, u64>,
    pub connections: u64,
    /// What no correct client does.
    pub violations: Vec<String>,
    pub faults: Faults,
    rng: Option<Rng>,
}

#[derive(Default)]
pub struct WriteStream {
    table: String,
    pub ids: Vec<String>,
    is_finalized: bool,
}

pub struct BigQuery {
    pub rest_url: String,
    pub grpc_url: String,
    store: Arc<Mutex<Store>>,
    tasks: Tasks,
}

impl BigQuery {
    /// Starts both servers; the dataset `d` of project `p` exists.
    pub async fn start() -> BigQuery {
        let rest = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = BigQuery {
            rest_url: format!("http://{}", rest.local_addr().unwrap()),
            grpc_url: format!("http://{}", grpc.local_addr().unwrap()),
            store: Arc::default(),
            tasks: Tasks::new(),
        };
        fake.serve_rest(rest);
        let service = Service { store: fake.store.clone() };
        let stop = fake.tasks.stop().clone();
        fake.tasks.spawn("bigquery grpc", async move {
            let incoming = tonic::transport::server::TcpIncoming::from(grpc);
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await.unwrap();
        });
        fake
    }

    pub fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    pub fn set_faults(&self, faults: Faults, seed: u64) {
        let mut store = self.store();
        store.faults = faults;
        store.rng = Some(Rng::new(seed));
    }

    fn serve_rest(&self, listener: TcpListener) {
        let (store, tasks) = (self.store.clone(), self.tasks.clone());
        self.tasks.spawn("bigquery rest", async move {
            let stop = tasks.stop().clone();
            while let Some(Ok((socket, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (store, stop) = (store.clone(), stop.clone());
                tasks.spawn("bigquery rest connection", async move {
                    let service = service_fn(move |request| rest(store.clone(), request));
                    let io = TokioIo::new(socket);
                    let serving = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
                    let _ = stop.run_until_cancelled(serving).await;
                });
            }
        });
    }
}

impl Drop for BigQuery {
    fn drop(&mut self) {
        self.tasks.stop().cancel();
    }
}

async fn rest(
    store: Arc<Mutex<Store>>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().trim_start_matches('/').to_owned());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, answer) = store.lock().unwrap().rest(method.as_str(), &path, &body);
    let response = hyper::Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(answer.to_string()))).unwrap())
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let message = format!("{reason} (as the fake says)");
    (
        code,
        json!({ "error": { "code": code, "message": message, "errors": [{ "reason": reason, "message": message }] } }),
    )
}

#[derive(Clone)]
struct Service {
    store: Arc<Mutex<Store>>,
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
enum Reply {
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
        let reply = self.append(request);
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

fn routing<T>(request: &Request<T>) -> String {
    let value = request.metadata().get("x-goog-request-params").and_then(|value| value.to_str().ok());
    value.unwrap_or_default().replace("%2F", "/")
}

fn storage_error(code: Code, storage: api::storage_error::StorageErrorCode, message: &str) -> rpc::Status {
    let error = api::StorageError { code: storage as i32, entity: String::new(), error_message: message.into() };
    let type_url = "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".into();
    let details = vec![prost_types::Any { type_url, value: error.encode_to_vec() }];
    rpc::Status { code: code as i32, message: message.into(), details }
}

fn as_status(status: rpc::Status) -> Status {
    let code = Code::from_i32(status.code);
    Status::with_details(code, status.message.clone(), status.encode_to_vec().into())
}

impl Store {
    fn chance(&mut self, one_in: u64) -> bool {
        one_in > 0 && self.rng.get_or_insert_with(|| Rng::new(1)).is_one_in(one_in)
    }

    fn count(&mut self, kind: &'static str) {
        *self.answers.entry(kind).or_default() += 1;
    }

    fn rest(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
        if self.faults.code == Some(Code::PermissionDenied) {
            return refusal(403, "accessDenied");
        }
        let parts: Vec<&str> = path.split('/').collect();
        match (method, &parts[..]) {
            ("GET", ["projects", "p", "datasets", "d"]) => {
                (200, json!({ "datasetReference": { "projectId": "p", "datasetId": "d" } }))
            }
            ("GET", ["projects", project, "datasets", dataset, "tables", table]) => {
                let reference = json!({ "projectId": project, "datasetId": dataset, "tableId": table });
                match self.tables.get(path) {
                    Some(fields) => (200, json!({ "tableReference": reference, "schema": { "fields": fields } })),
                    None => refusal(404, "notFound"),
                }
            }
            ("POST", ["projects", "p", "datasets", "d", "tables"]) => self.create_table(body),
            ("POST", ["projects", _, "datasets", _, "tables"]) => refusal(404, "notFound"),
            _ => refusal(400, "badRequest"),
        }
    }

    fn create_table(&mut self, body: &[u8]) -> (u16, Value) {
        let Ok(mut table) = serde_json::from_slice::<Value>(body) else { return refusal(400, "parseError") };
        let id = table["tableReference"]["tableId"].as_str().unwrap_or_default().to_owned();
        let name = format!("projects/p/datasets/d/tables/{id}");
        if let Err(reason) = check_columns(table["schema"]["fields"].as_array().map_or(&[], Vec::as_slice)) {
            self.violations.push(reason.clone());
            return refusal(400, &reason);
        }
        if self.tables.contains_key(&name) {
            return refusal(409, "duplicate");
        }
        self.tables.insert(name, table["schema"]["fields"].take());
        (200, json!({ "tableReference": { "projectId": "p", "datasetId": "d", "tableId": id }, "schema": {} }))
    }

    fn check_call<T>(&mut self, request: &Request<T>, expected: &str) -> Result<(), Status> {
        if let Some(code) = self.faults.code {
            return Err(Status::new(code, "as the test says"));
        }
        let routing = routing(request);
        if routing != expected {
            self.violations.push(format!("routing header {routing:?}, expected {expected:?}"));
            return Err(Status::not_found("no such region"));
        }
        Ok(())
    }

    fn create(
        &mut self,
        request: Request<api::CreateWriteStreamRequest>,
    ) -> Result<Response<api::WriteStream>, Status> {
        let table = request.get_ref().parent.clone();
        self.check_call(&request, &format!("parent={table}"))?;
        let wanted = request.into_inner().write_stream.unwrap_or_default();
        if wanted.r#type != api::write_stream::Type::Committed as i32 {
            return Err(Status::invalid_argument("only committed streams are here"));
        }
        if !self.tables.contains_key(&table) {
            let code = api::storage_error::StorageErrorCode::TableNotFound;
            return Err(as_status(storage_error(Code::NotFound, code, "table not found")));
        }
        let name = format!("{table}/streams/{}", self.streams.len() + 1);
        self.streams.insert(name.clone(), WriteStream { table, ..WriteStream::default() });
        Ok(Response::new(api::WriteStream { name, ..wanted }))
    }

    fn get(&mut self, request: Request<api::GetWriteStreamRequest>) -> Result<Response<api::WriteStream>, Status> {
        let name = request.get_ref().name.clone();
        self.check_call(&request, &format!("name={name}"))?;
        match self.streams.contains_key(&name) {
            true => Ok(Response::new(api::WriteStream { name, ..api::WriteStream::default() })),
            false => Err(lost(api::storage_error::StorageErrorCode::StreamNotFound)),
        }
    }

    fn finalize(
        &mut self,
        request: Request<api::FinalizeWriteStreamRequest>,
    ) -> Result<Response<api::FinalizeWriteStreamResponse>, Status> {
        let name = request.get_ref().name.clone();
        self.check_call(&request, &format!("name={name}"))?;
        let Some(stream) = self.streams.get_mut(&name) else {
            return Err(lost(api::storage_error::StorageErrorCode::StreamNotFound));
        };
        stream.is_finalized = true;
        Ok(Response::new(api::FinalizeWriteStreamResponse { row_count: stream.ids.len() as i64 }))
    }

    fn writer_schema(&mut self, stream: &str, schema: api::ProtoSchema) -> Result<MessageDescriptor, Status> {
        let descriptor = schema.proto_descriptor.ok_or_else(|| Status::invalid_argument("no descriptor"))?;
        let name = descriptor.name().to_owned();
        let columns = match self.streams.get(stream).and_then(|stream| self.tables.get(&stream.table)) {
            Some(columns) => columns.as_array().cloned().unwrap_or_default(),
            None => return Err(lost(api::storage_error::StorageErrorCode::StreamNotFound)),
        };
        let file = prost_types::FileDescriptorProto {
            name: Some("writer.proto".into()),
            message_type: vec![descriptor],
            ..prost_types::FileDescriptorProto::default()
        };
        let pool = DescriptorPool::from_file_descriptor_set(prost_types::FileDescriptorSet { file: vec![file] })
            .map_err(|error| Status::invalid_argument(format!("descriptor is not self-contained: {error}")))?;
        let row = pool.get_message_by_name(&name).ok_or_else(|| Status::invalid_argument("no root message"))?;
        check_writer(&row, &columns).map_err(|reason| {
            let code = api::storage_error::StorageErrorCode::SchemaMismatchExtraFields;
            as_status(storage_error(Code::InvalidArgument, code, &reason))
        })?;
        Ok(row)
    }

    fn append(&mut self, name: &str, offset: i64, row: &MessageDescriptor, rows: &[Vec<u8>]) -> Reply {
        let faults = self.faults.clone();
        if self.chance(faults.unavailable) {
            self.count("unavailable");
            return Reply::End(Status::unavailable("connection is draining"));
        }
        if self.chance(faults.aborted) {
            self.count("aborted");
            let code = [Code::Aborted, Code::ResourceExhausted][offset as usize % 2];
            return Reply::Answer(error(rpc::Status { code: code as i32, message: "later".into(), details: vec![] }));
        }
        if self.chance(faults.out_of_range) {
            self.count("out_of_range");
            let code = api::storage_error::StorageErrorCode::OffsetOutOfRange;
            return Reply::Answer(error(storage_error(Code::OutOfRange, code, "for a moment")));
        }
        let is_finalized_early = self.chance(faults.finalized * 2);
        if let Some(stream) = self.streams.get_mut(name).filter(|_| is_finalized_early) {
            stream.is_finalized = true;
        }
        let is_silent = self.chance(faults.silent);
        if is_silent && offset % 2 == 0 {
            return Reply::Never;
        }
        let answer = match self.take(name, offset, row, rows) {
            Ok(()) => api::AppendRowsResponse {
                response: Some(api::append_rows_response::Response::AppendResult(
                    api::append_rows_response::AppendResult { offset: Some(offset) },
                )),
                write_stream: name.into(),
                ..api::AppendRowsResponse::default()
            },
            Err(answer) => *answer,
        };
        if self.chance(faults.lost_ack) {
            self.count("lost_ack");
            return Reply::End(Status::unavailable("gone after the fact"));
        }
        if self.chance(faults.finalized * 2)
            && let Some(stream) = self.streams.get_mut(name)
        {
            stream.is_finalized = true;
            return Reply::End(Status::unavailable("gone with the stream"));
        }
        if is_silent {
            return Reply::Never;
        }
        Reply::Answer(answer)
    }

    /// Stores the rows, or says why none of them.
    fn take(
        &mut self,
        name: &str,
        offset: i64,
        row: &MessageDescriptor,
        rows: &[Vec<u8>],
    ) -> Result<(), Box<api::AppendRowsResponse>> {
        use api::storage_error::StorageErrorCode as Storage;
        let refuse = |code, storage, message: &str| Err(Box::new(error(storage_error(code, storage, message))));
        let Some(stream) = self.streams.get(name) else {
            return refuse(Code::NotFound, Storage::StreamNotFound, "no such stream");
        };
        let end = stream.ids.len() as i64;
        if stream.is_finalized {
            self.count("finalized");
            return refuse(Code::FailedPrecondition, Storage::StreamFinalized, "stream is finalized");
        }
        if offset < end {
            self.count("already_exists");
            let message = format!("The offset is within stream, expected offset {end}, received {offset}");
            return refuse(Code::AlreadyExists, Storage::OffsetAlreadyExists, &message);
        }
        if offset > end {
            self.violations.push(format!("offset {offset} behind the end {end}"));
            let message = format!("The offset is beyond stream, expected offset {end}, received {offset}");
            return refuse(Code::OutOfRange, Storage::OffsetOutOfRange, &message);
        }
        let decoded = self.decode(row, rows)?;
        self.count("taken");
        let table = self.streams[name].table.clone();
        for (id, value) in decoded {
            self.rows.entry(table.clone()).or_default().entry(id.clone()).or_default().push(value);
            if let Some(stream) = self.streams.get_mut(name) {
                stream.ids.push(id);
            }
        }
        Ok(())
    }

    fn decode(
        &mut self,
        row: &MessageDescriptor,
        rows: &[Vec<u8>],
    ) -> Result<Vec<(String, Value)>, Box<api::AppendRowsResponse>> {
        let (mut decoded, mut row_errors) = (Vec::new(), Vec::new());
        let mut is_cursed = false;
        for (index, bytes) in rows.iter().enumerate() {
            let value = decode_row(row, bytes);
            match value {
                Ok((_, value)) if value.to_string().contains("poison") => {
                    row_errors.push((index, "value out of range".to_owned()));
                }
                Ok((id, value)) => {
                    is_cursed |= value.to_string().contains("cursed");
                    decoded.push((id, value));
                }
                Err(reason) => {
                    self.violations.push(reason.clone());
                    row_errors.push((index, reason));
                }
            }
        }
        if !row_errors.is_empty() {
            self.count("row_errors");
            row_errors.truncate(if self.faults.is_partial_list { 1 } else { usize::MAX });
            let status =
                rpc::Status { code: Code::InvalidArgument as i32, message: "row errors".into(), details: vec![] };
            let list = row_errors.into_iter().map(|(index, message)| api::RowError {
                index: index as i64,
                code: api::row_error::RowErrorCode::FieldsError as i32,
                message,
            });
            return Err(Box::new(api::AppendRowsResponse { row_errors: list.collect(), ..error(status) }));
        }
        if is_cursed {
            self.count("refused");
            let status = rpc::Status { code: Code::InvalidArgument as i32, message: "cannot".into(), details: vec![] };
            return Err(Box::new(error(status)));
        }
        Ok(decoded)
    }
}

fn lost(code: api::storage_error::StorageErrorCode) -> Status {
    as_status(storage_error(Code::NotFound, code, "no such stream"))
}

fn error(status: rpc::Status) -> api::AppendRowsResponse {
    let response = Some(api::append_rows_response::Response::Error(status));
    api::AppendRowsResponse { response, ..api::AppendRowsResponse::default() }
}

fn decode_row(row: &MessageDescriptor, bytes: &[u8]) -> Result<(String, Value), String> {
    let message = DynamicMessage::decode(row.clone(), bytes).map_err(|error| error.to_string())?;
    if message.unknown_fields().count() > 0 {
        return Err("row has fields its descriptor does not".into());
    }
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(false);
    let value =
        message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| error.to_string())?;
    let id = value["_id"].as_str().ok_or("row has no _id")?.to_owned();
    Ok((id, value))
}

/// Whether a table can have these columns.
fn check_columns(columns: &[Value]) -> Result<(), String> {
    let mut names = std::collections::HashSet::new();
    if columns.is_empty() {
        return Err("a table or record needs columns".into());
    }
    for column in columns {
        let name = column["name"].as_str().unwrap_or_default();
        let is_plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() || !is_plain || !names.insert(name.to_ascii_lowercase()) {
            return Err(format!("column name {name:?}"));
        }
        if column["type"] == "RECORD" {
            check_columns(column["fields"].as_array().map_or(&[], Vec::as_slice))?;
        }
    }
    Ok(())
}

/// Whether every field of the writer's message has its column, of a type that takes it.
fn check_writer(message: &MessageDescriptor, columns: &[Value]) -> Result<(), String> {
    for field in message.fields() {
        let column = columns
            .iter()
            .find(|column| column["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(field.name())));
        let Some(column) = column else { return Err(format!("extra proto field {}", field.full_name())) };
        let proto = field.field_descriptor_proto();
        if proto.oneof_index.is_some() || proto.proto3_optional.is_some() {
            return Err(format!("field {} is in a oneof", field.full_name()));
        }
        let is_repeated = proto.label() == Label::Repeated;
        let takes: &[Type] = match column["type"].as_str().unwrap_or_default() {
            "BOOLEAN" => &[Type::Bool, Type::Int32, Type::Int64, Type::Uint32, Type::Uint64],
            "BYTES" => &[Type::Bytes, Type::String],
            "FLOAT" => &[Type::Double, Type::Float],
            "INTEGER" => &[Type::Int32, Type::Int64, Type::Uint32],
            "JSON" | "STRING" => &[Type::String],
            "NUMERIC" => &[Type::Int32, Type::Int64, Type::Uint32, Type::String],
            "TIMESTAMP" => &[Type::Int64],
            "RECORD" => &[Type::Message],
            other => return Err(format!("column type {other:?}")),
        };
        if is_repeated != (column["mode"] == "REPEATED") || !takes.contains(&proto.r#type()) {
            return Err(format!("field {} does not fit column {column}", field.full_name()));
        }
        if let prost_reflect::Kind::Message(inner) = field.kind() {
            check_writer(&inner, column["fields"].as_array().map_or(&[], Vec::as_slice))?;
        }
    }
    Ok(())
}

/// For tests that wait for something the fake sees.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::timeout(Duration::from_secs(30), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    deadline.await.unwrap_or_else(|_| panic!("waited for {what}"));
}
