//! The CPU device.

use crate::cores::{bind, cores, interleave, spread};
use crate::kept::Saving;
use crate::loader::Loader;
use crate::lora::Adapted;
use crate::pager::Fetcher;
use crate::prepare::{Prepared, paged, place};
use crate::stage::{JOINED, Linear, Place, Stage, Step, networks};
use crate::state::{Slots, State};
use crate::stream::{Stream, here};
use crate::{Batch, Device, DeviceError, Keep, Limits, Memory, Needs, PAGE, Plan, Traffic, emptied};
use alula_graph::{Graph, Index, Op, StateSpec, WeightSource};
use alula_kernels::{
    self as kernels, BTile, Buf, Ceilings, Ctx, ExpertScratch, Input, Pool, Product, QBlock, Rows, Runs, Scratch,
    Source, TILED, zeros,
};
use alula_simd::Cpu;
use alula_tensor::Storage;
use std::array::from_fn;
use std::sync::Arc;

/// The processor's cores.
pub struct CpuDevice {
    pub(crate) cpu: Cpu,
    pub(crate) pool: Arc<Pool>,
    pub(crate) memory: Option<usize>,
    /// The processors that there are for threads of other work, where those of the pool are bound.
    processors: Vec<usize>,
}

impl CpuDevice {
    /// A device with `threads` threads at the level of `cpu`. Where the processors of this process belong to several memory nodes,
    /// the caller's thread and those that it starts later take memory from all of them in turns.
    pub fn new(cpu: Cpu, threads: usize) -> CpuDevice {
        interleave(&cores().concat());
        CpuDevice { cpu, pool: Arc::new(Pool::new(threads)), memory: None, processors: Vec::new() }
    }

    /// The same with each thread bound to a physical core of its own, the caller's, which is to run the plans, among them.
    /// The cores are as many of each memory node. Threads that the caller starts later are bound as it is.
    ///
    /// # Errors
    /// There are fewer cores than threads, or the system cannot do it; the caller's thread may then be bound to one.
    pub fn bound(cpu: Cpu, threads: usize) -> Result<CpuDevice, DeviceError> {
        let cores = spread(cores());
        let processors = cores.concat();
        let none = |why: String| DeviceError::Bind { threads, why };
        let Some(cores) = cores.get(..threads.max(1)) else {
            return Err(none(format!(
                "the cores that this process may use are {}; ask for no more threads",
                cores.len()
            )));
        };
        interleave(&cores.concat());
        let pool = bound(cores).map_err(|e| none(format!("the system says: {e}; leave it to the system")))?;
        Ok(CpuDevice { cpu, pool: Arc::new(pool), memory: None, processors })
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

    fn budget(&self) -> Option<usize> {
        self.memory
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
        let stream = |room| {
            let fetcher = Fetcher { cpu: self.cpu, processors: self.processors.clone() };
            Stream::new(fetcher, graph, &prepared.stages, &mut loader, room)
        };
        let stream = room.map(stream).transpose()?;
        let Prepared { stages, arena, widest_tiles, widest_blocks, group, dim, mut sorted, gathered, input, adapters } =
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
        let (slots, checkpoints) = if fixed { (limits.slots, limits.checkpoints) } else { (0, 0) };
        let slots = Slots::new(slots, checkpoints).ok_or_else(none)?;
        let threads = self.pool.threads();
        let none = || DeviceError::Memory { what: format!("a context of {} positions", limits.context) };
        let scratch = Scratch::new(threads, if paged { limits.context } else { 0 }, group, dim).ok_or_else(none)?;
        let none = || DeviceError::Memory { what: format!("steps of {} tokens", limits.tokens) };
        let rows = limits.tokens.max(limits.outputs);
        let blocks: Vec<QBlock> = zeros(QBlock::count(rows, widest_blocks)).ok_or_else(none)?;
        let tiles = BTile::count(rows, widest_tiles);
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
            tables: Vec::new(),
            runs: Runs::default(),
            adapted: Adapted::new(adapters),
            written,
            input,
            kept,
            ran: (0, 0),
            whole: graph.nodes().iter().any(|n| n.op.whole()),
            paged,
            window: window(graph),
            slots: fixed.then_some(slots),
            file: loader.file,
            saving,
        }))
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
    /// The step's page tables, kept for its memory.
    tables: Vec<&'static [u32]>,
    /// The step's runs of states of fixed size.
    runs: Runs,
    /// The step's rows that have adapters.
    adapted: Adapted,
    /// For each page, the places that the step writes: a bit per position.
    written: Vec<u64>,
    /// Columns that the caller gives.
    input: usize,
    kept: Vec<Place>,
    /// Tokens and outputs of the last run.
    ran: (usize, usize),
    /// Sequences must be whole in a step.
    whole: bool,
    /// Whether any layer keeps pages.
    paged: bool,
    /// Positions that a row sees at most, if that is bounded.
    window: Option<usize>,
    /// Where layers keep states of fixed size.
    slots: Option<Slots>,
    /// Where packed weights lie that were kept.
    file: Option<Storage>,
    /// Held until the packed weights are kept.
    #[expect(dead_code, reason = "it is there to be dropped")]
    saving: Option<Saving>,
}

/// Positions that a row sees at most: those of the largest window, if all attention looks back through one.
fn window(graph: &Graph) -> Option<usize> {
    let mut most = None;
    for node in graph.nodes() {
        if let Op::Attend { state, causal, .. } = &node.op {
            match graph.states()[*state] {
                StateSpec::Paged { window: Some(w), .. } if *causal => most = most.max(Some(w.most())),
                _ => return None,
            }
        }
    }
    most
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
                require((a.index as usize) < self.adapted.len(), "an adapter does not exist")?;
                require(s.adapters[..i].iter().all(|b| b.index != a.index), "a sequence has an adapter twice")?;
            }
            if self.paged {
                require(s.pages.len() * PAGE >= end, "a page table is too short")?;
                let seen = self.window.map_or(0, |w| (first as usize + 1).saturating_sub(w)) / PAGE;
                require(s.pages[seen..].iter().all(|&p| (p as usize) < limits.pages), "a page does not exist")?;
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

impl CpuPlan {
    /// Copies every state of fixed size.
    fn copy(&mut self, which: impl FnOnce(&mut Slots) -> Result<(usize, usize), String>) -> Result<(), DeviceError> {
        let none = || "nothing of fixed size is kept".to_owned();
        let (from, to) = self.slots.as_mut().ok_or_else(none).and_then(which).map_err(DeviceError::Batch)?;
        for state in &mut self.states {
            if let State::Fixed(fixed) = state {
                fixed.copy(from, to);
            }
        }
        Ok(())
    }
}

impl Plan for CpuPlan {
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], DeviceError> {
        self.check(batch).map_err(DeviceError::Batch)?;
        if let Some(slots) = &mut self.slots {
            slots.begin(batch, &mut self.runs).map_err(DeviceError::Batch)?;
        }
        self.ran = (batch.tokens.len(), batch.outputs.len());
        let ctx = Ctx { cpu: self.cpu, pool: &self.pool };
        self.row_seq.clear();
        for (i, s) in batch.seqs.iter().enumerate() {
            self.row_seq.extend(std::iter::repeat_n(i as u32, s.len));
        }
        let mut tables: Vec<&[u32]> = std::mem::take(&mut self.tables);
        tables.extend(batch.seqs.iter().map(|s| s.pages));
        let rows = Rows { positions: batch.positions, seqs: &self.row_seq, pages: &tables };
        self.adapted.set(batch, &self.row_seq);
        let by_tiles =
            |rows: usize, quantized: bool| rows >= TILED && ctx.cpu.bf16().is_some_and(|unit| unit.pays(quantized));
        for (number, Stage { step, inputs, output, blocks: as_blocks }) in self.stages.iter().enumerate() {
            let mut stream = self.stream.as_mut().filter(|s| s.fetches(number));
            let x = inputs.first().map_or(0..0, |x| x.range(batch));
            if let Step::MatMul { linears, quantize, round } = step {
                let cols = linears[0].matrix.cols();
                let rows = x.len() / cols;
                let out = |i: usize| linears.get(i).map_or(0..0, |l: &Linear| l.out.range(batch));
                let parts = self.arena.floats_mut().get_disjoint_mut([x.clone(), out(0), out(1), out(2)]);
                let Ok([x, outs @ ..]) = parts else { unreachable!("the plan keeps them apart") };
                let quantized = linears[0].matrix.quantized();
                let x = if by_tiles(rows, quantized) {
                    let scratch = &mut self.tiles[..BTile::count(rows, cols)];
                    if *round {
                        kernels::round(ctx, x, rows, cols, scratch);
                    }
                    Input::B16(scratch)
                } else if quantized {
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
            if *as_blocks && !by_tiles(rows_made, true) {
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
                Step::Temperature(t) => kernels::temperature(t.floor, t.scale, batch.positions, out),
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
                        let runs = self.adapted.runs(low.adapter, output.rows);
                        kernels::lora(ctx, low.kernel(), runs, input(1), self.gathered.floats_mut(), out);
                    }
                }
                Step::Conv { state, conv } => {
                    let State::Fixed(fixed) = &mut self.states[*state] else { unreachable!("its size is fixed") };
                    kernels::conv(ctx, conv, fixed, &self.runs, input(0), out);
                }
                Step::Scan { state, scan } => {
                    let State::Fixed(fixed) = &mut self.states[*state] else { unreachable!("its size is fixed") };
                    let input = kernels::ScanInput { x: input(0), dt: input(1), b: input(2), c: input(3) };
                    kernels::scan(ctx, scan, fixed, &self.runs, input, out);
                }
            }
        }
        if let Some(slots) = &mut self.slots {
            slots.end(batch);
        }
        self.tables = emptied(tables);
        match self.stages.last() {
            Some(last) => Ok(&self.arena.floats()[last.output.range(batch)]),
            None => Ok(&[]),
        }
    }

    fn window(&self) -> Option<usize> {
        self.window
    }

    fn save(&mut self, slot: u32, position: usize, checkpoint: u32) -> Result<(), DeviceError> {
        self.copy(|slots| slots.save(slot, position, checkpoint))
    }

    fn restore(&mut self, checkpoint: u32, slot: u32) -> Result<(), DeviceError> {
        self.copy(|slots| slots.restore(checkpoint, slot))
    }

    fn packed_file(&self) -> Option<&Storage> {
        self.file.as_ref()
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
        self.adapted.len()
    }
}
