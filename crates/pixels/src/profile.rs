//! Colour profiles (ICC) in files: the colours that a viewer shows, in sRGB.
//!
//! Called by `decode` and by the JPEG decoder for inks, never for an `exact` decode, since the
//! reference ignores profiles. A profile that is invalid, too long, of another kind than the
//! picture, or equal to sRGB changes nothing.

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use moxcms::{
    ColorProfile, DataColorSpace, Layout, ParsingOptions, ToneReprCurve, Transform8BitExecutor,
    TransformOptions, Xyzd,
};

use crate::bounds::MAX_PROFILE;
use crate::{DecodeLimits, PictureError, PictureFormat, jpeg, png, tiff, webp};

/// Levels by which the colours of a profile must differ from sRGB to count.
const SAME: u8 = 2;
/// Pixels that are converted between two looks at the clock.
const BLOCK: usize = 4096;
/// Numbers in a table of a profile: 17 steps of four inks in three colours are 250,000.
const MAX_TABLE: usize = 2_000_000;

/// The colours that a profile is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProfileSpace {
    Gray,
    Rgb,
    Cmyk,
}

/// The profile of a file, and the kind of its picture.
pub(crate) fn embedded(
    format: PictureFormat,
    bytes: &[u8],
) -> Option<(Cow<'_, [u8]>, ProfileSpace)> {
    let owned = |(profile, space): (Vec<u8>, _)| (Cow::Owned(profile), space);
    let (profile, space) = match format {
        PictureFormat::Jpeg => owned(jpeg::profile(bytes)?),
        PictureFormat::Png => {
            let space = if png::is_gray(bytes) { ProfileSpace::Gray } else { ProfileSpace::Rgb };
            owned((png::profile(bytes)?, space))
        }
        PictureFormat::WebP => (Cow::Borrowed(webp::profile(bytes)?), ProfileSpace::Rgb),
        PictureFormat::Tiff => owned(tiff::profile(bytes)?),
        _ => return None,
    };
    (profile.len() <= MAX_PROFILE).then_some((profile, space))
}

/// Most bytes that the profile of a file takes.
pub(crate) fn memory(format: PictureFormat, bytes: &[u8]) -> u64 {
    memory_of(embedded(format, bytes).map(|(profile, _)| profile.len()))
}

/// Most bytes that a profile of this length takes: its tables as numbers, and those made of them.
pub(crate) fn memory_of(length: Option<usize>) -> u64 {
    length.map_or(0, |length| 8 * length as u64 + (4 << 20))
}

/// Whether a profile clearly is sRGB. Most profiles are, and this takes a hundredth of the time of
/// a conversion.
fn is_srgb(profile: &ColorProfile, srgb: &ColorProfile) -> bool {
    if !profile.is_matrix_shaper() || profile.lut_a_to_b_perceptual.is_some() {
        return false;
    }
    let near = |a: &Xyzd, b: &Xyzd| {
        [(a.x, b.x), (a.y, b.y), (a.z, b.z)].iter().all(|(a, b)| (a - b).abs() < 0.002)
    };
    let curve = |curve: &Option<ToneReprCurve>| {
        let evaluator = curve.as_ref().and_then(|curve| curve.make_linear_evaluator().ok());
        evaluator.is_some_and(|evaluator| {
            (0..=32).all(|n| {
                let level = n as f32 / 32.0;
                // IEC 61966-2-1.
                let linear = if level <= 0.04045 {
                    level / 12.92
                } else {
                    ((level + 0.055) / 1.055).powf(2.4)
                };
                (evaluator.evaluate_value(level) - linear).abs() <= 0.0003 + linear / 200.0
            })
        })
    };
    near(&profile.red_colorant, &srgb.red_colorant)
        && near(&profile.green_colorant, &srgb.green_colorant)
        && near(&profile.blue_colorant, &srgb.blue_colorant)
        && [&profile.red_trc, &profile.green_trc, &profile.blue_trc].into_iter().all(curve)
}

/// From the colours of a profile to sRGB.
pub(crate) struct ColourConversion {
    transform: Arc<Transform8BitExecutor>,
    space: ProfileSpace,
}

impl ColourConversion {
    /// `None` if the profile changes nothing.
    pub(crate) fn new(profile: &[u8], space: ProfileSpace) -> Option<Self> {
        // A panic over a strange profile makes it an invalid one.
        catch_unwind(AssertUnwindSafe(|| Self::build(profile, space))).ok()?
    }

    fn build(profile: &[u8], space: ProfileSpace) -> Option<Self> {
        let options = ParsingOptions {
            max_profile_size: MAX_PROFILE + 1,
            max_allowed_clut_size: MAX_TABLE,
            ..ParsingOptions::default()
        };
        let profile = ColorProfile::new_from_slice_with_options(profile, options).ok()?;
        let (expected, layout) = match space {
            ProfileSpace::Gray => (DataColorSpace::Gray, Layout::Gray),
            ProfileSpace::Rgb => (DataColorSpace::Rgb, Layout::Rgb),
            ProfileSpace::Cmyk => (DataColorSpace::Cmyk, Layout::Rgba),
        };
        let srgb = ColorProfile::new_srgb();
        if profile.color_space != expected || is_srgb(&profile, &srgb) {
            return None;
        }
        let options = TransformOptions::default();
        let transform = profile.create_transform_8bit(layout, &srgb, Layout::Rgb, options).ok()?;
        let conversion = ColourConversion { transform, space };
        conversion.changes_colours()?.then_some(conversion)
    }

    /// Whether a colour of a grid over all of them changes visibly.
    fn changes_colours(&self) -> Option<bool> {
        const STEPS: [u8; 6] = [0, 51, 102, 153, 204, 255];
        let samples: Vec<u8> = match self.space {
            ProfileSpace::Gray => (0..=255).collect(),
            ProfileSpace::Rgb => STEPS
                .iter()
                .flat_map(|r| STEPS.iter().flat_map(move |g| STEPS.iter().map(move |b| [r, g, b])))
                .flatten()
                .copied()
                .collect(),
            // Inks have no other meaning without their profile. It must work.
            ProfileSpace::Cmyk => vec![0; 4],
        };
        let pixels = samples.len() / self.channels();
        let mut converted = vec![0; pixels * 3];
        self.transform.transform(&samples, &mut converted).ok()?;
        let differs = |a: u8, b: u8| a.abs_diff(b) > SAME;
        Some(match self.space {
            ProfileSpace::Gray => converted
                .as_chunks::<3>()
                .0
                .iter()
                .zip(&samples)
                .any(|(pixel, gray)| pixel.iter().any(|value| differs(*value, *gray))),
            ProfileSpace::Rgb => converted.iter().zip(&samples).any(|(a, b)| differs(*a, *b)),
            ProfileSpace::Cmyk => true,
        })
    }

    fn channels(&self) -> usize {
        match self.space {
            ProfileSpace::Gray => 1,
            ProfileSpace::Rgb => 3,
            ProfileSpace::Cmyk => 4,
        }
    }

    /// Converts the RGB pixels of a gray or RGB picture in place.
    pub(crate) fn rgb_in_place(
        &self,
        pixels: &mut [u8],
        limits: &DecodeLimits,
    ) -> Result<(), PictureError> {
        if self.space == ProfileSpace::Gray {
            let grays: Vec<u8> = (0..=255).collect();
            let mut table = vec![0; 3 * 256];
            if self.transform.transform(&grays, &mut table).is_ok() {
                let (table, _) = table.as_chunks::<3>();
                let (pixels, _) = pixels.as_chunks_mut::<3>();
                pixels.iter_mut().for_each(|pixel| *pixel = table[usize::from(pixel[0])]);
            }
            return limits.check_time();
        }
        let mut before = Vec::with_capacity(BLOCK * 3);
        for block in pixels.chunks_mut(BLOCK * 3) {
            limits.check_time()?;
            before.clear();
            before.extend_from_slice(block);
            // It fails for sizes that do not match, which they do.
            let _ = self.transform.transform(&before, block);
        }
        Ok(())
    }

    /// Converts inks (0: none) to RGB pixels at the start of the same bytes.
    pub(crate) fn inks_in_place(
        &self,
        inks: &mut [u8],
        limits: &DecodeLimits,
    ) -> Result<(), PictureError> {
        let mut converted = vec![0; BLOCK * 3];
        for start in (0..inks.len() / 4).step_by(BLOCK) {
            limits.check_time()?;
            let end = (start + BLOCK).min(inks.len() / 4);
            let converted = &mut converted[..(end - start) * 3];
            let _ = self.transform.transform(&inks[start * 4..end * 4], converted);
            inks[start * 3..end * 3].copy_from_slice(converted);
        }
        Ok(())
    }
}
