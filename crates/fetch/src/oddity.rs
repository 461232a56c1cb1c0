//! What is odd about a URL as it was written, and may be why its host refuses it: a signature that
//! has expired, `&amp;`, an invisible character, a separator of lists. Asked only after a refusal.

use pg_caption_wire::{UrlMistake, is_invisible, url_in};
use std::time::{Duration, SystemTime};
use url::Url;

/// What is odd about a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlOddity {
    /// Its signature has expired.
    Expired {
        /// The parameter of the query that says so.
        parameter: String,
        /// When.
        at: SystemTime,
    },
    /// It contains `&amp;` or a sibling, as HTML writes `&`.
    Entity,
    /// It contains a character that shows nothing.
    Invisible(char),
    /// It contains or ends in a separator of lists.
    Separator,
}

impl UrlOddity {
    /// The most likely cause of a refusal in a URL, as the user wrote it.
    pub(crate) fn of(text: &str, now: SystemTime) -> Option<UrlOddity> {
        let text = url_in(text);
        let url = Url::parse(text).ok()?;
        if let Some((parameter, at)) = expiry(&url).filter(|(_, at)| *at <= now) {
            return Some(UrlOddity::Expired { parameter, at });
        }
        let lower = text.to_ascii_lowercase();
        if ["&amp;", "&#38;", "&#x26;"].iter().any(|entity| lower.contains(entity)) {
            return Some(UrlOddity::Entity);
        }
        if let Some(c) = invisible(text) {
            return Some(UrlOddity::Invisible(c));
        }
        let path = text.split(['?', '#']).next().unwrap_or_default();
        let is_joined = || {
            let mut parts = path.split([',', ';', '|']).map(str::trim).peekable();
            std::iter::from_fn(|| parts.next().filter(|_| parts.peek().is_some()))
                .any(has_extension)
        };
        is_joined().then_some(UrlOddity::Separator)
    }

    /// What to do.
    pub(crate) fn hint(&self) -> String {
        match self {
            UrlOddity::Expired { parameter, at } => format!(
                "The signature of the URL expired on {} (\"{parameter}\"). Store a URL that is \
                 still valid when the picture is fetched, or sign it then.",
                httpdate::fmt_http_date(*at)
            ),
            UrlOddity::Entity => "The URL contains \"&amp;\", as HTML writes \"&\". Replace it: \
                 replace(image_url, '&amp;', '&')."
                .into(),
            UrlOddity::Invisible(c) => format!(
                "The URL contains the invisible character U+{0:04X}. Remove it: \
                 replace(image_url, U&'\\{0:04X}', '').",
                u32::from(*c)
            ),
            UrlOddity::Separator => "The URL may be a list. Store one URL: \
                 split_part(image_url, ',', 1)."
                .into(),
        }
    }
}

/// The first character inside a URL that shows nothing. Parsers remove tabs and line ends, and
/// escape blanks.
pub(crate) fn invisible(text: &str) -> Option<char> {
    text.chars().find(|c| is_invisible(*c) && !c.is_ascii())
}

/// What may be why a host refuses a URL, or answers with something else than a picture.
///
/// ```
/// let hint = pg_caption_fetch::url_hint("https://a.example/i?w=1&amp;h=2").unwrap();
/// assert!(hint.contains("&amp;"));
/// ```
pub fn url_hint(url: &str) -> Option<String> {
    UrlOddity::of(url, SystemTime::now()).map(|oddity| oddity.hint())
}

/// What to do about a value that is not one URL.
pub(crate) fn mistake_hint(mistake: UrlMistake) -> &'static str {
    match mistake {
        UrlMistake::List => {
            "Store one URL in a row. For a text with commas, watch a generated column: \
             GENERATED ALWAYS AS (split_part(image_urls, ',', 1)) STORED; for a JSON array: \
             GENERATED ALWAYS AS (image_urls::jsonb ->> 0) STORED."
        }
        UrlMistake::Markup => {
            "Store the URL alone. For a column of such texts, watch a generated column: \
             GENERATED ALWAYS AS (substring(image_html from 'https?://[^\"'')>[:space:]]+')) \
             STORED."
        }
        UrlMistake::WindowsPath => {
            "A path of a Windows file system cannot be fetched. Store the URL at which the web \
             server has the file, or call caption_image with its bytes (bytea)."
        }
        UrlMistake::MissingScheme => {
            "Put https:// before it. For a column of such addresses, watch a generated column: \
             ALTER TABLE products ADD image_url text \
             GENERATED ALWAYS AS ('https://' || image_address) STORED."
        }
    }
}

fn has_extension(part: &str) -> bool {
    let extension = part.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| {
        matches!(
            extension.as_str(),
            "jpg" | "jpeg" | "png" | "webp" | "gif" | "avif" | "bmp" | "tif" | "tiff"
        )
    })
}

/// The time at which a signed URL expires, and the parameter that says so: of S3 and its siblings
/// (V2 and V4), Google, CloudFront, Azure, Alibaba, Tencent, Akamai, Bunny, Facebook and Discord.
fn expiry(url: &Url) -> Option<(String, SystemTime)> {
    let pairs: Vec<(String, String)> =
        url.query_pairs().map(|(name, value)| (name.into(), value.into())).collect();
    let find = |wanted: &str| {
        pairs
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(name, value)| (name.clone(), value.as_str()))
    };
    // X-Amz-, X-Goog-, x-oss-, X-Tos-: a date and the seconds from it.
    for (name, value) in &pairs {
        let lower = name.to_ascii_lowercase();
        if let Some(prefix) = lower.strip_suffix("-expires").filter(|p| p.starts_with("x-"))
            && let Some((_, date)) = find(&format!("{prefix}-date"))
        {
            let lasts = Duration::from_secs(value.parse().ok()?);
            return Some((name.clone(), date_time(date)?.checked_add(lasts)?));
        }
    }
    for wanted in ["Expires", "Expiry", "Expire", "exp"] {
        if let Some((name, value)) = find(wanted)
            && let Some(at) = unix(value).or_else(|| httpdate::parse_http_date(value).ok())
        {
            return Some((name, at));
        }
    }
    let with = |wanted: &str, other: &str| find(wanted).filter(|_| find(other).is_some());
    if let Some((name, value)) = with("se", "sig") {
        return Some((name, date_time(value)?));
    }
    if let Some((name, value)) = find("q-sign-time") {
        return Some((name, unix(value.rsplit(';').next()?)?));
    }
    for (wanted, other) in [("oe", "oh"), ("ex", "hm")] {
        if let Some((name, value)) = with(wanted, other) {
            let seconds = u64::from_str_radix(value, 16).ok()?;
            return Some((name, unix(&seconds.to_string())?));
        }
    }
    pairs.iter().find_map(|(name, value)| {
        let fields = value.split(['~', '!']).filter(|_| value.contains("hmac="));
        let at = fields.filter_map(|field| field.strip_prefix("exp=")).next()?;
        Some((name.clone(), unix(at)?))
    })
}

/// Seconds, or milliseconds, since 1970: of this century.
fn unix(text: &str) -> Option<SystemTime> {
    let number: u64 = text.parse().ok()?;
    let seconds = if text.len() == 13 { number / 1000 } else { number };
    (946_684_800..4_102_444_800)
        .contains(&seconds)
        .then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// A date in UTC with an optional time, in the forms of ISO 8601: `20260105T100000Z`,
/// `2026-01-05T10:00Z`, `2026-01-05`.
fn date_time(text: &str) -> Option<SystemTime> {
    let digits: String = text.chars().filter(char::is_ascii_digit).take(14).collect();
    let part = |from: usize, length: usize| {
        digits.get(from..from + length).map_or(Some(0), |part| part.parse::<u64>().ok())
    };
    let (year, month, day) = (part(0, 4)?, part(4, 2)?, part(6, 2)?);
    if !(2000..2100).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days by the months before, in a calendar whose year begins in March.
    let (shifted, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days =
        shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + (month * 153 + 2) / 5 + day
            - 1;
    let seconds = (days - 719_468) * 86_400 + part(8, 2)? * 3600 + part(10, 2)? * 60 + part(12, 2)?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mon, 05 Jan 2026 10:00:00 GMT.
    const AT: u64 = 1_767_607_200;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn expired_signatures_are_recognised() {
        for (query, parameter) in [
            ("X-Amz-Date=20260105T090000Z&X-Amz-Expires=3600&X-Amz-Signature=s", "X-Amz-Expires"),
            ("X-Goog-Expires=3600&X-Goog-Date=20260105T090000Z", "X-Goog-Expires"),
            ("x-oss-date=20260105T090000Z&x-oss-expires=3600", "x-oss-expires"),
            ("AWSAccessKeyId=a&Expires=1767607200&Signature=s", "Expires"),
            ("expires=1767607200000&token=t", "expires"),
            ("exp=1767607200", "exp"),
            ("Expires=Mon,%2005%20Jan%202026%2010:00:00%20GMT", "Expires"),
            ("sv=2024-11-04&se=2026-01-05T10%3A00%3A00Z&sig=s", "se"),
            ("se=2026-01-05T10:00Z&sig=s", "se"),
            ("q-sign-time=1767600000;1767607200", "q-sign-time"),
            ("oh=1&oe=695b8ba0", "oe"),
            ("ex=695b8ba0&hm=1", "ex"),
            ("hdnea=st=1~exp=1767607200~acl=/*~hmac=1", "hdnea"),
        ] {
            let url = format!("https://a.example/1.jpg?{query}");
            let expired = UrlOddity::Expired { parameter: parameter.into(), at: at(AT) };
            assert_eq!(UrlOddity::of(&url, at(AT)), Some(expired.clone()), "{query}");
            assert_eq!(UrlOddity::of(&url, at(AT - 1)), None, "{query}");
            let hint = expired.hint();
            assert!(hint.contains(parameter) && hint.contains("Mon, 05 Jan 2026 10:00"), "{hint}");
        }
        let day = UrlOddity::of("https://a.example/?se=2024-02-29&sig=s", at(AT));
        assert!(day.unwrap().hint().contains("Thu, 29 Feb 2024 00:00:00"));
        for query in ["expires=5&e=2", "se=1&sig=s", "X-Amz-Expires=5", "ex=zz&hm=1", "exp=99"] {
            assert_eq!(UrlOddity::of(&format!("https://a.example/?{query}"), at(AT)), None);
        }
    }

    #[test]
    fn other_oddities_are_named() {
        let of = |url: &str| UrlOddity::of(url, at(AT));
        for url in ["https://a.example/?a=1&amp;b=2", "https://a.example/?a=1&#38;b=2"] {
            assert_eq!(of(url), Some(UrlOddity::Entity), "{url}");
        }
        let zero = of("https://a.example/a\u{200b}b.jpg").unwrap();
        assert!(zero.hint().contains("U+200B"), "{zero:?}");
        for url in ["https://a.example/a.jpg,", "https://a.example/a.jpg,b", "https://a/a.png; b"] {
            assert_eq!(of(url), Some(UrlOddity::Separator), "{url}");
        }
        for url in [
            "https://a.example/a.jpg",
            "https://a.example/w_1,h_2/a.jpg",
            "\u{a0}https://a.example/a b.jpg\n",
            "https://a.example/i?f=a.jpg,b",
            "a.jpg,",
        ] {
            assert_eq!(of(url), None, "{url}");
        }
    }
}
