//! The binary as a person or a script sees it: what it prints, where, and how it ends.
#![allow(unreachable_pub)]

mod cache;
mod chat;
mod common;
mod encoders;
mod errors;
mod files;
mod lora;
mod run;
mod serve;
mod terminal;
