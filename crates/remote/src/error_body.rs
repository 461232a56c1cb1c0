//! The four shapes in which servers and proxies describe an error, and what is not JSON.

use serde_json::Value;

/// Characters of a server's text that are shown.
const MAX_SHOWN: usize = 300;

/// What an error body states.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ErrorBody {
    /// One line; may be empty.
    pub(crate) message: String,
    /// The field of the request that it is about.
    pub(crate) param: Option<String>,
    /// A name such as `unsupported_parameter`.
    pub(crate) code: Option<String>,
    /// A number, usually the status.
    pub(crate) number: Option<u64>,
    /// Such as `exceed_context_size_error`.
    pub(crate) kind: Option<String>,
}

impl ErrorBody {
    /// Reads `{"error": {…}}`, `{"error": "…"}`, `{"message": …}`, `{"detail": …}`, HTML or text.
    pub(crate) fn read(body: &[u8]) -> ErrorBody {
        match serde_json::from_slice::<Value>(body) {
            Ok(value) => ErrorBody::of_value(&value),
            Err(_) => ErrorBody {
                message: shown(&without_tags(&String::from_utf8_lossy(body))),
                ..ErrorBody::default()
            },
        }
    }

    /// The error in a JSON answer; empty if it states none.
    pub(crate) fn of_value(value: &Value) -> ErrorBody {
        let inner = match &value["error"] {
            Value::Null => value,
            Value::String(message) => {
                return ErrorBody { message: shown(message), ..ErrorBody::default() };
            }
            inner => inner,
        };
        let text = |name: &str| inner[name].as_str().map(String::from);
        let message = match (&inner["message"], &inner["detail"]) {
            (Value::String(message), _) => message.clone(),
            (_, Value::String(detail)) => detail.clone(),
            (_, Value::Array(details)) => details.iter().map(detail).collect::<Vec<_>>().join("; "),
            (Value::Object(_), _) => inner["message"].to_string(),
            _ => String::new(),
        };
        // FastAPI names the field by its place in the request.
        let place = inner["detail"].get(0).and_then(|first| first["loc"].as_array()?.last());
        ErrorBody {
            message: shown(&message),
            param: text("param").or_else(|| Some(place?.as_str()?.into())),
            code: text("code"),
            number: inner["code"].as_u64(),
            kind: text("type"),
        }
    }

    /// Whether code, type or message has one of these words, in any case.
    pub(crate) fn has(&self, words: &[&str]) -> bool {
        let code = self.code.as_deref().unwrap_or_default();
        let all = format!("{code} {} {}", self.kind.as_deref().unwrap_or_default(), self.message);
        let all = all.to_ascii_lowercase();
        words.iter().any(|word| all.contains(word))
    }
}

fn detail(value: &Value) -> String {
    let message = value["msg"].as_str().or(value.as_str());
    message.map_or_else(|| value.to_string(), String::from)
}

/// One line of visible text, cut.
pub(crate) fn shown(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// The text of a page of HTML, roughly: enough for "503 Service Unavailable".
fn without_tags(text: &str) -> String {
    if !text.trim_start().starts_with('<') {
        return text.into();
    }
    let mut visible = String::new();
    let mut in_tag = false;
    for c in text.chars() {
        match c {
            '<' => in_tag = true,
            '>' => {
                in_tag = false;
                visible.push(' ');
            }
            c if !in_tag => visible.push(c),
            _ => {}
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_of_an_error_is_read() {
        for (body, message, code, param) in [
            (
                r#"{"error":{"message":"Invalid API Key","type":"authentication_error",
                    "code":401}}"#,
                "Invalid API Key",
                None,
                None,
            ),
            (r#"{"error":{"message":"m","code":"c","param":"p"}}"#, "m", Some("c"), Some("p")),
            (r#"{"error":"model is loading"}"#, "model is loading", None, None),
            (
                r#"{"object":"error","message":"queue is full","code":503}"#,
                "queue is full",
                None,
                None,
            ),
            (r#"{"detail":"Unexpected fields"}"#, "Unexpected fields", None, None),
            (
                r#"{"detail":[{"loc":["body","logprobs"],"msg":"extra input"}]}"#,
                "extra input",
                None,
                Some("logprobs"),
            ),
            (
                "<html><body><h1>503 Service Unavailable</h1>\nNo server.\n</body></html>",
                "503 Service Unavailable No server.",
                None,
                None,
            ),
            ("Internal Server Error", "Internal Server Error", None, None),
            ("", "", None, None),
            ("{}", "", None, None),
            ("[1]", "", None, None),
        ] {
            let error = ErrorBody::read(body.as_bytes());
            assert_eq!(
                (error.message.as_str(), error.code.as_deref(), error.param.as_deref()),
                (message, code, param),
                "{body}"
            );
        }
    }

    #[test]
    fn a_hostile_text_is_one_short_line() {
        let body = format!("a\r\nb\u{1b}[31m\t{}\u{0}", "x".repeat(100_000));
        let message = ErrorBody::read(body.as_bytes()).message;
        assert!(message.starts_with("a b [31m x"), "{message}");
        assert!(message.chars().count() <= MAX_SHOWN + 1 && !message.contains(char::is_control));
        assert!(ErrorBody::read(&[0xff, 0xfe, b'x']).message.contains('x'));
    }
}
