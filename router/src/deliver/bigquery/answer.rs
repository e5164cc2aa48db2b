//! What an answer of the Storage Write API means.

use gcp_bigquery_client::google::cloud::bigquery::storage::v1::append_rows_response::Response;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::storage_error::StorageErrorCode;
use gcp_bigquery_client::google::cloud::bigquery::storage::v1::{AppendRowsResponse, StorageError};
use gcp_bigquery_client::google::rpc;
use prost::Message as _;
use tonic::Code;

/// Why an append, or what it needs, did not succeed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The offset is taken.
    Exists(String),
    /// The offset is behind the end of the write stream.
    OutOfRange(String),
    /// These rows of the request, by index, are refused; nothing of the request was taken.
    Rows(Vec<(usize, String)>),
    TooLarge(String),
    /// The request as a whole is refused.
    Refused(String),
    /// Taken at another offset than asked: the stream is not ours alone.
    Misplaced(String),
    /// The write stream takes nothing more.
    StreamLost(String),
    TableMissing(String),
    /// Heals when an operator acts, or the table's new column becomes known.
    Waiting(String),
    /// Passing, or nothing is known.
    Again(String),
}

/// Reads the answer to an append at `offset`.
pub(super) fn read(response: AppendRowsResponse, offset: i64) -> Result<(), Fault> {
    if !response.row_errors.is_empty() {
        let row = |error: gcp_bigquery_client::google::cloud::bigquery::storage::v1::RowError| {
            Some((usize::try_from(error.index).ok()?, format!("code {}: {}", error.code, error.message)))
        };
        return Err(Fault::Rows(response.row_errors.into_iter().filter_map(row).collect()));
    }
    match response.response {
        Some(Response::AppendResult(result)) => match result.offset {
            Some(found) if found != offset => {
                Err(Fault::Misplaced(format!("sent to offset {offset}, taken at offset {found}")))
            }
            _ => Ok(()),
        },
        Some(Response::Error(status)) => Err(from_rpc(status)),
        None => Err(Fault::Again("the answer says neither yes nor no".into())),
    }
}

/// Reads the status a call ended with.
pub(super) fn from_status(status: &tonic::Status) -> Fault {
    let details = rpc::Status::decode(status.details()).map(|status| status.details).unwrap_or_default();
    let message = match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    };
    from_rpc(rpc::Status { code: status.code() as i32, message, details })
}

fn from_rpc(status: rpc::Status) -> Fault {
    let detail = status.details.iter().find_map(|any| {
        let is_ours = any.type_url.ends_with("/google.cloud.bigquery.storage.v1.StorageError");
        StorageError::decode(&any.value[..]).ok().filter(|_| is_ours)
    });
    let code = Code::from_i32(status.code);
    let text = format!("{code:?}: {}", status.message);
    if let Some(fault) = detail.and_then(|detail| from_storage(detail, &text)) {
        return fault;
    }
    match code {
        Code::AlreadyExists => Fault::Exists(text),
        Code::OutOfRange => Fault::OutOfRange(text),
        Code::InvalidArgument if is_too_large(&status.message) => Fault::TooLarge(text),
        Code::InvalidArgument => Fault::Refused(text),
        Code::NotFound | Code::FailedPrecondition => Fault::StreamLost(text),
        Code::PermissionDenied | Code::Unimplemented => Fault::Waiting(text),
        // Unauthenticated: the connection is as old as its token; the next one has a new token.
        Code::Ok
        | Code::Unauthenticated
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => Fault::Again(text),
    }
}

fn from_storage(detail: StorageError, text: &str) -> Option<Fault> {
    let text = match detail.error_message.is_empty() {
        true => text.to_owned(),
        false => format!("{text} ({})", detail.error_message),
    };
    match StorageErrorCode::try_from(detail.code).unwrap_or(StorageErrorCode::Unspecified) {
        StorageErrorCode::Unspecified => None,
        StorageErrorCode::TableNotFound => Some(Fault::TableMissing(text)),
        StorageErrorCode::StreamAlreadyCommitted
        | StorageErrorCode::StreamNotFound
        | StorageErrorCode::InvalidStreamType
        | StorageErrorCode::InvalidStreamState
        | StorageErrorCode::StreamFinalized => Some(Fault::StreamLost(text)),
        StorageErrorCode::OffsetAlreadyExists => Some(Fault::Exists(text)),
        StorageErrorCode::OffsetOutOfRange => Some(Fault::OutOfRange(text)),
        StorageErrorCode::KmsServiceError => Some(Fault::Again(text)),
        StorageErrorCode::SchemaMismatchExtraFields
        | StorageErrorCode::CmekNotProvided
        | StorageErrorCode::InvalidCmekProvided
        | StorageErrorCode::CmekEncryptionError
        | StorageErrorCode::KmsPermissionDenied => Some(Fault::Waiting(text)),
    }
}

/// The API has no code for it.
fn is_too_large(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("too large") || message.contains("exceeds the maximum")
}

/// The offset the server says it would take, where its words have it: `expected offset N, received M`.
pub(super) fn expected_offset(message: &str) -> Option<i64> {
    let after = message.split("expected offset ").nth(1)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, message: &str, detail: Option<StorageErrorCode>) -> Fault {
        let any = detail.map(|code| prost_types::Any {
            type_url: "type.googleapis.com/google.cloud.bigquery.storage.v1.StorageError".into(),
            value: StorageError { code: code as i32, ..StorageError::default() }.encode_to_vec(),
        });
        let details = rpc::Status { details: any.into_iter().collect(), ..rpc::Status::default() }.encode_to_vec();
        from_status(&tonic::Status::with_details(code, message, details.into()))
    }

    #[test]
    fn codes_and_details_decide() {
        assert!(matches!(status(Code::AlreadyExists, "", None), Fault::Exists(_)));
        assert!(matches!(status(Code::OutOfRange, "", None), Fault::OutOfRange(_)));
        assert!(matches!(status(Code::Aborted, "inactive for 600 seconds", None), Fault::Again(_)));
        assert!(matches!(status(Code::InvalidArgument, "AppendRows request too large", None), Fault::TooLarge(_)));
        assert!(matches!(status(Code::InvalidArgument, "bad", None), Fault::Refused(_)));
        let extra = Some(StorageErrorCode::SchemaMismatchExtraFields);
        assert!(matches!(status(Code::InvalidArgument, "extra", extra), Fault::Waiting(_)));
        let missing = Some(StorageErrorCode::TableNotFound);
        assert!(matches!(status(Code::NotFound, "t", missing), Fault::TableMissing(_)));
        assert!(matches!(status(Code::NotFound, "s", None), Fault::StreamLost(_)));
        let finalized = Some(StorageErrorCode::StreamFinalized);
        assert!(matches!(status(Code::InvalidArgument, "f", finalized), Fault::StreamLost(_)));
    }

    #[test]
    fn the_expected_offset_is_read_from_the_words() {
        let check = |text, expected| assert_eq!(expected_offset(text), expected);
        check("The offset is within stream, expected offset 10, received 8", Some(10));
        check("The offset is within stream", None);
    }
}
