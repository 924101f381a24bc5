//! Test support: golden files.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Named arrays that another program computed, read from a safetensors file. Panics on anything odd: it is for tests.
pub struct Golden {
    header: Value,
    data: Vec<u8>,
}

impl Golden {
    /// Reads a file.
    ///
    /// # Panics
    /// If it is not there or no safetensors file.
    pub fn open(path: impl AsRef<Path>) -> Golden {
        let path = path.as_ref();
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (len, rest) = bytes.split_first_chunk().expect("a header length");
        let (header, data) = rest.split_at(u64::from_le_bytes(*len) as usize);
        Golden { header: serde_json::from_slice(header).expect("a JSON header"), data: data.to_vec() }
    }

    /// The names of the arrays.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let names = self.header.as_object().expect("an object").keys();
        names.map(String::as_str).filter(|name| *name != "__metadata__")
    }

    /// The shape of an array.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn shape(&self, name: &str) -> Vec<usize> {
        let dims = self.header[name]["shape"].as_array().unwrap_or_else(|| panic!("no array {name}"));
        dims.iter().map(|d| d.as_u64().expect("a dimension") as usize).collect()
    }

    /// The bytes of an array.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn bytes(&self, name: &str) -> &[u8] {
        let at = |i: usize| self.header[name]["data_offsets"][i].as_u64().unwrap_or_else(|| panic!("no array {name}"));
        &self.data[at(0) as usize..at(1) as usize]
    }

    /// An array of F32.
    ///
    /// # Panics
    /// If there is none of this name and type.
    pub fn f32(&self, name: &str) -> Vec<f32> {
        assert_eq!(self.header[name]["dtype"], "F32", "{name}");
        self.bytes(name).as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// An array of I64, as token ids are often stored.
    ///
    /// # Panics
    /// If there is none of this name and type.
    pub fn i64(&self, name: &str) -> Vec<i64> {
        assert_eq!(self.header[name]["dtype"], "I64", "{name}");
        self.bytes(name).as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect()
    }
}

/// A path under the data that lies beside the workspace (`../shared`), or `None`, with a line printed, where it is
/// not there; the test then has nothing to run on.
pub fn shared(path: &str) -> Option<PathBuf> {
    let full = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared").join(path);
    if full.exists() {
        return Some(full);
    }
    println!("skipped: ../shared/{path} is not here");
    None
}

/// Whether two numbers have the same bits, any two NaNs counting as the same.
pub fn same_bits(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
}

/// Numbers that look random: xorshift of 64 bits. Its state is not 0.
pub struct Rng(pub u64);

impl Rng {
    /// The next one.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// One below `n`, or 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}
