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

/// All pages that are written by hand, with their paths.
fn pages() -> Vec<(String, String)> {
    let docs = std::fs::read_dir(project().join("docs")).expect("docs");
    let names = docs.flatten().map(|entry| format!("docs/{}", entry.file_name().display()));
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
    names
        .filter(|name| name.ends_with(".md"))
        .chain(top.map(String::from))
        .map(|name| (name.clone(), document(&name)))
        .collect()
}

/// A link leads to a file, and to a heading of it; a page that is named in a text exists.
#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut links = 0;
    for (path, text) in pages() {
        let folder = project().join(&path).parent().expect("a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(['\n', ' ']) {
                continue;
            }
            links += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { project().join(&path) } else { folder.join(file) };
            let found = std::fs::read_to_string(&target).unwrap_or_default();
            let anchor = |line: &str| {
                let title = line.trim_start_matches('#').trim().to_lowercase();
                let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                kept.collect::<String>().replace(' ', "-")
            };
            let mut headings = found.lines().filter(|line| line.starts_with('#'));
            if !target.exists() || !(heading.is_empty() || headings.any(|h| anchor(h) == heading)) {
                broken.push(format!("{path}: {link}"));
            }
        }
        let names = text.split("docs/").skip(1).filter_map(|rest| {
            let name = rest.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
            name.into_iter().next().filter(|name| name.ends_with(".md"))
        });
        broken.extend(
            names
                .filter(|name| !project().join("docs").join(name).exists())
                .map(|name| format!("{path}: docs/{name}")),
        );
    }
    assert!(links > 20, "too few links: {links}");
    assert!(broken.is_empty(), "links that lead nowhere: {broken:?}");
}

/// Every page is in the summary of the book, and the reader finds it from there.
#[test]
fn the_book_has_every_page() {
    let summary = document("docs/SUMMARY.md");
    let missing: Vec<String> = pages()
        .into_iter()
        .filter_map(|(path, _)| path.strip_prefix("docs/").map(String::from))
        .filter(|name| name != "SUMMARY.md" && !summary.contains(&format!("({name})")))
        .collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md does not have {missing:?}");
}

/// The names and versions of META.json, the packages and the documents are those of this version.
#[test]
fn every_document_has_this_version() {
    let version = env!("CARGO_PKG_VERSION");
    let meta = document("META.json");
    assert_eq!(meta.matches(&format!("\"version\": \"{version}\"")).count(), 2, "META.json");
    for page in ["README.md", "docs/install.md", "docs/tutorial.md"] {
        let text = document(page);
        let named = text.matches("-pg-caption_").count();
        assert!(named > 0, "{page} names no package");
        assert_eq!(text.matches(&format!("-pg-caption_{version}-1_")).count(), named, "{page}");
    }
}
