//! Which weights are always in memory, and which are fetched when they are needed.

use crate::DeviceError;
use crate::read::{THREADS, room};
use crate::stage::JOINED;
use alula_graph::{Graph, Node, Op, WeightId, WeightSource};
use std::collections::HashSet;

/// Fewer bytes than this are not worth fetching.
const LEAST: usize = 1 << 20;

/// Weights that are fetched, and the memory for them.
#[derive(Debug)]
pub(crate) struct Away {
    pub(crate) ids: HashSet<usize>,
    /// Bytes of them.
    pub(crate) bytes: usize,
    /// Bytes that they may take together.
    pub(crate) room: usize,
}

/// Matrices that come and go together.
struct Group {
    ids: Vec<usize>,
    bytes: usize,
    largest: usize,
}

/// Divides the matrices of a graph, whose packed sizes `size` says, so that with `fixed` bytes of other things, and `more` if
/// anything is fetched, all fits into `budget`. Experts are fetched before anything else is, then what stands last in the
/// graph of what is small enough. `None` if everything fits.
///
/// # Errors
/// There is no such division.
pub(crate) fn divide(
    graph: &Graph,
    source: &dyn WeightSource,
    size: &dyn Fn(WeightId) -> usize,
    (fixed, more): (usize, usize),
    budget: usize,
) -> Result<Option<Away>, DeviceError> {
    let (mut seen, mut all) = (HashSet::new(), 0usize);
    for &w in graph.nodes().iter().flat_map(|n| n.matrices()) {
        if seen.insert(w.0) {
            all = all.saturating_add(size(w));
        }
    }
    if all.saturating_add(fixed) <= budget {
        return Ok(None);
    }
    let group = |ids: Vec<WeightId>| {
        // What has to be computed from the file's bytes, or is not in a file, stays.
        let stored = |w: &WeightId| matches!(source.kind(&graph.weights()[w.0].name), Ok((_, true)));
        let each = ids.iter().map(|w| size(*w));
        let (bytes, largest) = (each.clone().fold(0, usize::saturating_add), each.max().unwrap_or(0));
        ids.iter().all(stored).then(|| Group { ids: ids.iter().map(|w| w.0).collect(), bytes, largest })
    };
    let (mut experts, mut others) = (Vec::new(), Vec::new());
    let mut last: Option<&Node> = None;
    let mut joined: Vec<WeightId> = Vec::new();
    for node in graph.nodes() {
        match node.op {
            Op::Experts { .. } => {
                let count = node.weights.len() / 3;
                experts.extend((0..count).filter_map(|e| group((0..3).map(|i| node.weights[i * count + e]).collect())));
            }
            // Products of one value may become one stage.
            Op::MatMul if last.is_some_and(|l| l.inputs == node.inputs) && joined.len() < JOINED => {
                joined.extend(node.matrices());
            }
            Op::MatMul => others.extend(group(std::mem::replace(&mut joined, node.matrices().to_vec()))),
            Op::Parts => others.extend(group(node.matrices().to_vec())),
            _ => {}
        }
        last = Some(node).filter(|n| matches!(n.op, Op::MatMul));
    }
    others.extend(group(joined));
    others.retain(|g| g.bytes >= LEAST);
    let mut least = all.saturating_add(fixed);
    // What is fetched needs memory to come into, as much as its largest unit asks for: so large ones stay, if that is enough.
    let (mut most, largest) = (LEAST, others.iter().map(|g| g.bytes).max().unwrap_or(0));
    loop {
        most = most.saturating_mul(2);
        let others = others.iter().rev().filter(|g| g.bytes <= most);
        let (mut away, mut unit, mut part) = (Away { ids: HashSet::new(), bytes: 0, room: 0 }, 0, 0);
        for (i, g) in experts.iter().chain(others).enumerate() {
            let new = g.ids.iter().filter(|id| away.ids.insert(**id)).map(|id| size(WeightId(*id)));
            away.bytes = new.fold(away.bytes, usize::saturating_add);
            (unit, part) = (g.bytes.max(unit), g.largest.max(part));
            if i + 1 < experts.len() {
                continue;
            }
            // One unit is computed with while another one comes; files' bytes are about as many as those of packed ones.
            let buffers = room(part).saturating_mul(THREADS);
            let needs = [fixed, more, buffers].into_iter().fold(all.saturating_sub(away.bytes), usize::saturating_add);
            let with_units = needs.saturating_add(unit.saturating_mul(2));
            if with_units <= budget {
                away.room = budget - needs;
                return Ok(Some(away));
            }
            least = least.min(with_units);
        }
        if most >= largest {
            return Err(DeviceError::Budget { budget, least });
        }
    }
}

/// Bytes of matrices that a token needs, and of them those that are away.
pub(crate) fn token(graph: &Graph, size: &dyn Fn(WeightId) -> usize, away: Option<&Away>) -> [usize; 2] {
    let mut sums = [0usize; 2];
    for node in graph.nodes() {
        let all = node.matrices().iter();
        let fetched = all.clone().filter(|w| away.is_some_and(|a| a.ids.contains(&w.0)));
        let sizes = [
            all.map(|w| size(*w)).fold(0, usize::saturating_add),
            fetched.map(|w| size(*w)).fold(0, usize::saturating_add),
        ];
        for (sum, bytes) in sums.iter_mut().zip(sizes) {
            // Of a mixture's experts, a row has some.
            let (used, of) = match node.op {
                Op::Experts { .. } => (graph.shape(node.inputs[1]).cols / 2, node.weights.len() / 3),
                _ => (1, 1),
            };
            *sum = sum.saturating_add((bytes / of).saturating_mul(used));
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use alula_graph::{Dim, Index, Unary};
    use alula_tensor::{DType, Tensor};

    /// Whose weights are all in a file.
    struct Files;

    impl WeightSource for Files {
        fn tensor(&self, _: &str) -> Result<Tensor, String> {
            unreachable!("nothing is read")
        }
        fn kind(&self, _: &str) -> Result<(DType, bool), String> {
            Ok((DType::F32, true))
        }
    }

    /// Products of so many megabytes one after another, behind a mixture of `experts` that have one each thrice.
    fn graph(products: &[usize], experts: usize) -> Graph {
        let mut g = Graph::new();
        let (table, f32s) = (g.weight("table", &[4, 16]), |mb: usize| mb << 14);
        let mut x = g.push("x", Op::Embed(Index::Tokens), &[], &[table]).expect("a value");
        if experts > 0 {
            let router = g.weight("router", &[experts, 16]);
            let logits = g.push("logits", Op::MatMul, &[x], &[router]).expect("a value");
            let route = alula_graph::Route { used: 1, groups: None, normalise: false, scale: 1.0, sigmoid: false };
            let routes = g.push("routes", Op::Route(route), &[logits], &[]).expect("a value");
            let shape = |part| if part == "down" { [16, f32s(1)] } else { [f32s(1), 16] };
            let names = ["gate", "up", "down"].into_iter().flat_map(|p| (0..experts).map(move |e| (p, e)));
            let w: Vec<WeightId> = names.map(|(p, e)| g.weight(format!("{p}{e}"), &shape(p))).collect();
            x = g.push("mixture", Op::Experts { act: Unary::Silu, before: false }, &[x, routes], &w).expect("a value");
        }
        for (i, &mb) in products.iter().enumerate() {
            let up = g.weight(format!("up {i}"), &[f32s(mb), 16]);
            let y = g.push("up", Op::MatMul, &[x], &[up]).expect("a value");
            let down = g.weight(format!("down {i}"), &[16, f32s(mb)]);
            x = g.push("down", Op::MatMul, &[y], &[down]).expect("a value");
        }
        assert_eq!(g.shape(x).rows, Dim::Tokens);
        g
    }

    fn away(g: &Graph, fixed: usize, budget: usize) -> Result<Option<Away>, (usize, usize)> {
        let size = |w: WeightId| g.weights()[w.0].shape.iter().product::<usize>() * 4;
        divide(g, &Files, &size, (fixed, 1 << 20), budget).map_err(|e| match e {
            DeviceError::Budget { budget, least } => (budget, least),
            e => panic!("{e}"),
        })
    }

    /// Large products, which would need more memory to come into than they leave, stay; what is refused says the least that
    /// is not.
    #[test]
    fn what_is_large_stays_if_that_is_enough() {
        const MB: usize = 1 << 20;
        let products = [&[4; 20][..], &[100]].concat();
        let g = graph(&products, 0);
        let all = 2 * (20 * 4 + 100) * MB;
        assert!(away(&g, MB, all + MB).expect("it fits").is_none());
        let (_, least) = away(&g, MB, 10 * MB).expect_err("it does not fit");
        assert!(least < 240 * MB, "{least}");
        assert_eq!(away(&g, MB, least - 1).err(), Some((least - 1, least)));
        for budget in [least, 300 * MB, all] {
            let a = away(&g, MB, budget).expect("it fits").expect("not everything");
            assert!(a.bytes <= 160 * MB && a.room >= 8 * MB && a.room + all - a.bytes < budget, "{budget}");
        }
    }

    /// If everything needs less than what fetching needs, that is said.
    #[test]
    fn the_least_may_be_everything() {
        let g = graph(&[], 2);
        let (budget, least) = away(&g, 1000, 1 << 20).expect_err("it does not fit");
        let all = 6 * (1 << 20) + 2 * 16 * 4 + 1000;
        assert_eq!((budget, least), (1 << 20, all));
        assert!(away(&g, 1000, all).expect("it fits").is_none());
    }

    /// Sizes that are no numbers are not small ones.
    #[test]
    fn endless_sizes_do_not_fit() {
        for g in [graph(&[4, 4], 0), graph(&[4], 3)] {
            for fixed in [usize::MAX, usize::MAX - 1000] {
                assert_eq!(away(&g, fixed, 1 << 40).err(), Some((1 << 40, usize::MAX)));
            }
        }
    }
}
