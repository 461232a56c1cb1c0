//! Promises of the command line.

mod harness;

use harness::{library, parity};
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Output};

/// Left out of comparisons: we differ on purpose over transparency and 16-bit gray.
const DIFFERENT: [&str; 4] = ["07_rgba.png", "09_palette.png", "11_gray16.png", "14_la.png"];

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pg_caption_engine")).args(arguments).env_remove("PG_CAPTION_MODEL").output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    String::from_utf8(output.stdout.clone()).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// Runs `caption` with the parity model; `None` if there is no library.
fn caption(arguments: &[&str]) -> Option<Output> {
    let (model, library) = (parity().join("vit-gpt2"), library()?);
    let fixed = ["caption", "--model", model.to_str().unwrap(), "--onnxruntime", library.to_str().unwrap()];
    Some(program(&[&fixed[..], arguments].concat()))
}

fn images() -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(parity().join("images")).unwrap().map(|e| e.unwrap().path().to_str().unwrap().to_string()).collect();
    names.sort();
    names
}

fn name(file: &str) -> &str {
    Path::new(file).file_name().unwrap().to_str().unwrap()
}

#[test]
fn every_id_is_the_reference_s_batched_or_not() {
    let expected: Value = serde_json::from_slice(&std::fs::read(parity().join("vit-gpt2/expected.json")).unwrap()).unwrap();
    let files = images();
    for (mode, options) in [
        ("greedy_32", &["--max-tokens", "32", "--greedy"][..]),
        ("greedy_64", &["--max-tokens", "64", "--greedy", "--batch", "1"]),
        ("beam3_ngram3_32", &["--max-tokens", "32", "--generation", r#"{"num_beams": 3, "no_repeat_ngram_size": 3}"#]),
    ] {
        let arguments: Vec<&str> = ["--exact", "--json"].into_iter().chain(options.iter().copied()).chain(files.iter().map(String::as_str)).collect();
        let Some(output) = caption(&arguments) else { return };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = lines(&output);
        assert_eq!(lines.len(), files.len());
        for (line, file) in lines.iter().zip(&files) {
            assert_eq!(line["file"], file.as_str(), "answers come in the order asked");
            let image = &expected["images"][name(file)];
            if DIFFERENT.contains(&name(file)) {
                continue;
            }
            assert_eq!(line["pixels_sha256"], image["pixel_values"]["sha256"], "{file}");
            assert_eq!(line["ids"], image["prompts"][""]["outputs"][mode]["ids"], "{file} {mode}");
            assert!(line["finish_reason"] == "stop" || line["finish_reason"] == "length");
            assert!(line["ms"]["generate"].as_f64().unwrap() > 0.0 && line["image"]["width"] == image["width"]);
        }
    }
}

#[test]
fn one_line_for_each_file_and_style_and_status_1_if_any_failed() {
    let dir = tempfile::tempdir().unwrap();
    let rubbish = dir.path().join("rubbish.jpg");
    std::fs::write(&rubbish, "no picture").unwrap();
    let (photo, rubbish) = (images()[11].clone(), rubbish.to_str().unwrap().to_string());
    let files = [photo.as_str(), &rubbish, "/nonexistent.png", "http://127.0.0.1:1/x.png"];
    let Some(output) = caption(&[&["--json", "--style", "concise", "--style", "detailed"][..], &files].concat()) else { return };
    assert_eq!(output.status.code(), Some(1));
    let lines = lines(&output);
    let seen: Vec<_> = lines.iter().map(|l| (l["file"].as_str().unwrap(), l["style"].as_str().unwrap())).collect();
    let wanted: Vec<_> = files.iter().flat_map(|f| [(*f, "concise"), (*f, "detailed")]).collect();
    assert_eq!(seen, wanted);
    for line in &lines[2..] {
        assert_eq!((line["error_class"].as_str(), line["caption"].is_null()), (Some("reject"), true), "{line}");
        assert!(!line["error"].as_str().unwrap().is_empty());
    }
    assert!(lines[0]["ids"].as_array().is_some_and(|ids| !ids.is_empty()), "{}", lines[0]);
}

#[test]
fn a_blank_picture_is_uncertain_except_in_comparisons() {
    let files = images();
    let one_pixel = files.iter().find(|f| f.ends_with("04_1x1.png")).unwrap();
    let Some(output) = caption(&["--json", one_pixel]) else { return };
    assert_eq!((lines(&output)[0]["error_class"].as_str(), lines(&output)[0]["error_code"].as_str()), (Some("uncertain"), Some("blank")));
    assert_eq!(output.status.code(), Some(1));
    let output = caption(&["--json", "--exact", one_pixel]).unwrap();
    assert!(output.status.success() && lines(&output)[0]["caption"].is_string());
}

#[test]
fn without_a_model_the_reason_is_said() {
    let output = program(&["caption", "--model", "/nonexistent", "x.jpg"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent"));
    let Some(library) = library() else { return };
    let empty = tempfile::tempdir().unwrap();
    let output = program(&["caption", "--model", empty.path().to_str().unwrap(), "--onnxruntime", library.to_str().unwrap(), "x.jpg"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("config.json"), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn wrong_options_are_refused_with_what_is_allowed() {
    for (arguments, words) in [
        (&["caption", "--style", "poetic", "x.jpg"][..], "concise, seo, detailed"),
        (&["caption", "--max-tokens", "257", "x.jpg"], "256"),
        (&["caption", "--generation", "[1]", "x.jpg"], "JSON object"),
        (&["caption"], "FILE|URL"),
    ] {
        let output = program(arguments);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).to_string();
        assert!(said.contains(words), "{said}");
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
    assert_eq!(of(&again), of(&seen), "the PNG holds what was seen");
    assert_eq!((seen["format"].as_str(), again["format"].as_str()), (Some("jpeg"), Some("png")));
}

#[test]
fn inspect_refuses_what_is_no_picture_and_goes_on() {
    let files = images();
    let output = program(&["inspect", "--json", "/nonexistent.png", &files[0]]);
    assert_eq!(output.status.code(), Some(1));
    let lines = lines(&output);
    assert_eq!(lines[0]["error_class"], "reject");
    assert_eq!(lines[1]["format"], "png");
}

/// Made an old decoder panic, but is a well-formed picture of two colours.
const CONTESTED: &str = "72_panic.webp";

#[test]
fn every_hostile_file_meets_its_expectation() {
    let shared = std::env::var_os("PG_CAPTION_SHARED").map_or_else(|| harness::root().join("../shared"), Into::into);
    let Ok(manifest) = std::fs::read_to_string(shared.join("hostile/manifest.jsonl")) else {
        println!("skipped: no hostile files at {}", shared.display());
        return;
    };
    let entries: Vec<Value> = manifest.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let files: Vec<String> = entries.iter().map(|e| shared.join("hostile").join(e["file"].as_str().unwrap()).to_str().unwrap().into()).collect();
    let arguments: Vec<&str> = ["inspect", "--json"].into_iter().chain(files.iter().map(String::as_str)).collect();
    let seen: HashMap<String, Value> = lines(&program(&arguments)).into_iter().map(|l| (name(l["file"].as_str().unwrap()).to_string(), l)).collect();
    assert_eq!(seen.len(), entries.len(), "a file ended the program");
    let mut wrong = Vec::new();
    for entry in &entries {
        let file = name(entry["file"].as_str().unwrap());
        let line = &seen[file];
        let decoded = line["error"].is_null();
        let expect = entry["expect"].as_str().unwrap();
        let means = |v: &Value| serde_json::from_value::<[[i16; 3]; 4]>(v.clone());
        let close = || match (means(&line["mean_rgb_2x2"]), means(&entry["ref_mean_rgb_2x2"])) {
            (Ok(ours), Ok(theirs)) => ours.iter().flatten().zip(theirs.iter().flatten()).all(|(a, b)| (a - b).abs() <= 6),
            _ => false,
        };
        let same = || line["width"] == entry["upright_width"] && line["height"] == entry["upright_height"] && close();
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
