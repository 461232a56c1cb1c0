//! Stock openers ("The image shows …") and closing speculation ("The overall mood …"). Step of
//! `postprocess`.
//!
//! A screen reader announces images as such, so the openers repeat what the listener knows.

use crate::StyleTask;

const ARTICLES: &[&str] = &["this", "the", "a", "an"];
const MEDIA: &[&str] = &["image", "photo", "photograph", "picture", "pic", "snapshot"];
/// Not "show", "feature", "display", "capture": these may be part of an object's name ("photo
/// display case").
const SHOWS: &[&str] = &[
    "of",
    "shows",
    "showing",
    "depict",
    "depicts",
    "depicting",
    "features",
    "featuring",
    "displays",
    "displaying",
    "captures",
    "capturing",
    "contains",
];

/// First words of a clause about the content.
const CLAUSE_STARTS: &[&str] = &[
    "a", "an", "the", "this", "that", "these", "those", "there", "here", "some", "several", "many",
    "one", "two", "three", "four", "five", "six", "it", "he", "she", "they", "we", "you", "is",
    "are",
];

/// The text without its stock openers; unchanged if nothing would be left. Keeps the case of the
/// rest.
pub fn strip(text: &str, task: StyleTask) -> &str {
    let mut text = text;
    // "In this image, there is …" has two openers.
    for _ in 0..2 {
        match medium(text).or_else(|| inside(text)).or_else(|| existence(text, task)) {
            Some(rest) if rest.chars().any(char::is_alphanumeric) => text = rest,
            _ => break,
        }
    }
    text
}

/// `(this|the|an?)? (is an?)? (close-up)? (image|photo|…) (of|shows|…)`, and `the image is a
/// (close-up)? (photo)? of`.
fn medium(text: &str) -> Option<&str> {
    let mut words = Words(text);
    if words.eat(&["this"]) && words.eat(&["is"]) {
        words.eat(ARTICLES);
    } else {
        words = Words(text);
        words.eat(ARTICLES);
    }
    close_up(&mut words);
    if !words.eat(MEDIA) {
        return None;
    }
    let mut copula = Words(words.0);
    if copula.eat(&["is"]) && copula.eat(ARTICLES) {
        let framed = close_up(&mut copula);
        let named = copula.eat(MEDIA) || copula.eat(&["view", "shot"]);
        return ((framed || named) && copula.eat(SHOWS)).then_some(copula.0);
    }
    words.eat(SHOWS).then_some(words.0)
}

fn close_up(words: &mut Words) -> bool {
    words.eat(&["close-up", "closeup"])
        || (words.peek("close") && words.eat(&["close"]) && words.eat(&["up"]))
}

/// `in (this|the) (image|photo|…),? (we|you|one) can see`.
fn inside(text: &str) -> Option<&str> {
    let mut words = Words(text);
    if !(words.eat(&["in"]) && words.eat(&["this", "the"]) && words.eat(MEDIA)) {
        return None;
    }
    let mut seen = Words(words.0);
    if seen.eat(&["we", "you", "one", "i"]) && seen.eat(&["can"]) && seen.eat(&["see"]) {
        return Some(seen.0);
    }
    // "In the picture frame, …" describes a frame: an opener ends with a comma or is followed by
    // the start of a clause.
    (text[..text.len() - words.0.len()].trim_end().ends_with([',', ':'])
        || CLAUSE_STARTS.iter().any(|word| words.peek(word)))
    .then_some(words.0)
}

/// `(here|there) (is|are)`: search results have no room for it; elsewhere the grammar needs it.
fn existence(text: &str, task: StyleTask) -> Option<&str> {
    let mut words = Words(text);
    (task == StyleTask::Seo && words.eat(&["here", "there"]) && words.eat(&["is", "are"]))
        .then_some(words.0)
}

/// Whether a sentence only speculates about mood. `postprocess` drops such final sentences.
pub fn speculates(sentence: &str) -> bool {
    let moods = &[
        "mood",
        "atmosphere",
        "feel",
        "feeling",
        "vibe",
        "tone",
        "impression",
        "ambiance",
        "ambience",
        "aesthetic",
        "effect",
    ];
    let mut words = Words(sentence);
    if words.eat(&["overall"]) {
        return true;
    }
    if !words.eat(&["the", "this", "its"]) {
        return false;
    }
    if words.eat(&["overall", "general"]) || words.eat(moods) {
        return true;
    }
    words.eat(&["image", "photo", "photograph", "picture", "scene"])
        && words.eat(&["conveys", "evokes", "exudes", "suggests", "creates", "gives"])
}

/// Takes words from the front. Compares without case and without a following comma or colon.
struct Words<'a>(&'a str);

impl Words<'_> {
    fn split(&self) -> (&str, usize) {
        let end = self.0.find(' ').unwrap_or(self.0.len());
        (self.0[..end].trim_end_matches([',', ':']), end)
    }

    fn peek(&self, word: &str) -> bool {
        self.split().0.eq_ignore_ascii_case(word)
    }

    fn eat(&mut self, any: &[&str]) -> bool {
        let (word, end) = self.split();
        let hit = any.iter().any(|w| word.eq_ignore_ascii_case(w));
        if hit {
            self.0 = self.0[end..].trim_start();
        }
        hit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concise(text: &str) -> &str {
        strip(text, StyleTask::Concise)
    }

    #[test]
    fn every_stock_opener_is_removed() {
        for opener in [
            "An image of",
            "image of",
            "The image shows",
            "This photo depicts",
            "A photograph of",
            "a close-up photo of",
            "A close up picture of",
            "The picture features",
            "Picture showing",
            "A snapshot capturing",
            "This is a photo of",
            "This is an image showing",
            "In this image,",
            "In the photo",
            "In this picture, we can see",
            "The image is a close-up of",
            "The image is a photo of",
            "A pic of",
        ] {
            assert_eq!(
                concise(&format!("{opener} a red cup on a table")),
                "a red cup on a table",
                "{opener}"
            );
        }
    }

    #[test]
    fn text_resembling_an_opener_stays() {
        for text in [
            "The imaging device on a desk",
            "Photo frame of dark wood",
            "A picture book on a shelf",
            "Image",
            "A photo of",
            "This is a cat",
            "In this room, a chair",
            "In the picture frame, a cat",
            "In the photo booth, two friends laugh",
            "Photo display case with watches",
            "A picture show in a dark hall",
            "A black and white photo of a dog",
            "There is a dog",
        ] {
            assert_eq!(concise(text), text);
        }
    }

    #[test]
    fn there_is_goes_from_meta_descriptions_only() {
        assert_eq!(strip("There is a red cup", StyleTask::Seo), "a red cup");
        assert_eq!(strip("In this image, there are two cups", StyleTask::Seo), "two cups");
        assert_eq!(strip("There is a red cup", StyleTask::Detailed), "There is a red cup");
    }

    #[test]
    fn moods_are_speculation_objects_are_not() {
        assert!(speculates("The overall mood of the image is calm."));
        assert!(speculates("The atmosphere is warm."));
        assert!(speculates("Overall, the image conveys peace."));
        assert!(speculates("The scene evokes nostalgia."));
        assert!(!speculates("The overalls are blue."));
        assert!(!speculates("The image shows a cup."));
        assert!(!speculates("The table is brown."));
    }
}
