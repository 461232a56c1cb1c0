//! Reads `preprocessor_config.json` of any age; missing values have the defaults of the class that
//! it names.

use serde_json::Value;

use super::{ImageProcessor, ProcessorSteps, TargetSize};
use crate::{PictureError, ResampleFilter};

/// A longer side is a damaged file.
const MAX_SIDE: u64 = 8192;

/// Mean and deviation of CLIP's training pictures: the defaults of its processors.
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];
const HALF: [f32; 3] = [0.5; 3];

/// The supported classes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ProcessorKind {
    Vit,
    Deit,
    Clip,
    Siglip,
    Blip,
    Tiles,
}

impl ProcessorKind {
    fn named(name: &str) -> Option<ProcessorKind> {
        // transformers 5 marks the slow class, older versions the fast one.
        let name = name.strip_suffix("Fast").or(name.strip_suffix("Pil")).unwrap_or(name);
        let stem = name
            .strip_suffix("ImageProcessor")
            .or_else(|| name.strip_suffix("FeatureExtractor"))?;
        Some(match stem {
            "ViT" => ProcessorKind::Vit,
            "DeiT" => ProcessorKind::Deit,
            "CLIP" => ProcessorKind::Clip,
            "Siglip" => ProcessorKind::Siglip,
            "Blip" => ProcessorKind::Blip,
            "Idefics3" | "SmolVLM" => ProcessorKind::Tiles,
            _ => return None,
        })
    }

    fn filter(self) -> ResampleFilter {
        match self {
            ProcessorKind::Vit => ResampleFilter::Bilinear,
            ProcessorKind::Tiles => ResampleFilter::Lanczos,
            ProcessorKind::Deit
            | ProcessorKind::Clip
            | ProcessorKind::Siglip
            | ProcessorKind::Blip => ResampleFilter::Bicubic,
        }
    }

    fn mean_and_std(self) -> ([f32; 3], [f32; 3]) {
        match self {
            ProcessorKind::Vit
            | ProcessorKind::Deit
            | ProcessorKind::Siglip
            | ProcessorKind::Tiles => (HALF, HALF),
            ProcessorKind::Clip | ProcessorKind::Blip => (CLIP_MEAN, CLIP_STD),
        }
    }

    fn size(self) -> TargetSize {
        match self {
            ProcessorKind::Deit => TargetSize::Exact(256, 256),
            ProcessorKind::Clip => TargetSize::ShortestEdge(224),
            ProcessorKind::Blip => TargetSize::Exact(384, 384),
            ProcessorKind::Vit | ProcessorKind::Siglip | ProcessorKind::Tiles => {
                TargetSize::Exact(224, 224)
            }
        }
    }

    fn crops(self) -> bool {
        matches!(self, ProcessorKind::Clip | ProcessorKind::Deit)
    }
}

/// The file and the class that it names.
pub(super) struct ProcessorConfig<'a> {
    json: &'a Value,
    kind: ProcessorKind,
    /// The name ends with "Fast": such processors of the reference have common steps, whatever the
    /// kind.
    fast: bool,
}

impl<'a> ProcessorConfig<'a> {
    pub(super) fn new(json: &'a Value) -> Result<Self, PictureError> {
        let name = ["image_processor_type", "feature_extractor_type"]
            .iter()
            .find_map(|key| json.get(key)?.as_str());
        let name =
            name.ok_or_else(|| unusable("no image_processor_type or feature_extractor_type"))?;
        let kind = ProcessorKind::named(name)
            .ok_or_else(|| unusable(format!("unknown image processor {name}")))?;
        Ok(ProcessorConfig { json, kind, fast: name.ends_with("Fast") })
    }

    pub(super) fn processor(&self) -> Result<ImageProcessor, PictureError> {
        if !self.flag("do_resize", true)? {
            return Err(unusable("do_resize is false, but pictures have any size"));
        }
        let filter = match self.present("resample") {
            None => self.kind.filter(),
            Some(code) => code
                .as_u64()
                .and_then(ResampleFilter::from_code)
                .ok_or_else(|| unusable(format!("unknown resample {code}")))?,
        };
        let steps = if self.kind == ProcessorKind::Tiles { self.tiles()? } else { self.single()? };
        Ok(ImageProcessor { steps, filter, tables: self.tables()? })
    }

    fn single(&self) -> Result<ProcessorSteps, PictureError> {
        let size = match self.present("size") {
            None => self.kind.size(),
            // Old files: one number. For CLIP it is the shorter side.
            Some(number @ Value::Number(_)) => {
                let n = side("size", number)?;
                if self.kind == ProcessorKind::Clip {
                    TargetSize::ShortestEdge(n)
                } else {
                    TargetSize::Exact(n, n)
                }
            }
            Some(Value::Array(sides)) if sides.len() == 2 => {
                TargetSize::Exact(side("size", &sides[1])?, side("size", &sides[0])?)
            }
            Some(Value::Object(sides)) => {
                match (sides.get("height"), sides.get("width"), sides.get("shortest_edge")) {
                    (Some(height), Some(width), _) => {
                        TargetSize::Exact(side("size.width", width)?, side("size.height", height)?)
                    }
                    // The reference's CLIP uses only the shorter side.
                    (None, None, Some(edge))
                        if self.kind == ProcessorKind::Clip
                            || !sides.contains_key("longest_edge") =>
                    {
                        TargetSize::ShortestEdge(side("size.shortest_edge", edge)?)
                    }
                    (Some(_), None, _) => {
                        return Err(unusable("size.height without size.width"));
                    }
                    (None, Some(_), _) => {
                        return Err(unusable("size.width without size.height"));
                    }
                    (None, None, Some(_)) => {
                        return Err(unusable(
                            "size.longest_edge with size.shortest_edge is supported for \
                             CLIPImageProcessor only",
                        ));
                    }
                    (None, None, None) => {
                        let keys = sides
                            .keys()
                            .map(|key| format!("size.{key}"))
                            .collect::<Vec<_>>()
                            .join(", ");
                        let keys = if keys.is_empty() { "an empty size".into() } else { keys };
                        return Err(unusable(format!(
                            "invalid {keys}; expected height and width, or shortest_edge"
                        )));
                    }
                }
            }
            Some(other) => return Err(unusable(format!("invalid size {other}"))),
        };
        // Only these two of the reference's processors crop.
        let crops =
            (self.fast || self.kind.crops()) && self.flag("do_center_crop", self.kind.crops())?;
        let crop = match self.present("crop_size") {
            _ if !crops => None,
            None => Some((224, 224)),
            Some(number @ Value::Number(_)) => {
                Some((side("crop_size", number)?, side("crop_size", number)?))
            }
            Some(sides) => Some((
                side("crop_size.width", &sides["width"])?,
                side("crop_size.height", &sides["height"])?,
            )),
        };
        if matches!((size, crop), (TargetSize::ShortestEdge(_), None)) {
            return Err(unusable(
                "size keeps the ratio and do_center_crop is false; tensors would differ in shape",
            ));
        }
        Ok(ProcessorSteps::Single { size, crop })
    }

    fn tiles(&self) -> Result<ProcessorSteps, PictureError> {
        let edge = |key: &str, default: u64| match self.present(key) {
            None => side(key, &default.into()),
            Some(sides) => side(&format!("{key}.longest_edge"), &sides["longest_edge"]),
        };
        Ok(ProcessorSteps::Tiles {
            longest_edge: edge("size", 4 * 364)?,
            tile: edge("max_image_size", 364)?,
            split: self.flag("do_image_splitting", true)?,
        })
    }

    /// The float of each of the 256 samples, per channel.
    fn tables(&self) -> Result<Box<[[f32; 256]; 3]>, PictureError> {
        let factor = match self.present("rescale_factor") {
            _ if !self.flag("do_rescale", true)? => 1.0,
            None => 1.0 / 255.0,
            Some(factor) => {
                factor.as_f64().ok_or_else(|| unusable("rescale_factor is not a number"))?
            }
        };
        let normalise = self.flag("do_normalize", true)?;
        let (mean, std) = self.kind.mean_and_std();
        let (mean, std) = (self.triple("image_mean", mean)?, self.triple("image_std", std)?);
        if normalise && std.contains(&0.0) {
            return Err(unusable("image_std contains 0"));
        }
        let mut tables = Box::new([[0.0; 256]; 3]);
        for (channel, table) in tables.iter_mut().enumerate() {
            for (sample, value) in table.iter_mut().enumerate() {
                let scaled = (sample as f64 * factor) as f32;
                // A division: multiplying by the reciprocal would differ in the last bit.
                *value = if normalise { (scaled - mean[channel]) / std[channel] } else { scaled };
            }
        }
        Ok(tables)
    }

    fn triple(&self, key: &str, default: [f32; 3]) -> Result<[f32; 3], PictureError> {
        let wrong = || unusable(format!("{key} is not three numbers"));
        match self.present(key) {
            None => Ok(default),
            Some(Value::Array(values)) if values.len() == 3 => {
                let mut triple = [0.0; 3];
                for (to, value) in triple.iter_mut().zip(values) {
                    *to = value.as_f64().ok_or_else(wrong)? as f32;
                }
                Ok(triple)
            }
            Some(value) => value.as_f64().map(|value| [value as f32; 3]).ok_or_else(wrong),
        }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, PictureError> {
        self.present(key).map_or(Ok(default), |value| {
            value.as_bool().ok_or_else(|| unusable(format!("{key} is neither true nor false")))
        })
    }

    /// The value of a key; null counts as missing.
    fn present(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key).filter(|value| !value.is_null())
    }
}

/// The number of a key, or an error that names the key.
fn side(key: &str, value: &Value) -> Result<u32, PictureError> {
    let n = value.as_u64().filter(|n| (1..=MAX_SIDE).contains(n)).map(|n| n as u32);
    n.ok_or_else(|| {
        unusable(format!("invalid {key} {value}; expected a side from 1 to {MAX_SIDE}"))
    })
}

fn unusable(why: impl Into<String>) -> PictureError {
    PictureError::Processor(why.into())
}
