//! Plans of the CPU device: a graph of every op against double precision, bits that depend on nothing but the
//! sequence, batches that break a rule, sizes and memory.

mod encoder;
mod fast;
mod fixed;
mod holes;
mod kept;
mod lora;
mod memory;
mod mixture;
mod reference;
mod rules;
mod streamed;

use alula_device::{Batch, CacheType, Cpu, CpuDevice, Device, DeviceError, Limits, PAGE, Plan, Seq};
use alula_graph::{
    Binary, Change, Graph, Index, NormKind, Op, Past, RopeStyle, RopeTable, StateSpec, Temperature, Unary, ValueId,
    WeightId, WeightSource, Window,
};
use alula_tensor::{DType, Tensor};
use std::collections::HashMap;

const VOCAB: usize = 50;
const WIDTH: usize = 64;
/// Query heads, key heads, columns of a key and of a value.
const HEADS: (usize, usize, usize, usize) = (4, 2, 16, 8);
/// Rows of the table of positions.
const POSITIONS: usize = 140;
const LIMITS: Limits =
    Limits { tokens: 160, outputs: 160, context: 150, pages: 9, slots: 9, checkpoints: 0, cache: CacheType::F32 };

struct Weights(HashMap<String, Tensor>);

impl WeightSource for Weights {
    fn tensor(&self, name: &str) -> Result<Tensor, String> {
        self.0.get(name).cloned().ok_or_else(|| "it is missing".to_owned())
    }
}

/// Numbers in [-1, 1) that look random.
fn floats(seed: usize, n: usize) -> impl Iterator<Item = f32> {
    let mut s = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::iter::repeat_with(move || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    })
    .take(n)
}

/// A tensor of random values near [-1, 1), of one of the types that this can write.
fn random(dtype: DType, shape: &[usize], seed: usize) -> Tensor {
    let n = shape.iter().product();
    let bf16 = |v: f32| ((v.to_bits() >> 16) as u16).to_le_bytes();
    let bytes: Vec<u8> = match dtype {
        DType::F32 => floats(seed, n).flat_map(f32::to_le_bytes).collect(),
        DType::BF16 => floats(seed, n).flat_map(bf16).collect(),
        // The scale 2^-7 and any codes.
        DType::Q8_0 => floats(seed, n / 32 * 34)
            .enumerate()
            .map(|(i, v)| [0x00, 0x20].get(i % 34).copied().unwrap_or((v * 127.0) as i8 as u8))
            .collect(),
        _ => unreachable!("this test makes no {dtype}"),
    };
    let len = bytes.len();
    Tensor::new(dtype, shape.to_vec(), bytes.into(), 0..len).expect("whole blocks")
}

/// A graph under construction, with its weights.
struct Builder {
    graph: Graph,
    weights: HashMap<String, Tensor>,
    matrices: DType,
}

impl Builder {
    fn weight(&mut self, name: &str, dtype: DType, shape: &[usize]) -> WeightId {
        let seed = self.weights.len();
        self.weights.entry(name.to_owned()).or_insert_with(|| random(dtype, shape, seed));
        self.graph.weight(name, shape)
    }

    fn push(&mut self, op: Op, inputs: &[ValueId], weights: &[WeightId]) -> ValueId {
        let name = format!("v{}", self.graph.values().len());
        self.graph.push(name, op, inputs, weights).expect("a graph that fits together")
    }

    fn matmul(&mut self, x: ValueId, name: &str, n: usize, bias: bool) -> ValueId {
        let k = self.graph.shape(x).cols;
        let mut w = vec![self.weight(name, self.matrices, &[n, k])];
        if bias {
            w.push(self.weight(&format!("{name}.bias"), DType::F32, &[n]));
        }
        self.push(Op::MatMul, &[x], &w)
    }
}

/// A small model that uses every op; its matrices are of type `matrices`.
fn model(matrices: DType) -> (Graph, Weights) {
    let (heads, kv, dk, dv) = HEADS;
    let b = &mut Builder { graph: Graph::new(), weights: HashMap::new(), matrices };
    let tokens = b.weight("tokens", matrices, &[VOCAB, WIDTH]);
    let positions = b.weight("positions", DType::F32, &[POSITIONS, WIDTH]);
    let x = b.push(Op::Embed(Index::Tokens), &[], &[tokens]);
    let p = b.push(Op::Embed(Index::Positions), &[], &[positions]);
    let mut x = b.push(Op::Zip(Binary::Add), &[x, p], &[]);
    let inv_freq = vec![1.0, 0.3, 0.1, 0.01];
    let past = Some(Past { original: 100, change: Change::Table(vec![0.5, 0.2, 0.05, 0.005]) });
    let table = b.push(Op::RopeTable(RopeTable { inv_freq, factor: 1.1, past }), &[], &[]);
    let warm = b.push(Op::Temperature(Temperature { floor: 9.0, scale: 0.3 }), &[], &[]);
    for layer in 0..2 {
        let (kind, style, window, soft_cap, unit, f) = match layer {
            0 => (NormKind::Rms, RopeStyle::Halves, None, None, Unary::Silu, Unary::Relu),
            _ => {
                let window = Some(Window::Chunked { chunk: 20 });
                (NormKind::Layer, RopeStyle::Pairs, window, Some(5.0), Unary::Gelu, Unary::GeluTanh)
            }
        };
        let name = |part: &str| format!("{layer}.{part}");
        let mut norm = vec![b.weight(&name("norm"), DType::F32, &[WIDTH])];
        if kind == NormKind::Layer {
            norm.push(b.weight(&name("norm.bias"), DType::F32, &[WIDTH]));
        }
        let h = b.push(Op::Norm { kind, eps: 1e-5 }, &[x], &norm);
        let q = b.matmul(h, &name("q"), heads * dk, true);
        let k = b.matmul(h, &name("k"), kv * dk, false);
        let v = b.matmul(h, &name("v"), kv * dv, layer == 0);
        let per_head = b.weight(&name("q_norm"), DType::F32, &[dk]);
        let q = b.push(Op::Norm { kind: NormKind::Rms, eps: 1e-6 }, &[q], &[per_head]);
        let q = b.push(Op::Rope { style, head_dim: dk }, &[q, table], &[]);
        let q = if layer == 0 { q } else { b.push(Op::Zip(Binary::Mul), &[q, warm], &[]) };
        let k = b.push(Op::Rope { style, head_dim: dk }, &[k, table], &[]);
        let state = b.graph.state(StateSpec::Paged { heads: kv, key_dim: dk, value_dim: dv, shared: false, window });
        let a = b.push(Op::Attend { state, heads, scale: 0.25, soft_cap, causal: true }, &[q, k, v], &[]);
        let a = b.matmul(a, &name("o"), WIDTH, false);
        let a = b.push(Op::Map(Unary::Scale(0.1)), &[a], &[]);
        x = b.push(Op::Zip(Binary::Add), &[x, a], &[]);
        let h = b.push(Op::Norm { kind: NormKind::Rms, eps: 1e-5 }, &[x], &norm[..1]);
        let (gate, up) = (b.matmul(h, &name("gate"), 96, false), b.matmul(h, &name("up"), 96, true));
        let y = b.push(Op::Glu(unit), &[gate, up], &[]);
        let y = b.push(Op::Map(f), &[y], &[]);
        let y = b.matmul(y, &name("down"), WIDTH, false);
        let y = b.push(Op::Map(Unary::SoftCap(200.0)), &[y], &[]);
        let z = b.push(Op::Zip(Binary::Mul), &[y, x], &[]);
        x = b.push(Op::Zip(Binary::Add), &[z, y], &[]);
    }
    let x = b.push(Op::Outputs, &[x], &[]);
    b.push(Op::MatMul, &[x], &[tokens]);
    (std::mem::take(&mut b.graph), Weights(std::mem::take(&mut b.weights)))
}

fn compile(cpu: Cpu, threads: usize, matrices: DType, limits: Limits) -> Box<dyn Plan> {
    let (graph, weights) = model(matrices);
    let device = CpuDevice::new(cpu, threads);
    assert!(device.name().contains(cpu.name()) && graph.nodes().iter().all(|n| device.supports(&n.op)));
    device.compile(&graph, &weights, limits, None, &mut |_, _| ()).expect("a plan")
}

/// A run of rows, with what it owns.
#[derive(Clone)]
struct Run {
    start: usize,
    len: usize,
    length: usize,
    pages: Vec<u32>,
    slot: u32,
}

/// A batch that owns its parts.
#[derive(Clone, Default)]
struct Step {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    types: Vec<u32>,
    runs: Vec<Run>,
    outputs: Vec<u32>,
}

impl Step {
    /// Appends tokens `range` of a sequence; all their rows are outputs.
    fn add(&mut self, sequence: &[u32], range: std::ops::Range<usize>, pages: &[u32]) {
        let start = self.tokens.len();
        // Sequences of different pages have different slots.
        let (pages, slot) = (pages.to_vec(), pages.first().copied().unwrap_or(0));
        self.runs.push(Run { start, len: range.len(), length: sequence.len(), pages, slot });
        self.tokens.extend(&sequence[range.clone()]);
        self.positions.extend(range.clone().map(|p| p as u32));
        self.outputs.extend((start..start + range.len()).map(|r| r as u32));
    }

    fn run(&self, plan: &mut dyn Plan) -> Result<Vec<f32>, DeviceError> {
        let seqs = self.runs.iter().map(|r| {
            let Run { start, len, length, slot, .. } = *r;
            Seq { start, len, length, pages: &r.pages, slot, adapters: &[] }
        });
        let seqs: Vec<Seq<'_>> = seqs.collect();
        let (tokens, positions, outputs) = (&self.tokens[..], &self.positions[..], &self.outputs[..]);
        let types = &self.types;
        plan.run(&Batch { tokens, positions, types, seqs: &seqs, outputs, hidden: &[] }).map(<[f32]>::to_vec)
    }
}

/// A sequence of token ids.
fn sequence(seed: usize, n: usize) -> Vec<u32> {
    floats(seed, n).map(|x| ((x + 1.0) * 24.9) as u32).collect()
}
