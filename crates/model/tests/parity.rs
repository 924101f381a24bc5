//! Every architecture and configuration in `testdata/parity` against transformers in double precision: logits (of encoders,
//! hidden states or scores) within 1e-5 of the largest, greedy ids identical; quantised ones within their normalised mean square error. And the
//! numeric contract, to the bit: chunking, company in the batch, threads, instruction sets.

use alula_device::{Batch, CacheType, Cpu, CpuDevice, Device, Limits, PAGE, Plan, Seq};
use alula_graph::WeightSource;
use alula_model::{Head, Model};
use alula_tensor::Tensor;
use serde_json::Value;
use std::path::{Path, PathBuf};

const CONTEXT: usize = 128;

struct Case {
    name: String,
    dir: PathBuf,
    tokens: Vec<u32>,
    /// Of each token, or nothing.
    types: Vec<u32>,
    reference: Vec<f32>,
    greedy: Option<Vec<u32>>,
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity");
    let mut dirs: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    dirs.sort();
    // ALULA_CASES=mamba runs those whose name contains it.
    let part = std::env::var("ALULA_CASES").unwrap_or_default();
    dirs.retain(|d| d.file_name().is_some_and(|n| n.to_string_lossy().contains(&part)));
    dirs.into_iter()
        .map(|dir| Case {
            name: dir.file_name().unwrap().to_string_lossy().into_owned(),
            tokens: ids(&json(&dir.join("tokens.json")).unwrap()),
            reference: std::fs::read(dir.join("ref.bin"))
                .unwrap()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect(),
            types: json(&dir.join("types.json")).map(|v| ids(&v)).unwrap_or_default(),
            greedy: json(&dir.join("greedy.json")).map(|v| ids(&v)),
            dir,
        })
        .collect()
}

/// A model on the CPU with room for two sequences.
struct Runner {
    plan: Box<dyn Plan>,
}

impl Runner {
    fn new(model: &Model, cpu: Cpu, threads: usize) -> Runner {
        Runner::with(model, model.weights(), cpu, threads)
    }

    fn with(model: &Model, weights: &dyn WeightSource, cpu: Cpu, threads: usize) -> Runner {
        let limits = Limits {
            tokens: CONTEXT,
            outputs: CONTEXT,
            context: CONTEXT,
            pages: 2 * CONTEXT / PAGE,
            slots: 2,
            checkpoints: 0,
            cache: CacheType::F32,
        };
        let device = CpuDevice::new(cpu, threads);
        let plan = device.compile(model.graph(), weights, limits, None, &mut |_, _| ()).unwrap();
        Runner { plan }
    }

    /// Logits of every token, fed in pieces of `piece`; with `company`, another sequence shares each step.
    fn logits(&mut self, tokens: &[u32], piece: usize, company: bool) -> Vec<f32> {
        self.typed(tokens, &[], piece, company)
    }

    /// Logits after `token`, which stands at `position` behind what was fed before.
    fn step(&mut self, token: u32, position: usize) -> &[f32] {
        let seq = Seq { start: 0, len: 1, length: position + 1, pages: &[2, 0], slot: 1, adapters: &[] };
        let (tokens, positions, seqs) = (&[token], &[position as u32], &[seq]);
        self.plan.run(&Batch { tokens, positions, types: &[], seqs, outputs: &[0], hidden: &[] }).unwrap()
    }

    fn typed(&mut self, tokens: &[u32], types: &[u32], piece: usize, company: bool) -> Vec<f32> {
        let mut all = Vec::new();
        for start in (0..tokens.len()).step_by(piece) {
            let mine = &tokens[start..tokens.len().min(start + piece)];
            let mut flat = mine.to_vec();
            let mut positions: Vec<u32> = (start as u32..).take(mine.len()).collect();
            let mut seqs =
                vec![Seq { start: 0, len: mine.len(), length: tokens.len(), pages: &[2, 0], slot: 1, adapters: &[] }];
            if company {
                flat.extend([5, 6, 7]);
                positions.extend([0, 1, 2]);
                seqs.push(Seq { start: mine.len(), len: 3, length: 3, pages: &[1], slot: 0, adapters: &[] });
            }
            let outputs: Vec<u32> = (0..mine.len() as u32).collect();
            let mut types = types.to_vec(); // only of whole sequences
            if !types.is_empty() {
                types.resize(flat.len(), 1);
            }
            let outputs = &outputs;
            let batch =
                Batch { tokens: &flat, positions: &positions, types: &types, seqs: &seqs, outputs, hidden: &[] };
            all.extend_from_slice(self.plan.run(&batch).unwrap());
        }
        all
    }
}

fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f64, |m, w| m.max(f64::from(w.abs())));
    got.iter().zip(want).fold(0f64, |m, (g, w)| m.max((f64::from(*g) - f64::from(*w)).abs())) / largest
}

fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let sq = |x: f64| x * x;
    let e: f64 = got.iter().zip(want).map(|(g, w)| sq(f64::from(*g) - f64::from(*w))).sum();
    e / want.iter().map(|w| sq(f64::from(*w))).sum::<f64>()
}

fn argmax(row: &[f32]) -> u32 {
    row.iter().enumerate().fold(0, |best, (i, v)| if *v > row[best] { i } else { best }) as u32
}

/// The folder and its GGUF twin, whichever there are.
fn models(case: &Case) -> Vec<(String, Model)> {
    let gguf = case.dir.join("model.gguf");
    let mut all = Vec::new();
    if ["config.json", "spec.toml"].iter().any(|f| case.dir.join(f).exists()) {
        all.push((case.name.clone(), Model::open(&case.dir).unwrap_or_else(|e| panic!("{}: {e}", case.name))));
    }
    if gguf.exists() {
        all.push((format!("{}.gguf", case.name), Model::open(&gguf).unwrap_or_else(|e| panic!("{}: {e}", case.name))));
    }
    all
}

/// Attention and plain units alone: 1e-5. Others choose or multiply more on the way.
fn bound(model: &Model) -> f64 {
    let plain = |l: &alula_model::Layer| {
        matches!(l.mixer, alula_model::Mixer::Attention(_)) && !matches!(l.ffn, alula_model::Ffn::Experts(_))
    };
    if model.spec().layers.iter().all(plain) { 1e-5 } else { 3e-5 }
}

/// What the layer for multi-token prediction makes of each token and what came before it.
#[test]
fn guesses_equal_transformers() {
    let cpu = Cpu::from_env().unwrap();
    for case in cases() {
        let Ok(bytes) = std::fs::read(case.dir.join("draft.bin")) else { continue };
        let want: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let model = Model::open(&case.dir).unwrap();
        let (mut runner, n) = (Runner::new(&model, cpu, 2), case.tokens.len());
        runner.logits(&case.tokens, n, false);
        let limits = runner.plan.limits();
        let graph = model.draft().expect("it guesses");
        let device = CpuDevice::new(cpu, 2);
        let mut plan = device.compile(graph, model.weights(), limits, None, &mut |_, _| ()).unwrap();
        let hidden = &runner.plan.kept(0)[..(n - 1) * model.spec().width];
        let (positions, outputs): (Vec<u32>, Vec<u32>) = ((0..n as u32 - 1).collect(), (0..n as u32 - 1).collect());
        let seqs = [Seq { start: 0, len: n - 1, length: n, pages: &[2, 0], slot: 0, adapters: &[] }];
        let (tokens, positions, outputs) = (&case.tokens[1..], &positions[..], &outputs[..]);
        let batch = Batch { tokens, positions, types: &[], seqs: &seqs, outputs, hidden };
        let e = error(plan.run(&batch).unwrap(), &want);
        println!("{:24} {e:.2e}", case.name);
        assert!(e <= 3e-5, "{}: {e:.2e}", case.name);
    }
}

#[test]
fn logits_and_greedy_ids_equal_transformers() {
    let cpu = Cpu::from_env().unwrap();
    let mut wrong = Vec::new();
    for case in cases() {
        for (name, model) in models(&case) {
            let mut runner = Runner::new(&model, cpu, 1);
            let mut got = runner.typed(&case.tokens, &case.types, CONTEXT, false);
            if model.spec().head != Head::Vocabulary {
                got.truncate(case.reference.len()); // scores are those of the first token
                let e = error(&got, &case.reference);
                println!("{name:24} {e:.2e}");
                if e > 1e-5 {
                    wrong.push(format!("{name}: error {e:.2e}"));
                }
                continue;
            }
            let Some(greedy) = &case.greedy else {
                let (e, bound) = (nmse(&got, &case.reference), if name.contains("256") { 1.1e-3 } else { 5e-4 });
                println!("{name:24} nmse {e:.2e}");
                if e > bound {
                    wrong.push(format!("{name}: nmse {e:.2e}"));
                }
                continue;
            };
            let e = error(&got, &case.reference);
            let mut tokens = case.tokens.clone();
            let vocab = model.spec().vocab;
            let mut last = argmax(&got[got.len() - vocab..]);
            for _ in greedy {
                tokens.push(last);
                let n = tokens.len();
                last = if model.spec().regime(n) == model.spec().regime(n - 1) {
                    argmax(runner.step(last, n - 1))
                } else {
                    argmax(&runner.logits(&tokens, CONTEXT, false)[(n - 1) * vocab..])
                };
            }
            let same = tokens[case.tokens.len()..].iter().zip(greedy).take_while(|(a, b)| a == b).count();
            println!("{name:24} {e:.2e} {same}/{}", greedy.len());
            if e > bound(&model) || same != greedy.len() {
                wrong.push(format!("{name}: error {e:.2e}, {same} of {} greedy ids", greedy.len()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn bits_depend_on_nothing_but_the_sequence() {
    let base = Cpu::all()[0];
    for case in cases() {
        for (name, model) in models(&case) {
            let bits = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let want = bits(Runner::new(&model, base, 1).typed(&case.tokens, &case.types, CONTEXT, false));
            let whole = model.graph().nodes().iter().any(|n| n.op.whole());
            for cpu in Cpu::all() {
                let mut runner = Runner::new(&model, cpu, 2);
                for (piece, company) in [(CONTEXT, false), (CONTEXT, true), (1, false), (7, true), (64, true)] {
                    if whole && piece < CONTEXT {
                        continue;
                    }
                    let got = bits(runner.typed(&case.tokens, &case.types, piece, company));
                    assert!(got == want, "{name} on {} in pieces of {piece}, company {company}", cpu.name());
                }
            }
        }
    }
}

/// The same weights in single precision.
struct Plain<'a>(&'a dyn WeightSource);

impl WeightSource for Plain<'_> {
    fn tensor(&self, name: &str) -> Result<Tensor, String> {
        let t = self.0.tensor(name)?;
        Tensor::from_f32(t.shape().to_vec(), &t.to_f32()).map_err(|e| e.to_string())
    }
}

/// What a text drawn from `want`'s model gains in log-perplexity under `got`'s: the mean of Σ p ln(p / q).
fn divergence(got: &[f32], want: &[f32], vocab: usize) -> f64 {
    let logs = |row: &[f32]| -> Vec<f64> {
        let most = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let sum: f64 = row.iter().map(|v| f64::from(v - most).exp()).sum();
        row.iter().map(|v| f64::from(v - most) - sum.ln()).collect()
    };
    let rows = got.chunks(vocab).zip(want.chunks(vocab)).map(|(got, want)| {
        let (q, p) = (logs(got), logs(want));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>()
    });
    rows.sum::<f64>() / (got.len() / vocab) as f64
}

/// Trained weights, quantised. `tools/parity/perplexity.py` does this for every format and a long text.
#[test]
fn quantised_activations_keep_the_perplexity_of_trained_weights() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../alula/assets/builtin.gguf");
    let model = Model::open(&path).unwrap();
    let plain = Plain(model.weights());
    let mut writer = Runner::with(&model, &plain, Cpu::pick(None).unwrap(), 2);
    let mut ids = vec![1];
    let vocab = writer.logits(&ids, 1, false).len();
    while ids.len() < CONTEXT {
        let logits = writer.logits(&ids, ids.len(), false);
        ids.push(argmax(&logits[logits.len() - vocab..]));
    }
    for cpu in Cpu::all() {
        let (mut packed, mut reference) = (Runner::new(&model, cpu, 2), Runner::with(&model, &plain, cpu, 2));
        let (got, want) = (packed.logits(&ids, 64, false), reference.logits(&ids, 64, false));
        let lost = divergence(&got, &want, vocab);
        assert!((-1e-9..1e-3).contains(&lost), "{}: {lost}", cpu.name());
        // The measure sees it where something is wrong: logits rounded to halves.
        let coarse: Vec<f32> = want.iter().map(|v| (v * 2.0).round() / 2.0).collect();
        assert!(divergence(&coarse, &want, vocab) > 1e-3);
    }
}
