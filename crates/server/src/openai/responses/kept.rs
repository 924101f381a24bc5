//! Responses that are kept, and what can be done with them.

use super::items::Item;
use super::object::ResponseObject;
use super::owner;
use crate::app::App;
use crate::error::ApiError;
use crate::turns::aside;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{Extensions, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use utoipa::ToSchema;

/// Responses that a connection remembers at most.
const RECENT: usize = 8;

/// A response with everything that the model read before it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Whose it is.
    pub owner: String,
    /// The place of the first item that was sent with it.
    pub own: usize,
    /// What the model read.
    pub items: Vec<Item>,
    /// What it answered.
    pub response: ResponseObject,
}

/// What a connection remembers of responses that are not kept.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<VecDeque<Kept>>>);

impl Recent {
    fn find(&self, id: &str) -> Option<Kept> {
        let list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|kept| kept.response.id == id).cloned()
    }

    fn add(&self, kept: Kept) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What goes on from a response has all of it.
        if let Some(previous) = &kept.response.previous_response_id {
            list.retain(|k| k.response.id != *previous);
        }
        list.push_back(kept);
        while list.len() > RECENT {
            list.pop_front();
        }
    }

    /// Forgets a response.
    pub fn remove(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|kept| kept.response.id != id);
    }
}

/// Finds and keeps responses for somebody.
pub struct Keeper {
    app: Arc<App>,
    owner: String,
    recent: Option<Recent>,
}

impl Keeper {
    /// For who sent a request.
    pub fn of(app: &Arc<App>, extensions: &Extensions) -> Keeper {
        Keeper { app: Arc::clone(app), owner: owner(extensions), recent: extensions.get::<Recent>().cloned() }
    }

    /// Whose.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// A response that is theirs.
    pub async fn get(&self, id: &str) -> Option<Kept> {
        if let Some(kept) = self.recent.as_ref().and_then(|r| r.find(id)) {
            return Some(kept);
        }
        let (app, id) = (Arc::clone(&self.app), id.to_owned());
        // The disk may be slow.
        let data = aside(move || app.store.get(&id)).await.ok()??;
        let kept: Kept = serde_json::from_slice(&data).ok()?;
        (kept.owner == self.owner).then_some(kept)
    }

    /// An item of one of their responses. Its name has that of the response in it.
    pub async fn item(&self, name: &str) -> Option<Item> {
        let stem = name.split('_').nth(1)?;
        let kept = self.get(&format!("resp_{stem}")).await?;
        kept.items.into_iter().chain(kept.response.output).find(|item| item.id() == name)
    }

    /// Keeps a response if it is to be kept.
    ///
    /// # Errors
    /// There is no room for it.
    pub async fn put(&self, kept: Kept) -> Result<(), ApiError> {
        let kept = Kept { owner: self.owner.clone(), ..kept };
        if !kept.response.store {
            if let Some(recent) = &self.recent {
                recent.add(kept);
            }
            return Ok(());
        }
        let app = Arc::clone(&self.app);
        let put = move || {
            let data = serde_json::to_vec(&kept).map_err(std::io::Error::from)?;
            let put = app.store.put(&kept.response.id, data);
            put.inspect_err(|e| app.log.warn(&format!("the response {} is not kept: {e}", kept.response.id)))
        };
        aside(put).await?.map_err(|e| {
            let what = format!("the answer is written but cannot be kept: {e}; ask with `store` false");
            ApiError::status(StatusCode::INSUFFICIENT_STORAGE, "server_error", what).code("storage_full")
        })
    }
}

async fn need(keeper: &Keeper, id: &str) -> Result<Kept, ApiError> {
    keeper.get(id).await.ok_or_else(|| none(id))
}

fn none(id: &str) -> ApiError {
    let what = format!("there is no response `{}` here, or it is no longer kept", alula_format::clip_to(id, 100));
    ApiError::not_found("response_not_found", what)
}

/// Parameters, each of a name that is known.
fn known(query: &HashMap<String, String>, names: &[&str]) -> Result<(), ApiError> {
    let unknown = query.keys().find(|k| !names.contains(&k.as_str()));
    unknown.map_or(Ok(()), |name| {
        let name = alula_format::clip_to(name, 60);
        Err(ApiError::field(&name, format!("the parameter `{name}` is not supported; leave it out"))
            .code("unknown_field"))
    })
}

/// A response that is kept.
///
/// # Errors
/// There is none of that name.
#[utoipa::path(get, path = "/v1/responses/{id}", tag = "OpenAI", params(
    ("id" = String, Path, description = "The response"),
    ("stream" = Option<bool>, Query, description = "Only false"),
), responses((status = 200, description = "The response", body = ResponseObject), (status = 404, description = "There is none of that name", body = crate::error::ErrorBody)))]
pub async fn show(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<ResponseObject>, ApiError> {
    known(&query, &["stream"])?;
    if query.get("stream").is_some_and(|s| s != "false") {
        let what = "`stream`: a response that is kept is whole; leave it out, or see x-alula-resume for streams that break off";
        return Err(ApiError::field("stream", what));
    }
    Ok(Json(need(&Keeper::of(&app, &extensions), &id).await?.response))
}

/// A response that is not kept any more.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeletedResponse {
    id: String,
    object: &'static str,
    deleted: bool,
}

/// Forgets a response.
///
/// # Errors
/// There is none of that name.
#[utoipa::path(delete, path = "/v1/responses/{id}", tag = "OpenAI", params(("id" = String, Path, description = "The response")), responses(
    (status = 200, description = "It is forgotten", body = DeletedResponse), (status = 404, description = "There is none of that name", body = crate::error::ErrorBody),
))]
pub async fn delete(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    Path(id): Path<String>,
) -> Result<Json<DeletedResponse>, ApiError> {
    need(&Keeper::of(&app, &extensions), &id).await?;
    let name = id.clone();
    match aside(move || app.store.remove(&name)).await? {
        true => Ok(Json(DeletedResponse { id, object: "response", deleted: true })),
        false => Err(none(&id)),
    }
}

/// Items that were sent with a response.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemList {
    object: &'static str,
    data: Vec<Item>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// Items that were sent with a response, newest first.
///
/// # Errors
/// There is no response of that name, or a parameter is wrong.
#[utoipa::path(get, path = "/v1/responses/{id}/input_items", tag = "OpenAI", params(
    ("id" = String, Path, description = "The response"),
    ("limit" = Option<u32>, Query, minimum = 1, maximum = 100, description = "Items at most"),
    ("order" = Option<String>, Query, description = "`asc` or `desc`"),
    ("after" = Option<String>, Query, description = "The item before the first"),
), responses((status = 200, description = "Its items", body = ItemList), (status = 404, description = "There is none of that name", body = crate::error::ErrorBody)))]
pub async fn inputs(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<ItemList>, ApiError> {
    known(&query, &["limit", "order", "after"])?;
    let limit = query.get("limit").map_or(Some(20), |l| l.parse().ok().filter(|l| (1..=100).contains(l)));
    let limit = limit.ok_or_else(|| ApiError::field("limit", "`limit` must be a number between 1 and 100"))?;
    let mut items = need(&Keeper::of(&app, &extensions), &id).await?;
    let mut list = items.items.split_off(items.own.min(items.items.len()));
    match query.get("order").map(String::as_str) {
        Some("asc") => {}
        None | Some("desc") => list.reverse(),
        Some(_) => return Err(ApiError::field("order", "`order` must be `asc` or `desc`")),
    }
    if let Some(after) = query.get("after") {
        let at = list.iter().position(|item| item.id() == after);
        let at = at.ok_or_else(|| ApiError::field("after", "`after` names no item of this response"))?;
        list.drain(..=at);
    }
    let has_more = list.len() > limit;
    list.truncate(limit);
    let id = |item: Option<&Item>| item.map(|i| i.id().to_owned());
    let (first_id, last_id) = (id(list.first()), id(list.last()));
    Ok(Json(ItemList { object: "list", data: list, first_id, last_id, has_more }))
}

/// Stops a response that is being written: its stream ends with what there is.
///
/// # Errors
/// There is none of that name, or it is over.
#[utoipa::path(post, path = "/v1/responses/{id}/cancel", tag = "OpenAI", params(("id" = String, Path, description = "The response")), responses(
    (status = 200, description = "It ends", body = CancelledResponse), (status = 404, description = "There is none of that name", body = crate::error::ErrorBody),
))]
pub async fn cancel(
    State(app): State<Arc<App>>,
    extensions: Extensions,
    Path(id): Path<String>,
) -> Result<Json<CancelledResponse>, ApiError> {
    let keeper = Keeper::of(&app, &extensions);
    if app.active.cancel(&id, keeper.owner()) {
        return Ok(Json(CancelledResponse { id, object: "response", status: "cancelled" }));
    }
    need(&keeper, &id).await?;
    Err(ApiError::invalid("the response is over; only one that is being written can be cancelled")
        .code("response_over"))
}

/// A response that is stopped.
#[derive(Debug, Serialize, ToSchema)]
pub struct CancelledResponse {
    id: String,
    object: &'static str,
    status: &'static str,
}
