//! `alula rerank`: documents by how well they answer a query.

use crate::cli::Rerank;
use crate::{Fail, models, open};
use alula_engine::embed::{self, Ranker, Score};
use alula_engine::local::LoadOptions;
use serde_json::{Value, json};
use std::io::Write;

/// `alula rerank MODEL QUERY [DOCUMENT…]`.
pub fn rerank(a: &Rerank) -> Result<(), Fail> {
    let (package, adapters) = open::adapt(models::need(&a.model)?.open()?, &a.lora)?;
    Ranker::check(&package)?;
    let longest = open::longest(&package, package.model.spec().context, a.ctx)?;
    let tokenizer = package.tokenizer()?;
    let documents = open::lines(&a.documents)?;
    let options = embed::options(longest, open::cache(a.load.cache_type));
    let local = open::load(&package, a.load.compute, LoadOptions { keep: open::keep(a.load.no_cache), ..options })?;
    let mut ranker = Ranker::new(local, tokenizer).with_adapters(adapters.all());
    let scores = ranker.rank(&a.query, &documents)?;
    let cut = scores.iter().filter(|s| s.cut > 0).count();
    let mut order: Vec<(usize, Score)> = scores.into_iter().enumerate().collect();
    order.sort_by(|(i, a), (j, b)| b.score.total_cmp(&a.score).then(i.cmp(j)));
    order.truncate(a.top.unwrap_or(usize::MAX));
    let mut out = std::io::stdout().lock();
    if a.json {
        let result = |(i, s): &(usize, Score)| json!({"index": i, "score": s.score, "tokens": s.tokens, "cut": s.cut, "document": documents[*i]});
        let results: Vec<Value> = order.iter().map(result).collect();
        writeln!(out, "{}", json!({"model": package.name, "query": a.query, "results": results}))?;
    } else {
        for (i, s) in &order {
            writeln!(out, "{:10.4}  {}", s.score, documents[*i])?;
        }
    }
    open::cut(cut, documents.len(), longest);
    Ok(())
}
