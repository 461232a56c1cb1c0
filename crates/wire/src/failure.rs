//! The five kinds of failure. Decided where the failure is known; everybody else only looks at the
//! class.

use serde::{Deserialize, Serialize};

/// What a failure means for whoever asked. See the table in `ARCHITECTURE.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// The picture was seen but there is nothing to say with confidence. An answer, not an error.
    Uncertain,
    /// This input will never work: 404, not an image, too large, forbidden address.
    Reject,
    /// May work later: timeout, reset, 5xx.
    Retry,
    /// The host asked for patience (429, 503) or is at its cap; other hosts go on.
    Host,
    /// The engine itself cannot serve: restarting, model missing.
    Engine,
}

impl FailureClass {
    /// The class as SQL shows it.
    pub fn name(self) -> &'static str {
        match self {
            FailureClass::Uncertain => "uncertain",
            FailureClass::Reject => "reject",
            FailureClass::Retry => "retry",
            FailureClass::Host => "host",
            FailureClass::Engine => "engine",
        }
    }
}

/// Why there is no caption. Never carries credentials: URLs in it are stripped of user, password
/// and query secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What the failure means for the caller.
    pub class: FailureClass,
    /// Short, stable, for grouping: `http_404`, `not_an_image`, `too_large`, `forbidden_address`,
    /// `low_confidence` …
    pub code: String,
    /// What happened, one sentence, no full stop.
    pub message: String,
    /// The facts: URL without credentials, status, sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do, naming the setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The host concerned, for class `Host`, as `name:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When trying again makes sense, in milliseconds from now, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure with its three obligatory parts.
    pub fn new(class: FailureClass, code: impl Into<String>, message: impl Into<String>) -> Self {
        Failure {
            class,
            code: code.into(),
            message: message.into(),
            detail: None,
            hint: None,
            host: None,
            retry_after_ms: None,
        }
    }

    /// Adds the facts.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds what to do.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
