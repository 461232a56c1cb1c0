//! Animations: the first frame that shows something.

mod drawn;

use drawn::{chunk, deflated};
use image::{Frame, Rgba, RgbaImage, codecs::gif::GifEncoder};
use pg_caption_pixels::{
    BlankKind, DecodeLimits, DecodeOptions, DecodedPicture, PictureError, decode, probe,
};

/// 40 x 30 pixels; the first frame is white (WebP) or transparent (PNG), the second has a red
/// rectangle in (10, 5) to (30, 25). Written with Pillow 13.
const WEBP: &[u8] = include_bytes!("files/animated.webp");
const PNG: &[u8] = include_bytes!("files/animated.png");

const WHITE: Rgba<u8> = Rgba([255; 4]);
const CLEAR: Rgba<u8> = Rgba([0; 4]);

fn decoded(bytes: &[u8]) -> DecodedPicture {
    decode(bytes, &DecodeOptions::default()).unwrap()
}

fn plain(colour: Rgba<u8>) -> RgbaImage {
    RgbaImage::from_pixel(40, 30, colour)
}

/// The colour with the red rectangle.
fn drawing(colour: Rgba<u8>) -> RgbaImage {
    RgbaImage::from_fn(40, 30, |x, y| {
        let inside = (10..30).contains(&x) && (5..25).contains(&y);
        if inside { Rgba([200, 30, 30, 255]) } else { colour }
    })
}

fn gif(frames: impl IntoIterator<Item = RgbaImage>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new(&mut bytes);
    encoder.encode_frames(frames.into_iter().map(Frame::new)).unwrap();
    drop(encoder);
    bytes
}

/// An animated PNG of RGBA frames with offsets, dispose and blend operations.
fn apng(frames: &[(RgbaImage, [u32; 2], [u8; 2])]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let side = |n: u32| n.to_be_bytes();
    bytes.extend(chunk(b"IHDR", &[&side(40)[..], &side(30), &[8, 6, 0, 0, 0]].concat()));
    bytes.extend(chunk(b"acTL", &[side(frames.len() as u32), side(0)].concat()));
    let mut sequence = 0;
    let mut next = || {
        sequence += 1;
        side(sequence - 1)
    };
    for (n, (frame, [left, top], operations)) in frames.iter().enumerate() {
        let (width, height) = (side(frame.width()), side(frame.height()));
        let place = [next(), width, height, side(*left), side(*top), [0, 5, 0, 100]].concat();
        bytes.extend(chunk(b"fcTL", &[place, operations.to_vec()].concat()));
        let rows: Vec<u8> = frame
            .as_raw()
            .chunks(frame.width() as usize * 4)
            .flat_map(|row| [&[0], row].concat())
            .collect();
        bytes.extend(match n {
            0 => chunk(b"IDAT", &deflated(&rows)),
            _ => chunk(b"fdAT", &[&next()[..], &deflated(&rows)].concat()),
        });
    }
    bytes.extend(chunk(b"IEND", b""));
    bytes
}

fn assert_shows_drawing(found: &DecodedPicture, what: &str) {
    assert_eq!(found.blank, None, "{what}");
    assert_eq!((found.rgb.width, found.rgb.height), (40, 30), "{what}");
    let pixel = |x: usize, y: usize| &found.rgb.data[(y * 40 + x) * 3..][..3];
    for (at, expected) in [((20, 15), [200, 30, 30]), ((2, 2), [255; 3]), ((38, 28), [255; 3])] {
        let off = pixel(at.0, at.1).iter().zip(expected).any(|(a, b)| a.abs_diff(b) > 16);
        assert!(!off, "{what}: {:?} at {at:?}", pixel(at.0, at.1));
    }
}

#[test]
fn the_first_frame_that_shows_something_counts() {
    let last = RgbaImage::from_pixel(40, 30, Rgba([0, 0, 255, 255]));
    for (what, bytes) in [
        ("WebP", WEBP.to_vec()),
        ("PNG", PNG.to_vec()),
        ("GIF, white", gif([plain(WHITE), drawing(WHITE), last.clone()])),
        ("GIF, transparent", gif([plain(CLEAR), plain(CLEAR), drawing(CLEAR), last.clone()])),
    ] {
        assert_shows_drawing(&decoded(&bytes), what);
    }
    let first = gif([drawing(WHITE), last]);
    assert_shows_drawing(&decoded(&first), "the first frame shows something");
}

#[test]
fn frames_of_a_png_are_composed() {
    let (keep, clear, back) = (0, 1, 2);
    let (replace, over) = (0, 1);
    let red = RgbaImage::from_pixel(20, 20, Rgba([200, 30, 30, 255]));
    let faint = RgbaImage::from_pixel(40, 30, Rgba([255, 255, 255, 1]));
    for dispose in [keep, clear, back] {
        let file = apng(&[
            (plain(CLEAR), [0, 0], [keep, replace]),
            (faint.clone(), [0, 0], [dispose, over]),
            (red.clone(), [10, 5], [keep, over]),
        ]);
        assert_shows_drawing(&decoded(&file), &format!("dispose {dispose}"));
    }
    // A frame that a later one replaces by nothing.
    let file = apng(&[
        (plain(WHITE), [0, 0], [keep, replace]),
        (RgbaImage::from_pixel(20, 20, CLEAR), [10, 5], [keep, replace]),
    ]);
    assert_eq!(decoded(&file).blank, Some(BlankKind::Uniform([255; 3])));
}

#[test]
fn exact_decodes_keep_the_first_frame() {
    let options = DecodeOptions { exact: true, ..DecodeOptions::default() };
    let found = decode(&gif([plain(WHITE), drawing(WHITE)]), &options).unwrap();
    assert!(found.rgb.data.iter().all(|value| *value == 255));
}

#[test]
fn blank_animations_stay_blank() {
    let all_white = gif((0..3).map(|_| plain(WHITE)));
    assert_eq!(decoded(&all_white).blank, Some(BlankKind::Uniform([255; 3])));
    // The drawing comes too late.
    let late = gif((0..201).map(|n| if n < 200 { plain(WHITE) } else { drawing(WHITE) }));
    assert_eq!(decoded(&late).blank, Some(BlankKind::Uniform([255; 3])));
    // The file ends before the drawing.
    let cut = gif([plain(WHITE), drawing(WHITE)]);
    let found = decoded(&cut[..cut.len() - 30]);
    assert_eq!(found.blank, Some(BlankKind::Uniform([255; 3])));
}

#[test]
fn frames_are_within_the_memory_of_the_header() {
    for bytes in [WEBP.to_vec(), PNG.to_vec(), gif([plain(WHITE), drawing(WHITE)])] {
        let one = 40 * 30;
        assert!(probe(&bytes).unwrap().memory_bound > 28 * one);
        let limits = DecodeLimits { memory: Some(20 * one), ..DecodeLimits::default() };
        let options = DecodeOptions { limits, ..DecodeOptions::default() };
        let error = decode(&bytes, &options).map(|_| ()).unwrap_err();
        assert!(matches!(error, PictureError::TooMuchMemory { .. }), "{error:?}");
    }
}
