//! Which weights are always in memory, and which are fetched when they are needed.

use crate::DeviceError;
use crate::read::{THREADS, room};
use crate::stage::JOINED;
use alula_graph::{Graph, Node, Op, WeightId, WeightSource};
use std::collections::HashSet;

/// Fewer bytes than this are not worth fetching.
const LEAST: usize = 1 << 20;

/// Weights that are fetched, and the memory for them.
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
/// graph. `None` if everything fits.
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
        let (bytes, largest) = (each.clone().sum(), each.max().unwrap_or(0));
        ids.iter().all(stored).then(|| Group { ids: ids.iter().map(|w| w.0).collect(), bytes, largest })
    };
    let (mut experts, mut others) = (Vec::new(), Vec::new());
    let mut last: Option<&Node> = None;
    let mut joined: Vec<WeightId> = Vec::new();
    for node in graph.nodes() {
        match node.op {
            Op::Experts(_) => {
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
    let mut away = Away { ids: HashSet::new(), bytes: 0, room: 0 };
    let (mut unit, mut largest) = (0, 0);
    let mut move_out = |g: Group, away: &mut Away| {
        away.bytes += g.ids.iter().filter(|id| away.ids.insert(**id)).map(|id| size(WeightId(*id))).sum::<usize>();
        (unit, largest) = (unit.max(g.bytes), largest.max(g.largest));
        // One unit is computed with while another one comes; files' bytes are about as many as those of packed ones.
        let needs = all - away.bytes + fixed + more + THREADS * room(largest);
        away.room = budget.saturating_sub(needs);
        (away.room >= 2 * unit, needs.saturating_add(2 * unit))
    };
    let (mut fits, mut least) = (false, all.saturating_add(fixed));
    for g in experts {
        (fits, least) = move_out(g, &mut away);
    }
    for g in others.into_iter().rev() {
        if !fits {
            let (now, needs) = move_out(g, &mut away);
            (fits, least) = (now, least.min(needs));
        }
    }
    if fits { Ok(Some(away)) } else { Err(DeviceError::Budget { budget, least }) }
}

/// Bytes of matrices that a token needs, and of them those that are away.
pub(crate) fn token(graph: &Graph, size: &dyn Fn(WeightId) -> usize, away: Option<&Away>) -> [usize; 2] {
    let mut sums = [0usize; 2];
    for node in graph.nodes() {
        let all = node.matrices().iter();
        let fetched = all.clone().filter(|w| away.is_some_and(|a| a.ids.contains(&w.0)));
        for (sum, bytes) in sums.iter_mut().zip([all.map(|w| size(*w)).sum::<usize>(), fetched.map(|w| size(*w)).sum()])
        {
            // Of a mixture's experts, a row has some.
            let (used, of) = match node.op {
                Op::Experts(_) => (graph.shape(node.inputs[1]).cols / 2, node.weights.len() / 3),
                _ => (1, 1),
            };
            *sum = sum.saturating_add(bytes / of * used);
        }
    }
    sums
}
