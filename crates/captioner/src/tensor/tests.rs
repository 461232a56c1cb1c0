use super::*;
use crate::testing::runtime;

fn floats(value: &DynValue) -> Vec<f32> {
    unstack(value).unwrap().iter().flat_map(|row| row.floats().unwrap().into_owned()).collect()
}

fn counting(shape: Vec<i64>) -> Vec<f32> {
    (0..shape.iter().product()).map(|x| x as f32).collect()
}

/// The same numbers as float32 and as float16.
fn both(shape: Vec<i64>) -> [DynValue; 2] {
    let data = counting(shape.clone());
    [
        tensor(shape.clone(), data.clone()).unwrap(),
        tensor(shape, data.into_iter().map(f16::from_f32).collect()).unwrap(),
    ]
}

#[test]
fn rows_are_selected_and_repeated() {
    if !runtime() {
        return;
    }
    for value in both(vec![3, 2, 2]) {
        let selected = value.select(&[2, 0, 0, 2]).unwrap();
        assert_eq!((shape(&selected), selected.rows()), (&[4, 2, 2][..], 4));
        assert_eq!(
            floats(&selected),
            [8., 9., 10., 11., 0., 1., 2., 3., 0., 1., 2., 3., 8., 9., 10., 11.]
        );
        assert_eq!(selected.dtype().tensor_type(), value.dtype().tensor_type());
        assert_eq!(selected.bytes() * 3, value.bytes() * 4);
    }
    let empty = zeros(TensorElementType::Float16, vec![2, 4, 0, 8]).unwrap();
    assert_eq!(shape(&empty.select(&[1, 1, 0]).unwrap()), [3, 4, 0, 8]);
}

#[test]
fn stacking_and_unstacking_are_inverse() {
    if !runtime() {
        return;
    }
    let part = |x: f32| HostTensor { shape: vec![2, 1], data: TensorData::F32(vec![x, x + 0.5]) };
    let parts = [part(1.0), part(2.0), part(3.0)];
    for ty in [TensorElementType::Float32, TensorElementType::Float16] {
        let stacked = stack(&parts.iter().collect::<Vec<_>>(), ty).unwrap();
        assert_eq!(shape(&stacked), [3, 2, 1]);
        assert_eq!(stacked.dtype().tensor_type(), Some(ty));
        assert_eq!(floats(&stacked), [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]);
        // Float16 output of one graph may be float32 input of another.
        let halves = unstack(&stacked).unwrap();
        assert_eq!(
            floats(&stack(&halves.iter().collect::<Vec<_>>(), TensorElementType::Float32).unwrap()),
            floats(&stacked)
        );
    }
    let other = HostTensor { shape: vec![1, 2], data: TensorData::F32(vec![0.0; 2]) };
    assert!(matches!(
        stack(&[&parts[0], &other], TensorElementType::Float32),
        Err(ModelError::Batch(_))
    ));
    assert!(stack(&[], TensorElementType::Float32).is_err());
    assert!(stack(&[&parts[0]], TensorElementType::Int64).is_err());
}

#[test]
fn only_floats_are_cast() {
    if !runtime() {
        return;
    }
    for value in both(vec![2, 3]) {
        for ty in [TensorElementType::Float32, TensorElementType::Float16] {
            let cast = cast(value.select(&[0, 1]).unwrap(), ty).unwrap();
            assert_eq!(
                (cast.dtype().tensor_type(), floats(&cast)),
                (Some(ty), counting(vec![2, 3]))
            );
        }
    }
    assert!(cast(tensor(vec![1], vec![1i64]).unwrap(), TensorElementType::Float32).is_err());
}

#[test]
fn positions_are_joined_row_by_row() {
    if !runtime() {
        return;
    }
    let ids = |shape: Vec<i64>, data: Vec<i64>| tensor(shape, data).unwrap();
    let joined =
        join_positions(&ids(vec![2, 2], vec![1, 2, 5, 6]), &ids(vec![2, 1], vec![3, 7])).unwrap();
    let (shape, data) = joined.try_extract_tensor::<i64>().unwrap();
    assert_eq!((&**shape, data), (&[2, 3][..], &[1, 2, 3, 5, 6, 7][..]));
    assert!(join_positions(&joined, &ids(vec![1, 1], vec![3])).is_err());
}

#[test]
fn only_the_last_position_of_logits_is_read() {
    if !runtime() {
        return;
    }
    for value in both(vec![2, 3, 4]) {
        let logits = last_position(&value, Path::new("g")).unwrap();
        assert_eq!(
            (logits.row(0), logits.row(1)),
            (&[8., 9., 10., 11.][..], &[20., 21., 22., 23.][..])
        );
        assert!(logits.row(2).is_empty());
    }
    assert!(
        last_position(&zeros(TensorElementType::Float32, vec![2, 0, 4]).unwrap(), Path::new("g"))
            .is_err()
    );
    assert!(
        last_position(&zeros(TensorElementType::Float32, vec![2, 4]).unwrap(), Path::new("g"))
            .is_err()
    );
    assert!(
        last_position(&zeros(TensorElementType::Int64, vec![2, 1, 4]).unwrap(), Path::new("g"))
            .is_err()
    );
}
