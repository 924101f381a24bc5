//! `alula serve`: models over HTTP.

use super::show::header::Header;
use crate::cli::{self, Serve};
use crate::models::{self, BUILTIN, Place};
use crate::{Fail, open, say};
use alula_device::{CpuDevice, Device, PAGE};
use alula_engine::embed::{self, Embedder, Ranker, Recipe};
use alula_engine::local::{LoadOptions, Mapped, Package, Words, usual_context};
use alula_engine::speech::Speech;
use alula_engine::{Engine, Options, Speculation};
use alula_model::Head;
use alula_server::log::LogConfig;
use alula_server::models::{Entry, Facts, Kind, Model, Models, Task, Writer};
use alula_server::tls::TlsConfig;
use alula_server::trace::Traces;
use alula_server::worker::Worker;
use alula_server::{App, Config, Server};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Tokens in a step.
const STEP: usize = 512;
/// Rows of a step with guesses.
const GUESSES: usize = 16;
/// How long answers have to say that they end, when all must end at once.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// `alula serve [[NAME=]MODEL…]`.
pub fn serve(a: Box<Serve>) -> Result<(), Fail> {
    let config = config(&a);
    let a: Arc<Serve> = Arc::from(a);
    let named = match a.models.is_empty() {
        true => vec![(BUILTIN.to_owned(), Place::Builtin)],
        false => a.models.iter().map(|text| name(text)).collect::<Result<_, _>>()?,
    };
    if named.len() > 1 && !a.lora.lora.is_empty() {
        return Err("--lora is for one model, and there are several".into());
    }
    let most = a.max_loaded.map_or(named.len(), usize::from);
    let entries = named.into_iter().map(|(name, place)| entry(name, place, &a)).collect::<Result<_, _>>()?;
    let mut app = App::new(config, Models::new(entries, most)?);
    app.traces = Traces::new(app.config.otlp_endpoint.as_deref())?;
    app.reload(&app.config)?;
    app.store.open().map_err(|e| format!("--store {}: {e}", a.store.as_deref().unwrap_or(Path::new("")).display()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(run(app, a.idle_timeout));
    // A model that is being loaded is not waited for.
    runtime.shutdown_background();
    ended
}

/// Listens, loads, serves, ends.
async fn run(app: App, idle: Option<Duration>) -> Result<(), Fail> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let hangup = signal(SignalKind::hangup())?;
    let place = app.config.address();
    let server = Server::bind(app).await.map_err(|e| {
        let what = if e.kind() == std::io::ErrorKind::AddrInUse { "; choose another --port" } else { "" };
        format!("cannot listen on {place}: {e}{what}")
    })?;
    let (app, address) = (server.app(), server.address()?);
    let (told, asked) = tokio::sync::oneshot::channel();
    let (again, mut twice) = tokio::sync::mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let name = tokio::select! { _ = term.recv() => "SIGTERM", _ = int.recv() => "SIGINT" };
        say(format_args!("alula: {name}: answers under way may end, new ones are refused; once more ends all at once"));
        _ = told.send(());
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        drop(again);
    });
    tokio::spawn(reload(Arc::clone(&app), hangup));
    let mut serving = tokio::spawn(server.run(Box::pin(async move { _ = asked.await })));
    // Who asks is answered while models load; they are loaded in the order that they were given in.
    let most = app.models.most();
    for entry in app.models.entries().iter().take(most) {
        tokio::select! {
            ready = app.models.ready(entry) => {
                ready?;
            }
            over = &mut serving => return Ok(over?),
            _ = twice.recv() => return Ok(()),
        }
    }
    app.set_ready(true);
    let (name, task) = app.models.entries().first().map_or(("", Task::Generate), |e| (&e.name, e.facts.task));
    let scheme = if app.config.tls.is_some() { "https" } else { "http" };
    say(format_args!("alula: serving {} on {scheme}://{address}", names(&app.models)));
    let key = if app.keys().needed() { " -H \"Authorization: Bearer $ALULA_API_KEY\"" } else { "" };
    let (path, body) = match task {
        Task::Generate => ("chat/completions", r#""messages": [{"role": "user", "content": "Hello"}]"#),
        Task::Embed => ("embeddings", r#""input": "Hello""#),
        Task::Rerank => ("rerank", r#""query": "Who sings?", "documents": ["A bird sings.", "It rains."]"#),
    };
    say(format_args!(
        "  curl {scheme}://{address}/v1/{path}{key} -H 'Content-Type: application/json' \\\n    -d '{{\"model\": \"{name}\", {body}}}'"
    ));
    if let Some(idle) = idle {
        let app = Arc::clone(&app);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep((idle / 4).max(Duration::from_millis(100))).await;
                app.models.sweep(idle);
            }
        });
    }
    tokio::select! {
        over = serving => over?,
        _ = twice.recv() => {
            app.models.stop("the server is shutting down");
            tokio::time::sleep(LAST_WORDS).await;
        }
    }
    Ok(())
}

/// Reads keys, limits and certificates anew at each SIGHUP; wrong ones change nothing.
async fn reload(app: Arc<App>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        let rules = cli::config::again().and_then(|a| Ok(app.reload(&config(&a))?));
        match rules {
            Ok(changes) if changes.is_empty() => say("alula: SIGHUP: nothing has changed"),
            Ok(changes) => say(format_args!("alula: SIGHUP: {}", changes.join(", "))),
            Err(e) => say(format_args!("alula: SIGHUP: everything stays as it was: {e}")),
        }
    }
}

fn names(models: &Models) -> String {
    models.entries().iter().map(|e| e.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The settings that the flags ask for.
fn config(a: &Serve) -> Config {
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    let tls = a.tls_cert.clone().zip(a.tls_key.clone());
    Config {
        host: a.host,
        port: a.port,
        insecure: a.insecure,
        api_keys: a.api_key.clone(),
        keys: a.keys.clone(),
        limits: a.limits.limits(),
        cors_origins: a.cors_origin.clone(),
        tls: tls.map(|(cert, key)| TlsConfig { cert, key, client_ca: a.tls_client_ca.clone() }),
        log: LogConfig { format: a.log_format.into(), level: a.log_level.into(), content: a.log_content },
        metrics_per_key: a.metrics_per_key,
        otlp_endpoint: a.otlp_endpoint.clone(),
        lenient: a.lenient,
        max_body: size(a.max_body),
        body_timeout: a.body_timeout,
        header_timeout: a.header_timeout,
        max_header: size(a.max_header),
        write_timeout: a.write_timeout,
        resume_grace: a.resume_grace,
        max_connections: size(a.max_connections.into()),
        request_timeout: a.request_timeout,
        drain_timeout: a.drain_timeout,
        store: a.store.clone(),
        store_size: if a.no_store { 0 } else { size(a.store_size) },
        store_age: a.store_age,
        ..Config::default()
    }
}

/// `MODEL` or `NAME=MODEL`.
fn name(text: &str) -> Result<(String, Place), Fail> {
    if let Some((name, model)) = text.split_once('=')
        && models::find(text).is_none()
        && !name.is_empty()
    {
        return Ok((name.to_owned(), models::need(model)?));
    }
    let place = models::need(text)?;
    let name = match &place {
        Place::Builtin => BUILTIN.to_owned(),
        Place::Path(path) => {
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            let file = path.file_name().map_or_else(|| text.into(), |f| f.to_string_lossy());
            file.strip_suffix(".gguf").unwrap_or(&file).to_owned()
        }
    };
    Ok((name, place))
}

/// A model by name, with what is known before it is loaded.
fn entry(name: String, place: Place, a: &Arc<Serve>) -> Result<Entry, Fail> {
    let header = Header::open(&place)?;
    let (package, adapters) = open::adapt(place.open()?, &a.lora)?;
    let spec = package.model.spec();
    let facts = Facts {
        created: created(&place),
        context: a.load.ctx.unwrap_or(usual_context(spec)),
        bytes: header.size().0,
        parameters: header.parameters(),
        architecture: package.model.arch().to_owned(),
        quantization: header.types().first().map(|t| t.name.clone()).unwrap_or_default(),
        format: header.format(),
        task: task(&package),
    };
    let adapters = adapters.names().map(|(name, scale)| (name.to_owned(), scale)).collect();
    let args = Arc::clone(a);
    let called = name.clone();
    // Clients are not told where files lie.
    let load = move || load(&place, &args).inspect_err(|e| eprintln!("alula: {called} cannot be loaded: {e}"));
    Ok(Entry::new(name, adapters, facts, Box::new(load)))
}

/// When a model's files were written, in seconds since 1970.
fn created(place: &Place) -> u64 {
    let time = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    let time = match place {
        Place::Builtin => None,
        Place::Path(path) => time(path),
    };
    time.and_then(|t: SystemTime| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_secs())
}

/// What a model is for.
fn task(package: &Package) -> Task {
    match package.model.spec().head {
        Head::Vocabulary if !Recipe::said(package) => Task::Generate,
        _ if Ranker::check(package).is_ok() => Task::Rerank,
        _ => Task::Embed,
    }
}

/// Makes a model ready.
fn load(place: &Place, a: &Serve) -> Result<Model, Fail> {
    let (package, _) = open::adapt(place.open()?, &a.lora)?;
    let tokenizer = Arc::new(package.tokenizer()?);
    let (kind, files) = match task(&package) {
        Task::Generate => {
            let (writer, files) = writer(&package, Arc::clone(&tokenizer), a)?;
            (Kind::Writer(Box::new(writer)), files)
        }
        Task::Rerank => {
            let options = embed::options(usual_context(package.model.spec()), open::cache(a.load.cache_type));
            let local = package.load(&open::device(a.load.compute)?, keep(options, a), &mut |_, _| {})?;
            let files = vec![local.files().clone()];
            (Kind::Ranker(Arc::new(tokio::sync::Mutex::new(Ranker::new(local, (*tokenizer).clone())))), files)
        }
        Task::Embed => {
            let recipe = Recipe::of(&package)?;
            let (dimensions, package) = (package.model.spec().width, package.with_head(recipe.head())?);
            let options = embed::options(recipe.longest, open::cache(a.load.cache_type));
            let local = package.load(&open::device(a.load.compute)?, keep(options, a), &mut |_, _| {})?;
            let files = vec![local.files().clone()];
            let embedder = Embedder::new(local, (*tokenizer).clone(), recipe, dimensions);
            (Kind::Embedder(Arc::new(tokio::sync::Mutex::new(embedder))), files)
        }
    };
    let fresh = Box::new(move || files.iter().all(Mapped::are_sound));
    Ok(Model { tokenizer, kind, fresh })
}

fn keep(options: LoadOptions, a: &Serve) -> LoadOptions {
    LoadOptions { keep: open::keep(a.load.no_cache), ..options }
}

/// An engine in a thread of its own, and the files that it reads.
fn writer(
    package: &Package,
    tokenizer: Arc<alula_tokenizer::Tokenizer>,
    a: &Serve,
) -> Result<(Writer, Vec<Mapped>), Fail> {
    let speech = Speech::new(package, Arc::clone(&tokenizer))?;
    let shown = Writer::shown(&speech, &tokenizer);
    let words = Arc::new(Words::new(Arc::clone(&tokenizer), package.end_ids()).showing(shown));
    let parallel = usize::from(a.parallel);
    let context = a.load.ctx.unwrap_or(usual_context(package.model.spec()));
    let options = LoadOptions {
        context: Some(context),
        cache: open::cache(a.load.cache_type),
        guess: a.load.mtp,
        sequences: parallel,
        // Guesses have rows of their own, where few requests run.
        outputs: (parallel * 2).max(GUESSES),
        step_tokens: STEP.max(parallel),
        checkpoints: parallel,
        ..LoadOptions::default()
    };
    let device = open::device(a.load.compute)?;
    let options = LoadOptions { pages: Some(pages(package, &device, &options, context, a)?), ..keep(options, a) };
    let local = package.load(&device, options.clone(), &mut |_, _| {})?;
    let mut files = vec![local.files().clone()];
    let speculation = Speculation { lookup: a.lookup.into(), ..Speculation::default() };
    let (waiting, waiting_tokens) = (a.max_queue, a.max_queue_tokens);
    let how = Options { running: parallel, waiting, waiting_tokens, speculation, ..Options::default() };
    let engine = match &a.draft {
        None => Engine::new(local, Some(words), how),
        Some(draft) => {
            let draft = models::need(draft)?.open()?;
            let options = LoadOptions { step_tokens: options.step_tokens + parallel, guess: false, ..options };
            let draft = draft.load(&device, options, &mut |_, _| {})?;
            files.push(draft.files().clone());
            Engine::with_draft(local, Box::new(draft), Some(words), how)?
        }
    };
    let context = engine.context();
    let worker = Worker::start(&package.name, engine)?;
    let writer = Writer::new(worker, speech, context, &tokenizer, &package.end_ids());
    Ok((writer.embedding(Recipe::of(package)?, package.model.spec().width), files))
}

/// Cache pages: for every answer its whole context, within the memory that there is for them, but for one of them at least.
fn pages(
    package: &Package,
    device: &CpuDevice,
    options: &LoadOptions,
    context: usize,
    a: &Serve,
) -> Result<usize, Fail> {
    let (least, most) = (context.div_ceil(PAGE), context.div_ceil(PAGE).saturating_mul(options.sequences));
    let graph = package.model.graph();
    let cache = |pages: usize| -> Result<usize, Fail> {
        let limits = LoadOptions { pages: Some(pages), ..options.clone() }.limits(context);
        Ok(device.needs(graph, package.model.weights(), limits)?.memory.cache)
    };
    // The cache grows evenly with its pages, beside what is there without any.
    let (one, two) = (cache(1)?, cache(2)?);
    let (page, fixed) = (two.saturating_sub(one), one.saturating_sub(two.saturating_sub(one)));
    let memory = a.cache_memory.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let room = memory.unwrap_or_else(|| alula_device::available().map_or(usize::MAX, |n| n / 4)).saturating_sub(fixed);
    let pages = room.checked_div(page).unwrap_or(most).min(most);
    if pages < least && a.cache_memory.is_some() {
        let need = page.saturating_mul(least).saturating_add(fixed);
        return Err(format!(
            "--cache-memory holds {} tokens, but an answer may need {context}: give {need} bytes or a shorter --ctx",
            pages * PAGE
        )
        .into());
    }
    Ok(pages.max(least))
}
