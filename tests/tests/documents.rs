//! Documents against the sources: failure codes, settings, and the names of tests.

use pg_caption_tests::{project, rust_files};
use pg_caption_wire::{SETTINGS, SettingContext, SettingKind, SettingUnit};
use std::collections::BTreeSet;

/// The text of a document of the project.
fn document(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The failure codes in a text: string literals of lower-case letters, digits and underscores.
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
    let mut emitted = BTreeSet::new();
    for (_, file) in &rust_files(&["src", "crates"], false) {
        // Failure::new(FailureClass::…, "code", …
        for call in file.split("Failure::new(").skip(1) {
            let head = call.split(',').take(2).collect::<Vec<_>>().join(",");
            emitted.extend(codes(&head).take(1));
        }
        // The codes of error types, and those of unsupported picture formats.
        for body in file.split("fn code(").skip(1) {
            emitted.extend(codes(body.split("\n    }\n").next().unwrap_or_default()));
        }
        emitted.extend(codes(file).filter(|code| code.ends_with("_unsupported")));
    }
    assert!(emitted.len() > 50, "too few codes in the sources: {emitted:?}");
    let document = document("docs/errors.md");
    let missing: Vec<_> =
        emitted.iter().filter(|code| !document.contains(&format!("`{code}`"))).collect();
    assert!(missing.is_empty(), "docs/errors.md does not explain {missing:?}");
}

/// The cells of a Markdown table's rows, without backticks and without the head.
fn table(document: &str, head: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
    };
    let lines = document.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    lines.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// Every setting has one row with its default, type and kind, in the order of the sources, and no
/// other row exists.
#[test]
fn the_table_of_settings_is_complete() {
    let rows = table(&document("docs/settings.md"), "| setting | default | type | kind |");
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let expected: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    assert_eq!(names, expected, "the settings of docs/settings.md and of crates/wire");
    for (row, setting) in rows.iter().zip(SETTINGS) {
        let default = match setting.default_text() {
            text if text.is_empty() => "''".into(),
            text => text,
        };
        assert_eq!(row[1], default, "default of {}", setting.name);
        let types: &[&str] = match setting.kind {
            SettingKind::Boolean { .. } => &["boolean"],
            SettingKind::Choice { .. } => &["enum"],
            SettingKind::Real { .. } => &["0 to 1"],
            SettingKind::Text { .. } => &["text", "list"],
            SettingKind::Path { .. } => &["text"],
            SettingKind::Integer { unit, .. } => match unit {
                SettingUnit::Count => &["integer"],
                SettingUnit::Megapixels => &["megapixels"],
                SettingUnit::Megabytes | SettingUnit::Kilobytes => &["memory"],
                SettingUnit::Milliseconds | SettingUnit::Minutes => &["time"],
            },
        };
        assert!(types.contains(&row[2].as_str()), "type of {}: {}", setting.name, row[2]);
        let kind = match setting.context {
            SettingContext::Sighup => "server",
            SettingContext::User => "session",
        };
        assert_eq!(row[3], kind, "kind of {}", setting.name);
    }
}

/// The tests that docs/faults.md and SECURITY.md name exist, as a function or a file of tests.
#[test]
fn every_named_test_exists() {
    let files = rust_files(&["crates", "tests"], true);
    let text: String = files.into_iter().map(|(_, text)| text).collect();
    let live = std::fs::read_dir(project().join("tests/tests/live")).expect("the live tests");
    let modules: BTreeSet<String> = live
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".rs")?.to_owned()))
        .collect();
    let is_test = |name: &str| {
        text.contains(&format!("fn {name}("))
            || modules.contains(name)
            || project().join(format!("crates/engine/tests/{name}.rs")).exists()
    };
    for page in ["docs/faults.md", "SECURITY.md"] {
        let document = document(page);
        // A list of names ends with its paragraph, or where the next item of a list begins.
        let lists = document.split("Tests:").skip(1).map(|rest| {
            let paragraph = rest.split("\n\n").next().unwrap_or_default();
            paragraph.split("\n* **").next().unwrap_or_default()
        });
        let named: Vec<&str> = lists
            .flat_map(|list| list.split('`').skip(1).step_by(2))
            .filter(|name| !name.contains(['.', '/', ' ', '(']))
            .collect();
        assert!(named.len() > 20, "too few names in {page}: {named:?}");
        let missing: Vec<_> = named.iter().filter(|name| !is_test(name)).collect();
        assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:?}");
    }
}
