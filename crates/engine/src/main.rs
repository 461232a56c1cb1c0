//! The program: `serve` for PostgreSQL's launcher, `caption` and `inspect` for people. See `lib.rs`
//! for what it is made of.

fn main() -> std::process::ExitCode {
    pg_caption_engine::cli::main()
}
