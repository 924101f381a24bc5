//! What computation is: ops as data, shapes, and the memory plan.
//!
//! A [`Graph`] is a list of [`Node`]s in order of execution; each makes one value. The only symbolic sizes are those
//! of a step ([`Dim`]). A device compiles a graph and runs it; nothing here knows of machines or of models.
#![forbid(unsafe_code)]

mod arena;
mod build;
mod op;
mod rope;

pub use arena::{Arena, plan_arena};
pub use build::{Graph, GraphError, Node, Shape, Value, ValueId, Weight, WeightId, WeightSource};
pub use op::{
    Binary, Dim, Groups, Index, Infer, Low, NormKind, OPS, Op, OpDef, RopeStyle, Route, StateSpec, Temperature, Unary,
    Window,
};
pub use rope::{Change, Past, RopeTable, rope_powers};
