//! A model on this machine: opened from its files, made ready on a device, with its tokenizer and its template.

use crate::runner::{RunError, Runner};
pub use crate::text::Words;
use alula_device::{Batch, CacheType, Device, DeviceError, Keep, Limits, Memory, PAGE, Plan, Traffic, kept};
use alula_format::gguf::Gguf;
use alula_format::hf::Folder;
pub use alula_model::Adapter as Lora;
use alula_model::{Files, Head, Model, ModelError, Spec};
use alula_template::Template;
use alula_tensor::Storage;
use alula_tokenizer::Tokenizer;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A model that cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Its tokenizer.
    #[error(transparent)]
    Tokenizer(#[from] alula_tokenizer::Error),
    /// Its chat template.
    #[error(transparent)]
    Template(#[from] alula_template::Error),
    /// The device.
    #[error("{file}: {source}")]
    Device {
        /// File.
        file: String,
        /// What is wrong.
        source: DeviceError,
    },
    /// No layer that guesses tokens.
    #[error("{file}: the model has no layer for multi-token prediction; load it without")]
    Guess {
        /// File.
        file: String,
    },
    /// Guesses need all weights in memory.
    #[error(
        "{file}: the layer that guesses and the other weights do not fit into memory together; load it without, or with more memory"
    )]
    NoRoom {
        /// File.
        file: String,
    },
    /// Not the bytes that it began with.
    #[error("{file}: it, or an adapter of it, was written to while it was loaded; load it again when it is whole")]
    Written {
        /// File.
        file: String,
    },
    /// More positions than the model was made for.
    #[error(
        "{file}: a context of {asked} tokens was asked for, but the model was made for {longest}; ask for 1 to {longest}"
    )]
    Context {
        /// File.
        file: String,
        /// Asked for.
        asked: usize,
        /// The model's own.
        longest: usize,
    },
}

impl From<alula_format::Error> for LoadError {
    fn from(e: alula_format::Error) -> Self {
        LoadError::Model(e.into())
    }
}

/// How a model is made ready.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Positions in a sequence; `None`: the model's own, at most [`DEFAULT_CONTEXT`] where the cache grows with it.
    pub context: Option<usize>,
    /// Whether the context may be longer than the model was made for, where its positions have no end of their own.
    pub stretch: bool,
    /// Sequences for which the cache has room, pages and slots.
    pub sequences: usize,
    /// States of fixed size that are kept, so that later prompts which begin alike go on from there; 0: none. Nothing where
    /// a model has only pages.
    pub checkpoints: usize,
    /// Tokens in a step.
    pub step_tokens: usize,
    /// Result rows in a step.
    pub outputs: usize,
    /// Element type of the cache.
    pub cache: CacheType,
    /// Cache pages; `None`: as many as `sequences` of the whole context need.
    pub pages: Option<usize>,
    /// Folder where packed weights are kept from one start to the next; `None`: nowhere.
    pub keep: Option<PathBuf>,
    /// Whether the model's layer for it guesses tokens, so that right guesses are computed beside those before them.
    pub guess: bool,
}

/// The context where none is asked for, the model's own is longer, and the cache grows with it.
pub const DEFAULT_CONTEXT: usize = 8192;

/// The context of a model where none is asked for.
pub fn usual_context(spec: &Spec) -> usize {
    if spec.grows() { spec.context.min(DEFAULT_CONTEXT) } else { spec.context }
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            context: None,
            stretch: false,
            sequences: 1,
            checkpoints: 0,
            step_tokens: 512,
            outputs: 8,
            cache: CacheType::F16,
            pages: None,
            keep: None,
            guess: false,
        }
    }
}

impl LoadOptions {
    /// The sizes of a plan for sequences of so many positions.
    pub fn limits(&self, context: usize) -> Limits {
        Limits {
            tokens: self.step_tokens.min(context.saturating_mul(self.sequences)).max(1),
            outputs: self.outputs,
            context,
            pages: self.pages.unwrap_or(context.div_ceil(PAGE).saturating_mul(self.sequences)),
            slots: self.sequences,
            checkpoints: self.checkpoints,
            cache: self.cache,
        }
    }
}

/// A model's files, opened: what can be known without loading weights.
pub struct Package {
    /// What stands for it in messages.
    pub name: String,
    /// Its spec, graph and weights.
    pub model: Model,
    path: Option<PathBuf>,
    /// Adapters that its weights have become.
    merged: Vec<(Lora, f32)>,
    /// Files of adapters that requests choose.
    chosen: Vec<Storage>,
}

impl Package {
    /// Opens a GGUF file or a Hugging Face folder.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn open(path: &Path) -> Result<Package, LoadError> {
        Ok(Package {
            name: path.display().to_string(),
            model: Model::open(path)?,
            path: Some(path.to_owned()),
            merged: Vec::new(),
            chosen: Vec::new(),
        })
    }

    /// A GGUF model that is in memory.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: &'static [u8], name: &str) -> Result<Package, LoadError> {
        let gguf = Gguf::from_bytes(bytes, name)?;
        let model = Model::from_gguf(gguf, name)?;
        Ok(Package { name: name.to_owned(), model, path: None, merged: Vec::new(), chosen: Vec::new() })
    }

    /// The same model with adapters that each request may choose, numbered in this order.
    ///
    /// # Errors
    /// As [`Model::with_adapters`].
    pub fn with_adapters(self, adapters: Vec<Lora>) -> Result<Package, LoadError> {
        let files = adapters.iter().flat_map(Lora::heads).map(|(file, _)| file.clone());
        let chosen = self.chosen.into_iter().chain(files).collect();
        Ok(Package { model: self.model.with_adapters(adapters)?, chosen, ..self })
    }

    /// The same model with adapters added to its weights, each with a factor.
    ///
    /// # Errors
    /// As [`Model::merged`].
    pub fn merged(self, adapters: Vec<(Lora, f32)>) -> Result<Package, LoadError> {
        let model = self.model.merged(&adapters)?;
        let merged = self.merged.into_iter().chain(adapters).collect();
        Ok(Package { model, merged, ..self })
    }

    /// The same model with another head.
    ///
    /// # Errors
    /// As [`Model::with_head`].
    pub fn with_head(self, head: Head) -> Result<Package, LoadError> {
        Ok(Package { model: self.model.with_head(head)?, ..self })
    }

    /// Says so if the model writes no text.
    ///
    /// # Errors
    /// It is an encoder.
    pub fn writes(&self) -> Result<(), LoadError> {
        if self.model.spec().head == Head::Vocabulary {
            return Ok(());
        }
        let why = "is an encoder, which writes no text; use it with `alula embed` or `alula rerank`".into();
        Err(LoadError::Model(ModelError::Path { path: self.name.clone(), why }))
    }

    /// Its tokenizer.
    ///
    /// # Errors
    /// It has none, or a broken one.
    pub fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        match self.model.files() {
            Files::Gguf(g) => Ok(Tokenizer::from_gguf(&g.metadata, &self.name)?),
            Files::Folder(f, _) => folder_tokenizer(f),
        }
    }

    /// Tokens that end a text, beside those that the tokenizer knows.
    pub fn end_ids(&self) -> Vec<u32> {
        let Files::Folder(f, _) = self.model.files() else { return Vec::new() };
        let configs = [f.generation_config.as_ref(), f.config().ok()];
        let values = configs.into_iter().flatten().filter_map(|c| c.get("eos_token_id"));
        values
            .flat_map(|v| match v {
                Value::Array(ids) => ids.iter().filter_map(Value::as_u64).collect(),
                v => v.as_u64().into_iter().collect::<Vec<_>>(),
            })
            .filter_map(|id| u32::try_from(id).ok())
            .collect()
    }

    /// The text of its chat template, if it has one.
    pub fn template_source(&self) -> Option<&str> {
        match self.model.files() {
            Files::Gguf(g) => g.metadata.find::<&str>("tokenizer.chat_template").ok().flatten(),
            Files::Folder(f, _) => f.chat_template(),
        }
    }

    /// Its chat template, or the documented fall-back.
    ///
    /// # Errors
    /// Its template is not valid.
    pub fn template(&self) -> Result<Template, LoadError> {
        match self.template_source() {
            Some(source) => Ok(Template::new(source)?),
            None => Ok(Template::fallback()),
        }
    }

    /// Loads the weights onto a device. `progress` hears done and all, in elements.
    ///
    /// # Errors
    /// A weight is missing or broken, or the context is longer than the model's.
    pub fn load(
        &self,
        device: &dyn Device,
        options: LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Local, LoadError> {
        let spec = self.model.spec();
        let longest = spec.context;
        let context = options.context.unwrap_or(usual_context(spec));
        let may_stretch = spec.endless() || options.stretch && spec.positions.is_none();
        if (context > longest && !may_stretch) || context == 0 {
            return Err(LoadError::Context { file: self.name.clone(), asked: context, longest });
        }
        let limits = options.limits(context);
        let keep = options.keep.and_then(|folder| self.keep(folder));
        let weights = self.model.weights();
        let wrong = |source| LoadError::Device { file: self.name.clone(), source };
        let plan = device.compile(self.model.graph(), weights, limits, keep.as_ref(), progress).map_err(wrong)?;
        let guess = match (options.guess, self.model.draft()) {
            (true, Some(graph)) => {
                let (memory, own) = (plan.memory(), device.needs(graph, weights, limits).map_err(wrong)?.memory);
                let fits = device.budget().is_none_or(|most| memory.total().saturating_add(own.total()) <= most);
                if memory.fetched > 0 || own.fetched > 0 || !fits {
                    return Err(LoadError::NoRoom { file: self.name.clone() });
                }
                Some(device.compile(graph, weights, limits, None, progress).map_err(wrong)?)
            }
            (true, None) => return Err(LoadError::Guess { file: self.name.clone() }),
            _ => None,
        };
        let files = Mapped { model: self.files(), packed: plan.packed_file().cloned() };
        if !files.model.iter().all(Storage::is_unwritten) {
            return Err(LoadError::Written { file: self.name.clone() });
        }
        Ok(Local { plan, guess, hidden: Vec::new(), spec: spec.clone(), files })
    }
}

/// Fewer bytes of packed weights than this are not kept: packing them takes a few milliseconds.
const LEAST: usize = 8 << 20;
/// For so long a file's time may stand still while it is written.
const TICK: Duration = Duration::from_millis(20);

/// What the steps of a loaded model read.
#[derive(Clone, Debug)]
pub struct Mapped {
    model: Vec<Storage>,
    /// Its packed weights, which only this program writes; each start sets their time of writing.
    packed: Option<Storage>,
}

impl Mapped {
    /// Whether they are still what was mapped: nobody wrote to the model's files, nobody cut that of the packed weights.
    pub fn are_sound(&self) -> bool {
        self.model.iter().all(Storage::is_unwritten) && self.packed.as_ref().is_none_or(Storage::is_whole)
    }
}

impl Package {
    /// The files that weights are read from, as they were mapped.
    pub fn files(&self) -> Vec<Storage> {
        let own = self.heads().into_iter().map(|(file, _)| file);
        own.chain(&self.chosen).cloned().collect()
    }

    /// Those that matrices of the model are made of, with what each has before its first tensor.
    fn heads(&self) -> Vec<(&Storage, &[u8])> {
        let mut heads: Vec<(&Storage, &[u8])> = match self.model.files() {
            Files::Gguf(g) => g.heads().collect(),
            Files::Folder(_, s) => s.heads().collect(),
        };
        // Adapters that are not merged change no matrix of the model.
        heads.extend(self.merged.iter().flat_map(|(lora, _)| lora.heads()));
        heads
    }

    /// Where the packed weights of this model are kept, if it is one of mapped files.
    fn keep(&self, folder: PathBuf) -> Option<Keep> {
        let heads = self.heads();
        let path = self.path.as_ref()?;
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        // The rules by which matrices are made from tensors belong to the version, and to a folder's configuration.
        let mut facts = env!("CARGO_PKG_VERSION").as_bytes().to_vec();
        if let Files::Folder(f, _) = self.model.files() {
            let told =
                [f.config().ok().map(|c| c.to_string().into_bytes()), std::fs::read(f.path().join("spec.toml")).ok()];
            facts.extend(told.into_iter().flatten().reduce(|a, b| [a, b].concat())?);
        }
        if self.model.spec().head != Head::Vocabulary {
            facts.extend(format!("{:?}", self.model.spec().head).bytes());
        }
        let mut source = path.display().to_string();
        for (lora, factor) in &self.merged {
            // Beside the model itself, which has a file of its own.
            source += &format!(" + {}", lora.file());
            facts.extend(format!("+ {} {}", lora.facts(), factor.to_bits()).bytes());
        }
        for (file, head) in &heads {
            let stamp = file.stamp()?;
            let modified = stamp.modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            facts.extend([stamp.len, stamp.inode, kept::digest(head)].map(u64::to_le_bytes).as_flattened());
            facts.extend(modified.as_nanos().to_le_bytes());
            facts.extend(stamp.changed.map(i64::to_le_bytes).as_flattened());
            // What is read from here on was written before that time ended, or the file will have another one.
            if stamp.newest().elapsed().is_ok_and(|age| age < TICK) {
                std::thread::sleep(TICK);
            }
        }
        let name = path.file_name()?.to_string_lossy();
        Some(Keep {
            folder,
            name: name.strip_suffix(".gguf").unwrap_or(&name).to_owned(),
            source,
            identity: kept::digest(&facts),
            files: heads.into_iter().map(|(file, _)| file.clone()).collect(),
            least: LEAST,
        })
    }
}

/// The tokenizer of a Hugging Face folder.
///
/// # Errors
/// It has none, or a broken one.
pub fn folder_tokenizer(folder: &Folder) -> Result<Tokenizer, LoadError> {
    let path = folder.tokenizer()?;
    let file = path.display().to_string();
    let bytes = std::fs::read(&path)
        .map_err(|e| ModelError::Path { path: file.clone(), why: format!("{e}; download the whole model folder") })?;
    Ok(Tokenizer::from_json(&bytes, folder.tokenizer_config.as_ref(), &file)?)
}

/// A loaded model with its cache: the [`Runner`] of this machine.
pub struct Local {
    plan: Box<dyn Plan>,
    /// Guesses tokens, from what the plan keeps.
    guess: Option<Box<dyn Plan>>,
    hidden: Vec<f32>,
    spec: Spec,
    files: Mapped,
}

/// A model's file is not the one that was loaded.
#[derive(Debug, thiserror::Error)]
#[error(
    "a file of the model was written to, or that of its packed weights was cut, after it was loaded; load it again (one that is put in its place by renaming does no harm)"
)]
pub struct Written;

impl Local {
    /// The files that its steps read.
    pub fn files(&self) -> &Mapped {
        &self.files
    }

    /// What it holds.
    pub fn memory(&self) -> Memory {
        let (a, b) = (self.plan.memory(), self.guess.as_ref().map_or(Memory::default(), |g| g.memory()));
        let sum = |f: fn(Memory) -> usize| f(a) + f(b);
        Memory {
            weights: sum(|m| m.weights),
            cache: sum(|m| m.cache),
            work: sum(|m| m.work),
            fetched: sum(|m| m.fetched),
            room: sum(|m| m.room),
        }
    }

    /// What became of the weights that are fetched; `None` where all are in memory.
    pub fn traffic(&self) -> Option<Traffic> {
        self.plan.traffic()
    }

    /// The model as data.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Whether any layer keeps a state of fixed size.
    fn fixed(&self) -> bool {
        self.spec.layers.iter().any(|l| l.mixer.ssm().is_some())
    }

    /// The sizes it was made for.
    pub fn limits(&self) -> Limits {
        self.plan.limits()
    }
}

impl Runner for Local {
    fn vocab(&self) -> usize {
        self.plan.cols()
    }
    fn context(&self) -> usize {
        self.plan.limits().context
    }
    fn regime(&self, length: usize) -> usize {
        self.spec.regime(length)
    }
    fn pages(&self) -> usize {
        self.plan.limits().pages
    }
    fn window(&self) -> Option<usize> {
        self.plan.window().filter(|_| self.guess.is_none())
    }
    fn slots(&self) -> usize {
        if self.fixed() { self.plan.limits().slots } else { usize::MAX }
    }
    fn checkpoints(&self) -> Option<usize> {
        self.fixed().then(|| self.plan.limits().checkpoints)
    }
    fn save(&mut self, slot: u32, position: usize, checkpoint: u32) -> Result<(), RunError> {
        Ok(self.plan.save(slot, position, checkpoint)?)
    }
    fn restore(&mut self, checkpoint: u32, slot: u32) -> Result<(), RunError> {
        Ok(self.plan.restore(checkpoint, slot)?)
    }
    fn max_tokens(&self) -> usize {
        self.plan.limits().tokens
    }
    fn max_outputs(&self) -> usize {
        self.plan.limits().outputs
    }
    fn adapters(&self) -> usize {
        self.plan.adapters()
    }
    fn run(&mut self, batch: &Batch<'_>) -> Result<&[f32], RunError> {
        let rows = self.plan.run(batch)?;
        // Some of them are read in every step; what is missing there is zeros.
        if self.files.are_sound() { Ok(rows) } else { Err(Written.into()) }
    }
    fn hidden(&self) -> &[f32] {
        match self.spec.head {
            // Behind the states that guesses begin with.
            Head::Vocabulary => self.plan.kept(usize::from(self.spec.draft.is_some())),
            _ => &[],
        }
    }
    fn guesses(&self) -> bool {
        self.guess.is_some()
    }
    fn guess(&mut self, batch: &Batch<'_>, rows: &[u32]) -> Result<&[f32], RunError> {
        let Some(plan) = &mut self.guess else { return Ok(&[]) };
        let (kept, width) = (self.plan.kept(0), self.spec.width);
        self.hidden.clear();
        for &row in rows {
            self.hidden.extend_from_slice(&kept[row as usize * width..][..width]);
        }
        Ok(plan.run(&Batch { hidden: &self.hidden, ..*batch })?)
    }
}
