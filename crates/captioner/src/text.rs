//! The folder's tokenizer: prompts to token ids, and token ids to text.
//!
//! Special tokens never reach a caption, whether `tokenizer.json` or only `tokenizer_config.json`
//! marks them. A caller's text cannot produce them either: see [`TextTokenizer::plain`].

use crate::ModelError;
use crate::catch_panic::catch_panic;
use crate::folder::ModelFolder;
use pg_caption_models::{MAX_TOKENIZER, read_file};
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;
use tokenizers::{AddedToken, Tokenizer};

/// A sample text to try a tokenizer with.
const TRIAL: &str = "A photo of 2 red cups, isn't it? Ünï";

/// A folder's tokenizer.
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    special: HashSet<u32>,
    /// `clean_up_tokenization_spaces`: no space before punctuation and contractions.
    clean_up: bool,
}

impl TextTokenizer {
    /// Reads `tokenizer.json` and, if it exists, `tokenizer_config.json`.
    pub fn open(folder: &ModelFolder) -> Result<TextTokenizer, ModelError> {
        let path = folder.file("tokenizer.json");
        let mut tokenizer = read(&path)?;
        let config = folder.optional_json("tokenizer_config.json")?.unwrap_or(Value::Null);
        let map = folder.optional_json("special_tokens_map.json")?.unwrap_or(Value::Null);
        let named = named_tokens(&[&config, &map]);
        check(&tokenizer, &config).map_err(|reason| ModelError::config(&path, reason))?;
        // A token that only these files mark as special counts as special, as in the reference.
        let known = tokenizer.get_added_tokens_decoder();
        let new = named.iter().filter(|token| {
            tokenizer.token_to_id(token).is_some()
                && !known.values().any(|added| added.content == **token)
        });
        let new: Vec<AddedToken> =
            new.map(|token| AddedToken::from(token.as_str(), true)).collect();
        catch_panic(|| tokenizer.add_special_tokens(&new))
            .map_err(|reason| unusable(&path, "adding its special tokens", reason))?;
        // Some folders contain the lengths of their training; a prompt is neither truncated nor
        // padded.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|e| ModelError::config(&path, e))?;
        let added = config.get("added_tokens_decoder").and_then(Value::as_object);
        let special = added
            .into_iter()
            .flatten()
            .filter(|(_, token)| token.get("special") == Some(&Value::Bool(true)));
        let special = special
            .filter_map(|(id, _)| id.parse().ok())
            .chain(named.iter().filter_map(|token| tokenizer.token_to_id(token)))
            .collect();
        let clean_up =
            config.get("clean_up_tokenization_spaces").and_then(Value::as_bool).unwrap_or(false);
        let text = TextTokenizer { tokenizer, special, clean_up };
        text.try_out().map_err(|(what, reason)| unusable(&path, what, reason))?;
        Ok(text)
    }

    /// Tries the tokenizer. Some files load but fail at the first text; such a folder must be
    /// rejected when it is loaded, not at its first caption.
    fn try_out(&self) -> Result<(), (&'static str, String)> {
        // Only a panic counts: an error is reported when a prompt needs the tokenizer, which some
        // models never do.
        catch_panic(|| self.tokenizer.encode(TRIAL, true).map(drop))
            .map(drop)
            .map_err(|reason| ("encoding a text", reason))?;
        let mut all: Vec<u32> = self.tokenizer.get_vocab(true).into_values().collect();
        all.sort_unstable();
        catch_panic(|| self.tokenizer.decode(&all, true).map(drop))
            .map(drop)
            .map_err(|reason| ("decoding tokens", reason))
    }

    /// Entries of the vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Ids of a whole text as the reference's processors compute them, with the tokens that the
    /// tokenizer adds around every text.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, ModelError> {
        let encoded = catch_panic(|| self.tokenizer.encode(text, true))
            .map_err(panicked)?
            .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
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

    /// Removes the spelling of every added token from a text, so that a product's title cannot end
    /// the user's turn or insert a picture.
    pub fn plain(&self, text: &str) -> String {
        let mut plain = text.to_owned();
        let added = self.tokenizer.get_added_tokens_decoder();
        // Removing one may join the parts of another.
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

    /// Text of ids, without special tokens. A negative id is an error; an unknown id is ignored, as
    /// in the reference.
    pub fn decode(&self, ids: &[i64]) -> Result<String, ModelError> {
        let id = |id: &i64| {
            u32::try_from(*id).map_err(|_| ModelError::Tokenizer(format!("{id} is not a token id")))
        };
        let ids = ids.iter().map(id).collect::<Result<Vec<u32>, ModelError>>()?;
        let ids: Vec<u32> = ids.into_iter().filter(|id| !self.special.contains(id)).collect();
        let text = catch_panic(|| self.tokenizer.decode(&ids, true))
            .map_err(panicked)?
            .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        Ok(if self.clean_up { clean_up(&text) } else { text })
    }
}

/// Reads the file. The library panics on some damaged files; if the file is not JSON, the error
/// says so.
fn read(path: &Path) -> Result<Tokenizer, ModelError> {
    let bytes = read_file(path, MAX_TOKENIZER)?;
    let rejected = |reason: String| match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        Err(not_json) => ModelError::config(path, not_json),
        Ok(_) => ModelError::config(path, reason),
    };
    match catch_panic(|| Tokenizer::from_bytes(&bytes)) {
        Ok(Ok(tokenizer)) => Ok(tokenizer),
        Ok(Err(reason)) => Err(rejected(reason.to_string())),
        Err(panic) => Err(rejected(format!("its library panicked: {panic}"))),
    }
}

fn unusable(path: &Path, what: &str, reason: String) -> ModelError {
    ModelError::config(path, format!("{what} fails: {reason}"))
}

fn panicked(reason: String) -> ModelError {
    ModelError::Tokenizer(format!("its library panicked: {reason}"))
}

/// A token in `tokenizer_config.json`: a string, or an object with a string.
pub(crate) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Every token to which these files assign a role.
fn named_tokens(files: &[&Value]) -> Vec<String> {
    let roles = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    let mut named: Vec<String> = Vec::new();
    for file in files {
        let single = roles.iter().filter_map(|role| token_text(file.get(role)?));
        let several = file
            .get("additional_special_tokens")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(token_text);
        named.extend(single.chain(several).filter(|token| !token.is_empty()).map(str::to_owned));
    }
    named.sort();
    named.dedup();
    named
}

/// Checks that the tokenizer belongs to its folder: it has the tokens that the other files name,
/// under the same ids.
fn check(tokenizer: &Tokenizer, config: &Value) -> Result<(), String> {
    let stated =
        config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten();
    for (id, token) in
        stated.filter_map(|(id, token)| Some((id.parse::<u32>().ok()?, token_text(token)?)))
    {
        if let Some(other) = tokenizer.id_to_token(id).filter(|other| other != token) {
            return Err(format!(
                "token {id} is \"{other}\", but \"{token}\" in tokenizer_config.json"
            ));
        }
    }
    match config
        .get("eos_token")
        .and_then(token_text)
        .filter(|token| tokenizer.token_to_id(token).is_none())
    {
        Some(token) => Err(format!("no token \"{token}\", the eos_token of tokenizer_config.json")),
        None => Ok(()),
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
    fn clean_up_joins_punctuation() {
        assert_eq!(clean_up("a dog , isn 't it ? it 's red ."), "a dog, isn 't it? it's red.");
        assert_eq!(clean_up("do n't"), "don't");
    }
}
