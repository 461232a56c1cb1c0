//! One caption, from the first request to its answer: what is sent again, and how often. Pure; the
//! provider sends what this asks for.

use crate::answer::{self, AnswerContent, RemoteCaption};
use crate::error_body::ErrorBody;
use crate::fault::RemoteFault;
use crate::quirks::ServerQuirks;
use crate::request::{self, CaptionQuestion};
use crate::transport::ServerAnswer;
use crate::usage::TokenUse;
use crate::verdict::{Refusal, ServerVerdict, verdict};
use pg_caption_models::{RemoteProtocol, RemoteSettings};

/// Requests that one caption may take to learn what the server accepts. There are five fields, one
/// of them with two names.
const MOST_LESSONS: u32 = 6;

/// What to do after an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum ExchangeStep {
    /// Send the request again: its body is another one now.
    Again,
    /// Send the request again with a smaller picture.
    Smaller,
    /// The caption.
    Done(RemoteCaption),
    /// There is no caption.
    Failed(RemoteFault),
}

/// The state of one caption.
#[derive(Debug, Clone, Default)]
pub struct CaptionExchange {
    thinking_off: bool,
    is_smaller: bool,
    lessons: u32,
    /// The quirks that the last request was made with.
    sent: ServerQuirks,
    /// Used by requests without a text.
    spent: TokenUse,
}

impl CaptionExchange {
    /// The body of the next request.
    pub fn body(
        &mut self,
        settings: &RemoteSettings,
        quirks: ServerQuirks,
        question: &CaptionQuestion<'_>,
    ) -> Vec<u8> {
        self.sent = quirks;
        request::body(settings, quirks, question, self.thinking_off)
    }

    /// Tokens that the server counted for requests without a text.
    pub fn spent(&self) -> TokenUse {
        self.spent
    }

    /// Takes the answer. What was learned is added to `quirks`. `has_served`: the server has
    /// answered another request before.
    pub fn answered(
        &mut self,
        settings: &RemoteSettings,
        quirks: &mut ServerQuirks,
        answer: &ServerAnswer,
        has_served: bool,
    ) -> ExchangeStep {
        let content = match answer.status {
            200..=299 => answer::read(settings, &answer.body),
            _ => AnswerContent::Error(ErrorBody::read(&answer.body)),
        };
        match content {
            AnswerContent::Caption(caption) => {
                let is_news = answer.own.is_some() && self.sent.own.is_none();
                quirks.recognise(answer.own);
                if is_news && self.lessons < MOST_LESSONS {
                    // The same picture once more, with the whole style.
                    self.lessons += 1;
                    self.spent = self.spent + caption.tokens;
                    return ExchangeStep::Again;
                }
                let asked = settings.protocol == RemoteProtocol::Openai && !self.sent.no_logprobs;
                quirks.silent_logprobs |= asked && caption.confidence.is_none();
                ExchangeStep::Done(caption)
            }
            AnswerContent::Empty { tokens, .. } => {
                self.spent = self.spent + tokens;
                match settings.protocol == RemoteProtocol::Openai && !self.thinking_off {
                    true => {
                        self.thinking_off = true;
                        ExchangeStep::Again
                    }
                    false => ExchangeStep::Failed(RemoteFault::Empty),
                }
            }
            AnswerContent::Filtered => {
                ExchangeStep::Failed(RemoteFault::Filtered("finish reason content_filter".into()))
            }
            AnswerContent::Aborted => ExchangeStep::Failed(RemoteFault::Aborted),
            AnswerContent::Malformed(why) => {
                ExchangeStep::Failed(RemoteFault::Malformed(why.into()))
            }
            AnswerContent::Error(error) => self.refused(quirks, answer, &error, has_served),
        }
    }

    fn refused(
        &mut self,
        quirks: &mut ServerQuirks,
        answer: &ServerAnswer,
        error: &ErrorBody,
        has_served: bool,
    ) -> ExchangeStep {
        // Some proxies pass an error on with status 200.
        let status = match (answer.status, error.number) {
            (200..=299, Some(number @ 400..=599)) => number as u16,
            (200..=299, _) => 500,
            (status, _) => status,
        };
        if matches!(status, 400 | 422)
            && self.lessons < MOST_LESSONS
            && let Some(learned) = self.sent.after(error)
        {
            self.lessons += 1;
            *quirks = quirks.and(learned);
            return ExchangeStep::Again;
        }
        match verdict(Refusal { status, error, wait: answer.wait, has_served }) {
            ServerVerdict::Smaller if self.is_smaller => {
                ExchangeStep::Failed(RemoteFault::Picture(error.message.clone()))
            }
            ServerVerdict::Smaller => {
                self.is_smaller = true;
                ExchangeStep::Smaller
            }
            ServerVerdict::Fault(fault) => ExchangeStep::Failed(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    const QUESTION: CaptionQuestion<'_> = CaptionQuestion {
        image: b"jpeg",
        instruction: "i",
        style: "concise",
        max_tokens: 8,
        whole: None,
    };

    /// A server, as its answers to the bodies of requests.
    struct Script<'a> {
        settings: RemoteSettings,
        quirks: ServerQuirks,
        answer: &'a dyn Fn(&serde_json::Value) -> (u16, String),
        bodies: Vec<serde_json::Value>,
    }

    impl Script<'_> {
        fn new(answer: &dyn Fn(&serde_json::Value) -> (u16, String)) -> Script<'_> {
            let json = br#"{"protocol": "openai", "base_url": "http://h/v1", "model": "m"}"#;
            let settings = RemoteSettings::parse(json, Path::new("remote.json")).unwrap();
            Script { settings, quirks: ServerQuirks::default(), answer, bodies: Vec::new() }
        }

        fn ask(&mut self) -> ExchangeStep {
            let mut exchange = CaptionExchange::default();
            for _ in 0..20 {
                let body = exchange.body(&self.settings, self.quirks, &QUESTION);
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let (status, text) = (self.answer)(&body);
                self.bodies.push(body);
                let wait = Some(Duration::from_secs(1)).filter(|_| status == 429);
                let answer = ServerAnswer { status, wait, own: None, body: text.into_bytes() };
                let (settings, quirks) = (&self.settings, &mut self.quirks);
                match exchange.answered(settings, quirks, &answer, false) {
                    ExchangeStep::Again | ExchangeStep::Smaller => {}
                    step => return step,
                }
            }
            panic!("no end");
        }
    }

    fn said(text: &str) -> (u16, String) {
        let body = format!(
            r#"{{"choices": [{{"message": {{"content": "{text}"}}, "finish_reason": "stop",
                 "logprobs": {{"content": [{{"logprob": -0.5}}]}}}}],
                 "usage": {{"prompt_tokens": 5, "completion_tokens": 3}}}}"#
        );
        (200, body)
    }

    #[test]
    fn what_is_not_accepted_is_learned_once() {
        let mut server = Script::new(&|body| {
            for (field, error) in [
                ("logprobs", r#"{"detail": "Unexpected fields: {'logprobs'}"}"#),
                (
                    "max_tokens",
                    r#"{"error": {"param": "max_tokens", "code": "unsupported_parameter",
                        "message": "Use 'max_completion_tokens'."}}"#,
                ),
                ("temperature", r#"{"error": {"message": "Unsupported value: temperature"}}"#),
            ] {
                if body.get(field).is_some() {
                    return (if field == "logprobs" { 422 } else { 400 }, error.into());
                }
            }
            said("A cat")
        });
        for requests in [4, 5] {
            let ExchangeStep::Done(caption) = server.ask() else { panic!("no caption") };
            assert_eq!((caption.text.as_str(), caption.tokens.output), ("A cat", 3));
            assert_eq!(server.bodies.len(), requests);
        }
        assert_eq!(server.bodies[4]["max_completion_tokens"], 8);
        assert_eq!(server.quirks.learned().len(), 3);
    }

    #[test]
    fn a_server_that_refuses_every_field_is_left() {
        let mut server = Script::new(&|_| {
            let all = "unknown field: max_tokens max_completion_tokens logprobs temperature \
                       reasoning_effort chat_template_kwargs";
            (400, format!(r#"{{"error": {{"message": "{all}"}}}}"#))
        });
        let step = server.ask();
        assert!(matches!(step, ExchangeStep::Failed(RemoteFault::Refused(_))), "{step:?}");
        assert!(server.bodies.len() <= 1 + MOST_LESSONS as usize);
    }

    #[test]
    fn an_empty_answer_is_asked_for_again_once() {
        let mut server = Script::new(&|body| match body.get("reasoning_effort") {
            None => said(""),
            Some(_) => said("A cat"),
        });
        assert!(matches!(server.ask(), ExchangeStep::Done(_)));
        assert_eq!(server.bodies[1]["max_tokens"], 32);
        let mut silent = Script::new(&|_| said(""));
        assert_eq!(silent.ask(), ExchangeStep::Failed(RemoteFault::Empty));
        assert_eq!(silent.bodies.len(), 2);
        // A server that does not know the fields gets the request without them.
        let mut strict = Script::new(&|body| match body.get("chat_template_kwargs") {
            Some(_) => (422, r#"{"detail": "Unexpected fields: chat_template_kwargs"}"#.into()),
            None if body["max_tokens"] == 32 => said("A cat"),
            None => said(""),
        });
        assert!(matches!(strict.ask(), ExchangeStep::Done(_)));
        assert_eq!(strict.bodies.len(), 3);
    }

    #[test]
    fn a_large_picture_is_sent_smaller_once() {
        let mut server = Script::new(&|_| (413, String::new()));
        let step = server.ask();
        assert!(matches!(step, ExchangeStep::Failed(RemoteFault::Picture(_))), "{step:?}");
        assert_eq!(server.bodies.len(), 2);
    }

    #[test]
    fn a_pause_and_a_hidden_error_are_faults() {
        let mut busy = Script::new(&|_| (429, "slow down".into()));
        let ExchangeStep::Failed(RemoteFault::Busy { status: 429, wait, .. }) = busy.ask() else {
            panic!("not busy")
        };
        assert_eq!(wait, Some(Duration::from_secs(1)));
        let mut hidden =
            Script::new(&|_| (200, r#"{"error": {"message": "busy", "code": 503}}"#.into()));
        let step = hidden.ask();
        let is_busy = matches!(step, ExchangeStep::Failed(RemoteFault::Busy { status: 503, .. }));
        assert!(is_busy, "{step:?}");
    }
}
