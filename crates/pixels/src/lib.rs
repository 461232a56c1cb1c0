//! Bytes become an upright 8-bit RGB picture and then a tensor.
//!
//! The engine calls [`probe`] to reserve memory, [`decode`] on a decode thread,
//! [`ImageProcessor::apply`] right after it. Nothing here opens files or sockets, knows a model, or
//! trusts a name: the format is what the bytes say, every size is judged from the header before
//! anything is allocated for it, and a decoder that panics costs one picture.
//!
//! Where we differ from the reference (Pillow's `convert("RGB")`) on purpose: transparency is laid
//! on white instead of dropped, and 16-bit gray keeps its high byte instead of being clipped.

mod announced;
mod blank;
mod deadline;
mod decode;
mod error;
mod filter;
mod fingerprint;
mod format;
mod gif;
mod header;
#[cfg(feature = "heif")]
mod heif;
mod jpeg;
mod limits;
mod orient;
mod picture;
mod png;
mod processor;
mod raster;
mod resize;
mod tiff;
mod tiles;

pub use blank::{BlankKind, is_blank};
pub use decode::{DecodeOptions, DecodedPicture, decode};
pub use error::PictureError;
pub use filter::ResampleFilter;
pub use fingerprint::{sha256_bytes, sha256_f32};
pub use format::PictureFormat;
pub use header::{PictureHeader, probe};
pub use limits::DecodeLimits;
pub use picture::{RgbPicture, encode_png, mean_rgb_2x2};
pub use processor::{ImageProcessor, PixelTensor, TileGrid};
pub use resize::{resize, working_memory};
