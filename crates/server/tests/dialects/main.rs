//! Embeddings, rerank, Anthropic's and Ollama's dialects, each against small real models in this process.

mod anthropic;
#[path = "../common/mod.rs"]
mod base;
mod common;
mod embeddings;
mod ollama;
mod openai;
mod responses;
mod resume;
