//! Reads an answer as markdown, JSON or an HTML image, and returns its blocks of plain text. Step
//! of `postprocess`.

use crate::vocabulary::vocabulary;
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};
use regex::Regex;
use serde_json::{Map, Value};
use std::sync::LazyLock;

/// A paragraph, heading or item of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextBlock {
    /// The text; line breaks are kept.
    pub text: String,
    /// Whether it is an item of a list.
    pub item: bool,
}

/// The blocks of `raw` in order, without empty ones.
pub fn blocks_of(raw: &str) -> Vec<TextBlock> {
    let raw = raw.trim();
    if let Some(text) = of_json(raw).or_else(|| of_html(raw)) {
        return vec![TextBlock { text, item: false }];
    }
    let mut reader = BlockReader::default();
    for event in Parser::new_ext(raw, Options::empty()) {
        reader.read(event);
    }
    reader.flush();
    if let [only] = reader.blocks.as_slice()
        && let Some(text) = of_json(only.text.trim())
    {
        return vec![TextBlock { text, item: false }];
    }
    reader.blocks
}

/// The caption in an object of JSON: the likeliest key, else the only text.
fn of_json(raw: &str) -> Option<String> {
    let object: Map<String, Value> = serde_json::from_str(raw).ok()?;
    let key = |key: &String| {
        object.iter().find(|(name, _)| name.to_lowercase() == *key).and_then(|(_, v)| v.as_str())
    };
    let texts: Vec<&str> = object.values().filter_map(Value::as_str).collect();
    let text = vocabulary().keys.iter().find_map(key).or(match texts.as_slice() {
        [only] => Some(only),
        _ => None,
    })?;
    Some(text.to_string())
}

/// The text of `alt="…"`, in an image or alone.
fn of_html(raw: &str) -> Option<String> {
    static ALT: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r#"(?is)^(?:`{0,3}(?:html)?\s*<img\b[^>]*?\s)?alt\s*=\s*"([^"]+)"[^>]*>?\s*`{0,3}$"#,
        )
        .unwrap_or_else(|error| panic!("{error}"))
    });
    ALT.captures(raw).map(|found| found[1].to_string())
}

#[derive(Default)]
struct BlockReader {
    blocks: Vec<TextBlock>,
    text: String,
    /// The number before the next item, for each open list; `None` for bullets.
    lists: Vec<Option<u64>>,
    items: usize,
    first: Option<u64>,
}

impl BlockReader {
    fn read(&mut self, event: Event) {
        match event {
            Event::Text(text) | Event::Code(text) | Event::Html(text) | Event::InlineHtml(text) => {
                self.text.push_str(&text);
            }
            Event::SoftBreak | Event::HardBreak => self.text.push('\n'),
            Event::Start(Tag::List(first)) => {
                self.flush();
                self.first = first;
                self.items = 0;
                self.lists.push(first);
            }
            Event::Start(Tag::Item) => {
                self.flush();
                self.items += 1;
            }
            Event::End(TagEnd::List(_)) => {
                self.flush();
                self.lists.pop();
                // "1. FC Köln" is no list.
                if let (1, Some(first), Some(block)) =
                    (self.items, self.first, self.blocks.last_mut())
                    && block.item
                {
                    block.text = format!("{first}. {}", block.text);
                    block.item = false;
                }
            }
            Event::Start(
                Tag::Paragraph | Tag::Heading { .. } | Tag::BlockQuote(_) | Tag::CodeBlock(_),
            )
            | Event::End(
                TagEnd::Paragraph
                | TagEnd::Heading(_)
                | TagEnd::BlockQuote(_)
                | TagEnd::CodeBlock
                | TagEnd::HtmlBlock
                | TagEnd::Item,
            )
            | Event::Rule => self.flush(),
            _ => {}
        }
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        if !text.trim().is_empty() {
            let text = text.trim().to_string();
            self.blocks.push(TextBlock { text, item: !self.lists.is_empty() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(raw: &str) -> Vec<String> {
        blocks_of(raw).into_iter().map(|block| block.text).collect()
    }

    #[test]
    fn marks_of_markdown_are_removed() {
        assert_eq!(texts("# Cup\n- **Colour**: red\n- `old`"), ["Cup", "Colour: red", "old"]);
        assert_eq!(texts("**Alt text:** a cup\n\n---\n> *quoted*"), ["Alt text: a cup", "quoted"]);
        assert_eq!(texts("one\ntwo\n\nthree"), ["one\ntwo", "three"]);
    }

    #[test]
    fn plain_text_is_one_block() {
        for text in [
            "#1 Dad mug",
            "5 * 7 inch print, 3 * 2",
            "snake_case_name on a hoodie",
            "C# book",
            "1. FC Köln scarf",
            "width < height and a > b",
            "A dog.<end_of_utterance>",
            "</s><s>a red cup<loc_12>",
            "A cup & a saucer",
        ] {
            assert_eq!(texts(text), [text]);
        }
    }

    #[test]
    fn json_and_html_answers_are_unpacked() {
        assert_eq!(texts(r#"{"title": "Cup", "alt_text": "A red cup"}"#), ["A red cup"]);
        assert_eq!(texts("```json\n{\"x\": \"A red cup\"}\n```"), ["A red cup"]);
        assert_eq!(texts(r#"<img src="a.jpg" alt="A red cup">"#), ["A red cup"]);
        assert_eq!(texts(r#"{"a": "x", "b": "y"}"#), [r#"{"a": "x", "b": "y"}"#]);
    }
}
