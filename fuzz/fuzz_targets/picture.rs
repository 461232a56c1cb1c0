#![no_main]
//! `cargo +nightly fuzz run picture`; the property is in `crates/checks/src/picture.rs`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pg_caption_checks::abort_on(
    pg_caption_checks::picture(bytes)
));
