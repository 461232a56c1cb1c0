//! The markers of a JPEG file, read like libjpeg: sizes, EXIF, scans. Decodes nothing, copies
//! nothing.

use image::metadata::Orientation;

use crate::{PictureError, PictureFormat, bounds::MAX_PROFILE, orient};

const SOI: u8 = 0xD8;
pub(super) const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
/// The frame header of JPEG-LS, another format with the same start marker.
const JPEG_LS: u8 = 0xF7;
const APP0: u8 = 0xE0;
const APP1: u8 = 0xE1;
const APP2: u8 = 0xE2;
const APP14: u8 = 0xEE;
/// Start of an APP1 segment with EXIF.
const EXIF: &[u8] = b"Exif\0\0";
/// Start of an APP2 segment with a part of a colour profile; its number and the count of parts
/// follow.
const PROFILE: &[u8] = b"ICC_PROFILE\0";
/// Start of an APP1 segment with an XMP packet.
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";

/// One component, as its sampling factors.
pub(super) struct FrameComponent {
    h: u8,
    v: u8,
}

/// How much of the first scans a file holds. With them a progressive picture is complete, though
/// coarse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ScanCoverage {
    /// All of them.
    Whole,
    /// It ends within the last of them.
    Begun,
    /// A component has no scan.
    Lacking,
}

/// The segments before the first scan.
pub(super) struct JpegMarkers {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) components: Vec<FrameComponent>,
    pub(super) orientation: Orientation,
    /// Such files cannot be decoded at reduced scale.
    pub(super) lossless: bool,
    /// Number and bytes of each part of the colour profile.
    profile: Vec<(u8, std::ops::Range<usize>)>,
    progressive: bool,
    /// Components in the first scan.
    in_first_scan: usize,
    /// Marker and byte range (from the 0xFF on) of the segments that a decoder needs.
    needed: Vec<(u8, std::ops::Range<usize>)>,
    /// Offset of the first SOS marker.
    scan: usize,
}

impl JpegMarkers {
    /// Reads the segments up to the first scan.
    pub(super) fn read(bytes: &[u8]) -> Result<JpegMarkers, PictureError> {
        let cut = || PictureError::Truncated { format: PictureFormat::Jpeg, share: Some(0) };
        let mut frame = None;
        let (mut exif, mut xmp, mut needed) = (Vec::new(), None, Vec::new());
        let mut profile = Vec::new();
        let mut at = 2;
        loop {
            let (start, marker) = next_marker(bytes, at).ok_or_else(cut)?;
            at = start + 2;
            if matches!(marker, 0x01 | 0xD0..=0xD7) {
                continue;
            }
            if matches!(marker, SOI | EOI) {
                return Err(damaged("the file has no picture"));
            }
            let (body, end) = segment(bytes, at).ok_or_else(cut)??;
            match marker {
                SOS => {
                    let (progressive, width, height, components) =
                        frame.ok_or_else(|| damaged("a scan comes before the frame header"))?;
                    let in_first_scan = usize::from(
                        *body.first().ok_or_else(|| damaged("a scan header is empty"))?,
                    );
                    let orientation = orient::orientation_of(Some(&exif), xmp);
                    let lossless = needed.iter().any(|(marker, _)| matches!(marker, 0xC3 | 0xCB));
                    return Ok(JpegMarkers {
                        width,
                        height,
                        components,
                        orientation,
                        lossless,
                        profile,
                        progressive,
                        in_first_scan,
                        needed,
                        scan: start,
                    });
                }
                0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                    if frame.is_some() {
                        return Err(damaged("the file has two frame headers"));
                    }
                    frame = Some(read_frame(marker, body)?);
                }
                JPEG_LS => return Err(unsupported("a JPEG-LS")),
                // A block may span several segments, the first of which may be empty.
                APP1 if body.starts_with(EXIF) => exif.extend_from_slice(&body[EXIF.len()..]),
                APP2 if body.starts_with(PROFILE) && body.len() > PROFILE.len() + 2 => {
                    profile.push((body[PROFILE.len()], end + 2 - body.len() + PROFILE.len()..end));
                }
                APP1 if xmp.is_none() => xmp = body.strip_prefix(XMP),
                _ => {}
            }
            let jfif = marker == APP0 && body.starts_with(b"JFIF\0");
            let adobe = marker == APP14 && body.starts_with(b"Adobe");
            if jfif || adobe || matches!(marker, 0xC0..=0xCF | 0xDB | 0xDD) {
                needed.push((marker, start..end));
            }
            at = end;
        }
    }

    /// The colour profile, put together.
    pub(super) fn profile(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut parts: Vec<_> = self.profile.iter().collect();
        parts.sort_by_key(|(number, _)| *number);
        // Numbers begin with 1, and no part is missing or repeated.
        let complete = parts.iter().zip(1..).all(|((number, _), expected)| *number == expected);
        let size: usize = parts.iter().map(|(_, range)| range.len()).sum();
        (complete && size > 0 && size <= MAX_PROFILE)
            .then(|| parts.iter().flat_map(|(_, range)| &bytes[range.clone()]).copied().collect())
    }

    /// Whether libjpeg keeps the coefficients of the whole picture while it reads scan after scan.
    pub(super) fn is_multi_scan(&self) -> bool {
        self.progressive || self.in_first_scan < self.components.len()
    }

    /// Size of those coefficients: two bytes each, blocks padded to whole units.
    pub(super) fn coefficient_bytes(&self) -> u64 {
        let largest = |side: fn(&FrameComponent) -> u8| {
            self.components.iter().map(|c| u64::from(side(c))).max().unwrap_or(1)
        };
        let (h, v) = (largest(|c| c.h), largest(|c| c.v));
        let units = u64::from(self.width).div_ceil(8 * h) * u64::from(self.height).div_ceil(8 * v);
        let blocks: u64 = self.components.iter().map(|c| u64::from(c.h) * u64::from(c.v)).sum();
        units * blocks * 128
    }

    /// Whether an end marker follows the scans.
    pub(super) fn is_ended(&self, bytes: &[u8]) -> bool {
        bytes.ends_with(&[0xFF, EOI]) || self.count_scans(bytes).1
    }

    /// The number of scans, and whether an end marker follows them.
    pub(super) fn count_scans(&self, bytes: &[u8]) -> (u64, bool) {
        let mut scans = 0;
        let mut at = self.scan;
        while let Some((start, marker)) = next_marker(bytes, at) {
            at = start + 2;
            match marker {
                EOI => return (scans, true),
                0x01 | 0xD0..=0xD8 => {}
                _ => {
                    scans += u64::from(marker == SOS);
                    match segment(bytes, at) {
                        Some(Ok((_, end))) => at = end,
                        Some(Err(_)) => {}
                        None => return (scans, false),
                    }
                }
            }
        }
        (scans, false)
    }

    /// How much of the first scans of all components the file holds.
    pub(super) fn coverage(&self, bytes: &[u8]) -> ScanCoverage {
        let (mut begun, mut whole, mut at) = ([false; 256], [false; 256], self.scan);
        // Components of the scan before the current marker.
        let mut open: &[u8] = &[];
        while let Some((start, marker)) = next_marker(bytes, at) {
            at = start + 2;
            if matches!(marker, 0x01 | 0xD0..=0xD8) {
                continue;
            }
            // A marker follows, so the scan is whole.
            open.chunks_exact(2).for_each(|component| whole[usize::from(component[0])] = true);
            open = &[];
            if marker == EOI {
                break;
            }
            match segment(bytes, at) {
                Some(Ok((body, end))) => {
                    if marker == SOS {
                        open = first_scan(body).unwrap_or_default();
                        open.chunks_exact(2).for_each(|c| begun[usize::from(c[0])] = true);
                    }
                    at = end;
                }
                Some(Err(_)) => {}
                None => break,
            }
        }
        let all = |which: [bool; 256]| {
            which.iter().filter(|component| **component).count() >= self.components.len()
        };
        match (all(whole), all(begun)) {
            (true, _) => ScanCoverage::Whole,
            (_, true) => ScanCoverage::Begun,
            _ => ScanCoverage::Lacking,
        }
    }

    /// A copy with only the required segments before the scans, so that libjpeg does not warn about
    /// the others. `more` is appended.
    pub(super) fn cleaned(&self, bytes: &[u8], more: &[u8]) -> Vec<u8> {
        let mut copy = Vec::with_capacity(bytes.len() + 4 + more.len());
        copy.extend([0xFF, SOI]);
        for (marker, range) in &self.needed {
            let start = copy.len();
            copy.extend_from_slice(&bytes[range.clone()]);
            let segment = &mut copy[start..];
            match *marker {
                // The revision after "JFIF\0"; libjpeg warns about any but 1.x.
                APP0 if segment.len() > 10 => segment[9..11].copy_from_slice(&[1, 1]),
                // The colour transform of Adobe's segment; 0 means no transform. libjpeg warns
                // about an unknown one and, like the reference, assumes this one.
                APP14 if segment.len() > 15 && segment[15] != 0 => {
                    segment[15] = if self.components.len() == 4 { 2 } else { 1 }
                }
                _ => {}
            }
        }
        copy.extend_from_slice(&bytes[self.scan..]);
        copy.extend(more);
        copy
    }
}

fn read_frame(
    marker: u8,
    body: &[u8],
) -> Result<(bool, u32, u32, Vec<FrameComponent>), PictureError> {
    let &[precision, h1, h0, w1, w0, count, ref rest @ ..] = body else {
        return Err(damaged("the frame header is too short"));
    };
    let (width, height) =
        (u32::from(u16::from_be_bytes([w1, w0])), u32::from(u16::from_be_bytes([h1, h0])));
    if width == 0 || height == 0 {
        return Err(damaged("the header announces a side of 0 pixels"));
    }
    if precision != 8 {
        return Err(unsupported(format!("{precision} bits per sample")));
    }
    if matches!(marker, 0xC5..=0xC7 | 0xCD..=0xCF) {
        return Err(unsupported("a hierarchical JPEG"));
    }
    if !matches!(count, 1 | 3 | 4) {
        return Err(unsupported(format!("{count} colour components")));
    }
    let components: Vec<_> = rest
        .chunks_exact(3)
        .take(usize::from(count))
        .map(|c| FrameComponent { h: c[1] >> 4, v: c[1] & 15 })
        .collect();
    if components.len() < usize::from(count)
        || components.iter().any(|c| !(1..=4).contains(&c.h) || !(1..=4).contains(&c.v))
    {
        return Err(damaged("invalid components in the frame header"));
    }
    Ok((matches!(marker, 0xC2 | 0xCA), width, height, components))
}

/// The pairs of component and tables in the header of a scan that is a component's first: the
/// first coefficient, at its first precision.
fn first_scan(body: &[u8]) -> Option<&[u8]> {
    let (count, rest) = body.split_first()?;
    let (components, parameters) = rest.split_at_checked(2 * usize::from(*count))?;
    match parameters {
        [0, _, precision, ..] if precision >> 4 == 0 => Some(components),
        _ => None,
    }
}

/// The next marker at or after `at`, and the offset of its 0xFF. Skips other bytes, as libjpeg
/// does.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<(usize, u8)> {
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0xFF)?;
        let fill = bytes[at..].iter().position(|byte| *byte != 0xFF)?;
        let marker = bytes[at + fill];
        if marker != 0 {
            return Some((at + fill - 1, marker));
        }
        at += fill + 1;
    }
}

/// The body of the segment whose length field is at `at`, and the segment's end. `None` if the file
/// ends before it.
fn segment(bytes: &[u8], at: usize) -> Option<Result<(&[u8], usize), PictureError>> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    if length < 2 {
        return Some(Err(damaged("invalid segment length")));
    }
    Some(Ok((bytes.get(at + 2..at + length)?, at + length)))
}

fn damaged(why: &str) -> PictureError {
    PictureError::Damaged { format: PictureFormat::Jpeg, why: why.to_owned() }
}

fn unsupported(what: impl Into<String>) -> PictureError {
    PictureError::UnsupportedVariant { format: PictureFormat::Jpeg, what: what.into() }
}
