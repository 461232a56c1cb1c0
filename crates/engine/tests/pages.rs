//! The shell blocks of README.md and docs: bash runs them as they are written, one folder for each
//! page. Only addresses and the folder /srv are replaced.

mod harness;
#[path = "../../hub/tests/hub/server.rs"]
mod server;

use harness::http_server::remote_json;
use harness::{PROGRAM, library, parity, root};
use pg_caption_checks::{ScriptedAnswer, ScriptedServer, code_blocks, indented_code, pages};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::json;
use server::Hub;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The pages whose shell blocks are run here.
const PAGES: [&str; 6] = [
    "docs/cascade.md",
    "docs/command-line.md",
    "docs/models.md",
    "docs/more-than-one-machine.md",
    "docs/remote-models.md",
    "docs/review.md",
];

/// Lines that need more than this program, and what runs them: it has the line, or reads the page.
const ELSEWHERE: [(&str, &str, &str); 7] = [
    ("docs/install.md", "apt install", "scripts/test-packages.sh"),
    ("docs/install.md", "pg_caption_setup", "scripts/test-packages.sh"),
    ("docs/install.md", "make install", ".github/workflows/nightly.yml"),
    ("docs/tutorial.md", "make cluster", ".github/workflows/nightly.yml"),
    ("README.md", "make demo", ".github/workflows/nightly.yml"),
    ("README.md", "make pgrx", "scripts/test-pgrx.sh"),
    ("README.md", "cargo pgrx", "scripts/test-pgrx.sh"),
];

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The shell blocks of a page.
fn shell_blocks(path: &str) -> Vec<String> {
    let page = read(path);
    let blocks = code_blocks(&page).filter(|block| block.language == "sh");
    blocks.map(|block| block.text.to_owned()).collect()
}

/// What the pages presuppose: photos, a models directory, a hub, a model server, a key.
struct Home {
    folder: tempfile::TempDir,
    hub: Hub,
    model_server: ScriptedServer,
    library: PathBuf,
}

impl Home {
    /// `None`: ONNX Runtime is not installed.
    fn new() -> Option<Home> {
        let library = library()?;
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["photos", "bin", "srv/models", "share/pg_caption/models"] {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        let photo = root().join("demo/images/01-t-shirt-red.jpg");
        for path in ["photo.jpg", "photos/1.jpg", "photos/2.jpg"] {
            std::fs::copy(&photo, at(path)).unwrap();
        }
        symlink(PROGRAM, at("bin/pg_caption_engine")).unwrap();
        write_program(&at("bin/pg_config"), &format!("echo '{}'", at("share").display()));
        if Command::new("man").arg("--version").output().is_err() {
            println!("skipped: man is not installed; what it would show is only written");
            write_program(&at("bin/man"), "exec cat");
        }
        let model = root().join("tests/models/default");
        symlink(&model, at("share/pg_caption/models/default")).unwrap();
        symlink(&model, at("srv/models/shop")).unwrap();
        std::fs::write(at("srv/key"), "sk-123\n").unwrap();
        std::fs::set_permissions(at("srv/key"), PermissionsExt::from_mode(0o600)).unwrap();
        let model_server = ScriptedServer::start(|_| ScriptedAnswer::text("A cup.", Some(0.9)));
        let gpu = remote_json(&model_server.url(), json!({}));
        std::fs::create_dir(at("share/pg_caption/models/gpu")).unwrap();
        std::fs::write(at("share/pg_caption/models/gpu/remote.json"), gpu.to_string()).unwrap();
        let hub =
            Hub::start("onnx-community/Florence-2-base-ft", four_bit(&parity().join("florence2")));
        Some(Home { folder, hub, model_server, library })
    }

    /// A block with the addresses and folders of this machine.
    fn localized(&self, block: &str) -> String {
        let base_url = self.model_server.url();
        block
            .replace("http://10.0.0.5:8000/v1", &base_url)
            .replace("http://10.0.0.4:8000/v1", &base_url)
            .replace("10.0.0.5:8101", "127.0.0.1:0")
            .replace("/srv/", &format!("{}/", self.folder.path().join("srv").display()))
    }

    /// bash with this text.
    fn bash(&self, text: &str) -> Command {
        let mut bash = Command::new("bash");
        bash.args(["-euc", text]).current_dir(self.folder.path()).env_clear();
        let path = std::env::var("PATH").unwrap_or_default();
        bash.env("PATH", format!("{}/bin:{path}", self.folder.path().display()));
        bash.env("HOME", self.folder.path()).env("LANG", "C.UTF-8");
        bash.env("PG_CAPTION_MODELS", self.folder.path().join("share/pg_caption/models"));
        bash.env("PG_CAPTION_ONNXRUNTIME", &self.library);
        bash.env("HF_ENDPOINT", self.hub.endpoint());
        bash.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        bash
    }

    /// Runs a text to its end, with a key on standard input.
    fn run(&self, text: &str) -> Result<(), String> {
        let mut child = self.bash(text).spawn().unwrap();
        // A block that reads nothing may end before.
        let _ = child.stdin.take().unwrap().write_all(b"sk-123\n");
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            return Ok(());
        }
        let (out, err) = (&output.stdout, &output.stderr);
        Err(format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err)))
    }

    /// Runs a block that starts a server, until it serves; then the server is stopped.
    fn serve(&self, text: &str) -> Result<(), String> {
        // The program takes the place of the shell.
        let mut child = self.bash(&format!("exec {text}")).spawn().unwrap();
        let mut log = String::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            log += &line.unwrap();
            if log.contains("is ready on http://") && !log.contains("stopping") {
                kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            }
        }
        let status = child.wait().unwrap();
        if status.success() { Ok(()) } else { Err(format!("{status}: {log}")) }
    }
}

fn write_program(path: &Path, text: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// The files of a model whose graphs have the names of 4-bit ones.
fn four_bit(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = server::files_of(folder).into_iter();
    files.map(|(name, bytes)| (name.replace(".onnx", "_q4.onnx"), bytes)).collect()
}

/// Runs the blocks of a page in one shell, but for those that start a server.
fn run_page(path: &str) -> Result<(), String> {
    let Some(home) = Home::new() else { return Ok(()) };
    let blocks: Vec<String> = shell_blocks(path).iter().map(|text| home.localized(text)).collect();
    assert!(!blocks.is_empty(), "{path} has no shell block");
    if blocks.iter().any(|block| block.contains("-o postgres")) && !may_give_files_away() {
        println!("skipped: {path} makes files of the system user postgres, which needs root");
        return Ok(());
    }
    let (servers, others): (Vec<_>, Vec<_>) =
        blocks.into_iter().partition(|block| block.starts_with("pg_caption_engine serve"));
    servers.iter().try_for_each(|block| home.serve(block))?;
    home.run(&others.join("\n"))
}

/// Whether `install -o postgres` works.
fn may_give_files_away() -> bool {
    let id =
        Command::new("id").arg("postgres").stdout(Stdio::null()).stderr(Stdio::null()).status();
    geteuid().is_root() && id.is_ok_and(|status| status.success())
}

#[test]
fn the_shell_blocks_of_each_page_run() {
    let wrong: Vec<String> = PAGES
        .iter()
        .filter_map(|path| run_page(path).err().map(|error| format!("{path}: {error}")))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn no_page_has_shell_lines_that_no_test_runs() {
    let mut known = Vec::new();
    for (path, command, script) in ELSEWHERE {
        let lines: Vec<String> =
            shell_lines(path).into_iter().filter(|line| line.starts_with(command)).collect();
        assert!(!lines.is_empty(), "{path} has no line `{command}`");
        let script_text = read(script);
        for line in lines {
            let runs = script_text.contains(path) || script_text.contains(&line);
            assert!(runs, "{script} does not run `{line}` of {path}");
            known.push(line);
        }
    }
    let programs = ["apt ", "make ", "cargo ", "pg_caption_", "install ", "source "];
    for path in pages(&root()).iter().filter(|path| !PAGES.contains(&path.as_str())) {
        for line in shell_lines(path) {
            let is_command = programs.iter().any(|program| line.starts_with(program));
            assert!(!is_command || known.contains(&line), "{path}: no test runs `{line}`");
        }
    }
}

/// The lines of a page for a shell: of its blocks, and indented.
fn shell_lines(path: &str) -> Vec<String> {
    let page = read(path);
    let blocks = shell_blocks(path).join("\n");
    let lines = blocks.lines().chain(indented_code(&page));
    lines.map(|line| line.split("  #").next().unwrap_or(line).trim().to_owned()).collect()
}

/// The pictures are those of the demo, the model the default one.
#[test]
fn the_default_model_writes_the_texts_of_the_tutorial() {
    let Some(library) = library() else { return };
    let page = read("docs/tutorial.md");
    let shown = code_blocks(&page).find(|block| block.language == "text").expect("a result").text;
    let mut compared = 0;
    for line in shown.lines() {
        let (title, text) = line.split_once('|').expect("two columns");
        let row = format!("('{}',", title.trim());
        let row = page.lines().find(|line| line.contains(&row)).expect("a row of this title");
        if row.contains(text.trim()) {
            continue;
        }
        let picture = row.split("8000/").nth(1).and_then(|rest| rest.split('\'').next());
        let output = Command::new(PROGRAM)
            .args(["caption", "--model", "models/default", "--onnxruntime"])
            .arg(&library)
            .arg(Path::new("demo/images").join(picture.expect("a picture")))
            .current_dir(root())
            .output()
            .unwrap();
        let written = String::from_utf8_lossy(&output.stdout);
        assert!(written.contains(text.trim()), "{title}: {written}");
        compared += 1;
    }
    assert!(compared > 0, "{shown}");
}
