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
        let start = Instant::now();
        let ids = tokenizer.encode(&text, false, true)?;
        let encode = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let back = tokenizer.decode(&ids, false).len();
        let decode = start.elapsed().as_secs_f64();
        let mb = text.len() as f64 / 1e6;
        println!(
            "{file}: {} tokens loaded in {:.1} ms; encodes {:.1} MB/s cold ({} ids), decodes {:.1} MB/s ({back} bytes)",
            tokenizer.vocab_size(),
            load.as_secs_f64() * 1e3,
            mb / encode,
            ids.len(),
            mb / decode,
        );
    }
    Ok(())
}
