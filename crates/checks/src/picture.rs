//! Image files.

use crate::CheckResult;
use pg_caption_pixels::{DecodeLimits, DecodeOptions, decode, probe};
use pg_caption_wire::FailureClass;

/// A mutated header may announce any size; small limits keep each input within milliseconds.
const LIMITS: DecodeLimits =
    DecodeLimits { max_pixels: 100_000, memory: Some(16 << 20), deadline: None };

/// A file decodes to the picture that its header announces, within the limits, or is refused with a
/// code.
pub fn picture(bytes: &[u8]) -> CheckResult {
    let header = probe(bytes);
    for options in [
        DecodeOptions { limits: LIMITS, target: Some((32, 32)), reduce_all: true, exact: false },
        DecodeOptions { limits: LIMITS, target: None, reduce_all: false, exact: true },
    ] {
        let decoded = match decode(bytes, &options) {
            Ok(decoded) => decoded,
            Err(error) => {
                let failure = error.failure();
                if failure.class != FailureClass::Reject
                    || failure.code.is_empty()
                    || failure.message.is_empty()
                {
                    return Err(format!("refused as {failure:?}"));
                }
                continue;
            }
        };
        let (rgb, size) = (&decoded.rgb, (decoded.width, decoded.height));
        match &header {
            Ok(header) if header.upright_size() == size && header.format == decoded.format => {}
            other => {
                return Err(format!(
                    "decoded as {} {size:?}, but the header says {other:?}",
                    decoded.format
                ));
            }
        }
        if rgb.data.len() as u64 != 3 * u64::from(rgb.width) * u64::from(rgb.height) {
            return Err(format!(
                "{} bytes of {} x {} pixels",
                rgb.data.len(),
                rgb.width,
                rgb.height
            ));
        }
        if u64::from(size.0) * u64::from(size.1) > LIMITS.max_pixels {
            return Err(format!("{size:?} is beyond the limit"));
        }
        if options.exact && (rgb.width, rgb.height) != size {
            return Err(format!(
                "{} x {} pixels of {size:?} in an exact decode",
                rgb.width, rgb.height
            ));
        }
    }
    Ok(())
}
