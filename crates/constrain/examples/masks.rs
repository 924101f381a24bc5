//! How long masks take, and whether they are right, on the schemas of MaskBench
//! (<https://github.com/guidance-ai/jsonschemabench>, `maskbench/data`).
//!
//!     cargo run --release -p alula-constrain --example masks -- FILE.gguf|tokenizer.json DATA [WALKS [OUT.jsonl]]
//!
//! Every schema is compiled, and its texts are followed token by token; a schema passes if all valid ones are allowed
//! and all invalid ones are not. WALKS random texts are made of each schema from what the masks allow, and written with
//! their schema to OUT.jsonl, for another program to validate.

use std::io::Write;
use std::time::Instant;

use alula_constrain::{Constraint, Error, Grammar, Vocabulary};
use alula_tokenizer::Tokenizer;
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

/// The longest random text, in tokens.
const LONGEST: usize = 2_000;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let (Some(file), Some(data)) = (args.next(), args.next()) else {
        return Err("usage: masks FILE.gguf|tokenizer.json DATA [WALKS [OUT.jsonl]]".into());
    };
    let walks: u64 = args.next().map_or(Ok(0), |n| n.parse())?;
    let mut out = args.next().map(std::fs::File::create).transpose()?.map(std::io::BufWriter::new);

    let tokenizer = if file.ends_with(".json") {
        Tokenizer::from_json(&std::fs::read(&file)?, None, &file)?
    } else {
        Tokenizer::from_gguf(&alula_format::gguf::Gguf::open(&file)?.metadata, &file)?
    };
    let (before, start) = (resident(), Instant::now());
    let vocabulary = Vocabulary::new(&tokenizer, tokenizer.end_ids())?;
    println!(
        "vocabulary of {} tokens: {:.0} ms, {:.0} MB",
        vocabulary.len(),
        start.elapsed().as_secs_f64() * 1e3,
        resident() - before
    );

    let mut files: Vec<_> = std::fs::read_dir(&data)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let walker = Walker::new(&tokenizer);
    let mut tally = Tally::default();
    for path in &files {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let case: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        tally.schema(&tokenizer, &vocabulary, &name, &case)?;
        if let (Some(out), Some(constraint)) = (&mut out, &tally.last) {
            for seed in 0..walks {
                match walker.walk(constraint, seed) {
                    Ok(Some(text)) => {
                        writeln!(out, "{}", json!({"name": name, "schema": case["schema"], "text": text}))?;
                    }
                    Ok(None) => tally.endless += 1,
                    Err(error) => tally.failed.push(format!("{name}: walk {seed}: {error}")),
                }
            }
        }
    }
    tally.print(files.len());
    println!("resident at the end: {:.0} MB", resident());
    Ok(())
}

#[derive(Default)]
struct Tally {
    passed: usize,
    refused: Vec<String>,
    failed: Vec<String>,
    endless: usize,
    compile: Vec<f64>,
    mask: Vec<f64>,
    slow: Vec<(f64, String)>,
    commit: Vec<f64>,
    last: Option<Constraint>,
}

impl Tally {
    fn schema(
        &mut self,
        tokenizer: &Tokenizer,
        vocabulary: &Vocabulary,
        name: &str,
        case: &Value,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let compiled = Grammar::json_schema(&case["schema"], false).and_then(|grammar| vocabulary.compile(&grammar));
        self.compile.push(start.elapsed().as_secs_f64());
        self.last = None;
        let constraint = match compiled {
            Ok(constraint) => constraint,
            Err(error) => {
                self.refused.push(format!("{name}: {error}"));
                return Ok(());
            }
        };
        let mut mask = vec![0; vocabulary.len().div_ceil(32)];
        let mut wrong = None;
        for (i, test) in case["tests"].as_array().into_iter().flatten().enumerate() {
            let text = spaced(&test["data"]);
            let mut state = constraint.start();
            let mut allowed = true;
            for &token in &tokenizer.encode(&text, false, false)? {
                let start = Instant::now();
                let result = state.mask(&mut mask);
                let end = Instant::now();
                self.mask.push((end - start).as_secs_f64());
                if (end - start).as_secs_f64() > 1e-3 {
                    self.slow.push(((end - start).as_secs_f64(), name.into()));
                }
                if let Err(error) = result {
                    wrong = Some(format!("test {i}: {error}"));
                    allowed = false;
                    break;
                }
                allowed = mask[token as usize / 32] >> (token % 32) & 1 == 1;
                if !allowed {
                    break;
                }
                state.commit(token)?;
                self.commit.push(end.elapsed().as_secs_f64());
            }
            allowed = allowed && state.may_end().unwrap_or(false);
            if allowed != (test["valid"] == true) && wrong.is_none() {
                wrong = Some(format!(
                    "test {i}: {}",
                    if allowed { "allows what is invalid" } else { "refuses what is valid" }
                ));
            }
        }
        match wrong {
            Some(what) => self.failed.push(format!("{name}: {what}")),
            None => self.passed += 1,
        }
        self.last = Some(constraint);
        Ok(())
    }

    fn print(&mut self, schemas: usize) {
        for line in self.refused.iter().chain(&self.failed) {
            eprintln!("{line}");
        }
        println!(
            "{schemas} schemas: {} pass, {} are refused, {} fail; {} walks did not end within {LONGEST} tokens",
            self.passed,
            self.refused.len(),
            self.failed.len(),
            self.endless
        );
        let mut slow = std::collections::BTreeMap::<&str, (usize, f64)>::new();
        for (time, name) in &self.slow {
            let sum = slow.entry(name).or_default();
            *sum = (sum.0 + 1, sum.1 + time);
        }
        let mut slow: Vec<_> = slow.into_iter().collect();
        slow.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        for (name, (count, time)) in slow.iter().take(10) {
            println!("{name}: {count} masks of more than 1 ms, {:.0} ms together", time * 1e3);
        }
        for (what, times) in [("compile", &mut self.compile), ("mask", &mut self.mask), ("commit", &mut self.commit)] {
            times.sort_by(f64::total_cmp);
            let at =
                |share: f64| times.get((times.len() as f64 * share) as usize).or(times.last()).map_or(0.0, |t| t * 1e6);
            println!(
                "{what}: {} times, p50 {:.0} us, p90 {:.0}, p99 {:.0}, p99.9 {:.0}, most {:.0}",
                times.len(),
                at(0.5),
                at(0.9),
                at(0.99),
                at(0.999),
                at(1.0)
            );
        }
    }
}

/// Makes random texts.
struct Walker {
    bytes: Vec<Vec<u8>>,
    closing: Vec<u32>,
    ends: Vec<u32>,
}

impl Walker {
    fn new(tokenizer: &Tokenizer) -> Self {
        let bytes: Vec<Vec<u8>> = (0..tokenizer.vocab_size() as u32).map(|id| tokenizer.token_bytes(id)).collect();
        let closes = |bytes: &[u8]| matches!(bytes, b"\"" | b"]" | b"}" | b"\"}" | b"]}" | b"}}" | b"\"]");
        let closing = (0..bytes.len() as u32).filter(|id| closes(&bytes[*id as usize])).collect();
        Walker { bytes, closing, ends: tokenizer.end_ids().to_vec() }
    }

    /// A random text of what the masks allow; `None` if it does not end.
    fn walk(&self, constraint: &Constraint, seed: u64) -> Result<Option<String>, Error> {
        let mut random = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize
        };
        let mut state = constraint.start();
        let mut mask = vec![0u32; self.bytes.len().div_ceil(32)];
        let mut text = Vec::new();
        for step in 0..LONGEST {
            if state.is_complete() || state.may_end()? && next() % 4 == 0 {
                return Ok(Some(String::from_utf8_lossy(&text).into_owned()));
            }
            state.mask(&mut mask)?;
            let allowed = |id: &u32| mask[*id as usize / 32] >> (id % 32) & 1 == 1 && !self.ends.contains(id);
            // What closes something comes more often the longer the text is, so that it ends.
            let close = next() % 40 < 4 + step / 8;
            let closing: Vec<u32> = self.closing.iter().copied().filter(|id| close && allowed(id)).collect();
            let lucky = (0..40).map(|_| (next() % self.bytes.len()) as u32).find(|id| allowed(id));
            let token = match (closing.is_empty(), lucky) {
                (false, _) => closing[next() % closing.len()],
                (true, Some(token)) => token,
                (true, None) => {
                    let all: Vec<u32> = (0..self.bytes.len() as u32).filter(|id| allowed(id)).collect();
                    *all.get(next() % all.len().max(1)).ok_or(Error::Stuck)?
                }
            };
            state.commit(token)?;
            text.extend_from_slice(&self.bytes[token as usize]);
        }
        Ok(None)
    }
}

/// A value as Python's `json.dumps` writes it: a space behind commas and colons.
fn spaced(value: &Value) -> String {
    match value {
        Value::Array(list) => format!("[{}]", list.iter().map(spaced).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let pairs = map.iter().map(|(name, value)| format!("{}: {}", Value::from(name.as_str()), spaced(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Memory in use, in MB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok()).map_or(0.0, |kb| kb / 1024.0)
}
