//! `/v1/rerank` and `/rerank`: documents by how well they answer a query, as Cohere, Jina and vLLM have it.
//!
//! `relevance_score` is the logistic function of the model's logit, between 0 and 1, as sentence-transformers and vLLM give
//! it for models of one score.

use crate::app::App;
use crate::body::Json;
use crate::caller::Caller;
use crate::error::ApiError;
use crate::generate;
use crate::models::{Found, Kind};
use crate::openai::embeddings::{Cut, InputUsage, turn};
use crate::openai::fields::{whole_option, within};
use crate::turns::{in_turn, naming, within_time};
use alula_engine::embed::Score;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::de::{Error, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::sync::Arc;
use utoipa::ToSchema;

/// Documents of a request at most.
pub const MOST_DOCUMENTS: usize = 2048;
/// Documents that are tokenised in a turn.
const PART: usize = 32;

/// Documents to put in order.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RerankRequest {
    /// The model; by default the first one.
    pub model: Option<String>,
    /// What is asked.
    pub query: String,
    /// What may answer it.
    pub documents: Vec<Document>,
    /// So many of the best; by default all.
    #[serde(default, deserialize_with = "whole_option")]
    pub top_n: Option<usize>,
    /// Whether results have the documents' texts; by default they have not.
    pub return_documents: Option<bool>,
    /// Cuts longer pairs off behind so many tokens, the longer text first; -1: behind as many as the model reads. Without it
    /// they are refused.
    #[serde(default, deserialize_with = "whole_option")]
    pub truncate_prompt_tokens: Option<i64>,
    /// Who asks; not used.
    pub user: Option<String>,
}

/// A document.
#[derive(Clone, Debug, PartialEq, Eq, ToSchema)]
#[serde(untagged)]
pub enum Document {
    /// Its text.
    Plain(String),
    /// An object with its text.
    Object(TextDocument),
}

/// An object with a document's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TextDocument {
    /// The text.
    pub text: String,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Document;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or {\"text\": …}")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Document, E> {
                Ok(Document::Plain(text.to_owned()))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Document, A::Error> {
                TextDocument::deserialize(MapAccessDeserializer::new(map)).map(Document::Object)
            }
        }
        d.deserialize_any(V)
    }
}

/// Documents in order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RerankResponse {
    id: String,
    model: String,
    usage: InputUsage,
    /// The best first.
    results: Vec<Ranked>,
}

/// A document's place.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ranked {
    /// Its place among the documents of the request.
    index: usize,
    /// How well it answers the query, from 0 to 1.
    relevance_score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    document: Option<TextDocument>,
}

/// The scores of documents, a turn of the model for some of them each time.
async fn scores(
    caller: &Caller,
    found: &Found,
    query: String,
    documents: &Arc<Vec<String>>,
    cut: Option<i64>,
) -> Result<Vec<Score>, ApiError> {
    let ranker = match &found.model.kind {
        Kind::Ranker(ranker) => ranker,
        _ => {
            let what = format!(
                "the model `{}` does not score documents; use a cross-encoder, or compare vectors of /v1/embeddings",
                found.name
            );
            return Err(ApiError::field("model", what));
        }
    };
    let longest = ranker.lock().await.longest();
    let cut = Cut::of(cut, longest)?;
    let query = Arc::new(query);
    let mut framed = Vec::with_capacity(documents.len());
    while framed.len() < documents.len() {
        let (query, documents, start) = (Arc::clone(&query), Arc::clone(documents), framed.len());
        let part = in_turn(ranker, move |ranker| {
            let frame = |(i, document): (usize, &String)| {
                let path = format!("documents[{i}]");
                let pair = ranker.frame(&query, document, cut.longest(longest));
                let pair = pair.map_err(|e| ApiError::field(&path, format!("`{path}`: {e}")))?;
                cut.check(&pair, longest, &path, "`truncate_prompt_tokens`").map(|()| pair)
            };
            documents.iter().enumerate().skip(start).take(PART).map(frame).collect::<Result<Vec<_>, ApiError>>()
        });
        framed.extend(part.await??);
    }
    caller.charge(&found.name, framed.iter().map(|pair| pair.ids.len()).sum())?;
    let framed = Arc::new(framed);
    let mut scores = Vec::with_capacity(framed.len());
    while scores.len() < framed.len() {
        let (of, range) = (Arc::clone(&framed), turn(&framed, scores.len()));
        let adapters = found.adapters.clone();
        let made = in_turn(ranker, move |ranker| ranker.scores(of.get(range).unwrap_or_default(), &adapters)).await?;
        scores.extend(made.map_err(|e| ApiError::internal(e.to_string()))?);
    }
    Ok(scores)
}

/// Puts documents in order.
///
/// # Errors
/// The request is wrong, or the model is not there or of another kind.
#[utoipa::path(
    post,
    path = "/v1/rerank",
    tag = "Rerank",
    request_body = RerankRequest,
    responses((status = 200, description = "The documents, the best first", body = RerankResponse))
)]
pub async fn rerank(
    State(app): State<Arc<App>>,
    caller: Caller,
    body: Json<RerankRequest>,
) -> Result<Response, ApiError> {
    let Json { value: request, ignored } = body;
    let n = within("documents", request.documents.len(), 1..=MOST_DOCUMENTS)?;
    let top = within("top_n", request.top_n.unwrap_or(n), 1..=usize::MAX)?;
    let found = app.models.find(request.model.as_deref()).await?;
    let texts = request.documents.into_iter().map(|d| match d {
        Document::Plain(text) | Document::Object(TextDocument { text }) => text,
    });
    let documents: Arc<Vec<String>> = Arc::new(texts.collect());
    let scored = scores(&caller, &found, request.query, &documents, request.truncate_prompt_tokens);
    let scores = within_time(&app, scored).await?;
    let tokens = scores.iter().map(|s| s.tokens).sum();
    let mut order: Vec<(usize, Score)> = scores.into_iter().enumerate().collect();
    order.sort_by(|(i, a), (j, b)| b.score.total_cmp(&a.score).then(i.cmp(j)));
    let results = order.into_iter().take(top).map(|(index, score)| {
        let text = documents.get(index).filter(|_| request.return_documents == Some(true));
        Ranked {
            index,
            relevance_score: 1.0 / (1.0 + (-f64::from(score.score)).exp()),
            document: text.map(|text| TextDocument { text: text.clone() }),
        }
    });
    let response = RerankResponse {
        id: generate::name("rerank-")?,
        model: found.name.clone(),
        usage: InputUsage::new(tokens),
        results: results.collect(),
    };
    let response = axum::Json(response).into_response();
    Ok(naming(&ignored, response))
}

/// The same.
///
/// # Errors
/// As [`rerank`].
#[utoipa::path(
    post,
    path = "/rerank",
    tag = "Rerank",
    request_body = RerankRequest,
    responses((status = 200, description = "The documents, the best first", body = RerankResponse))
)]
pub async fn unversioned(
    state: State<Arc<App>>,
    caller: Caller,
    body: Json<RerankRequest>,
) -> Result<Response, ApiError> {
    rerank(state, caller, body).await
}
