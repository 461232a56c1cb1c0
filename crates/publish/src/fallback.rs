//! Fallbacks: the text of a picture that gets no caption, from words of its row.

use crate::cell_text;
use crate::template::{TemplatePart, TextTemplate};
use pg_caption_style::{StyleRules, cut, empty_text};
use std::collections::BTreeMap;

/// Fewer characters are no text.
const LEAST: usize = 3;

impl TextTemplate {
    /// The text of a picture without a caption; `None` if the row has nothing to show. Columns
    /// without a usable value are left out together with the marks around them. Names of files,
    /// URLs and placeholders ("TODO") are never shown, an article number not alone.
    ///
    /// ```
    /// use pg_caption_publish::TextTemplate;
    ///
    /// let template = TextTemplate::for_fallbacks("{title} ({sku})", &["title", "sku"]).unwrap();
    /// let rules = pg_caption_style::builtin("concise").unwrap().rules;
    /// let row = |title: &str| {
    ///     [("title", title), ("sku", "AB-12")].map(|(k, v)| (k.to_string(), v.to_string())).into()
    /// };
    /// let text = template.fallback(&row("Navy T-shirt"), &rules);
    /// assert_eq!(text.as_deref(), Some("Navy T-shirt (AB-12)"));
    /// assert_eq!(template.fallback(&row("n/a"), &rules), None);
    /// ```
    pub fn fallback(&self, row: &BTreeMap<String, String>, rules: &StyleRules) -> Option<String> {
        let mut text = String::new();
        let mut shown = false;
        for part in &self.parts {
            match part {
                TemplatePart::Text(words) => text.push_str(words),
                TemplatePart::Column(name) => {
                    let value = row.get(name).map(|raw| without_addresses(&cell_text(raw)));
                    if let Some(value) = value.filter(|value| is_shown(value)) {
                        shown |= empty_text(&value).is_none();
                        text.push_str(&value);
                    }
                }
            }
        }
        let text = tidied(&text);
        let text = cut(&text, rules.max_chars as usize);
        let usable = shown
            && text.chars().count() >= LEAST
            && text.chars().any(char::is_alphabetic)
            && empty_text(text).is_none();
        usable.then(|| text.to_string())
    }
}

/// An article number may stand next to other words.
fn is_shown(value: &str) -> bool {
    use pg_caption_style::EmptyText::ArticleNumber;
    !value.is_empty() && matches!(empty_text(value), None | Some(ArticleNumber))
}

/// Without words that are URLs or names of files.
fn without_addresses(text: &str) -> String {
    use pg_caption_style::EmptyText::{FileName, WebAddress};
    text.split(' ')
        .filter(|word| {
            !(word.contains(['.', '/', '_'])
                && matches!(empty_text(word), Some(FileName | WebAddress)))
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// Without empty brackets and without marks that separate nothing.
fn tidied(text: &str) -> String {
    let mut text = text.to_string();
    for pair in ["()", "[]", "( )", "[ ]", "\"\"", "„“", "“”", "«»"] {
        text = text.replace(pair, "");
    }
    let is_mark = |word: &str| !word.is_empty() && !word.contains(char::is_alphanumeric);
    let mut words: Vec<&str> = Vec::new();
    for word in text.split_whitespace() {
        let double = is_mark(word) && words.last().is_none_or(|last| ends_with_mark(last));
        if !double {
            words.push(word);
        }
    }
    while words.last().is_some_and(|last| is_mark(last)) {
        words.pop();
    }
    let line = words.join(" ");
    let line = line.trim_start_matches([',', ':', ';', '-', '–', '|', '/', '.', ' ']);
    line.trim_end_matches([',', ':', ';', '-', '–', '|', '/', ' ']).to_string()
}

fn ends_with_mark(word: &str) -> bool {
    word.ends_with([',', ':', ';', '-', '–', '|', '/'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_style::builtin;

    fn fallback(template: &str, title: &str, brand: &str) -> Option<String> {
        let row = [("title", title), ("brand", brand)].map(|(k, v)| (k.to_string(), v.to_string()));
        let rules = builtin("concise").unwrap().rules;
        TextTemplate::for_fallbacks(template, &["title", "brand"])
            .unwrap()
            .fallback(&row.into(), &rules)
    }

    #[test]
    fn words_of_the_row_stand_for_the_caption() {
        let both = |title, brand| fallback("{brand} – {title}", title, brand);
        assert_eq!(both("Navy T-shirt", "Acme").as_deref(), Some("Acme – Navy T-shirt"));
        assert_eq!(both("Navy T-shirt", "").as_deref(), Some("Navy T-shirt"));
        assert_eq!(both("", "Acme").as_deref(), Some("Acme"));
        assert_eq!(
            fallback("{title} ({brand})", "<b>Cup</b> &amp; saucer", "TODO").as_deref(),
            Some("Cup & saucer")
        );
    }

    #[test]
    fn what_is_no_text_is_not_shown() {
        for title in [
            "",
            " ",
            "IMG_1234.jpg",
            "red_shirt_02",
            "AB-1234-XL",
            "4006381333931",
            "TODO",
            "n/a",
            "test",
            "https://x.example/a",
            "Photo",
            "Unbekannt",
            "...",
            "<p></p>",
            "12",
            "x",
        ] {
            assert_eq!(fallback("{title}", title, ""), None, "{title}");
        }
        assert_eq!(
            fallback("{title}", "Navy T-shirt IMG_12.jpg www.x.example", "").as_deref(),
            Some("Navy T-shirt")
        );
    }

    #[test]
    fn the_limit_holds() {
        let text = fallback("{title}", &"long title ".repeat(50), "").unwrap();
        assert!(text.chars().count() <= 125, "{text}");
    }
}
