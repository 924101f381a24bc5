//! Adapters in a plan: each row has those of its sequence, also where rows are those of results, and others are not touched.

use crate::{Builder, LIMITS, VOCAB, WIDTH, Weights, sequence};
use alula_device::{Adapter, Batch, Cpu, CpuDevice, Device, DeviceError, Plan, Seq};
use alula_graph::{Binary, Graph, Index, Low, Op, Unary};
use alula_tensor::DType;
use std::collections::HashMap;

/// Adapters of embeddings, of two products of one value that is made as quantised blocks elsewhere, and of logits. Without
/// `lora` the same without them.
fn model(lora: bool) -> (Graph, Weights) {
    let b = &mut Builder { graph: Graph::new(), weights: HashMap::new(), matrices: DType::Q8_0 };
    // Weights are random by their number, so both graphs declare all of them.
    let table = b.weight("tokens", DType::F32, &[VOCAB, WIDTH]);
    let norm = b.weight("norm", DType::F32, &[WIDTH]);
    for (name, n) in [("u", WIDTH), ("v", WIDTH), ("head", VOCAB)] {
        b.weight(name, DType::Q8_0, &[n, WIDTH]);
    }
    let low = |b: &mut Builder, i: usize, n: usize, k: usize| {
        [
            b.weight(&format!("a{i}.{n}"), DType::F32, &[3 + i, k]),
            b.weight(&format!("b{i}.{n}"), DType::BF16, &[n, 3 + i]),
        ]
    };
    let (of, wide) = ([low(b, 0, WIDTH, WIDTH), low(b, 1, WIDTH, WIDTH)], low(b, 1, VOCAB, WIDTH));
    let looked = b.weight("looked", DType::F32, &[VOCAB, 3]);
    let add = |adapter, scale| Low { adapter, scale };
    let mut x = b.push(Op::Embed(Index::Tokens), &[], &[table]);
    if lora {
        let t = b.push(Op::Embed(Index::Tokens), &[], &[looked]);
        x = b.push(Op::Lora(vec![add(0, 0.5)]), &[x, t], &[of[0][1]]);
    }
    let h = b.push(Op::Norm { kind: alula_graph::NormKind::Rms, eps: 1e-5 }, &[x], &[norm]);
    let (mut u, mut v) = (b.matmul(h, "u", WIDTH, false), b.matmul(h, "v", WIDTH, false));
    if lora {
        u = b.push(Op::Lora(vec![add(0, 2.0), add(1, 0.25)]), &[u, h], &of.concat());
        v = b.push(Op::Lora(vec![add(1, 1.0)]), &[v, h], &of[1]);
    }
    let y = b.push(Op::Glu(Unary::Silu), &[u, v], &[]);
    let y = b.push(Op::Zip(Binary::Add), &[y, x], &[]);
    let y = b.push(Op::Outputs, &[y], &[]);
    let logits = b.matmul(y, "head", VOCAB, false);
    if lora {
        b.push(Op::Lora(vec![add(1, 0.1)]), &[logits, y], &wide);
    }
    (std::mem::take(&mut b.graph), Weights(std::mem::take(&mut b.weights)))
}

fn compile(cpu: Cpu, threads: usize, lora: bool) -> Box<dyn Plan> {
    let (graph, weights) = model(lora);
    CpuDevice::new(cpu, threads).compile(&graph, &weights, LIMITS, None, &mut |_, _| ()).expect("a plan")
}

/// Logits of the last token of sequences that share a step.
fn run(plan: &mut dyn Plan, all: &[(&[u32], &[Adapter])]) -> Result<Vec<f32>, DeviceError> {
    let (mut tokens, mut positions, mut seqs, mut outputs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (ids, adapters) in all {
        let (start, len) = (tokens.len(), ids.len());
        seqs.push(Seq { start, len, length: len, pages: &[], slot: 0, adapters });
        tokens.extend_from_slice(ids);
        positions.extend(0..len as u32);
        outputs.push((start + len - 1) as u32);
    }
    outputs.reverse(); // results need not be in the order of rows
    let (positions, outputs) = (&positions[..], &outputs[..]);
    plan.run(&Batch { tokens: &tokens, positions, seqs: &seqs, outputs, ..Batch::default() }).map(<[f32]>::to_vec)
}

const ONE: Adapter = Adapter { index: 0, scale: 1.0 };
const TWO: Adapter = Adapter { index: 1, scale: -0.5 };

#[test]
fn company_changes_nothing() {
    let (a, b) = (sequence(1, 9), sequence(2, 40));
    let all: [(&[u32], &[Adapter]); 6] =
        [(&a, &[]), (&b, &[ONE]), (&a, &[ONE]), (&a, &[TWO, ONE]), (&b, &[]), (&b, &[TWO])];
    let cpus = Cpu::all();
    let mut alone = compile(cpus[0], 1, true);
    let want: Vec<f32> = all.iter().rev().flat_map(|s| run(&mut *alone, &[*s]).expect("logits")).collect();
    let mut plain = compile(cpus[0], 1, false);
    assert_eq!((alone.adapters(), plain.adapters()), (2, 0));
    assert_eq!(run(&mut *plain, &[all[0]]).expect("logits"), want[5 * VOCAB..], "no adapter");
    // All differ: each adapter does something.
    let rows: Vec<&[f32]> = want.chunks(VOCAB).collect();
    assert!((0..6).all(|i| (0..i).all(|j| rows[i] != rows[j])));
    for cpu in cpus {
        for threads in [1, 2] {
            let mut plan = compile(cpu, threads, true);
            let got = run(&mut *plan, &all).expect("logits");
            assert!(got.iter().zip(&want).all(|(g, w)| g.to_bits() == w.to_bits()), "{}", cpu.name());
        }
    }
}

#[test]
fn adapters_that_cannot_be_are_refused() {
    let ids = sequence(1, 5);
    let mut plan = compile(Cpu::all()[0], 1, true);
    for (adapters, why) in [
        (&[Adapter { index: 2, scale: 1.0 }][..], "an adapter does not exist"),
        (&[Adapter { index: u32::MAX, scale: 1.0 }], "an adapter does not exist"),
        (&[ONE, TWO, ONE], "a sequence has an adapter twice"),
    ] {
        let e = run(&mut *plan, &[(&ids, adapters)]).expect_err("refused").to_string();
        assert!(e.contains(why), "{e}");
    }
    assert!(run(&mut *compile(Cpu::all()[0], 1, false), &[(&ids, &[ONE])]).is_err());
}
