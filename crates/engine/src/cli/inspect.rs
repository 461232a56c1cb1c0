//! `pg_caption_engine inspect`: a file as the engine decodes it, or why it refuses the file.

use super::InspectArgs;
use crate::failures;
use pg_caption_pixels::{DecodeOptions, DecodedPicture, decode, encode_png, mean_rgb_2x2};
use pg_caption_wire::Failure;
use serde_json::json;
use std::path::Path;

/// Runs it. Returns whether every file was decoded.
///
/// # Errors
/// The picture could not be written.
pub fn run(options: &InspectArgs) -> Result<bool, String> {
    if options.out.is_some() && options.files.len() > 1 {
        return Err("--out takes one file".into());
    }
    let mut all = true;
    for file in &options.files {
        let shown = file.display();
        match decode_file(file, options.exact) {
            Ok(decoded) => {
                let means = mean_rgb_2x2(&decoded.rgb);
                if options.json {
                    println!(
                        "{}",
                        json!({
                            "file": shown.to_string(),
                            "format": decoded.format.to_string(),
                            "width": decoded.width,
                            "height": decoded.height,
                            "mean_rgb_2x2": means,
                            "blank": decoded.blank.map(|b| b.words()),
                        })
                    );
                } else {
                    println!(
                        "{shown}: {} {}x{}, mean RGB of the quarters {means:?}",
                        decoded.format, decoded.width, decoded.height
                    );
                    if let Some(blank) = decoded.blank {
                        println!("{shown}: the picture {}", blank.words());
                    }
                }
                if let Some(out) = &options.out {
                    std::fs::write(out, encode_png(&decoded.rgb))
                        .map_err(|e| format!("{}: {e}", out.display()))?;
                }
            }
            Err(failure) => {
                all = false;
                if options.json {
                    let Failure { class, code, message, detail, hint, .. } = failure;
                    println!(
                        "{}",
                        json!({
                            "file": shown.to_string(),
                            "error_class": class.name(),
                            "error_code": code,
                            "error": message,
                            "detail": detail,
                            "hint": hint,
                        })
                    );
                } else {
                    println!("{shown}: {}: {}", failure.class.name(), failure.message);
                }
            }
        }
    }
    Ok(all)
}

fn decode_file(file: &Path, exact: bool) -> Result<DecodedPicture, Failure> {
    let bytes = read(file)?;
    // In full size, as `--out` writes it.
    let options = DecodeOptions { exact, ..DecodeOptions::default() };
    decode(&bytes, &options).map_err(|e| e.failure())
}

/// The bytes of a file.
pub fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|e| failures::unreadable_file(&e))
}
