//! What the tests share: the golden files, a GGUF built by hand, random numbers.
#![allow(dead_code, unreachable_pub)] // each test binary uses its part

use std::path::PathBuf;

pub fn data(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data")).join(name)
}

pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(data(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A folder for one test that goes when the test does.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("alula-format-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a scratch folder");
        Scratch(path)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).expect("write");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }
}

/// GGUF bytes, piece by piece.
#[derive(Clone)]
pub struct Bytes(pub Vec<u8>);

impl Bytes {
    pub fn header(version: u32, tensors: u64, keys: u64) -> Bytes {
        Bytes(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }

    pub fn u32(mut self, v: u32) -> Bytes {
        self.0.extend(v.to_le_bytes());
        self
    }

    pub fn u64(mut self, v: u64) -> Bytes {
        self.0.extend(v.to_le_bytes());
        self
    }

    pub fn str(mut self, v: impl AsRef<[u8]>) -> Bytes {
        self.0.extend((v.as_ref().len() as u64).to_le_bytes());
        self.0.extend(v.as_ref());
        self
    }

    pub fn tensor(self, name: &str, dims: &[u64], ty: u32, offset: u64) -> Bytes {
        let shaped = dims.iter().fold(self.str(name).u32(dims.len() as u32), |b, &d| b.u64(d));
        shaped.u32(ty).u64(offset)
    }

    pub fn zeros(mut self, n: usize) -> Bytes {
        self.0.resize(self.0.len() + n, 0);
        self
    }

    pub fn align(self, to: usize) -> Bytes {
        let n = self.0.len().next_multiple_of(to) - self.0.len();
        self.zeros(n)
    }
}
