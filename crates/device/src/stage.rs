//! Steps of a plan, and what is decided about them once: which products share a job, and which values are only ever made
//! as quantised blocks.

use crate::{Batch, Limits};
use alula_graph::{Dim, Index, RopeTable, Temperature};
use alula_kernels::{self as kernels, Packed};
use alula_tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// A node made ready, or several that are one job of the pool.
pub(crate) struct Stage {
    pub(crate) step: Step,
    pub(crate) inputs: Vec<Place>,
    /// Of the last node.
    pub(crate) output: Place,
    /// The result is written as quantised blocks, for the next stage.
    pub(crate) blocks: bool,
}

pub(crate) enum Step {
    Embed(Index, Tensor),
    MatMul {
        /// Matrices that are multiplied with the same value.
        linears: Vec<Linear>,
        /// The value must first be quantised into the scratch of blocks, or rounded into that of tiles: what was there
        /// last is another one.
        quantize: bool,
        round: bool,
    },
    Norm {
        kind: kernels::NormKind,
        eps: f32,
        /// Columns of a run.
        width: usize,
        weight: Arc<[f32]>,
        bias: Option<Arc<[f32]>>,
    },
    RopeTable(RopeTable),
    Temperature(Temperature),
    Rope {
        style: kernels::RopeStyle,
        head_dim: usize,
    },
    Attend {
        state: usize,
        attend: kernels::Attend,
    },
    Map(kernels::Unary),
    Zip(kernels::Binary),
    Glu(kernels::Unary),
    Outputs,
    Conv {
        state: usize,
        conv: kernels::Conv,
    },
    Scan {
        state: usize,
        scan: kernels::Scan,
    },
    Softmax,
    Route {
        route: kernels::Route,
        bias: Option<Arc<[f32]>>,
    },
    /// Their function, whether weights are factors on what goes in, and gates, ups and downs.
    Experts((kernels::Unary, bool), [Vec<Arc<Packed>>; 3]),
    Parts(Vec<Arc<Packed>>),
    Concat(usize),
    Input,
    Mean,
    Lora(Vec<Low>),
}

/// A product of low rank of an adapter.
pub(crate) struct Low {
    pub(crate) adapter: usize,
    pub(crate) scale: f32,
    pub(crate) a: Option<Arc<Packed>>,
    pub(crate) b: Arc<Packed>,
}

impl Low {
    pub(crate) fn kernel(&self) -> kernels::Low<'_> {
        kernels::Low { a: self.a.as_deref(), b: &self.b, scale: self.scale }
    }
}

/// The networks of an `Experts` step.
pub(crate) fn networks(
    (act, before): (kernels::Unary, bool),
    [gate, up, down]: &[Vec<Arc<Packed>>; 3],
) -> kernels::Experts<'_> {
    kernels::Experts { act, before, gate, up, down }
}

/// How rows' scores become their experts.
pub(crate) fn route(r: &alula_graph::Route) -> kernels::Route {
    let groups = r.groups.map(|g| kernels::Groups { all: g.all, used: g.used, two: g.two });
    kernels::Route { used: r.used, groups, normalise: r.normalise, scale: r.scale, sigmoid: r.sigmoid }
}

/// A matrix, what is added to its products, and where they go.
pub(crate) struct Linear {
    pub(crate) matrix: Arc<Packed>,
    pub(crate) bias: Option<Arc<[f32]>>,
    pub(crate) out: Place,
}

/// Matrices that share a job at most: queries, keys and values.
pub(crate) const JOINED: usize = 3;

/// Makes a product with the value that the stage before multiplies too a part of that stage, or gives it back.
pub(crate) fn join(last: Option<&mut Stage>, mut stage: Stage, limits: Limits) -> Option<Stage> {
    let Some(last) = last else { return Some(stage) };
    let (Step::MatMul { linears: have, .. }, Step::MatMul { linears: new, .. }) = (&mut last.step, &mut stage.step)
    else {
        return Some(stage);
    };
    let apart = |a: Range<usize>, b: Range<usize>| a.end <= b.start || b.end <= a.start;
    let fits = have.len() < JOINED
        && last.inputs[0].value == stage.inputs[0].value
        && have[0].matrix.quantized() == new[0].matrix.quantized()
        && have.iter().all(|l| apart(l.out.most(limits), stage.output.most(limits)));
    if !fits {
        return Some(stage);
    }
    have.append(new);
    last.output = stage.output;
    None
}

/// Finds out which values are only ever read as quantised blocks, right after they are made, and which products find
/// their value quantised already.
pub(crate) fn link(stages: &mut [Stage], uses: &[usize]) {
    // The values that the scratch of blocks and that of tiles hold.
    let (mut in_blocks, mut in_tiles) = (None, None);
    for i in 0..stages.len() {
        let (stage, rest) = stages[i..].split_first_mut().expect("stage i");
        match &mut stage.step {
            Step::MatMul { linears, quantize, round } => {
                let x = Some(stage.inputs[0].value);
                if linears[0].matrix.quantized() {
                    *quantize = in_blocks != x;
                    in_blocks = x;
                }
                // A product of weights that are quantised may use no tiles where others do.
                let x = x.map(|x| (x, linears[0].matrix.quantized()));
                *round = in_tiles != x;
                in_tiles = x;
            }
            Step::Norm { width, .. } if *width != stage.output.cols => {}
            Step::Norm { .. } | Step::Map(_) | Step::Glu(_) => {
                let made = stage.output.value;
                stage.blocks = rest.first().is_some_and(|next| match &next.step {
                    // Nobody else reads it if they are as many as its uses.
                    Step::MatMul { linears, .. } => {
                        next.inputs[0].value == made && linears[0].matrix.quantized() && linears.len() == uses[made]
                    }
                    _ => false,
                });
                if stage.blocks {
                    in_blocks = Some(made);
                }
            }
            Step::Parts(_) => in_blocks = None,
            _ => {}
        }
    }
}

/// Where a value lies in the arena.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) value: usize,
    pub(crate) start: usize,
    pub(crate) rows: Dim,
    pub(crate) cols: usize,
}

impl Place {
    pub(crate) fn of(&self, tokens: usize, outputs: usize) -> Range<usize> {
        let rows = match self.rows {
            Dim::Tokens => tokens,
            Dim::Outputs => outputs,
            Dim::N(n) => n,
        };
        self.start..self.start.saturating_add(rows.saturating_mul(self.cols))
    }

    pub(crate) fn range(&self, batch: &Batch<'_>) -> Range<usize> {
        self.of(batch.tokens.len(), batch.outputs.len())
    }

    /// In the largest step.
    pub(crate) fn most(&self, limits: Limits) -> Range<usize> {
        self.of(limits.tokens, limits.outputs)
    }
}
