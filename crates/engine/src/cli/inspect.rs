//! `pg_caption_engine inspect`: what the engine sees of a file, or why it refuses it.

use super::Inspect;
use pg_caption_pixels::{DecodeOptions, DecodedPicture, decode, encode_png, mean_rgb_2x2};
use pg_caption_wire::{Failure, FailureClass};
use serde_json::json;
use std::path::Path;

/// Runs it; whether every file worked.
///
/// # Errors
/// The picture could not be written.
pub fn run(options: &Inspect) -> Result<bool, String> {
    if options.out.is_some() && options.files.len() > 1 {
        return Err("--out takes one file".into());
    }
    let mut all = true;
    for file in &options.files {
        let shown = file.display();
        match see(file) {
            Ok(seen) => {
                let means = mean_rgb_2x2(&seen.rgb);
                if options.json {
                    println!(
                        "{}",
                        json!({ "file": shown.to_string(), "format": seen.format.to_string(), "width": seen.width, "height": seen.height,
                                "mean_rgb_2x2": means, "blank": seen.blank.map(|b| b.words()) })
                    );
                } else {
                    println!(
                        "{shown}: {} {}x{}, mean RGB of the quarters {means:?}",
                        seen.format, seen.width, seen.height
                    );
                    if let Some(blank) = seen.blank {
                        println!("{shown}: the picture {}", blank.words());
                    }
                }
                if let Some(out) = &options.out {
                    std::fs::write(out, encode_png(&seen.rgb))
                        .map_err(|e| format!("{}: {e}", out.display()))?;
                }
            }
            Err(failure) => {
                all = false;
                if options.json {
                    let Failure { class, code, message, detail, .. } = failure;
                    println!(
                        "{}",
                        json!({ "file": shown.to_string(), "error_class": class.name(), "error_code": code, "error": message, "detail": detail })
                    );
                } else {
                    println!("{shown}: {}: {}", failure.class.name(), failure.message);
                }
            }
        }
    }
    Ok(all)
}

fn see(file: &Path) -> Result<DecodedPicture, Failure> {
    let bytes = read(file)?;
    // In full size, as `--out` shows it.
    decode(&bytes, &DecodeOptions::default()).map_err(|e| e.failure())
}

/// A file's bytes.
pub fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file)
        .map_err(|e| Failure::new(FailureClass::Reject, "unreadable_file", e.to_string()))
}
