//! How a picture is written in the prompt: placeholders for its features, tile by tile.

use crate::ModelError;
use crate::folder::ModelFolder;
use crate::text::TextTokenizer;
use pg_caption_pixels::TileGrid;
use serde_json::Value;
use std::fmt::Write;

/// The tokens that represent a picture.
pub(super) struct PictureSpelling {
    /// The placeholder of one feature.
    pub image: i64,
    /// The placeholder's text.
    pub image_text: String,
    /// Around every tile.
    fake: String,
    /// Before the whole picture.
    global: String,
}

impl PictureSpelling {
    pub fn of(folder: &ModelFolder, text: &TextTokenizer) -> Result<PictureSpelling, ModelError> {
        let stated = ["image_token_id", "image_token_index"]
            .iter()
            .find_map(|key| folder.config.get(key)?.as_i64());
        let image = stated.or_else(|| text.id("<image>"));
        let image = image.ok_or_else(|| {
            ModelError::config(folder.file("config.json"), "no \"image_token_id\"")
        })?;
        let tokenizer = folder.file("tokenizer.json");
        let image_text = text.token(image).ok_or_else(|| {
            ModelError::config(
                &tokenizer,
                format!("no token {image}, the image_token_id of config.json"),
            )
        })?;
        let config = folder.optional_json("tokenizer_config.json")?.unwrap_or(Value::Null);
        let named = |key: &str, default: &str| {
            let own = config.get(key).or_else(|| config.get("extra_special_tokens")?.get(key));
            own.and_then(Value::as_str).unwrap_or(default).to_owned()
        };
        let fake = named("fake_image_token", "<fake_token_around_image>");
        if text.id(&fake).is_none() {
            return Err(ModelError::config(&tokenizer, format!("no token \"{fake}\"")));
        }
        // The larger SmolVLM was trained with this tag spelled out: its tokenizer has no such
        // token.
        Ok(PictureSpelling {
            image,
            image_text,
            fake,
            global: named("global_image_token", "<global-img>"),
        })
    }

    /// The text that replaces a picture's placeholder: `tile` features per tile, one line for each
    /// row of tiles, and the whole picture last.
    pub fn expand(&self, grid: TileGrid, tile: usize) -> String {
        let features = self.image_text.repeat(tile);
        let mut text_of_picture = String::new();
        for row in 1..=grid.rows {
            for column in 1..=grid.columns {
                let _ = write!(text_of_picture, "{}<row_{row}_col_{column}>{features}", self.fake);
            }
            text_of_picture.push('\n');
        }
        if grid.rows > 0 {
            text_of_picture.push('\n');
        }
        let _ = write!(text_of_picture, "{0}{1}{features}{0}", self.fake, self.global);
        text_of_picture
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelling() -> PictureSpelling {
        PictureSpelling {
            image: 9,
            image_text: "<image>".into(),
            fake: "<f>".into(),
            global: "<g>".into(),
        }
    }

    #[test]
    fn one_tile_is_enclosed_by_two_markers() {
        assert_eq!(
            spelling().expand(TileGrid { rows: 0, columns: 0 }, 2),
            "<f><g><image><image><f>"
        );
    }

    #[test]
    fn tiles_precede_the_whole_picture_row_by_row() {
        let expected = concat!(
            "<f><row_1_col_1><image><f><row_1_col_2><image>\n",
            "<f><row_2_col_1><image><f><row_2_col_2><image>\n\n<f><g><image><f>"
        );
        assert_eq!(spelling().expand(TileGrid { rows: 2, columns: 2 }, 1), expected);
    }
}
