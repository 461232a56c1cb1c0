//! GIFs whose first frame and canvas differ: canvas and colours as in the reference.

mod drawn;

use drawn::{COLOURS, file, quarters};
use image::ImageFormat;
use pg_caption_pixels::{DecodeOptions, RgbPicture, decode, mean_rgb_2x2};

/// Green, red, blue, yellow.
const TABLE: [[u8; 3]; 4] = [[10, 200, 30], [220, 30, 30], [30, 30, 210], [240, 240, 0]];
const WHITE: [u8; 3] = [255; 3];

/// The first frame: 8 x 8 red pixels at (2, 3) on a canvas of 20 x 20.
#[derive(Clone, Copy)]
struct Gif {
    version: &'static [u8; 3],
    background: u8,
    transparent: Option<u8>,
    global: Option<[[u8; 3]; 4]>,
    local: Option<[[u8; 3]; 4]>,
}

impl Gif {
    const PLAIN: Gif =
        Gif { version: b"89a", background: 2, transparent: None, global: Some(TABLE), local: None };

    fn bytes(self) -> Vec<u8> {
        let flags = |table: Option<_>| if table.is_some() { 0x81 } else { 0 };
        let table = |table: Option<[[u8; 3]; 4]>| {
            table.map(|table| table.as_flattened().to_vec()).unwrap_or_default()
        };
        let control = self
            .transparent
            .map(|index| vec![0x21, 0xF9, 4, 1, 0, 0, index, 0])
            .unwrap_or_default();
        // Three bits per code: a clear code before every pixel keeps the code table from growing;
        // the end code is last.
        let codes = (0..64).flat_map(|_| [4_u64, 1]).chain([5]).collect::<Vec<_>>();
        let packed: Vec<u8> = codes
            .chunks(8)
            .flat_map(|codes| {
                codes.iter().rev().fold(0, |all, code| all << 3 | code).to_le_bytes()[..3].to_vec()
            })
            .collect();
        [
            &b"GIF"[..],
            self.version,
            &[20, 0, 20, 0, flags(self.global), self.background, 0],
            &table(self.global),
            &control,
            &[0x2C, 2, 0, 3, 0, 8, 0, 8, 0, flags(self.local)],
            &table(self.local),
            &[2, packed.len() as u8],
            &packed,
            &[0, 0x3B],
        ]
        .concat()
    }
}

fn decoded(bytes: &[u8]) -> RgbPicture {
    decode(bytes, &DecodeOptions::default()).unwrap().rgb
}

#[test]
fn a_gif_canvas_grows_to_its_first_frame() {
    let mut bytes = file(quarters(40, 20), ImageFormat::Gif);
    bytes[6..10].copy_from_slice(&[8, 0, 8, 0]);
    let found = decoded(&bytes);
    assert_eq!((found.width, found.height), (40, 20));
    let off = mean_rgb_2x2(&found)
        .as_flattened()
        .iter()
        .zip(COLOURS.as_flattened())
        .any(|(a, b)| a.abs_diff(*b) > 4);
    assert!(!off, "all of the frame is there");
}

#[test]
fn gif_canvas_colour_follows_the_reference() {
    let local = [[1, 2, 103], TABLE[1], TABLE[2], TABLE[3]];
    for (what, gif, expected) in [
        ("plain", Gif::PLAIN, TABLE[0]),
        ("the older version", Gif { version: b"87a", ..Gif::PLAIN }, TABLE[0]),
        ("the background decides nothing", Gif { background: 3, ..Gif::PLAIN }, TABLE[0]),
        ("the first colour is transparent", Gif { transparent: Some(0), ..Gif::PLAIN }, WHITE),
        ("another one is", Gif { transparent: Some(3), ..Gif::PLAIN }, WHITE),
        (
            "another one is, in the older version",
            Gif { version: b"87a", transparent: Some(2), ..Gif::PLAIN },
            WHITE,
        ),
        ("a table of its own", Gif { local: Some(local), ..Gif::PLAIN }, local[0]),
        (
            "only a table of its own",
            Gif { global: None, local: Some(local), ..Gif::PLAIN },
            local[0],
        ),
    ] {
        let found = decoded(&gif.bytes());
        let pixel = |x: usize, y: usize| found.data[(y * 20 + x) * 3..][..3].to_vec();
        for (x, y) in [(0, 0), (1, 3), (10, 3), (2, 2), (2, 11), (19, 19)] {
            assert_eq!(pixel(x, y), expected, "{what}, at {x}, {y}");
        }
        for (x, y) in [(2, 3), (9, 10)] {
            assert_eq!(pixel(x, y), TABLE[1], "{what}, at {x}, {y}");
        }
    }
}
