//! Sentences, clauses and words: where a text may be cut. Step of `postprocess`. Lengths are in
//! characters (Unicode scalar values).

/// Words on which a cut text must not end.
const DANGLING: &[&str] = &[
    "a", "an", "the", "and", "or", "but", "nor", "of", "in", "on", "at", "to", "for", "from",
    "with", "by", "as", "its", "his", "her", "their", "this", "that", "which", "who", "is", "are",
    "was", "were", "has", "have", "into", "onto", "over", "under", "near", "next", "behind",
    "while", "it", "very", "some", "two", "three", "against", "between", "beside",
];

/// Abbreviations whose full stop does not end a sentence.
const ABBREVIATIONS: &[&str] = &[
    "mr", "mrs", "ms", "dr", "st", "no", "vs", "e.g", "i.e", "approx", "ca", "fig", "oz", "lb",
    "ft", "jr", "sr",
];

/// The sentences in order, trimmed, with their final punctuation, which the last one may lack.
pub fn sentences(text: &str) -> Vec<&str> {
    let (mut out, mut start) = (Vec::new(), 0);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if !matches!(c, '.' | '!' | '?') {
            continue;
        }
        let mut end = at + c.len_utf8();
        while let Some((next, closing)) = chars.peek().copied()
            && matches!(closing, '.' | '!' | '?' | '"' | '”' | '\'' | ')')
        {
            end = next + closing.len_utf8();
            chars.next();
        }
        let rest = &text[end..];
        let boundary = rest.is_empty()
            || (rest.starts_with(' ') && !rest.trim_start().starts_with(char::is_lowercase));
        if boundary && (rest.is_empty() || c != '.' || !is_abbreviation(&text[start..at])) {
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

fn is_abbreviation(before: &str) -> bool {
    let word = before.rsplit(' ').next().unwrap_or(before).trim_start_matches(['(', '"', '“']);
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    initial || ABBREVIATIONS.iter().any(|a| word.eq_ignore_ascii_case(a))
}

/// Whether a sentence has its final punctuation.
pub fn is_closed(text: &str) -> bool {
    text.trim_end_matches(['"', '”', '\'', ')']).ends_with(['.', '!', '?'])
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
/// clause, else with a word, else anywhere.
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
        _ => &text[..limit],
    }
}

/// Byte position of the last clause boundary at or before `limit`.
fn last_clause(text: &str, limit: usize) -> Option<usize> {
    text[..limit].char_indices().rev().find_map(|(at, c)| {
        let blank_follows = text[at + c.len_utf8()..].starts_with(' ');
        (matches!(c, ',' | ';' | ':' | '–' | '—') && blank_follows).then_some(at)
    })
}

/// The text without trailing articles, prepositions, conjunctions and their punctuation.
pub fn without_dangling(text: &str) -> &str {
    let mut text = text.trim_end_matches([' ', ',', ';', ':', '-', '–', '—', '(']);
    while let Some((head, last)) = text.rsplit_once(' ') {
        if !DANGLING.iter().any(|w| last.eq_ignore_ascii_case(w)) {
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
    }

    #[test]
    fn abbreviations_do_not_end_a_sentence() {
        assert_eq!(
            sentences("A 3.5 litre jug by J. Smith. Blue."),
            ["A 3.5 litre jug by J. Smith.", "Blue."]
        );
        assert_eq!(sentences("Mr. Fox of St. Ives. Red."), ["Mr. Fox of St. Ives.", "Red."]);
        assert_eq!(sentences("shoes, e.g. boots"), ["shoes, e.g. boots"]);
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
    }
}
