//! Builds with the feature `heif`; the files are written by the encoders of the system's libheif.
#![cfg(feature = "heif")]

mod drawn;

use drawn::{COLOURS, quarters};
use libheif_rs::{
    Channel, ColorSpace, CompressionFormat, EncoderQuality, HeifContext, Image, LibHeif, RgbChroma,
};
use pg_caption_pixels::{
    BlankKind, DecodeLimits, DecodeOptions, PictureFormat, decode, mean_rgb_2x2, probe,
};
use pg_caption_wire::FailureClass;

/// A file of an RGBA picture; `None` and a message if libheif has no encoder for it.
fn file(width: u32, height: u32, alpha: u8, compression: CompressionFormat) -> Option<Vec<u8>> {
    let library = LibHeif::new();
    let Ok(mut encoder) = library.encoder_for_format(compression) else {
        println!("skipped: libheif has no encoder for {compression:?} here");
        return None;
    };
    encoder.set_quality(EncoderQuality::Lossy(90)).unwrap();
    let mut image = Image::new(width, height, ColorSpace::Rgb(RgbChroma::Rgba)).unwrap();
    image.create_plane(Channel::Interleaved, width, height, 8).unwrap();
    let picture = quarters(width, height);
    let plane = image.planes_mut().interleaved.unwrap();
    for (x, y, pixel) in picture.enumerate_pixels() {
        let at = y as usize * plane.stride + x as usize * 4;
        plane.data[at..at + 3].copy_from_slice(&pixel.0);
        plane.data[at + 3] = alpha;
    }
    let mut context = HeifContext::new().unwrap();
    context.encode_image(&image, &mut encoder, None).unwrap();
    Some(context.write_to_bytes().unwrap())
}

fn kinds() -> [(CompressionFormat, PictureFormat); 2] {
    [(CompressionFormat::Av1, PictureFormat::Avif), (CompressionFormat::Hevc, PictureFormat::Heic)]
}

#[test]
fn avif_and_heic_decode_to_the_drawn_picture() {
    for (compression, format) in kinds() {
        let Some(bytes) = file(64, 48, 255, compression) else { continue };
        let decoded = decode(&bytes, &DecodeOptions::default()).unwrap();
        assert_eq!(
            (decoded.format, decoded.width, decoded.height, decoded.blank),
            (format, 64, 48, None)
        );
        assert_eq!(probe(&bytes).unwrap().upright_size(), (64, 48));
        for (found, drawn) in mean_rgb_2x2(&decoded.rgb).iter().zip(COLOURS) {
            assert!(
                found.iter().zip(drawn).all(|(a, b)| a.abs_diff(b) <= 6),
                "{format}: {found:?} instead of {drawn:?}"
            );
        }
    }
}

#[test]
fn transparency_is_composed_over_white() {
    for (compression, format) in kinds() {
        let Some(bytes) = file(64, 48, 0, compression) else { continue };
        let decoded = decode(&bytes, &DecodeOptions::default()).unwrap();
        assert_eq!(decoded.blank, Some(BlankKind::Transparent), "{format}");
        assert!(decoded.rgb.data.iter().all(|value| *value >= 250), "{format}");
    }
}

#[test]
fn limits_hold_and_damage_is_refused() {
    for (compression, format) in kinds() {
        let Some(bytes) = file(64, 48, 255, compression) else { continue };
        let limited = |limits| {
            decode(&bytes, &DecodeOptions { limits, ..DecodeOptions::default() })
                .unwrap_err()
                .code()
        };
        assert_eq!(
            limited(DecodeLimits { max_pixels: 3000, ..DecodeLimits::default() }),
            "too_many_pixels",
            "{format}"
        );
        assert_eq!(
            limited(DecodeLimits { memory: Some(1 << 20), ..DecodeLimits::default() }),
            "too_much_memory",
            "{format}"
        );
        for keep in 0..bytes.len() {
            if let Err(error) = decode(&bytes[..keep], &DecodeOptions::default()) {
                assert_eq!(
                    error.class(),
                    FailureClass::Reject,
                    "{format}, {keep} bytes: {error:?}"
                );
            }
        }
    }
}
