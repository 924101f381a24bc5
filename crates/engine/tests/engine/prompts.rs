//! Log-probabilities of a prompt's tokens: as defined, whatever the steps, the company and the cache.

use crate::toy::{Toy, alone, by_definition, finish, prompt_by_definition};
use alula_device::{CacheType, Cpu, CpuDevice, PAGE};
use alula_engine::local::{LoadOptions, Package};
use alula_engine::{Engine, Options, Reason, Request, Sampling};
use std::collections::BTreeMap;
use std::path::Path;

fn request(prompt: Vec<u32>, max_tokens: usize, top: Option<usize>) -> Request {
    let sampling = Sampling { seed: Some(3), ..Sampling::default() };
    let (max_tokens, ignore_end) = (Some(max_tokens), true);
    Request { prompt, sampling, max_tokens, ignore_end, prompt_logprobs: top, ..Request::default() }
}

#[test]
fn as_defined_in_steps_of_any_size() {
    let prompt: Vec<u32> = (0..150).map(|i| i * 7 % 30).collect();
    for (step_tokens, max_outputs) in [(512, 512), (512, 1), (512, 7), (3, 2), (1, 1)] {
        for (n, most) in [(150, 0), (150, 5), (2, 1), (1, 0), (1, 2), (PAGE, 3), (PAGE + 1, 0)] {
            let request = request(prompt[..n].to_vec(), most, Some(3));
            let toy = Toy { max_outputs, ..Toy::new(9) };
            let got = alone(toy, None, Options { step_tokens, running: 1, ..Options::default() }, &request);
            assert_eq!(got.prompt, prompt_by_definition(&request.prompt, 3));
            assert_eq!(got.tokens, by_definition(&request, 1000, &[]));
            assert_eq!(got.reason, Some(Reason::Length));
        }
    }
}

#[test]
fn others_failures_and_the_cache_change_nothing() {
    // Fewer pages than all need, so that some give way; some find pages, and those that are asked for logits do not.
    let alike: Vec<u32> = (0..200).map(|i| i % 5).collect();
    let mut engine = Engine::new(
        Toy { max_outputs: 9, fail_every: 7, ..Toy::new(5) },
        None,
        Options { step_tokens: 40, running: 4, ..Options::default() },
    );
    let ask =
        |i: usize| request(alike[..90 + 10 * i].to_vec(), [0, 70, 90][i % 3], i.is_multiple_of(2).then_some(i % 4));
    let requests: Vec<Request> = (0..9).map(ask).collect();
    for _ in 0..2 {
        let ids: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
        let mut answers = BTreeMap::new();
        finish(&mut engine, &mut answers);
        for (id, request) in ids.iter().zip(&requests) {
            let want = request.prompt_logprobs.map_or(vec![], |top| prompt_by_definition(&request.prompt, top));
            assert_eq!(answers[id].prompt, want);
            assert_eq!(answers[id].tokens, by_definition(request, 1000, &[]));
        }
    }
    let counters = engine.load().counters.scheduler;
    assert!(counters.preemptions > 0 && counters.cached_tokens > 0, "{counters:?}");
}

/// The numbers of transformers in double precision, and the same bits of ours in any pieces.
#[test]
fn as_transformers_computes_them_in_any_pieces() {
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 2);
    for name in ["qwen3", "gemma3", "mamba2", "bamba", "phi3_window", "deepseek_v3_mtp"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity").join(name);
        let package = Package::open(&folder).unwrap();
        let prompt: Vec<u32> = serde_json::from_slice(&std::fs::read(folder.join("tokens.json")).unwrap()).unwrap();
        let reference = std::fs::read(folder.join("ref.bin")).unwrap();
        let reference: Vec<f32> = reference.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let vocab = reference.len() / prompt.len();
        let want = reference.chunks_exact(vocab).zip(&prompt[1..]).map(|(row, &token)| {
            let sum: f64 = row.iter().map(|l| f64::from(*l).exp()).sum();
            (f64::from(row[token as usize]) - sum.ln()) as f32
        });
        let want: Vec<f32> = want.collect();
        let run = |step_tokens: usize, outputs: usize| {
            let (context, cache, guess) =
                (Some(package.model.spec().context.min(256)), CacheType::F32, name.ends_with("mtp"));
            let (sequences, checkpoints) = (2, 2);
            let load = LoadOptions {
                context,
                sequences,
                checkpoints,
                step_tokens,
                outputs,
                cache,
                guess,
                ..LoadOptions::default()
            };
            let local = package.load(&device, load, &mut |_, _| {}).unwrap();
            let mut engine = Engine::new(local, None, Options { running: 2, ..Options::default() });
            let turn = |engine: &mut Engine<_>| {
                let id = engine.submit(request(prompt.clone(), 4, Some(5))).unwrap();
                let mut answers = BTreeMap::new();
                finish(engine, &mut answers);
                answers.remove(&id).unwrap()
            };
            let first = turn(&mut engine);
            assert_eq!(turn(&mut engine), first, "{name}: a prompt that is in the cache");
            first
        };
        let whole = run(512, 128);
        assert_eq!(whole.prompt.len(), want.len());
        for (got, want) in whole.prompt.iter().zip(&want) {
            assert!((got.chosen - want).abs() < 2e-4 && got.top.len() == 5, "{name}: {} is not {want}", got.chosen);
        }
        assert_eq!(run(512, 8), whole, "{name}");
        assert_eq!(run(16, 4), whole, "{name}");
    }
}
