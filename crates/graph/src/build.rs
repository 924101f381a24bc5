//! Graphs and how they are built.

use crate::{Dim, Op, StateSpec};
use alula_tensor::{DType, Tensor};
use std::collections::HashMap;

/// A value of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueId(pub usize);

/// A weight of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub usize);

/// `[rows, cols]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows: symbolic in all that a language model computes.
    pub rows: Dim,
    /// Columns.
    pub cols: usize,
}

impl Shape {
    /// `[rows, cols]`.
    pub fn new(rows: Dim, cols: usize) -> Shape {
        Shape { rows, cols }
    }
}

/// What a node makes.
#[derive(Clone, Debug)]
pub struct Value {
    /// Name, for hooks and messages: `blk.0.attn_q`.
    pub name: String,
    /// Shape.
    pub shape: Shape,
}

/// A named constant that a [`WeightSource`] gives.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Name in the source.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
}

/// One op and what it is applied to.
#[derive(Clone, Debug)]
pub struct Node {
    /// The op.
    pub op: Op,
    /// Values.
    pub inputs: Vec<ValueId>,
    /// Weights.
    pub weights: Vec<WeightId>,
    /// The value it makes.
    pub output: ValueId,
}

impl Node {
    /// The weights that it multiplies with.
    pub fn matrices(&self) -> &[WeightId] {
        match self.op {
            Op::MatMul => &self.weights[..1],
            Op::Experts { .. } | Op::Parts => &self.weights,
            _ => &[],
        }
    }
}

/// Where weights come from: a file, random numbers, or another source that changes them on the way.
pub trait WeightSource {
    /// The tensor of that name.
    ///
    /// # Errors
    /// In one sentence: it is missing, of an unsupported type, or broken.
    fn tensor(&self, name: &str) -> Result<Tensor, String>;

    /// Its element type, and whether its bytes lie in a mapped file as they are, so that [`tensor`](WeightSource::tensor) costs
    /// nothing.
    ///
    /// # Errors
    /// As [`tensor`](WeightSource::tensor).
    fn kind(&self, name: &str) -> Result<(DType, bool), String> {
        self.tensor(name).map(|t| (t.dtype(), t.storage().0.is_mapped()))
    }
}

/// A graph that does not fit together.
#[derive(Debug, thiserror::Error)]
#[error("`{value}` ({op}): {why}")]
pub struct GraphError {
    /// Name of the value being made.
    pub value: String,
    /// Op family.
    pub op: &'static str,
    /// What is wrong.
    pub why: String,
}

/// A computation. Nodes are in order of execution; every value is made once, before its first use.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    values: Vec<Value>,
    nodes: Vec<Node>,
    weights: Vec<Weight>,
    known: HashMap<(String, Vec<usize>), WeightId>,
    states: Vec<StateSpec>,
    kept: Vec<ValueId>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Graph {
        Graph::default()
    }

    /// Values.
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// Nodes in order of execution. The last one makes the graph's result.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Weights.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// What its layers remember.
    pub fn states(&self) -> &[StateSpec] {
        &self.states
    }

    /// Says that a value of all tokens is read after a run.
    pub fn keep(&mut self, v: ValueId) {
        self.kept.push(v);
    }

    /// The values that are read after a run, beside the result.
    pub fn kept(&self) -> &[ValueId] {
        &self.kept
    }

    /// The shape of a value.
    pub fn shape(&self, v: ValueId) -> Shape {
        self.values[v.0].shape
    }

    /// The weight of that name; the same one when asked again.
    pub fn weight(&mut self, name: impl Into<String>, shape: &[usize]) -> WeightId {
        let (name, shape) = (name.into(), shape.to_vec());
        let weights = &mut self.weights;
        *self.known.entry((name.clone(), shape.clone())).or_insert_with(|| {
            weights.push(Weight { name, shape });
            WeightId(weights.len() - 1)
        })
    }

    /// A new state; its index is what [`Op::Attend`], [`Op::Conv`] and [`Op::Scan`] name.
    pub fn state(&mut self, spec: StateSpec) -> usize {
        self.states.push(spec);
        self.states.len() - 1
    }

    /// Appends a node.
    ///
    /// # Errors
    /// If the op does not take these inputs and weights.
    pub fn push(
        &mut self,
        name: impl Into<String>,
        op: Op,
        inputs: &[ValueId],
        weights: &[WeightId],
    ) -> Result<ValueId, GraphError> {
        let (name, def) = (name.into(), op.def());
        let shapes: Vec<&Shape> = inputs.iter().map(|v| &self.values[v.0].shape).collect();
        let dims: Vec<&[usize]> = weights.iter().map(|w| self.weights[w.0].shape.as_slice()).collect();
        let counts = shapes.len() == def.inputs && (def.weights.0..=def.weights.1).contains(&dims.len());
        let inferred = if counts {
            (def.infer)(&op, &shapes, &dims, &self.states)
        } else {
            Err(format!("takes {} values and {:?} weights", def.inputs, def.weights))
        };
        match inferred {
            Ok(shape) => {
                let output = ValueId(self.values.len());
                self.values.push(Value { name, shape });
                self.nodes.push(Node { op, inputs: inputs.to_vec(), weights: weights.to_vec(), output });
                Ok(output)
            }
            Err(why) => Err(GraphError { value: name, op: def.name, why }),
        }
    }
}
