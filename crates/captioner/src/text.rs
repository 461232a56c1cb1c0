//! Prompts become token ids, and token ids text, by the folder's own tokenizer.
//!
//! Special tokens never reach a caption: neither those `tokenizer.json` marks nor those only `tokenizer_config.json` does. Nor do
//! they come out of a caller's words: see [`Text::plain`].

use crate::Error;
use crate::folder::Folder;
use serde_json::Value;
use std::collections::HashSet;
use tokenizers::Tokenizer;

/// A folder's tokenizer.
pub(crate) struct Text {
    tokenizer: Tokenizer,
    special: HashSet<u32>,
    /// `bos_token` of `tokenizer_config.json`.
    bos: Option<String>,
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
        let mut tokenizer = Tokenizer::from_file(&path).map_err(|e| Error::config(&path, e))?;
        // Some folders were saved with the lengths of their training; a prompt is neither cut nor filled up.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| Error::config(&path, e))?;
        let config = folder.optional_json("tokenizer_config.json")?.unwrap_or(Value::Null);
        let added = config.get("added_tokens_decoder").and_then(Value::as_object);
        let special = added.into_iter().flatten().filter(|(_, token)| token.get("special") == Some(&Value::Bool(true)));
        Ok(Text {
            tokenizer,
            special: special.filter_map(|(id, _)| id.parse().ok()).collect(),
            bos: config.get("bos_token").and_then(token_text).map(str::to_owned),
            clean_up: config.get("clean_up_tokenization_spaces").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// Entries of the vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Ids of a whole text, the way the reference's processors ask for it: with what the tokenizer puts around every text, unless
    /// the text begins with the start token itself.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, Error> {
        let dressed = self.bos.as_deref().is_some_and(|bos| text.starts_with(bos));
        let encoded = self.tokenizer.encode(text, !dressed).map_err(|e| Error::Tokenizer(e.to_string()))?;
        Ok(encoded.get_ids().iter().map(|id| i64::from(*id)).collect())
    }

    /// The id of an entry of the vocabulary.
    pub fn id(&self, token: &str) -> Option<i64> {
        self.tokenizer.token_to_id(token).map(i64::from)
    }

    /// The entry of the vocabulary with this id.
    pub fn token(&self, id: i64) -> Option<String> {
        self.tokenizer.id_to_token(u32::try_from(id).ok()?)
    }

    /// Words with every added token's spelling taken out, so that a product's title cannot end the user's turn or claim a picture.
    pub fn plain(&self, words: &str) -> String {
        let mut plain = words.to_owned();
        let added = self.tokenizer.get_added_tokens_decoder();
        // Taking one out may join the parts of another.
        loop {
            let before = plain.len();
            for token in added.values().filter(|token| !token.content.trim().is_empty()) {
                plain = plain.replace(&token.content, "");
            }
            if plain.len() == before {
                return plain;
            }
        }
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

/// A token in `tokenizer_config.json`: its text, or an object that holds it.
fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
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
