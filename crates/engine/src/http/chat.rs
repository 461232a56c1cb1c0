//! The body of a request: OpenAI's `chat/completions`, with pg_caption's own field for its clients.

use super::reply::Refused;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pg_caption_style::{CaptionStyle, DEFAULT_TOKENS, MAX_TOKENS, builtin};
use pg_caption_wire::{ClientRole, ContextFacts, OutputSpec};
use serde::Deserialize;
use serde_json::Value;

/// Texts of a request, bytes; instructions have a few hundred.
const MAX_TEXT: usize = 32 << 10;

/// What a request asks for.
#[derive(Debug)]
pub struct ChatQuestion {
    /// The picture's file.
    pub picture: Vec<u8>,
    pub output: OutputSpec,
    pub role: ClientRole,
    /// The client is pg_caption, and takes the answer before postprocessing.
    pub is_whole: bool,
    pub logprobs: bool,
}

/// pg_caption's own field.
#[derive(Deserialize)]
struct WholeQuestion {
    style: CaptionStyle,
    #[serde(default)]
    context: Option<ContextFacts>,
    #[serde(default)]
    role: Option<ClientRole>,
}

impl ChatQuestion {
    /// Reads a body for the model of this name.
    ///
    /// # Errors
    /// What is wrong with it, for the client.
    pub fn read(body: &[u8], model: &str) -> Result<ChatQuestion, Refused> {
        let mut body: Value = serde_json::from_slice(body)
            .map_err(|error| Refused::bad(format!("the body is not JSON: {error}")))?;
        let named = body["model"].as_str().unwrap_or_default();
        if !named.is_empty() && named != model {
            return Err(Refused::unknown_model(named));
        }
        if body["stream"].as_bool() == Some(true) {
            return Err(Refused::unsupported("stream"));
        }
        if body["n"].as_u64().is_some_and(|n| n != 1) {
            return Err(Refused::unsupported("n"));
        }
        let (picture, text) = content(&body["messages"])?;
        let cap = ["max_completion_tokens", "max_tokens"].map(|name| &body[name]);
        let cap = cap.into_iter().find(|value| !value.is_null());
        let max_tokens = match cap.map(Value::as_u64) {
            None => DEFAULT_TOKENS,
            Some(Some(cap)) if cap >= 1 => cap.min(u64::from(MAX_TOKENS)) as u32,
            Some(_) => return Err(Refused::bad("the token limit must be at least 1".into())),
        };
        let logprobs = body["logprobs"].as_bool() == Some(true);
        let whole = body["pg_caption"].take();
        let is_whole = !whole.is_null();
        let (style, context, role) = match whole {
            Value::Null => (plain_style(&text), None, None),
            whole => {
                let whole: WholeQuestion = serde_json::from_value(whole)
                    .map_err(|error| Refused::bad(format!("\"pg_caption\": {error}")))?;
                (whole.style, whole.context, whole.role)
            }
        };
        Ok(ChatQuestion {
            picture,
            // The threshold is the client's.
            output: OutputSpec { style, max_tokens, context, min_confidence: Some(0.0) },
            role: role.unwrap_or(ClientRole::Call),
            is_whole,
            logprobs,
        })
    }
}

/// The style for a client that sends an instruction alone.
fn plain_style(instruction: &str) -> CaptionStyle {
    let own = Some(instruction.trim()).filter(|text| !text.is_empty()).map(str::to_owned);
    let known = || builtin("detailed").map(|style| style.instruction);
    CaptionStyle {
        instruction: own.or_else(known).unwrap_or_default(),
        ..CaptionStyle::with_defaults("detailed")
    }
}

/// Picture and text of the last message.
fn content(messages: &Value) -> Result<(Vec<u8>, String), Refused> {
    let messages = messages.as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(last) = messages.last() else {
        return Err(Refused::bad("\"messages\" has no message".into()));
    };
    let (mut picture, mut text) = (None, String::new());
    for part in last["content"].as_array().into_iter().flatten() {
        if let Some(words) = part["text"].as_str() {
            text.push_str(words);
        }
        let address = part["image_url"]["url"].as_str().or_else(|| part["image_url"].as_str());
        if let Some(address) = address
            && picture.replace(file(address)?).is_some()
        {
            return Err(Refused::bad("a message has one picture".into()));
        }
    }
    if text.len() > MAX_TEXT {
        return Err(Refused::bad(format!("the text is longer than {MAX_TEXT} bytes")));
    }
    match picture {
        Some(picture) => Ok((picture, text)),
        None => Err(Refused::bad("the last message has no picture (image_url)".into())),
    }
}

/// The file in a data URL.
fn file(address: &str) -> Result<Vec<u8>, Refused> {
    let data = address.get(..5).filter(|scheme| scheme.eq_ignore_ascii_case("data:"));
    let Some((_, base64)) = data.and_then(|_| address.split_once(";base64,")) else {
        return Err(Refused::bad(
            "the picture must be a data URL with base64: this server fetches nothing".into(),
        ));
    };
    STANDARD
        .decode(base64.trim_ascii())
        .map_err(|error| Refused::bad(format!("the base64 of the picture is wrong: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(address: &str) -> Value {
        json!([{ "role": "user", "content": [
            { "type": "image_url", "image_url": { "url": address } },
            { "type": "text", "text": "Say it." },
        ] }])
    }

    fn read(body: &Value) -> Result<ChatQuestion, Refused> {
        ChatQuestion::read(body.to_string().as_bytes(), "tiny")
    }

    const PICTURE: &str = "data:image/png;base64,AAEC";

    #[test]
    fn a_plain_request_is_read() {
        let body = json!({ "model": "tiny", "messages": message(PICTURE), "max_tokens": 9 });
        let question = read(&body).unwrap();
        assert_eq!(question.picture, [0, 1, 2]);
        assert_eq!(question.output.style.instruction, "Say it.");
        assert_eq!((question.output.max_tokens, question.is_whole), (9, false));
    }

    #[test]
    fn a_style_is_taken_whole() {
        let style = CaptionStyle { instruction: "Own.".into(), ..builtin("seo").unwrap() };
        let body = json!({ "messages": message(PICTURE), "pg_caption": {
            "style": style, "context": [["title", "Red"]], "role": "worker" } });
        let question = read(&body).unwrap();
        assert_eq!((&question.output.style, question.role), (&style, ClientRole::Worker));
        assert!(question.is_whole);
        let quiet = json!({ "messages": message(PICTURE), "pg_caption": { "style": style } });
        assert!(read(&quiet).unwrap().is_whole);
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        for (body, status) in [
            (json!({}), 400),
            (json!({ "messages": [] }), 400),
            (json!({ "messages": [{ "role": "user", "content": "text" }] }), 400),
            (json!({ "messages": message("http://example.com/a.png") }), 400),
            (json!({ "messages": message("file:///etc/passwd") }), 400),
            (json!({ "messages": message("/etc/passwd") }), 400),
            (json!({ "messages": message("data:image/png;base64,%%") }), 400),
            (json!({ "messages": message("data:,x") }), 400),
            (json!({ "messages": message("dä") }), 400),
            (json!({ "messages": message(PICTURE), "model": "other" }), 404),
            (json!({ "messages": message(PICTURE), "stream": true }), 400),
            (json!({ "messages": message(PICTURE), "n": 2 }), 400),
            (json!({ "messages": message(PICTURE), "max_tokens": 0 }), 400),
            (json!({ "messages": message(PICTURE), "max_tokens": "many" }), 400),
            (json!({ "messages": message(PICTURE), "pg_caption": { "style": 7 } }), 400),
        ] {
            let refused = read(&body).unwrap_err();
            assert_eq!(refused.status, status, "{body}: {refused:?}");
        }
        let two = json!([{ "content": [{ "image_url": PICTURE }, { "image_url": PICTURE }] }]);
        assert_eq!(read(&json!({ "messages": two })).unwrap_err().status, 400);
        assert!(ChatQuestion::read(b"[[[[", "tiny").is_err());
    }
}
