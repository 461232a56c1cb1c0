//! `preprocessor_config.json` of every age gives the arithmetic of its class; unknown values are
//! named.

use pg_caption_pixels::{ImageProcessor, RgbPicture};
use serde_json::{Value, json};

fn processor(config: Value) -> ImageProcessor {
    ImageProcessor::from_json(&config).unwrap()
}

fn refusal(config: Value) -> String {
    ImageProcessor::from_json(&config).unwrap_err().to_string()
}

fn plain(width: u32, height: u32, colour: [u8; 3]) -> RgbPicture {
    RgbPicture { width, height, data: colour.repeat((width * height) as usize) }
}

#[test]
fn a_single_size_number_means_a_square() {
    let old = processor(json!({
        "feature_extractor_type": "ViTFeatureExtractor", "size": 32,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2
    }));
    let new = processor(
        json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}),
    );
    let picture =
        RgbPicture { width: 50, height: 20, data: (0..3000).map(|i| (i % 251) as u8).collect() };
    assert_eq!(old.target(), (32, 32));
    assert_eq!(old.apply(&picture).shape, [1, 3, 32, 32]);
    assert_eq!(old.apply(&picture), new.apply(&picture));
}

#[test]
fn samples_are_scaled_in_double_precision() {
    let config = json!({
        "image_processor_type": "CLIPImageProcessor", "size": {"height": 2, "width": 3},
        "do_center_crop": false, "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225], "rescale_factor": 0.00392156862745098
    });
    let tensor = processor(config).apply(&plain(3, 2, [0, 128, 255]));
    assert_eq!(tensor.shape, [1, 3, 2, 3]);
    let value = |sample: f64, mean: f32, std: f32| {
        ((sample * 0.003_921_568_627_450_98) as f32 - mean) / std
    };
    let expected =
        [value(0.0, 0.485, 0.229), value(128.0, 0.456, 0.224), value(255.0, 0.406, 0.225)];
    assert_eq!(
        tensor.data,
        expected.into_iter().flat_map(|value| [value; 6]).collect::<Vec<_>>(),
        "plane after plane"
    );
}

#[test]
fn disabled_steps_are_skipped() {
    let raw = processor(json!({
        "image_processor_type": "ViTImageProcessor", "size": 2, "do_rescale": false,
        "do_normalize": false
    }));
    assert_eq!(
        raw.apply(&plain(2, 2, [7, 8, 9])).data,
        [7.0, 7.0, 7.0, 7.0, 8.0, 8.0, 8.0, 8.0, 9.0, 9.0, 9.0, 9.0]
    );
}

#[test]
fn the_shortest_edge_keeps_the_ratio() {
    let config = json!({
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 4},
        "crop_size": {"height": 4, "width": 4}, "do_rescale": false, "do_normalize": false,
        "resample": 0
    });
    // The middle four of twelve columns.
    let picture = RgbPicture {
        width: 12,
        height: 4,
        data: (0..48).flat_map(|i| [(i % 12) as u8; 3]).collect(),
    };
    let tensor = processor(config).apply(&picture);
    assert_eq!(tensor.shape, [1, 3, 4, 4]);
    assert_eq!(tensor.data[..4], [4.0, 5.0, 6.0, 7.0]);
}

/// Verified with transformers 4.57.6 for each class.
#[test]
fn cropping_follows_the_reference() {
    let shape = |class: &str| {
        let config = json!({
            "image_processor_type": class, "size": {"height": 8, "width": 8},
            "do_center_crop": true, "crop_size": {"height": 4, "width": 4}
        });
        processor(config).apply(&plain(9, 9, [1, 2, 3])).shape
    };
    for class in ["ViTImageProcessor", "SiglipImageProcessor", "BlipImageProcessor"] {
        assert_eq!(shape(class), [1, 3, 8, 8], "{class}");
    }
    for class in ["DeiTImageProcessor", "CLIPImageProcessor", "ViTImageProcessorFast"] {
        assert_eq!(shape(class), [1, 3, 4, 4], "{class}");
    }
}

#[test]
fn clip_uses_the_shorter_side() {
    let config = |class: &str| {
        json!({
            "image_processor_type": class, "size": {"shortest_edge": 8, "longest_edge": 9},
            "crop_size": 4
        })
    };
    let both = processor(config("CLIPImageProcessor")).apply(&plain(40, 30, [1, 2, 3]));
    assert_eq!(both.shape, [1, 3, 4, 4]);
    let refusal = refusal(config("ViTImageProcessor"));
    assert!(refusal.contains("size.longest_edge") && !refusal.contains("Object"), "{refusal}");
}

#[test]
fn deit_is_normalised_around_a_half() {
    let tensor = processor(json!({"image_processor_type": "DeiTImageProcessor"})).apply(&plain(
        300,
        300,
        [255, 0, 51],
    ));
    let first = |channel: usize| tensor.data[channel * 224 * 224];
    assert_eq!([first(0), first(1), first(2)], [1.0, -1.0, -0.6]);
}

#[test]
fn large_crops_are_padded_with_black() {
    let config = json!({
        "image_processor_type": "CLIPImageProcessor", "size": {"height": 2, "width": 2},
        "crop_size": 5, "do_rescale": false, "do_normalize": false
    });
    let tensor = processor(config).apply(&plain(2, 2, [9, 9, 9]));
    assert_eq!(tensor.shape, [1, 3, 5, 5]);
    // As in the reference, the odd row and column are padded at the top and the left.
    let nines: Vec<_> = tensor.data[..25]
        .iter()
        .enumerate()
        .filter(|(_, value)| **value == 9.0)
        .map(|(i, _)| (i / 5, i % 5))
        .collect();
    assert_eq!(nines, [(2, 2), (2, 3), (3, 2), (3, 3)]);
}

#[test]
fn tiles_come_row_by_row_then_the_whole() {
    let config = |split: bool| {
        json!({
            "image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 64},
            "max_image_size": {"longest_edge": 16}, "do_image_splitting": split
        })
    };
    let picture = plain(200, 100, [1, 2, 3]);
    let tensor = processor(config(true)).apply(&picture);
    assert_eq!(tensor.shape, [1, 9, 3, 16, 16]);
    assert_eq!(tensor.grid.map(|grid| (grid.rows, grid.columns)), Some((2, 4)));
    let single = processor(config(false)).apply(&picture);
    assert_eq!(
        (single.shape.as_slice(), single.grid.map(|grid| (grid.rows, grid.columns))),
        ([1, 1, 3, 16, 16].as_slice(), Some((0, 0)))
    );
}

#[test]
fn unsupported_configuration_is_named() {
    for (config, text) in [
        (json!({}), "image_processor_type"),
        (json!({"image_processor_type": "DonutImageProcessor"}), "DonutImageProcessor"),
        (json!({"image_processor_type": "ViTImageProcessor", "do_resize": false}), "do_resize"),
        (json!({"image_processor_type": "ViTImageProcessor", "resample": 9}), "resample 9"),
        (json!({"image_processor_type": "ViTImageProcessor", "size": 0}), "side"),
        (json!({"image_processor_type": "ViTImageProcessor", "size": {"depth": 3}}), "size.depth"),
        (json!({"image_processor_type": "ViTImageProcessor", "size": {"height": 3}}), "size.width"),
        (
            json!({
                "image_processor_type": "ViTImageProcessor",
                "size": {"height": 3, "width": "wide"}
            }),
            "size.width",
        ),
        (
            json!({
                "image_processor_type": "DeiTImageProcessor",
                "crop_size": {"height": 0, "width": 4}
            }),
            "crop_size.height",
        ),
        (
            json!({
                "image_processor_type": "SmolVLMImageProcessor",
                "max_image_size": {"longest_edge": -1}
            }),
            "max_image_size.longest_edge",
        ),
        (json!({"image_processor_type": "ViTImageProcessor", "image_std": [0, 1, 1]}), "image_std"),
        (
            json!({"image_processor_type": "ViTImageProcessor", "image_mean": "bright"}),
            "image_mean",
        ),
        (
            json!({"image_processor_type": "ViTImageProcessor", "do_rescale": "perhaps"}),
            "do_rescale",
        ),
        (json!({"image_processor_type": "CLIPImageProcessor", "do_center_crop": false}), "ratio"),
    ] {
        let refusal = refusal(config.clone());
        assert!(refusal.contains(text), "{config}: {refusal}");
    }
}

#[test]
fn tensors_stay_within_the_memory_bound() {
    let idefics = |split: bool| {
        json!({
            "image_processor_type": "Idefics3ImageProcessor", "do_image_splitting": split,
            "size": { "longest_edge": 256 }, "max_image_size": { "longest_edge": 64 }
        })
    };
    let clip = json!({
        "image_processor_type": "CLIPImageProcessor", "size": { "shortest_edge": 48 },
        "crop_size": { "height": 40, "width": 40 }
    });
    for config in [
        idefics(true),
        idefics(false),
        clip,
        json!({
            "image_processor_type": "ViTImageProcessor", "size": { "height": 32, "width": 48 }
        }),
    ] {
        let processor = processor(config.clone());
        for (width, height) in [(64, 48), (7, 300), (300, 7), (256, 256), (1, 1)] {
            let picture =
                RgbPicture { width, height, data: vec![90; (width * height * 3) as usize] };
            let taken = 4 * processor.apply(&picture).data.len() as u64;
            let bound = processor.memory_for(width, height);
            assert!(
                taken <= bound && bound <= 2 * taken + 3 * 4096 * 4096,
                "{width} x {height}: {taken} bytes, bound {bound}: {config}"
            );
        }
    }
}
