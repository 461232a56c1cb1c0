//! Asks a model server for captions: OpenAI's `chat/completions`, or a `caption` endpoint.
//!
//! Called by the remote provider of `crates/engine`. Promises:
//! * A server gets our own JPEG and an instruction, never an address and never metadata.
//! * A key goes to the origin of `base_url` alone, over https or to a private address, and appears
//!   in no message.
//! * Answers are bounded in bytes and time, whatever the server sends; redirects are not followed.
//! * What a server does not accept is learned once.
//!
//! It decodes no picture, and knows nothing of jobs or PostgreSQL. Only `transport` does I/O.
//!
//! ```text
//! question ─ exchange ─┬─ request (with quirks) ─ transport ─ answer ─┬─ caption
//!                      └──────────── again, or smaller ◄── verdict ───┴─ fault
//! pace: when the next request may be sent      usage: what was used today
//! ```

mod answer;
mod error_body;
mod exchange;
mod fault;
mod key;
mod pace;
mod quirks;
mod request;
mod suspects;
mod transport;
mod usage;
mod verdict;

pub use exchange::{CaptionExchange, ExchangeStep};
pub use fault::RemoteFault;
pub use key::ApiKey;
pub use pace::{PaceDecision, PaceOutcome, RequestPace};
pub use quirks::ServerQuirks;
pub use request::CaptionQuestion;
pub use suspects::SuspectPictures;
pub use transport::{ModelServer, OWN_HEADER, ServerAnswer, ServerOptions};
pub use usage::{DailyBudget, TokenUse, UsageCount, UsageTable};

pub use answer::RemoteCaption;
