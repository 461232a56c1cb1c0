//! Tensors of ONNX Runtime as rows: selecting, stacking and taking apart, by element type.
//!
//! Only what moves between captions is touched here; what a session gives back and takes again is
//! never copied.

use crate::ModelError;
use crate::cache::Rows;
use crate::family::Logits;
use crate::runtime::Graph;
use half::f16;
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType};
use std::fmt::Debug;
use std::path::Path;

/// Elements in host memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    F32(Vec<f32>),
    F16(Vec<f16>),
    I64(Vec<i64>),
    Bool(Vec<bool>),
}

/// A tensor in host memory, independent of any session.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HostTensor {
    /// Dimensions; their product is the number of elements.
    pub shape: Vec<i64>,
    /// Elements, last dimension fastest.
    pub data: Data,
}

impl HostTensor {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.data {
            Data::F32(v) => v.len() * 4,
            Data::F16(v) => v.len() * 2,
            Data::I64(v) => v.len() * 8,
            Data::Bool(v) => v.len(),
        }
    }

    /// The elements as float32, if they are floats.
    pub fn floats(&self) -> Option<std::borrow::Cow<'_, [f32]>> {
        match &self.data {
            Data::F32(v) => Some(v.into()),
            Data::F16(v) => Some(v.iter().map(|x| x.to_f32()).collect::<Vec<_>>().into()),
            _ => None,
        }
    }
}

/// Rows of numbers in host memory: embeddings and features, on their way into a decoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Floats {
    /// Numbers in a row.
    pub width: usize,
    /// Row by row.
    pub data: Vec<f32>,
}

impl Floats {
    /// Of a tensor whose last dimension is a row.
    pub fn new(shape: &[i64], data: Vec<f32>) -> Result<Floats, ModelError> {
        let width = shape.last().map_or(0, |n| *n as usize);
        if width == 0 || !data.len().is_multiple_of(width) {
            return Err(ModelError::run(
                "tensor",
                format!("{} numbers are no rows of {width}", data.len()),
            ));
        }
        Ok(Floats { width, data })
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.width
    }
}

fn broken(error: ort::Error) -> ModelError {
    ModelError::run("tensor", error)
}

fn unsupported(ty: TensorElementType) -> ModelError {
    ModelError::run("tensor", format!("element type {ty} is not supported here"))
}

/// Calls a generic function for the element type of a tensor.
macro_rules! for_type {
    ($ty:expr, $call:ident::<_>($($arg:expr),*)) => {
        match $ty {
            TensorElementType::Float32 => $call::<f32>($($arg),*),
            TensorElementType::Float16 => $call::<f16>($($arg),*),
            TensorElementType::Int64 => $call::<i64>($($arg),*),
            TensorElementType::Bool => $call::<bool>($($arg),*),
            other => Err(unsupported(other)),
        }
    };
}

/// Numbers that a tensor of ours may have: what is beyond comes from a damaged graph, and asking
/// for its memory would end the process. A gigabyte in float32; the largest that a published graph
/// asks for has a fiftieth of it.
const MOST_NUMBERS: usize = 1 << 28;

/// How many numbers a tensor of this shape has.
fn numbers(shape: &[i64]) -> Option<usize> {
    let count =
        shape.iter().try_fold(1usize, |count, n| count.checked_mul(usize::try_from(*n).ok()?));
    count.filter(|count| *count <= MOST_NUMBERS)
}

/// The same for a tensor that is to be made.
pub(crate) fn length(shape: &[i64]) -> Result<usize, ModelError> {
    numbers(shape).ok_or_else(|| {
        ModelError::run("tensor", format!("{shape:?} is no shape to make a tensor of"))
    })
}

/// Whether every input of a graph is of a type that is spoken here, and of a size that can be.
///
/// # Errors
/// The input, and its type or its dimensions.
pub(crate) fn spoken(graph: &Graph) -> Result<(), String> {
    for name in graph.inputs() {
        let stated = graph.input(name).map_or(&[][..], |(_, shape)| shape);
        if numbers(&stated.iter().map(|n| (*n).max(1)).collect::<Vec<i64>>()).is_none() {
            return Err(format!("its input \"{name}\" has impossible dimensions, {stated:?}"));
        }
    }
    use TensorElementType::{Bool, Float16, Float32, Int64};
    let strange = |name: &&str| {
        graph.input(name).is_some_and(|(ty, _)| ![Float32, Float16, Int64, Bool].contains(&ty))
    };
    match graph.inputs().find(strange) {
        None => Ok(()),
        Some(name) => Err(format!(
            "its input \"{name}\" is of a type nobody feeds, {}",
            graph.input(name).map_or_else(String::new, |(ty, _)| ty.to_string())
        )),
    }
}

fn element_type(value: &DynValue) -> Result<TensorElementType, ModelError> {
    value.dtype().tensor_type().ok_or_else(|| ModelError::run("tensor", "not a tensor"))
}

/// Dimensions of a tensor; empty for anything else.
pub(crate) fn shape(value: &DynValue) -> &[i64] {
    value.dtype().tensor_shape().map_or(&[], |s| s)
}

/// Whether floats are all numbers, and none of them infinite; `None` if they are no floats of a
/// type that is spoken here.
pub(crate) fn finite(value: &DynValue) -> Option<bool> {
    match value.dtype().tensor_type()? {
        TensorElementType::Float32 => {
            Some(value.try_extract_tensor::<f32>().ok()?.1.iter().all(|x| x.is_finite()))
        }
        TensorElementType::Float16 => {
            Some(value.try_extract_tensor::<f16>().ok()?.1.iter().all(|x| x.is_finite()))
        }
        _ => None,
    }
}

impl Rows for DynValue {
    fn rows(&self) -> usize {
        shape(self).first().map_or(0, |n| *n as usize)
    }

    fn bytes(&self) -> usize {
        let elements: usize = shape(self).iter().map(|n| (*n).max(0) as usize).product();
        let size = match self.dtype().tensor_type() {
            Some(TensorElementType::Float16) => 2,
            Some(TensorElementType::Int64) => 8,
            Some(TensorElementType::Bool) => 1,
            _ => 4,
        };
        elements * size
    }

    fn select(&self, rows: &[usize]) -> Result<Self, ModelError> {
        for_type!(element_type(self)?, select::<_>(self, rows))
    }
}

fn select<T: PrimitiveTensorElementType + Clone + Copy + Debug + 'static>(
    value: &DynValue,
    rows: &[usize],
) -> Result<DynValue, ModelError> {
    let (shape, data) = value.try_extract_tensor::<T>().map_err(broken)?;
    let mut shape = shape.to_vec();
    let Some(count) = shape.first_mut() else {
        return Err(ModelError::run("tensor", "a scalar has no rows"));
    };
    let row = data.len().checked_div(*count as usize).unwrap_or(0);
    *count = rows.len() as i64;
    let mut selected = Vec::with_capacity(row * rows.len());
    for i in rows {
        selected.extend_from_slice(&data[i * row..(i + 1) * row]);
    }
    tensor(shape, selected)
}

/// A tensor that owns `data`.
pub(crate) fn tensor<T: PrimitiveTensorElementType + Clone + Debug + 'static>(
    shape: Vec<i64>,
    data: Vec<T>,
) -> Result<DynValue, ModelError> {
    Ok(Tensor::from_array((shape, data)).map_err(broken)?.into_dyn())
}

/// A tensor of zeros; any dimension may be 0.
pub(crate) fn zeros(ty: TensorElementType, shape: Vec<i64>) -> Result<DynValue, ModelError> {
    let len = length(&shape)?;
    match ty {
        TensorElementType::Float32 => tensor(shape, vec![0f32; len]),
        TensorElementType::Float16 => tensor(shape, vec![f16::ZERO; len]),
        TensorElementType::Int64 => tensor(shape, vec![0i64; len]),
        TensorElementType::Bool => tensor(shape, vec![false; len]),
        other => Err(unsupported(other)),
    }
}

/// Ones of the type a graph asks for; nothing where it does not ask.
pub(crate) fn ones(
    ty: Option<TensorElementType>,
    shape: Vec<i64>,
) -> Result<Option<DynValue>, ModelError> {
    let len = length(&shape)?;
    match ty {
        None => Ok(None),
        Some(TensorElementType::Bool) => tensor(shape, vec![true; len]).map(Some),
        Some(TensorElementType::Int64) => tensor(shape, vec![1i64; len]).map(Some),
        Some(other) => of_floats(shape, vec![1.0; len], other).map(Some),
    }
}

/// A float tensor as rows of its last dimension.
pub(crate) fn rows_of_floats(value: &DynValue) -> Result<Floats, ModelError> {
    let shape = shape(value).to_vec();
    match element_type(value)? {
        TensorElementType::Float32 => {
            Floats::new(&shape, value.try_extract_tensor::<f32>().map_err(broken)?.1.to_vec())
        }
        TensorElementType::Float16 => {
            let (_, data) = value.try_extract_tensor::<f16>().map_err(broken)?;
            Floats::new(&shape, data.iter().map(|x| x.to_f32()).collect())
        }
        other => Err(unsupported(other)),
    }
}

/// Tensors of one shape become one with a new axis 0, of the element type a graph asks for.
pub(crate) fn stack(parts: &[&HostTensor], ty: TensorElementType) -> Result<DynValue, ModelError> {
    let Some(first) = parts.first() else {
        return Err(ModelError::Batch("nothing to stack".into()));
    };
    if parts.iter().any(|part| part.shape != first.shape) {
        return Err(ModelError::Batch("tensors of different shapes in one call".into()));
    }
    let mut shape = Vec::with_capacity(first.shape.len() + 1);
    shape.push(parts.len() as i64);
    shape.extend_from_slice(&first.shape);
    let len: usize = shape.iter().map(|n| *n as usize).product();
    let mut data = Vec::with_capacity(len);
    for part in parts {
        let floats = part.floats().ok_or_else(|| {
            ModelError::run("tensor", "a graph asks for floats where there are none")
        })?;
        data.extend_from_slice(&floats);
    }
    of_floats(shape, data, ty)
}

/// A tensor of these numbers, of the element type a graph asks for.
pub(crate) fn of_floats(
    shape: Vec<i64>,
    data: Vec<f32>,
    ty: TensorElementType,
) -> Result<DynValue, ModelError> {
    match ty {
        TensorElementType::Float32 => tensor(shape, data),
        TensorElementType::Float16 => tensor(shape, data.into_iter().map(f16::from_f32).collect()),
        other => Err(unsupported(other)),
    }
}

/// The same numbers in the float type a graph asks for; nothing is copied where it is that already.
pub(crate) fn cast(value: DynValue, ty: TensorElementType) -> Result<DynValue, ModelError> {
    let shape = shape(&value).to_vec();
    match (element_type(&value)?, ty) {
        (have, want) if have == want => Ok(value),
        (TensorElementType::Float32, TensorElementType::Float16) => {
            let (_, data) = value.try_extract_tensor::<f32>().map_err(broken)?;
            tensor(shape, data.iter().map(|x| f16::from_f32(*x)).collect())
        }
        (TensorElementType::Float16, TensorElementType::Float32) => {
            let (_, data) = value.try_extract_tensor::<f16>().map_err(broken)?;
            tensor(shape, data.iter().map(|x| x.to_f32()).collect())
        }
        (have, want) => Err(ModelError::run("tensor", format!("{have} where {want} is asked for"))),
    }
}

/// Axis 0 taken apart: one tensor per row.
pub(crate) fn unstack(value: &DynValue) -> Result<Vec<HostTensor>, ModelError> {
    fn rows<T: PrimitiveTensorElementType + Clone + 'static>(
        value: &DynValue,
        wrap: fn(Vec<T>) -> Data,
    ) -> Result<Vec<HostTensor>, ModelError> {
        let (shape, data) = value.try_extract_tensor::<T>().map_err(broken)?;
        let [count, row_shape @ ..] = &**shape else {
            return Err(ModelError::run("tensor", "a scalar has no rows"));
        };
        let row = data.len().checked_div(*count as usize).unwrap_or(0);
        let part = |i: usize| HostTensor {
            shape: row_shape.to_vec(),
            data: wrap(data[i * row..(i + 1) * row].to_vec()),
        };
        Ok((0..*count as usize).map(part).collect())
    }
    match element_type(value)? {
        TensorElementType::Float32 => rows(value, Data::F32),
        TensorElementType::Float16 => rows(value, Data::F16),
        TensorElementType::Int64 => rows(value, Data::I64),
        TensorElementType::Bool => rows(value, Data::Bool),
        other => Err(unsupported(other)),
    }
}

/// Two tensors joined along axis 1 (positions); all other dimensions are equal.
pub(crate) fn join_positions(before: &DynValue, after: &DynValue) -> Result<DynValue, ModelError> {
    for_type!(element_type(before)?, join::<_>(before, after))
}

fn join<T: PrimitiveTensorElementType + Clone + Copy + Debug + 'static>(
    before: &DynValue,
    after: &DynValue,
) -> Result<DynValue, ModelError> {
    let (a_shape, a) = before.try_extract_tensor::<T>().map_err(broken)?;
    let (b_shape, b) = after.try_extract_tensor::<T>().map_err(broken)?;
    if a_shape.len() < 2
        || a_shape.len() != b_shape.len()
        || a_shape[0] != b_shape[0]
        || a_shape[2..] != b_shape[2..]
    {
        return Err(ModelError::run(
            "tensor",
            format!("{a_shape:?} and {b_shape:?} do not join along positions"),
        ));
    }
    let rows = a_shape[0] as usize;
    let (a_row, b_row) =
        (a.len().checked_div(rows).unwrap_or(0), b.len().checked_div(rows).unwrap_or(0));
    let mut joined = Vec::with_capacity(a.len() + b.len());
    for row in 0..rows {
        joined.extend_from_slice(&a[row * a_row..(row + 1) * a_row]);
        joined.extend_from_slice(&b[row * b_row..(row + 1) * b_row]);
    }
    let mut shape = a_shape.to_vec();
    shape[1] += b_shape[1];
    tensor(shape, joined)
}

/// The last position of logits `[rows, positions, vocabulary]` as float32.
pub(crate) fn last_position(value: &DynValue, graph: &Path) -> Result<Logits, ModelError> {
    let [rows, positions, vocabulary] = *shape(value) else {
        return Err(ModelError::run(
            "logits",
            format!("shape {:?} is not [rows, positions, vocabulary]", shape(value)),
        ));
    };
    let (rows, positions, vocabulary) = (rows as usize, positions as usize, vocabulary as usize);
    if positions == 0 {
        return Err(ModelError::run("logits", "no position"));
    }
    let mut data = Vec::with_capacity(rows * vocabulary);
    let starts = (0..rows).map(|row| (row * positions + positions - 1) * vocabulary);
    match element_type(value)? {
        TensorElementType::Float32 => {
            let (_, all) = value.try_extract_tensor::<f32>().map_err(broken)?;
            starts.for_each(|at| data.extend_from_slice(&all[at..at + vocabulary]));
        }
        TensorElementType::Float16 => {
            let (_, all) = value.try_extract_tensor::<f16>().map_err(broken)?;
            starts.for_each(|at| data.extend(all[at..at + vocabulary].iter().map(|x| x.to_f32())));
        }
        other => return Err(unsupported(other)),
    }
    Ok(Logits::new(data, vocabulary, graph))
}

#[cfg(test)]
mod tests {
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
    fn rows_are_selected_repeated_and_left_out() {
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
    fn what_is_stacked_comes_apart_the_same_in_either_precision() {
        if !runtime() {
            return;
        }
        let part = |x: f32| HostTensor { shape: vec![2, 1], data: Data::F32(vec![x, x + 0.5]) };
        let parts = [part(1.0), part(2.0), part(3.0)];
        for ty in [TensorElementType::Float32, TensorElementType::Float16] {
            let stacked = stack(&parts.iter().collect::<Vec<_>>(), ty).unwrap();
            assert_eq!(shape(&stacked), [3, 2, 1]);
            assert_eq!(stacked.dtype().tensor_type(), Some(ty));
            assert_eq!(floats(&stacked), [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]);
            // Halves of one graph may feed another that reads floats.
            let halves = unstack(&stacked).unwrap();
            assert_eq!(
                floats(
                    &stack(&halves.iter().collect::<Vec<_>>(), TensorElementType::Float32).unwrap()
                ),
                floats(&stacked)
            );
        }
        let other = HostTensor { shape: vec![1, 2], data: Data::F32(vec![0.0; 2]) };
        assert!(matches!(
            stack(&[&parts[0], &other], TensorElementType::Float32),
            Err(ModelError::Batch(_))
        ));
        assert!(stack(&[], TensorElementType::Float32).is_err());
        assert!(stack(&[&parts[0]], TensorElementType::Int64).is_err());
    }

    #[test]
    fn floats_change_their_precision_and_other_types_do_not_become_floats() {
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
            join_positions(&ids(vec![2, 2], vec![1, 2, 5, 6]), &ids(vec![2, 1], vec![3, 7]))
                .unwrap();
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
            last_position(
                &zeros(TensorElementType::Float32, vec![2, 0, 4]).unwrap(),
                Path::new("g")
            )
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
}
