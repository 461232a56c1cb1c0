//! INTERIM until the pixels crate's processor is here: normalises a picture that already has the model's size.

use crate::folder::Folder;
use crate::tensor::{Data, HostTensor};
use crate::Error;
use pg_caption_pixels::Rgb;

/// A folder's image processor.
pub(crate) struct Preprocessor {
    size: (u32, u32),
    mean: [f32; 3],
    std: [f32; 3],
}

impl Preprocessor {
    /// Reads `preprocessor_config.json`.
    pub fn open(folder: &Folder) -> Result<Preprocessor, Error> {
        let json = folder.json("preprocessor_config.json")?;
        let three = |name: &str| -> [f32; 3] { std::array::from_fn(|i| json[name][i].as_f64().unwrap_or(0.5) as f32) };
        let side = |name: &str| json["size"][name].as_u64().unwrap_or(224) as u32;
        Ok(Preprocessor { size: (side("width"), side("height")), mean: three("image_mean"), std: three("image_std") })
    }

    #[cfg(test)]
    pub fn example() -> Preprocessor {
        Preprocessor { size: (8, 8), mean: [0.5; 3], std: [0.5; 3] }
    }

    /// Width and height the model looks at.
    pub fn target(&self) -> (u32, u32) {
        self.size
    }

    /// `pixel_values` without batch axis.
    pub fn apply(&self, rgb: &Rgb) -> Result<HostTensor, Error> {
        if (rgb.width, rgb.height) != self.size {
            return Err(Error::Picture("resizing comes with the pixels crate".into()));
        }
        let mut data = Vec::with_capacity(rgb.data.len());
        for c in 0..3 {
            let value = |v: &u8| ((*v as f64 * (1.0 / 255.0)) as f32 - self.mean[c]) / self.std[c];
            data.extend(rgb.data.iter().skip(c).step_by(3).map(value));
        }
        Ok(HostTensor { shape: vec![3, rgb.height as i64, rgb.width as i64], data: Data::F32(data) })
    }
}
