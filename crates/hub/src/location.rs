//! The hub's address and the access token, as the hub's own tools read them from the environment.
//! Makes the URLs of listings and files; connects to nothing.

use crate::HubError;
use std::fmt;
use std::path::{Path, PathBuf};
use ureq::http::Uri;

/// The public hub.
const PUBLIC_HUB: &str = "https://huggingface.co";

/// The hub's address and the access token.
///
/// ```
/// use pg_caption_hub::HubLocation;
///
/// let hub = HubLocation::new(Some("http://localhost:8080/".into()), None).unwrap();
/// assert_eq!(hub.host(), "localhost");
/// assert!(HubLocation::new(Some("ftp://localhost".into()), None).is_err());
/// ```
pub struct HubLocation {
    /// Without a final slash.
    endpoint: String,
    host: String,
    token: Option<String>,
}

/// Without the token.
impl fmt::Debug for HubLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubLocation")
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.is_some())
            .finish()
    }
}

impl HubLocation {
    /// As the environment says. Address: `HF_ENDPOINT`. Token: `HF_TOKEN`, else the file
    /// `HF_TOKEN_PATH`, else the file `token` in `HF_HOME` or `~/.cache/huggingface`, where a login
    /// at the hub leaves it.
    ///
    /// # Errors
    /// [`HubError::Setting`].
    pub fn from_env() -> Result<HubLocation, HubError> {
        Self::from_variables(|name| std::env::var(name).ok(), std::env::home_dir())
    }

    fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
        home: Option<PathBuf>,
    ) -> Result<HubLocation, HubError> {
        let variable = |name| variable(name).and_then(|value| not_empty(&value));
        let token = variable("HF_TOKEN").or_else(|| {
            let file = match (variable("HF_TOKEN_PATH"), variable("HF_HOME")) {
                (Some(file), _) => PathBuf::from(file),
                (None, Some(folder)) => Path::new(&folder).join("token"),
                (None, None) => home?.join(".cache/huggingface/token"),
            };
            not_empty(&std::fs::read_to_string(file).ok()?)
        });
        Self::new(variable("HF_ENDPOINT"), token)
    }

    /// At an address; `None` means the public hub.
    ///
    /// # Errors
    /// [`HubError::Setting`] if it is not an http or https address.
    pub fn new(endpoint: Option<String>, token: Option<String>) -> Result<HubLocation, HubError> {
        let endpoint = endpoint.unwrap_or_else(|| PUBLIC_HUB.into());
        let wrong = |reason: String| HubError::Setting {
            what: "HF_ENDPOINT",
            value: endpoint.clone(),
            reason,
        };
        let address = endpoint.trim_end_matches('/');
        let uri: Uri = format!("{address}/").parse().map_err(|e| wrong(format!("{e}")))?;
        match (uri.scheme_str(), uri.host()) {
            (Some("http" | "https"), Some(host)) if !host.is_empty() => {
                Ok(HubLocation { endpoint: address.into(), host: host.into(), token })
            }
            _ => Err(wrong("it is not an http or https address".into())),
        }
    }

    /// The hub's host, for messages.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The access token.
    pub(crate) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// URL of the listing of a revision, with sizes and checksums.
    pub(crate) fn listing(&self, repo: &str, revision: &str) -> String {
        let revision = escaped(revision);
        format!("{}/api/models/{repo}/revision/{revision}?blobs=true", self.endpoint)
    }

    /// URL of a file.
    pub(crate) fn file(&self, repo: &str, revision: &str, file: &str) -> String {
        format!("{}/{repo}/resolve/{}/{file}", self.endpoint, escaped(revision))
    }
}

/// The trimmed text, unless it is empty.
fn not_empty(text: &str) -> Option<String> {
    Some(text.trim()).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// A revision is one segment of the path, slashes included (`refs/pr/1`).
fn escaped(revision: &str) -> String {
    revision.replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(variables: &[(&str, &str)], home: &Path) -> HubLocation {
        let value = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
        };
        HubLocation::from_variables(value, Some(home.into())).unwrap()
    }

    #[test]
    fn urls_have_the_form_of_the_hub() {
        let hub = HubLocation::new(None, None).unwrap();
        assert_eq!(
            hub.file("owner/name", "main", "onnx/model.onnx"),
            "https://huggingface.co/owner/name/resolve/main/onnx/model.onnx"
        );
        let mirror = HubLocation::new(Some("http://127.0.0.1:8080/hub/".into()), None).unwrap();
        assert_eq!(
            mirror.listing("owner/name", "refs/pr/1"),
            "http://127.0.0.1:8080/hub/api/models/owner/name/revision/refs%2Fpr%2F1?blobs=true"
        );
        assert_eq!((hub.host(), mirror.host()), ("huggingface.co", "127.0.0.1"));
    }

    #[test]
    fn the_first_token_found_is_used() {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join(".cache/huggingface");
        std::fs::create_dir_all(&cache).unwrap();
        assert_eq!(located(&[], home.path()).token(), None);
        std::fs::write(cache.join("token"), "of_login\n").unwrap();
        std::fs::write(home.path().join("token"), "of_home").unwrap();
        std::fs::write(home.path().join("file"), " of_file ").unwrap();
        let folder = home.path().to_str().unwrap();
        let file = home.path().join("file");
        let file = file.to_str().unwrap();
        for (variables, token) in [
            (vec![], "of_login"),
            (vec![("HF_TOKEN", " ")], "of_login"),
            (vec![("HF_HOME", folder)], "of_home"),
            (vec![("HF_HOME", folder), ("HF_TOKEN_PATH", file)], "of_file"),
            (vec![("HF_TOKEN_PATH", file), ("HF_TOKEN", "given")], "given"),
        ] {
            assert_eq!(located(&variables, home.path()).token(), Some(token), "{variables:?}");
        }
        let missing = located(&[("HF_HOME", "/nowhere")], home.path());
        assert_eq!(missing.token(), None, "a login elsewhere does not count");
    }
}
