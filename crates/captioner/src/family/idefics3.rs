//! `idefics3`, `smolvlm`: a decoder that follows instructions and reads the picture as tokens among
//! the words.
//!
//! The folder's chat template says how a user's turn is written; its `<image>` is expanded to one
//! placeholder per feature, tile by tile, and the embeddings at the placeholders are replaced by
//! the features. A picture can be shown as one tile or, thirteen times as dear, cut into tiles that
//! follow row by row before the whole: a caption's style says which (`pg_caption.tiles`).

use super::chat::Chat;
use super::decoder::Decoder;
use super::embedder::Embedder;
use super::encoder::{Encoder, PIXELS};
use super::{Family, Logits, Opened, Prepare};
use crate::cache::Cache;
use crate::captioner::State;
use crate::folder::Folder;
use crate::picture::{PictureOptions, PixelValues, TileViews, view};
use crate::tensor::{self, Data, Floats, HostTensor};
use crate::text::Text;
use crate::{GenerationSettings, ModelError, PictureFeatures, PromptWords, TokenPrompt};
use ort::value::{DynValue, TensorElementType};
use pg_caption_pixels::{ImageProcessor, PixelTensor, RgbPicture, TileGrid};
use pg_caption_style::CaptionStyle;
use serde_json::Value;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The family's name in the status, whichever `model_type` the folder states.
const NAME: &str = "idefics3";

/// What the published folders' templates say, for folders that have none.
const TEMPLATE: &str = "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/// Tiles in one call of the image encoder: its attention takes tens of megabytes a tile, and a call
/// cannot be interrupted.
const TILES_PER_CALL: usize = 4;

/// Logits of a whole prompt beyond this many bytes are not multiplied by a batch.
const LOGITS_TO_SHARE: usize = 64 << 20;

/// Opens both halves.
pub(super) fn open(
    folder: &Folder,
    _settings: &GenerationSettings,
    text: &Arc<Text>,
) -> Result<Opened, ModelError> {
    let processor = ImageProcessor::from_json(&folder.json("preprocessor_config.json")?);
    let processor =
        processor.map_err(|e| ModelError::config(folder.file("preprocessor_config.json"), e))?;
    let spelling = Spelling::of(folder, text)?;
    let chat = Chat::open(folder, TEMPLATE)?;
    // The decoder first: loading it takes the most memory beyond what stays. Of several faults its
    // own is named last.
    let decoder = Decoder::open(folder, "inputs_embeds", &[]);
    let (vision, vision_file) =
        Encoder::open(folder, "vision_encoder", &[PIXELS, ATTENTION], &["image_features"])?;
    let (embedder, embedder_file) = Embedder::open(folder)?;
    let (decoder, decoder_files) = decoder?;
    let vocabulary = decoder.vocabulary();
    // A graph that can leave out the logits nobody reads needs no memory for them.
    let logits = if decoder.wants("num_logits_to_keep") {
        0
    } else {
        vocabulary.unwrap_or_else(|| text.vocabulary()) * size_of::<f32>()
    };
    let whole = processor.uncut();
    let image = spelling.image;
    let shared = Shared { processor, whole, spelling, chat, logits, text: text.clone() };
    shared.turn("?")?;
    Ok(Opened {
        name: NAME,
        prepare: Box::new(shared),
        sessions: Box::new(Sessions { vision, embedder, decoder, image }),
        graphs: [vision_file, embedder_file].into_iter().chain(decoder_files).collect(),
        hoisted: false,
        vocabulary,
    })
}

/// The tokens a picture is written with.
struct Spelling {
    /// Stands for one feature.
    image: i64,
    image_text: String,
    /// Around every tile.
    fake: String,
    /// Before the whole picture.
    global: String,
}

impl Spelling {
    fn of(folder: &Folder, text: &Text) -> Result<Spelling, ModelError> {
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
                format!("no token {image}, which stands for the picture"),
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
        // The larger SmolVLM was trained with the tag of the whole picture spelled out: it is no
        // token there.
        Ok(Spelling {
            image,
            image_text,
            fake,
            global: named("global_image_token", "<global-img>"),
        })
    }

    /// What a picture's placeholder becomes: `tile` features each, rows of tiles on lines of their
    /// own, the whole picture last.
    fn expand(&self, grid: TileGrid, tile: usize) -> String {
        let features = self.image_text.repeat(tile);
        let mut words = String::new();
        for row in 1..=grid.rows {
            for column in 1..=grid.columns {
                let _ = write!(words, "{}<row_{row}_col_{column}>{features}", self.fake);
            }
            words.push('\n');
        }
        if grid.rows > 0 {
            words.push('\n');
        }
        let _ = write!(words, "{0}{1}{features}{0}", self.fake, self.global);
        words
    }
}

/// The half that all threads share.
struct Shared {
    processor: ImageProcessor,
    /// The same, with every picture in one tile.
    whole: ImageProcessor,
    spelling: Spelling,
    chat: Chat,
    /// Bytes of logits a position of the prompt costs.
    logits: usize,
    text: Arc<Text>,
}

/// The input that says which pixels are padding: none ever are.
const ATTENTION: &str = "pixel_attention_mask";
const WHOLE: &str = "pixel_values of the whole";
const TILED: &str = PIXELS;

impl Shared {
    /// The text of a turn, split where the picture stands.
    fn turn(&self, words: &str) -> Result<(String, String), ModelError> {
        let turn = self.chat.ask(&self.text.plain(words))?;
        let parts: Vec<&str> = turn.split(&self.spelling.image_text).collect();
        match parts[..] {
            [before, after] => Ok((before.into(), after.into())),
            _ => {
                let reason =
                    format!("the chat template shows the picture {} times", parts.len() - 1);
                Err(ModelError::config(self.chat.path(), reason))
            }
        }
    }
}

impl Prepare for Shared {
    fn target(&self) -> (u32, u32) {
        self.processor.target()
    }

    fn memory_for(&self, (width, height): (u32, u32), options: &PictureOptions) -> u64 {
        let tiled =
            if options.views.tiled() { self.processor.memory_for(width, height) } else { 0 };
        let whole = if options.views.whole() { self.whole.memory_for(width, height) } else { 0 };
        tiled + whole
    }

    fn picture(
        &self,
        rgb: &RgbPicture,
        options: &PictureOptions,
    ) -> Result<PixelValues, ModelError> {
        let host = |tensor: PixelTensor| {
            let shape = tensor.shape.iter().skip(1).map(|n| *n as i64).collect();
            (
                HostTensor { shape, data: Data::F32(tensor.data) },
                tensor.grid.unwrap_or(TileGrid { rows: 0, columns: 0 }),
            )
        };
        let mut tensors = Vec::with_capacity(2);
        let mut grid = TileGrid { rows: 0, columns: 0 };
        if options.views.tiled() {
            let (tiled, cut) = host(self.processor.apply(rgb));
            tensors.push((TILED, tiled));
            grid = cut;
        }
        // A picture that is one tile anyway looks the same either way.
        if options.views.whole() && (grid.rows > 0 || !options.views.tiled()) {
            tensors.push((
                if tensors.is_empty() { TILED } else { WHOLE },
                host(self.whole.apply(rgb)).0,
            ));
        }
        Ok(PixelValues::tiled(tensors, (grid.rows, grid.columns)))
    }

    fn tiles(&self) -> bool {
        self.processor.cuts()
    }

    fn prompt(
        &self,
        style: &CaptionStyle,
        words: PromptWords,
        features: &PictureFeatures,
    ) -> Result<TokenPrompt, ModelError> {
        let looks = features.state::<Looks>()?;
        let grid = match &looks.tiled {
            Some((grid, _))
                if view(words.tiles, style) == TileViews::TILED || looks.whole.is_none() =>
            {
                *grid
            }
            _ => TileGrid { rows: 0, columns: 0 },
        };
        let mut asked = words.text.unwrap_or(&style.instruction).to_owned();
        if let Some(context) = words.context.map(str::trim).filter(|context| !context.is_empty()) {
            let _ = write!(asked, "\nThe product: {context}");
        }
        let (before, after) = self.turn(&asked)?;
        // The reference tokenizes the expanded text as one: what meets at a seam may become one
        // token.
        let ids = self
            .text
            .encode(&format!("{before}{}{after}", self.spelling.expand(grid, looks.tile)))?;
        let mut hash = DefaultHasher::new();
        (ids.len(), grid.rows, grid.columns).hash(&mut hash);
        Ok(TokenPrompt {
            bucket: hash.finish(),
            alone: ids.len().saturating_mul(self.logits) > LOGITS_TO_SHARE,
            read: Vec::new(),
            ids,
        })
    }

    /// Measured on two cores: four pictures of one tile gain a tenth over one.
    fn suggested_batch(&self) -> usize {
        4
    }
}

/// The features of a picture in the views it was prepared in.
struct Looks {
    /// Features a tile.
    tile: usize,
    /// As one tile.
    whole: Option<Floats>,
    /// As tiles, the whole picture last.
    tiled: Option<(TileGrid, Floats)>,
}

impl State for Looks {
    fn bucket(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        (
            self.tile,
            self.whole.is_some(),
            self.tiled.as_ref().map(|(grid, _)| (grid.rows, grid.columns)),
        )
            .hash(&mut hash);
        hash.finish()
    }

    fn bytes(&self) -> usize {
        let views = self.whole.iter().chain(self.tiled.iter().map(|(_, view)| view));
        views.map(|view| view.data.len() * size_of::<f32>()).sum()
    }
}

/// The half that owns the sessions.
struct Sessions {
    vision: Encoder,
    embedder: Embedder,
    decoder: Decoder,
    /// The placeholder.
    image: i64,
}

impl Sessions {
    /// Features of tiles that stand one after the other, a few tiles a call.
    fn look(&mut self, tiles: &[&[f32]], side: (i64, i64)) -> Result<Floats, ModelError> {
        let ty = self.vision.pixel_type();
        let mut all: Option<Floats> = None;
        for tiles in tiles.chunks(TILES_PER_CALL) {
            let shape = vec![1, tiles.len() as i64, 3, side.0, side.1];
            let pixel_values = tensor::of_floats(shape, tiles.concat(), ty)?;
            let mask_shape = vec![1, tiles.len() as i64, side.0, side.1];
            let mask =
                tensor::ones(self.vision.graph().input(ATTENTION).map(|(ty, _)| ty), mask_shape)?;
            let more: Vec<(&str, &DynValue)> = mask.iter().map(|mask| (ATTENTION, mask)).collect();
            let (features, _) = self.vision.run(&pixel_values, &more)?;
            let rows = tensor::rows_of_floats(&features)?;
            if rows.len() == 0 || rows.len() % tiles.len() != 0 {
                return Err(self.vision.wrong(format!(
                    "{} features for {} tiles",
                    rows.len(),
                    tiles.len()
                )));
            }
            match &mut all {
                None => all = Some(rows),
                Some(all) => all.data.extend_from_slice(&rows.data),
            }
        }
        all.ok_or_else(|| ModelError::Batch("a picture without tiles".into()))
    }

    /// The embeddings of a prompt, the features in their places.
    fn read(
        &mut self,
        features: &PictureFeatures,
        prompt: &TokenPrompt,
    ) -> Result<Floats, ModelError> {
        let looks = features.state::<Looks>()?;
        let wanted = prompt.ids.iter().filter(|id| **id == self.image).count();
        let views = looks.whole.iter().chain(looks.tiled.iter().map(|(_, view)| view));
        let view = views.into_iter().find(|view| view.len() == wanted);
        let view = view.ok_or_else(|| {
            ModelError::Batch(format!(
                "a prompt with {wanted} places for another picture's features"
            ))
        })?;
        let mut words = self.embedder.prompt(&prompt.ids)?;
        if words.width != view.width || words.len() != prompt.ids.len() {
            let reason =
                format!("features of width {}, embeddings of width {}", view.width, words.width);
            return Err(self.vision.wrong(reason));
        }
        let places = words
            .data
            .chunks_exact_mut(view.width)
            .zip(&prompt.ids)
            .filter(|(_, id)| **id == self.image);
        for ((place, _), feature) in places.zip(view.data.chunks_exact(view.width)) {
            place.copy_from_slice(feature);
        }
        Ok(words)
    }

    fn decoder_type(&self) -> TensorElementType {
        self.decoder.input_type("inputs_embeds").unwrap_or(TensorElementType::Float32)
    }
}

impl Family for Sessions {
    type Value = DynValue;

    fn encode(&mut self, pictures: &[&PixelValues]) -> Result<Vec<PictureFeatures>, ModelError> {
        // Every tile of every picture, in order: pictures, their views, tiles.
        let (mut tiles, mut side) = (Vec::new(), (0, 0));
        for picture in pictures {
            for tensor in [TILED, WHOLE].iter().filter_map(|name| picture.tensor(name)) {
                let (HostTensor { data: Data::F32(values), .. }, [_, 3, height, width]) =
                    (tensor, &tensor.shape[..])
                else {
                    return Err(ModelError::Batch("a picture of another family".into()));
                };
                side = (*height, *width);
                tiles.extend(values.chunks_exact((3 * height * width) as usize));
            }
        }
        let all = self.look(&tiles, side)?;
        let tile = all.len() / tiles.len().max(1);
        let mut rest = all.data.chunks_exact(tile * all.width);
        let mut take = |tensor: &HostTensor| {
            let count = tensor.shape.first().map_or(0, |n| *n as usize);
            Floats {
                width: all.width,
                data: rest.by_ref().take(count).flatten().copied().collect(),
            }
        };
        let looks = pictures.iter().map(|picture| {
            let (rows, columns) = picture.grid();
            let grid = TileGrid { rows, columns };
            let first = picture.tensor(TILED).map(&mut take);
            let second = picture.tensor(WHOLE).map(&mut take);
            match second {
                Some(whole) => {
                    Looks { tile, whole: Some(whole), tiled: first.map(|view| (grid, view)) }
                }
                None if rows == 0 => Looks { tile, whole: first, tiled: None },
                None => Looks { tile, whole: None, tiled: first.map(|view| (grid, view)) },
            }
        });
        Ok(looks.map(|looks| PictureFeatures::new(looks, None)).collect())
    }

    fn prefill(
        &mut self,
        captions: &[(&PictureFeatures, &TokenPrompt)],
    ) -> Result<(Logits, Cache<DynValue>), ModelError> {
        let (mut joined, mut length, mut width) = (Vec::new(), 0, 0);
        for (features, prompt) in captions {
            let words = self.read(features, prompt)?;
            joined.extend_from_slice(&words.data);
            (length, width) = (words.len(), words.width);
        }
        if joined.len() != captions.len() * length * width {
            return Err(ModelError::Batch("prompts of different lengths in one call".into()));
        }
        let ty = self.decoder_type();
        let embeds = tensor::of_floats(
            vec![captions.len() as i64, length as i64, width as i64],
            joined,
            ty,
        )?;
        self.decoder.prefill(embeds, Vec::new())
    }

    fn step(&mut self, cache: &mut Cache<DynValue>, tokens: &[i64]) -> Result<Logits, ModelError> {
        let ty = self.decoder_type();
        self.decoder.step(cache, self.embedder.embed(tokens.to_vec(), tokens.len(), ty)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelling() -> Spelling {
        Spelling {
            image: 9,
            image_text: "<image>".into(),
            fake: "<f>".into(),
            global: "<g>".into(),
        }
    }

    #[test]
    fn one_tile_stands_between_two_marks() {
        assert_eq!(
            spelling().expand(TileGrid { rows: 0, columns: 0 }, 2),
            "<f><g><image><image><f>"
        );
    }

    #[test]
    fn tiles_stand_row_by_row_and_the_whole_follows_after_an_empty_line() {
        let expected = "<f><row_1_col_1><image><f><row_1_col_2><image>\n<f><row_2_col_1><image><f><row_2_col_2><image>\n\n<f><g><image><f>";
        assert_eq!(spelling().expand(TileGrid { rows: 2, columns: 2 }, 1), expected);
    }
}
