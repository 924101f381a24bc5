//! What a model needs when it runs, worked out without loading it.
//!
//! The device itself is asked: it is given a strip of each kind of matrix and says what it makes of it.

use crate::Fail;
use alula_device::{CacheType, Cpu, CpuDevice, Device, Limits, Memory, PAGE, Scratch};
use alula_engine::local::{LoadOptions, Package};
use alula_graph::{Graph, Index, Op, WeightSource, plan_arena};
use alula_model::Files;
use alula_tensor::{DType, Storage, Tensor};
use std::collections::HashMap;

/// Rows of a strip: what the device packs together.
const STRIP: usize = 16;

/// A strip of zeros.
struct Zeros(DType);

impl WeightSource for Zeros {
    fn tensor(&self, name: &str) -> Result<Tensor, String> {
        let (dtype, shape) = match name.split_once(' ').map(|(r, c)| (r.parse(), c.parse())) {
            Some((Ok(1), Ok(cols))) => (DType::F32, vec![1, cols]),
            Some((Ok(rows), Ok(cols))) => (self.0, vec![rows, cols]),
            _ => return Err("no such weight".to_owned()),
        };
        let bytes = Tensor::bytes_of(dtype, &shape).map_err(|e| e.to_string())?;
        Tensor::new(dtype, shape, Storage::from(vec![0; bytes]), 0..bytes).map_err(|e| e.to_string())
    }
}

/// What the device makes of a `[16, cols]` matrix, and of so many cache pages and slots of the model.
fn strip(
    device: &CpuDevice,
    model: &Graph,
    (dtype, cols): (DType, usize),
    (pages, slots): (usize, usize),
) -> Result<Memory, Fail> {
    let mut g = Graph::new();
    model.states().iter().for_each(|s| _ = g.state(*s));
    let table = g.weight(format!("1 {cols}"), &[1, cols]);
    let matrix = g.weight(format!("{STRIP} {cols}"), &[STRIP, cols]);
    let x = g.push("x", Op::Embed(Index::Tokens), &[], &[table])?;
    g.push("y", Op::MatMul, &[x], &[matrix])?;
    let limits = Limits { tokens: 1, outputs: 1, context: 1, pages, slots, cache: CacheType::F16 };
    Ok(device.compile(&g, &Zeros(dtype), limits, None, &mut |_, _| {})?.memory())
}

/// Bytes at a context length, with a half-precision cache: weights and cache as the device says, work memory about.
///
/// # Errors
/// A tensor's type is not one that Alula computes with.
pub(super) fn estimate(package: &Package, context: usize) -> Result<Memory, Fail> {
    let threads = alula_device::threads();
    let device = CpuDevice::new(Cpu::from_env()?, 1);
    let graph = package.model.graph();
    let (mut memory, mut seen, mut strips, mut widest) = (Memory::default(), Vec::new(), HashMap::new(), 0);
    for node in graph.nodes().iter().filter(|n| !matches!(n.op, Op::Embed(_))) {
        for (i, w) in node.weights.iter().enumerate() {
            if seen.contains(&w.0) {
                continue;
            }
            seen.push(w.0);
            let weight = &graph.weights()[w.0];
            memory.weights += match (&node.op, i, weight.shape.as_slice()) {
                (Op::MatMul, 0, &[rows, cols]) => {
                    let dtype = dtype(package, &weight.name)?;
                    let one = match strips.get(&(dtype, cols)) {
                        Some(&bytes) => bytes,
                        None => strip(&device, graph, (dtype, cols), (0, 0))?.weights,
                    };
                    strips.insert((dtype, cols), one);
                    if dtype.format().codes.is_some() {
                        widest = widest.max(cols);
                    }
                    one * rows.div_ceil(STRIP)
                }
                (_, _, shape) => shape.iter().product::<usize>() * 4,
            };
        }
    }
    let run = LoadOptions::default();
    let cache = |pages, slots| Ok::<_, Fail>(strip(&device, graph, (DType::F32, 1), (pages, slots))?.cache);
    let pages = cache(1, 0)?.saturating_mul(context.div_ceil(PAGE));
    memory.cache = pages.saturating_add(cache(0, 1)?.saturating_mul(run.sequences));
    let tokens = run.step_tokens.min(context);
    let most = |f: &dyn Fn(&alula_model::Attention) -> usize| {
        package.model.spec().layers.iter().filter_map(|l| l.mixer.attention().map(f)).max().unwrap_or(1)
    };
    let group = most(&|a| a.heads / a.kv_heads.max(1));
    let dim = most(&|a| a.key_dim.max(a.value_dim));
    let seen = if package.model.spec().grows() { context } else { 0 };
    let scores = Scratch::size(threads, seen, group, dim).unwrap_or(usize::MAX);
    // Activations of the step; quantised inputs, 512 bytes for 256.
    let blocks = tokens.max(run.outputs) * widest.div_ceil(256) * 512;
    memory.work = (plan_arena(graph, tokens, run.outputs).len * 4 + blocks).saturating_add(scores);
    Ok(memory)
}

/// The type of a weight of the graph. A folder's matrices are of one type.
fn dtype(package: &Package, name: &str) -> Result<DType, Fail> {
    let info = match package.model.files() {
        Files::Gguf(g) => g.info(name.split('[').next().unwrap_or(name)),
        Files::Folder(_, s) => s.tensors().filter(|t| t.shape().len() == 2).max_by_key(|t| t.elements()),
    };
    let known = info.and_then(|t| t.dtype());
    known.ok_or_else(|| {
        let of = info.map_or("?", |t| t.type_name());
        format!("tensor `{name}` is of type {of}, which Alula does not read").into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{models::Place, open};

    fn check(place: &Place, context: usize) {
        let package = place.open().unwrap();
        let context = context.min(package.model.spec().context);
        let said = estimate(&package, context).unwrap();
        let options = LoadOptions { context: Some(context), ..LoadOptions::default() };
        let is = open::load(&package, crate::cli::Compute::default(), options).unwrap().memory();
        assert_eq!((said.weights, said.cache), (is.weights, is.cache), "{place:?}");
        assert!(said.work.abs_diff(is.work) * 10 < is.work, "{place:?}: {} said, {} taken", said.work, is.work);
    }

    /// What is said about a model is what it takes when it is loaded: the built-in one, and one of every kind there is.
    #[test]
    fn as_the_device_says() {
        check(&Place::Builtin, 300);
        check(&Place::Builtin, 1);
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity");
        for model in std::fs::read_dir(folder).unwrap().map(|m| m.unwrap().path()) {
            let (folder, gguf) = (model.join("config.json").exists(), model.join("model.gguf"));
            if folder {
                check(&Place::Path(model), 77);
            }
            if gguf.exists() {
                check(&Place::Path(gguf), 77);
            }
        }
    }
}
