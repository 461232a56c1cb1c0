//! Turns a model's output into plain text: one line, no special tokens, no invisible characters.
//! First step of `postprocess`. Never changes the words themselves.

/// Longest `<…>` that counts as a special token; longer ones are text. In bytes, with brackets.
const LONGEST_TOKEN: usize = 40;

/// One line of visible text. Removes special tokens, control and invisible characters, the blank
/// that word pieces leave before punctuation, and quotation marks around the whole text. Collapses
/// white space.
pub fn clean(raw: &str) -> String {
    let text = without_special_tokens(raw);
    let mut out = String::with_capacity(text.len());
    // French has a blank before some marks, word pieces before all.
    let pieces = text.contains(" .") || text.contains(" ,");
    let mut joiner = None;
    for c in text.chars() {
        if is_invisible(c) {
            joiner = is_joiner(c).then_some(c);
            continue;
        }
        // Persian and Indian words, and pictures of several parts, are different without it.
        if let Some(joiner) = joiner.take()
            && c >= JOINED
            && out.ends_with(|before| before >= JOINED)
        {
            out.push(joiner);
        }
        if c.is_whitespace() || c.is_control() {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
        } else {
            let spaced = matches!(c, '.' | ',') || (pieces && matches!(c, ';' | ':' | '!' | '?'));
            if spaced && out.ends_with(' ') {
                out.pop();
            }
            out.push(c);
        }
    }
    unquoted(out.trim()).to_string()
}

/// From here on, characters may need a joiner between them.
const JOINED: char = '\u{600}';

fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// Characters without a glyph: zero-width, bidirectional controls, byte order mark, replacement,
/// soft hyphen.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}'
        | '\u{feff}' | '\u{fffd}'
    )
}

/// `<s>`, `</s>`, `<loc_12>`, `<|im_end|>`, `<end_of_utterance>`: an angle-bracketed run without
/// blanks becomes a blank.
fn without_special_tokens(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(open) = rest.find('<') {
        out.push_str(&rest[..open]);
        rest = &rest[open..];
        match rest.find('>').map(|close| &rest[1..close]) {
            Some(inner) if is_special(inner) => {
                out.push(' ');
                rest = &rest[inner.len() + 2..];
            }
            _ => {
                out.push('<');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn is_special(inner: &str) -> bool {
    let name = inner.trim_matches(|c| c == '|' || c == '/');
    inner.len() + 2 <= LONGEST_TOKEN
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '▁' | '|'))
}

/// Pairs of quotation marks that may enclose a text.
const QUOTES: [(char, char); 9] = [
    ('"', '"'),
    ('“', '”'),
    ('„', '“'),
    ('„', '”'),
    ('«', '»'),
    ('»', '«'),
    ('\'', '\''),
    ('‘', '’'),
    ('「', '」'),
];

fn unquoted(text: &str) -> &str {
    let bare = text.strip_suffix('.').unwrap_or(text);
    for (open, close) in QUOTES {
        if let Some(inner) = bare.strip_prefix(open).and_then(|t| t.strip_suffix(close))
            && !inner.contains([open, close])
        {
            return inner.trim();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn special_tokens_are_removed() {
        assert_eq!(clean("</s><s>a red cup<loc_12><loc_999></s><pad><pad>"), "a red cup");
        assert_eq!(clean("A dog.<end_of_utterance>"), "A dog.");
        assert_eq!(clean("A dog<|im_end|>\n<|endoftext|>"), "A dog");
    }

    #[test]
    fn angle_brackets_in_text_stay() {
        assert_eq!(clean("width < height and height > 3"), "width < height and height > 3");
        assert_eq!(clean("a <- b"), "a <- b");
        assert_eq!(clean("1 < 2"), "1 < 2");
    }

    #[test]
    fn control_and_invisible_characters_are_removed() {
        assert_eq!(clean("  a\tred\r\n\u{0}cup\u{200b} \u{202e}here\u{feff} "), "a red cup here");
    }

    #[test]
    fn blanks_before_punctuation_are_removed() {
        assert_eq!(clean("a man , a dog : red ."), "a man, a dog: red.");
        assert_eq!(clean("Bien-être en bocal : lavande"), "Bien-être en bocal : lavande");
    }

    #[test]
    fn only_enclosing_quotation_marks_are_removed() {
        assert_eq!(clean("\"A red cup\""), "A red cup");
        assert_eq!(clean("A sign that says \"STOP\""), "A sign that says \"STOP\"");
        assert_eq!(clean("\"STOP\" and \"GO\""), "\"STOP\" and \"GO\"");
        assert_eq!(clean("« Un sac »"), "Un sac");
        assert_eq!(clean("„Ein Korb“."), "Ein Korb");
    }

    #[test]
    fn joiners_stay_where_a_script_needs_them() {
        assert_eq!(
            clean("می\u{200c}خواهم a\u{200c}b 👩\u{200d}🍳"),
            "می\u{200c}خواهم ab 👩\u{200d}🍳"
        );
    }
}
