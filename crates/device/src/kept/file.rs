//! A file of packed weights: what is in it, how it is written, how it is checked.
//!
//! Matrices as [`Packed`] has them, each from a cache line on; then the header in JSON; then its length and its digest,
//! little endian, 8 bytes each, and [`MAGIC`]. The header stands last because it holds the digests of all the rest,
//! which are known when that is written. A number in a file is believed only as far as it fits that file.

use crate::Keep;
use alula_kernels::{Ctx, Packed};
use alula_tensor::{DType, FORMATS, Storage};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What a file ends with; another format gets another one.
const MAGIC: [u8; 8] = *b"AlulaPk1";
/// Bytes that share a digest.
const CHUNK: usize = 1 << 20;
/// A header is not longer: 20 bytes a chunk, for the largest models there are.
const LONGEST: u64 = 64 << 20;

/// XXH3 of some bytes.
pub fn digest(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// What a file says about itself.
#[derive(Serialize, Deserialize)]
pub(super) struct Header {
    /// [`Packed::LAYOUT`].
    layout: u32,
    identity: u64,
    pub(super) name: String,
    pub(super) source: String,
    matrices: BTreeMap<String, Matrix>,
}

#[derive(Serialize, Deserialize)]
struct Matrix {
    /// Name of the element type.
    format: String,
    start: usize,
    /// Digests of its chunks.
    digests: Vec<u64>,
}

/// A packed matrix with its name.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) matrix: Arc<Packed>,
}

/// A matrix that is wanted: name, rows, columns.
pub(crate) type Wanted<'a> = (&'a str, usize, usize);

impl Header {
    /// The header of a file, if it has a sound one.
    pub(super) fn read(file: &[u8]) -> Option<Header> {
        let (rest, magic) = file.split_last_chunk()?;
        let (rest, check) = rest.split_last_chunk()?;
        let (rest, len) = rest.split_last_chunk()?;
        let len = Some(u64::from_le_bytes(*len)).filter(|len| *len <= LONGEST)?;
        let start = rest.len().checked_sub(usize::try_from(len).ok()?)?;
        let json = &rest[start..];
        let sound = *magic == MAGIC && digest(json) == u64::from_le_bytes(*check);
        sound.then(|| serde_json::from_slice(json).ok())?
    }

    /// The matrices that are wanted, if the file is of this model and layout, has all of them, and no byte of them has
    /// changed since it was written.
    pub(super) fn load(&self, ctx: Ctx<'_>, keep: &Keep, file: &Storage, wanted: &[Wanted<'_>]) -> Option<Vec<Packed>> {
        if (self.layout, self.identity) != (Packed::LAYOUT, keep.identity) {
            return None;
        }
        let (mut packed, mut chunks) = (Vec::new(), Vec::new());
        for &(name, rows, cols) in wanted {
            let m = self.matrices.get(name)?;
            let dtype = FORMATS.iter().find(|f| f.name == m.format)?.dtype;
            let p = Packed::stored(dtype, rows, cols, file, m.start)?;
            if p.bytes().div_ceil(CHUNK) != m.digests.len() {
                return None;
            }
            chunks.extend(file[m.start..][..p.bytes()].chunks(CHUNK).zip(&m.digests));
            packed.push(p);
        }
        let sound = AtomicBool::new(true);
        ctx.pool.run(chunks.len(), true, |i, _| {
            let (bytes, &want) = chunks[i];
            if sound.load(Relaxed) && digest(bytes) != want {
                sound.store(false, Relaxed);
            }
        });
        sound.into_inner().then_some(packed)
    }
}

/// Writes a file that [`Header::load`] takes.
pub(super) fn write(out: &mut File, keep: &Keep, parts: &[Part]) -> io::Result<()> {
    let (mut at, mut matrices) = (0usize, BTreeMap::new());
    for part in parts {
        let start = at.next_multiple_of(Packed::ALIGN);
        out.write_all(&[0; Packed::ALIGN][..start - at])?;
        let bytes = part.matrix.as_bytes();
        let mut digests = Vec::with_capacity(bytes.len().div_ceil(CHUNK));
        for chunk in bytes.chunks(CHUNK) {
            out.write_all(chunk)?;
            digests.push(digest(chunk));
        }
        at = start + bytes.len();
        matrices.insert(part.name.clone(), Matrix { format: part.dtype.name().to_owned(), start, digests });
    }
    let (name, source) = (keep.name.clone(), keep.source.clone());
    let header = Header { layout: Packed::LAYOUT, identity: keep.identity, name, source, matrices };
    let json = serde_json::to_vec(&header)?;
    let numbers = [json.len() as u64, digest(&json)].map(u64::to_le_bytes);
    out.write_all(&[&json, numbers.as_flattened(), &MAGIC].concat())
}
