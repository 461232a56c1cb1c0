//! TIFF as written by scanners, cameras and image programs: palettes, few bits, gray with alpha,
//! JPEG in strips and tiles.

mod drawn;

use drawn::{COLOURS, detailed, jpeg, quarters};
use image::RgbImage;
use pg_caption_pixels::{DecodeOptions, DecodedPicture, PictureError, decode, mean_rgb_2x2, probe};

/// A page of strips, or of tiles if it has tile tags. Numbers are SHORTs, or LONGs if they do not
/// fit.
#[derive(Clone, Default)]
struct Page {
    big_endian: bool,
    tags: Vec<(u16, Vec<u32>)>,
    /// The JPEG tables, a tag of bytes.
    tables: Option<Vec<u8>>,
    strips: Vec<Vec<u8>>,
}

impl Page {
    fn new(
        (width, height): (u32, u32),
        photometric: u32,
        bits: &[u32],
        strips: Vec<Vec<u8>>,
    ) -> Page {
        let tags = vec![
            (256, vec![width]),
            (257, vec![height]),
            (258, bits.to_vec()),
            (262, vec![photometric]),
            (277, vec![bits.len() as u32]),
        ];
        Page { tags, strips, ..Page::default() }.with(278, &[height])
    }

    /// Sets a tag.
    fn with(mut self, tag: u16, values: &[u32]) -> Page {
        self.tags.retain(|(other, _)| *other != tag);
        self.tags.push((tag, values.to_vec()));
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let number = |value: u32, width: usize| {
            if self.big_endian {
                value.to_be_bytes()[4 - width..].to_vec()
            } else {
                value.to_le_bytes()[..width].to_vec()
            }
        };
        let tiled = self.tags.iter().any(|(tag, _)| *tag == 322);
        let (mut data, mut offsets) = (Vec::new(), Vec::new());
        for strip in &self.strips {
            offsets.push(8 + data.len() as u32);
            data.extend(strip);
            data.resize(data.len().next_multiple_of(2), 0);
        }
        let lengths = self.strips.iter().map(|strip| strip.len() as u32).collect();
        let mut entries: Vec<(u16, u16, u32, Vec<u8>)> = Vec::new();
        let more =
            [(if tiled { 324 } else { 273 }, offsets), (if tiled { 325 } else { 279 }, lengths)];
        for (tag, values) in
            self.tags.iter().filter(|(tag, _)| !(tiled && *tag == 278)).chain(&more)
        {
            let wide = values.iter().any(|value| *value > 0xFFFF);
            let body =
                values.iter().flat_map(|value| number(*value, if wide { 4 } else { 2 })).collect();
            entries.push((*tag, if wide { 4 } else { 3 }, values.len() as u32, body));
        }
        entries
            .extend(self.tables.iter().map(|tables| (347, 7, tables.len() as u32, tables.clone())));
        entries.sort_by_key(|entry| entry.0);
        let directory = 8 + data.len() as u32;
        let mut behind = directory + 2 + 12 * entries.len() as u32 + 4;
        let mut file = [
            if self.big_endian { b"MM".to_vec() } else { b"II".to_vec() },
            number(42, 2),
            number(directory, 4),
            data,
        ]
        .concat();
        file.extend(number(entries.len() as u32, 2));
        let mut bodies = Vec::new();
        for (tag, kind, count, mut body) in entries {
            file.extend([number(tag.into(), 2), number(kind.into(), 2), number(count, 4)].concat());
            if body.len() <= 4 {
                body.resize(4, 0);
                file.extend(body);
            } else {
                body.resize(body.len().next_multiple_of(2), 0);
                file.extend(number(behind, 4));
                behind += body.len() as u32;
                bodies.extend(body);
            }
        }
        file.extend([0; 4]);
        file.extend(bodies);
        file
    }
}

fn decoded(bytes: &[u8]) -> DecodedPicture {
    let found = decode(bytes, &DecodeOptions::default());
    found.unwrap_or_else(|error| panic!("{error}: {:?}", error.failure().detail))
}

fn refusal(bytes: &[u8]) -> PictureError {
    decode(bytes, &DecodeOptions::default()).expect_err("this must be refused")
}

/// Values of `bits` each, in rows of whole bytes, the first one in the highest bits.
fn packed(values: &[u8], width: usize, bits: usize) -> Vec<u8> {
    let row = |row: &[u8]| -> Vec<u8> {
        row.chunks(8 / bits)
            .map(|values| {
                values
                    .iter()
                    .enumerate()
                    .fold(0, |all, (i, value)| all | value << (8 - bits - i * bits))
            })
            .collect()
    };
    values.chunks(width).flat_map(row).collect()
}

fn of(values: &[u8], colour: impl Fn(u8) -> [u8; 3]) -> Vec<u8> {
    values.iter().flat_map(|value| colour(*value)).collect()
}

#[test]
fn palettes_work_at_every_depth() {
    for bits in [1, 2, 4, 8_u32] {
        let colours = 1 << bits;
        let values: Vec<u8> = (0..13 * 7_u32).map(|i| (i * 5 % colours) as u8).collect();
        let colour = |i: u8| [i.wrapping_mul(37), 255 - i, i.wrapping_add(100)];
        // All reds, then all greens, then all blues; only the high byte of each counts.
        let map: Vec<u32> = (0..3)
            .flat_map(|channel| {
                (0..colours).map(move |i| u32::from(colour(i as u8)[channel]) << 8 | 0x55)
            })
            .collect();
        let page = Page::new((13, 7), 3, &[bits], vec![packed(&values, 13, bits as usize)])
            .with(320, &map);
        for big_endian in [false, true] {
            let page = Page { big_endian, ..page.clone() };
            assert_eq!(
                decoded(&page.bytes()).rgb.data,
                of(&values, colour),
                "{bits} bits, big-endian: {big_endian}"
            );
            let turned = probe(&page.with(274, &[6]).bytes()).unwrap();
            assert_eq!((turned.orientation, turned.upright_size()), (6, (7, 13)));
        }
        let cut = refusal(&page.clone().with(320, &map[1..]).bytes());
        assert!(
            cut.code() == "image_damaged" && cut.failure().detail.unwrap().contains("palette"),
            "{cut:?}"
        );
    }
}

#[test]
fn gray_of_few_bits_reaches_from_black_to_white() {
    for (bits, step) in [(2, 85), (4, 17_u8)] {
        let values: Vec<u8> = (0..13 * 7_u32).map(|i| (i % (1 << bits)) as u8).collect();
        for (photometric, colour) in [
            (1, Box::new(|i: u8| [i * step; 3]) as Box<dyn Fn(u8) -> [u8; 3]>),
            (0, Box::new(|i: u8| [255 - i * step; 3])),
        ] {
            let page =
                Page::new((13, 7), photometric, &[bits], vec![packed(&values, 13, bits as usize)]);
            assert_eq!(
                decoded(&page.bytes()).rgb.data,
                of(&values, colour),
                "{bits} bits, {photometric}"
            );
        }
    }
}

#[test]
fn gray_with_alpha_is_laid_on_white() {
    let page = Page::new((2, 1), 1, &[8, 8], vec![vec![100, 51, 20, 0]]);
    for (extra, expected) in [(2, [224, 224, 224, 255, 255, 255]), (0, [100, 100, 100, 20, 20, 20])]
    {
        assert_eq!(
            decoded(&page.clone().with(338, &[extra]).bytes()).rgb.data,
            expected,
            "ExtraSamples {extra}"
        );
    }
    let multiplied = Page::new((2, 1), 1, &[8, 8], vec![vec![20, 51, 0, 0]]).with(338, &[1]);
    assert_eq!(decoded(&multiplied.bytes()).rgb.data, [224, 224, 224, 255, 255, 255]);
}

#[test]
fn reversed_bits_are_corrected_or_refused() {
    let values: Vec<u8> = (0..13 * 7_u32).map(|i| (i * i % 3 % 2) as u8).collect();
    let reversed = |strip: Vec<u8>| strip.into_iter().map(u8::reverse_bits).collect::<Vec<_>>();
    for (photometric, colour) in [(1, [0, 255]), (0, [255, 0])] {
        let page = Page::new((13, 7), photometric, &[1], vec![reversed(packed(&values, 13, 1))])
            .with(266, &[2]);
        assert_eq!(
            decoded(&page.bytes()).rgb.data,
            of(&values, |i| [colour[usize::from(i)]; 3]),
            "{photometric}"
        );
    }
    let gray = Page::new((2, 1), 1, &[8], vec![reversed(vec![200, 3])]).with(266, &[2]);
    assert_eq!(decoded(&gray.bytes()).rgb.data, [200, 200, 200, 3, 3, 3]);
    for page in [Page::new((1, 1), 2, &[8; 3], vec![vec![1, 2, 3]]), gray.with(259, &[32_773])] {
        let error = refusal(&page.with(266, &[2]).bytes());
        assert!(
            error.code() == "image_unsupported" && error.to_string().contains("FillOrder"),
            "{error:?}"
        );
    }
}

/// The part of the picture at (x, y), black outside the picture.
fn part(picture: &RgbImage, (x, y): (u32, u32), (width, height): (u32, u32)) -> RgbImage {
    RgbImage::from_fn(width, height, |i, j| {
        picture.get_pixel_checked(x + i, y + j).copied().unwrap_or(image::Rgb([0; 3]))
    })
}

fn assert_near(found: &DecodedPicture, picture: &RgbImage, what: &str) {
    assert_eq!((found.width, found.height), picture.dimensions());
    let worst =
        found.rgb.data.iter().zip(picture.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= 40, "{what}: {worst} levels off");
    let off = mean_rgb_2x2(&found.rgb)
        .as_flattened()
        .iter()
        .zip(COLOURS.as_flattened())
        .map(|(a, b)| a.abs_diff(*b))
        .max()
        .unwrap();
    assert!(off <= 4, "{what}: quarters {off} levels off");
}

#[test]
fn ycbcr_jpeg_strips_and_tiles_have_colours() {
    let picture = quarters(112, 80);
    let strip = |height: u32| {
        (0..80)
            .step_by(height as usize)
            .map(|y| jpeg(&part(&picture, (0, y), (112, height.min(80 - y))), false))
            .collect::<Vec<_>>()
    };
    let page = |strips| Page::new((112, 80), 6, &[8; 3], strips).with(259, &[7]).with(530, &[2, 2]);
    assert_near(&decoded(&page(strip(80)).bytes()), &picture, "one strip");
    assert_near(&decoded(&page(strip(32)).with(278, &[32]).bytes()), &picture, "strips");
    let tiles = (0..80)
        .step_by(32)
        .flat_map(|y| (0..112).step_by(32).map(move |x| (x, y)))
        .map(|at| jpeg(&part(&picture, at, (32, 32)), false))
        .collect();
    assert_near(
        &decoded(&page(tiles).with(322, &[32]).with(323, &[32]).bytes()),
        &picture,
        "tiles that reach beyond",
    );
}

#[test]
fn raw_ycbcr_is_read_without_subsampling() {
    // JFIF: gray has a chroma of 128; this is red with a rounding error.
    let page = Page::new((2, 1), 6, &[8; 3], vec![vec![76, 85, 255, 200, 128, 128]]);
    assert_eq!(
        decoded(&page.clone().with(530, &[1, 1]).bytes()).rgb.data,
        [254, 0, 0, 200, 200, 200]
    );
    assert_eq!(refusal(&page.with(530, &[2, 2]).bytes()).code(), "image_unsupported");
}

#[test]
fn jpeg_strips_may_share_tables() {
    let picture = quarters(112, 80);
    let whole = jpeg(&picture, false);
    // The tables of quantisation and codes are separate; the strip keeps the frame and the scan.
    let (mut tables, mut strip, mut at) = (vec![0xFF, 0xD8], vec![0xFF, 0xD8], 2);
    while whole[at + 1] != 0xDA {
        let end = at + 2 + usize::from(u16::from_be_bytes([whole[at + 2], whole[at + 3]]));
        if matches!(whole[at + 1], 0xDB | 0xC4) { &mut tables } else { &mut strip }
            .extend(&whole[at..end]);
        at = end;
    }
    strip.extend(&whole[at..]);
    tables.extend([0xFF, 0xD9]);
    let page = Page {
        tables: Some(tables),
        ..Page::new((112, 80), 6, &[8; 3], vec![strip]).with(259, &[7]).with(530, &[2, 2])
    };
    assert_near(&decoded(&page.bytes()), &picture, "tables apart");
}

#[test]
fn jpeg_limits_apply_to_ycbcr_too() {
    let picture = detailed(64, 64);
    let page = |jpeg| Page::new((64, 64), 6, &[8; 3], vec![jpeg]).with(259, &[7]).bytes();
    assert!(refusal(&page(jpeg(&picture, true))).to_string().contains("progressive JPEG"));
    assert!(refusal(&page(jpeg(&detailed(65, 64), false))).to_string().contains("65 x 64"));
    // Such a file has tags of its own instead of strips.
    let mut old =
        Page::new((64, 64), 6, &[8; 3], vec![jpeg(&picture, false)]).with(259, &[6]).bytes();
    for (tag, other) in [(0x0111_u16, 0x0201_u16), (0x0117, 0x0202)] {
        let at = old.windows(2).rposition(|pair| pair == tag.to_le_bytes()).unwrap();
        old[at..at + 2].copy_from_slice(&other.to_le_bytes());
    }
    let old = refusal(&old);
    assert!(
        old.code() == "image_unsupported" && old.to_string().contains("old-style JPEG"),
        "{old:?}"
    );
    let whole = page(jpeg(&picture, false));
    for keep in (0..whole.len()).step_by(7) {
        if let Err(error) = decode(&whole[..keep], &DecodeOptions::default()) {
            assert_ne!(error.code(), "decoder_panic", "{keep} bytes: {error:?}");
        }
    }
}

#[test]
fn oversized_planar_tiles_are_refused() {
    let page = |size: (u32, u32)| {
        let tiles = size.0.div_ceil(16) * size.1.div_ceil(16) * 3;
        let page =
            Page::new(size, 2, &[8; 3], (0..tiles).map(|i| vec![i as u8 * 20; 256]).collect());
        page.with(284, &[2]).with(322, &[16]).with(323, &[16]).bytes()
    };
    assert_eq!(decoded(&page((32, 16))).rgb.data[..3], [0, 40, 80], "exact ones are read");
    for size in [(33, 16), (16, 33), (20, 20)] {
        let error = refusal(&page(size));
        assert!(
            error.code() == "image_unsupported" && error.to_string().contains("16 x 16"),
            "{size:?}: {error:?}"
        );
    }
}
