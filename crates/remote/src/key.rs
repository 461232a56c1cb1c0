//! The key of a model server: sent to one origin, shown nowhere.

use std::fmt;
use ureq::http::HeaderValue;
use url::{Origin, Url};

/// A key, bound to the origin of the server's address.
#[derive(Clone)]
pub struct ApiKey {
    text: String,
    header: HeaderValue,
    origin: Origin,
}

/// The content of a key file cannot be a key. The content is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key file must contain one line of visible ASCII characters")]
pub struct KeyError;

impl ApiKey {
    /// The key in the content of a file; white space around it is ignored.
    ///
    /// # Errors
    /// It is empty, or contains what a header cannot.
    pub fn new(content: &[u8], server: &Url) -> Result<ApiKey, KeyError> {
        let text = std::str::from_utf8(content).map_err(|_| KeyError)?.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KeyError);
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {text}")).map_err(|_| KeyError)?;
        header.set_sensitive(true);
        Ok(ApiKey { text: text.into(), header, origin: server.origin() })
    }

    /// The header for a request to `url`; `None` for another origin.
    pub(crate) fn header_for(&self, url: &Url) -> Option<HeaderValue> {
        (url.origin() == self.origin).then(|| self.header.clone())
    }

    /// A text of the server without the key, which it may have repeated.
    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.text, "[key]")
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_key_goes_to_its_origin_alone() {
        let key = ApiKey::new(b" sk-123\n", &url("https://a.example/v1")).unwrap();
        let sent = |to: &str| key.header_for(&url(to)).is_some();
        assert!(sent("https://a.example/v1/chat/completions"));
        for other in ["http://a.example/v1", "https://a.example:444/v1", "https://b.example/v1"] {
            assert!(!sent(other), "{other}");
        }
    }

    #[test]
    fn a_key_is_shown_nowhere() {
        let key = ApiKey::new(b"sk-123", &url("https://a.example")).unwrap();
        let header = key.header_for(&url("https://a.example")).unwrap();
        assert!(!format!("{key:?} {header:?}").contains("123"));
        assert_eq!(key.redact("no such key: sk-123!"), "no such key: [key]!");
        for content in ["", " \n", "two words", "a\nb", "caf\u{e9}"] {
            let error = ApiKey::new(content.as_bytes(), &url("https://a.example")).unwrap_err();
            assert!(!error.to_string().contains("words"), "{content:?}");
        }
    }
}
