//! torch tensors as slices, and new ones, through `DLPack`'s C exchange table: about 40 ns a tensor, against 1 us for
//! a capsule, and a third of what `torch.empty` takes for a new one.
//!
//! All unsafe code of the binding is here. A [`Tensor`] borrows the Python object, which keeps its memory alive while
//! the GIL is released; as with torch's own operators, nobody may resize or write an argument during the call.
#![allow(unsafe_code)]

use forebay_kernels_core::{Rows, RowsMut};
use half::{bf16, f16};
use pyo3::exceptions::{PyMemoryError, PyTypeError, PyValueError};
use pyo3::ffi::c_str;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCapsule, PyType};
use std::ffi::{CStr, c_char, c_void};
use std::fmt::{self, Display};
use std::marker::PhantomData;

const MAX_DIMS: usize = 4;
const DEVICE_CPU: i32 = 1;

/// `DLTensor` of dlpack.h.
#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *const i64,
    strides: *const i64,
    byte_offset: u64,
}

type FromPyObject = unsafe extern "C" fn(*mut c_void, *mut DlTensor) -> i32;
type SetError = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char);
/// The second argument receives a `DLManagedTensorVersioned`, which is only handed on to [`ToPyObject`].
type Allocate = unsafe extern "C" fn(*const DlTensor, *mut *mut c_void, *mut c_void, SetError) -> i32;
type ToPyObject = unsafe extern "C" fn(*mut c_void, *mut *mut c_void) -> i32;

/// `DLPackExchangeAPI` of dlpack.h, major version 1. The pointers that are not called have no type here.
#[repr(C)]
struct ExchangeTable {
    major: u32,
    minor: u32,
    previous: *const c_void,
    managed_tensor_allocator: Option<Allocate>,
    managed_tensor_from_py_object: *const c_void,
    managed_tensor_to_py_object: Option<ToPyObject>,
    dltensor_from_py_object: Option<FromPyObject>,
    current_work_stream: *const c_void,
}

/// torch's tensor class and its exchange functions, looked up once.
struct Exchange {
    tensor_type: Py<PyType>,
    from_py_object: FromPyObject,
    allocate: Allocate,
    to_py_object: ToPyObject,
}

fn exchange(py: Python<'_>) -> PyResult<&'static Exchange> {
    static EXCHANGE: PyOnceLock<Exchange> = PyOnceLock::new();
    EXCHANGE.get_or_try_init(py, || {
        let tensor_type = py.import("torch")?.getattr("Tensor")?.cast_into::<PyType>()?;
        let attribute = tensor_type.getattr("__dlpack_c_exchange_api__").map_err(|_| no_exchange())?;
        let capsule = attribute.cast_into::<PyCapsule>()?;
        let table = capsule.pointer_checked(Some(c_str!("dlpack_exchange_api")))?.cast::<ExchangeTable>();
        // SAFETY: a capsule of this name holds a `DLPackExchangeAPI` that lives as long as the process (dlpack.h).
        let table = unsafe { table.as_ref() };
        let (1, Some(from_py_object), Some(allocate), Some(to_py_object)) = (
            table.major,
            table.dltensor_from_py_object,
            table.managed_tensor_allocator,
            table.managed_tensor_to_py_object,
        ) else {
            return Err(no_exchange());
        };
        Ok(Exchange { tensor_type: tensor_type.unbind(), from_py_object, allocate, to_py_object })
    })
}

fn no_exchange() -> PyErr {
    PyTypeError::new_err(
        "this torch lacks DLPack's C exchange table (`__dlpack_c_exchange_api__`, major version 1), use torch 2.15",
    )
}

/// An element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DType {
    F32,
    F16,
    Bf16,
    I64,
    I32,
    U8,
}

impl DType {
    fn from_dlpack(code: u8, bits: u8, lanes: u16) -> Option<Self> {
        match (code, bits, lanes) {
            (2, 32, 1) => Some(Self::F32),
            (2, 16, 1) => Some(Self::F16),
            (4, 16, 1) => Some(Self::Bf16),
            (0, 64, 1) => Some(Self::I64),
            (0, 32, 1) => Some(Self::I32),
            (1, 8, 1) => Some(Self::U8),
            _ => None,
        }
    }

    /// Bytes of an element.
    fn size(self) -> usize {
        usize::from(self.to_dlpack().1) / 8
    }

    /// Code and bits.
    fn to_dlpack(self) -> (u8, u8) {
        match self {
            Self::F32 => (2, 32),
            Self::F16 => (2, 16),
            Self::Bf16 => (4, 16),
            Self::I64 => (0, 64),
            Self::I32 => (0, 32),
            Self::U8 => (1, 8),
        }
    }
}

impl Display for DType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
            Self::I64 => "int64",
            Self::I32 => "int32",
            Self::U8 => "uint8",
        })
    }
}

/// Makes an uninitialized, contiguous torch tensor on the CPU, as `torch.empty` does.
pub(crate) fn empty<'py>(py: Python<'py>, dtype: DType, shape: &[usize]) -> PyResult<Bound<'py, PyAny>> {
    let exchange = exchange(py)?;
    let mut sizes = [0; MAX_DIMS];
    for (size, wanted) in sizes.iter_mut().zip(shape) {
        *size = *wanted as i64;
    }
    let (code, bits) = dtype.to_dlpack();
    let prototype = DlTensor {
        data: std::ptr::null_mut(),
        device_type: DEVICE_CPU,
        device_id: 0,
        ndim: shape.len().min(MAX_DIMS) as i32,
        code,
        bits,
        lanes: 1,
        shape: sizes.as_ptr(),
        strides: std::ptr::null(),
        byte_offset: 0,
    };
    let mut message = String::new();
    let mut managed = std::ptr::null_mut();
    let mut object = std::ptr::null_mut();
    // SAFETY: the prototype is complete and outlives the call; `set_error` gets the message it is given; the managed
    // tensor is handed over to `to_py_object`, which returns an owned reference or sets an exception (dlpack.h).
    unsafe {
        let context = (&raw mut message).cast();
        if (exchange.allocate)(&raw const prototype, &raw mut managed, context, set_error) != 0 {
            return Err(PyMemoryError::new_err(format!("cannot allocate a tensor of shape {shape:?}: {message}")));
        }
        if (exchange.to_py_object)(managed, &raw mut object) != 0 {
            return Err(PyErr::fetch(py));
        }
        Bound::from_owned_ptr_or_err(py, object.cast())
    }
}

/// # Safety
/// `context` points to a `String`, `message` to a C string.
unsafe extern "C" fn set_error(context: *mut c_void, _kind: *const c_char, message: *const c_char) {
    // SAFETY: the caller's promise; `empty` passes its own `String`.
    unsafe { *context.cast::<String>() = CStr::from_ptr(message).to_string_lossy().into_owned() };
}

/// A Rust type that is the element of a tensor.
///
/// # Safety
/// Every bit pattern of the dtype's size is a value of the type.
pub(crate) unsafe trait Element: Copy + Send + Sync + 'static {
    const DTYPE: DType;
}

// SAFETY: plain numbers of the dtype's size, any bits are a value.
unsafe impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
// SAFETY: as above.
unsafe impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
// SAFETY: as above.
unsafe impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;
}
// SAFETY: as above.
unsafe impl Element for i64 {
    const DTYPE: DType = DType::I64;
}
// SAFETY: as above.
unsafe impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
// SAFETY: as above.
unsafe impl Element for u8 {
    const DTYPE: DType = DType::U8;
}

/// Runs the body with a type alias for a tensor's float dtype; any other dtype is refused by the tensor's name.
macro_rules! with_float {
    ($tensor:expr, $alias:ident => $body:expr) => {
        match $tensor.dtype() {
            $crate::tensors::DType::F32 => {
                type $alias = f32;
                $body
            }
            $crate::tensors::DType::F16 => {
                type $alias = half::f16;
                $body
            }
            $crate::tensors::DType::Bf16 => {
                type $alias = half::bf16;
                $body
            }
            _ => Err($tensor.unexpected_dtype("float32, float16 or bfloat16")),
        }
    };
}
pub(crate) use with_float;

/// A strided tensor in CPU memory, borrowed from a Python object.
pub(crate) struct Tensor<'a> {
    name: &'static str,
    data: *mut c_void,
    dtype: DType,
    ndim: usize,
    shape: [usize; MAX_DIMS],
    strides: [usize; MAX_DIMS],
    owner: PhantomData<&'a ()>,
}

impl<'a> Tensor<'a> {
    /// Borrows `object`, which must be a torch tensor on the CPU, of a known dtype and at most 4 dimensions.
    pub(crate) fn new(object: &'a Bound<'_, PyAny>, name: &'static str) -> PyResult<Self> {
        let py = object.py();
        let exchange = exchange(py)?;
        // SAFETY: both are type objects; a plain subtype check, torch's own `isinstance` hook is slow.
        let is_tensor = unsafe {
            pyo3::ffi::PyType_IsSubtype(object.get_type().as_type_ptr(), exchange.tensor_type.as_ptr().cast()) != 0
        };
        if !is_tensor {
            return Err(PyTypeError::new_err(format!("`{name}` is `{}`, expected torch.Tensor", object.get_type())));
        }
        let mut raw = std::mem::MaybeUninit::<DlTensor>::uninit();
        // SAFETY: the object is a torch.Tensor, whose export function this is; it fills `raw` or sets an exception.
        let raw = unsafe {
            if (exchange.from_py_object)(object.as_ptr().cast(), raw.as_mut_ptr()) != 0 {
                return Err(PyErr::fetch(py));
            }
            raw.assume_init()
        };
        Self::from_raw(&raw, name)
    }

    fn from_raw(raw: &DlTensor, name: &'static str) -> PyResult<Self> {
        if raw.device_type != DEVICE_CPU {
            return Err(PyValueError::new_err(format!("`{name}` is not in CPU memory, move it with `.cpu()`")));
        }
        let dtype = DType::from_dlpack(raw.code, raw.bits, raw.lanes).ok_or_else(|| {
            let dtype = format!("DLPack code {}, {} bits", raw.code, raw.bits);
            PyTypeError::new_err(format!("`{name}` has a dtype ({dtype}) that no kernel takes"))
        })?;
        let ndim = raw.ndim as usize;
        if ndim > MAX_DIMS {
            return Err(PyValueError::new_err(format!("`{name}` has {ndim} dimensions, expected at most {MAX_DIMS}")));
        }
        let (mut shape, mut strides) = ([1; MAX_DIMS], [1; MAX_DIMS]);
        for dim in 0..ndim {
            // SAFETY: shape and strides have `ndim` entries (dlpack.h), alive as long as the tensor.
            let (size, stride) = unsafe { (*raw.shape.add(dim), *raw.strides.add(dim)) };
            shape[dim] = size as usize;
            strides[dim] = usize::try_from(stride)
                .map_err(|_| PyValueError::new_err(format!("`{name}` has a negative stride")))?;
        }
        // SAFETY: the offset stays inside the tensor's storage (dlpack.h).
        let data = unsafe { raw.data.byte_add(raw.byte_offset as usize) };
        Ok(Self { name, data, dtype, ndim, shape, strides, owner: PhantomData })
    }

    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }

    pub(crate) fn unexpected_dtype(&self, expected: &str) -> PyErr {
        PyTypeError::new_err(format!("`{}` is {}, expected {expected}", self.name, self.dtype))
    }

    pub(crate) fn unexpected_shape(&self, expected: &str) -> PyErr {
        PyValueError::new_err(format!("`{}` has shape {self}, expected {expected}", self.name))
    }

    /// The sizes of all dimensions.
    pub(crate) fn sizes(&self) -> &[usize] {
        &self.shape[..self.ndim]
    }

    /// The sizes, if the tensor has N dimensions.
    pub(crate) fn shape<const N: usize>(&self) -> PyResult<[usize; N]> {
        if self.ndim != N {
            return Err(self.unexpected_shape(&format!("{N} dimensions")));
        }
        Ok(std::array::from_fn(|dim| self.shape[dim]))
    }

    /// Refuses any other shape.
    pub(crate) fn expect_shape<const N: usize>(&self, expected: [usize; N]) -> PyResult<()> {
        if self.shape::<N>()? != expected {
            return Err(self.unexpected_shape(&format!("{expected:?}")));
        }
        Ok(())
    }

    /// The elements of a contiguous tensor.
    pub(crate) fn slice<T: Element>(&self) -> PyResult<&'a [T]> {
        self.expect_contiguous_from(0)?;
        // SAFETY: `span` has checked type and alignment; contiguous, so that many elements lie there.
        Ok(unsafe { std::slice::from_raw_parts(self.span()?, self.num_elements()) })
    }

    /// The elements of a contiguous tensor, to write. None of `others` may overlap it.
    pub(crate) fn slice_mut<T: Element>(&self, others: &[&Tensor<'_>]) -> PyResult<&'a mut [T]> {
        self.expect_contiguous_from(0)?;
        others.iter().try_for_each(|other| self.refuse_shared_memory(other))?;
        // SAFETY: as in `slice`; no overlap with the call's other tensors, and Python code must not touch an output
        // during the call (see the module's comment).
        Ok(unsafe { std::slice::from_raw_parts_mut(self.span()?, self.num_elements()) })
    }

    /// The tensor as rows along the first dimension: the others must be contiguous, the first may have any stride.
    pub(crate) fn rows<T: Element>(&self) -> PyResult<Rows<'a, T>> {
        self.expect_contiguous_from(1)?;
        let row_length = self.shape[1..self.ndim].iter().product();
        let num_rows = if row_length == 0 { 0 } else { self.shape[0] };
        let row_stride = if num_rows > 1 { self.strides[0] } else { row_length };
        let length = num_rows.checked_sub(1).map_or(0, |last| last * row_stride + row_length);
        // SAFETY: `span` has checked type and alignment; the last row ends `length` elements from the first.
        let data = unsafe { std::slice::from_raw_parts(self.span()?, length) };
        Rows::new(data, num_rows, row_length, row_stride).map_err(crate::invalid)
    }

    /// The tensor as rows to write. `neighbours` may lie between the rows (parts of one fused projection), none of
    /// `others` may overlap the tensor at all.
    pub(crate) fn rows_mut<T: Element>(
        &self,
        neighbours: &[&Tensor<'_>],
        others: &[&Tensor<'_>],
    ) -> PyResult<RowsMut<'a, T>> {
        self.expect_contiguous_from(1)?;
        let row_length: usize = self.shape[1..self.ndim].iter().product();
        let row_stride = if self.shape[0] > 1 { self.strides[0] } else { row_length };
        if row_stride < row_length {
            return Err(PyValueError::new_err(format!("`{}` has rows that overlap, pass a copy", self.name)));
        }
        others.iter().try_for_each(|other| self.refuse_shared_memory(other))?;
        for neighbour in neighbours.iter().filter(|neighbour| !self.lies_beside(neighbour)) {
            self.refuse_shared_memory(neighbour)?;
        }
        // SAFETY: `span` has checked type and alignment; the rows do not overlap each other nor, as checked, the
        // call's other tensors, which Python code must not touch during the call (see the module's comment).
        Ok(unsafe { RowsMut::from_raw(self.span()?, self.shape[0], row_length, row_stride) })
    }

    /// Whether the two are different columns of one matrix.
    fn lies_beside(&self, other: &Tensor<'_>) -> bool {
        let size = self.dtype.size();
        let row_bytes = |tensor: &Tensor<'_>| tensor.shape[1..tensor.ndim].iter().product::<usize>() * size;
        let stride = self.strides[0] * size;
        if self.dtype != other.dtype || self.strides[0] != other.strides[0] || stride == 0 {
            return false;
        }
        let distance = (other.data as isize - self.data as isize).rem_euclid(stride as isize) as usize;
        row_bytes(self) <= distance && distance + row_bytes(other) <= stride
    }

    fn refuse_shared_memory(&self, other: &Tensor<'_>) -> PyResult<()> {
        let (mine, theirs) = (self.byte_range(), other.byte_range());
        if mine.0 < theirs.1 && theirs.0 < mine.1 {
            let message = format!("`{}` and `{}` share memory, pass a tensor of its own", self.name, other.name);
            return Err(PyValueError::new_err(message));
        }
        Ok(())
    }

    fn num_elements(&self) -> usize {
        self.shape[..self.ndim].iter().product()
    }

    /// The first element, for slices of T: checks dtype and alignment. Dangling (never null) when there is none.
    fn span<T: Element>(&self) -> PyResult<*mut T> {
        if self.dtype != T::DTYPE {
            return Err(self.unexpected_dtype(&T::DTYPE.to_string()));
        }
        if self.num_elements() == 0 || self.data.is_null() {
            return Ok(std::ptr::NonNull::dangling().as_ptr());
        }
        let data = self.data.cast::<T>();
        if !data.is_aligned() {
            return Err(PyValueError::new_err(format!("`{}` is not aligned to its elements", self.name)));
        }
        Ok(data)
    }

    fn expect_contiguous_from(&self, first_dim: usize) -> PyResult<()> {
        let mut expected = 1;
        for dim in (first_dim..self.ndim).rev() {
            if self.shape[dim] != 1 && self.strides[dim] != expected {
                let message = format!(
                    "`{}` of shape {self} has strides {:?}, expected contiguous from dimension {first_dim}; call `.contiguous()`",
                    self.name,
                    &self.strides[..self.ndim]
                );
                return Err(PyValueError::new_err(message));
            }
            expected *= self.shape[dim].max(1);
        }
        Ok(())
    }

    fn byte_range(&self) -> (usize, usize) {
        let start = self.data as usize;
        if self.num_elements() == 0 {
            return (start, start);
        }
        let last: usize = (0..self.ndim).map(|dim| (self.shape[dim] - 1) * self.strides[dim]).sum();
        (start, start + (last + 1) * self.dtype.size())
    }
}

/// Refuses tensors to write that share memory with each other or with ones to read; the latter may share theirs.
pub(crate) fn refuse_overlaps<'t, 'a: 't>(
    written: impl Iterator<Item = &'t Tensor<'a>>,
    read: impl Iterator<Item = &'t Tensor<'a>>,
) -> PyResult<()> {
    let mut all: Vec<(&Tensor<'_>, bool)> =
        written.map(|tensor| (tensor, true)).chain(read.map(|tensor| (tensor, false))).collect();
    all.sort_unstable_by_key(|(tensor, _)| tensor.byte_range().0);
    // Those that reach furthest of what begins before: of all, and of the ones to write.
    let (mut furthest, mut furthest_written): (Option<&Tensor<'_>>, Option<&Tensor<'_>>) = (None, None);
    for (tensor, is_written) in all {
        if let Some(before) = if is_written { furthest } else { furthest_written } {
            tensor.refuse_shared_memory(before)?;
        }
        for (last, counts) in [(&mut furthest, true), (&mut furthest_written, is_written)] {
            if counts && last.is_none_or(|last| last.byte_range().1 < tensor.byte_range().1) {
                *last = Some(tensor);
            }
        }
    }
    Ok(())
}

impl Display for Tensor<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}", self.sizes())
    }
}
