//! Faults inside of a text: keywords and markup, with their position. Used by the lint.

use pg_caption_style::function_words;
use std::collections::HashMap;

/// A content word may be this often in a text.
const MAX_REPEATS: usize = 3;
/// More items without a verb or preposition are a list of keywords.
const MAX_KEYWORDS: usize = 7;
/// Most words of a keyword.
const KEYWORD_WORDS: usize = 3;

/// Where keywords are stuffed, and one of them.
pub fn stuffing_in(text: &str) -> Option<(usize, String)> {
    let grammar = |word: &str| function_words(word).iter().any(|count| count.all > 0);
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut total = 0;
    let mut at = 0;
    for word in text.split(|c: char| !(c.is_alphanumeric() || c == '-')) {
        let key = word.to_lowercase();
        if key.chars().count() >= 3 && !grammar(&key) {
            total += 1;
            let count = counts.entry(key.clone()).or_default();
            *count += 1;
            if *count > MAX_REPEATS && *count * 4 >= total {
                return Some((at, key));
            }
        }
        at += word.len() + text[at + word.len()..].chars().next().map_or(0, char::len_utf8);
    }
    let items: Vec<&str> = text.split([',', '|', ';']).map(str::trim).collect();
    let short = |item: &&&str| {
        let words: Vec<&str> = item.split_whitespace().collect();
        (1..=KEYWORD_WORDS).contains(&words.len())
            && !words.iter().any(|word| grammar(&word.to_lowercase()))
    };
    let keywords = items.iter().filter(short).count();
    (keywords > MAX_KEYWORDS && keywords == items.len()).then(|| (0, items[0].to_string()))
}

/// The first tag, mark of markdown or control character.
pub fn markup_in(text: &str) -> Option<usize> {
    let tag = |at: usize| {
        let rest = text[at + 1..].trim_start_matches('/');
        rest.starts_with(|c: char| c.is_ascii_alphabetic()) && rest.contains('>')
    };
    let entity = |at: usize| {
        text[at..].find(';').is_some_and(|end| {
            (3..10).contains(&end)
                && text[at + 1..at + end].chars().all(|c| c.is_ascii_alphanumeric() || c == '#')
        })
    };
    text.char_indices().find_map(|(at, c)| {
        let bad = match c {
            '<' => tag(at),
            '&' => entity(at),
            '*' => text[at + 1..].starts_with('*'),
            '`' => true,
            '#' => at == 0 && text[1..].starts_with([' ', '#']),
            c => c.is_control() || matches!(c, '\u{200b}' | '\u{feff}' | '\u{fffd}'),
        };
        bad.then_some(at)
    })
}
