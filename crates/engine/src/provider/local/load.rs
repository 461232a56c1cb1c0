//! Loads a model folder and warms it up. Runs on the model thread.

use super::sessions::{CaptionStart, LocalSessions};
use pg_caption_captioner::{
    self as captioner, Captioner, InputPreparer, ModelError, PictureFeatures, PictureOptions,
    PromptWords,
};
use pg_caption_models::aliases;
use pg_caption_pixels::RgbPicture;
use pg_caption_style::{CaptionStyle, builtin};
use pg_caption_wire::EngineConfig;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A model that has captioned a picture.
pub struct LoadedModel {
    /// Its sessions, for the model thread.
    pub sessions: LocalSessions,
    /// Everything of it that needs no session, for all threads.
    pub preparer: Arc<InputPreparer>,
}

/// Threads of ONNX Runtime's pool for a setting (0: half the cores).
fn pool_threads(config: &EngineConfig) -> usize {
    match config.threads as usize {
        0 => (std::thread::available_parallelism().map_or(1, |n| n.get()) / 2).max(1),
        n => n,
    }
}

fn text(error: ModelError) -> String {
    error.to_string()
}

/// Loads the folder and captions a gray picture, so that an unusable model is found here and the
/// first request does not pay for the first call.
///
/// # Errors
/// The reason, naming the file.
pub fn load(config: &EngineConfig) -> Result<LoadedModel, String> {
    // The folder's styles are used by clients; an invalid style file is reported here, where an
    // administrator sees it.
    let styles = pg_caption_models::styles_of(&config.model).map_err(|e| e.to_string())?;
    captioner::init(&config.onnxruntime, pool_threads(config)).map_err(text)?;
    let options = captioner::LoadOptions { dtype: config.dtype.clone() };
    let (mut captioner, preparer) = captioner::load(&config.model, &options).map_err(text)?;
    let features = encode_gray(&mut captioner, &preparer)?;
    check_styles(config, &preparer, &styles, &features)?;
    caption(&mut captioner, &preparer, features)?;
    Ok(LoadedModel { sessions: LocalSessions(captioner), preparer })
}

fn encode_gray(
    captioner: &mut Captioner,
    preparer: &InputPreparer,
) -> Result<PictureFeatures, String> {
    let (width, height) = preparer.target();
    let gray = RgbPicture { width, height, data: vec![128; width as usize * height as usize * 3] };
    let pixels = preparer.picture(&gray, &PictureOptions::default()).map_err(text)?;
    let encoded = captioner.encode(&[pixels]).map_err(text)?;
    encoded.into_iter().next().ok_or_else(|| "the encoder returned no features".into())
}

/// A style of the folder for which its model has no prompt would fail with every request.
fn check_styles(
    config: &EngineConfig,
    preparer: &InputPreparer,
    styles: &BTreeMap<String, CaptionStyle>,
    features: &PictureFeatures,
) -> Result<(), String> {
    for style in styles.values() {
        let words = PromptWords {
            text: style.prompt_for(&aliases(&preparer.status().family)),
            ..PromptWords::default()
        };
        if let Err(reason) = preparer.prompt(style, words, features) {
            let file = config.model.join("captions.json");
            return Err(format!("{}: style \"{}\": {reason}", file.display(), style.name));
        }
    }
    Ok(())
}

fn caption(
    captioner: &mut Captioner,
    preparer: &InputPreparer,
    features: PictureFeatures,
) -> Result<(), String> {
    let style = builtin("concise").ok_or("there is no built-in style")?;
    let start = CaptionStart {
        prompt: preparer.prompt(&style, PromptWords::default(), &features).map_err(text)?,
        features: Arc::new(features),
        max_new_tokens: 2,
        generation: preparer.generation(None).map_err(text)?,
    };
    let (mut batch, _) = captioner.begin(vec![start.sequence(0)]).map_err(text)?;
    while !batch.is_empty() {
        captioner.step(&mut batch).map_err(text)?;
    }
    Ok(())
}
