//! Guesses from whatever source change no token and no probability.

use crate::toy::{Answer, Toy, finish, note};
use alula_device::{CacheType, Cpu, CpuDevice};
use alula_engine::local::{LoadOptions, Package};
use alula_engine::{DraftError, Engine, Load, Options, Request, Runner, Sampling, Speculation};
use std::collections::BTreeMap;
use std::path::Path;

fn package(name: &str) -> Package {
    Package::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity").join(name)).unwrap()
}

fn requests(vocab: u32, most: usize) -> Vec<Request> {
    let kinds = [
        Sampling::greedy(),
        Sampling::default(),
        Sampling { temperature: 0.0, repeat_penalty: 1.2, ..Sampling::default() },
        Sampling { temperature: 1.5, top_k: 0, top_p: 1.0, ..Sampling::default() },
    ];
    (0..8u32)
        .zip(kinds.iter().cycle())
        .map(|(i, kind)| Request {
            // Some of the prompts repeat themselves.
            prompt: (0..5 + i * 17).map(|j| (if i % 2 == 0 { j % 7 } else { j * j } + 3) % vocab).collect(),
            sampling: Sampling { seed: Some(i.into()), logprobs: Some(3), ..kind.clone() },
            max_tokens: Some(most),
            ignore_end: true,
            ..Request::default()
        })
        .collect()
}

fn answers<R: Runner>(mut engine: Engine<R>, requests: &[Request]) -> (Vec<Answer>, Load) {
    let mut answers = BTreeMap::new();
    let mut ids = Vec::new();
    for request in requests {
        ids.push(engine.submit(request.clone()).unwrap());
        note(&mut answers, engine.step().unwrap());
    }
    finish(&mut engine, &mut answers);
    (ids.iter().map(|id| answers.remove(id).unwrap()).collect(), engine.load())
}

fn options(lookup: usize, draft: usize, rows: usize, adapt: bool) -> Options {
    Options { speculation: Speculation { lookup, draft, rows, adapt }, ..Options::default() }
}

#[test]
fn toys_say_the_same() {
    let requests = requests(40, 60);
    let mut total = Load::default().counters;
    for regimes in [vec![], vec![80, 81, 140]] {
        let toy = |pages, max_outputs| Toy { regimes: regimes.clone(), max_outputs, ..Toy::new(pages) };
        let plain = answers(Engine::new(toy(60, 512), None, options(0, 0, 8, true)), &requests).0;
        for (pages, step_tokens, running) in [(60, 512, 64), (60, 512, 1), (10, 100, 8), (6, 33, 4), (4, 7, 3)] {
            for (lookup, draft, rows, adapt, outputs) in [
                (8, 0, 64, true, 512),
                (5, 0, 9, false, 512),
                (0, 4, 64, true, 512),
                (3, 6, 64, false, 9),
                (0, 1, 8, false, 5),
            ] {
                let options = Options { step_tokens, running, ..options(lookup, draft, rows, adapt) };
                let engine = match draft {
                    0 => Engine::new(toy(pages, outputs), None, options),
                    // Another model, that is sometimes of the same opinion: what it says depends on less.
                    _ => {
                        let other = Toy { short: 2, ..Toy::new(pages) };
                        let toy = Toy { short: if draft == 4 { 2 } else { 0 }, ..toy(pages, outputs) };
                        Engine::with_draft(toy, Box::new(other), None, options).unwrap()
                    }
                };
                let plain = if draft == 4 {
                    let toy = Toy { short: 2, ..toy(60, 512) };
                    answers(Engine::new(toy, None, crate::speculation::options(0, 0, 8, true)), &requests).0
                } else {
                    plain.clone()
                };
                let (got, load) = answers(engine, &requests);
                let at =
                    format!("{pages} pages, {step_tokens} tokens, {running} run, {lookup} looked up, {draft} drafted");
                assert_eq!(got, plain, "{at}");
                let c = load.counters;
                assert!(c.right <= c.guessed && c.drafts <= c.guessed, "{at}");
                if draft == 4 && regimes.is_empty() && pages == 60 {
                    // Both are of one opinion, so all guesses are right, at all temperatures.
                    assert!(c.right == c.guessed && c.guessed > 200, "{at}: {c:?}");
                }
                total.guessed += c.guessed;
                total.right += c.right;
            }
        }
    }
    assert!(total.right > 1000 && total.guessed > total.right + 1000, "{total:?}");
}

#[test]
fn models_say_the_same() {
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 2);
    let load = |name, pages| {
        let (context, cache, outputs) = (Some(256), CacheType::F32, 64);
        let options = LoadOptions { context, cache, outputs, pages: Some(pages), ..LoadOptions::default() };
        package(name).load(&device, options, &mut |_, _| ()).unwrap()
    };
    let requests = requests(97, 80);
    let (plain, base) = answers(Engine::new(load("qwen3", 40), None, options(0, 0, 8, true)), &requests);
    for (pages, lookup, draft, adapt) in
        [(40, 6, None, true), (40, 6, None, false), (40, 0, Some("qwen3"), true), (7, 4, Some("qwen3_bias"), false)]
    {
        let options = options(lookup, 4, 64, adapt);
        let engine = match draft {
            None => Engine::new(load("qwen3", pages), None, options),
            Some(draft) => {
                Engine::with_draft(load("qwen3", pages), Box::new(load(draft, pages)), None, options).unwrap()
            }
        };
        let (got, load) = answers(engine, &requests);
        assert_eq!(got, plain, "{lookup} looked up, {draft:?}");
        let c = load.counters;
        println!(
            "{lookup} looked up, draft {draft:?}: {} of {} right, {} steps for {}",
            c.right, c.guessed, c.steps, base.counters.steps
        );
        assert!(c.guessed > 100);
        if draft == Some("qwen3") {
            assert!(c.right == c.guessed && c.steps * 2 < base.counters.steps, "it is the same model: {c:?}");
        }
    }
}

/// A draft model's cache is shared with the model's, and is what it would have been.
#[test]
fn drafts_are_as_good_when_pages_are_found() {
    let toy = || Toy { short: 2, ..Toy::new(30) };
    let mut engine = Engine::with_draft(toy(), Box::new(toy()), None, options(0, 4, 64, true)).unwrap();
    let request = requests(40, 60).pop().unwrap();
    let mut first = None;
    for turn in 0..3 {
        let before = engine.load().counters;
        let id = engine.submit(request.clone()).unwrap();
        let mut answers = BTreeMap::new();
        finish(&mut engine, &mut answers);
        let after = engine.load().counters;
        assert_eq!(after.scheduler.cached_tokens > before.scheduler.cached_tokens, turn > 0);
        assert_eq!(after.right - before.right, after.guessed - before.guessed, "all are right");
        let answer = answers.remove(&id).unwrap();
        assert_eq!(first.get_or_insert(answer.clone()), &answer);
    }
}

#[test]
fn many_that_run_are_not_slowed_by_guesses() {
    let toy = Toy { short: 2, ..Toy::new(90) };
    let mut engine = Engine::new(toy, None, options(8, 0, 6, false));
    for i in 0..10 {
        let prompt = [i, 2, 3].repeat(5);
        let request = Request { prompt, max_tokens: Some(10 + 3 * i as usize), ..requests(40, 1).remove(0) };
        engine.submit(request).unwrap();
    }
    let mut most = 0;
    while !engine.is_idle() {
        engine.step().unwrap();
        let (load, rows) = (engine.load(), *engine.runner().rows.last().unwrap());
        assert_eq!((load.step.rows, rows <= load.step.requests.max(6) || load.counters.steps == 1), (rows, true));
        most = most.max(rows - load.step.requests);
    }
    assert!(most > 1);
}

#[test]
fn drafts_that_cannot_be_are_refused() {
    let refuse =
        |model: Toy, draft: Toy| Engine::with_draft(model, Box::new(draft), None, Options::default()).err().unwrap();
    let short = refuse(Toy::new(30), Toy::new(29));
    assert_eq!(short, DraftError::Room { pages: 29, model_pages: 30, context: 1000, model_context: 1000 });
    let short = refuse(Toy::new(30), Toy { context: 999, ..Toy::new(30) });
    assert_eq!(short, DraftError::Room { pages: 30, model_pages: 30, context: 999, model_context: 1000 });
    assert_eq!(refuse(Toy::new(9), Toy { checkpoints: Some(vec![]), ..Toy::new(9) }), DraftError::States);
    assert_eq!(refuse(Toy::new(9), Toy { regimes: vec![70], ..Toy::new(9) }), DraftError::States);
    assert_eq!(refuse(Toy { guess: Some(1), ..Toy::new(9) }, Toy::new(9)), DraftError::Model);
    assert_eq!(refuse(Toy { checkpoints: Some(vec![]), ..Toy::new(9) }, Toy::new(9)), DraftError::Model);
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 1);
    let local = package("qwen3").load(&device, LoadOptions::default(), &mut |_, _| ()).unwrap();
    let e = Engine::with_draft(local, Box::new(Toy::new(9)), None, Options::default()).err().unwrap();
    assert_eq!(e, DraftError::Vocabulary { draft: 40, model: 97 });
}

#[test]
fn a_draft_that_fails_loses_nothing() {
    let request = requests(40, 60).pop().unwrap();
    let plain = answers(Engine::new(Toy::new(9), None, Options::default()), std::slice::from_ref(&request)).0;
    let draft = Box::new(Toy { fail: 2, ..Toy::new(9) });
    let mut engine = Engine::with_draft(Toy::new(9), draft, None, options(0, 3, 64, false)).unwrap();
    let id = engine.submit(request).unwrap();
    for _ in 0..2 {
        assert_eq!(engine.step().unwrap_err().to_string(), "the model failed: the toy broke");
    }
    let mut answers = BTreeMap::new();
    finish(&mut engine, &mut answers);
    assert_eq!(answers[&id], plain[0]);
}
