//! `florence2`: an image encoder, a text encoder that reads picture and task together, and a
//! decoder with cross attention.
//!
//! The model was trained on task tokens that stand for fixed sentences; the tokenizer receives the
//! sentence, never the token. The features of the picture precede the embedded sentence. Beams, the
//! n-gram ban and the forced first token are settings of the folder.

use super::decoder::TextDecoder;
use super::embedder::TokenEmbedder;
use super::encoder::{ImageEncoder, PIXELS, features, usable};
use super::traits::{FamilyPreparer, FamilyRunner, OpenedFamily};
use crate::ModelError;
use crate::cache::DecoderCache;
use crate::features::{FeatureState, PictureFeatures};
use crate::folder::ModelFolder;
use crate::generation::GenerationSettings;
use crate::logits::LogitRows;
use crate::picture::{PictureOptions, PixelValues};
use crate::prompt::{PromptWords, TokenPrompt};
use crate::runtime::GraphSession;
use crate::tensor::{self, FloatRows, HostTensor, TensorData};
use crate::text::TextTokenizer;
use ort::value::{DynValue, TensorElementType};
use pg_caption_pixels::{ImageProcessor, RgbPicture};
use pg_caption_style::{CaptionStyle, StyleTask};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

const HIDDEN: &str = "encoder_hidden_states";
const MASK: &str = "encoder_attention_mask";

/// The task of a style, from one sentence (`<CAPTION>`) to a paragraph.
fn task(task: StyleTask) -> &'static str {
    match task {
        StyleTask::Concise => "<CAPTION>",
        StyleTask::Seo => "<DETAILED_CAPTION>",
        StyleTask::Detailed => "<MORE_DETAILED_CAPTION>",
    }
}

/// The sentences of the tasks in training, for folders whose image processor does not list
/// them.
const SENTENCES: [(&str, &str); 3] = [
    ("<CAPTION>", "What does the image describe?"),
    ("<DETAILED_CAPTION>", "Describe in detail what is shown in the image."),
    ("<MORE_DETAILED_CAPTION>", "Describe with a paragraph what is shown in the image."),
];

/// Opens both halves.
pub(super) fn open(
    folder: &ModelFolder,
    settings: &GenerationSettings,
    text: &Arc<TextTokenizer>,
) -> Result<OpenedFamily, ModelError> {
    let (path, json) = folder.image_processor()?;
    let processor = ImageProcessor::from_json(&json).map_err(|e| ModelError::config(&path, e))?;
    let sentences = sentences(&json).map_err(|reason| ModelError::config(&path, reason))?;
    let start = settings.decoder_start_token_id.or(settings.eos_token_id.first().copied());
    let start = start.ok_or_else(|| {
        ModelError::config(folder.file("config.json"), "no \"decoder_start_token_id\"")
    })?;
    // The decoder first: loading it has the highest peak of memory. Its own error is reported last.
    let decoder = TextDecoder::open(folder, "inputs_embeds", &[HIDDEN, MASK]);
    let (vision, vision_file) =
        ImageEncoder::open(folder, "vision_encoder", &[PIXELS], &["image_features"])?;
    let (embedder, embedder_file) = TokenEmbedder::open(folder)?;
    let (encoder, encoder_file) = folder.load("encoder_model", |graph| {
        usable(graph, &["inputs_embeds", "attention_mask"], "last_hidden_state")
    })?;
    let (decoder, decoder_files) = decoder?;
    let vocabulary = decoder.vocabulary();
    Ok(OpenedFamily {
        prepare: Box::new(Shared { processor, sentences, start, text: text.clone() }),
        sessions: Box::new(Sessions { vision, embedder, encoder, decoder }),
        graphs: [vision_file, embedder_file, encoder_file]
            .into_iter()
            .chain(decoder_files)
            .collect(),
        hoisted: false,
        vocabulary,
    })
}

/// The task sentences of a folder.
fn sentences(json: &Value) -> Result<HashMap<String, String>, String> {
    let mut sentences: HashMap<String, String> =
        SENTENCES.iter().map(|(task, sentence)| ((*task).into(), (*sentence).into())).collect();
    if let Some(own) = json.get("task_prompts_without_inputs").filter(|own| !own.is_null()) {
        let own = own.as_object().ok_or("\"task_prompts_without_inputs\" is not an object")?;
        for (task, sentence) in own {
            let sentence = sentence
                .as_str()
                .ok_or_else(|| format!("the sentence of task {task} is not a string"))?;
            sentences.insert(task.clone(), sentence.into());
        }
    }
    Ok(sentences)
}

/// The half that threads share.
struct Shared {
    processor: ImageProcessor,
    sentences: HashMap<String, String>,
    start: i64,
    text: Arc<TextTokenizer>,
}

impl FamilyPreparer for Shared {
    fn target(&self) -> (u32, u32) {
        self.processor.target()
    }

    fn memory_for(&self, (width, height): (u32, u32), _options: &PictureOptions) -> u64 {
        self.processor.memory_for(width, height)
    }

    fn picture(
        &self,
        rgb: &RgbPicture,
        _options: &PictureOptions,
    ) -> Result<PixelValues, ModelError> {
        let tensor = self.processor.apply(rgb);
        let shape = tensor.shape.iter().skip(1).map(|n| *n as i64).collect();
        Ok(PixelValues::new(vec![(
            PIXELS,
            HostTensor { shape, data: TensorData::F32(tensor.data) },
        )]))
    }

    /// The caller's text is a task token or a sentence. The context is ignored: the model was not
    /// trained to use one.
    fn prompt(
        &self,
        style: &CaptionStyle,
        words: PromptWords,
        _features: &PictureFeatures,
    ) -> Result<TokenPrompt, ModelError> {
        let text = words.text.unwrap_or(task(style.task));
        let sentence = match self.sentences.get(text.trim()) {
            Some(sentence) => sentence.clone(),
            None => self.text.plain(text),
        };
        let read = self.text.encode(&sentence)?;
        if read.is_empty() {
            return Err(ModelError::Prompt("the text is empty".into()));
        }
        Ok(TokenPrompt { ids: vec![self.start], bucket: read.len() as u64, read, alone: false })
    }

    /// Measured on two cores: the image encoder gains nothing from batches, and a call of four
    /// takes twelve seconds.
    fn suggested_batch(&self) -> usize {
        2
    }
}

impl FeatureState for FloatRows {
    fn bucket(&self) -> u64 {
        (self.len() as u64) << 32 | self.width as u64
    }

    fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }
}

/// The half that owns the sessions.
struct Sessions {
    vision: ImageEncoder,
    embedder: TokenEmbedder,
    encoder: GraphSession,
    decoder: TextDecoder,
}

impl Sessions {
    fn decoder_type(&self) -> TensorElementType {
        self.decoder.input_type("inputs_embeds").unwrap_or(TensorElementType::Float32)
    }
}

impl FamilyRunner for Sessions {
    type Value = DynValue;

    fn encode(&mut self, pictures: &[&PixelValues]) -> Result<Vec<PictureFeatures>, ModelError> {
        let tensors = pictures.iter().map(|p| {
            p.tensor(PIXELS).ok_or_else(|| ModelError::Batch("a picture of another family".into()))
        });
        let tensors = tensors.collect::<Result<Vec<&HostTensor>, ModelError>>()?;
        let (features, _) =
            self.vision.run(&tensor::stack(&tensors, self.vision.pixel_type())?, &[])?;
        let wrong = |reason: String| self.vision.wrong(reason);
        let rows = tensor::unstack(&features)?;
        if rows.len() != pictures.len() {
            return Err(wrong(format!("{} features for {} pictures", rows.len(), pictures.len())));
        }
        let of = |row: HostTensor| {
            let values =
                row.floats().ok_or_else(|| wrong("features are not floats".into()))?.into_owned();
            Ok(PictureFeatures::new(FloatRows::new(&row.shape, values)?, None))
        };
        rows.into_iter().map(of).collect()
    }

    fn prefill(
        &mut self,
        captions: &[(&PictureFeatures, &TokenPrompt)],
    ) -> Result<(LogitRows, DecoderCache<DynValue>), ModelError> {
        let rows = captions.len();
        let (mut joined, mut length, mut width) = (Vec::new(), 0, 0);
        for (features, prompt) in captions {
            let picture = features.state::<FloatRows>()?;
            let embedded = self.embedder.prompt(&prompt.read)?;
            if embedded.width != picture.width {
                let reason = format!(
                    "features have width {}, but embeddings have width {}",
                    picture.width, embedded.width
                );
                return Err(self.vision.wrong(reason));
            }
            joined.extend_from_slice(&picture.data);
            joined.extend_from_slice(&embedded.data);
            (length, width) = (picture.len() + embedded.len(), picture.width);
        }
        if joined.len() != rows * length * width {
            return Err(ModelError::Batch("prompts of different lengths in one call".into()));
        }
        let ty =
            self.encoder.input("inputs_embeds").map_or(TensorElementType::Float32, |(ty, _)| ty);
        let embeds = tensor::of_floats(vec![rows as i64, length as i64, width as i64], joined, ty)?;
        // All rows are equally long: nothing is masked.
        let mask = || tensor::tensor(vec![rows as i64, length as i64], vec![1i64; rows * length]);
        let read = mask()?;
        let mut feeds = vec![("inputs_embeds", &embeds)];
        if self.encoder.wants("attention_mask") {
            feeds.push(("attention_mask", &read));
        }
        let mut outputs = self.encoder.run(&feeds)?;
        let hidden = features(&self.encoder, &mut outputs, "last_hidden_state")?;
        let mut constants = Vec::with_capacity(2);
        if self.decoder.wants(HIDDEN) {
            constants.push((
                HIDDEN,
                tensor::cast(
                    hidden,
                    self.decoder.input_type(HIDDEN).unwrap_or(TensorElementType::Float32),
                )?,
            ));
        }
        if self.decoder.wants(MASK) {
            constants.push((MASK, mask()?));
        }
        let starts: Vec<i64> =
            captions.iter().flat_map(|(_, prompt)| prompt.ids.iter().copied()).collect();
        let ty = self.decoder_type();
        self.decoder.prefill(self.embedder.embed(starts, rows, ty)?, constants)
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn folder_sentences_override_built_in_ones() {
        let own = sentences(&json!({
            "task_prompts_without_inputs": { "<CAPTION>": "Say it.", "<POEM>": "Sing it." }
        }))
        .unwrap();
        assert_eq!((own["<CAPTION>"].as_str(), own["<POEM>"].as_str()), ("Say it.", "Sing it."));
        assert_eq!(own["<DETAILED_CAPTION>"], SENTENCES[1].1);
        assert_eq!(sentences(&json!({ "task_prompts_without_inputs": null })).unwrap().len(), 3);
        assert!(
            sentences(&json!({ "task_prompts_without_inputs": { "<CAPTION>": 3 } }))
                .unwrap_err()
                .contains("<CAPTION>")
        );
    }
}
