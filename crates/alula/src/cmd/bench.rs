//! `alula bench`: tokens per second.

use crate::cli::Bench;
use crate::{Fail, models, open};
use alula_device::{Adapter, Batch, Cpu, Device, PAGE, Rate, Seq};
use alula_engine::Runner;
use alula_engine::local::{LoadOptions, Local};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::time::Instant;

/// `alula bench [MODEL]`.
pub fn bench(a: &Bench) -> Result<(), Fail> {
    if a.machine {
        return machine(a);
    }
    if a.load.mtp {
        return Err("--mtp saves steps of a text, and bench measures steps; leave it out".into());
    }
    let (streams, start) = (usize::from(a.streams), a.depth.unwrap_or(a.prompt));
    let longest = a.prompt.max(start.saturating_add(a.r#gen));
    if a.runs == 0 || a.prompt == 0 && a.r#gen == 0 {
        return Err("give at least one run of at least one token".into());
    }
    let (package, adapters) = open::adapt(models::need(&a.model)?.open()?, &a.lora)?;
    package.writes()?;
    let spec = package.model.spec();
    // A step may have as many rows as a context has positions, and each sequence needs a row.
    let context = a.load.ctx.unwrap_or(longest.max(streams.min(spec.context)));
    if context < longest {
        return Err(format!("{longest} positions do not fit a context of {context}; raise --ctx").into());
    }
    if context < streams {
        return Err(format!("{streams} streams do not fit a step of {context} tokens; raise --ctx").into());
    }
    if context.checked_mul(streams).is_none() {
        return Err(format!("there is no memory for {streams} streams of {context} tokens; lower --streams").into());
    }
    if spec.endless() && longest > u32::MAX as usize {
        return Err(format!("{longest} positions are more than there can be; lower --prompt, --depth or --gen").into());
    }
    let defaults = LoadOptions::default();
    let options = LoadOptions {
        context: Some(context),
        sequences: streams,
        step_tokens: defaults.step_tokens.max(streams),
        outputs: defaults.outputs.max(streams),
        cache: open::cache(a.load.cache_type),
        keep: open::keep(a.load.no_cache),
        ..defaults
    };
    if options.keep.is_some() {
        // Its end waits until packed weights are kept, so that no thread writes them while the clock runs.
        drop(open::load(&package, a.load.compute, options.clone())?);
    }
    let model = open::load(&package, a.load.compute, options)?;
    let mut streams = Streams { model, vocab: spec.vocab as u64, context, count: streams, adapters: adapters.all() };
    // States of fixed size are those after the last token, and are no longer what they were at the start.
    let fixed = spec.layers.iter().any(|l| l.mixer.ssm().is_some());
    let again = fixed && start != a.prompt && a.r#gen > 0;
    if start > a.prompt && a.r#gen > 0 && !again {
        streams.run(0..start)?;
    }
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    // Bytes that were read, and for how long.
    let mut fetched = [(0u64, 0.0); 2];
    for run in 0..=a.runs {
        let (begin, read) = (Instant::now(), streams.read());
        streams.run(0..a.prompt)?;
        let (prefilled, read) = (begin.elapsed(), streams.read() - read);
        if again {
            streams.run(0..start)?;
        }
        let (middle, before) = (Instant::now(), streams.read());
        for at in start..start + a.r#gen {
            streams.run(at..at + 1)?;
        }
        if run > 0 {
            let decoded = middle.elapsed();
            prefill.push((streams.count * a.prompt) as f64 / prefilled.as_secs_f64());
            decode.push((streams.count * a.r#gen) as f64 / decoded.as_secs_f64());
            let reads = [(read, prefilled), (streams.read() - before, decoded)];
            for (sum, (bytes, time)) in fetched.iter_mut().zip(reads) {
                *sum = (sum.0 + bytes, sum.1 + time.as_secs_f64());
            }
        }
    }
    // What is fetched cannot come faster than the disk gives it.
    let disk = streams.model.traffic().and_then(|_| open::disk(&package));
    let mut out = std::io::stdout();
    if a.json {
        let fetch = |(bytes, time): (u64, f64)| json!({"bytes": bytes, "bytes_per_second": bytes as f64 / time});
        let runs: Vec<_> =
            prefill.iter().zip(&decode).map(|(p, d)| json!({"prefill_tps": p, "decode_tps": d})).collect();
        let report = json!({
            "model": package.name,
            "prompt": a.prompt,
            "gen": a.r#gen,
            "depth": start,
            "streams": streams.count,
            "prefill_tps": (a.prompt > 0).then(|| median(&prefill)),
            "decode_tps": (a.r#gen > 0).then(|| median(&decode)),
            "runs": runs,
            "fetched": disk.map(|disk| json!({
                "prefill": fetch(fetched[0]),
                "decode": fetch(fetched[1]),
                "disk_bytes_per_second": disk,
            })),
        });
        writeln!(out, "{report}")?;
    } else {
        let together = if streams.count > 1 { format!(" x {}", streams.count) } else { String::new() };
        let at = a.depth.map_or(String::new(), |depth| format!(" after {depth}"));
        for (what, n, at, all) in [("prefill", a.prompt, "", &prefill), ("decode", a.r#gen, &at, &decode)] {
            if n > 0 {
                let spread = |f: fn(f64, f64) -> f64| all.iter().copied().reduce(f).unwrap_or(0.0);
                let (low, high) = (spread(f64::min), spread(f64::max));
                writeln!(
                    out,
                    "{what:8} {n:5} tokens{together}{at}: {:10.2} tokens/s  ({low:.2} to {high:.2}, {} runs)",
                    median(all),
                    all.len()
                )?;
            }
        }
        for (what, n, (bytes, time)) in [("prefill", a.prompt, fetched[0]), ("decode", a.r#gen, fetched[1])] {
            if let Some(disk) = disk.filter(|_| n > 0) {
                let (token, speed) = (bytes as f64 / (n * a.runs * streams.count) as f64, bytes as f64 / time);
                let share = 100.0 * speed / disk;
                let [token, speed, disk] = [token, speed, disk].map(|b| b / 1e6);
                writeln!(
                    out,
                    "{what:8} read {token:.1} MB a token, {speed:.0} MB/s: {share:.0} % of the disk's {disk:.0}"
                )?;
            }
        }
    }
    Ok(())
}

/// `alula bench --machine`: the ceilings, and the caches as the system tells them.
fn machine(a: &Bench) -> Result<(), Fail> {
    let device = open::device(a.load.compute)?;
    let c = device.ceilings();
    let mut rows =
        vec![("read", "GB/s", c.read), ("f32 fma", "GFLOPS", Some(c.fma)), ("int8 dot", "GOPS", Some(c.dot))];
    rows.extend(c.tiles.map(|rate| ("int8 tile", "GOPS", Some(rate))));
    rows.extend(c.bf16.map(|rate| ("bf16", "GFLOPS", Some(rate))));
    let mut out = std::io::stdout();
    if a.json {
        let rate = |r: Rate| json!({"one_thread": r.one, "all_threads": r.all});
        let report = json!({
            "device": device.name(),
            "isa": Cpu::all().iter().map(Cpu::name).collect::<Vec<_>>(),
            "caches": caches(),
            "read_bytes_per_second": c.read.map(rate),
            "fma_flops": rate(c.fma),
            "dot_ops": rate(c.dot),
            "tile_int8_ops": c.tiles.map(rate),
            "bf16_flops": c.bf16.map(rate),
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    let have: Vec<_> = Cpu::all().iter().map(Cpu::name).collect();
    writeln!(out, "device    {}\nhas       {}", device.name(), have.join(", "))?;
    for (name, size) in caches() {
        writeln!(out, "{name:9} {size}")?;
    }
    for (what, unit, rate) in rows {
        match rate {
            Some(Rate { one, all }) => {
                writeln!(out, "{what:9} {:8.1} {unit} with one thread, {:8.1} with all", one / 1e9, all / 1e9)?;
            }
            None => writeln!(out, "{what:9} not measured: there is no memory for it")?,
        }
    }
    Ok(())
}

/// The first core's caches with their sizes, where the system says.
fn caches() -> BTreeMap<String, String> {
    let read = |i: usize, what: &str| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{i}/{what}");
        std::fs::read_to_string(path).map(|s| s.trim().to_owned())
    };
    let one = |i| {
        let kind = match read(i, "type").ok()?.as_str() {
            "Data" => "d",
            "Instruction" => "i",
            _ => "",
        };
        Some((format!("L{}{kind}", read(i, "level").ok()?), read(i, "size").ok()?))
    };
    (0..8).map_while(one).collect()
}

/// Sequences that grow together, each with its own pages. Speed does not depend on which tokens they have, but where experts are
/// fetched.
struct Streams {
    model: Local,
    vocab: u64,
    context: usize,
    count: usize,
    /// Of every sequence.
    adapters: Vec<Adapter>,
}

impl Streams {
    /// Bytes that were fetched so far.
    fn read(&self) -> u64 {
        self.model.traffic().map_or(0, |t| t.read)
    }

    /// Computes these positions of every sequence, as many in a step as fit, and the logits of each one's last.
    fn run(&mut self, range: Range<usize>) -> Result<(), Fail> {
        let (n, most, span) = (range.len(), self.model.max_tokens(), self.context.div_ceil(PAGE));
        let all = self.count * n;
        let place = |row: usize| (row / n, range.start + row % n);
        for at in (0..all).step_by(most) {
            let rows = at..all.min(at + most);
            let places: Vec<(usize, usize)> = rows.clone().map(place).collect();
            // The token of a position is spread over the vocabulary, and another one in each sequence.
            let token = |&(s, p): &(usize, usize)| ((s + p) as u64 * 7919 % self.vocab) as u32;
            let tokens: Vec<u32> = places.iter().map(token).collect();
            let positions: Vec<u32> = places.iter().map(|&(_, p)| p as u32).collect();
            let runs: Vec<&[(usize, usize)]> = places.chunk_by(|a, b| a.0 == b.0).collect();
            let pages: Vec<Vec<u32>> = runs
                .iter()
                .map(|run| {
                    let (s, last) = run[run.len() - 1];
                    (s * span..=s * span + last / PAGE).map(|page| page as u32).collect()
                })
                .collect();
            let mut start = 0;
            let seqs: Vec<Seq> = runs
                .iter()
                .zip(&pages)
                .map(|(run, pages)| {
                    let slot = run[0].0 as u32;
                    let seq =
                        Seq { start, len: run.len(), length: self.context, pages, slot, adapters: &self.adapters };
                    start += run.len();
                    seq
                })
                .collect();
            let last = |&row: &u32| places[row as usize].1 + 1 == range.end;
            let outputs: Vec<u32> = (0..tokens.len() as u32).filter(last).collect();
            self.model.run(&Batch {
                tokens: &tokens,
                positions: &positions,
                seqs: &seqs,
                outputs: &outputs,
                ..Batch::default()
            })?;
        }
        Ok(())
    }
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { 0.0 } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
}
