//! The lint of texts, whether models or users wrote them. The first five rules are those of
//! GitHub's accessibility scanner (`accessibility-scanner-alt-text-plugin` 1.1.0): what it reports
//! is reported here, too.

use crate::faults::{markup_in, stuffing_in};
use pg_caption_style::{
    CaptionStyle, EmptyText, TextEnding, TextRefusal, empty_text, postprocess, stock_opener,
};

/// Most neighbours that a text is compared with.
pub const MAX_NEIGHBOURS: usize = 64;

/// A rule of the lint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LintRule {
    /// There is no text, or blanks only. An empty text is a decorative picture.
    MissingText,
    /// Words without content: "Image".
    VagueWords,
    /// The name of a file.
    FileName,
    /// A neighbour has the same text.
    RepeatedText,
    /// What stands for a missing text: "TODO".
    PlaceHolder,
    /// A URL.
    WebAddress,
    /// An article number alone.
    ArticleNumber,
    /// Longer than the style allows.
    TooLong,
    /// Shorter than the style allows.
    TooShort,
    /// More sentences than the style allows.
    TooManySentences,
    /// A stock opener: "Image of".
    StockOpener,
    /// Keywords instead of a description.
    KeywordStuffing,
    /// HTML, markdown or control characters.
    TextMarkup,
    /// Words of a model about its answer.
    ModelTalk,
}

impl LintRule {
    /// All rules, those of GitHub first.
    pub const ALL: [LintRule; 14] = [
        LintRule::MissingText,
        LintRule::VagueWords,
        LintRule::FileName,
        LintRule::RepeatedText,
        LintRule::PlaceHolder,
        LintRule::WebAddress,
        LintRule::ArticleNumber,
        LintRule::TooLong,
        LintRule::TooShort,
        LintRule::TooManySentences,
        LintRule::StockOpener,
        LintRule::KeywordStuffing,
        LintRule::TextMarkup,
        LintRule::ModelTalk,
    ];

    /// The stable name of the rule in SQL.
    pub fn id(self) -> &'static str {
        match self {
            LintRule::MissingText => "missing",
            LintRule::VagueWords => "vague",
            LintRule::FileName => "file_name",
            LintRule::RepeatedText => "repeated",
            LintRule::PlaceHolder => "placeholder",
            LintRule::WebAddress => "web_address",
            LintRule::ArticleNumber => "article_number",
            LintRule::TooLong => "too_long",
            LintRule::TooShort => "too_short",
            LintRule::TooManySentences => "too_many_sentences",
            LintRule::StockOpener => "opener",
            LintRule::KeywordStuffing => "stuffing",
            LintRule::TextMarkup => "markup",
            LintRule::ModelTalk => "model_talk",
        }
    }

    /// The rule of GitHub's scanner that reports the same.
    pub fn github(self) -> Option<&'static str> {
        match self {
            LintRule::MissingText => Some("missing-alt-text"),
            LintRule::VagueWords => Some("vague-alt-text"),
            LintRule::FileName => Some("filename-alt-text"),
            LintRule::RepeatedText => Some("repeated-alt-text"),
            LintRule::PlaceHolder => Some("placeholder-alt-text"),
            _ => None,
        }
    }
}

/// A broken rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LintFinding {
    /// Which rule.
    pub rule: LintRule,
    /// What is wrong and what helps, as a message: lower case, no full stop.
    pub message: String,
    /// First character that is meant, from 1; 0 if there is no text.
    pub position: usize,
}

/// The rules that `text` breaks. `neighbours` are the texts of pictures next to it on a page, at
/// most [`MAX_NEIGHBOURS`] of them are compared. An empty text is a decorative picture and breaks
/// none.
///
/// ```
/// use pg_caption_publish::lint;
///
/// let style = pg_caption_style::builtin("concise").unwrap();
/// let found = lint(Some("Image of a red cup"), &style, &[]);
/// assert_eq!((found[0].rule.id(), found[0].position), ("opener", 1));
/// assert!(lint(Some("Red cup on a table"), &style, &["Blue cup on a table"]).is_empty());
/// ```
pub fn lint(text: Option<&str>, style: &CaptionStyle, neighbours: &[&str]) -> Vec<LintFinding> {
    let Some(text) = text.filter(|text| text.is_empty() || !text.trim().is_empty()) else {
        return vec![LintFinding {
            rule: LintRule::MissingText,
            message: "there is no text: describe the picture, or use '' if it is decorative".into(),
            position: 0,
        }];
    };
    if text.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut add = |rule: LintRule, byte: usize, message: String| {
        let position = text[..byte].chars().count() + 1;
        found.push(LintFinding { rule, message, position });
    };
    let start = text.len() - text.trim_start().len();
    if let Some((rule, message)) = empty_text(text).map(of_empty) {
        add(rule, start, message.into());
    } else {
        if stock_opener(&text[start..]).is_some() {
            let message = "the text begins with a stock opener: screen readers announce images";
            add(LintRule::StockOpener, start, message.into());
        }
        if let Err(TextRefusal::Declined) = postprocess(text, style, TextEnding::Complete) {
            let message = "the text is a model's refusal: write the text";
            add(LintRule::ModelTalk, start, message.into());
        } else if let Some(at) = talk_in(text, style) {
            let message = "the text has words of a model about its answer: remove them";
            add(LintRule::ModelTalk, at, message.into());
        }
        if let Some((at, word)) = stuffing_in(text) {
            let message =
                format!("the text repeats keywords (\"{word}\"): describe the picture once");
            add(LintRule::KeywordStuffing, at, message);
        }
    }
    let rules = &style.rules;
    let chars = text.chars().count();
    if let Some((at, _)) = text.char_indices().nth(rules.max_chars as usize) {
        let message =
            format!("the text has {chars} characters, the style allows {}", rules.max_chars);
        add(LintRule::TooLong, at, message);
    }
    if chars < rules.min_chars as usize {
        let message =
            format!("the text has {chars} characters, the style asks for {}", rules.min_chars);
        add(LintRule::TooShort, start, message);
    }
    let sentences = pg_caption_style::sentences(text);
    if let Some(extra) = rules.max_sentences.and_then(|max| sentences.get(max as usize)) {
        let at = extra.as_ptr() as usize - text.as_ptr() as usize;
        let message = format!("the text has {} sentences, fewer are allowed", sentences.len());
        add(LintRule::TooManySentences, at, message);
    }
    if let Some(at) = markup_in(text) {
        let message = "the text has HTML, markdown or control characters: remove them";
        add(LintRule::TextMarkup, at, message.into());
    }
    let own = normal(text);
    if neighbours.iter().take(MAX_NEIGHBOURS).any(|other| normal(other) == own) {
        let message = "a picture next to it has the same text: name what is different, or use ''";
        add(LintRule::RepeatedText, start, message.into());
    }
    found
}

fn of_empty(kind: EmptyText) -> (LintRule, &'static str) {
    match kind {
        EmptyText::FileName => (LintRule::FileName, "the text is the name of a file"),
        EmptyText::WebAddress => (LintRule::WebAddress, "the text is a URL"),
        EmptyText::ArticleNumber => (LintRule::ArticleNumber, "the text is an article number"),
        EmptyText::PlaceHolder => (LintRule::PlaceHolder, "the text is a placeholder"),
        EmptyText::VagueWords => {
            (LintRule::VagueWords, "the text is too vague: name what is shown")
        }
    }
}

/// Compared like GitHub's scanner does: without case, outer punctuation and further blanks.
fn normal(text: &str) -> String {
    let text = text.to_lowercase();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.trim_matches(|c: char| c == ' ' || ".,!?;:()[]{}'\"“”‘’".contains(c)).to_string()
}

/// Where words of a model begin: what `postprocess` removes besides the end and the opener.
fn talk_in(text: &str, style: &CaptionStyle) -> Option<usize> {
    let mut wide = style.clone();
    (wide.rules.max_chars, wide.rules.max_sentences) = (u32::MAX, None);
    wide.rules.min_chars = 1;
    let start = text.len() - text.trim_start().len();
    let kept = postprocess(text, &wide, TextEnding::Complete).ok()?;
    let letters = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).count();
    let opener = stock_opener(&text[start..]).map_or(0, |end| letters(&text[start..start + end]));
    if letters(text) <= letters(&kept) + opener {
        return None;
    }
    // Words that repeat are a matter of style.
    let all = text.to_lowercase();
    let head: String = kept.chars().take(12).collect::<String>().to_lowercase();
    match all.find(&head) {
        Some(at) if at > start && opener == 0 => Some(start),
        _ => pg_caption_style::closing_in(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_style::builtin;

    fn ids(text: &str, neighbours: &[&str]) -> Vec<&'static str> {
        let style = builtin("concise").unwrap();
        lint(Some(text), &style, neighbours).iter().map(|found| found.rule.id()).collect()
    }

    #[test]
    fn every_rule_finds_its_fault() {
        for (text, id) in [
            ("   ", "missing"),
            ("An icon", "vague"),
            ("PHOTO.", "vague"),
            ("IMG_1234.png", "file_name"),
            ("TODO", "placeholder"),
            ("https://x.example/a", "web_address"),
            ("AB-1234-XL", "article_number"),
            (&"word and ".repeat(20), "too_long"),
            ("ab", "too_short"),
            ("A red cup. It stands on a table", "too_many_sentences"),
            ("Image of a red cup", "opener"),
            ("shirt red shirt blue shirt cheap shirt", "stuffing"),
            ("buy, shirt, red, cotton, sale, men, outlet, fashion", "stuffing"),
            ("A <b>red</b> cup", "markup"),
            ("Tom &amp; Jerry cup", "markup"),
            ("**Red** cup", "markup"),
            ("I'm sorry, but I can't describe this image", "model_talk"),
            ("Sure! A red cup on a table", "model_talk"),
            ("Alt text: A red cup on a table", "model_talk"),
        ] {
            assert!(ids(text, &[]).contains(&id), "{text:?}: {:?}", ids(text, &[]));
        }
        assert_eq!(ids("Red cup", &["Blue cup", "red cup."]), ["repeated"]);
        let style = builtin("concise").unwrap();
        assert_eq!(lint(None, &style, &[])[0].rule, LintRule::MissingText);
        assert_eq!(lint(Some(""), &style, &[]), []);
    }

    #[test]
    fn a_finding_has_its_position_in_characters() {
        let style = builtin("concise").unwrap();
        let at = |text: &str| lint(Some(text), &style, &[])[0].position;
        assert_eq!(at("Größe <b>M</b>"), 7);
        assert_eq!(at(&"ü".repeat(130)), 126);
    }

    #[test]
    fn plain_texts_have_no_findings() {
        let mut style = builtin("concise").unwrap();
        for line in include_str!("../../style/tests/corpus/plain.txt").lines() {
            if let Some(head) = line.strip_prefix('[') {
                style = builtin(head.split(' ').next().unwrap()).unwrap();
            } else if !line.is_empty() && !line.starts_with("# ") {
                assert_eq!(lint(Some(line), &style, &[]), [], "{line}");
            }
        }
    }

    #[test]
    fn what_github_reports_is_reported() {
        // Words of the plugin's rules, version 1.1.0.
        for text in [
            "image",
            "images",
            "img",
            "photos",
            "photographs",
            "pics",
            "graphic",
            "visuals",
            "media",
            "clipart",
            "gifs",
            "icons",
            "illustration",
            "banners",
            "thumbnail",
            "logo",
            "avatars",
            "art",
            "artwork",
            "drawing",
            "diagrams",
            "chart",
            "graphs",
            "screenshots",
            "figure",
            "painting",
            "map",
            "jpg",
            "jpeg",
            "png",
            "svg",
            "webp",
            "this",
            "that",
            "here",
            "there",
            "above",
            "below",
            "asset",
            "file",
            "attachment",
            "upload",
            "uploaded",
            "an image",
            "an image of",
            "a photo",
            "a photo of",
            "a picture",
            "a picture of",
            "an icon",
            "an illustration",
            "a graphic",
            "a screenshot",
            "image of",
            "photo of",
            "picture of",
            "graphic of",
            "screenshot of",
            "todo",
            "tbd",
            "fixme",
            "placeholder",
            "alt text",
            "image alt",
            "insert alt text",
            "insert image",
            "insert photo",
            "image goes here",
            "photo goes here",
            "picture goes here",
            "your image here",
            "your photo here",
            "sample",
            "example",
            "test",
            "demo",
            "default",
            "untitled",
            "null",
            "undefined",
            "none",
            "hero.png",
            "Red shirt.webp",
        ] {
            let found = lint(Some(text), &builtin("concise").unwrap(), &[]);
            assert!(found.iter().any(|found| found.rule.github().is_some()), "{text}");
        }
    }
}
