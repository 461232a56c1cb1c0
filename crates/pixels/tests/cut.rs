//! Files that lack their end, as interrupted uploads leave them: decoded as far as they go if nine
//! tenths of the rows are there, otherwise refused with the share of rows.

mod drawn;

use drawn::{chunk, deflated, detailed, file, gray_jpeg, jpeg};
use image::{DynamicImage, ImageFormat, RgbImage};
use pg_caption_pixels::{DecodeOptions, PictureError, RgbPicture, decode, probe};

/// Written with Pillow 13 from a drawing with noise.
const LOSSY_WEBP: &[u8] = include_bytes!("files/lossy.webp");
const LOSSY_WEBP_WITH_ALPHA: &[u8] = include_bytes!("files/lossy_alpha.webp");
const INTERLACED_GIF: &[u8] = include_bytes!("files/interlaced.gif");

/// A drawing whose rows all take about as many bytes.
fn noisy(width: u32, height: u32) -> RgbImage {
    let mut random = fastrand::Rng::with_seed(3);
    let mut picture = detailed(width, height);
    picture.iter_mut().for_each(|value| *value = value.saturating_add(random.u8(..24)));
    picture
}

/// An interlaced RGB PNG: the seven passes of Adam7, unfiltered.
fn interlaced_png(picture: &RgbImage) -> Vec<u8> {
    let passes: [[u32; 4]; 7] = [
        [0, 0, 8, 8],
        [0, 4, 8, 8],
        [4, 0, 8, 4],
        [0, 2, 4, 4],
        [2, 0, 4, 2],
        [0, 1, 2, 2],
        [1, 0, 2, 1],
    ];
    let mut rows = Vec::new();
    for [top, left, down, across] in passes {
        for y in (top..picture.height()).step_by(down as usize) {
            rows.push(0);
            for x in (left..picture.width()).step_by(across as usize) {
                rows.extend(picture.get_pixel(x, y).0);
            }
        }
    }
    let (width, height) = (picture.width().to_be_bytes(), picture.height().to_be_bytes());
    let header = [&width[..], &height, &[8, 2, 0, 0, 1]].concat();
    let data = deflated(&rows);
    let data: Vec<u8> = data.chunks(8192).flat_map(|part| chunk(b"IDAT", part)).collect();
    [b"\x89PNG\r\n\x1a\n".as_slice(), &chunk(b"IHDR", &header), &data, &chunk(b"IEND", b"")]
        .concat()
}

/// A file whose rows follow each other, with its name.
fn in_rows() -> Vec<(&'static str, Vec<u8>)> {
    let picture = noisy(200, 300);
    let palette = DynamicImage::ImageRgb8(picture.clone()).into_luma8();
    vec![
        ("baseline JPEG", jpeg(&picture, false)),
        ("gray JPEG", gray_jpeg(&picture)),
        ("PNG", file(picture.clone(), ImageFormat::Png)),
        ("gray PNG", file(palette, ImageFormat::Png)),
        ("lossless WebP", file(picture.clone(), ImageFormat::WebP)),
        ("lossy WebP", LOSSY_WEBP.to_vec()),
        ("lossy WebP with alpha", LOSSY_WEBP_WITH_ALPHA.to_vec()),
        ("GIF", file(picture, ImageFormat::Gif)),
    ]
}

/// A file that is coarse before it is complete, with its name and a number of bytes that do not
/// reach all rows.
fn in_passes() -> Vec<(&'static str, Vec<u8>, usize)> {
    let picture = noisy(200, 300);
    let (progressive, interlaced) = (jpeg(&picture, true), interlaced_png(&picture));
    let scan = progressive.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
    let tenth = interlaced.len() / 10;
    vec![
        ("progressive JPEG", progressive, scan + 400),
        ("interlaced PNG", interlaced, tenth),
        ("interlaced GIF", INTERLACED_GIF.to_vec(), INTERLACED_GIF.len() / 4),
    ]
}

fn decoded(bytes: &[u8]) -> Result<RgbPicture, PictureError> {
    decode(bytes, &DecodeOptions::default()).map(|decoded| decoded.rgb)
}

/// Percent of rows that are the same in both.
fn same_rows(a: &RgbPicture, b: &RgbPicture) -> usize {
    let pitch = a.width as usize * 3;
    let rows = a.data.chunks(pitch).zip(b.data.chunks(pitch));
    100 * rows.filter(|(a, b)| a == b).count() / a.height as usize
}

/// The cuts of interrupted uploads, of a file with so many bytes.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let cuts = [2, 3, 10, 50, 200, 1000, length / 100, length / 10];
    cuts.into_iter().filter(move |cut| *cut < length / 2)
}

#[test]
fn nearly_whole_files_are_decoded() {
    for (name, bytes) in in_rows() {
        let whole = decoded(&bytes).unwrap();
        for missing in cuts(bytes.len()) {
            let cut = &bytes[..bytes.len() - missing];
            match decoded(cut) {
                Ok(found) => {
                    assert_eq!((found.width, found.height), (whole.width, whole.height));
                    let same = same_rows(&found, &whole);
                    assert!(same >= 90, "{name} less {missing}: {same} % of the rows");
                }
                Err(error) => {
                    assert!(missing * 20 > bytes.len(), "{name} less {missing}: {error:?}");
                    let PictureError::Truncated { share: Some(share), .. } = error else {
                        panic!("{name} less {missing}: {error:?}")
                    };
                    assert!((1..90).contains(&share), "{name} less {missing}: {share} %");
                }
            }
        }
    }
}

#[test]
fn half_a_file_is_refused_with_its_share() {
    for (name, bytes) in in_rows() {
        let error = decoded(&bytes[..bytes.len() / 2]).map(|_| ()).unwrap_err();
        let PictureError::Truncated { share: Some(share), .. } = error else {
            panic!("{name}: {error:?}")
        };
        assert!((5..=65).contains(&share), "{name}: {share} %");
        let failure = error.failure();
        assert_eq!(failure.code, "image_truncated");
        let expected = format!("The file holds {share} % of the picture's rows; 90 % are needed.");
        assert_eq!(failure.detail.unwrap(), expected, "{name}");
    }
}

#[test]
fn coarse_passes_of_all_rows_are_enough() {
    for (name, bytes, few) in in_passes() {
        let whole = decoded(&bytes).unwrap();
        for missing in cuts(bytes.len()).chain([bytes.len() / 4]) {
            let found = decoded(&bytes[..bytes.len() - missing])
                .unwrap_or_else(|error| panic!("{name} less {missing}: {error:?}"));
            let off: u64 =
                found.data.iter().zip(&whole.data).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
            let mean = off / whole.data.len() as u64;
            assert!(mean < 24, "{name} less {missing}: {mean} levels off");
        }
        let error = decoded(&bytes[..few]).map(|_| ()).unwrap_err();
        assert!(
            matches!(error, PictureError::Truncated { share: Some(0..=60), .. }),
            "{name}: {error:?}"
        );
    }
}

/// The codes of such a file are runs, and what follows the end of the file is read as a run beyond
/// the picture. So its rows cannot be counted.
#[test]
fn runs_of_a_cut_lossless_webp_are_truncated() {
    let bytes = file(drawn::quarters(300, 400), ImageFormat::WebP);
    for missing in [2, 10, bytes.len() / 2] {
        match decoded(&bytes[..bytes.len() - missing]) {
            Ok(found) => assert_eq!((found.width, found.height), (300, 400)),
            Err(error) => assert_eq!(error.code(), "image_truncated", "{error:?}"),
        }
    }
}

/// The reference refuses them, so a comparison with it must, too.
#[test]
fn exact_decodes_refuse_cut_files() {
    for (name, bytes) in
        in_rows().into_iter().chain(in_passes().into_iter().map(|(name, bytes, _)| (name, bytes)))
    {
        let options = DecodeOptions { exact: true, ..DecodeOptions::default() };
        let error = decode(&bytes[..bytes.len() - 200], &options).map(|_| ()).unwrap_err();
        assert!(matches!(error.code(), "image_truncated" | "image_damaged"), "{name}: {error:?}");
    }
}

#[test]
fn missing_rows_repeat_the_last_one() {
    let bytes = file(noisy(200, 300), ImageFormat::Png);
    let found = decoded(&bytes[..bytes.len() * 95 / 100]).unwrap();
    let rows: Vec<&[u8]> = found.data.chunks(600).collect();
    assert_eq!(rows[299], rows[290]);
    assert_ne!(rows[200], rows[201]);
}

/// Damage before the end of the data is no missing end, even if the end is missing as well.
#[test]
fn damage_in_the_middle_stays_damage() {
    let mut bytes = file(noisy(200, 300), ImageFormat::Png);
    let middle = bytes.len() / 2;
    bytes[middle..middle + 400].fill(0xFF);
    for keep in [bytes.len(), bytes.len() - 20] {
        assert_eq!(decoded(&bytes[..keep]).unwrap_err().code(), "image_damaged");
    }
}

#[test]
fn a_colour_without_its_scan_is_no_row() {
    let bytes = jpeg(&noisy(200, 300), true);
    // The first scan has the first coefficient of all components; the file ends in its header.
    let scan = bytes.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap();
    for keep in [scan + 1, scan + 6, scan + 30] {
        let error = decoded(&bytes[..keep]).map(|_| ()).unwrap_err();
        assert!(
            matches!(error, PictureError::Truncated { share: Some(0..=5), .. }),
            "{keep}: {error:?}"
        );
    }
}

#[test]
fn blocks_behind_the_end_of_a_webp_are_not_missed() {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
    image::ImageEncoder::set_exif_metadata(&mut encoder, drawn::exif(6)).unwrap();
    let picture = noisy(40, 30);
    encoder.encode(picture.as_raw(), 40, 30, image::ExtendedColorType::Rgb8).unwrap();
    let exif = bytes.windows(4).position(|name| name == b"EXIF").unwrap();
    let cut = &bytes[..exif];
    assert_eq!(probe(cut).unwrap().orientation, 1);
    assert_eq!(decoded(cut).unwrap().data, *picture.as_raw());
}

#[test]
fn later_frames_may_be_missing() {
    for bytes in [&include_bytes!("files/animated.webp")[..], include_bytes!("files/animated.png")]
    {
        let frame = decoded(bytes).unwrap();
        assert_eq!((frame.width, frame.height), (40, 30));
        decoded(&bytes[..bytes.len() - 24]).expect("the first frame is whole");
    }
}
