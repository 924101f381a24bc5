//! Mutated, truncated and oversized files: each opens or gives an error that names its file; none panics, and memory
//! stays under twice the file plus 64 MB.
//!
//! `ALULA_MUTATIONS=20000` raises the number of mutants of each file from 2,000 (a tenth of it through the disk).

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use alula_format::gguf::{Array, Gguf, Value};
use alula_format::hf::{Folder, parse_config};
use alula_format::safetensors::{SafeTensors, shards};
use alula_format::{Error, TensorInfo};
use common::{Bytes, Rng, Scratch, read};

/// Counts live and peak bytes of the whole process.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counters do not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters belong to one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

/// Runs `f` and gives the most bytes that it held at once beyond those before.
fn peak<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let result = f();
    (result, PEAK.load(Relaxed).saturating_sub(before))
}

/// The contract, less the file's own pages.
fn bound(file: usize) -> usize {
    file + (64 << 20)
}

fn count() -> usize {
    std::env::var("ALULA_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(2000)
}

/// Numbers that parsers trip over.
const ODD: [u64; 12] = [0, 1, 2, 7, 31, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 40, i64::MAX as u64, u64::MAX];

/// A copy of `seed` with one to three changes, most of them in the first `head` bytes.
fn mutant(rng: &mut Rng, seed: &[u8], head: usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=rng.below(3) {
        if bytes.is_empty() {
            break;
        }
        let near = if rng.below(8) == 0 { bytes.len() } else { head.min(bytes.len()) };
        let at = rng.below(near);
        match rng.below(8) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = rng.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let odd = ODD[rng.below(ODD.len())].to_le_bytes();
                let n = [1, 2, 4, 8][rng.below(4)].min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&odd[..n]);
            }
            4 => drop(bytes.drain(at..(at + 1 + rng.below(9)).min(near))),
            5 => {
                let from = rng.below(bytes.len());
                let piece = bytes[from..(from + 1 + rng.below(32)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => bytes[at] = bytes[at].wrapping_add(1),
            _ => {
                let piece: &[u8] = [
                    &b"{"[..],
                    b"[",
                    b"\"",
                    b"}",
                    b",",
                    b"-",
                    b"9999999999999999999",
                    b"1e400",
                    b"\xff",
                    b"\\u",
                    b"null",
                    b"NaN",
                ][rng.below(12)];
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
    bytes
}

/// An error must name the file and say something of one sentence.
fn proper(e: &Error, file: &str) {
    assert!(e.file().contains(file), "{e:?}");
    let text = e.to_string();
    assert!(text.len() < 2000 && text.contains("; ") && !text.contains('\n'), "{text}");
}

/// Reads everything an open GGUF offers.
fn use_gguf(g: &Gguf) -> usize {
    let mut seen = 0;
    for (key, value) in g.metadata.iter() {
        seen += key.len() + value.to_string().len();
        if let Value::Array(array) = value {
            seen += walk(&array) + array.strs().map_or(0, |s| s.iter().map(str::len).sum());
        }
    }
    let _ = (g.metadata.i32s("tokenizer.ggml.token_type"), g.metadata.u32("llama.block_count"));
    seen + use_tensors(g.tensors(), |name| g.tensor(name))
}

fn walk(array: &Array<'_>) -> usize {
    let values = (0..array.len()).map(|i| match array.get(i) {
        Some(Value::Array(inner)) => walk(&inner),
        Some(value) => value.to_string().len(),
        None => array.bytes(i).map_or(0, <[u8]>::len),
    });
    values.sum()
}

fn use_tensors<'a>(
    infos: impl Iterator<Item = &'a TensorInfo>,
    tensor: impl Fn(&str) -> Result<alula_tensor::Tensor, Error>,
) -> usize {
    infos.map(|info| tensor(info.name()).map_or_else(|e| e.to_string().len(), |t| t.to_f32().len())).sum()
}

/// Opens mutants of `seed` and uses what opens; gives how many opened.
fn mutate<T>(
    name: &str,
    seed: &[u8],
    head: usize,
    n: usize,
    open: impl Fn(Vec<u8>) -> Result<T, Error>,
    used: impl Fn(&T) -> usize,
) {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    assert!(open(seed.to_vec()).is_ok(), "{name}: the original must open");
    let (mut rng, mut opened) = (Rng(0x1234_5678_9abc_def1), 0);
    for _ in 0..n {
        let bytes = mutant(&mut rng, seed, head);
        let len = bytes.len();
        let (result, held) = peak(|| open(bytes));
        assert!(held <= bound(len), "{name}: {held} bytes held for a file of {len}");
        match result {
            Ok(file) => {
                std::hint::black_box(used(&file));
                opened += 1;
            }
            Err(e) => proper(&e, name),
        }
    }
    println!("{name}: {n} mutants, {opened} opened");
    assert!(opened > n / 200 && opened < n, "{name}: {opened} of {n} opened, so the mutations miss the parser");
}

#[test]
fn gguf_mutants() {
    let seed = read("all.gguf");
    mutate("all.gguf", &seed, 2600, count(), |b| Gguf::from_bytes(b, "all.gguf"), use_gguf);
}

#[test]
fn safetensors_mutants() {
    let seed = read("hf/model-00002-of-00002.safetensors");
    let used = |t: &SafeTensors| use_tensors(t.tensors(), |name| t.tensor(name));
    mutate("m.safetensors", &seed, seed.len(), count(), |b| SafeTensors::from_bytes(b, "m.safetensors"), used);
}

#[test]
fn config_mutants() {
    let used = |v: &serde_json::Value| v.to_string().len();
    for file in ["config.json", "tokenizer_config.json"] {
        let seed = read(&format!("hf/{file}"));
        mutate(file, &seed, seed.len(), count(), |b| parse_config(&b, file), used);
    }
}

#[test]
fn index_mutants() {
    let seed = read("hf/model.safetensors.index.json");
    mutate("i.json", &seed, seed.len(), count(), |b| shards(&b, "i.json"), Vec::len);
}

/// Mutants of one file in a folder of whole ones, through the disk.
#[test]
fn folder_mutants() {
    let scratch = Scratch::new("mutants");
    for entry in std::fs::read_dir(common::data("hf")).expect("folder").flatten() {
        std::fs::copy(entry.path(), scratch.0.join(entry.file_name())).expect("copy");
    }
    for file in ["config.json", "tokenizer_config.json", "model.safetensors.index.json"] {
        let seed = read(&format!("hf/{file}"));
        let open = |bytes: Vec<u8>| {
            scratch.write(file, &bytes);
            let folder = Folder::open(&scratch.0)?;
            folder.config()?;
            Ok((folder.tensors()?, folder))
        };
        let used = |(tensors, folder): &(SafeTensors, Folder)| {
            use_tensors(tensors.tensors(), |name| tensors.tensor(name)) + folder.chat_template().map_or(0, str::len)
        };
        mutate(&scratch.0.display().to_string(), &seed, seed.len(), count() / 10, open, used);
        scratch.write(file, seed);
    }
}

/// Every truncation of a file is refused, or holds no tensor's bytes.
#[test]
fn every_truncation_is_refused() {
    let (gguf, st) = (read("all.gguf"), read("hf/model-00001-of-00002.safetensors"));
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let end = Gguf::from_bytes(gguf.clone(), "all.gguf")
        .expect("opens")
        .tensors()
        .filter_map(TensorInfo::range)
        .map(|r| r.end)
        .max();
    for len in 0..end.expect("tensors") {
        proper(&Gguf::from_bytes(gguf[..len].to_vec(), "all.gguf").expect_err("cut"), "all.gguf");
    }
    for len in 0..st.len() {
        proper(&SafeTensors::from_bytes(st[..len].to_vec(), "m.safetensors").expect_err("cut"), "m.safetensors");
    }
}

/// The files that cost a parser most: as many of the smallest things as the format packs in.
#[test]
fn dense_files_stay_within_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let check = |what: &str, file: usize, held: usize, result: Result<(), Error>| {
        let verdict = result.map_or_else(|e| e.to_string(), |()| "opens".into());
        println!("{what}: {} MB file, {} MB held: {verdict}", file >> 20, held >> 20);
        assert!(held <= bound(file), "{what}: {held} bytes held for a file of {file}");
    };
    let gguf = |what: &str, bytes: Bytes| {
        let (len, storage) = (bytes.0.len(), alula_tensor::Storage::from(bytes.0));
        let (result, held) = peak(|| Gguf::from_bytes(storage, "m.gguf"));
        check(what, len, held, result.map(drop));
    };
    let n = 1u64 << 18;
    gguf(
        "tensors",
        (0..n)
            .fold(Bytes::header(3, n, 0), |b, i| b.tensor(&format!("{i:x}"), &[1, 1, 1, 1], 24, i * 32))
            .align(32)
            .zeros(32 << 18),
    );
    gguf("more tensors", (0..=n).fold(Bytes::header(3, n + 1, 0), |b, i| b.tensor(&format!("{i:x}"), &[], 99, 0)));
    gguf(
        "keys",
        (0..1 << 16).fold(Bytes::header(3, 0, 1 << 16), |b, i| b.str(format!("{i:x}")).u32(9).u32(8).u64(1).str("")),
    );
    gguf("strings", Bytes::header(3, 0, 1).str("k").u32(9).u32(8).u64(1 << 22).zeros(8 << 22));
    gguf(
        "arrays",
        (0..1 << 20).fold(Bytes::header(3, 0, 1).str("k").u32(9).u32(9).u64(1 << 20), |b, _| b.u32(0).u64(0)),
    );
    gguf("one long key", Bytes::header(3, 0, 1).str(vec![b'k'; 32 << 20]).u32(0).zeros(8));

    let safetensors = |what: &str, header: String| {
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        let (len, storage) = (bytes.len(), alula_tensor::Storage::from(bytes));
        let (result, held) = peak(|| SafeTensors::from_bytes(storage, "m.safetensors"));
        check(what, len, held, result.map(drop));
    };
    let entries = |n: u32, entry: &str| (0..n).map(|i| format!("\"{i:x}\":{entry}")).collect::<Vec<_>>().join(",");
    let empty = "{\"dtype\":\"?\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[0,0]}";
    safetensors("entries", format!("{{{}}}", entries(1 << 18, empty)));
    safetensors("more entries", format!("{{{}}}", entries((1 << 18) + 1, empty)));
    safetensors("dimensions", format!("{{\"x\":{{\"shape\":[{}0]}}}}", "0,".repeat(8 << 20)));
    safetensors("metadata", format!("{{\"__metadata__\":{{{}}}}}", entries(1 << 20, "\"\"")));
    safetensors("brackets", format!("{{\"x\":{}", "[".repeat(8 << 20)));

    let scratch = Scratch::new("dense");
    let json = |what: &str, text: String, open: &dyn Fn(&Path) -> Result<(), Error>| {
        let path = scratch.write("f.json", &text);
        let len = text.len();
        drop(text);
        let (result, held) = peak(|| open(&path));
        // JSON files are read, not mapped, so the text is among what is held: twice the file in all.
        check(what, 2 * len, held, result);
    };
    let index = |path: &Path| SafeTensors::open(path).map(drop);
    json("index, one shard", format!("{{\"weight_map\":{{{}}}}}", entries(1 << 18, "\"s\"")), &index);
    let shards: Vec<String> = (0..1 << 18).map(|i| format!("\"{i:x}\":\"{i:x}\"")).collect();
    json("index, a shard each", format!("{{\"weight_map\":{{{}}}}}", shards.join(",")), &index);
    let config = |path: &Path| parse_config(&std::fs::read(path).expect("read"), "f.json").map(drop);
    json("config, entries", format!("{{{}}}", entries((1 << 17) - 2, "0")), &config);
    json("config, items", format!("{{\"a\":[{}0]}}", "0,".repeat((1 << 17) - 4)), &config);
    json("config, objects", format!("{{\"a\":[{}0]}}", "{},".repeat((1 << 16) - 4)), &config);
    json("config, nested objects", format!("{{\"a\":[{}0]}}", "{\"\":0},".repeat((1 << 16) - 4)), &config);
    json("config, too many", format!("{{\"a\":[{}0]}}", "0,".repeat(1 << 20)), &config);
    json("config, floats", format!("{{\"a\":[{}0]}}", "NaN,".repeat((1 << 17) - 4)), &config);
}
