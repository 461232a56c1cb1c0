//! Phrases of the vocabulary files (`data/*.toml`), and where they match.
//!
//! A phrase is words with blanks between them; matching ignores case, commas between words and the
//! shape of apostrophes.
//!
//! | written | matches |
//! |---|---|
//! | `a|b|c` | one of these; `_` stands for a blank inside of one |
//! | `{name}` | one of the words of that list of the same file; also among alternatives |
//! | `word?`, `{name}*` | the word or nothing; any number of them |
//! | `..` | at most twelve words of the same sentence |
//! | `,` | a comma or colon, which otherwise may be missing |
//! | `>` | what follows must be there, but is not part of the match |
//! | `$` | the end of the text |

use crate::words::{TextWord, WordGap, keys_of, words_of};
use std::collections::{BTreeMap, HashMap};

/// Lists of words by name.
pub type WordLists = BTreeMap<String, Vec<String>>;

/// Most words that a phrase can take.
const MAX_WORDS: usize = 40;
/// Most words of `..`.
const MAX_GAP: usize = 12;

/// Words or sequences of words, by the first.
#[derive(Debug, Clone, Default)]
pub struct WordSet(HashMap<String, Vec<Vec<String>>>);

impl WordSet {
    /// The set of these words and sequences.
    pub fn new<'a>(all: impl IntoIterator<Item = &'a str>) -> WordSet {
        let mut set: HashMap<String, Vec<Vec<String>>> = HashMap::new();
        for sequence in all {
            let keys = keys_of(&sequence.replace('_', " "));
            if let Some((first, rest)) = keys.split_first() {
                set.entry(first.clone()).or_default().push(rest.to_vec());
            }
        }
        WordSet(set)
    }

    /// The numbers of words that elements of the set take at the start of `words`.
    pub fn lengths(&self, words: &[TextWord]) -> Vec<usize> {
        let Some((first, after)) = words.split_first() else { return Vec::new() };
        let Some(rests) = self.0.get(&first.key) else { return Vec::new() };
        let fits = |rest: &&Vec<String>| {
            rest.len() <= after.len()
                && rest.iter().zip(after).all(|(key, word)| *key == word.key && joins(word.gap))
        };
        rests.iter().filter(fits).map(|rest| rest.len() + 1).collect()
    }

    /// Whether an element of the set is anywhere in `words`.
    pub fn is_in(&self, words: &[TextWord]) -> bool {
        (0..words.len()).any(|at| !self.lengths(&words[at..]).is_empty())
    }
}

/// Words of a phrase may have a comma between them; `n/a` has a stroke.
fn joins(gap: WordGap) -> bool {
    matches!(gap, WordGap::Blank | WordGap::Comma | WordGap::Mark)
}

#[derive(Debug, Clone)]
enum PhrasePart {
    Words { set: WordSet, optional: bool, repeated: bool },
    Gap,
    Comma,
    Ahead,
    End,
}

/// A compiled phrase.
#[derive(Debug, Clone)]
pub struct WordPhrase(Vec<PhrasePart>);

impl WordPhrase {
    /// Compiles a phrase.
    ///
    /// # Panics
    /// It names a list that does not exist. A test loads every file.
    pub fn new(phrase: &str, lists: &WordLists) -> WordPhrase {
        WordPhrase(phrase.split_whitespace().map(|token| part(token, lists)).collect())
    }

    /// First words of the texts that it may match; `None` if that is any word.
    fn first_words(&self) -> Option<Vec<&String>> {
        let mut all = Vec::new();
        for part in &self.0 {
            match part {
                PhrasePart::Words { set, optional, .. } => {
                    all.extend(set.0.keys());
                    if !optional {
                        return Some(all);
                    }
                }
                PhrasePart::Gap => return None,
                _ => {}
            }
        }
        Some(all)
    }

    /// The number of words of the longest match at the start, and whether it ends with a comma.
    fn longest(&self, words: &[TextWord]) -> Option<(usize, bool)> {
        longest(&self.0, words, 0, false)
    }
}

fn part(token: &str, lists: &WordLists) -> PhrasePart {
    match token {
        ".." => return PhrasePart::Gap,
        "," => return PhrasePart::Comma,
        ">" => return PhrasePart::Ahead,
        "$" => return PhrasePart::End,
        _ => {}
    }
    let bare = token.strip_suffix(['?', '*']).unwrap_or(token);
    let words: Vec<&str> = bare
        .split('|')
        .flat_map(|part| match part.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) => {
                let list = lists.get(name).unwrap_or_else(|| panic!("no list {name}"));
                list.iter().map(String::as_str).collect()
            }
            None => vec![part],
        })
        .collect();
    PhrasePart::Words {
        set: WordSet::new(words),
        optional: bare != token,
        repeated: token.ends_with('*'),
    }
}

/// The longest match of `parts` from word `at`.
fn longest(
    parts: &[PhrasePart],
    words: &[TextWord],
    at: usize,
    comma: bool,
) -> Option<(usize, bool)> {
    let Some((first, rest)) = parts.split_first() else { return Some((at, comma)) };
    let gap = words.get(at).map_or(WordGap::Stop, |word| word.gap);
    match first {
        PhrasePart::End => (at == words.len()).then_some((at, comma)),
        PhrasePart::Ahead => longest(rest, words, at, comma).map(|_| (at, comma)),
        PhrasePart::Comma => {
            let is = matches!(gap, WordGap::Comma | WordGap::Colon);
            is.then(|| longest(rest, words, at, true)).flatten()
        }
        PhrasePart::Gap => (0..=MAX_GAP)
            .take_while(|skipped| {
                at + skipped <= words.len()
                    && (0..*skipped).all(|word| {
                        at + word == 0
                            || words[at + word].gap < WordGap::Stop
                                && words[at + word].gap != WordGap::Colon
                    })
            })
            .filter_map(|skipped| longest(rest, words, at + skipped, false))
            .max(),
        PhrasePart::Words { set, optional, repeated } => {
            let joined = at == 0 || joins(gap) || comma;
            let lengths = if joined { set.lengths(&words[at.min(words.len())..]) } else { vec![] };
            let next = if *repeated { parts } else { rest };
            let taken =
                lengths.into_iter().filter_map(|n| longest(next, words, at + n, false)).max();
            let skipped = optional.then(|| longest(rest, words, at, comma)).flatten();
            taken.max(skipped)
        }
    }
}

/// Phrases of one kind in all languages.
#[derive(Debug, Clone, Default)]
pub struct PhraseSet {
    phrases: Vec<(WordPhrase, usize)>,
    by_word: HashMap<String, Vec<usize>>,
    any_word: Vec<usize>,
}

/// A match at the start of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhraseMatch {
    /// Bytes up to the next word.
    pub end: usize,
    /// Whether nothing but punctuation follows.
    pub whole: bool,
    /// The position of the phrase's language.
    pub language: usize,
}

impl PhraseSet {
    /// Adds a phrase of a language.
    pub fn add(&mut self, phrase: &str, lists: &WordLists, language: usize) {
        let phrase = WordPhrase::new(phrase, lists);
        let at = self.phrases.len();
        match phrase.first_words() {
            Some(words) => {
                for word in words {
                    let entry = self.by_word.entry(word.clone()).or_default();
                    if entry.last() != Some(&at) {
                        entry.push(at);
                    }
                }
            }
            None => self.any_word.push(at),
        }
        self.phrases.push((phrase, language));
    }

    /// The longest phrase at the start of `text`.
    pub fn at_start(&self, text: &str) -> Option<PhraseMatch> {
        let first = words_of(text, 1).pop()?;
        let named = self.by_word.get(&first.key).map_or(&[][..], Vec::as_slice);
        if named.is_empty() && self.any_word.is_empty() {
            return None;
        }
        let words = words_of(text, MAX_WORDS);
        // Marks before the first word belong to the text, except inverted ones.
        if text[..words[0].start].contains(|c: char| !"¡¿ ".contains(c)) {
            return None;
        }
        let (count, language) = named
            .iter()
            .chain(&self.any_word)
            .filter_map(|at| {
                let (phrase, language) = &self.phrases[*at];
                phrase.longest(&words).map(|(count, _)| (count, *language))
            })
            .max_by_key(|(count, language)| (*count, std::cmp::Reverse(*language)))?;
        let whole = count == words.len();
        let end = match count.checked_sub(1) {
            Some(last) => {
                let after = &text[words[last].end..];
                text.len() - after.trim_start_matches([' ', ',', ':', '\n', '\u{a0}']).len()
            }
            None => 0,
        };
        Some(PhraseMatch { end, whole, language })
    }

    /// Whether a phrase is at the start of `text`.
    pub fn starts(&self, text: &str) -> bool {
        self.at_start(text).is_some()
    }

    /// Whether a phrase is the whole `text` but for punctuation.
    pub fn is_whole(&self, text: &str) -> bool {
        self.at_start(text).is_some_and(|found| found.whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<'a>(phrase: &str, text: &'a str) -> Option<&'a str> {
        let lists = WordLists::from([
            ("medium".to_string(), vec!["image".to_string(), "photo".to_string()]),
            ("the".to_string(), vec!["l'".to_string(), "une".to_string()]),
        ]);
        let mut set = PhraseSet::default();
        set.add(phrase, &lists, 0);
        set.at_start(text).map(|found| text[..found.end].trim_end_matches([' ', ',', ':']))
    }

    #[test]
    fn a_phrase_matches_whole_words() {
        assert_eq!(found("a|the {medium} of", "The Image, of a cup"), Some("The Image, of"));
        assert_eq!(found("a|the {medium} of", "The images of a cup"), None);
        assert_eq!(found("{the} {medium} montre", "L’image montre un"), Some("L’image montre"));
        assert_eq!(found("close_up? {medium}", "close up photo"), Some("close up photo"));
        assert_eq!(found("close_up? {medium}", "photo"), Some("photo"));
        assert_eq!(found("{medium}|file of", "photo of"), Some("photo of"));
        assert_eq!(found("{medium}* of", "photo image of"), Some("photo image of"));
    }

    #[test]
    fn gaps_and_conditions_are_bounded_by_the_sentence() {
        let phrase = "here is .. {medium}";
        assert_eq!(found(phrase, "Here is my photo: x"), Some("Here is my photo"));
        assert_eq!(found(phrase, "Here is one. A photo: x"), None);
        assert_eq!(found("in {medium} , we", "In image, we"), Some("In image, we"));
        assert_eq!(found("in {medium} , we", "In image we"), None);
        assert_eq!(found("in > a|the", "in the"), Some("in"));
        assert_eq!(found("in > a|the", "in my"), None);
        assert_eq!(found("none $", "None."), Some("None"));
        assert_eq!(found("none $", "None of it"), None);
    }
}
