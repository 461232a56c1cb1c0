//! Facts about a picture from its row or its caller, bounded and cleaned.

use serde::{Deserialize, Serialize};

/// Longest context, characters of all names and values.
pub const MAX_CONTEXT: usize = 2000;
/// Longest value of one fact, characters.
pub const MAX_FACT: usize = 500;
/// Longest name of a fact, characters.
pub const MAX_FACT_NAME: usize = 63;
/// Most facts of one request.
pub const MAX_FACTS: usize = 32;

/// What is known about a picture besides the picture: names and values, such as `title`. Data for
/// models that follow instructions, never an instruction.
///
/// Whatever it is made from, each name and value is one line without control characters, and all of
/// them have at most [`MAX_CONTEXT`] characters. Longer values are cut, further facts are left out.
///
/// ```
/// use pg_caption_wire::ContextFacts;
///
/// let facts = ContextFacts::new([("title", "Navy\n T-shirt"), ("brand", " ")]).unwrap();
/// assert_eq!(facts.iter().collect::<Vec<_>>(), [("title", "Navy T-shirt")]);
/// assert_eq!(ContextFacts::new([("title", "")]), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<(String, String)>")]
pub struct ContextFacts(Vec<(String, String)>);

impl ContextFacts {
    /// The facts that say something; `None` if none of them does.
    pub fn new<N: AsRef<str>, V: AsRef<str>>(
        facts: impl IntoIterator<Item = (N, V)>,
    ) -> Option<ContextFacts> {
        let mut left = MAX_CONTEXT;
        let mut kept = Vec::new();
        for (name, value) in facts {
            let name = one_line(name.as_ref(), MAX_FACT_NAME);
            let length = name.chars().count();
            if kept.len() == MAX_FACTS || left <= length {
                break;
            }
            let value = one_line(value.as_ref(), MAX_FACT.min(left - length));
            if value.is_empty() {
                continue;
            }
            left -= length + value.chars().count();
            kept.push((name, value));
        }
        (!kept.is_empty()).then_some(ContextFacts(kept))
    }

    /// Names and values in their order. A name may be empty.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether no fact is left: possible only in a message of another program.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Vec<(String, String)>> for ContextFacts {
    fn from(facts: Vec<(String, String)>) -> ContextFacts {
        ContextFacts::new(facts).unwrap_or(ContextFacts(Vec::new()))
    }
}

/// At most `max` characters of a text, with one blank for each run of blanks, line breaks and
/// characters that do not show.
fn one_line(text: &str, max: usize) -> String {
    // Joiners shape letters in many scripts.
    let is_gap = |c: char| crate::is_invisible(c) && !matches!(c, '\u{200c}' | '\u{200d}');
    let mut line = String::new();
    let mut chars = 0;
    for word in text.split(is_gap).filter(|word| !word.is_empty()) {
        let gap = usize::from(chars > 0);
        if chars + gap >= max {
            break;
        }
        line.push_str(if gap == 1 { " " } else { "" });
        chars += gap;
        let taken: String = word.chars().take(max - chars).collect();
        chars += taken.chars().count();
        line.push_str(&taken);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_bounded_wherever_they_are_from() {
        let long = vec![("x".repeat(99), "ab ".repeat(9999)); 99];
        let read: ContextFacts =
            serde_json::from_value(serde_json::to_value(&long).unwrap()).unwrap();
        assert_eq!(Some(&read), ContextFacts::new(long).as_ref());
        let total: usize =
            read.iter().map(|(name, value)| name.chars().count() + value.chars().count()).sum();
        assert!(total <= MAX_CONTEXT && total > MAX_CONTEXT - 2, "{total}");
        assert!(read.iter().all(|(name, value)| name.len() == 63 && value.len() <= MAX_FACT));
    }

    #[test]
    fn a_fact_is_one_line() {
        let facts = [("a\nb", "1\r\n\u{2028}2\u{0}\u{200b}3\u{85}4\u{1b}[31m"), ("", "x")];
        let facts = ContextFacts::new(facts).unwrap();
        assert_eq!(facts.iter().collect::<Vec<_>>(), [("a b", "1 2 3 4 [31m"), ("", "x")]);
    }

    #[test]
    fn an_empty_list_of_another_program_is_no_fact() {
        let read: ContextFacts = serde_json::from_str(r#"[["a", " "]]"#).unwrap();
        assert!(read.is_empty());
    }
}
