//! What the default model can say: its nouns and general statements (`models/train`), in three
//! languages. None may be refused or shortened.

use pg_caption_style::{TextEnding, builtin, postprocess};
use std::path::Path;

fn lines(file: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/train").join(file);
    let text = std::fs::read_to_string(&path).expect("a file of the default model");
    text.lines()
        .filter(|line| !line.starts_with('#') && line.contains('|'))
        .map(Into::into)
        .collect()
}

/// The words of a column: forms with a stroke between them, a gender in front, `-` for none.
fn forms(column: &str) -> impl Iterator<Item = &str> {
    let column = column.trim();
    let column = match column.split_once(' ') {
        Some(("m" | "f" | "n" | "p" | "mp" | "fp", rest)) => rest,
        _ => column,
    };
    column.split('/').filter(|form| form.chars().count() > 2)
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars).collect())
}

#[test]
fn every_noun_is_a_caption() {
    let style = builtin("concise").unwrap();
    let (mut count, mut wrong) = (0, Vec::new());
    for file in ["nouns.txt", "own_nouns.txt"] {
        for line in lines(file) {
            let columns: Vec<&str> = line.split('|').collect();
            // The classes or the kind, with further columns of a group, are before the nouns.
            let at = if line.starts_with('@') { 4 } else { 1 };
            for noun in columns.iter().skip(at).take(3).flat_map(|column| forms(column)) {
                // What is not even a kind of goods is never said of a picture.
                if noun == "thing" {
                    continue;
                }
                count += 1;
                let noun = capitalised(noun);
                let text = postprocess(&noun, &style, TextEnding::Complete);
                if text.as_deref() != Ok(noun.as_str()) {
                    wrong.push(format!("{noun}: {text:?}"));
                }
            }
        }
    }
    println!("{count} nouns, {} refused or changed", wrong.len());
    assert!(count > 3000, "{count}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_general_statement_is_kept() {
    let style = builtin("detailed").unwrap();
    let (mut count, mut wrong) = (0, Vec::new());
    for line in lines("topics.txt") {
        for statement in line.split('|').skip(1).map(str::trim).filter(|text| text.contains(' ')) {
            count += 1;
            let whole = format!("A red koala on a white background. {}", capitalised(statement));
            let whole = if whole.ends_with(['.', '!', '?']) { whole } else { format!("{whole}.") };
            let text = postprocess(&whole, &style, TextEnding::Complete);
            if text.as_deref() != Ok(whole.as_str()) {
                wrong.push(format!("{whole}: {text:?}"));
            }
        }
    }
    println!("{count} statements, {} refused or changed", wrong.len());
    assert!(count > 300, "{count}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
