//! The three styles are three registers: their captions differ in length and form. The pictures are
//! those of a catalogue that is not part of the project; without it the test is skipped.

mod harness;

use harness::{library, root};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// The least share of captions whose form shows their style.
const LEAST: f64 = 0.98;

/// The style of a caption, by its length and form alone.
fn style_of(caption: &str) -> &'static str {
    let stops = |c: char| matches!(c, '.' | '!' | '?');
    let sentences = caption.split_inclusive(stops).filter(|s| s.trim().len() > 1).count();
    if caption.chars().count() > 160 || sentences > 2 {
        return "detailed";
    }
    match caption.ends_with(stops) {
        true if caption.chars().count() > 60 => "seo",
        _ => "concise",
    }
}

/// Captions of pictures by the default model, in three styles; `None` without the library.
fn captions(files: &[PathBuf], language: Option<&str>) -> Option<Vec<Value>> {
    let library = library()?;
    let output = Command::new(env!("CARGO_BIN_EXE_pg_caption_engine"))
        .args(["caption", "--json", "--style", "concise", "--style", "seo", "--style", "detailed"])
        .args(language.into_iter().flat_map(|tag| ["--language", tag]))
        .arg("--model")
        .arg(root().join("models/default"))
        .arg("--onnxruntime")
        .arg(library)
        .args(files)
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    Some(lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn the_form_of_a_caption_shows_its_style() {
    let catalogue = std::env::var_os("PG_CAPTION_CATALOGUE")
        .map_or_else(|| root().join("../shared/catalogue/images"), PathBuf::from);
    let Ok(files) = std::fs::read_dir(&catalogue) else {
        println!(
            "skipped: no catalogue at {} (set PG_CAPTION_CATALOGUE to use another)",
            catalogue.display()
        );
        return;
    };
    let mut files: Vec<_> = files.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let Some(lines) = captions(&files, None) else { return };
    let mut all = 0_usize;
    let mut wrong = Vec::new();
    for line in &lines {
        let (Some(caption), Some(style)) = (line["caption"].as_str(), line["style"].as_str())
        else {
            continue;
        };
        all += 1;
        if style_of(caption) != style {
            wrong.push(format!("{style}: {caption}"));
        }
    }
    assert!(all > files.len(), "{all} captions of {} pictures", files.len());
    let share = 1.0 - wrong.len() as f64 / all as f64;
    println!("{all} captions, {share:.4} of them show their style");
    assert!(share >= LEAST, "{share:.4}: {wrong:#?}");
}

// What a caption says is checked by the rule that refuses answers in another language.
#[test]
fn the_default_model_writes_its_languages() {
    let picture = [root().join("demo/images/02-t-shirt-navy.jpg")];
    let Some(english) = captions(&picture, Some("en")) else { return };
    let texts = |lines: &[Value]| -> Vec<String> {
        lines.iter().filter_map(|line| line["caption"].as_str().map(String::from)).collect()
    };
    assert_eq!(texts(&english).len(), 3, "{english:?}");
    assert_eq!(texts(&captions(&picture, None).unwrap()), texts(&english));
    for (language, word) in [("de", "auf"), ("de-AT", "auf"), ("fr", "sur")] {
        let lines = captions(&picture, Some(language)).unwrap();
        let captions = texts(&lines);
        assert_eq!(captions.len(), 3, "{language}: {lines:?}");
        assert!(captions.iter().zip(texts(&english)).all(|(own, english)| *own != english));
        assert!(captions[0].split(' ').any(|w| w == word), "{language}: {captions:?}");
    }
    let refused = captions(&picture, Some("pl")).unwrap();
    assert!(texts(&refused).is_empty());
    assert!(refused[0]["error"].to_string().contains("language"), "{refused:?}");
}
