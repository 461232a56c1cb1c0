//! The words of models around a caption, in all languages: `data/*.toml`, compiled when they are
//! first used. A model that is asked in one language may announce its answer in another, so the
//! languages are not separated.

use crate::phrase::{PhraseSet, WordLists, WordSet};
use crate::words::keys_of;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use std::collections::HashSet;
use std::sync::LazyLock;

const FILES: [(&str, &str); 7] = [
    ("en", include_str!("../data/en.toml")),
    ("de", include_str!("../data/de.toml")),
    ("fr", include_str!("../data/fr.toml")),
    ("es", include_str!("../data/es.toml")),
    ("it", include_str!("../data/it.toml")),
    ("pt", include_str!("../data/pt.toml")),
    ("nl", include_str!("../data/nl.toml")),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LanguageFile {
    lists: WordLists,
    phrases: PhraseLists,
    words: PlainWords,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PhraseLists {
    opener: Vec<String>,
    existence: Vec<String>,
    #[serde(default)]
    tail: Vec<String>,
    mood: Vec<String>,
    agreement: Vec<String>,
    lead_in: Vec<String>,
    announcement: Vec<String>,
    refusal: Vec<String>,
    closing: Vec<String>,
    nothing: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainWords {
    label: Vec<String>,
    labelled: Vec<String>,
    about: Vec<String>,
    question: Vec<String>,
    answer: Vec<String>,
    user: Vec<String>,
    assistant: Vec<String>,
    option: Vec<String>,
    options: Vec<String>,
    note: Vec<String>,
    title: Vec<String>,
    characters: Vec<String>,
    vague: Vec<String>,
    filler: Vec<String>,
    alone: Vec<String>,
    abbreviation: Vec<String>,
    dangling: Vec<String>,
    grammar: Vec<String>,
    speaker: Vec<String>,
    negation: Vec<String>,
    task: Vec<String>,
    sent: Vec<String>,
    offer: Vec<String>,
    media: Vec<String>,
    first: Vec<String>,
}

/// Words of one language by which a sentence about the request is recognised.
pub struct SpeechSignals {
    pub speaker: WordSet,
    pub negation: WordSet,
    pub task: WordSet,
    pub sent: WordSet,
    pub offer: WordSet,
    pub media: WordSet,
    pub first: WordSet,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnyFile {
    extensions: Vec<String>,
    camera: Vec<String>,
    keys: Vec<String>,
    thinking: Vec<String>,
    answers: Vec<String>,
}

/// All that the files define.
pub struct Vocabulary {
    pub opener: PhraseSet,
    pub existence: PhraseSet,
    pub mood: PhraseSet,
    pub agreement: PhraseSet,
    /// A whole unit before a colon.
    pub lead_in: PhraseSet,
    pub announcement: PhraseSet,
    pub refusal: PhraseSet,
    pub closing: PhraseSet,
    pub nothing: PhraseSet,
    /// Ends of sentences after an opener, by language; lower case.
    pub tails: Vec<Vec<String>>,
    /// Words that name the caption.
    pub label: WordSet,
    /// Words of a label: those, and words around them.
    pub label_words: HashSet<String>,
    /// By language.
    pub speech: Vec<SpeechSignals>,
    pub options: WordSet,
    pub note: WordSet,
    pub title: WordSet,
    pub question: Regex,
    pub answer: Regex,
    pub user: Regex,
    pub assistant: Regex,
    /// "Option 1 (short):".
    pub option: Regex,
    /// "(118 characters)".
    pub counted: Regex,
    pub thought: Regex,
    pub thought_end: Regex,
    pub thought_open: Regex,
    pub answered: Regex,
    pub file_name: Regex,
    pub camera_name: Regex,
    pub vague: HashSet<String>,
    pub filler: HashSet<String>,
    pub alone: HashSet<String>,
    pub abbreviations: HashSet<String>,
    pub dangling: HashSet<String>,
    /// Words of the grammar of any language.
    pub grammar: HashSet<String>,
    /// Those and further words of its grammar, by language.
    pub function_words: Vec<(&'static str, HashSet<String>)>,
    /// Keys of a JSON answer, the likeliest first.
    pub keys: Vec<String>,
}

/// The vocabulary, loaded once per process.
pub fn vocabulary() -> &'static Vocabulary {
    static LOADED: LazyLock<Vocabulary> = LazyLock::new(load);
    &LOADED
}

fn load() -> Vocabulary {
    let files: Vec<LanguageFile> = FILES
        .iter()
        .map(|(name, text)| {
            toml::from_str(text).unwrap_or_else(|error| panic!("data/{name}.toml: {error}"))
        })
        .collect();
    let any: AnyFile = toml::from_str(include_str!("../data/any.toml"))
        .unwrap_or_else(|error| panic!("data/any.toml: {error}"));
    let phrases = |of: fn(&PhraseLists) -> &Vec<String>| {
        let mut set = PhraseSet::default();
        for (language, file) in files.iter().enumerate() {
            let mut lists = file.lists.clone();
            lists.insert("label".into(), file.words.label.clone());
            lists.insert("options".into(), file.words.options.clone());
            lists.insert("labelled".into(), file.words.labelled.clone());
            for phrase in of(&file.phrases) {
                set.add(phrase, &lists, language);
            }
        }
        set
    };
    let words = |of: fn(&PlainWords) -> &Vec<String>| -> HashSet<String> {
        files.iter().flat_map(|file| of(&file.words)).cloned().collect()
    };
    let set = |of: fn(&PlainWords) -> &Vec<String>| {
        WordSet::new(files.iter().flat_map(|file| of(&file.words)).map(String::as_str))
    };
    let speaker = |of: fn(&PlainWords) -> &Vec<String>| {
        let words = alternatives(words(of));
        regex(&format!(r"(?:^|\n|[.?!>*]\s)[#*\s]*{words}\s*[:：]\s*"))
    };
    let label_words: [fn(&PlainWords) -> &Vec<String>; 3] =
        [|w| &w.label, |w| &w.labelled, |w| &w.about];
    let tags = alternatives(any.thinking);
    Vocabulary {
        opener: phrases(|p| &p.opener),
        existence: phrases(|p| &p.existence),
        mood: phrases(|p| &p.mood),
        agreement: phrases(|p| &p.agreement),
        lead_in: phrases(|p| &p.lead_in),
        announcement: phrases(|p| &p.announcement),
        refusal: phrases(|p| &p.refusal),
        closing: phrases(|p| &p.closing),
        nothing: phrases(|p| &p.nothing),
        tails: files.iter().map(|file| file.phrases.tail.clone()).collect(),
        label: set(|w| &w.label),
        label_words: label_words
            .iter()
            .flat_map(|of| files.iter().flat_map(|file| of(&file.words)))
            .flat_map(|words| keys_of(words))
            .collect(),
        speech: files
            .iter()
            .map(|file| {
                let set = |words: &Vec<String>| WordSet::new(words.iter().map(String::as_str));
                let words = &file.words;
                SpeechSignals {
                    speaker: set(&words.speaker),
                    negation: set(&words.negation),
                    task: set(&words.task),
                    sent: set(&words.sent),
                    offer: set(&words.offer),
                    media: set(&words.media),
                    first: set(&words.first),
                }
            })
            .collect(),
        options: set(|w| &w.options),
        note: set(|w| &w.note),
        title: set(|w| &w.title),
        question: speaker(|w| &w.question),
        answer: speaker(|w| &w.answer),
        user: speaker(|w| &w.user),
        assistant: speaker(|w| &w.assistant),
        option: regex(&format!(
            r"^{}\s*(?:[0-9]{{1,2}}|[abc])\s*(?:\([^)]{{0,40}}\))?\s*[:.–—-]\s*",
            alternatives(words(|w| &w.option))
        )),
        counted: regex(&format!(
            r"\s*\(\s*[~≈]?\s*[0-9]{{1,4}}\s*{}\s*\)",
            alternatives(words(|w| &w.characters))
        )),
        thought: regex(&format!(
            r"(?s)<{tags}>.*?</{tags}>|\[think\].*?\[/think\]|◁think▷.*?◁/think▷"
        )),
        thought_end: regex(&format!(r"(?s)^.*</{tags}>|^.*◁/think▷")),
        thought_open: regex(&format!(r"<{tags}>|◁think▷|\[think\]")),
        answered: regex(&format!(
            concat!(
                r"(?s)<{0}>(.*?)(?:</{0}>|$)",
                r"|<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|$)",
                r"|<\|channel\|>final<\|message\|>(.*)$"
            ),
            alternatives(any.answers)
        )),
        file_name: regex(&format!(r"\.{}$", alternatives(any.extensions))),
        camera_name: regex(&format!(
            concat!(
                r"^{}[\s_-]*\(?[0-9]+(?:[\s_().:-]*",
                r"(?:[0-9]+|wa[0-9]+|at|am|pm|um|copy|kopie|edited|final|v[0-9]+))*[)\s]*$"
            ),
            alternatives(any.camera)
        )),
        vague: words(|w| &w.vague),
        filler: words(|w| &w.filler),
        alone: words(|w| &w.alone),
        abbreviations: words(|w| &w.abbreviation),
        dangling: words(|w| &w.dangling),
        grammar: words(|w| &w.dangling).into_iter().chain(words(|w| &w.grammar)).collect(),
        function_words: FILES
            .iter()
            .zip(&files)
            .map(|((language, _), file)| {
                let words = file.words.dangling.iter().chain(&file.words.grammar);
                (*language, words.cloned().collect())
            })
            .collect(),
        keys: any.keys,
    }
}

/// How many words of a text serve the grammar of a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FunctionWords {
    /// The language, as in ISO 639-1.
    pub language: &'static str,
    /// Articles, prepositions and conjunctions of the language.
    pub all: usize,
    /// Those that the other languages here do not have.
    pub own: usize,
}

/// Counts the articles, prepositions and conjunctions in a text, for each language of the
/// vocabulary.
pub fn function_words(text: &str) -> Vec<FunctionWords> {
    let languages = &vocabulary().function_words;
    let keys = keys_of(text);
    languages
        .iter()
        .map(|(language, words)| {
            let mine = || keys.iter().filter(|key| words.contains(*key));
            let shared = |key: &String| languages.iter().filter(|(_, w)| w.contains(key)).count();
            let own = mine().filter(|key| shared(key) == 1).count();
            FunctionWords { language, all: mine().count(), own }
        })
        .collect()
}

/// One of these words, the longest first.
fn alternatives(words: impl IntoIterator<Item = String>) -> String {
    let mut words: Vec<String> = words.into_iter().map(|word| regex::escape(&word)).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    format!("(?:{})", words.join("|"))
}

fn regex(expression: &str) -> Regex {
    RegexBuilder::new(expression)
        .case_insensitive(true)
        .build()
        .unwrap_or_else(|error| panic!("vocabulary: {error}: {expression}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vocabulary_file_compiles() {
        assert_eq!(vocabulary().tails.len(), FILES.len());
        assert!(vocabulary().vague.contains("foto"));
    }
}
