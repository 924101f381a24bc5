//! `alula embed`: texts to vectors.

use crate::cli::{self, Embed};
use crate::{Fail, models, open, say};
use alula_engine::embed::{self, Embedder, Pooling, Recipe, Vector};
use serde_json::json;
use std::io::Write;
use std::time::{Duration, Instant};

/// Texts between two outputs.
const CHUNK: usize = 256;

/// `alula embed MODEL [TEXT…]`.
pub fn embed(a: &Embed) -> Result<(), Fail> {
    let (package, adapters) = open::adapt(models::need(&a.model)?.open()?, &a.lora)?;
    let mut recipe = Recipe::of(&package)?;
    let width = package.model.spec().width;
    let dimensions = a.dimensions.unwrap_or(width);
    if !(1..=width).contains(&dimensions) {
        return Err(format!("--dimensions is {dimensions}; the model's vectors have 1 to {width}").into());
    }
    recipe.normalize &= !a.no_normalize;
    recipe.longest = open::longest(&package, recipe.longest, a.ctx)?;
    recipe.pooling = match a.pooling {
        Some(cli::Pooling::Mean) => Pooling::Mean,
        Some(cli::Pooling::Cls) => Pooling::First,
        Some(cli::Pooling::Last) => Pooling::Last,
        None => recipe.pooling,
    };
    let (tokenizer, package) = (package.tokenizer()?, package.with_head(recipe.head())?);
    let texts = open::lines(&a.texts)?;
    let options = embed::options(recipe.longest, open::cache(a.load.cache_type));
    let options = alula_engine::local::LoadOptions { keep: open::keep(a.load.no_cache), ..options };
    let local = open::load(&package, a.load.compute, options)?;
    let mut embedder = Embedder::new(local, tokenizer, recipe.clone(), dimensions).with_adapters(adapters.all());
    let mut out = std::io::stdout().lock();
    let (mut lines, mut cut, mut tokens, mut time) = (Vec::new(), 0, 0, Duration::ZERO);
    for chunk in texts.chunks(CHUNK) {
        let start = Instant::now();
        let vectors = embedder.embed(chunk)?;
        time += start.elapsed();
        for vector in vectors {
            (cut, tokens) = (cut + usize::from(vector.cut > 0), tokens + vector.tokens);
            lines.push(line(lines.len(), &vector));
            if !a.json {
                writeln!(out, "{}", lines[lines.len() - 1])?;
            }
        }
        out.flush()?;
    }
    if a.json {
        let pooling = match recipe.pooling {
            Pooling::Mean => "mean",
            Pooling::First => "cls",
            Pooling::Last => "last",
        };
        let (model, all) = (json!(package.name), lines.join(","));
        let how = format!("\"pooling\":\"{pooling}\",\"normalized\":{},\"dimensions\":{dimensions}", recipe.normalize);
        writeln!(out, "{{\"model\":{model},{how},\"embeddings\":[{all}]}}")?;
    }
    open::cut(cut, texts.len(), recipe.longest);
    if a.stats {
        let (n, s) = (texts.len(), time.as_secs_f64().max(1e-9));
        let each = format!("{:.1} texts/s, {:.1} tokens/s", n as f64 / s, tokens as f64 / s);
        say(format_args!("{n} texts of {tokens} tokens in {:.1} ms, {each}", s * 1e3));
    }
    Ok(())
}

/// One vector as JSON, its numbers as short as they say the same.
fn line(index: usize, v: &Vector) -> String {
    let number = |v: &f32| if v.is_finite() { v.to_string() } else { "null".to_owned() };
    let values: Vec<String> = v.values.iter().map(number).collect();
    format!("{{\"index\":{index},\"tokens\":{},\"cut\":{},\"embedding\":[{}]}}", v.tokens, v.cut, values.join(","))
}
