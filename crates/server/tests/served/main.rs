//! A server with a real model, asked over real connections.

#[path = "../common/mod.rs"]
mod base;
mod chaos;
mod common;
mod models;
mod prefix;
mod sockets;
