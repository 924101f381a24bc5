//! A real model end to end: files, tokenizer, device, step loop. Its text is another program's (expected.txt).

use crate::toy::{Answer, finish};
use alula_device::{CacheType, Cpu, CpuDevice};
use alula_engine::local::{LoadOptions, Local, Package, Words};
use alula_engine::{Engine, Options, Request, Sampling};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

fn stories() -> Option<PathBuf> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/models/stories260k"));
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {} is not there", path.display());
    None
}

fn load(package: &Package, sequences: usize) -> Local {
    let options = LoadOptions { sequences, cache: CacheType::F32, ..LoadOptions::default() };
    package.load(&CpuDevice::new(Cpu::from_env().unwrap(), 2), options, &mut |_, _| ()).unwrap()
}

fn answers(package: &Package, requests: &[Request], options: Options) -> Vec<Answer> {
    let words = Words::new(Arc::new(package.tokenizer().unwrap()), package.end_ids());
    let mut engine = Engine::new(load(package, requests.len()), Some(Arc::new(words)), options);
    let ids: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
    let mut answers = BTreeMap::new();
    finish(&mut engine, &mut answers);
    ids.iter().map(|id| answers.remove(id).unwrap()).collect()
}

fn prompt(package: &Package, text: &str) -> Vec<u32> {
    package.tokenizer().unwrap().encode(text, true, false).unwrap()
}

#[test]
fn stories260k_as_published() {
    let Some(path) = stories() else { return };
    let package = Package::open(&path.join("stories260k.gguf")).unwrap();
    let expected = std::fs::read_to_string(path.join("expected.txt")).unwrap();
    let request = Request {
        prompt: prompt(&package, "Once upon a time"),
        max_tokens: Some(120),
        sampling: Sampling::greedy(),
        ..Request::default()
    };
    let got = answers(&package, &[request], Options::default()).remove(0);
    assert_eq!(format!("Once upon a time{}", got.text), expected.trim_end_matches('\n'));
    assert_eq!(got.tokens.len(), 120);
}

#[test]
fn company_and_pieces_do_not_matter() {
    let Some(path) = stories() else { return };
    let package = Package::open(&path.join("stories260k.gguf")).unwrap();
    let requests: Vec<Request> =
        ["Once upon a time", "Lily", "The big dog ran to the park and then he saw a", "Tom and Sam"]
            .iter()
            .zip(0..)
            .map(|(text, seed)| Request {
                prompt: prompt(&package, text),
                max_tokens: Some(40),
                sampling: Sampling { seed: Some(seed), logprobs: Some(3), ..Sampling::default() },
                ..Request::default()
            })
            .collect();
    let alone: Vec<Answer> =
        requests.iter().map(|r| answers(&package, std::slice::from_ref(r), Options::default()).remove(0)).collect();
    for (step_tokens, running) in [(512, 4), (7, 4), (3, 2), (1, 1)] {
        assert_eq!(
            answers(&package, &requests, Options { step_tokens, running, ..Options::default() }),
            alone,
            "{step_tokens}, {running}"
        );
    }
}
