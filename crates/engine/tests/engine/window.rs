//! Pages that no layer sees any more are given back, and nothing else changes.

use crate::toy::{Answer, Toy, finish, note};
use alula_device::{CacheType, Cpu, CpuDevice, PAGE};
use alula_engine::local::{LoadOptions, Package};
use alula_engine::{Engine, Options, Request, Runner, Sampling};
use std::collections::BTreeMap;
use std::path::Path;

fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let sampling = Sampling { seed: Some(3), logprobs: Some(4), ..Sampling::default() };
    Request { prompt, sampling, max_tokens: Some(max_tokens), ignore_end: true, ..Request::default() }
}

/// The answer, and the most pages that were used after the prompt.
fn run<R: Runner>(engine: &mut Engine<R>, request: &Request) -> (Answer, usize) {
    let id = engine.submit(request.clone()).unwrap();
    let (mut answers, mut most) = (BTreeMap::new(), 0);
    note(&mut answers, engine.step().unwrap());
    while !engine.is_idle() {
        let events = engine.step().unwrap();
        note(&mut answers, events);
        most = most.max(engine.load().pages.used);
    }
    (answers.remove(&id).unwrap(), most)
}

#[test]
fn models_with_windows_need_few_pages() {
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 2);
    for (name, few) in
        [("mistral_window", true), ("phi3_window", true), ("llama4_plain", true), ("gemma3", false), ("qwen3", false)]
    {
        let package =
            Package::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity").join(name)).unwrap();
        let engine = |prefix_cache, step_tokens| {
            let (context, stretch, cache) = (Some(700), true, CacheType::Q8_0);
            let options = LoadOptions { context, stretch, cache, sequences: 2, ..LoadOptions::default() };
            let local = package.load(&device, options, &mut |_, _| ()).unwrap();
            assert_eq!(local.window().is_some(), few, "{name}");
            Engine::new(local, None, Options { prefix_cache, step_tokens, ..Options::default() })
        };
        let prompt: Vec<u32> = (0..150u32).map(|i| (i * i + i / 7) % 90 + 3).collect();
        let (answer, most) = run(&mut engine(false, 512), &request(prompt.clone(), 300));
        assert_eq!(most <= 2, few, "{name}: {most} pages");
        // The same computed as a whole, so that no page is ever given back before it ends.
        for at in [1, 60, 107, 200, 299] {
            let whole = [&prompt, &answer.tokens[..at]].concat();
            let next = run(&mut engine(false, 512), &request(whole, 1)).0;
            assert_eq!(
                (&next.tokens[..], &next.logprobs[..]),
                (&answer.tokens[at..=at], &answer.logprobs[at..=at]),
                "{name}"
            );
        }
        let mut sharing = engine(true, 33);
        for _ in 0..2 {
            assert_eq!(run(&mut sharing, &request(prompt.clone(), 300)).0, answer, "{name}");
        }
        let found = sharing.load().counters.scheduler.cached_tokens;
        assert_eq!(found, 2 * PAGE as u64, "{name}");
    }
}

#[test]
fn company_with_windows() {
    let requests: Vec<Request> = (0..30u32)
        .map(|i| {
            request((0..20 + i * 9).map(|j| if j < 70 * (i % 4) { j % 30 + 4 } else { (i % 5) + 4 }).collect(), 80)
        })
        .collect();
    for short in [1, 5, 64, 65, 130] {
        let toy = |pages, windowed| Toy { short, windowed, ..Toy::new(pages) };
        let answers = |windowed, pages, prefix_cache| {
            let options = Options { prefix_cache, step_tokens: 90, running: 6, ..Options::default() };
            let mut engine = Engine::new(toy(pages, windowed), None, options);
            let mut answers = BTreeMap::new();
            for request in &requests {
                engine.submit(request.clone()).unwrap();
                note(&mut answers, engine.step().unwrap());
            }
            finish(&mut engine, &mut answers);
            answers.into_values().collect::<Vec<_>>()
        };
        let plain = answers(false, 90, false);
        for (pages, prefix_cache) in [(90, true), (90, false), (9, true), (9, false)] {
            assert_eq!(answers(true, pages, prefix_cache), plain, "a window of {short}, {pages} pages");
        }
    }
}
