//! Machines that have no AMX.

/// There is none.
#[derive(Clone, Copy, Debug)]
pub enum Amx {}

/// There are none.
pub enum Tiles {}

impl Amx {
    /// Never called.
    pub fn enter<K: crate::Kernel>(self, _: K) -> K::Output {
        match self {}
    }

    /// Never called.
    pub fn configure(self, _: usize) -> Tiles {
        match self {}
    }

    /// Never called.
    pub fn work(self, _: bool, _: u64) -> u64 {
        match self {}
    }
}

impl Tiles {
    /// # Safety
    /// Never called.
    #[allow(unsafe_code)]
    pub unsafe fn product<const SECOND: bool>(
        &self,
        _: *const i8,
        _: usize,
        _: *const [i8; 64],
        _: &mut [[i32; 16]; 16],
    ) {
        match *self {}
    }

    /// # Safety
    /// Never called.
    #[allow(unsafe_code)]
    pub unsafe fn add_bf16(&self, _: [*const u8; 2], _: [*const u8; 2], _: usize, _: &mut [[[f32; 16]; 16]; 4]) {
        match *self {}
    }
}
