//! The texts of failures and errors in the sources follow PostgreSQL's message style guide. The
//! live tests check messages as a client receives them.

use pg_caption_tests::{message_problem, rust_files, sentence_problem};

/// The arguments of a call: `text` begins after the opening parenthesis.
fn arguments(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut arguments) = (0, 0, Vec::new());
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => {
                arguments.push(text[start..at].trim());
                return arguments;
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                arguments.push(text[start..at].trim());
                start = at + 1;
            }
            '"' => {
                let mut escaped = false;
                for (_, inner) in characters.by_ref() {
                    match inner {
                        '"' if !escaped => break,
                        other => escaped = other == '\\' && !escaped,
                    }
                }
            }
            _ => {}
        }
    }
    arguments
}

/// The string literal that an argument consists of, alone or in `format!`, `Some` or `concat!`; a
/// continued line is joined.
fn literal(argument: &str) -> Option<String> {
    let mut text = argument;
    for wrapper in ["Some(", "format!(", "String::from(", "&"] {
        text = text.strip_prefix(wrapper).unwrap_or(text).trim_start();
    }
    let text = text.strip_prefix('"')?;
    let (mut literal, mut characters) = (String::new(), text.chars().peekable());
    while let Some(character) = characters.next() {
        match character {
            '"' => return Some(literal),
            '\\' => match characters.next()? {
                '\n' => while characters.next_if(|c| c.is_whitespace()).is_some() {},
                'n' => literal.push('\n'),
                other => literal.push(other),
            },
            other => literal.push(other),
        }
    }
    None
}

/// The calls that take texts for clients: name, position of the primary message, positions of
/// DETAIL and HINT.
const CALLS: [(&str, Option<usize>, &[usize]); 8] = [
    ("Failure::new(", Some(2), &[]),
    ("ErrorReport::new(", Some(1), &[]),
    ("refuse(", Some(1), &[2, 3]),
    ("#[error(", Some(0), &[]),
    (".detail(", None, &[0]),
    (".hint(", None, &[0]),
    (".set_detail(", None, &[0]),
    (".set_hint(", None, &[0]),
];

#[test]
fn texts_follow_the_message_style_guide() {
    let (mut problems, mut checked) = (Vec::new(), 0);
    for (path, text) in rust_files(&["src", "crates"], false) {
        // Examples in documentation show bad texts, too. Blank lines keep the line numbers.
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let lines = text.split('\n').map(|line| Some(line).filter(is_code).unwrap_or(""));
        let text = lines.collect::<Vec<_>>().join("\n");
        for (call, primary, sentences) in CALLS {
            for (at, _) in text.match_indices(call) {
                // A method or a longer name is another function.
                let is_part = |c: char| c == '.' || c == '_' || c.is_alphanumeric();
                if !call.starts_with('.') && text[..at].ends_with(is_part) {
                    continue;
                }
                let arguments = arguments(&text[at + call.len()..]);
                let get = |position: usize| arguments.get(position).and_then(|a| literal(a));
                let message = primary.and_then(get);
                let found = message
                    .iter()
                    .filter_map(|text| message_problem(text))
                    .chain(sentences.iter().filter_map(|at| sentence_problem(&get(*at)?)));
                let line = text[..at].matches('\n').count() + 1;
                problems
                    .extend(found.map(|problem| format!("{}:{line}: {problem}", path.display())));
                checked += usize::from(message.is_some());
                checked += sentences.iter().filter(|at| get(**at).is_some()).count();
            }
        }
    }
    assert!(checked > 150, "too few texts in the sources: {checked}");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn arguments_and_literals_are_read() {
    let call = r#"Class::Reject, "code", format!("a \"b\", (c {x}", 1), Some("D.".into())) rest"#;
    let found = arguments(call);
    assert_eq!(found.len(), 4, "{found:?}");
    assert_eq!(literal(found[2]).as_deref(), Some("a \"b\", (c {x}"));
    assert_eq!(literal(found[3]).as_deref(), Some("D."));
    assert_eq!(literal("\"one \\\n    two\"").as_deref(), Some("one two"));
    assert_eq!(literal("error.to_string()"), None);
}

#[test]
fn violations_of_the_style_are_found() {
    for good in ["no caption style \"x\"", "URL without a host", "\"x\" is not a model"] {
        assert_eq!(message_problem(good), None);
    }
    for bad in ["No such style", "no such style.", "two\nlines", " white space", ""] {
        assert!(message_problem(bad).is_some(), "{bad}");
    }
    for good in ["The file has 0 bytes.", "caption.watch() repairs it.", "\"x\" is too long."] {
        assert_eq!(sentence_problem(good), None);
    }
    for bad in ["still waiting", "After 10 ms, fetching", "no capital letter.", "Two. "] {
        assert!(sentence_problem(bad).is_some(), "{bad}");
    }
}
