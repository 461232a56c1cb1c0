//! Joins words of a row and a caption so that what both say appears once.

use pg_caption_style::{cut, function_words};

/// Words that may precede the name of an article in a caption.
const ARTICLES: [&str; 22] = [
    "a", "an", "the", "ein", "eine", "einen", "der", "die", "das", "un", "une", "le", "la", "una",
    "el", "il", "um", "uma", "o", "een", "de", "het",
];

/// One word of a text: its lower-case form, where it starts and ends.
struct PlainWord {
    key: String,
    start: usize,
    end: usize,
}

fn words_of(text: &str) -> Vec<PlainWord> {
    let mut words: Vec<PlainWord> = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let part = c.is_alphanumeric() || (c == '-' && start.is_some());
        match (part, start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                let key = text[from..at].to_lowercase();
                words.push(PlainWord { key, start: from, end: at });
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// `before`, the caption and `after`, at most `max` characters. A caption that would have fewer
/// than `least` is left out.
pub fn joined(before: &str, caption: &str, after: &str, max: usize, least: usize) -> String {
    let head = before.trim_end_matches(|c: char| !closes_word(c));
    let separator = &before[head.len()..];
    let tail = after.trim_start_matches(|c: char| !opens_word(c));
    let (head_words, words) = (words_of(head), words_of(caption));
    // The caption says all that the row says.
    if contains(&words, &words_of(tail)) && !tail.is_empty() {
        return joined(before, caption, "", max, least);
    }
    let (separator, rest) = match overlap(&head_words, &words) {
        _ if head_words.is_empty() => (separator, caption),
        Overlap::Nothing => (separator, caption),
        Overlap::Inside => return joined("", caption, after, max, least),
        Overlap::All => ("", ""),
        Overlap::Start(count) => ("", &caption[words[count - 1].end..]),
        Overlap::Scattered(count) => {
            let rest = &caption[words[count].start..];
            (if is_grammar(&words[count].key) { ", " } else { separator }, rest)
        }
    };
    let fixed = head.chars().count() + separator.chars().count();
    let room = max.saturating_sub(fixed + after.chars().count());
    let shown = if rest.chars().count() > room { cut(rest, room) } else { rest };
    let enough = shown.chars().count() >= least.min(rest.chars().count());
    if !enough || shown.trim().is_empty() {
        let alone = if after.trim().is_empty() || tail.is_empty() {
            head.to_string()
        } else {
            format!("{head}{after}")
        };
        return cut(&alone, max).trim().to_string();
    }
    cut(format!("{head}{separator}{shown}{after}").trim(), max).to_string()
}

fn closes_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, ')' | '"' | '”' | '»' | '®' | '™' | '%' | '}' | '!' | '?')
}

fn opens_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '(' | '"' | '“' | '«' | '{' | '#')
}

enum Overlap {
    Nothing,
    /// The caption holds all words of the row, not at its start.
    Inside,
    /// The row holds all words of the caption.
    All,
    /// The caption begins with this many words that end the row's, articles included.
    Start(usize),
    /// The caption begins with this many words that the row has in another order.
    Scattered(usize),
}

fn overlap(head: &[PlainWord], caption: &[PlainWord]) -> Overlap {
    let skipped = usize::from(caption.first().is_some_and(|w| ARTICLES.contains(&w.key.as_str())));
    let content = &caption[skipped..];
    if content.is_empty() {
        return Overlap::Nothing;
    }
    if contains(head, content) {
        return Overlap::All;
    }
    let longest = head.len().min(content.len());
    let ends_with = |count: usize| {
        let end = &head[head.len() - count..];
        end.iter().zip(content).all(|(a, b)| a.key == b.key) && !is_grammar(&end[0].key)
    };
    if let Some(count) = (1..=longest).rev().find(|count| ends_with(*count)) {
        return Overlap::Start(skipped + count);
    }
    if contains(caption, head) {
        return Overlap::Inside;
    }
    let known = |word: &&PlainWord| head.iter().any(|other| other.key == word.key);
    let count = content.iter().take_while(known).count();
    if count == content.len() {
        return Overlap::All;
    }
    // One common word of many may be chance; the next must go on without it.
    if count >= 2 && is_grammar(&content[count].key) {
        return Overlap::Scattered(skipped + count);
    }
    Overlap::Nothing
}

/// Whether `part` is a sequence of `whole`.
fn contains(whole: &[PlainWord], part: &[PlainWord]) -> bool {
    !part.is_empty()
        && whole.windows(part.len()).any(|some| some.iter().zip(part).all(|(a, b)| a.key == b.key))
}

/// "on", "with", "mit": what can follow the name of an article.
fn is_grammar(word: &str) -> bool {
    function_words(word).iter().any(|count| count.all > 0)
}

#[cfg(test)]
mod tests {
    use super::joined;

    #[test]
    fn no_join_is_longer_than_the_limit() {
        let texts =
            ["", "Cup", "Navy T-shirt", "A navy T-shirt, on a hook. Red", "日本語の本", "…"];
        for before in texts {
            for caption in texts {
                for after in texts {
                    for max in 1..40 {
                        let before = format!("{before}: ");
                        let after = format!(" – {after}");
                        let text = joined(&before, caption, &after, max, 5);
                        assert!(
                            text.chars().count() <= max,
                            "{before}{caption}{after} {max}: {text}"
                        );
                    }
                }
            }
        }
    }
}
