//! The table a stream goes to: its name, and its creation where it does not exist.

use std::time::Duration;

use gcp_bigquery_client::client_builder::ClientBuilder;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::model::field_type::FieldType;
use gcp_bigquery_client::model::table::Table as RestTable;
use gcp_bigquery_client::model::table_field_schema::TableFieldSchema;
use gcp_bigquery_client::model::table_schema::TableSchema;
use gcp_bigquery_client::model::time_partitioning::TimePartitioning;

use super::Settings;
use super::answer::Fault;
use super::auth::Credentials;
use crate::schema::bigquery::{Column, Kind, Table};

/// Name of a table, in parts.
#[derive(Clone, Debug)]
pub(super) struct TableName {
    project: String,
    dataset: String,
    table: String,
}

impl TableName {
    /// A stream's name can have characters a table's cannot: they become underscores.
    pub(super) fn new(settings: &Settings, stream: &str) -> TableName {
        let allowed = |c: char| if c.is_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
        let table = settings.table.replace("{stream}", stream).chars().map(allowed).collect();
        TableName { project: settings.project.clone(), dataset: settings.dataset.clone(), table }
    }

    /// As the Storage Write API names it.
    pub(super) fn path(&self) -> String {
        format!("projects/{}/datasets/{}/tables/{}", self.project, self.dataset, self.table)
    }
}

/// The REST API.
pub(super) struct Tables {
    client: gcp_bigquery_client::Client,
    timeout: Duration,
}

impl Tables {
    pub(super) async fn new(settings: &Settings, credentials: Credentials) -> Result<Tables, String> {
        let mut builder = ClientBuilder::new();
        if let Some(url) = &settings.rest_url {
            builder.with_v2_base_url(url.trim_end_matches('/').to_owned());
        }
        let client = builder.build_from_authenticator(std::sync::Arc::new(credentials)).await;
        let client = client.map_err(|error| format!("prepare table requests: {error}"))?;
        Ok(Tables { client, timeout: settings.timeout })
    }

    /// Makes sure that the table exists; one that does is left as it is.
    pub(super) async fn ensure(&self, name: &TableName, table: &Table) -> Result<(), Fault> {
        let api = self.client.table();
        match self.within(api.get(&name.project, &name.dataset, &name.table, None)).await? {
            Ok(_) => return Ok(()),
            // A table of columns the client does not know (RANGE) exists all the same; if that was an unreadable error
            // instead, creating the write stream says so.
            Err(BQError::RequestError(error)) if error.is_decode() => return Ok(()),
            Err(error) if code(&error) == Some(404) => {}
            Err(error) => return Err(fault("get table", name, &error)),
        }
        let fields = table.columns.iter().map(field).collect();
        let mut wanted = RestTable::new(&name.project, &name.dataset, &name.table, TableSchema::new(fields));
        let by_day = TimePartitioning { field: Some("_received_at".into()), ..TimePartitioning::per_day() };
        wanted.time_partitioning = Some(by_day);
        match self.within(api.create(wanted)).await? {
            Ok(_) => {
                tracing::info!(table = name.path(), "table created");
                Ok(())
            }
            // Somebody else was faster.
            Err(error) if code(&error) == Some(409) => Ok(()),
            Err(error) => Err(fault("create table", name, &error)),
        }
    }

    async fn within<T>(&self, call: impl Future<Output = T>) -> Result<T, Fault> {
        let late = |_| Fault::Again(format!("no answer to a table request within {:?}", self.timeout));
        tokio::time::timeout(self.timeout, call).await.map_err(late)
    }
}

fn code(error: &BQError) -> Option<i64> {
    match error {
        BQError::ResponseError { error } => Some(error.error.code),
        _ => None,
    }
}

fn fault(operation: &str, name: &TableName, error: &BQError) -> Fault {
    let text = format!("{operation} {}: {error}", name.path());
    match (code(error), error) {
        // 404 on creation: no such dataset. It is not created here, since it would be in the wrong region.
        (Some(400..=407), _) | (_, BQError::NoToken) => Fault::Waiting(text),
        _ => Fault::Again(text),
    }
}

fn field(column: &Column) -> TableFieldSchema {
    let (kind, fields) = match &column.kind {
        Kind::Boolean => (FieldType::Boolean, None),
        Kind::Bytes => (FieldType::Bytes, None),
        Kind::Float => (FieldType::Float, None),
        Kind::Integer => (FieldType::Integer, None),
        Kind::Json => (FieldType::Json, None),
        Kind::Numeric => (FieldType::Numeric, None),
        Kind::Record(columns) => (FieldType::Record, Some(columns.iter().map(field).collect())),
        Kind::String => (FieldType::String, None),
        Kind::Timestamp => (FieldType::Timestamp, None),
    };
    let mut field = TableFieldSchema::new(&column.name, kind);
    field.mode = Some(if column.is_repeated { "REPEATED" } else { "NULLABLE" }.into());
    field.fields = fields;
    field
}
