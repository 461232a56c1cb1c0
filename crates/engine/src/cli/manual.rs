//! What documents the command line: examples and exit codes, which `--help` and the manual page
//! show, the manual page itself, and the completions of shells.

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::io::{self, Write};

/// Examples of `caption`.
pub const CAPTION_EXAMPLES: &str = "\
Examples:
  pg_caption_engine caption photo.jpg
  pg_caption_engine caption photo.jpg --style concise --style seo
  pg_caption_engine caption *.jpg --json
  pg_caption_engine caption https://cdn.example.com/p/42.jpg --model florence-2-base";

/// Examples of `inspect`.
pub const INSPECT_EXAMPLES: &str = "\
Examples:
  pg_caption_engine inspect *.jpg
  pg_caption_engine inspect photo.tif --out upright.png";

/// Examples of `model pull`, and the environment that it reads.
pub const PULL_EXAMPLES: &str = "\
Examples:
  pg_caption_engine model pull onnx-community/Florence-2-base-ft --dtype q4
  pg_caption_engine model pull Xenova/vit-gpt2-image-captioning --name vit-gpt2

Environment: HF_TOKEN gives access to private and gated models, HF_ENDPOINT names another hub, \
HTTPS_PROXY and NO_PROXY a proxy, SSL_CERT_FILE further certificates.";

/// The exit codes and their meaning.
const EXIT_CODES: [(u8, &str); 3] = [
    (0, "Every picture has every caption; the models are usable."),
    (1, "At least one picture or model failed, or the command could not run; see the message."),
    (2, "The arguments are wrong."),
];

/// The environment that the commands read, apart from that of `model pull`.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("PG_CAPTION_MODEL", "The folder of the model that is used without --model."),
    ("PG_CAPTION_MODELS", "The models directory."),
    ("PG_CAPTION_ONNXRUNTIME", "The ONNX Runtime library."),
];

/// The end of the program's `--help`.
pub fn after_help() -> String {
    let codes: Vec<String> =
        EXIT_CODES.iter().map(|(code, meaning)| format!("  {code}  {meaning}")).collect();
    format!("{CAPTION_EXAMPLES}\n\nExit codes:\n{}", codes.join("\n"))
}

/// Prints the completions of a shell.
///
/// # Errors
/// Standard output cannot be written.
pub fn print_completions(mut program: Command, shell: Shell) -> Result<bool, String> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut program, "pg_caption_engine", &mut text);
    print(&text)
}

/// Prints the manual page `pg_caption_engine(1)`.
///
/// # Errors
/// Standard output cannot be written.
pub fn print_page(program: Command) -> Result<bool, String> {
    let mut text = Vec::new();
    page(program, &mut text).map_err(|e| e.to_string())?;
    print(&text)
}

/// A reader that has seen enough, such as `head`, is no error.
fn print(text: &[u8]) -> Result<bool, String> {
    match io::stdout().write_all(text) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {e}")),
        _ => Ok(true),
    }
}

/// One page for all commands: each has a section, because a page for each would be short.
fn page(mut program: Command, out: &mut dyn Write) -> io::Result<()> {
    // Usage lines need the full names of the commands.
    program.build();
    let man = Man::new(program.clone().after_help(None::<&str>)).manual("pg_caption");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    commands(&program, "", out)?;

    let mut end = Roff::new();
    end.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in EXIT_CODES {
        end.control("TP", []);
        end.text([bold(code.to_string())]);
        end.text([roman(meaning)]);
    }
    end.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in ENVIRONMENT {
        end.control("TP", []);
        end.text([bold(name)]);
        end.text([roman(meaning)]);
    }
    end.control("SH", ["SEE ALSO"]);
    end.text([bold("psql"), roman("(1), "), bold("postgres"), roman("(1)")]);
    end.to_writer(out)
}

/// The sections of the commands that do something, in the order of `--help`.
fn commands(of: &Command, name: &str, out: &mut dyn Write) -> io::Result<()> {
    for command in of.get_subcommands().filter(|command| command.get_name() != "help") {
        let name = format!("{name} {}", command.get_name());
        if command.has_subcommands() {
            commands(command, &name, out)?;
            continue;
        }
        let mut head = Roff::new();
        head.control("SH", [format!("COMMAND{}", name.to_uppercase()).as_str()]);
        head.text([roman(format!("{}.", command.get_about().cloned().unwrap_or_default()))]);
        head.to_writer(out)?;
        let mut options = Vec::new();
        Man::new(command.clone()).render_options_section(&mut options)?;
        out.write_all(String::from_utf8_lossy(&options).replace(".SH OPTIONS", "").as_bytes())?;
        if let Some(examples) = command.get_after_help() {
            let mut example = Roff::new();
            example.control("PP", []);
            example.control("nf", []);
            for line in examples.to_string().lines() {
                example.text([roman(line)]);
            }
            example.control("fi", []);
            example.to_writer(out)?;
        }
    }
    Ok(())
}
