//! The picture formats, and the failure codes of those that need the feature `heif`.

use std::fmt;

/// A format that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureFormat {
    /// JPEG; of an MPO the first picture.
    Jpeg,
    /// PNG; of an animated one the default picture, or the first frame that shows something.
    Png,
    /// WebP, lossy or lossless; of an animated one the first frame that shows something.
    WebP,
    /// GIF, the first frame that shows something.
    Gif,
    /// Windows bitmap.
    Bmp,
    /// TIFF, the first page.
    Tiff,
    /// AVIF, the primary picture; only in builds with the feature `heif`.
    Avif,
    /// HEIC, the primary picture; only in builds with the feature `heif`.
    Heic,
}

impl PictureFormat {
    /// The name of the format in a message.
    pub(crate) fn title(self) -> &'static str {
        match self {
            PictureFormat::Jpeg => "JPEG",
            PictureFormat::Png => "PNG",
            PictureFormat::WebP => "WebP",
            PictureFormat::Gif => "GIF",
            PictureFormat::Bmp => "BMP",
            PictureFormat::Tiff => "TIFF",
            PictureFormat::Avif => "AVIF",
            PictureFormat::Heic => "HEIC",
        }
    }
}

impl fmt::Display for PictureFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PictureFormat::Jpeg => "jpeg",
            PictureFormat::Png => "png",
            PictureFormat::WebP => "webp",
            PictureFormat::Gif => "gif",
            PictureFormat::Bmp => "bmp",
            PictureFormat::Tiff => "tiff",
            PictureFormat::Avif => "avif",
            PictureFormat::Heic => "heic",
        })
    }
}

/// Codes of the two formats that a build with the feature `heif` decodes.
pub(crate) const AVIF: &str = "avif_unsupported";
pub(crate) const HEIC: &str = "heic_unsupported";
