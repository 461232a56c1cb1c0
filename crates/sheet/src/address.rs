//! Addresses that a page may link to.

use url::{ParseError, Url};

/// An address as a page may have it: http, https or relative; `None` for any other.
///
/// Read as browsers read it: they drop tabs and line breaks, and trim blanks and control
/// characters.
///
/// ```
/// use pg_caption_sheet::page_address;
///
/// assert_eq!(page_address(" https://a.example/1.jpg"), Some("https://a.example/1.jpg".into()));
/// assert_eq!(page_address("media/1.jpg"), Some("media/1.jpg".into()));
/// assert_eq!(page_address("java\tscript:alert(1)"), None);
/// assert_eq!(page_address("//user:word@a.example/"), None);
/// ```
pub fn page_address(address: &str) -> Option<String> {
    let is_blank =
        |c: char| c <= ' ' || matches!(c, '\u{a0}' | '\u{200b}' | '\u{200e}' | '\u{feff}');
    let clean: String = address.chars().filter(|c| !matches!(c, '\t' | '\n' | '\r')).collect();
    let clean = clean.trim_matches(is_blank);
    if clean.is_empty() {
        return None;
    }
    let base = Url::parse("https://relative.invalid/").ok()?;
    let url = match Url::parse(clean) {
        Ok(url) => url,
        Err(ParseError::RelativeUrlWithoutBase) => base.join(clean).ok()?,
        Err(_) => return None,
    };
    let has_password = !url.username().is_empty() || url.password().is_some();
    let is_web = matches!(url.scheme(), "http" | "https") && !has_password;
    is_web.then(|| clean.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_addresses_are_linked() {
        for refused in [
            "",
            " ",
            "javascript:alert(1)",
            "JaVaScRiPt:alert(1)",
            "\u{1}javascript:alert(1)",
            "\u{a0}data:text/html,x",
            "data:image/png;base64,AAAA",
            "file:///etc/passwd",
            "blob:https://a.example/1",
            "cdn.example.com:8080/a.jpg",
            "https://user:word@a.example/a.jpg",
            "https://",
        ] {
            assert_eq!(page_address(refused), None, "{refused:?}");
        }
        for kept in ["HTTPS://a.example/ä.jpg", "/media/a:b.jpg", "?a", "../a b.jpg", "//cdn.x/a"]
        {
            assert_eq!(page_address(kept).as_deref(), Some(kept));
        }
    }
}
