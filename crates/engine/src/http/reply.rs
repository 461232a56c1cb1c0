//! What a client is sent: captions, and refusals in the shape of OpenAI's errors.

use crate::answer::{GeneratedCaption, JobAnswer};
use pg_caption_wire::{Failure, FailureClass, ModelRef};
use serde_json::{Value, json};

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub status: u16,
    message: String,
    code: String,
    param: Option<String>,
    /// Seconds.
    pub retry_after: Option<u64>,
}

impl Refused {
    fn new(status: u16, code: &str, message: String) -> Refused {
        Refused { status, message, code: code.into(), param: None, retry_after: None }
    }

    pub fn bad(message: String) -> Refused {
        Refused::new(400, "invalid_request", message)
    }

    pub fn unsupported(param: &str) -> Refused {
        let message = format!("Unsupported parameter: '{param}' is not supported by this server.");
        let refused = Refused::new(400, "unsupported_parameter", message);
        Refused { param: Some(param.into()), ..refused }
    }

    pub fn unknown_model(name: &str) -> Refused {
        let shown = &name[..name.floor_char_boundary(100)];
        let message = format!("The model '{shown}' does not exist on this server.");
        Refused::new(404, "model_not_found", message)
    }

    pub fn key() -> Refused {
        Refused::new(401, "invalid_api_key", "The key is missing or wrong.".into())
    }

    pub fn nothing_here() -> Refused {
        Refused::new(404, "not_found", "There is nothing at this address.".into())
    }

    pub fn too_large(limit: u64) -> Refused {
        let message = format!("The body is larger than {limit} bytes.");
        Refused::new(413, "request_too_large", message)
    }

    pub fn slow() -> Refused {
        Refused::new(408, "timeout", "The request took too long to arrive.".into())
    }

    pub fn full() -> Refused {
        let refused = Refused::new(503, "overloaded", "The request queue is full.".into());
        Refused { retry_after: Some(1), ..refused }
    }

    pub fn draining() -> Refused {
        let refused = Refused::new(503, "draining", "This server is being stopped.".into());
        Refused { retry_after: Some(1), ..refused }
    }

    /// The failure of a job.
    pub fn of_failure(failure: &Failure) -> Refused {
        let status = match failure.class {
            FailureClass::Reject | FailureClass::Uncertain => 400,
            FailureClass::Retry if failure.code == "timeout" => 504,
            FailureClass::Retry => 500,
            FailureClass::Host | FailureClass::Engine => 503,
        };
        let detail = failure.detail.as_ref().map(|detail| format!(": {detail}"));
        let what = if status == 400 { "the image cannot be used: " } else { "" };
        let message = format!("{what}{}{}", failure.message, detail.unwrap_or_default());
        let refused = Refused::new(status, &failure.code, message);
        Refused { retry_after: (status == 503).then_some(1), ..refused }
    }

    /// The body.
    pub fn body(&self) -> Value {
        let kind = match self.status {
            401 => "authentication_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        json!({ "error": {
            "message": self.message, "type": kind, "param": self.param, "code": self.code,
        } })
    }
}

/// The body of an answer.
///
/// # Errors
/// The refusal, if the job failed.
pub fn completion(
    answer: JobAnswer,
    is_whole: bool,
    logprobs: bool,
    created: u64,
) -> Result<Value, Refused> {
    let (output, model) = match answer {
        JobAnswer::Failed(failure) => return Err(Refused::of_failure(&failure)),
        JobAnswer::Unchanged => return Err(Refused::bad("the picture is unchanged".into())),
        JobAnswer::Done { outputs, model, .. } => (outputs.into_iter().next(), model),
    };
    match output {
        Some(Ok(caption)) => Ok(body(&caption, &model, is_whole, logprobs, created)),
        Some(Err(failure)) => Err(Refused::of_failure(&failure)),
        None => Err(Refused::bad("no caption was asked for".into())),
    }
}

fn body(
    caption: &GeneratedCaption,
    model: &ModelRef,
    is_whole: bool,
    logprobs: bool,
    created: u64,
) -> Value {
    let text = match &caption.caption {
        _ if is_whole => &caption.text_raw,
        Ok(text) => text,
        Err(_) => "",
    };
    let refusal = caption.caption.as_ref().err().filter(|_| !is_whole);
    // The mean of the tokens, as one entry: single tokens are not kept.
    let mean = caption.confidence.filter(|_| logprobs);
    let logprobs = mean.map(
        |mean| json!({ "content": [{ "token": "", "logprob": f64::from(mean).max(1e-9).ln() }] }),
    );
    let mut body = json!({
        "object": "chat.completion",
        "created": created,
        "model": model.name,
        "choices": [{
            "index": 0,
            "message": {
                "role": "assistant",
                "content": text,
                "refusal": refusal.map(|failure| failure.message.clone()),
            },
            "finish_reason": caption.finish.name(),
            "logprobs": logprobs,
        }],
        "usage": {
            "prompt_tokens": caption.prompt_ids.len(),
            "completion_tokens": caption.tokens,
            "total_tokens": caption.prompt_ids.len() + caption.tokens as usize,
        },
    });
    if is_whole {
        body["pg_caption"] = json!({
            "ids": caption.ids,
            "prompt_ids": caption.prompt_ids,
            "confidence": caption.confidence,
            "tokens": caption.tokens,
        });
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_have_the_status_that_clients_expect() {
        for (class, code, status) in [
            (FailureClass::Reject, "not_an_image", 400),
            (FailureClass::Retry, "timeout", 504),
            (FailureClass::Retry, "lost", 500),
            (FailureClass::Engine, "no_model", 503),
        ] {
            let refused = Refused::of_failure(&Failure::new(class, code, "it failed"));
            assert_eq!(refused.status, status, "{code}");
            assert_eq!(refused.retry_after.is_some(), status == 503);
            assert_eq!(refused.body()["error"]["code"], code);
        }
    }
}
