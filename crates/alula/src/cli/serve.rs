//! Flags of `alula serve`.

use super::key::LimitArgs;
use super::values::{bytes, origin, seconds};
use super::{LoadArgs, LoraArgs};
use alula_server::log::{Format, Level};
use clap::{Args, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub const EXAMPLES: &str = "\
Examples:
  alula serve                               the built-in model on http://127.0.0.1:8080
  alula serve llama.gguf --port 9000
  alula key create alice --keys keys.toml && alula serve --host 0.0.0.0 --keys keys.toml
  alula serve small=./Qwen3-0.6B big=./Qwen3-8B.gguf --max-loaded 1

  curl http://127.0.0.1:8080/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

Endpoints are OpenAI's: /v1/chat/completions, /v1/completions, /v1/responses, /v1/models; and /tokenize, /detokenize, /livez, /readyz, /metrics.

SIGHUP reads keys, limits and certificates anew. A file (--config) has any of these flags by its long name with _ for -.";

/// `alula serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Models, with the names that requests call them by; without, the built-in one
    #[arg(value_name = "[NAME=]MODEL")]
    pub models: Vec<String>,
    /// File of settings (TOML); the environment comes before it, and flags before both
    #[arg(long, env = "ALULA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the settings that hold, without secrets, and end
    #[arg(long, env = "ALULA_PRINT_CONFIG")]
    pub print_config: bool,
    /// Address to listen on; one that other machines can reach needs keys, or --insecure
    #[arg(long, env = "ALULA_HOST", value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "ALULA_PORT", value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Serve everybody who can reach the address, without keys
    #[arg(long, env = "ALULA_INSECURE")]
    pub insecure: bool,
    /// A key that permits everything (repeatable); better in the environment, since other users see flags
    #[arg(long, env = "ALULA_API_KEY", value_name = "KEY", value_delimiter = ',', hide_env_values = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub api_key: Vec<String>,
    /// File of keys, as `alula key` writes it
    #[arg(long, env = "ALULA_KEYS", value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Limits of keys that have none of their own, and of all together who have no key
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Let pages of this origin ask, like `https://chat.example`; `*` is any (repeatable)
    #[arg(long, env = "ALULA_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_origin: Vec<String>,
    /// Certificates for TLS, the server's first (PEM)
    #[arg(long, env = "ALULA_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key for TLS (PEM)
    #[arg(long, env = "ALULA_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of those who vouch for clients (PEM); clients without one are refused
    #[arg(long, env = "ALULA_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// How log lines look
    #[arg(long, env = "ALULA_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// What is logged: errors, refusals too, all requests, health checks too
    #[arg(long, env = "ALULA_LOG_LEVEL", value_enum, default_value_t = LogLevel::Info)]
    pub log_level: LogLevel,
    /// Log prompts and answers too
    #[arg(long, env = "ALULA_LOG_CONTENT")]
    pub log_content: bool,
    /// Count requests and tokens of each key in /metrics
    #[arg(long, env = "ALULA_METRICS_PER_KEY")]
    pub metrics_per_key: bool,
    /// Send a span of each request to this OpenTelemetry collector: `http://HOST:4318`
    #[arg(long, env = "ALULA_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Requests that wait at most, for each model; one key leaves as much room as it takes
    #[arg(long, env = "ALULA_MAX_QUEUE", value_name = "N", default_value_t = 256)]
    pub max_queue: usize,
    /// Prompt tokens that wait at most, for each model; one request alone may have more
    #[arg(long, env = "ALULA_MAX_QUEUE_TOKENS", value_name = "N", default_value_t = 1_000_000)]
    pub max_queue_tokens: usize,
    /// Answers that are written at the same time at most; more wait
    #[arg(long, env = "ALULA_PARALLEL", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub parallel: u16,
    /// Memory for the key-value cache of each model, like 2GB; by default for all answers at once, at most a quarter of the
    /// machine's
    #[arg(long, env = "ALULA_CACHE_MEMORY", value_name = "BYTES", value_parser = bytes)]
    pub cache_memory: Option<u64>,
    /// Guess up to so many tokens by looking for what was written last in the text before it: the same text in fewer steps
    /// where answers repeat their prompts
    #[arg(long, env = "ALULA_LOOKUP", value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub lookup: u16,
    /// Guess tokens by this smaller model of the same vocabulary: the same text in fewer steps
    #[arg(long, env = "ALULA_DRAFT", value_name = "MODEL")]
    pub draft: Option<String>,
    /// Models that are loaded at a time at most; those that were not used for longest are let go
    #[arg(long, env = "ALULA_MAX_LOADED", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub max_loaded: Option<u16>,
    /// Let go of a model that nobody has used for so long
    #[arg(long, env = "ALULA_IDLE_TIMEOUT", value_name = "SECONDS", value_parser = seconds)]
    pub idle_timeout: Option<Duration>,
    /// Ignore unknown fields of requests, and name them in the header x-alula-ignored
    #[arg(long, env = "ALULA_LENIENT")]
    pub lenient: bool,
    /// Size of a request's body at most
    #[arg(long, env = "ALULA_MAX_BODY", value_name = "BYTES", default_value = "8MiB", value_parser = bytes)]
    pub max_body: u64,
    /// Time for a body to arrive
    #[arg(long, env = "ALULA_BODY_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub body_timeout: Duration,
    /// Size of a request's head at most
    #[arg(long, env = "ALULA_MAX_HEADER", value_name = "BYTES", default_value = "64KiB", value_parser = bytes)]
    pub max_header: u64,
    /// Time for a head to arrive, and for a TLS handshake
    #[arg(long, env = "ALULA_HEADER_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub header_timeout: Duration,
    /// Time that a client may leave what it is sent unread
    #[arg(long, env = "ALULA_WRITE_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub write_timeout: Duration,
    /// Time that an answer is still written for a client who left and may take it up again
    #[arg(long, env = "ALULA_RESUME_GRACE", value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub resume_grace: Duration,
    /// Connections at most; more wait
    #[arg(long, env = "ALULA_MAX_CONNECTIONS", value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: u32,
    /// Time for an answer
    #[arg(long, env = "ALULA_REQUEST_TIMEOUT", value_name = "SECONDS", default_value = "3600", value_parser = seconds)]
    pub request_timeout: Duration,
    /// Time for answers under way after SIGTERM
    #[arg(long, env = "ALULA_DRAIN_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub drain_timeout: Duration,
    /// Keep responses in this directory, so that they outlive the server; by default they are kept in memory
    #[arg(long, env = "ALULA_STORE", value_name = "DIRECTORY")]
    pub store: Option<PathBuf>,
    /// Keep no responses
    #[arg(long, env = "ALULA_NO_STORE", conflicts_with = "store")]
    pub no_store: bool,
    /// Size of the responses that are kept at most
    #[arg(long, env = "ALULA_STORE_SIZE", value_name = "BYTES", default_value = "64MiB", value_parser = bytes)]
    pub store_size: u64,
    /// How long a response is kept
    #[arg(long, env = "ALULA_STORE_AGE", value_name = "SECONDS", default_value = "86400", value_parser = seconds)]
    pub store_age: Duration,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub lora: LoraArgs,
}

/// How log lines look.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
    /// None.
    Off,
}

/// What is logged.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what was refused.
    Warn,
    /// And every request.
    Info,
    /// And health checks.
    Debug,
}

impl From<LogFormat> for Format {
    fn from(f: LogFormat) -> Format {
        match f {
            LogFormat::Text => Format::Text,
            LogFormat::Json => Format::Json,
            LogFormat::Off => Format::Off,
        }
    }
}

impl From<LogLevel> for Level {
    fn from(l: LogLevel) -> Level {
        match l {
            LogLevel::Error => Level::Error,
            LogLevel::Warn => Level::Warn,
            LogLevel::Info => Level::Info,
            LogLevel::Debug => Level::Debug,
        }
    }
}
