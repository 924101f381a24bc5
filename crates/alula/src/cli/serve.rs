//! Flags of `alula serve`.

use super::values::{bytes, seconds};
use super::{LoadArgs, LoraArgs};
use clap::Args;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub const EXAMPLES: &str = "\
Examples:
  alula serve                               the built-in model on http://127.0.0.1:8080
  alula serve llama.gguf --port 9000
  alula serve small=./Qwen3-0.6B big=./Qwen3-8B.gguf --max-loaded 1

  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

Endpoints are OpenAI's: /v1/chat/completions, /v1/completions, /v1/responses, /v1/models; and /tokenize, /detokenize, /livez, /readyz.";

/// `alula serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Models, with the names that requests call them by; without, the built-in one
    #[arg(value_name = "[NAME=]MODEL")]
    pub models: Vec<String>,
    /// Address to listen on [default: 127.0.0.1]
    #[arg(long, env = "ALULA_HOST", value_name = "ADDRESS")]
    pub host: Option<IpAddr>,
    /// Port to listen on; 0 takes a free one [default: 8080]
    #[arg(long, env = "ALULA_PORT", value_name = "PORT")]
    pub port: Option<u16>,
    /// Answers that are written at the same time at most; more wait
    #[arg(long, env = "ALULA_PARALLEL", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallel: u16,
    /// Memory for the key-value cache of each model, like 2GB; by default for all answers at once, at most a quarter of the
    /// machine's
    #[arg(long, env = "ALULA_CACHE_MEMORY", value_name = "BYTES", value_parser = bytes)]
    pub cache_memory: Option<u64>,
    /// Models that are loaded at a time at most; those that were not used for longest are let go
    #[arg(long, env = "ALULA_MAX_LOADED", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_loaded: Option<u16>,
    /// Let go of a model that nobody has used for so long
    #[arg(long, env = "ALULA_IDLE_TIMEOUT", value_name = "SECONDS", value_parser = seconds)]
    pub idle_timeout: Option<Duration>,
    /// Ignore unknown fields of requests, and name them in the header x-alula-ignored
    #[arg(long, env = "ALULA_LENIENT")]
    pub lenient: bool,
    /// Size of a request's body at most [default: 8MB]
    #[arg(long, env = "ALULA_MAX_BODY", value_name = "BYTES", value_parser = bytes)]
    pub max_body: Option<u64>,
    /// Time for an answer [default: 3600]
    #[arg(long, env = "ALULA_REQUEST_TIMEOUT", value_name = "SECONDS", value_parser = seconds)]
    pub request_timeout: Option<Duration>,
    /// Time for answers under way after SIGTERM [default: 30]
    #[arg(long, env = "ALULA_DRAIN_TIMEOUT", value_name = "SECONDS", value_parser = seconds)]
    pub drain_timeout: Option<Duration>,
    /// Keep responses in this directory, so that they outlive the server; by default they are kept in memory
    #[arg(long, env = "ALULA_STORE", value_name = "DIRECTORY")]
    pub store: Option<PathBuf>,
    /// Keep no responses
    #[arg(long, env = "ALULA_NO_STORE", conflicts_with = "store")]
    pub no_store: bool,
    /// Size of the responses that are kept at most [default: 64MiB]
    #[arg(long, env = "ALULA_STORE_SIZE", value_name = "BYTES", value_parser = bytes)]
    pub store_size: Option<u64>,
    /// How long a response is kept [default: 86400]
    #[arg(long, env = "ALULA_STORE_AGE", value_name = "SECONDS", value_parser = seconds)]
    pub store_age: Option<Duration>,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub lora: LoraArgs,
}
