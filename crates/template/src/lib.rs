//! Chat templates: messages to prompt text.
//!
//! A model brings a template in the Jinja language, and it was trained on what Hugging Face's transformers makes of it.
//! So this crate renders exactly as `transformers` 5.23 does (`render_jinja_template`: jinja2's immutable sandbox with
//! `trim_blocks`, `lstrip_blocks`, loop controls, `{% generation %}`, `raise_exception`, `strftime_now` and a `tojson`
//! that escapes no HTML), with Python's values: `True`, `1e+20`, `{'a': None}`, methods that hide items of the same
//! name, markup that escapes what is added to it.
//!
//! minijinja parses and runs the templates (`engine`). Its values and operators are not Python's, so each template is
//! first written out again with every operator as a call of ours (`translate`), and filters, tests, methods and
//! formatting are ours too; that is also how every allocation is paid for.
//!
//! A template is a stranger's program. It runs within limits on instructions, work, memory and depth (`meter`), and
//! whatever it does the result is a text or an [`Error`].
//!
//! Where the two differ:
//! * Integers have 128 bits. Numbers arrive as `serde_json` reads them: integers beyond 64 bits and `-0` are floats.
//! * `+x`, `{% print %}`, tuples without parentheses in `{{ }}` and behind `in`, `varargs` and `kwargs` of macros and
//!   `{% call %}` of anything but a macro's name are refused or undefined; so are `include`, `import`, `extends` and
//!   `autoescape`.
//! * White space that `-` strips does not count the control characters 0x1c to 0x1f.
//! * `loop` cannot be put into lists, dicts and namespaces. Generators are computed at once.
//! * A few filters that no chat template has a use for are missing (see `filters`).
//! * Upper and lower case and what is printable follow Rust's Unicode version, which is newer than Python's.

#![forbid(unsafe_code)]

mod access;
mod args;
mod date;
mod engine;
mod filters;
mod format;
mod meter;
mod methods;
mod ops;
mod prepare;
mod tests;
mod text;
mod translate;
mod value;

pub use date::Civil;

use crate::engine::Run;
use crate::meter::{Fail, Meter, Res, fail};
use crate::value::Value;
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// What the template is called inside of its environment.
const NAME: &str = "template";

/// What models without a template get: ChatML, the form that most of them were at least partly trained on. Parts of a
/// content list that are no text are left out.
const FALLBACK: &str = "\
{%- for message in messages -%}
    {{- '<|im_start|>' ~ message.role ~ '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- elif message.content -%}
        {{- message.content | map(attribute='text', default='') | join -}}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
";

/// A compiled template. Compile once, render from any thread.
#[derive(Clone, Debug)]
pub struct Template {
    env: minijinja::Environment<'static>,
}

/// What a template is rendered with.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// An array of objects with `role`, `content` and whatever else the template reads. As in transformers, reasoning
    /// given as `thinking` or `reasoning` is also given as `reasoning_content`, and the other way round.
    pub messages: &'a Json,
    /// An array of objects: the functions that the model may call.
    pub tools: Option<&'a Json>,
    /// An array of objects, for templates that answer from documents.
    pub documents: Option<&'a Json>,
    /// Does the text end where the assistant's answer begins?
    pub add_generation_prompt: bool,
    /// The text of the token that begins every sequence; empty if there is none.
    pub bos_token: &'a str,
    /// The text of the token that ends every sequence; empty if there is none.
    pub eos_token: &'a str,
    /// More variables (`chat_template_kwargs`), such as `enable_thinking`.
    pub extra: &'a Map<String, Json>,
    /// What `strftime_now` shows.
    pub now: Civil,
}

/// Why there is no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The template refused the conversation (`raise_exception`); this is its own message.
    #[error("{0}")]
    Refused(String),
    /// The template is not one.
    #[error("chat template, line {line}: {what} (correct the template that the model brings)")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The template failed on this conversation, or ran into a limit.
    #[error("chat template, line {line}: {what}")]
    Render {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The conversation is not one.
    #[error("{0}")]
    Input(String),
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`Error::Syntax`], naming the line.
    pub fn new(source: &str) -> Result<Self, Error> {
        let syntax = |bad: prepare::Bad| Error::Syntax { line: bad.line, what: bad.what };
        let translated = translate::translate(source).map_err(syntax)?;
        let mut env = engine::environment();
        env.add_template_owned(NAME, translated).map_err(|error| {
            let what = error.detail().map_or_else(|| error.kind().to_string(), String::from);
            Error::Syntax { line: error.line().unwrap_or(1), what }
        })?;
        Ok(Self { env })
    }

    /// The template for models that have none: ChatML
    /// (`<|im_start|>role\ncontent<|im_end|>\n`, then `<|im_start|>assistant\n`).
    pub fn fallback() -> Self {
        Self::new(FALLBACK).unwrap_or_else(|_| Self { env: engine::environment() })
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`Error::Refused`] with the template's own message, [`Error::Render`] where it fails,
    /// [`Error::Input`] if messages, tools or documents are not arrays of objects.
    pub fn render(&self, input: &Input<'_>) -> Result<String, Error> {
        let meter = Meter::default();
        let vars = variables(input, &meter).map_err(|fail| Error::Input(fail.to_string()))?;
        let run = Arc::new(Run::new(meter, input.now));
        let mut context: Vec<(&str, minijinja::Value)> = vars.iter().map(|(name, v)| (*name, v.to_engine())).collect();
        context.push((engine::RUN, engine::handle(&run)));
        let render = |template: minijinja::Template<'_, '_>| template.render(minijinja::Value::from_pairs(context));
        self.env.get_template(NAME).and_then(render).map_err(|error| match engine::reason(&error) {
            Fail::Raised(message) => Error::Refused(message),
            Fail::Other(what) => Error::Render { line: error.line().unwrap_or(1), what },
        })
    }
}

/// The template's variables; the last of a name counts.
fn variables<'a>(input: &Input<'a>, meter: &Meter) -> Res<Vec<(&'a str, Value)>> {
    let mut messages = Vec::new();
    for message in objects(input.messages, "messages")? {
        messages.push(message_value(message, meter)?);
    }
    let list = |json: Option<&Json>, what| match json {
        None | Some(Json::Null) => Ok(Value::None),
        Some(json) => objects(json, what).and_then(|_| Value::from_json(json, meter, 0)),
    };
    let mut vars =
        vec![("bos_token", Value::text(input.bos_token, meter)?), ("eos_token", Value::text(input.eos_token, meter)?)];
    for (name, value) in input.extra {
        vars.push((name, Value::from_json(value, meter, 0)?));
    }
    vars.extend([
        ("messages", Value::list(messages, meter)?),
        ("tools", list(input.tools, "tools")?),
        ("documents", list(input.documents, "documents")?),
        ("add_generation_prompt", Value::Bool(input.add_generation_prompt)),
    ]);
    Ok(vars)
}

/// The objects of an array.
fn objects<'j>(json: &'j Json, what: &str) -> Res<Vec<&'j Map<String, Json>>> {
    let Some(items) = json.as_array() else { return fail(format!("{what} must be an array of objects")) };
    let object = |(i, item): (usize, &'j Json)| {
        let object = item.as_object();
        object.map_or_else(|| fail(format!("{what}[{i}] is not an object: {what} must be an array of objects")), Ok)
    };
    items.iter().enumerate().map(object).collect()
}

/// A message as templates see it: its reasoning stands under every name that templates read.
fn message_value(message: &Map<String, Json>, meter: &Meter) -> Res<Value> {
    let mut pairs = Vec::new();
    let names = ["reasoning_content", "thinking", "reasoning"];
    let reasoning = names.iter().find_map(|name| message.get(*name).filter(|v| !v.is_null()));
    let reasoning = reasoning.map(|json| Value::from_json(json, meter, 0)).transpose()?;
    if let Some(reasoning) = &reasoning {
        pairs.push((Value::Str("thinking".into()), reasoning.clone()));
    }
    for (key, value) in message {
        pairs.push((Value::text(key, meter)?, Value::from_json(value, meter, 0)?));
    }
    if let Some(reasoning) = reasoning {
        pairs.push((Value::Str("reasoning_content".into()), reasoning));
    }
    Value::dict(pairs, meter)
}
