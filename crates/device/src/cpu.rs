//! The CPU device.

use crate::cores::{bind, cores};
use crate::divide::{Away, divide, token};
use crate::kept::Saving;
use crate::loader::Loader;
use crate::lora::Adapted;
use crate::stage::{JOINED, Linear, Low, Place, Stage, Step, join, link, networks, route};
use crate::state::{Slots, State};
use crate::stream::{Stream, here};
use crate::{Batch, Device, DeviceError, Keep, Limits, Memory, Needs, PAGE, Plan, Traffic, available};
use alula_graph::{self as graph, Arena, Graph, Index, Op, StateSpec, ValueId, WeightId, WeightSource, plan_arena};
use alula_kernels::{
    self as kernels, BTile, Buf, Ceilings, Ctx, ExpertScratch, Input, Pool, Product, QBlock, Rows, Runs, Scratch,
    Source, TILED, zeros,
};
use alula_simd::Cpu;
use std::array::from_fn;
use std::sync::Arc;

/// The processor's cores.
pub struct CpuDevice {
    cpu: Cpu,
    pool: Arc<Pool>,
    memory: Option<usize>,
}

impl CpuDevice {
    /// A device with `threads` threads at the level of `cpu`.
    pub fn new(cpu: Cpu, threads: usize) -> CpuDevice {
        CpuDevice { cpu, pool: Arc::new(Pool::new(threads)), memory: None }
    }

    /// The same with each thread bound to a physical core of its own, the caller's, which is to run the plans, among them.
    /// Threads that the caller starts later are bound as it is.
    ///
    /// # Errors
    /// There are fewer cores than threads, or the system cannot do it; the caller's thread may then be bound to one.
    pub fn bound(cpu: Cpu, threads: usize) -> Result<CpuDevice, DeviceError> {
        let cores = cores();
        let none = |why: String| DeviceError::Bind { threads, why };
        let Some(cores) = cores.get(..threads.max(1)) else {
            return Err(none(format!(
                "the cores that this process may use are {}; ask for no more threads",
                cores.len()
            )));
        };
        let pool = bound(cores).map_err(|e| none(format!("the system says: {e}; leave it to the system")))?;
        Ok(CpuDevice { cpu, pool: Arc::new(pool), memory: None })
    }

    /// The same with plans that take so many bytes at most. Weights that do not fit are fetched from their files when they are
    /// needed. Without, it is what the machine has when a plan is made.
    pub fn within(self, bytes: usize) -> CpuDevice {
        CpuDevice { memory: Some(bytes), ..self }
    }

    /// What the machine can do at most at this level, measured now.
    pub fn ceilings(&self) -> Ceilings {
        kernels::ceilings(Ctx { cpu: self.cpu, pool: &self.pool })
    }
}

/// A pool with a thread for each core, bound to it; the first is the caller's.
pub(crate) fn bound(cores: &[Vec<usize>]) -> std::io::Result<Pool> {
    let mut done = Ok(());
    let pool = Pool::prepared(cores.len(), |i| {
        if done.is_ok() {
            done = bind(&cores[i]);
        }
    });
    done.and_then(|()| bind(&cores[0]))?;
    Ok(pool)
}

impl CpuDevice {
    /// The stages of a plan with the weights that the loader has, and the sizes of its scratches.
    fn prepare(
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
        let (mut done, mut widest, mut widest_blocks, mut group, mut dim) = (0, 0, 0, 1, 1);
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
                    widest = widest.max(matrix.cols());
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
                Op::Experts(f) => {
                    let all = loader.alike(&node.weights, node.weights.len() / 3)?;
                    let all: Result<[_; 3], _> = all.try_into();
                    let Ok(all) = all else { unreachable!("three matrices of each expert") };
                    sorted.include(&networks(unary(*f), &all), limits.tokens, inputs[1].cols / 2);
                    if !loader.is_sketch() && all.iter().flatten().any(|m| m.is_absent()) {
                        sorted.in_turns();
                    }
                    Step::Experts(unary(*f), all)
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
        Ok(Prepared { stages, arena, widest, widest_blocks, group, dim, sorted, gathered, input, adapters })
    }

    /// Bytes of a plan's scratches, and of its cache.
    fn sizes(&self, graph: &Graph, p: &Prepared, limits: Limits) -> [usize; 2] {
        let cache = graph.states().iter().fold(0, |sum: usize, s| sum.saturating_add(State::bytes(*s, limits)));
        let (rows, seen) = (limits.tokens.max(limits.outputs), if paged(graph) { limits.context } else { 0 });
        let tiles = if self.cpu.bf16().is_some() { BTile::count(rows, p.widest) } else { 0 };
        let all = [
            p.arena.len.saturating_mul(4),
            QBlock::count(rows, p.widest_blocks).saturating_mul(size_of::<QBlock>()),
            tiles.saturating_mul(size_of::<BTile>()),
            Scratch::size(self.pool.threads(), seen, p.group, p.dim).unwrap_or(usize::MAX),
            p.gathered.saturating_mul(4),
            p.sorted.bytes(),
        ];
        [all.into_iter().fold(0, usize::saturating_add), cache]
    }

    /// What is fetched, if not everything fits, and what all takes.
    fn divide(
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
fn paged(graph: &Graph) -> bool {
    graph.states().iter().any(|s| matches!(s, StateSpec::Paged { .. }))
}

/// Where a value lies.
fn place(graph: &Graph, arena: &Arena, v: ValueId) -> Place {
    let shape = graph.shape(v);
    Place { value: v.0, start: arena.offsets[v.0], rows: shape.rows, cols: shape.cols }
}

/// A plan's stages, and the elements of its scratches.
struct Prepared {
    stages: Vec<Stage>,
    arena: Arena,
    widest: usize,
    widest_blocks: usize,
    group: usize,
    dim: usize,
    sorted: ExpertScratch,
    gathered: usize,
    input: usize,
    adapters: usize,
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        let fast = if self.cpu.bf16().is_some() { ", fast numerics" } else { "" };
        let n = self.pool.threads();
        format!("cpu ({}, {n} thread{}{fast})", self.cpu.name(), if n == 1 { "" } else { "s" })
    }

    fn supports(&self, _: &Op) -> bool {
        true
    }

    fn needs(&self, graph: &Graph, source: &dyn WeightSource, limits: Limits) -> Result<Needs, DeviceError> {
        self.divide(graph, source, limits).map(|(_, needs)| needs)
    }

    fn compile(
        &self,
        graph: &Graph,
        source: &dyn WeightSource,
        limits: Limits,
        keep: Option<&Keep>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Box<dyn Plan>, DeviceError> {
        let ctx = Ctx { cpu: self.cpu, pool: &self.pool };
        let (away, Needs { memory, .. }) = self.divide(graph, source, limits)?;
        let keep = keep.filter(|_| away.is_none());
        let mut loader = Loader::new(ctx, graph, source, keep);
        let room = away.map(|a| {
            loader.leave(a.ids);
            a.room
        });
        let prepared = self.prepare(graph, &mut loader, limits, progress)?;
        let stream = room.map(|room| Stream::new(self.cpu, graph, &prepared.stages, &mut loader, room)).transpose()?;
        let Prepared { stages, arena, widest, widest_blocks, group, dim, mut sorted, gathered, input, adapters } =
            prepared;
        let none = || {
            let (Limits { pages, slots, .. }, cache) = (limits, memory.cache);
            DeviceError::Memory { what: format!("a cache of {pages} pages and {slots} slots ({cache} bytes)") }
        };
        let states = graph.states().iter().map(|s| State::new(*s, limits).ok_or_else(none));
        let states = states.collect::<Result<Vec<State>, _>>()?;
        let paged = paged(graph);
        let written = zeros(if paged { limits.pages } else { 0 }).ok_or_else(none)?;
        let fixed = states.iter().any(|s| matches!(s, State::Fixed(_)));
        let slots = Slots::new(zeros(if fixed { limits.slots } else { 0 }).ok_or_else(none)?);
        let threads = self.pool.threads();
        let none = || DeviceError::Memory { what: format!("a context of {} positions", limits.context) };
        let scratch = Scratch::new(threads, if paged { limits.context } else { 0 }, group, dim).ok_or_else(none)?;
        let none = || DeviceError::Memory { what: format!("steps of {} tokens", limits.tokens) };
        let rows = limits.tokens.max(limits.outputs);
        let blocks: Vec<QBlock> = zeros(QBlock::count(rows, widest_blocks)).ok_or_else(none)?;
        let tiles = if self.cpu.bf16().is_some() { BTile::count(rows, widest) } else { 0 };
        let tiles: Vec<BTile> = zeros(tiles).ok_or_else(none)?;
        let row_seq = zeros(limits.tokens).ok_or_else(none)?;
        let kept = graph.kept().iter().map(|&v| place(graph, &arena, v)).collect();
        let arena = arena.len.checked_mul(4).and_then(Buf::try_zeroed).ok_or_else(none)?;
        let gathered = gathered.checked_mul(4).and_then(Buf::try_zeroed).ok_or_else(none)?;
        sorted.allocate().ok_or_else(none)?;
        let saving = keep.and_then(|keep| keep.save(loader.fresh));
        let (cpu, pool) = (self.cpu, Arc::clone(&self.pool));
        Ok(Box::new(CpuPlan {
            cpu,
            pool,
            limits,
            memory,
            stages,
            stream,
            states,
            arena,
            blocks,
            tiles,
            scratch,
            gathered,
            sorted,
            row_seq,
            written,
            input,
            adapters,
            kept,
            ran: (0, 0),
            whole: graph.nodes().iter().any(|n| n.op.whole()),
            paged,
            slots: fixed.then_some(slots),
            saving,
        }))
    }
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

struct CpuPlan {
    cpu: Cpu,
    pool: Arc<Pool>,
    limits: Limits,
    memory: Memory,
    stages: Vec<Stage>,
    /// What fetches weights, if not all are in memory.
    stream: Option<Stream>,
    states: Vec<State>,
    arena: Buf,
    blocks: Vec<QBlock>,
    tiles: Vec<BTile>,
    scratch: Scratch,
    /// Parts of rows that lie together; what adapters make.
    gathered: Buf,
    /// Rows by their experts.
    sorted: ExpertScratch,
    row_seq: Vec<u32>,
    /// For each page, the places that the step writes: a bit per position.
    written: Vec<u64>,
    /// Columns that the caller gives.
    input: usize,
    /// Adapters that sequences may have.
    adapters: usize,
    kept: Vec<Place>,
    /// Tokens and outputs of the last run.
    ran: (usize, usize),
    /// Sequences must be whole in a step.
    whole: bool,
    /// Whether any layer keeps pages.
    paged: bool,
    /// Where layers keep states of fixed size.
    slots: Option<Slots>,
    /// Held until the packed weights are kept.
    #[expect(dead_code, reason = "it is there to be dropped")]
    saving: Option<Saving>,
}

impl CpuPlan {
    /// Everything that a kernel relies on, and that no row's key takes the place of another's.
    fn check(&mut self, batch: &Batch<'_>) -> Result<(), String> {
        let (n, limits) = (batch.tokens.len(), self.limits);
        let require = |ok: bool, why: &str| if ok { Ok(()) } else { Err(why.to_owned()) };
        require(n > 0 && n <= limits.tokens, "the number of tokens is 0 or over the plan's limit")?;
        require(batch.positions.len() == n, "there must be one position per token")?;
        require(batch.types.is_empty() || batch.types.len() == n, "there must be one type per token, or none")?;
        require(batch.outputs.len() <= limits.outputs, "there are more outputs than the plan's limit")?;
        require(batch.outputs.iter().all(|&o| (o as usize) < n), "an output is not a row")?;
        require(batch.hidden.len() == n * self.input, "the given values are not a row of the graph's input per token")?;
        let mut row = 0;
        for s in batch.seqs {
            require(s.start == row && s.len > 0 && s.len <= n - row, "sequences must cover the rows in order")?;
            let positions = &batch.positions[row..row + s.len];
            let first = positions[0];
            let ascending = positions.iter().enumerate().all(|(i, &p)| p as usize == first as usize + i);
            require(ascending, "positions must ascend by one")?;
            let end = first as usize + s.len;
            require(s.length >= end, "a sequence is longer than its length")?;
            require(!self.whole || s.len == s.length, "the model looks both ways: a sequence must be whole in a step")?;
            require(end <= limits.context, "a position is past the context")?;
            for (i, a) in s.adapters.iter().enumerate() {
                require((a.index as usize) < self.adapters, "an adapter does not exist")?;
                require(s.adapters[..i].iter().all(|b| b.index != a.index), "a sequence has an adapter twice")?;
            }
            if self.paged {
                require(s.pages.len() * PAGE >= end, "a page table is too short")?;
                require(s.pages.iter().all(|&p| (p as usize) < limits.pages), "a page does not exist")?;
            }
            row += s.len;
        }
        require(row == n, "sequences must cover all rows")?;
        if !self.paged {
            return Ok(());
        }
        let rows = || {
            batch.seqs.iter().flat_map(|s| batch.positions[s.start..][..s.len].iter().map(move |&p| (s, p as usize)))
        };
        rows().for_each(|(s, p)| self.written[s.pages[p / PAGE] as usize] = 0);
        let distinct = rows().all(|(s, p)| {
            let (places, bit) = (&mut self.written[s.pages[p / PAGE] as usize], 1 << (p % PAGE));
            let free = *places & bit == 0;
            *places |= bit;
            free
        });
        require(distinct, "two rows have one place in the cache")
    }
}

impl Plan for CpuPlan {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        self.check(batch).map_err(DeviceError::Batch)?;
        let runs = self.slots.as_mut().map_or(Ok(Runs::default()), |s| s.begin(batch)).map_err(DeviceError::Batch)?;
        self.ran = (batch.tokens.len(), batch.outputs.len());
        let ctx = Ctx { cpu: self.cpu, pool: &self.pool };
        self.row_seq.clear();
        for (i, s) in batch.seqs.iter().enumerate() {
            self.row_seq.extend(std::iter::repeat_n(i as u32, s.len));
        }
        let pages: Vec<&[u32]> = batch.seqs.iter().map(|s| s.pages).collect();
        let rows = Rows { positions: batch.positions, seqs: &self.row_seq, pages: &pages };
        let adapted = Adapted::new(batch, self.adapters, &self.row_seq);
        let by_tiles = |rows: usize| ctx.cpu.bf16().is_some() && rows >= TILED;
        for (number, Stage { step, inputs, output, blocks: as_blocks }) in self.stages.iter().enumerate() {
            let mut stream = self.stream.as_mut().filter(|s| s.fetches(number));
            let x = inputs.first().map_or(0..0, |x| x.range(batch));
            if let Step::MatMul { linears, quantize, round } = step {
                let cols = linears[0].matrix.cols();
                let rows = x.len() / cols;
                let out = |i: usize| linears.get(i).map_or(0..0, |l: &Linear| l.out.range(batch));
                let parts = self.arena.floats_mut().get_disjoint_mut([x.clone(), out(0), out(1), out(2)]);
                let Ok([x, outs @ ..]) = parts else { unreachable!("the plan keeps them apart") };
                let x = if by_tiles(rows) {
                    let scratch = &mut self.tiles[..BTile::count(rows, cols)];
                    if *round {
                        kernels::round(ctx, x, rows, cols, scratch);
                    }
                    Input::B16(scratch)
                } else if linears[0].matrix.quantized() {
                    let scratch = &mut self.blocks[..QBlock::count(rows, cols)];
                    if *quantize {
                        kernels::quantize(ctx, Source::Plain(x), rows, cols, scratch);
                    }
                    Input::Q8(scratch)
                } else {
                    Input::F32(x)
                };
                let come = stream.as_mut().map_or(Ok(Vec::new()), |s| s.product(number))?;
                let mut parts = come.iter();
                let mut outs = outs.into_iter().zip(linears);
                let products: [_; JOINED] = from_fn(|_| {
                    outs.next().map(|(out, l)| Product::new(x, here(&l.matrix, &mut parts), l.bias.as_deref(), out))
                });
                kernels::matmuls(ctx, &products);
                drop(come);
                if let Some(stream) = stream {
                    stream.done(number);
                }
                continue;
            }
            // The output's place overlaps no input's, so each input lies wholly before or after it.
            let range = output.range(batch);
            let (before, rest) = self.arena.floats_mut().split_at_mut(range.start);
            let (out, after) = rest.split_at_mut(range.len());
            let input = |i: usize| {
                let r = inputs[i].range(batch);
                if r.end <= range.start { &before[r] } else { &after[r.start - range.end..r.end - range.end] }
            };
            let rows_made = out.len() / output.cols;
            if *as_blocks && !by_tiles(rows_made) {
                let source = match step {
                    Step::Norm { kind, eps, weight, bias, .. } => {
                        let norm = kernels::Norm { kind: *kind, eps: *eps, weight, bias: bias.as_deref() };
                        Source::Norm(norm, input(0))
                    }
                    Step::Map(f) => Source::Map(*f, input(0)),
                    Step::Glu(f) => Source::Glu(*f, input(0), input(1)),
                    _ => unreachable!("only these are made as blocks"),
                };
                let scratch = &mut self.blocks[..QBlock::count(rows_made, output.cols)];
                kernels::quantize(ctx, source, rows_made, output.cols, scratch);
                continue;
            }
            match step {
                Step::MatMul { .. } => {}
                Step::Embed(index, table) => {
                    let mut places = Vec::new();
                    let ids = match index {
                        Index::Tokens => batch.tokens,
                        Index::Positions => batch.positions,
                        Index::Places(pad) => {
                            for s in batch.seqs {
                                let mut last = *pad;
                                places.extend(batch.tokens[s.start..s.start + s.len].iter().map(|token| {
                                    last += u32::from(token != pad);
                                    if token == pad { *pad } else { last }
                                }));
                            }
                            &places
                        }
                        Index::Types => batch.types,
                    };
                    let ids = ids.iter().chain(std::iter::repeat(&0)); // all types may be 0
                    for (&id, out) in ids.zip(out.chunks_exact_mut(output.cols)) {
                        if id as usize >= table.rows() {
                            return Err(DeviceError::Batch(format!("id {id} is not below {}", table.rows())));
                        }
                        table.row_f32(id as usize, out);
                    }
                }
                Step::Norm { kind, eps, width, weight, bias } => {
                    let norm = kernels::Norm { kind: *kind, eps: *eps, weight, bias: bias.as_deref() };
                    kernels::norm_groups(ctx, norm, *width, input(0), out);
                }
                Step::RopeTable(table) => {
                    for s in batch.seqs {
                        let out = &mut out[s.start * output.cols..][..s.len * output.cols];
                        let positions = &batch.positions[s.start..s.start + s.len];
                        kernels::rope_table(&table.inv_freq(s.length), table.factor, positions, out);
                    }
                }
                Step::Rope { style, head_dim } => {
                    kernels::rope(ctx, *style, inputs[1].cols, *head_dim, input(0), input(1), out);
                }
                Step::Attend { state, attend } => {
                    let State::Paged(kv) = &mut self.states[*state] else { unreachable!("attention has pages") };
                    kernels::store(ctx, kv, rows, input(1), input(2));
                    kernels::attend(ctx, *attend, kv, rows, input(0), &mut self.scratch, out);
                }
                Step::Map(f) => kernels::map(ctx, *f, input(0), out),
                Step::Zip(f) if inputs[1].cols == 1 => {
                    kernels::zip_rows(ctx, *f, input(0), input(1), output.cols, out);
                }
                Step::Zip(f) => kernels::zip(ctx, *f, input(0), input(1), out),
                Step::Glu(f) => kernels::glu(ctx, *f, input(0), input(1), out),
                Step::Outputs => {
                    let x = input(0);
                    for (&row, out) in batch.outputs.iter().zip(out.chunks_exact_mut(output.cols)) {
                        out.copy_from_slice(&x[row as usize * output.cols..][..output.cols]);
                    }
                }
                Step::Input => out.copy_from_slice(batch.hidden),
                Step::Softmax => kernels::softmax(ctx, output.cols, input(0), out),
                Step::Route { route, bias } => {
                    kernels::route(ctx, *route, inputs[0].cols, input(0), bias.as_deref(), out);
                }
                Step::Experts(act, all) if let Some(stream) = stream => {
                    stream.mixture(ctx, number, networks(*act, all), [input(0), input(1)], &mut self.sorted, out)?;
                }
                Step::Experts(act, all) => {
                    kernels::experts(ctx, networks(*act, all), input(0), input(1), &mut self.sorted, out);
                }
                Step::Parts(all) => {
                    let come = stream.as_mut().map_or(Ok(Vec::new()), |s| s.product(number))?;
                    let all = if come.is_empty() { all } else { &come };
                    kernels::parts(ctx, all, input(0), self.gathered.floats_mut(), &mut self.blocks, out);
                    drop(come);
                    if let Some(stream) = stream {
                        stream.done(number);
                    }
                }
                Step::Concat(heads) => kernels::concat(*heads, rows_made, input(0), input(1), out),
                Step::Mean => {
                    let x = input(0);
                    for (&row, out) in batch.outputs.iter().zip(out.chunks_exact_mut(output.cols)) {
                        let s = &batch.seqs[self.row_seq[row as usize] as usize];
                        kernels::mean(&x[s.start * output.cols..][..s.len * output.cols], out);
                    }
                }
                Step::Lora(all) => {
                    out.copy_from_slice(input(0));
                    for low in all {
                        let runs = adapted.runs(low.adapter, output.rows, low.scale);
                        kernels::lora(ctx, low.kernel(), &runs, input(1), self.gathered.floats_mut(), out);
                    }
                }
                Step::Conv { state, conv } => {
                    let State::Fixed(fixed) = &mut self.states[*state] else { unreachable!("its size is fixed") };
                    kernels::conv(ctx, conv, fixed, &runs, input(0), out);
                }
                Step::Scan { state, scan } => {
                    let State::Fixed(fixed) = &mut self.states[*state] else { unreachable!("its size is fixed") };
                    let input = kernels::ScanInput { x: input(0), dt: input(1), b: input(2), c: input(3) };
                    kernels::scan(ctx, scan, fixed, &runs, input, out);
                }
            }
        }
        if let Some(slots) = &mut self.slots {
            slots.end(batch);
        }
        match self.stages.last() {
            Some(last) => Ok(&self.arena.floats()[last.output.range(batch)]),
            None => Ok(&[]),
        }
    }

    fn kept(&self, value: usize) -> &[f32] {
        &self.arena.floats()[self.kept[value].of(self.ran.0, self.ran.1)]
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn cols(&self) -> usize {
        self.stages.last().map_or(0, |last| last.output.cols)
    }

    fn memory(&self) -> Memory {
        self.memory
    }

    fn traffic(&self) -> Option<Traffic> {
        self.stream.as_ref().map(Stream::traffic)
    }

    fn adapters(&self) -> usize {
        self.adapters
    }
}
