//! The form of calls as a grammar, in llguidance's variant of Lark's notation.

use serde_json::{Map, Value, json};

use crate::tagged::is_text;
use crate::{Family, Format, Tool};

/// Which calls are wanted (OpenAI's `tool_choice`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// As the model likes.
    Auto,
    /// At least one.
    Required,
    /// One of this tool.
    Named(&'a str),
}

/// What a grammar is wanted for.
pub struct Ask<'a> {
    /// The tools, at least one.
    pub tools: &'a [Tool],
    /// Which calls are wanted.
    pub choice: Choice<'a>,
    /// May there be several calls?
    pub parallel: bool,
    /// Does the prompt end inside of reasoning ([`Format::opens`])?
    pub opened: bool,
    /// The number of a mark that is a control token; `None` if it is written as text.
    pub token: &'a dyn Fn(&str) -> Option<u32>,
}

impl std::fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ask").field("choice", &self.choice).field("parallel", &self.parallel).finish_non_exhaustive()
    }
}

/// Tools that a format cannot be held to.
#[derive(thiserror::Error, Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The choice names no tool.
    #[error("tool_choice names {0:?}, which is none of the tools")]
    Unknown(String),
    /// There are no tools to call.
    #[error("tool_choice demands a call, but there are no tools")]
    NoTools,
    /// A name that the format cannot write.
    #[error("tools/{0}: a name has letters, digits, `_`, `-` and `.` only, at most 128 of them")]
    Name(usize),
    /// A parameter that the format writes as plain text, with a keyword that plain text cannot be held to.
    #[error(
        "tools/{tool}/parameters/properties/{property}: this model writes strings as they are, and `{keyword}` cannot be enforced there"
    )]
    Text {
        /// The tool's number.
        tool: usize,
        /// The parameter.
        property: String,
        /// The keyword.
        keyword: String,
    },
    /// A schema that is not an object's.
    #[error("tools/{0}/parameters: must be the schema of an object with `properties`")]
    Parameters(usize),
}

/// Text of any kind.
const TEXT: &str = "TEXT: /(?s:.*)/\n";

struct Writer<'a> {
    ask: &'a Ask<'a>,
    family: Family,
    rules: String,
}

impl Format {
    /// The grammar of an answer with these tools, for `Grammar::lark`; `None` where all answers are allowed.
    ///
    /// Calls are written as the family's template writes them. Tools of [`Choice::Auto`] are held to their schemas if one
    /// of them is strict or calls are not to be parallel.
    ///
    /// # Errors
    /// [`Error`], for tools that cannot be held to this format.
    pub fn grammar(&self, ask: &Ask<'_>) -> Result<Option<String>, Error> {
        for (i, tool) in ask.tools.iter().enumerate() {
            let good = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if tool.name.is_empty() || tool.name.len() > 128 || !tool.name.chars().all(good) {
                return Err(Error::Name(i));
            }
        }
        let mut tools: Vec<(usize, &Tool)> = ask.tools.iter().enumerate().collect();
        match ask.choice {
            Choice::Auto if ask.tools.is_empty() || ask.parallel && !ask.tools.iter().any(|tool| tool.strict) => {
                return Ok(None);
            }
            Choice::Named(name) => {
                tools.retain(|(_, tool)| tool.name == name);
                if tools.is_empty() {
                    return Err(Error::Unknown(name.into()));
                }
            }
            _ if tools.is_empty() => return Err(Error::NoTools),
            _ => {}
        }
        let mut writer = Writer { ask, family: self.family, rules: String::new() };
        let parallel = ask.parallel && !matches!(ask.choice, Choice::Named(_));
        let body = match ask.choice {
            Choice::Auto => writer.voluntary(&tools, parallel)?,
            _ => writer.calls(&tools, parallel)?,
        };
        let think = writer.think(self.thinking);
        Ok(Some(format!("start: {think}{body}\n{}{TEXT}SPACE: /[ \\n\\t\\r]{{0,8}}/\n", writer.rules)))
    }

    /// The grammar of an answer of a form of its own, behind reasoning if the format has any.
    ///
    /// `form` stands in a rule: a schema that `%json` enforces, an expression or a nested grammar. `opened` and `token` are as in [`Ask`].
    pub fn answer(&self, form: &str, opened: bool, token: &dyn Fn(&str) -> Option<u32>) -> String {
        let ask = Ask { tools: &[], choice: Choice::Auto, parallel: false, opened, token };
        let mut writer = Writer { ask: &ask, family: self.family, rules: String::new() };
        let think = writer.think(self.thinking);
        let body = match self.family {
            Family::Harmony => format!("({} \"final\" {})? ", writer.mark("<|channel|>"), writer.mark("<|message|>")),
            _ => String::new(),
        };
        let rules = writer.rules;
        format!("start: {think}{body}answer\nanswer: {form}\n{rules}{TEXT}SPACE: /[ \\n\\t\\r]{{0,8}}/\n")
    }
}

impl Writer<'_> {
    /// A mark: a control token, or text.
    fn mark(&self, mark: &str) -> String {
        (self.ask.token)(mark).map_or_else(|| quote(mark), |id| format!("<[{id}]>"))
    }

    /// Text with marks in it.
    fn text(&self, text: &str) -> String {
        let mut out: Vec<String> = Vec::new();
        let marks = Format { family: self.family, thinking: None }.markers();
        let mut rest = text;
        while !rest.is_empty() {
            let next = marks.iter().filter_map(|mark| rest.find(mark).map(|at| (at, *mark))).min();
            let (at, mark) = next.unwrap_or((rest.len(), ""));
            if at > 0 {
                out.push(quote(&rest[..at]));
            }
            if !mark.is_empty() {
                out.push(self.mark(mark));
            }
            rest = &rest[at + mark.len()..];
        }
        out.join(" ")
    }

    /// Reasoning, if there is any, and the space behind it.
    fn think(&mut self, thinking: Option<(&str, &str)>) -> String {
        if self.family == Family::Harmony {
            let [channel, message, end, start] =
                ["<|channel|>", "<|message|>", "<|end|>", "<|start|>"].map(|m| self.mark(m));
            self.rules.push_str(&format!("think: {channel} \"analysis\" {message} TEXT {end} {start} \"assistant\"\n"));
            return "think? ".into();
        }
        let Some((open, close)) = thinking else { return String::new() };
        let open_mark = self.mark(open);
        match (self.ask.token)(close) {
            Some(id) => self.rules.push_str(&format!("thought: TEXT <[{id}]>\n")),
            None => self.rules.push_str(&format!("thought[suffix={}]: TEXT\n", quote(close))),
        }
        match self.ask.opened {
            true => "thought SPACE ".into(),
            false => format!("({open_mark} thought SPACE)? "),
        }
    }

    /// Calls of these tools, at least one.
    fn calls(&mut self, tools: &[(usize, &Tool)], parallel: bool) -> Result<String, Error> {
        let (open, between, close) = match self.family {
            Family::Hermes | Family::QwenCoder | Family::Llama3 | Family::Plain => ("", "\n", ""),
            Family::Mistral => ("[TOOL_CALLS][", ", ", "]"),
            Family::MistralArgs | Family::MistralId => ("", "", ""),
            Family::DeepSeek => ("<｜tool▁calls▁begin｜>", "\n", "<｜tool▁calls▁end｜>"),
            Family::DeepSeek31 => ("<｜tool▁calls▁begin｜>", "", "<｜tool▁calls▁end｜>"),
            Family::Harmony => ("", "<|start|>assistant", ""),
        };
        let mut names = Vec::new();
        for &(i, tool) in tools {
            self.call(i, tool)?;
            names.push(format!("call_{i}"));
        }
        self.rules.push_str(&format!("call: {}\n", names.join(" | ")));
        let more = if parallel { format!(" ({} call)*", self.text(between)) } else { String::new() };
        // The parser's lists of calls in Llama's form are not what its models were trained on.
        let more = if self.family == Family::Llama3 { String::new() } else { more };
        Ok(format!("{} call{more} {}", self.text(open), self.text(close)))
    }

    /// The rule of one tool's calls.
    fn call(&mut self, i: usize, tool: &Tool) -> Result<(), Error> {
        let name = tool.name.as_str();
        let arguments = format!("arguments_{i}");
        if self.family == Family::QwenCoder {
            let parameters = self.parameters(i, tool)?;
            let (open, close) = (self.mark("<tool_call>"), self.mark("</tool_call>"));
            let function = quote(&format!("\n<function={name}>\n"));
            self.rules.push_str(&format!("call_{i}: {open} {function} {parameters} \"</function>\\n\" {close}\n"));
            return Ok(());
        }
        let (before, after) = match self.family {
            Family::Hermes => (format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": "), "}\n</tool_call>"),
            Family::Llama3 => (format!("{{\"name\": \"{name}\", \"parameters\": "), "}"),
            Family::Plain | Family::Mistral => (format!("{{\"name\": \"{name}\", \"arguments\": "), "}"),
            Family::MistralArgs => (format!("[TOOL_CALLS]{name}[ARGS]"), ""),
            Family::MistralId => (format!("[TOOL_CALLS]{name}[CALL_ID]"), ""),
            Family::DeepSeek => {
                (format!("<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n"), "\n```<｜tool▁call▁end｜>")
            }
            Family::DeepSeek31 => (format!("<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>"), "<｜tool▁call▁end｜>"),
            Family::Harmony => (format!("<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>"), ""),
            Family::QwenCoder => (String::new(), ""),
        };
        let mut before = self.text(&before);
        if self.family == Family::MistralId {
            before.push_str(&format!(" /[a-zA-Z0-9]{{9}}/ {}", self.mark("[ARGS]")));
        }
        let mut after = self.text(after);
        // Where a message ends with this token, its end is the end of the answer.
        if self.family == Family::Harmony && (self.ask.token)("<|call|>").is_some() {
            after = String::new();
        }
        let schema = match &tool.parameters {
            Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
            schema => schema.clone(),
        };
        self.rules.push_str(&format!("call_{i}: {before} {arguments} {after}\n{arguments}: %json {schema}\n"));
        Ok(())
    }

    /// Answers that may have calls in them.
    fn voluntary(&mut self, tools: &[(usize, &Tool)], parallel: bool) -> Result<String, Error> {
        let calls = self.calls(tools, parallel)?;
        self.rules.push_str(&format!("calls: {calls}\n"));
        Ok(match self.family {
            // Calls begin the answer, or there are none.
            Family::Llama3 | Family::Plain => r#"(calls | /\s*[^\s{<](?s:.*)/ | /\s*<[^t](?s:.*)/ | "")"#.into(),
            Family::Harmony => {
                let marks = [self.mark("<|channel|>"), self.mark("<|message|>")];
                format!("({} \"final\" {} TEXT | calls)", marks[0], marks[1])
            }
            _ => {
                let mark = Format { family: self.family, thinking: None }.markers()[0];
                if (self.ask.token)(mark).is_some() {
                    "(TEXT calls)? TEXT".into()
                } else {
                    // Text up to the mark, which `calls` begins with.
                    let calls = calls.replacen(&quote(mark), "", 1);
                    self.rules.push_str(&format!("until[suffix={}]: TEXT\n", quote(mark)));
                    match self.unmarked(&calls, mark) {
                        Some(rest) => format!("(until {rest} | TEXT)"),
                        None => "(calls | TEXT)".into(),
                    }
                }
            }
        })
    }

    /// The rule of calls without the mark that its text begins with.
    fn unmarked(&mut self, calls: &str, mark: &str) -> Option<String> {
        let opened = quote(mark);
        let opened = &opened[..opened.len() - 1];
        let mut first = String::new();
        let mut names = Vec::new();
        for line in self.rules.lines().filter(|line| line.starts_with("call_")) {
            let (name, body) = line.split_once(": ")?;
            let rest = body.strip_prefix(opened)?;
            names.push(format!("first_{name}"));
            first.push_str(&format!("first_{name}: \"{rest}\n"));
        }
        self.rules.push_str(&first);
        Some(calls.replacen("call", &format!("({})", names.join(" | ")), 1))
    }

    /// The parameters of a tool between tags.
    fn parameters(&mut self, i: usize, tool: &Tool) -> Result<String, Error> {
        let empty = Map::new();
        let schema = &tool.parameters;
        let properties = match schema.get("properties") {
            Some(Value::Object(map)) => map,
            None if schema.is_null() || schema.get("type") == Some(&json!("object")) => &empty,
            _ => return Err(Error::Parameters(i)),
        };
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        if required.iter().any(|name| !properties.contains_key(*name)) {
            return Err(Error::Parameters(i));
        }
        let mut out = Vec::new();
        for (n, (property, schema)) in properties.iter().enumerate() {
            let rule = format!("parameter_{i}_{n}");
            let head = quote(&format!("<parameter={property}>\n"));
            let tail = "\n</parameter>\n";
            let body = if is_text(schema) {
                match written(schema).map_err(|keyword| Error::Text { tool: i, property: property.clone(), keyword })? {
                    Some(texts) => {
                        let texts: Vec<String> = texts.iter().map(|text| quote(&format!("{text}{tail}"))).collect();
                        format!("({})", texts.join(" | "))
                    }
                    None => {
                        self.rules.push_str(&format!("{rule}_text[suffix={}]: TEXT\n", quote(tail)));
                        format!("{rule}_text")
                    }
                }
            } else {
                let mut schema = schema.clone();
                for word in ["$defs", "x-guidance"] {
                    if let (Some(value), Some(map)) = (tool.parameters.get(word), schema.as_object_mut()) {
                        map.insert(word.into(), value.clone());
                    }
                }
                self.rules.push_str(&format!("{rule}_json: %json {schema}\n"));
                format!("{rule}_json {}", quote(tail))
            };
            self.rules.push_str(&format!("{rule}: {head} {body}\n"));
            out.push(if required.contains(&property.as_str()) { rule } else { format!("{rule}?") });
        }
        Ok(out.join(" "))
    }
}

/// The texts that a string's schema lists, or none if it allows all; else the keyword that stands in the way.
fn written(schema: &Value) -> Result<Option<Vec<String>>, String> {
    let Some(map) = schema.as_object() else { return Ok(None) };
    let free = ["type", "enum", "const", "title", "description", "default", "examples", "x-guidance"];
    if let Some(word) = map.keys().find(|word| !free.contains(&word.as_str())) {
        return Err(word.clone());
    }
    let one = map.get("const").map(std::slice::from_ref);
    let list = one.or_else(|| map.get("enum").and_then(Value::as_array).map(Vec::as_slice));
    Ok(list.map(|list| list.iter().filter_map(Value::as_str).map(String::from).collect()))
}

/// A text as Lark writes it.
fn quote(text: &str) -> String {
    Value::from(text).to_string()
}
