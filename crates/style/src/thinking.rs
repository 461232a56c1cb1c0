//! Removes what a model thinks before it answers, and unpacks an answer that is wrapped in tags.
//! First step of `postprocess`, because tags are gone after `clean`.

use crate::vocabulary::vocabulary;

/// The answer in `raw`. Empty if the text ends before the thinking does.
pub fn answer_of(raw: &str) -> String {
    if !raw.contains(['<', '◁', '[']) {
        return raw.to_string();
    }
    let words = vocabulary();
    let mut text = words.thought.replace_all(raw, "").into_owned();
    // The template of some models writes the opening tag into the prompt.
    if let Some(end) = words.thought_end.find(&text).map(|found| found.end()) {
        text.drain(..end);
    }
    if let Some(found) = words.answered.captures(&text)
        && let Some(answer) = found.iter().skip(1).flatten().next()
        && !answer.as_str().trim().is_empty()
    {
        return answer.as_str().to_string();
    }
    if let Some(open) = words.thought_open.find(&text).map(|found| found.start()) {
        text.truncate(open);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::answer_of;

    #[test]
    fn thoughts_are_removed() {
        assert_eq!(answer_of("<think>A mug.\n</think>A red mug").trim(), "A red mug");
        assert_eq!(answer_of("A mug, I think.</think>\nA red mug").trim(), "A red mug");
        assert_eq!(answer_of("<think>A mug, or"), "");
        assert_eq!(answer_of("<THINKING>x</THINKING> A red mug").trim(), "A red mug");
    }

    #[test]
    fn a_wrapped_answer_is_unpacked() {
        assert_eq!(answer_of("<answer>A red mug</answer> done"), "A red mug");
        assert_eq!(answer_of("A mug.<|begin_of_box|>A red mug<|end_of_box|>"), "A red mug");
        assert_eq!(answer_of("A red mug <s>"), "A red mug <s>");
    }
}
