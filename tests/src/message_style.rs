//! PostgreSQL's message style guide as a check. Used by the tests that read messages from a live
//! server and by those that read them from the sources.

/// The problem of a primary message, if any: it begins in lower case and has no full stop and no
/// line end.
pub fn message_problem(message: &str) -> Option<String> {
    let word: String = message.chars().take_while(|c| c.is_alphanumeric()).collect();
    let capitals = word.chars().filter(|c| c.is_uppercase()).count();
    let starts_upper = word.starts_with(char::is_uppercase);
    // An abbreviation such as URL stays in upper case.
    let problem = if message.trim() != message || message.is_empty() {
        "is empty or has white space around it"
    } else if message.contains('\n') {
        "has a line end"
    } else if message.ends_with('.') {
        "ends with a full stop"
    } else if starts_upper && capitals < 2 {
        "begins with a capital letter"
    } else {
        return None;
    };
    Some(format!("the message {problem}: {message}"))
}

/// The problem of a DETAIL or HINT, if any: it consists of whole sentences.
pub fn sentence_problem(text: &str) -> Option<String> {
    let word = text.split_whitespace().next().unwrap_or_default();
    // A sentence may begin with a name: a setting, a function, or a quoted one.
    let is_name = word.starts_with(['"', '{', '/']) || word.contains(['_', '.', '(']);
    let starts = text.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit());
    let problem = if text.trim() != text || text.is_empty() {
        "is empty or has white space around it"
    } else if !(starts || is_name) {
        "does not begin with a capital letter"
    } else if !text.ends_with(['.', '?', '}']) {
        "does not end with a full stop"
    } else {
        return None;
    };
    Some(format!("the text {problem}: {text}"))
}
