//! Models over HTTP.
//!
//! [`listen::Server`] takes connections, [`routes::ROUTES`] says what each path does, a handler reads its body strictly
//! ([`body`]), turns it into a [`generate::Job`], for conversations through [`dialogue`], and writes what comes back in its dialect. The [`worker`] is the only one
//! who touches the engine. Nothing else in the program knows HTTP, and nothing here knows tensors.
#![forbid(unsafe_code)]

pub mod app;
pub mod body;
pub mod config;
pub mod dialogue;
pub mod error;
pub mod generate;
pub mod listen;
pub mod models;
pub mod openai;
pub mod resume;
pub mod routes;
pub mod sse;
pub mod store;
pub mod tokenize;
pub mod worker;
pub mod ws;

pub use app::App;
pub use config::Config;
pub use listen::Server;
