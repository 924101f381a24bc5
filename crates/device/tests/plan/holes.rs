//! Page tables may have holes where no row sees a page, and nowhere else.

use crate::{Builder, LIMITS, Step, VOCAB, WIDTH, Weights, sequence};
use alula_device::{Cpu, CpuDevice, Device, DeviceError, HOLE, Plan};
use alula_graph::{Binary, Graph, Index, NormKind, Op, StateSpec, Window};
use alula_tensor::DType;
use std::collections::HashMap;

/// Layers of attention with these windows.
fn model(windows: &[Option<Window>]) -> (Graph, Weights) {
    let b = &mut Builder { graph: Graph::new(), weights: HashMap::new(), matrices: DType::F32 };
    let tokens = b.weight("tokens", DType::F32, &[VOCAB, WIDTH]);
    let mut x = b.push(Op::Embed(Index::Tokens), &[], &[tokens]);
    for (layer, &window) in windows.iter().enumerate() {
        let name = |part: &str| format!("{layer}.{part}");
        let state = b.graph.state(StateSpec::Paged { heads: 2, key_dim: 8, value_dim: 8, shared: false, window });
        let w = b.weight(&name("norm"), DType::F32, &[WIDTH]);
        let h = b.push(Op::Norm { kind: NormKind::Rms, eps: 1e-5 }, &[x], &[w]);
        let [q, k, v] = ["q", "k", "v"].map(|part| b.matmul(h, &name(part), 16, false));
        let y = b.push(Op::Attend { state, heads: 2, scale: 0.3, soft_cap: None, causal: true }, &[q, k, v], &[]);
        let y = b.matmul(y, &name("o"), WIDTH, false);
        x = b.push(Op::Zip(Binary::Add), &[x, y], &[]);
    }
    let x = b.push(Op::Outputs, &[x], &[]);
    b.push(Op::MatMul, &[x], &[tokens]);
    (std::mem::take(&mut b.graph), Weights(std::mem::take(&mut b.weights)))
}

fn compile(windows: &[Option<Window>], cpu: Cpu) -> Box<dyn Plan> {
    let (graph, weights) = model(windows);
    CpuDevice::new(cpu, 2).compile(&graph, &weights, LIMITS, None, &mut |_, _| ()).expect("a plan")
}

#[test]
fn holes_are_where_nothing_is_seen() {
    let tokens = sequence(1, 150);
    let run = |plan: &mut dyn Plan, range, pages: &[u32]| {
        let mut step = Step::default();
        step.add(&tokens, range, pages);
        step.run(plan)
    };
    let sliding = [9, 40].map(Window::Sliding);
    let chunked = [9, 40].map(|chunk| Window::Chunked { chunk });
    for (cpu, [near, far]) in Cpu::all().into_iter().flat_map(|cpu| [(cpu, sliding), (cpu, chunked)]) {
        let mut plan = compile(&[Some(near), Some(far)], cpu);
        assert_eq!(plan.window(), Some(40));
        let want = run(&mut *plan, 0..150, &[3, 1, 2]).expect("a result");
        run(&mut *plan, 0..150, &[7, 8, 6]).expect("a result");
        // The row at 102 sees the last position of the first page still.
        for (range, pages) in [(102..120, [7, 8, 6]), (103..140, [HOLE, 8, 6]), (140..150, [HOLE, 8, 6])] {
            let got = run(&mut *plan, range.clone(), &pages).expect("a result");
            assert!(got == want[range.start * VOCAB..range.end * VOCAB], "{}: {range:?}", cpu.name());
        }
        for (range, pages) in [(102..120, [HOLE, 8, 6]), (110..140, [HOLE, 9, 6]), (110..140, [HOLE, 8, HOLE])] {
            match run(&mut *plan, range, &pages) {
                Err(DeviceError::Batch(e)) => assert!(e.contains("a page does not exist"), "{e}"),
                _ => panic!("{pages:?} is no table"),
            }
        }
    }
    assert_eq!(compile(&[Some(sliding[0]), None], Cpu::all()[0]).window(), None);
}
