//! A text as patterns are compared with it: without case, one form of accents, single blanks. Keeps
//! the positions of the original.

use caseless::default_case_fold_str;
use std::collections::HashSet;
use unicode_normalization::char::decompose_canonical;
use unicode_segmentation::UnicodeSegmentation;

/// A folded text.
pub struct FoldedText {
    /// What is compared.
    pub folded: String,
    /// The byte of the original for each byte of `folded`, and for its end. `None` inside of what
    /// one character became.
    origin: Vec<Option<usize>>,
    /// Bytes of the original between words.
    boundaries: HashSet<usize>,
}

impl FoldedText {
    /// Folds a text.
    pub fn new(text: &str) -> FoldedText {
        let (mut folded, mut origin) = (String::new(), Vec::new());
        let mut boundaries: HashSet<usize> =
            text.split_word_bound_indices().map(|(at, _)| at).collect();
        boundaries.insert(text.len());
        let mut chars = text.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            if c.is_whitespace() {
                // One blank for a run; its end is a boundary, too.
                while chars.peek().is_some_and(|(_, next)| next.is_whitespace()) {
                    chars.next();
                }
                push(" ", at, &mut folded, &mut origin);
                continue;
            }
            if is_apostrophe(c) {
                // "l'homme" and "Acme's" are one word to Unicode.
                boundaries.insert(at);
                boundaries.insert(at + c.len_utf8());
            }
            push(&fold(c), at, &mut folded, &mut origin);
        }
        origin.push(Some(text.len()));
        FoldedText { folded, origin, boundaries }
    }

    /// The bytes of the original for these of `folded`, if they are whole words.
    pub fn whole_words(&self, from: usize, to: usize) -> Option<(usize, usize)> {
        let (start, end) = (self.origin[from]?, self.origin[to]?);
        (self.boundaries.contains(&start) && self.boundaries.contains(&end)).then_some((start, end))
    }
}

/// A pattern, folded like a text.
pub fn folded(pattern: &str) -> String {
    FoldedText::new(pattern.trim()).folded
}

fn push(folded: &str, at: usize, out: &mut String, origin: &mut Vec<Option<usize>>) {
    origin.push(Some(at));
    origin.extend(std::iter::repeat_n(None, folded.len() - 1));
    out.push_str(folded);
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’' | 'ʼ')
}

fn fold(c: char) -> String {
    if is_apostrophe(c) {
        return "'".into();
    }
    let decomposed = |text: &str| {
        let mut out = String::new();
        text.chars().for_each(|c| decompose_canonical(c, |part| out.push(part)));
        out
    };
    let mut own = String::new();
    decompose_canonical(c, |part| own.push(part));
    let folded = decomposed(&default_case_fold_str(&own));
    // Never empty, so that every character has a position.
    if folded.is_empty() { c.to_string() } else { folded }
}
