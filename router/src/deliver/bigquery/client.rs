//! The Storage Write API, through the generated client on a channel of our own: the crate's own append path fixes the
//! address, TLS and `offset: None`, and lacks the routing header without which only the US multi-region answers.

use std::sync::Arc;
use std::time::Duration;

use gcp_bigquery_client::google::cloud::bigquery::storage::v1::append_rows_request::{ProtoData, Rows};
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::big_query_write_client::BigQueryWriteClient;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::{
    AppendRowsRequest, AppendRowsResponse, CreateWriteStreamRequest, FinalizeWriteStreamRequest, ProtoRows,
    ProtoSchema, WriteStream, write_stream,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use super::Settings;
use super::answer::{self, Fault};
use super::auth::Credentials;
use super::state::Append;
use crate::record::Fingerprint;
use crate::schema::bigquery::Table;

const GOOGLE_GRPC: &str = "https://bigquerystorage.googleapis.com";
const TRACE_ID: &str = "sluice";
/// A dead connection is noticed after two of these, long before an append's own deadline.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Requests between us and the connection; one is under way at a time.
const QUEUE_LEN: usize = 1;

pub(super) struct Client {
    grpc: BigQueryWriteClient<Channel>,
    credentials: Credentials,
    timeout: Duration,
}

/// A long-lived AppendRows call on one write stream with one writer schema.
pub(super) struct Connection {
    requests: mpsc::Sender<AppendRowsRequest>,
    answers: Streaming<AppendRowsResponse>,
    stream: String,
    schema: Fingerprint,
}

/// What an append needs besides its rows.
pub(super) struct Target<'a> {
    pub(super) stream: &'a str,
    pub(super) schema: Fingerprint,
    pub(super) table: &'a Arc<Table>,
}

/// Address of the API: plaintext for `http://`, TLS otherwise.
pub(super) fn endpoint(settings: &Settings) -> Result<Endpoint, String> {
    let url = settings.grpc_url.as_deref().unwrap_or(GOOGLE_GRPC);
    let told = |error: tonic::transport::Error| format!("read grpc url {url}: {error}");
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(told)?
        .connect_timeout(settings.timeout)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    match url.starts_with("http://") {
        true => Ok(endpoint),
        false => endpoint.tls_config(ClientTlsConfig::new().with_enabled_roots()).map_err(told),
    }
}

impl Client {
    /// Connects when it is first used.
    pub(super) fn new(settings: &Settings, credentials: Credentials) -> Result<Client, String> {
        let grpc = BigQueryWriteClient::new(endpoint(settings)?.connect_lazy());
        Ok(Client { grpc, credentials, timeout: settings.timeout })
    }

    /// Creates a committed write stream and returns its name.
    pub(super) async fn create_stream(&mut self, table: &str) -> Result<String, Fault> {
        let write_stream = Some(WriteStream { r#type: write_stream::Type::Committed as i32, ..WriteStream::default() });
        let request = CreateWriteStreamRequest { parent: table.to_owned(), write_stream };
        let request = self.request("parent", table, request).await?;
        let created = within(self.timeout, self.grpc.create_write_stream(request)).await?;
        Ok(created.into_inner().name)
    }

    /// Closes a write stream for good and returns the number of rows in it.
    pub(super) async fn finalize(&mut self, stream: &str) -> Result<i64, Fault> {
        let request = FinalizeWriteStreamRequest { name: stream.to_owned() };
        let request = self.request("name", stream, request).await?;
        let finalized = within(self.timeout, self.grpc.finalize_write_stream(request)).await?;
        Ok(finalized.into_inner().row_count)
    }

    /// Sends an append on `connection`, or on a new one where that is not its stream and schema, and waits for the
    /// answer. After an error the connection is gone, unless the error is about the rows alone.
    pub(super) async fn append(
        &mut self,
        connection: &mut Option<Connection>,
        target: Target<'_>,
        append: &Append,
        rows: Vec<Vec<u8>>,
    ) -> Result<(), Fault> {
        let open = connection.take().filter(|open| open.stream == target.stream && open.schema == target.schema);
        let mut request = request(append.offset, rows);
        let (open, answer) = match open {
            Some(mut open) => {
                if open.requests.send(request).await.is_err() {
                    return Err(Fault::Again("the connection was closed".into()));
                }
                let answer = within(self.timeout, open.answers.message()).await?;
                (open, answer)
            }
            None => {
                request.write_stream = target.stream.to_owned();
                request.trace_id = TRACE_ID.into();
                if let Some(Rows::ProtoRows(data)) = &mut request.rows {
                    data.writer_schema = Some(ProtoSchema { proto_descriptor: Some(target.table.writer.clone()) });
                }
                self.connect(target, request).await?
            }
        };
        let answer = answer.ok_or_else(|| Fault::Again("the server closed the connection".into()))?;
        let result = answer::read(answer, append.offset);
        if matches!(result, Ok(()) | Err(Fault::Rows(_))) {
            *connection = Some(open);
        }
        result
    }

    /// Opens a connection with its first request, and waits for that one's answer: the server says nothing before.
    async fn connect(
        &mut self,
        target: Target<'_>,
        first: AppendRowsRequest,
    ) -> Result<(Connection, Option<AppendRowsResponse>), Fault> {
        let (requests, queue) = mpsc::channel(QUEUE_LEN);
        let call = self.request("write_stream", target.stream, ReceiverStream::new(queue)).await?;
        requests.send(first).await.map_err(|_| Fault::Again("the connection was closed".into()))?;
        let opened = async {
            let mut answers = self.grpc.append_rows(call).await?.into_inner();
            let answer = answers.message().await?;
            Ok((answers, answer))
        };
        let (answers, answer) = within(self.timeout, opened).await?;
        let (stream, schema) = (target.stream.to_owned(), target.schema);
        Ok((Connection { requests, answers, stream, schema }, answer))
    }

    /// Adds what every call needs: who we are, and which region it goes to.
    async fn request<T>(&self, key: &str, value: &str, message: T) -> Result<tonic::Request<T>, Fault> {
        let mut request = tonic::Request::new(message);
        let routing = MetadataValue::try_from(format!("{key}={value}"))
            .map_err(|_| Fault::Waiting(format!("use name {value:?}: it cannot stand in a header")))?;
        request.metadata_mut().insert("x-goog-request-params", routing);
        if let Some(token) = self.credentials.token().await.map_err(Fault::Waiting)? {
            let bearer = MetadataValue::try_from(format!("Bearer {token}"))
                .map_err(|_| Fault::Waiting("use access token: it cannot stand in a header".into()))?;
            request.metadata_mut().insert("authorization", bearer);
        }
        Ok(request)
    }
}

fn request(offset: i64, rows: Vec<Vec<u8>>) -> AppendRowsRequest {
    let rows = Some(ProtoRows { serialized_rows: rows });
    AppendRowsRequest {
        offset: Some(offset),
        rows: Some(Rows::ProtoRows(ProtoData { writer_schema: None, rows })),
        ..AppendRowsRequest::default()
    }
}

async fn within<T>(timeout: Duration, call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, Fault> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(status)) => Err(answer::from_status(&status)),
        Err(_) => Err(Fault::Again(format!("no answer within {timeout:?}"))),
    }
}
