//! Credentials, for REST and gRPC alike. Tokens are cached until they are about to expire (by yup-oauth2, which the
//! BigQuery client brings along); the client's own metadata-server support would ask that server for every call.

use std::path::Path;

use gcp_bigquery_client::auth::Authenticator;
use gcp_bigquery_client::error::BQError;
use gcp_bigquery_client::yup_oauth2::authenticator::{ApplicationDefaultCredentialsTypes, DefaultAuthenticator};
use gcp_bigquery_client::yup_oauth2::{
    self, ApplicationDefaultCredentialsAuthenticator, ApplicationDefaultCredentialsFlowOpts,
    AuthorizedUserAuthenticator, ServiceAccountAuthenticator,
};

use super::Auth;

const SCOPES: [&str; 1] = ["https://www.googleapis.com/auth/bigquery"];

#[derive(Clone)]
pub(super) struct Credentials {
    /// Absent: none are needed.
    source: Option<DefaultAuthenticator>,
}

impl Credentials {
    pub(super) async fn load(auth: &Auth) -> Result<Credentials, String> {
        let source = match auth {
            Auth::None => None,
            Auth::ServiceAccountKey { path } => Some(from_file(path).await?),
            Auth::Metadata => Some(from_metadata().await?),
            Auth::Default => {
                let options = ApplicationDefaultCredentialsFlowOpts::default();
                let found = match ApplicationDefaultCredentialsAuthenticator::builder(options).await {
                    ApplicationDefaultCredentialsTypes::InstanceMetadata(builder) => builder.build().await,
                    ApplicationDefaultCredentialsTypes::ServiceAccount(builder) => builder.build().await,
                };
                Some(found.map_err(|error| format!("find application default credentials: {error}"))?)
            }
        };
        Ok(Credentials { source })
    }

    /// A bearer token; `None` where none is needed.
    pub(super) async fn token(&self) -> Result<Option<String>, String> {
        let Some(source) = &self.source else { return Ok(None) };
        let token = source.token(&SCOPES).await.map_err(|error| format!("get access token: {error}"))?;
        match token.token() {
            Some(token) => Ok(Some(token.to_owned())),
            None => Err("get access token: the answer has none".into()),
        }
    }
}

#[tonic::async_trait]
impl Authenticator for Credentials {
    /// The client sends a bearer header always, so an emulator gets a word that is no token.
    async fn access_token(&self) -> Result<String, BQError> {
        match self.token().await {
            Ok(token) => Ok(token.unwrap_or_else(|| "none".into())),
            Err(error) => {
                tracing::debug!(error, "no token for a table request");
                Err(BQError::NoToken)
            }
        }
    }
}

/// A service account's key, or what `gcloud auth application-default login` wrote for a person.
async fn from_file(path: &Path) -> Result<DefaultAuthenticator, String> {
    let told = |error: &dyn std::fmt::Display| format!("read credentials {}: {error}", path.display());
    let text = tokio::fs::read(path).await.map_err(|error| told(&error))?;
    let json: serde_json::Value = serde_json::from_slice(&text).map_err(|error| told(&error))?;
    let built = match json.get("type").and_then(serde_json::Value::as_str) {
        Some("authorized_user") => {
            let secret = serde_json::from_value(json).map_err(|error| told(&error))?;
            AuthorizedUserAuthenticator::builder(secret).build().await
        }
        _ => {
            let key: yup_oauth2::ServiceAccountKey = serde_json::from_value(json).map_err(|error| told(&error))?;
            ServiceAccountAuthenticator::builder(key).build().await
        }
    };
    built.map_err(|error| told(&error))
}

/// The metadata server. The library takes a key file instead where the environment names one, which would not be what
/// the settings say.
async fn from_metadata() -> Result<DefaultAuthenticator, String> {
    let options = ApplicationDefaultCredentialsFlowOpts::default();
    match ApplicationDefaultCredentialsAuthenticator::builder(options).await {
        ApplicationDefaultCredentialsTypes::InstanceMetadata(builder) => {
            builder.build().await.map_err(|error| format!("prepare metadata credentials: {error}"))
        }
        ApplicationDefaultCredentialsTypes::ServiceAccount(_) => {
            Err("use the metadata server: GOOGLE_APPLICATION_CREDENTIALS names a key file instead".into())
        }
    }
}
