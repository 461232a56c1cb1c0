//! The answer in a text that repeats the dialogue: "Question: … Answer: …", "User: … Assistant: …".
//! Step of `postprocess`, before markdown is read.

use crate::vocabulary::vocabulary;
use regex::Regex;

/// The first answer in `text`, without the questions before and after it.
pub fn first_answer(text: &str) -> &str {
    if !text.contains([':', '：']) {
        return text;
    }
    let words = vocabulary();
    let text = answered(text, &words.question, &words.answer);
    answered(text, &words.user, &words.assistant)
}

fn answered<'a>(text: &'a str, asks: &Regex, answers: &Regex) -> &'a str {
    let mut rest = text;
    let asked = asks.find(rest).filter(|found| is_start(rest, found.start()));
    let answer = answers.find(rest);
    match (asked, answer) {
        (Some(_), Some(answer)) => rest = &rest[answer.end()..],
        (None, Some(answer)) if is_start(rest, answer.start()) => rest = &rest[answer.end()..],
        // Without an answer the text is a question, or words before a colon.
        (Some(_), None) => return rest,
        _ => {}
    }
    // The model goes on with a question of its own.
    let next = asks.find(rest).filter(|found| rest[found.start()..].starts_with('\n'));
    next.map_or(rest, |found| &rest[..found.start()])
}

/// Whether only blanks and marks are before `at`.
fn is_start(text: &str, at: usize) -> bool {
    !text[..at].contains(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::first_answer;

    #[test]
    fn the_answer_follows_the_question() {
        for (text, answer) in [
            ("Question: What is it? Answer: A cup", "A cup"),
            ("User: describe\nAssistant: A cup\nUser: more", "A cup"),
            ("A cup\nUser: What colour?\nAssistant: Red", "A cup"),
            ("Q: What?\nA: A cup", "A cup"),
            ("Assistant: A cup", "A cup"),
        ] {
            assert_eq!(first_answer(text).trim(), answer, "{text}");
        }
    }

    #[test]
    fn other_words_before_a_colon_stay() {
        for text in ["Colour: red", "A user manual: first page", "Vitamin A: a bottle of pills"] {
            assert_eq!(first_answer(text), text);
        }
    }
}
