//! Templates: `{title}: {caption}`. Parsed when a style or fill is defined, rendered for each text.

use crate::cell::cell_text;
use crate::merge;
use pg_caption_style::{EmptyText, StyleRules, cut, empty_text};
use std::collections::BTreeMap;

/// Longest template, characters.
pub const MAX_TEMPLATE: usize = 500;
/// Most placeholders of a template.
pub const MAX_PLACEHOLDERS: usize = 16;
/// Longest name of a column, bytes.
pub const MAX_NAME: usize = 63;
/// A caption is left out rather than cut to fewer characters.
const LEAST_CAPTION: usize = 12;
/// The placeholder of the caption.
const CAPTION: &str = "caption";

/// Why a template is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is blank, too long, or has control characters.
    #[error("a template must have 1 to {MAX_TEMPLATE} characters and no control characters")]
    Form,
    /// A brace has no partner.
    #[error(
        "the brace at character {0} has no partner: write {{{{ or }}}} for a brace in the text"
    )]
    Brace(usize),
    /// The placeholder names no column of the context.
    #[error("placeholder {{{name}}} is unknown: use one of {known}")]
    Unknown {
        /// The name in the template.
        name: String,
        /// The names that may be used, separated by commas.
        known: String,
    },
    /// There are too many placeholders.
    #[error("a template has at most {MAX_PLACEHOLDERS} placeholders")]
    TooMany,
    /// A template has no `{caption}`, or a fallback has one.
    #[error("a template has one {{caption}}, a fallback has none")]
    Caption,
    /// A fallback is the same text for every row.
    #[error("a fallback has at least one placeholder")]
    NoPlaceholder,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TemplatePart {
    Text(String),
    Column(String),
}

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextTemplate {
    pub(crate) parts: Vec<TemplatePart>,
}

impl TextTemplate {
    /// Reads a template for captions. `columns` are those of the context.
    ///
    /// ```
    /// use pg_caption_publish::TextTemplate;
    ///
    /// let template = TextTemplate::for_captions("{title}: {caption}", &["title"]).unwrap();
    /// let rules = pg_caption_style::builtin("concise").unwrap().rules;
    /// let row = [("title".to_string(), "Navy T-shirt".to_string())].into();
    /// let text = template.render("Folded on a wooden floor", &row, &rules);
    /// assert_eq!(text, "Navy T-shirt: Folded on a wooden floor");
    /// assert!(TextTemplate::for_captions("{titel}: {caption}", &["title"]).is_err());
    /// ```
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn for_captions(text: &str, columns: &[&str]) -> Result<TextTemplate, TemplateError> {
        let template = parse(text, columns, true)?;
        match template.names().filter(|name| *name == CAPTION).count() {
            1 => Ok(template),
            _ => Err(TemplateError::Caption),
        }
    }

    /// Reads a template for pictures without a caption.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn for_fallbacks(text: &str, columns: &[&str]) -> Result<TextTemplate, TemplateError> {
        if parse(text, columns, true)?.names().any(|name| name == CAPTION) {
            return Err(TemplateError::Caption);
        }
        let template = parse(text, columns, false)?;
        match template.names().count() {
            0 => Err(TemplateError::NoPlaceholder),
            _ => Ok(template),
        }
    }

    /// The columns that it names, in order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.names().filter(|name| *name != CAPTION)
    }

    /// Its text with a mark in place of each placeholder, whatever the columns are called.
    pub fn shape(&self) -> String {
        let part = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => text.clone(),
            TemplatePart::Column(name) if name == CAPTION => "\u{1}".into(),
            TemplatePart::Column(_) => "\u{2}".into(),
        };
        self.parts.iter().map(part).collect()
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            TemplatePart::Column(name) => Some(name.as_str()),
            TemplatePart::Text(_) => None,
        })
    }

    /// The caption with the words of its row, at most `max_chars` of the rules long. The caption is
    /// shortened first. Words of the row that the caption repeats appear once. Without a usable
    /// value for each column the result is the caption alone.
    pub fn render(
        &self,
        caption: &str,
        row: &BTreeMap<String, String>,
        rules: &StyleRules,
    ) -> String {
        let max = rules.max_chars as usize;
        let Some((before, after)) = self.around_caption(row) else {
            return cut(caption, max).to_string();
        };
        let bare = caption.trim_end_matches(['.', ' ']);
        let text = merge::joined(&before, bare, &after, max, LEAST_CAPTION);
        finished(text, rules, caption)
    }

    /// The text before and after the caption; `None` if a column has no usable value.
    fn around_caption(&self, row: &BTreeMap<String, String>) -> Option<(String, String)> {
        let (mut before, mut after, mut passed) = (String::new(), String::new(), false);
        for part in &self.parts {
            let out = if passed { &mut after } else { &mut before };
            match part {
                TemplatePart::Text(text) => out.push_str(text),
                TemplatePart::Column(name) if name == CAPTION => passed = true,
                TemplatePart::Column(name) => out.push_str(&usable(row.get(name)?)?),
            }
        }
        Some((before, after))
    }
}

/// The words of a column, if they say something. A number stays: a template may show it.
pub(crate) fn usable(raw: &str) -> Option<String> {
    let text = cell_text(raw);
    let empty = match empty_text(&text) {
        Some(EmptyText::ArticleNumber) | None => text.is_empty(),
        Some(_) => true,
    };
    (!empty).then_some(text)
}

/// The final stop as the style has it. The limit holds.
fn finished(mut text: String, rules: &StyleRules, caption: &str) -> String {
    let stopped = text.ends_with(['.', '!', '?', '。', '…']);
    if rules.strip_final_stop {
        text.truncate(text.trim_end_matches(['.', ' ', ',', ':', ';']).len());
    } else if !stopped && text.chars().count() < rules.max_chars as usize {
        text.push(if caption.ends_with('。') { '。' } else { '.' });
    }
    text
}

fn parse(text: &str, columns: &[&str], caption: bool) -> Result<TextTemplate, TemplateError> {
    let bad = text.chars().any(char::is_control) || text.chars().count() > MAX_TEMPLATE;
    if bad || text.trim().is_empty() {
        return Err(TemplateError::Form);
    }
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut chars = text.chars().enumerate().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '{' | '}' if chars.peek().is_some_and(|(_, next)| *next == c) => {
                chars.next();
                plain.push(c);
            }
            '}' => return Err(TemplateError::Brace(at + 1)),
            '{' => {
                let mut name = String::new();
                loop {
                    match chars.next() {
                        Some((_, '}')) => break,
                        Some((_, '{')) | None => return Err(TemplateError::Brace(at + 1)),
                        Some((_, c)) => name.push(c),
                    }
                }
                let name = name.trim();
                if !(columns.contains(&name) || caption && name == CAPTION) {
                    return Err(unknown(name, columns, caption));
                }
                if !plain.is_empty() {
                    parts.push(TemplatePart::Text(std::mem::take(&mut plain)));
                }
                parts.push(TemplatePart::Column(name.to_string()));
            }
            _ => plain.push(c),
        }
    }
    if !plain.is_empty() {
        parts.push(TemplatePart::Text(plain));
    }
    let template = TextTemplate { parts };
    match template.names().count() {
        count if count > MAX_PLACEHOLDERS => Err(TemplateError::TooMany),
        _ => Ok(template),
    }
}

/// The text of a template after a column was renamed.
///
/// ```
/// use pg_caption_publish::rename_column;
///
/// assert_eq!(rename_column("{{title}} { title}: {caption}", "title", "name"),
///            "{{title}} {name}: {caption}");
/// ```
pub fn rename_column(template: &str, from: &str, to: &str) -> String {
    let (mut renamed, mut rest) = (String::new(), template);
    while let Some(open) = rest.find('{') {
        let (before, after) = rest.split_at(open);
        renamed.push_str(before);
        let end = after.find('}').filter(|_| !after.starts_with("{{"));
        let (placeholder, remaining) = match end {
            Some(end) => after.split_at(end + 1),
            None => after.split_at(if after.starts_with("{{") { 2 } else { 1 }),
        };
        match placeholder.trim_matches(['{', '}']).trim() == from && end.is_some() {
            true => renamed += &format!("{{{to}}}"),
            false => renamed.push_str(placeholder),
        }
        rest = remaining;
    }
    renamed + rest
}

fn unknown(name: &str, columns: &[&str], caption: bool) -> TemplateError {
    let mut known: Vec<String> = columns.iter().map(|column| format!("{{{column}}}")).collect();
    if caption {
        known.push(format!("{{{CAPTION}}}"));
    }
    let name = name.chars().take(MAX_NAME).collect();
    let known = if known.is_empty() { "the context columns".into() } else { known.join(", ") };
    TemplateError::Unknown { name, known }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_style::builtin;

    fn row(title: &str) -> BTreeMap<String, String> {
        [("title".to_string(), title.to_string()), ("brand".to_string(), "Acme".to_string())].into()
    }

    fn rendered(template: &str, title: &str, caption: &str) -> String {
        let rules = builtin("concise").unwrap().rules;
        TextTemplate::for_captions(template, &["title", "brand"]).unwrap().render(
            caption,
            &row(title),
            &rules,
        )
    }

    #[test]
    fn words_of_the_title_are_not_repeated() {
        for (title, caption, text) in [
            ("Navy T-shirt", "Folded on a floor", "Navy T-shirt: Folded on a floor"),
            (
                "Navy T-shirt",
                "Navy T-shirt on a white background",
                "Navy T-shirt on a white background",
            ),
            ("Navy T-shirt", "A navy T-shirt, folded", "Navy T-shirt, folded"),
            ("Acme Navy T-shirt", "Navy T-shirt on a hook", "Acme Navy T-shirt on a hook"),
            ("Navy T-shirt", "T-shirt on a hook", "Navy T-shirt on a hook"),
            ("Navy T-shirt", "Navy T-shirt", "Navy T-shirt"),
            ("Navy T-shirt with a pocket", "A navy T-shirt", "Navy T-shirt with a pocket"),
            ("Navy T-shirt", "A man in a navy T-shirt", "A man in a navy T-shirt"),
            ("T-shirt Navy Cotton", "Navy T-shirt on a hook", "T-shirt Navy Cotton, on a hook"),
            ("Cup", "A red cup on a table", "A red cup on a table"),
            ("Cupboard", "A red cup on a table", "Cupboard: A red cup on a table"),
        ] {
            assert_eq!(rendered("{title}: {caption}", title, caption), text, "{title} | {caption}");
        }
        assert_eq!(rendered("{caption} – {title}", "Red cup", "A red cup"), "A red cup");
        assert_eq!(
            rendered("{brand} {title} | {caption}", "Red cup", "Red cup on a table"),
            "Acme Red cup on a table"
        );
    }

    #[test]
    fn a_missing_word_gives_the_caption_alone() {
        for title in ["", "  ", "<b></b>", "TODO", "n/a", "IMG_1234.jpg", "https://x.example/a"] {
            assert_eq!(rendered("{title}: {caption}", title, "A red cup"), "A red cup", "{title}");
        }
        let template = TextTemplate::for_captions("{title}: {caption}", &["title"]).unwrap();
        let rules = builtin("seo").unwrap().rules;
        assert_eq!(template.render("A red cup.", &BTreeMap::new(), &rules), "A red cup.");
    }

    #[test]
    fn the_caption_is_shortened_first() {
        let mut rules = builtin("concise").unwrap().rules;
        let template = TextTemplate::for_captions("{title}: {caption}", &["title"]).unwrap();
        let mut at = |max: u32| {
            rules.max_chars = max;
            template.render("A tall vase with tulips, on a table", &row("Blue hall"), &rules)
        };
        assert_eq!(at(125), "Blue hall: A tall vase with tulips, on a table");
        assert_eq!(at(40), "Blue hall: A tall vase with tulips");
        assert_eq!(at(22), "Blue hall");
        assert_eq!(at(6), "Blue");
    }

    #[test]
    fn braces_can_be_escaped() {
        assert_eq!(rendered("{{{title}}} {caption}", "Cup", "On a table"), "{Cup} On a table");
    }

    #[test]
    fn the_style_decides_about_the_final_stop() {
        let template = TextTemplate::for_captions("{title}: {caption}", &["title"]).unwrap();
        let rules = builtin("seo").unwrap().rules;
        let text = template.render("A red cup.", &row("Kitchen"), &rules);
        assert_eq!(text, "Kitchen: A red cup.");
        assert_eq!(rendered("{title}: {caption}", "Kitchen", "A red cup."), "Kitchen: A red cup");
        assert_eq!(template.render("赤い。", &row("台所"), &rules), "台所: 赤い。");
    }

    #[test]
    fn errors_name_the_cause() {
        let error = |text: &str| TextTemplate::for_captions(text, &["title"]).unwrap_err();
        assert_eq!(error(""), TemplateError::Form);
        assert_eq!(error("a\nb {caption}"), TemplateError::Form);
        assert_eq!(error(&"x".repeat(501)), TemplateError::Form);
        assert_eq!(error("{title: {caption}"), TemplateError::Brace(1));
        assert_eq!(error("a} {caption}"), TemplateError::Brace(2));
        assert_eq!(error("{caption"), TemplateError::Brace(1));
        assert_eq!(error("{title}"), TemplateError::Caption);
        assert_eq!(error("{caption}{caption}"), TemplateError::Caption);
        assert_eq!(error(&format!("{{caption}}{}", "{title}".repeat(16))), TemplateError::TooMany);
        assert_eq!(
            error("{price} {caption}").to_string(),
            "placeholder {price} is unknown: use one of {title}, {caption}"
        );
        let fallback = |text: &str| TextTemplate::for_fallbacks(text, &["title"]).unwrap_err();
        assert_eq!(fallback("{caption}"), TemplateError::Caption);
        assert_eq!(fallback("Product"), TemplateError::NoPlaceholder);
    }
}
