//! The resize as specified, one value at a time, in 64-bit integers. The fast version must equal
//! it.

use std::f64::consts::PI;

use pg_caption_pixels::{ResampleFilter, RgbPicture};

pub fn resize(picture: &RgbPicture, width: u32, height: u32, filter: ResampleFilter) -> RgbPicture {
    let mut current = picture.clone();
    if current.width != width {
        let (old, rows) = (current.width as usize, current.height as usize);
        let mut data = vec![0; rows * width as usize * 3];
        for (x, (low, weights)) in coefficients(old, width as usize, filter).into_iter().enumerate()
        {
            for y in 0..rows {
                for c in 0..3 {
                    let sum: i64 = weights
                        .iter()
                        .enumerate()
                        .map(|(i, w)| w * i64::from(current.data[(y * old + low + i) * 3 + c]))
                        .sum();
                    data[(y * width as usize + x) * 3 + c] = byte(sum);
                }
            }
        }
        current = RgbPicture { width, height: current.height, data };
    }
    if current.height != height {
        let row = width as usize * 3;
        let mut data = vec![0; height as usize * row];
        for (y, (low, weights)) in
            coefficients(current.height as usize, height as usize, filter).into_iter().enumerate()
        {
            for x in 0..row {
                let sum: i64 = weights
                    .iter()
                    .enumerate()
                    .map(|(i, w)| w * i64::from(current.data[(low + i) * row + x]))
                    .sum();
                data[y * row + x] = byte(sum);
            }
        }
        current = RgbPicture { width, height, data };
    }
    current
}

fn byte(sum: i64) -> u8 {
    ((sum + (1 << 21)) >> 22).clamp(0, 255) as u8
}

fn coefficients(n_in: usize, n_out: usize, filter: ResampleFilter) -> Vec<(usize, Vec<i64>)> {
    let (weight, support): (fn(f64) -> f64, f64) = match filter {
        ResampleFilter::Bilinear => (|x| (1.0 - x.abs()).max(0.0), 1.0),
        ResampleFilter::Bicubic => (bicubic, 2.0),
        ResampleFilter::Lanczos => {
            (|x| if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }, 3.0)
        }
        ResampleFilter::Box => (|x| if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }, 0.5),
        ResampleFilter::Hamming => (hamming, 1.0),
        ResampleFilter::Nearest => panic!("nearest neighbour has no weights"),
    };
    let scale = n_in as f64 / n_out as f64;
    let stretch = scale.max(1.0);
    let support = support * stretch;
    (0..n_out)
        .map(|x| {
            let centre = (x as f64 + 0.5) * scale;
            let low = ((centre - support + 0.5).trunc() as i64).max(0) as usize;
            let high = ((centre + support + 0.5).trunc() as usize).min(n_in);
            let mut weights: Vec<f64> =
                (low..high).map(|i| weight((i as f64 - centre + 0.5) * (1.0 / stretch))).collect();
            let sum = weights.iter().fold(0.0, |sum, w| sum + w);
            if sum != 0.0 {
                weights.iter_mut().for_each(|w| *w /= sum);
            }
            let fixed = weights.iter().map(|w| {
                (w * f64::from(1 << 22) + if *w < 0.0 { -0.5 } else { 0.5 }).trunc() as i64
            });
            (low, fixed.collect())
        })
        .collect()
}

fn bicubic(x: f64) -> f64 {
    let (x, a) = (x.abs(), -0.5);
    if x < 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * a
    } else {
        0.0
    }
}

fn hamming(x: f64) -> f64 {
    let x = x.abs();
    match x {
        0.0 => 1.0,
        _ if x >= 1.0 => 0.0,
        _ => (x * PI).sin() / (x * PI) * (0.54 + 0.46 * (x * PI).cos()),
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}
