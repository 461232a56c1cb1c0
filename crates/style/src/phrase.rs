//! Phrases of the vocabulary files (`data/*.toml`) as regular expressions.
//!
//! A phrase is words with single blanks between them; matching ignores case, commas between words
//! and the shape of apostrophes.
//!
//! | written | matches |
//! |---|---|
//! | `a|b|c` | one of these; `_` stands for a blank inside of one |
//! | `{name}` | one of the words of that list of the same file |
//! | `word?`, `{name}*` | the word or nothing; any number of them |
//! | `..` | at most twelve words of the same sentence |
//! | `,` | a comma or colon, which otherwise may be missing |
//! | `>` | what follows must be there, but is not part of the match |
//! | `$` | the end of the text |

use std::collections::BTreeMap;

/// Lists of words by name.
pub type WordLists = BTreeMap<String, Vec<String>>;

/// Between two words: blanks, with or without a comma.
const GAP: &str = r"[\s,]*";

/// The regular expression of a phrase, with one group around what matches.
///
/// # Panics
/// The phrase names a list that does not exist. A test loads every file.
pub fn expression(phrase: &str, lists: &WordLists) -> String {
    let mut out = String::from("(");
    let mut open = true;
    for token in phrase.split_whitespace() {
        match token {
            ".." => out.push_str(r"(?:[^\s.!?:;]+[\s,;]*){0,12}?"),
            "," => out.push_str(r"[,:]\s*"),
            ">" => {
                out.push(')');
                open = false;
            }
            "$" => out.push_str(r"[\s.!?…]*$"),
            _ => out.push_str(&word(token, lists)),
        }
    }
    if open {
        out.push(')');
    }
    out
}

fn word(token: &str, lists: &WordLists) -> String {
    let (token, repeat) = match token.strip_suffix(['?', '*']) {
        Some(bare) => (bare, &token[bare.len()..]),
        None => (token, ""),
    };
    let words: Vec<&str> = token
        .split('|')
        .flat_map(|part| match part.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
            Some(name) => {
                let list = lists.get(name).unwrap_or_else(|| panic!("no list {name}"));
                list.iter().map(String::as_str).collect()
            }
            None => vec![part],
        })
        .collect();
    let any = alternatives(words.into_iter());
    format!(r"(?:{any}(?:\b|$){GAP}){repeat}")
}

/// One of these words, the longest first.
pub fn alternatives<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut words: Vec<String> = words.map(literal).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    format!("(?:{})", words.join("|"))
}

fn literal(word: &str) -> String {
    let blank = word.replace('_', " ");
    regex::escape(&blank).replace('\'', "['’]").replace(' ', r"[\s]+")
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    fn found<'a>(phrase: &str, text: &'a str) -> Option<&'a str> {
        let lists = WordLists::from([
            ("medium".to_string(), vec!["image".to_string(), "photo".to_string()]),
            ("the".to_string(), vec!["l'".to_string(), "une".to_string()]),
        ]);
        let regex = Regex::new(&format!("(?i)^{}", expression(phrase, &lists))).unwrap();
        regex.captures(text).map(|found| found.get(1).unwrap().as_str())
    }

    #[test]
    fn a_phrase_matches_whole_words() {
        assert_eq!(found("a|the {medium} of", "The Image, of a cup"), Some("The Image, of "));
        assert_eq!(found("a|the {medium} of", "The images of a cup"), None);
        assert_eq!(found("{the} {medium} montre", "L’image montre un"), Some("L’image montre "));
        assert_eq!(found("close_up? {medium}", "close up photo"), Some("close up photo"));
        assert_eq!(found("close_up? {medium}", "photo"), Some("photo"));
        assert_eq!(found("{medium}|file of", "photo of"), Some("photo of"));
    }

    #[test]
    fn gaps_and_conditions_are_bounded_by_the_sentence() {
        assert_eq!(
            found("here is .. {medium} ,", "Here is my photo: x"),
            Some("Here is my photo: ")
        );
        assert_eq!(found("here is .. {medium} ,", "Here is one. A photo: x"), None);
        assert_eq!(found("in > a|the", "in the"), Some("in "));
        assert_eq!(found("in > a|the", "in my"), None);
        assert_eq!(found("none $", "None."), Some("None."));
        assert_eq!(found("none $", "None of it"), None);
    }
}
