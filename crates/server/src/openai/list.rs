//! `/v1/models`.

use crate::app::App;
use crate::error::ApiError;
use crate::models::{Entry, Task};
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
pub async fn list(State(app): State<Arc<App>>) -> axum::Json<ModelList> {
    let data = app.models.entries().iter().flat_map(|e| objects(&app, e)).collect();
    axum::Json(ModelList { object: "list", data })
}

/// One model.
///
/// # Errors
/// There is none of that name.
pub async fn show(State(app): State<Arc<App>>, Path(name): Path<String>) -> Result<axum::Json<ModelObject>, ApiError> {
    let (entry, _) = app.models.entry(Some(&name))?;
    let object = objects(&app, entry).into_iter().find(|o| o.id == name);
    object.map(axum::Json).ok_or_else(|| ApiError::internal("a model without a name"))
}
