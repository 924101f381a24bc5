//! Zeroed memory on cache-line boundaries.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};

/// Bytes aligned to 64, zero at first. The operating system gives the pages when they are first touched.
#[derive(Debug)]
pub struct Buf {
    ptr: *mut u8,
    layout: Layout,
}

// SAFETY: `Buf` owns its memory alone, like a `Box<[u8]>`.
unsafe impl Send for Buf {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for Buf {}

impl Buf {
    /// `len` zero bytes.
    ///
    /// # Panics
    /// If `len` is over `isize::MAX - 63`; aborts as `Vec` does when memory runs out.
    pub fn zeroed(len: usize) -> Buf {
        let layout = Layout::from_size_align(len.max(1), 64).expect("buffer size");
        // SAFETY: the layout's size is not 0.
        let ptr = unsafe { alloc_zeroed(layout) };
        if ptr.is_null() {
            handle_alloc_error(layout);
        }
        Buf { ptr, layout }
    }
}

impl Buf {
    /// The same memory as floats.
    pub fn floats(&self) -> &[f32] {
        // SAFETY: aligned to 64, initialised, every bit pattern is a float; a shorter tail is left out.
        unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.layout.size() / 4) }
    }

    /// The same memory as floats.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `floats`; the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.cast(), self.layout.size() / 4) }
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        // SAFETY: allocated in `zeroed` with this layout.
        unsafe { dealloc(self.ptr, self.layout) }
    }
}

impl Deref for Buf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for the layout's size, initialised (zeroed), and borrowed with `self`.
        unsafe { std::slice::from_raw_parts(self.ptr, self.layout.size()) }
    }
}

impl DerefMut for Buf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, self.layout.size()) }
    }
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

    /// # Safety
    /// The slice given to `new` is still borrowed, and no two live parts overlap.
    #[expect(clippy::mut_from_ref, reason = "disjoint parts of a slice, as the contract says")]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: within bounds by the assertion; disjoint by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }
}
