//! A successful answer: the text, why it ended, its confidence and what it cost. Any bytes are
//! read without a panic.

use crate::error_body::ErrorBody;
use crate::usage::TokenUse;
use pg_caption_models::{CaptionFields, RemoteProtocol, RemoteSettings};
use pg_caption_wire::FinishReason;
use serde_json::Value;

/// Log probabilities at and below this stand for "unknown" (vLLM sends -9999).
const UNKNOWN_LOGPROB: f64 = -1000.0;

/// One caption of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteCaption {
    /// The text; nothing trimmed.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Mean token probability as of a local model, 0..=1; `None`: the server sends none.
    pub confidence: Option<f32>,
    /// What the server counted.
    pub tokens: TokenUse,
    /// Generated token ids; only a server of pg_caption sends them.
    pub ids: Vec<i64>,
    /// Token ids of the prompt; only a server of pg_caption sends them.
    pub prompt_ids: Vec<i64>,
}

/// What a body with a successful status contains.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AnswerContent {
    Caption(RemoteCaption),
    /// No text: the model may have used its tokens for thinking.
    Empty {
        tokens: TokenUse,
    },
    /// The server refused to describe the picture.
    Filtered,
    /// The server gave up.
    Aborted,
    /// An error in spite of the status.
    Error(ErrorBody),
    /// Not what the protocol says.
    Malformed(&'static str),
}

/// Reads a body.
pub(crate) fn read(settings: &RemoteSettings, body: &[u8]) -> AnswerContent {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        return AnswerContent::Malformed("it is not JSON");
    };
    match settings.protocol {
        RemoteProtocol::Openai => chat(&value),
        RemoteProtocol::Caption => caption(&value, &settings.fields),
    }
}

fn chat(value: &Value) -> AnswerContent {
    let choice = &value["choices"][0];
    let Some(message) = choice["message"].as_object() else {
        return match value["error"].is_null() {
            true => AnswerContent::Malformed("it has no choice with a message"),
            false => AnswerContent::Error(ErrorBody::of_value(value)),
        };
    };
    let text_of = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
    let own = &value["pg_caption"];
    // Another engine sends what its model said, as a local model would: nothing at times.
    let (text, thought_aloud) = match (own.is_object(), content(message.get("content"))) {
        (true, raw) => (raw, false),
        (false, text) => without_thoughts(text),
    };
    let tokens = token_use(&value["usage"]);
    let finish = choice["finish_reason"].as_str();
    if finish == Some("content_filter") {
        return AnswerContent::Filtered;
    }
    if text.trim().is_empty() && !own.is_object() {
        if !text_of("refusal").is_empty() {
            return AnswerContent::Filtered;
        }
        let thought = thought_aloud
            || !text_of("reasoning").is_empty()
            || !text_of("reasoning_content").is_empty()
            || finish == Some("length");
        return match finish {
            Some("stop" | "length" | "eos") => AnswerContent::Empty { tokens },
            _ if thought => AnswerContent::Empty { tokens },
            _ => AnswerContent::Aborted,
        };
    }
    let numbers =
        |name: &str| own[name].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
    if finish == Some("abort") {
        return AnswerContent::Aborted;
    }
    AnswerContent::Caption(RemoteCaption {
        text,
        finish: if finish == Some("length") { FinishReason::Length } else { FinishReason::Stop },
        confidence: match own.as_object() {
            Some(_) => probability(&own["confidence"]),
            None => confidence(&choice["logprobs"]),
        },
        tokens,
        ids: numbers("ids"),
        prompt_ids: numbers("prompt_ids"),
    })
}

fn probability(value: &Value) -> Option<f32> {
    value.as_f64().filter(|c| (0.0..=1.0).contains(c)).map(|c| c as f32)
}

/// A text, or a list of parts.
fn content(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect()
        }
        _ => String::new(),
    }
}

/// Thoughts that a server without a parser for them leaves in the text. Also whether there were
/// any.
fn without_thoughts(text: String) -> (String, bool) {
    let Some(thoughts) = text.trim_start().strip_prefix("<think>") else { return (text, false) };
    let after = thoughts.split_once("</think>").map_or("", |(_, after)| after);
    (after.into(), true)
}

fn token_use(usage: &Value) -> TokenUse {
    let count = |name: &str| usage[name].as_u64().unwrap_or(0).min(u64::from(u32::MAX));
    TokenUse { input: count("prompt_tokens"), output: count("completion_tokens") }
}

/// The geometric mean of the tokens' probabilities.
fn confidence(logprobs: &Value) -> Option<f32> {
    let tokens = logprobs["content"].as_array()?;
    let known = tokens.iter().filter_map(|token| token["logprob"].as_f64());
    let known: Vec<f64> = known.filter(|p| *p > UNKNOWN_LOGPROB).map(|p| p.min(0.0)).collect();
    if known.is_empty() {
        return None;
    }
    Some((known.iter().sum::<f64>() / known.len() as f64).exp() as f32)
}

fn caption(value: &Value, fields: &CaptionFields) -> AnswerContent {
    let tokens = token_use(&value["usage"]);
    match field(value, &fields.caption).and_then(Value::as_str) {
        Some(text) if text.trim().is_empty() => AnswerContent::Empty { tokens },
        Some(text) => {
            let confidence = field(value, &fields.confidence).and_then(probability);
            AnswerContent::Caption(RemoteCaption {
                text: text.into(),
                finish: FinishReason::Stop,
                confidence,
                tokens,
                ids: Vec::new(),
                prompt_ids: Vec::new(),
            })
        }
        None if !value["error"].is_null() => AnswerContent::Error(ErrorBody::of_value(value)),
        None => AnswerContent::Malformed("it has no text in the field of the caption"),
    }
}

/// A field by its name, or by a JSON pointer.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match name {
        "" => None,
        pointer if pointer.starts_with('/') => value.pointer(pointer),
        name => value.get(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn settings(json: &str) -> RemoteSettings {
        RemoteSettings::parse(json.as_bytes(), Path::new("remote.json")).unwrap()
    }

    fn chat_answer(body: &str) -> AnswerContent {
        let chat = r#"{"protocol": "openai", "base_url": "http://h/v1", "model": "m"}"#;
        read(&settings(chat), body.as_bytes())
    }

    fn with_text(answer: AnswerContent) -> RemoteCaption {
        match answer {
            AnswerContent::Caption(caption) => caption,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn text_finish_tokens_and_confidence_are_read() {
        let caption = with_text(chat_answer(
            r#"{"choices": [{"finish_reason": "length", "message": {"content": " A cat"},
                "logprobs": {"content": [{"logprob": -0.1}, {"logprob": -0.3},
                                         {"logprob": -9999.0}]}}],
                "usage": {"prompt_tokens": 252, "completion_tokens": 24}}"#,
        ));
        assert_eq!((caption.text.as_str(), caption.finish), (" A cat", FinishReason::Length));
        assert!((caption.confidence.unwrap() - (-0.2f32).exp()).abs() < 1e-6);
        assert_eq!((caption.tokens.input, caption.tokens.output), (252, 24));
        let plain = with_text(chat_answer(
            r#"{"choices": [{"finish_reason": null, "message": {"content":
                [{"type": "text", "text": "A "}, {"type": "text", "text": "dog"}]}}]}"#,
        ));
        assert_eq!((plain.text.as_str(), plain.confidence), ("A dog", None));
        assert_eq!(plain.finish, FinishReason::Stop);
        let thinking = with_text(chat_answer(
            r#"{"choices": [{"message": {"content": "<think>A cat?</think>\nA cat"}}]}"#,
        ));
        assert_eq!(thinking.text, "\nA cat");
    }

    #[test]
    fn answers_without_text_are_distinguished() {
        let of = |message: &str, finish: &str| {
            chat_answer(&format!(
                r#"{{"choices": [{{"message": {message}, "finish_reason": {finish}}}]}}"#
            ))
        };
        let is_empty = |answer: AnswerContent| matches!(answer, AnswerContent::Empty { .. });
        assert!(is_empty(of(r#"{"content": "", "reasoning": "hm"}"#, "\"stop\"")));
        assert!(is_empty(of(r#"{"content": null, "reasoning_content": "hm"}"#, "null")));
        assert!(is_empty(of(r#"{"content": null}"#, "\"length\"")));
        assert!(is_empty(of(r#"{"content": "<think>hm"}"#, "\"length\"")));
        assert!(is_empty(of(r#"{"content": " "}"#, "\"stop\"")));
        assert_eq!(of(r#"{"content": ""}"#, "null"), AnswerContent::Aborted);
        assert_eq!(of(r#"{"content": "half a"}"#, "\"abort\""), AnswerContent::Aborted);
        let filtered = AnswerContent::Filtered;
        assert_eq!(of(r#"{"content": "half a"}"#, "\"content_filter\""), filtered);
        assert_eq!(of(r#"{"content": null, "refusal": "No."}"#, "\"stop\""), filtered);
    }

    #[test]
    fn hostile_bodies_are_read_without_a_panic() {
        for body in [
            "",
            "null",
            "[]",
            "{}",
            "\"x\"",
            "7",
            "<html>",
            "{\"choices\": 7}",
            "{\"choices\": [null]}",
            "{\"choices\": [{\"message\": []}]}",
            "[[[[",
        ] {
            assert!(matches!(chat_answer(body), AnswerContent::Malformed(_)), "{body}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(matches!(chat_answer(&deep), AnswerContent::Malformed(_)));
        let odd = chat_answer(
            r#"{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [1, {}]}}],
                "usage": {"prompt_tokens": -1, "completion_tokens": 1e300}}"#,
        );
        assert_eq!(with_text(odd).confidence, None);
        let high = chat_answer(
            r#"{"choices": [{"message": {"content": "x"},
                "logprobs": {"content": [{"logprob": 5}]}}]}"#,
        );
        assert_eq!(with_text(high).confidence, Some(1.0));
        let error = chat_answer(r#"{"error": {"message": "busy", "code": 429}}"#);
        assert!(matches!(error, AnswerContent::Error(error) if error.number == Some(429)));
    }

    #[test]
    fn a_caption_endpoint_answers_in_its_own_fields() {
        let of = |fields: &str, body: &str| {
            let base = r#""protocol": "caption", "base_url": "http://h/caption""#;
            read(&settings(&format!("{{{base}{fields}}}")), body.as_bytes())
        };
        let caption = with_text(of("", r#"{"caption": "A cat", "confidence": 0.5}"#));
        assert_eq!((caption.text.as_str(), caption.confidence), ("A cat", Some(0.5)));
        let own = r#", "fields": {"caption": "/result/0/text", "confidence": ""}"#;
        let caption = with_text(of(own, r#"{"result": [{"text": "A dog"}], "confidence": 1}"#));
        assert_eq!((caption.text.as_str(), caption.confidence), ("A dog", None));
        assert!(matches!(of("", r#"{"text": "A cat"}"#), AnswerContent::Malformed(_)));
        assert!(matches!(of("", r#"{"caption": ""}"#), AnswerContent::Empty { .. }));
        assert!(matches!(of("", r#"{"error": "busy"}"#), AnswerContent::Error(_)));
    }
}
