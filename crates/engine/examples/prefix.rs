//! How long a prompt's first token takes, and again when the prompt is in the cache: `prefix MODEL [TOKENS]`.

use alula_device::{Cpu, CpuDevice, threads};
use alula_engine::local::{LoadOptions, Package};
use alula_engine::{Engine, Event, Options, Request, Runner, Sampling};
use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = PathBuf::from(args.next().ok_or("usage: prefix MODEL [TOKENS]")?);
    let length: usize = args.next().map_or(Ok(4000), |n| n.parse())?;
    let package = Package::open(&path)?;
    let options = LoadOptions {
        context: Some(length + 64),
        stretch: true,
        pages: Some(length / 32),
        checkpoints: 4,
        ..LoadOptions::default()
    };
    let device = CpuDevice::new(Cpu::from_env()?, threads());
    let local = package.load(&device, options, &mut |_, _| ())?;
    let vocab = local.vocab() as u32;
    let mut engine = Engine::new(local, None, Options::default());
    let mut first = None;
    for turn in 1..=3 {
        let prompt: Vec<u32> =
            (0..length as u32).map(|i| i.wrapping_mul(2_654_435_761) >> 7).map(|i| i % vocab).collect();
        let sampling = Sampling { seed: Some(1), logprobs: Some(5), ..Sampling::default() };
        engine.submit(Request { prompt, sampling, max_tokens: Some(8), ..Request::default() })?;
        let (began, mut time, mut said) = (Instant::now(), None, Vec::new());
        while !engine.is_idle() {
            for event in engine.step()? {
                match event {
                    Event::Token { token, logprobs, .. } => {
                        time.get_or_insert(began.elapsed());
                        said.push((token, logprobs));
                    }
                    Event::Prompt { .. } | Event::Hidden { .. } => {}
                    Event::Finished { usage, .. } => {
                        let time = time.unwrap_or_default();
                        let (base, same) = first.get_or_insert((time, said.clone()));
                        let share = 100.0 * time.as_secs_f64() / base.as_secs_f64();
                        println!(
                            "prompt {turn}: {} tokens, {} in the cache, first token after {time:.1?} ({share:.2} %), same tokens and log-probabilities: {}",
                            usage.prompt,
                            usage.cached,
                            *same == said,
                        );
                    }
                }
            }
        }
    }
    Ok(())
}
