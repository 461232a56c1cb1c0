//! Why a server gave no caption, and what that means for the request.

use pg_caption_wire::{Failure, FailureClass, PAUSED};
use std::time::Duration;

/// The hint of failures that may be this picture's or the server's.
const SEE_LOG: &str = "Call again later. If it fails each time, see the log of the model server.";
/// The hint of failures of one picture.
const OTHER_MODEL: &str = "Write the text of this picture by hand, or use another model for it.";

/// Why there is no caption. Texts of the server in it are one short line, without the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoteFault {
    /// The server refuses the key, or wants one.
    Key(String),
    /// The server does not have the model, or not at this address.
    Model(String),
    /// The account has no credit.
    Credit(String),
    /// The server refuses requests whatever their picture: a redirect, another protocol.
    Refused(String),
    /// The server asks for a pause, or has no free slot.
    Busy {
        /// Its status.
        status: u16,
        /// The pause it asks for.
        wait: Option<Duration>,
        /// What it says.
        reason: String,
    },
    /// `requests_per_minute` of `remote.json` is reached.
    Limited {
        /// Until a request may be sent again.
        wait: Duration,
    },
    /// No connection.
    Down(String),
    /// The connection ended before the answer did.
    Reset(String),
    /// No answer within the time limit of a request.
    Slow(Duration),
    /// The server failed (500), perhaps because of this picture.
    Server(String),
    /// The answer is not what the protocol says.
    Malformed(String),
    /// The server gave up in the middle of its answer.
    Aborted,
    /// The server failed repeatedly for this picture, while it served others.
    Suspect(String),
    /// The server cannot use this picture.
    Picture(String),
    /// The server's filter refuses the picture or its text.
    Filtered(String),
    /// The answer had no text, also without thinking.
    Empty,
    /// The daily limit of `remote.json` is reached.
    Budget {
        /// Name of the limit.
        limit: &'static str,
        /// Until it begins again.
        wait: Duration,
    },
    /// The caller left.
    Cancelled,
}

impl RemoteFault {
    /// Whether it concerns every request, and the server is to be asked for nothing else for a
    /// while.
    pub fn is_of_server(&self) -> bool {
        matches!(
            self,
            RemoteFault::Busy { .. }
                | RemoteFault::Limited { .. }
                | RemoteFault::Down(_)
                | RemoteFault::Reset(_)
        )
    }

    /// The failure of a request. `server`: `host:port`; `folder`: name of the model's folder.
    pub fn failure(&self, server: &str, folder: &str) -> Failure {
        use FailureClass::{Engine, Host, Reject, Retry};
        let says = |text: &str| match text.trim_end_matches(['.', '…', ' ']) {
            "" => format!("The server is \"{server}\"."),
            text => format!("The server \"{server}\" reports: {text}."),
        };
        let failure = match self {
            RemoteFault::Key(text) => {
                Failure::new(Engine, "model_server_key", "the model server refuses the key")
                    .detail(says(text))
                    .hint(format!(
                        "Check the file that \"api_key_file\" in remote.json of model \"{folder}\" \
                         names. It is read again for the next request."
                    ))
            }
            RemoteFault::Model(text) => {
                Failure::new(Engine, "model_server_model", "the model server has no such model")
                    .detail(says(text))
                    .hint(format!(
                        "Check \"model\" and \"base_url\" in remote.json of model \"{folder}\"."
                    ))
            }
            RemoteFault::Credit(text) => Failure::new(
                Engine,
                "model_server_credit",
                "the account at the model server has no credit",
            )
            .detail(says(text))
            .hint("Add credit to the account, or choose another model with caption.use_model()."),
            RemoteFault::Refused(text) => {
                Failure::new(Engine, "model_server_refused", "the model server cannot be used")
                    .detail(says(text))
                    .hint(format!("Check remote.json of model \"{folder}\"."))
            }
            RemoteFault::Busy { status, wait, reason } => {
                let mut failure =
                    Failure::new(Host, "model_server_busy", "the model server asks for a pause")
                        .detail(format!("Its status was {status}. {}", says(reason)))
                        .hint(PAUSED);
                failure.retry_after_ms = wait.map(|wait| wait.as_millis() as u64);
                failure
            }
            RemoteFault::Limited { wait } => {
                let mut failure = Failure::new(
                    Host,
                    "model_server_limit",
                    "the requests per minute of the model are used up",
                )
                .hint(format!("See \"requests_per_minute\" in remote.json of model \"{folder}\"."));
                failure.retry_after_ms = Some(wait.as_millis() as u64);
                failure
            }
            RemoteFault::Down(text) | RemoteFault::Reset(text) => {
                Failure::new(Host, "model_server_down", "the model server does not answer")
                    .detail(format!("The connection to \"{server}\" failed: {}.", sentence(text)))
                    .hint(format!(
                        "Start the server, or check \"base_url\" in remote.json of model \
                         \"{folder}\"."
                    ))
            }
            RemoteFault::Slow(limit) => {
                Failure::new(Retry, "model_server_slow", "the model server did not answer in time")
                    .detail(format!(
                        "There was no answer of \"{server}\" after {:.1} s.",
                        limit.as_secs_f64()
                    ))
                    .hint(format!("See \"timeout\" in remote.json of model \"{folder}\"."))
            }
            RemoteFault::Server(text) => {
                Failure::new(Retry, "model_server_error", "the model server failed")
                    .detail(says(text))
                    .hint(SEE_LOG)
            }
            RemoteFault::Malformed(text) => Failure::new(
                Retry,
                "model_server_answer",
                "the answer of the model server cannot be read",
            )
            .detail(format!("The server is \"{server}\": {}.", sentence(text)))
            .hint(SEE_LOG),
            RemoteFault::Aborted => Failure::new(
                Retry,
                "model_server_error",
                "the model server stopped in the middle of its answer",
            )
            .detail(says(""))
            .hint(SEE_LOG),
            RemoteFault::Suspect(text) => Failure::new(
                Reject,
                "model_server_killer",
                "the model server fails for this picture each time, and serves others",
            )
            .detail(says(text))
            .hint(OTHER_MODEL),
            RemoteFault::Picture(text) => Failure::new(
                Reject,
                "model_server_rejected",
                "the model server cannot use the picture",
            )
            .detail(says(text))
            .hint(OTHER_MODEL),
            RemoteFault::Filtered(text) => Failure::new(
                Reject,
                "filtered",
                "the model server's content filter refuses the picture",
            )
            .detail(says(text))
            .hint("Write the text of this picture by hand."),
            RemoteFault::Empty => {
                Failure::new(Reject, "empty_answer", "the model server returned no text")
                    .detail(says("the answer is empty, also with thinking turned off"))
                    .hint(
                        "If the model thinks before it answers, raise max_tokens, or choose a \
                         model that does not.",
                    )
            }
            RemoteFault::Budget { limit, wait } => {
                let mut failure = Failure::new(
                    Engine,
                    "daily_limit",
                    "the daily limit of the model server is reached",
                )
                .detail(format!(
                    "\"{limit}\" in remote.json of model \"{folder}\" begins again in {} min.",
                    wait.as_secs().div_ceil(60)
                ))
                .hint("Queued rows continue by themselves. Raise the limit to continue now.");
                failure.retry_after_ms = Some(wait.as_millis() as u64);
                failure
            }
            RemoteFault::Cancelled => Failure::timeout(None, "being processed by the model"),
        };
        match failure.class {
            Host => Failure { host: Some(server.into()), ..failure },
            _ => failure,
        }
    }
}

/// A reason as the end of a sentence.
fn sentence(text: &str) -> &str {
    text.trim_end_matches(['.', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_checks::style_violations;

    #[test]
    fn faults_have_their_class_and_follow_the_style() {
        let text = || "Some text.".to_string();
        let second = Duration::from_secs(1);
        for (fault, class) in [
            (RemoteFault::Key(text()), FailureClass::Engine),
            (RemoteFault::Model(String::new()), FailureClass::Engine),
            (RemoteFault::Credit(text()), FailureClass::Engine),
            (RemoteFault::Refused(text()), FailureClass::Engine),
            (RemoteFault::Budget { limit: "daily_tokens", wait: second }, FailureClass::Engine),
            (
                RemoteFault::Busy { status: 429, wait: Some(second), reason: text() },
                FailureClass::Host,
            ),
            (RemoteFault::Limited { wait: second }, FailureClass::Host),
            (RemoteFault::Down("refused".into()), FailureClass::Host),
            (RemoteFault::Reset("closed".into()), FailureClass::Host),
            (RemoteFault::Slow(second), FailureClass::Retry),
            (RemoteFault::Server("<…".into()), FailureClass::Retry),
            (RemoteFault::Malformed("it is not JSON".into()), FailureClass::Retry),
            (RemoteFault::Aborted, FailureClass::Retry),
            (RemoteFault::Cancelled, FailureClass::Retry),
            (RemoteFault::Suspect(text()), FailureClass::Reject),
            (RemoteFault::Picture(text()), FailureClass::Reject),
            (RemoteFault::Filtered(String::new()), FailureClass::Reject),
            (RemoteFault::Empty, FailureClass::Reject),
        ] {
            let failure = fault.failure("gpu:8000", "far");
            assert_eq!(failure.class, class, "{fault:?}");
            assert_eq!(failure.host.is_some(), class == FailureClass::Host, "{fault:?}");
            assert_eq!(style_violations(&failure), [""; 0], "{failure:?}");
        }
    }
}
