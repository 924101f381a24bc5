//! Flags. Each has an environment variable; help, completions and man pages are made from here.

mod cache;
pub mod config;
mod key;
mod serve;
mod values;

pub use cache::{CacheFiles, CacheRm};
use clap::builder::{FalseyValueParser, Resettable};
use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand, ValueEnum};
pub use key::Key;
pub use serve::Serve;
use std::path::PathBuf;
pub use values::bias;
use values::{bytes, id, step};

/// Run language models on this machine.
#[derive(Parser, Debug)]
#[command(name = "alula", version, about, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The command line, with what holds for all flags: a value may begin with a dash (`--temp -1` is a wrong temperature, no
/// wrong flag), a variable that is empty counts as absent, and switches are on by any value but 0, no, off and the like.
pub fn command() -> clap::Command {
    fn each(command: clap::Command) -> clap::Command {
        let flag = |a: clap::Arg| {
            let a = match a.get_env().is_some_and(|name| std::env::var_os(name).is_some_and(|v| v.is_empty())) {
                true => a.env(Resettable::Reset),
                false => a,
            };
            match a.get_action() {
                ArgAction::SetTrue => a.value_parser(FalseyValueParser::new()),
                ArgAction::Set | ArgAction::Append if a.get_long().is_some() => a.allow_hyphen_values(true),
                _ => a,
            }
        };
        command.mut_args(flag).mut_subcommands(each)
    }
    each(Cli::command())
}

const EXAMPLES: &str = "\
Examples:
  alula run \"Once upon a time\"              continue a text with the built-in model
  alula run llama.gguf \"The sea is\" -n 50   the same with a GGUF file
  alula chat ./Qwen3-0.6B                   talk to a model in a Hugging Face folder
  alula serve llama.gguf                    an OpenAI-compatible service on this machine
  alula list                                what models there are

MODEL is `builtin`, a GGUF file, a Hugging Face folder, or a name in the models directory
(ALULA_MODELS, by default ~/.local/share/alula/models). Every flag is also read from the
environment: --max-tokens from ALULA_MAX_TOKENS, and so on. ALULA_ISA=scalar, avx2, avxvnni,
avx512, avx512vnni, amx, neon, dotprod or i8mm forces an instruction set; results are the same
to the bit, unless --numerics fast gives that up.";

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Continue a text
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),
    /// Talk to a model
    Chat(Chat),
    /// Serve models over HTTP, as OpenAI's API
    #[command(after_help = serve::EXAMPLES)]
    Serve(Box<Serve>),
    /// Keys of a server: make, list, remove
    #[command(subcommand)]
    Key(Key),
    /// Texts to vectors
    #[command(after_help = EMBED_EXAMPLES)]
    Embed(Embed),
    /// Sort documents by how well they answer a query
    #[command(after_help = RERANK_EXAMPLES)]
    Rerank(Rerank),
    /// List the models at hand
    List(List),
    /// Show what a model is and what it needs
    Show(Show),
    /// Text to token ids
    Tokenize(Tokenize),
    /// Token ids to text
    Detokenize(Detokenize),
    /// Measure what a model computes: logits, greedy ids, perplexity
    #[command(subcommand)]
    Eval(Eval),
    /// Measure speed
    Bench(Bench),
    /// Packed weights that are kept so that models start at once
    #[command(subcommand)]
    Cache(CacheFiles),
    /// Print shell completions
    Completions(Completions),
    /// Write man pages
    Man(Man),
}

const RUN_EXAMPLES: &str = "\
Examples:
  alula run \"Once upon a time\" --seed 1
  alula run model.gguf \"2 + 2 =\" --temp 0 -n 8
  alula run model.gguf --chat \"Why is the sky blue?\" --system \"Answer in one sentence.\"
  cat notes.txt | alula run model.gguf - --json

With one positional argument, it is MODEL if it names a file, a folder or a known model, else
PROMPT for `builtin`. Sampling goes in this order: logit bias, penalties, top-k, typical-p,
top-p, min-p, temperature.";

const EMBED_EXAMPLES: &str = "\
Examples:
  alula embed ./all-MiniLM-L6-v2 \"A feather\" \"A wing\"
  alula embed ./all-MiniLM-L6-v2 < lines.txt > vectors.jsonl
  alula embed ./nomic-embed-text-v1.5 --dimensions 256 \"search_query: birds\"

One JSON object a line: index, tokens, cut (tokens that did not fit), embedding. Pooling, length and longest text are
those that the model's files say (modules.json and what it names; pooling_type in GGUF).";

const RERANK_EXAMPLES: &str = "\
Examples:
  alula rerank ./bge-reranker-base \"What do feathers do?\" \"They carry birds.\" \"The sea is wide.\"
  alula rerank ./bge-reranker-base \"What do feathers do?\" --top 10 < documents.txt

MODEL is a cross-encoder: a classifier with one score. Scores are its logits.";

/// How tokens are chosen.
#[derive(Args, Debug, Clone)]
pub struct SamplingArgs {
    /// Temperature; 0 takes the likeliest token
    #[arg(long, env = "ALULA_TEMP", default_value_t = 0.8, value_name = "T")]
    pub temp: f32,
    /// Keep the K likeliest tokens; 0 keeps all
    #[arg(long, env = "ALULA_TOP_K", default_value_t = 40, value_name = "K")]
    pub top_k: usize,
    /// Keep the likeliest tokens that together have probability P
    #[arg(long, env = "ALULA_TOP_P", default_value_t = 0.95, value_name = "P")]
    pub top_p: f32,
    /// Keep tokens of at least P times the likeliest one's probability
    #[arg(long, env = "ALULA_MIN_P", default_value_t = 0.05, value_name = "P")]
    pub min_p: f32,
    /// Keep tokens of typical information up to probability P; 1 is off
    #[arg(long, env = "ALULA_TYPICAL_P", default_value_t = 1.0, value_name = "P")]
    pub typical_p: f32,
    /// Divide the logits of recent tokens by this; 1 is off
    #[arg(long, env = "ALULA_REPEAT_PENALTY", default_value_t = 1.0, value_name = "X")]
    pub repeat_penalty: f32,
    /// How many tokens count as recent
    #[arg(long, env = "ALULA_REPEAT_LAST_N", default_value_t = 64, value_name = "N")]
    pub repeat_last_n: usize,
    /// Subtract this from the logits of recent tokens
    #[arg(long, env = "ALULA_PRESENCE_PENALTY", default_value_t = 0.0, value_name = "X")]
    pub presence_penalty: f32,
    /// Subtract this from them for each time they occurred
    #[arg(long, env = "ALULA_FREQUENCY_PENALTY", default_value_t = 0.0, value_name = "X")]
    pub frequency_penalty: f32,
    /// Add X to the logit of token ID (repeatable; -inf forbids it)
    #[arg(long, env = "ALULA_LOGIT_BIAS", value_name = "ID=X", value_delimiter = ',', value_parser = bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random choices; random if not given
    #[arg(long, env = "ALULA_SEED", value_name = "N")]
    pub seed: Option<u64>,
}

/// What computes, and how exactly.
#[derive(Args, Debug, Clone, Copy, Default)]
pub struct Compute {
    /// Threads; by default one per physical core
    #[arg(long, short = 't', env = "ALULA_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Bind each thread to a physical core of its own (Linux); good where nothing else runs
    #[arg(long, env = "ALULA_PIN")]
    pub pin: bool,
    /// Whether results may depend on the machine
    #[arg(long, env = "ALULA_NUMERICS", value_enum, default_value_t = Numerics::Strict)]
    pub numerics: Numerics,
    /// Memory that the process may take, like 12GB; weights that do not fit are read from the model's files when they are
    /// needed. By default what the machine has
    #[arg(long, env = "ALULA_MEMORY", value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
}

/// How exactly is computed.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Numerics {
    /// The same bits on every machine.
    #[default]
    Strict,
    /// Steps of 32 tokens and more in bfloat16 where the machine has AMX, and with float weights where it has AVX512_BF16
    /// (AMD's); elsewhere as strict.
    Fast,
}

/// How a model is made ready.
#[derive(Args, Debug, Clone)]
pub struct LoadArgs {
    /// What computes
    #[command(flatten)]
    pub compute: Compute,
    /// Longest sequence, prompt and answer together; by default the model's own, at most 8192
    #[arg(long, short = 'c', env = "ALULA_CTX", value_name = "TOKENS")]
    pub ctx: Option<usize>,
    /// Element type of the key-value cache
    #[arg(long, env = "ALULA_CACHE_TYPE", value_enum, default_value_t = Cache::F16)]
    pub cache_type: Cache,
    /// Neither use nor keep packed weights from one start to the next
    #[arg(long, env = "ALULA_NO_CACHE")]
    pub no_cache: bool,
    /// Guess tokens by the model's multi-token-prediction layer: the same text in fewer steps
    #[arg(long, env = "ALULA_MTP")]
    pub mtp: bool,
}

/// Adapters of a model.
#[derive(Args, Debug, Clone)]
pub struct LoraArgs {
    /// Apply a LoRA adapter, a PEFT folder or a GGUF file, with a factor if it is not 1 (repeatable)
    #[arg(long, env = "ALULA_LORA", value_name = "[NAME=]PATH[:FACTOR]", value_delimiter = ',')]
    pub lora: Vec<String>,
    /// Add the adapters to the weights while loading: no cost per token, but other bits
    #[arg(long, env = "ALULA_LORA_MERGE")]
    pub lora_merge: bool,
}

/// Element types of the cache.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Bfloat16.
    Bf16,
    /// 8 bits, a scale for 32 elements.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits, a scale for 32 elements.
    #[value(name = "q4_0")]
    Q4_0,
}

/// `alula run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Model, if it names one
    pub model: Option<String>,
    /// Text to continue; standard input when absent or `-`
    pub prompt: Option<String>,
    /// Tokens to generate at most
    #[arg(long, short = 'n', env = "ALULA_MAX_TOKENS", default_value_t = 512, value_name = "N")]
    pub max_tokens: usize,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// Stop at this text, which is not printed (repeatable)
    #[arg(long, env = "ALULA_STOP", value_name = "TEXT")]
    pub stop: Vec<String>,
    /// Go on after the model's end token
    #[arg(long, env = "ALULA_IGNORE_END")]
    pub ignore_end: bool,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub lora: LoraArgs,
    /// Apply the model's chat template to PROMPT as a user's message
    #[arg(long, env = "ALULA_CHAT")]
    pub chat: bool,
    /// System message (implies --chat)
    #[arg(long, env = "ALULA_SYSTEM", value_name = "TEXT")]
    pub system: Option<String>,
    /// Print the prompt before its continuation
    #[arg(long, env = "ALULA_ECHO")]
    pub echo: bool,
    /// Report each token's log-probability and those of the N likeliest
    #[arg(long, env = "ALULA_LOGPROBS", value_name = "N")]
    pub logprobs: Option<usize>,
    /// Print one JSON object instead of text
    #[arg(long, env = "ALULA_JSON")]
    pub json: bool,
    /// Print speeds to standard error
    #[arg(long, env = "ALULA_STATS")]
    pub stats: bool,
}

/// `alula chat`.
#[derive(Args, Debug)]
pub struct Chat {
    /// Model
    #[arg(default_value = "builtin")]
    pub model: String,
    /// System message
    #[arg(long, env = "ALULA_SYSTEM", value_name = "TEXT")]
    pub system: Option<String>,
    /// Tokens of an answer at most
    #[arg(long, short = 'n', env = "ALULA_MAX_TOKENS", value_name = "N")]
    pub max_tokens: Option<usize>,
    #[command(flatten)]
    pub sampling: SamplingArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub lora: LoraArgs,
}

/// `alula embed`.
#[derive(Args, Debug)]
pub struct Embed {
    /// Model
    pub model: String,
    /// Texts; the lines of standard input when absent or `-`
    #[arg(value_name = "TEXT")]
    pub texts: Vec<String>,
    /// What becomes the vector; by default what the model's files say
    #[arg(long, env = "ALULA_POOLING", value_enum)]
    pub pooling: Option<Pooling>,
    /// Leave vectors as long as they are
    #[arg(long, env = "ALULA_NO_NORMALIZE")]
    pub no_normalize: bool,
    /// Keep the first N elements of a vector
    #[arg(long, env = "ALULA_DIMENSIONS", value_name = "N")]
    pub dimensions: Option<usize>,
    /// Longest text; what is beyond is cut off
    #[arg(long, short = 'c', env = "ALULA_CTX", value_name = "TOKENS")]
    pub ctx: Option<usize>,
    /// Print one JSON object for all texts
    #[arg(long, env = "ALULA_JSON")]
    pub json: bool,
    /// Print speeds to standard error
    #[arg(long, env = "ALULA_STATS")]
    pub stats: bool,
    #[command(flatten)]
    pub load: EvalLoad,
    #[command(flatten)]
    pub lora: LoraArgs,
}

/// Which hidden states become a text's vector.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
}

/// `alula rerank`.
#[derive(Args, Debug)]
pub struct Rerank {
    /// Model
    pub model: String,
    /// What is asked
    pub query: String,
    /// Documents; the lines of standard input when absent or `-`
    #[arg(value_name = "DOCUMENT")]
    pub documents: Vec<String>,
    /// Show the N best
    #[arg(long, env = "ALULA_TOP", value_name = "N")]
    pub top: Option<usize>,
    /// Longest pair; what is beyond is cut off the longer text
    #[arg(long, short = 'c', env = "ALULA_CTX", value_name = "TOKENS")]
    pub ctx: Option<usize>,
    /// Print one JSON object
    #[arg(long, env = "ALULA_JSON")]
    pub json: bool,
    #[command(flatten)]
    pub load: EvalLoad,
    #[command(flatten)]
    pub lora: LoraArgs,
}

/// `alula list`.
#[derive(Args, Debug)]
pub struct List {
    /// Print JSON
    #[arg(long, env = "ALULA_JSON")]
    pub json: bool,
}

/// `alula show`.
#[derive(Args, Debug)]
pub struct Show {
    /// Model
    #[arg(default_value = "builtin")]
    pub model: String,
    /// Context length to work out the memory for
    #[arg(long, short = 'c', env = "ALULA_CTX", value_name = "TOKENS")]
    pub ctx: Option<usize>,
    /// Measure the machine, and show what would be in memory, what would be read from the disk, and how fast that could be
    #[arg(long, env = "ALULA_PLAN")]
    pub plan: bool,
    /// Memory to plan with, like 12GB; by default what the machine has
    #[arg(long, env = "ALULA_MEMORY", value_name = "BYTES", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Print JSON
    #[arg(long, env = "ALULA_JSON")]
    pub json: bool,
}

/// `alula tokenize`.
#[derive(Args, Debug)]
pub struct Tokenize {
    /// Model, also a GGUF file that holds only a vocabulary
    pub model: String,
    /// Text; standard input when absent or `-`
    pub text: Option<String>,
    /// Print only the ids, on one line, separated by commas
    #[arg(long, env = "ALULA_IDS")]
    pub ids: bool,
    /// Neither add special tokens nor read them in the text
    #[arg(long, env = "ALULA_NO_SPECIAL")]
    pub no_special: bool,
    /// Read the text from a file
    #[arg(long, env = "ALULA_FILE", value_name = "F", conflicts_with = "text")]
    pub file: Option<PathBuf>,
}

/// `alula detokenize`.
#[derive(Args, Debug)]
pub struct Detokenize {
    /// Model, also a GGUF file that holds only a vocabulary
    pub model: String,
    /// Token ids, separated by commas; standard input when absent or `-`
    pub ids: Option<String>,
    /// Leave out control tokens
    #[arg(long, env = "ALULA_NO_SPECIAL")]
    pub no_special: bool,
}

/// `alula eval`.
#[derive(Subcommand, Debug)]
pub enum Eval {
    /// Write the logits of every position to a safetensors file; of an encoder, its hidden states or scores
    Logits(Logits),
    /// Print the ids that greedy decoding adds
    Greedy(Greedy),
    /// Perplexity of a text
    Perplexity(Perplexity),
}

/// Threads of an evaluation.
#[derive(Args, Debug, Clone)]
pub struct EvalLoad {
    /// What computes
    #[command(flatten)]
    pub compute: Compute,
    /// Element type of the key-value cache
    #[arg(long, env = "ALULA_CACHE_TYPE", value_enum, default_value_t = Cache::F32)]
    pub cache_type: Cache,
    /// Neither use nor keep packed weights from one start to the next
    #[arg(long, env = "ALULA_NO_CACHE")]
    pub no_cache: bool,
}

/// `alula eval logits`.
#[derive(Args, Debug)]
pub struct Logits {
    /// Model
    pub model: String,
    /// Token ids, separated by commas; taken as they are
    #[arg(long, env = "ALULA_IDS", value_delimiter = ',', required = true, value_name = "IDS", value_parser = id)]
    pub ids: Vec<u32>,
    /// File to write: tensor `logits`, [tokens, vocabulary] or what an encoder makes, F32
    #[arg(long, env = "ALULA_OUT", value_name = "F")]
    pub out: PathBuf,
    /// Tokens per step
    #[arg(long, env = "ALULA_STEP", default_value_t = 64, value_name = "N", value_parser = step)]
    pub step: usize,
    #[command(flatten)]
    pub load: EvalLoad,
    #[command(flatten)]
    pub lora: LoraArgs,
}

/// `alula eval greedy`.
#[derive(Args, Debug)]
pub struct Greedy {
    /// Model
    pub model: String,
    /// Token ids, separated by commas; taken as they are
    #[arg(long, env = "ALULA_IDS", value_delimiter = ',', required = true, value_name = "IDS", value_parser = id)]
    pub ids: Vec<u32>,
    /// Ids to add; end tokens do not stop it
    #[arg(long, short = 'n', env = "ALULA_MAX_TOKENS", default_value_t = 64, value_name = "N")]
    pub max_tokens: usize,
    #[command(flatten)]
    pub load: EvalLoad,
    #[command(flatten)]
    pub lora: LoraArgs,
}

/// `alula eval perplexity`.
#[derive(Args, Debug)]
pub struct Perplexity {
    /// Model
    pub model: String,
    /// Text file
    pub file: PathBuf,
    /// Tokens of a chunk; the second half of each is scored
    #[arg(long, short = 'c', env = "ALULA_CTX", value_name = "TOKENS")]
    pub ctx: Option<usize>,
    /// Chunks at most
    #[arg(long, env = "ALULA_CHUNKS", value_name = "N")]
    pub chunks: Option<usize>,
    /// Print JSON
    #[arg(long, env = "ALULA_JSON")]
    pub json: bool,
    #[command(flatten)]
    pub load: EvalLoad,
    #[command(flatten)]
    pub lora: LoraArgs,
}

/// `alula bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// Model
    #[arg(default_value = "builtin")]
    pub model: String,
    /// Tokens of the prompt
    #[arg(long, env = "ALULA_PROMPT", default_value_t = 128, value_name = "N")]
    pub prompt: usize,
    /// Tokens to generate
    #[arg(long, env = "ALULA_GEN", default_value_t = 32, value_name = "N")]
    pub r#gen: usize,
    /// Positions in the cache when generating starts; by default those of the prompt. Filling them is not counted
    #[arg(long, env = "ALULA_DEPTH", value_name = "N")]
    pub depth: Option<usize>,
    /// Sequences at once; speeds are of all together
    #[arg(long, env = "ALULA_STREAMS", default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub streams: u16,
    /// Measured runs, after one that is not counted
    #[arg(long, env = "ALULA_RUNS", default_value_t = 5, value_name = "N")]
    pub runs: usize,
    /// Measure the machine instead: what no model can go beyond here
    #[arg(long, env = "ALULA_MACHINE")]
    pub machine: bool,
    /// Print JSON
    #[arg(long, env = "ALULA_JSON")]
    pub json: bool,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub lora: LoraArgs,
}

/// `alula completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// Shell
    pub shell: clap_complete::Shell,
}

/// `alula man`.
#[derive(Args, Debug)]
pub struct Man {
    /// Folder for the pages, made if it is not there
    pub folder: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        command().debug_assert();
    }

    /// Every flag of every command reads `ALULA_` and its name.
    #[test]
    fn every_flag_has_its_variable() {
        fn check(c: &clap::Command) {
            for a in c.get_arguments().filter(|a| !["help", "version"].contains(&a.get_id().as_str())) {
                if let Some(long) = a.get_long() {
                    let want = format!("ALULA_{}", long.to_uppercase().replace('-', "_"));
                    assert_eq!(a.get_env().and_then(|e| e.to_str()), Some(want.as_str()), "{} --{long}", c.get_name());
                }
            }
            c.get_subcommands().for_each(check);
        }
        check(&command());
    }
}
