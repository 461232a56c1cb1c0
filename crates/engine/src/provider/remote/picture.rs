//! The file that is sent: our own JPEG, upright, without metadata, of a bounded size.

use crate::picture::sha256_hex;
use crate::provider::values::PreparedPicture;
use parking_lot::Mutex;
use pg_caption_models::ImageLimits;
use pg_caption_pixels::{
    DecodeOptions, ResampleFilter, RgbPicture, decode, encode_jpeg, encode_png, resize,
    working_memory,
};
use std::sync::Arc;

/// Bytes of a JPEG file per pixel at most, and besides; photos need a tenth of it.
const FILE_BYTES_PER_PIXEL: u64 = 4;
const FILE_OVERHEAD: u64 = 64 << 10;

/// Width and height with the longest side at most `most`.
fn fitted((width, height): (u32, u32), most: u32) -> (u32, u32) {
    let longest = width.max(height);
    if longest <= most {
        return (width, height);
    }
    let scale = |side: u32| {
        (u64::from(side) * u64::from(most) / u64::from(longest)).clamp(1, u64::from(most)) as u32
    };
    (scale(width), scale(height))
}

/// Bytes that [`RemotePicture::new`] allocates at most.
pub fn memory_for(size: (u32, u32), limits: ImageLimits, is_own: bool) -> u64 {
    if is_own {
        // A PNG file of noise is slightly larger than its pixels; the encoder has a second copy.
        return u64::from(size.0) * u64::from(size.1) * 8 + FILE_OVERHEAD;
    }
    let to = fitted(size, limits.max_side);
    let pixels = u64::from(to.0) * u64::from(to.1);
    // The resized picture, the encoder's buffer and the file.
    let encoded = pixels * FILE_BYTES_PER_PIXEL + FILE_OVERHEAD;
    working_memory(size, to) + pixels * 3 + 2 * encoded
}

/// A picture as it is sent.
pub struct RemotePicture(pub Vec<u8>);

impl RemotePicture {
    /// `is_own`: for a server of pg_caption, which gets the same pixels, because its model resizes
    /// them as a local one would. `None`: a side is longer than the format allows.
    pub fn new(picture: &RgbPicture, limits: ImageLimits, is_own: bool) -> Option<RemotePicture> {
        if is_own {
            return Some(RemotePicture(encode_png(picture)));
        }
        let size = (picture.width, picture.height);
        let (width, height) = fitted(size, limits.max_side);
        let file = match (width, height) == size {
            true => encode_jpeg(picture, limits.quality),
            false => {
                let small = resize(picture, width, height, ResampleFilter::Bicubic);
                encode_jpeg(&small, limits.quality)
            }
        };
        file.map(RemotePicture)
    }
}

impl PreparedPicture for RemotePicture {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn sha256(&self) -> String {
        sha256_hex(&self.0)
    }
}

/// A picture whose captions are asked for.
pub struct SentPicture {
    /// SHA-256 of the picture's own file.
    pub sha256: String,
    file: Mutex<Arc<Vec<u8>>>,
}

impl SentPicture {
    /// A picture with this file.
    pub fn new(file: RemotePicture, sha256: String) -> SentPicture {
        SentPicture { sha256, file: Mutex::new(Arc::new(file.0)) }
    }

    /// The file.
    pub fn file(&self) -> Arc<Vec<u8>> {
        self.file.lock().clone()
    }

    /// A file with half the side, from now on for all captions; `None`: it cannot be made.
    pub fn smaller(&self, than: &Arc<Vec<u8>>, limits: ImageLimits) -> Option<Arc<Vec<u8>>> {
        let mut file = self.file.lock();
        // Another caption of the picture may have been refused as well.
        if !Arc::ptr_eq(&file, than) {
            return Some(file.clone());
        }
        let picture = decode(than, &DecodeOptions::default()).ok()?.rgb;
        let max_side = picture.width.max(picture.height) / 2;
        let small = RemotePicture::new(
            &picture,
            ImageLimits { max_side: max_side.max(1), ..limits },
            false,
        );
        *file = Arc::new(small?.0);
        Some(file.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: u32, height: u32) -> RgbPicture {
        let mut random = fastrand::Rng::with_seed(7);
        let data = (0..width as usize * height as usize * 3).map(|_| random.u8(..)).collect();
        RgbPicture { width, height, data }
    }

    const LIMITS: ImageLimits = ImageLimits { max_side: 200, quality: 85 };

    #[test]
    fn the_longest_side_is_bounded() {
        for (size, expected) in [
            ((400, 300), (200, 150)),
            ((300, 400), (150, 200)),
            ((200, 10), (200, 10)),
            ((60_000, 1), (200, 1)),
        ] {
            let file = RemotePicture::new(&noise(size.0, size.1), LIMITS, false).unwrap();
            let picture = decode(&file.0, &DecodeOptions::default()).unwrap();
            assert_eq!((picture.width, picture.height), expected, "{size:?}");
        }
    }

    #[test]
    fn the_file_has_pixels_and_nothing_else() {
        let file = RemotePicture::new(&noise(64, 64), LIMITS, false).unwrap().0;
        assert!(file.starts_with(b"\xff\xd8\xff"));
        for marker in 0xe1..=0xef {
            assert!(!file.windows(2).take(64).any(|pair| pair == [0xff, marker]), "{marker:x}");
        }
        for name in [&b"Exif"[..], b"ICC_PROFILE", b"http://"] {
            assert!(!file.windows(name.len()).any(|part| part == name));
        }
    }

    #[test]
    fn memory_for_the_file_is_an_upper_bound() {
        let best = ImageLimits { max_side: 512, quality: 100 };
        let file = RemotePicture::new(&noise(1000, 700), best, false).unwrap();
        let (width, height) = fitted((1000, 700), 512);
        assert!(file.0.len() as u64 <= u64::from(width * height) * FILE_BYTES_PER_PIXEL);
        assert!(memory_for((1000, 700), best, false) > file.bytes());
    }

    #[test]
    fn a_server_of_pg_caption_gets_the_same_pixels() {
        let picture = noise(300, 20);
        let file = RemotePicture::new(&picture, LIMITS, true).unwrap();
        assert!(file.bytes() < memory_for((300, 20), LIMITS, true));
        assert_eq!(decode(&file.0, &DecodeOptions::default()).unwrap().rgb, picture);
    }

    #[test]
    fn a_smaller_file_serves_all_captions() {
        let picture = SentPicture::new(
            RemotePicture::new(&noise(100, 80), LIMITS, false).unwrap(),
            "sha".into(),
        );
        let first = picture.file();
        let small = picture.smaller(&first, LIMITS).unwrap();
        assert!(Arc::ptr_eq(&picture.smaller(&first, LIMITS).unwrap(), &small), "made once");
        let decoded = decode(&small, &DecodeOptions::default()).unwrap();
        assert_eq!((decoded.width, decoded.height), (50, 40));
    }
}
