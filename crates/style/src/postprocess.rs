//! Turns a model's output into a caption that follows its style's rules, or refuses it. The engine
//! calls this once for each generated text.
//!
//! Words are removed, never added or reordered.

use crate::markup::{TextBlock, blocks_of};
use crate::repeat;
use crate::smalltalk::{closes, is_decoration, without_smalltalk};
use crate::speech::{declines, speaks_of_itself};
use crate::vocabulary::vocabulary;
use crate::{CaptionStyle, TextRefusal, clean::clean, empty_text, opener, sentence};
use crate::{thinking, turns};

/// How generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEnding {
    /// The model ended its text.
    Complete,
    /// The token limit ended it; the last sentence may be incomplete.
    Cut,
}

/// The caption in `raw`: one capitalised line within the style's limits, without special tokens,
/// markdown, thoughts and small talk of the model, stock openers, repetitions or closing
/// speculation. The style decides about the final full stop.
///
/// ```
/// use pg_caption_style::{TextEnding, builtin, postprocess};
///
/// let style = builtin("concise").unwrap();
/// let raw = "The image shows a red cup. It stands on a table.</s>";
/// assert_eq!(postprocess(raw, &style, TextEnding::Complete).unwrap(), "A red cup");
/// ```
///
/// # Errors
/// [`TextRefusal::Declined`] if the model refused, [`TextRefusal::NoCaption`] if the text describes
/// nothing, [`TextRefusal::TooShort`] or [`TextRefusal::NoWords`] if too little is left.
pub fn postprocess(
    raw: &str,
    style: &CaptionStyle,
    ending: TextEnding,
) -> Result<String, TextRefusal> {
    let rules = &style.rules;
    let answer = thinking::answer_of(raw);
    let blocks = without_smalltalk(blocks_of(turns::first_answer(&answer)))?;
    let cleaned = without_trimmings(&clean(&one_line(&blocks)));
    let mut text: &str = &opener::strip(&cleaned, style.task);
    if ending == TextEnding::Cut {
        text = sentence::without_unfinished(text);
    }
    if declines(text) || speaks_of_itself(text) {
        return Err(TextRefusal::Declined);
    }
    let kept = kept_sentences(text, rules.max_sentences);
    if empty_text(&kept).is_some() {
        return Err(TextRefusal::NoCaption);
    }
    let max = rules.max_chars as usize;
    let mut caption = capitalised(sentence::cut(&kept, max));
    if rules.strip_final_stop {
        let bare = caption.trim_end_matches(['.', ',', ';', ':', '。', ' ']).len();
        caption.truncate(bare);
    } else if !sentence::is_closed(&caption) {
        close(&mut caption, max);
    }
    let chars = caption.chars().count();
    let min = (rules.min_chars as usize).max(1);
    if chars < min {
        return Err(TextRefusal::TooShort { chars, min });
    }
    if !caption.chars().any(char::is_alphabetic) {
        return Err(TextRefusal::NoWords);
    }
    Ok(caption)
}

/// The blocks as one line; one without final punctuation becomes a sentence.
fn one_line(blocks: &[TextBlock]) -> String {
    let mut line = String::new();
    for block in blocks {
        let text = block.text.trim().trim_matches(is_decoration).trim();
        if line.ends_with([':', '：']) || line.is_empty() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(text);
            continue;
        }
        let open = line.trim_end_matches([',', ';', '-', '–', '—', ' ']).len();
        line.truncate(open);
        if !sentence::is_closed(&line) {
            line.push(sentence::full_stop(&line));
        }
        line.push_str(sentence::gap_after(&line));
        line.push_str(&capitalised(text));
    }
    line
}

/// Without counts of characters, hashtags at the end, and pictures around the text.
fn without_trimmings(text: &str) -> String {
    let text = match text.contains('(') {
        true => vocabulary().counted.replace_all(text, ""),
        false => text.into(),
    };
    let mut text = text.trim_matches(|c: char| is_decoration(c) || c == ' ');
    let mut words: Vec<&str> = text.split(' ').collect();
    let is_tag = |word: &&str| {
        word.strip_prefix('#').is_some_and(|tag| tag.starts_with(char::is_alphabetic))
    };
    let tags = words.iter().rev().take_while(|word| is_tag(word)).count();
    // A single one may be on the picture.
    if tags >= 2 {
        words.truncate(words.len() - tags);
        let end = words
            .last()
            .map_or(0, |last| last.as_ptr() as usize + last.len() - text.as_ptr() as usize);
        text = text[..end].trim_matches(|c: char| is_decoration(c) || c == ' ');
    }
    clean(text)
}

/// At most `max` sentences, without repetitions, closings and speculation; at least one if `text`
/// has one.
fn kept_sentences(text: &str, max: Option<u32>) -> String {
    let (mut kept, mut keys): (Vec<String>, Vec<String>) = Default::default();
    for sentence in sentence::sentences(text) {
        if !kept.is_empty() && closes(sentence) {
            break;
        }
        // Small models repeat themselves.
        let sentence = repeat::without_loops(sentence);
        let key = repeat::key(&sentence);
        if key.is_empty() || !keys.contains(&key) {
            keys.push(key);
            kept.push(sentence);
        }
    }
    while kept.len() > 1 && kept.last().is_some_and(|s| opener::speculates(s)) {
        kept.pop();
    }
    kept.truncate(max.map_or(usize::MAX, |m| m as usize).max(1));
    let mut line = String::new();
    for sentence in kept {
        if !line.is_empty() {
            line.push_str(sentence::gap_after(&line));
        }
        line.push_str(&sentence);
    }
    line
}

fn close(caption: &mut String, max: usize) {
    let bare = caption.trim_end_matches([',', ';', ':', '-', '–', '—', ' ']).len();
    caption.truncate(bare);
    if !caption.is_empty() && caption.chars().count() < max {
        caption.push(sentence::full_stop(caption));
    }
}

/// Capitalises the first letter, unless its word has a capital later (`iPhone`).
pub(crate) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let mixed =
        chars.as_str().split(' ').next().is_some_and(|word| word.contains(char::is_uppercase));
    if mixed { text.to_string() } else { first.to_uppercase().chain(chars).collect() }
}

/// Whether a caption merely repeats the name of its picture: the URL or path, its last component,
/// or that without extension. Ignores case; `-`, `_`, `+` and `%20` count as blanks.
pub fn echoes(caption: &str, source: &str) -> bool {
    let plain = |s: &str| {
        let s = s.to_lowercase().replace("%20", " ");
        s.split(|c: char| c.is_whitespace() || matches!(c, '-' | '_' | '+'))
            .filter(|w| !w.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let path = source.split(['?', '#']).next().unwrap_or(source);
    let file = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    let words = plain(caption.trim_end_matches('.'));
    if words.is_empty() {
        return false;
    }
    // A bare stem of one dictionary word ("cup.jpg" showing a cup) is a poor caption, but one; with
    // its extension it never is.
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let named = plain(stem) == words
        && (stem.contains(|c: char| c.is_ascii_digit()) || stem.contains(['-', '_']));
    words == plain(source)
        || words == plain(path)
        || (file.contains('.') && words == plain(file))
        || named
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StyleRules, StyleTask, builtin};

    fn style(name: &str) -> CaptionStyle {
        builtin(name).unwrap()
    }

    fn done(name: &str, raw: &str) -> String {
        postprocess(raw, &style(name), TextEnding::Complete).unwrap()
    }

    #[test]
    fn a_good_caption_is_unchanged() {
        assert_eq!(
            done("concise", "Navy striped T-shirt on a wooden floor"),
            "Navy striped T-shirt on a wooden floor"
        );
        let seo = "Navy striped T-shirt laid flat on a wooden floor. A casual top for everyday \
                   wear, easy to combine with jeans or shorts.";
        assert_eq!(done("seo", seo), seo);
    }

    #[test]
    fn alt_text_is_one_sentence_without_stop() {
        assert_eq!(
            done("concise", "The image shows a red cup. It stands on a table."),
            "A red cup"
        );
        assert_eq!(done("concise", "a man riding a horse ."), "A man riding a horse");
    }

    #[test]
    fn a_paragraph_ends_with_a_whole_sentence() {
        let raw = "The image shows a cup on a table. The cup is red. The overall mood is calm.";
        assert_eq!(done("detailed", raw), "A cup on a table. The cup is red.");
        let cut = postprocess(
            "A cup on a table. The cup is red. The overall",
            &style("detailed"),
            TextEnding::Cut,
        )
        .unwrap();
        assert_eq!(cut, "A cup on a table. The cup is red.");
    }

    #[test]
    fn speculation_alone_is_kept() {
        assert_eq!(done("detailed", "The overall mood is calm."), "The overall mood is calm.");
    }

    #[test]
    fn a_meta_description_has_two_closed_sentences() {
        assert_eq!(
            done("seo", "there is a red ceramic cup on a table"),
            "A red ceramic cup on a table."
        );
        assert_eq!(
            done("seo", "A red cup stands here. It is nice. It is big. It is old."),
            "A red cup stands here. It is nice."
        );
    }

    #[test]
    fn repeated_sentences_appear_once() {
        assert_eq!(
            done("detailed", "A red cup on a table. It is red. It is red. It is red."),
            "A red cup on a table. It is red."
        );
    }

    #[test]
    fn texts_without_words_are_refused() {
        for raw in ["", "   ", "</s>", "\u{200b}", ".", "a"] {
            assert!(
                matches!(
                    postprocess(raw, &style("concise"), TextEnding::Complete),
                    Err(TextRefusal::TooShort { .. })
                ),
                "{raw:?}"
            );
        }
        assert_eq!(
            postprocess("123 456 !!", &style("concise"), TextEnding::Complete),
            Err(TextRefusal::NoWords)
        );
        assert_eq!(
            postprocess("A cup", &style("seo"), TextEnding::Complete),
            Err(TextRefusal::TooShort { chars: 6, min: 15 })
        );
    }

    #[test]
    fn mixed_case_names_keep_their_spelling() {
        assert_eq!(done("concise", "iPhone on a desk"), "iPhone on a desk");
        assert_eq!(done("concise", "éclair on a plate"), "Éclair on a plate");
    }

    #[test]
    fn length_limits_hold_for_every_input() {
        let words = [
            "image",
            "of",
            "a",
            "The",
            "red,",
            "cup.",
            "überraschung",
            "<s>",
            "\"",
            "in",
            "this",
            "photo",
            "overall",
            "3.5",
            "日本",
            ";",
            "—",
            "Sure!",
            "Alt text:",
            "Question:",
            "Answer:",
            "User:",
            "**",
            "# x",
            "\n",
            "\n\n",
            "\n- ",
            "1.",
            "[a](b)",
            "<think>",
            "</think>",
            "<answer>",
            "{\"alt\":",
            "👩\u{200d}🍳",
            "e\u{301}",
            "(12 characters)",
            "#tag",
            "I can't",
            "Let me know",
            "zu sehen.",
            "Auf dem Bild ist",
            "。",
            "L’image montre",
        ];
        let mut random = fastrand::Rng::with_seed(7);
        let mut next = |n: usize| random.usize(..n);
        for round in 0..4000 {
            let raw = (0..next(60)).map(|_| words[next(words.len())]).collect::<Vec<_>>().join(" ");
            let rules = StyleRules {
                min_chars: 1,
                max_chars: 1 + next(120) as u32,
                max_sentences: (next(2) == 0).then(|| 1 + next(3) as u32),
                strip_final_stop: next(2) == 0,
            };
            let task = [StyleTask::Concise, StyleTask::Seo, StyleTask::Detailed][next(3)];
            let style = CaptionStyle {
                name: "x".into(),
                instruction: "x".into(),
                task,
                rules,
                ..CaptionStyle::with_defaults("x")
            };
            let ending = if next(2) == 0 { TextEnding::Cut } else { TextEnding::Complete };
            if let Ok(text) = postprocess(&raw, &style, ending) {
                assert!(
                    text.chars().count() <= style.rules.max_chars as usize,
                    "round {round}: {raw:?} became {text:?}"
                );
                assert_eq!(text, text.trim());
                assert!(!text.contains("<s>") && !text.contains("  "), "{text:?}");
            }
        }
    }

    #[test]
    fn a_file_name_is_not_a_caption() {
        for (caption, source) in [
            ("IMG_1234.jpg", "https://x.example/a/IMG_1234.jpg?w=3"),
            ("IMG 1234", "https://x.example/a/IMG_1234.jpg"),
            ("https://x.example/a.png", "https://x.example/a.png"),
            ("Blue shirt front", "/srv/blue-shirt_front.webp"),
        ] {
            assert!(echoes(caption, source), "{caption}");
        }
        assert!(!echoes("Cup", "/srv/cup.jpg"));
        assert!(!echoes("A blue shirt", "/srv/blue-shirt.webp"));
        assert!(!echoes("", "/"));
    }
}
