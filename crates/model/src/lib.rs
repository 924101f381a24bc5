//! What a model is: architectures as data.
//!
//! A file or folder is opened by [`Model::open`]: its configuration becomes a [`Spec`] through one row of
//! [`zoo::ZOO`], the spec becomes a graph, and the graph's weights are found in the file by name. Nothing here
//! computes.
#![forbid(unsafe_code)]

mod build;
mod config;
mod error;
mod fp8;
mod load;
mod lora;
mod rope;
mod spec;
mod weights;
mod written;
pub mod zoo;

pub use config::{Config, Dialect};
pub use error::ModelError;
pub use load::{Files, Model};
pub use lora::Adapter;
pub use spec::{
    Attention, Classes, Experts, Ffn, GateNorm, Head, Latent, Layer, Mixer, Norm, Place, Pool, Rope, Spec, Ssm, SsmKind,
};
