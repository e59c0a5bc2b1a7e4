//! Arrays of a batch: aligned memory with a dtype and a shape, shared without a copy, and recycled.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::buffer::{Buffer, MutableBuffer};
use arrow::datatypes::{ArrowNativeType, ArrowPrimitiveType, DataType};
use arrow::downcast_primitive_array;

/// Element types that numpy and torch share with Arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// One byte, 0 or 1.
    Bool,
    /// 8-bit signed.
    I8,
    /// 8-bit unsigned.
    U8,
    /// 16-bit signed.
    I16,
    /// 16-bit unsigned.
    U16,
    /// 32-bit signed.
    I32,
    /// 32-bit unsigned.
    U32,
    /// 64-bit signed.
    I64,
    /// 64-bit unsigned.
    U64,
    /// IEEE binary16.
    F16,
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
}

impl Dtype {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// The dtype whose bits an Arrow column of `data_type` holds; dates and timestamps are their integers.
    pub fn of(data_type: &DataType) -> Option<Self> {
        Some(match data_type {
            DataType::Boolean => Self::Bool,
            DataType::Int8 => Self::I8,
            DataType::UInt8 => Self::U8,
            DataType::Int16 => Self::I16,
            DataType::UInt16 => Self::U16,
            DataType::Int32 | DataType::Date32 | DataType::Time32(_) => Self::I32,
            DataType::UInt32 => Self::U32,
            DataType::Int64
            | DataType::Date64
            | DataType::Time64(_)
            | DataType::Timestamp(_, _)
            | DataType::Duration(_) => Self::I64,
            DataType::UInt64 => Self::U64,
            DataType::Float16 => Self::F16,
            DataType::Float32 => Self::F32,
            DataType::Float64 => Self::F64,
            _ => return None,
        })
    }
}

/// Memory of finished batches, kept for the next ones: fresh pages cost more than filling them.
#[derive(Debug)]
pub struct SlabPool {
    free: Mutex<Vec<MutableBuffer>>,
    slabs_max: usize,
}

impl SlabPool {
    /// A pool that keeps at most `slabs_max` free buffers.
    pub fn new(slabs_max: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Mutex::new(Vec::new()),
            slabs_max,
        })
    }

    /// A buffer of exactly `bytes` bytes with unspecified contents: the caller overwrites all of them.
    pub fn take(&self, bytes: usize) -> MutableBuffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fit = free
            .iter()
            .position(|b| b.capacity() >= bytes && b.capacity() <= bytes.saturating_mul(2) + 4096);
        match fit.map(|at| free.swap_remove(at)) {
            Some(mut slab) => {
                drop(free);
                slab.resize(bytes, 0);
                slab
            }
            None => MutableBuffer::from_len_zeroed(bytes),
        }
    }

    fn give(&self, slab: MutableBuffer) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() >= self.slabs_max {
            free.remove(0);
        }
        free.push(slab);
    }
}

/// A contiguous array in C order, shared by the batch and by every Python view over it.
#[derive(Debug)]
pub struct Values {
    dtype: Dtype,
    shape: Box<[isize]>,
    strides: Box<[isize]>,
    data: Buffer,
    pool: Option<Arc<SlabPool>>,
}

impl Values {
    /// Takes ownership of freshly filled memory; it goes back to `pool` when the last view over it is gone.
    pub fn filled(dtype: Dtype, shape: &[usize], slab: MutableBuffer, pool: &Arc<SlabPool>) -> Arc<Self> {
        Self::new(dtype, shape, slab.into(), Some(pool.clone()))
    }

    /// Wraps memory that nothing else writes to.
    pub fn new(dtype: Dtype, shape: &[usize], data: Buffer, pool: Option<Arc<SlabPool>>) -> Arc<Self> {
        assert_eq!(
            shape.iter().product::<usize>() * dtype.bytes(),
            data.len(),
            "a shape covers its memory"
        );
        let mut stride = dtype.bytes() as isize;
        let mut strides = vec![0isize; shape.len()];
        for (axis, extent) in shape.iter().enumerate().rev() {
            strides[axis] = stride;
            stride *= *extent as isize;
        }
        let shape = shape.iter().map(|&n| n as isize).collect();
        Arc::new(Self {
            dtype,
            shape,
            strides: strides.into(),
            data,
            pool,
        })
    }

    /// A one-dimensional array of `items`.
    pub fn of_vec<T: ArrowNativeType>(dtype: Dtype, items: Vec<T>) -> Arc<Self> {
        let rows = items.len();
        Self::new(dtype, &[rows], Buffer::from_vec(items), None)
    }

    /// The values of a primitive or boolean column, `None` for any other type.
    ///
    /// Primitive values are shared, not copied; booleans are widened to one byte each. Values under nulls are
    /// unspecified.
    pub fn of_array(array: &ArrayRef) -> Option<Arc<Self>> {
        fn shared<T: ArrowPrimitiveType>(array: &PrimitiveArray<T>) -> Buffer {
            array
                .values()
                .inner()
                .slice_with_length(0, array.len() * size_of::<T::Native>())
        }
        let dtype = Dtype::of(array.data_type())?;
        if let Some(flags) = array.as_boolean_opt() {
            let bytes: Vec<u8> = flags.values().iter().map(u8::from).collect();
            return Some(Self::of_vec(dtype, bytes));
        }
        let array = array.as_ref();
        let data = downcast_primitive_array!(
            array => shared(array),
            _ => return None
        );
        let rows = array.len();
        Some(Self::new(dtype, &[rows], data, None))
    }

    /// Bytes that the array holds.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// The element type.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Elements along each axis, and bytes from one to the next, as the buffer protocol wants them.
    #[must_use]
    pub fn extents(&self) -> (&[isize], &[isize]) {
        (&self.shape, &self.strides)
    }

    /// Elements along each axis.
    pub fn shape(&self) -> Vec<usize> {
        self.shape.iter().map(|&n| n as usize).collect()
    }

    /// The memory, shared.
    pub fn buffer(&self) -> &Buffer {
        &self.data
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool
            && let Ok(slab) = std::mem::take(&mut self.data).into_mutable()
        {
            pool.give(slab);
        }
    }
}
