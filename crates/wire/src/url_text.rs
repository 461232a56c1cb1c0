//! The one reading of a value that should be a URL: of a column and of an argument. What surrounds
//! the URL and cannot belong to it is left out. A value that is not one URL is named.
//!
//! Queue, extension and fetcher call it, so that a row and a call have the same URL.

use crate::MAX_URL_BYTES;

/// Pairs of marks around a URL.
const MARKS: [(char, char); 9] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('<', '>'),
    ('\u{201c}', '\u{201d}'),
    ('\u{201e}', '\u{201c}'),
    ('\u{2018}', '\u{2019}'),
    ('\u{ab}', '\u{bb}'),
    ('\u{ff1c}', '\u{ff1e}'),
];
/// Separators of lists.
const SEPARATORS: [char; 4] = [',', ';', '|', '\n'];
/// File extensions of pictures.
const EXTENSIONS: [&str; 12] =
    ["jpg", "jpeg", "jfif", "png", "webp", "gif", "avif", "heic", "bmp", "tif", "tiff", "svg"];

/// Why a value is not one URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlMistake {
    /// Several URLs, or an array or an object as text.
    List,
    /// HTML, Markdown, BBCode or CSS around the URL.
    Markup,
    /// A path of a Windows file system.
    WindowsPath,
    /// A host without `https://` in front.
    MissingScheme,
}

/// Whether a character is a blank, or shows nothing: spaces of any width, controls, marks of
/// direction and of byte order.
///
/// Variation selectors are visible: they may end the last picture sign of a path.
pub fn is_invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffc}' | '\u{e0000}'..='\u{e007f}')
}

/// The URL in a value: without invisible characters and quotation marks around it.
///
/// ```
/// use pg_caption_wire::url_in;
///
/// assert_eq!(url_in("\u{a0}https://a.example/1.jpg\u{200b}\n"), "https://a.example/1.jpg");
/// assert_eq!(url_in("<https://a.example/1.jpg>"), "https://a.example/1.jpg");
/// assert_eq!(url_in("\u{3000} "), "");
/// ```
pub fn url_in(value: &str) -> &str {
    let mut url = value.trim_matches(is_invisible);
    while let Some(inner) = without_marks(url) {
        url = inner.trim_matches(is_invisible);
    }
    url
}

/// The text between a pair of marks that has no such mark inside.
fn without_marks(text: &str) -> Option<&str> {
    MARKS.iter().find_map(|(open, close)| {
        let inner = text.strip_prefix(*open)?.strip_suffix(*close)?;
        // `<img …>` is no URL between marks.
        let is_tag = *open == '<' && !begins_url(inner.trim_matches(is_invisible));
        (!inner.contains([*open, *close]) && !is_tag).then_some(inner)
    })
}

/// Whether a value has no URL: it is empty or shows nothing. A value that was cut because it is too
/// long counts as one.
pub fn is_blank(value: &str) -> bool {
    value.len() <= MAX_URL_BYTES && url_in(value).is_empty()
}

/// Whether a text begins like a whole URL.
fn begins_url(text: &str) -> bool {
    text.starts_with("//") || scheme(text).is_some()
}

/// `http://` or `https://` at the begin of a text.
fn scheme(text: &str) -> Option<&str> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let start = text.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(start)
    })
}

impl UrlMistake {
    /// What a value is instead of one URL, as far as its text alone says so. `url`: of [`url_in`].
    pub fn of(url: &str) -> Option<UrlMistake> {
        if is_markup(url) {
            Some(UrlMistake::Markup)
        } else if is_list(url) {
            Some(UrlMistake::List)
        } else if is_windows_path(url) {
            Some(UrlMistake::WindowsPath)
        } else if has_port_only(url) {
            Some(UrlMistake::MissingScheme)
        } else {
            None
        }
    }

    /// The same for a value that is no whole URL: also a name that can only be a host.
    pub fn of_relative(url: &str) -> Option<UrlMistake> {
        UrlMistake::of(url).or_else(|| begins_host(url).then_some(UrlMistake::MissingScheme))
    }
}

fn is_markup(url: &str) -> bool {
    let begins = |tag: &str| url.get(..tag.len()).is_some_and(|s| s.eq_ignore_ascii_case(tag));
    let is_link = || url.starts_with('[') && url.contains("](");
    url.starts_with('<') || url.starts_with("![") || is_link() || begins("[img") || begins("url(")
}

fn is_list(url: &str) -> bool {
    let is_within = |open, close| url.starts_with(open) && url.ends_with(close);
    // Arrays and objects of JSON and Python, and an array of PostgreSQL; not "{GUID}".
    if (is_within('[', ']') && (url.contains(['"', '\'']) || url == "[]"))
        || (is_within('{', '}') && (url.contains(['"', ',', '/', '.']) || url == "{}"))
    {
        return true;
    }
    has_second_url(url) || has_files(url)
}

/// Whether a separator or a blank is followed by `http://`. Addresses of image services contain
/// other URLs in their paths (after `/` or `(`) and queries.
fn has_second_url(url: &str) -> bool {
    let path = &url[..url.find(['?', '(']).unwrap_or(url.len())];
    let query = || url.split_once('?').map_or("", |(_, query)| query);
    let second = |text: &str, separates: fn(char) -> bool| {
        text.match_indices(separates).any(|(at, separator)| {
            let rest = &text[at + separator.len()..];
            scheme(rest.trim_start_matches(|c| is_invisible(c) || c == '"')).is_some()
        })
    };
    begins_url(url)
        && (second(path, |c| SEPARATORS.contains(&c) || is_invisible(c))
            || second(query(), is_invisible))
}

/// Whether a text has two or more parts, and each is the name of a picture's file.
fn has_files(url: &str) -> bool {
    let mut parts = url.split(SEPARATORS).map(url_in).filter(|part| !part.is_empty());
    let is_file = |part: &str| {
        let path = part.split(['?', '#']).next().unwrap_or_default();
        let name = path.rsplit_once('.').map(|(_, extension)| extension);
        name.is_some_and(|name| EXTENSIONS.iter().any(|known| name.eq_ignore_ascii_case(known)))
    };
    parts.next().is_some_and(is_file) && {
        let mut others = parts.peekable();
        others.peek().is_some() && others.all(is_file)
    }
}

fn is_windows_path(url: &str) -> bool {
    let mut start = url.chars();
    let drive = (start.next(), start.next(), start.next());
    matches!(drive, (Some(letter), Some(':'), Some('\\' | '/')) if letter.is_ascii_alphabetic())
        || url.starts_with("\\\\")
}

/// Whether a URL begins with a name and a port, which a parser takes for a scheme.
fn has_port_only(url: &str) -> bool {
    let Some((name, rest)) = url.split_once(':') else { return false };
    let port = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    let is_port = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    let is_scheme =
        ["http", "https", "tel", "sms"].iter().any(|known| name.eq_ignore_ascii_case(known));
    !name.is_empty() && name.chars().all(is_name) && is_port && !is_scheme
}

/// Whether a relative URL begins with `www.`, or with a domain name or IPv4 address and a slash.
fn begins_host(url: &str) -> bool {
    let Some((host, _)) = url.split_once('/') else {
        return url.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("www."));
    };
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return true;
    }
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_extension = EXTENSIONS.iter().any(|known| last.eq_ignore_ascii_case(known));
    host.contains('.')
        && host.split('.').all(is_label)
        && last.chars().count() >= 2
        && last.chars().all(char::is_alphabetic)
        && !is_extension
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://a.example/1.jpg";

    #[test]
    fn what_surrounds_a_url_is_left_out() {
        for invisible in [
            " ", "\t", "\r\n", "\u{a0}", "\u{3000}", "\u{200b}", "\u{feff}", "\u{200e}",
            "\u{2060}", "\u{202a}", "\u{2028}", "\u{85}", "\u{ad}", "\0", "\u{2009}", "\u{180e}",
            "\u{fffc}",
        ] {
            for value in [format!("{invisible}{URL}"), format!("{URL}{invisible}{invisible}")] {
                assert_eq!(url_in(&value), URL, "{value:?}");
            }
            assert!(is_blank(invisible) && is_blank(&format!(" {invisible}")), "{invisible:?}");
        }
        for value in [
            "\"https://a.example/1.jpg\"",
            "'https://a.example/1.jpg' ",
            "< https://a.example/1.jpg >",
            "\u{201c}https://a.example/1.jpg\u{201d}",
            "\" 'https://a.example/1.jpg' \"",
            "`https://a.example/1.jpg`",
        ] {
            assert_eq!(url_in(value), URL, "{value}");
        }
        assert!(is_blank("") && is_blank("\"\"") && !is_blank(URL));
        assert!(!is_blank(&" ".repeat(MAX_URL_BYTES + 1)), "its end is unknown");
        for kept in ["https://a.example/'1'", "https://a.example/❤\u{fe0f}", "\"a\" \"b\"", "<b>"]
        {
            assert_eq!(url_in(kept), kept);
        }
    }

    #[test]
    fn what_is_not_one_url_is_named() {
        use UrlMistake::*;
        for (value, mistake) in [
            ("a.jpg,b.jpg", List),
            ("a.jpg, b.PNG;", List),
            ("a.jpg;b.jpg", List),
            ("a.jpg|b.jpg", List),
            ("a.jpg\nb.jpg", List),
            ("\"a.jpg\",\"b.jpg\"", List),
            ("[\"a.jpg\"]", List),
            ("['a.jpg', 'b.jpg']", List),
            ("[]", List),
            ("{a.jpg,b.jpg}", List),
            ("{\"url\": \"https://a.example/1.jpg\"}", List),
            ("https://a.example/1.jpg,https://a.example/2.jpg", List),
            ("https://a.example/1,  HTTP://a.example/2", List),
            ("https://a.example/1 https://a.example/2", List),
            ("https://a.example/1?w=1 https://a.example/2", List),
            ("https://a.example/1.jpg,2.jpg", List),
            ("<img src=\"https://a.example/1.jpg\">", Markup),
            ("![shirt](https://a.example/1.jpg)", Markup),
            ("[shirt](https://a.example/1.jpg)", Markup),
            ("[IMG]https://a.example/1.jpg[/IMG]", Markup),
            ("url(https://a.example/1.jpg)", Markup),
            ("C:\\shop\\1.jpg", WindowsPath),
            ("d:/shop/1.jpg", WindowsPath),
            ("\\\\server\\share\\1.jpg", WindowsPath),
            ("cdn.example.com:8080/a.jpg", MissingScheme),
            ("localhost:3000/a.jpg", MissingScheme),
            ("10.0.0.1:80", MissingScheme),
        ] {
            assert_eq!(UrlMistake::of(value), Some(mistake), "{value}");
        }
        for value in ["www.example.com/a", "cdn.example.com/a.jpg", "10.0.0.1/a", "www.a.example"] {
            assert_eq!(UrlMistake::of_relative(value), Some(MissingScheme), "{value}");
        }
    }

    #[test]
    fn unusual_urls_are_no_mistakes() {
        for value in [
            URL,
            "//a.example/1.jpg",
            "a.jpg",
            "media/a,b.jpg",
            "/w_100,h_100/1.jpg",
            "a.jpg/b.jpg",
            "media.v2/a.jpg",
            "{3F2504E0-4F89-11D3-9A0C-0305E82C3301}",
            "https://a.example/resize,w=300/https://b.example/1.jpg",
            "https://a.example/filters:watermark(https://b.example/w.png,0,0)/1.jpg",
            "https://a.example/i?url=https://b.example/1.jpg",
            "https://a.example/i?urls=https://b.example/1.jpg,https://b.example/2.jpg",
            "https://a.example/i?f=a.jpg,b.jpg",
            "https://a.example/a b.jpg",
            "https://a.example:8080/1.jpg",
            "data:image/png;base64,AAAA",
            "tel:12345",
            "s3://bucket/a.jpg",
        ] {
            assert_eq!(UrlMistake::of_relative(value), None, "{value}");
        }
    }
}
