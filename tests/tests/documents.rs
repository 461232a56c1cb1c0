//! What the documents list is what the sources have.

use std::collections::BTreeSet;
use std::path::Path;

/// Every Rust file of the extension and the crates, their tests left out.
fn sources(folder: &Path, to: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && !["tests", "benches", "target", "examples"].contains(&name.as_str()) {
            sources(&path, to);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            let text = std::fs::read_to_string(&path).expect("a source file");
            to.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_string());
        }
    }
}

/// The codes in a text: string literals of small letters, digits and underscores.
fn codes(text: &str) -> impl Iterator<Item = String> {
    let is_code = |text: &&str| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    text.split('"')
        .skip(1)
        .step_by(2)
        .filter(is_code)
        .map(String::from)
        .collect::<Vec<_>>()
        .into_iter()
}

#[test]
fn every_failure_code_is_documented() {
    let project =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the project");
    let mut files = Vec::new();
    sources(&project.join("src"), &mut files);
    sources(&project.join("crates"), &mut files);
    let mut emitted = BTreeSet::new();
    for file in &files {
        // Failure::new(Class::…, "code", …
        for call in file.split("Failure::new(").skip(1) {
            let head = call.split(',').take(2).collect::<Vec<_>>().join(",");
            emitted.extend(codes(&head).take(1));
        }
        // An error type that says its code, and the table of formats that are told by their first
        // bytes.
        for body in file.split("fn code(").skip(1) {
            emitted.extend(codes(body.split("\n    }\n").next().unwrap_or_default()));
        }
        emitted.extend(codes(file).filter(|code| code.ends_with("_unsupported")));
    }
    assert!(emitted.len() > 50, "the sources were read: {emitted:?}");
    let document = std::fs::read_to_string(project.join("docs/errors.md")).expect("docs/errors.md");
    let missing: Vec<_> =
        emitted.iter().filter(|code| !document.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/errors.md does not explain {missing:?}");
}
