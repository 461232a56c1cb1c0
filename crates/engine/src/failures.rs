//! The failures the engine itself states, in one place so that their codes stay stable. Failures of
//! a URL, a picture or a text are stated by the crate that knows them.

use pg_caption_fetch::{FetchError, UrlLocation};
use pg_caption_style::{StyleError, TextRefusal};
use pg_caption_wire::{Failure, FailureClass};

/// The model is still loading when the caller's patience ends.
pub fn loading() -> Failure {
    Failure::new(FailureClass::Engine, "loading", "the model is still loading")
        .hint("Try again in a moment, or raise \"pg_caption.timeout\".")
}

/// There is no model. The reason goes into the detail.
pub fn no_model(reason: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Engine, "no_model", "the engine has no model it can use")
        .detail(reason)
        .hint("Check \"pg_caption.model\", \"pg_caption.models_directory\" and \"pg_caption.onnxruntime\".")
}

/// The model thread broke. A server ends with this in its log; on the command line it is the
/// answer.
pub fn model_gone(panic: &str) -> Failure {
    Failure::new(FailureClass::Engine, "no_model", "the engine has no model it can use")
        .detail(format!("its thread broke: {panic}"))
        .hint("Please report this to the project.")
}

/// The caller's patience ended while the host was at its cap.
pub fn host_busy(host: &str, waited_ms: u64) -> Failure {
    let location = UrlLocation { host: host.into(), url: String::new() };
    FetchError::HostBusy { location }
        .failure()
        .detail(format!("After {waited_ms} ms the request was still waiting for the host."))
}

/// A request nobody can fulfil.
pub fn bad_request(message: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Reject, "bad_request", message)
}

/// A style whose definition is not usable.
pub fn bad_style(error: &StyleError) -> Failure {
    Failure::new(FailureClass::Reject, "bad_style", error.to_string())
}

/// The body of a request is larger than the limit.
pub fn too_large(bytes: u64, limit: u64) -> Failure {
    Failure::new(
        FailureClass::Reject,
        "too_large",
        format!("the image is larger than {limit} bytes"),
    )
    .detail(format!("the image has {bytes} bytes"))
    .hint("See \"pg_caption.max_image_size\".")
}

/// A stage panicked over this one picture.
pub fn crashed(stage: &str) -> Failure {
    Failure::new(
        FailureClass::Reject,
        "crashed",
        format!("the picture broke the engine's {stage} stage"),
    )
    .hint("Please report this picture to the project; other pictures are not affected.")
}

/// The request was lost by the engine: a fault of ours, worth another try.
pub fn lost() -> Failure {
    Failure::new(FailureClass::Retry, "lost", "the engine lost track of the request")
}

/// A session call failed for this picture.
pub fn model_error(reason: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Retry, "model_error", "the model could not process the picture")
        .detail(reason)
}

/// The confidence is below the threshold.
pub fn low_confidence(confidence: f32, threshold: f32) -> Failure {
    Failure::new(
        FailureClass::Uncertain,
        "low_confidence",
        "the model is not sure what the picture shows",
    )
    .detail(format!("confidence {confidence:.3}, threshold {threshold:.3}"))
    .hint("See \"pg_caption.min_confidence\".")
}

/// One colour all over, or fully transparent.
pub fn blank() -> Failure {
    Failure::new(
        FailureClass::Uncertain,
        "blank",
        "the picture is blank: there is nothing to describe",
    )
}

/// The text did not pass its style's rules.
pub fn refused(refusal: &TextRefusal) -> Failure {
    Failure::new(FailureClass::Uncertain, refusal.code(), refusal.to_string())
}

/// What arrived on a connection is not the protocol.
pub fn protocol(what: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Engine, "protocol", "the connection did not follow the protocol")
        .detail(what)
}
