//! What a model needs when it runs, worked out without loading it.
//!
//! The device itself is asked: it is given a strip of each kind of matrix and says what it makes of it.

use crate::Fail;
use alula_device::{CacheType, Cpu, CpuDevice, Device, ExpertScratch, Limits, Memory, PAGE, Scratch};
use alula_engine::local::{LoadOptions, Package};
use alula_graph::{Graph, Index, Op, StateSpec, WeightSource, plan_arena};
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
    let run = LoadOptions::default();
    let tokens = run.step_tokens.min(context);
    let quantized = |name: &str| Ok::<_, Fail>(dtype(package, name)?.format().codes.is_some());
    let (mut memory, mut strips) = (Memory::default(), HashMap::new());
    let mut seen = vec![false; graph.weights().len()];
    // Query heads of a key head, and columns of a head; columns of quantised inputs, 512 bytes each; parts that are gathered; experts.
    let (mut group, mut dim, mut blocks, mut parts, mut experts) = (1, 1, 0, 0, 0);
    for node in graph.nodes().iter().filter(|n| !matches!(n.op, Op::Embed(_))) {
        for w in &node.weights {
            if std::mem::replace(&mut seen[w.0], true) {
                continue;
            }
            let weight = &graph.weights()[w.0];
            memory.weights += match weight.shape.as_slice() {
                &[rows, cols] if node.matrices().contains(w) => {
                    let dtype = dtype(package, &weight.name)?;
                    let one = match strips.get(&(dtype, cols)) {
                        Some(&bytes) => bytes,
                        None => strip(&device, graph, (dtype, cols), (0, 0))?.weights,
                    };
                    strips.insert((dtype, cols), one);
                    one * rows.div_ceil(STRIP)
                }
                shape => shape.iter().product::<usize>() * 4,
            };
        }
        let weight = |i: usize| &graph.weights()[node.weights[i].0];
        match &node.op {
            Op::MatMul if quantized(&weight(0).name)? => blocks = blocks.max(weight(0).shape[1].div_ceil(256)),
            Op::Parts => {
                let (count, cols) = (node.weights.len(), weight(0).shape[1]);
                match quantized(&weight(0).name)? {
                    true => blocks = blocks.max(count * cols.div_ceil(256)),
                    false => parts = parts.max(count * cols * 4),
                }
            }
            Op::Experts(_) => {
                let count = node.weights.len() / 3;
                let kinds = [quantized(&weight(0).name)?, quantized(&weight(2 * count).name)?];
                let (sizes, used) = (&weight(0).shape, graph.shape(node.inputs[1]).cols / 2);
                experts = experts.max(ExpertScratch::size(tokens, used, count, [sizes[1], sizes[0]], kinds));
            }
            Op::Attend { state, heads, .. } => {
                let StateSpec::Paged { heads: kv, key_dim, value_dim, .. } = graph.states()[*state] else { continue };
                group = group.max(heads / kv.max(1));
                dim = dim.max(key_dim).max(value_dim);
            }
            _ => {}
        }
    }
    let cache = |pages, slots| Ok::<_, Fail>(strip(&device, graph, (DType::F32, 1), (pages, slots))?.cache);
    let pages = cache(1, 0)?.saturating_mul(context.div_ceil(PAGE));
    memory.cache = pages.saturating_add(cache(0, 1)?.saturating_mul(run.sequences));
    let seen = if package.model.spec().grows() { context } else { 0 };
    let scores = Scratch::size(threads, seen, group, dim).unwrap_or(usize::MAX);
    let blocks = tokens.max(run.outputs) * blocks * 512;
    let arena = plan_arena(graph, tokens, run.outputs).len * 4;
    memory.work = (arena + blocks + parts * tokens).saturating_add(scores).saturating_add(experts);
    Ok(memory)
}

/// The type of a weight of the graph.
fn dtype(package: &Package, name: &str) -> Result<DType, Fail> {
    let wrong = |of| format!("tensor `{name}` is of type {of}, which Alula does not read").into();
    package.model.dtype(name).map_err(wrong)
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
