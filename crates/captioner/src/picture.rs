//! A picture as a model wants it: tensors in host memory, made on the decode threads.

use crate::tensor::{Data, HostTensor};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Options for one picture.
#[derive(Debug, Clone, Default)]
pub struct PictureOptions {
    /// How many tiles a tiling model may make of the picture; `None`: as the model's folder says. Without effect on
    /// models that look at one tensor of fixed size.
    pub tiles: Option<u32>,
}

/// One picture ready for the encoder.
pub struct Pixels {
    /// Only equal buckets may share an encoder call.
    pub bucket: u64,
    /// Bytes held.
    pub bytes: usize,
    /// By input name; no batch axis.
    tensors: Vec<(&'static str, HostTensor)>,
}

impl Pixels {
    /// Pixels of these tensors (input name, tensor without batch axis).
    pub(crate) fn new(tensors: Vec<(&'static str, HostTensor)>) -> Pixels {
        let mut hash = DefaultHasher::new();
        for (name, tensor) in &tensors {
            (name, &tensor.shape).hash(&mut hash);
        }
        Pixels { bucket: hash.finish(), bytes: tensors.iter().map(|(_, t)| t.bytes()).sum(), tensors }
    }

    /// The tensor of an input.
    pub(crate) fn tensor(&self, input: &str) -> Option<&HostTensor> {
        self.tensors.iter().find(|(name, _)| *name == input).map(|(_, tensor)| tensor)
    }

    /// SHA-256 of the little-endian float32 `pixel_values`, lower-case hex (`--json`'s pixels_sha256); computed on demand.
    pub fn sha256(&self) -> String {
        match self.tensor("pixel_values") {
            Some(HostTensor { data: Data::F32(values), .. }) => pg_caption_pixels::sha256_f32(values),
            _ => pg_caption_pixels::sha256_f32(&[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(shape: Vec<i64>, values: Vec<f32>) -> Pixels {
        Pixels::new(vec![("pixel_values", HostTensor { shape, data: Data::F32(values) })])
    }

    #[test]
    fn the_checksum_is_of_the_little_endian_float32_bytes() {
        // sha256 of 00 00 80 3f 00 00 00 c0 (1.0, -2.0)
        let expected = "ee4ac73c2bd27756ab82780f27c73a7bc4d3f0bb6acb37e008bc27eccd7e588b";
        let actual = pixels(vec![2], vec![1.0, -2.0]).sha256();
        assert_eq!(actual.len(), 64);
        assert_eq!(actual, expected);
    }

    #[test]
    fn only_pictures_of_one_shape_share_a_bucket() {
        assert_eq!(pixels(vec![1, 2], vec![0.0; 2]).bucket, pixels(vec![1, 2], vec![1.0; 2]).bucket);
        assert_ne!(pixels(vec![1, 2], vec![0.0; 2]).bucket, pixels(vec![2, 1], vec![0.0; 2]).bucket);
    }
}
