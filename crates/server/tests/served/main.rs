//! A server with a real model, asked over real connections.

mod chaos;
mod common;
mod models;
mod prefix;
