//! Valid pictures of every kind: upright, correct colours, transparency over white.

mod drawn;

use drawn::{
    COLOURS, chunk, deflated, detailed, exif, file, jpeg, quarters, tiff, tiff_with, with_app1,
    with_chunks,
};
use image::{DynamicImage, ImageBuffer, ImageEncoder, ImageFormat, Luma, Rgba, RgbaImage};
use pg_caption_pixels::{
    BlankKind, DecodeOptions, DecodedPicture, PictureFormat, ResampleFilter, decode, encode_png,
    is_blank, mean_rgb_2x2, probe, resize,
};

fn decoded(bytes: &[u8]) -> DecodedPicture {
    decode(bytes, &DecodeOptions::default()).unwrap()
}

fn exact(bytes: &[u8]) -> DecodedPicture {
    decode(bytes, &DecodeOptions { exact: true, target: Some((8, 8)), ..DecodeOptions::default() })
        .unwrap()
}

fn assert_near(found: [[u8; 3]; 4], expected: [[u8; 3]; 4], what: &str) {
    let off =
        found.as_flattened().iter().zip(expected.as_flattened()).any(|(a, b)| a.abs_diff(*b) > 4);
    assert!(!off, "{what}: {found:?} instead of {expected:?}");
}

/// The stored quarter that each upright quarter comes from, as EXIF defines the eight cases.
const UPRIGHT: [[usize; 4]; 8] = [
    [0, 1, 2, 3],
    [1, 0, 3, 2],
    [3, 2, 1, 0],
    [2, 3, 0, 1],
    [0, 2, 1, 3],
    [2, 0, 3, 1],
    [3, 1, 2, 0],
    [1, 3, 0, 2],
];

#[test]
fn every_exif_orientation_is_turned_upright() {
    let picture = quarters(96, 64);
    for orientation in 1..=8_u8 {
        let expected = UPRIGHT[usize::from(orientation) - 1].map(|i| COLOURS[i]);
        let size = if orientation < 5 { (96, 64) } else { (64, 96) };
        let exif_segment = [b"Exif\0\0".as_slice(), &exif(orientation)].concat();
        let xmp = format!(
            "http://ns.adobe.com/xap/1.0/\0<x:xmpmeta>\
             <rdf:Description tiff:Orientation=\"{orientation}\"/></x:xmpmeta>"
        );
        let plain = jpeg(&picture, false);
        let mut png = Vec::new();
        let mut encoder = image::codecs::png::PngEncoder::new(&mut png);
        encoder.set_exif_metadata(exif(orientation)).unwrap();
        encoder.write_image(picture.as_raw(), 96, 64, image::ExtendedColorType::Rgb8).unwrap();
        let mut webp = Vec::new();
        let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut webp);
        encoder.set_exif_metadata(exif(orientation)).unwrap();
        encoder.write_image(picture.as_raw(), 96, 64, image::ExtendedColorType::Rgb8).unwrap();
        for (what, bytes) in [
            ("JPEG", with_app1(&plain, &exif_segment)),
            ("JPEG with XMP only", with_app1(&plain, xmp.as_bytes())),
            ("PNG", png),
            ("WebP", webp),
            ("TIFF", tiff(96, 64, 2, 3, orientation.into(), picture.as_raw())),
        ] {
            let header = probe(&bytes).unwrap();
            assert_eq!(
                (header.width, header.height, header.orientation),
                (96, 64, orientation),
                "{what}"
            );
            assert_eq!(header.upright_size(), size, "{what}, orientation {orientation}");
            let found = decoded(&bytes);
            assert_eq!(
                (found.rgb.width, found.rgb.height, found.width, found.height),
                (size.0, size.1, size.0, size.1),
                "{what}"
            );
            assert_near(
                mean_rgb_2x2(&found.rgb),
                expected,
                &format!("{what}, orientation {orientation}"),
            );
        }
    }
}

#[test]
fn png_orientation_is_read_from_every_chunk() {
    let png = file(quarters(96, 64), ImageFormat::Png);
    let hex: String = [b"Exif\0\0".as_slice(), &exif(6)]
        .concat()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let raw = format!("\nexif\n{:8}\n{}\n{}\n", hex.len() / 2, &hex[..36], &hex[36..]);
    let xmp = b"<tiff:Orientation>6</tiff:Orientation>";
    for (what, name, body) in [
        ("EXIF", b"eXIf", exif(6)),
        ("XMP", b"iTXt", [b"XML:com.adobe.xmp\0\0\0\0\0".as_slice(), xmp].concat()),
        (
            "deflated XMP",
            b"iTXt",
            [b"XML:com.adobe.xmp\0\x01\0en\0Meta\0".as_slice(), &deflated(xmp)].concat(),
        ),
        (
            "a raw profile",
            b"tEXt",
            [b"Raw profile type exif\0".as_slice(), raw.as_bytes()].concat(),
        ),
        (
            "a deflated raw profile",
            b"zTXt",
            [b"Raw profile type exif\0\0".as_slice(), &deflated(raw.as_bytes())].concat(),
        ),
    ] {
        for behind in [false, true] {
            let bytes = with_chunks(&png, &chunk(name, &body), behind);
            assert_eq!(
                probe(&bytes).unwrap().orientation,
                6,
                "{what}, behind the picture: {behind}"
            );
            assert_near(mean_rgb_2x2(&decoded(&bytes).rgb), UPRIGHT[5].map(|i| COLOURS[i]), what);
        }
    }
    let mut ended = with_chunks(&png, &[], true);
    ended.extend(chunk(b"eXIf", &exif(6)));
    assert_eq!(probe(&ended).unwrap().orientation, 1, "behind the end there is nothing");
}

#[test]
fn png_leniency_equals_the_references() {
    let whole = file(detailed(200, 100), ImageFormat::Png);
    let expected = decoded(&whole).rgb;
    // After the data: its checksum (4), then the end (12).
    for missing in 1..=16 {
        assert_eq!(
            decoded(&whole[..whole.len() - missing]).rgb,
            expected,
            "{missing} bytes missing"
        );
    }
    let mut checksum = whole.clone();
    checksum[whole.len() - 13] ^= 1;
    assert_eq!(decoded(&checksum).rgb, expected, "a wrong checksum of the data");
    let exact = DecodeOptions { exact: true, ..DecodeOptions::default() };
    assert!(decode(&whole[..whole.len() - 80], &exact).is_err(), "a part of the picture missing");
    let mut header = whole.clone();
    header[29] ^= 1;
    assert!(decode(&header, &DecodeOptions::default()).is_err(), "a wrong checksum of the header");
    let unended = [&whole[..33], &whole[whole.len() - 12..]].concat();
    assert!(decode(&unended, &DecodeOptions::default()).is_err(), "no picture at all");
}

#[test]
fn exif_takes_precedence_over_xmp() {
    let xmp = b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation>3</tiff:Orientation>";
    let both = with_app1(
        &with_app1(&jpeg(&quarters(32, 32), false), xmp),
        &[b"Exif\0\0".as_slice(), &exif(6)].concat(),
    );
    assert_eq!(probe(&both).unwrap().orientation, 6);
}

#[test]
fn orientation_has_any_width_and_byte_order() {
    let picture = jpeg(&quarters(32, 32), false);
    for (kind, expected) in [(1_u16, 1), (2, 1), (3, 6), (4, 6), (5, 1), (8, 6), (9, 6)] {
        for little in [true, false] {
            let order = |value: u32, width: usize| {
                if little {
                    value.to_le_bytes()[..width].to_vec()
                } else {
                    value.to_be_bytes()[4 - width..].to_vec()
                }
            };
            let value = if matches!(kind, 3 | 8) {
                [order(6, 2), vec![0; 2]].concat()
            } else {
                order(6, 4)
            };
            let start = if little { b"Exif\0\0II" } else { b"Exif\0\0MM" };
            // Another entry before it, with another value.
            let other = [order(256, 2), order(3, 2), order(1, 4), order(0, 4)].concat();
            let entry = [order(274, 2), order(kind.into(), 2), order(1, 4), value].concat();
            let block =
                [start.to_vec(), order(42, 2), order(8, 4), order(2, 2), other, entry].concat();
            assert_eq!(
                probe(&with_app1(&picture, &block)).unwrap().orientation,
                expected,
                "type {kind}, little-endian: {little}"
            );
        }
    }
}

#[test]
fn unannounced_webp_blocks_are_ignored() {
    let mut plain = Vec::new();
    image::codecs::webp::WebPEncoder::new_lossless(&mut plain)
        .encode(quarters(96, 64).as_raw(), 96, 64, image::ExtendedColorType::Rgb8)
        .unwrap();
    let chunk = |name: &[u8; 4], body: &[u8]| {
        let padding = &[0][..body.len() % 2];
        [name.as_slice(), &u32::try_from(body.len()).unwrap().to_le_bytes(), body, padding].concat()
    };
    let xmp = b"<tiff:Orientation>6</tiff:Orientation>";
    for (name, body, flag) in [(b"EXIF", exif(6), 8), (b"XMP ", xmp.to_vec(), 4)] {
        for (flags, expected) in [(flag, 6), (0, 1)] {
            let header = chunk(b"VP8X", &[flags, 0, 0, 0, 95, 0, 0, 63, 0, 0]);
            let file = chunk(
                b"RIFF",
                &[b"WEBP".as_slice(), &header, &plain[12..], &chunk(name, &body)].concat(),
            );
            assert_eq!(probe(&file).unwrap().orientation, expected, "{name:?} with flags {flags}");
        }
    }
}

#[test]
fn split_and_double_exif_is_read() {
    let picture = jpeg(&quarters(32, 32), false);
    let block = exif(6);
    let segments = |first: &[u8], second: &[u8]| {
        let second = with_app1(&picture, &[b"Exif\0\0", second].concat());
        with_app1(&second, &[b"Exif\0\0", first].concat())
    };
    assert_eq!(probe(&segments(b"", &block)).unwrap().orientation, 6, "the first segment is empty");
    assert_eq!(probe(&segments(&block[..9], &block[9..])).unwrap().orientation, 6, "cut in two");
    let entry =
        block.windows(2).position(|tag| tag == [0x12, 0x01] || tag == [0x01, 0x12]).unwrap();
    let mut twice = block.clone();
    let count = if block[0] == b'I' { entry + 4 } else { entry + 7 };
    twice[count] = 2;
    assert_eq!(
        probe(&with_app1(&picture, &[b"Exif\0\0", twice.as_slice()].concat())).unwrap().orientation,
        6,
        "two values"
    );
}

#[test]
fn invalid_orientations_are_ignored() {
    for block in [
        b"Exif\0\0".to_vec(),
        b"Exif\0\0II*\0\xFF\xFF\xFF\xFF".to_vec(),
        [b"Exif\0\0".as_slice(), &exif(9)].concat(),
    ] {
        assert_eq!(
            probe(&with_app1(&jpeg(&quarters(32, 32), false), &block)).unwrap().orientation,
            1
        );
    }
}

#[test]
fn bytes_decide_the_format() {
    let picture = quarters(40, 20);
    for (format, expected, name) in [
        (ImageFormat::Png, PictureFormat::Png, "png"),
        (ImageFormat::WebP, PictureFormat::WebP, "webp"),
        (ImageFormat::Gif, PictureFormat::Gif, "gif"),
        (ImageFormat::Bmp, PictureFormat::Bmp, "bmp"),
        (ImageFormat::Tiff, PictureFormat::Tiff, "tiff"),
    ] {
        let found = decoded(&file(picture.clone(), format));
        assert_eq!((found.format, found.format.to_string().as_str()), (expected, name));
        assert_near(mean_rgb_2x2(&found.rgb), COLOURS, name);
    }
    assert_eq!(decoded(&jpeg(&picture, true)).format.to_string(), "jpeg");
}

#[test]
fn transparency_becomes_white_not_black() {
    let half =
        RgbaImage::from_fn(
            8,
            8,
            |x, _| if x < 4 { Rgba([0, 0, 0, 0]) } else { Rgba([0, 100, 200, 51]) },
        );
    for format in [ImageFormat::Png, ImageFormat::WebP] {
        let found = decoded(&file(half.clone(), format)).rgb.data;
        assert_eq!(found[..3], [255, 255, 255], "what is invisible is white");
        assert_eq!(
            found[8 * 3 - 3..8 * 3],
            [204, 224, 244],
            "a fifth of the colour, four fifths of white"
        );
    }
    let gray: ImageBuffer<image::LumaA<u8>, _> =
        ImageBuffer::from_fn(4, 4, |x, _| image::LumaA([0, if x == 0 { 255 } else { 0 }]));
    assert_eq!(
        decoded(&file(DynamicImage::ImageLumaA8(gray), ImageFormat::Png)).rgb.data[..6],
        [0, 0, 0, 255, 255, 255]
    );
}

#[test]
fn premultiplied_tiff_colours_are_kept() {
    // A fifth of (0, 100, 200), and a fully transparent pixel.
    for (extra, pixel) in [(1, [0, 20, 40, 51]), (2, [0, 100, 200, 51])] {
        let found = decoded(&tiff_with(2, 1, 2, 4, &[(338, extra)], &[pixel, [0; 4]].concat()));
        assert_eq!(found.rgb.data, [204, 224, 244, 255, 255, 255], "ExtraSamples {extra}");
    }
}

#[test]
fn the_high_byte_of_16_bits_is_kept() {
    let gray: ImageBuffer<Luma<u16>, _> =
        ImageBuffer::from_fn(4, 4, |x, _| Luma([0x80FF + x as u16 * 0x1000]));
    let found = decoded(&file(DynamicImage::ImageLuma16(gray), ImageFormat::Png));
    assert_eq!(found.rgb.data[..6], [0x80, 0x80, 0x80, 0x90, 0x90, 0x90]);
    let rgba: ImageBuffer<Rgba<u16>, _> = ImageBuffer::from_fn(4, 4, |x, _| {
        Rgba([0x12FF, 0x3400, 0x56AA, if x == 0 { 0xFFFF } else { 0 }])
    });
    let found = decoded(&file(DynamicImage::ImageRgba16(rgba), ImageFormat::Png));
    assert_eq!(found.rgb.data[..6], [0x12, 0x34, 0x56, 255, 255, 255]);
}

#[test]
fn cmyk_of_jpeg_and_tiff_has_true_colours() {
    let magenta_on_paper = |inverted: bool| -> Vec<u8> {
        let inks =
            (0..32 * 32).flat_map(|i| if i % 32 < 16 { [0_u8, 255, 0, 0] } else { [0, 0, 0, 128] });
        inks.map(|ink| if inverted { 255 - ink } else { ink }).collect()
    };
    let expected = [[255, 0, 255], [127, 127, 127], [255, 0, 255], [127, 127, 127]];
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_quality(100).unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::None).unwrap();
    let pixels = magenta_on_paper(true);
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width: 32,
        pitch: 128,
        height: 32,
        format: turbojpeg::PixelFormat::CMYK,
    };
    let bytes = compressor.compress_to_vec(image).unwrap();
    assert_near(mean_rgb_2x2(&decoded(&bytes).rgb), expected, "JPEG");
    assert_near(
        mean_rgb_2x2(&decoded(&tiff(32, 32, 5, 4, 1, &magenta_on_paper(false))).rgb),
        expected,
        "TIFF",
    );
}

#[test]
fn unknown_adobe_transforms_have_a_default() {
    let adobe =
        |transform| [b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0".as_slice(), &[transform]].concat();
    let plain = jpeg(&quarters(32, 32), false);
    assert_eq!(plain[2..4], [0xFF, 0xE0], "a JFIF header of 16 bytes");
    for transform in [2, 3, 7] {
        let bytes = [&plain[..2], &adobe(transform), &plain[20..]].concat();
        assert_near(
            mean_rgb_2x2(&decoded(&bytes).rgb),
            COLOURS,
            &format!("three components, {transform}"),
        );
    }
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::None).unwrap();
    let pixels: Vec<u8> = (0..32 * 32)
        .flat_map(|i| if i % 32 < 16 { [255, 0, 255, 255] } else { [255, 255, 255, 127] })
        .collect();
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width: 32,
        pitch: 128,
        height: 32,
        format: turbojpeg::PixelFormat::CMYK,
    };
    let ycck = compressor.compress_to_vec(image).unwrap();
    let at = ycck.windows(5).position(|window| window == b"Adobe").unwrap() + 11;
    for transform in [1, 2, 3, 7] {
        let mut bytes = ycck.clone();
        bytes[at] = transform;
        let expected = [[255, 0, 255], [127, 127, 127], [255, 0, 255], [127, 127, 127]];
        assert_near(
            mean_rgb_2x2(&decoded(&bytes).rgb),
            expected,
            &format!("four components, {transform}"),
        );
    }
}

#[test]
fn only_the_first_frame_counts() {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::gif::GifEncoder::new(&mut bytes);
    for colour in [[255, 0, 0, 255], [0, 255, 0, 255], [0, 0, 255, 255]] {
        encoder
            .encode_frame(image::Frame::new(RgbaImage::from_pixel(10, 10, Rgba(colour))))
            .unwrap();
    }
    drop(encoder);
    assert_eq!(decoded(&bytes).blank, Some(BlankKind::Uniform([255, 0, 0])));
    // Later frames may be missing.
    let second =
        bytes.windows(2).enumerate().filter(|(_, pair)| *pair == [0x21, 0xF9]).nth(1).unwrap().0;
    assert_eq!(decoded(&bytes[..second]).blank, Some(BlankKind::Uniform([255, 0, 0])));
}

#[test]
fn blank_pictures_are_detected_unless_exact() {
    let plain = |colour| file(RgbaImage::from_pixel(50, 40, Rgba(colour)), ImageFormat::Png);
    for (bytes, expected) in [
        (file(quarters(1, 1), ImageFormat::Png), Some(BlankKind::OnePixel)),
        (plain([10, 200, 30, 0]), Some(BlankKind::Transparent)),
        (plain([10, 200, 30, 255]), Some(BlankKind::Uniform([10, 200, 30]))),
        (
            jpeg(&image::RgbImage::from_pixel(64, 64, image::Rgb([250, 250, 250])), false),
            Some(BlankKind::Uniform([250, 250, 250])),
        ),
        (file(quarters(50, 40), ImageFormat::Png), None),
    ] {
        assert_eq!(is_blank(&decoded(&bytes)), expected);
        assert_eq!(is_blank(&exact(&bytes)), None);
    }
    let mut speck = image::RgbImage::from_pixel(50, 40, image::Rgb([255; 3]));
    speck.put_pixel(49, 39, image::Rgb([0; 3]));
    assert_eq!(
        decoded(&file(speck, ImageFormat::Png)).blank,
        None,
        "a single dark pixel is something"
    );
}

#[test]
fn camera_jpegs_keep_twice_the_target() {
    let picture = detailed(4000, 3000);
    for progressive in [false, true] {
        let bytes =
            with_app1(&jpeg(&picture, progressive), &[b"Exif\0\0".as_slice(), &exif(6)].concat());
        let with = |target, exact| {
            decode(&bytes, &DecodeOptions { target, exact, ..DecodeOptions::default() }).unwrap()
        };
        for (target, expected) in [
            ((224, 224), (750, 1000)),
            ((375, 500), (750, 1000)),
            ((376, 500), (1500, 2000)),
            ((768, 768), (3000, 4000)),
        ] {
            let found = with(Some(target), false);
            assert_eq!((found.rgb.width, found.rgb.height), expected, "target {target:?}");
            assert_eq!((found.width, found.height), (3000, 4000), "the full size is reported");
        }
        let full = with(Some((224, 224)), true);
        assert_eq!((full.rgb.width, full.rgb.height), (3000, 4000), "exact means in full");
        assert_eq!(with(None, false).rgb, full.rgb, "without a target nothing is left out");
        let small = |picture| resize(picture, 224, 224, ResampleFilter::Bilinear).data;
        let (reduced, full) = (small(&with(Some((224, 224)), false).rgb), small(&full.rgb));
        let worst = reduced.iter().zip(&full).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(worst <= 16, "the reduced picture differs by up to {worst} levels");
    }
    let below = jpeg(&detailed(3900, 3000), false);
    let found = decode(&below, &DecodeOptions { target: Some((8, 8)), ..DecodeOptions::default() })
        .unwrap();
    assert_eq!(
        (found.rgb.width, found.rgb.height),
        (3900, 3000),
        "below 12 megapixels every pixel is decoded"
    );
}

#[test]
fn jpegs_of_any_size_keep_twice_the_target() {
    let picture = detailed(1000, 800);
    let bytes = jpeg(&picture, false);
    let with = |target, reduce_all, exact| {
        let options = DecodeOptions {
            target: Some((target, target)),
            reduce_all,
            exact,
            ..DecodeOptions::default()
        };
        let found = decode(&bytes, &options).unwrap();
        assert_eq!((found.width, found.height), (1000, 800), "the full size is reported");
        (found.rgb.width, found.rgb.height)
    };
    for (target, expected) in
        [(50, (125, 100)), (51, (250, 200)), (200, (500, 400)), (201, (1000, 800))]
    {
        assert_eq!(with(target, true, false), expected, "target {target}");
        assert_eq!(with(target, true, true), (1000, 800), "exact means in full");
        assert_eq!(with(target, false, false), (1000, 800), "only where it is allowed");
    }
}

#[test]
fn encoded_png_decodes_to_the_same_picture() {
    let found = decoded(&jpeg(&quarters(30, 20), false));
    assert_eq!(decoded(&encode_png(&found.rgb)).rgb, found.rgb);
}

#[test]
fn harmless_jpeg_faults_are_ignored() {
    let whole = jpeg(&detailed(200, 100), true);
    let expected = decoded(&whole).rgb;
    // After the first segment: the bytes after the start marker are part of the JPEG signature.
    let junk = [&whole[..20], b"\0\0some junk", &whole[20..]].concat();
    assert_eq!(decoded(&junk).rgb, expected, "junk between the markers");
    let jfif = whole.windows(5).position(|window| window == b"JFIF\0").unwrap();
    let mut revision = whole.clone();
    revision[jfif + 5] = 9;
    assert_eq!(decoded(&revision).rgb, expected, "an unknown JFIF revision");
    assert_eq!(decoded(&whole[..whole.len() - 2]).rgb, expected, "no end marker");
    assert_eq!(
        decoded(&[&whole[..], b"and more behind it"].concat()).rgb,
        expected,
        "something behind the end"
    );
}
