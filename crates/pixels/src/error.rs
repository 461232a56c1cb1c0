//! Why a picture was refused. The class, the code and the advice hang on the variant; nobody
//! re-derives them from text.

use pg_caption_wire::{Failure, FailureClass};

use crate::{PictureFormat, format};

/// Everything that can go wrong between bytes and tensor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PictureError {
    /// No bytes at all.
    #[error("the file is empty")]
    Empty,
    /// Not a picture; `seems` says what the bytes look like, with its article.
    #[error("this is not an image but {seems}")]
    NotAnImage {
        /// "an HTML page", "a PDF document" …
        seems: &'static str,
    },
    /// A picture in a format this build does not decode.
    #[error("{name} pictures are not supported")]
    UnsupportedFormat {
        /// The format as people call it.
        name: &'static str,
        /// Its failure code.
        code: &'static str,
    },
    /// A known format, in a variant that is not decoded.
    #[error("this kind of {format} is not supported: {what}")]
    UnsupportedVariant {
        /// The format.
        format: PictureFormat,
        /// What is unusual about the file.
        what: String,
    },
    /// More pixels than allowed; judged from the header.
    #[error("the picture has too many pixels: {width} x {height}")]
    TooManyPixels {
        /// Width the header announces.
        width: u64,
        /// Height the header announces.
        height: u64,
        /// Pixels allowed.
        limit: u64,
    },
    /// Not too many pixels, but in too long a row; judged from the header.
    #[error("the picture has too long a side: {width} x {height}")]
    SideTooLong {
        /// Width the header announces.
        width: u64,
        /// Height the header announces.
        height: u64,
    },
    /// Decoding would need more memory than there is for one picture.
    #[error("decoding the picture needs too much memory")]
    TooMuchMemory {
        /// Bytes, a bound computed from the header.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// A JPEG whose repeated scans would keep a processor busy for long.
    #[error("the JPEG has too many scans: {scans} of {pixels} pixels each")]
    TooManyScans {
        /// Scans found in the file.
        scans: u64,
        /// Pixels of the picture.
        pixels: u64,
    },
    /// The file ends before the picture does.
    #[error("the {format} file is cut short")]
    Truncated {
        /// The format.
        format: PictureFormat,
    },
    /// The decoder gave up.
    #[error("the {format} file is damaged")]
    Damaged {
        /// The format.
        format: PictureFormat,
        /// The decoder's own words.
        why: String,
    },
    /// The time limit passed while decoding.
    #[error("decoding the picture took too long")]
    TimedOut,
    /// The decoder panicked; the panic was caught.
    #[error("the {format} decoder failed on this file")]
    Panicked {
        /// The format.
        format: PictureFormat,
    },
    /// The model's `preprocessor_config.json` asks for something unknown.
    #[error("the model's preprocessor_config.json cannot be used: {0}")]
    Processor(String),
}

impl PictureError {
    /// What the failure means for whoever asked.
    pub fn class(&self) -> FailureClass {
        match self {
            PictureError::TimedOut => FailureClass::Retry,
            PictureError::Processor(_) => FailureClass::Engine,
            _ => FailureClass::Reject,
        }
    }

    /// Short and stable, for grouping.
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
            PictureError::Processor(_) => "model_unusable",
        }
    }

    /// The failure as it travels to the caller.
    pub fn failure(&self) -> Failure {
        let failure = Failure::new(self.class(), self.code(), self.to_string());
        match self {
            PictureError::Empty => failure.detail("The file has 0 bytes."),
            PictureError::NotAnImage { .. } => failure.hint("JPEG, PNG, WebP, GIF, BMP and TIFF are read; the content decides, not the name."),
            PictureError::UnsupportedFormat { code: format::AVIF | format::HEIC, .. } => failure
                .detail("This build has no decoder for it: it needs the system's libheif and the feature \"heif\".")
                .hint("Serve the picture as JPEG, PNG or WebP, or build with the feature; see CONTRIBUTING.md."),
            PictureError::UnsupportedFormat { .. } => failure.hint("Serve the picture as JPEG, PNG or WebP."),
            PictureError::UnsupportedVariant { .. } => failure.hint("Save the picture as a plain 8-bit JPEG or PNG."),
            PictureError::TooManyPixels { width, height, limit } => failure
                .detail(format!("{width} x {height} are {} pixels; {limit} are allowed.", u128::from(*width) * u128::from(*height)))
                .hint("Raise pg_caption.max_image_pixels, or use a smaller picture."),
            PictureError::SideTooLong { .. } => failure
                .detail(format!("A side may have {} pixels.", crate::limits::LONGEST_SIDE))
                .hint("Cut the picture into pieces that can be looked at."),
            PictureError::TooMuchMemory { needed, limit } => failure
                .detail(format!("Decoding takes up to {needed} bytes; {limit} are available for one picture."))
                .hint("Raise pg_caption.memory, or use a smaller picture."),
            PictureError::TooManyScans { .. } => failure
                .detail(format!("At most {} scans, and {} scans x pixels, are decoded.", crate::jpeg::MAX_SCANS, crate::jpeg::MAX_SCAN_PIXELS))
                .hint("Save the picture again; ordinary progressive files have about ten scans."),
            PictureError::Truncated { .. } => failure.hint("The file was probably not uploaded completely."),
            PictureError::Damaged { why, .. } => failure.detail(format!("The decoder says: {why}")),
            PictureError::TimedOut => failure.hint("The machine may be overloaded; the picture can be tried again."),
            PictureError::Panicked { .. } => failure.detail("The failure was contained; nothing else is affected."),
            PictureError::Processor(_) => failure.hint("Set pg_caption.model to a folder of a supported model family."),
        }
    }
}
