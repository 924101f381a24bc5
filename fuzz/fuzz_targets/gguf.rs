//! Any bytes as a GGUF file: opening and reading everything must not panic.
#![no_main]

use alula_format::gguf::{Array, Gguf, Value};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(g) = Gguf::from_bytes(data.to_vec(), "fuzz.gguf") else { return };
    for (key, value) in g.metadata.iter() {
        let _ = (g.metadata.u32(key), g.metadata.i32s(key), g.metadata.strs(key).map(|s| s.iter().count()));
        if let Value::Array(array) = value {
            walk(&array);
        }
    }
    for info in g.tensors() {
        let _ = g.tensor(info.name()).map(|t| t.to_f32());
    }
});

fn walk(array: &Array<'_>) {
    for i in 0..array.len() {
        if let Some(Value::Array(inner)) = array.get(i) {
            walk(&inner);
        }
    }
}
