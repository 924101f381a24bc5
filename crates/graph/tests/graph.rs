//! What fits together and what does not, the memory plan of random graphs, and frequencies of long sequences.

use alula_graph::{
    Binary, Change, Dim, Graph, Groups, Index, Low, NormKind, OPS, Op, Past, RopeStyle, RopeTable, Route, Shape,
    StateSpec, Temperature, Unary, ValueId, plan_arena, rope_powers,
};

fn table(pairs: usize, past: Option<Past>) -> Op {
    Op::RopeTable(RopeTable { inv_freq: vec![0.5; pairs], factor: 1.0, past })
}

fn temperature(floor: f32) -> Op {
    Op::Temperature(Temperature { floor, scale: 0.1 })
}

fn rope(head_dim: usize) -> Op {
    Op::Rope { style: RopeStyle::Halves, head_dim }
}

fn attend(state: usize, heads: usize) -> Op {
    Op::Attend { state, heads, scale: 1.0, soft_cap: None, causal: true }
}

fn route(used: usize, groups: Option<(usize, usize, bool)>) -> Op {
    let groups = groups.map(|(all, used, two)| Groups { all, used, two });
    Op::Route(Route { used, groups, normalise: true, scale: 1.0, sigmoid: false })
}

fn lora(n: usize) -> Op {
    Op::Lora(vec![Low { adapter: 0, scale: 1.0 }; n])
}

const EXPERTS: Op = Op::Experts { act: Unary::Silu, before: false };
const NORM: Op = Op::Norm { kind: NormKind::Rms, eps: 1e-5 };

/// An op, the columns of its inputs (negative: rows are those of outputs), the shapes of its weights, and its own
/// columns or what is wrong.
type Case = (Op, &'static [isize], &'static [&'static [usize]], Result<usize, &'static str>);

fn scan(heads: usize, groups: usize) -> Op {
    Op::Scan { state: 5, heads, groups }
}

fn cases() -> Vec<Case> {
    let long = |change| Some(Past { original: 8, change });
    let ntk = |original| Some(Past { original, change: Change::Ntk { base: 1e4, factor: 2.0 } });
    vec![
        (Op::Embed(Index::Tokens), &[], &[&[10, 6]], Ok(6)),
        (Op::Embed(Index::Positions), &[], &[&[10, 6]], Ok(6)),
        (Op::Embed(Index::Places(1)), &[], &[&[10, 6]], Ok(6)),
        (Op::Embed(Index::Types), &[], &[&[2, 6]], Ok(6)),
        (Op::Embed(Index::Tokens), &[], &[&[10]], Err("2 dimensions and columns, not [10]")),
        (Op::Embed(Index::Tokens), &[], &[&[10, 0]], Err("2 dimensions and columns, not [10, 0]")),
        (Op::Embed(Index::Tokens), &[], &[], Err("takes 0 values and (1, 1) weights")),
        (Op::Embed(Index::Tokens), &[6], &[&[10, 6]], Err("takes 0 values and (1, 1) weights")),
        (Op::MatMul, &[6], &[&[5, 6]], Ok(5)),
        (Op::MatMul, &[-6], &[&[5, 6], &[5]], Ok(5)),
        (Op::MatMul, &[6], &[&[5, 7]], Err("6 columns meet a matrix of 7")),
        (Op::MatMul, &[6], &[&[30]], Err("must have 2 dimensions, not [30]")),
        (Op::MatMul, &[6], &[&[0, 6]], Err("the matrix has no rows")),
        (Op::MatMul, &[6], &[&[5, 6], &[6]], Err("the bias is Some([6]), not [5]")),
        (Op::MatMul, &[6], &[&[5, 6], &[5], &[5]], Err("takes 1 values and (1, 2) weights")),
        (NORM, &[6], &[&[6]], Ok(6)),
        (NORM, &[6], &[&[3], &[3]], Ok(6)),
        (NORM, &[6], &[&[4]], Err("6 columns in groups of 4")),
        (NORM, &[6], &[&[0]], Err("6 columns in groups of 0")),
        (NORM, &[6], &[&[2, 3]], Ok(6)),
        (NORM, &[6], &[&[6, 1], &[6, 1]], Ok(6)),
        (NORM, &[6], &[&[1, 3]], Err("6 columns in 1 groups of 3")),
        (NORM, &[6], &[&[usize::MAX, 6]], Err("6 columns in 18446744073709551615 groups of 6")),
        (NORM, &[6], &[&[2, 3], &[6]], Err("the bias is Some([6]), not [2, 3]")),
        (NORM, &[6], &[&[1, 2, 3]], Err("must have 1 or 2 dimensions, not [1, 2, 3]")),
        (NORM, &[6], &[&[6], &[3]], Err("the bias is Some([3]), not [6]")),
        (table(3, None), &[], &[], Ok(6)),
        (table(2, long(Change::Table(vec![0.1; 2]))), &[], &[], Ok(4)),
        (table(2, ntk(8)), &[], &[], Ok(4)),
        (table(0, None), &[], &[], Err("frequencies are missing")),
        (table(2, long(Change::Table(vec![0.1; 3]))), &[], &[], Err("frequencies are missing")),
        (table(1, ntk(8)), &[], &[], Err("frequencies are missing")),
        (table(2, ntk(0)), &[], &[], Err("frequencies are missing")),
        (temperature(1.0), &[], &[], Ok(1)),
        (temperature(0.0), &[], &[], Err("0 tokens cannot share a factor")),
        (temperature(f32::NAN), &[], &[], Err("NaN tokens cannot share a factor")),
        (temperature(1.0), &[6], &[], Err("takes 0 values and (0, 0) weights")),
        (rope(6), &[12, 4], &[], Ok(12)),
        (rope(4), &[12, 4], &[], Ok(12)),
        (rope(3), &[12, 4], &[], Err("4 rotated dimensions in heads of 3 in 12 columns")),
        (rope(5), &[12, 4], &[], Err("4 rotated dimensions in heads of 5 in 12 columns")),
        (rope(6), &[12, 3], &[], Err("3 rotated dimensions in heads of 6 in 12 columns")),
        (rope(6), &[-12, 4], &[], Err("rows are those of outputs")),
        (rope(6), &[12, -4], &[], Err("rows are those of outputs")),
        // State 0: 2 heads of 4 and 3; 1: no heads; 2 and 3: no columns.
        (attend(0, 4), &[16, 8, 6], &[], Ok(12)),
        (attend(0, 2), &[8, 8, 6], &[], Ok(6)),
        (attend(0, 4), &[15, 8, 6], &[], Err("columns are [15, 8, 6], not [16, 8, 6]")),
        (attend(0, 4), &[16, 8, 8], &[], Err("columns are [16, 8, 8], not [16, 8, 6]")),
        (attend(0, 3), &[12, 8, 6], &[], Err("(3 heads, 2 key heads)")),
        (attend(0, 0), &[0, 8, 6], &[], Err("(0 heads, 2 key heads)")),
        (attend(0, 4), &[-16, 8, 6], &[], Err("rows are those of outputs")),
        (attend(1, 0), &[0, 0, 0], &[], Err("(0 heads, 0 key heads)")),
        (attend(2, 1), &[0, 0, 3], &[], Err("(1 heads, 1 key heads)")),
        (attend(3, 1), &[4, 4, 0], &[], Err("(1 heads, 1 key heads)")),
        // 7: values are parts of keys; 8: longer than those.
        (attend(7, 4), &[16, 4, 4], &[], Ok(12)),
        (attend(7, 4), &[16, 4, 3], &[], Err("columns are [16, 4, 3], not [16, 4, 4]")),
        (attend(8, 4), &[16, 4, 4], &[], Err("values of 5 cannot be parts of keys of 4")),
        (attend(9, 4), &[16, 8, 6], &[], Err("state 9 is missing")),
        (Op::Map(Unary::Silu), &[6], &[], Ok(6)),
        (Op::Zip(Binary::Mul), &[-6, -6], &[], Ok(6)),
        (Op::Zip(Binary::Mul), &[6, 1], &[], Ok(6)),
        (Op::Zip(Binary::Mul), &[6, -1], &[], Err("shapes differ")),
        (Op::Zip(Binary::Mul), &[6, 5], &[], Err("shapes differ")),
        (Op::Zip(Binary::Add), &[6, -6], &[], Err("shapes differ")),
        (Op::Zip(Binary::Add), &[6], &[], Err("takes 2 values and (0, 0) weights")),
        (Op::Glu(Unary::Silu), &[6, 6], &[], Ok(6)),
        (Op::Glu(Unary::Silu), &[6, 6], &[&[6]], Err("takes 2 values and (0, 0) weights")),
        (Op::Outputs, &[6], &[], Ok(6)),
        (Op::Outputs, &[-6], &[], Err("rows are chosen already")),
        (Op::Softmax, &[-6], &[], Ok(6)),
        (route(2, None), &[6], &[], Ok(4)),
        (route(2, Some((3, 2, true))), &[6], &[&[6]], Ok(4)),
        (route(6, None), &[6], &[], Ok(12)),
        (route(0, None), &[6], &[], Err("0 of 6 experts")),
        (route(7, None), &[6], &[], Err("7 of 6 experts")),
        (route(3, Some((6, 2, false))), &[6], &[], Err("3 of 2 experts")),
        (route(1, Some((6, 2, true))), &[6], &[], Err("have no best two")),
        (route(1, Some((4, 2, true))), &[6], &[], Err("of 6 experts cannot be")),
        (route(1, Some((0, 0, true))), &[6], &[], Err("of 6 experts cannot be")),
        (route(1, Some((3, 4, true))), &[6], &[], Err("of 6 experts cannot be")),
        (route(1, Some((65, 1, false))), &[65], &[], Err("of 65 experts cannot be")),
        (route(1, None), &[70_000], &[], Err("are too many")),
        (route(1, None), &[6], &[&[5]], Err("the bias is Some([5]), not [6]")),
        (EXPERTS, &[6, 4], &[&[5, 6], &[5, 6], &[5, 6], &[5, 6], &[6, 5], &[6, 5]], Ok(6)),
        (EXPERTS, &[6, 6], &[&[5, 6], &[5, 6], &[5, 6], &[5, 6], &[6, 5], &[6, 5]], Err("of 6 columns")),
        (EXPERTS, &[6, 3], &[&[5, 6], &[5, 6], &[6, 5]], Err("of 3 columns")),
        (EXPERTS, &[6, -2], &[&[5, 6], &[5, 6], &[6, 5]], Err("do not lead to 1 experts")),
        (EXPERTS, &[6, 2], &[&[5, 6], &[5, 6], &[5, 6]], Err("not all experts are 5 × 6")),
        (EXPERTS, &[7, 2], &[&[5, 6], &[5, 6], &[6, 5]], Err("7 columns meet matrices 5 × 6")),
        (EXPERTS, &[6, 2], &[&[5, 6], &[5, 6], &[6, 5], &[5, 6]], Err("4 weights are not three")),
        (EXPERTS, &[6, 2], &[&[30], &[30], &[30]], Err("must have 2 dimensions")),
        (Op::Parts, &[6], &[&[5, 3], &[5, 3]], Ok(10)),
        (Op::Parts, &[6], &[&[5, 3]], Err("6 columns meet 1 parts of 3")),
        (Op::Parts, &[6], &[&[5, 3], &[4, 3]], Err("not all parts are 5 × 3")),
        (Op::Input(5), &[], &[], Ok(5)),
        (Op::Input(0), &[], &[], Err("it has no columns")),
        (Op::Concat { heads: 2 }, &[6, 4], &[], Ok(10)),
        (Op::Concat { heads: 4 }, &[6, 4], &[], Err("6 and 4 columns are not those of 4 heads")),
        (Op::Concat { heads: 0 }, &[6, 4], &[], Err("not those of 0 heads")),
        (Op::Concat { heads: 2 }, &[6, -4], &[], Err("not those of 2 heads")),
        (Op::Mean, &[6], &[], Ok(6)),
        (Op::Mean, &[-6], &[], Err("rows are chosen already")),
        // State 4: 18 numbers; 5: 60; 6: none.
        (Op::Conv { state: 4 }, &[6], &[&[6, 4]], Ok(6)),
        (Op::Conv { state: 4 }, &[6], &[&[6, 4], &[6]], Ok(6)),
        (Op::Conv { state: 6 }, &[6], &[&[6, 1]], Ok(6)),
        (Op::Conv { state: 4 }, &[6], &[&[6, 4], &[4]], Err("the bias is Some([4]), not [6]")),
        (Op::Conv { state: 4 }, &[6], &[&[24]], Err("filters must have 2 dimensions, not [24]")),
        (Op::Conv { state: 4 }, &[6], &[&[6, 0]], Err("6 columns meet 6 filters of 0 taps")),
        (Op::Conv { state: 4 }, &[6], &[&[5, 4]], Err("6 columns meet 5 filters of 4 taps")),
        (Op::Conv { state: 4 }, &[6], &[&[6, 3]], Err("state 4 is Some(Fixed { len: 18 }), not Fixed of Some(12)")),
        (Op::Conv { state: 0 }, &[6], &[&[6, 4]], Err("state 0 is Some(Paged")),
        (Op::Conv { state: 9 }, &[6], &[&[6, 4]], Err("state 9 is None")),
        (Op::Conv { state: 4 }, &[6], &[&[6, usize::MAX]], Err("not Fixed of None")),
        (Op::Conv { state: 4 }, &[-6], &[&[6, 4]], Err("rows are those of outputs")),
        (scan(12, 1), &[12, 12, 5, 5], &[&[12, 5], &[12]], Ok(12)),
        (scan(4, 2), &[12, 4, 10, 10], &[&[4], &[4]], Ok(12)),
        (scan(4, 2), &[12, 4, 10, 10], &[&[4, 5], &[4]], Err("A is [4, 5] and D [4]; expected [4], and [4]")),
        (scan(12, 1), &[12, 12, 5, 5], &[&[12, 4], &[12]], Err("expected [12] or [12, 5], and [12]")),
        (scan(4, 2), &[12, 4, 10, 10], &[&[4], &[12]], Err("A is [4] and D [12]")),
        (scan(4, 3), &[12, 4, 15, 15], &[&[4], &[4]], Err("(4 heads, 3 groups)")),
        (scan(0, 2), &[12, 0, 10, 10], &[&[0], &[0]], Err("(0 heads, 2 groups)")),
        (scan(4, 0), &[12, 4, 10, 10], &[&[4], &[4]], Err("(4 heads, 0 groups)")),
        (scan(5, 1), &[12, 5, 5, 5], &[&[5], &[5]], Err("x, dt, B and C have 12, 5, 5 and 5 columns")),
        (scan(4, 2), &[12, 5, 10, 10], &[&[4], &[4]], Err("12, 5, 10 and 10 columns")),
        (scan(4, 2), &[12, 4, 10, 12], &[&[4], &[4]], Err("12, 4, 10 and 12 columns")),
        (scan(4, 2), &[12, 4, 5, 5], &[&[4], &[4]], Err("12, 4, 5 and 5 columns")),
        (scan(4, 2), &[0, 4, 10, 10], &[&[4], &[4]], Err("0, 4, 10 and 10 columns")),
        (scan(4, 2), &[12, 4, 0, 0], &[&[4], &[4]], Err("12, 4, 0 and 0 columns")),
        (scan(4, 2), &[12, 4, 8, 8], &[&[4], &[4]], Err("state 5 is Some(Fixed { len: 60 }), not Fixed of Some(48)")),
        (scan(4, 2), &[12, -4, 10, 10], &[&[4], &[4]], Err("rows are those of outputs")),
        (lora(1), &[8, 6], &[&[3, 6], &[8, 3]], Ok(8)),
        (lora(1), &[-8, -3], &[&[8, 3]], Ok(8)),
        (lora(2), &[8, 6], &[&[3, 6], &[8, 3], &[1, 6], &[8, 1]], Ok(8)),
        (lora(1), &[8, -6], &[&[3, 6], &[8, 3]], Err("other rows than what it is added to")),
        (lora(2), &[8, 6], &[&[3, 6], &[8, 3]], Err("2 matrices are not two for each of 2")),
        (lora(2), &[8, 3], &[&[8, 3]], Err("1 matrices are not two for each of 2")),
        (lora(0), &[8, 6], &[&[3, 6]], Err("1 matrices are not two for each of 0")),
        (lora(1), &[8, 6], &[&[3, 5], &[8, 3]], Err("do not lead from 6 columns to 8")),
        (lora(1), &[8, 6], &[&[3, 6], &[8, 4]], Err("do not lead from 6 columns to 8")),
        (lora(1), &[8, 6], &[&[0, 6], &[8, 0]], Err("do not lead from 6 columns to 8")),
        (lora(1), &[8, 6], &[&[], &[8, 3]], Err("do not lead from 6 columns to 8")),
        (lora(1), &[8, 6], &[&[8, 3]], Err("do not lead from 6 columns to 8")),
    ]
}

/// A value of `cols` columns, made directly by the ops that make one.
fn value(g: &mut Graph, cols: isize) -> ValueId {
    let n = cols.unsigned_abs();
    // An embedding has columns; a value of none cannot be had, so a shape error shows instead.
    let w = g.weight(format!("t{n}"), &[10, n.max(1)]);
    let x = g.push("x", Op::Embed(Index::Tokens), &[], &[w]).expect("an embedding");
    if cols < 0 { g.push("o", Op::Outputs, &[x], &[]).expect("outputs") } else { x }
}

#[test]
fn shapes_are_inferred_or_refused() {
    for (op, inputs, weights, want) in cases() {
        let mut g = Graph::new();
        for (heads, key_dim, value_dim) in [(2, 4, 3), (0, 4, 3), (1, 0, 3), (1, 4, 0)] {
            g.state(StateSpec::Paged { heads, key_dim, value_dim, shared: false, window: None });
        }
        for len in [18, 60, 0] {
            g.state(StateSpec::Fixed { len });
        }
        for value_dim in [3, 5] {
            g.state(StateSpec::Paged { heads: 1, key_dim: 4, value_dim, shared: true, window: None });
        }
        // Shape inference is asked directly where an input of no columns is needed.
        let got = if inputs.contains(&0) {
            let shapes: Vec<Shape> = inputs.iter().map(|&c| Shape::new(Dim::Tokens, c.unsigned_abs())).collect();
            (op.def().infer)(&op, &shapes.iter().collect::<Vec<_>>(), weights, g.states())
        } else {
            let values: Vec<ValueId> = inputs.iter().map(|&c| value(&mut g, c)).collect();
            let weights: Vec<_> = weights.iter().map(|w| g.weight(format!("{w:?}"), w)).collect();
            let before = (g.nodes().len(), g.values().len());
            let out = g.push("y", op.clone(), &values, &weights);
            if out.is_err() {
                assert_eq!((g.nodes().len(), g.values().len()), before, "a refused node leaves nothing");
            }
            out.map(|v| g.shape(v)).map_err(|e| e.to_string())
        };
        match (got, want) {
            (Ok(shape), Ok(cols)) => {
                let rows = if matches!(op, Op::Outputs | Op::Mean) || inputs.iter().any(|&c| c < 0) {
                    Dim::Outputs
                } else {
                    Dim::Tokens
                };
                assert_eq!(shape, Shape::new(rows, cols), "{op:?}");
            }
            (Err(why), Err(want)) => assert!(why.contains(want), "{op:?}: {why}"),
            (got, want) => panic!("{op:?} of {inputs:?}, {weights:?}: {got:?}, not {want:?}"),
        }
    }
}

#[test]
fn every_family_has_its_row() {
    let mut seen: Vec<_> = cases().iter().map(|c| c.0.def().name).collect();
    seen.dedup();
    assert_eq!(seen, OPS.iter().map(|o| o.name).collect::<Vec<_>>());
}

#[test]
fn a_weight_of_the_same_name_and_shape_is_the_same() {
    let mut g = Graph::new();
    let (a, b, c) = (g.weight("w", &[2, 3]), g.weight("v", &[2, 3]), g.weight("w", &[3, 2]));
    assert!(a != b && b != c && a != c);
    assert_eq!((g.weight("w", &[2, 3]), g.weight("w", &[3, 2]), g.weights().len()), (a, c, 3));
    let state = StateSpec::Paged { heads: 1, key_dim: 1, value_dim: 1, shared: false, window: None };
    assert_eq!((g.state(state), g.state(state)), (0, 1));
}

/// A graph that adds random earlier values, narrow and wide.
fn random_graph(seed: u64) -> Graph {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % n
    };
    let mut g = Graph::new();
    let mut by_width: [Vec<ValueId>; 3] = Default::default();
    for i in 0..30 {
        let kind = next(3);
        let (width, pool) = ([16, 24, 90][kind], &mut by_width[kind]);
        let t = g.weight(format!("t{width}"), &[4, width]);
        let v = if pool.is_empty() || next(4) == 0 {
            g.push(format!("{i}"), Op::Embed(Index::Tokens), &[], &[t])
        } else {
            let pair = [pool[next(pool.len())], pool[next(pool.len())]];
            g.push(format!("{i}"), Op::Zip(Binary::Add), &pair, &[])
        };
        pool.push(v.expect("a graph"));
    }
    let last = by_width[next(3)].last().copied().unwrap_or(ValueId(0));
    g.push("out", Op::Outputs, &[last], &[]).expect("outputs");
    g
}

#[test]
fn values_that_live_together_lie_apart() {
    for seed in 0..300 {
        let g = random_graph(seed);
        let (tokens, outputs) = [(1, 1), (3, 2), (5, 0), (7, 7)][seed as usize % 4];
        let a = plan_arena(&g, tokens, outputs);
        let n = g.values().len();
        let range = |v: usize| {
            let shape = g.shape(ValueId(v));
            let rows = if shape.rows == Dim::Tokens { tokens } else { outputs };
            assert!(a.offsets[v].is_multiple_of(16));
            a.offsets[v]..a.offsets[v] + rows * shape.cols
        };
        // Value v is made by node v here.
        let last = |v: usize| {
            let read = g.nodes().iter().rposition(|node| node.inputs.contains(&ValueId(v))).unwrap_or(v);
            if v == n - 1 { usize::MAX } else { read }
        };
        let mut most = 0;
        for v in 0..n {
            assert_eq!(g.nodes()[v].output, ValueId(v));
            assert!(range(v).end <= a.len);
            most = most.max((0..=v).filter(|&u| last(u) >= v).map(|u| range(u).len().next_multiple_of(16)).sum());
            for u in 0..v {
                let (u_range, v_range) = (range(u), range(v));
                let apart = u_range.end <= v_range.start || v_range.end <= u_range.start;
                assert!(apart || last(u) < v, "graph {seed}: value {v} is written over {u}");
            }
        }
        // First fit is not the best, but not far from it.
        assert!(most <= a.len && a.len <= 2 * most, "graph {seed}: {} elements for {most}", a.len);
    }
}

#[test]
fn the_arena_of_nothing_and_of_too_much() {
    assert_eq!(plan_arena(&Graph::new(), 5, 5).len, 0);
    let g = random_graph(1);
    assert_eq!(plan_arena(&g, usize::MAX, 1).len, usize::MAX);
    assert_eq!(plan_arena(&g, usize::MAX / 64, 1).len, usize::MAX);
}

#[test]
fn frequencies_change_past_the_original_context() {
    let plain = RopeTable { inv_freq: vec![1.0, 0.1], factor: 1.0, past: None };
    assert_eq!((plain.inv_freq(1 << 20).to_vec(), plain.regime(5), plain.regime(1 << 20)), (vec![1.0, 0.1], 0, 0));
    let past = |change| RopeTable { past: Some(Past { original: 100, change }), ..plain.clone() };
    let long = past(Change::Table(vec![0.7, 0.07]));
    assert_eq!((long.inv_freq(100).to_vec(), long.inv_freq(101).to_vec()), (vec![1.0, 0.1], vec![0.7, 0.07]));
    assert_eq!([1, 100, 101, 5000].map(|n| long.regime(n)), [0, 0, 1, 1]);
    let ntk = past(Change::Ntk { base: 100.0, factor: 4.0 });
    assert_eq!([1, 100, 101, 300].map(|n| ntk.regime(n)), [0, 0, 1, 200]);
    assert_eq!(ntk.inv_freq(100).to_vec(), [1.0, 0.1]);
    // base · (4 · 300 / 100 - 3)^(4 / 2) = 100 · 81; its square root is 90.
    let got = ntk.inv_freq(300);
    assert_eq!(got[0], 1.0);
    assert!((got[1] - 1.0 / 90.0).abs() < 1e-8, "{}", got[1]);
}

#[test]
fn powers_of_the_base() {
    let got: Vec<f32> = rope_powers(10000.0, 8).collect();
    for (got, want) in got.iter().zip([1.0, 10.0, 100.0, 1000.0]) {
        assert!((got - want).abs() <= want * 1e-6, "{got} {want}");
    }
    assert_eq!(got.len(), 4);
}
