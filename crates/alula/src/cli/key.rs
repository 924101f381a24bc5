//! Flags of `alula key`.

use alula_server::limits::Limits;
use alula_server::routes::Scope;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `alula key`.
#[derive(Subcommand, Debug)]
pub enum Key {
    /// Make a key, and print it this once
    Create(Create),
    /// List keys
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        file: KeyPath,
        /// As JSON, a line for each
        #[arg(long, env = "ALULA_JSON")]
        json: bool,
    },
    /// Remove a key; a server that runs forgets it on SIGHUP
    Rm {
        #[command(flatten)]
        file: KeyPath,
        /// Its name
        name: String,
    },
}

/// Where keys are.
#[derive(Args, Debug)]
pub struct KeyPath {
    /// File of keys, as `alula serve --keys` reads it
    #[arg(long, env = "ALULA_KEYS", value_name = "FILE")]
    pub keys: PathBuf,
}

/// `alula key create`.
#[derive(Args, Debug)]
pub struct Create {
    #[command(flatten)]
    pub file: KeyPath,
    /// What people call it, in lists, logs and metrics
    pub name: String,
    /// What it permits: infer, metrics, admin
    #[arg(long, env = "ALULA_SCOPE", value_name = "SCOPE", value_delimiter = ',', default_value = "infer", value_parser = scope)]
    pub scope: Vec<Scope>,
    /// Days until it ends; for ever if not given
    #[arg(long, env = "ALULA_DAYS", value_name = "N")]
    pub days: Option<u32>,
    /// Its requests come before those of lower priority
    #[arg(long, env = "ALULA_PRIORITY", value_name = "N", default_value_t = 0)]
    pub priority: i32,
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// How much a key may ask for.
#[derive(Args, Debug, Clone, Copy)]
pub struct LimitArgs {
    /// Requests a minute that a key may make
    #[arg(long, env = "ALULA_REQUESTS_PER_MINUTE", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, of prompts and answers, that a key may use
    #[arg(long, env = "ALULA_TOKENS_PER_MINUTE", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens_per_minute: Option<u32>,
    /// Requests at the same time that a key may have
    #[arg(long, env = "ALULA_CONCURRENT", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub concurrent: Option<u32>,
}

impl LimitArgs {
    /// As the server has them.
    pub fn limits(self) -> Limits {
        let LimitArgs { requests_per_minute, tokens_per_minute, concurrent } = self;
        Limits { requests_per_minute, tokens_per_minute, concurrent }
    }
}

fn scope(text: &str) -> Result<Scope, String> {
    match text {
        "infer" => Ok(Scope::Infer),
        "metrics" => Ok(Scope::Metrics),
        "admin" => Ok(Scope::Admin),
        _ => Err("a scope is infer, metrics or admin".to_owned()),
    }
}
