//! Zeroed memory on cache-line boundaries.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};

/// Where a buffer starts: a cache line.
const ALIGN: usize = 64;

/// Bytes aligned to 64, zero at first. The operating system gives the pages of a large one when they are first touched.
#[derive(Debug)]
pub struct Buf {
    /// First aligned byte of `block`.
    ptr: *mut u8,
    len: usize,
    block: *mut u8,
}

// SAFETY: `Buf` owns its memory alone, like a `Box<[u8]>`.
unsafe impl Send for Buf {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for Buf {}

impl Buf {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// If there is not so much memory.
    pub fn zeroed(len: usize) -> Buf {
        Buf::try_zeroed(len).unwrap_or_else(|| panic!("no memory for a buffer of {len} bytes"))
    }

    /// `len` zero bytes; `None` where there is not so much memory.
    pub fn try_zeroed(len: usize) -> Option<Buf> {
        // SAFETY: the layout's size is not 0.
        let block = unsafe { alloc_zeroed(Buf::layout(len)?) };
        if block.is_null() {
            return None;
        }
        // SAFETY: the block has `ALIGN` bytes more than `len`, so the offset is inside it.
        let ptr = unsafe { block.add(block.addr().next_multiple_of(ALIGN) - block.addr()) };
        Some(Buf { ptr, len, block })
    }

    /// The block that `len` bytes lie in. It is not asked to be aligned, as the system's allocator then writes every
    /// byte of it.
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_add(ALIGN)?, 1).ok()
    }

    /// The same memory as floats.
    pub fn floats(&self) -> &[f32] {
        // SAFETY: aligned to 64, initialised, every bit pattern is a float; a shorter tail is left out.
        unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.len / 4) }
    }

    /// The same memory as floats.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `floats`; the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.cast(), self.len / 4) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        if let Some(layout) = Buf::layout(self.len) {
            // SAFETY: allocated in `try_zeroed` with this layout.
            unsafe { dealloc(self.block, layout) }
        }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `len` bytes, initialised (zeroed), and borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.ptr, self.len) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.len) }
    }
}

/// `n` default values; `None` where there is not so much memory.
pub fn zeros<T: Clone + Default>(n: usize) -> Option<Vec<T>> {
    let mut v = Vec::new();
    v.try_reserve_exact(n).ok()?;
    v.resize(n, T::default());
    Some(v)
}

/// A slice that several threads write, each to its own part.
pub(crate) struct Shared<T> {
    ptr: *mut T,
    len: usize,
}

// SAFETY: only a pointer and a length; `part` states what callers owe.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(s: &mut [T]) -> Self {
        Shared { ptr: s.as_mut_ptr(), len: s.len() }
    }

    /// A part of it, to be shared like the whole.
    ///
    /// # Panics
    /// If it is not inside.
    pub(crate) fn slice(&self, start: usize, len: usize) -> Self {
        assert!(start <= self.len && len <= self.len - start);
        Shared { ptr: self.ptr.wrapping_add(start), len }
    }

    /// Where element `i` would be.
    pub(crate) fn at(&self, i: usize) -> *const T {
        self.ptr.wrapping_add(i)
    }

    /// # Safety
    /// The slice given to `new` is still borrowed, and nobody writes this part while it is read.
    pub(crate) unsafe fn get(&self, start: usize, len: usize) -> &[T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: within bounds by the assertion; not written by the contract.
        unsafe { std::slice::from_raw_parts(self.ptr.add(start), len) }
    }

    /// # Safety
    /// The slice given to `new` is still borrowed, and no two live parts overlap.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts of a slice, as the contract says")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: within bounds by the assertion; disjoint by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}
