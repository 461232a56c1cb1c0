//! `idefics3`, `smolvlm`: an instruction-following decoder that reads the picture as tokens of the
//! prompt.
//!
//! The folder's chat template formats the user's turn. Its `<image>` becomes one placeholder per
//! feature, tile by tile, and the embeddings of the placeholders are replaced by the features. A
//! picture is shown as one tile or, at thirteen times the cost, cut into tiles that precede the
//! whole row by row. The style of a caption decides (`pg_caption.tiles`).

mod spelling;

use super::chat::ChatTemplate;
use super::decoder::TextDecoder;
use super::embedder::TokenEmbedder;
use super::encoder::{ImageEncoder, PIXELS};
use super::traits::{FamilyPreparer, FamilyRunner, OpenedFamily};
use crate::ModelError;
use crate::cache::DecoderCache;
use crate::features::{FeatureState, PictureFeatures};
use crate::folder::ModelFolder;
use crate::generation::GenerationSettings;
use crate::logits::LogitRows;
use crate::picture::{PictureOptions, PixelValues, TileViews, view};
use crate::prompt::{PromptWords, TokenPrompt};
use crate::tensor::{self, FloatRows, HostTensor, TensorData};
use crate::text::TextTokenizer;
use ort::value::{DynValue, TensorElementType};
use pg_caption_pixels::{ImageProcessor, PixelTensor, RgbPicture, TileGrid};
use pg_caption_style::CaptionStyle;
use spelling::PictureSpelling;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The template of the published folders, for folders that have none.
const TEMPLATE: &str = concat!(
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}",
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}",
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}",
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}",
    "<end_of_utterance>\n{% endfor %}",
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
);

/// Tiles in one call of the image encoder: its attention takes tens of megabytes per tile, and a
/// call cannot be interrupted.
const TILES_PER_CALL: usize = 4;

/// A prompt whose logits take more bytes than this does not share a batch.
const LOGITS_TO_SHARE: usize = 64 << 20;

/// Opens both halves.
pub(super) fn open(
    folder: &ModelFolder,
    _settings: &GenerationSettings,
    text: &Arc<TextTokenizer>,
) -> Result<OpenedFamily, ModelError> {
    let (path, json) = folder.image_processor()?;
    let processor = ImageProcessor::from_json(&json).map_err(|e| ModelError::config(&path, e))?;
    let spelling = PictureSpelling::of(folder, text)?;
    let chat = ChatTemplate::open(folder, TEMPLATE)?;
    // The decoder first: loading it has the highest peak of memory. Its own error is reported last.
    let decoder = TextDecoder::open(folder, "inputs_embeds", &[]);
    let (vision, vision_file) =
        ImageEncoder::open(folder, "vision_encoder", &[PIXELS, ATTENTION], &["image_features"])?;
    let (embedder, embedder_file) = TokenEmbedder::open(folder)?;
    let (decoder, decoder_files) = decoder?;
    let vocabulary = decoder.vocabulary();
    // A graph that can omit unused logits needs no memory for them.
    let logits = if decoder.wants("num_logits_to_keep") {
        0
    } else {
        vocabulary.unwrap_or_else(|| text.vocabulary()) * size_of::<f32>()
    };
    let whole = processor.uncut();
    let image = spelling.image;
    let shared = Shared { processor, whole, spelling, chat, logits, text: text.clone() };
    shared.turn("?")?;
    Ok(OpenedFamily {
        prepare: Box::new(shared),
        sessions: Box::new(Sessions { vision, embedder, decoder, image }),
        graphs: [vision_file, embedder_file].into_iter().chain(decoder_files).collect(),
        hoisted: false,
        vocabulary,
    })
}

/// The half that threads share.
struct Shared {
    processor: ImageProcessor,
    /// The same processor, with every picture in one tile.
    whole: ImageProcessor,
    spelling: PictureSpelling,
    chat: ChatTemplate,
    /// Bytes of logits per position of the prompt.
    logits: usize,
    text: Arc<TextTokenizer>,
}

/// The input that marks padding; pictures are never padded.
const ATTENTION: &str = "pixel_attention_mask";
const WHOLE: &str = "pixel_values of the whole";
const TILED: &str = PIXELS;

impl Shared {
    /// The text of a turn, split at the picture.
    fn turn(&self, text: &str) -> Result<(String, String), ModelError> {
        let turn = self.chat.render(&self.text.plain(text))?;
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

impl FamilyPreparer for Shared {
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
                HostTensor { shape, data: TensorData::F32(tensor.data) },
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
        // A picture of one tile views the same in both views.
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
        let views = features.state::<TiledFeatures>()?;
        let grid = match &views.tiled {
            Some((grid, _))
                if view(words.tiles, style) == TileViews::TILED || views.whole.is_none() =>
            {
                *grid
            }
            _ => TileGrid { rows: 0, columns: 0 },
        };
        let mut instruction = words.text.unwrap_or(&style.instruction).to_owned();
        if let Some(context) = words.context.map(str::trim).filter(|context| !context.is_empty()) {
            let _ = write!(instruction, "\n{context}");
        }
        let (before, after) = self.turn(&instruction)?;
        // The reference tokenizes the expanded text as a whole: characters on both sides of a seam
        // may become one token.
        let ids = self
            .text
            .encode(&format!("{before}{}{after}", self.spelling.expand(grid, views.tile)))?;
        let mut hash = DefaultHasher::new();
        (ids.len(), grid.rows, grid.columns).hash(&mut hash);
        Ok(TokenPrompt {
            bucket: hash.finish(),
            alone: ids.len().saturating_mul(self.logits) > LOGITS_TO_SHARE,
            read: Vec::new(),
            ids,
        })
    }

    /// Measured on two cores: batches of four pictures of one tile are a tenth faster.
    fn suggested_batch(&self) -> usize {
        4
    }
}

/// The features of a picture in the views for which it was prepared.
struct TiledFeatures {
    /// Features per tile.
    tile: usize,
    /// In one tile.
    whole: Option<FloatRows>,
    /// In tiles, the whole picture last.
    tiled: Option<(TileGrid, FloatRows)>,
}

impl FeatureState for TiledFeatures {
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
    vision: ImageEncoder,
    embedder: TokenEmbedder,
    decoder: TextDecoder,
    /// The id of the placeholder.
    image: i64,
}

impl Sessions {
    /// Features of tiles that follow each other, a few tiles per call.
    fn encode_tiles(
        &mut self,
        tiles: &[&[f32]],
        side: (i64, i64),
    ) -> Result<FloatRows, ModelError> {
        let ty = self.vision.pixel_type();
        let mut all: Option<FloatRows> = None;
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

    /// The embeddings of a prompt, with the features in place of the placeholders.
    fn read(
        &mut self,
        features: &PictureFeatures,
        prompt: &TokenPrompt,
    ) -> Result<FloatRows, ModelError> {
        let views = features.state::<TiledFeatures>()?;
        let wanted = prompt.ids.iter().filter(|id| **id == self.image).count();
        let views = views.whole.iter().chain(views.tiled.iter().map(|(_, view)| view));
        let view = views.into_iter().find(|view| view.len() == wanted);
        let view = view.ok_or_else(|| {
            ModelError::Batch(format!(
                "a prompt with {wanted} placeholders for another picture's features"
            ))
        })?;
        let mut embedded = self.embedder.prompt(&prompt.ids)?;
        if embedded.width != view.width || embedded.len() != prompt.ids.len() {
            let reason = format!(
                "features have width {}, but embeddings have width {}",
                view.width, embedded.width
            );
            return Err(self.vision.wrong(reason));
        }
        let places = embedded
            .data
            .chunks_exact_mut(view.width)
            .zip(&prompt.ids)
            .filter(|(_, id)| **id == self.image);
        for ((place, _), feature) in places.zip(view.data.chunks_exact(view.width)) {
            place.copy_from_slice(feature);
        }
        Ok(embedded)
    }

    fn decoder_type(&self) -> TensorElementType {
        self.decoder.input_type("inputs_embeds").unwrap_or(TensorElementType::Float32)
    }
}

impl FamilyRunner for Sessions {
    type Value = DynValue;

    fn encode(&mut self, pictures: &[&PixelValues]) -> Result<Vec<PictureFeatures>, ModelError> {
        // All tiles of all pictures, ordered by picture, view and tile.
        let (mut tiles, mut side) = (Vec::new(), (0, 0));
        for picture in pictures {
            for tensor in [TILED, WHOLE].iter().filter_map(|name| picture.tensor(name)) {
                let (HostTensor { data: TensorData::F32(values), .. }, [_, 3, height, width]) =
                    (tensor, &tensor.shape[..])
                else {
                    return Err(ModelError::Batch("a picture of another family".into()));
                };
                side = (*height, *width);
                tiles.extend(values.chunks_exact((3 * height * width) as usize));
            }
        }
        let all = self.encode_tiles(&tiles, side)?;
        let tile = all.len() / tiles.len().max(1);
        let mut rest = all.data.chunks_exact(tile * all.width);
        let mut take = |tensor: &HostTensor| {
            let count = tensor.shape.first().map_or(0, |n| *n as usize);
            FloatRows {
                width: all.width,
                data: rest.by_ref().take(count).flatten().copied().collect(),
            }
        };
        let views = pictures.iter().map(|picture| {
            let (rows, columns) = picture.grid();
            let grid = TileGrid { rows, columns };
            let first = picture.tensor(TILED).map(&mut take);
            let second = picture.tensor(WHOLE).map(&mut take);
            match second {
                Some(whole) => TiledFeatures {
                    tile,
                    whole: Some(whole),
                    tiled: first.map(|view| (grid, view)),
                },
                None if rows == 0 => TiledFeatures { tile, whole: first, tiled: None },
                None => TiledFeatures { tile, whole: None, tiled: first.map(|view| (grid, view)) },
            }
        });
        Ok(views.map(|views| PictureFeatures::new(views, None)).collect())
    }

    fn prefill(
        &mut self,
        captions: &[(&PictureFeatures, &TokenPrompt)],
    ) -> Result<(LogitRows, DecoderCache<DynValue>), ModelError> {
        let (mut joined, mut length, mut width) = (Vec::new(), 0, 0);
        for (features, prompt) in captions {
            let embedded = self.read(features, prompt)?;
            joined.extend_from_slice(&embedded.data);
            (length, width) = (embedded.len(), embedded.width);
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

    fn step(
        &mut self,
        cache: &mut DecoderCache<DynValue>,
        tokens: &[i64],
    ) -> Result<LogitRows, ModelError> {
        let ty = self.decoder_type();
        self.decoder.step(cache, self.embedder.embed(tokens.to_vec(), tokens.len(), ty)?)
    }
}
