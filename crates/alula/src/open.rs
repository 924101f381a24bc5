//! From flags to a model that runs.

use crate::cli::{Cache, Compute, LoraArgs, Numerics, SamplingArgs};
use crate::{Fail, models, say};
use alula_device::{CacheType, Cpu, CpuDevice};
use alula_engine::local::{DEFAULT_CONTEXT, LoadOptions, Local, Lora, Package, Words};
use alula_engine::{Adapter, Sampling};
use alula_model::Files;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The device that the flags ask for.
pub fn device(a: Compute) -> Result<CpuDevice, Fail> {
    let cpu = Cpu::from_env()?;
    let cpu = if a.numerics == Numerics::Fast { cpu.fast() } else { cpu };
    let threads = a.threads.map_or_else(alula_device::threads, usize::from);
    let device = if a.pin { CpuDevice::bound(cpu, threads)? } else { CpuDevice::new(cpu, threads) };
    Ok(match a.memory {
        Some(bytes) => device.within(rest(bytes)),
        None => device,
    })
}

/// What is left of the process's memory for models: it has taken some already, and stacks and allocators will take some.
pub fn rest(bytes: u64) -> usize {
    let others = alula_device::taken() + (24 << 20);
    usize::try_from(bytes).unwrap_or(usize::MAX).saturating_sub(others)
}

/// Where packed weights are kept, unless the flag says nowhere.
pub fn keep(no_cache: bool) -> Option<PathBuf> {
    if no_cache { None } else { models::packed() }
}

/// The cache's element type.
pub fn cache(c: Cache) -> CacheType {
    match c {
        Cache::F32 => CacheType::F32,
        Cache::F16 => CacheType::F16,
        Cache::Bf16 => CacheType::BF16,
        Cache::Q8_0 => CacheType::Q8_0,
        Cache::Q4_0 => CacheType::Q4_0,
    }
}

/// Loads a model; on a terminal, a bar appears when it takes longer than a second.
pub fn load(package: &Package, compute: Compute, options: LoadOptions) -> Result<Local, Fail> {
    let device = device(compute)?;
    let start = Instant::now();
    let mut bar: Option<ProgressBar> = None;
    let shown = std::io::stderr().is_terminal();
    let local = package.load(&device, options, &mut |done, all| {
        if shown && start.elapsed() > Duration::from_secs(1) {
            let bar = bar.get_or_insert_with(|| {
                let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template("loading {wide_bar} {percent}%");
                bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
            });
            bar.set_position(done);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    Ok(local?)
}

/// Bytes per second at which a model's largest file can be read, measured.
pub fn disk(package: &Package) -> Option<f64> {
    let files: Vec<_> = match package.model.files() {
        Files::Gguf(g) => g.heads().map(|(file, _)| file).collect(),
        Files::Folder(_, s) => s.heads().map(|(file, _)| file).collect(),
    };
    alula_device::disk_speed(files.into_iter().max_by_key(|file| file.len())?)
}

/// What became of weights that are fetched, in a line.
pub fn traffic(t: &alula_device::Traffic) -> String {
    let share = |n: u64| 100.0 * n as f64 / t.wanted.max(1) as f64;
    let (found, ahead, gb, waited) = (share(t.found), share(t.ahead), t.read as f64 / 1e9, t.waited.as_secs_f64());
    let uses = t.wanted;
    format!(
        "weights that are fetched: of {uses} uses {found:.0} % found them in memory and {ahead:.0} % read ahead; {gb:.2} GB \
         read, {waited:.2} s waited"
    )
}

/// The adapters that requests may choose, by name, each with the factor that it was given with.
#[derive(Clone, Debug, Default)]
pub struct Adapters(Vec<(String, f32)>);

impl Adapters {
    /// All of them.
    pub fn all(&self) -> Vec<Adapter> {
        (0..).zip(&self.0).map(|(index, &(_, scale))| Adapter { index, scale }).collect()
    }

    /// Their names and factors.
    pub fn names(&self) -> impl Iterator<Item = (&str, f32)> {
        self.0.iter().map(|(name, scale)| (name.as_str(), *scale))
    }

    /// Some of them, as `NAME` or `NAME:FACTOR`; with a factor of its own or the one that it was given with.
    pub fn choose<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<Vec<Adapter>, Fail> {
        let mut chosen: Vec<Adapter> = Vec::new();
        for text in texts {
            let (name, factor) = match self.0.iter().any(|a| a.0 == text) {
                true => (text, None),
                false => factor(text)?,
            };
            let Some((index, &(_, own))) = (0..).zip(&self.0).find(|(_, a)| a.0 == name) else {
                let have: Vec<_> = self.0.iter().map(|a| a.0.as_str()).collect();
                let have = if have.is_empty() { "none; give it with --lora".to_owned() } else { have.join(", ") };
                return Err(format!("there is no adapter `{name}`; there is {have}").into());
            };
            if chosen.iter().any(|c| c.index == index) {
                return Err(format!("the adapter `{name}` is named twice").into());
            }
            chosen.push(Adapter { index, scale: factor.unwrap_or(own) });
        }
        Ok(chosen)
    }
}

/// `TEXT` or `TEXT:FACTOR`.
fn factor(text: &str) -> Result<(&str, Option<f32>), Fail> {
    match text.rsplit_once(':').and_then(|(name, factor)| Some((name, factor.trim().parse::<f32>().ok()?))) {
        Some((_, factor)) if !factor.is_finite() => {
            Err(format!("{text}: the factor is {factor}; give a number").into())
        }
        Some((name, factor)) => Ok((name, Some(factor))),
        None => Ok((text, None)),
    }
}

/// The model with the adapters that the flags ask for.
pub fn adapt(package: Package, a: &LoraArgs) -> Result<(Package, Adapters), Fail> {
    let (mut opened, mut names) = (Vec::new(), Vec::<(String, f32)>::new());
    for text in &a.lora {
        let there = |text: &str| Path::new(text).exists();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let named =
            text.split_once('=').filter(|(name, _)| !there(text) && !name.is_empty() && name.chars().all(plain));
        let (name, rest) = named.map_or((None, text.as_str()), |(name, rest)| (Some(name), rest));
        let (path, factor) = if there(rest) { (rest, None) } else { factor(rest)? };
        let stem = Path::new(path).file_stem().map_or_else(|| path.into(), |s| s.to_string_lossy());
        let (name, factor) = (name.unwrap_or(&stem).to_owned(), factor.unwrap_or(1.0));
        if names.iter().any(|n| n.0 == name) {
            return Err(format!("two adapters are called `{name}`; name one of them: --lora NAME={path}").into());
        }
        opened.push((Lora::open(Path::new(path))?, factor));
        names.push((name, factor));
    }
    if a.lora_merge {
        return Ok((package.merged(opened)?, Adapters::default()));
    }
    let package = package.with_adapters(opened.into_iter().map(|o| o.0).collect())?;
    Ok((package, Adapters(names)))
}

/// A model's tokenizer as the engine wants it.
pub fn words(package: &Package) -> Result<(Arc<alula_tokenizer::Tokenizer>, Arc<Words>), Fail> {
    let tokenizer = Arc::new(package.tokenizer()?);
    let words = Arc::new(Words::new(Arc::clone(&tokenizer), package.end_ids()));
    Ok((tokenizer, words))
}

/// The sampling that the flags ask for.
pub fn sampling(a: &SamplingArgs, logprobs: Option<usize>) -> Sampling {
    Sampling {
        temperature: a.temp,
        top_k: a.top_k,
        top_p: a.top_p,
        min_p: a.min_p,
        typical_p: a.typical_p,
        repeat_penalty: a.repeat_penalty,
        repeat_last_n: a.repeat_last_n,
        presence_penalty: a.presence_penalty,
        frequency_penalty: a.frequency_penalty,
        logit_bias: a.logit_bias.clone(),
        seed: a.seed,
        logprobs,
    }
}

/// A text argument, or standard input (less one line end at its end) when it is absent or `-`.
pub fn text(argument: Option<&str>) -> Result<String, Fail> {
    match argument {
        Some(text) if text != "-" => Ok(text.to_owned()),
        _ => {
            let mut stdin = std::io::stdin().lock();
            if stdin.is_terminal() {
                say("alula: reading the text from the keyboard; end it with Ctrl-D");
            }
            let mut bytes = Vec::new();
            stdin.read_to_end(&mut bytes)?;
            let mut text = utf8(bytes, "standard input")?;
            if text.ends_with('\n') {
                text.pop();
                if text.ends_with('\r') {
                    text.pop();
                }
            }
            Ok(text)
        }
    }
}

/// Text arguments, or the lines of standard input where there are none or the only one is `-`.
pub fn lines(arguments: &[String]) -> Result<Vec<String>, Fail> {
    if !arguments.is_empty() && arguments != ["-"] {
        return Ok(arguments.to_vec());
    }
    let text = text(None)?;
    let lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned());
    Ok(if text.is_empty() { Vec::new() } else { lines.collect() })
}

/// Tokens of a text at most: as asked for, or `own`, at most as many as are taken unasked.
pub fn longest(package: &Package, own: usize, asked: Option<usize>) -> Result<usize, Fail> {
    let most = package.model.spec().context;
    match asked {
        None => Ok(own.min(DEFAULT_CONTEXT)),
        Some(n) if (1..=most).contains(&n) => Ok(n),
        Some(n) => Err(format!("--ctx is {n}; the model reads texts of 1 to {most} tokens").into()),
    }
}

/// Says how many texts were cut.
pub fn cut(n: usize, all: usize, longest: usize) {
    if n > 0 {
        let were = if n == 1 { "was" } else { "were" };
        say(format_args!("alula: {n} of {all} texts {were} longer than {longest} tokens, and cut there"));
    }
}

/// Text from bytes that came from `from`.
pub fn utf8(bytes: Vec<u8>, from: &str) -> Result<String, Fail> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        format!("{from}: not UTF-8 at byte {at}; convert the text to UTF-8").into()
    })
}
