//! The language check on the texts of crates/style/tests/corpus: a caption in the language that was
//! asked for is never refused; many captions in another one
//! are: the others are too short to be sure.

use pg_caption_language::{LanguageTag, in_language};
use pg_caption_style::{TextEnding, builtin, postprocess};

const ANSWERS: [(&str, &str); 7] = [
    ("en", include_str!("../../style/tests/corpus/answers/en.txt")),
    ("de", include_str!("../../style/tests/corpus/answers/de.txt")),
    ("fr", include_str!("../../style/tests/corpus/answers/fr.txt")),
    ("es", include_str!("../../style/tests/corpus/answers/es.txt")),
    ("it", include_str!("../../style/tests/corpus/answers/it.txt")),
    ("pt", include_str!("../../style/tests/corpus/answers/pt.txt")),
    ("nl", include_str!("../../style/tests/corpus/answers/nl.txt")),
];

/// The captions of the corpus and its plain texts, with their language.
fn captions() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for (language, file) in ANSWERS {
        for caption in file.lines().filter_map(|line| line.strip_prefix("=> ")) {
            if !caption.starts_with('!') {
                all.push((language.to_string(), caption.to_string()));
            }
        }
    }
    let mut language = String::new();
    for line in include_str!("../../style/tests/corpus/plain.txt").lines() {
        if let Some(head) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            language = head.split(' ').nth(1).unwrap().to_string();
        } else if !line.is_empty() && !line.starts_with("# ") {
            let text = postprocess(line, &builtin("detailed").unwrap(), TextEnding::Complete);
            all.push((language.clone(), text.unwrap_or_else(|_| line.to_string())));
        }
    }
    all
}

#[test]
fn statements_of_the_default_model_are_in_their_language() {
    let mut count = 0;
    for line in include_str!("../../../models/train/topics.txt").lines() {
        let Some((language, statements)) = line.split_once(':') else { continue };
        let Ok(language) = language.parse::<LanguageTag>() else { continue };
        for statement in statements.split('|') {
            count += 1;
            assert!(in_language(statement.trim(), &language), "{language}: {statement}");
        }
    }
    assert!(count > 900, "{count}");
}

#[test]
fn only_texts_in_another_language_are_refused() {
    let captions = captions();
    let (mut others, mut found) = (0, 0);
    let mut refused = Vec::new();
    for (language, text) in &captions {
        let own: LanguageTag = language.parse().unwrap();
        if !in_language(text, &own) {
            refused.push(format!("{language}: {text}"));
        }
        for asked in ["en", "de", "fr", "nl", "ja", "ru", "pl"] {
            if asked != language {
                others += 1;
                found += u32::from(!in_language(text, &asked.parse().unwrap()));
            }
        }
    }
    let share = f64::from(found) / f64::from(others);
    println!(
        "{} texts, {} refused in their own language; {share:.3} of {others} pairs with another \
         language found",
        captions.len(),
        refused.len()
    );
    assert!(refused.is_empty(), "{refused:#?}");
    assert!(share >= 0.45, "{share}");
}
