//! Rejected files: class, code, message and hint are part of the interface.

mod drawn;

use std::time::Instant;

use drawn::{detailed, file, gray_jpeg, jpeg, lossless_jpeg, quarters, tiff, tiff_with};
use image::{ImageFormat, Rgba, RgbaImage};
use pg_caption_pixels::{DecodeLimits, DecodeOptions, PictureError, decode, probe, probe_within};
use pg_caption_wire::FailureClass;

fn refusal(bytes: &[u8]) -> PictureError {
    decode(bytes, &DecodeOptions::default()).expect_err("this must be refused")
}

fn limited(bytes: &[u8], limits: DecodeLimits) -> Result<(), PictureError> {
    decode(bytes, &DecodeOptions { limits, ..DecodeOptions::default() }).map(|_| ())
}

#[test]
fn non_pictures_are_described() {
    for (bytes, seems) in [
        (&b"<!DOCTYPE html><title>404</title>"[..], "an HTML page"),
        (b"\xEF\xBB\xBF \n<HTML><body>gone</body></HTML>", "an HTML page"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
        (b"{\"error\": \"not found\"}", "a JSON document"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"PK\x03\x04....", "a ZIP archive or an office document"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a video"),
        (b"Not found", "a text"),
        (b"\x01\x02\x03\x04\x05", "a file of unknown kind"),
    ] {
        let error = refusal(bytes);
        assert_eq!(error, PictureError::NotAnImage { seems });
        assert_eq!((error.class(), error.code()), (FailureClass::Reject, "not_an_image"));
        assert!(error.failure().message.contains(seems));
    }
    assert_eq!(refusal(b""), PictureError::Empty);
}

#[test]
fn unsupported_formats_have_their_own_codes() {
    // A build that decodes these two formats reports damage, since the files are truncated.
    let [avif, heic] = if cfg!(feature = "heif") {
        ["image_damaged"; 2]
    } else {
        ["avif_unsupported", "heic_unsupported"]
    };
    for (bytes, code) in [
        (&b"\0\0\0\x1Cftypavif\0\0\0\0mif1avif"[..], avif),
        (b"\0\0\0\x1Cftypmif1\0\0\0\0mif1avif\0\0\0\0", avif),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", heic),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", heic),
        (
            b"<?xml version=\"1.0\"?>\n<!-- drawn --><svg xmlns=\"http://www.w3.org/2000/svg\"/>",
            "svg_unsupported",
        ),
        (b"8BPS\0\x01", "psd_unsupported"),
        (b"\xFF\x0A\x00", "jxl_unsupported"),
        (b"\0\0\x01\0\x01\0\x10\x10", "ico_unsupported"),
    ] {
        let error = refusal(bytes);
        assert_eq!((error.class(), error.code()), (FailureClass::Reject, code));
        assert!(
            code == "image_damaged"
                || error.failure().hint.is_some_and(|hint| hint.contains("JPEG"))
        );
    }
}

#[test]
fn html_with_svg_is_html() {
    assert_eq!(
        refusal(b"<html><body><svg></svg></body></html>"),
        PictureError::NotAnImage { seems: "an HTML page" }
    );
}

#[test]
fn long_sides_are_refused_from_the_header() {
    let thread = |height: u32| {
        let mut png = file(quarters(1, 2), ImageFormat::Png);
        png[20..24].copy_from_slice(&height.to_be_bytes());
        png
    };
    assert_eq!(
        refusal(&thread(1_000_001)),
        PictureError::SideTooLong { width: 1, height: 1_000_001, limit: 1_000_000 }
    );
    assert_eq!(refusal(&thread(1_000_001)).code(), "side_too_long");
    assert_ne!(refusal(&thread(1_000_000)).code(), "side_too_long");
    // `image` refuses such a BMP as if it were damaged.
    let mut bmp = file(quarters(1, 2), ImageFormat::Bmp);
    bmp[18..22].copy_from_slice(&65_536_u32.to_le_bytes());
    let expected = PictureError::SideTooLong { width: 65_536, height: 2, limit: 65_535 };
    assert_eq!(refusal(&bmp), expected);
    assert_eq!(probe_within(&bmp, &DecodeOptions::default()), Err(expected));
}

#[test]
fn too_many_pixels_are_refused_from_the_header() {
    for bytes in [
        jpeg(&quarters(40, 30), false),
        file(quarters(40, 30), ImageFormat::Png),
        file(quarters(40, 30), ImageFormat::WebP),
        file(quarters(40, 30), ImageFormat::Gif),
        file(quarters(40, 30), ImageFormat::Bmp),
        file(quarters(40, 30), ImageFormat::Tiff),
    ] {
        let limits = DecodeLimits { max_pixels: 1199, ..DecodeLimits::default() };
        // Only the header is present: nothing may be decoded before the size is checked.
        let error = limited(&bytes, limits).unwrap_err();
        assert_eq!(error, PictureError::TooManyPixels { width: 40, height: 30, limit: 1199 });
        let failure = error.failure();
        assert_eq!(failure.code, "too_many_pixels");
        assert!(failure.detail.unwrap().contains("1200"));
        assert!(failure.hint.unwrap().contains("pg_caption.max_image_pixels"));
        limited(&bytes, DecodeLimits { max_pixels: 1200, ..DecodeLimits::default() })
            .expect("exactly the limit is allowed");
    }
}

#[test]
fn overflowing_sizes_are_refused() {
    let mut png = file(quarters(8, 8), ImageFormat::Png);
    png[16..24].copy_from_slice(&[0xFF; 8]);
    assert_eq!(refusal(&png).code(), "too_many_pixels");
    let mut bmp = file(quarters(8, 8), ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[0, 0, 0, 0x80, 0, 0, 0, 0x80]);
    assert_eq!(refusal(&bmp).code(), "too_many_pixels");
}

#[test]
fn memory_is_checked_from_the_header() {
    let bytes = file(quarters(400, 300), ImageFormat::Png);
    let needed = probe(&bytes).unwrap().memory_bound;
    limited(&bytes, DecodeLimits { memory: Some(needed), ..DecodeLimits::default() }).unwrap();
    let error =
        limited(&bytes, DecodeLimits { memory: Some(needed - 1), ..DecodeLimits::default() })
            .unwrap_err();
    assert_eq!(error, PictureError::TooMuchMemory { needed, limit: needed - 1 });
    assert!(error.failure().hint.unwrap().contains("pg_caption.memory"));
}

#[test]
fn an_expired_deadline_is_retryable() {
    for bytes in [jpeg(&quarters(40, 30), false), file(quarters(40, 30), ImageFormat::Png)] {
        let error = limited(
            &bytes,
            DecodeLimits { deadline: Some(Instant::now()), ..DecodeLimits::default() },
        )
        .unwrap_err();
        assert_eq!((error.class(), error.code()), (FailureClass::Retry, "decode_timeout"));
    }
}

#[test]
fn truncated_files_are_reported() {
    let picture = detailed(300, 200);
    for (what, bytes) in
        [("baseline", jpeg(&picture, false)), ("progressive", jpeg(&picture, true))]
    {
        for keep in [bytes.len() / 2, bytes.len() * 9 / 10, 100] {
            // `cut.rs` has the others: they are decoded as far as they go.
            let exact = DecodeOptions { exact: true, ..DecodeOptions::default() };
            assert_eq!(
                decode(&bytes[..keep], &exact).expect_err("it lacks its end").code(),
                "image_truncated",
                "{what} JPEG, {keep} of {} bytes",
                bytes.len()
            );
        }
    }
    for format in
        [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Bmp, ImageFormat::Tiff]
    {
        let bytes = file(picture.clone(), format);
        let error = refusal(&bytes[..bytes.len() / 2]);
        assert!(
            matches!(error.code(), "image_truncated" | "image_damaged"),
            "{format:?}: {error:?}"
        );
    }
}

#[test]
fn truncation_anywhere_never_panics() {
    let picture = detailed(40, 30);
    let mut files: Vec<_> = [
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ]
    .map(|format| file(picture.clone(), format))
    .into();
    files.extend([jpeg(&picture, false), jpeg(&picture, true)]);
    for bytes in files {
        for keep in 0..bytes.len() {
            if let Err(error) = decode(&bytes[..keep], &DecodeOptions::default()) {
                assert_eq!(error.class(), FailureClass::Reject, "{error:?}");
                assert_ne!(error.code(), "decoder_panic", "{keep} bytes: {error:?}");
            }
        }
    }
}

#[test]
fn random_damage_never_panics() {
    let picture = detailed(40, 30);
    let mut files: Vec<_> = [
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ]
    .map(|format| file(picture.clone(), format))
    .into();
    files.extend([jpeg(&picture, false), jpeg(&picture, true)]);
    let mut random = fastrand::Rng::with_seed(7);
    // Small limits, since a changed header may announce anything.
    let limits = DecodeLimits { max_pixels: 100_000, memory: Some(16 << 20), deadline: None };
    for original in files {
        for _ in 0..400 {
            let mut bytes = original.clone();
            for _ in 0..=random.usize(0..3) {
                // Half of the changes affect the header, where they have the greatest effect.
                let end = if random.bool() { bytes.len().min(200) } else { bytes.len() };
                let at = random.usize(0..end);
                bytes[at] = random.u8(..);
            }
            if let Err(error) = limited(&bytes, limits) {
                assert_eq!(error.class(), FailureClass::Reject, "{error:?}");
            }
        }
    }
}

#[test]
fn repeated_jpeg_scans_are_refused() {
    let whole = jpeg(&detailed(64, 64), true);
    let last = whole.windows(2).rposition(|pair| pair == [0xFF, 0xDA]).unwrap();
    let scan = whole[last..whole.len() - 2].to_vec();
    let repeated = |times| [&whole[..last], &scan.repeat(times), &[0xFF, 0xD9]].concat();
    let error = refusal(&repeated(150));
    assert_eq!((error.class(), error.code()), (FailureClass::Reject, "too_many_scans"));
    // Fewer scans, but of a picture so large that they take as long.
    let mut large = repeated(40);
    let frame = large.windows(2).position(|pair| pair == [0xFF, 0xC2]).unwrap();
    large[frame + 5..frame + 9].copy_from_slice(&[0x23, 0x28, 0x27, 0x10]);
    assert_eq!(refusal(&large).code(), "too_many_scans");
}

#[test]
fn unsupported_variants_are_named() {
    let mut twelve_bits = jpeg(&quarters(32, 32), false);
    let frame = twelve_bits.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    twelve_bits[frame + 4] = 12;
    assert!(refusal(&twelve_bits).to_string().contains("12 bits"));
    let lossless = lossless_jpeg(&[7; 32 * 32], (32, 32), turbojpeg::PixelFormat::GRAY);
    let error = refusal(&lossless);
    assert!(
        error.code() == "image_unsupported" && error.to_string().contains("lossless JPEG"),
        "{error:?}"
    );
    let mut lossless_ls = jpeg(&quarters(32, 32), false);
    lossless_ls[frame + 1] = 0xF7;
    assert!(refusal(&lossless_ls).to_string().contains("JPEG-LS"));
    let samples = [0xFF, 0xC2, 0, 17, 8, 0, 0, 0, 0, 0, 0, 0];
    let progressive_inside = tiff_with(2, 2, 2, 3, &[(259, 7)], &samples);
    assert!(refusal(&progressive_inside).to_string().contains("progressive JPEG"));
    assert_eq!(
        decode(&tiff(2, 2, 2, 3, 1, &samples), &DecodeOptions::default()).unwrap().rgb.data,
        samples,
        "samples are no JPEG"
    );
    let mut interlace = file(RgbaImage::from_pixel(4, 4, Rgba([1, 2, 3, 4])), ImageFormat::Png);
    interlace[28] = 7;
    assert!(refusal(&interlace).to_string().contains("interlace"));
}

#[test]
fn apples_png_variant_is_named() {
    let png = file(quarters(8, 8), ImageFormat::Png);
    let apple = [&png[..8], &drawn::chunk(b"CgBI", &[0x50, 0, 0x20, 2]), &png[8..]].concat();
    let error = refusal(&apple);
    assert!(
        error.code() == "image_unsupported" && error.to_string().contains("Apple"),
        "{error:?}"
    );
    let other = [&png[..8], &drawn::chunk(b"tEXt", &[255; 40]), &png[8..]].concat();
    assert_eq!(refusal(&other).code(), "image_damaged", "its header is not where it must be");
}

#[test]
fn embedded_jpegs_must_fit_their_strip() {
    let strip = |width, height| gray_jpeg(&quarters(width, height));
    let page = |jpeg: &[u8]| tiff_with(100, 50, 1, 1, &[(259, 7)], jpeg);
    decode(&page(&strip(100, 50)), &DecodeOptions::default()).expect("as large as announced");
    for (width, height) in [(101, 50), (100, 51), (4000, 3000)] {
        let error = refusal(&page(&strip(width, height))).to_string();
        assert!(
            error.contains(&format!("{width} x {height}")) && error.contains("100 x 50"),
            "{error}"
        );
    }
    // The shared tables end inside a segment, so that a frame header could begin there and end in
    // the strip.
    let jpeg = strip(100, 50);
    let page = tiff_with(100, 50, 1, 1, &[(259, 7), (347, 0)], &jpeg);
    let entry = page.windows(4).position(|window| window == [0x5B, 1, 4, 0]).unwrap();
    for (tables, ok) in [
        (&[0xFF, 0xD8, 0xFF, 0xD9], true),
        (&[0xFF, 0xD8, 0xFF, 0xC0], false),
        (&[0xFF, 0xC0, 0, 11], false),
    ] {
        let mut page = page.clone();
        page[entry + 2..entry + 8].copy_from_slice(&[7, 0, 4, 0, 0, 0]);
        page[entry + 8..entry + 12].copy_from_slice(tables);
        assert_eq!(decode(&page, &DecodeOptions::default()).is_ok(), ok, "{tables:?}");
    }
}

#[test]
fn oversized_webp_frames_are_refused() {
    let chunk = |name: &[u8; 4], body: &[u8]| {
        [name.as_slice(), &u32::try_from(body.len()).unwrap().to_le_bytes(), body].concat()
    };
    let frame =
        [&[0xD0, 0x68, 0x20, 0x9D, 0x01, 0x2A, 0xFF, 0x3F, 0x64, 0x00][..], &[0; 40]].concat();
    let picture = chunk(b"VP8 ", &frame);
    // A still picture, and the first frame of an animation: flags and canvas, then position, size
    // and duration of each frame.
    let still = [chunk(b"VP8X", &[0, 0, 0, 0, 9, 0, 0, 9, 0, 0]), picture.clone()].concat();
    let animated = [
        chunk(b"VP8X", &[2, 0, 0, 0, 9, 0, 0, 9, 0, 0]),
        chunk(b"ANIM", &[0; 6]),
        chunk(
            b"ANMF",
            &[&[0, 0, 0, 0, 0, 0, 9, 0, 0, 9, 0, 0, 10, 0, 0, 0], &picture[..]].concat(),
        ),
    ]
    .concat();
    for body in [still, animated] {
        let file = chunk(b"RIFF", &[b"WEBP".as_slice(), &body].concat());
        let failure = refusal(&file).failure();
        assert_eq!(failure.code, "image_damaged");
        assert!(failure.detail.unwrap().contains("16383 x 100 pixels on a canvas of 10 x 10"));
    }
}

#[cfg(not(feature = "heif"))]
#[test]
fn avif_and_heic_name_the_missing_feature() {
    for (brand, name) in [("avif", "AVIF"), ("heic", "HEIC")] {
        let failure =
            refusal(format!("\0\0\0\x18ftyp{brand}\0\0\0\0mif1{brand}").as_bytes()).failure();
        assert!(failure.message.contains(name) && failure.detail.unwrap().contains("libheif"));
        assert!(failure.hint.unwrap().contains("JPEG"));
    }
}

/// `crates/checks/tests/failures.rs` checks the style of every failure.
#[test]
fn failures_carry_class_and_code() {
    for error in [
        PictureError::Empty,
        PictureError::TimedOut,
        PictureError::NotAnImage { seems: "a text" },
        PictureError::TooManyScans { scans: 300, pixels: 9 },
    ] {
        let failure = error.failure();
        assert!(!failure.message.is_empty() && !failure.message.ends_with('.'), "{failure:?}");
        assert_eq!((failure.class, failure.code.as_str()), (error.class(), error.code()));
    }
}
