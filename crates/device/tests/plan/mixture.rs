//! Mixtures of experts and latent attention: what they mean in double precision, and bits that depend on nothing but the
//! sequence. Routers read the embedding itself, so that no rounding changes a choice.

use crate::reference::reference;
use crate::{Builder, LIMITS, Step, VOCAB, WIDTH, Weights, sequence};
use alula_device::{CacheType, Cpu, CpuDevice, Device, Limits, Plan};
use alula_graph::{
    Binary, Graph, Groups, Index, Op, RopeStyle, RopeTable, Route, StateSpec, Unary, ValueId, WeightId, WeightSource,
};
use alula_tensor::DType;
use std::collections::HashMap;

/// Experts and columns between.
const EXPERTS: (usize, usize) = (6, 32);

/// Each is routed in another way; the first has an expert that every row has too, with a gate. Of the last, weights are
/// factors on what goes in.
fn mixtures() -> [(bool, Route); 4] {
    let plain = Route { used: 2, groups: None, normalise: true, scale: 1.0, sigmoid: false };
    let best = |two| Some(Groups { all: 3, used: 2, two });
    [
        (false, plain),
        (false, Route { used: 3, groups: best(false), normalise: false, scale: 4.0, ..plain }),
        (true, Route { used: 1, groups: best(true), scale: 2.5, ..plain }),
        (false, Route { normalise: false, sigmoid: true, ..plain }),
    ]
}

fn experts(b: &mut Builder, name: &str, x: ValueId, sigmoid: bool, route: Route) -> ValueId {
    let (count, width) = EXPERTS;
    let router = b.weight(&format!("{name}.router"), DType::F32, &[count, WIDTH]);
    let logits = b.push(Op::MatMul, &[x], &[router]);
    let scores = match (route.sigmoid, sigmoid) {
        (true, _) => logits,
        (_, true) => b.push(Op::Map(Unary::Sigmoid), &[logits], &[]),
        _ => b.push(Op::Softmax, &[logits], &[]),
    };
    let bias: Vec<WeightId> =
        sigmoid.then(|| b.weight(&format!("{name}.bias"), DType::F32, &[count])).into_iter().collect();
    let routes = b.push(Op::Route(route), &[scores], &bias);
    let mut w = Vec::new();
    for (part, shape) in [("gate", [width, WIDTH]), ("up", [width, WIDTH]), ("down", [WIDTH, width])] {
        // The last ones are floats in any case: a layer's matrices may differ by their part.
        let dtype = if part == "down" && sigmoid { DType::F32 } else { b.matrices };
        w.extend((0..count).map(|e| b.weight(&format!("{name}.{part}.{e}"), dtype, &shape)));
    }
    b.push(Op::Experts { act: Unary::Silu, before: route.sigmoid }, &[x, routes], &w)
}

/// Latent attention: 4 heads, a latent of 32 columns, 8 rotated ones.
fn latent(b: &mut Builder, x: ValueId) -> ValueId {
    let table = RopeTable { inv_freq: vec![1.0, 0.3, 0.1, 0.01], factor: 1.0, past: None };
    let table = b.push(Op::RopeTable(table), &[], &[]);
    let rope = Op::Rope { style: RopeStyle::Pairs, head_dim: 8 };
    let parts = |b: &mut Builder, name: &str, shape: [usize; 2]| -> Vec<WeightId> {
        (0..4).map(|h| b.weight(&format!("{name}.{h}"), b.matrices, &shape)).collect()
    };
    let q = b.matmul(x, "q", 4 * 32, false);
    let w = parts(b, "k_b", [32, 32]);
    let q = b.push(Op::Parts, &[q], &w);
    let q_rope = b.matmul(x, "q_rope", 4 * 8, false);
    let q_rope = b.push(rope.clone(), &[q_rope, table], &[]);
    let q = b.push(Op::Concat { heads: 4 }, &[q, q_rope], &[]);
    let k = b.matmul(x, "latent", 32, false);
    let k_rope = b.matmul(x, "k_rope", 8, false);
    let k_rope = b.push(rope, &[k_rope, table], &[]);
    let k = b.push(Op::Concat { heads: 1 }, &[k, k_rope], &[]);
    let state = b.graph.state(StateSpec::Paged { heads: 1, key_dim: 40, value_dim: 32, shared: true, window: None });
    let a = b.push(Op::Attend { state, heads: 4, scale: 0.02, soft_cap: None, causal: true }, &[q, k, k], &[]);
    let w = parts(b, "v_b", [16, 32]);
    b.push(Op::Parts, &[a], &w)
}

fn model(matrices: DType) -> (Graph, Weights) {
    let b = &mut Builder { graph: Graph::new(), weights: HashMap::new(), matrices };
    let tokens = b.weight("tokens", DType::F32, &[VOCAB, WIDTH]);
    let x = b.push(Op::Embed(Index::Tokens), &[], &[tokens]);
    let mut sum = latent(b, x);
    for (i, (sigmoid, route)) in mixtures().into_iter().enumerate() {
        let mut y = experts(b, &format!("{i}"), x, sigmoid, route);
        if i == 0 {
            let gate = b.matmul(x, "gate", 1, false);
            let gate = b.push(Op::Map(Unary::Sigmoid), &[gate], &[]);
            let shared = b.matmul(x, "shared", WIDTH, false);
            let shared = b.push(Op::Zip(Binary::Mul), &[shared, gate], &[]);
            y = b.push(Op::Zip(Binary::Add), &[y, shared], &[]);
        }
        sum = b.push(Op::Zip(Binary::Add), &[sum, y], &[]);
    }
    let x = b.push(Op::Outputs, &[sum], &[]);
    b.push(Op::MatMul, &[x], &[tokens]);
    (std::mem::take(&mut b.graph), Weights(std::mem::take(&mut b.weights)))
}

fn compile(cpu: Cpu, threads: usize, matrices: DType, limits: Limits) -> Box<dyn Plan> {
    let (graph, weights) = model(matrices);
    CpuDevice::new(cpu, threads).compile(&graph, &weights, limits, None, &mut |_, _| ()).expect("a plan")
}

const PAGES: [&[u32]; 2] = [&[7, 0, 4], &[3, 8]];

#[test]
fn they_mean_what_they_say() {
    for (matrices, cache, bound) in [
        (DType::F32, CacheType::F32, 1e-12),
        (DType::BF16, CacheType::F32, 1e-12),
        (DType::F32, CacheType::F16, 1e-6),
        (DType::F32, CacheType::Q8_0, 1e-4),
        (DType::Q8_0, CacheType::F32, 2e-3),
    ] {
        let (graph, weights) = model(matrices);
        let mut plan = compile(Cpu::pick(None).expect("a level"), 2, matrices, Limits { cache, ..LIMITS });
        for (tokens, pages) in [sequence(1, 130), sequence(2, 3)].iter().zip(PAGES) {
            let mut step = Step::default();
            step.add(tokens, 0..tokens.len(), pages);
            let got = step.run(&mut *plan).expect("a result");
            let want = reference(&graph, &weights, tokens, &[]).concat();
            let error: f64 = got.iter().zip(&want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
            let nmse = error / want.iter().map(|w| w * w).sum::<f64>();
            assert!(got.len() == want.len() && nmse <= bound, "{matrices}, {cache:?}: NMSE {nmse:e} over {bound:e}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_company() {
    for matrices in [DType::F32, DType::Q8_0] {
        let (a, b) = (sequence(1, 130), sequence(2, 70));
        let mut step = Step::default();
        step.add(&a, 0..a.len(), PAGES[0]);
        let want = step.run(&mut *compile(Cpu::all()[0], 1, matrices, LIMITS)).expect("a result");
        for cpu in Cpu::all() {
            for (threads, piece) in [(1, 1), (2, 7), (2, 64), (1, 65)] {
                let mut plan = compile(cpu, threads, matrices, LIMITS);
                for start in (0..a.len()).step_by(piece) {
                    let end = a.len().min(start + piece);
                    let mut step = Step::default();
                    let other = start.min(b.len())..end.min(b.len());
                    if !other.is_empty() {
                        step.add(&b, other.clone(), PAGES[1]);
                    }
                    step.add(&a, start..end, PAGES[0]);
                    let got = step.run(&mut *plan).expect("a result");
                    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    let same = bits(&got[other.len() * VOCAB..]) == bits(&want[start * VOCAB..end * VOCAB]);
                    assert!(same, "{matrices}, {}, {threads} threads, {start}..{end}", cpu.name());
                }
            }
        }
    }
}

#[test]
fn only_latents_are_kept() {
    let limits = Limits { pages: 2, ..LIMITS };
    let plan = compile(Cpu::all()[0], 1, DType::F32, limits);
    assert_eq!(plan.memory().cache, 2 * 64 * 40 * 4);
}

#[test]
fn a_layer_of_mixed_matrices_is_refused() {
    let (graph, mut weights) = model(DType::Q8_0);
    let other = crate::random(DType::F32, &[EXPERTS.1, WIDTH], 1);
    weights.0.insert("0.gate.3".into(), other);
    let got = CpuDevice::new(Cpu::all()[0], 1).compile(&graph, &weights, LIMITS, None, &mut |_, _| ());
    let why = got.err().expect("refused").to_string();
    assert!(why.contains("`0.gate.3`") && why.contains("quantised"), "{why}");
}

/// Twice what the caller gives, less the token's row; kept before it is normalised.
#[test]
fn values_go_in_and_come_out() {
    let b = &mut Builder { graph: Graph::new(), weights: HashMap::new(), matrices: DType::Q8_0 };
    let tokens = b.weight("tokens", DType::F32, &[VOCAB, WIDTH]);
    let norm = b.weight("norm", DType::F32, &[WIDTH]);
    let given = b.push(Op::Input(WIDTH), &[], &[]);
    let twice = b.push(Op::Map(Unary::Scale(2.0)), &[given], &[]);
    let row = b.push(Op::Embed(Index::Tokens), &[], &[tokens]);
    let sum = b.push(Op::Zip(Binary::Add), &[twice, row], &[]);
    // Otherwise it would only be made as blocks, and its place be used again.
    let y = b.push(Op::Norm { kind: alula_graph::NormKind::Rms, eps: 1e-5 }, &[sum], &[norm]);
    b.graph.keep(sum);
    b.graph.keep(y);
    let y = b.matmul(y, "w", WIDTH, false);
    let y = b.push(Op::Outputs, &[y], &[]);
    b.matmul(y, "v", VOCAB, false);
    let weights = Weights(std::mem::take(&mut b.weights));
    let device = CpuDevice::new(Cpu::pick(None).expect("a level"), 1);
    let mut plan = device.compile(&b.graph, &weights, LIMITS, None, &mut |_, _| ()).expect("a plan");
    let hidden: Vec<f32> = crate::floats(5, 3 * WIDTH).collect();
    let seqs = [alula_device::Seq { start: 0, len: 3, length: 3, pages: &[0], slot: 0, adapters: &[] }];
    let mut batch = alula_device::Batch {
        tokens: &[4, 0, 2],
        positions: &[0, 1, 2],
        seqs: &seqs,
        outputs: &[2],
        hidden: &hidden,
        types: &[],
    };
    plan.run(&batch).expect("a result");
    let table = weights.tensor("tokens").expect("a table").to_f32();
    let want = |row: usize, id: usize| {
        let sums = hidden[row * WIDTH..][..WIDTH].iter().zip(&table[id * WIDTH..]);
        sums.map(|(h, t)| 2.0 * h + t).collect::<Vec<f32>>()
    };
    assert_eq!(plan.kept(0), [want(0, 4), want(1, 0), want(2, 2)].concat());
    assert_eq!(plan.kept(1).len(), 3 * WIDTH);
    batch.hidden = &hidden[1..];
    let error = plan.run(&batch).expect_err("too few").to_string();
    assert!(error.contains("the given values"), "{error}");
}
