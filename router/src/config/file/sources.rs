//! Keys below `sources`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::units::{Address, ByteSize, Period, count, kib, mib, millis, seconds};

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sources {
    /// Files that are followed as they grow, by name of the source.
    pub files: BTreeMap<String, FileSource>,
    /// Records over HTTP: POST /v1/streams/STREAM/records, for every stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// Blocks from edges over QUIC; central only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkSource>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSource {
    /// The stream its records join.
    pub stream: String,
    /// Patterns of the files to follow, as in /var/log/app/*.log; new files that match are found at the next poll.
    pub include: Vec<String>,
    /// Patterns of files to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// What a line is: json (an object of the stream's message) or line (any text, becomes sluice.v1.LogLine).
    #[serde(default = "json")]
    pub format: FileFormat,
    /// A longer line is refused: its beginning goes to dead letters.
    #[serde(default = "mib::<1>")]
    pub line_max: ByteSize,
    /// How often patterns and files are looked at again.
    #[serde(default = "millis::<250>")]
    pub poll: Period,
    /// Where to begin in files that are there when the source first starts: beginning or end.
    #[serde(default = "beginning")]
    pub start_at: StartAt,
    /// When gathered records become a block.
    #[serde(default)]
    pub gather: FileGather,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    Json,
    Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartAt {
    Beginning,
    End,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FileGather {
    /// Bytes of records in a block, uncompressed. Larger blocks compress better.
    pub block_max: ByteSize,
    /// Age of a block's first record.
    pub block_max_age: Period,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSource {
    /// Address and port, plain HTTP.
    pub listen: Address,
    /// A larger body is answered 413.
    #[serde(default = "mib::<16>")]
    pub body_max: ByteSize,
    /// Bodies handled at once, in bytes; beyond it requests are answered 429.
    #[serde(default = "mib::<64>")]
    pub in_flight_max: ByteSize,
    /// When gathered records become a block; requests wait that long for their answer.
    #[serde(default)]
    pub gather: HttpGather,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpGather {
    /// Bytes of records in a block, uncompressed. Larger blocks compress better.
    pub block_max: ByteSize,
    /// Age of a block's first record.
    pub block_max_age: Period,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkSource {
    /// UDP address and port.
    pub listen: Address,
    /// Certificates of the authority that signs edges' certificates, PEM.
    pub ca_certificate: PathBuf,
    /// This central's certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub private_key: PathBuf,
    /// Edges connected at once.
    #[serde(default = "count::<1000>")]
    pub connections_max: u64,
}

fn json() -> FileFormat {
    FileFormat::Json
}

fn beginning() -> StartAt {
    StartAt::Beginning
}

impl Default for FileGather {
    fn default() -> FileGather {
        FileGather { block_max: kib::<256>(), block_max_age: seconds::<1>() }
    }
}

impl Default for HttpGather {
    fn default() -> HttpGather {
        HttpGather { block_max: kib::<256>(), block_max_age: millis::<10>() }
    }
}
