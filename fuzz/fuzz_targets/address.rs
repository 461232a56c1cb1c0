#![no_main]
//! `cargo +nightly fuzz run address`; the property is in `crates/checks/src/address.rs`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pg_caption_checks::abort_on(
    pg_caption_checks::address(bytes)
));
