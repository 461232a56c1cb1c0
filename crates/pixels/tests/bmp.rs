//! BMP files with masks: header versions, depths, and an alpha mask without alpha.

use pg_caption_pixels::{DecodeOptions, decode};

/// The masks of a pixel: red, green, blue, alpha.
type Masks = [u32; 4];

const WIDE: Masks = [0x00FF_0000, 0x0000_FF00, 0x0000_00FF, 0xFF00_0000];
const NARROW: Masks = [0x7C00, 0x03E0, 0x001F, 0x8000];

/// A BMP of 2 x 2 pixels with masks. `header` is the size of its information header.
fn bmp(header: u32, depth: u16, masks: Masks, pixels: [u32; 4]) -> Vec<u8> {
    // Headers of 40 bytes have the masks behind them: three, or four with compression 6.
    let (compression, behind) = match (header, masks[3]) {
        (40, 0) => (3_u32, 3),
        (40, _) => (6, 4),
        _ => (3, 0),
    };
    let offset = 14 + header + 4 * behind;
    let mut bytes = [b"BM".as_slice(), &[0; 8], &offset.to_le_bytes()].concat();
    bytes.extend(header.to_le_bytes());
    bytes.extend([2_u32, 2].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([1, depth].into_iter().flat_map(u16::to_le_bytes));
    bytes.extend(compression.to_le_bytes());
    bytes.extend([0; 20]);
    bytes.extend(masks.into_iter().flat_map(u32::to_le_bytes));
    bytes.resize(offset as usize, 0);
    for pixel in pixels {
        bytes.extend(&pixel.to_le_bytes()[..usize::from(depth / 8)]);
    }
    bytes
}

/// The kinds of files: header, depth and masks.
fn kinds() -> impl Iterator<Item = (u32, u16, Masks)> {
    let depths = [(32, WIDE), (16, NARROW)];
    [40, 56, 108, 124]
        .into_iter()
        .flat_map(move |header| depths.map(|(depth, masks)| (header, depth, masks)))
}

/// Red, green, blue and white without alpha.
fn colours(masks: Masks) -> [u32; 4] {
    [masks[0], masks[1], masks[2], masks[0] | masks[1] | masks[2]]
}

/// Rows begin at the bottom.
const EXPECTED: [u8; 12] = [0, 0, 255, 255, 255, 255, 255, 0, 0, 0, 255, 0];

#[test]
fn an_alpha_mask_without_alpha_is_opaque() {
    for (header, depth, masks) in kinds() {
        let bytes = bmp(header, depth, masks, colours(masks));
        for exact in [false, true] {
            let options = DecodeOptions { exact, ..DecodeOptions::default() };
            let found = decode(&bytes, &options)
                .unwrap_or_else(|error| panic!("header {header}, depth {depth}: {error:?}"));
            assert_eq!(found.rgb.data, EXPECTED, "header {header}, depth {depth}");
            assert_eq!(found.blank, None);
        }
    }
}

#[test]
fn alpha_of_a_bmp_counts_where_there_is_some() {
    for (header, depth, masks) in kinds() {
        let mut pixels = colours(masks);
        pixels[0] |= masks[3];
        let found =
            decode(&bmp(header, depth, masks, pixels), &DecodeOptions::default()).unwrap().rgb;
        let mut expected = [255; 12];
        expected[6..9].copy_from_slice(&[255, 0, 0]);
        assert_eq!(found.data, expected, "header {header}, depth {depth}");
    }
}

#[test]
fn masks_without_alpha_are_read_in_every_header() {
    for (header, depth, masks) in kinds().chain([(52, 32, WIDE), (52, 16, NARROW)]) {
        let masks = [masks[0], masks[1], masks[2], 0];
        let found = decode(&bmp(header, depth, masks, colours(masks)), &DecodeOptions::default())
            .unwrap_or_else(|error| panic!("header {header}, depth {depth}: {error:?}"));
        assert_eq!(found.rgb.data, EXPECTED, "header {header}, depth {depth}");
    }
}
