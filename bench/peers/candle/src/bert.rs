//! A BERT: texts sorted by length, in padded batches.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use std::{error::Error, path::Path, time::Instant};

pub fn embed(folder: &Path, size: usize) -> Result<(), Box<dyn Error>> {
    let texts: Vec<Vec<u32>> = serde_json::from_reader(std::io::stdin())?;
    let config: Config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let weights = std::fs::read(folder.join("model.safetensors"))?;
    let model = BertModel::load(VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?, &config)?;
    let mut order: Vec<usize> = (0..texts.len()).collect();
    order.sort_by_key(|&i| texts[i].len());
    let mut vectors = vec![Vec::new(); texts.len()];
    // The first batch is not counted: it touches every weight.
    vectors_of(&model, &texts, &order[..size.min(order.len())], &mut vectors)?;
    let start = Instant::now();
    for batch in order.chunks(size) {
        vectors_of(&model, &texts, batch, &mut vectors)?;
    }
    println!("{}", serde_json::json!({ "seconds": start.elapsed().as_secs_f64(), "vectors": vectors }));
    Ok(())
}

fn vectors_of(
    model: &BertModel,
    texts: &[Vec<u32>],
    batch: &[usize],
    out: &mut [Vec<f32>],
) -> Result<(), Box<dyn Error>> {
    let longest = batch.iter().map(|&i| texts[i].len()).max().unwrap_or(0);
    let padded = |of: fn(u32) -> u32| {
        let all =
            batch.iter().flat_map(|&i| texts[i].iter().map(move |&id| of(id)).chain(vec![0; longest - texts[i].len()]));
        Tensor::from_iter(all, &Device::Cpu)?.reshape((batch.len(), longest))
    };
    let (ids, mask) = (padded(|id| id)?, padded(|_| 1)?);
    let hidden = model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
    let mask = mask.to_dtype(DType::F32)?;
    let sums = hidden.broadcast_mul(&mask.unsqueeze(D::Minus1)?)?.sum(1)?;
    let vectors: Vec<Vec<f32>> = sums.broadcast_div(&mask.sum_keepdim(1)?)?.to_vec2()?;
    for (&i, v) in batch.iter().zip(vectors) {
        out[i] = v;
    }
    Ok(())
}
