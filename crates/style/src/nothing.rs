//! Texts that are no caption: names of files, addresses, article numbers, placeholders, and vague
//! words ("Image"). Used on texts of models, and on texts that users wrote.

use crate::vocabulary::vocabulary;
use regex::Regex;
use std::sync::LazyLock;

/// Why a whole text describes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EmptyText {
    /// The name of a file: `IMG_1234`, `red-shirt.jpg`.
    FileName,
    /// A URL.
    WebAddress,
    /// An article number, a hash or a UUID.
    ArticleNumber,
    /// What is written where a text is missing: `TODO`, `no description available`.
    PlaceHolder,
    /// Words without content: `Image`, `product photo`.
    VagueWords,
}

/// Longest text of vague words, bytes.
const LONGEST_VAGUE: usize = 120;

/// Vague words that stand for a missing text rather than for a picture.
const PLACEHOLDERS: &[&str] = &[
    "todo",
    "tbd",
    "fixme",
    "placeholder",
    "test",
    "testing",
    "demo",
    "default",
    "sample",
    "example",
    "null",
    "undefined",
    "none",
    "nil",
    "untitled",
    "unnamed",
    "alt",
    "text",
    "alt text",
    "n",
    "platzhalter",
];

/// Why `text` as a whole is no caption; `None` if it may be one.
///
/// ```
/// use pg_caption_style::{EmptyText, empty_text};
///
/// assert_eq!(empty_text("IMG_1234"), Some(EmptyText::FileName));
/// assert_eq!(empty_text("An image of a product"), Some(EmptyText::VagueWords));
/// assert_eq!(empty_text("Photo album with a leather cover"), None);
/// ```
pub fn empty_text(text: &str) -> Option<EmptyText> {
    let text =
        text.trim_matches(|c: char| c.is_whitespace() || ".,!?;:()[]{}<>'\"“”‘’*_-".contains(c));
    if text.is_empty() {
        return None;
    }
    let words = vocabulary();
    let single = !text.contains(char::is_whitespace);
    let digits = text.contains(|c: char| c.is_ascii_digit());
    if single && is_web_address(text) {
        Some(EmptyText::WebAddress)
    } else if (text.contains('.') && words.file_name.is_match(text))
        || (digits && words.camera_name.is_match(text))
        || (single && is_slug(text))
    {
        Some(EmptyText::FileName)
    } else if digits && is_number(text) {
        Some(EmptyText::ArticleNumber)
    } else if words.nothing.is_whole(text) {
        Some(EmptyText::PlaceHolder)
    } else {
        vague(text)
    }
}

fn is_web_address(text: &str) -> bool {
    static ADDRESS: LazyLock<Regex> = LazyLock::new(|| {
        regex(concat!(
            r"(?i)^(?:(?:https?|ftp|file)://\S+|(?:data|javascript|mailto):\S+",
            r"|www\.\S+|[\w.-]+\.[a-z]{2,10}/\S*)$"
        ))
    });
    ADDRESS.is_match(text)
}

/// `red_shirt_front`, `red-shirt-02`.
fn is_slug(text: &str) -> bool {
    static SLUG: LazyLock<Regex> =
        LazyLock::new(|| regex(r"^[\p{L}\d-]+(?:_[\p{L}\d-]+)+$|^[\p{L}\d]+(?:-[\p{L}\d]+)+-\d+$"));
    SLUG.is_match(text)
}

fn is_number(text: &str) -> bool {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            r"(?x)^(?i:(?:sku|ean|gtin|upc|isbn|asin|mpn|ref|réf|art|item|artikel|article|modell?)
              (?:\.|\s|-|:|nr|no|number|nummer|\#)*)?
              (?:[A-Z0-9][A-Z0-9./_-]*[0-9][A-Z0-9./_-]{2,}|[A-Z0-9./_-]{3,}[0-9]|
              (?i:[0-9a-f]{12,}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}))$",
        )
    });
    NUMBER.is_match(text)
}

fn vague(text: &str) -> Option<EmptyText> {
    if text.len() > LONGEST_VAGUE {
        return None;
    }
    let words = vocabulary();
    let lower = text.to_lowercase().replace('’', "'");
    if words.alone.contains(&lower) || words.vague.contains(&lower) {
        return Some(kind(&[lower.as_str()]));
    }
    let mut content = Vec::new();
    let apart = |c: char| !(c.is_alphanumeric() || c == '\'' || c == '-');
    for word in lower.split(apart).flat_map(|word| word.split_inclusive('\'')) {
        let counts = !word.is_empty()
            && !word.chars().all(|c| c.is_ascii_digit() || c == '-')
            && !words.filler.contains(word);
        if counts {
            content.push(word);
        }
    }
    let only_vague = content.iter().all(|word| words.vague.contains(*word));
    let alone = matches!(content.as_slice(), [only] if words.alone.contains(*only));
    (!content.is_empty() && (only_vague || alone)).then(|| kind(&content))
}

fn kind(content: &[&str]) -> EmptyText {
    match content.iter().all(|word| PLACEHOLDERS.contains(word)) {
        true => EmptyText::PlaceHolder,
        false => EmptyText::VagueWords,
    }
}

fn regex(expression: &str) -> Regex {
    Regex::new(expression).unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_empty_text_is_recognised() {
        use EmptyText::*;
        for (text, kind) in [
            ("red.jpg", FileName),
            ("DSC00871", FileName),
            ("Screenshot 2024-04-28 at 10.20.30", FileName),
            ("WhatsApp Image 2024-01-01 at 10.00.00", FileName),
            ("image (3)", FileName),
            ("rode_trui_voorkant_02", FileName),
            ("red-shirt-front-2", FileName),
            ("Http://example.com/red", WebAddress),
            ("www.example.com", WebAddress),
            ("example.com/a/b", WebAddress),
            ("AB-1234-XL", ArticleNumber),
            ("SKU 12345", ArticleNumber),
            ("4006381333931", ArticleNumber),
            ("a3f9c2d17be84410", ArticleNumber),
            ("TODO", PlaceHolder),
            ("n/a", PlaceHolder),
            ("alt text", PlaceHolder),
            ("Image goes here", PlaceHolder),
            ("No description available", VagueWords),
            ("Photo", VagueWords),
            ("A screenshot", VagueWords),
            ("Product photo 3 of 5", VagueWords),
            ("Unbekannt", VagueWords),
            ("Une image", VagueWords),
        ] {
            assert_eq!(empty_text(text), Some(kind), "{text}");
        }
    }

    #[test]
    fn texts_with_content_are_not_empty() {
        for text in [
            "",
            "Photo album",
            "Camera on a tripod",
            "Mother-of-pearl",
            "T-shirt",
            "Logo of a fox",
            "Test tubes",
            "Map of Norway",
            "PS5",
            "iPhone 15",
            "Image stabiliser",
            "木製の椅子",
            "Cup. Saucer",
        ] {
            assert_eq!(empty_text(text), None, "{text}");
        }
    }
}
