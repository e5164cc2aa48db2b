//! Keys below `sinks` and `link`: where records leave.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::units::{ByteSize, Period, Secret, count, mib, seconds};

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sink {
    /// Parquet files in a folder.
    Parquet(Parquet),
    /// Elasticsearch or OpenSearch.
    Elasticsearch(Elasticsearch),
    /// BigQuery, through the Storage Write API.
    Bigquery(Bigquery),
    /// JSON lines on standard output.
    Stdout(Stdout),
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Parquet {
    /// Files go to DIRECTORY/STREAM/date=YYYY-MM-DD/.
    pub directory: PathBuf,
    /// A file is finished when it holds about this many bytes of messages.
    #[serde(default = "mib::<64>")]
    pub file_max: ByteSize,
    /// A file is finished when it is this old.
    #[serde(default = "seconds::<300>")]
    pub file_max_age: Period,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Elasticsearch {
    /// Nodes, as in https://search.example:9200, tried in turn.
    pub urls: Vec<String>,
    /// Who the router is to the cluster.
    #[serde(default = "elasticsearch_auth")]
    pub auth: ElasticsearchAuth,
    /// Index, alias or data stream; {stream} stands for the stream's name.
    #[serde(default = "index")]
    pub index: String,
    /// Bytes of one _bulk request before compression.
    #[serde(default = "mib::<4>")]
    pub request_max: ByteSize,
    /// Whether requests are compressed.
    #[serde(default = "yes")]
    pub gzip: bool,
    /// Requests under way at once, per stream.
    #[serde(default = "count::<2>")]
    pub in_flight_max: u64,
    /// Longest wait for an answer; longer than the cluster's own 60 s, so that its answer is heard.
    #[serde(default = "seconds::<75>")]
    pub timeout: Period,
    /// Longest pause between two attempts.
    #[serde(default = "seconds::<30>")]
    pub retry_max: Period,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(extend("writeOnly" = true))]
pub enum ElasticsearchAuth {
    /// No credentials.
    None,
    /// User and password.
    Basic(Basic),
    /// An API key in its encoded form.
    ApiKey(Secret),
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// Name of the user.
    pub user: String,
    /// Write it as ${env:NAME} or ${file:PATH}.
    pub password: Secret,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bigquery {
    /// Google Cloud project of the dataset.
    pub project: String,
    /// Dataset; it must exist.
    pub dataset: String,
    /// Table; {stream} stands for the stream's name.
    #[serde(default = "table")]
    pub table: String,
    /// Who the router is to Google Cloud.
    #[serde(default = "bigquery_auth")]
    pub auth: BigqueryAuth,
    /// REST endpoint of an emulator. Default: Google's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_url: Option<String>,
    /// gRPC endpoint of an emulator; http:// means plaintext. Default: Google's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc_url: Option<String>,
    /// Bytes of rows in one append; the service takes 10 MB.
    #[serde(default = "mib::<9>")]
    pub request_max: ByteSize,
    /// Longest wait for an answer.
    #[serde(default = "seconds::<60>")]
    pub timeout: Period,
    /// Longest pause between two attempts.
    #[serde(default = "seconds::<30>")]
    pub retry_max: Period,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BigqueryAuth {
    /// Application default credentials.
    Default,
    /// The metadata server (workload identity).
    Metadata,
    /// No credentials: an emulator.
    None,
    /// A service account's key file, JSON.
    ServiceAccountKey(PathBuf),
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stdout {}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Centrals as host:port; the first that answers is taken.
    pub centrals: Vec<String>,
    /// Certificates of the authority that signs centrals' certificates, PEM.
    pub ca_certificate: PathBuf,
    /// This edge's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
    /// Bytes sent and not yet acknowledged, per stream.
    #[serde(default = "mib::<16>")]
    pub in_flight_max: ByteSize,
    /// Longest wait for a central to answer before the next is tried.
    #[serde(default = "seconds::<5>")]
    pub connect_timeout: Period,
    /// Pause between keep-alives; three missed ones end the connection.
    #[serde(default = "seconds::<5>")]
    pub keep_alive: Period,
    /// Longest pause between two attempts.
    #[serde(default = "seconds::<30>")]
    pub retry_max: Period,
}

fn yes() -> bool {
    true
}

fn index() -> String {
    "logs-{stream}".to_owned()
}

fn table() -> String {
    "{stream}".to_owned()
}

fn elasticsearch_auth() -> ElasticsearchAuth {
    ElasticsearchAuth::None
}

fn bigquery_auth() -> BigqueryAuth {
    BigqueryAuth::Default
}
