//! Stock openers ("The image shows …") and closing speculation ("The overall mood …"). Step of
//! `postprocess`. The words are in `data/*.toml`.
//!
//! A screen reader announces images as such, so the openers repeat what the listener knows.

use crate::StyleTask;
use crate::sentence;
use crate::vocabulary::vocabulary;
use std::borrow::Cow;

/// Openers of one text: "In this image, there is …" has two.
const MAX_OPENERS: usize = 2;

/// The text without its stock openers; unchanged if nothing would be left. Keeps the case of the
/// rest.
pub fn strip(text: &str, task: StyleTask) -> Cow<'_, str> {
    let words = vocabulary();
    let mut rest = text;
    let mut tails: &[String] = &[];
    for _ in 0..MAX_OPENERS {
        let found = words.opener.at_start(rest).or_else(|| {
            // Elsewhere the grammar needs "there is".
            (task == StyleTask::Seo).then(|| words.existence.at_start(rest)).flatten()
        });
        let Some(found) = found else { break };
        if !rest[found.end..].contains(char::is_alphanumeric) {
            break;
        }
        rest = &rest[found.end..];
        tails = if tails.is_empty() { &words.tails[found.language] } else { tails };
    }
    // "Auf dem Bild ist ein Korb zu sehen."
    let first = sentence::sentences(rest).first().map_or(0, |first| first.len());
    let bare = rest[..first].trim_end_matches(['.', '!']);
    match tails.iter().find_map(|tail| bare.strip_suffix(tail.as_str())?.strip_suffix(' ')) {
        Some(kept) => Cow::Owned(format!("{kept}{}", &rest[bare.len()..])),
        None => Cow::Borrowed(rest),
    }
}

/// Bytes of the stock opener at the start of a text; `None` if it has none.
///
/// ```
/// use pg_caption_style::stock_opener;
///
/// assert_eq!(stock_opener("The image shows a cup"), Some(16));
/// assert_eq!(stock_opener("Photo frame of dark wood"), None);
/// ```
pub fn stock_opener(text: &str) -> Option<usize> {
    vocabulary().opener.at_start(text).map(|found| found.end)
}

/// Whether a sentence only speculates about mood. `postprocess` drops such final sentences.
pub fn speculates(sentence: &str) -> bool {
    vocabulary().mood.starts(sentence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn concise(text: &str) -> String {
        strip(text, StyleTask::Concise).into_owned()
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
            "The given image presents",
            "The picture portrays",
            "The image consists of",
            "The image is of",
            "The image appears to be",
            "In the center of the image, there is",
            "We can see",
            "A high-resolution product photo of",
            "A stock photo of",
            "Das Foto zeigt",
            "L’image montre",
            "En la imagen se ve",
            "Nella foto si vede",
            "Na imagem, vemos",
            "Op deze foto zien we",
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
            "We Can Do It poster",
            "Product display of watches",
            "Fotoalbum mit Ledereinband",
            "Photo de famille dans un cadre",
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
    fn the_end_of_a_german_opener_goes_too() {
        assert_eq!(concise("Auf dem Bild ist ein Korb zu sehen."), "ein Korb.");
        assert_eq!(concise("Op de foto is een molen te zien"), "een molen");
        assert_eq!(concise("Ein Korb ist zu sehen."), "Ein Korb ist zu sehen.");
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
