//! The tests that SECURITY.md and docs/faults.md name exist.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Rust files of the crates and of the live tests.
fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    ["crates", "tests"].iter().for_each(|folder| sources(&root().join(folder), &mut files));
    files
}

/// Names in backticks after the word `Tests:`; commands have a space in them and are left out.
fn proofs(text: &str) -> Vec<&str> {
    let Some((_, tests)) = text.split_once("Tests:") else { return Vec::new() };
    tests.split('`').skip(1).step_by(2).filter(|name| !name.contains([' ', '/'])).collect()
}

#[test]
fn every_proof_in_the_threat_list_is_a_test() {
    let code: String = files().iter().map(read).collect();
    let page = read("SECURITY.md");
    let (_, threats) = page.split_once("## Threats").unwrap();
    let (threats, _) = threats.split_once("## Not covered").unwrap();
    let threats: Vec<&str> = threats.split("\n### ").skip(1).collect();
    assert!(threats.len() >= 15, "the list was read");
    for threat in threats {
        let (title, answer) = threat.split_once('\n').unwrap();
        let names = proofs(answer);
        assert!(!names.is_empty(), "no proof: {title}");
        for name in names {
            assert!(code.contains(&format!("fn {name}(")), "{title}: there is no test {name}");
        }
    }
}

#[test]
fn every_fault_names_a_test_that_exists() {
    let files = files();
    let code: String = files.iter().map(read).collect();
    let modules: HashSet<_> = files.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
    let page = read("docs/faults.md");
    let faults: Vec<&str> = page.split("\n* **").skip(1).collect();
    assert!(faults.len() >= 30, "the matrix was read");
    for fault in faults {
        let names = proofs(fault);
        assert!(!names.is_empty(), "no test: {fault}");
        for name in names {
            let exists = modules.contains(name) || code.contains(&format!("fn {name}("));
            assert!(exists, "there is no test {name}: {fault}");
        }
    }
}
