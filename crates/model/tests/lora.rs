//! Adapters in `testdata/lora` against PEFT in double precision, in every form that adapter and model have: beside the weights
//! and in them. And what a batch of sequences with different adapters must be, to the bit.

use alula_device::{Adapter as Choice, Batch, CacheType, Cpu, CpuDevice, Device, Limits, PAGE, Plan, Seq};
use alula_model::{Adapter, Head, Model};
use serde_json::Value;
use std::path::{Path, PathBuf};

const CONTEXT: usize = 128;

struct Case {
    name: String,
    dir: PathBuf,
    base: PathBuf,
    adapters: Vec<String>,
    merges: bool,
    runs: bool,
    tokens: Vec<u32>,
    reference: Vec<f32>,
    greedy: Option<Vec<u32>>,
}

fn json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

fn cases() -> Vec<Case> {
    let dirs = std::fs::read_dir(data().join("lora")).unwrap().map(|e| e.unwrap().path());
    // ALULA_CASES=llama runs those whose name contains it.
    let part = std::env::var("ALULA_CASES").unwrap_or_default();
    let mut dirs: Vec<_> = dirs.filter(|p| p.file_name().unwrap().to_string_lossy().contains(&part)).collect();
    dirs.sort();
    let case = |dir: PathBuf| {
        let info = json(&dir.join("case.json")).unwrap();
        let base = data().join("parity").join(info["base"].as_str().unwrap());
        let reference = std::fs::read(dir.join("ref.bin")).unwrap();
        Case {
            name: dir.file_name().unwrap().to_string_lossy().into_owned(),
            tokens: ids(&json(&base.join("tokens.json")).unwrap()),
            adapters: info["adapters"].as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned()).collect(),
            merges: info["merges"] == true,
            runs: info["runs"] == true,
            reference: reference.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            greedy: json(&dir.join("greedy.json")).map(|v| ids(&v)),
            base,
            dir,
        }
    };
    dirs.into_iter().map(case).collect()
}

impl Case {
    /// The base's forms and the adapters', each with each: what stands for the pair, and its files.
    fn pairs(&self) -> Vec<(String, PathBuf, Vec<PathBuf>)> {
        let mut all = Vec::new();
        for base in [self.base.clone(), self.base.join("model.gguf")] {
            for end in ["", ".gguf"] {
                let files: Vec<_> = self.adapters.iter().map(|a| self.dir.join(format!("{a}{end}"))).collect();
                if base.exists() && files.iter().all(|f| f.exists()) {
                    let form = |gguf: bool| if gguf { "gguf" } else { "folder" };
                    let name = format!("{} {} on {}", self.name, form(!end.is_empty()), form(base.is_file()));
                    all.push((name, base.clone(), files));
                }
            }
        }
        assert!(!all.is_empty());
        all
    }
}

fn open(files: &[PathBuf]) -> Vec<Adapter> {
    files.iter().map(|f| Adapter::open(f).unwrap_or_else(|e| panic!("{e}"))).collect()
}

fn plan(model: &Model, cpu: Cpu, threads: usize) -> Box<dyn Plan> {
    let limits = Limits {
        tokens: CONTEXT,
        outputs: CONTEXT,
        context: CONTEXT,
        pages: 4 * CONTEXT / PAGE,
        slots: 4,
        checkpoints: 0,
        cache: CacheType::F32,
    };
    CpuDevice::new(cpu, threads).compile(model.graph(), model.weights(), limits, None, &mut |_, _| ()).unwrap()
}

/// Every adapter, as it was given.
fn all(plan: &dyn Plan) -> Vec<Choice> {
    (0..plan.adapters() as u32).map(|index| Choice { index, scale: 1.0 }).collect()
}

/// Logits of every token of sequences that share steps, in pieces of so many tokens.
fn together(plan: &mut dyn Plan, sequences: &[(&[u32], &[Choice])], piece: usize) -> Vec<Vec<f32>> {
    let mut logits = vec![Vec::new(); sequences.len()];
    let most = sequences.iter().map(|s| s.0.len()).max().unwrap();
    for at in (0..most).step_by(piece) {
        let (mut tokens, mut positions, mut seqs, mut who) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let pages: Vec<[u32; 2]> = (0..4).map(|i| [2 * i, 2 * i + 1]).collect();
        for (i, (ids, adapters)) in sequences.iter().enumerate() {
            let range = at.min(ids.len())..ids.len().min(at + piece);
            if range.is_empty() {
                continue;
            }
            let (start, len) = (tokens.len(), range.len());
            seqs.push(Seq { start, len, length: ids.len(), pages: &pages[i], slot: i as u32, adapters });
            tokens.extend(&ids[range.clone()]);
            positions.extend(range.map(|p| p as u32));
            who.extend(vec![i; len]);
        }
        let outputs: Vec<u32> = (0..tokens.len() as u32).collect();
        let (positions, outputs) = (&positions[..], &outputs[..]);
        let batch = Batch { tokens: &tokens, positions, seqs: &seqs, outputs, ..Batch::default() };
        let cols = plan.cols();
        for (row, i) in plan.run(&batch).unwrap().chunks_exact(cols).zip(who) {
            logits[i].extend_from_slice(row);
        }
    }
    logits
}

fn logits(plan: &mut dyn Plan, tokens: &[u32], adapters: &[Choice]) -> Vec<f32> {
    together(plan, &[(tokens, adapters)], CONTEXT).remove(0)
}

fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f64, |m, w| m.max(f64::from(w.abs())));
    got.iter().zip(want).fold(0f64, |m, (g, w)| m.max((f64::from(*g) - f64::from(*w)).abs())) / largest
}

fn argmax(row: &[f32]) -> u32 {
    row.iter().enumerate().fold(0, |best, (i, v)| if *v > row[best] { i } else { best }) as u32
}

/// Attention and plain units alone: 1e-5. Others choose or multiply more on the way.
fn bound(model: &Model) -> f64 {
    let plain = |l: &alula_model::Layer| {
        matches!(l.mixer, alula_model::Mixer::Attention(_)) && !matches!(l.ffn, alula_model::Ffn::Experts(_))
    };
    if model.spec().layers.iter().all(plain) { 1e-5 } else { 3e-5 }
}

/// How many of the greedy ids are the same.
fn greedy(plan: &mut dyn Plan, case: &Case, adapters: &[Choice]) -> (usize, usize) {
    let want = case.greedy.as_deref().unwrap_or_default();
    let (mut tokens, vocab) = (case.tokens.clone(), plan.cols());
    while tokens.len() < case.tokens.len() + want.len() {
        let l = logits(plan, &tokens, adapters);
        tokens.push(argmax(&l[l.len() - vocab..]));
    }
    (tokens[case.tokens.len()..].iter().zip(want).take_while(|(a, b)| a == b).count(), want.len())
}

#[test]
fn adapters_equal_peft() {
    let cpu = Cpu::from_env().unwrap();
    let mut wrong = Vec::new();
    for case in cases().iter().filter(|c| c.runs) {
        for (name, base, files) in case.pairs() {
            let model =
                Model::open(&base).unwrap().with_adapters(open(&files)).unwrap_or_else(|e| panic!("{name}: {e}"));
            let mut plan = plan(&model, cpu, 2);
            let chosen = all(&*plan);
            let e = error(&logits(&mut *plan, &case.tokens, &chosen), &case.reference);
            let (same, of) = greedy(&mut *plan, case, &chosen);
            println!("{name:44} {e:.2e} {same}/{of}");
            if e > bound(&model) || same != of {
                wrong.push(format!("{name}: error {e:.2e}, {same} of {of} greedy ids"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether the pair's base has a matrix under another name that its adapter is for: GGUF has DeepSeek's in two parts.
fn split(case: &Case, base: &Path) -> bool {
    !case.runs && base.is_file()
}

#[test]
fn merged_weights_are_the_sum() {
    let cpu = Cpu::from_env().unwrap();
    let mut wrong = Vec::new();
    for case in cases() {
        for (name, base, files) in case.pairs() {
            let adapters = open(&files).into_iter().map(|a| (a, 1.0)).collect::<Vec<_>>();
            let model = match Model::open(&base).unwrap().merged(&adapters) {
                Ok(model) if case.merges => model,
                Err(e) if !case.merges || split(&case, &base) => {
                    let why = if case.merges { "does not have" } else { "without merging it" };
                    assert!(e.to_string().contains(why), "{name}: {e}");
                    continue;
                }
                Ok(_) => panic!("{name}: is not refused"),
                Err(e) => panic!("{name}: {e}"),
            };
            let want = std::fs::read(case.dir.join("merged.bin")).unwrap();
            let want: Vec<f32> = want.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let mut plan = plan(&model, cpu, 2);
            assert_eq!(plan.adapters(), 0);
            let e = error(&logits(&mut *plan, &case.tokens, &[]), &want);
            println!("{name:44} {e:.2e}");
            // Twins may be of another type, and round otherwise.
            if e > if base.is_file() { 3e-2 } else { 1e-3 } {
                wrong.push(format!("{name}: error {e:.2e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn adapters_of_matrices_that_are_no_products_must_be_merged() {
    for case in cases().iter().filter(|c| !c.runs) {
        for (name, base, files) in case.pairs() {
            let refused = Model::open(&base).unwrap().with_adapters(open(&files));
            let why = refused.err().unwrap_or_else(|| panic!("{name}: is not refused")).to_string();
            let what = if split(case, &base) { "does not have" } else { "--lora-merge" };
            assert!(why.contains("kv_b_proj") && why.contains(what), "{name}: {why}");
        }
    }
}

#[test]
fn sequences_have_their_own_adapters() {
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let base = Cpu::all()[0];
    for case in cases().iter().filter(|c| c.runs) {
        // Forms differ in what is read, not in what is computed.
        if let Some((name, path, files)) = case.pairs().pop() {
            let open = || Model::open(&path).unwrap();
            // An adapter that is the only one is the second too.
            let twice: Vec<PathBuf> = files.iter().cycle().take(2).cloned().collect();
            let model = open().with_adapters(self::open(&twice)).unwrap();
            let whole = model.graph().nodes().iter().any(|n| n.op.whole());
            let other: Vec<u32> = case.tokens.iter().rev().take(21).copied().collect();
            let (one, two) = ([Choice { index: 0, scale: 1.0 }], [Choice { index: 1, scale: 0.5 }]);
            let both = [Choice { index: 1, scale: -0.25 }, one[0]];
            let sequences: [(&[u32], &[Choice]); 4] =
                [(&other, &both), (&case.tokens, &[]), (&case.tokens, &one), (&other, &two)];
            let plain = logits(&mut *plan(&open(), base, 1), &case.tokens, &[]);
            let alone: Vec<_> = sequences.iter().map(|(t, a)| logits(&mut *plan(&model, base, 1), t, a)).collect();
            assert_eq!(bits(&alone[1]), bits(&plain), "{name}: a sequence without adapters");
            assert_ne!(bits(&alone[2]), bits(&plain), "{name}: a sequence with one");
            for cpu in Cpu::all() {
                let mut plan = plan(&model, cpu, 2);
                for piece in [29, 7, 1] {
                    let piece = if whole { 32 } else { piece };
                    let sequences = if whole { sequences.map(|(t, a)| (&t[..21], a)) } else { sequences };
                    let got = together(&mut *plan, &sequences, piece);
                    for (i, (got, want)) in got.iter().zip(&alone).enumerate() {
                        if whole && sequences[i].0.len() != want.len() / plan.cols() {
                            continue; // it sees its end
                        }
                        assert_eq!(
                            bits(got),
                            bits(want),
                            "{name}: sequence {i} on {} in pieces of {piece}",
                            cpu.name()
                        );
                    }
                    if whole {
                        break;
                    }
                }
            }
        }
    }
}

/// Twice half an adapter is the adapter, and a factor counts once.
#[test]
fn factors_are_those_of_the_product() {
    let case = cases().into_iter().find(|c| c.runs && c.adapters.len() == 1 && c.greedy.is_some()).unwrap();
    let (_, base, files) = case.pairs().remove(0);
    let twice = [files.clone(), files].concat();
    let model = Model::open(&base).unwrap().with_adapters(open(&twice)).unwrap();
    assert_eq!(model.spec().head, Head::Vocabulary);
    let mut plan = plan(&model, Cpu::from_env().unwrap(), 1);
    let halves = [Choice { index: 0, scale: 0.5 }, Choice { index: 1, scale: 0.5 }];
    let e = error(&logits(&mut *plan, &case.tokens, &halves), &case.reference);
    assert!(e < 1e-5, "{e:.2e}");
    let e = error(&logits(&mut *plan, &case.tokens, &halves[..1]), &case.reference);
    assert!(e > 1e-2, "half of it is the whole: {e:.2e}");
}
