//! Guesses by a model's own layer for them change no token.

use crate::toy::{Answer, finish};
use alula_device::{CacheType, Cpu, CpuDevice};
use alula_engine::local::{LoadOptions, Package};
use alula_engine::{Engine, Options, Request, Sampling, Speculation};
use std::collections::BTreeMap;
use std::path::Path;

/// Guesses go on where they are wrong.
pub(crate) fn steady() -> Options {
    Options { speculation: Speculation { adapt: false, rows: 99, ..Speculation::default() }, ..Options::default() }
}

#[test]
fn a_model_that_guesses_says_the_same() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity/deepseek_v3_mtp");
    let package = Package::open(&dir).unwrap();
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 2);
    // Greedy, and drawn at random.
    for (temperature, context) in [(0.0, 320), (0.7, 320)] {
        let run = |guess| {
            let options = LoadOptions {
                context: Some(context),
                guess,
                cache: CacheType::F32,
                sequences: 2,
                ..LoadOptions::default()
            };
            let mut engine = Engine::new(package.load(&device, options, &mut |_, _| ()).unwrap(), None, steady());
            for prompt in [vec![3, 14, 15, 92, 65], vec![7; 40]] {
                let sampling = Sampling { temperature, seed: Some(5), ..Sampling::default() };
                let request =
                    Request { prompt, max_tokens: Some(256), sampling, ignore_end: true, ..Request::default() };
                engine.submit(request).unwrap();
            }
            let mut answers: BTreeMap<_, Answer> = BTreeMap::new();
            finish(&mut engine, &mut answers);
            let tokens: Vec<Vec<u32>> = answers.into_values().map(|a| a.tokens).collect();
            (tokens, {
                let counters = engine.load().counters;
                (counters.guessed, counters.right)
            })
        };
        let (plain, guessed) = (run(false), run(true));
        assert_eq!(plain.0, guessed.0);
        assert_eq!(plain.0.iter().map(Vec::len).collect::<Vec<_>>(), [256, 256]);
        let (tried, right) = guessed.1;
        println!("temperature {temperature}: {right} of {tried} guesses were right");
        assert!(plain.1 == (0, 0) && tried > 100);
    }
}

/// However few tokens and rows of logits a step has, and when sequences give way to each other.
#[test]
fn small_steps_say_the_same() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity/deepseek_v3_mtp");
    let package = Package::open(&dir).unwrap();
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 1);
    let run = |guess, outputs, step_tokens, pages| {
        let (context, cache) = (Some(100), CacheType::F32);
        let options = LoadOptions { context, guess, cache, outputs, step_tokens, pages, ..LoadOptions::default() };
        let local = package.load(&device, options, &mut |_, _| ()).unwrap();
        let mut engine = Engine::new(local, None, steady());
        for prompt in [vec![3, 14, 15, 92, 65], vec![7; 40], vec![1]] {
            let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
            let request = Request { prompt, max_tokens: Some(70), sampling, ignore_end: true, ..Request::default() };
            engine.submit(request).unwrap();
        }
        let mut answers: BTreeMap<_, Answer> = BTreeMap::new();
        finish(&mut engine, &mut answers);
        answers.into_values().map(|a| a.tokens).collect::<Vec<_>>()
    };
    let plain = run(false, 8, 512, None);
    assert_eq!(plain.iter().map(Vec::len).collect::<Vec<_>>(), [70, 60, 70]);
    for (outputs, step_tokens, pages) in [
        (1, 512, None),
        (2, 512, None),
        (3, 2, Some(3)),
        (8, 1, None),
        (8, 3, Some(2)),
        (8, 64, Some(4)),
        (5, 512, Some(3)),
    ] {
        let guessed = run(true, outputs, step_tokens, pages);
        assert_eq!(guessed, plain, "{outputs} rows of logits, {step_tokens} tokens, {pages:?} pages");
    }
}

#[test]
fn a_model_without_the_layer_refuses() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity/qwen3");
    let package = Package::open(&dir).unwrap();
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 1);
    let options = LoadOptions { guess: true, ..LoadOptions::default() };
    let error = package.load(&device, options, &mut |_, _| ()).err().unwrap().to_string();
    assert!(error.contains("no layer for multi-token prediction"), "{error}");
}

/// Memory for either plan is not memory for both.
#[test]
fn both_plans_must_fit() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/parity/deepseek_v3_mtp");
    let package = Package::open(&dir).unwrap();
    let load = |guess, bytes| {
        let device = CpuDevice::new(Cpu::from_env().unwrap(), 1).within(bytes);
        package.load(&device, LoadOptions { guess, ..LoadOptions::default() }, &mut |_, _| ())
    };
    let [plain, both] = [false, true].map(|guess| load(guess, 1 << 40).unwrap().memory().total());
    assert!(plain < both);
    assert!(load(false, plain).is_ok() && load(true, both).is_ok());
    let error = load(true, both - 1).err().unwrap().to_string();
    assert!(error.contains("do not fit into memory together"), "{error}");
}
