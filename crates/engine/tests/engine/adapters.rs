//! Requests with adapters of their own, through the whole engine.

use crate::toy::{Answer, Toy, finish};
use alula_device::{CacheType, Cpu, CpuDevice};
use alula_engine::local::{LoadError, LoadOptions, Lora, Package};
use alula_engine::{Adapter, Engine, Options, Request, RequestError, Sampling};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

fn ids(file: PathBuf) -> Vec<u32> {
    let v: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn open(base: &str, adapters: &[&str]) -> Package {
    let adapters = adapters.iter().map(|a| Lora::open(&data().join("lora").join(a)).unwrap()).collect();
    Package::open(&data().join("parity").join(base)).unwrap().with_adapters(adapters).unwrap()
}

/// The tokens of each request, and the guesses that were computed and those that were right.
fn run(package: &Package, guess: bool, step_tokens: usize, requests: &[Request]) -> (Vec<Vec<u32>>, (u64, u64)) {
    let cache = CacheType::F32;
    // Not all fit, so that some give way and are computed anew.
    let options =
        LoadOptions { context: Some(256), sequences: 4, pages: Some(9), cache, guess, ..LoadOptions::default() };
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 2);
    let local = package.load(&device, options, &mut |_, _| ()).unwrap();
    let mut engine = Engine::new(local, None, Options { step_tokens, ..crate::guesses::steady() });
    let ids: Vec<_> = requests.iter().map(|r| engine.submit(r.clone()).unwrap()).collect();
    let mut answers: BTreeMap<_, Answer> = BTreeMap::new();
    finish(&mut engine, &mut answers);
    (ids.iter().map(|id| answers.remove(id).unwrap().tokens).collect(), {
        let counters = engine.load().counters;
        (counters.guessed, counters.right)
    })
}

fn request(prompt: &[u32], n: usize, adapters: &[Adapter]) -> Request {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let (prompt, adapters) = (prompt.to_vec(), adapters.to_vec());
    Request { prompt, max_tokens: Some(n), sampling, ignore_end: true, adapters, ..Request::default() }
}

#[test]
fn each_request_has_its_own() {
    let package = open("llama_gqa", &["llama_two/one", "llama_two/two", "llama_qv/one.gguf"]);
    let adapter = |index, scale| Adapter { index, scale };
    let prompt = ids(data().join("parity/llama_gqa/tokens.json"));
    let sets: [&[Adapter]; 6] = [
        &[],
        &[adapter(0, 1.0), adapter(1, 1.0)],
        &[adapter(2, 1.0)],
        &[adapter(1, 1.0)],
        &[adapter(1, 0.5)],
        &[adapter(2, -1.0), adapter(0, 0.25)],
    ];
    let requests: Vec<Request> = sets.iter().map(|set| request(&prompt, 64, set)).collect();
    let alone: Vec<_> =
        requests.iter().map(|r| run(&package, false, 512, std::slice::from_ref(r)).0.remove(0)).collect();
    // What PEFT and transformers say.
    for (set, want) in [(0, "parity/llama_gqa"), (1, "lora/llama_two"), (2, "lora/llama_qv")] {
        assert_eq!(alone[set], ids(data().join(want).join("greedy.json")), "{want}");
    }
    assert!((0..6).all(|i| (0..i).all(|j| alone[i] != alone[j])), "each adapter and factor says something else");
    for step_tokens in [512, 20, 7] {
        assert_eq!(run(&package, false, step_tokens, &requests).0, alone, "steps of {step_tokens}");
    }
}

/// What guesses tokens knows no adapters, so it is wrong more often; the answer is the same.
#[test]
fn guesses_stay_guesses() {
    let package = open("deepseek_v3_mtp", &["deepseek_v3_mtp/one"]);
    let prompt = ids(data().join("parity/deepseek_v3_mtp/tokens.json"));
    let one = [Adapter { index: 0, scale: 1.0 }];
    let requests = [request(&prompt, 200, &one), request(&prompt, 200, &[]), request(&prompt[..9], 100, &one)];
    let (plain, guessed) = (run(&package, false, 64, &requests), run(&package, true, 64, &requests));
    assert_eq!(plain.0, guessed.0);
    assert_eq!(plain.0[0][..64], ids(data().join("lora/deepseek_v3_mtp/greedy.json")));
    let (tried, right) = guessed.1;
    println!("{right} of {tried} guesses were right");
    assert!(tried > 100 && plain.1 == (0, 0));
}

#[test]
fn adapters_that_cannot_be_are_refused() {
    let package = open("llama_gqa", &["llama_two/one", "llama_two/two"]);
    let device = CpuDevice::new(Cpu::from_env().unwrap(), 1);
    let local = package.load(&device, LoadOptions::default(), &mut |_, _| ()).unwrap();
    let mut engine = Engine::new(local, None, Options::default());
    let adapter = |index, scale| Adapter { index, scale };
    for (adapters, index, why) in [
        (&[adapter(0, 1.0), adapter(2, 1.0)][..], 2, "the model has 2"),
        (&[adapter(1, f32::NAN)], 1, "give a number"),
        (&[adapter(1, f32::INFINITY)], 1, "give a number"),
        (&[adapter(1, 1.0), adapter(0, 1.0), adapter(1, 2.0)], 1, "name it once"),
    ] {
        match engine.submit(request(&[1, 2], 1, adapters)) {
            Err(RequestError::Adapter { index: i, why: w, .. }) => assert_eq!((i, w.as_str()), (index, why)),
            other => panic!("{adapters:?}: {other:?}"),
        }
    }
    let mut toy = Engine::new(Toy::new(9), None, Options::default());
    let e = toy.submit(request(&[1], 1, &[adapter(0, 1.0)])).unwrap_err().to_string();
    assert_eq!(e, "adapter 0 with factor 1 cannot be used: the model has 0");
}

#[test]
fn an_adapter_that_is_cut_before_it_is_loaded_is_refused() {
    let file = std::env::temp_dir().join(format!("alula-cut-{}.gguf", std::process::id()));
    for merge in [false, true] {
        std::fs::copy(data().join("lora/llama_two/one.gguf"), &file).unwrap();
        let (base, lora) = (Package::open(&data().join("parity/llama_gqa")).unwrap(), Lora::open(&file).unwrap());
        let package = if merge { base.merged(vec![(lora, 1.0)]) } else { base.with_adapters(vec![lora]) }.unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
        let device = CpuDevice::new(Cpu::from_env().unwrap(), 1);
        let loaded = package.load(&device, LoadOptions::default(), &mut |_, _| ());
        assert!(matches!(loaded, Err(LoadError::Written { .. })), "merge {merge}");
    }
    std::fs::remove_file(&file).unwrap();
}
