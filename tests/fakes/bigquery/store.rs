//! What each call does to the tables and streams.

use gcp_bigquery_client::google::cloud::bigquery::storage::v1 as api;
use gcp_bigquery_client::google::rpc;
use prost::Message as _;
use prost_reflect::{DescriptorPool, MessageDescriptor};
use serde_json::{Value, json};
use tonic::{Code, Request, Response, Status};

use super::columns::{check_columns, check_writer, decode_row};
use super::grpc::{Reply, routing};
use super::{Rng, Store, WriteStream, refusal};

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
    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        one_in > 0 && self.rng.get_or_insert_with(|| Rng::new(1)).is_one_in(one_in)
    }

    pub(super) fn count(&mut self, kind: &'static str) {
        *self.answers.entry(kind).or_default() += 1;
    }

    pub(super) fn rest(&mut self, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
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

    pub(super) fn create_table(&mut self, body: &[u8]) -> (u16, Value) {
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

    pub(super) fn check_call<T>(&mut self, request: &Request<T>, expected: &str) -> Result<(), Status> {
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

    pub(super) fn create(
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

    pub(super) fn get(
        &mut self,
        request: Request<api::GetWriteStreamRequest>,
    ) -> Result<Response<api::WriteStream>, Status> {
        let name = request.get_ref().name.clone();
        self.check_call(&request, &format!("name={name}"))?;
        match self.streams.contains_key(&name) {
            true => Ok(Response::new(api::WriteStream { name, ..api::WriteStream::default() })),
            false => Err(lost(api::storage_error::StorageErrorCode::StreamNotFound)),
        }
    }

    pub(super) fn finalize(
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

    pub(super) fn writer_schema(
        &mut self,
        stream: &str,
        schema: api::ProtoSchema,
    ) -> Result<MessageDescriptor, Status> {
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

    pub(super) fn append(&mut self, name: &str, offset: i64, row: &MessageDescriptor, rows: &[Vec<u8>]) -> Reply {
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
    pub(super) fn take(
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

    pub(super) fn decode(
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
