//! Alula: run language models on small machines.
fn main() {}
