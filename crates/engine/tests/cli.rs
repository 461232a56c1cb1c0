//! The command line: `caption` and `inspect`.

mod harness;

use harness::{library, parity};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

/// Excluded from comparisons: the engine differs from the reference on purpose in transparency and
/// 16-bit gray.
const DIFFERENT: [&str; 4] = ["07_rgba.png", "09_palette.png", "11_gray16.png", "14_la.png"];

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pg_caption_engine"))
        .args(arguments)
        .env_remove("PG_CAPTION_MODEL")
        .output()
        .unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8(output.stdout.clone())
        .unwrap()
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

/// Runs `caption` with the parity model; `None` without the library.
fn caption(arguments: &[&str]) -> Option<Output> {
    let (model, library) = (parity().join("vit-gpt2"), library()?);
    let (model, library) = (model.to_str().unwrap(), library.to_str().unwrap());
    let mut fixed = vec!["caption", "--model", model, "--onnxruntime", library];
    // The weights of the model are noise, which its default threshold refuses.
    fixed.extend(["--min-confidence", "0"]);
    Some(program(&[&fixed[..], arguments].concat()))
}

fn images() -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(parity().join("images"))
        .unwrap()
        .map(|e| e.unwrap().path().to_str().unwrap().to_string())
        .collect();
    names.sort();
    names
}

fn name(file: &str) -> &str {
    Path::new(file).file_name().unwrap().to_str().unwrap()
}

/// Runs every mode and prompt of a model's expectations and compares the ids.
fn every_mode(model: &str, expected: &str, runs: usize, more: &[&str]) {
    let Some(library) = library() else { return };
    let folder = parity().join(model);
    let expected: Value =
        serde_json::from_slice(&std::fs::read(folder.join(expected)).unwrap()).unwrap();
    let end = expected_end(&folder);
    let files: Vec<String> =
        images().into_iter().filter(|file| !DIFFERENT.contains(&name(file))).collect();
    let mut cases: Vec<(String, String)> = Vec::new();
    for prompts in expected["images"]
        .as_object()
        .unwrap()
        .values()
        .map(|image| image["prompts"].as_object().unwrap())
    {
        for (prompt, outputs) in prompts {
            cases.extend(
                outputs["outputs"]
                    .as_object()
                    .unwrap()
                    .keys()
                    .map(|output| (prompt.clone(), output.clone())),
            );
        }
    }
    cases.sort();
    cases.dedup();
    assert_eq!(cases.len(), runs, "{cases:?}");
    for (prompt, output) in cases {
        let (mode, max_tokens) = output.rsplit_once('_').unwrap();
        let generation = expected["modes"][mode]["overrides"].to_string();
        let mut arguments = vec![
            "caption",
            "--model",
            folder.to_str().unwrap(),
            "--onnxruntime",
            library.to_str().unwrap(),
            "--exact",
            "--json",
        ];
        arguments.extend(["--max-tokens", max_tokens, "--generation", &generation]);
        arguments.extend(more);
        if !prompt.is_empty() {
            arguments.extend(["--prompt", &prompt]);
        }
        arguments.extend(files.iter().map(String::as_str));
        let result = program(&arguments);
        assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
        let lines = lines(&result);
        assert_eq!(lines.len(), files.len());
        for (line, file) in lines.iter().zip(&files) {
            assert_eq!(line["file"], file.as_str(), "answers come in the order of the arguments");
            let image = &expected["images"][name(file)];
            let want = &image["prompts"][&prompt]["outputs"][&output];
            if want.is_null() {
                continue;
            }
            assert_eq!(line["pixels_sha256"], image["pixel_values"]["sha256"], "{file}");
            let (got, want_ids) = (ids(&line["ids"]), ids(&want["ids"]));
            // Padding is not part of a beam's sequence. After a close step another order of
            // additions may give other ids.
            let want_ids = want_ids
                .iter()
                .position(|id| end.contains(id))
                .map_or(&want_ids[..], |at| &want_ids[..=at]);
            let certain = want["close_steps"]
                .as_array()
                .and_then(|steps| steps.first()?.as_u64())
                .map_or(want_ids.len(), |step| step as usize);
            let certain = certain.min(want_ids.len());
            assert_eq!(
                got[..certain.min(got.len())],
                want_ids[..certain],
                "{file} {prompt} {output}"
            );
            assert!(
                certain < want_ids.len() || got.len() == want_ids.len(),
                "{file} {prompt} {output}"
            );
            if let Some(prompt_ids) =
                image["prompts"][&prompt].get("input_ids").filter(|ids| ids.is_array())
            {
                assert_eq!(line["prompt_ids"], *prompt_ids, "{file} {prompt}");
            }
            assert!(line["finish_reason"] == "stop" || line["finish_reason"] == "length");
            assert!(
                line["ms"]["generate"].as_f64().unwrap() > 0.0
                    && line["image"]["width"] == image["width"]
            );
        }
    }
}

fn ids(value: &Value) -> Vec<i64> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap()).collect()
}

/// The end tokens of a folder.
fn expected_end(folder: &Path) -> Vec<i64> {
    let config: Value =
        serde_json::from_slice(&std::fs::read(folder.join("generation_config.json")).unwrap())
            .unwrap();
    vec![config["eos_token_id"].as_i64().unwrap()]
}

#[test]
fn a_folder_without_a_threshold_writes_no_noise() {
    let Some(library) = library() else { return };
    let (model, files) = (parity().join("vit-gpt2"), images());
    let (model, library) = (model.to_str().unwrap(), library.to_str().unwrap());
    let fixed = ["caption", "--model", model, "--onnxruntime", library, "--json"];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let lines = lines(&program(&[&fixed[..], &files].concat()));
    assert_eq!(lines.len(), files.len());
    for line in lines {
        assert!(line["caption"].is_null(), "{line}");
        let confidence = line["confidence"].as_f64();
        assert!(confidence.is_none_or(|confidence| confidence < 0.1), "{line}");
    }
}

#[test]
fn vit_gpt2_gives_the_references_ids() {
    every_mode("vit-gpt2", "expected.json", 7, &[]);
}

#[test]
fn florence_2_gives_the_references_ids() {
    every_mode("florence2", "expected.json", 11, &["--batch", "1"]);
}

#[test]
fn smolvlm_gives_the_references_ids() {
    every_mode("smolvlm", "expected.json", 8, &[]);
}

#[test]
fn untiled_smolvlm_gives_the_references_ids() {
    every_mode("smolvlm", "expected_one_tile.json", 8, &["--tiles", "one"]);
}

#[test]
fn one_line_per_file_and_style() {
    let dir = tempfile::tempdir().unwrap();
    let invalid = dir.path().join("invalid.jpg");
    std::fs::write(&invalid, "no picture").unwrap();
    let (photo, invalid) = (images()[11].clone(), invalid.to_str().unwrap().to_string());
    let files = [photo.as_str(), &invalid, "/nonexistent.png", "http://127.0.0.1:1/x.png"];
    let Some(output) =
        caption(&[&["--json", "--style", "concise", "--style", "detailed"][..], &files].concat())
    else {
        return;
    };
    assert_eq!(output.status.code(), Some(1));
    let lines = lines(&output);
    let seen: Vec<_> =
        lines.iter().map(|l| (l["file"].as_str().unwrap(), l["style"].as_str().unwrap())).collect();
    let wanted: Vec<_> = files.iter().flat_map(|f| [(*f, "concise"), (*f, "detailed")]).collect();
    assert_eq!(seen, wanted);
    for line in &lines[2..] {
        assert_eq!(
            (line["error_class"].as_str(), line["caption"].is_null()),
            (Some("reject"), true),
            "{line}"
        );
        assert!(!line["error"].as_str().unwrap().is_empty());
    }
    assert!(lines[0]["ids"].as_array().is_some_and(|ids| !ids.is_empty()), "{}", lines[0]);
}

#[test]
fn blank_pictures_are_uncertain() {
    let files = images();
    let one_pixel = files.iter().find(|f| f.ends_with("04_1x1.png")).unwrap();
    let Some(output) = caption(&["--json", one_pixel]) else { return };
    assert_eq!(
        (lines(&output)[0]["error_class"].as_str(), lines(&output)[0]["error_code"].as_str()),
        (Some("uncertain"), Some("blank"))
    );
    assert_eq!(output.status.code(), Some(1));
    let output = caption(&["--json", "--exact", one_pixel]).unwrap();
    assert!(output.status.success() && lines(&output)[0]["caption"].is_string());
}

#[test]
fn an_unusable_model_is_named() {
    let output = program(&["caption", "--model", "/nonexistent", "x.jpg"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent"));
    let Some(library) = library() else { return };
    let empty = tempfile::tempdir().unwrap();
    let output = program(&[
        "caption",
        "--model",
        empty.path().to_str().unwrap(),
        "--onnxruntime",
        library.to_str().unwrap(),
        "x.jpg",
    ]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("config.json"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn invalid_options_name_valid_ones() {
    for (arguments, expected) in [
        (&["caption", "--style", "poetic", "x.jpg"][..], "concise, seo, detailed"),
        (&["caption", "--max-tokens", "257", "x.jpg"], "256"),
        (&["caption", "--generation", "[1]", "x.jpg"], "JSON object"),
        (&["caption"], "FILE|URL"),
    ] {
        let output = program(arguments);
        assert!(!output.status.success());
        let message = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert!(program(&["--version"]).status.success() && program(&["--help"]).status.success());
}

#[test]
fn inspect_shows_the_upright_picture() {
    let files = images();
    let turned = files.iter().find(|f| f.ends_with("10_exif6.jpg")).unwrap();
    let out = tempfile::tempdir().unwrap();
    let png = out.path().join("upright.png");
    let output = program(&["inspect", turned, "--json", "--out", png.to_str().unwrap()]);
    assert!(output.status.success());
    let seen = lines(&output).remove(0);
    let means: Vec<Vec<u8>> = serde_json::from_value(seen["mean_rgb_2x2"].clone()).unwrap();
    assert!(means.len() == 4 && means.iter().all(|rgb| rgb.len() == 3));
    let again = lines(&program(&["inspect", png.to_str().unwrap(), "--json"])).remove(0);
    let of = |v: &Value| (v["width"].clone(), v["height"].clone(), v["mean_rgb_2x2"].clone());
    assert_eq!(of(&again), of(&seen), "the PNG is the decoded picture");
    assert_eq!((seen["format"].as_str(), again["format"].as_str()), (Some("jpeg"), Some("png")));
}

#[test]
fn inspect_continues_after_invalid_files() {
    let files = images();
    let output = program(&["inspect", "--json", "/nonexistent.png", &files[0]]);
    assert_eq!(output.status.code(), Some(1));
    let lines = lines(&output);
    assert_eq!(lines[0]["error_class"], "reject");
    assert_eq!(lines[1]["format"], "png");
}

/// A well-formed picture of two colours that made an old decoder panic.
const CONTESTED: &str = "72_panic.webp";

#[test]
fn every_hostile_file_meets_its_expectation() {
    let shared = std::env::var_os("PG_CAPTION_SHARED")
        .map_or_else(|| harness::root().join("../shared"), Into::into);
    let Ok(manifest) = std::fs::read_to_string(shared.join("hostile/manifest.jsonl")) else {
        println!("skipped: no hostile files at {}", shared.display());
        return;
    };
    let entries: Vec<Value> = manifest.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let files: Vec<String> = entries
        .iter()
        .map(|e| shared.join("hostile").join(e["file"].as_str().unwrap()).to_str().unwrap().into())
        .collect();
    // The reference ignores colour profiles.
    let arguments: Vec<&str> = ["inspect", "--json", "--exact"]
        .into_iter()
        .chain(files.iter().map(String::as_str))
        .collect();
    let seen: HashMap<String, Value> = lines(&program(&arguments))
        .into_iter()
        .map(|l| (name(l["file"].as_str().unwrap()).to_string(), l))
        .collect();
    assert_eq!(seen.len(), entries.len(), "a file ended the program");
    let mut wrong = Vec::new();
    for entry in &entries {
        let file = name(entry["file"].as_str().unwrap());
        let line = &seen[file];
        let decoded = line["error"].is_null();
        let expect = entry["expect"].as_str().unwrap();
        let means = |v: &Value| serde_json::from_value::<[[i16; 3]; 4]>(v.clone());
        let close = || match (means(&line["mean_rgb_2x2"]), means(&entry["ref_mean_rgb_2x2"])) {
            (Ok(actual), Ok(reference)) => actual
                .iter()
                .flatten()
                .zip(reference.iter().flatten())
                .all(|(a, b)| (a - b).abs() <= 6),
            _ => false,
        };
        let same = || {
            line["width"] == entry["upright_width"]
                && line["height"] == entry["upright_height"]
                && close()
        };
        let as_expected = match expect {
            "decode" => decoded && same(),
            "refuse" => !decoded || file == CONTESTED,
            _ => true,
        };
        if !as_expected {
            wrong.push(format!("{file}, expected {expect}: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The manual page and `--help` show every command, its options and the exit codes; a shell accepts
/// the completions.
#[test]
fn the_manual_and_completions_name_every_command() {
    let text = |arguments: &[&str]| {
        let output = program(arguments);
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let (page, bash) = (text(&["manual"]), text(&["completions", "bash"]));
    let commands =
        ["serve", "caption", "inspect", "model pull", "model list", "model check", "model agree"];
    for command in commands {
        let section = format!(".SH \"COMMAND {}\"", command.to_uppercase());
        assert!(page.contains(&section), "{command}: {page}");
        let words: Vec<&str> = command.split(' ').collect();
        assert!(bash.contains(words[words.len() - 1]), "{command}");
        // The page has every option that the command's own help has.
        let help = text(&[&words[..], &["--help"]].concat());
        for option in help.lines().filter_map(|line| line.trim_start().strip_prefix("--")) {
            let name = option.split([' ', '.']).next().unwrap();
            assert!(page.contains(&name.replace('-', "\\-")), "{command} --{name}");
        }
    }
    let help = text(&["--help"]);
    for part in ["Examples:", "Exit codes:", "  2  The arguments are wrong."] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(page.contains(".SH \"EXIT STATUS\""), "{page}");
    assert_eq!(program(&["caption"]).status.code(), Some(2));
    assert_eq!(program(&["inspect", "/nowhere.jpg"]).status.code(), Some(1));

    let mut shell = Command::new("bash");
    shell.args(["--norc", "-n"]).stdin(std::process::Stdio::piped());
    let mut shell = shell.spawn().unwrap();
    std::io::Write::write_all(&mut shell.stdin.take().unwrap(), bash.as_bytes()).unwrap();
    assert!(shell.wait().unwrap().success());
}
