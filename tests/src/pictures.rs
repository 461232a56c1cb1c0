//! Pictures to caption: the demo's product pictures if present, or else drawn ones.

use crate::locations;
use jpeg_encoder::{ColorType, Encoder};
use std::path::PathBuf;
use std::sync::OnceLock;

/// A JPEG file. Equal numbers give equal pictures, different numbers different ones.
pub fn jpeg(number: u32) -> Vec<u8> {
    match product_pictures().get(number as usize) {
        Some(path) => std::fs::read(path).expect("a picture"),
        None => drawn(number),
    }
}

fn product_pictures() -> &'static [PathBuf] {
    static PATHS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PATHS.get_or_init(|| {
        let Ok(folder) = std::fs::read_dir(locations::project().join("demo/images")) else {
            return Vec::new();
        };
        let mut paths: Vec<_> = folder
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "jpg"))
            .collect();
        paths.sort();
        paths
    })
}

/// The bytes as an SQL literal of type bytea.
pub fn bytea_literal(bytes: &[u8]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("'\\x{hex}'::bytea")
}

/// 240 × 180 pixels: a disc of one color on a shaded background of another, never blank.
fn drawn(number: u32) -> Vec<u8> {
    const WIDTH: u16 = 240;
    const HEIGHT: u16 = 180;
    let mut random = fastrand::Rng::with_seed(number.into());
    let disc = [random.u8(..), random.u8(..), random.u8(..)];
    // The inverted channel keeps the two colors apart.
    let ground = [random.u8(..), random.u8(..), !disc[0]];
    let radius = random.i32(30..80);
    let mut rgb = Vec::with_capacity(usize::from(WIDTH) * usize::from(HEIGHT) * 3);
    for y in 0..i32::from(HEIGHT) {
        for x in 0..i32::from(WIDTH) {
            let inside = (x - 120).pow(2) + (y - 90).pow(2) < radius.pow(2);
            let shade = (x + y) / 8;
            rgb.extend(
                (if inside { disc } else { ground })
                    .map(|value| (i32::from(value) * 3 / 4 + shade).min(255) as u8),
            );
        }
    }
    let mut file = Vec::new();
    Encoder::new(&mut file, 90)
        .encode(&rgb, WIDTH, HEIGHT, ColorType::Rgb)
        .expect("encoding a picture");
    file
}
