//! From a conversation to pieces of answers: tools, reasoning and constrained output, whatever dialect asked for them.

use crate::caller::Caller;
use crate::error::ApiError;
use crate::generate::{self, Job};
use crate::models::{Found, Writer};
use crate::turns::aside;
use alula_constrain::{Grammar, State};
use alula_dialog::{Ask, Choice, Family, Format, Parser, Piece, Tool};
use alula_engine::speech::{Conversation, SpeechError};
use alula_engine::{Constraint, Logprobs, Reason, Usage};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Which calls are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    #[default]
    Auto,
    /// None.
    None,
    /// At least one.
    Required,
    /// One of this tool.
    Named(String),
}

/// What an answer must look like.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Form {
    /// Any text.
    #[default]
    Text,
    /// A JSON object.
    Object,
    /// A value of a JSON schema.
    Schema {
        /// The schema.
        schema: Value,
        /// Words that are no keywords are refused.
        strict: bool,
    },
    /// A match of a regular expression.
    Regex(String),
    /// A sentence of a grammar in Lark's notation.
    Lark(String),
}

/// A conversation that is to be continued.
#[derive(Clone, Debug, Default)]
pub struct Talk {
    /// Messages as templates read them: an array of objects.
    pub messages: Value,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Which calls are wanted.
    pub choice: ToolChoice,
    /// Whether there may be several calls.
    pub parallel: bool,
    /// What the answer must look like.
    pub form: Form,
    /// The field that says so, for errors.
    pub form_field: &'static str,
    /// More variables for the template.
    pub extra: Map<String, Value>,
}

/// A piece of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Text for the reader.
    Content(String),
    /// Text that the model wrote for itself.
    Reasoning(String),
    /// A call begins.
    Call {
        /// Its number in the answer.
        index: usize,
        /// Its name among calls.
        id: String,
        /// The tool.
        name: String,
    },
    /// More of a call's arguments, which are JSON.
    Arguments {
        /// The call's number.
        index: usize,
        /// The text.
        text: String,
    },
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    Stop,
    /// This one of the request's stop strings came, counted from 0.
    StopString(usize),
    /// It is as long as it may be.
    Length,
    /// The model called tools.
    ToolCalls,
}

impl Finish {
    /// In OpenAI's words.
    pub fn openai(self) -> &'static str {
        match self {
            Finish::Stop | Finish::StopString(_) => "stop",
            Finish::Length => "length",
            Finish::ToolCalls => "tool_calls",
        }
    }
}

/// What happened in one of the answers.
#[derive(Clone, Debug)]
pub struct Delta {
    /// Which answer.
    pub choice: usize,
    /// What is new; may be nothing.
    pub parts: Vec<Part>,
    /// The token that brought it, with its log-probabilities if they were asked for.
    pub token: Option<(u32, Option<Logprobs>)>,
    /// It is over: why, what it took, and its tokens of reasoning.
    pub end: Option<(Finish, Usage, usize)>,
}

/// Answers as they come; after an error nothing comes.
pub type Deltas = BoxStream<'static, Result<Delta, ApiError>>;

/// Starts the answers to a conversation. `job` has everything but the prompt. Dropping the stream cancels them.
///
/// # Errors
/// The template refuses the conversation, a schema or tool cannot be enforced, or the engine refuses the request.
pub async fn start(caller: &Caller, found: &Found, job: Job, talk: Talk) -> Result<Deltas, ApiError> {
    counted(caller, found, job, talk).await.map(|(_, deltas)| deltas)
}

/// The same, with the prompt's number of tokens.
///
/// # Errors
/// As [`start`].
pub async fn counted(caller: &Caller, found: &Found, mut job: Job, talk: Talk) -> Result<(usize, Deltas), ApiError> {
    let writer = found.model.writer(&found.name)?;
    let Prepared { prompt, opening, constraint, tools } = prepared(found, talk).await?;
    let (length, asked) = (prompt.len(), job.request.stop.len());
    job.request.prompt = prompt;
    job.request.stop.extend(writer.speech.stop());
    job.constraint = constraint;
    let format = writer.format;
    let mut choices: Vec<Answer> = (0..job.choices)
        .map(|_| Answer { parser: format.parser(&opening, &tools), ids: ids(format), reasoning: 0, called: false })
        .collect();
    let answers = generate::start(caller, found, writer, job).await?;
    let deltas = answers.map(move |delta| match delta? {
        generate::Delta::Token { choice, token, text, logprobs } => {
            let answer =
                choices.get_mut(choice).ok_or_else(|| ApiError::internal("an answer that nobody asked for"))?;
            let parts = answer.read(|parser| parser.push(&text))?;
            answer.reasoning += usize::from(!parts.is_empty() && parts.iter().all(|p| matches!(p, Part::Reasoning(_))));
            Ok(Delta { choice, parts, token: Some((token, logprobs)), end: None })
        }
        generate::Delta::Prompt { choice, .. } => Ok(Delta { choice, parts: Vec::new(), token: None, end: None }),
        generate::Delta::End { choice, reason, usage } => {
            let answer =
                choices.get_mut(choice).ok_or_else(|| ApiError::internal("an answer that nobody asked for"))?;
            let parts = answer.read(Parser::finish)?;
            let finish = match reason {
                Reason::Length | Reason::Context => Finish::Length,
                _ if answer.called => Finish::ToolCalls,
                // Those behind are the template's own, with which the model ends its answers.
                Reason::StopString(at) if at < asked => Finish::StopString(at),
                _ => Finish::Stop,
            };
            Ok(Delta { choice, parts, token: None, end: Some((finish, usage, answer.reasoning)) })
        }
    });
    Ok((length, until_error(deltas.boxed())))
}

/// A conversation's prompt.
///
/// # Errors
/// As [`start`], before the engine.
pub async fn prompt(found: &Found, talk: Talk) -> Result<Vec<u32>, ApiError> {
    Ok(prepared(found, talk).await?.prompt)
}

/// Prepares beside other connections: templates, tokenizers and grammars may take a while. Of those with grammars only a few
/// are prepared at a time; each goes on to its end, also when who asked has gone away.
async fn prepared(found: &Found, talk: Talk) -> Result<Prepared, ApiError> {
    let writer = found.model.writer(&found.name)?;
    let place = match talk.form != Form::Text || !talk.tools.is_empty() {
        true => Arc::clone(&writer.grammars).acquire_owned().await.ok(),
        false => None,
    };
    let of = found.clone();
    let prepare = move || {
        let _place = place;
        prepare(&of, talk)
    };
    aside(prepare).await?
}

/// Ends a stream behind its first error.
fn until_error<T: Send + 'static>(
    items: BoxStream<'static, Result<T, ApiError>>,
) -> BoxStream<'static, Result<T, ApiError>> {
    let step = |items: Option<BoxStream<'static, Result<T, ApiError>>>| async {
        let mut items = items?;
        let item = items.next().await?;
        let rest = item.is_ok().then_some(items);
        Some((item, rest))
    };
    stream::unfold(Some(items), step).boxed()
}

/// How a call without a name of its own is called: Mistral's templates want nine letters and digits.
fn ids(format: Format) -> usize {
    if matches!(format.family, Family::Mistral | Family::MistralArgs | Family::MistralId) { 9 } else { 24 }
}

/// One answer as it is read.
struct Answer {
    parser: Parser,
    /// Letters in the names of calls.
    ids: usize,
    /// Tokens of reasoning.
    reasoning: usize,
    called: bool,
}

impl Answer {
    fn read(&mut self, read: impl FnOnce(&mut Parser) -> Vec<Piece>) -> Result<Vec<Part>, ApiError> {
        let pieces = read(&mut self.parser);
        let part = |piece| {
            Ok(match piece {
                Piece::Content(text) => Part::Content(text),
                Piece::Reasoning(text) => Part::Reasoning(text),
                Piece::Call { index, id, name } => {
                    self.called = true;
                    let id = match id {
                        Some(id) => id,
                        None => {
                            let letters: String = generate::name("")?.chars().take(self.ids).collect();
                            if self.ids == 9 { letters } else { format!("call_{letters}") }
                        }
                    };
                    Part::Call { index, id, name }
                }
                Piece::Arguments { index, text } => Part::Arguments { index, text },
            })
        };
        pieces.into_iter().map(part).collect()
    }
}

/// What is ready before the engine is asked.
struct Prepared {
    prompt: Vec<u32>,
    /// The end of the prompt's text.
    opening: String,
    constraint: Option<alula_constrain::Constraint>,
    tools: Vec<Tool>,
}

fn prepare(found: &Found, mut talk: Talk) -> Result<Prepared, ApiError> {
    let writer = found.model.writer(&found.name)?;
    let format = writer.format;
    if talk.choice == ToolChoice::None {
        talk.tools.clear();
    }
    if talk.tools.is_empty() && matches!(talk.choice, ToolChoice::Required | ToolChoice::Named(_)) {
        return Err(ApiError::field("tool_choice", "`tool_choice` demands a call, but there are no `tools`"));
    }
    let (text, prompt) = render(writer, &mut talk)?;
    let constraint = constraint(found, writer, &talk, format.opens(&text))?;
    let cut = text.char_indices().rev().nth(64).map_or(0, |(at, _)| at);
    Ok(Prepared { prompt, opening: text[cut..].to_owned(), constraint, tools: talk.tools })
}

/// The prompt's text and its ids.
fn render(writer: &Writer, talk: &mut Talk) -> Result<(String, Vec<u32>), ApiError> {
    let mut tools = None;
    if !talk.tools.is_empty() {
        match writer.format.has_tools() {
            true => tools = Some(Value::Array(talk.tools.iter().map(tool).collect())),
            // The model's template says nothing of tools, so the prompt must.
            false => instruct(&mut talk.messages, &Format::instructions(&talk.tools)),
        }
    }
    let c = Conversation { messages: &talk.messages, tools: tools.as_ref(), extra: &talk.extra, answer: true };
    writer.speech.render(c).map_err(|e| match e {
        SpeechError::Refused(_) => ApiError::field("messages", e.to_string()).code("template_refused"),
        e => ApiError::field("messages", e.to_string()),
    })
}

/// A tool as templates read it.
fn tool(tool: &Tool) -> Value {
    let mut function = json!({"name": tool.name, "description": tool.description});
    if !tool.parameters.is_null() {
        function["parameters"] = tool.parameters.clone();
    }
    json!({"type": "function", "function": function})
}

/// Puts a text behind the system message, or makes one.
fn instruct(messages: &mut Value, text: &str) {
    let Value::Array(list) = messages else { return };
    let system = list.first_mut().filter(|m| m["role"] == "system");
    match system.and_then(|m| m.get_mut("content")) {
        Some(Value::String(content)) => {
            content.push_str("\n\n");
            content.push_str(text);
        }
        _ => list.insert(0, json!({"role": "system", "content": text})),
    }
}

/// What the output is held to: the form, calls, or either of them as the model likes.
fn constraint(
    found: &Found,
    writer: &Writer,
    talk: &Talk,
    opened: bool,
) -> Result<Option<alula_constrain::Constraint>, ApiError> {
    let tokenizer = &found.model.tokenizer;
    let special = |mark: &str| tokenizer.id(mark).filter(|&id| tokenizer.is_special(id));
    let wrong = |field: &'static str| {
        move |e: alula_constrain::Error| ApiError::field(field, format!("`{field}`: {e}")).code("unsupported_schema")
    };
    let compile = |grammar: &Grammar, field| {
        writer.vocabulary(tokenizer).and_then(|vocabulary| vocabulary.compile(grammar)).map_err(wrong(field))
    };
    let choice = match &talk.choice {
        ToolChoice::Required => Choice::Required,
        ToolChoice::Named(name) => Choice::Named(name),
        // What is no call has a form of its own.
        _ if talk.form != Form::Text => Choice::Required,
        _ => Choice::Auto,
    };
    let calls = match talk.tools.is_empty() {
        true => None,
        false => tools(writer, talk, choice, opened, &special)?,
    };
    let calls = calls.map(|calls| compile(&Grammar::lark(&calls).map_err(wrong("tools"))?, "tools")).transpose()?;
    // A call that must come leaves no room for another answer.
    if !talk.tools.is_empty() && !matches!(talk.choice, ToolChoice::Auto | ToolChoice::None) {
        return Ok(calls);
    }
    let field = talk.form_field;
    let form = match form(writer, &talk.form, opened, &special).map_err(wrong(field))? {
        Some(form) => compile(&form, field)?,
        None => return Ok(calls),
    };
    Ok(Some(match calls {
        Some(calls) => calls.or(form),
        None => form,
    }))
}

/// The grammar of an answer of a form, behind reasoning where the model reasons.
fn form(
    writer: &Writer,
    form: &Form,
    opened: bool,
    token: &dyn Fn(&str) -> Option<u32>,
) -> Result<Option<Grammar>, alula_constrain::Error> {
    let object = json!({"type": "object"});
    let (alone, inline) = match form {
        Form::Text => return Ok(None),
        Form::Object => (Grammar::json_object(), format!("%json {}", Grammar::inline(&object, false)?)),
        Form::Schema { schema, strict } => {
            (Grammar::json_schema(schema, *strict)?, format!("%json {}", Grammar::inline(schema, *strict)?))
        }
        Form::Regex(pattern) => (Grammar::regex(pattern)?, expression(pattern)),
        Form::Lark(grammar) => (Grammar::lark(grammar)?, format!("%lark {{\n{grammar}\n}}")),
    };
    let reasons = writer.format.thinking.is_some() || writer.format.family == Family::Harmony;
    Ok(Some(match reasons {
        true => Grammar::lark(&writer.format.answer(&inline, opened, token))?,
        false => alone,
    }))
}

/// A regular expression as it stands in Lark's notation, where a slash ends it.
fn expression(pattern: &str) -> String {
    let mut out = String::from("/");
    let mut escaped = false;
    for c in pattern.chars() {
        match c {
            '/' if !escaped => out.push_str("\\/"),
            '\n' if !escaped => out.push_str("\\n"),
            // An escaped line end stands for itself.
            '\n' => out.push('n'),
            c => out.push(c),
        }
        escaped = c == '\\' && !escaped;
    }
    out.push('/');
    out
}

/// The grammar of an answer with tools; `None` where all answers are allowed.
fn tools(
    writer: &Writer,
    talk: &Talk,
    choice: Choice<'_>,
    opened: bool,
    token: &dyn Fn(&str) -> Option<u32>,
) -> Result<Option<String>, ApiError> {
    let free = choice == Choice::Auto && talk.parallel && !talk.tools.iter().any(|t| t.strict);
    let enforced = talk.tools.iter().enumerate().map(|(i, tool)| {
        let mut tool = tool.clone();
        if !free && !tool.parameters.is_null() {
            let path = format!("tools[{i}].function.parameters");
            tool.parameters = Grammar::inline(&tool.parameters, tool.strict)
                .map_err(|e| ApiError::field(&path, format!("`{path}`: {e}")).code("unsupported_schema"))?;
        }
        Ok(tool)
    });
    let enforced: Vec<Tool> = enforced.collect::<Result<_, ApiError>>()?;
    let ask = Ask { tools: &enforced, choice, parallel: talk.parallel, opened, token };
    writer.format.grammar(&ask).map_err(|e| {
        let field = if matches!(e, alula_dialog::Error::Unknown(_)) { "tool_choice" } else { "tools" };
        ApiError::field(field, format!("`{field}`: {e}"))
    })
}

/// A grammar's state as the engine asks for it.
pub struct Held(State);

impl Held {
    /// From its beginning.
    pub fn new(constraint: &alula_constrain::Constraint) -> Held {
        Held(constraint.start())
    }
}

impl Constraint for Held {
    fn allow(&mut self, mask: &mut [u32]) -> Result<(), String> {
        self.0.mask(mask).map_err(|e| e.to_string())
    }

    fn accept(&mut self, token: u32) -> Result<bool, String> {
        self.0.commit(token).map_err(|e| e.to_string())?;
        Ok(self.0.is_complete())
    }
}

/// Everything that one answer said.
#[derive(Clone, Debug, Default)]
pub struct Whole {
    /// Text for the reader.
    pub content: String,
    /// Text that the model wrote for itself.
    pub reasoning: String,
    /// Calls: name among calls, tool, arguments.
    pub calls: Vec<(String, String, String)>,
    /// Tokens of the content, with log-probabilities if they were asked for.
    pub logprobs: Vec<(u32, Logprobs)>,
    /// Why it ended, what it took, its tokens of reasoning.
    pub end: Option<(Finish, Usage, usize)>,
}

impl Whole {
    /// With what is new.
    pub fn add(&mut self, delta: Delta) {
        let spoken = said(&delta.parts);
        for part in delta.parts {
            match part {
                Part::Content(text) => self.content.push_str(&text),
                Part::Reasoning(text) => self.reasoning.push_str(&text),
                Part::Call { id, name, .. } => self.calls.push((id, name, String::new())),
                Part::Arguments { index, text } => {
                    if let Some(call) = self.calls.get_mut(index) {
                        call.2.push_str(&text);
                    }
                }
            }
        }
        if let Some((token, Some(logprobs))) = delta.token.filter(|_| spoken) {
            self.logprobs.push((token, logprobs));
        }
        self.end = delta.end.or(self.end);
    }
}

/// The arguments of a call as an object. What is none, since the limit of tokens broke it off, is text under `INVALID_JSON`.
pub fn object(arguments: &str) -> Value {
    match serde_json::from_str::<Map<String, Value>>(arguments) {
        Ok(object) => Value::Object(object),
        Err(_) if arguments.is_empty() => Value::Object(Map::new()),
        Err(_) => json!({"INVALID_JSON": arguments}),
    }
}

/// Whether a token belongs to the content: it brought some, or nothing yet.
pub fn said(parts: &[Part]) -> bool {
    parts.iter().all(|p| matches!(p, Part::Content(_)))
}

/// All answers when they are whole.
///
/// # Errors
/// One of them broke off.
pub async fn whole(mut deltas: Deltas, choices: usize) -> Result<Vec<Whole>, ApiError> {
    let mut all = vec![Whole::default(); choices];
    while let Some(delta) = deltas.next().await {
        let delta = delta?;
        if let Some(answer) = all.get_mut(delta.choice) {
            answer.add(delta);
        }
    }
    match all.iter().all(|a| a.end.is_some()) {
        true => Ok(all),
        false => Err(ApiError::internal("an answer has no end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_stand_between_slashes() {
        for (pattern, written) in [
            ("a/b", r"/a\/b/"),
            (r"a\/b", r"/a\/b/"),
            (r"\\/", r"/\\\//"),
            ("a\nb", r"/a\nb/"),
            ("a\\\nb", r"/a\nb/"),
            (r"[/\]]", r"/[\/\]]/"),
        ] {
            assert_eq!(expression(pattern), written);
        }
    }
}
