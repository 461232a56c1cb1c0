//! The tests that SECURITY.md names as proof exist.

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

#[test]
fn every_proof_that_the_threat_table_names_is_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    let mut files = Vec::new();
    ["crates", "tests"].iter().for_each(|folder| sources(&root.join(folder), &mut files));
    let code: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let table = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .map(|line| line.split(" | ").collect())
        .collect();
    assert!(rows.len() >= 15, "the table was read");
    for row in rows {
        let [threat, _, proof] = row[..] else { panic!("not three columns: {row:?}") };
        let names: Vec<&str> =
            proof.split('`').skip(1).step_by(2).filter(|name| !name.contains(' ')).collect();
        assert!(!names.is_empty(), "no proof: {threat}");
        for name in names {
            assert!(code.contains(&format!("fn {name}(")), "{threat}: there is no test {name}");
        }
    }
}
