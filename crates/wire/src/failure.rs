//! Failures: five classes, stable codes, and the texts of the failures that more than one program
//! reports. The class is decided where the failure is known; all other code reads the class only.

use serde::{Deserialize, Serialize};

/// What a failure means for the caller. `docs/errors.md` lists the codes of each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// The picture was processed, but no caption is reliable. An answer, not an error.
    Uncertain,
    /// This input never works: 404, not an image, too large, forbidden address.
    Reject,
    /// A later attempt may work: timeout, reset, 5xx.
    Retry,
    /// The host asked for a pause (429, 503) or is at its limit; other hosts are not affected.
    Host,
    /// The engine cannot serve any request: restarting, model missing.
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

/// Code of a failure for which the engine closes a new connection: all places are taken.
pub const TOO_MANY_CONNECTIONS: &str = "too_many_connections";
/// The hint of failures that may pass by themselves.
pub const CALL_AGAIN: &str = "Call again later. Rows of a watched table are tried again by \
     themselves, up to \"pg_caption.max_attempts\" times; after that, call caption.retry().";
/// The hint of a pause.
pub const PAUSED: &str =
    "Call again after the pause. Rows of a watched table wait for its end by themselves.";
/// Engines that may be lost while they process one picture alone, before the picture is refused.
/// Sessions and queue workers apply the same limit.
pub const MAX_ENGINE_DEATHS: u32 = 3;

/// Why there is no caption. Never contains credentials: URLs in it have no user, password and query
/// values. Texts follow PostgreSQL's message style guide.
///
/// ```
/// use pg_caption_wire::{Failure, FailureClass};
///
/// let failure = Failure::new(FailureClass::Reject, "http_404", "host a answered with status 404")
///     .detail("The URL is \"https://a/1.jpg\".");
/// assert_eq!(failure.class.name(), "reject");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What the failure means for the caller.
    pub class: FailureClass,
    /// Short and stable, for grouping: `http_404`, `not_an_image`, `too_large`,
    /// `forbidden_address`, `low_confidence` …
    pub code: String,
    /// What happened: lower case, no full stop.
    pub message: String,
    /// The facts, in whole sentences: URL without credentials, status, sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do, in whole sentences, with the name of the setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The host concerned, as `name:port`, for class `Host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Milliseconds until a retry makes sense, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// A failure with its three required parts.
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

    /// Adds the detail.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds the hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The caller's time limit passed; reported by sessions and the engine. `stage` completes "the
    /// request was still".
    pub fn timeout(waited_ms: Option<u64>, stage: &str) -> Failure {
        let detail = match waited_ms {
            Some(waited_ms) => format!("After {waited_ms} ms the request was still {stage}."),
            None => format!("The request was still {stage}."),
        };
        Failure::new(FailureClass::Retry, "timeout", "the picture was not captioned in time")
            .detail(detail)
            .hint(
                "Raise \"pg_caption.timeout\", or caption fewer pictures in one call. \
                 caption.engine_status() shows the load of the engine.",
            )
    }

    /// The bytes of a picture exceed `pg_caption.max_image_size`; reported by sessions before they
    /// copy the picture, and by the engine.
    pub fn too_large(bytes: u64, limit: u64) -> Failure {
        Failure::new(
            FailureClass::Reject,
            "too_large",
            format!("the image is larger than {limit} bytes"),
        )
        .detail(format!("The image has {bytes} bytes."))
        .hint("See \"pg_caption.max_image_size\".")
    }

    /// Extension library and engine use different protocols; reported by both. Each pair: release
    /// and [`crate::PROTOCOL`].
    pub fn version_mismatch(library: (&str, u32), engine: (&str, u32)) -> Failure {
        Failure::new(
            FailureClass::Engine,
            "version_mismatch",
            "the extension's library and the running engine have different versions",
        )
        .detail(format!(
            "The library of release {} uses protocol {}, \
             the engine of release {} uses protocol {}.",
            library.0, library.1, engine.0, engine.1
        ))
        .hint(
            "Reconnect. If that does not help, restart the server, then run \
             ALTER EXTENSION pg_caption UPDATE.",
        )
    }

    /// [`MAX_ENGINE_DEATHS`] engines were lost over one picture; reported by sessions and queue
    /// workers.
    pub fn engine_killer(deaths: u32) -> Failure {
        Failure::new(
            FailureClass::Reject,
            "engine_killer",
            "the caption engine crashed each time it processed this picture",
        )
        .detail(format!("{deaths} engines were lost while they processed nothing else."))
        .hint("See the server log, and please report the picture to the project.")
    }

    /// The engine reports an unchanged picture although the session named no earlier version;
    /// reported by sessions.
    pub fn unexpected_304() -> Failure {
        Failure::new(
            FailureClass::Retry,
            "unexpected_304",
            "the host answered 304 Not Modified to an unconditional request",
        )
        .hint("Correct the web server, or the cache in front of it.")
    }

    /// The other side of a connection sent what the protocol does not allow; reported by sessions
    /// and the engine.
    pub fn protocol(message: impl Into<String>) -> Failure {
        Failure::new(FailureClass::Engine, "protocol", message)
            .hint("Reconnect. If that does not help, restart the server.")
    }
}
