//! The memory plan: every value gets a place in one arena, and places are used again when their value is dead.

use crate::{Dim, Graph};
use std::ops::Range;

/// Elements between the starts of places: a cache line of f32.
const ALIGN: usize = 16;

/// Where values lie.
#[derive(Clone, Debug)]
pub struct Arena {
    /// First element of each value, by value.
    pub offsets: Vec<usize>,
    /// Elements in all.
    pub len: usize,
}

/// Places the values of a graph for steps of up to `tokens` tokens and `outputs` result rows.
///
/// A value lives from the node that makes it to the last that reads it; the graph's result, and what is kept, to the end. Two
/// values that live at the same time never overlap. First fit in order of execution.
pub fn plan_arena(graph: &Graph, tokens: usize, outputs: usize) -> Arena {
    let n = graph.values().len();
    let mut last = vec![0; n];
    for (i, node) in graph.nodes().iter().enumerate() {
        last[node.output.0] = i;
        node.inputs.iter().for_each(|v| last[v.0] = i);
    }
    let result = graph.nodes().last().map(|node| node.output);
    graph.kept().iter().copied().chain(result).for_each(|v| last[v.0] = usize::MAX);
    let mut arena = Arena { offsets: vec![0; n], len: 0 };
    let mut live: Vec<(Range<usize>, usize)> = Vec::new(); // places by start, with the last use
    for (i, node) in graph.nodes().iter().enumerate() {
        let shape = graph.shape(node.output);
        let rows = match shape.rows {
            Dim::Tokens => tokens,
            Dim::Outputs => outputs,
            Dim::N(n) => n,
        };
        // Sizes beyond all memory stay beyond it.
        let size = rows.saturating_mul(shape.cols).checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        live.retain(|(_, last)| *last >= i);
        let mut start = 0usize;
        let at = live
            .iter()
            .position(|(r, _)| {
                let fits = r.start >= start.saturating_add(size);
                if !fits {
                    start = r.end;
                }
                fits
            })
            .unwrap_or(live.len());
        let end = start.saturating_add(size);
        live.insert(at, (start..end, last[node.output.0]));
        arena.offsets[node.output.0] = start;
        arena.len = arena.len.max(end);
    }
    arena
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Binary, Index, Op, Unary};

    #[test]
    fn live_values_never_overlap_and_dead_ones_are_used_again() {
        let mut g = Graph::new();
        let table = g.weight("t", &[10, 24]);
        let first = g.push("x", Op::Embed(Index::Tokens), &[], &[table]).unwrap();
        let mut x = first;
        for i in 0..20 {
            let y = g.push(format!("y{i}"), Op::Map(Unary::Silu), &[x], &[]).unwrap();
            x = g.push(format!("z{i}"), Op::Zip(Binary::Add), &[y, if i % 5 == 0 { first } else { x }], &[]).unwrap();
        }
        let a = plan_arena(&g, 3, 1);
        assert!(a.len <= 4 * 80, "{} elements for at most 4 live values of 72", a.len);
        for (i, node) in g.nodes().iter().enumerate() {
            // Everything made before node i and read at i or later must survive it.
            let out = a.offsets[node.output.0]..a.offsets[node.output.0] + 72;
            for (v, &o) in a.offsets.iter().enumerate() {
                let made = g.nodes().iter().position(|n| n.output.0 == v).unwrap();
                let read = g.nodes().iter().rposition(|n| n.inputs.iter().any(|x| x.0 == v)).unwrap_or(made);
                if made < i && read >= i {
                    assert!(o + 72 <= out.start || o >= out.end, "value {v} is overwritten by node {i}");
                }
            }
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let mut g = Graph::new();
        let table = g.weight("t", &[10, 24]);
        let x = g.push("x", Op::Embed(Index::Tokens), &[], &[table]).unwrap();
        let w = g.weight("w", &[8, 25]);
        let e = g.push("y", Op::MatMul, &[x], &[w]).unwrap_err().to_string();
        assert_eq!(e, "`y` (MatMul): 24 columns meet a matrix of 25");
        assert!(g.push("y", Op::Zip(Binary::Add), &[x], &[]).is_err());
    }
}
