//! The resampling filters, with Pillow's codes and formulas.

use std::f64::consts::PI;

/// A resampling filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResampleFilter {
    /// Code 0.
    Nearest,
    /// Code 1; three lobes.
    Lanczos,
    /// Code 2.
    Bilinear,
    /// Code 3; a = -0.5.
    Bicubic,
    /// Code 4.
    Box,
    /// Code 5.
    Hamming,
}

impl ResampleFilter {
    /// The filter of the code `resample` in a `preprocessor_config.json`.
    pub fn from_code(code: u64) -> Option<ResampleFilter> {
        Some(match code {
            0 => ResampleFilter::Nearest,
            1 => ResampleFilter::Lanczos,
            2 => ResampleFilter::Bilinear,
            3 => ResampleFilter::Bicubic,
            4 => ResampleFilter::Box,
            5 => ResampleFilter::Hamming,
            _ => return None,
        })
    }

    /// Half the width of the filter, in source pixels at scale 1.
    pub(crate) fn support(self) -> f64 {
        match self {
            ResampleFilter::Nearest => 0.0,
            ResampleFilter::Box => 0.5,
            ResampleFilter::Bilinear | ResampleFilter::Hamming => 1.0,
            ResampleFilter::Bicubic => 2.0,
            ResampleFilter::Lanczos => 3.0,
        }
    }

    /// The filter's value at `x`. The order of operations is part of the result.
    pub(crate) fn weight(self, x: f64) -> f64 {
        match self {
            ResampleFilter::Nearest => 0.0,
            ResampleFilter::Box => f64::from(x > -0.5 && x <= 0.5),
            ResampleFilter::Bilinear => (1.0 - x.abs()).max(0.0),
            ResampleFilter::Hamming => hamming(x.abs()),
            ResampleFilter::Bicubic => bicubic(x.abs()),
            ResampleFilter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            ResampleFilter::Lanczos => 0.0,
        }
    }
}

fn hamming(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    if x >= 1.0 {
        return 0.0;
    }
    let x = x * PI;
    x.sin() / x * (0.54 + 0.46 * x.cos())
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * PI;
    x.sin() / x
}
