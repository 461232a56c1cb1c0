//! Colour profiles: the colours that a viewer shows, in every format that carries a profile.

mod drawn;

use drawn::{
    COLOURS, chunk, deflated, file, gray_jpeg, jpeg, quarters, tiff_with, with_app1, with_chunks,
};
use image::ImageFormat;
use moxcms::{
    ColorProfile, DataColorSpace, LutDataType, LutStore, LutType, LutWarehouse, Matrix3d,
    ProfileClass, ToneReprCurve,
};
use pg_caption_pixels::{DecodeLimits, DecodeOptions, decode, mean_rgb_2x2, probe};

/// A profile whose red is blue and the reverse, as test pages of browsers use it.
fn swapped() -> Vec<u8> {
    let mut profile = ColorProfile::new_srgb();
    std::mem::swap(&mut profile.red_colorant, &mut profile.blue_colorant);
    profile.cicp = None;
    profile.encode().unwrap()
}

/// The colours of [`quarters`] with red and blue exchanged.
fn exchanged() -> [[u8; 3]; 4] {
    COLOURS.map(|[r, g, b]| [b, g, r])
}

/// Segments of a JPEG with parts of a profile, each with its number.
fn with_profile_parts(jpeg: &[u8], parts: &[(u8, &[u8])]) -> Vec<u8> {
    let count = parts.len() as u8;
    parts.iter().rev().fold(jpeg.to_vec(), |file, (number, part)| {
        let body = [b"ICC_PROFILE\0".as_slice(), &[*number, count], part].concat();
        let mut file = with_app1(&file, &body);
        file[3] = 0xE2;
        file
    })
}

fn webp_with_profile(profile: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
    image::ImageEncoder::set_icc_profile(&mut encoder, profile.to_vec()).unwrap();
    let picture = quarters(64, 48);
    encoder.encode(picture.as_raw(), 64, 48, image::ExtendedColorType::Rgb8).unwrap();
    bytes
}

fn png_with_profile(png: &[u8], profile: &[u8]) -> Vec<u8> {
    let body = [b"profile\0\0".as_slice(), &deflated(profile)].concat();
    with_chunks(png, &chunk(b"iCCP", &body), false)
}

/// A TIFF whose profile is behind its picture; `photometric` and samples as in [`tiff_with`].
fn tiff_with_profile(photometric: u16, samples: u16, strip: &[u8], profile: &[u8]) -> Vec<u8> {
    let mut bytes = tiff_with(64, 48, photometric, samples, &[(259, 1), (34_675, 0)], strip);
    let entry = bytes.windows(4).position(|window| window == [0x73, 0x87, 4, 0]).unwrap();
    let (length, at) = (profile.len() as u32, bytes.len() as u32);
    bytes[entry + 2..entry + 4].copy_from_slice(&7_u16.to_le_bytes());
    bytes[entry + 4..entry + 8].copy_from_slice(&length.to_le_bytes());
    bytes[entry + 8..entry + 12].copy_from_slice(&at.to_le_bytes());
    bytes.extend(profile);
    bytes
}

fn means(bytes: &[u8], exact: bool) -> [[u8; 3]; 4] {
    let options = DecodeOptions { exact, ..DecodeOptions::default() };
    mean_rgb_2x2(&decode(bytes, &options).unwrap().rgb)
}

fn assert_near(found: [[u8; 3]; 4], expected: [[u8; 3]; 4], what: &str) {
    let off =
        found.as_flattened().iter().zip(expected.as_flattened()).any(|(a, b)| a.abs_diff(*b) > 6);
    assert!(!off, "{what}: {found:?} instead of {expected:?}");
}

/// A file of each kind with this RGB profile.
fn files(profile: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let picture = quarters(64, 48);
    let (first, second) = profile.split_at(profile.len() / 2);
    let plain = jpeg(&picture, false);
    vec![
        ("JPEG", with_profile_parts(&plain, &[(1, profile)])),
        ("JPEG in parts", with_profile_parts(&plain, &[(1, first), (2, second)])),
        ("JPEG in parts without order", with_profile_parts(&plain, &[(2, second), (1, first)])),
        ("PNG", png_with_profile(&file(picture.clone(), ImageFormat::Png), profile)),
        ("WebP", webp_with_profile(profile)),
        ("TIFF", tiff_with_profile(2, 3, picture.as_raw(), profile)),
    ]
}

#[test]
fn colours_are_as_the_profile_says() {
    for (what, bytes) in files(&swapped()) {
        assert_near(means(&bytes, false), exchanged(), what);
        assert_near(means(&bytes, true), COLOURS, &format!("{what}, exact"));
    }
}

#[test]
fn wide_colours_become_brighter() {
    let profile = ColorProfile::new_display_p3().encode().unwrap();
    for (what, bytes) in files(&profile) {
        let [red, ..] = means(&bytes, false);
        assert!(red[0] > 225 && red[1] < 25, "{what}: {red:?}");
    }
}

#[test]
fn srgb_changes_no_bit() {
    for profile in [ColorProfile::new_srgb(), {
        // The curve as a table, as older profiles have it.
        let mut profile = ColorProfile::new_srgb();
        let level = |n: u32| {
            let value = f64::from(n) / 1023.0;
            let linear =
                if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) };
            (linear * 65_535.0).round() as u16
        };
        let curve = ToneReprCurve::Lut((0..1024).map(level).collect());
        profile.red_trc = Some(curve.clone());
        profile.green_trc = Some(curve.clone());
        profile.blue_trc = Some(curve);
        profile.cicp = None;
        profile
    }] {
        for (what, bytes) in files(&profile.encode().unwrap()) {
            let pixels = |exact| {
                let options = DecodeOptions { exact, ..DecodeOptions::default() };
                decode(&bytes, &options).unwrap().rgb
            };
            assert_eq!(pixels(false), pixels(true), "{what}");
        }
    }
}

#[test]
fn gray_profiles_apply_to_gray_pictures() {
    let profile = ColorProfile::new_gray_with_gamma(1.0).encode().unwrap();
    let picture = image::RgbImage::from_pixel(64, 48, image::Rgb([55; 3]));
    let gray = image::DynamicImage::ImageRgb8(picture.clone()).into_luma8();
    // A linear level of 55 of 255 is 128 in sRGB.
    for (what, bytes) in [
        ("JPEG", with_profile_parts(&gray_jpeg(&picture), &[(1, &profile)])),
        ("PNG", png_with_profile(&file(gray.clone(), ImageFormat::Png), &profile)),
        ("TIFF", tiff_with_profile(1, 1, gray.as_raw(), &profile)),
    ] {
        assert_near(means(&bytes, false), [[128; 3]; 4], what);
        assert_near(means(&bytes, true), [[55; 3]; 4], what);
    }
    // A profile of another kind than the picture is ignored.
    for (what, bytes) in files(&profile) {
        assert_near(means(&bytes, false), COLOURS, what);
    }
}

/// A profile of inks in which cyan prints red (Lab 53, 80, 67), and everything else white.
fn inks() -> Vec<u8> {
    let encoded = |[l, a, b]: [f64; 3]| {
        [l / 100.0 * 65_280.0, (a + 128.0) * 256.0, (b + 128.0) * 256.0].map(|v| v as u16)
    };
    let (white, red) = (encoded([100.0, 0.0, 0.0]), encoded([53.0, 80.0, 67.0]));
    // Cyan is the slowest of the four channels.
    let table = (0..16).flat_map(|n| if n >= 8 { red } else { white }).collect();
    let straight = |channels: usize| (0..channels).flat_map(|_| [0, 65_535]).collect();
    let lut = LutDataType {
        num_input_channels: 4,
        num_output_channels: 3,
        num_clut_grid_points: 2,
        matrix: Matrix3d::IDENTITY,
        num_input_table_entries: 2,
        num_output_table_entries: 2,
        input_table: LutStore::Store16(straight(4)),
        clut_table: LutStore::Store16(table),
        output_table: LutStore::Store16(straight(3)),
        lut_type: LutType::Lut16,
    };
    let mut profile = ColorProfile::default();
    profile.color_space = DataColorSpace::Cmyk;
    profile.pcs = DataColorSpace::Lab;
    profile.profile_class = ProfileClass::OutputDevice;
    profile.lut_a_to_b_perceptual = Some(LutWarehouse::Lut(lut));
    profile.encode().unwrap()
}

#[test]
fn inks_are_as_their_profile_says() {
    // Cyan on the left, paper on the right.
    let inks_of = |x: usize| if x < 32 { [255, 0, 0, 0] } else { [0_u8; 4] };
    let printed: Vec<u8> = (0..64 * 48).flat_map(|i| inks_of(i % 64)).collect();
    let inverted: Vec<u8> = printed.iter().map(|ink| 255 - ink).collect();
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_quality(100).unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::None).unwrap();
    let image = turbojpeg::Image {
        pixels: inverted.as_slice(),
        width: 64,
        pitch: 256,
        height: 48,
        format: turbojpeg::PixelFormat::CMYK,
    };
    let plain = compressor.compress_to_vec(image).unwrap();
    let (red, cyan) = ([251, 2, 5], [0, 255, 255]);
    for (what, bytes) in [
        ("JPEG", with_profile_parts(&plain, &[(1, &inks())])),
        ("TIFF", tiff_with_profile(5, 4, &printed, &inks())),
    ] {
        assert_near(means(&bytes, false), [red, [255; 3], red, [255; 3]], what);
        assert_near(means(&bytes, true), [cyan, [255; 3], cyan, [255; 3]], what);
    }
}

#[test]
fn invalid_profiles_are_ignored() {
    let whole = swapped();
    let mut random = fastrand::Rng::with_seed(11);
    let mut broken = whole.clone();
    broken[36..40].fill(0);
    let mut profiles = vec![Vec::from(&b"no profile"[..]), whole[..200].to_vec(), broken];
    profiles.extend((0..100).map(|_| {
        let mut changed = whole.clone();
        for _ in 0..8 {
            let at = random.usize(..changed.len());
            changed[at] = random.u8(..);
        }
        changed
    }));
    for (n, profile) in profiles.into_iter().enumerate() {
        for (what, bytes) in files(&profile) {
            let found = means(&bytes, false);
            if n < 3 {
                assert_near(found, COLOURS, what);
            }
        }
    }
    let missing = with_profile_parts(&jpeg(&quarters(64, 48), false), &[(1, &whole), (3, &whole)]);
    assert_near(means(&missing, false), COLOURS, "a part is missing");
}

#[test]
fn profiles_count_towards_memory() {
    let plain = jpeg(&quarters(64, 48), false);
    let profile = swapped();
    let bytes = with_profile_parts(&plain, &[(1, &profile)]);
    let grown = probe(&bytes).unwrap().memory_bound - probe(&plain).unwrap().memory_bound;
    assert!(grown >= 8 * profile.len() as u64, "{grown}");
    let limits = DecodeLimits { memory: Some(4 << 20), ..DecodeLimits::default() };
    let options = DecodeOptions { limits, ..DecodeOptions::default() };
    let error = decode(&bytes, &options).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "too_much_memory");
    // 5 MB are no profile, and take none of it.
    let long = vec![7; 65_000];
    let parts: Vec<(u8, &[u8])> = (1..80).map(|number| (number, long.as_slice())).collect();
    decode(&with_profile_parts(&plain, &parts), &DecodeOptions::default()).unwrap();
}
