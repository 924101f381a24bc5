//! Machines that have neither AMX nor AVX512_BF16: there is no token, so nothing here is ever called.

use crate::Kernel;

/// There is none.
#[derive(Clone, Copy, Debug)]
pub enum Amx {}

/// There is none.
#[derive(Clone, Copy, Debug)]
pub enum Dots {}

/// There are none.
pub struct Tiles(());

impl Amx {
    /// Never called.
    pub fn enter<K: Kernel>(self, _: K) -> K::Output {
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

#[allow(unsafe_code)]
impl Dots {
    /// Never called.
    pub fn enter<K: Kernel>(self, _: K) -> K::Output {
        match self {}
    }

    /// Never called.
    pub fn work(self, _: u64) -> u64 {
        match self {}
    }

    /// # Safety
    /// Never called.
    pub unsafe fn add(self, _: [*const u8; 2], _: [*const u8; 2], _: usize, _: &mut [[[f32; 16]; 16]; 4]) {
        match self {}
    }
}

#[allow(unsafe_code)]
impl Tiles {
    /// # Safety
    /// Never called.
    pub unsafe fn product<const SECOND: bool>(&self, _: *const i8, _: usize, _: *const [i8; 64], _: *mut [i32; 16]) {
        unreachable!("there are no tiles without AMX")
    }

    /// # Safety
    /// Never called.
    pub unsafe fn add_bf16(&self, _: [*const u8; 2], _: [*const u8; 2], _: usize, _: &mut [[[f32; 16]; 16]; 4]) {
        unreachable!("there are no tiles without AMX")
    }
}
