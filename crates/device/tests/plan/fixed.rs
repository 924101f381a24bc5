//! States of fixed size: convolutions and scans, the slots that they are kept in, and what those cost.

use crate::reference::reference;
use crate::{Builder, LIMITS, Step, VOCAB, WIDTH, Weights, sequence};
use alula_device::{Cpu, CpuDevice, Device, DeviceError, Limits, Plan};
use alula_graph::{Binary, Graph, Index, NormKind, Op, StateSpec, Unary};
use alula_tensor::{DType, Tensor};
use std::collections::HashMap;

/// (heads, groups, hidden numbers, taps, whether each hidden number has its own decay): Mamba, Mamba-2, and sizes that are
/// no multiples of anything.
const LAYERS: [(usize, usize, usize, usize, bool); 3] =
    [(40, 1, 5, 4, true), (4, 2, 19, 3, false), (5, 5, 3, 1, false)];

/// A model of convolutions and scans alone, whose states have pages only with `attention`.
fn model(attention: bool) -> (Graph, Weights) {
    let b = &mut Builder { graph: Graph::new(), weights: HashMap::new(), matrices: DType::F32 };
    let tokens = b.weight("tokens", DType::F32, &[VOCAB, WIDTH]);
    let mut x = b.push(Op::Embed(Index::Tokens), &[], &[tokens]);
    for (layer, (heads, groups, n, taps, each)) in LAYERS.into_iter().enumerate() {
        let (inner, name) = (40, |part: &str| format!("{layer}.{part}"));
        let u = b.matmul(x, &name("x"), inner, false);
        let mut w = vec![b.weight(&name("conv"), DType::F32, &[inner, taps])];
        if layer > 0 {
            w.push(b.weight(&name("conv.bias"), DType::F32, &[inner]));
        }
        let state = b.graph.state(StateSpec::Fixed { len: (taps - 1) * inner });
        let u = b.push(Op::Conv { state }, &[u], &w);
        let u = b.push(Op::Map(Unary::Silu), &[u], &[]);
        let dt = b.matmul(u, &name("dt"), heads, true);
        let dt = b.push(Op::Map(Unary::Softplus), &[dt], &[]);
        let dt = b.push(Op::Map(Unary::Clamp(0.1, 2.0)), &[dt], &[]);
        let (bb, c) = (b.matmul(u, &name("b"), groups * n, false), b.matmul(u, &name("c"), groups * n, false));
        // Decays below 0 forget.
        let shape = if each { vec![heads, n] } else { vec![heads] };
        let decays: Vec<f32> = crate::floats(layer, shape.iter().product()).map(|v| -1.1 + v).collect();
        b.weights.insert(name("a"), Tensor::from_f32(shape.clone(), &decays).expect("a tensor"));
        let w = [b.weight(&name("a"), DType::F32, &shape), b.weight(&name("d"), DType::F32, &[heads])];
        let state = b.graph.state(StateSpec::Fixed { len: inner * n });
        let y = b.push(Op::Scan { state, heads, groups }, &[u, dt, bb, c], &w);
        let w = b.weight(&name("norm"), DType::F32, &[groups, inner / groups]);
        let y = b.push(Op::Norm { kind: NormKind::Rms, eps: 1e-5 }, &[y], &[w]);
        let y = b.matmul(y, &name("o"), WIDTH, false);
        x = b.push(Op::Zip(Binary::Add), &[x, y], &[]);
    }
    if attention {
        let state = b.graph.state(StateSpec::Paged { heads: 2, key_dim: 8, value_dim: 8, shared: false, window: None });
        let w = b.weight("norm", DType::F32, &[WIDTH]);
        let h = b.push(Op::Norm { kind: NormKind::Rms, eps: 1e-5 }, &[x], &[w]);
        let [q, k, v] = ["q", "k", "v"].map(|name| b.matmul(h, name, 16, false));
        let y = b.push(Op::Attend { state, heads: 2, scale: 0.3, soft_cap: None, causal: true }, &[q, k, v], &[]);
        let y = b.matmul(y, "attended", WIDTH, false);
        x = b.push(Op::Zip(Binary::Add), &[x, y], &[]);
    }
    let x = b.push(Op::Outputs, &[x], &[]);
    b.push(Op::MatMul, &[x], &[tokens]);
    (std::mem::take(&mut b.graph), Weights(std::mem::take(&mut b.weights)))
}

fn compile(attention: bool, cpu: Cpu, threads: usize, limits: Limits) -> Box<dyn Plan> {
    let (graph, weights) = model(attention);
    CpuDevice::new(cpu, threads).compile(&graph, &weights, limits, None, &mut |_, _| ()).expect("a plan")
}

fn fast() -> Cpu {
    Cpu::pick(None).expect("a level")
}

fn step(tokens: &[u32], range: std::ops::Range<usize>, pages: &[u32]) -> Step {
    let mut step = Step::default();
    step.add(tokens, range, pages);
    step
}

#[test]
fn a_graph_with_states_of_fixed_size_means_what_it_says() {
    for attention in [false, true] {
        let (graph, weights) = model(attention);
        let tokens = sequence(3, 130);
        let want = reference(&graph, &weights, &tokens, &[]).concat();
        let got = step(&tokens, 0..130, &[5, 2, 7]).run(&mut *compile(attention, fast(), 2, LIMITS)).expect("a result");
        let error: f64 = got.iter().zip(&want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
        let nmse = error / want.iter().map(|w| w * w).sum::<f64>();
        assert!(nmse <= 1e-10, "NMSE {nmse:e}");
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_company() {
    let (a, b) = (sequence(1, 130), sequence(2, 70));
    for attention in [false, true] {
        let mut plan = compile(attention, Cpu::all()[0], 1, LIMITS);
        let alone = [(&a, &[7, 0, 4][..]), (&b, &[3, 8])].map(|(tokens, pages)| {
            let all = step(tokens, 0..tokens.len(), pages).run(&mut *plan).expect("a result");
            all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        });
        for cpu in Cpu::all() {
            for (threads, piece) in [(1, 1), (2, 7), (3, 64)] {
                let mut plan = compile(attention, cpu, threads, LIMITS);
                for done in (0..a.len()).step_by(piece) {
                    let [at_b, at_a] = [&b, &a].map(|s| done.min(s.len())..(done + piece).min(s.len()));
                    let mut step = Step::default();
                    if !at_b.is_empty() {
                        step.add(&b, at_b.clone(), &[6, 5]);
                    }
                    step.add(&a, at_a.clone(), &[1, 2, 3]);
                    let got: Vec<u32> = step.run(&mut *plan).expect("a result").iter().map(|v| v.to_bits()).collect();
                    let part = |i: usize, r: std::ops::Range<usize>| &alone[i][r.start * VOCAB..r.end * VOCAB];
                    assert!(got == [part(1, at_b), part(0, at_a)].concat(), "{}, pieces of {piece}", cpu.name());
                }
            }
        }
    }
}

#[test]
fn a_slot_remembers_before_and_after_its_last_run() {
    let (a, b) = (sequence(1, 60), sequence(2, 60));
    let mut plan = compile(false, fast(), 2, LIMITS);
    let mut run = |tokens: &[u32], range, slot| step(tokens, range, &[slot]).run(&mut *plan);
    let want = run(&a, 0..60, 4).expect("a result");
    let rows = |from: usize, to: usize| &want[from * VOCAB..to * VOCAB];
    let mut same = |range: std::ops::Range<usize>, slot| {
        assert!(run(&a, range.clone(), slot).expect("a result") == rows(range.start, range.end), "{range:?}");
    };
    // Repeated as a whole, repeated with fewer tokens, and on from there.
    same(0..20, 1);
    same(0..20, 1);
    same(20..25, 1);
    same(20..25, 1);
    same(20..22, 1);
    same(22..23, 1);
    // Another sequence takes the slot over, however its positions fall.
    run(&b, 0..23, 1).expect("a result");
    let mut refused = |range: std::ops::Range<usize>, slot, why: &str| match run(&a, range, slot) {
        Err(DeviceError::Batch(e)) => assert!(e.contains(why), "{e}"),
        _ => panic!("{why}"),
    };
    refused(22..24, 1, "slot 1 does not stand at position 22");
    refused(24..25, 1, "slot 1 does not stand at position 24");
    refused(1..25, 2, "slot 2 does not stand at position 1");
    refused(0..2, 9, "slot 9 does not exist; there are 9");
    refused(0..2, u32::MAX, "does not exist");
    let got = run(&b, 23..30, 1).expect("a result");
    assert!(got == run(&b, 0..30, 3).expect("a result")[23 * VOCAB..]);
    let mut two = step(&a, 0..3, &[2]);
    two.add(&b, 0..3, &[2]);
    assert!(two.run(&mut *plan).is_err_and(|e| e.to_string().contains("two runs have one slot")));
}

#[test]
fn a_checkpoint_is_where_any_slot_can_go_on() {
    let (a, b) = (sequence(1, 60), sequence(2, 60));
    for attention in [false, true] {
        let mut plan = compile(attention, fast(), 2, Limits { checkpoints: 2, ..LIMITS });
        // Of the pages only the first one is used, which all slots share.
        let run = |plan: &mut dyn Plan, tokens: &[u32], range, slot| {
            let mut step = step(tokens, range, &[0]);
            step.runs[0].slot = slot;
            step.run(plan)
        };
        let want = run(&mut *plan, &a, 0..60, 4).expect("a result");
        let wrong = |e: Result<(), DeviceError>, why: &str| match e {
            Err(DeviceError::Batch(e)) => assert!(e.contains(why), "{e}"),
            _ => panic!("{why}"),
        };
        wrong(plan.restore(1, 3), "checkpoint 1 does not exist, or holds nothing");
        run(&mut *plan, &a, 0..20, 1).expect("a result");
        run(&mut *plan, &a, 20..33, 1).expect("a result");
        wrong(plan.save(1, 19, 0), "slot 1 does not stand at position 19");
        wrong(plan.save(9, 20, 0), "slot 9 does not exist");
        wrong(plan.save(1, 20, 2), "checkpoint 2 does not exist");
        plan.save(1, 33, 1).expect("it stands there");
        plan.save(1, 20, 0).expect("it stood there before its last run");
        wrong(plan.restore(2, 3), "checkpoint 2 does not exist");
        wrong(plan.restore(1, 9), "slot 9 does not exist");
        // Another sequence had the slot, and the slot that was saved goes on.
        if !attention {
            run(&mut *plan, &b, 0..40, 1).expect("a result");
            run(&mut *plan, &b, 0..20, 3).expect("a result");
        }
        for (checkpoint, from, slot) in [(1, 33, 3), (0, 20, 1), (1, 33, 1), (1, 33, 5)] {
            plan.restore(checkpoint, slot).expect("it is there");
            for range in [from..from + 5, from..from + 5, from + 5..60] {
                let got = run(&mut *plan, &a, range.clone(), slot).expect("a result");
                assert!(got == want[range.start * VOCAB..range.end * VOCAB], "{range:?} in slot {slot}");
            }
        }
        assert!(run(&mut *plan, &a, 21..22, 3).is_err());
    }
    let numbers: usize = LAYERS.iter().map(|&(_, _, n, taps, _)| 40 * (n + taps - 1)).sum();
    let limits = Limits { slots: 3, checkpoints: 5, ..LIMITS };
    assert_eq!(compile(false, fast(), 1, limits).memory().cache, (3 * 2 + 5) * numbers * 4);
}

#[test]
fn a_step_that_fails_leaves_what_was() {
    let a = sequence(1, 60);
    for first in [0, 20] {
        let mut plan = compile(true, fast(), 1, LIMITS);
        let want = step(&a, 0..60, &[0]).run(&mut *plan).expect("a result");
        if first > 0 {
            step(&a, 0..first, &[1]).run(&mut *plan).expect("a result");
        }
        let mut broken = step(&a, first..30, &[1]);
        broken.tokens[5] = u32::MAX;
        assert!(broken.run(&mut *plan).is_err());
        // What the failed step would have left behind does not stand.
        assert!(step(&a, 30..31, &[1]).run(&mut *plan).is_err());
        let got = step(&a, first..30, &[1]).run(&mut *plan).expect("a result");
        assert!(got == want[first * VOCAB..30 * VOCAB]);
    }
}

#[test]
fn slots_are_paid_for_and_pages_are_not() {
    let numbers: usize = LAYERS.iter().map(|&(_, _, n, taps, _)| 40 * (n + taps - 1)).sum();
    let memory = |attention, limits| compile(attention, fast(), 1, limits).memory();
    for slots in [0, 1, 7] {
        assert_eq!(memory(false, Limits { slots, ..LIMITS }).cache, slots * 2 * numbers * 4);
    }
    let page = memory(true, Limits { slots: 0, pages: 1, ..LIMITS }).cache;
    assert_eq!(memory(true, Limits { slots: 3, pages: 5, ..LIMITS }).cache, 3 * 2 * numbers * 4 + 5 * page);
    // Without attention nothing grows with the context, and page tables count for nothing.
    let endless = Limits { context: 1 << 40, pages: 0, ..LIMITS };
    assert_eq!(memory(false, endless), memory(false, LIMITS));
    let got = step(&sequence(1, 9), 0..9, &[]).run(&mut *compile(false, fast(), 1, endless));
    assert_eq!(got.expect("a result").len(), 9 * VOCAB);
    let (graph, weights) = model(false);
    let limits = Limits { slots: usize::MAX / 2, ..LIMITS };
    match CpuDevice::new(fast(), 1).compile(&graph, &weights, limits, None, &mut |_, _| ()) {
        Err(e @ DeviceError::Memory { .. }) => assert!(e.to_string().contains("9223372036854775807 slots"), "{e}"),
        _ => panic!("there is no memory for this"),
    }
}
