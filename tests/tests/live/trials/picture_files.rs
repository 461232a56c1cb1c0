//! What is wrong with files that hosts serve.

use super::{Trial, Trials};
use jpeg_encoder::{ColorType, Encoder};
use pg_caption_tests::{ServerAnswer, TestServer, pictures, shared_database};

/// The first bytes of formats that are recognised, but not decoded.
const UNSUPPORTED: [(&str, &[u8]); 16] = [
    ("avif_unsupported", b"\0\0\0\x1Cftypavif\0\0\0\0mif1avif"),
    ("heic_unsupported", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    ("jxl_unsupported", b"\xFF\x0A\0"),
    ("jxr_unsupported", b"II\xBC\x01"),
    ("jpeg2000_unsupported", b"\xFF\x4F\xFF\x51"),
    ("raw_unsupported", b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom"),
    ("psd_unsupported", b"8BPS\0\x01"),
    ("svg_unsupported", b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>"),
    ("eps_unsupported", b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    ("wmf_unsupported", b"\xD7\xCD\xC6\x9A\0\0"),
    ("ico_unsupported", b"\0\0\x01\0\x01\0\x10\x10"),
    ("qoi_unsupported", b"qoif\0\0\0\x01"),
    ("exr_unsupported", b"\x76\x2F\x31\x01"),
    ("dds_unsupported", b"DDS \x7C\0\0\0"),
    ("pnm_unsupported", b"P6\n1 1\n255\n"),
    ("not_an_image", b"<!DOCTYPE html><title>Sign in</title>"),
];

/// The header of a BMP of 24 bits a pixel, without its pixels.
fn bmp(width: u32, height: u32) -> Vec<u8> {
    let mut file = b"BM".to_vec();
    let fields = [54, 0, 54, 40, width, height, 1 | 24 << 16, 0, 0, 0, 0, 0, 0];
    file.extend(fields.into_iter().flat_map(u32::to_le_bytes));
    file
}

/// A JPEG of 64 × 64 pixels in which every pixel is `grey`, or noise.
fn jpeg(grey: Option<u8>, progressive: bool) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    let pixels: Vec<u8> = (0..64 * 64).map(|_| grey.unwrap_or_else(|| random.u8(..))).collect();
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, 90);
    encoder.set_progressive(progressive);
    encoder.encode(&pixels, 64, 64, ColorType::Luma).expect("a picture");
    file
}

/// Where a marker of a JPEG is for the last time.
fn marker(file: &[u8], marker: u8) -> usize {
    file.windows(2).rposition(|pair| pair == [0xFF, marker]).expect("a marker")
}

/// A progressive JPEG with its last scan 150 times.
fn many_scans() -> Vec<u8> {
    let file = jpeg(None, true);
    let (head, scan) = file[..file.len() - 2].split_at(marker(&file, 0xDA));
    [head, &scan.repeat(150), &[0xFF, 0xD9]].concat()
}

/// A JPEG that claims 12 bits a sample.
fn twelve_bits() -> Vec<u8> {
    let mut file = jpeg(None, false);
    let frame = marker(&file, 0xC0);
    file[frame + 4] = 12;
    file
}

/// Tries files.
pub fn run(trials: &mut Trials) {
    let mut files: Vec<(&'static str, Vec<u8>)> =
        UNSUPPORTED.into_iter().map(|(code, bytes)| (code, bytes.to_vec())).collect();
    files.extend([
        ("empty", Vec::new()),
        ("image_truncated", pictures::jpeg(1)[..700].to_vec()),
        ("image_damaged", b"GIF89a\x10\0\x10\0\0\0\0;".to_vec()),
        ("image_unsupported", twelve_bits()),
        ("too_many_pixels", bmp(20_000, 20_000)),
        ("too_large", vec![0; 51 << 20]),
        ("side_too_long", bmp(2_000_000, 1)),
        ("too_many_scans", many_scans()),
        ("blank", jpeg(Some(200), false)),
    ]);
    let (db, web) = (shared_database(), TestServer::start());
    let found: Vec<Trial> = files
        .into_iter()
        .map(|(code, file)| {
            Trial::new(code, web.serve(&format!("/{code}"), ServerAnswer::body(file, "")))
        })
        .collect();
    trials.run(&mut db.session(), &found);
}
