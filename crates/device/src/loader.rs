//! Weights as kernels want them.

use crate::kept;
use crate::pager::Part;
use crate::{DeviceError, Keep};
use alula_graph::{Graph, Weight, WeightId, WeightSource};
use alula_kernels::{Ctx, Packed};
use alula_tensor::{Storage, Tensor};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Turns the source's tensors into what kernels read, each once.
pub(crate) struct Loader<'a> {
    ctx: Ctx<'a>,
    graph: &'a Graph,
    source: &'a dyn WeightSource,
    packed: HashMap<usize, Arc<Packed>>,
    /// What was packed here, of matrices to be kept.
    pub(crate) fresh: Vec<kept::Part>,
    keeps: bool,
    /// Where matrices were kept, if they are from there.
    pub(crate) file: Option<Storage>,
    vectors: HashMap<usize, Arc<[f32]>>,
    /// Bytes of them.
    pub(crate) weights: usize,
    /// Of matrices only what they are like.
    sketch: bool,
    /// Matrices that are fetched when they are needed,
    away: HashSet<usize>,
    /// by their addresses.
    pub(crate) absent: HashMap<*const Packed, Part>,
}

impl<'a> Loader<'a> {
    /// With matrices that were kept, if those of the graph are all there.
    pub(crate) fn new(ctx: Ctx<'a>, graph: &'a Graph, source: &'a dyn WeightSource, keep: Option<&Keep>) -> Loader<'a> {
        let mut ids: Vec<usize> = graph.nodes().iter().flat_map(|n| n.matrices()).map(|w| w.0).collect();
        ids.sort_unstable();
        ids.dedup();
        let wanted = ids.iter().map(|&id| {
            let w = &graph.weights()[id];
            let (cols, rows) = w.shape.split_last().map_or((1, 1), |(cols, rows)| (*cols, rows.iter().product()));
            (w.name.as_str(), rows, cols)
        });
        let wanted: Vec<_> = wanted.collect();
        let (kept, file) = keep.and_then(|keep| keep.load(ctx, &wanted)).unzip();
        let kept: Vec<Packed> = kept.unwrap_or_default();
        let weights = kept.iter().map(Packed::bytes).sum();
        let packed = ids.into_iter().zip(kept.into_iter().map(Arc::new)).collect();
        Loader {
            ctx,
            graph,
            source,
            packed,
            fresh: Vec::new(),
            keeps: keep.is_some(),
            file,
            vectors: HashMap::new(),
            weights,
            sketch: false,
            away: HashSet::new(),
            absent: HashMap::new(),
        }
    }

    /// One that reads no matrices, only what they are like: for finding out what a plan takes.
    pub(crate) fn sketch(ctx: Ctx<'a>, graph: &'a Graph, source: &'a dyn WeightSource) -> Loader<'a> {
        Loader { sketch: true, ..Loader::new(ctx, graph, source, None) }
    }

    /// Leaves these out, of which it then says where they are.
    pub(crate) fn leave(&mut self, away: HashSet<usize>) {
        self.away = away;
    }

    pub(crate) fn is_sketch(&self) -> bool {
        self.sketch
    }

    /// Bytes of a matrix that it has, or knows.
    pub(crate) fn size(&self, w: WeightId) -> usize {
        self.packed.get(&w.0).map_or(0, |p| p.bytes())
    }

    /// The shape that the graph says.
    pub(crate) fn shape(&self, w: WeightId) -> &[usize] {
        &self.graph.weights()[w.0].shape
    }

    /// The tensor, of the shape that the graph says.
    pub(crate) fn table(&self, w: WeightId) -> Result<Tensor, DeviceError> {
        let weight = &self.graph.weights()[w.0];
        let wrong = |why| DeviceError::Weight { name: weight.name.clone(), why };
        let t = self.source.tensor(&weight.name).map_err(wrong)?;
        if t.shape() != weight.shape {
            return Err(wrong(format!(
                "its shape is {:?} in the file, the model's configuration says {:?}",
                t.shape(),
                weight.shape
            )));
        }
        Ok(t)
    }

    pub(crate) fn matrix(&mut self, w: WeightId) -> Result<Arc<Packed>, DeviceError> {
        if let Some(p) = self.packed.get(&w.0) {
            return Ok(Arc::clone(p));
        }
        let Weight { name, shape } = &self.graph.weights()[w.0];
        let wrong = |why| DeviceError::Weight { name: name.clone(), why };
        if self.sketch || self.away.contains(&w.0) {
            let (dtype, _) = self.source.kind(name).map_err(wrong)?;
            let (cols, rows) = shape.split_last().map_or((1, 1), |(cols, rows)| (*cols, rows.iter().product()));
            let blocks = || wrong(format!("rows of {cols} elements are not whole blocks of {dtype}"));
            let p = Arc::new(Packed::absent(dtype, rows, cols).ok_or_else(blocks)?);
            if self.sketch {
                self.weights = self.weights.saturating_add(p.bytes());
            } else {
                let part = Part { name: name.clone(), tensor: self.table(w)?, bytes: p.bytes() };
                self.absent.insert(Arc::as_ptr(&p), part);
            }
            self.packed.insert(w.0, Arc::clone(&p));
            return Ok(p);
        }
        let t = self.table(w)?;
        let none = || wrong(format!("there is no memory for its {} bytes", t.bytes().len()));
        let packed = Packed::reusing(self.ctx, (t.dtype(), t.rows(), t.cols()), t.bytes(), None);
        let p = Arc::new(packed.ok_or_else(none)?);
        t.release();
        if self.keeps {
            let name = self.graph.weights()[w.0].name.clone();
            self.fresh.push(kept::Part { name, dtype: t.dtype(), matrix: Arc::clone(&p) });
        }
        self.weights += p.bytes();
        self.packed.insert(w.0, Arc::clone(&p));
        Ok(p)
    }

    /// A matrix of an adapter. It is not kept: what is kept is the model's, whatever adapters it has.
    pub(crate) fn low(&mut self, w: WeightId) -> Result<Arc<Packed>, DeviceError> {
        let keeps = std::mem::take(&mut self.keeps);
        let matrix = self.matrix(w);
        self.keeps = keeps;
        matrix
    }

    /// Matrices in groups of `n`, each of which is of one kind.
    pub(crate) fn alike(&mut self, all: &[WeightId], n: usize) -> Result<Vec<Vec<Arc<Packed>>>, DeviceError> {
        let mut groups = Vec::new();
        for ids in all.chunks(n) {
            let group = ids.iter().map(|&w| self.matrix(w)).collect::<Result<Vec<_>, _>>()?;
            if let Some(i) = group.iter().position(|m| m.quantized() != group[0].quantized()) {
                let name = self.graph.weights()[ids[i].0].name.clone();
                let why = "is quantised and others of its kind in the layer are not, or the other way round".into();
                return Err(DeviceError::Weight { name, why });
            }
            groups.push(group);
        }
        Ok(groups)
    }

    pub(crate) fn vector(&mut self, w: WeightId) -> Result<Arc<[f32]>, DeviceError> {
        if let Some(v) = self.vectors.get(&w.0) {
            return Ok(Arc::clone(v));
        }
        let v: Arc<[f32]> = self.table(w)?.to_f32().into();
        self.weights += v.len() * 4;
        self.vectors.insert(w.0, Arc::clone(&v));
        Ok(v)
    }
}
