//! A shape over bytes.

use std::ops::Range;

use crate::{DType, Storage};

/// A row-major tensor, outermost dimension first (GGUF's `ne` reversed). Cheap to clone; shares its bytes.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    storage: Storage,
    range: Range<usize>,
}

/// A shape that does not fit its bytes.
#[derive(thiserror::Error, Clone, PartialEq, Eq, Debug)]
pub enum ShapeError {
    /// The last dimension must be whole blocks.
    #[error("rows of {cols} elements are not whole blocks of {block}, which {dtype} needs")]
    Block {
        /// The element type.
        dtype: DType,
        /// Elements in a row.
        cols: usize,
        /// Elements in a block.
        block: usize,
    },
    /// The byte count is not what shape and type ask for.
    #[error("shape {shape:?} of {dtype} needs {need} bytes, not {have}")]
    Size {
        /// The element type.
        dtype: DType,
        /// The shape, outermost first.
        shape: Vec<usize>,
        /// Bytes needed.
        need: usize,
        /// Bytes given.
        have: usize,
    },
    /// Too large for this machine's addresses.
    #[error("shape {shape:?} overflows")]
    Overflow {
        /// The shape, outermost first.
        shape: Vec<usize>,
    },
    /// The byte range leaves its storage.
    #[error("bytes {start}..{end} lie outside a storage of {len}")]
    Outside {
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
        /// Bytes there are.
        len: usize,
    },
}

impl Tensor {
    /// A tensor over `storage[range]`.
    ///
    /// # Errors
    /// If `range` leaves the storage, the last dimension is not whole blocks, or the sizes disagree.
    pub fn new(dtype: DType, shape: Vec<usize>, storage: Storage, range: Range<usize>) -> Result<Tensor, ShapeError> {
        let (start, end, len) = (range.start, range.end, storage.len());
        if start > end || end > len {
            return Err(ShapeError::Outside { start, end, len });
        }
        let need = Tensor::bytes_of(dtype, &shape)?;
        if need != end - start {
            return Err(ShapeError::Size { dtype, shape, need, have: end - start });
        }
        Ok(Tensor { dtype, shape, storage, range })
    }

    /// A tensor that owns `values`.
    ///
    /// # Errors
    /// If their number is not the product of `shape`.
    pub fn from_f32(shape: Vec<usize>, values: &[f32]) -> Result<Tensor, ShapeError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let len = bytes.len();
        Tensor::new(DType::F32, shape, bytes.into(), 0..len)
    }

    /// Bytes that a tensor of this type and shape takes.
    ///
    /// # Errors
    /// If the last dimension is not whole blocks or the size overflows.
    pub fn bytes_of(dtype: DType, shape: &[usize]) -> Result<usize, ShapeError> {
        let (cols, block) = (shape.last().copied().unwrap_or(1), dtype.format().block);
        if !cols.is_multiple_of(block) {
            return Err(ShapeError::Block { dtype, cols, block });
        }
        let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        elements.and_then(|n| dtype.bytes_for(n)).ok_or_else(|| ShapeError::Overflow { shape: shape.to_vec() })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The product of the dimensions.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The last dimension: elements in a row; 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The product of all dimensions but the last.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// The encoded bytes, row after row. No alignment is promised.
    pub fn bytes(&self) -> &[u8] {
        &self.storage[self.range.clone()]
    }

    /// The encoded bytes of one row.
    ///
    /// # Panics
    /// If `row` is not below [`rows`](Self::rows).
    pub fn row_bytes(&self, row: usize) -> &[u8] {
        let stride = self.bytes().len() / self.rows().max(1);
        &self.bytes()[row * stride..][..stride]
    }

    /// All elements, decoded.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.elements()];
        (self.dtype.format().decode)(self.bytes(), &mut out);
        out
    }

    /// Decodes one row into `out`, which has [`cols`](Self::cols) elements.
    ///
    /// # Panics
    /// If `row` is not below [`rows`](Self::rows) or `out` has another length.
    pub fn row_f32(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols());
        (self.dtype.format().decode)(self.row_bytes(row), out);
    }

    /// The same bytes under another shape.
    ///
    /// # Errors
    /// If the new shape does not take exactly these bytes.
    pub fn reshape(&self, shape: Vec<usize>) -> Result<Tensor, ShapeError> {
        Tensor::new(self.dtype, shape, self.storage.clone(), self.range.clone())
    }

    /// Rows `rows` as a tensor of shape `[rows, cols]` over the same bytes.
    ///
    /// # Errors
    /// If the rows are not all there.
    pub fn slice_rows(&self, rows: Range<usize>) -> Result<Tensor, ShapeError> {
        let stride = self.bytes().len() / self.rows().max(1);
        let overflow = || ShapeError::Overflow { shape: self.shape.clone() };
        let at =
            |row: usize| row.checked_mul(stride).and_then(|n| n.checked_add(self.range.start)).ok_or_else(overflow);
        let (start, end, len) = (at(rows.start)?, at(rows.end)?, self.range.end);
        if start > end || end > len {
            return Err(ShapeError::Outside { start, end, len });
        }
        Tensor::new(self.dtype, vec![rows.len(), self.cols()], self.storage.clone(), start..end)
    }

    /// Tells the operating system that these bytes are no longer needed; see [`Storage::release`].
    pub fn release(&self) {
        self.storage.release(self.range.clone());
    }

    /// The bytes' owner and this tensor's place in it.
    pub fn storage(&self) -> (&Storage, Range<usize>) {
        (&self.storage, self.range.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_slices_see_the_same_values() {
        let values: Vec<f32> = (0..24).map(|v| v as f32 - 7.5).collect();
        let t = Tensor::from_f32(vec![2, 3, 4], &values).expect("shape");
        assert_eq!((t.rows(), t.cols(), t.elements()), (6, 4, 24));
        assert_eq!(t.to_f32(), values);
        let mut row = [0.0; 4];
        t.row_f32(5, &mut row);
        assert_eq!(row, values[20..]);
        let s = t.slice_rows(2..4).expect("rows");
        assert_eq!((s.shape(), s.to_f32()), (&[2, 4][..], values[8..16].to_vec()));
        assert_eq!(t.reshape(vec![4, 6]).expect("shape").to_f32(), values);
        assert!(t.slice_rows(5..7).is_err());
        assert!(t.slice_rows(0..usize::MAX).is_err());
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let make = |dtype, shape: &[usize], range| Tensor::new(dtype, shape.to_vec(), vec![0; 64].into(), range);
        assert!(matches!(make(DType::F32, &[4, 4], 0..60), Err(ShapeError::Size { need: 64, have: 60, .. })));
        assert!(matches!(make(DType::F32, &[4, 5], 0..80), Err(ShapeError::Outside { .. })));
        assert!(matches!(make(DType::Q4_0, &[2, 16], 0..18), Err(ShapeError::Block { cols: 16, .. })));
        assert!(matches!(make(DType::F32, &[usize::MAX, 2], 0..64), Err(ShapeError::Overflow { .. })));
        #[expect(clippy::reversed_empty_ranges)]
        let backwards = make(DType::F32, &[0], 8..4);
        assert!(backwards.is_err());
        assert_eq!(make(DType::F32, &[], 4..8).expect("scalar").to_f32(), [0.0]);
        assert!(make(DType::F16, &[0, 3], 5..5).expect("empty").to_f32().is_empty());
    }
}
