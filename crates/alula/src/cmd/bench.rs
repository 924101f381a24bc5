//! `alula bench`: tokens per second.

use crate::cli::Bench;
use crate::{Fail, models, open};
use alula_device::{Batch, Cpu, Device, PAGE, Rate, Seq};
use alula_engine::Runner;
use alula_engine::local::{LoadOptions, Local};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

/// `alula bench [MODEL]`.
pub fn bench(a: &Bench) -> Result<(), Fail> {
    if a.machine {
        return machine(a);
    }
    let tokens = a.prompt.saturating_add(a.r#gen);
    if a.runs == 0 || tokens == 0 {
        return Err("give at least one run of at least one token".into());
    }
    let package = models::need(&a.model)?.open()?;
    let context = a.load.ctx.unwrap_or(tokens);
    if context < tokens {
        return Err(format!("{} + {} tokens do not fit a context of {context}; raise --ctx", a.prompt, a.r#gen).into());
    }
    let options = LoadOptions {
        context: Some(context),
        cache: open::cache(a.load.cache_type),
        keep: open::keep(a.load.no_cache),
        ..LoadOptions::default()
    };
    let mut model = open::load(&package, a.load.compute, options)?;
    let vocab = package.model.spec().vocab as u64;
    // Speed does not depend on which tokens; these are spread over the vocabulary.
    let ids: Vec<u32> = (0..context as u64).map(|i| (i * 7919 % vocab) as u32).collect();
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let most = model.max_tokens();
    for run in 0..=a.runs {
        let start = Instant::now();
        for at in (0..a.prompt).step_by(most) {
            step(&mut model, &ids, at, most.min(a.prompt - at), at + most >= a.prompt)?;
        }
        let middle = Instant::now();
        for at in a.prompt..a.prompt + a.r#gen {
            step(&mut model, &ids, at, 1, true)?;
        }
        if run > 0 {
            prefill.push(a.prompt as f64 / (middle - start).as_secs_f64());
            decode.push(a.r#gen as f64 / middle.elapsed().as_secs_f64());
        }
    }
    let mut out = std::io::stdout();
    if a.json {
        let runs: Vec<_> =
            prefill.iter().zip(&decode).map(|(p, d)| json!({"prefill_tps": p, "decode_tps": d})).collect();
        let report = json!({
            "model": package.name,
            "prompt": a.prompt,
            "gen": a.r#gen,
            "prefill_tps": (a.prompt > 0).then(|| median(&prefill)),
            "decode_tps": (a.r#gen > 0).then(|| median(&decode)),
            "runs": runs,
        });
        writeln!(out, "{report}")?;
    } else {
        for (what, n, all) in [("prefill", a.prompt, &prefill), ("decode", a.r#gen, &decode)] {
            if n > 0 {
                let spread = |f: fn(f64, f64) -> f64| all.iter().copied().reduce(f).unwrap_or(0.0);
                let (low, high) = (spread(f64::min), spread(f64::max));
                writeln!(
                    out,
                    "{what:8} {n:5} tokens: {:10.2} tokens/s  ({low:.2} to {high:.2}, {} runs)",
                    median(all),
                    all.len()
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
    let tiles = c.tiles.map(|t| t.map(Some)).unwrap_or_default();
    if c.tiles.is_some() {
        rows.extend([("int8 tile", "GOPS", tiles[0]), ("bf16 tile", "GFLOPS", tiles[1])]);
    }
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
            "tile_int8_ops": tiles[0].map(rate),
            "tile_bf16_flops": tiles[1].map(rate),
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

fn step(model: &mut Local, ids: &[u32], at: usize, n: usize, output: bool) -> Result<(), Fail> {
    let positions: Vec<u32> = (at as u32..).take(n).collect();
    let pages: Vec<u32> = (0..(at + n).div_ceil(PAGE) as u32).collect();
    let seqs = [Seq { start: 0, len: n, length: ids.len(), pages: &pages }];
    let last = [n as u32 - 1];
    let outputs: &[u32] = if output { &last } else { &[] };
    model.run(&Batch { tokens: &ids[at..at + n], positions: &positions, seqs: &seqs, outputs })?;
    Ok(())
}

fn median(all: &[f64]) -> f64 {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    if n == 0 { 0.0 } else { (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0 }
}
