//! Tensors of ONNX Runtime as rows: selects, stacks and splits them by element type.
//!
//! Only values that move between captions are copied. A tensor that a session returns and takes
//! again is not.

use crate::ModelError;
use crate::cache::RowTensor;
use crate::logits::LogitRows;
use crate::runtime::GraphSession;
use half::f16;
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType};
use std::fmt::Debug;
use std::path::Path;

/// Elements in host memory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TensorData {
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
    pub data: TensorData,
}

impl HostTensor {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.data {
            TensorData::F32(v) => v.len() * 4,
            TensorData::F16(v) => v.len() * 2,
            TensorData::I64(v) => v.len() * 8,
            TensorData::Bool(v) => v.len(),
        }
    }

    /// The elements as float32, if they are floats.
    pub fn floats(&self) -> Option<std::borrow::Cow<'_, [f32]>> {
        match &self.data {
            TensorData::F32(v) => Some(v.into()),
            TensorData::F16(v) => Some(v.iter().map(|x| x.to_f32()).collect::<Vec<_>>().into()),
            _ => None,
        }
    }
}

/// Rows of numbers in host memory: embeddings and features for a decoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FloatRows {
    /// Numbers in a row.
    pub width: usize,
    /// Row by row.
    pub data: Vec<f32>,
}

impl FloatRows {
    /// From a tensor whose last dimension is a row.
    pub fn new(shape: &[i64], data: Vec<f32>) -> Result<FloatRows, ModelError> {
        let width = shape.last().map_or(0, |n| *n as usize);
        if width == 0 || !data.len().is_multiple_of(width) {
            return Err(ModelError::run(
                "tensor",
                format!("{} numbers do not form rows of {width}", data.len()),
            ));
        }
        Ok(FloatRows { width, data })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.width
    }
}

fn tensor_error(error: ort::Error) -> ModelError {
    ModelError::run("tensor", error)
}

fn unsupported(ty: TensorElementType) -> ModelError {
    ModelError::run("tensor", format!("unsupported element type {ty}"))
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

/// Limit of the numbers in a tensor created here: 1 GiB of float32. A larger one comes from a
/// damaged graph, and allocating it would end the process. Published graphs need at most a fiftieth
/// of it.
const MAX_NUMBERS: usize = 1 << 28;

/// How many numbers a tensor of this shape has; `None` beyond the limit.
fn numbers(shape: &[i64]) -> Option<usize> {
    let count =
        shape.iter().try_fold(1usize, |count, n| count.checked_mul(usize::try_from(*n).ok()?));
    count.filter(|count| *count <= MAX_NUMBERS)
}

/// As [`numbers`], as the length of a new tensor.
///
/// # Errors
/// [`ModelError::Run`] beyond the limit.
pub(crate) fn length(shape: &[i64]) -> Result<usize, ModelError> {
    numbers(shape)
        .ok_or_else(|| ModelError::run("tensor", format!("invalid tensor shape {shape:?}")))
}

/// Checks that every input of a graph has a supported type and a possible size.
///
/// # Errors
/// The input with its type or dimensions.
pub(crate) fn supported(graph: &GraphSession) -> Result<(), String> {
    for name in graph.inputs() {
        let stated = graph.input(name).map_or(&[][..], |(_, shape)| shape);
        if numbers(&stated.iter().map(|n| (*n).max(1)).collect::<Vec<i64>>()).is_none() {
            return Err(format!("input \"{name}\" has invalid dimensions {stated:?}"));
        }
    }
    use TensorElementType::{Bool, Float16, Float32, Int64};
    let is_unsupported = |name: &&str| {
        graph.input(name).is_some_and(|(ty, _)| ![Float32, Float16, Int64, Bool].contains(&ty))
    };
    match graph.inputs().find(is_unsupported) {
        None => Ok(()),
        Some(name) => Err(format!(
            "input \"{name}\" has unsupported type {}",
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

/// Whether all floats are finite; `None` if the tensor is not of a supported float type.
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

impl RowTensor for DynValue {
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
    let (shape, data) = value.try_extract_tensor::<T>().map_err(tensor_error)?;
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
    Ok(Tensor::from_array((shape, data)).map_err(tensor_error)?.into_dyn())
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

/// Ones of the element type of an input; `None` if the graph lacks the input.
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
pub(crate) fn rows_of_floats(value: &DynValue) -> Result<FloatRows, ModelError> {
    let shape = shape(value).to_vec();
    match element_type(value)? {
        TensorElementType::Float32 => FloatRows::new(
            &shape,
            value.try_extract_tensor::<f32>().map_err(tensor_error)?.1.to_vec(),
        ),
        TensorElementType::Float16 => {
            let (_, data) = value.try_extract_tensor::<f16>().map_err(tensor_error)?;
            FloatRows::new(&shape, data.iter().map(|x| x.to_f32()).collect())
        }
        other => Err(unsupported(other)),
    }
}

/// Stacks tensors of one shape along a new axis 0, in the element type of a graph's input.
pub(crate) fn stack(parts: &[&HostTensor], ty: TensorElementType) -> Result<DynValue, ModelError> {
    let Some(first) = parts.first() else {
        return Err(ModelError::Batch("no tensors to stack".into()));
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
        let floats =
            part.floats().ok_or_else(|| ModelError::run("tensor", "the tensor has no floats"))?;
        data.extend_from_slice(&floats);
    }
    of_floats(shape, data, ty)
}

/// A tensor of these numbers, in the element type of a graph's input.
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

/// The same numbers in the float type of a graph's input; not copied if they have that type.
pub(crate) fn cast(value: DynValue, ty: TensorElementType) -> Result<DynValue, ModelError> {
    let shape = shape(&value).to_vec();
    match (element_type(&value)?, ty) {
        (have, want) if have == want => Ok(value),
        (TensorElementType::Float32, TensorElementType::Float16) => {
            let (_, data) = value.try_extract_tensor::<f32>().map_err(tensor_error)?;
            tensor(shape, data.iter().map(|x| f16::from_f32(*x)).collect())
        }
        (TensorElementType::Float16, TensorElementType::Float32) => {
            let (_, data) = value.try_extract_tensor::<f16>().map_err(tensor_error)?;
            tensor(shape, data.iter().map(|x| x.to_f32()).collect())
        }
        (have, want) => Err(ModelError::run("tensor", format!("cannot convert {have} to {want}"))),
    }
}

/// Splits axis 0: one tensor per row.
pub(crate) fn unstack(value: &DynValue) -> Result<Vec<HostTensor>, ModelError> {
    fn rows<T: PrimitiveTensorElementType + Clone + 'static>(
        value: &DynValue,
        wrap: fn(Vec<T>) -> TensorData,
    ) -> Result<Vec<HostTensor>, ModelError> {
        let (shape, data) = value.try_extract_tensor::<T>().map_err(tensor_error)?;
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
        TensorElementType::Float32 => rows(value, TensorData::F32),
        TensorElementType::Float16 => rows(value, TensorData::F16),
        TensorElementType::Int64 => rows(value, TensorData::I64),
        TensorElementType::Bool => rows(value, TensorData::Bool),
        other => Err(unsupported(other)),
    }
}

/// Joins two tensors along axis 1 (positions); all other dimensions are equal.
pub(crate) fn join_positions(before: &DynValue, after: &DynValue) -> Result<DynValue, ModelError> {
    for_type!(element_type(before)?, join::<_>(before, after))
}

fn join<T: PrimitiveTensorElementType + Clone + Copy + Debug + 'static>(
    before: &DynValue,
    after: &DynValue,
) -> Result<DynValue, ModelError> {
    let (a_shape, a) = before.try_extract_tensor::<T>().map_err(tensor_error)?;
    let (b_shape, b) = after.try_extract_tensor::<T>().map_err(tensor_error)?;
    if a_shape.len() < 2
        || a_shape.len() != b_shape.len()
        || a_shape[0] != b_shape[0]
        || a_shape[2..] != b_shape[2..]
    {
        return Err(ModelError::run(
            "tensor",
            format!("cannot join shapes {a_shape:?} and {b_shape:?} along positions"),
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
pub(crate) fn last_position(value: &DynValue, graph: &Path) -> Result<LogitRows, ModelError> {
    let [rows, positions, vocabulary] = *shape(value) else {
        return Err(ModelError::run(
            "logits",
            format!("shape {:?} is not [rows, positions, vocabulary]", shape(value)),
        ));
    };
    let (rows, positions, vocabulary) = (rows as usize, positions as usize, vocabulary as usize);
    if positions == 0 {
        return Err(ModelError::run("logits", "no positions"));
    }
    let mut data = Vec::with_capacity(rows * vocabulary);
    let starts = (0..rows).map(|row| (row * positions + positions - 1) * vocabulary);
    match element_type(value)? {
        TensorElementType::Float32 => {
            let (_, all) = value.try_extract_tensor::<f32>().map_err(tensor_error)?;
            starts.for_each(|at| data.extend_from_slice(&all[at..at + vocabulary]));
        }
        TensorElementType::Float16 => {
            let (_, all) = value.try_extract_tensor::<f16>().map_err(tensor_error)?;
            starts.for_each(|at| data.extend(all[at..at + vocabulary].iter().map(|x| x.to_f32())));
        }
        other => return Err(unsupported(other)),
    }
    Ok(LogitRows::new(data, vocabulary, graph))
}

#[cfg(test)]
mod tests;
