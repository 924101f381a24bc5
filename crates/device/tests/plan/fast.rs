//! Fast numerics: bfloat16 where the machine has a unit for it, for the weights for which it pays.

use crate::{Builder, LIMITS, Step, VOCAB, WIDTH, Weights, sequence};
use alula_device::{Cpu, CpuDevice, Device};
use alula_graph::{Binary, Graph, Index, NormKind, Op, Unary};
use alula_tensor::DType;
use std::collections::HashMap;

/// A value that products of quantised and of float weights share, in turns, twice.
fn model() -> (Graph, Weights) {
    let b = &mut Builder { graph: Graph::new(), weights: HashMap::new(), matrices: DType::F32 };
    let tokens = b.weight("tokens", DType::F32, &[VOCAB, WIDTH]);
    let norm = b.weight("norm", DType::F32, &[WIDTH]);
    let mut x = b.push(Op::Embed(Index::Tokens), &[], &[tokens]);
    for layer in 0..2 {
        let h = b.push(Op::Norm { kind: NormKind::Rms, eps: 1e-5 }, &[x], &[norm]);
        for (i, dtype) in [DType::Q8_0, DType::F32, DType::Q8_0, DType::BF16].into_iter().enumerate() {
            b.matrices = dtype;
            let y = b.matmul(h, &format!("{layer}.{i}"), WIDTH, false);
            let y = b.push(Op::Map(Unary::Scale(0.2)), &[y], &[]);
            x = b.push(Op::Zip(Binary::Add), &[x, y], &[]);
        }
    }
    let x = b.push(Op::Outputs, &[x], &[]);
    b.push(Op::MatMul, &[x], &[tokens]);
    (std::mem::take(&mut b.graph), Weights(std::mem::take(&mut b.weights)))
}

#[test]
fn fast_numerics_are_close_and_few_rows_are_strict() {
    let tokens = sequence(4, 100);
    let run = |cpu: Cpu, rows: usize| {
        let (graph, weights) = model();
        let device = CpuDevice::new(cpu, 2);
        let mut plan = device.compile(&graph, &weights, LIMITS, None, &mut |_, _| ()).expect("a plan");
        let mut step = Step::default();
        step.add(&tokens, 0..rows, &[0, 1]);
        step.run(&mut *plan).expect("a result")
    };
    for cpu in Cpu::all() {
        let (strict, fast) = (run(cpu, 100), run(cpu.fast(), 100));
        let power = |v: &mut dyn Iterator<Item = f32>| v.map(|v| f64::from(v).powi(2)).sum::<f64>();
        let error = power(&mut strict.iter().zip(&fast).map(|(a, b)| a - b)) / power(&mut strict.iter().copied());
        assert!(error < 1e-4, "{}: NMSE {error:e}", cpu.name());
        assert_eq!(error > 0.0, cpu.fast().bf16().is_some(), "{}", cpu.name());
        assert_eq!(run(cpu, 31), run(cpu.fast(), 31), "{}", cpu.name());
    }
}
