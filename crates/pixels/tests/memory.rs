//! The memory bound of a header holds: the measured peak of the process stays below it.
//!
//! Each file is decoded in a process of its own, because the peak belongs to the whole process.
//! Linux only; elsewhere it passes with a message.

mod drawn;

use std::{fs, io::Cursor};

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, Rgb, Rgba};
use pg_caption_pixels::{DecodeOptions, decode, probe};

/// What the C library keeps around large blocks, thread stacks, and pages touched for the first
/// time.
const SLACK: u64 = 3 << 20;

/// Environment variable of the process that decodes one file: its path.
const FILE: &str = "PG_CAPTION_PIXELS_MEMORY_FILE";

#[test]
fn no_format_takes_more_memory_than_its_header_promised() {
    if fs::write("/proc/self/clear_refs", "5").is_err() {
        eprintln!("skipped: this system cannot reset the peak of a process");
        return;
    }
    let path =
        std::env::temp_dir().join(format!("pg_caption_pixels_memory_{}", std::process::id()));
    for (name, bytes) in pictures() {
        fs::write(&path, &bytes).unwrap();
        for target in ["full", "reduced"] {
            let (used, bound) = in_a_fresh_process(&path, target);
            println!("{name}, {target}: {} kB used, {} kB promised", used >> 10, bound >> 10);
            assert!(used <= bound + SLACK, "{name}, {target}: {used} bytes used, {bound} promised");
            // A bound that is many times too large would delay pictures without need.
            assert!(
                bound <= used * 6 + SLACK,
                "{name}, {target}: {bound} bytes promised, only {used} used"
            );
        }
    }
    fs::remove_file(&path).unwrap();
}

/// The other half of the test above: decodes the file named by the environment and prints the
/// memory it took.
#[test]
fn decode_one_file() {
    let Ok(path) = std::env::var(FILE) else { return };
    let bytes = fs::read(path).unwrap();
    let target = (std::env::var("TARGET").as_deref() == Ok("reduced")).then_some((200, 200));
    let options = DecodeOptions { target, ..DecodeOptions::default() };
    let bound = probe(&bytes).unwrap().memory_for(&options);
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status("VmHWM:");
    let decoded = decode(&bytes, &options).unwrap();
    println!("measured {} {bound}", status("VmHWM:") - before);
    drop(decoded);
}

fn in_a_fresh_process(path: &std::path::Path, target: &str) -> (u64, u64) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "decode_one_file", "--nocapture"])
        .env(FILE, path)
        .env("TARGET", target)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find_map(|line| line.split_once("measured "))
        .unwrap_or_else(|| panic!("nothing measured: {text}"))
        .1;
    let (used, bound) = line.split_once(' ').unwrap();
    (used.parse().unwrap(), bound.trim().parse().unwrap())
}

fn pictures() -> Vec<(&'static str, Vec<u8>)> {
    let (width, height) = (4200, 3000);
    let value = |x: u32, y: u32| ((x / 7) ^ (y / 5)) as u8;
    let rgb: ImageBuffer<Rgb<u8>, _> =
        ImageBuffer::from_fn(width, height, |x, y| Rgb([value(x, y), x as u8, y as u8]));
    let rgba: ImageBuffer<Rgba<u8>, _> =
        ImageBuffer::from_fn(width, height, |x, y| Rgba([value(x, y), x as u8, y as u8, 200]));
    let rgba16: ImageBuffer<Rgba<u16>, _> =
        ImageBuffer::from_fn(width, height, |x, y| Rgba([x as u16, y as u16, 9, 65535]));
    let gray: ImageBuffer<Luma<u8>, _> =
        ImageBuffer::from_fn(width, height, |x, y| Luma([value(x, y)]));
    let small = DynamicImage::ImageRgba8(ImageBuffer::from_fn(1400, 1000, |x, y| {
        Rgba([value(x, y), 0, 0, 255])
    }));
    let file = |picture: &DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let jpeg = |progressive: bool, subsampling, turned: bool| {
        let mut compressor = turbojpeg::Compressor::new().unwrap();
        compressor.set_progressive(progressive).unwrap();
        compressor.set_subsamp(subsampling).unwrap();
        let image = turbojpeg::Image {
            pixels: rgb.as_raw().as_slice(),
            width: width as usize,
            pitch: width as usize * 3,
            height: height as usize,
            format: turbojpeg::PixelFormat::RGB,
        };
        let mut bytes = compressor.compress_to_vec(image).unwrap();
        if turned {
            let exif = [b"Exif\0\0".as_slice(), &drawn::exif(6)].concat();
            bytes = drawn::with_app1(&bytes, &exif);
        }
        bytes
    };
    let lossless = drawn::lossless_jpeg(rgb.as_raw(), (4200, 3000), turbojpeg::PixelFormat::RGB);
    let nothing = drawn::deflated(&vec![0; 40 << 20]);
    let small_png = file(&DynamicImage::ImageRgb8(drawn::quarters(4, 4)), ImageFormat::Png);
    let inflating = |name: &[u8; 4], before: &[u8]| {
        drawn::with_chunks(&small_png, &drawn::chunk(name, &[before, &nothing].concat()), false)
    };
    let rgb8 = DynamicImage::ImageRgb8(rgb.clone());
    let cut = |mut bytes: Vec<u8>| {
        bytes.truncate(bytes.len() * 98 / 100);
        bytes
    };
    let white = DynamicImage::ImageRgba8(ImageBuffer::from_pixel(1400, 1000, Rgba([255; 4])));
    let mut animation = Vec::new();
    image::codecs::gif::GifEncoder::new_with_speed(&mut animation, 30)
        .encode_frames([&white, &small].map(|frame| image::Frame::new(frame.to_rgba8())))
        .unwrap();
    let profile = moxcms::ColorProfile::new_display_p3().encode().unwrap();
    let profile = [b"ICC_PROFILE\0\x01\x01".as_slice(), &profile].concat();
    let mut with_profile =
        drawn::with_app1(&jpeg(false, turbojpeg::Subsamp::Sub2x2, false), &profile);
    with_profile[3] = 0xE2;
    vec![
        ("JPEG with a profile", with_profile),
        ("cut baseline JPEG", cut(jpeg(false, turbojpeg::Subsamp::Sub2x2, false))),
        ("cut RGB PNG", cut(file(&rgb8, ImageFormat::Png))),
        ("cut lossless WebP", cut(file(&rgb8, ImageFormat::WebP))),
        ("animated GIF with a white frame", animation),
        ("baseline JPEG", jpeg(false, turbojpeg::Subsamp::Sub2x2, false)),
        ("progressive JPEG", jpeg(true, turbojpeg::Subsamp::Sub2x2, false)),
        ("progressive 4:4:4 JPEG on its side", jpeg(true, turbojpeg::Subsamp::None, true)),
        ("lossless JPEG", lossless),
        ("RGB PNG", file(&rgb8, ImageFormat::Png)),
        ("RGBA PNG", file(&DynamicImage::ImageRgba8(rgba), ImageFormat::Png)),
        ("16-bit RGBA PNG", file(&DynamicImage::ImageRgba16(rgba16), ImageFormat::Png)),
        ("gray PNG", file(&DynamicImage::ImageLuma8(gray.clone()), ImageFormat::Png)),
        ("PNG with a profile of 40 MB", inflating(b"iCCP", b"x\0\0")),
        ("PNG with a text of 40 MB", inflating(b"zTXt", b"Raw profile type exif\0\0")),
        ("PNG with an XMP packet of 40 MB", inflating(b"iTXt", b"XML:com.adobe.xmp\0\x01\0\0\0")),
        ("lossless WebP", file(&rgb8, ImageFormat::WebP)),
        ("BMP", file(&rgb8, ImageFormat::Bmp)),
        ("TIFF", file(&rgb8, ImageFormat::Tiff)),
        (
            "TIFF of one JPEG",
            drawn::tiff_with(4200, 3000, 1, 1, &[(259, 7)], &drawn::gray_jpeg(&rgb)),
        ),
        (
            "TIFF of one JPEG tile larger than itself",
            drawn::tiff_with(
                1000,
                700,
                1,
                1,
                &[(259, 7), (322, 4208), (323, 3008)],
                &drawn::gray_jpeg(&rgb),
            ),
        ),
        (
            "TIFF of one JPEG with chroma",
            drawn::tiff_with(
                4200,
                3000,
                6,
                3,
                &[(259, 7)],
                &jpeg(false, turbojpeg::Subsamp::Sub2x2, false),
            ),
        ),
        (
            "TIFF of one JPEG with full chroma",
            drawn::tiff_with(
                4200,
                3000,
                6,
                3,
                &[(259, 7)],
                &jpeg(false, turbojpeg::Subsamp::None, false),
            ),
        ),
        (
            "TIFF of one JPEG tile with chroma larger than itself",
            drawn::tiff_with(
                1000,
                700,
                6,
                3,
                &[(259, 7), (322, 4208), (323, 3008)],
                &jpeg(false, turbojpeg::Subsamp::Sub2x2, false),
            ),
        ),
        (
            "gray TIFF with alpha",
            drawn::tiff_with(4200, 3000, 1, 2, &[(259, 1), (338, 2)], &vec![7; 4200 * 3000 * 2]),
        ),
        (
            "TIFF with its bits in reverse order",
            drawn::tiff_with(4200, 3000, 1, 1, &[(259, 1), (266, 2)], gray.as_raw()),
        ),
        ("GIF", file(&small, ImageFormat::Gif)),
    ]
}

fn status(key: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
