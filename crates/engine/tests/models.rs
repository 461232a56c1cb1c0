//! `pg_caption_engine model`: pull, list, check.

mod harness;
#[path = "../../hub/tests/hub/server.rs"]
mod server;

use harness::{library, parity, root};
use serde_json::Value;
use server::{Fault, Hub};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pg_caption_engine"));
    command.arg("model").args(arguments);
    // No settings of the environment, and never the public hub.
    for name in [
        "PG_CAPTION_MODEL",
        "PG_CAPTION_MODELS",
        "HF_TOKEN",
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "ALL_PROXY",
        "https_proxy",
        "http_proxy",
        "all_proxy",
    ] {
        command.env_remove(name);
    }
    command.env("HF_ENDPOINT", "http://127.0.0.1:1").env("HF_HOME", "/nonexistent");
    command
}

fn model(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Copies a model folder.
fn copy(from: &Path, to: &Path) {
    for prefix in ["", "onnx"] {
        std::fs::create_dir_all(to.join(prefix)).unwrap();
        for entry in
            std::fs::read_dir(from.join(prefix)).unwrap().flatten().filter(|e| e.path().is_file())
        {
            std::fs::copy(entry.path(), to.join(prefix).join(entry.file_name())).unwrap();
        }
    }
}

/// Checks a folder: the JSON, or the error output.
fn check(folder: &Path, options: &[&str]) -> Option<Result<Value, String>> {
    let library = library()?;
    let fixed = [
        "check",
        folder.to_str().unwrap(),
        "--json",
        "--threads",
        "1",
        "--onnxruntime",
        library.to_str().unwrap(),
    ];
    let output = model(&[&fixed[..], options].concat());
    assert_eq!(output.status.success(), err(&output).is_empty(), "{}", err(&output));
    Some(if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(err(&output))
    })
}

/// Folders to make damaged copies of: every available family.
fn models() -> Vec<PathBuf> {
    let shared = std::env::var_os("PG_CAPTION_SHARED")
        .map_or_else(|| root().join("../shared"), PathBuf::from);
    let others = ["florence2", "smolvlm"].map(|name| shared.join("parity").join(name));
    if !others[0].is_dir() {
        println!("skipped: no models of other families at {}", shared.display());
    }
    [parity().join("vit-gpt2"), root().join("models/default")]
        .into_iter()
        .chain(others)
        .filter(|f| f.join("config.json").is_file())
        .collect()
}

/// Whether this build supports the family.
fn is_supported(folder: &Path) -> bool {
    match check(folder, &[]) {
        Some(Err(message)) if message.contains("is not supported") => {
            println!("skipped: {} is of an unsupported family", folder.display());
            false
        }
        Some(Err(message)) => panic!("{}: {message}", folder.display()),
        Some(Ok(_)) => true,
        None => false,
    }
}

#[test]
fn check_describes_a_model() {
    let Some(found) = check(&parity().join("vit-gpt2"), &[]) else { return };
    let found = found.unwrap();
    assert_eq!(
        (found["family"].as_str(), found["name"].as_str()),
        (Some("vision-encoder-decoder"), Some("vit-gpt2"))
    );
    assert_eq!((found["width"].as_u64(), found["height"].as_u64()), (Some(224), Some(224)));
    assert_eq!(
        (found["batch_invariant"].as_bool(), found["digest"].as_str().map(str::len)),
        (Some(true), Some(64))
    );
    let graphs = found["graphs"].as_array().unwrap();
    assert!(
        graphs.iter().any(|g| g["file"] == "encoder_model.onnx" && g["dtype"] == "fp32"),
        "{graphs:?}"
    );
    let on_disk =
        std::fs::metadata(parity().join("vit-gpt2/onnx/encoder_model.onnx")).unwrap().len();
    assert!(graphs.iter().any(|g| g["bytes"].as_u64() == Some(on_disk)));
    let styles: Vec<_> = found["captions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["style"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(styles, ["concise", "seo", "detailed"]);
    let output = model(&[
        "check",
        parity().join("vit-gpt2").to_str().unwrap(),
        "--onnxruntime",
        library().unwrap().to_str().unwrap(),
    ]);
    assert!(
        output.status.success() && out(&output).contains("224 x 224"),
        "{}{}",
        out(&output),
        err(&output)
    );
}

#[test]
fn the_default_model_captions_the_drawing() {
    let Some(found) = check(&root().join("models/default"), &[]) else { return };
    let found = found.unwrap();
    let captions = found["captions"].as_array().unwrap();
    assert!(
        captions.iter().all(|c| c["caption"].is_string() || c["error_class"] == "uncertain"),
        "{captions:?}"
    );
    assert!(found["min_confidence"].is_number());
}

#[test]
fn an_unknown_name_lists_the_models() {
    let dir = tempfile::tempdir().unwrap();
    let run = |name: &str| {
        let output = command(&["check", name]).env("PG_CAPTION_MODELS", dir.path()).output();
        err(&output.unwrap())
    };
    let empty = format!("no such model: poet; {} has no model", dir.path().display());
    assert!(run("poet").contains(&empty), "{}", run("poet"));
    for name in ["b", "a"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
        std::fs::write(dir.path().join(name).join("config.json"), "{}").unwrap();
    }
    for name in ["poet", "./poet", "/nowhere/poet"] {
        let message = run(name);
        assert!(
            message.contains(&format!("no such model: {name}; there are a, b in")),
            "{message}"
        );
    }
    let file = dir.path().join("a/config.json");
    assert!(run(file.to_str().unwrap()).contains("is not a folder"));
}

#[test]
fn a_missing_file_is_named() {
    for from in models().into_iter().filter(|f| is_supported(f)) {
        for file in ["config.json", "preprocessor_config.json", "tokenizer.json"] {
            let dir = tempfile::tempdir().unwrap();
            copy(&from, dir.path());
            std::fs::remove_file(dir.path().join(file)).unwrap();
            let message = check(dir.path(), &[]).unwrap().unwrap_err();
            assert!(
                message.contains(&*dir.path().join(file).to_string_lossy()),
                "{}: {message}",
                from.display()
            );
        }
        let dir = tempfile::tempdir().unwrap();
        copy(&from, dir.path());
        for entry in std::fs::read_dir(dir.path().join("onnx")).unwrap().flatten() {
            if entry.file_name().to_str().unwrap().starts_with("decoder") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
        let message = check(dir.path(), &[]).unwrap().unwrap_err();
        assert!(message.contains("decoder_model"), "{}: {message}", from.display());
    }
}

#[test]
fn a_truncated_file_is_named() {
    for from in models().into_iter().filter(|f| is_supported(f)) {
        let graphs = std::fs::read_dir(from.join("onnx"))
            .unwrap()
            .flatten()
            .map(|e| format!("onnx/{}", e.file_name().to_str().unwrap()));
        // Decoders have several layouts, any of which suffices; encoders have no alternative.
        let encoders = graphs.filter(|name| {
            ["encoder_model.onnx", "vision_encoder.onnx", "embed_tokens.onnx"]
                .iter()
                .any(|e| name.ends_with(e))
        });
        for file in encoders.chain(["config.json".into(), "tokenizer.json".into()]) {
            let dir = tempfile::tempdir().unwrap();
            copy(&from, dir.path());
            let length = std::fs::metadata(from.join(&file)).unwrap().len();
            std::fs::File::options()
                .write(true)
                .open(dir.path().join(&file))
                .unwrap()
                .set_len(length / 2)
                .unwrap();
            let message = check(dir.path(), &[]).unwrap().unwrap_err();
            assert!(
                message.contains(&*dir.path().join(&file).to_string_lossy()),
                "{}: {message}",
                from.display()
            );
        }
    }
}

#[test]
fn a_skipped_graph_is_reported() {
    let Some(library) = library() else { return };
    let dir = tempfile::tempdir().unwrap();
    copy(&parity().join("vit-gpt2"), dir.path());
    let graph = |name: &str| dir.path().join("onnx").join(name);
    assert_eq!(
        check(dir.path(), &[]).unwrap().unwrap()["skipped_graphs"],
        serde_json::json!([]),
        "a whole folder"
    );
    // Half of the encoder next to a whole one of another precision; instead of the merged decoder a
    // graph with unknown inputs.
    let (encoder, merged) = (graph("encoder_model.onnx"), graph("decoder_model_merged.onnx"));
    std::fs::copy(&encoder, graph("encoder_model_uint8.onnx")).unwrap();
    std::fs::copy(&encoder, &merged).unwrap();
    let length = std::fs::metadata(&encoder).unwrap().len();
    std::fs::File::options().write(true).open(&encoder).unwrap().set_len(length / 2).unwrap();
    let found = check(dir.path(), &[]).unwrap().unwrap();
    let used: Vec<_> = found["graphs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|graph| graph["file"].as_str().unwrap())
        .collect();
    assert_eq!(
        used,
        ["encoder_model_uint8.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"]
    );
    let skipped: Vec<_> = found["skipped_graphs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file.as_str().unwrap())
        .collect();
    let [of_encoder, of_merged] = skipped[..] else { panic!("{skipped:?}") };
    let (encoder, merged) = (encoder.to_str().unwrap(), merged.to_str().unwrap());
    assert!(
        of_encoder.starts_with(encoder) && of_encoder.len() > encoder.len() + 10,
        "{of_encoder}"
    );
    assert!(of_merged.starts_with(merged) && of_merged.contains("pixel_values"), "{of_merged}");
    let output = model(&[
        "check",
        dir.path().to_str().unwrap(),
        "--threads",
        "1",
        "--onnxruntime",
        library.to_str().unwrap(),
    ]);
    assert!(skipped.iter().all(|file| out(&output).contains(file)), "{}", out(&output));
    // The `caption` command reports it as well.
    let picture = parity().join("images/12_photo.jpg");
    let arguments = [
        "--model",
        dir.path().to_str().unwrap(),
        "--exact",
        "--onnxruntime",
        library.to_str().unwrap(),
        picture.to_str().unwrap(),
    ];
    let captioned = Command::new(env!("CARGO_BIN_EXE_pg_caption_engine"))
        .arg("caption")
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        captioned.status.success() && skipped.iter().all(|file| err(&captioned).contains(file)),
        "{}",
        err(&captioned)
    );
}

#[test]
fn inconsistent_files_are_named() {
    for from in models().into_iter().filter(|f| is_supported(f)) {
        let changed = |change: &dyn Fn(&Path)| {
            let dir = tempfile::tempdir().unwrap();
            copy(&from, dir.path());
            change(dir.path());
            check(dir.path(), &[]).unwrap().unwrap_err()
        };
        let edit = |path: PathBuf, change: &dyn Fn(&mut Value)| {
            let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            change(&mut value);
            std::fs::write(path, value.to_string()).unwrap();
        };
        let message = changed(&|dir| {
            edit(dir.join("config.json"), &|config| config["model_type"] = "poet".into())
        });
        assert!(
            message.contains("config.json")
                && message.contains("poet")
                && message.contains("vision-encoder-decoder"),
            "{message}"
        );
        // Tokens outside the vocabulary of every decoder.
        let message = changed(&|dir| {
            edit(dir.join("tokenizer.json"), &|tokenizer| {
                let tokens = tokenizer["added_tokens"].as_array_mut().unwrap();
                for at in 0..200_000 {
                    tokens.push(serde_json::json!({
                        "id": 500_000 + at,
                        "content": format!("<strange_{at}>"),
                        "special": true,
                        "single_word": false,
                        "lstrip": false,
                        "rstrip": false,
                        "normalized": false,
                    }));
                }
            });
        });
        assert!(message.contains("tokenizer.json"), "{message}");
        // A graph with unknown inputs: the decoder instead of the encoder.
        let encoder = if from.join("onnx/vision_encoder.onnx").is_file() {
            "vision_encoder.onnx"
        } else {
            "encoder_model.onnx"
        };
        let message = changed(&|dir| {
            std::fs::copy(
                dir.join("onnx/decoder_model_merged.onnx"),
                dir.join("onnx").join(encoder),
            )
            .unwrap();
        });
        assert!(message.contains(encoder), "{message}");
        let message = changed(&|dir| {
            std::fs::write(dir.join("captions.json"), r#"{"styles": {"poetic": {}}}"#).unwrap()
        });
        assert!(message.contains("captions.json") && message.contains("poetic"), "{message}");
    }
    let Some(library) = library() else { return };
    let output =
        model(&["check", "/nonexistent/model", "--onnxruntime", library.to_str().unwrap()]);
    assert!(!output.status.success() && err(&output).contains("/nonexistent/model"));
}

#[test]
fn a_dtype_that_is_not_installed_is_refused() {
    let Some(found) = check(&parity().join("vit-gpt2"), &["--dtype", "q4"]) else { return };
    let message = found.unwrap_err();
    assert!(message.contains("encoder_model_q4.onnx"), "{message}");
}

#[test]
fn check_tries_the_styles_of_the_folder() {
    if library().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("own");
    copy(&root().join("models/default"), &folder);
    std::fs::write(
        folder.join("captions.json"),
        r#"{"styles": {"short": {"instruction": "Name it.", "task": "concise", "max_chars": 20}}}"#,
    )
    .unwrap();
    let found = check(&folder, &[]).unwrap().unwrap();
    let styles: Vec<_> = found["captions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["style"].as_str().unwrap().to_string())
        .collect();
    assert_eq!(styles, ["concise", "seo", "detailed", "short"]);
    // This family reads no instructions: a style with a prompt cannot work.
    std::fs::write(
        folder.join("captions.json"),
        r#"{"styles": {"prompted": {"prompt": "Name it."}}}"#,
    )
    .unwrap();
    let message = check(&folder, &[]).unwrap().unwrap_err();
    assert!(
        message.contains("prompted")
            && message.contains(folder.join("captions.json").to_str().unwrap()),
        "{message}"
    );
    // `caption` refuses the folder as well, with any style, and names an invalid style file.
    let library = library().unwrap();
    let caption = |style: &str| {
        let picture = parity().join("images/12_photo.jpg");
        let arguments = [
            "--model",
            folder.to_str().unwrap(),
            "--onnxruntime",
            library.to_str().unwrap(),
            "--style",
            style,
            picture.to_str().unwrap(),
        ];
        let output = Command::new(env!("CARGO_BIN_EXE_pg_caption_engine"))
            .arg("caption")
            .args(arguments)
            .output()
            .unwrap();
        assert!(!output.status.success());
        err(&output)
    };
    for style in ["prompted", "seo"] {
        assert!(
            caption(style).contains("captions.json") && caption(style).contains("prompted"),
            "{}",
            caption(style)
        );
    }
    std::fs::write(folder.join("captions.json"), r#"{"styles": {"poetic": {}}"#).unwrap();
    for style in ["poetic", "seo"] {
        assert!(caption(style).contains("captions.json"), "{}", caption(style));
    }
}

#[test]
fn list_shows_models_and_their_problems() {
    let dir = tempfile::tempdir().unwrap();
    let output = model(&["list", "--models", dir.path().to_str().unwrap()]);
    assert!(output.status.success() && out(&output).contains("no model"));
    copy(&parity().join("vit-gpt2"), &dir.path().join("whole"));
    let output = model(&["list", "--models", dir.path().to_str().unwrap()]);
    assert!(
        output.status.success() && out(&output).contains("encoder_model: fp32"),
        "{}",
        out(&output)
    );
    copy(&parity().join("vit-gpt2"), &dir.path().join("half"));
    std::fs::remove_file(dir.path().join("half/onnx/encoder_model.onnx")).unwrap();
    let output = model(&["list", "--json", "--models", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> =
        out(&output).lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (lines[0]["name"].as_str(), lines[1]["name"].as_str()),
        (Some("half"), Some("whole"))
    );
    assert!(
        lines[0]["problem"].as_str().unwrap().contains("encoder_model")
            && lines[1]["problem"].is_null()
    );
    assert_eq!(model(&["list", "--models", "/nonexistent"]).status.code(), Some(1));
}

#[test]
fn every_supported_family_can_be_pulled() {
    // The refusal of this folder lists the supported families.
    let dir = tempfile::tempdir().unwrap();
    copy(&parity().join("vit-gpt2"), dir.path());
    std::fs::write(
        dir.path().join("config.json"),
        r#"{"model_type": "poet", "decoder_start_token_id": 1}"#,
    )
    .unwrap();
    let Some(message) = check(dir.path(), &[]) else { return };
    let message = message.unwrap_err();
    let supported = message.split("; expected ").nth(1).unwrap().lines().next().unwrap();
    let supported = supported.trim_end_matches(['.', ')']);
    assert!(supported.split(", ").count() >= 3, "{message}");
    for model_type in supported.split(", ") {
        assert!(
            pg_caption_models::family(model_type).is_some(),
            "{model_type} is unknown to `model pull`"
        );
    }
}

#[test]
fn a_pulled_model_captions() {
    let (hub, dir) = (
        Hub::of_folder("owner/vit-gpt2", &parity().join("vit-gpt2")),
        tempfile::tempdir().unwrap(),
    );
    hub.fail("onnx/encoder_model.onnx", &[Fault::Drop(1000)]);
    hub.gate("hf_secret");
    let models = dir.path().to_str().unwrap();
    let pull = |token: &str, more: &[&str]| {
        let arguments = [&["pull", "owner/vit-gpt2", "--models", models][..], more].concat();
        command(&arguments)
            .env("HF_ENDPOINT", hub.endpoint())
            .env("HF_TOKEN", token)
            .output()
            .unwrap()
    };
    let output = pull("", &[]);
    assert!(
        output.status.code() == Some(1) && err(&output).contains("HF_TOKEN"),
        "{}",
        err(&output)
    );
    let output = pull("hf_secret", &[]);
    assert!(output.status.success(), "{}", err(&output));
    assert!(err(&output).is_empty(), "no progress bar without a terminal: {}", err(&output));
    assert!(out(&output).contains("SELECT caption.use_model('vit-gpt2')"), "{}", out(&output));
    assert!(out(&pull("hf_secret", &[])).contains("is already installed"));
    let folder = dir.path().join("vit-gpt2");
    for layout in ["decoder_model.onnx", "decoder_with_past_model.onnx"] {
        assert!(!folder.join("onnx").join(layout).exists(), "not needed with the merged one");
    }
    assert!(pull("hf_secret", &["--unmerged", "--name", "pair"]).status.success());
    assert!(
        dir.path().join("pair/onnx/decoder_with_past_model.onnx").is_file()
            && !dir.path().join("pair/onnx/decoder_model_merged.onnx").exists()
    );
    let output = pull("hf_secret", &["--dtype", "q4", "--name", "four"]);
    assert!(err(&output).contains("q4") && err(&output).contains("fp32"), "{}", err(&output));
    for folder in [folder, dir.path().join("pair")] {
        let Some(found) = check(&folder, &[]) else { return };
        assert_eq!(found.unwrap()["family"], "vision-encoder-decoder");
    }
}
