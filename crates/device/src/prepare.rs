//! From a graph to the stages of a plan and the sizes of its memory.

use crate::cpu::CpuDevice;
use crate::divide::{Away, divide, token};
use crate::loader::Loader;
use crate::stage::{Linear, Low, Place, Stage, Step, join, link, networks, route};
use crate::state::State;
use crate::{DeviceError, Limits, Memory, Needs, available};
use alula_graph::{self as graph, Arena, Graph, Op, StateSpec, ValueId, WeightId, WeightSource, plan_arena};
use alula_kernels::{self as kernels, BTile, Ctx, ExpertScratch, QBlock, Scratch};

impl CpuDevice {
    /// The stages of a plan with the weights that the loader has, and the sizes of its scratches.
    pub(crate) fn prepare(
        &self,
        graph: &Graph,
        loader: &mut Loader<'_>,
        limits: Limits,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Prepared, DeviceError> {
        let arena = plan_arena(graph, limits.tokens, limits.outputs);
        let place = |v: ValueId| place(graph, &arena, v);
        let size =
            |w: &[WeightId]| w.iter().map(|w| graph.weights()[w.0].shape.iter().product::<usize>() as u64).sum::<u64>();
        let all: u64 = graph.nodes().iter().map(|n| size(&n.weights)).sum();
        let (mut done, mut widest_tiles, mut widest_blocks, mut group, mut dim) = (0, 0, 0, 1, 1);
        let (mut sorted, mut gathered, mut input, mut adapters) = (ExpertScratch::default(), 0, 0, 0);
        let mut stages: Vec<Stage> = Vec::with_capacity(graph.nodes().len());
        for node in graph.nodes() {
            let w = |i: usize| node.weights.get(i).copied();
            let inputs: Vec<Place> = node.inputs.iter().map(|&v| place(v)).collect();
            let output = place(node.output);
            let step = match &node.op {
                Op::Embed(index) => Step::Embed(*index, loader.table(node.weights[0])?),
                Op::MatMul => {
                    let matrix = loader.matrix(node.weights[0])?;
                    if self.cpu.bf16().is_some_and(|unit| unit.pays(matrix.quantized())) {
                        widest_tiles = widest_tiles.max(matrix.cols());
                    }
                    if matrix.quantized() {
                        widest_blocks = widest_blocks.max(matrix.cols());
                    }
                    let bias = w(1).map(|b| loader.vector(b)).transpose()?;
                    Step::MatMul { linears: vec![Linear { matrix, bias, out: output }], quantize: true, round: true }
                }
                Op::Norm { kind, eps } => Step::Norm {
                    kind: match kind {
                        graph::NormKind::Rms => kernels::NormKind::Rms,
                        graph::NormKind::Layer => kernels::NormKind::Layer,
                    },
                    eps: *eps,
                    width: loader.shape(node.weights[0]).last().copied().unwrap_or(1),
                    weight: loader.vector(node.weights[0])?,
                    bias: w(1).map(|b| loader.vector(b)).transpose()?,
                },
                Op::RopeTable(t) => Step::RopeTable(t.clone()),
                Op::Temperature(t) => Step::Temperature(*t),
                Op::Rope { style, head_dim } => Step::Rope {
                    style: match style {
                        graph::RopeStyle::Halves => kernels::RopeStyle::Halves,
                        graph::RopeStyle::Pairs => kernels::RopeStyle::Pairs,
                    },
                    head_dim: *head_dim,
                },
                Op::Attend { state, heads, scale, soft_cap, causal } => {
                    let StateSpec::Paged { heads: kv, window, key_dim, value_dim, .. } = graph.states()[*state] else {
                        unreachable!("a graph's attention has pages")
                    };
                    group = group.max(heads / kv);
                    dim = dim.max(key_dim).max(value_dim);
                    let (heads, scale, soft_cap, causal) = (*heads, *scale, *soft_cap, *causal);
                    let window = window.map(|w| match w {
                        graph::Window::Sliding(n) => kernels::Window::Sliding(n),
                        graph::Window::Chunked { chunk } => kernels::Window::Chunked(chunk),
                    });
                    let attend = kernels::Attend { heads, scale, window, soft_cap, causal };
                    Step::Attend { state: *state, attend }
                }
                Op::Map(f) => Step::Map(unary(*f)),
                Op::Zip(graph::Binary::Add) => Step::Zip(kernels::Binary::Add),
                Op::Zip(graph::Binary::Mul) => Step::Zip(kernels::Binary::Mul),
                Op::Glu(f) => Step::Glu(unary(*f)),
                Op::Outputs => Step::Outputs,
                Op::Softmax => Step::Softmax,
                Op::Route(r) => Step::Route { route: route(r), bias: w(0).map(|b| loader.vector(b)).transpose()? },
                Op::Experts { act, before } => {
                    let all = loader.alike(&node.weights, node.weights.len() / 3)?;
                    let all: Result<[_; 3], _> = all.try_into();
                    let Ok(all) = all else { unreachable!("three matrices of each expert") };
                    let act = (unary(*act), *before);
                    sorted.include(&networks(act, &all), limits.tokens, inputs[1].cols / 2);
                    if !loader.is_sketch() && all.iter().flatten().any(|m| m.is_absent()) {
                        sorted.in_turns();
                    }
                    Step::Experts(act, all)
                }
                Op::Parts => {
                    let all = loader.alike(&node.weights, node.weights.len())?.remove(0);
                    gathered = gathered.max(kernels::parts_scratch(&all, limits.tokens));
                    if all[0].quantized() {
                        widest_blocks = widest_blocks.max(all[0].cols().next_multiple_of(256) * all.len());
                    }
                    Step::Parts(all)
                }
                Op::Input(cols) => {
                    input = *cols;
                    Step::Input
                }
                Op::Concat { heads } => Step::Concat(*heads),
                Op::Mean => Step::Mean,
                Op::Lora(parts) => {
                    let each = node.weights.len() / parts.len();
                    let mut all = Vec::with_capacity(parts.len());
                    for (p, w) in parts.iter().zip(node.weights.chunks_exact(each)) {
                        let a = if each > 1 { Some(loader.low(w[0])?) } else { None };
                        let low = Low { adapter: p.adapter, scale: p.scale, a, b: loader.low(w[each - 1])? };
                        gathered = gathered.max(low.kernel().scratch(limits.tokens.max(limits.outputs)));
                        adapters = adapters.max(p.adapter + 1);
                        all.push(low);
                    }
                    Step::Lora(all)
                }
                Op::Conv { state } => {
                    let taps = loader.shape(node.weights[0])[1];
                    let bias = w(1).map(|b| loader.vector(b)).transpose()?;
                    let conv = kernels::Conv::new(taps, &loader.vector(node.weights[0])?, bias.as_deref());
                    Step::Conv { state: *state, conv }
                }
                Op::Scan { state, heads, groups } => {
                    let (a, d) = (loader.vector(node.weights[0])?, loader.vector(node.weights[1])?);
                    let (dim, n) = (inputs[0].cols / heads, inputs[2].cols / groups);
                    Step::Scan { state: *state, scan: kernels::Scan::new(*heads, *groups, dim, n, &a, &d) }
                }
            };
            let stage = Stage { step, inputs, output, blocks: false };
            if let Some(stage) = join(stages.last_mut(), stage, limits) {
                stages.push(stage);
            }
            done += size(&node.weights);
            progress(done, all);
        }
        let mut uses = vec![0; graph.values().len()];
        graph.nodes().iter().flat_map(|n| &n.inputs).chain(graph.kept()).for_each(|v| uses[v.0] += 1);
        link(&mut stages, &uses);
        Ok(Prepared { stages, arena, widest_tiles, widest_blocks, group, dim, sorted, gathered, input, adapters })
    }

    /// Bytes of a plan's scratches, and of its cache.
    pub(crate) fn sizes(&self, graph: &Graph, p: &Prepared, limits: Limits) -> [usize; 2] {
        let cache = graph.states().iter().fold(0, |sum: usize, s| sum.saturating_add(State::bytes(*s, limits)));
        let (rows, seen) = (limits.tokens.max(limits.outputs), if paged(graph) { limits.context } else { 0 });
        let all = [
            p.arena.len.saturating_mul(4),
            QBlock::count(rows, p.widest_blocks).saturating_mul(size_of::<QBlock>()),
            BTile::count(rows, p.widest_tiles).saturating_mul(size_of::<BTile>()),
            Scratch::size(self.pool.threads(), seen, p.group, p.dim).unwrap_or(usize::MAX),
            p.gathered.saturating_mul(4),
            p.sorted.bytes(),
        ];
        [all.into_iter().fold(0, usize::saturating_add), cache]
    }

    /// What is fetched, if not everything fits, and what all takes.
    pub(crate) fn divide(
        &self,
        graph: &Graph,
        source: &dyn WeightSource,
        limits: Limits,
    ) -> Result<(Option<Away>, Needs), DeviceError> {
        let ctx = Ctx { cpu: self.cpu, pool: &self.pool };
        let mut loader = Loader::sketch(ctx, graph, source);
        let mut prepared = self.prepare(graph, &mut loader, limits, &mut |_, _| {})?;
        let [work, cache] = self.sizes(graph, &prepared, limits);
        prepared.sorted.in_turns();
        let more = self.sizes(graph, &prepared, limits)[0] - work;
        let size = |w: WeightId| loader.size(w);
        let mut matrices: Vec<WeightId> = graph.nodes().iter().flat_map(|n| n.matrices()).copied().collect();
        matrices.sort_unstable_by_key(|w| w.0);
        matrices.dedup();
        // Vectors, and the matrices of adapters.
        let others = loader.weights.saturating_sub(matrices.into_iter().map(size).fold(0, usize::saturating_add));
        let fixed = work.saturating_add(cache).saturating_add(others);
        // Of what the machine has, something is left for others.
        let budget = self.memory.or(available().map(|n| n / 10 * 9)).unwrap_or(usize::MAX);
        let away = match divide(graph, source, &size, (fixed, more), budget) {
            // What the machine has is a guess, and caches take memory only as they fill.
            Err(_) if self.memory.is_none() => None,
            away => away?,
        };
        let mut memory = Memory { weights: loader.weights, cache, work, ..Memory::default() };
        if let Some(a) = &away {
            memory.weights -= a.bytes;
            (memory.work, memory.fetched, memory.room) = (work + more, a.bytes, a.room);
        }
        let [token, token_fetched] = token(graph, &size, away.as_ref());
        Ok((away, Needs { memory, token, token_fetched }))
    }
}

/// Whether anything keeps pages.
pub(crate) fn paged(graph: &Graph) -> bool {
    graph.states().iter().any(|s| matches!(s, StateSpec::Paged { .. }))
}

/// Where a value lies.
pub(crate) fn place(graph: &Graph, arena: &Arena, v: ValueId) -> Place {
    let shape = graph.shape(v);
    Place { value: v.0, start: arena.offsets[v.0], rows: shape.rows, cols: shape.cols }
}

/// A plan's stages, and the elements of its scratches.
pub(crate) struct Prepared {
    pub(crate) stages: Vec<Stage>,
    pub(crate) arena: Arena,
    pub(crate) widest_tiles: usize,
    pub(crate) widest_blocks: usize,
    pub(crate) group: usize,
    pub(crate) dim: usize,
    pub(crate) sorted: ExpertScratch,
    pub(crate) gathered: usize,
    pub(crate) input: usize,
    pub(crate) adapters: usize,
}

fn unary(f: graph::Unary) -> kernels::Unary {
    match f {
        graph::Unary::Relu => kernels::Unary::Relu,
        graph::Unary::Relu2 => kernels::Unary::Relu2,
        graph::Unary::GeluQuick => kernels::Unary::GeluQuick,
        graph::Unary::Sigmoid => kernels::Unary::Sigmoid,
        graph::Unary::Silu => kernels::Unary::Silu,
        graph::Unary::Gelu => kernels::Unary::Gelu,
        graph::Unary::GeluTanh => kernels::Unary::GeluTanh,
        graph::Unary::Scale(k) => kernels::Unary::Scale(k),
        graph::Unary::SoftCap(c) => kernels::Unary::SoftCap(c),
        graph::Unary::Softplus => kernels::Unary::Softplus,
        graph::Unary::Clamp(lo, hi) => kernels::Unary::Clamp(lo, hi),
    }
}
