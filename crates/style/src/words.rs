//! Words of a text as the vocabulary compares them: lower case, one shape of apostrophe, without
//! punctuation.

/// One word and what stands before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextWord {
    /// Lower case. An apostrophe ends a word: `l'image` is two words.
    pub key: String,
    /// Bytes from the start of the text.
    pub start: usize,
    /// Position after the word, bytes.
    pub end: usize,
    /// What separates it from the word before.
    pub gap: WordGap,
}

/// The marks between two words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WordGap {
    /// Blanks, or nothing after an apostrophe.
    Blank,
    /// A comma.
    Comma,
    /// A colon.
    Colon,
    /// Other marks within a sentence.
    Mark,
    /// The end of a sentence or line.
    Stop,
}

/// The first `most` words of a text.
pub fn words_of(text: &str, most: usize) -> Vec<TextWord> {
    let mut words: Vec<TextWord> = Vec::new();
    let mut gap = WordGap::Blank;
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if !c.is_alphanumeric() {
            gap = gap.max(match c {
                '.' | '!' | '?' | ';' | '\n' | '。' | '！' | '？' | '…' => WordGap::Stop,
                ':' | '：' => WordGap::Colon,
                ',' => WordGap::Comma,
                c if c.is_whitespace() => WordGap::Blank,
                _ => WordGap::Mark,
            });
            continue;
        }
        if words.len() == most {
            break;
        }
        let mut key: String = c.to_lowercase().collect();
        let mut end = start + c.len_utf8();
        while let Some((at, c)) = chars.peek().copied() {
            if c.is_alphanumeric() {
                key.extend(c.to_lowercase());
            } else if matches!(c, '\'' | '’') {
                key.push('\'');
                end = at + c.len_utf8();
                chars.next();
                break;
            } else if c == '-' && text[at + 1..].starts_with(char::is_alphanumeric) {
                key.push('-');
            } else {
                break;
            }
            end = at + c.len_utf8();
            chars.next();
        }
        words.push(TextWord { key, start, end, gap });
        gap = WordGap::Blank;
    }
    words
}

/// The keys of all words of a text.
pub fn keys_of(text: &str) -> Vec<String> {
    words_of(text, usize::MAX).into_iter().map(|word| word.key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_end_at_blanks_marks_and_apostrophes() {
        assert_eq!(keys_of("L’Image, d'un T-shirt!"), ["l'", "image", "d'", "un", "t-shirt"]);
        assert_eq!(keys_of("I'm - n/a"), ["i'", "m", "n", "a"]);
        assert_eq!(words_of("a b c", 2).len(), 2);
    }

    #[test]
    fn a_gap_is_its_strongest_mark() {
        let gaps: Vec<WordGap> = words_of("a b, c: d. e (f", 9).iter().map(|w| w.gap).collect();
        use WordGap::*;
        assert_eq!(gaps, [Blank, Blank, Comma, Colon, Stop, Mark]);
    }
}
