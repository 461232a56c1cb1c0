//! Errors of pictures. Class, code and hints depend on the variant, never on message text.

use pg_caption_wire::{Failure, FailureClass};

use crate::bounds::{MAX_SCAN_PIXELS, MAX_SCANS};
use crate::{PictureFormat, format};

/// Why a picture was rejected.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PictureError {
    /// The file has no bytes.
    #[error("the file is empty")]
    Empty,
    /// Not a picture; `seems` describes the bytes, with an article.
    #[error("the file is not an image but {seems}")]
    NotAnImage {
        /// "an HTML page", "a PDF document" …
        seems: &'static str,
    },
    /// A picture in a format this build does not decode.
    #[error("unsupported picture format {name}")]
    UnsupportedFormat {
        /// The format's common name.
        name: &'static str,
        /// Its failure code.
        code: &'static str,
    },
    /// A known format, in a variant that is not decoded.
    #[error("unsupported variant of {}: {what}", format.title())]
    UnsupportedVariant {
        /// The format.
        format: PictureFormat,
        /// What is unsupported in the file.
        what: String,
    },
    /// More pixels than allowed, according to the header.
    #[error("the picture has too many pixels: {width} x {height}")]
    TooManyPixels {
        /// Width in the header.
        width: u64,
        /// Height in the header.
        height: u64,
        /// Pixels allowed.
        limit: u64,
    },
    /// A side is too long, according to the header.
    #[error("a side of the picture is too long: {width} x {height}")]
    SideTooLong {
        /// Width in the header.
        width: u64,
        /// Height in the header.
        height: u64,
        /// Pixels that a side of this format may have.
        limit: u64,
    },
    /// Decoding would need more memory than one picture may take.
    #[error("decoding the picture needs too much memory")]
    TooMuchMemory {
        /// Upper bound computed from the header, bytes.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A JPEG whose repeated scans would occupy a CPU for long.
    #[error("the JPEG has too many scans: {scans} of {pixels} pixels each")]
    TooManyScans {
        /// Scans in the file.
        scans: u64,
        /// Pixels of the picture.
        pixels: u64,
    },
    /// The file ends before the picture does.
    #[error("the {} file is truncated", format.title())]
    Truncated {
        /// The format.
        format: PictureFormat,
        /// Percent of the picture's rows that the file holds, where they were counted.
        share: Option<u8>,
    },
    /// The decoder failed.
    #[error("the {} file is damaged", format.title())]
    Damaged {
        /// The format.
        format: PictureFormat,
        /// The decoder's message.
        why: String,
    },
    /// The time limit expired while decoding.
    #[error("decoding the picture took too long")]
    TimedOut,
    /// The decoder panicked; the panic was caught.
    #[error("the {} decoder failed on this file", format.title())]
    Panicked {
        /// The format.
        format: PictureFormat,
    },
    /// The model's image processor is not supported.
    #[error("unsupported image processor: {0}")]
    Processor(String),
}

impl PictureError {
    /// The failure's class.
    pub fn class(&self) -> FailureClass {
        match self {
            PictureError::TimedOut => FailureClass::Retry,
            PictureError::Processor(_) => FailureClass::Engine,
            _ => FailureClass::Reject,
        }
    }

    /// The failure's code: short and stable, for grouping.
    pub fn code(&self) -> &'static str {
        match self {
            PictureError::Empty => "empty",
            PictureError::NotAnImage { .. } => "not_an_image",
            PictureError::UnsupportedFormat { code, .. } => code,
            PictureError::UnsupportedVariant { .. } => "image_unsupported",
            PictureError::TooManyPixels { .. } => "too_many_pixels",
            PictureError::SideTooLong { .. } => "side_too_long",
            PictureError::TooMuchMemory { .. } => "too_much_memory",
            PictureError::TooManyScans { .. } => "too_many_scans",
            PictureError::Truncated { .. } => "image_truncated",
            PictureError::Damaged { .. } => "image_damaged",
            PictureError::TimedOut => "decode_timeout",
            PictureError::Panicked { .. } => "decoder_panic",
            PictureError::Processor(_) => "no_model",
        }
    }

    /// The failure that the client receives.
    pub fn failure(&self) -> Failure {
        let failure = Failure::new(self.class(), self.code(), self.to_string());
        match self {
            PictureError::Empty => failure
                .detail("The file has 0 bytes.")
                .hint("The file was probably not uploaded completely."),
            PictureError::NotAnImage { .. } => failure.hint(
                "Supported formats are JPEG, PNG, WebP, GIF, BMP and TIFF; \
                 the content decides, not the name.",
            ),
            PictureError::UnsupportedFormat { code: format::AVIF | format::HEIC, .. } => failure
                .detail("This build lacks the feature \"heif\", which needs the system's libheif.")
                .hint(
                    "Serve the picture as JPEG, PNG or WebP, or build with the feature; \
                     see CONTRIBUTING.md.",
                ),
            PictureError::UnsupportedFormat { .. } => {
                failure.hint("Serve the picture as JPEG, PNG or WebP.")
            }
            PictureError::UnsupportedVariant { .. } => {
                failure.hint("Save the picture as a plain 8-bit JPEG or PNG.")
            }
            PictureError::TooManyPixels { width, height, limit } => failure
                .detail(format!(
                    "The picture has {} pixels; the limit is {limit}.",
                    u128::from(*width) * u128::from(*height)
                ))
                .hint("Raise pg_caption.max_image_pixels, or use a smaller picture."),
            PictureError::SideTooLong { limit, .. } => failure
                .detail(format!("A side may have at most {limit} pixels."))
                .hint("Cut the picture into smaller ones."),
            PictureError::TooMuchMemory { needed, limit } => failure
                .detail(format!(
                    "Decoding takes up to {needed} bytes; {limit} are available for one picture."
                ))
                .hint("Raise pg_caption.memory, or use a smaller picture."),
            PictureError::TooManyScans { .. } => failure
                .detail(format!(
                    "The limits are {MAX_SCANS} scans, and {MAX_SCAN_PIXELS} scans times pixels."
                ))
                .hint("Save the picture again; ordinary progressive files have about ten scans."),
            PictureError::Truncated { share, .. } => {
                let failure = failure.hint("The file was probably not uploaded completely.");
                match share {
                    Some(share) => failure.detail(format!(
                        "The file holds {share} % of the picture's rows; 90 % are needed."
                    )),
                    None => failure,
                }
            }
            PictureError::Damaged { why, .. } => failure
                .detail(format!("The decoder reports: {}.", why.trim_end_matches('.')))
                .hint("Save the picture again, as a plain JPEG or PNG."),
            PictureError::TimedOut => {
                failure.hint("The server may be overloaded; try the picture again.")
            }
            PictureError::Panicked { .. } => failure
                .detail("The failure was contained; nothing else is affected.")
                .hint("Please report this picture to the project."),
            PictureError::Processor(_) => {
                failure.hint("Set pg_caption.model to a folder of a supported model family.")
            }
        }
    }
}
