//! Pictures to caption: the project's product pictures where they are, else drawn ones.

use crate::place;
use jpeg_encoder::{ColorType, Encoder};
use std::path::PathBuf;
use std::sync::OnceLock;

/// A JPEG file. Different numbers are different pictures, the same number is always the same one.
pub fn jpeg(number: u32) -> Vec<u8> {
    match product_pictures().get(number as usize) {
        Some(path) => std::fs::read(path).expect("a picture"),
        None => drawn(number),
    }
}

fn product_pictures() -> &'static [PathBuf] {
    static PATHS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PATHS.get_or_init(|| {
        let Ok(folder) = std::fs::read_dir(place::project().join("demo/images")) else {
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

/// 240 × 180 pixels: a disc of one colour on a shaded ground of another, never blank.
fn drawn(number: u32) -> Vec<u8> {
    const WIDTH: u16 = 240;
    const HEIGHT: u16 = 180;
    // Neighbouring numbers are far apart in colour and size.
    let spread =
        |salt: u32| number.wrapping_add(1).wrapping_mul(2_654_435_761).rotate_left(salt * 7) as u8;
    let (disc, ground, radius) = (
        [spread(0), spread(1), spread(2)],
        [spread(3), spread(4), !spread(0)],
        30 + i32::from(spread(5) % 50),
    );
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
