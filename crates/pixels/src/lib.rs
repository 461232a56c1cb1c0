//! Decodes bytes to an upright 8-bit RGB picture, and turns it into the tensor of a model.
//!
//! The crate exists because a published model gives its published captions only for the same input.
//! Decoding, resize and normalisation equal Pillow and the reference's processors bit for bit. The
//! parity tests compare SHA-256 of pixels and tensors, and on top of them 408 token sequences of
//! three models. No available crate decodes JPEG, resizes (in five filters) and crops with these
//! bits. The price is small: preprocessing takes 2.4 ms of the 21 ms of CPU per image, and
//! reduced-scale decoding cuts a 12-megapixel JPEG to 0.44 (baseline) or 0.70 (progressive) of its
//! full time (`docs/speed.md`).
//!
//! The engine calls [`probe_within`] to reserve memory, then [`decode`] on a decode thread, then
//! [`ImageProcessor::apply`]. Nothing here opens files or sockets, depends on a model, or trusts a
//! name. The bytes decide the format, every size is checked by the header before memory is
//! allocated for it, and a panic in a decoder costs one picture.
//!
//! Without `exact`, pictures are as a viewer shows them: colours by the embedded profile, the first
//! frame that shows something, a file without its end as far as it goes.
//!
//! Two intentional differences from the reference (Pillow's `convert("RGB")`): transparency is
//! composed over white instead of dropped, and 16-bit gray keeps its high byte instead of being
//! clipped.
//!
//! ```
//! use pg_caption_pixels::{DecodeOptions, RgbPicture, decode, encode_png, probe};
//!
//! let picture = RgbPicture { width: 2, height: 1, data: vec![255, 0, 0, 0, 0, 255] };
//! let file = encode_png(&picture);
//! assert_eq!(probe(&file)?.upright_size(), (2, 1));
//! assert_eq!(decode(&file, &DecodeOptions::default())?.rgb, picture);
//! # Ok::<(), pg_caption_pixels::PictureError>(())
//! ```

mod animation;
mod announced;
mod blank;
mod bmp;
mod bounds;
mod cut;
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
mod profile;
mod raster;
mod recognise;
mod resize;
mod tiff;
mod tiles;
mod webp;

pub use blank::{BlankKind, is_blank};
pub use decode::{DecodeOptions, DecodedPicture, decode};
pub use error::PictureError;
pub use filter::ResampleFilter;
pub use fingerprint::{sha256_bytes, sha256_f32};
pub use format::PictureFormat;
pub use header::{PictureHeader, probe, probe_within};
pub use limits::DecodeLimits;
pub use picture::{RgbPicture, encode_jpeg, encode_png, mean_rgb_2x2};
pub use processor::{ImageProcessor, PixelTensor, TileGrid};
pub use resize::{resize, working_memory};
