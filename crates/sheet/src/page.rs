//! The page. Its policy allows one script and one style, by their hashes, and pictures.

use crate::page_address;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

const SCRIPT: &str = include_str!("sheet.js");
const STYLE: &str = include_str!("sheet.css");

/// A contact sheet.
#[derive(Debug, Clone, Default)]
pub struct SheetPage {
    /// What it shows, such as the name of a table.
    pub title: String,
    /// What the heading says below: how many rows, and which.
    pub summary: String,
    /// The pictures.
    pub cards: Vec<SheetCard>,
    /// Where the saved CSV goes: a call of SQL; `None`: it is for the reviewer alone.
    pub import: Option<String>,
}

/// A picture with its texts.
#[derive(Debug, Clone, Default)]
pub struct SheetCard {
    /// What the CSV has as its key: a JSON object.
    pub key: String,
    /// Its heading, such as the key in words.
    pub label: String,
    /// Its address. Only http, https and relative ones are linked.
    pub picture: Option<String>,
    /// Its texts.
    pub texts: Vec<SheetText>,
}

/// A text of a picture.
#[derive(Debug, Clone, Default)]
pub struct SheetText {
    /// Its column, or its style.
    pub column: String,
    /// The text; may be empty.
    pub text: String,
    /// The text that the row has until this one is approved.
    pub current: Option<String>,
    /// 0 to 1.
    pub confidence: Option<f32>,
    /// Where it is from, such as `model`.
    pub source: Option<String>,
    /// What became of it, such as `draft`.
    pub state: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// Its language, for readers that speak it.
    pub language: Option<String>,
    /// Why there is no text, or why it was rejected.
    pub reason: Option<String>,
    /// The version of the draft; `None`: the text cannot be marked.
    pub version: Option<String>,
}

impl SheetPage {
    /// The HTML document. All texts are escaped.
    ///
    /// ```
    /// let page = pg_caption_sheet::SheetPage { title: "<b>".into(), ..Default::default() };
    /// assert!(page.html().contains("<h1>&lt;b&gt;</h1>"));
    /// ```
    pub fn html(&self) -> String {
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; \
             img-src http: https: file: 'self'; base-uri 'none'; form-action 'none'",
            source(SCRIPT),
            source(STYLE)
        );
        let drafts = self.cards.iter().flat_map(|card| &card.texts);
        let drafts = drafts.filter(|text| text.version.is_some()).count();
        let markup = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(policy);
                    meta name="referrer" content="no-referrer";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    meta name="description" content="Pictures with the texts to review.";
                    title { "Contact sheet of " (visible(&self.title)) }
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header {
                        h1 { (visible(&self.title)) }
                        p { (visible(&self.summary)) }
                        @if drafts > 0 { (self.tools()) }
                    }
                    main {
                        @if self.cards.is_empty() { p { "There is nothing to show." } }
                        @for (at, card) in self.cards.iter().enumerate() { (card.markup(at)) }
                    }
                    script { (PreEscaped(SCRIPT)) }
                }
            }
        };
        markup.into_string()
    }

    fn tools(&self) -> Markup {
        html! {
            div.tools {
                button type="button" id="rest" { "Approve all that are open" }
                button type="button" id="save" { "Save as CSV" }
                p id="count" role="status" {}
            }
            noscript { p { "Editing needs JavaScript. The page can be read without it." } }
            details {
                summary { "How to review" }
                p {
                    "Edit a text in its field, and approve or reject it. Tab moves on. In a field, "
                    kbd { "Ctrl+Enter" } " approves the text and moves on, "
                    kbd { "Ctrl+Shift+Enter" } " rejects it and moves on. "
                    "Nothing is sent: Save as CSV writes a file."
                }
                @if let Some(call) = &self.import {
                    p { "Read the file with: " code { (visible(call)) } }
                }
            }
        }
    }
}

impl SheetCard {
    fn markup(&self, at: usize) -> Markup {
        let address = self.picture.as_deref().and_then(|address| page_address(&visible(address)));
        html! {
            article data-key=(visible(&self.key)) aria-labelledby={ "card-" (at) } {
                h2 id={ "card-" (at) } { (visible(&self.label)) }
                @match &address {
                    Some(address) => {
                        a.picture href=(address) rel="noreferrer noopener" target="_blank" {
                            img src=(address) alt={ "Open " (visible(&self.label)) }
                                loading="lazy" decoding="async" width="240" height="240";
                        }
                    }
                    None => { p.picture.none { "The picture has no address for a page." } }
                }
                div.texts {
                    @for (text, item) in self.texts.iter().zip(0..) {
                        (text.markup(&format!("{at}-{item}"), &self.label))
                    }
                }
            }
        }
    }
}

impl SheetText {
    fn markup(&self, id: &str, label: &str) -> Markup {
        html! {
            @match &self.version {
                Some(version) => {
                    fieldset data-column=(visible(&self.column)) data-version=(visible(version)) {
                        legend { (visible(&self.column)) (self.facts()) }
                        label for={ "text-" (id) } {
                            "Text" span.hidden { " of " (visible(label)) }
                        }
                        textarea id={ "text-" (id) } rows="3" lang=[self.language()]
                            dir="auto" autocomplete="off" { "\n" (visible(&self.text)) }
                        (self.current())
                        div.marks role="radiogroup" aria-label="Decision" {
                            @for (value, name) in
                                [("", "Open"), ("approve", "Approve"), ("reject", "Reject")]
                            {
                                label {
                                    input type="radio" name={ "mark-" (id) } value=(value)
                                        checked[value.is_empty()];
                                    " " (name)
                                }
                            }
                        }
                        label for={ "why-" (id) } {
                            "Reason" span.hidden { " to reject " (visible(&self.column)) }
                        }
                        input.why id={ "why-" (id) } type="text" autocomplete="off";
                    }
                }
                None => {
                    section {
                        h3 { (visible(&self.column)) (self.facts()) }
                        @if self.text.is_empty() {
                            p.none { "No text." }
                        } @else {
                            p lang=[self.language()] dir="auto" { (visible(&self.text)) }
                        }
                        (self.current())
                    }
                }
            }
        }
    }

    /// Confidence, source, state, model and reason.
    fn facts(&self) -> Markup {
        let confidence = self.confidence.map(|value| format!("confidence {value:.2}"));
        let named = |name: &str, value: &Option<String>| {
            value.as_ref().map(|value| format!("{name}{}", visible(value)))
        };
        let facts = [
            named("", &self.state),
            confidence,
            named("from ", &self.source),
            named("", &self.model),
            named("", &self.reason),
        ];
        html! {
            span.facts { @for fact in facts.iter().flatten() { " · " (fact) } }
        }
    }

    /// The language, if it is a tag.
    fn language(&self) -> Option<&str> {
        let is_tag = |tag: &&str| tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        self.language.as_deref().filter(is_tag)
    }

    fn current(&self) -> Markup {
        html! {
            @if let Some(current) = &self.current {
                p.current { "Now: " span dir="auto" { (visible(current)) } }
            }
        }
    }
}

/// A text without characters that HTML permits nowhere.
fn visible(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')).collect()
}

/// A hash as a Content-Security-Policy names it.
fn source(content: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(content.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str =
        "\"'><script>alert(1)</script></textarea><img src=x onerror=alert(1)>\u{0}&";

    #[test]
    fn every_text_is_escaped() {
        let text = SheetText {
            column: HOSTILE.into(),
            text: HOSTILE.into(),
            current: Some(HOSTILE.into()),
            source: Some(HOSTILE.into()),
            state: Some(HOSTILE.into()),
            model: Some(HOSTILE.into()),
            language: Some(HOSTILE.into()),
            reason: Some(HOSTILE.into()),
            version: Some(HOSTILE.into()),
            confidence: Some(0.5),
        };
        let page = SheetPage {
            title: HOSTILE.into(),
            summary: HOSTILE.into(),
            import: Some(HOSTILE.into()),
            cards: vec![SheetCard {
                key: HOSTILE.into(),
                label: HOSTILE.into(),
                picture: Some(format!("https://a.example/{HOSTILE}")),
                texts: vec![text.clone(), SheetText { version: None, ..text }],
            }],
        };
        let html = page.html();
        assert_eq!(html.matches("<script>").count(), 1, "the script of the page");
        assert_eq!(html.matches("</script>").count(), 1);
        assert_eq!(html.matches("<textarea ").count(), html.matches("</textarea>").count());
        assert!(!html.contains("<img src=x"), "{html}");
        assert!(!html.contains('\u{0}'));
    }

    #[test]
    fn scripts_in_addresses_are_no_links() {
        let card = SheetCard { picture: Some("javascript:alert(1)".into()), ..Default::default() };
        let html = SheetPage { cards: vec![card], ..Default::default() }.html();
        assert!(!html.contains("javascript:") && !html.contains("<a "), "{html}");
    }

    #[test]
    fn the_policy_names_the_script_by_hash() {
        let html = SheetPage::default().html();
        let hash = source(SCRIPT);
        assert!(
            html.contains(&format!("script-src &#39;{hash}&#39;"))
                || html.contains(&format!("script-src '{hash}'")),
            "{html}"
        );
        assert!(html.contains("no-referrer"));
        // Nothing may end the elements early.
        assert!(!SCRIPT.contains("</") && !STYLE.contains("</"));
    }
}
