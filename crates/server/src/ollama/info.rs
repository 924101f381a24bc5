//! `/api/tags`, `/api/ps`, `/api/show` and `/api/version`.

use super::{date, entry, tagged};
use crate::app::App;
use crate::body::Json;
use crate::error::ApiError;
use crate::models::{Entry, Kind, Task};
use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use utoipa::ToSchema;

/// Models.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::ModelList)]
pub struct ModelList {
    models: Vec<ModelLine>,
}

/// A model.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::ModelLine)]
pub struct ModelLine {
    name: String,
    model: String,
    modified_at: String,
    /// Bytes of its files.
    size: u64,
    details: Details,
    /// Tokens of a sequence at most.
    context_length: usize,
    /// Bytes on other devices than the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_vram: Option<u64>,
}

/// What a model is.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::Details)]
pub struct Details {
    parent_model: String,
    format: String,
    family: String,
    families: Vec<String>,
    parameter_size: String,
    quantization_level: String,
}

/// Which model to show.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ollama::ShowRequest)]
pub struct ShowRequest {
    /// The model; `:latest` may follow its name.
    pub model: String,
    /// There is no more to tell.
    pub verbose: Option<bool>,
}

/// What is known of a model.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::ShowResponse)]
pub struct ShowResponse {
    /// Its chat template. Known when the model is loaded.
    template: String,
    details: Details,
    #[schema(value_type = Object)]
    model_info: Map<String, Value>,
    capabilities: Vec<&'static str>,
    modified_at: String,
}

/// The program's version.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = ollama::Version)]
pub struct Version {
    version: &'static str,
}

/// A number of weights, as in `1.2B`.
fn size(n: u64) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.1}M", n / 1e6),
        n if n >= 1e3 => format!("{:.1}K", n / 1e3),
        n => format!("{n}"),
    }
}

fn details(entry: &Entry, parent: Option<&str>) -> Details {
    let facts = &entry.facts;
    Details {
        parent_model: parent.unwrap_or_default().to_owned(),
        format: facts.format.clone(),
        family: facts.architecture.clone(),
        families: vec![facts.architecture.clone()],
        parameter_size: size(facts.parameters),
        quantization_level: facts.quantization.clone(),
    }
}

fn modified(entry: &Entry) -> String {
    date(UNIX_EPOCH + Duration::from_secs(entry.facts.created))
}

/// A model and its adapters.
fn lines(entry: &Entry, vram: Option<u64>) -> Vec<ModelLine> {
    let line = |name: &str, parent: Option<&str>| ModelLine {
        name: tagged(name),
        model: tagged(name),
        modified_at: modified(entry),
        size: entry.facts.bytes,
        details: details(entry, parent),
        context_length: entry.facts.context,
        size_vram: vram,
    };
    let adapters = entry.adapters.iter().map(|(name, _)| line(name, Some(&entry.name)));
    [line(&entry.name, None)].into_iter().chain(adapters).collect()
}

/// All models.
#[utoipa::path(get, path = "/api/tags", tag = "Ollama", responses((status = 200, description = "The models", body = ModelList)))]
pub async fn tags(State(app): State<Arc<App>>) -> axum::Json<ModelList> {
    axum::Json(ModelList { models: app.models.entries().iter().flat_map(|e| lines(e, None)).collect() })
}

/// Those that are loaded.
#[utoipa::path(get, path = "/api/ps", tag = "Ollama", responses((status = 200, description = "Those that are loaded", body = ModelList)))]
pub async fn ps(State(app): State<Arc<App>>) -> axum::Json<ModelList> {
    let loaded = app.models.entries().iter().filter(|e| app.models.loaded(e));
    axum::Json(ModelList { models: loaded.flat_map(|e| lines(e, Some(0))).collect() })
}

/// One model. It is not loaded for that.
///
/// # Errors
/// There is none of that name.
#[utoipa::path(
    post,
    path = "/api/show",
    tag = "Ollama",
    request_body = ShowRequest,
    responses((status = 200, description = "What is known of the model", body = ShowResponse))
)]
pub async fn show(State(app): State<Arc<App>>, body: Json<ShowRequest>) -> Result<axum::Json<ShowResponse>, ApiError> {
    let (entry, name) = entry(&app, &body.value.model)?;
    let (facts, model) = (&entry.facts, app.models.peek(entry));
    let mut capabilities = vec![match facts.task {
        Task::Generate => "completion",
        Task::Embed => "embedding",
        Task::Rerank => "rerank",
    }];
    let mut template = String::new();
    if facts.task == Task::Generate {
        // Models that know nothing of tools are told of them in the prompt.
        capabilities.push("tools");
    }
    if let Some(model) = &model
        && let Kind::Writer(writer) = &model.kind
    {
        template = writer.speech.source().to_owned();
        if writer.reasons() {
            capabilities.push("thinking");
        }
        if model.tokenizer.fim().middle.is_some() {
            capabilities.push("insert");
        }
    }
    let architecture = &facts.architecture;
    let info = [
        ("general.architecture".to_owned(), Value::from(architecture.as_str())),
        ("general.parameter_count".to_owned(), facts.parameters.into()),
        (format!("{architecture}.context_length"), facts.context.into()),
    ];
    let parent = (name != entry.name).then_some(entry.name.as_str());
    Ok(axum::Json(ShowResponse {
        template,
        details: details(entry, parent),
        model_info: info.into_iter().collect(),
        capabilities,
        modified_at: modified(entry),
    }))
}

/// The program's version.
#[utoipa::path(get, path = "/api/version", tag = "Ollama", responses((status = 200, description = "The version", body = Version)))]
pub async fn version() -> axum::Json<Version> {
    axum::Json(Version { version: env!("CARGO_PKG_VERSION") })
}
