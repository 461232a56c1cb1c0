//! Prompts become token ids, and token ids text, by the folder's own tokenizer.
//!
//! Special tokens never reach a caption: neither those `tokenizer.json` marks nor those only
//! `tokenizer_config.json` does. Nor do they come out of a caller's words: see [`Text::plain`].

use crate::folder::Folder;
use crate::{ModelError, catch_panic};
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;
use tokenizers::{AddedToken, Tokenizer};

/// A text of what texts are made of, to try a tokenizer with.
const TRIAL: &str = "A photo of 2 red cups, isn't it? Ünï";

/// A folder's tokenizer.
pub(crate) struct Text {
    tokenizer: Tokenizer,
    special: HashSet<u32>,
    /// `clean_up_tokenization_spaces`: no space before punctuation and contractions.
    clean_up: bool,
}

impl Text {
    /// Reads `tokenizer.json` and, if there, `tokenizer_config.json`.
    pub fn open(folder: &Folder) -> Result<Text, ModelError> {
        let path = folder.file("tokenizer.json");
        let mut tokenizer = read(&path)?;
        let config = folder.optional_json("tokenizer_config.json")?.unwrap_or(Value::Null);
        let map = folder.optional_json("special_tokens_map.json")?.unwrap_or(Value::Null);
        let named = named_tokens(&[&config, &map]);
        check(&tokenizer, &config).map_err(|reason| ModelError::config(&path, reason))?;
        // A token that only these files call special is taken as one, as the reference does.
        let known = tokenizer.get_added_tokens_decoder();
        let new = named.iter().filter(|token| {
            tokenizer.token_to_id(token).is_some()
                && !known.values().any(|added| added.content == **token)
        });
        let new: Vec<AddedToken> =
            new.map(|token| AddedToken::from(token.as_str(), true)).collect();
        catch_panic(|| tokenizer.add_special_tokens(&new))
            .map_err(|reason| unsound(&path, "naming its special tokens", reason))?;
        // Some folders were saved with the lengths of their training; a prompt is neither cut nor
        // filled up.
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
        let text = Text { tokenizer, special, clean_up };
        text.tried().map_err(|(what, reason)| unsound(&path, what, reason))?;
        Ok(text)
    }

    /// Some files that can be read break at the first text: they are refused when a folder is
    /// loaded, and not when a caption is there.
    fn tried(&self) -> Result<(), (&'static str, String)> {
        // What it refuses in words is said when it is asked for: a model that reads no words never
        // asks.
        catch_panic(|| self.tokenizer.encode(TRIAL, true).map(drop))
            .map(drop)
            .map_err(|reason| ("tokenising a text", reason))?;
        let mut all: Vec<u32> = self.tokenizer.get_vocab(true).into_values().collect();
        all.sort_unstable();
        catch_panic(|| self.tokenizer.decode(&all, true).map(drop))
            .map(drop)
            .map_err(|reason| ("making text of tokens", reason))
    }

    /// Entries of the vocabulary, added tokens included.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Ids of a whole text, the way the reference's processors ask for it: with what the tokenizer
    /// puts around every text.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, ModelError> {
        let encoded = catch_panic(|| self.tokenizer.encode(text, true))
            .map_err(broke)?
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

    /// Words with every added token's spelling taken out, so that a product's title cannot end the
    /// user's turn or claim a picture.
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

    /// Text of ids, special tokens skipped. A negative id is an error; one without a token is
    /// passed over, as the reference does.
    pub fn decode(&self, ids: &[i64]) -> Result<String, ModelError> {
        let id = |id: &i64| {
            u32::try_from(*id).map_err(|_| ModelError::Tokenizer(format!("{id} is not a token id")))
        };
        let ids = ids.iter().map(id).collect::<Result<Vec<u32>, ModelError>>()?;
        let ids: Vec<u32> = ids.into_iter().filter(|id| !self.special.contains(id)).collect();
        let text = catch_panic(|| self.tokenizer.decode(&ids, true))
            .map_err(broke)?
            .map_err(|e| ModelError::Tokenizer(e.to_string()))?;
        Ok(if self.clean_up { clean_up(&text) } else { text })
    }
}

/// Reads the file. Its library panics over some that are damaged; where that is because they are no
/// JSON, that is said.
fn read(path: &Path) -> Result<Tokenizer, ModelError> {
    let bytes =
        std::fs::read(path).map_err(|source| ModelError::File { path: path.into(), source })?;
    let refused = |reason: String| match serde_json::from_slice::<serde::de::IgnoredAny>(&bytes) {
        Err(no_json) => ModelError::config(path, no_json),
        Ok(_) => ModelError::config(path, reason),
    };
    match catch_panic(|| Tokenizer::from_bytes(&bytes)) {
        Ok(Ok(tokenizer)) => Ok(tokenizer),
        Ok(Err(reason)) => Err(refused(reason.to_string())),
        Err(panic) => Err(refused(format!("reading it broke: {panic}"))),
    }
}

fn unsound(path: &Path, what: &str, reason: String) -> ModelError {
    ModelError::config(path, format!("{what} breaks it: {reason}"))
}

fn broke(reason: String) -> ModelError {
    ModelError::Tokenizer(format!("it broke: {reason}"))
}

/// A token in `tokenizer_config.json`: its text, or an object that holds it.
pub(crate) fn token_text(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Every token that these files give a part to play.
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

/// A tokenizer belongs to its folder if it knows the tokens that the other files name, under the
/// numbers they give.
fn check(tokenizer: &Tokenizer, config: &Value) -> Result<(), String> {
    let stated =
        config.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten();
    for (id, token) in
        stated.filter_map(|(id, token)| Some((id.parse::<u32>().ok()?, token_text(token)?)))
    {
        if let Some(other) = tokenizer.id_to_token(id).filter(|other| other != token) {
            return Err(format!(
                "token {id} is \"{other}\", but tokenizer_config.json says \"{token}\": they belong to different models"
            ));
        }
    }
    match config
        .get("eos_token")
        .and_then(token_text)
        .filter(|token| tokenizer.token_to_id(token).is_none())
    {
        Some(token) => {
            Err(format!("no token \"{token}\", with which tokenizer_config.json ends every text"))
        }
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
    fn clean_up_joins_punctuation_and_contractions() {
        assert_eq!(clean_up("a dog , isn 't it ? it 's red ."), "a dog, isn 't it? it's red.");
        assert_eq!(clean_up("do n't"), "don't");
    }
}
