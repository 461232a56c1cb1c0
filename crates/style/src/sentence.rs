//! Sentences, clauses and words: where a text may be cut. Step of `postprocess`. Lengths are in
//! characters (Unicode scalar values).

use crate::vocabulary::vocabulary;
use unicode_segmentation::UnicodeSegmentation;

/// Full stops of scripts without blanks between sentences.
const WIDE_STOPS: [char; 4] = ['。', '！', '？', '．'];
/// All that ends a sentence.
const STOPS: [char; 10] = ['.', '!', '?', '。', '！', '？', '．', '…', '।', '؟'];
/// What may follow the end of a sentence and still belongs to it.
const CLOSERS: [char; 13] = ['"', '”', '“', '’', '\'', ')', '»', '」', '』', '）', '›', ']', '】'];

/// The sentences in order, trimmed, with their final punctuation, which the last one may lack.
pub fn sentences(text: &str) -> Vec<&str> {
    let (mut out, mut start) = (Vec::new(), 0);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !STOPS.contains(&c) {
            continue;
        }
        let mut end = at + c.len_utf8();
        while let Some((next, closing)) = chars.peek().copied()
            && (STOPS.contains(&closing) || CLOSERS.contains(&closing))
        {
            end = next + closing.len_utf8();
            chars.next();
        }
        let rest = &text[end..];
        let boundary = rest.is_empty()
            || WIDE_STOPS.contains(&c)
            || (rest.starts_with(' ') && !rest.trim_start().starts_with(char::is_lowercase));
        let before = text[start..at].trim_start();
        let ordinal = !before.is_empty() && before.chars().all(|c| c.is_ascii_digit());
        if boundary && (rest.is_empty() || c != '.' || !(ordinal || is_abbreviation(before))) {
            out.push(text[start..end].trim());
            start = end;
        }
    }
    let tail = text[start..].trim();
    if !tail.is_empty() {
        out.push(tail);
    }
    out
}

/// Whether the full stop after `before` belongs to an abbreviation or an initial.
pub fn is_abbreviation(before: &str) -> bool {
    let word = before.rsplit(' ').next().unwrap_or(before).trim_start_matches(['(', '"', '“']);
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    initial || vocabulary().abbreviations.contains(&word.to_lowercase())
}

/// Whether a sentence has its final punctuation.
pub fn is_closed(text: &str) -> bool {
    text.trim_end_matches(CLOSERS).ends_with(STOPS)
}

/// The full stop of the script in which the text ends.
pub fn full_stop(text: &str) -> char {
    match text.trim_end_matches(CLOSERS).chars().next_back() {
        Some(last) if is_wide(last) => '。',
        _ => '.',
    }
}

/// The blank between two sentences; scripts with wide full stops have none.
pub fn gap_after(sentence: &str) -> &'static str {
    if sentence.trim_end_matches(CLOSERS).ends_with(WIDE_STOPS) { "" } else { " " }
}

/// Chinese characters and Japanese syllables, which stand without blanks.
fn is_wide(c: char) -> bool {
    matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{20000}'..='\u{3ffff}')
}

/// The finished part of a text that the token limit cut: without an unfinished last sentence. A
/// text without a finished sentence loses its unfinished last clause, else its last word.
pub fn without_unfinished(text: &str) -> &str {
    let all = sentences(text);
    let Some((last, finished)) = all.split_last() else { return text };
    if is_closed(last) {
        return text;
    }
    if let Some(previous) = finished.last() {
        let end = previous.as_ptr() as usize + previous.len() - text.as_ptr() as usize;
        return &text[..end];
    }
    let clause = last_clause(text, text.len());
    match clause {
        Some(end) if end * 2 >= text.len() => without_dangling(&text[..end]),
        _ => match text.rfind(' ') {
            Some(end) => without_dangling(&text[..end]),
            None => text,
        },
    }
}

/// The longest start of `text` of at most `max` characters that ends with a sentence, else with a
/// clause, else with a word, else with a visible character.
///
/// ```
/// use pg_caption_style::cut;
///
/// assert_eq!(cut("A red cup, on a table", 14), "A red cup");
/// ```
pub fn cut(text: &str, max: usize) -> &str {
    let Some((limit, _)) = text.char_indices().nth(max) else { return text };
    let mut end = 0;
    for sentence in sentences(text) {
        let after = sentence.as_ptr() as usize + sentence.len() - text.as_ptr() as usize;
        if after > limit {
            break;
        }
        end = after;
    }
    if end > 0 {
        return &text[..end];
    }
    if let Some(clause) = last_clause(text, limit)
        && clause * 5 >= limit * 2
    {
        return without_dangling(&text[..clause]);
    }
    // A word that ends exactly at the limit is complete.
    match text[..limit + text[limit..].chars().next().map_or(0, char::len_utf8)].rfind(' ') {
        Some(word) if !without_dangling(&text[..word]).is_empty() => {
            without_dangling(&text[..word])
        }
        _ => &text[..whole_characters(text, limit)],
    }
}

/// The last boundary between visible characters at or before `limit`; `limit` if that is the start.
fn whole_characters(text: &str, limit: usize) -> usize {
    let ends = text.grapheme_indices(true).map(|(at, visible)| at + visible.len());
    ends.take_while(|end| *end <= limit).last().unwrap_or(limit)
}

/// Byte position of the last clause boundary at or before `limit`.
fn last_clause(text: &str, limit: usize) -> Option<usize> {
    text[..limit].char_indices().rev().find_map(|(at, c)| {
        let blank_follows = text[at + c.len_utf8()..].starts_with(' ');
        let wide = matches!(c, '、' | '，' | '；');
        (wide || matches!(c, ',' | ';' | ':' | '–' | '—') && blank_follows).then_some(at)
    })
}

/// The text without trailing articles, prepositions, conjunctions and their punctuation.
pub fn without_dangling(text: &str) -> &str {
    let mut text = text.trim_end_matches([' ', ',', ';', ':', '-', '–', '—', '(']);
    while let Some((head, last)) = text.rsplit_once(' ') {
        if !vocabulary().dangling.contains(&last.to_lowercase()) {
            break;
        }
        text = head.trim_end_matches([' ', ',', ';', ':', '-', '–', '—', '(']);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punctuation_before_a_capital_ends_a_sentence() {
        assert_eq!(
            sentences("A cup. It is red! Is it? Yes"),
            ["A cup.", "It is red!", "Is it?", "Yes"]
        );
        assert_eq!(
            sentences("He said \"Stop.\" Then he left."),
            ["He said \"Stop.\"", "Then he left."]
        );
        assert_eq!(sentences("Wait... Done."), ["Wait...", "Done."]);
        assert_eq!(sentences(""), Vec::<&str>::new());
        assert_eq!(sentences("机の上に本。窓の外に海！"), ["机の上に本。", "窓の外に海！"]);
        assert_eq!(sentences("¿Es rojo? ¡Sí!"), ["¿Es rojo?", "¡Sí!"]);
    }

    #[test]
    fn abbreviations_do_not_end_a_sentence() {
        assert_eq!(
            sentences("A 3.5 litre jug by J. Smith. Blue."),
            ["A 3.5 litre jug by J. Smith.", "Blue."]
        );
        assert_eq!(sentences("Mr. Fox of St. Ives. Red."), ["Mr. Fox of St. Ives.", "Red."]);
        assert_eq!(sentences("shoes, e.g. boots"), ["shoes, e.g. boots"]);
        assert_eq!(sentences("1. FC Köln, Schal"), ["1. FC Köln, Schal"]);
    }

    #[test]
    fn a_cut_text_keeps_whole_sentences() {
        assert_eq!(without_unfinished("A cup. The overall"), "A cup.");
        assert_eq!(without_unfinished("A cup. A plate."), "A cup. A plate.");
    }

    #[test]
    fn an_unfinished_sentence_keeps_its_clauses() {
        assert_eq!(
            without_unfinished("A red cup on a wooden table, next to a pla"),
            "A red cup on a wooden table"
        );
        assert_eq!(without_unfinished("A red cup on a wooden ta"), "A red cup on a wooden");
        assert_eq!(without_unfinished("A red cup on the ta"), "A red cup");
        assert_eq!(without_unfinished("cup"), "cup");
    }

    #[test]
    fn cuts_prefer_sentences_then_clauses_then_words() {
        assert_eq!(cut("Red big. Blue four.", 12), "Red big.");
        assert_eq!(cut("Red big cups, four five six", 19), "Red big cups");
        assert_eq!(cut("Red big cups four five six", 12), "Red big cups");
        assert_eq!(cut("Red big cups four five six", 14), "Red big cups");
        assert_eq!(cut("Red big with the four", 16), "Red big");
        assert_eq!(cut("Donaudampfschifffahrt", 5), "Donau");
        assert_eq!(cut("short", 5), "short");
    }

    #[test]
    fn cuts_count_characters_and_never_split_one() {
        assert_eq!(cut("äöüß", 2), "äö");
        assert_eq!(cut("日本語の本", 3), "日本語");
        assert_eq!(cut("naïve café crème", 10), "naïve café");
        assert_eq!(cut("👩‍🍳👩‍🍳", 4), "👩‍🍳");
        assert_eq!(cut("赤い服、白い靴、青い帽子", 9), "赤い服、白い靴");
    }
}
