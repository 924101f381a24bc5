//! What a plan holds, and what cannot be had.

use crate::{HEADS, LIMITS, Step, WIDTH, Weights, compile, model, sequence};
use alula_device::{CacheType, Cpu, CpuDevice, Device, DeviceError, Limits, PAGE};
use alula_graph::{Graph, Index, Op, WeightSource, plan_arena};
use alula_kernels::{Ctx, Packed, Pool, QBlock, Scratch, interleave, interleaved};
use alula_tensor::{DType, Tensor};

fn device() -> CpuDevice {
    CpuDevice::new(Cpu::pick(None).expect("a level"), 2)
}

#[test]
fn numbers_are_those_of_what_is_held() {
    for matrices in [DType::F32, DType::Q8_0] {
        for limits in [LIMITS, Limits { tokens: 3, outputs: 7, cache: CacheType::F16, ..LIMITS }] {
            let (graph, weights) = model(matrices);
            let memory = compile(Cpu::all()[0], 2, matrices, limits).memory();
            let (heads, kv, dk, dv) = HEADS;
            let (pool, cpu) = (Pool::new(1), Cpu::all()[0]);
            // The table of positions is read where it lies; the tokens' is packed once for the last product.
            let held = graph.weights().iter().filter(|w| w.name != "positions").map(|w| {
                let t = weights.tensor(&w.name).expect("a weight");
                match w.shape[..] {
                    [n] => n * 4,
                    _ => Packed::new(Ctx { cpu, pool: &pool }, t.dtype(), t.rows(), t.cols(), t.bytes()).bytes(),
                }
            });
            assert_eq!(memory.weights, held.sum::<usize>());
            let element = if limits.cache == CacheType::F32 { 4 } else { 2 };
            let cached = kv * (dk + dv.next_multiple_of(16)) * element;
            assert_eq!(memory.cache, 2 * cached * PAGE * limits.pages);
            // The widest quantised input has 96 columns.
            let rows = limits.tokens.max(limits.outputs);
            let blocks = if matrices == DType::Q8_0 { QBlock::count(rows, 96) } else { 0 };
            let scratch = Scratch::new(2, limits.context, heads / kv, dk.max(dv)).expect("memory").bytes();
            let arena = plan_arena(&graph, limits.tokens, limits.outputs).len * 4;
            assert_eq!(memory.work, arena + blocks * size_of::<QBlock>() + scratch);
        }
    }
}

/// A plan that is made and run by threads whose memory is taken from nodes in turns.
#[test]
fn where_memory_lies_changes_no_bit() {
    let run = |placed: bool| {
        let test = move || {
            if placed && let Err(e) = interleave(&[0]) {
                println!("not placed: the system refuses: {e}");
            }
            let mut plan = compile(Cpu::pick(None).expect("a level"), 2, DType::Q8_0, LIMITS);
            let mut step = Step::default();
            step.add(&sequence(1, 130), 0..130, &[3, 1, 2]);
            (step.run(&mut *plan).expect("a result"), interleaved().unwrap_or_default())
        };
        std::thread::spawn(test).join().expect("no panic")
    };
    let ((plain, none), (placed, nodes)) = (run(false), run(true));
    assert!(plain == placed && none.is_empty());
    println!("placed on {nodes:?}");
}

#[test]
fn progress_ends_at_all_of_it() {
    let (graph, weights) = model(DType::Q8_0);
    let mut seen = Vec::new();
    device().compile(&graph, &weights, LIMITS, None, &mut |done, all| seen.push((done, all))).expect("a plan");
    let elements = |n: &alula_graph::Node| {
        n.weights.iter().map(|w| graph.weights()[w.0].shape.iter().product::<usize>() as u64).sum::<u64>()
    };
    let all = graph.nodes().iter().map(elements).sum();
    assert_eq!(seen.len(), graph.nodes().len());
    assert!(seen.is_sorted() && seen.iter().all(|s| s.1 == all));
    assert_eq!((seen[0].0, seen[seen.len() - 1].0), (elements(&graph.nodes()[0]), all));
}

#[test]
fn sizes_beyond_memory_are_errors() {
    let (graph, weights) = model(DType::BF16);
    let cases: [(Limits, &str); 6] = [
        (Limits { pages: usize::MAX, ..LIMITS }, "a cache of 18446744073709551615 pages"),
        (Limits { pages: 1 << 40, ..LIMITS }, "a cache of 1099511627776 pages"),
        (Limits { context: usize::MAX, ..LIMITS }, "a context of 18446744073709551615 positions"),
        (Limits { context: 1 << 50, ..LIMITS }, "a context of 1125899906842624 positions"),
        (Limits { tokens: usize::MAX, ..LIMITS }, "steps of 18446744073709551615 tokens"),
        (Limits { outputs: 1 << 50, ..LIMITS }, "steps of 160 tokens"),
    ];
    for (limits, what) in cases {
        match device().compile(&graph, &weights, limits, None, &mut |_, _| ()) {
            Err(e @ DeviceError::Memory { .. }) => assert!(e.to_string().contains(what), "{e}"),
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("{what} was had"),
        }
    }
}

#[test]
fn weights_that_are_missing_or_of_another_shape_are_named() {
    for (name, tensor, why) in [
        ("0.q", None, "weight `0.q`: it is missing"),
        ("1.norm.bias", None, "weight `1.norm.bias`: it is missing"),
        ("positions", Some(vec![WIDTH, 140]), "weight `positions`: its shape is [64, 140] in the file"),
        ("0.q", Some(vec![WIDTH * WIDTH]), "weight `0.q`: its shape is [4096] in the file"),
        ("1.norm", Some(vec![1, WIDTH]), "weight `1.norm`: its shape is [1, 64] in the file"),
    ] {
        let (graph, mut weights) = model(DType::F32);
        weights.0.remove(name);
        if let Some(shape) = tensor {
            let values = vec![0.5; shape.iter().product()];
            weights.0.insert(name.to_owned(), Tensor::from_f32(shape, &values).expect("a tensor"));
        }
        match device().compile(&graph, &weights, LIMITS, None, &mut |_, _| ()) {
            Err(e @ DeviceError::Weight { .. }) => assert!(e.to_string().contains(why), "{e}"),
            _ => panic!("{why}"),
        }
    }
}

#[test]
fn a_weight_that_is_used_twice_is_held_once() {
    let mut graph = Graph::new();
    let (t, w) = (graph.weight("t", &[4, 32]), graph.weight("w", &[32, 32]));
    let b = graph.weight("b", &[32]);
    let mut x = graph.push("x", Op::Embed(Index::Tokens), &[], &[t]).expect("a graph");
    for i in 0..3 {
        x = graph.push(format!("y{i}"), Op::MatMul, &[x], &[w, b]).expect("a graph");
    }
    let tensor =
        |shape: &[usize]| Tensor::from_f32(shape.to_vec(), &vec![0.25; shape.iter().product()]).expect("a tensor");
    let weights = [("t", &[4, 32][..]), ("w", &[32, 32]), ("b", &[32])].map(|(n, s)| (n.to_owned(), tensor(s)));
    let plan = device().compile(&graph, &Weights(weights.into()), LIMITS, None, &mut |_, _| ()).expect("a plan");
    assert_eq!(plan.memory().weights, 32 * 32 * 4 + 32 * 4);
}

#[test]
fn an_empty_graph_gives_nothing() {
    let mut plan = device().compile(&Graph::new(), &Weights([].into()), LIMITS, None, &mut |_, _| ()).expect("a plan");
    let mut step = crate::Step::default();
    step.add(&[1, 2], 0..2, &[0]);
    assert!(step.run(&mut *plan).expect("a result").is_empty());
    assert_eq!(plan.cols(), 0);
}
