//! `/v1/models`.

use crate::app::App;
use crate::error::{ApiError, ErrorBody};
use crate::models::{Entry, Task};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// All models.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelList {
    object: &'static str,
    data: Vec<ModelObject>,
}

/// A model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelObject {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    /// Tokens of a sequence at most.
    max_model_len: usize,
    /// The model that an adapter belongs to.
    parent: Option<String>,
    /// Whether it is loaded.
    loaded: bool,
    /// What it is for: `generate` (/v1/chat/completions and the like), `embed` (/v1/embeddings) or `rerank` (/v1/rerank).
    task: Task,
}

fn objects(app: &App, entry: &Entry) -> Vec<ModelObject> {
    let loaded = app.models.loaded(entry);
    let object = |id: &str, parent: Option<String>| ModelObject {
        id: id.to_owned(),
        object: "model",
        created: entry.facts.created,
        owned_by: "alula",
        max_model_len: entry.facts.context,
        parent,
        loaded,
        task: entry.facts.task,
    };
    let adapters = entry.adapters.iter().map(|(name, _)| object(name, Some(entry.name.clone())));
    [object(&entry.name, None)].into_iter().chain(adapters).collect()
}

/// All models.
#[utoipa::path(get, path = "/v1/models", tag = "OpenAI", responses((status = 200, description = "The models", body = ModelList)))]
pub async fn list(State(app): State<Arc<App>>) -> axum::Json<ModelList> {
    let data = app.models.entries().iter().flat_map(|e| objects(&app, e)).collect();
    axum::Json(ModelList { object: "list", data })
}

/// One model.
///
/// # Errors
/// There is none of that name.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    tag = "OpenAI",
    params(("model" = String, Path, description = "Its name; may have slashes")),
    responses(
        (status = 200, description = "The model", body = ModelObject),
        (status = 404, description = "There is none of that name", body = ErrorBody),
    )
)]
pub async fn show(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
) -> Result<axum::Json<ModelObject>, ApiError> {
    let Path(name) = name.map_err(|_| ApiError::field("model", "the model's name is not valid UTF-8"))?;
    let (entry, _) = app.models.entry(Some(&name))?;
    let object = objects(&app, entry).into_iter().find(|o| o.id == name);
    object.map(axum::Json).ok_or_else(|| ApiError::internal("a model without a name"))
}
