//! Every file of the hostile collection is decoded or rejected as its manifest states.
//!
//! Needs the collection (`PG_CAPTION_SHARED`, or `../shared` next to the project); passes with a
//! message where it is absent.

mod shared;

use std::{fs, time::Instant};

use pg_caption_pixels::{DecodeOptions, decode, mean_rgb_2x2, probe};
use pg_caption_wire::FailureClass;
use serde_json::Value;

/// Files whose manifest entry contradicts their content: any result without a panic is accepted.
/// `72_panic.webp` made an old decoder panic, but it is a well-formed two-colour picture with the
/// same pixels in libwebp 1.5.
const CONTESTED: [&str; 1] = ["files/72_panic.webp"];

#[test]
fn every_hostile_file_meets_its_expectation() {
    let Some(folder) = shared::folder("hostile") else { return };
    let manifest = fs::read_to_string(folder.join("manifest.jsonl")).unwrap();
    let mut wrong = Vec::new();
    for line in manifest.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let name = entry["file"].as_str().unwrap();
        let bytes = fs::read(folder.join(name)).unwrap();
        let started = Instant::now();
        let result = judge(&bytes, &entry);
        match result {
            Ok(what) => println!("{name}: {what} ({} ms)", started.elapsed().as_millis()),
            Err(why) => wrong.push(format!("{name} ({}): {why}", entry["hard"].as_str().unwrap())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn judge(bytes: &[u8], entry: &Value) -> Result<String, String> {
    let expect = entry["expect"].as_str().unwrap();
    let decoded = match decode(bytes, &DecodeOptions::default()) {
        Err(error) if expect == "decode" => {
            return Err(format!("refused: {error} {:?}", error.failure().detail));
        }
        Err(error) if error.class() != FailureClass::Reject => {
            return Err(format!("refused as {:?}", error.class()));
        }
        Err(error) => return Ok(format!("{}: {error}", error.code())),
        Ok(_) if expect == "refuse" && !CONTESTED.contains(&entry["file"].as_str().unwrap()) => {
            return Err("decoded".to_owned());
        }
        Ok(decoded) => decoded,
    };
    let header =
        probe(bytes).map_err(|error| format!("decoded, but its header is refused: {error}"))?;
    if header.upright_size() != (decoded.width, decoded.height) {
        return Err("the header announces another size than was decoded".to_owned());
    }
    if let Some(width) = entry["upright_width"].as_u64() {
        let expected = (width, entry["upright_height"].as_u64().unwrap());
        let found = (u64::from(decoded.rgb.width), u64::from(decoded.rgb.height));
        if found != expected {
            return Err(format!("{found:?} pixels instead of {expected:?}"));
        }
    }
    if let Some(quarters) = entry["ref_mean_rgb_2x2"].as_array() {
        // Some entries state that their reference colours are approximate.
        let allowed = if entry["note"].as_str().is_some_and(|note| note.contains("allow 40")) {
            40
        } else {
            6
        };
        // The reference ignores colour profiles.
        let exact = DecodeOptions { exact: true, ..DecodeOptions::default() };
        let found = mean_rgb_2x2(&decode(bytes, &exact).map_or(decoded.rgb, |exact| exact.rgb));
        for (found_quarter, expected) in found.iter().zip(quarters) {
            for (value, expected) in found_quarter.iter().zip(expected.as_array().unwrap()) {
                if (i64::from(*value) - expected.as_i64().unwrap()).abs() > allowed {
                    return Err(format!("colours {found:?} instead of {quarters:?}"));
                }
            }
        }
    }
    Ok(format!(
        "decoded as {}, {} x {}, {:?}",
        decoded.format, decoded.width, decoded.height, decoded.blank
    ))
}
