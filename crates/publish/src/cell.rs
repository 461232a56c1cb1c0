//! The words of a row as plain text: titles in shops hold HTML, entities and line breaks.

/// Longest text of one column in a rendered template, characters.
pub const MAX_CELL: usize = 300;
/// Characters of a column that are looked at, tags of HTML included.
pub const MAX_READ: usize = MAX_CELL * 20;
/// Longest tag of HTML, bytes.
const MAX_TAG: usize = 2000;
/// Entities in entities: `&amp;quot;`.
const MAX_DECODINGS: usize = 2;

/// One line of visible text: without tags, entities, control and invisible characters, at most
/// [`MAX_CELL`] characters. Empty if nothing is left.
///
/// ```
/// use pg_caption_publish::cell_text;
///
/// assert_eq!(cell_text("<b>Caf&eacute;</b> cup\n&amp; saucer"), "Café cup & saucer");
/// ```
pub fn cell_text(raw: &str) -> String {
    // A cell may hold a whole page; only its start can be shown.
    let raw = first_chars(raw, MAX_READ);
    let mut text = raw.to_string();
    for _ in 0..MAX_DECODINGS {
        text = html_escape::decode_html_entities(&without_tags(&text)).into_owned();
    }
    let text = without_tags(&text);
    let visible: String = text.chars().map(|c| if is_blank(c) { ' ' } else { c }).collect();
    let line = visible.split_whitespace().collect::<Vec<_>>().join(" ");
    pg_caption_style::cut(&line, MAX_CELL).to_string()
}

fn first_chars(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end])
}

/// Control characters, and characters without a glyph: zero-width, bidirectional, byte order mark.
fn is_blank(c: char) -> bool {
    c.is_control()
        || c.is_whitespace()
        || matches!(
            c,
            '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fffd}'
        )
}

/// `<b>`, `</p>`, `<br/>`, `<!-- … -->` become blanks or nothing; `<` before anything else stays.
fn without_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        let end = match rest.strip_prefix("<!--").and_then(|comment| comment.find("-->")) {
            Some(end) => Some(end + 7),
            None => tag_end(rest),
        };
        match end {
            Some(end) => {
                // Words of two paragraphs stay apart; those around `<b>` do not.
                if !is_inline(&rest[..end]) {
                    out.push(' ');
                }
                rest = &rest[end..];
            }
            None => {
                out.push('<');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn tag_end(text: &str) -> Option<usize> {
    let name = text[1..].trim_start_matches('/');
    if !name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '!') {
        return None;
    }
    text.find('>').filter(|end| *end <= MAX_TAG).map(|end| end + 1)
}

fn is_inline(tag: &str) -> bool {
    let name: String =
        tag.chars().filter(|c| c.is_ascii_alphabetic()).take(8).collect::<String>().to_lowercase();
    ["b", "i", "em", "strong", "u", "sup", "sub", "small", "mark", "wbr"].contains(&name.as_str())
        || name.starts_with("span")
        || name.starts_with("font")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_and_invisible_characters_are_removed() {
        for (raw, text) in [
            ("  Navy\tT-shirt\r\n ", "Navy T-shirt"),
            ("<p>Navy</p><p>T-shirt</p>", "Navy T-shirt"),
            ("Navy<sup>&reg;</sup> &quot;T&quot;", "Navy® \"T\""),
            ("a &amp;lt; b", "a < b"),
            ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
            ("size < 42 and > 3", "size < 42 and > 3"),
            ("x<script>alert(1)</script>", "x alert(1)"),
            ("a\u{202e}b\u{0}c\u{200b}", "a b c"),
            ("<!-- none -->", ""),
            ("", ""),
        ] {
            assert_eq!(cell_text(raw), text, "{raw:?}");
        }
    }

    #[test]
    fn long_cells_are_cut_at_a_word() {
        let text = cell_text(&"word ".repeat(100_000));
        assert!(text.chars().count() <= MAX_CELL && text.ends_with("word"), "{text}");
        assert!(cell_text(&"<".repeat(10_000)).chars().count() <= MAX_CELL);
    }
}
