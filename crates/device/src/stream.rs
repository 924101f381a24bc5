//! What a plan does about weights that it fetches: what is needed at a stage, and what the next ones will need.

use crate::loader::Loader;
use crate::pager::{Fetcher, Pager, Unit};
use crate::stage::{Stage, Step};
use crate::{DeviceError, Traffic};
use alula_graph::{self as graph, Graph, Node, Op, ValueId};
use alula_kernels::{self as kernels, Ctx, ExpertScratch, Experts, Input, Mixture, Packed, QBlock, Source};
use std::ops::Range;
use std::sync::Arc;

/// Rows for which the next mixture's experts are guessed one by one.
const FEW: usize = 8;

/// Weights that are fetched, by the stages that need them.
pub(crate) struct Stream {
    pager: Pager,
    /// For each stage.
    fetches: Vec<Option<Fetch>>,
    /// Stages that fetch.
    order: Vec<usize>,
    scratch: Scratch,
}

/// Memory for guesses.
#[derive(Default)]
struct Scratch {
    blocks: Vec<QBlock>,
    scores: Vec<f32>,
    routes: Vec<f32>,
}

struct Fetch {
    /// Its number in `order`.
    number: usize,
    /// Its units: one, or one for each expert.
    units: Range<usize>,
    mixture: Option<Option<Router>>,
    used: usize,
}

/// What chooses experts.
struct Router {
    matrix: Arc<Packed>,
    bias: Option<Arc<[f32]>>,
    /// What makes scores of logits, or these themselves.
    score: Op,
    route: kernels::Route,
    route_bias: Option<Arc<[f32]>>,
}

/// A matrix, or where it is absent the next one that has come.
pub(crate) fn here<'a>(matrix: &'a Arc<Packed>, come: &mut std::slice::Iter<'a, Arc<Packed>>) -> &'a Packed {
    if matrix.is_absent() { come.next().unwrap_or(matrix) } else { matrix }
}

impl Stream {
    /// # Errors
    /// The system gives no thread, or a router cannot be read.
    pub(crate) fn new(
        fetcher: Fetcher,
        graph: &Graph,
        stages: &[Stage],
        loader: &mut Loader<'_>,
        room: usize,
    ) -> Result<Stream, DeviceError> {
        let (mut units, mut fetches, mut order) = (Vec::new(), Vec::new(), Vec::new());
        for (i, stage) in stages.iter().enumerate() {
            let groups: Vec<Vec<&Arc<Packed>>> = match &stage.step {
                Step::MatMul { linears, .. } => vec![linears.iter().map(|l| &l.matrix).collect()],
                Step::Parts(all) => vec![all.iter().collect()],
                Step::Experts(_, [gate, up, down]) => {
                    (0..gate.len()).map(|e| vec![&gate[e], &up[e], &down[e]]).collect()
                }
                _ => Vec::new(),
            };
            if !groups.iter().flatten().any(|m| m.is_absent()) {
                fetches.push(None);
                continue;
            }
            let (first, number) = (units.len(), order.len());
            for group in groups {
                let parts = group.into_iter().filter(|m| m.is_absent());
                let part = |m: &Arc<Packed>| loader.absent.get(&Arc::as_ptr(m)).cloned();
                units.push(Unit { stage: number, parts: parts.filter_map(part).collect() });
            }
            let node = graph.nodes().iter().find(|n| n.output.0 == stage.output.value);
            let mixture = node.filter(|n| matches!(n.op, Op::Experts { .. }));
            let used = mixture.map_or(1, |n| graph.shape(n.inputs[1]).cols / 2);
            let mixture = mixture.map(|n| Router::of(graph, n, loader)).transpose()?;
            fetches.push(Some(Fetch { number, units: first..units.len(), mixture, used }));
            order.push(i);
        }
        let thread = |e: std::io::Error| DeviceError::Memory { what: format!("threads that fetch weights ({e})") };
        let pager = Pager::new(fetcher, units, room).map_err(thread)?;
        Ok(Stream { pager, fetches, order, scratch: Scratch::default() })
    }

    /// Whether a stage has something to fetch.
    pub(crate) fn fetches(&self, stage: usize) -> bool {
        self.fetches[stage].is_some()
    }

    fn fetch(&self, stage: usize) -> &Fetch {
        let Some(fetch) = &self.fetches[stage] else { unreachable!("a stage that fetches") };
        fetch
    }

    /// The matrices of a stage that are absent in it, in its order.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn product(&mut self, stage: usize) -> Result<Vec<Arc<Packed>>, DeviceError> {
        let Fetch { number, units, .. } = self.fetch(stage);
        self.pager.want(*number, units.clone(), units.clone());
        let mut left = vec![units.start];
        self.guess(stage, None);
        Ok(self.pager.take(&mut left)?.pop().map_or(Vec::new(), |(_, parts)| parts))
    }

    /// Says that a stage's matrices are not needed any more.
    pub(crate) fn done(&self, stage: usize) {
        self.pager.done(self.fetch(stage).units.clone());
    }

    /// [`kernels::experts`], each of which is computed when it is there.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(crate) fn mixture(
        &mut self,
        ctx: Ctx<'_>,
        stage: usize,
        e: Experts<'_>,
        [x, routes]: [&[f32]; 2],
        scratch: &mut ExpertScratch,
        out: &mut [f32],
    ) -> Result<(), DeviceError> {
        let mut mixture = Mixture::begin(ctx, e, x, routes, scratch);
        let Fetch { number, units, .. } = self.fetch(stage);
        let (first, units) = (units.start, units.clone());
        let mut left: Vec<usize> = mixture.active().iter().map(|&expert| first + expert as usize).collect();
        self.pager.want(*number, units, left.iter().copied());
        self.guess(stage, Some((ctx, x, e.gate[0].cols())));
        while !left.is_empty() {
            let come = self.pager.take(&mut left)?;
            mixture.turn(come.len(), &|i| {
                let (expert, mut parts) = (come[i].0 - first, come[i].1.iter());
                (expert, [e.gate, e.up, e.down].map(|all| here(&all[expert], &mut parts)))
            });
            let units: Vec<usize> = come.into_iter().map(|(unit, _)| unit).collect();
            self.pager.done(units.into_iter());
        }
        mixture.end(out);
        Ok(())
    }

    /// Says what the stages after this one will need: products for certain; of the first mixture the experts that its router
    /// chooses for what this mixture's experts were given (Eliseev and Mazur 2023, arXiv:2312.17238), or those that were needed
    /// most.
    fn guess(&mut self, stage: usize, given: Option<(Ctx<'_>, &[f32], usize)>) {
        let Stream { pager, fetches, order, scratch } = self;
        let (now, stages) = (fetches[stage].as_ref().map_or(0, |f| f.number), order.len());
        let (mut next, mut bytes) = (Vec::new(), 0);
        for i in now + 1..now + stages {
            let Some(fetch) = &fetches[order[i % stages]] else { continue };
            let units = fetch.units.clone();
            let Some(router) = &fetch.mixture else {
                bytes += pager.bytes(units.start);
                if bytes > pager.room() / 2 && !next.is_empty() {
                    break;
                }
                next.extend(units);
                continue;
            };
            let rows = given.map_or(1, |(_, x, cols)| x.len() / cols);
            let chosen = match (router, given) {
                (Some(r), Some((ctx, x, cols))) if rows <= FEW && i < stages && r.matrix.cols() == cols => {
                    r.choose(ctx, x, scratch).map(|e| units.start + e).collect()
                }
                _ => pager.hottest(units, fetch.used.saturating_mul(rows)),
            };
            next.extend(chosen);
            break;
        }
        pager.guess(next.into_iter());
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.pager.traffic()
    }
}

impl Router {
    /// Of the mixture that a node is; `None` where experts are chosen in another way than by a matrix that is there.
    fn of(graph: &Graph, node: &Node, loader: &mut Loader<'_>) -> Result<Option<Router>, DeviceError> {
        let made = |v: ValueId| graph.nodes().iter().find(|n| n.output == v);
        let Some(choice) = made(node.inputs[1]) else { return Ok(None) };
        let Some(score) = choice.inputs.first().and_then(|&v| made(v)) else { return Ok(None) };
        // The choice may be by logits.
        let logits = match score.op {
            Op::Softmax | Op::Map(graph::Unary::Sigmoid) => score.inputs.first().and_then(|&v| made(v)),
            _ => Some(score),
        };
        let (Op::Route(route), Some(logits)) = (&choice.op, logits.filter(|n| n.op == Op::MatMul)) else {
            return Ok(None);
        };
        let matrix = loader.matrix(logits.weights[0])?;
        if matrix.is_absent() {
            return Ok(None);
        }
        let bias = logits.weights.get(1).map(|&b| loader.vector(b)).transpose()?;
        let route_bias = choice.weights.first().map(|&b| loader.vector(b)).transpose()?;
        Ok(Some(Router { matrix, bias, score: score.op.clone(), route: crate::stage::route(route), route_bias }))
    }

    /// The experts of any row of `x`.
    fn choose<'a>(&self, ctx: Ctx<'_>, x: &[f32], scratch: &'a mut Scratch) -> impl Iterator<Item = usize> + use<'a> {
        let (experts, cols, used) = (self.matrix.rows(), self.matrix.cols(), self.route.used);
        let (Scratch { blocks, scores, routes }, rows) = (scratch, x.len() / cols);
        let x = if self.matrix.quantized() {
            blocks.resize(QBlock::count(rows, cols), QBlock::default());
            kernels::quantize(ctx, Source::Plain(x), rows, cols, blocks);
            Input::Q8(blocks)
        } else {
            Input::F32(x)
        };
        // Logits, then scores.
        scores.resize(2 * rows * experts, 0.0);
        routes.resize(2 * rows * used, 0.0);
        let (logits, scores) = scores.split_at_mut(rows * experts);
        kernels::matmul(ctx, x, &self.matrix, self.bias.as_deref(), logits);
        match self.score {
            Op::Softmax => kernels::softmax(ctx, experts, logits, scores),
            Op::Map(_) => kernels::map(ctx, kernels::Unary::Sigmoid, logits, scores),
            _ => scores.copy_from_slice(logits),
        }
        kernels::route(ctx, self.route, experts, scores, self.route_bias.as_deref(), routes);
        routes.chunks_exact(2 * used).flat_map(move |r| &r[..used]).map(|e| *e as usize)
    }
}
