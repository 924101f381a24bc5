//! How long a tokenizer takes to load, and how fast it encodes a text that it has not seen.
//!
//!     cargo run --release -p alula-tokenizer --example speed -- TEXT FILE.gguf|tokenizer.json ...

use std::time::Instant;

use alula_tokenizer::Tokenizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let text = std::fs::read_to_string(args.next().ok_or("usage: speed TEXT FILE...")?)?;
    for file in args {
        let start = Instant::now();
        let tokenizer = if file.ends_with(".json") {
            Tokenizer::from_json(&std::fs::read(&file)?, None, &file)?
        } else {
            Tokenizer::from_gguf(&alula_format::gguf::Gguf::open(&file)?.metadata, &file)?
        };
        let load = start.elapsed();
        // Nothing is kept from call to call, so each is cold; the best of them is the one that other work disturbed least.
        let (mut ids, mut times) = (Vec::new(), Vec::new());
        for _ in 0..15 {
            let start = Instant::now();
            ids = tokenizer.encode(&text, false, true)?;
            times.push(start.elapsed().as_secs_f64());
        }
        let best = times.iter().copied().fold(f64::MAX, f64::min);
        let start = Instant::now();
        let back = tokenizer.decode(&ids, false).len();
        let decode = start.elapsed().as_secs_f64();
        let mb = text.len() as f64 / 1e6;
        println!(
            "{file}: {} tokens loaded in {:.1} ms; encodes {:.1} MB/s, first {:.1} ({} ids), decodes {:.1} MB/s ({back} bytes)",
            tokenizer.vocab_size(),
            load.as_secs_f64() * 1e3,
            mb / best,
            mb / times[0],
            ids.len(),
            mb / decode,
        );
    }
    Ok(())
}
