//! Recognises formats by their first bytes, never by a name or a Content-Type.

use crate::format::{AVIF, HEIC};
use crate::{PictureError, PictureFormat};

/// Text is recognised within this many bytes.
const MAX_TEXT_PREFIX: usize = 4096;

/// The format of the bytes, or an error that describes them.
pub(crate) fn recognise(bytes: &[u8]) -> Result<PictureFormat, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    if let Some(format) = decodable(bytes) {
        return Ok(format);
    }
    if let Some((name, code)) = other_picture(bytes) {
        match code {
            AVIF if cfg!(feature = "heif") => return Ok(PictureFormat::Avif),
            HEIC if cfg!(feature = "heif") => return Ok(PictureFormat::Heic),
            _ => {}
        }
        return Err(PictureError::UnsupportedFormat { name, code });
    }
    let seems = binary(bytes)
        .or_else(|| text(&bytes[..bytes.len().min(MAX_TEXT_PREFIX)]))
        .unwrap_or("a file of unknown kind");
    Err(PictureError::NotAnImage { seems })
}

fn decodable(bytes: &[u8]) -> Option<PictureFormat> {
    Some(match bytes {
        [0xFF, 0xD8, 0xFF, ..] => PictureFormat::Jpeg,
        [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => PictureFormat::Png,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => PictureFormat::WebP,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => PictureFormat::Gif,
        // A BMP's info header has one of the known sizes; many texts begin with "BM".
        [
            b'B',
            b'M',
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            12 | 40 | 52 | 56 | 64 | 108 | 124,
            0,
            0,
            0,
            ..,
        ] => PictureFormat::Bmp,
        [b'I', b'I', 42, 0, ..]
        | [b'M', b'M', 0, 42, ..]
        | [b'I', b'I', 43, 0, ..]
        | [b'M', b'M', 0, 43, ..] => PictureFormat::Tiff,
        _ => return None,
    })
}

/// Pictures in formats this build does not decode: their name and failure code.
fn other_picture(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    if bytes.len() >= 12 && &bytes[4..8] == b"ftyp" {
        // The major brand, then the compatible ones: some phones write `mif1` first.
        let end = usize::try_from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .unwrap_or(0)
            .clamp(12, bytes.len().min(256));
        let brands = || {
            std::iter::once(&bytes[8..12]).chain(bytes.get(16..end).unwrap_or(&[]).chunks_exact(4))
        };
        if brands().any(|brand| matches!(brand, b"avif" | b"avis")) {
            return Some(("AVIF", AVIF));
        }
        if brands().any(|brand| {
            matches!(
                brand,
                b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" | b"mif1" | b"msf1"
            )
        }) {
            return Some(("HEIC", HEIC));
        }
        if brands().any(|brand| matches!(brand, b"crx ")) {
            return Some(("camera raw", "raw_unsupported"));
        }
    }
    Some(match bytes {
        [0xFF, 0x0A, ..] | [0, 0, 0, 0x0C, b'J', b'X', b'L', b' ', ..] => {
            ("JPEG XL", "jxl_unsupported")
        }
        [0, 0, 0, 0x0C, b'j', b'P', b' ', b' ', ..] | [0xFF, 0x4F, 0xFF, 0x51, ..] => {
            ("JPEG 2000", "jpeg2000_unsupported")
        }
        [b'8', b'B', b'P', b'S', ..] => ("Photoshop", "psd_unsupported"),
        [0, 0, 1 | 2, 0, n, 0, ..] if *n > 0 => ("icon", "ico_unsupported"),
        [b'I', b'I', 0xBC, ..] => ("JPEG XR", "jxr_unsupported"),
        [b'q', b'o', b'i', b'f', ..] => ("QOI", "qoi_unsupported"),
        [0x76, 0x2F, 0x31, 0x01, ..] => ("OpenEXR", "exr_unsupported"),
        [b'D', b'D', b'S', b' ', ..] => ("DDS", "dds_unsupported"),
        [b'P', b'1'..=b'7', b' ' | b'\n' | b'\r' | b'\t', ..] => ("PNM", "pnm_unsupported"),
        [0xC5, 0xD0, 0xD3, 0xC6, ..] | [b'%', b'!', b'P', b'S', ..] => {
            ("PostScript", "eps_unsupported")
        }
        [0xD7, 0xCD, 0xC6, 0x9A, ..] => ("WMF", "wmf_unsupported"),
        _ if is_svg(bytes) => ("SVG", "svg_unsupported"),
        _ => return None,
    })
}

fn binary(bytes: &[u8]) -> Option<&'static str> {
    Some(match bytes {
        [b'%', b'P', b'D', b'F', ..] => "a PDF document",
        [b'P', b'K', 3 | 5 | 7, 4 | 6 | 8, ..] => "a ZIP archive or an office document",
        [0x1F, 0x8B, ..] => "a gzip archive",
        [b'B', b'Z', b'h', ..]
        | [0xFD, b'7', b'z', b'X', b'Z', ..]
        | [0x28, 0xB5, 0x2F, 0xFD, ..] => "a compressed archive",
        [b'7', b'z', 0xBC, 0xAF, ..] | [b'R', b'a', b'r', b'!', ..] => "an archive",
        [_, _, _, _, b'f', b't', b'y', b'p', ..]
        | [0x1A, 0x45, 0xDF, 0xA3, ..]
        | [b'F', b'L', b'V', 1, ..]
        | [0, 0, 1, 0xBA, ..] => "a video",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => "a video",
        [b'I', b'D', b'3', ..] | [b'O', b'g', b'g', b'S', ..] | [b'f', b'L', b'a', b'C', ..] => {
            "a sound file"
        }
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => "a sound file",
        [0x7F, b'E', b'L', b'F', ..] | [b'M', b'Z', ..] => "a program",
        [b'w', b'O', b'F', b'F' | b'2', ..] => "a font",
        [0xD0, 0xCF, 0x11, 0xE0, ..] => "an office document",
        _ => return None,
    })
}

fn text(bytes: &[u8]) -> Option<&'static str> {
    let start = skip_blank(bytes);
    let lower = start[..start.len().min(1024)].to_ascii_lowercase();
    let contains = |text: &[u8]| lower.windows(text.len()).any(|window| window == text);
    if lower.first() == Some(&b'<') {
        const HTML: [&[u8]; 11] = [
            b"<!doctype html",
            b"<html",
            b"<head",
            b"<body",
            b"<script",
            b"<title",
            b"<div",
            b"<p>",
            b"<p ",
            b"<h1",
            b"<img",
        ];
        return Some(if HTML.iter().any(|tag| contains(tag)) {
            "an HTML page"
        } else if contains(b"<?xml") || contains(b"</") || contains(b"/>") {
            "an XML document"
        } else {
            "a text"
        });
    }
    let readable =
        !start.is_empty() && !start.iter().any(|byte| matches!(byte, 0..=8 | 14..=26 | 28..=31));
    match lower.first() {
        Some(b'{' | b'[') if readable => Some("a JSON document"),
        Some(_) if readable => Some("a text"),
        None => Some("a file of blanks"),
        _ => None,
    }
}

fn is_svg(bytes: &[u8]) -> bool {
    let start = skip_blank(&bytes[..bytes.len().min(MAX_TEXT_PREFIX)]);
    let lower = start.to_ascii_lowercase();
    let contains = |text: &[u8]| lower.windows(text.len()).position(|window| window == text);
    // An SVG inside an HTML page does not make the page a picture.
    lower.first() == Some(&b'<')
        && contains(b"<svg").is_some_and(|at| {
            contains(b"<html").or_else(|| contains(b"<body")).is_none_or(|page| at < page)
        })
}

fn skip_blank(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(&[0xEF, 0xBB, 0xBF]).unwrap_or(bytes).trim_ascii_start()
}
