//! Panics of code that runs on a request's data become errors of that request.
//!
//! The implementation is the captioner's, which needs it for its tokenizer.

pub use pg_caption_captioner::catch_panic;
