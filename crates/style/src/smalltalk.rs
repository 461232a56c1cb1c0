//! Removes what models say around a caption: agreement ("Sure!"), announcements ("Here's a
//! description:"), labels ("Alt text:"), further options, notes and closings. Recognises refusals.
//! Step of `postprocess`. The words are in `data/*.toml`.

use crate::markup::TextBlock;
use crate::phrase::{PhraseSet, WordSet};
use crate::sentence;
use crate::speech::{PLACED, addresses, declines, offers, presents, spoken};
use crate::vocabulary::vocabulary;
use crate::words::{TextWord, words_of};
use crate::{TextRefusal, empty_text};

/// Most pieces of small talk before a caption.
const MAX_PIECES: usize = 12;
/// Most words of an announcement that names nothing: "Here you go:".
const BARE_ANNOUNCEMENT: usize = 5;
/// Most words of a label.
const LABEL_WORDS: usize = 10;
/// Most words of an exclamation before the caption.
const EXCLAMATION: usize = 6;
/// Longest heading before a colon, characters.
const LONGEST_HEADING: usize = 60;

/// The blocks that hold the caption.
///
/// # Errors
/// [`TextRefusal::Declined`] if the model refuses; [`TextRefusal::NoCaption`] if all is small talk.
pub fn without_smalltalk(blocks: Vec<TextBlock>) -> Result<Vec<TextBlock>, TextRefusal> {
    let mut blocks = split_at_labels(blocks);
    let had_text = !blocks.is_empty();
    if let [only] = blocks.as_slice()
        && empty_text(&only.text).is_some()
    {
        return Err(TextRefusal::NoCaption);
    }
    let mut options = false;
    for _ in 0..MAX_PIECES {
        let Some(first) = blocks.first() else { break };
        if declines(&first.text) {
            return Err(TextRefusal::Declined);
        }
        let Some(piece) = piece_of(&first.text, blocks.len() > 1) else { break };
        options |= holds(&vocabulary().options, &first.text[..piece]);
        let rest = first.text[piece..].trim_start().to_string();
        if rest.is_empty() {
            blocks.remove(0);
        } else {
            blocks[0].text = rest;
        }
    }
    if blocks.is_empty() {
        return match had_text {
            true => Err(TextRefusal::NoCaption),
            false => Ok(blocks),
        };
    }
    let mut blocks = labelled_part(blocks);
    let option = vocabulary().option.find(&blocks[0].text).map(|found| found.end());
    if let Some(end) = option {
        options = true;
        blocks[0].text.drain(..end);
    }
    if options {
        blocks.truncate(1);
    }
    let end = blocks.iter().skip(1).position(|block| is_aside(&block.text));
    blocks.truncate(end.map_or(blocks.len(), |end| end + 1));
    Ok(blocks)
}

/// Whether a later sentence ends the caption: an offer of help, a remark about the text, a refusal.
pub fn closes(sentence: &str) -> bool {
    let words = vocabulary();
    let sentence = sentence.trim_start_matches(['(', '*', '"']);
    words.closing.starts(sentence)
        || words.refusal.starts(sentence)
        || is_aside(sentence)
        || offers(sentence)
        // Captions ask nothing.
        || (sentence.ends_with(['?', '？']) && spoken(sentence).is_some())
}

/// Whether a unit is nothing but agreement: "Yes, of course."
fn agrees(unit: &str) -> bool {
    let agreement = &vocabulary().agreement;
    let mut rest = unit;
    while let Some(found) = agreement.at_start(rest) {
        if found.whole {
            return true;
        }
        if found.end == 0 {
            break;
        }
        rest = &rest[found.end..];
    }
    false
}

/// Where the first sentence begins that ends a caption, in bytes: an offer of help, a remark about
/// the text.
pub fn closing_in(text: &str) -> Option<usize> {
    let found = sentence::sentences(text).into_iter().skip(1).find(|sentence| closes(sentence))?;
    Some(found.as_ptr() as usize - text.as_ptr() as usize)
}

fn is_aside(text: &str) -> bool {
    let words = vocabulary();
    heads(&words.note, text) || heads(&words.title, text) || is_hashtags(text)
}

fn holds(set: &WordSet, text: &str) -> bool {
    set.is_in(&words_of(text, usize::MAX))
}

/// Whether words of the set begin a heading: "Keywords (SEO): …".
fn heads(set: &WordSet, text: &str) -> bool {
    let (unit, _) = unit_of(text);
    unit.ends_with([':', '：'])
        && unit.chars().count() <= LONGEST_HEADING
        && !set.lengths(&words_of(unit, usize::MAX)).is_empty()
}

fn is_hashtags(text: &str) -> bool {
    text.split_whitespace()
        .all(|word| word.strip_prefix('#').is_some_and(|tag| tag.starts_with(char::is_alphabetic)))
}

/// A line that begins with a label becomes a block of its own.
fn split_at_labels(blocks: Vec<TextBlock>) -> Vec<TextBlock> {
    let words = vocabulary();
    let mut out: Vec<TextBlock> = Vec::new();
    for block in blocks {
        let mut lines = block.text.lines();
        let first = lines.next().unwrap_or_default();
        let mut current = TextBlock { text: first.trim().to_string(), item: block.item };
        for line in lines {
            let line = line.trim();
            let starts = label_before_colon(line).is_some()
                || heads(&words.note, line)
                || heads(&words.title, line)
                || words.option.is_match(line);
            if starts {
                out.push(std::mem::replace(
                    &mut current,
                    TextBlock { text: line.to_string(), item: block.item },
                ));
            } else {
                current.text.push('\n');
                current.text.push_str(line);
            }
        }
        out.push(current);
    }
    out.retain(|block| !block.text.trim().is_empty());
    out
}

/// The part after a label in the middle ("The picture has a tent. / Alt text: Orange tent"), up to
/// the next one.
fn labelled_part(mut blocks: Vec<TextBlock>) -> Vec<TextBlock> {
    let labelled =
        |block: &TextBlock| (!block.item).then(|| label_before_colon(&block.text)).flatten();
    if let Some((at, end)) =
        (1..blocks.len()).find_map(|at| labelled(&blocks[at]).map(|end| (at, end)))
        // The first block may have lost its own label already.
        && !is_labelled_list(&blocks)
    {
        blocks.drain(..at);
        blocks[0].text = blocks[0].text[end..].trim().to_string();
        if blocks[0].text.is_empty() && blocks.len() > 1 {
            blocks.remove(0);
        }
    }
    let next = (1..blocks.len()).find(|at| labelled(&blocks[*at]).is_some());
    blocks.truncate(next.unwrap_or(blocks.len()));
    blocks
}

fn is_labelled_list(blocks: &[TextBlock]) -> bool {
    blocks.iter().all(|block| block.item)
}

/// Bytes of a label and its colon at the start of a text.
fn label_before_colon(text: &str) -> Option<usize> {
    let (unit, end) = unit_of(text);
    (unit.ends_with([':', '：']) && is_label(unit)).then_some(end)
}

fn is_label(unit: &str) -> bool {
    let bare = match (unit.find('('), unit.find(')')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}{}", &unit[..open], &unit[close + 1..])
        }
        _ => unit.to_string(),
    };
    let words = words_of(&bare, LABEL_WORDS + 1);
    if words.is_empty() || words.len() > LABEL_WORDS || !vocabulary().label.is_in(&words) {
        return false;
    }
    // "Proposed caption", but not "A plate with the caption" or "Caption contest".
    let known = |word: &TextWord| {
        vocabulary().label_words.contains(&word.key) || vocabulary().grammar.contains(&word.key)
    };
    let unknown = words.iter().filter(|word| !known(word)).count();
    let placed = words.iter().any(|word| PLACED.contains(&word.key.as_str()));
    let colon = unit.ends_with([':', '：']);
    unknown == 0 && !placed
        || (colon && unknown <= 1 && !placed && words.len() <= 4)
        || words.iter().all(|word| vocabulary().label_words.contains(&word.key))
}

/// The first line, sentence or words before a colon, with the mark that ends it, and the position
/// after it.
fn unit_of(text: &str) -> (&str, usize) {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let end = at + c.len_utf8();
        let next = chars.peek().map(|(_, next)| *next);
        let ends = match c {
            '\n' | '。' | '！' | '？' | '：' => true,
            '.' => next.is_none_or(char::is_whitespace) && !sentence::is_abbreviation(&text[..at]),
            ':' | '!' | '?' | '…' => {
                next.is_none_or(|next| next.is_whitespace() || "\"“„«*".contains(next))
            }
            _ => false,
        };
        if ends {
            return (text[..end].trim_end(), end);
        }
    }
    (text.trim_end(), text.len())
}

/// Bytes of one piece of small talk at the start of a text.
fn piece_of(text: &str, more: bool) -> Option<usize> {
    let words = vocabulary();
    let (unit, end) = unit_of(text);
    let more = more || !text[end..].trim().is_empty();
    let decorated = text.len() - text.trim_start_matches(is_decoration).len();
    if decorated > 0 && decorated < text.len() {
        return Some(decorated);
    }
    let colon = unit.ends_with([':', '：']);
    let line = text[..end].ends_with('\n') || end == text.len();
    if is_label(unit) && more && (colon || line) {
        return Some(end);
    }
    if let Some(dash) = label_before_dash(text) {
        return Some(dash);
    }
    if more && line && heads(&words.title, text) {
        return Some(end);
    }
    let closed = unit.ends_with(['.', '!', '?', ':', '…', '！', '。', '：']);
    if more && (closed || line) && agrees(unit) {
        return Some(end);
    }
    if let Some(agreed) = words.agreement.at_start(text).map(|found| found.end)
        && text[..agreed].trim_end().ends_with(',')
        && agreed < end
        && leads(&text[agreed..])
    {
        return Some(agreed);
    }
    // Captions do not call out, and do not speak to a reader before a colon.
    let count = unit.split_whitespace().count();
    if more && unit.ends_with(['!', '！']) && count <= EXCLAMATION && spoken(unit).is_some() {
        return Some(end);
    }
    if more && colon && (words.lead_in.is_whole(unit) || addresses(unit)) {
        return Some(end);
    }
    if more && closed && !colon && !words.opener.starts(unit) && presents(unit) {
        return Some(end);
    }
    if more && words.announcement.starts(unit) && !unit.ends_with(['?']) {
        let named = holds(&words.label, unit) || holds(&words.options, unit);
        let bare = count <= BARE_ANNOUNCEMENT;
        if (colon && bare) || (named && (colon || line)) {
            return Some(end);
        }
    }
    None
}

fn leads(text: &str) -> bool {
    let words = vocabulary();
    let starts = |set: &PhraseSet| set.starts(text);
    starts(&words.announcement)
        || starts(&words.lead_in)
        || starts(&words.opener)
        || starts(&words.refusal)
        || label_before_colon(text).is_some()
}

/// "Output - Quilted handbag": bytes up to the caption.
fn label_before_dash(text: &str) -> Option<usize> {
    let (at, dash) = text.match_indices(['-', '–', '—']).find(|(at, dash)| {
        text[..*at].ends_with(' ') && text[at + dash.len()..].starts_with(' ')
    })?;
    is_label(&text[..at]).then_some(at + dash.len())
}

/// Pictures among the characters, which models strew around their text.
pub fn is_decoration(c: char) -> bool {
    matches!(
        c,
        '\u{1f300}'..='\u{1faff}' | '\u{2600}'..='\u{27bf}' | '\u{2b50}' | '\u{2b55}' | '\u{fe0f}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::markup::blocks_of;

    fn left(raw: &str) -> Result<String, TextRefusal> {
        let blocks = without_smalltalk(blocks_of(raw))?;
        Ok(blocks.into_iter().map(|block| block.text).collect::<Vec<_>>().join(" / "))
    }

    #[test]
    fn announcements_and_labels_are_removed() {
        for raw in [
            "Sure! A cup",
            "Of course. Here is the alt text: A cup",
            "Certainly, here's a description:\nA cup",
            "Here you go: A cup",
            "**Alt text (English):** A cup",
            "# Description\nA cup",
            "Title: Cups\nMeta description: A cup\nKeywords: cup",
            "A picture of something.\n\nAlt text: A cup",
            "Option 1: A cup\nOption 2: A mug",
            "Here are two options:\n- A cup\n- A mug",
        ] {
            assert_eq!(left(raw).as_deref(), Ok("A cup"), "{raw}");
        }
    }

    #[test]
    fn texts_that_resemble_small_talk_stay() {
        for raw in [
            "Sure deodorant with a blue cap",
            "Here is a cup on a table.",
            "Sign that says: Mind the gap",
            "Description card next to a statue: front view",
            "A plate with the caption: Best Dad",
        ] {
            assert_eq!(left(raw).as_deref(), Ok(raw));
        }
    }

    #[test]
    fn a_label_consists_of_its_words_alone() {
        for text in ["Alt text", "Detailed description of the image", "Alt text (125 characters)"] {
            assert!(is_label(text), "{text}");
        }
        for text in ["Description card", "Caption contest", "The image", ""] {
            assert!(!is_label(text), "{text}");
        }
    }

    #[test]
    fn refusals_are_recognised_after_an_announcement() {
        assert_eq!(left("Sure! I cannot see any image."), Err(TextRefusal::Declined));
        assert_eq!(left("Thanks for sharing! Sure!"), Ok("Sure!".into()));
    }
}
