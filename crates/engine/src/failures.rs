//! The failures that the engine itself makes, in one place so that their codes stay stable.
//! Failures of a URL, a picture or a text are made by the crate that detects them.

use crate::budget::ReserveError;
use pg_caption_fetch::{FetchError, UrlLocation};
use pg_caption_language::LanguageTag;
use pg_caption_style::{StyleError, TextRefusal};
use pg_caption_wire::{Failure, FailureClass, TOO_MANY_CONNECTIONS};

/// The hint of failures that may be the picture's or the engine's.
const SEE_LOG: &str = "Call again later. If it fails each time, see the server log.";

/// The provider is still loading at the deadline.
pub fn loading() -> Failure {
    Failure::new(FailureClass::Engine, "loading", "the model is still loading")
        .hint("Try again in a moment, or raise \"pg_caption.timeout\".")
}

/// The reason of another component as the end of a sentence.
fn because(lead: &str, reason: &str) -> String {
    format!("{lead}: {}.", reason.trim_end().trim_end_matches('.'))
}

/// The model cannot be used.
pub fn no_model(reason: &str) -> Failure {
    Failure::new(FailureClass::Engine, "no_model", "the engine has no usable model")
        .detail(because("Loading the model failed", reason))
        .hint(
            "Check \"pg_caption.model\", \"pg_caption.models_directory\" and \
             \"pg_caption.onnxruntime\".",
        )
}

/// The provider's thread panicked. A server ends with this in its log; on the command line it is
/// the answer.
pub fn model_broken(panic: &str) -> Failure {
    Failure::new(FailureClass::Engine, "no_model", "the engine has no usable model")
        .detail(because("Its thread panicked", panic))
        .hint("Please report this to the project.")
}

/// The deadline passed while the host was at its limit.
pub fn host_busy(host: &str, waited_ms: u64) -> Failure {
    let location = UrlLocation { host: host.into(), url: String::new() };
    FetchError::HostBusy { location }
        .failure()
        .detail(format!("After {waited_ms} ms the request was still waiting for the host."))
}

/// An invalid request.
pub fn bad_request(message: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Reject, "bad_request", message)
        .hint("Correct the arguments of the call.")
}

/// Rows of `caption.rule` that cannot be used.
pub fn bad_rules(reason: &str) -> Failure {
    bad_request(reason).hint("Correct the rows of caption.rule.")
}

/// The model has no prompt for a style.
pub fn no_prompt(style: &str, reason: &str) -> Failure {
    bad_request(format!("the model has no prompt for style \"{style}\""))
        .detail(because("The model's folder reports", reason))
        .hint("Use another style, or choose another model with caption.use_model().")
}

/// The model refuses the generation settings.
pub fn bad_generation(reason: &str) -> Failure {
    bad_request("the generation settings cannot be used")
        .detail(because("The reason is", reason))
        .hint("Correct generation_config.json of the model, or choose another model.")
}

/// An invalid style.
pub fn bad_style(error: &StyleError) -> Failure {
    Failure::new(FailureClass::Reject, "bad_style", error.to_string())
        .hint("Correct the style, or use another one.")
}

/// There is no memory for `bytes` within one stage.
pub fn no_memory(error: ReserveError, bytes: u64) -> Failure {
    match error {
        ReserveError::TooLarge { total } => Failure::new(
            FailureClass::Reject,
            "too_much_memory",
            "the picture needs more memory than one stage of the engine has",
        )
        .detail(format!("It needs {bytes} bytes, and the stage has {total}."))
        .hint("See \"pg_caption.memory\"."),
        ReserveError::Deadline | ReserveError::Cancelled => {
            Failure::timeout(None, "waiting for memory").hint("Raise \"pg_caption.memory\".")
        }
    }
}

/// A stage panicked while it processed this picture.
pub fn crashed(stage: &str) -> Failure {
    Failure::new(
        FailureClass::Reject,
        "crashed",
        format!("the picture made the engine's {stage} stage panic"),
    )
    .hint("Please report this picture to the project; other pictures are not affected.")
}

/// The engine dropped the request: a bug, worth a retry.
pub fn lost() -> Failure {
    Failure::new(FailureClass::Retry, "lost", "the engine lost the request").hint(SEE_LOG)
}

/// A call of the model failed for this picture.
pub fn model_error(reason: impl Into<String>) -> Failure {
    Failure::new(FailureClass::Retry, "model_error", "the model could not process the picture")
        .detail(because("The model reports", &reason.into()))
        .hint(SEE_LOG)
}

/// Code that ran on one request's data panicked: an error of that request, on a thread that
/// continues.
pub fn step_panicked(code: &str, panic: &str) -> Failure {
    crate::log::line(format_args!("warning: {code} panicked: {panic}"));
    model_error(format!("{code} panicked: {panic}"))
}

/// The confidence is below the threshold.
pub fn low_confidence(confidence: f32, threshold: f32) -> Failure {
    Failure::new(
        FailureClass::Uncertain,
        "low_confidence",
        "the model is not sure what the picture shows",
    )
    .detail(format!("The confidence is {confidence:.3}, the threshold {threshold:.3}."))
    .hint("See \"pg_caption.min_confidence\".")
}

/// The provider has no confidence, and the model's folder wants one.
pub fn no_confidence() -> Failure {
    Failure::new(
        FailureClass::Uncertain,
        "no_confidence",
        "the model server gives no confidence for its text",
    )
    .hint("See \"without_confidence\" in remote.json of the model.")
}

/// One colour all over, or fully transparent.
pub fn blank() -> Failure {
    Failure::new(
        FailureClass::Uncertain,
        "blank",
        "the picture is blank: there is nothing to describe",
    )
    .hint("Replace the picture, or write the text by hand.")
}

/// The model cannot be asked for the language of a style.
pub fn unknown_language(model: &str, language: &LanguageTag) -> Failure {
    let refusal = TextRefusal::WrongLanguage { expected: language.to_string() };
    Failure::new(
        FailureClass::Uncertain,
        refusal.code(),
        format!("the model does not know the language \"{language}\""),
    )
    .detail(format!("The model is \"{model}\"."))
    .hint("Choose another model with caption.use_model(), or another language.")
}

/// The text violates the rules of its style.
pub fn refused(refusal: &TextRefusal) -> Failure {
    Failure::new(FailureClass::Uncertain, refusal.code(), refusal.to_string()).hint(refusal.hint())
}

/// All connections are in use.
pub fn too_many_connections(most: usize) -> Failure {
    Failure::new(
        FailureClass::Engine,
        TOO_MANY_CONNECTIONS,
        "the caption engine has no free connection",
    )
    .detail(format!("All {most} places are in use or kept for queue workers."))
    .hint("Try again in a moment, or let fewer sessions request captions at the same time.")
}

/// A client violated the protocol.
pub fn protocol(reason: &str) -> Failure {
    Failure::protocol("the connection violated the protocol")
        .detail(because("The engine reports", reason))
}

/// A file named on the command line cannot be read.
pub fn unreadable_file(error: &std::io::Error) -> Failure {
    Failure::new(FailureClass::Reject, "unreadable_file", "the file cannot be read")
        .detail(because("The system reports", &error.to_string()))
        .hint("Check the path, and the rights to the file.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_checks::style_violations;

    /// One of each.
    fn all() -> Vec<Failure> {
        let style = pg_caption_style::validate(&pg_caption_style::CaptionStyle {
            name: String::new(),
            ..pg_caption_style::builtin("concise").unwrap()
        });
        vec![
            loading(),
            no_model("/models/x/config.json: No such file or directory"),
            model_broken("a scheduler lost its place"),
            host_busy("example.org:443", 7),
            bad_request("max_tokens must be at most 256, not 300"),
            bad_rules("the pattern is empty"),
            no_prompt("poetic", "it reads no instructions."),
            bad_generation("num_beams must be a number"),
            bad_style(&style.unwrap_err()),
            Failure::too_large(8, 7),
            no_memory(ReserveError::TooLarge { total: 7 }, 8),
            no_memory(ReserveError::Deadline, 8),
            no_memory(ReserveError::Cancelled, 8),
            crashed("decode"),
            lost(),
            model_error("the encoder returned too few pictures"),
            step_panicked("the code that decodes tokens", "index out of bounds"),
            low_confidence(0.25, 0.5),
            no_confidence(),
            unknown_language("default", &"de".parse().unwrap()),
            blank(),
            refused(&TextRefusal::EchoesName),
            protocol("a second hello"),
            too_many_connections(512),
            unreadable_file(&std::io::Error::from(std::io::ErrorKind::NotFound)),
        ]
    }

    #[test]
    fn failures_follow_the_message_style() {
        let found: Vec<String> = all().iter().flat_map(style_violations).collect();
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn a_lost_request_is_worth_a_retry() {
        assert_eq!(lost().class, FailureClass::Retry);
    }
}
