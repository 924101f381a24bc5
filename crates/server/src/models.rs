//! The models that a server has: found by name, loaded when they are needed, let go when nobody needs them.

use crate::app::App;
use crate::error::ApiError;
use crate::worker::Worker;
use alula_constrain::Vocabulary;
use alula_dialog::Format;
use alula_engine::Adapter;
use alula_engine::embed::{Embedder, Pooling, Ranker, Recipe};
use alula_engine::speech::Speech;
use alula_tokenizer::Tokenizer;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, Semaphore};
use utoipa::ToSchema;

/// How often it is looked whether a model that must go is still needed.
const LOOK: Duration = Duration::from_millis(5);
/// So many looks before one that is busy must go.
const PATIENCE: usize = 4;

/// Why a model is not there.
pub type LoadError = Box<dyn std::error::Error + Send + Sync>;
/// Makes a model ready; may take long.
pub type Load = Box<dyn Fn() -> Result<Model, LoadError> + Send + Sync>;

/// What is known of a model before it is loaded.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Seconds since 1970 when its files were written.
    pub created: u64,
    /// Tokens of a sequence at most.
    pub context: usize,
    /// Bytes of its files.
    pub bytes: u64,
    /// Its weights, in number.
    pub parameters: u64,
    /// Architecture, as GGUF names it.
    pub architecture: String,
    /// The commonest type of its weights.
    pub quantization: String,
    /// `gguf` or `safetensors`.
    pub format: String,
    /// What it is for.
    pub task: Task,
}

/// What a model is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Writing text.
    #[default]
    Generate,
    /// Making vectors of texts.
    Embed,
    /// Scoring documents.
    Rerank,
}

/// A model that is loaded.
pub struct Model {
    /// Its tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// What it does.
    pub kind: Kind,
    /// Whether its files are those that it was made of.
    pub fresh: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What a model does.
pub enum Kind {
    /// Writes text.
    Writer(Box<Writer>),
    /// Makes vectors.
    Embedder(Arc<Mutex<Embedder>>),
    /// Scores pairs of texts.
    Ranker(Arc<Mutex<Ranker>>),
}

/// What writes text.
pub struct Writer {
    /// Its engine.
    pub worker: Worker,
    /// How it reads conversations.
    pub speech: Speech,
    /// Tokens of a sequence at most.
    pub context: usize,
    /// How it writes calls and reasoning.
    pub format: Format,
    /// Places for those whose grammars are made ready: that takes processors and memory, which answers need too.
    pub grammars: Arc<Semaphore>,
    /// Tokens that end its text.
    ends: Vec<u32>,
    /// Its tokens as grammars see them, made when somebody first asks for a grammar.
    vocabulary: OnceLock<Result<Vocabulary, alula_constrain::Error>>,
    /// How its states become vectors, and their elements.
    pub recipe: Option<(Recipe, usize)>,
}

impl Writer {
    /// What writes text. `ends` end a text beside the tokenizer's own.
    pub fn new(worker: Worker, speech: Speech, context: usize, tokenizer: &Tokenizer, ends: &[u32]) -> Writer {
        let format = Format::of(speech.source());
        let ends = tokenizer.end_ids().iter().chain(ends).copied().collect();
        let places = std::thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2));
        let grammars = Arc::new(Semaphore::new(places));
        Writer { worker, speech, context, format, grammars, ends, vocabulary: OnceLock::new(), recipe: None }
    }

    /// The same that makes vectors of so many elements too, if these are the states of last tokens: others its engine does not
    /// tell.
    #[must_use]
    pub fn embedding(self, recipe: Recipe, width: usize) -> Writer {
        Writer { recipe: (recipe.pooling == Pooling::Last).then_some((recipe, width)), ..self }
    }

    /// Whether it may write text for itself before it answers.
    pub fn reasons(&self) -> bool {
        self.format.thinking.is_some() || self.format.family == alula_dialog::Family::Harmony
    }

    /// The special tokens whose text a template's format reads.
    pub fn shown(speech: &Speech, tokenizer: &Tokenizer) -> Vec<u32> {
        let markers = Format::of(speech.source()).markers();
        markers.into_iter().filter_map(|mark| tokenizer.id(mark)).filter(|&id| tokenizer.is_special(id)).collect()
    }

    /// Its tokens as grammars see them. The first time takes long.
    ///
    /// # Errors
    /// No grammar can be walked with them.
    pub fn vocabulary(&self, tokenizer: &Tokenizer) -> Result<&Vocabulary, alula_constrain::Error> {
        self.vocabulary.get_or_init(|| Vocabulary::new(tokenizer, &self.ends)).as_ref().map_err(Clone::clone)
    }
}

impl Model {
    /// What writes text.
    ///
    /// # Errors
    /// It is a model of another kind.
    pub fn writer(&self, name: &str) -> Result<&Writer, ApiError> {
        match &self.kind {
            Kind::Writer(writer) => Ok(writer),
            Kind::Embedder(_) => Err(wrong(name, "makes vectors and writes no text; use /v1/embeddings")),
            Kind::Ranker(_) => Err(wrong(name, "scores documents and writes no text; use /v1/rerank")),
        }
    }
}

fn wrong(name: &str, what: &str) -> ApiError {
    ApiError::field("model", format!("the model `{name}` {what}"))
}

/// A model, if it is loaded. Nobody waits while it is locked.
type Slot = std::sync::Mutex<Option<Arc<Model>>>;

fn open(slot: &Slot) -> std::sync::MutexGuard<'_, Option<Arc<Model>>> {
    slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A model by name.
pub struct Entry {
    /// What requests call it.
    pub name: String,
    /// Its adapters by name, with their factors; each can be called like a model.
    pub adapters: Vec<(String, f32)>,
    /// What is known of it.
    pub facts: Facts,
    load: Arc<Load>,
    slot: Arc<Slot>,
    /// Held while it is loaded.
    loading: Arc<Mutex<()>>,
    /// Milliseconds since the registry was made.
    used: AtomicU64,
    /// What will let go of it later.
    timer: std::sync::Mutex<Option<tokio::task::AbortHandle>>,
}

impl Entry {
    /// A model that is not loaded.
    pub fn new(name: String, adapters: Vec<(String, f32)>, facts: Facts, load: Load) -> Entry {
        Entry {
            name,
            adapters,
            facts,
            load: Arc::new(load),
            slot: Arc::default(),
            loading: Arc::default(),
            used: AtomicU64::new(0),
            timer: std::sync::Mutex::new(None),
        }
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Model>>> {
        open(&self.slot)
    }
}

/// A model as a request named it.
#[derive(Clone)]
pub struct Found {
    /// The name in the request.
    pub name: String,
    /// The model.
    pub model: Arc<Model>,
    /// The adapters that the name stands for.
    pub adapters: Vec<Adapter>,
}

/// All of them.
pub struct Models {
    entries: Vec<Entry>,
    began: Instant,
    /// Models that are loaded at a time at most.
    most: usize,
    /// Held while room is made for one that is loaded, until it is.
    door: Arc<Mutex<()>>,
    /// Those that were let go while somebody had them.
    leaving: std::sync::Mutex<Vec<Weak<Model>>>,
}

impl Models {
    /// `most` are loaded at a time. Names are unique.
    ///
    /// # Errors
    /// Two have one name.
    pub fn new(entries: Vec<Entry>, most: usize) -> Result<Models, LoadError> {
        let mut names: Vec<&str> = Vec::new();
        for entry in &entries {
            for name in [entry.name.as_str()].into_iter().chain(entry.adapters.iter().map(|a| a.0.as_str())) {
                if names.contains(&name) {
                    return Err(
                        format!("two models or adapters are called `{name}`; give one of them another name").into()
                    );
                }
                names.push(name);
            }
        }
        Ok(Models {
            entries,
            began: Instant::now(),
            most: most.max(1),
            door: Arc::default(),
            leaving: Default::default(),
        })
    }

    /// All of them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// How many are loaded at a time at most.
    pub fn most(&self) -> usize {
        self.most
    }

    /// The one that a request names, and the adapter if it names one. Without a name, the first.
    ///
    /// # Errors
    /// There is none.
    pub fn entry(&self, name: Option<&str>) -> Result<(&Entry, Vec<Adapter>), ApiError> {
        let Some(name) = name else {
            return self.entries.first().map(|e| (e, Vec::new())).ok_or_else(|| self.unknown("no model"));
        };
        for entry in &self.entries {
            if entry.name == name {
                return Ok((entry, Vec::new()));
            }
            let adapter = (0..).zip(&entry.adapters).find(|(_, a)| a.0 == name);
            if let Some((index, &(_, scale))) = adapter {
                return Ok((entry, vec![Adapter { index, scale }]));
            }
        }
        Err(self.unknown(&format!("`{}`", alula_format::clip_to(name, 100))))
    }

    fn unknown(&self, what: &str) -> ApiError {
        let names: Vec<&str> = self.entries.iter().map(|e| e.name.as_str()).collect();
        let what = format!("the model {what} does not exist; there is {}", names.join(", "));
        ApiError { param: Some("model".into()), ..ApiError::not_found("model_not_found", what) }
    }

    /// The model that a request names, loaded.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be loaded.
    pub async fn find(&self, name: Option<&str>) -> Result<Found, ApiError> {
        let (entry, adapters) = self.entry(name)?;
        let model = self.ready(entry).await?;
        Ok(Found { name: name.unwrap_or(&entry.name).to_owned(), model, adapters })
    }

    /// Whether it is loaded.
    pub fn loaded(&self, entry: &Entry) -> bool {
        entry.slot().is_some()
    }

    /// The model of an entry if it is loaded.
    pub fn peek(&self, entry: &Entry) -> Option<Arc<Model>> {
        entry.slot().as_ref().map(Arc::clone)
    }

    /// When a request last named it, since the registry was made.
    pub fn used(&self, entry: &Entry) -> Duration {
        Duration::from_millis(entry.used.load(Ordering::Relaxed))
    }

    /// Lets go of a model after a while, when nobody has it, unless somebody names it after the time `since`, which is as
    /// [`Models::used`] says it. What was said before of the same model does not hold any more.
    pub fn release_later(app: &Arc<App>, name: &str, since: Duration, wait: Duration) {
        let (Ok(runtime), Ok((entry, _))) = (tokio::runtime::Handle::try_current(), app.models.entry(Some(name)))
        else {
            return;
        };
        let (of, name) = (Arc::downgrade(app), name.to_owned());
        let task = runtime.spawn(async move {
            tokio::time::sleep(wait).await;
            while let Some(app) = of.upgrade() {
                let Ok((entry, _)) = app.models.entry(Some(&name)) else { return };
                let over = app.models.used(entry) > since || !app.models.loaded(entry);
                if over || idle(entry) && app.models.release(entry) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        if let Ok(mut timer) = entry.timer.lock()
            && let Some(old) = timer.replace(task.abort_handle())
        {
            old.abort();
        }
    }

    /// Loads a model unless it is there.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub async fn ready(&self, entry: &Entry) -> Result<Arc<Model>, ApiError> {
        let now = || u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        entry.used.store(now(), Ordering::Relaxed);
        let there = || {
            let model = self.peek(entry)?;
            // A model whose file was written to is loaded anew.
            let fresh = (model.fresh)();
            if !fresh {
                self.release(entry);
            }
            fresh.then_some(model)
        };
        if let Some(model) = there() {
            return Ok(model);
        }
        let loading = Arc::clone(&entry.loading).lock_owned().await;
        if let Some(model) = there() {
            return Ok(model);
        }
        let door = Arc::clone(&self.door).lock_owned().await;
        self.make_room(entry).await;
        let (load, slot) = (Arc::clone(&entry.load), Arc::clone(&entry.slot));
        // It is loaded to its end even if who asked goes away, or each who comes and goes would start another load.
        let load = move || {
            let _held = (loading, door);
            let model = Arc::new(load()?);
            Ok::<_, LoadError>(Arc::clone(open(&slot).insert(model)))
        };
        let loaded = tokio::task::spawn_blocking(load).await;
        let loaded = loaded.map_err(|_| ApiError::internal(format!("loading the model `{}` panicked", entry.name)))?;
        let model = loaded.map_err(|_| {
            ApiError::internal(format!("the model `{}` cannot be loaded; the server says why", entry.name))
        })?;
        entry.used.store(now(), Ordering::Relaxed);
        Ok(model)
    }

    /// Lets go of those that were not used for longest, and waits until there is room for one more. One that is busy is let
    /// go only if no other becomes idle, and those who ask for it then wait until it is loaded again.
    async fn make_room(&self, but: &Entry) {
        for turn in 0.. {
            let mut loaded: Vec<&Entry> =
                self.entries.iter().filter(|e| !std::ptr::eq(*e, but) && self.loaded(e)).collect();
            let leaving = self.leaving().len();
            let over = (loaded.len() + leaving + 1).saturating_sub(self.most);
            if over == 0 {
                return;
            }
            loaded.sort_by_key(|e| (!idle(e), e.used.load(Ordering::Relaxed)));
            // All who waited for a model have it a moment after it is loaded; it should not go before.
            let ripe = loaded.into_iter().filter(|e| turn >= PATIENCE || idle(e));
            for entry in ripe.take(over.saturating_sub(leaving)) {
                self.release(entry);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Those that were let go and that somebody has still.
    fn leaving(&self) -> Vec<Arc<Model>> {
        let mut leaving = self.leaving.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        leaving.retain(|model| model.strong_count() > 0);
        leaving.iter().filter_map(Weak::upgrade).collect()
    }

    /// Lets go of those that nobody used for so long.
    pub fn sweep(&self, idle_for: Duration) {
        let now = self.began.elapsed();
        for entry in &self.entries {
            let used = Duration::from_millis(entry.used.load(Ordering::Relaxed));
            if now.saturating_sub(used) >= idle_for && idle(entry) {
                self.release(entry);
            }
        }
    }

    /// Lets go of a model; requests that have it finish first. False if it was not loaded.
    pub fn release(&self, entry: &Entry) -> bool {
        let Some(model) = entry.slot().take() else { return false };
        let mut leaving = self.leaving.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        leaving.push(Arc::downgrade(&model));
        true
    }

    /// Ends every answer that is under way, and says why.
    pub fn stop(&self, why: &str) {
        let loaded = self.entries.iter().filter_map(|e| self.peek(e));
        for model in loaded.chain(self.leaving()) {
            if let Kind::Writer(writer) = &model.kind {
                writer.worker.stop(why);
            }
        }
    }

    /// Whether every model that is loaded can take requests.
    pub fn healthy(&self) -> bool {
        self.entries.iter().all(|e| match e.slot().as_ref().map(|m| &m.kind) {
            Some(Kind::Writer(writer)) => writer.worker.alive(),
            _ => true,
        })
    }
}

/// Whether it is loaded and nobody has it.
fn idle(entry: &Entry) -> bool {
    entry.slot().as_ref().is_some_and(|m| Arc::strong_count(m) == 1)
}
