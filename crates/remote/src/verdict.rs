//! What an unsuccessful status means: whom it concerns, and whether another request may help.

use crate::error_body::ErrorBody;
use crate::fault::RemoteFault;
use std::time::Duration;

/// What to do about a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerVerdict {
    /// A smaller picture may fit.
    Smaller,
    /// No caption.
    Fault(RemoteFault),
}

/// An unsuccessful answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusal<'a> {
    pub(crate) status: u16,
    pub(crate) error: &'a ErrorBody,
    /// The pause that the server asks for.
    pub(crate) wait: Option<Duration>,
    /// Whether it has answered a request of this kind before. Until then a refusal without a
    /// reason may concern all pictures.
    pub(crate) has_served: bool,
}

const CREDIT: [&str; 6] = [
    "insufficient_quota",
    "billing",
    "payment",
    "insufficient_credit",
    "insufficient credit",
    "insufficient balance",
];
const FILTER: [&str; 5] =
    ["content_filter", "content_policy", "content management policy", "safety", "moderation"];
const TOO_LONG: [&str; 7] = [
    "exceed_context_size",
    "context_length",
    "context length",
    "maximum context",
    "too many tokens",
    "too large",
    "exceeds the maximum",
];
const KEY: [&str; 5] =
    ["api key", "api_key", "authentication", "unauthorized", "permission_denied"];
const MODEL: [&str; 6] = [
    "model_not_found",
    "pinned to",
    "unknown model",
    "invalid model",
    "no such model",
    "not a multimodal model",
];
const PICTURE: [&str; 7] = ["image", "picture", "jpeg", "base64", "decode", "media", "pixel"];

/// The verdict about a refusal that taught nothing about fields.
pub(crate) fn verdict(refusal: Refusal<'_>) -> ServerVerdict {
    let Refusal { status, error, wait, has_served } = refusal;
    let text = || match error.message.is_empty() {
        true => format!("status {status}"),
        false => error.message.clone(),
    };
    if error.has(&CREDIT) || status == 402 {
        return ServerVerdict::Fault(RemoteFault::Credit(text()));
    }
    let fault = match status {
        _ if (400..500).contains(&status) && error.has(&FILTER) => RemoteFault::Filtered(text()),
        401 | 403 => RemoteFault::Key(text()),
        404 => RemoteFault::Model(text()),
        408 | 409 | 425 | 429 | 502..=504 | 529 => {
            RemoteFault::Busy { status, wait, reason: text() }
        }
        413 => return ServerVerdict::Smaller,
        400 | 415 | 422 => {
            let names_model = error.has(&["model"])
                && error.has(&["not found", "does not exist", "not exist", "not available"]);
            if error.has(&KEY) {
                RemoteFault::Key(text())
            } else if error.has(&MODEL) || names_model {
                RemoteFault::Model(text())
            } else if error.has(&TOO_LONG) {
                return ServerVerdict::Smaller;
            } else if has_served || error.has(&PICTURE) {
                RemoteFault::Picture(text())
            } else {
                RemoteFault::Refused(text())
            }
        }
        300..=399 => RemoteFault::Refused(format!(
            "it answers with status {status}; redirects are not followed"
        )),
        500..=599 => RemoteFault::Server(text()),
        _ => RemoteFault::Refused(text()),
    };
    ServerVerdict::Fault(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, body: &str) -> ServerVerdict {
        let error = ErrorBody::read(body.as_bytes());
        verdict(Refusal { status, error: &error, wait: None, has_served: false })
    }

    fn name(verdict: &ServerVerdict) -> String {
        let shown = format!("{verdict:?}");
        let inner = shown.strip_prefix("Fault(").unwrap_or(&shown);
        inner.chars().take_while(char::is_ascii_alphabetic).collect()
    }

    /// The tables of `remote.md`, row by row.
    #[test]
    fn each_refusal_has_its_verdict() {
        for (status, body, expected) in [
            (401, r#"{"error":{"message":"Invalid API Key","code":401}}"#, "Key"),
            (403, "<html>403 Forbidden</html>", "Key"),
            (400, r#"{"error":{"message":"API key not valid","status":"INVALID"}}"#, "Key"),
            (402, "", "Credit"),
            (429, r#"{"error":{"message":"You exceeded","code":"insufficient_quota"}}"#, "Credit"),
            (404, r#"{"error":{"message":"The model x does not exist"}}"#, "Model"),
            (400, r#"{"detail":"Server is pinned to tiny"}"#, "Model"),
            (400, r#"{"error":{"message":"model 'x' not found"}}"#, "Model"),
            (429, r#"{"error":{"message":"Rate limit reached"}}"#, "Busy"),
            (503, r#"{"object":"error","message":"The request queue is full."}"#, "Busy"),
            (503, "<html><h1>503 Service Unavailable</h1></html>", "Busy"),
            (502, "", "Busy"),
            (504, "upstream timed out", "Busy"),
            (408, "", "Busy"),
            (413, "<html>Request Entity Too Large</html>", "Smaller"),
            (
                400,
                r#"{"error":{"message":"too long","type":"exceed_context_size_error"}}"#,
                "Smaller",
            ),
            (400, r#"{"error":{"message":"m","code":"context_length_exceeded"}}"#, "Smaller"),
            (400, r#"{"error":{"message":"Failed to load image or audio file"}}"#, "Picture"),
            (400, r#"{"error":{"message":"m","code":"content_filter"}}"#, "Filtered"),
            (400, r#"{"error":{"message":"m","code":"content_policy_violation"}}"#, "Filtered"),
            (400, r#"{"error":{"message":"n must be 1"}}"#, "Refused"),
            (405, "", "Refused"),
            (302, "", "Refused"),
            (500, "Internal Server Error", "Server"),
            (500, r#"{"error":{"message":"Invalid base64 value"}}"#, "Server"),
        ] {
            assert_eq!(name(&of(status, body)), expected, "{status} {body}");
        }
    }

    #[test]
    fn an_unclear_refusal_concerns_all_until_one_is_served() {
        let error = ErrorBody::read(br#"{"error":{"message":"invalid request"}}"#);
        let of = |has_served| {
            name(&verdict(Refusal { status: 400, error: &error, wait: None, has_served }))
        };
        assert_eq!((of(false).as_str(), of(true).as_str()), ("Refused", "Picture"));
    }
}
