//! Tools and the form of answers, as OpenAI's requests have them.

use crate::dialogue::{Form, ToolChoice};
use crate::error::ApiError;
use serde::de::{Error, MapAccess, Visitor, value::MapAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::fmt;
use utoipa::ToSchema;

/// Tools of a request at most.
const MOST_TOOLS: usize = 128;

/// A tool.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolDef {
    /// `function`.
    #[schema(pattern = "^function$")]
    #[serde(rename = "type")]
    pub kind: String,
    /// The function.
    pub function: FunctionDef,
}

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FunctionDef {
    /// What it is called by.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9_.-]+$")]
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether arguments must match the schema.
    pub strict: Option<bool>,
}

/// Functions as the model is told of them.
///
/// # Errors
/// One is no function, or of a name that another has.
pub fn tools(list: Vec<ToolDef>) -> Result<Vec<alula_dialog::Tool>, ApiError> {
    if list.len() > MOST_TOOLS {
        return Err(ApiError::field("tools", format!("`tools` has {} tools; give at most {MOST_TOOLS}", list.len())));
    }
    let mut tools: Vec<alula_dialog::Tool> = Vec::new();
    for (i, tool) in list.into_iter().enumerate() {
        if tool.kind != "function" {
            let path = format!("tools[{i}].type");
            let kind = alula_format::clip_to(&tool.kind, 40);
            return Err(ApiError::field(&path, format!("`{path}` is `{kind}`; only functions are supported")));
        }
        let FunctionDef { name, description, parameters, strict } = tool.function;
        let path = |field: &str| format!("tools[{i}].function.{field}");
        let good = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
            let path = path("name");
            let what = format!("`{path}` must have 1 to 64 letters, digits, `_`, `-` or `.`");
            return Err(ApiError::field(path, what));
        }
        if tools.iter().any(|t| t.name == name) {
            let path = path("name");
            return Err(ApiError::field(&path, format!("`{path}`: two tools are called `{name}`")));
        }
        if parameters.as_ref().is_some_and(|p| !p.is_object()) {
            let path = path("parameters");
            return Err(ApiError::field(&path, format!("`{path}` must be a JSON schema, an object")));
        }
        tools.push(alula_dialog::Tool {
            name,
            description: description.unwrap_or_default(),
            parameters: parameters.unwrap_or(Value::Null),
            strict: strict == Some(true),
        });
    }
    Ok(tools)
}

/// `none`, `auto`, `required`, a function's name, or those that are allowed.
#[derive(Clone, Debug, PartialEq, Eq, ToSchema)]
#[serde(untagged)]
pub enum Choice {
    /// A word.
    Word(Word),
    /// A function.
    Function(ChosenFunction),
    /// Some functions.
    Allowed(AllowedFunctions),
}

/// Only some of the functions may be called.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedFunctions {
    /// `allowed_tools`.
    #[schema(pattern = "^allowed_tools$")]
    #[serde(rename = "type")]
    pub kind: String,
    /// Which.
    pub allowed_tools: AllowedList,
}

/// Functions that may be called.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AllowedList {
    /// `auto` or `required`.
    pub mode: Word,
    /// The functions.
    #[schema(min_items = 1)]
    pub tools: Vec<ChosenFunction>,
}

/// Leaves only some of the tools, and says whether one of them must be called. `path` is where their names are.
///
/// # Errors
/// One is not there, there is none, or the mode is no mode.
pub fn allow(
    tools: &mut Vec<alula_dialog::Tool>,
    mode: Word,
    names: &[String],
    path: &str,
) -> Result<ToolChoice, ApiError> {
    let unknown = names.iter().position(|name| !tools.iter().any(|t| t.name == *name));
    if let Some(at) = unknown {
        let (path, name) = (format!("{path}.tools[{at}]"), alula_format::clip_to(&names[at], 64));
        return Err(ApiError::field(&path, format!("`{path}` is `{name}`, which is none of the `tools`")));
    }
    if names.is_empty() {
        return Err(ApiError::field(path, format!("`{path}.tools` is empty; give `none` to allow no calls")));
    }
    tools.retain(|t| names.contains(&t.name));
    match mode {
        Word::Auto => Ok(ToolChoice::Auto),
        Word::Required => Ok(ToolChoice::Required),
        Word::None => Err(ApiError::field(path, format!("`{path}.mode` must be `auto` or `required`"))),
    }
}

/// Which calls are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// No calls.
    None,
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
}

/// A call of one function is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChosenFunction {
    /// `function`.
    #[schema(pattern = "^function$")]
    #[serde(rename = "type")]
    pub kind: String,
    /// Which.
    pub function: ChosenName,
}

/// A function's name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChosenName {
    /// The name.
    pub name: String,
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Either {
            #[serde(rename = "type")]
            kind: String,
            function: Option<ChosenName>,
            allowed_tools: Option<AllowedList>,
        }
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Choice;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`none`, `auto`, `required` or {\"type\": \"function\", \"function\": {\"name\": …}}")
            }
            fn visit_str<E: Error>(self, word: &str) -> Result<Choice, E> {
                Word::deserialize(serde::de::value::StrDeserializer::new(word)).map(Choice::Word)
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Choice, A::Error> {
                let chosen = Either::deserialize(MapAccessDeserializer::new(map))?;
                match (chosen.function, chosen.allowed_tools) {
                    (Some(function), None) => Ok(Choice::Function(ChosenFunction { kind: chosen.kind, function })),
                    (None, Some(allowed_tools)) => {
                        Ok(Choice::Allowed(AllowedFunctions { kind: chosen.kind, allowed_tools }))
                    }
                    (Some(_), Some(_)) => Err(A::Error::custom("give `function` or `allowed_tools`, not both")),
                    (None, None) => Err(A::Error::missing_field("function")),
                }
            }
        }
        d.deserialize_any(V)
    }
}

impl Choice {
    /// In the words of dialogues, for these tools, of which it may leave some only.
    ///
    /// # Errors
    /// It chooses something else than a function.
    pub fn choice(self, tools: &mut Vec<alula_dialog::Tool>) -> Result<ToolChoice, ApiError> {
        match self {
            Choice::Allowed(AllowedFunctions { kind, allowed_tools: AllowedList { mode, tools: list } }) => {
                if kind != "allowed_tools" {
                    return Err(ApiError::field("tool_choice.type", "`tool_choice.type` must be `allowed_tools`"));
                }
                let names: Vec<String> = list.into_iter().map(|f| f.function.name).collect();
                allow(tools, mode, &names, "tool_choice.allowed_tools")
            }
            Choice::Word(Word::None) => Ok(ToolChoice::None),
            Choice::Word(Word::Auto) => Ok(ToolChoice::Auto),
            Choice::Word(Word::Required) => Ok(ToolChoice::Required),
            Choice::Function(f) if f.kind == "function" => Ok(ToolChoice::Named(f.function.name)),
            Choice::Function(_) => Err(ApiError::field("tool_choice.type", "`tool_choice.type` must be `function`")),
        }
    }
}

/// What an answer must look like.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseFormat {
    /// `text`, `json_object`, `json_schema`, `regex` or `lark`.
    #[serde(rename = "type")]
    pub kind: FormatKind,
    /// For `json_schema`.
    pub json_schema: Option<SchemaFormat>,
    /// For `regex`: in the syntax of Rust's `regex`.
    pub regex: Option<String>,
    /// For `lark`: a grammar in llguidance's variant of Lark's notation.
    pub lark: Option<String>,
}

/// Kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatKind {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// A value of a JSON schema.
    JsonSchema,
    /// A match of a regular expression.
    Regex,
    /// A sentence of a grammar.
    Lark,
}

/// A JSON schema by name.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaFormat {
    /// What it is called; the model is not told.
    pub name: String,
    /// What it is for; the model is not told.
    pub description: Option<String>,
    /// The schema.
    #[schema(value_type = Object)]
    pub schema: Option<Value>,
    /// Whether words that are no keywords are refused. Answers match the schema either way.
    pub strict: Option<bool>,
}

impl ResponseFormat {
    /// In the words of dialogues.
    ///
    /// # Errors
    /// What belongs to the type is missing, or something that does not is there.
    pub fn form(self) -> Result<Form, ApiError> {
        let missing = |field: &str| {
            let path = format!("response_format.{field}");
            ApiError::field(&path, format!("`{path}` is missing")).code("missing_field")
        };
        let given = [
            (FormatKind::JsonSchema, "json_schema", self.json_schema.is_some()),
            (FormatKind::Regex, "regex", self.regex.is_some()),
            (FormatKind::Lark, "lark", self.lark.is_some()),
        ];
        if let Some((_, field, _)) = given.iter().find(|(kind, _, there)| *there && *kind != self.kind) {
            let path = format!("response_format.{field}");
            return Err(ApiError::field(&path, format!("`{path}` belongs to the type `{field}`")));
        }
        Ok(match self.kind {
            FormatKind::Text => Form::Text,
            FormatKind::JsonObject => Form::Object,
            FormatKind::JsonSchema => {
                let format = self.json_schema.ok_or_else(|| missing("json_schema"))?;
                let schema = format.schema.ok_or_else(|| missing("json_schema.schema"))?;
                Form::Schema { schema, strict: format.strict == Some(true) }
            }
            FormatKind::Regex => Form::Regex(self.regex.ok_or_else(|| missing("regex"))?),
            FormatKind::Lark => Form::Lark(self.lark.ok_or_else(|| missing("lark"))?),
        })
    }
}
