//! `alula eval`: what a model computes, as numbers.

use crate::cli::{Eval, EvalLoad, Greedy, Logits, Perplexity};
use crate::cmd::tokenize::join;
use crate::{Fail, models, open};
use alula_device::{Adapter, Batch, PAGE, Seq};
use alula_engine::local::{LoadOptions, Local, Package};
use alula_engine::{Engine, Event, Options, Request, Runner, Sampling};
use serde_json::json;
use std::io::Write;

/// `alula eval …`.
pub fn eval(a: &Eval) -> Result<(), Fail> {
    match a {
        Eval::Logits(a) => logits(a),
        Eval::Greedy(a) => greedy(a),
        Eval::Perplexity(a) => perplexity(a),
    }
}

fn load(package: &Package, a: &EvalLoad, context: usize, step: usize) -> Result<Local, Fail> {
    let options = LoadOptions {
        context: Some(context),
        stretch: true,
        step_tokens: step,
        outputs: step,
        cache: open::cache(a.cache_type),
        keep: open::keep(a.no_cache),
        ..LoadOptions::default()
    };
    open::load(package, a.compute, options)
}

/// Ids that the model has.
fn check(ids: &[u32], vocab: usize) -> Result<(), Fail> {
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(format!("id {id} is not in the vocabulary of {vocab} tokens").into()),
        None => Ok(()),
    }
}

/// Calls `each` with the first position and the logits of every step that computes `ids`.
fn forward(
    model: &mut Local,
    adapters: &[Adapter],
    ids: &[u32],
    step: usize,
    mut each: impl FnMut(usize, &[f32]),
) -> Result<(), Fail> {
    let pages: Vec<u32> = (0..ids.len().div_ceil(PAGE) as u32).collect();
    for start in (0..ids.len()).step_by(step) {
        let tokens = &ids[start..ids.len().min(start + step)];
        let positions: Vec<u32> = (start as u32..).take(tokens.len()).collect();
        let outputs: Vec<u32> = (0..tokens.len() as u32).collect();
        let seqs = [Seq { start: 0, len: tokens.len(), length: ids.len(), pages: &pages, slot: 0, adapters }];
        let batch = Batch { tokens, positions: &positions, seqs: &seqs, outputs: &outputs, ..Batch::default() };
        each(start, model.run(&batch)?);
    }
    Ok(())
}

fn logits(a: &Logits) -> Result<(), Fail> {
    let (package, adapters) = open::adapt(models::need(&a.model)?.open()?, &a.lora)?;
    check(&a.ids, package.model.spec().vocab)?;
    // What looks both ways is computed at once.
    let whole = package.model.graph().nodes().iter().any(|n| n.op.whole());
    let step = if whole { a.ids.len() } else { a.step };
    let mut model = load(&package, &a.load, a.ids.len(), step)?;
    let mut all = Vec::with_capacity(a.ids.len() * model.vocab());
    forward(&mut model, &adapters.all(), &a.ids, step, |_, rows| all.extend_from_slice(rows))?;
    Ok(alula_format::safetensors::write(&a.out, &[("logits", &[a.ids.len(), model.vocab()], &all)])?)
}

fn greedy(a: &Greedy) -> Result<(), Fail> {
    let (package, adapters) = open::adapt(models::need(&a.model)?.open()?, &a.lora)?;
    package.writes()?;
    // A sequence has room for at least one token beyond its prompt.
    let model = load(&package, &a.load, a.ids.len().saturating_add(a.max_tokens.max(1)), 64)?;
    let mut engine = Engine::new(model, None, Options::default());
    engine.submit(Request {
        prompt: a.ids.clone(),
        max_tokens: Some(a.max_tokens),
        sampling: Sampling::greedy(),
        ignore_end: true,
        adapters: adapters.all(),
        ..Request::default()
    })?;
    let mut ids = Vec::new();
    while !engine.is_idle() {
        for event in engine.step()? {
            match event {
                Event::Token { token, .. } => ids.push(token),
                Event::Prompt { .. } | Event::Hidden { .. } => {}
                Event::Finished { reason, .. } => _ = super::run::finish(reason)?,
            }
        }
    }
    writeln!(std::io::stdout(), "{}", join(&ids))?;
    Ok(())
}

/// Perplexity as llama.cpp's tool works it out, so that figures compare: the text is cut into chunks of `ctx` tokens,
/// each begins with the model's first token in place of its own, and the second half of each is scored.
fn perplexity(a: &Perplexity) -> Result<(), Fail> {
    let (package, adapters) = open::adapt(models::need(&a.model)?.open()?, &a.lora)?;
    package.writes()?;
    let file = a.file.display().to_string();
    let text = open::utf8(std::fs::read(&a.file).map_err(|e| format!("{file}: {e}"))?, &file)?;
    let tokenizer = package.tokenizer()?;
    let mut ids = tokenizer.encode(&text, true, false)?;
    let spec = package.model.spec();
    check(&ids, spec.vocab)?;
    let ctx = a.ctx.unwrap_or(512.min(spec.context));
    if ctx < 4 {
        return Err(format!("--ctx is {ctx}; a chunk has at least 4 tokens").into());
    }
    if a.chunks == Some(0) {
        return Err("--chunks is 0; give at least 1".into());
    }
    if ids.len() < ctx {
        let n = ids.len();
        return Err(format!(
            "{file}: has {n} tokens, fewer than one chunk of {ctx}; give a longer text or a smaller --ctx (at least 4)"
        )
        .into());
    }
    let mut model = load(&package, &a.load, ctx, 64.min(ctx))?;
    let chunks = (ids.len() / ctx).min(a.chunks.unwrap_or(usize::MAX));
    let (first, vocab) = (ctx / 2, spec.vocab);
    let (mut nll, mut squares, mut count) = (0f64, 0f64, 0usize);
    for chunk in ids[..chunks * ctx].chunks_exact_mut(ctx) {
        if let (true, Some(bos)) = (tokenizer.adds_bos(), tokenizer.bos()) {
            chunk[0] = bos;
        }
        let chunk = &*chunk;
        forward(&mut model, &adapters.all(), chunk, 64.min(ctx), |start, rows| {
            for (i, row) in rows.chunks_exact(vocab).enumerate() {
                let at = start + i;
                if (first..ctx - 1).contains(&at) {
                    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let sum: f64 = row.iter().map(|l| f64::from(l - max).exp()).sum();
                    let loss = sum.ln() - f64::from(row[chunk[at + 1] as usize] - max);
                    (nll, squares, count) = (nll + loss, squares + loss * loss, count + 1);
                }
            }
        })?;
    }
    let mean = nll / count as f64;
    let error = ((squares / count as f64 - mean * mean).max(0.0) / (count as f64 - 1.0).max(1.0)).sqrt();
    let (ppl, spread) = (mean.exp(), mean.exp() * error);
    let mut out = std::io::stdout();
    if a.json {
        let report = json!({"perplexity": ppl, "stderr": spread, "nll": mean, "scored_tokens": count, "chunks": chunks, "ctx": ctx});
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "perplexity {ppl:.4} ± {spread:.4} over {count} tokens of {chunks} chunks of {ctx}")?;
    }
    Ok(())
}
