//! `/models/load` and `/models/unload`, as llama-server has them: for who runs the server.

use crate::app::App;
use crate::body::Json;
use crate::error::ApiError;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// Which model.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ManageRequest {
    /// The model, or one of its adapters.
    pub model: String,
}

/// It is done.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ManageResponse {
    success: bool,
}

/// Loads a model, unless it is loaded.
///
/// # Errors
/// There is none of that name, or it cannot be loaded.
#[utoipa::path(
    post,
    path = "/models/load",
    tag = "Models",
    request_body = ManageRequest,
    responses((status = 200, description = "It is loaded", body = ManageResponse))
)]
pub async fn load(
    State(app): State<Arc<App>>,
    body: Json<ManageRequest>,
) -> Result<axum::Json<ManageResponse>, ApiError> {
    let (entry, _) = app.models.entry(Some(&body.value.model))?;
    app.models.ready(entry).await?;
    Ok(axum::Json(ManageResponse { success: true }))
}

/// Lets go of a model; requests that have it end first.
///
/// # Errors
/// There is none of that name, or it is not loaded.
#[utoipa::path(
    post,
    path = "/models/unload",
    tag = "Models",
    request_body = ManageRequest,
    responses((status = 200, description = "It is not loaded any more", body = ManageResponse))
)]
pub async fn unload(
    State(app): State<Arc<App>>,
    body: Json<ManageRequest>,
) -> Result<axum::Json<ManageResponse>, ApiError> {
    let name = &body.value.model;
    let (entry, _) = app.models.entry(Some(name))?;
    if !app.models.release(entry) {
        let what = format!("the model `{}` is not loaded", alula_format::clip_to(name, 100));
        return Err(ApiError::field("model", what));
    }
    Ok(axum::Json(ManageResponse { success: true }))
}
