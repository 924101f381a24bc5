//! Plans with less memory than their weights take: the same bits, whatever had to be fetched.

use crate::{Builder, LIMITS, Step, VOCAB, WIDTH, Weights, sequence};
use alula_device::{Cpu, CpuDevice, Device, DeviceError, Limits, Memory, Needs, Plan};
use alula_graph::{Binary, Graph, Index, NormKind, Op, Route, Unary};
use alula_tensor::{DType, Storage, Tensor};
use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

const LAYERS: usize = 3;
const EXPERTS: usize = 8;
/// Columns between: a layer's products are large enough to be worth fetching.
const INNER: usize = 1024;
const SMALL: Limits = Limits { tokens: 40, outputs: 40, pages: 2, ..LIMITS };

/// A model of mixtures and plain networks, whose weights lie in a mapped file.
fn model(matrices: DType, name: &str) -> (Graph, Weights, PathBuf) {
    let b = &mut Builder { graph: Graph::new(), weights: HashMap::new(), matrices };
    let tokens = b.weight("tokens", DType::F32, &[VOCAB, WIDTH]);
    let mut x = b.push(Op::Embed(Index::Tokens), &[], &[tokens]);
    for layer in 0..LAYERS {
        let norm = b.weight("norm", DType::F32, &[WIDTH]);
        let h = b.push(Op::Norm { kind: NormKind::Rms, eps: 1e-5 }, &[x], &[norm]);
        let router = b.weight(&format!("{layer}.router"), DType::F32, &[EXPERTS, WIDTH]);
        let logits = b.push(Op::MatMul, &[h], &[router]);
        // In the last layer, experts are chosen by logits, and weights are factors on what goes in.
        let sigmoid = layer == LAYERS - 1;
        let scores = if sigmoid { logits } else { b.push(Op::Softmax, &[logits], &[]) };
        let route = Route { used: 2, groups: None, normalise: true, scale: 0.1, sigmoid };
        let routes = b.push(Op::Route(route), &[scores], &[]);
        let mut w = Vec::new();
        for (part, shape) in [("gate", [INNER, WIDTH]), ("up", [INNER, WIDTH]), ("down", [WIDTH, INNER])] {
            // Of mixed types, which take memory of mixed sizes.
            let dtype = if part == "down" && layer == 1 { DType::F32 } else { matrices };
            w.extend((0..EXPERTS).map(|e| b.weight(&format!("{layer}.{part}.{e}"), dtype, &shape)));
        }
        let y = b.push(Op::Experts { act: Unary::Silu, before: sigmoid }, &[h, routes], &w);
        x = b.push(Op::Zip(Binary::Add), &[x, y], &[]);
        let (gate, up) = (
            b.matmul(x, &format!("{layer}.g"), 8 * INNER, false),
            b.matmul(x, &format!("{layer}.u"), 8 * INNER, false),
        );
        let y = b.push(Op::Glu(Unary::Silu), &[gate, up], &[]);
        let y = b.matmul(y, &format!("{layer}.d"), WIDTH, true);
        let y = b.push(Op::Map(Unary::Scale(0.01)), &[y], &[]);
        x = b.push(Op::Zip(Binary::Add), &[x, y], &[]);
    }
    let x = b.push(Op::Outputs, &[x], &[]);
    b.push(Op::MatMul, &[x], &[tokens]);
    let path = std::env::temp_dir().join(format!("alula-streamed-{name}-{}", std::process::id()));
    let (mut file, mut at) = (std::fs::File::create(&path).expect("a file"), 0);
    let mut places = Vec::new();
    for (name, t) in std::mem::take(&mut b.weights) {
        // At odd places, as files have them.
        file.write_all(&[0; 6]).and_then(|()| file.write_all(t.bytes())).expect("written");
        places.push((name, t.dtype(), t.shape().to_vec(), at + 6..at + 6 + t.bytes().len()));
        at += 6 + t.bytes().len();
    }
    let storage = Storage::map(&path).expect("mapped");
    let tensor = |(name, dtype, shape, range): (String, _, _, std::ops::Range<usize>)| {
        // The table is read where it lies, which a test that cuts the file would not survive.
        let (storage, range) = match name.as_str() {
            "tokens" => (Storage::from(storage[range.clone()].to_vec()), 0..range.len()),
            _ => (storage.clone(), range),
        };
        (name, Tensor::new(dtype, shape, storage, range).expect("a tensor"))
    };
    (std::mem::take(&mut b.graph), Weights(places.into_iter().map(tensor).collect()), path)
}

/// The least memory with which the model runs, above `from`, and what is where.
fn least(graph: &Graph, weights: &Weights, from: usize) -> (usize, Memory) {
    let needs = |bytes| {
        let device = CpuDevice::new(Cpu::all()[0], 2).within(bytes);
        let Needs { memory, token, token_fetched } = device.needs(graph, weights, SMALL).ok()?;
        assert!(token_fetched < token && memory.total() <= bytes && (token_fetched > 0) == (memory.fetched > 0));
        Some((bytes, memory))
    };
    (from..).step_by(1 << 20).find_map(needs).expect("enough")
}

fn run(plan: &mut dyn Plan, tokens: &[u32], piece: usize) -> Vec<u32> {
    let mut out = Vec::new();
    for start in (0..tokens.len()).step_by(piece) {
        let mut step = Step::default();
        step.add(tokens, start..tokens.len().min(start + piece), &[0, 1]);
        out.extend(step.run(plan).expect("a result").iter().map(|v| v.to_bits()));
    }
    out
}

#[test]
fn with_little_memory_the_bits_are_the_same() {
    for matrices in [DType::Q8_0, DType::BF16] {
        let (graph, weights, path) = model(matrices, &format!("{matrices}"));
        let tokens = sequence(3, 40);
        let whole = CpuDevice::new(Cpu::all()[0], 1).within(1 << 40);
        let mut plan = whole.compile(&graph, &weights, SMALL, None, &mut |_, _| ()).expect("a plan");
        let all = plan.memory();
        assert_eq!((all.fetched, all.room, plan.traffic()), (0, 0, None));
        let want = run(&mut *plan, &tokens, 40);
        let (tightest, memory) = least(&graph, &weights, 0);
        assert!(memory.fetched > memory.room && memory.weights + memory.fetched == all.weights, "{memory:?}");
        // With the least, where products are fetched too; with some more; and with so much that only experts are.
        let (roomy, most) = least(&graph, &weights, tightest + (memory.fetched - memory.room) / 2);
        assert!(most.room > memory.room);
        let mut ways = [(2, 1), (1, 7), (2, 40)].into_iter().cycle();
        for (bytes, cpu) in Cpu::all().into_iter().flat_map(|cpu| [tightest, roomy].map(|b| (b, cpu))) {
            let (threads, piece) = ways.next().expect("endless");
            let device = CpuDevice::new(cpu, threads).within(bytes);
            let mut plan = device.compile(&graph, &weights, SMALL, None, &mut |_, _| ()).expect("a plan");
            for round in 0..2 {
                assert_eq!(run(&mut *plan, &tokens, piece), want, "{matrices}, {bytes}, {}, {round}", cpu.name());
            }
            let t = plan.traffic().expect("it fetches");
            assert!(t.read > 0 && t.wanted >= t.found + t.ahead, "{t:?}");
        }
        std::fs::remove_file(path).expect("removed");
    }
}

/// Without enough memory nothing is loaded; a file that became shorter is an error of the step, and of each later one.
#[test]
fn what_cannot_be_is_said() {
    let (graph, weights, path) = model(DType::Q8_0, "errors");
    let compile = |bytes| {
        let device = CpuDevice::new(Cpu::all()[0], 2).within(bytes);
        device.compile(&graph, &weights, SMALL, None, &mut |_, _| ())
    };
    match compile(1 << 20) {
        Err(DeviceError::Budget { budget, least }) => assert!(budget < least),
        _ => panic!("with a megabyte"),
    }
    let mut plan = compile(least(&graph, &weights, 0).0).expect("a plan");
    let tokens = sequence(3, 20);
    run(&mut *plan, &tokens, 20);
    let file = std::fs::File::options().write(true).open(&path).expect("opened");
    file.set_len(4096).expect("cut");
    let mut step = Step::default();
    step.add(&tokens, 0..20, &[0, 1]);
    for _ in 0..2 {
        match step.run(&mut *plan) {
            Err(DeviceError::Weight { why, .. }) => assert!(why.contains("cannot be read"), "{why}"),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }
    std::fs::remove_file(path).expect("removed");
}

/// A file with holes may be larger than any memory.
#[cfg(target_os = "linux")]
#[test]
fn what_no_memory_holds_is_said() {
    const LEN: usize = 1 << 43;
    let path = std::env::temp_dir().join(format!("alula-holes-{}", std::process::id()));
    let file = std::fs::File::create(&path).expect("a file");
    let storage = file.set_len(LEN as u64).and_then(|()| Storage::map(&path));
    std::fs::remove_file(&path).expect("removed");
    let Ok(storage) = storage else { return }; // not every file system has such files
    let wide = Tensor::new(DType::F32, vec![1, LEN / 4], storage, 0..LEN).expect("a tensor");
    let mut graph = Graph::new();
    let input = graph.push("x", Op::Input(LEN / 4), &[], &[]).expect("a value");
    let w = graph.weight("wide", wide.shape());
    graph.push("y", Op::MatMul, &[input], &[w]).expect("a value");
    let weights = Weights(HashMap::from([("wide".to_owned(), wide)]));
    match CpuDevice::new(Cpu::all()[0], 1).compile(&graph, &weights, SMALL, None, &mut |_, _| ()) {
        Err(DeviceError::Weight { name, why }) => assert!(name == "wide" && why.contains("no memory"), "{why}"),
        other => panic!("{:?}", other.err()),
    }
}
