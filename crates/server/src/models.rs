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
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use utoipa::ToSchema;

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
        Writer { worker, speech, context, format, ends, vocabulary: OnceLock::new(), recipe: None }
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

/// A model by name.
pub struct Entry {
    /// What requests call it.
    pub name: String,
    /// Its adapters by name, with their factors; each can be called like a model.
    pub adapters: Vec<(String, f32)>,
    /// What is known of it.
    pub facts: Facts,
    load: Arc<Load>,
    slot: std::sync::Mutex<Option<Arc<Model>>>,
    /// Held while it is loaded.
    loading: Mutex<()>,
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
            slot: std::sync::Mutex::default(),
            loading: Mutex::new(()),
            used: AtomicU64::new(0),
            timer: std::sync::Mutex::new(None),
        }
    }

    /// The model, if it is loaded. Nobody waits while it is locked.
    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Model>>> {
        self.slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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
    /// Held while room is made for one that is loaded.
    door: Mutex<()>,
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
        Ok(Models { entries, began: Instant::now(), most: most.max(1), door: Mutex::new(()) })
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
                if over || idle(entry) && unload(entry) {
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
        let there = || entry.slot().as_ref().map(Arc::clone);
        if let Some(model) = there() {
            return Ok(model);
        }
        let _loading = entry.loading.lock().await;
        if let Some(model) = there() {
            return Ok(model);
        }
        let _door = self.door.lock().await;
        self.make_room(entry);
        let load = Arc::clone(&entry.load);
        let loaded = tokio::task::spawn_blocking(move || load()).await;
        let loaded = loaded.map_err(|_| ApiError::internal(format!("loading the model `{}` panicked", entry.name)))?;
        let model =
            loaded.map_err(|e| ApiError::internal(format!("the model `{}` cannot be loaded: {e}", entry.name)))?;
        entry.used.store(now(), Ordering::Relaxed);
        Ok(Arc::clone(entry.slot().insert(Arc::new(model))))
    }

    /// Lets go of those that were not used for longest until there is room for one more.
    fn make_room(&self, but: &Entry) {
        let mut loaded: Vec<&Entry> =
            self.entries.iter().filter(|e| !std::ptr::eq(*e, but) && self.loaded(e)).collect();
        loaded.sort_by_key(|e| e.used.load(Ordering::Relaxed));
        let over = (loaded.len() + 1).saturating_sub(self.most);
        for entry in loaded.into_iter().filter(|e| idle(e)).take(over) {
            unload(entry);
        }
    }

    /// Lets go of those that nobody used for so long.
    pub fn sweep(&self, idle_for: Duration) {
        let now = self.began.elapsed();
        for entry in &self.entries {
            let used = Duration::from_millis(entry.used.load(Ordering::Relaxed));
            if now.saturating_sub(used) >= idle_for && idle(entry) {
                unload(entry);
            }
        }
    }

    /// Lets go of a model; requests that have it finish first. False if it was not loaded.
    pub fn release(&self, entry: &Entry) -> bool {
        unload(entry)
    }

    /// Ends every answer that is under way, and says why.
    pub fn stop(&self, why: &str) {
        for entry in &self.entries {
            if let Some(Kind::Writer(writer)) = entry.slot().as_ref().map(|m| &m.kind) {
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

fn unload(entry: &Entry) -> bool {
    entry.slot().take().is_some()
}
