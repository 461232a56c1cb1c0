//! What the tests on real graphs share: the library, the parity model and its pictures.

#![allow(dead_code, reason = "each test program uses a part")]

use pg_caption_captioner::{Captioner, Features, Finished, Generation, LoadOptions, PictureOptions, Pixels, Preparer, Sequence};
use pg_caption_pixels::DecodeOptions;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The project's root.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("crates/captioner lies two levels down").into()
}

/// Files of the parity model.
pub fn parity() -> PathBuf {
    workspace().join("tests/parity")
}

/// Initialises ONNX Runtime; `false`, said plainly, if the library is not installed here.
pub fn runtime() -> bool {
    let library = match std::env::var_os("PG_CAPTION_ORT") {
        Some(path) => PathBuf::from(path),
        None => workspace().join(".run/onnxruntime/libonnxruntime.so"),
    };
    if !library.exists() {
        println!("skipped: no ONNX Runtime library at {} (PG_CAPTION_ORT names another)", library.display());
        return false;
    }
    pg_caption_captioner::init(&library, 1).expect("the installed library loads");
    true
}

/// Opens a folder with every choice left to the defaults.
pub fn open(folder: &Path) -> (Captioner, Arc<Preparer>) {
    pg_caption_captioner::load(folder, &LoadOptions::default()).expect("the folder loads")
}

/// The pictures of `expected.json`, prepared by the folder's own processor.
pub fn pixels(preparer: &Preparer, image: &str) -> Pixels {
    let bytes = std::fs::read(parity().join("images").join(image)).unwrap();
    let exact = DecodeOptions { exact: true, ..DecodeOptions::default() };
    let decoded = pg_caption_pixels::decode(&bytes, &exact).unwrap();
    preparer.picture(&decoded.rgb, &PictureOptions::default()).unwrap()
}

/// `expected.json`.
pub fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(parity().join("vit-gpt2/expected.json")).unwrap()).unwrap()
}

/// Generates captions together until all are done; what each one became, by key.
pub fn generate(captioner: &mut Captioner, sequences: Vec<Sequence>) -> BTreeMap<u64, Finished> {
    let (mut batch, finished) = captioner.begin(sequences).unwrap();
    let mut all: BTreeMap<u64, Finished> = finished.into_iter().map(|f| (f.key, f)).collect();
    while !batch.is_empty() {
        all.extend(captioner.step(&mut batch).unwrap().into_iter().map(|f| (f.key, f)));
    }
    all
}

/// A sequence with the folder's own prompt.
pub fn sequence(preparer: &Preparer, key: u64, features: &Arc<Features>, generation: &Arc<Generation>, max_new_tokens: u32) -> Sequence {
    let style = pg_caption_register::builtin("concise").unwrap();
    let prompt = preparer.prompt(&style, None, None).unwrap();
    Sequence { key, features: features.clone(), prompt, max_new_tokens, generation: generation.clone() }
}
