//! `/openapi.json`: what the routes take and give, made from the handlers' types (OpenAPI 3.1).

use crate::error::ErrorBody;
use crate::openai::responses::{self, kept};
use crate::openai::{chat, completions, embeddings, list};
use crate::routes::{self, ROUTES, Scope};
use crate::{anthropic, ollama, rerank, resume, tokenize, ws};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::sync::LazyLock;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Tree, Ref, RefOr, ResponseBuilder};
use utoipa::{Modify, OpenApi, ToSchema};

/// The document: a handler here for each row of [`ROUTES`] that is no page.
#[derive(OpenApi)]
#[openapi(
    info(description = "Models over HTTP: text, tokens and more, in the dialects that clients speak."),
    paths(
        chat::chat,
        completions::complete,
        embeddings::embeddings,
        list::list,
        list::show,
        rerank::rerank,
        rerank::unversioned,
        tokenize::tokenize,
        tokenize::detokenize,
        crate::metrics::text::metrics,
        anthropic::messages,
        anthropic::count_tokens,
        ollama::chat::chat,
        ollama::generate::generate,
        ollama::embed::embed,
        ollama::embed::embedding,
        ollama::info::tags,
        ollama::info::ps,
        ollama::info::show,
        ollama::info::version,
        responses::create,
        kept::show,
        kept::delete,
        kept::inputs,
        kept::cancel,
        resume::show,
        resume::cancel,
        ws::responses,
        ws::chat,
        crate::manage::load,
        crate::manage::unload,
        routes::live,
        routes::ready,
    ),
    components(schemas(ErrorBody, anthropic::ErrorBody, ollama::ErrorBody)),
    modifiers(&Common)
)]
pub struct Document;

static TEXT: LazyLock<String> = LazyLock::new(|| value().to_string());

/// The document as JSON.
fn value() -> Value {
    let mut tree = serde_json::to_value(Document::openapi()).unwrap_or_default();
    let operations = tree["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    let operations = operations.filter_map(Value::as_object_mut).flat_map(|item| item.values_mut());
    for operation in operations {
        let openai = operation["tags"][0] == "OpenAI";
        let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { continue };
        for schema in responses.values_mut().filter_map(|r| r.pointer_mut("/content/text~1event-stream/schema")) {
            let event =
                json!({"type": "string", "contentMediaType": "application/json", "contentSchema": schema.take()});
            // What a handler says is the JSON in an event's data; OpenAI's last event holds none.
            let event = if openai { json!({"anyOf": [event, {"const": "[DONE]"}]}) } else { event };
            *schema = json!({"description": "Each event.", "properties": {"data": event}});
        }
    }
    // A flattened part that may be missing is no null beside the others: the object does without its fields.
    let schemas = tree["components"]["schemas"].as_object_mut().into_iter().flat_map(|s| s.values_mut());
    let parts = schemas.filter_map(|s| s.get_mut("allOf")?.as_array_mut()).flatten();
    for part in parts.filter(|part| part["oneOf"][1] == json!({"type": "null"})) {
        *part = json!({"anyOf": [part["oneOf"][0].take(), {"type": "object"}]});
    }
    tree
}

/// `/openapi.json`.
pub async fn document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// Statuses that any route with a key can refuse a request with.
const KEYED: &[(&str, &str)] = &[
    ("401", "The key is missing or unknown"),
    ("403", "The key does not permit this"),
    ("429", "Too much is waiting, or a limit of the key is reached; `Retry-After` says when to come back"),
];

/// Statuses that any route with a body can refuse a request with.
const BODIED: &[(&str, &str)] = &[
    ("400", "A field is wrong, unknown or missing: `param` names it"),
    ("404", "The model does not exist"),
    ("408", "The body did not arrive in time"),
    ("413", "The body is too large"),
    ("415", "The body is no JSON, or compressed"),
    ("500", "The server failed"),
    ("503", "The server is loading, or shutting down; `Retry-After` says when to come back"),
    ("504", "The answer took too long"),
];

/// What all routes have in common.
struct Common;

impl Modify for Common {
    fn modify(&self, tree: &mut Tree) {
        let health = tree.paths.paths.get("/readyz").cloned();
        // Two names of one thing.
        tree.paths.paths.extend(health.map(|item| ("/health".to_owned(), item)));
        for (path, item) in &mut tree.paths.paths {
            let open = ROUTES.iter().any(|r| r.0 == path && r.1 == Scope::Open);
            // As the door has it.
            let error = match path.as_str() {
                path if path.starts_with("/v1/messages") => anthropic::ErrorBody::name(),
                path if path.starts_with("/api/") => ollama::ErrorBody::name(),
                _ => ErrorBody::name(),
            };
            let all = [("get", &mut item.get), ("post", &mut item.post), ("delete", &mut item.delete)];
            for (method, operation) in all {
                let Some(operation) = operation else { continue };
                let name = path.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
                operation.operation_id = Some(format!("{method}{name}"));
                // What docstrings say of errors is in the answers below.
                let text = operation.description.take().unwrap_or_default();
                let text = text.split("# Errors").next().unwrap_or_default().trim();
                operation.description = (!text.is_empty()).then(|| text.to_owned());
                if !open {
                    add(operation, KEYED, &error);
                    // A server without keys asks for none.
                    let key = SecurityRequirement::new("key", Vec::<String>::new());
                    operation.security = Some(vec![key, SecurityRequirement::default()]);
                }
                if operation.request_body.is_some() {
                    add(operation, BODIED, &error);
                }
                if operation.parameters.is_some() {
                    add(operation, &BODIED[..1], &error);
                }
            }
        }
        let key = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        tree.components.get_or_insert_default().add_security_scheme("key", key);
    }
}

fn add(operation: &mut Operation, statuses: &[(&str, &str)], error: &str) {
    for (status, description) in statuses {
        let schema = RefOr::Ref(Ref::from_schema_name(error));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let response = ResponseBuilder::new().description(*description).content("application/json", content).build();
        operation.responses.responses.entry((*status).to_owned()).or_insert(RefOr::T(response));
    }
}

fn of(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(kind))
}

fn null() -> Schema {
    of(Type::Null).into()
}

/// Texts that end an answer.
pub fn stop() -> Schema {
    let text = || of(Type::String).min_length(Some(1));
    let list = ArrayBuilder::new().items(text()).max_items(Some(16));
    OneOfBuilder::new().item(text()).item(list).item(null()).description(Some("Texts that end the answer.")).into()
}

/// Token ids as text, and what is added to their logits.
pub fn logit_bias() -> Schema {
    let bias = of(Type::Number).minimum(Some(-100)).maximum(Some(100));
    let map = of(Type::Object)
        .property_names(Some(of(Type::String).pattern(Some("^[0-9]{1,10}$"))))
        .additional_properties(Some(AdditionalProperties::RefOr(RefOr::T(bias.into()))));
    let what = "Added to the logits of tokens, by id.";
    OneOfBuilder::new().item(map).item(null()).description(Some(what)).into()
}

/// One or several texts, or their token ids.
pub fn prompt() -> Schema {
    let text = || of(Type::String);
    let id = || of(Type::Integer).minimum(Some(0)).maximum(Some(u32::MAX));
    let list = |items: ObjectBuilder| ArrayBuilder::new().items(items).min_items(Some(1));
    let lists = ArrayBuilder::new().items(ArrayBuilder::new().items(id())).min_items(Some(1));
    let what = "One or several texts, or their token ids.";
    OneOfBuilder::new().item(text()).item(list(text())).item(list(id())).item(lists).description(Some(what)).into()
}

/// The one tier.
pub fn service_tier() -> Schema {
    let words = of(Type::String).enum_values(Some(["auto", "default"]));
    OneOfBuilder::new().item(words).item(null()).description(Some("There is one tier.")).into()
}

/// Text only.
pub fn modalities() -> Schema {
    let list = ArrayBuilder::new().items(of(Type::String).enum_values(Some(["text"])));
    OneOfBuilder::new().item(list).item(null()).description(Some("Text only.")).into()
}

/// Nothing is stored.
pub fn never() -> Schema {
    let values = ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Boolean, Type::Null]));
    values.enum_values(Some([json!(false), json!(null)])).description(Some("Answers are not stored.")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages are for people.
    const PAGES: &[&str] = &["/", "/docs", "/openapi.json", "/page/{file}"];

    #[test]
    fn every_route_is_described() {
        let tree = Document::openapi();
        let described: Vec<&str> = tree.paths.paths.keys().map(String::as_str).collect();
        let routes: Vec<String> =
            ROUTES.iter().filter(|r| !PAGES.contains(&r.0)).map(|r| r.0.replace("{*", "{")).collect();
        for route in &routes {
            assert!(described.contains(&route.as_str()), "{route} is not in the document");
        }
        for path in described {
            assert!(routes.iter().any(|r| r == path), "{path} is no route");
        }
    }

    #[test]
    fn strict_fields_are_strict_and_errors_documented() {
        let tree = value();
        let event = "/paths/~1v1~1chat~1completions/post/responses/200/content/text~1event-stream/schema/properties/data/anyOf/0";
        assert_eq!(tree.pointer(event).unwrap()["contentSchema"]["$ref"], "#/components/schemas/ChatChunk");
        let chat = &tree["components"]["schemas"]["ChatRequest"];
        assert_eq!(chat["additionalProperties"], false);
        assert_eq!(chat["properties"]["temperature"]["maximum"], 2);
        for status in ["200", "400", "401", "403", "404", "408", "413", "415", "429", "500", "503", "504"] {
            assert!(tree["paths"]["/v1/chat/completions"]["post"]["responses"][status].is_object(), "{status}");
        }
        assert!(tree["paths"]["/livez"]["get"]["responses"]["401"].is_null());
    }
}
