//! Relative addresses and object keys, resolved against the base URL of a watch.

use pg_caption_wire::{UrlMistake, url_in};
use url::Url;

/// Why a base URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// It is not a whole URL.
    #[error("it is not a whole URL: {0}")]
    Invalid(String),
    /// It has another scheme than http and https.
    #[error("its scheme is \"{0}\", not http or https")]
    Scheme(String),
    /// It contains a user name or password.
    #[error("it contains a user name or password")]
    Credentials,
}

/// Checks a base URL.
///
/// # Errors
/// See [`BaseUrlError`].
pub fn check_base_url(base: &str) -> Result<(), BaseUrlError> {
    let base = Url::parse(base).map_err(|error| BaseUrlError::Invalid(error.to_string()))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(BaseUrlError::Scheme(base.scheme().into()));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(BaseUrlError::Credentials);
    }
    Ok(())
}

/// The address that a value of the watched column stands for (RFC 3986, section 5). A whole URL
/// stays as it is, and so does a value that cannot be resolved or is not one URL.
///
/// ```
/// use pg_caption_queue::resolve_url;
///
/// let resolved = |value| resolve_url("https://cdn.example/shop/", value);
/// assert_eq!(resolved("p/1 a.jpg"), "https://cdn.example/shop/p/1%20a.jpg");
/// assert_eq!(resolved("/p/1.jpg"), "https://cdn.example/p/1.jpg");
/// assert_eq!(resolved("http://other.example/1.jpg"), "http://other.example/1.jpg");
/// ```
pub fn resolve_url(base: &str, value: &str) -> String {
    let value = url_in(value);
    let is_whole = matches!(Url::parse(value), Ok(url) if url.has_host());
    if is_whole || UrlMistake::of(value).is_some() {
        return value.into();
    }
    let resolved = Url::parse(base).and_then(|base| base.join(value));
    resolved.map_or_else(|_| value.into(), String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_resolved_as_rfc_3986_says() {
        let base = "https://cdn.example/media/catalog/";
        for (value, resolved) in [
            ("a.jpg", "https://cdn.example/media/catalog/a.jpg"),
            ("x/a.jpg?w=1", "https://cdn.example/media/catalog/x/a.jpg?w=1"),
            ("../a.jpg", "https://cdn.example/media/a.jpg"),
            ("/a.jpg", "https://cdn.example/a.jpg"),
            ("//other.example/a.jpg", "https://other.example/a.jpg"),
            ("?v=2", "https://cdn.example/media/catalog/?v=2"),
            (" a.jpg ", "https://cdn.example/media/catalog/a.jpg"),
            ("\u{a0}'a.jpg'\u{200b}", "https://cdn.example/media/catalog/a.jpg"),
            ("[\"a.jpg\"]", "[\"a.jpg\"]"),
            ("a.jpg,b.jpg", "a.jpg,b.jpg"),
            ("C:\\shop\\a.jpg", "C:\\shop\\a.jpg"),
            ("cdn.example:8080/a.jpg", "cdn.example:8080/a.jpg"),
            ("HTTPS://Other.example/A.jpg", "HTTPS://Other.example/A.jpg"),
        ] {
            assert_eq!(resolve_url(base, value), resolved, "{value}");
        }
        assert_eq!(resolve_url("https://cdn.example/a", "b.jpg"), "https://cdn.example/b.jpg");
    }

    #[test]
    fn base_urls_are_checked() {
        assert_eq!(check_base_url("https://cdn.example/media/"), Ok(()));
        assert!(matches!(check_base_url("media/"), Err(BaseUrlError::Invalid(_))));
        assert!(matches!(check_base_url("ftp://cdn.example/"), Err(BaseUrlError::Scheme(_))));
        assert_eq!(check_base_url("https://u:p@cdn.example/"), Err(BaseUrlError::Credentials));
    }
}
