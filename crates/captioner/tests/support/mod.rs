//! Shared by the tests on real graphs: the library, the parity models and their pictures.

#![allow(dead_code, reason = "each test program uses a part")]

pub mod graphs;

use pg_caption_captioner::{
    CaptionSequence, Captioner, FinishedCaption, GenerationSettings, InputPreparer, LoadOptions,
    PictureFeatures, PictureOptions, PixelValues, PromptWords, TileViews,
};
use pg_caption_pixels::DecodeOptions;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The workspace's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/captioner is two levels below the root")
        .into()
}

/// The folder of the parity models.
pub fn parity() -> PathBuf {
    workspace().join("tests/parity")
}

/// Initialises ONNX Runtime; `false` and a message if the library is not installed.
pub fn runtime() -> bool {
    let library = match std::env::var_os("PG_CAPTION_ORT") {
        Some(path) => PathBuf::from(path),
        None => workspace().join(".run/onnxruntime/libonnxruntime.so"),
    };
    if !library.exists() {
        println!(
            "skipped: no ONNX Runtime library at {} (PG_CAPTION_ORT names another)",
            library.display()
        );
        return false;
    }
    pg_caption_captioner::init(&library, 1).expect("the installed library loads");
    true
}

/// Opens a folder with the default options.
pub fn open(folder: &Path) -> (Captioner, Arc<InputPreparer>) {
    pg_caption_captioner::load(folder, &LoadOptions::default()).expect("the folder loads")
}

/// A picture of `expected.json`, prepared by the folder's own processor in tiles.
pub fn pixels(preparer: &InputPreparer, image: &str) -> PixelValues {
    pixels_in(preparer, image, TileViews::TILED)
}

/// The same in other views.
pub fn pixels_in(preparer: &InputPreparer, image: &str, views: TileViews) -> PixelValues {
    let bytes = std::fs::read(parity().join("images").join(image)).unwrap();
    let exact = DecodeOptions { exact: true, ..DecodeOptions::default() };
    let decoded = pg_caption_pixels::decode(&bytes, &exact).unwrap();
    preparer.picture(&decoded.rgb, &PictureOptions { views }).unwrap()
}

/// The reference's results for a parity model: `expected.json`, or `expected_one_tile.json` for
/// pictures in one tile.
pub fn expected(model: &str, views: TileViews) -> Value {
    let file = if views == TileViews::TILED { "expected.json" } else { "expected_one_tile.json" };
    serde_json::from_slice(&std::fs::read(parity().join(model).join(file)).unwrap()).unwrap()
}

/// Generates captions together until all have ended; the results by key.
pub fn generate(
    captioner: &mut Captioner,
    sequences: Vec<CaptionSequence>,
) -> BTreeMap<u64, FinishedCaption> {
    let (mut batch, finished) = captioner.begin(sequences).unwrap();
    let mut all: BTreeMap<u64, FinishedCaption> =
        finished.into_iter().map(|f| (f.key, f)).collect();
    while !batch.is_empty() {
        all.extend(captioner.step(&mut batch).unwrap().into_iter().map(|f| (f.key, f)));
    }
    all
}

/// A sequence with the folder's own prompt.
pub fn sequence(
    preparer: &InputPreparer,
    key: u64,
    features: &Arc<PictureFeatures>,
    generation: &Arc<GenerationSettings>,
    max_new_tokens: u32,
) -> CaptionSequence {
    let style = pg_caption_style::builtin("concise").unwrap();
    let prompt = preparer.prompt(&style, PromptWords::default(), features).unwrap();
    CaptionSequence {
        key,
        features: features.clone(),
        prompt,
        max_new_tokens,
        generation: generation.clone(),
    }
}

/// A copy of a parity model in a temporary folder, removed at the end of the test.
pub struct Copy(pub PathBuf);

impl Copy {
    /// Copies the ViT-GPT2 model; `test` distinguishes the tests of one program.
    pub fn of_parity(test: &str) -> Copy {
        Copy::of("vit-gpt2", test)
    }

    /// Copies a model.
    pub fn of(model: &str, test: &str) -> Copy {
        let program =
            std::env::current_exe().unwrap().file_stem().unwrap().to_string_lossy().into_owned();
        let to = std::env::temp_dir()
            .join(format!("pg_caption-{program}-{}-{test}", std::process::id()));
        let _ = std::fs::remove_dir_all(&to);
        let from = parity().join(model);
        for folder in ["", "onnx"] {
            std::fs::create_dir_all(to.join(folder)).unwrap();
            for file in std::fs::read_dir(from.join(folder))
                .unwrap()
                .map(Result::unwrap)
                .filter(|f| f.path().is_file())
            {
                std::fs::copy(file.path(), to.join(folder).join(file.file_name())).unwrap();
            }
        }
        Copy(to)
    }

    /// A graph's file.
    pub fn graph(&self, file: &str) -> PathBuf {
        self.0.join("onnx").join(file)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Truncates a file to half its length.
pub fn truncate(path: &Path) {
    let length = std::fs::metadata(path).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length / 2).unwrap();
}
