//! Tensors equal those of the reference implementation, value for value.
//!
//! Needs the parity folder (`PG_CAPTION_SHARED`, or `../shared` next to the project); passes with a
//! message where it is absent.

mod shared;

use std::fs;

use pg_caption_pixels::{
    DecodeOptions, ImageProcessor, RgbPicture, decode, sha256_bytes, sha256_f32,
};
use serde_json::Value;

/// Intentional differences: transparency over white, the high byte of 16-bit gray.
const DIFFERENT_ON_PURPOSE: [&str; 4] =
    ["07_rgba.png", "09_palette.png", "11_gray16.png", "14_la.png"];

#[test]
fn opaque_pictures_decode_to_reference_rgb() {
    let Some(folder) = shared::folder("parity") else { return };
    for (name, expected) in images(&folder.join("vit-gpt2/expected.json")) {
        let picture = exact(&folder, &name);
        assert_eq!(
            (u64::from(picture.width), u64::from(picture.height)),
            (expected["width"].as_u64().unwrap(), expected["height"].as_u64().unwrap()),
            "{name}"
        );
        assert_eq!(sha256_bytes(&picture.data), expected["rgb_sha256"].as_str().unwrap(), "{name}");
    }
}

#[test]
fn pixel_values_of_vit_match() {
    assert_pixel_values_match("vit-gpt2", "expected.json");
}

#[test]
fn pixel_values_of_florence2_match() {
    assert_pixel_values_match("florence2", "expected.json");
}

#[test]
fn pixel_values_of_small_tiles_match() {
    assert_pixel_values_match("smolvlm", "expected.json");
}

#[test]
fn pixel_values_of_full_size_tiles_match() {
    assert_pixel_values_match("smolvlm", "preprocess_2048_512.json");
}

fn assert_pixel_values_match(model: &str, expected: &str) {
    let Some(folder) = shared::folder("parity") else { return };
    let expected_path = folder.join(model).join(expected);
    let whole = json(&expected_path);
    let config = whole
        .get("preprocessor_config")
        .cloned()
        .unwrap_or_else(|| json(&folder.join(model).join("preprocessor_config.json")));
    let processor = ImageProcessor::from_json(&config).unwrap();
    let mut compared = 0;
    for (name, expected) in images(&expected_path) {
        let tensor = processor.apply(&exact(&folder, &name));
        let shape: Vec<u64> = tensor.shape.iter().map(|n| *n as u64).collect();
        assert_eq!(Value::from(shape), expected["pixel_values"]["shape"], "{name}");
        assert_eq!(tensor.shape.iter().product::<usize>(), tensor.data.len(), "{name}");
        assert_eq!(
            sha256_f32(&tensor.data),
            expected["pixel_values"]["sha256"].as_str().unwrap(),
            "{name}"
        );
        if let Some(rows) = expected["rows"].as_u64() {
            let grid = tensor.grid.expect("a processor with tiles returns its grid");
            assert_eq!(
                (u64::from(grid.rows), u64::from(grid.columns)),
                (rows, expected["cols"].as_u64().unwrap()),
                "{name}"
            );
        }
        compared += 1;
    }
    assert!(compared >= 3, "only {compared} pictures were compared");
}

fn exact(folder: &std::path::Path, name: &str) -> RgbPicture {
    let bytes = fs::read(folder.join("images").join(name)).unwrap();
    decode(&bytes, &DecodeOptions { exact: true, ..DecodeOptions::default() })
        .unwrap_or_else(|error| panic!("{name}: {error}"))
        .rgb
}

fn images(path: &std::path::Path) -> Vec<(String, Value)> {
    let images = json(path)["images"].as_object().unwrap().clone();
    images.into_iter().filter(|(name, _)| !DIFFERENT_ON_PURPOSE.contains(&name.as_str())).collect()
}

fn json(path: &std::path::Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
