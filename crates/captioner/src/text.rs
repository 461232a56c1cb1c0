//! Token ids become text, by the folder's own tokenizer.
//!
//! Special tokens never reach a caption: neither those `tokenizer.json` marks nor those only `tokenizer_config.json` does.

use crate::Error;
use crate::folder::Folder;
use serde_json::Value;
use std::collections::HashSet;
use tokenizers::Tokenizer;

/// A folder's tokenizer.
pub(crate) struct Text {
    tokenizer: Tokenizer,
    special: HashSet<u32>,
    /// `clean_up_tokenization_spaces`: no space before punctuation and contractions.
    clean_up: bool,
}

impl Text {
    /// Reads `tokenizer.json` and, if there, `tokenizer_config.json`.
    pub fn open(folder: &Folder) -> Result<Text, Error> {
        let path = folder.file("tokenizer.json");
        if let Err(source) = std::fs::File::open(&path) {
            return Err(Error::File { path, source });
        }
        let tokenizer = Tokenizer::from_file(&path).map_err(|e| Error::config(&path, e))?;
        let config = match folder.json("tokenizer_config.json") {
            Err(Error::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Value::Null,
            other => other?,
        };
        let added = config.get("added_tokens_decoder").and_then(Value::as_object);
        let special = added.into_iter().flatten().filter(|(_, token)| token.get("special") == Some(&Value::Bool(true)));
        Ok(Text {
            tokenizer,
            special: special.filter_map(|(id, _)| id.parse().ok()).collect(),
            clean_up: config.get("clean_up_tokenization_spaces").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// Entries of the vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Text of ids, special tokens skipped. A negative id is an error; one without a token is passed over, as the reference does.
    pub fn decode(&self, ids: &[i64]) -> Result<String, Error> {
        let id = |id: &i64| u32::try_from(*id).map_err(|_| Error::Tokenizer(format!("{id} is not a token id")));
        let ids = ids.iter().map(id).collect::<Result<Vec<u32>, Error>>()?;
        let ids: Vec<u32> = ids.into_iter().filter(|id| !self.special.contains(id)).collect();
        let text = self.tokenizer.decode(&ids, true).map_err(|e| Error::Tokenizer(e.to_string()))?;
        Ok(if self.clean_up { clean_up(&text) } else { text })
    }
}

/// The reference implementation's replacements, in its order.
fn clean_up(text: &str) -> String {
    let pairs = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_up_joins_punctuation_and_contractions() {
        assert_eq!(clean_up("a dog , isn 't it ? it 's red ."), "a dog, isn 't it? it's red.");
        assert_eq!(clean_up("do n't"), "don't");
    }
}
