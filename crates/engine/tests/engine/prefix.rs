//! What a request finds in the cache changes nothing but the time it takes.

use crate::toy::{Answer, Toy, alone, finish, note};
use alula_device::{CacheType, Cpu, CpuDevice, PAGE};
use alula_engine::local::{LoadOptions, Lora, Package};
use alula_engine::{Adapter, Engine, Event, Load, Options, Request, RequestError, Runner, Sampling};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

/// Prompts of few different tokens, sampled, with log-probabilities.
fn request(prompt: Vec<u32>, n: usize) -> Request {
    let sampling = Sampling { seed: Some(3), logprobs: Some(4), ..Sampling::default() };
    Request { prompt, sampling, max_tokens: Some(n), ignore_end: true, ..Request::default() }
}

/// The answers to requests, one after the other, and what each found.
fn turns<R: Runner>(engine: &mut Engine<R>, requests: &[Request]) -> Vec<(Answer, usize)> {
    let turn = |request: &Request| {
        let id = engine.submit(request.clone()).unwrap();
        let (mut answers, mut cached) = (BTreeMap::new(), 0);
        while !engine.is_idle() {
            let events = engine.step().unwrap();
            for event in &events {
                if let Event::Finished { usage, .. } = event {
                    cached = usage.cached;
                }
            }
            note(&mut answers, events);
        }
        (answers.remove(&id).unwrap(), cached)
    };
    requests.iter().map(turn).collect()
}

/// A prompt, the same again, the conversation going on, another ending, a beginning of it.
fn conversation(prompt: &[u32], answer: &[u32], n: usize) -> Vec<Request> {
    let on = [prompt, answer, &[5, 6, 7]].concat();
    let other = [&prompt[..100], &[9; 40]].concat();
    [prompt.to_vec(), prompt.to_vec(), on, other, prompt[..128].to_vec()].map(|p| request(p, n)).into()
}

const FOUND: [usize; 5] = [0, 2 * PAGE, 3 * PAGE, PAGE, PAGE];

#[test]
fn the_same_bits_with_and_without() {
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 2);
    for name in ["qwen3", "gemma3", "llama_dynamic_long", "phi3_window", "deepseek_v3", "deepseek_v3_mtp", "qwen2_moe"]
    {
        let package = Package::open(&data().join("parity").join(name)).unwrap();
        for (cache, guess) in [(CacheType::F32, false), (CacheType::Q8_0, false), (CacheType::F16, true)] {
            if guess && name != "deepseek_v3_mtp" {
                continue;
            }
            let load = || {
                let (context, stretch) = (Some(256), package.model.spec().positions.is_none());
                // Each further token of a dynamic one has pages of its own.
                let pages = Some(if name == "llama_dynamic_long" { 1000 } else { 12 });
                let options = LoadOptions { context, stretch, cache, guess, pages, ..LoadOptions::default() };
                package.load(&device, options, &mut |_, _| ()).unwrap()
            };
            let engine = |prefix_cache| Engine::new(load(), None, Options { prefix_cache, ..Options::default() });
            let prompt: Vec<u32> = (0..150u32).map(|i| (i * i + i / 7) % 90 + 3).collect();
            let answer = turns(&mut engine(false), &[request(prompt.clone(), 45)]).remove(0).0.tokens;
            let requests = conversation(&prompt, &answer, 45);
            let plain = turns(&mut engine(false), &requests);
            let mut sharing = engine(true);
            let found = turns(&mut sharing, &requests);
            for (i, (got, want)) in found.iter().zip(&plain).enumerate() {
                assert_eq!(got.0, want.0, "{name}, {cache:?}: turn {i}");
                assert_eq!(want.1, 0);
            }
            let cached: Vec<usize> = found.iter().map(|f| f.1).collect();
            if name == "llama_dynamic_long" {
                // Its frequencies depend on the length past so many tokens, so only equal lengths are alike.
                println!("{name}: {cached:?}");
                assert!(cached[1] == 2 * PAGE && cached.iter().zip(FOUND).all(|(got, most)| *got <= most));
            } else {
                assert_eq!(cached, FOUND, "{name}, {cache:?}");
            }
            let Load { pages, counters, .. } = sharing.load();
            assert!(pages.used == 0 && pages.cached >= 3 && pages.cached + pages.free == pages.total);
            assert_eq!(counters.scheduler.cached_tokens, cached.iter().sum::<usize>() as u64);
            assert_eq!(counters.scheduler.prompt_tokens, requests.iter().map(|r| r.prompt.len() as u64).sum::<u64>());
        }
    }
}

/// States of fixed size are found where there are checkpoints of them.
#[test]
fn states_of_fixed_size_are_found() {
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 2);
    for name in ["mamba2", "mamba", "bamba", "falcon_h1", "jamba"] {
        let package = Package::open(&data().join("parity").join(name)).unwrap();
        let engine = |checkpoints, step_tokens| {
            let (context, cache, stretch) = (Some(2500), CacheType::F32, true);
            let options = LoadOptions { context, cache, stretch, checkpoints, sequences: 3, ..LoadOptions::default() };
            let local = package.load(&device, options, &mut |_, _| ()).unwrap();
            Engine::new(local, None, Options { step_tokens, ..Options::default() })
        };
        let prompt: Vec<u32> = (0..150u32).map(|i| (i * i + i / 7) % 90 + 3).collect();
        let answer = turns(&mut engine(0, 512), &[request(prompt.clone(), 45)]).remove(0).0.tokens;
        let mut requests = conversation(&prompt, &answer, 45);
        let long: Vec<u32> = (0..2200u32).map(|i| (i * i + i / 5) % 90 + 3).collect();
        requests.extend([request(long.clone(), 5), request(long[..2100].to_vec(), 5), request(prompt.clone(), 5)]);
        let plain = turns(&mut engine(0, 512), &requests);
        assert!(plain.iter().all(|p| p.1 == 0));
        // The last page of the first prompt, that of the other one, every sixteenth page, and the last page of the long one.
        for (checkpoints, step_tokens, found) in [
            (9, 512, [0, 128, 128, 0, 0, 0, 2048, 128]),
            (9, 7, [0, 128, 128, 0, 0, 0, 2048, 128]),
            (1, 512, [0, 128, 128, 0, 0, 0, 0, 0]),
        ] {
            let got = turns(&mut engine(checkpoints, step_tokens), &requests);
            for (i, (got, want)) in got.iter().zip(&plain).enumerate() {
                assert_eq!(got.0, want.0, "{name}, {checkpoints} checkpoints, turn {i}");
            }
            assert_eq!(got.iter().map(|g| g.1).collect::<Vec<_>>(), found, "{name}, {checkpoints} checkpoints");
        }
        // All at once, with few pages.
        let mut engine = engine(4, 100);
        let ids: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
        let mut answers = BTreeMap::new();
        finish(&mut engine, &mut answers);
        for (id, want) in ids.iter().zip(&plain) {
            assert_eq!(answers[id], want.0, "{name}");
        }
    }
}

/// What a layer that guesses keeps is shared too, and is what it would have been.
#[test]
fn guesses_are_as_good() {
    let package = Package::open(&data().join("parity/deepseek_v3_mtp")).unwrap();
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 1);
    let options = LoadOptions { context: Some(320), cache: CacheType::F32, guess: true, ..LoadOptions::default() };
    let mut engine = Engine::new(package.load(&device, options, &mut |_, _| ()).unwrap(), None, Options::default());
    let right = |engine: &Engine<_>| {
        let c = engine.load().counters;
        [c.guessed, c.right]
    };
    let prompt: Vec<u32> = (0..130u32).map(|i| (i * i) % 90 + 3).collect();
    // One ends right after its prompt, so nothing was guessed from its pages yet.
    turns(&mut engine, &[request(prompt[..129].to_vec(), 1)]);
    let before = right(&engine);
    let first = turns(&mut engine, &[request(prompt.clone(), 150)]).remove(0);
    let between = right(&engine);
    let second = turns(&mut engine, &[request(prompt, 150)]).remove(0);
    let after = right(&engine);
    assert_eq!(first.0, second.0);
    assert_eq!(second.1, 2 * PAGE);
    assert_eq!([0, 1].map(|i| after[i] - between[i]), [0, 1].map(|i| between[i] - before[i]), "guesses of both turns");
}

#[test]
fn adapters_are_told_apart() {
    let adapters = ["llama_two/one", "llama_two/two"].map(|a| Lora::open(&data().join("lora").join(a)).unwrap());
    let package = Package::open(&data().join("parity/llama_gqa")).unwrap().with_adapters(adapters.into()).unwrap();
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 1);
    let options = LoadOptions { context: Some(256), pages: Some(40), cache: CacheType::F32, ..LoadOptions::default() };
    let mut engine = Engine::new(package.load(&device, options, &mut |_, _| ()).unwrap(), None, Options::default());
    let prompt: Vec<u32> = (0..140u32).map(|i| (i * i) % 90 + 3).collect();
    let with = |adapters: &[(u32, f32)]| Request {
        adapters: adapters.iter().map(|&(index, scale)| Adapter { index, scale }).collect(),
        ..request(prompt.clone(), 20)
    };
    let sets: [&[(u32, f32)]; 6] =
        [&[], &[(0, 1.0)], &[(1, 1.0)], &[(0, 1.0), (1, 1.0)], &[(0, 0.5)], &[(1, 1.0), (0, 1.0)]];
    let requests: Vec<Request> = sets.iter().chain(&sets).map(|set| with(set)).collect();
    let got = turns(&mut engine, &requests);
    let cached: Vec<usize> = got.iter().map(|g| g.1).collect();
    assert_eq!(cached[..5], [0; 5], "each set and factor is another model");
    assert_eq!(cached[5..], [2 * PAGE; 7], "the order of adapters is nothing");
    assert_eq!(got[3].0, got[5].0);
    for (first, second) in got[..6].iter().zip(&got[6..]) {
        assert_eq!(first.0, second.0);
    }
}

#[test]
fn the_queue_is_bounded() {
    let options = Options { running: 1, waiting: 1, waiting_tokens: 30, ..Options::default() };
    let mut engine = Engine::new(Toy::new(9), None, options);
    let ask = |n| Request { max_tokens: Some(3), ..request(vec![5; n], 3) };
    for n in [10, 20] {
        engine.submit(ask(n)).unwrap();
    }
    let before = engine.load();
    assert_eq!((before.running, before.waiting, before.waiting_tokens), (0, 2, 30));
    let full = RequestError::Full { waiting: 2, tokens: 30, most: 1, most_tokens: 30 };
    assert_eq!(engine.submit(ask(1)).unwrap_err(), full);
    assert_eq!(full.to_string(), "2 requests of 30 tokens wait already, and at most 1 of 30 may: try again later");
    assert_eq!(engine.load(), before, "it left nothing behind");
    let mut answers = BTreeMap::new();
    note(&mut answers, engine.step().unwrap());
    let load = engine.load();
    assert_eq!((load.running, load.waiting, load.step.rows, load.step.requests), (1, 1, 10, 1));
    assert_eq!((load.pages.used, load.counters.steps, load.counters.generated), (1, 1, 1));
    finish(&mut engine, &mut answers);
    assert_eq!(answers.len(), 2);
}

/// Conversations that have a beginning in common, with few pages: each gets what it gets alone.
#[test]
fn many_that_begin_alike() {
    for (guess, checkpoints, regimes) in
        [(None, None, vec![]), (None, Some(0), vec![]), (None, Some(6), vec![90]), (Some(4), None, vec![90, 170])]
    {
        let toy = |pages| Toy {
            checkpoints: checkpoints.map(|n| vec![None; n]),
            regimes: regimes.clone(),
            guess,
            ..Toy::new(pages)
        };
        let requests: Vec<Request> = (0..40u32)
            .map(|i| {
                let prompt = (0..100 + i * 3).map(|j| if j < 70 * (i % 3) { j % 30 + 4 } else { (i % 7) + 4 });
                request(prompt.collect(), 30)
            })
            .collect();
        let plain: Vec<Answer> = requests.iter().map(|r| alone(toy(30), None, Options::default(), r)).collect();
        for (pages, step_tokens, running) in [(200, 512, 64), (12, 200, 8), (10, 33, 4)] {
            let options = Options { step_tokens, running, ..Options::default() };
            let mut engine = Engine::new(toy(pages), None, options);
            let mut answers = BTreeMap::new();
            let mut ids = Vec::new();
            for request in &requests {
                ids.push(engine.submit(request.clone()).unwrap());
                note(&mut answers, engine.step().unwrap());
            }
            finish(&mut engine, &mut answers);
            for (id, want) in ids.iter().zip(&plain) {
                assert_eq!(&answers[id], want, "guess {guess:?}, {pages} pages, {step_tokens} tokens a step");
            }
            let counters = engine.load().counters.scheduler;
            assert_eq!(counters.cached_tokens > 1000, checkpoints != Some(0), "{counters:?}");
            assert_eq!(counters.evictions > 10, checkpoints != Some(0) && pages < 20, "{counters:?}");
        }
    }
}
