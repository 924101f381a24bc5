//! candle on a model: tokens per second of a quantised Llama's prompt and of decoding from an empty cache; or the vectors of a
//! BERT, mean over tokens, and the seconds that they took.
//!
//!     alula-peer-candle MODEL.gguf PROMPT GEN THREADS
//!     alula-peer-candle FOLDER BATCH THREADS < IDS           (IDS: a list of lists of ids, JSON)

mod bert;

use candle_core::{Device, Tensor, quantized::gguf_file::Content};
use candle_transformers::models::quantized_llama::ModelWeights;
use std::{error::Error, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let usage = "usage: MODEL.gguf PROMPT GEN THREADS, or FOLDER BATCH THREADS";
    let [file, numbers @ ..] = &args[..] else { return Err(usage.into()) };
    let numbers: Vec<usize> = numbers.iter().map(|n| n.parse()).collect::<Result<_, _>>()?;
    let threads = numbers.last().copied().ok_or(usage)?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    match numbers[..] {
        [batch, _] => bert::embed(file.as_ref(), batch),
        [prompt, generate, _] => llama(file, prompt, generate),
        _ => Err(usage.into()),
    }
}

fn llama(file: &str, prompt: usize, generate: usize) -> Result<(), Box<dyn Error>> {
    let mut reader = std::io::BufReader::new(std::fs::File::open(file)?);
    let content = Content::read(&mut reader)?;
    let vocab = content.tensor_infos.get("token_embd.weight").ok_or("no token_embd.weight")?.shape.dims()[0];
    let mut model = ModelWeights::from_gguf(content, &mut reader, &Device::Cpu)?;
    let ids: Vec<u32> = (0..prompt.max(generate)).map(|i| (i * 7919 % vocab) as u32).collect();
    let mut step = |ids: &[u32], at: usize| -> candle_core::Result<Vec<f32>> {
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        model.forward(&input, at)?.squeeze(0)?.to_vec1()
    };
    // A step at position 0 begins a new sequence. This one is not counted: it touches every weight.
    step(&ids[..1], 0)?;
    let start = Instant::now();
    if prompt > 0 {
        step(&ids[..prompt], 0)?;
    }
    let middle = Instant::now();
    for at in 0..generate {
        step(&ids[at..at + 1], at)?;
    }
    let tps = |n: usize, seconds: f64| (n > 0).then(|| n as f64 / seconds);
    let report = serde_json::json!({
        "prefill_tps": tps(prompt, (middle - start).as_secs_f64()),
        "decode_tps": tps(generate, middle.elapsed().as_secs_f64()),
    });
    println!("{report}");
    Ok(())
}
