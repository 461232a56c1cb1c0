//! What a server does not accept, learned from its refusals.

use crate::error_body::ErrorBody;

/// The name of the token limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TokenCap {
    /// The old name, which most servers accept.
    #[default]
    MaxTokens,
    /// The new name, which some models require.
    MaxCompletionTokens,
    /// None is accepted.
    Absent,
}

impl TokenCap {
    /// The field of the request.
    pub(crate) fn field(self) -> Option<&'static str> {
        match self {
            TokenCap::MaxTokens => Some("max_tokens"),
            TokenCap::MaxCompletionTokens => Some("max_completion_tokens"),
            TokenCap::Absent => None,
        }
    }
}

/// What a server does not accept. Requests are made accordingly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerQuirks {
    pub(crate) cap: TokenCap,
    pub(crate) no_temperature: bool,
    pub(crate) no_logprobs: bool,
    /// It accepts the request for log probabilities and sends none.
    pub(crate) silent_logprobs: bool,
    pub(crate) no_template_options: bool,
    pub(crate) no_reasoning_effort: bool,
    /// It is pg_caption's own, and its model needs pictures of this width and height.
    pub(crate) own: Option<(u32, u32)>,
}

/// Words about a field that is not accepted, in contrast to a value that is wrong.
const NOT_ACCEPTED: [&str; 11] = [
    "unsupported",
    "not supported",
    "does not support",
    "unexpected",
    "unknown",
    "unrecognized",
    "unrecognised",
    "not permitted",
    "not allowed",
    "extra input",
    "extra field",
];

impl ServerQuirks {
    /// What the next request is made with, after a request made with `self` was refused with
    /// `error`. `None`: the refusal has another reason.
    pub(crate) fn after(self, error: &ErrorBody) -> Option<ServerQuirks> {
        let message = error.message.to_ascii_lowercase();
        let code = error.code.as_deref().unwrap_or_default();
        let is_about_fields = code.starts_with("unsupported_")
            || code == "unknown_parameter"
            || NOT_ACCEPTED.iter().any(|words| message.contains(words));
        if !is_about_fields {
            return None;
        }
        let param = error.param.as_deref().unwrap_or_default();
        let names = |field: &str| match param {
            "" => has_word(&message, field),
            param => param == field,
        };
        let mut next = self;
        if self.cap.field().is_some_and(&names) {
            next.cap = match self.cap {
                TokenCap::MaxTokens => TokenCap::MaxCompletionTokens,
                _ => TokenCap::Absent,
            };
        }
        next.no_temperature |= names("temperature");
        next.no_logprobs |= names("logprobs") || names("top_logprobs");
        next.no_template_options |= names("chat_template_kwargs");
        next.no_reasoning_effort |= names("reasoning_effort");
        (next != self).then_some(next)
    }

    /// Both together: what two requests have learned.
    pub(crate) fn and(self, other: ServerQuirks) -> ServerQuirks {
        ServerQuirks {
            cap: if self.cap == TokenCap::MaxTokens { other.cap } else { self.cap },
            no_temperature: self.no_temperature || other.no_temperature,
            no_logprobs: self.no_logprobs || other.no_logprobs,
            silent_logprobs: self.silent_logprobs || other.silent_logprobs,
            no_template_options: self.no_template_options || other.no_template_options,
            no_reasoning_effort: self.no_reasoning_effort || other.no_reasoning_effort,
            own: other.own.or(self.own),
        }
    }

    /// Notes what a successful answer says about who the server is.
    pub fn recognise(&mut self, own: Option<(u32, u32)>) {
        self.own = own;
    }

    /// Whether the server is pg_caption's own; then the width and height that its model needs.
    pub fn own(self) -> Option<(u32, u32)> {
        self.own
    }

    /// What was learned, for the engine's status.
    pub fn learned(self) -> Vec<String> {
        let mut learned = Vec::new();
        match self.cap {
            TokenCap::MaxTokens => {}
            TokenCap::MaxCompletionTokens => {
                learned.push("the token limit is max_completion_tokens");
            }
            TokenCap::Absent => learned.push("no token limit is accepted"),
        }
        for (is_so, what) in [
            (self.no_temperature, "temperature is not accepted"),
            (self.no_logprobs, "logprobs is not accepted"),
            (self.silent_logprobs, "logprobs is accepted, but none are sent"),
            (self.no_template_options, "chat_template_kwargs is not accepted"),
            (self.no_reasoning_effort, "reasoning_effort is not accepted"),
            (self.own.is_some(), "it is pg_caption: styles are sent whole, pictures unchanged"),
        ] {
            if is_so {
                learned.push(what);
            }
        }
        learned.into_iter().map(String::from).collect()
    }
}

/// Whether a text has `word`, not as a part of a longer name.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The refusals that servers send, as `remote.md` lists them, and what is learned.
    #[test]
    fn a_refused_field_is_learned() {
        let plain = ServerQuirks::default();
        for (body, learned) in [
            (
                r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with
                    this model. Use 'max_completion_tokens' instead.","param":"max_tokens",
                    "type":"invalid_request_error","code":"unsupported_parameter"}}"#,
                "the token limit is max_completion_tokens",
            ),
            (
                r#"{"error":{"message":"'temperature' does not support 0 with this model.",
                    "param":"temperature","code":"unsupported_value"}}"#,
                "temperature is not accepted",
            ),
            (r#"{"detail":"Unexpected fields: {'logprobs'}"}"#, "logprobs is not accepted"),
            (
                r#"{"object":"error","message":"unknown field max_tokens","code":400}"#,
                "the token limit is max_completion_tokens",
            ),
        ] {
            let error = ErrorBody::read(&body.replace("\n", " ").into_bytes());
            let next = plain.after(&error).unwrap_or_else(|| panic!("{body}"));
            assert_eq!(next.learned(), [learned], "{body}");
            assert_eq!(next.after(&ErrorBody::read(b"")), None);
        }
        let both = ErrorBody::read(br#"{"detail":"Unexpected fields {'logprobs','temperature'}"}"#);
        assert_eq!(plain.after(&both).unwrap().learned().len(), 2);
    }

    #[test]
    fn a_wrong_value_teaches_nothing() {
        for body in [
            r#"{"error":{"message":"max_tokens is too large: 300 > 256","param":"max_tokens"}}"#,
            r#"{"error":{"message":"Failed to load image or audio file","code":400}}"#,
            r#"{"error":{"message":"Unknown model","param":"model"}}"#,
            "<html><h1>400 Bad Request</h1></html>",
            "",
        ] {
            let error = ErrorBody::read(body.as_bytes());
            assert_eq!(ServerQuirks::default().after(&error), None, "{body}");
        }
    }

    #[test]
    fn both_names_of_the_limit_may_be_refused() {
        let refusal = |name| ErrorBody::read(format!("unknown field \"{name}\"").as_bytes());
        let once = ServerQuirks::default().after(&refusal("max_tokens")).unwrap();
        assert_eq!(once.after(&refusal("max_tokens")), None, "it was not sent");
        let twice = once.after(&refusal("max_completion_tokens")).unwrap();
        assert_eq!(twice.learned(), ["no token limit is accepted"]);
        assert_eq!(ServerQuirks::default().and(twice), twice);
    }
}
