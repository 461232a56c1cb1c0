//! Compares the resize with the plain version of its arithmetic, and decoding of a camera JPEG in
//! full with reduced scale. `cargo bench -p pg_caption_pixels`; prints medians in milliseconds.

#[path = "../tests/naive/mod.rs"]
mod naive;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use pg_caption_pixels::{DecodeOptions, ResampleFilter, RgbPicture, decode, resize};

fn main() {
    println!("{:<44} {:>9} {:>9} {:>6}", "resize", "fast", "plain", "ratio");
    for (from, to, filter) in [
        ((640, 480), (224, 224), ResampleFilter::Bilinear),
        ((640, 480), (768, 768), ResampleFilter::Bicubic),
        ((2000, 1500), (224, 224), ResampleFilter::Bilinear),
        ((4000, 3000), (224, 224), ResampleFilter::Bilinear),
        ((4000, 3000), (768, 768), ResampleFilter::Bicubic),
        ((640, 480), (2048, 1536), ResampleFilter::Lanczos),
    ] {
        let picture = noise(from.0, from.1);
        let fast = median(15, || resize(&picture, to.0, to.1, filter));
        let plain = median(5, || naive::resize(&picture, to.0, to.1, filter));
        report(&format!("{}x{} -> {}x{} {filter:?}", from.0, from.1, to.0, to.1), fast, plain);
    }
    println!(
        "\n{:<44} {:>9} {:>9} {:>6}",
        "decode and resize to 224x224", "reduced", "full", "ratio"
    );
    for progressive in [false, true] {
        let bytes = camera(progressive);
        let time = |exact| {
            let options =
                DecodeOptions { target: Some((224, 224)), exact, ..DecodeOptions::default() };
            median(7, || {
                resize(
                    &decode(&bytes, &options).expect("the benchmark's JPEG decodes").rgb,
                    224,
                    224,
                    ResampleFilter::Bilinear,
                )
            })
        };
        // All coefficients of a progressive file are decoded whatever the scale.
        let what = if progressive {
            "12 MP progressive JPEG (aim 0.7)"
        } else {
            "12 MP baseline JPEG (aim 0.5)"
        };
        report(what, time(false), time(true));
    }
}

fn report(what: &str, fast: Duration, plain: Duration) {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{what:<44} {:>9.2} {:>9.2} {:>6.2}", ms(fast), ms(plain), ms(fast) / ms(plain));
}

fn median<T>(runs: usize, mut work: impl FnMut() -> T) -> Duration {
    let mut times: Vec<_> = (0..runs)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed()
        })
        .collect();
    times.sort();
    times[runs / 2]
}

fn noise(width: u32, height: u32) -> RgbPicture {
    let mut random = fastrand::Rng::with_seed(1);
    let data = (0..width as usize * height as usize * 3).map(|_| random.u8(..)).collect();
    RgbPicture { width, height, data }
}

/// A 4000 x 3000 JPEG of quality 85, 4:2:0, with detail at every scale.
fn camera(progressive: bool) -> Vec<u8> {
    let detail = resize(&noise(1000, 750), 4000, 3000, ResampleFilter::Bicubic);
    let mut compressor = turbojpeg::Compressor::new().expect("libjpeg-turbo starts");
    compressor.set_quality(85).expect("a quality from 1 to 100");
    compressor.set_subsamp(turbojpeg::Subsamp::Sub2x2).expect("a usual subsampling");
    compressor.set_progressive(progressive).expect("a supported mode");
    let image = turbojpeg::Image {
        pixels: detail.data.as_slice(),
        width: 4000,
        pitch: 12000,
        height: 3000,
        format: turbojpeg::PixelFormat::RGB,
    };
    compressor.compress_to_vec(image).expect("an RGB picture becomes a JPEG")
}
