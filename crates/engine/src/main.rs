//! The program: `serve` for PostgreSQL's launcher, `caption`, `inspect` and `model` for the command
//! line. See `lib.rs` for its parts.

fn main() -> std::process::ExitCode {
    pg_caption_engine::cli::main(pg_caption_engine::DecodeHook::default())
}
