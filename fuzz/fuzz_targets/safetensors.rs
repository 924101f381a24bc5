//! Any bytes as a safetensors file and as a shard index: neither must panic.
#![no_main]

use alula_format::safetensors::{SafeTensors, shards};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = shards(data, "fuzz.index.json");
    let Ok(t) = SafeTensors::from_bytes(data.to_vec(), "fuzz.safetensors") else { return };
    for info in t.tensors() {
        let _ = t.tensor(info.name()).map(|t| t.to_f32());
    }
});
