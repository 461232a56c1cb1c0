//! The body of a request, for both protocols.

use crate::quirks::ServerQuirks;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pg_caption_models::{RemoteProtocol, RemoteSettings};
use serde_json::{Map, Value, json};

/// How much longer an answer may be if a model thought instead of answering.
const THINKING_TOKENS: u32 = 4;

/// One caption to ask for.
#[derive(Debug, Clone, Copy)]
pub struct CaptionQuestion<'a> {
    /// A JPEG or PNG file without metadata.
    pub image: &'a [u8],
    /// The instruction, with facts about the product where they may be sent.
    pub instruction: &'a str,
    /// Name of the style.
    pub style: &'a str,
    /// Upper limit for generated tokens.
    pub max_tokens: u32,
    /// The whole style, context and role, for a server of pg_caption.
    pub whole: Option<&'a Value>,
}

/// The body for a server with these quirks. `thinking_off`: the model is not to think.
pub(crate) fn body(
    settings: &RemoteSettings,
    quirks: ServerQuirks,
    question: &CaptionQuestion<'_>,
    thinking_off: bool,
) -> Vec<u8> {
    let body = match settings.protocol {
        RemoteProtocol::Openai => chat(settings, quirks, question, thinking_off),
        RemoteProtocol::Caption => caption(settings, question),
    };
    body.to_string().into_bytes()
}

fn data_url(image: &[u8]) -> String {
    let mut url = String::with_capacity(32 + image.len().div_ceil(3) * 4);
    let kind = if image.starts_with(b"\x89PNG") { "png" } else { "jpeg" };
    url.push_str("data:image/");
    url.push_str(kind);
    url.push_str(";base64,");
    STANDARD.encode_string(image, &mut url);
    url
}

/// One user message, the picture first: the order of the models' own examples.
fn chat(
    settings: &RemoteSettings,
    quirks: ServerQuirks,
    question: &CaptionQuestion<'_>,
    thinking_off: bool,
) -> Value {
    let mut body = json!({
        "model": settings.model,
        "messages": [{ "role": "user", "content": [
            { "type": "image_url", "image_url": { "url": data_url(question.image) } },
            { "type": "text", "text": question.instruction },
        ] }],
        "stream": false,
    });
    let mut add = |name: &str, value: Value| body[name] = value;
    if let Some(field) = quirks.cap.field() {
        let factor = if thinking_off { THINKING_TOKENS } else { 1 };
        add(field, (question.max_tokens * factor).into());
    }
    if !quirks.no_temperature {
        add("temperature", 0.into());
    }
    if !quirks.no_logprobs {
        add("logprobs", true.into());
    }
    if let Some(whole) = question.whole.filter(|_| quirks.own.is_some()) {
        add("pg_caption", whole.clone());
    }
    if thinking_off && !quirks.no_template_options {
        add("chat_template_kwargs", json!({ "enable_thinking": false }));
    }
    if thinking_off && !quirks.no_reasoning_effort {
        add("reasoning_effort", "none".into());
    }
    body
}

fn caption(settings: &RemoteSettings, question: &CaptionQuestion<'_>) -> Value {
    let fields = &settings.fields;
    let mut body = Map::new();
    let mut add = |name: &str, value: &dyn Fn() -> Value| {
        if !name.is_empty() {
            body.insert(name.into(), value());
        }
    };
    add(&fields.image_url, &|| data_url(question.image).into());
    add(&fields.image, &|| STANDARD.encode(question.image).into());
    add(&fields.style, &|| question.style.into());
    add(&fields.instruction, &|| question.instruction.into());
    add(&fields.max_tokens, &|| question.max_tokens.into());
    if let Some(model) = &settings.model {
        add("model", &|| model.as_str().into());
    }
    Value::Object(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn settings(json: &str) -> RemoteSettings {
        RemoteSettings::parse(json.as_bytes(), Path::new("remote.json")).unwrap()
    }

    const QUESTION: CaptionQuestion<'_> = CaptionQuestion {
        image: b"\xff\xd8jpeg",
        instruction: "Write alt text.",
        style: "concise",
        max_tokens: 24,
        whole: None,
    };

    fn made(json: &str, quirks: ServerQuirks, thinking_off: bool) -> Value {
        let body = body(&settings(json), quirks, &QUESTION, thinking_off);
        serde_json::from_slice(&body).unwrap()
    }

    const CHAT: &str = r#"{"protocol": "openai", "base_url": "http://h/v1", "model": "m"}"#;

    #[test]
    fn one_user_message_has_the_picture_first() {
        let body = made(CHAT, ServerQuirks::default(), false);
        let messages = body["messages"].as_array().unwrap();
        assert_eq!((messages.len(), messages[0]["role"].as_str()), (1, Some("user")));
        let content = &messages[0]["content"];
        assert_eq!(content[0]["image_url"]["url"], "data:image/jpeg;base64,/9hqcGVn");
        assert_eq!(content[1]["text"], "Write alt text.");
        assert_eq!(
            (&body["temperature"], &body["logprobs"], &body["max_tokens"], &body["stream"]),
            (&json!(0), &json!(true), &json!(24), &json!(false))
        );
        let mut names: Vec<&String> = body.as_object().unwrap().keys().collect();
        names.sort();
        let expected = ["logprobs", "max_tokens", "messages", "model", "stream", "temperature"];
        assert_eq!(names, expected, "no field that a server may refuse");
    }

    #[test]
    fn a_request_has_only_what_the_server_accepts() {
        let learned = ServerQuirks {
            cap: crate::quirks::TokenCap::MaxCompletionTokens,
            no_temperature: true,
            no_logprobs: true,
            ..ServerQuirks::default()
        };
        let body = made(CHAT, learned, false);
        assert_eq!(body["max_completion_tokens"], 24);
        for absent in ["max_tokens", "temperature", "logprobs", "reasoning_effort"] {
            assert!(body.get(absent).is_none(), "{absent}");
        }
        let body = made(CHAT, learned, true);
        assert_eq!(body["max_completion_tokens"], 96);
        assert_eq!(body["chat_template_kwargs"]["enable_thinking"], false);
        assert_eq!(body["reasoning_effort"], "none");
    }

    #[test]
    fn the_fields_of_a_caption_endpoint_are_configured() {
        let plain = made(
            r#"{"protocol": "caption", "base_url": "http://h/caption"}"#,
            ServerQuirks::default(),
            false,
        );
        let url = "data:image/jpeg;base64,/9hqcGVn";
        assert_eq!(plain, json!({"image_url": url, "style": "concise", "max_tokens": 24}));
        let own = made(
            r#"{"protocol": "caption", "base_url": "http://h/caption", "model": "m",
                "fields": {"image_url": "", "image": "picture", "style": "", "max_tokens": "n",
                           "instruction": "prompt"}}"#,
            ServerQuirks::default(),
            false,
        );
        assert_eq!(
            own,
            json!({"picture": "/9hqcGVn", "n": 24, "prompt": "Write alt text.", "model": "m"})
        );
    }
}
