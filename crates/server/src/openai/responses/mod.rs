//! `/v1/responses` (Open Responses, openresponses.org, which is OpenAI's Responses API without its hosted tools).
//!
//! A response is kept unless the request says `store: false`: in memory, within limits of size and age, or in the directory
//! of `--store`. Who asks with another key does not find it.

pub mod events;
pub mod items;
pub mod kept;
pub mod object;
pub mod request;

use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::dialogue::{self, Deltas, Form, Talk, ToolChoice};
use crate::error::ApiError;
use crate::generate;
use crate::models::Found;
use crate::openai::messages::for_template;
use crate::sse;
use crate::turns::naming;
use axum::extract::State;
use axum::http::Extensions;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use events::Scribe;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use items::{Input, Item};
use kept::{Keeper, Kept};
use object::{ResponseEvent, Truncation};
use request::{Asked, CreateResponse};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Notify;

/// Who owns what a request leaves behind.
pub fn owner(of: &Extensions) -> String {
    of.get::<Caller>().and_then(Caller::key).map_or_else(String::new, |key| format!("{:016x}", key.group()))
}

/// Responses that are being written, so that they can be cancelled.
#[derive(Debug, Default)]
pub struct Active(Mutex<HashMap<String, (String, Arc<Notify>)>>);

impl Active {
    /// Cancels a response. False if it is not being written, or somebody else's.
    pub fn cancel(&self, id: &str, owner: &str) -> bool {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = open.get(id).filter(|(of, _)| of == owner);
        found.inspect(|(_, notify)| notify.notify_one()).is_some()
    }
}

/// A response that is being written; dropping it takes it off the list.
struct Writing {
    app: Arc<App>,
    id: String,
    stop: Arc<Notify>,
}

impl Writing {
    fn new(app: &Arc<App>, id: &str, owner: &str) -> Writing {
        let stop = Arc::new(Notify::new());
        let mut open = app.active.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(id.to_owned(), (owner.to_owned(), Arc::clone(&stop)));
        Writing { app: Arc::clone(app), id: id.to_owned(), stop }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.app.active.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Answers.
///
/// # Errors
/// The request is wrong, the model or the response before is not there, too much is waiting, or the answer cannot be kept.
#[utoipa::path(post, path = "/v1/responses", tag = "OpenAI", request_body = CreateResponse, responses(
    (status = 200, description = "The answer, or with `stream` its events", content(
        (object::ResponseObject = "application/json"), (object::ResponseEvent = "text/event-stream")
    )),
    (status = 507, description = "The answer cannot be kept", body = crate::error::ErrorBody),
))]
pub async fn create(
    State(app): State<Arc<App>>,
    caller: Caller,
    extensions: Extensions,
    body: Json<CreateResponse>,
) -> Result<Response, ApiError> {
    let Json { value: mut request, ignored } = body;
    let streams = request.stream == Some(true);
    let keeper = Keeper::of(&app, &extensions);
    if request.store == Some(true) && !app.store.keeps() {
        return Err(ApiError::field("store", "`store` is true, but this server keeps no responses; leave it out"));
    }
    let store = request.store.unwrap_or(app.store.keeps());
    let found = app.models.find(request.model.as_deref()).await?;
    let id = generate::name("resp_")?;
    let Asked { job, tools, choice, form, extra, mut response } = request.asked(&app, &found, id.clone(), store)?;
    let (mut items, own) = gather(&mut request, &keeper, &id).await?;
    let (instructions, parallel) = (request.instructions.as_deref(), response.parallel_tool_calls);
    let part = Part { found: &found, instructions, tools, choice, parallel, form, extra };
    if response.truncation == Truncation::Auto {
        response.truncated_items = part.shorten(&mut items, response.max_output_tokens).await?;
    }
    let own = own.min(items.len());
    let talk = part.talk(&items)?;
    let writing = Writing::new(&app, &id, keeper.owner());
    let deltas = dialogue::start(&caller, &found, job, talk).await.map_err(ours)?;
    let scribe = Scribe::new(response, Arc::clone(&found.model.tokenizer));
    let must = request.store == Some(true);
    let turn = Turn { deltas, scribe, keeper, items, own, writing, begun: false, must };
    let response = match streams {
        true => {
            let events = turn.events().map(|e| Ok(sse(&e)));
            sse::of(events.chain(stream::once(async { Ok(Event::default().data("[DONE]")) })))
        }
        false => axum::Json(turn.whole().await?).into_response(),
    };
    Ok(naming(&ignored, response))
}

fn sse(event: &ResponseEvent) -> Event {
    Event::default().event(event.body.name()).data(crate::sse::line(event))
}

/// All items that the model reads, and the place of the first one of this request.
async fn gather(request: &mut CreateResponse, keeper: &Keeper, id: &str) -> Result<(Vec<Item>, usize), ApiError> {
    let mut items = Vec::new();
    if let Some(previous) = &request.previous_response_id {
        let Some(Kept { items: before, response, .. }) = keeper.get(previous).await else {
            let what = format!(
                "`previous_response_id`: there is no response `{}` here, or it is no longer kept; send the conversation as `input`",
                alula_format::clip_to(previous, 100)
            );
            return Err(ApiError::field("previous_response_id", what).code("previous_response_not_found"));
        };
        items = before;
        items.extend(response.output);
    }
    let own = items.len();
    let Some(input) = request.input.take() else {
        return Err(ApiError::field("input", "the field `input` is missing").code("missing_field"));
    };
    let stem = id.strip_prefix("resp_").unwrap_or(id);
    for (at, input) in items::read(input, &|prefix, at| format!("{prefix}_{stem}_i{at}"))?.into_iter().enumerate() {
        items.push(match input {
            Input::Item(item) => item,
            Input::Reference(name) => keeper.item(&name).await.ok_or_else(|| {
                let what = format!(
                    "`input[{at}].id`: no item `{}` is kept here; send the item itself",
                    alula_format::clip_to(&name, 100)
                );
                ApiError::field(format!("input[{at}].id"), what).code("item_not_found")
            })?,
        });
    }
    if items.is_empty() && request.instructions.is_none() {
        return Err(ApiError::field("input", "`input` is empty: give at least one item"));
    }
    Ok((items, own))
}

/// A conversation but for its items.
struct Part<'a> {
    found: &'a Found,
    instructions: Option<&'a str>,
    tools: Vec<alula_dialog::Tool>,
    choice: ToolChoice,
    parallel: bool,
    form: Form,
    extra: Map<String, Value>,
}

impl Part<'_> {
    fn talk(&self, items: &[Item]) -> Result<Talk, ApiError> {
        let source = self.found.model.writer(&self.found.name)?.speech.source();
        let messages = items::messages(items, self.instructions)?;
        Ok(Talk {
            messages: for_template(messages, source.contains("developer")).map_err(ours)?,
            tools: self.tools.clone(),
            choice: self.choice.clone(),
            parallel: self.parallel,
            form: self.form.clone(),
            form_field: "text.format",
            extra: self.extra.clone(),
        })
    }

    /// Leaves out the oldest items until the prompt fits, and says which. What instructs the model stays, and so does the
    /// last item. Room for the answer: what it may have, at most half the context; a quarter of it if nothing is said.
    async fn shorten(&self, items: &mut Vec<Item>, most: Option<usize>) -> Result<Vec<String>, ApiError> {
        let context = self.found.model.writer(&self.found.name)?.context;
        let room = context - most.unwrap_or(context / 4).min(context / 2).max(1);
        let (mut few, mut many) = (0, items.iter().filter(|i| !i.instructs()).count().saturating_sub(1));
        // The fewest that are enough.
        while few < many {
            let middle = few.midpoint(many);
            let prompt = dialogue::prompt(self.found, self.talk(&without(items, middle).0)?).await.map_err(ours)?;
            if prompt.len() <= room { many = middle } else { few = middle + 1 }
        }
        let (rest, gone) = without(items, few);
        *items = rest;
        Ok(gone)
    }
}

/// Items without so many of the oldest, nor outputs whose call is gone; and the names of those.
fn without(items: &[Item], most: usize) -> (Vec<Item>, Vec<String>) {
    let (mut rest, mut gone, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for item in items {
        let orphan = matches!(item, Item::FunctionCallOutput { call_id, .. } if calls.contains(call_id));
        if orphan || (!item.instructs() && gone.len() < most) {
            gone.push(item.id().to_owned());
            if let Item::FunctionCall { call_id, .. } = item {
                calls.push(call_id.clone());
            }
        } else {
            rest.push(item.clone());
        }
    }
    (rest, gone)
}

/// Errors in the words of this endpoint.
fn ours(e: ApiError) -> ApiError {
    let param = e.param.map(|p| match p.starts_with("messages") {
        true => "input".to_owned(),
        false => p.replace("].function.", "]."),
    });
    ApiError { param, message: e.message.replace("].function.", "]."), ..e }
}

/// A response that is being written.
struct Turn {
    deltas: Deltas,
    scribe: Scribe,
    keeper: Keeper,
    items: Vec<Item>,
    own: usize,
    writing: Writing,
    begun: bool,
    /// The request says that it is to be kept; otherwise it is answered also where it cannot be.
    must: bool,
}

impl Turn {
    /// The next events; none when it is over.
    async fn next(&mut self) -> Option<Vec<ResponseEvent>> {
        if self.scribe.ended() {
            return None;
        }
        if !std::mem::replace(&mut self.begun, true) {
            return Some(self.scribe.begin());
        }
        let delta = tokio::select! {
            () = self.writing.stop.notified() => None,
            delta = self.deltas.next() => Some(delta),
        };
        let mut events = match delta {
            None => self.scribe.cancel(),
            Some(Some(Ok(delta))) => self.scribe.write(delta),
            Some(Some(Err(e))) => return Some(self.scribe.fail(&e)),
            Some(None) => return Some(self.scribe.fail(&ApiError::internal("the answer has no end"))),
        };
        if self.scribe.ended() {
            // Who is told that it is kept can ask for it.
            if let Err(e) = self.keep().await {
                events.pop();
                events.extend(self.scribe.retract(&e));
            } else if let Some(response) = events.last_mut().and_then(|e| e.body.ends()) {
                response.store = self.scribe.response.store;
            }
        }
        Some(events)
    }

    async fn keep(&mut self) -> Result<(), ApiError> {
        let (items, response) = (std::mem::take(&mut self.items), self.scribe.response.clone());
        let stored = self.keeper.put(Kept { owner: String::new(), own: self.own, items, response }).await;
        if stored.is_err() && !self.must {
            self.scribe.response.store = false;
            return Ok(());
        }
        stored
    }

    fn events(self) -> BoxStream<'static, ResponseEvent> {
        let next = |mut turn: Turn| async move {
            let events = turn.next().await?;
            Some((stream::iter(events), turn))
        };
        stream::unfold(self, next).flatten().boxed()
    }

    async fn whole(mut self) -> Result<object::ResponseObject, ApiError> {
        self.scribe.begin();
        while !self.scribe.ended() {
            let delta = tokio::select! {
                () = self.writing.stop.notified() => None,
                delta = self.deltas.next() => Some(delta),
            };
            match delta {
                None => _ = self.scribe.cancel(),
                Some(delta) => {
                    let delta = delta.unwrap_or_else(|| Err(ApiError::internal("the answer has no end")));
                    self.scribe.write(delta?);
                }
            }
        }
        self.keep().await?;
        Ok(self.scribe.response)
    }
}
