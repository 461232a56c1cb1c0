//! Removes what small models repeat: sentences, and words in a loop. Step of `postprocess`.

use crate::sentence;

/// Longest loop, words.
const LONGEST_LOOP: usize = 16;

/// What two sentences have in common if they say the same: lower-case letters and digits.
pub fn key(sentence: &str) -> String {
    sentence.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Passes that make a loop of this many words.
fn passes_of(period: usize) -> usize {
    match period {
        1 => 4,
        2..=4 => 3,
        _ => 2,
    }
}

/// The sentence with every loop passed once.
pub fn without_loops(sentence: &str) -> String {
    let mut words: Vec<&str> = sentence.split(' ').collect();
    let mut keys: Vec<String> = words.iter().map(|word| key(word)).collect();
    let mut at = 0;
    while at < words.len() {
        match loop_at(&keys[at..]) {
            Some((period, end)) => {
                let last = at + end == words.len();
                words.drain(at + period..at + end);
                keys.drain(at + period..at + end);
                if last {
                    return sentence::without_dangling(&words.join(" ")).to_string();
                }
                at += period;
            }
            None => at += 1,
        }
    }
    words.join(" ")
}

/// A loop at the start: its length, and where it ends, with an incomplete last pass.
fn loop_at(keys: &[String]) -> Option<(usize, usize)> {
    (1..=LONGEST_LOOP.min(keys.len() / 2)).find_map(|period| {
        let same = (period..keys.len()).take_while(|i| keys[*i] == keys[i - period]).count();
        let passes = 1 + same / period;
        let repeated = if period + same == keys.len() { same } else { (passes - 1) * period };
        let wordy = || keys[..period].iter().any(|key| !key.is_empty());
        (passes >= passes_of(period) && wordy()).then_some((period, period + repeated))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_is_passed_once() {
        assert_eq!(without_loops("a cup and a cup and a cup and a cup"), "a cup");
        assert_eq!(without_loops("a shelf and a vase and a vase and a vase"), "a shelf and a vase");
        assert_eq!(without_loops("red red red red cup"), "red cup");
        assert_eq!(without_loops("oak, elm, oak, elm, oak, elm, oak"), "oak, elm");
    }

    #[test]
    fn rhythm_is_not_a_loop() {
        for text in
            ["Ha Ha Ha sign", "New York, New York plate", "red, green, red, green stripes", ""]
        {
            assert_eq!(without_loops(text), text);
        }
    }
}
