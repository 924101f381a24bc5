//! A plan that looks both ways: token types, windows on both sides, means; and what it refuses.

use crate::reference::reference;
use crate::{Builder, HEADS, LIMITS, Step, VOCAB, WIDTH, Weights, sequence};
use alula_device::{Cpu, CpuDevice, Device, DeviceError, Plan};
use alula_graph::{Binary, Graph, Index, NormKind, Op, StateSpec, Window};
use alula_tensor::DType;
use std::collections::HashMap;

/// Two layers, one of them with a window; both use one state, as nothing is read of it in the next step.
fn model(mean: bool) -> (Graph, Weights) {
    let (heads, kv, dk, dv) = HEADS;
    let b = &mut Builder { graph: Graph::new(), weights: HashMap::new(), matrices: DType::F32 };
    let tokens = b.weight("tokens", DType::F32, &[VOCAB, WIDTH]);
    let types = b.weight("types", DType::F32, &[2, WIDTH]);
    let x = b.push(Op::Embed(Index::Tokens), &[], &[tokens]);
    let t = b.push(Op::Embed(Index::Types), &[], &[types]);
    let mut x = b.push(Op::Zip(Binary::Add), &[x, t], &[]);
    for (layer, window) in [None, Some(Window::Sliding(9))].into_iter().enumerate() {
        let name = |part: &str| format!("{layer}.{part}");
        let (q, k, v) = (
            b.matmul(x, &name("q"), heads * dk, true),
            b.matmul(x, &name("k"), kv * dk, false),
            b.matmul(x, &name("v"), kv * dv, true),
        );
        let state = b.graph.state(StateSpec::Paged { heads: kv, key_dim: dk, value_dim: dv, shared: false, window });
        let a = b.push(Op::Attend { state, heads, scale: 0.25, soft_cap: None, causal: false }, &[q, k, v], &[]);
        let a = b.matmul(a, &name("o"), WIDTH, false);
        let sum = b.push(Op::Zip(Binary::Add), &[x, a], &[]);
        let norm = [b.weight(&name("norm"), DType::F32, &[WIDTH]), b.weight(&name("norm.bias"), DType::F32, &[WIDTH])];
        x = b.push(Op::Norm { kind: NormKind::Layer, eps: 1e-5 }, &[sum], &norm);
    }
    b.push(if mean { Op::Mean } else { Op::Outputs }, &[x], &[]);
    (std::mem::take(&mut b.graph), Weights(std::mem::take(&mut b.weights)))
}

fn compile(cpu: Cpu, threads: usize, mean: bool) -> Box<dyn Plan> {
    let (graph, weights) = model(mean);
    CpuDevice::new(cpu, threads).compile(&graph, &weights, LIMITS, None, &mut |_, _| ()).expect("a plan")
}

/// Types as a pair of texts has them: the second begins after the first third.
fn types(n: usize) -> Vec<u32> {
    (0..n).map(|i| u32::from(i >= n / 3)).collect()
}

#[test]
fn rows_see_their_whole_sequence() {
    for mean in [false, true] {
        let (graph, weights) = model(mean);
        for (seed, n) in [(1, 1), (2, 15), (3, 16), (4, 65), (5, 130)] {
            let tokens = sequence(seed, n);
            for typed in [false, true] {
                let types = if typed { types(n) } else { vec![0; n] };
                let want = reference(&graph, &weights, &tokens, &types).concat();
                let most = want.iter().fold(0f64, |m, x| m.max(x.abs()));
                let mut alone = Step { types: if typed { types.clone() } else { Vec::new() }, ..Step::default() };
                alone.add(&tokens, 0..n, &[3, 1, 2]);
                let got = alone.run(&mut *compile(Cpu::all()[0], 1, mean)).expect("a result");
                for (got, want) in got.iter().zip(&want) {
                    assert!((f64::from(*got) - want).abs() <= 1e-5 * most, "{n} tokens, mean {mean}: {got} {want}");
                }
                // The same bits at every level, with company, in another place of the step.
                for cpu in Cpu::all() {
                    let mut step = Step::default();
                    step.add(&sequence(9, 20), 0..20, &[0]);
                    step.outputs.clear();
                    step.add(&tokens, 0..n, &[5, 7, 6]);
                    step.types = [vec![1; 20], types.clone()].concat();
                    let same = step.run(&mut *compile(cpu, 2, mean)).expect("a result");
                    assert!(same == got, "{n} tokens, mean {mean}, {}", cpu.name());
                }
            }
        }
    }
}

#[test]
fn parts_of_sequences_and_wrong_types_are_refused() {
    let tokens = sequence(1, 40);
    for mean in [false, true] {
        let mut plan = compile(Cpu::all()[0], 1, mean);
        let refused = |plan: &mut dyn Plan, step: &Step| match step.run(plan) {
            Err(DeviceError::Batch(why)) => why,
            other => panic!("{other:?}"),
        };
        for range in [0..39, 1..40, 39..40] {
            let mut part = Step::default();
            part.add(&tokens, range, &[0]);
            assert!(refused(&mut *plan, &part).contains("whole in a step"));
        }
        let mut whole = Step::default();
        whole.add(&tokens, 0..40, &[0]);
        for (types, why) in [(vec![0; 39], "one type per token"), (vec![2; 40], "id 2 is not below 2")] {
            let wrong = Step { types, ..whole.clone() };
            assert!(refused(&mut *plan, &wrong).contains(why));
        }
        whole.run(&mut *plan).expect("a result");
    }
}
