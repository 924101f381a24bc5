//! A steady step allocates nothing: all allocations of the process are counted while sequences grow.
//!
//! Two things may allocate, within bounds that are tested too: a page that is taken or gets its name, and the text of a token, which
//! belongs to who gets the event. The counter is the process's, so there is no other test here, nor libtest, which allocates.

use alula_device::{Adapter, Cpu, CpuDevice, PAGE};
use alula_engine::local::{LoadOptions, Local, Lora, Package, Words};
use alula_engine::text::Text;
use alula_engine::{Engine, Event, Options, Request, Runner, Sampling, Speculation};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Counts allocations, also those that only grow.
struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counter does not touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        // SAFETY: the caller keeps `realloc`'s contract.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

fn load(package: &Package, sequences: usize) -> Local {
    let (context, stretch) = (Some(512), package.model.spec().positions.is_none());
    let (guess, checkpoints) = (package.model.draft().is_some(), 4);
    let options = LoadOptions { context, stretch, sequences, guess, checkpoints, ..LoadOptions::default() };
    package.load(&CpuDevice::new(Cpu::from_env().unwrap(), 2), options, &mut |_, _| ()).unwrap()
}

/// Tokens of each prompt, and the lengths between which is counted.
const PROMPT: usize = 40;
const BETWEEN: std::ops::Range<usize> = PROMPT + PAGE..PROMPT + 4 * PAGE;

/// What a run allocated.
#[derive(Debug, Default)]
struct Made {
    /// In steps where every sequence is some tokens away from the end of a page, and how many these are.
    steady: usize,
    steps: usize,
    /// In the other steps.
    turning: usize,
    /// Tokens that came in all of them.
    tokens: usize,
}

/// Lets sequences grow side by side.
fn grow<R: Runner>(mut engine: Engine<R>, how: &Sampling, sequences: usize, adapters: &[Adapter]) -> Made {
    let mut lengths = Vec::new();
    for i in 0..sequences {
        let prompt: Vec<u32> = (0..PROMPT).map(|j| ((i * 31 + j * j) % 90 + 3) as u32).collect();
        let sampling = Sampling { seed: Some(i as u64), ..how.clone() };
        let adapters = adapters.to_vec();
        let id = engine.submit(Request { prompt, sampling, ignore_end: true, adapters, ..Request::default() }).unwrap();
        lengths.push((id, PROMPT));
    }
    let (mut made, mut events) = (Made::default(), Vec::with_capacity(64));
    while lengths.iter().any(|(_, length)| *length < BETWEEN.end) {
        events.clear();
        let before = COUNT.load(Relaxed);
        engine.step_into(&mut events).unwrap();
        let count = COUNT.load(Relaxed) - before;
        // Guesses take a page some tokens before it is needed.
        let steady = lengths.iter().all(|(_, length)| (length + 5) % PAGE > 7);
        for event in &events {
            let Event::Token { id, .. } = event else { panic!("{event:?}") };
            lengths.iter_mut().filter(|(of, _)| of == id).for_each(|(_, length)| *length += 1);
        }
        if lengths.iter().any(|(_, length)| *length < BETWEEN.start) {
            continue;
        }
        made.tokens += events.len();
        if steady {
            (made.steady, made.steps) = (made.steady + count, made.steps + 1);
        } else {
            made.turning += count;
        }
    }
    made
}

fn main() {
    let sampled = Sampling { repeat_penalty: 1.1, typical_p: 0.98, ..Sampling::default() };
    // Attention, windows, latent attention, mixtures, states of fixed size alone and beside attention, a layer that guesses.
    let names = ["llama3", "gemma3", "deepseek_v3", "qwen2_moe", "mamba", "mamba2", "jamba", "deepseek_v3_mtp"];
    let more = [("llama_gqa", Some("llama_two/one"), false), ("llama3", None, true)];
    for (name, adapter, drafted) in names.map(|name| (name, None, false)).into_iter().chain(more) {
        let adapters: Vec<Lora> = adapter.iter().map(|a| Lora::open(&data("testdata/lora").join(a)).unwrap()).collect();
        let own = adapter.map(|_| Adapter { index: 0, scale: 0.5 });
        let package = Package::open(&data("testdata/parity").join(name)).unwrap().with_adapters(adapters).unwrap();
        for (how, sequences) in [(Sampling::greedy(), 1), (sampled.clone(), 8)] {
            let speculation = Speculation { draft: 1, ..Speculation::default() };
            let (local, options) = (load(&package, sequences), Options { speculation, ..Options::default() });
            let engine = match drafted {
                true => Engine::with_draft(local, Box::new(load(&package, sequences)), None, options).unwrap(),
                false => Engine::new(local, None, options),
            };
            let made = grow(engine, &how, sequences, own.as_slice());
            let what = format!("{name}, {adapter:?}, drafted {drafted}, {sequences} sequences: {made:?}");
            assert!(made.steady == 0 && made.steps > BETWEEN.len() / 4, "{what}");
            // Each page gets a name, and tables grow now and then.
            assert!(made.turning <= 4 * sequences + 3 * made.tokens.div_ceil(PAGE), "{what}");
        }
    }
    let package = Package::open(&data("crates/alula/assets/builtin.gguf")).unwrap();
    let words: Arc<dyn Text> = Arc::new(Words::new(Arc::new(package.tokenizer().unwrap()), package.end_ids()));
    for (how, sequences) in [(Sampling::greedy(), 8), (Sampling { top_k: 0, ..sampled }, 1)] {
        let engine = Engine::new(load(&package, sequences), Some(Arc::clone(&words)), Options::default());
        let made = grow(engine, &how, sequences, &[]);
        // The tokenizer makes bytes and a text of the token, and the event has the part of it that is certain.
        assert!(made.steady > 0 && made.steady <= 3 * made.tokens, "{sequences} sequences: {made:?}");
    }
}
