//! Where the hub is, and the token that opens what is not for everybody. The hub's own crate knows
//! both.

use crate::HubError;
use hf_hub::api::sync::{Api, ApiBuilder, ApiRepo};
use hf_hub::{Repo, RepoType};
use std::fmt;
use ureq::http::Uri;

/// Where the hub is.
pub struct HubLocation {
    api: Api,
    endpoint: Uri,
    token: Option<String>,
}

/// Without the token.
impl fmt::Debug for HubLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.is_some())
            .finish()
    }
}

impl HubLocation {
    /// As the environment says: `HF_ENDPOINT`, `HF_TOKEN`, else the token that a login at the hub
    /// left below `HF_HOME`.
    ///
    /// # Errors
    /// [`HubError::Setting`].
    pub fn from_env() -> Result<HubLocation, HubError> {
        let of = |name| {
            std::env::var(name)
                .ok()
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
        };
        let token = of("HF_TOKEN").or_else(|| hf_hub::Cache::from_env().token());
        Self::new(of("HF_ENDPOINT"), token)
    }

    /// At an address (`None`: the public hub).
    ///
    /// # Errors
    /// [`HubError::Setting`].
    pub fn new(endpoint: Option<String>, token: Option<String>) -> Result<HubLocation, HubError> {
        let mut builder = ApiBuilder::new().with_token(None).with_progress(false);
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').into());
        }
        let wrong = |reason: String| HubError::Setting {
            what: "HF_ENDPOINT",
            value: endpoint.clone().unwrap_or_default(),
            reason,
        };
        let api = builder.build().map_err(|e| wrong(e.to_string()))?;
        let endpoint =
            api.model("x".into()).url("x").parse::<Uri>().map_err(|e| wrong(e.to_string()))?;
        match (endpoint.scheme_str(), endpoint.host()) {
            (Some("http" | "https"), Some(host)) if !host.is_empty() => {
                Ok(HubLocation { api, endpoint, token })
            }
            _ => Err(wrong("not an http or https address".into())),
        }
    }

    /// The hub's host, for messages.
    pub(crate) fn host(&self) -> &str {
        self.endpoint.host().unwrap_or_default()
    }

    /// What opens what is not for everybody.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Where the listing of a revision is, with sizes and checksums.
    pub(crate) fn listing(&self, repo: &str, revision: &str) -> String {
        format!("{}?blobs=true", self.revision(repo, revision).info_request().url())
    }

    /// Where a file is.
    pub(crate) fn file(&self, repo: &str, revision: &str, file: &str) -> String {
        self.revision(repo, revision).url(file)
    }

    fn revision(&self, repo: &str, revision: &str) -> ApiRepo {
        self.api.repo(Repo::with_revision(repo.into(), RepoType::Model, revision.into()))
    }
}
