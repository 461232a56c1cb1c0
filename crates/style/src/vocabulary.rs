//! The words of models around a caption, in all languages: `data/*.toml`, compiled when they are
//! first used. A model that is asked in one language may announce its answer in another, so the
//! languages are not separated.

use crate::phrase::{WordLists, alternatives, expression};
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

/// Memory of one compiled expression, bytes.
const EXPRESSION_SIZE: usize = 64 << 20;

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

/// Phrases of one kind, an expression per language.
pub struct PhraseSet(Vec<(Regex, usize)>);

impl PhraseSet {
    /// The longest phrase at the start of `text`: bytes that it takes, and the language's position.
    pub fn at_start(&self, text: &str) -> Option<(usize, usize)> {
        let mut best: Option<(usize, usize)> = None;
        for (regex, language) in &self.0 {
            let end = regex
                .captures(text)
                .and_then(|found| found.iter().skip(1).flatten().map(|group| group.end()).max());
            if let Some(end) = end
                && best.is_none_or(|(longest, _)| end > longest)
            {
                best = Some((end, *language));
            }
        }
        best
    }

    /// Whether a phrase is at the start of `text`.
    pub fn starts(&self, text: &str) -> bool {
        self.0.iter().any(|(regex, _)| regex.is_match(text))
    }
}

/// All that the files define.
pub struct Vocabulary {
    pub opener: PhraseSet,
    pub existence: PhraseSet,
    pub mood: PhraseSet,
    /// A whole sentence of small talk.
    pub agreement: PhraseSet,
    /// The same at the start of a sentence.
    pub agreement_start: PhraseSet,
    pub announcement: PhraseSet,
    pub refusal: PhraseSet,
    pub closing: PhraseSet,
    pub nothing: PhraseSet,
    /// Ends of sentences after an opener, by language.
    pub tails: Vec<Option<Regex>>,
    /// A text of words of a label alone.
    pub label: Regex,
    /// A label with a word that names the caption, anywhere.
    pub names_label: Regex,
    pub question: Regex,
    pub answer: Regex,
    pub user: Regex,
    pub assistant: Regex,
    pub option: Regex,
    pub options: Regex,
    pub note: Regex,
    pub title: Regex,
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
    let set = |phrases: fn(&PhraseLists) -> &Vec<String>, end: &str| {
        let mut regexes = Vec::new();
        for (language, file) in files.iter().enumerate() {
            let mut lists = file.lists.clone();
            lists.insert("label".into(), file.words.label.clone());
            lists.insert("labelled".into(), file.words.labelled.clone());
            let all: Vec<String> =
                phrases(&file.phrases).iter().map(|phrase| expression(phrase, &lists)).collect();
            regexes.push((regex(&format!("^(?:{}){end}", all.join("|"))), language));
        }
        PhraseSet(regexes)
    };
    let words = |words: fn(&PlainWords) -> &Vec<String>| {
        let all = files.iter().flat_map(|file| words(&file.words)).map(String::as_str);
        alternatives(all.collect::<HashSet<_>>().into_iter())
    };
    let hashed = |words: fn(&PlainWords) -> &Vec<String>| -> HashSet<String> {
        files.iter().flat_map(|file| words(&file.words)).cloned().collect()
    };
    let plain = |words: &[String]| alternatives(words.iter().map(String::as_str));
    let label = words(|w| &w.label);
    let around = format!(r"(?:(?:{}|{})\b[\s,]*)*?", words(|w| &w.labelled), words(|w| &w.about));
    let speaker =
        |words: String| regex(&format!(r"(?:^|\n|[.?!>*]\s)[#*\s]*(?:{words})\s*[:：]\s*"));
    let heading = |words: String| regex(&format!(r"^(?:{words})\b[^:\n.]{{0,40}}[:：]\s*"));
    let tags = plain(&any.thinking);
    Vocabulary {
        opener: set(|p| &p.opener, ""),
        existence: set(|p| &p.existence, ""),
        mood: set(|p| &p.mood, ""),
        agreement: set(|p| &p.agreement, r"[\s.,!…:;]*$"),
        agreement_start: set(|p| &p.agreement, ""),
        announcement: set(|p| &p.announcement, ""),
        refusal: set(|p| &p.refusal, ""),
        closing: set(|p| &p.closing, ""),
        nothing: set(|p| &p.nothing, r"[\s.!…]*$"),
        tails: files
            .iter()
            .map(|file| {
                let tail = &file.phrases.tail;
                (!tail.is_empty()).then(|| regex(&format!(r"\s+{}$", plain(tail))))
            })
            .collect(),
        label: regex(&format!(r"^{around}{label}\b[\s,]*{around}$")),
        names_label: regex(&format!(r"\b{label}\b")),
        question: speaker(words(|w| &w.question)),
        answer: speaker(words(|w| &w.answer)),
        user: speaker(words(|w| &w.user)),
        assistant: speaker(words(|w| &w.assistant)),
        option: regex(&format!(
            r"^{}\s*(?:\d{{1,2}}|[abc])\b\s*(?:\([^)]{{0,40}}\))?\s*[:.–—-]\s*",
            words(|w| &w.option)
        )),
        options: regex(&format!(r"\b{}\b", words(|w| &w.options))),
        note: heading(words(|w| &w.note)),
        title: regex(&format!(r"^{}\s*[:：]\s*", words(|w| &w.title))),
        counted: regex(&format!(r"\s*\(\s*[~≈]?\s*\d{{1,4}}\s*{}\s*\)", words(|w| &w.characters))),
        thought: regex(&format!(
            r"(?s)<{tags}>.*?</{tags}>|\[think\].*?\[/think\]|◁think▷.*?◁/think▷"
        )),
        thought_end: regex(&format!(r"(?s)^.*</{tags}>|^.*◁/think▷")),
        thought_open: regex(&format!(r"<{tags}>|◁think▷|\[think\]")),
        answered: regex(&format!(
            r"(?s)<{0}>(.*?)(?:</{0}>|$)|<\|begin_of_box\|>(.*?)(?:<\|end_of_box\|>|$)|<\|channel\|>final<\|message\|>(.*)$",
            plain(&any.answers)
        )),
        file_name: regex(&format!(r"\.{}$", plain(&any.extensions))),
        camera_name: regex(&format!(
            r"^{}[\s_-]*\(?\d+(?:[\s_().:-]*(?:\d+|wa\d+|at|am|pm|um|copy|kopie|edited|final|v\d+))*[)\s]*$",
            plain(&any.camera)
        )),
        vague: hashed(|w| &w.vague),
        filler: hashed(|w| &w.filler),
        alone: hashed(|w| &w.alone),
        abbreviations: hashed(|w| &w.abbreviation),
        dangling: hashed(|w| &w.dangling),
        keys: any.keys,
    }
}

fn regex(expression: &str) -> Regex {
    RegexBuilder::new(expression)
        .case_insensitive(true)
        .size_limit(EXPRESSION_SIZE)
        .build()
        .unwrap_or_else(|error| panic!("vocabulary: {error}: {expression}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vocabulary_file_compiles() {
        assert_eq!(vocabulary().opener.0.len(), FILES.len());
        assert!(vocabulary().vague.contains("foto"));
    }

    #[test]
    fn a_label_consists_of_its_words_alone() {
        let label = &vocabulary().label;
        for text in ["Alt text", "Detailed description of the image", "Meta description"] {
            assert!(label.is_match(text), "{text}");
        }
        for text in ["Description card", "Caption contest", "The image", ""] {
            assert!(!label.is_match(text), "{text}");
        }
    }
}
