//! PostgreSQL's style of error messages, for the failures of all crates.

use pg_caption_wire::Failure;

/// Violations of the message style in a failure; empty without one.
///
/// * The message starts in lower case, unless with an acronym or a quoted name. It ends without a
///   full stop and has one line.
/// * Detail and hint consist of whole sentences: a capital letter or a quoted name first, a full
///   stop last.
/// * There is a hint: it says what to do next.
///
/// ```
/// use pg_caption_checks::style_violations;
/// use pg_caption_wire::{Failure, FailureClass};
///
/// let good = Failure::new(FailureClass::Retry, "reset", "host a:80 closed the connection")
///     .hint("Call again later.");
/// assert!(style_violations(&good).is_empty());
/// let bad = good.detail("after 3 s");
/// assert_eq!(style_violations(&bad).len(), 2);
/// ```
pub fn style_violations(failure: &Failure) -> Vec<String> {
    let mut violations = message_violations(&failure.message);
    if failure.hint.is_none() {
        violations.push("there is no hint".into());
    }
    for (part, text) in [("detail", &failure.detail), ("hint", &failure.hint)] {
        let Some(text) = text else { continue };
        if !starts_sentence(text) {
            violations.push(format!("{part} does not start a sentence: {text}"));
        }
        if !text.ends_with('.') || text.ends_with("..") {
            violations.push(format!("{part} does not end with one full stop: {text}"));
        }
        if text.contains("  ") {
            violations.push(format!("{part} contains two spaces: {text}"));
        }
    }
    violations.iter().map(|violation| format!("{}: {violation}", failure.code)).collect()
}

/// Violations of the style in a primary message alone, for errors that are not failures.
pub fn message_violations(message: &str) -> Vec<String> {
    let mut violations = Vec::new();
    if !starts_message(message) {
        violations.push(format!("message starts with a capital letter: {message}"));
    }
    if message.is_empty() || message.ends_with(['.', ' ', ':', ';', ',']) {
        violations.push(format!("message ends with punctuation or is empty: {message:?}"));
    }
    if message.contains(['\n', '\r']) || message.contains("  ") {
        violations.push(format!("message contains line breaks or two spaces: {message:?}"));
    }
    violations
}

fn first_word(text: &str) -> &str {
    text.split(|c: char| c.is_whitespace() || c == ':').next().unwrap_or_default()
}

/// Lower case, a digit, a quoted name, an acronym (`URL`), or a name with capitals (`LZMA-TIFF`).
fn starts_message(text: &str) -> bool {
    let word = first_word(text);
    let acronym = word.chars().filter(|c| c.is_uppercase()).count() >= 2;
    text.starts_with(|c: char| c.is_lowercase() || c.is_ascii_digit() || c == '"') || acronym
}

/// A capital, a digit, a quoted name, or a name with a dot, underscore or call (`caption.host`).
fn starts_sentence(text: &str) -> bool {
    text.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit() || c == '"')
        || first_word(text).contains(['.', '_', '('])
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_wire::FailureClass;

    fn violations(message: &str, detail: Option<&str>) -> usize {
        let mut failure =
            Failure::new(FailureClass::Reject, "code", message).hint("Call again later.");
        failure.detail = detail.map(String::from);
        style_violations(&failure).len()
    }

    #[test]
    fn messages_follow_the_style() {
        for (message, found) in [
            ("the image is too large", 0),
            ("URL scheme \"ftp\" is not supported", 0),
            ("\"x\" is not a name", 0),
            ("pg_caption.proxy cannot be used: it is not a URL", 0),
            ("The image is too large", 1),
            ("the image is too large.", 1),
            ("the image\nis too large", 1),
            ("", 2),
        ] {
            assert_eq!(violations(message, None), found, "{message:?}");
        }
    }

    #[test]
    fn each_failure_has_a_hint() {
        let silent = Failure::new(FailureClass::Reject, "code", "it failed");
        assert_eq!(style_violations(&silent), ["code: there is no hint"]);
    }

    #[test]
    fn details_are_sentences() {
        for (detail, found) in [
            ("It has 3 bytes.", 0),
            ("\"a.jpg\" has 3 bytes.", 0),
            ("caption.host shows it.", 0),
            ("it has 3 bytes.", 1),
            ("It has 3 bytes", 1),
            ("URL: x; after 3 ms", 1),
        ] {
            assert_eq!(violations("x", Some(detail)), found, "{detail:?}");
        }
    }
}
