//! Models over HTTP.
//!
//! [`listen::Server`] takes connections, [`gate`] decides who may come in, [`routes::ROUTES`] says what each path does, a handler reads its body strictly
//! ([`body`]), turns it into a [`generate::Job`], for conversations through [`dialogue`], and writes what comes back in its dialect. The [`worker`] is the only one
//! who touches the engine. Nothing else in the program knows HTTP, and nothing here knows tensors.
#![forbid(unsafe_code)]

pub mod anthropic;
pub mod app;
pub mod body;
pub mod caller;
pub mod config;
pub mod dialogue;
pub mod door;
pub mod error;
pub mod gate;
pub mod generate;
pub mod keys;
pub mod limits;
pub mod listen;
pub mod log;
pub mod manage;
pub mod metrics;
pub mod models;
pub mod ollama;
pub mod openai;
pub mod openapi;
pub mod page;
pub mod patience;
pub mod rerank;
pub mod resume;
pub mod routes;
pub mod sse;
pub mod store;
pub mod strict;
pub mod tls;
pub mod tokenize;
pub mod trace;
pub mod turns;
pub mod worker;
pub mod ws;

pub use app::App;
pub use config::Config;
pub use listen::Server;
