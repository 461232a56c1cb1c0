//! The resize equals Pillow's: the plain version of its specification, on random sizes.

mod naive;

use pg_caption_pixels::{ResampleFilter, RgbPicture, mean_rgb_2x2, resize};

const FILTERS: [ResampleFilter; 5] = [
    ResampleFilter::Bilinear,
    ResampleFilter::Bicubic,
    ResampleFilter::Lanczos,
    ResampleFilter::Box,
    ResampleFilter::Hamming,
];

#[test]
fn filters_equal_the_specification() {
    let mut random = fastrand::Rng::with_seed(2026);
    for round in 0..250 {
        // Mostly small sizes, sometimes long strips: the fast version works in blocks of 8 rows and
        // 64 samples.
        let mut side = |most: u32| {
            let long = random.u8(0..8) == 0;
            1 + random.u32(0..if long { most * 8 } else { most })
        };
        let (w, h, to_w, to_h) = (side(70), side(50), side(60), side(60));
        let picture = noise(&mut random, w, h);
        let filter = FILTERS[round % FILTERS.len()];
        let (fast, plain) =
            (resize(&picture, to_w, to_h, filter), naive::resize(&picture, to_w, to_h, filter));
        assert!(fast == plain, "{filter:?}, {w} x {h} to {to_w} x {to_h}");
    }
}

#[test]
fn extreme_samples_neither_wrap_nor_bleed() {
    for filter in FILTERS {
        let checks = RgbPicture {
            width: 33,
            height: 21,
            data: (0..33 * 21).flat_map(|i| [if i % 2 == 0 { 255 } else { 0 }; 3]).collect(),
        };
        assert_eq!(
            resize(&checks, 64, 64, filter),
            naive::resize(&checks, 64, 64, filter),
            "{filter:?}"
        );
        let white = RgbPicture { width: 33, height: 21, data: vec![255; 33 * 21 * 3] };
        assert!(
            resize(&white, 100, 7, filter).data.iter().all(|sample| *sample == 255),
            "{filter:?}: white stays white"
        );
    }
}

#[test]
fn the_same_size_is_a_copy() {
    let picture = noise(&mut fastrand::Rng::with_seed(1), 31, 17);
    for filter in FILTERS.into_iter().chain([ResampleFilter::Nearest]) {
        assert_eq!(resize(&picture, 31, 17, filter), picture);
    }
}

#[test]
fn nearest_takes_the_pixel_at_each_centre() {
    let row = RgbPicture {
        width: 4,
        height: 1,
        data: [10, 20, 30, 40].into_iter().flat_map(|v| [v; 3]).collect(),
    };
    let reds = |picture: RgbPicture| picture.data.iter().step_by(3).copied().collect::<Vec<_>>();
    assert_eq!(reds(resize(&row, 2, 1, ResampleFilter::Nearest)), [20, 40]);
    assert_eq!(reds(resize(&row, 8, 1, ResampleFilter::Nearest)), [10, 10, 20, 20, 30, 30, 40, 40]);
}

#[test]
fn quarter_means_are_row_by_row() {
    let mut data = vec![];
    for y in 0..4 {
        for x in 0..6 {
            data.extend(if y < 2 {
                if x < 3 { [255, 0, 0] } else { [0, 255, 0] }
            } else if x < 3 {
                [0, 0, 255]
            } else {
                [9, 9, 9]
            });
        }
    }
    assert_eq!(
        mean_rgb_2x2(&RgbPicture { width: 6, height: 4, data }),
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]
    );
    assert_eq!(
        mean_rgb_2x2(&RgbPicture { width: 1, height: 1, data: vec![1, 2, 3] }),
        [[1, 2, 3]; 4]
    );
}

fn noise(random: &mut fastrand::Rng, width: u32, height: u32) -> RgbPicture {
    RgbPicture { width, height, data: (0..width * height * 3).map(|_| random.u8(..)).collect() }
}
