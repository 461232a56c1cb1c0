//! `vision-encoder-decoder`: an image encoder and a text decoder that attends to its features
//! (ViT-GPT2, and the default model).
//!
//! The prompt is a single start token. A folder may have one start token per style, another one for
//! a style in a language, and an encoder may output a confidence. All are declared so that other
//! programs ignore them:
//! * `config.json`: `"pg_caption": {"styles": {"concise": {"decoder_start_token_id": 5},
//!   "concise_de": {"decoder_start_token_id": 6}, …}, "min_confidence": 0.6}`;
//! * a second encoder output `confidence`, float32 `[batch]`, 0..=1.

use super::decoder::TextDecoder;
use super::encoder::{ImageEncoder, PIXELS};
use super::traits::{FamilyPreparer, FamilyRunner, OpenedFamily};
use crate::ModelError;
use crate::cache::DecoderCache;
use crate::features::PictureFeatures;
use crate::folder::ModelFolder;
use crate::generation::GenerationSettings;
use crate::logits::LogitRows;
use crate::picture::{PictureOptions, PixelValues};
use crate::prompt::{PromptWords, TokenPrompt};
use crate::tensor::{self, HostTensor, TensorData};
use crate::text::TextTokenizer;
use ort::value::{DynValue, TensorElementType};
use pg_caption_pixels::{ImageProcessor, RgbPicture};
use pg_caption_style::CaptionStyle;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

const HIDDEN: &str = "encoder_hidden_states";
const MASK: &str = "encoder_attention_mask";
const CONFIDENCE: &str = "confidence";

/// Opens both halves.
pub(super) fn open(
    folder: &ModelFolder,
    settings: &GenerationSettings,
    _text: &Arc<TextTokenizer>,
) -> Result<OpenedFamily, ModelError> {
    let (path, mut json) = folder.image_processor()?;
    // The oldest folders name no class; the type of the encoder implies it.
    if json.get("image_processor_type").or_else(|| json.get("feature_extractor_type")).is_none()
        && let Some(class) =
            match folder.config.pointer("/encoder/model_type").and_then(Value::as_str) {
                Some("vit") => Some("ViTImageProcessor"),
                Some("deit") => Some("DeiTImageProcessor"),
                _ => None,
            }
    {
        json["image_processor_type"] = class.into();
    }
    let processor = ImageProcessor::from_json(&json).map_err(|e| ModelError::config(&path, e))?;
    let prepare = Shared { processor, starts: starts(folder, settings)? };
    // The decoder first: loading it has the highest peak of memory. Its own error is reported last.
    let decoder = TextDecoder::open(folder, "input_ids", &[HIDDEN, MASK]);
    let (encoder, encoder_file) =
        ImageEncoder::open(folder, "encoder_model", &[PIXELS], &["last_hidden_state", HIDDEN])?;
    let (decoder, decoder_files) = decoder?;
    let (vocabulary, hoisted) = (decoder.vocabulary(), decoder.is_hoisted());
    let has_confidence = encoder.graph().output(CONFIDENCE).is_some();
    Ok(OpenedFamily {
        prepare: Box::new(prepare),
        sessions: Box::new(Sessions { encoder, decoder, has_confidence }),
        graphs: std::iter::once(encoder_file).chain(decoder_files).collect(),
        hoisted,
        vocabulary,
    })
}

/// Start tokens of a folder.
struct Starts {
    default: i64,
    by_style: HashMap<String, i64>,
}

impl Starts {
    /// The start token of a style: for its language, if the folder has one, by its name, else by
    /// its task.
    fn of(&self, style: &CaptionStyle) -> i64 {
        let names = [style.name.as_str(), style.task.name()];
        // `de-AT` is written with the token of `de`, if it has none of its own.
        let tags = style.language.as_deref().into_iter().flat_map(|tag| {
            let primary = tag.split('-').next().unwrap_or(tag);
            [tag, primary]
        });
        let in_language =
            names.into_iter().flat_map(|name| tags.clone().map(move |tag| format!("{name}_{tag}")));
        let any = names.into_iter().map(str::to_owned);
        let own = in_language.chain(any).find_map(|name| self.by_style.get(&name));
        own.copied().unwrap_or(self.default)
    }
}

fn starts(folder: &ModelFolder, settings: &GenerationSettings) -> Result<Starts, ModelError> {
    let wrong = |reason: String| ModelError::config(folder.file("config.json"), reason);
    let default = settings.decoder_start_token_id.or(settings.bos_token_id);
    let default = default.ok_or_else(|| {
        wrong("no \"decoder_start_token_id\" here or in generation_config.json".into())
    })?;
    let mut by_style = HashMap::new();
    let styles = folder.config.get("pg_caption").and_then(|own| own.get("styles"));
    if let Some(styles) = styles {
        let styles = styles
            .as_object()
            .ok_or_else(|| wrong("\"pg_caption\".\"styles\" is not an object".into()))?;
        for (style, settings) in styles {
            let id = settings
                .get("decoder_start_token_id")
                .and_then(Value::as_i64)
                .filter(|id| *id >= 0);
            let id = id.ok_or_else(|| {
                wrong(format!("style \"{style}\" has no \"decoder_start_token_id\""))
            })?;
            by_style.insert(style.clone(), id);
        }
    }
    Ok(Starts { default, by_style })
}

/// The half that threads share.
struct Shared {
    processor: ImageProcessor,
    starts: Starts,
}

impl FamilyPreparer for Shared {
    fn target(&self) -> (u32, u32) {
        self.processor.target()
    }

    /// A folder with start tokens for styles is no published one.
    fn reduces_all(&self) -> bool {
        !self.starts.by_style.is_empty()
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
        // Stacking the pictures adds the batch axis.
        let shape = tensor.shape.iter().skip(1).map(|n| *n as i64).collect();
        Ok(PixelValues::new(vec![(
            PIXELS,
            HostTensor { shape, data: TensorData::F32(tensor.data) },
        )]))
    }

    fn prompt(
        &self,
        style: &CaptionStyle,
        words: PromptWords,
        _features: &PictureFeatures,
    ) -> Result<TokenPrompt, ModelError> {
        if words.text.is_some() {
            return Err(ModelError::Prompt(
                "this model starts from a token and reads no text".into(),
            ));
        }
        // Every prompt is one token, so all styles share batches.
        Ok(TokenPrompt {
            ids: vec![self.starts.of(style)],
            read: Vec::new(),
            bucket: 1,
            alone: false,
        })
    }

    fn suggested_batch(&self) -> usize {
        8
    }
}

/// The half that owns the sessions.
struct Sessions {
    encoder: ImageEncoder,
    decoder: TextDecoder,
    has_confidence: bool,
}

impl FamilyRunner for Sessions {
    type Value = DynValue;

    fn encode(&mut self, pictures: &[&PixelValues]) -> Result<Vec<PictureFeatures>, ModelError> {
        let tensors = pictures.iter().map(|p| {
            p.tensor(PIXELS).ok_or_else(|| ModelError::Batch("a picture of another family".into()))
        });
        let tensors = tensors.collect::<Result<Vec<&HostTensor>, ModelError>>()?;
        let pixel_values = tensor::stack(&tensors, self.encoder.pixel_type())?;
        let (hidden, mut outputs) = self.encoder.run(&pixel_values, &[])?;
        let wrong = |reason: String| self.encoder.wrong(reason);
        let rows = tensor::unstack(&hidden)?;
        if rows.len() != pictures.len() {
            return Err(wrong(format!("{} features for {} pictures", rows.len(), pictures.len())));
        }
        let mut confidences = vec![None; rows.len()];
        if let Some(values) = outputs.take(CONFIDENCE).filter(|_| self.has_confidence) {
            let values = tensor::unstack(&values)?;
            for (confidence, value) in confidences.iter_mut().zip(&values) {
                let stated = value.floats().and_then(|v| v.first().copied());
                let stated = stated
                    .ok_or_else(|| wrong("\"confidence\" is not a float per picture".into()))?;
                // NaN means no confidence.
                *confidence = Some(if stated.is_nan() { 0.0 } else { stated.clamp(0.0, 1.0) });
            }
        }
        Ok(rows
            .into_iter()
            .zip(confidences)
            .map(|(row, confidence)| PictureFeatures::new(row, confidence))
            .collect())
    }

    fn prefill(
        &mut self,
        captions: &[(&PictureFeatures, &TokenPrompt)],
    ) -> Result<(LogitRows, DecoderCache<DynValue>), ModelError> {
        let rows = captions.len() as i64;
        let hidden = captions
            .iter()
            .map(|(features, _)| features.state::<HostTensor>())
            .collect::<Result<Vec<_>, ModelError>>()?;
        let ty = self.decoder.input_type(HIDDEN).unwrap_or(TensorElementType::Float32);
        let hidden = tensor::stack(&hidden, ty)?;
        let mut constants = Vec::with_capacity(2);
        if self.decoder.wants(MASK) {
            let positions = tensor::shape(&hidden).get(1).copied().unwrap_or(0);
            constants.push((
                MASK,
                tensor::tensor(vec![rows, positions], vec![1i64; (rows * positions) as usize])?,
            ));
        }
        constants.push((HIDDEN, hidden));
        let length = captions.first().map_or(0, |(_, prompt)| prompt.ids.len());
        let ids: Vec<i64> =
            captions.iter().flat_map(|(_, prompt)| prompt.ids.iter().copied()).collect();
        self.decoder.prefill(tensor::tensor(vec![rows, length as i64], ids)?, constants)
    }

    fn step(
        &mut self,
        cache: &mut DecoderCache<DynValue>,
        tokens: &[i64],
    ) -> Result<LogitRows, ModelError> {
        self.decoder.step(cache, tensor::tensor(vec![tokens.len() as i64, 1], tokens.to_vec())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pg_caption_style::{StyleTask, builtin};
    use serde_json::json;

    fn shared(config: Value) -> Result<Starts, ModelError> {
        let settings = GenerationSettings::merged(&config, None).unwrap();
        starts(&ModelFolder::of_config(config), &settings)
    }

    fn processor() -> ImageProcessor {
        ImageProcessor::from_json(&json!({
            "image_processor_type": "ViTImageProcessor", "size": { "height": 8, "width": 8 }
        }))
        .unwrap()
    }

    fn features() -> PictureFeatures {
        PictureFeatures::new(HostTensor { shape: vec![1], data: TensorData::F32(vec![0.0]) }, None)
    }

    fn prompt_of(starts: Starts, style: &CaptionStyle) -> Vec<i64> {
        let shared = Shared { processor: processor(), starts };
        shared
            .prompt(
                style,
                PromptWords { context: Some("ignored"), ..PromptWords::default() },
                &features(),
            )
            .unwrap()
            .ids
    }

    #[test]
    fn start_tokens_fall_back_to_task_and_folder() {
        let config = json!({
            "decoder_start_token_id": 1,
            "pg_caption": { "styles": {
                "seo": { "decoder_start_token_id": 7 },
                "custom": { "decoder_start_token_id": 8 },
            } },
        });
        let mut style = builtin("seo").unwrap();
        assert_eq!(prompt_of(shared(config.clone()).unwrap(), &style), [7]);
        style.name = "custom".into();
        assert_eq!(prompt_of(shared(config.clone()).unwrap(), &style), [8]);
        style.name = "other".into();
        assert_eq!(prompt_of(shared(config.clone()).unwrap(), &style), [7], "by its task");
        style.task = StyleTask::Detailed;
        assert_eq!(prompt_of(shared(config).unwrap(), &style), [1]);
    }

    #[test]
    fn the_language_of_a_style_chooses_its_start_token() {
        let config = json!({
            "decoder_start_token_id": 1,
            "pg_caption": { "styles": {
                "seo": { "decoder_start_token_id": 7 },
                "seo_de": { "decoder_start_token_id": 8 },
                "mine_pt-BR": { "decoder_start_token_id": 9 },
            } },
        });
        for (name, language, expected) in [
            ("seo", None, 7),
            ("seo", Some("en"), 7),
            ("seo", Some("de"), 8),
            ("seo", Some("de-AT"), 8),
            ("mine", Some("de"), 8),
            ("mine", Some("pt-BR"), 9),
            ("mine", Some("pt"), 7),
        ] {
            let mut style = builtin("seo").unwrap();
            style.name = name.into();
            style.language = language.map(String::from);
            let ids = prompt_of(shared(config.clone()).unwrap(), &style);
            assert_eq!(ids, [expected], "{name} in {language:?}");
        }
    }

    #[test]
    fn a_folder_without_a_start_token_is_refused() {
        assert!(shared(json!({})).is_err());
        assert!(shared(json!({ "bos_token_id": 3 })).is_ok());
        let typo = json!({ "decoder_start_token_id": 1, "pg_caption": { "styles": { "seo": 7 } } });
        assert!(shared(typo).err().unwrap().to_string().contains("seo"));
    }

    #[test]
    fn text_prompts_are_refused() {
        let shared = Shared {
            processor: processor(),
            starts: shared(json!({ "bos_token_id": 3 })).unwrap(),
        };
        assert!(matches!(
            shared.prompt(
                &builtin("seo").unwrap(),
                PromptWords { text: Some("look closely"), ..PromptWords::default() },
                &features()
            ),
            Err(ModelError::Prompt(_))
        ));
    }
}
