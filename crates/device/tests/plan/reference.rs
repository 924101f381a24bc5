//! The graph's meaning in double precision, and the bits of a plan.

use crate::{LIMITS, PAGE, Step, VOCAB, Weights, compile, model, sequence};
use alula_device::{CacheType, Cpu, CpuDevice, Device, Limits};
use alula_graph::{Binary, Graph, Index, NormKind, Op, RopeStyle, StateSpec, Unary, WeightSource, Window};
use alula_tensor::{DType, FORMATS, Tensor};

pub(crate) type Rows = Vec<Vec<f64>>;

fn unary(f: Unary, x: f64) -> f64 {
    match f {
        Unary::Relu => x.max(0.0),
        Unary::Relu2 => x.max(0.0).powi(2),
        Unary::GeluQuick => x / (1.0 + (-1.702 * x).exp()),
        Unary::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Unary::Silu => x / (1.0 + (-x).exp()),
        Unary::Gelu => x * 0.5 * (1.0 + libm::erf(x / 2f64.sqrt())),
        Unary::GeluTanh => x * 0.5 * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh()),
        Unary::Scale(k) => x * f64::from(k),
        Unary::SoftCap(c) => f64::from(c) * (x / f64::from(c)).tanh(),
        Unary::Softplus => x.exp().ln_1p(),
        Unary::Clamp(lo, hi) => x.clamp(f64::from(lo), f64::from(hi)),
    }
}

/// The result for every token of one sequence, computed from its start.
pub(crate) fn reference(graph: &Graph, weights: &Weights, tokens: &[u32], types: &[u32]) -> Rows {
    let n = tokens.len();
    let mut values: Vec<Rows> = Vec::new();
    for node in graph.nodes() {
        let x = |i: usize| &values[node.inputs[i].0];
        let w = |i: usize| -> Option<Vec<f64>> {
            let t = weights.tensor(&graph.weights()[node.weights.get(i)?.0].name).expect("a weight");
            Some(t.to_f32().into_iter().map(f64::from).collect())
        };
        let each = |f: &dyn Fn(&[f64]) -> Vec<f64>| -> Rows { x(0).iter().map(|row| f(row)).collect() };
        let both = |f: &dyn Fn(f64, f64) -> f64| -> Rows {
            let rows = x(0).iter().zip(x(1));
            rows.map(|(a, b)| a.iter().zip(b.iter().cycle()).map(|(&a, &b)| f(a, b)).collect()).collect()
        };
        let cols = graph.shape(node.output).cols;
        let out: Rows = match &node.op {
            Op::Embed(index) => {
                let table = w(0).expect("a table");
                let id = |i: usize| match index {
                    Index::Tokens => tokens[i] as usize,
                    Index::Positions => i,
                    Index::Places(pad) if tokens[i] == *pad => *pad as usize,
                    Index::Places(pad) => *pad as usize + tokens[..=i].iter().filter(|t| *t != pad).count(),
                    Index::Types => types[i] as usize,
                };
                (0..n).map(|i| table[id(i) * cols..][..cols].to_vec()).collect()
            }
            Op::MatMul => {
                let (m, bias) = (w(0).expect("a matrix"), w(1));
                each(&|row| {
                    let dot = |j: usize| -> f64 { m[j * row.len()..].iter().zip(row).map(|(m, x)| m * x).sum() };
                    (0..cols).map(|j| dot(j) + bias.as_ref().map_or(0.0, |b| b[j])).collect()
                })
            }
            Op::Norm { kind, eps } => {
                let (weight, bias) = (w(0).expect("a weight"), w(1));
                let width = *graph.weights()[node.weights[0].0].shape.last().expect("a dimension");
                each(&|row| {
                    let groups = row.chunks(width).enumerate().flat_map(|(group, x)| {
                        let size = x.len() as f64;
                        let mean = if *kind == NormKind::Rms { 0.0 } else { x.iter().sum::<f64>() / size };
                        let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / size;
                        let (weight, bias) = (&weight, &bias);
                        x.iter().enumerate().map(move |(i, x)| {
                            let i = (group * width + i) % weight.len();
                            let y = (x - mean) / (var + f64::from(*eps)).sqrt() * weight[i];
                            y + bias.as_ref().map_or(0.0, |b| b[i])
                        })
                    });
                    groups.collect()
                })
            }
            Op::RopeTable(t) => {
                let angles = |p: usize| t.inv_freq(n).iter().map(|f| f64::from(p as f32 * f)).collect::<Vec<_>>();
                let factor = f64::from(t.factor);
                let row = |p| {
                    angles(p)
                        .iter()
                        .map(|a| a.cos() * factor)
                        .chain(angles(p).iter().map(|a| a.sin() * factor))
                        .collect()
                };
                (0..n).map(row).collect()
            }
            Op::Temperature(t) => {
                let steps = |p: usize| (p as f64 + 1.0).div_euclid(f64::from(t.floor));
                (0..n).map(|p| vec![1.0 + f64::from(t.scale) * steps(p).ln_1p()]).collect()
            }
            Op::Rope { style, head_dim } => {
                let half = x(1)[0].len() / 2;
                let rotate = |row: &Vec<f64>, table: &Vec<f64>| {
                    let mut y = row.clone();
                    for head in y.chunks_mut(*head_dim) {
                        for i in 0..half {
                            let (a, b) = if *style == RopeStyle::Halves { (i, i + half) } else { (2 * i, 2 * i + 1) };
                            let (c, s, u, v) = (table[i], table[half + i], head[a], head[b]);
                            (head[a], head[b]) = (u * c - v * s, v * c + u * s);
                        }
                    }
                    y
                };
                x(0).iter().zip(x(1)).map(|(row, table)| rotate(row, table)).collect()
            }
            Op::Attend { state, heads, scale, soft_cap, causal } => {
                let StateSpec::Paged { heads: kv, key_dim: dk, value_dim: dv, window, .. } = graph.states()[*state]
                else {
                    unreachable!("attention has pages")
                };
                let mut out = vec![vec![0.0; heads * dv]; n];
                for (row, out) in out.iter_mut().enumerate() {
                    let (first, last) = match window {
                        Some(Window::Sliding(w)) => ((row + usize::from(*causal)).saturating_sub(w), row + w),
                        Some(Window::Chunked { chunk }) => (row / chunk * chunk, (row / chunk + 1) * chunk - 1),
                        None => (0, n),
                    };
                    let seen = first..=last.min(if *causal { row } else { n - 1 });
                    for (h, out) in out.chunks_mut(dv).enumerate() {
                        let g = h / (heads / kv);
                        let score = |j: usize| {
                            let (q, k) = (&x(0)[row][h * dk..][..dk], &x(1)[j][g * dk..][..dk]);
                            let s = q.iter().zip(k).map(|(q, k)| q * k).sum::<f64>() * f64::from(*scale);
                            soft_cap.map_or(s, |c| unary(Unary::SoftCap(c), s)).exp()
                        };
                        let total: f64 = seen.clone().map(score).sum();
                        for j in seen.clone() {
                            let weight = score(j) / total;
                            // Shared values are parts of keys, which then have one head.
                            out.iter_mut().zip(&x(2)[j][g * dv..]).for_each(|(o, v)| *o += weight * v);
                        }
                    }
                }
                out
            }
            Op::Lora(_) => x(0).clone(), // no sequence has adapters here
            Op::Map(f) => each(&|row| row.iter().map(|&x| unary(*f, x)).collect()),
            Op::Zip(Binary::Add) => both(&|a, b| a + b),
            Op::Zip(Binary::Mul) => both(&|a, b| a * b),
            Op::Glu(f) => both(&|a, b| unary(*f, a) * b),
            Op::Outputs => x(0).clone(),
            Op::Input(_) => unreachable!("no graph here has one"),
            Op::Softmax => each(&|row| {
                let most = row.iter().copied().fold(f64::MIN, f64::max);
                let all: f64 = row.iter().map(|x| (x - most).exp()).sum();
                row.iter().map(|x| (x - most).exp() / all).collect()
            }),
            Op::Route(r) => {
                let bias = w(0);
                each(&|row| {
                    let key = |e: &usize| row[*e] + bias.as_ref().map_or(0.0, |b| b[*e]);
                    let falling = |a: &f64, b: &f64| b.total_cmp(a);
                    let mut allowed: Vec<usize> = (0..row.len()).collect();
                    if let Some(g) = r.groups {
                        let size = row.len() / g.all;
                        let worth = |group: &usize| {
                            let mut keys: Vec<f64> = (group * size..(group + 1) * size).map(|e| key(&e)).collect();
                            keys.sort_by(falling);
                            keys[0] + if g.two { keys[1] } else { 0.0 }
                        };
                        let mut groups: Vec<usize> = (0..g.all).collect();
                        groups.sort_by(|a, b| falling(&worth(a), &worth(b)));
                        allowed.retain(|e| groups[..g.used].contains(&(e / size)));
                    }
                    allowed.sort_by(|a, b| falling(&key(a), &key(b)));
                    allowed.truncate(r.used);
                    allowed.sort_unstable();
                    let worth = |e: &usize| if r.sigmoid { unary(Unary::Sigmoid, row[*e]) } else { row[*e] };
                    let sum: f64 = if r.normalise { allowed.iter().map(worth).sum() } else { 1.0 };
                    let weights = allowed.iter().map(|e| worth(e) / sum * f64::from(r.scale));
                    allowed.iter().map(|&e| e as f64).chain(weights).collect()
                })
            }
            Op::Experts { act, before } => {
                let (count, used) = (node.weights.len() / 3, x(1)[0].len() / 2);
                let times = |i: usize, x: &[f64]| -> Vec<f64> {
                    let m = w(i).expect("a matrix");
                    m.chunks(x.len()).map(|m| m.iter().zip(x).map(|(m, x)| m * x).sum()).collect()
                };
                let rows = x(0).iter().zip(x(1));
                rows.map(|(row, routes)| {
                    let mut out = vec![0.0; cols];
                    for i in 0..used {
                        let expert = routes[i] as usize;
                        let weight = routes[used + i];
                        let (into, from) = if *before { (weight, 1.0) } else { (1.0, weight) };
                        let row: Vec<f64> = row.iter().map(|x| x * into).collect();
                        let (gate, up) = (times(expert, &row), times(count + expert, &row));
                        let unit: Vec<f64> = gate.iter().zip(up).map(|(&g, u)| unary(*act, g) * u).collect();
                        let y = times(2 * count + expert, &unit);
                        out.iter_mut().zip(y).for_each(|(o, y)| *o += y * from);
                    }
                    out
                })
                .collect()
            }
            Op::Parts => each(&|row| {
                let parts = row.chunks(row.len() / node.weights.len()).enumerate();
                let dots = |(i, x): (usize, &[f64])| -> Vec<f64> {
                    let m = w(i).expect("a matrix");
                    m.chunks(x.len()).map(|m| m.iter().zip(x).map(|(m, x)| m * x).sum()).collect()
                };
                parts.flat_map(dots).collect()
            }),
            Op::Concat { heads } => {
                let rows = x(0).iter().zip(x(1));
                rows.map(|(a, b)| {
                    let heads = a.chunks(a.len() / heads).zip(b.chunks(b.len() / heads));
                    heads.flat_map(|(a, b)| a.iter().chain(b).copied()).collect()
                })
                .collect()
            }
            Op::Mean => {
                let column = |c: usize| x(0).iter().map(|row| row[c]).sum::<f64>() / n as f64;
                vec![(0..cols).map(column).collect(); n]
            }
            Op::Conv { .. } => {
                let (filters, bias) = (w(0).expect("filters"), w(1));
                let taps = filters.len() / cols;
                let tap = |t: usize, c: usize, k: usize| (t + k + 1).checked_sub(taps).map_or(0.0, |i| x(0)[i][c]);
                let sum = |t, c| (0..taps).map(|k| filters[c * taps + k] * tap(t, c, k)).sum::<f64>();
                let row = |t| (0..cols).map(|c| sum(t, c) + bias.as_ref().map_or(0.0, |b| b[c])).collect();
                (0..n).map(row).collect()
            }
            Op::Scan { heads, groups, .. } => {
                let (a, d, dim, size) = (w(0).expect("A"), w(1).expect("D"), cols / heads, x(2)[0].len() / groups);
                let mut hidden = vec![vec![0.0; size]; cols];
                let mut row = |t: usize| -> Vec<f64> {
                    let column = |(c, h): (usize, &mut Vec<f64>)| {
                        let (head, dt, u) = (c / dim, x(1)[t][c / dim], x(0)[t][c]);
                        let group = head / (heads / groups) * size;
                        let mut y = d[head] * u;
                        for (k, h) in h.iter_mut().enumerate() {
                            let a = if a.len() == *heads { a[head] } else { a[head * size + k] };
                            *h = *h * (dt * a).exp() + dt * x(2)[t][group + k] * u;
                            y += *h * x(3)[t][group + k];
                        }
                        y
                    };
                    hidden.iter_mut().enumerate().map(column).collect()
                };
                (0..n).map(&mut row).collect()
            }
        };
        values.push(out);
    }
    values.pop().expect("a result")
}

/// Two sequences that share steps; the first is past the table's original context, and both past a page.
fn sequences() -> [Vec<u32>; 2] {
    [sequence(1, 130), sequence(2, 70)]
}

/// Pages in odd orders.
const PAGES: [&[u32]; 2] = [&[7, 0, 4], &[3, 8]];

#[test]
fn a_graph_of_every_op_means_what_it_says() {
    // The errors of single precision, of a half-precision cache, of 8-bit activations.
    for (matrices, cache, bound) in [
        (DType::F32, CacheType::F32, 1e-12),
        (DType::BF16, CacheType::F32, 1e-12),
        (DType::F32, CacheType::F16, 1e-6),
        (DType::F32, CacheType::BF16, 2e-5),
        (DType::F32, CacheType::Q8_0, 1e-4),
        (DType::F32, CacheType::Q4_0, 2e-2),
        (DType::Q8_0, CacheType::F32, 2e-3),
    ] {
        let (graph, weights) = model(matrices);
        let cpu = Cpu::pick(None).expect("a level");
        let mut plan = compile(cpu, 2, matrices, Limits { cache, ..LIMITS });
        assert_eq!((plan.cols(), plan.limits().context), (VOCAB, LIMITS.context));
        for (tokens, pages) in sequences().iter().zip(PAGES) {
            let mut step = Step::default();
            step.add(tokens, 0..tokens.len(), pages);
            let got = step.run(&mut *plan).expect("a result");
            let want = reference(&graph, &weights, tokens, &[]).concat();
            assert_eq!(got.len(), want.len());
            let error: f64 = got.iter().zip(&want).map(|(&g, w)| (f64::from(g) - w).powi(2)).sum();
            let nmse = error / want.iter().map(|w| w * w).sum::<f64>();
            assert!(nmse <= bound, "{matrices}: NMSE {nmse:e} over {bound:e}");
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_every_company() {
    for matrices in [DType::BF16, DType::Q8_0] {
        let [a, b] = sequences();
        let mut want = [Vec::new(), Vec::new()];
        let mut plan = compile(Cpu::all()[0], 1, matrices, LIMITS);
        for (want, (tokens, pages)) in want.iter_mut().zip([&a, &b].into_iter().zip(PAGES)) {
            let mut step = Step::default();
            step.add(tokens, 0..tokens.len(), pages);
            *want = step.run(&mut *plan).expect("a result");
        }
        for cpu in Cpu::all() {
            for threads in [1, 2] {
                let mut plan = compile(cpu, threads, matrices, LIMITS);
                for piece in [1, 7, 64] {
                    let at = format!("{matrices}, {}, {threads} threads, pieces of {piece}", cpu.name());
                    // Both in each step until the shorter one has ended, in pages that change with the piece.
                    let pages = if piece == 7 { PAGES } else { [&[1u32, 2, 3][..], &[6, 5]] };
                    let mut done = 0;
                    while done < a.len() {
                        let mut step = Step::default();
                        let ranges = [&b, &a].map(|s| done.min(s.len())..(done + piece).min(s.len()));
                        if !ranges[0].is_empty() {
                            step.add(&b, ranges[0].clone(), pages[1]);
                        }
                        step.add(&a, ranges[1].clone(), pages[0]);
                        let want = [
                            &want[1][ranges[0].start * VOCAB..ranges[0].end * VOCAB],
                            &want[0][ranges[1].start * VOCAB..ranges[1].end * VOCAB],
                        ]
                        .concat();
                        let got = step.run(&mut *plan).expect("a result");
                        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                        assert!(bits(&got) == bits(&want), "{at}, from {done}");
                        done += piece;
                    }
                }
            }
        }
    }
}

#[test]
fn only_the_rows_that_are_asked_for_come_back() {
    let [a, b] = sequences();
    let mut plan = compile(Cpu::pick(None).expect("a level"), 1, DType::Q8_0, LIMITS);
    let mut step = Step::default();
    step.add(&a, 0..90, PAGES[0]);
    step.add(&b, 0..30, PAGES[1]);
    let all = step.run(&mut *plan).expect("a result");
    let mut some = step.clone();
    some.outputs = vec![0, 17, 89, 90, 119];
    let got = some.run(&mut *plan).expect("a result");
    let want: Vec<f32> = some.outputs.iter().flat_map(|&r| all[r as usize * VOCAB..][..VOCAB].to_vec()).collect();
    assert_eq!(got, want);
    // Nobody asks for a row, yet the cache takes in the keys.
    let mut fresh = compile(Cpu::pick(None).expect("a level"), 1, DType::Q8_0, LIMITS);
    some.outputs.clear();
    assert!(some.run(&mut *fresh).expect("a result").is_empty());
    let mut next = Step::default();
    next.add(&a, 90..91, PAGES[0]);
    let got = next.run(&mut *fresh).expect("a result");
    assert_eq!(got, next.run(&mut *plan).expect("a result"));
}

#[test]
fn tables_of_every_format_give_their_rows() {
    for format in FORMATS {
        let cols = format.block.max(3);
        let bytes: Vec<u8> = (0..5 * cols / format.block * format.bytes).map(|i| (i * 37 % 101) as u8).collect();
        let len = bytes.len();
        let table = Tensor::new(format.dtype, vec![5, cols], bytes.into(), 0..len).expect("whole blocks");
        let mut graph = Graph::new();
        let w = graph.weight("t", &[5, cols]);
        graph.push("x", Op::Embed(Index::Tokens), &[], &[w]).expect("a graph");
        let source = Weights([("t".to_owned(), table.clone())].into());
        let device = CpuDevice::new(Cpu::pick(None).expect("a level"), 1);
        let mut plan = device.compile(&graph, &source, LIMITS, None, &mut |_, _| ()).expect("a plan");
        let mut step = Step::default();
        step.add(&[4, 0, 2, 2], 0..4, &[0]);
        let bits: Vec<u32> = step.run(&mut *plan).expect("a result").iter().map(|x| x.to_bits()).collect();
        let all = table.to_f32();
        let want: Vec<u32> =
            [4, 0, 2, 2].iter().flat_map(|&r| all[r * cols..][..cols].iter().map(|x| x.to_bits())).collect();
        assert!(bits == want, "{}", format.name);
        assert_eq!(plan.memory().cache, 0);
    }
}

#[test]
fn a_page_is_what_the_cache_is_cut_into() {
    assert!(PAGE.is_multiple_of(16) && PAGE <= u64::BITS as usize);
}
