//! Which form a model writes in.

use crate::{Parser, Tool};
use serde_json::{Value, json};

/// How a model writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, Granite 4.
    Hermes,
    /// `<tool_call><function=…><parameter=…>…</parameter></function></tool_call>`: Qwen3-Coder, Qwen 3.5, Nemotron 3.
    QwenCoder,
    /// `{"name": …, "parameters": {…}}` alone, perhaps behind `<|python_tag|>`: Llama 3.1 to 3.3.
    Llama3,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]`: Mistral until 2024.
    Mistral,
    /// `[TOOL_CALLS]name[ARGS]{…}`: Mistral since 2025.
    MistralArgs,
    /// As [`Family::MistralArgs`], with `[CALL_ID]` and nine characters behind the name: Mistral Small 3.2.
    MistralId,
    /// `<｜tool▁calls▁begin｜>` and so on, the arguments fenced as Markdown: DeepSeek V3 and R1.
    DeepSeek,
    /// The same without fences: DeepSeek V3.1.
    DeepSeek31,
    /// `<|channel|>commentary to=functions.… <|message|>{…}<|call|>`: gpt-oss.
    Harmony,
    /// `{"name": …, "arguments": {…}}` alone, as [`Format::instructions`] asks for it: models whose template knows no tools.
    Plain,
}

/// A row: what in a template tells the family.
type Row = (&'static [&'static str], Family);

/// The first row counts of which the template has every text.
const FAMILIES: &[Row] = &[
    (&["<|channel|>", "<|message|>"], Family::Harmony),
    (&["<tool_call>", "<function="], Family::QwenCoder),
    (&["[TOOL_CALLS]", "[CALL_ID]"], Family::MistralId),
    (&["[TOOL_CALLS]", "[ARGS]"], Family::MistralArgs),
    (&["[TOOL_CALLS]"], Family::Mistral),
    (&["<｜tool▁calls▁begin｜>", "```json"], Family::DeepSeek),
    (&["<｜tool▁calls▁begin｜>"], Family::DeepSeek31),
    // What names arguments otherwise (GLM, Laguna) has no row.
    (&["<tool_call>", "arg_key"], Family::Plain),
    (&["<tool_call>"], Family::Hermes),
    (&["\"parameters\": ", "ipython", "tool_calls"], Family::Llama3),
];

/// The marks around reasoning.
const THINKING: &[(&str, &str)] = &[("<think>", "</think>"), ("[THINK]", "[/THINK]")];

/// How a model writes calls and reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// How it writes calls.
    pub family: Family,
    /// The marks around its reasoning, if its template has any.
    pub thinking: Option<(&'static str, &'static str)>,
}

impl Format {
    /// The format that a chat template shows; [`Family::Plain`] if it shows none.
    pub fn of(template: &str) -> Self {
        let row = FAMILIES.iter().find(|(texts, _)| texts.iter().all(|text| template.contains(text)));
        let family = row.map_or(Family::Plain, |(_, family)| *family);
        // Templates that cut old reasoning off may have its end alone.
        let thinking =
            THINKING.iter().copied().find(|(open, close)| template.contains(open) || template.contains(close));
        Format { family, thinking: thinking.filter(|_| family != Family::Harmony) }
    }

    /// Whether the template itself writes tools into the prompt; otherwise [`Format::instructions`] can stand there.
    pub fn has_tools(&self) -> bool {
        self.family != Family::Plain
    }

    /// The marks that the parser reads. Where they are control tokens, the text that it is given must show them, and
    /// all others may stay hidden.
    pub fn markers(&self) -> Vec<&'static str> {
        let calls: &[&str] = match self.family {
            Family::Hermes | Family::QwenCoder => &["<tool_call>", "</tool_call>"],
            Family::Llama3 => &["<|python_tag|>"],
            Family::Mistral | Family::MistralArgs | Family::MistralId => &["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"],
            Family::DeepSeek | Family::DeepSeek31 => &[
                "<｜tool▁calls▁begin｜>",
                "<｜tool▁call▁begin｜>",
                "<｜tool▁sep｜>",
                "<｜tool▁call▁end｜>",
                "<｜tool▁calls▁end｜>",
            ],
            Family::Harmony => {
                &["<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>"]
            }
            Family::Plain => &[],
        };
        calls.iter().copied().chain(self.thinking.into_iter().flat_map(|(open, close)| [open, close])).collect()
    }

    /// Whether a prompt ends inside of reasoning, because the template has opened it.
    pub fn opens(&self, prompt: &str) -> bool {
        self.thinking.is_some_and(|(open, _)| prompt.trim_end().ends_with(open))
    }

    /// A parser for what comes behind a prompt. Calls are only looked for if there are tools.
    pub fn parser(&self, prompt: &str, tools: &[Tool]) -> Parser {
        Parser::new(*self, self.opens(prompt), tools)
    }

    /// What a prompt says of tools for models whose template does not: a system message, or the end of one.
    pub fn instructions(tools: &[Tool]) -> String {
        let mut text = String::from("You may call these tools:\n");
        for tool in tools {
            let parameters = match &tool.parameters {
                Value::Null => json!({"type": "object", "properties": {}}),
                parameters => parameters.clone(),
            };
            let shown = json!({"name": tool.name, "description": tool.description, "parameters": parameters});
            text.push_str(&format!("{shown}\n"));
        }
        text.push_str(
            "To call one, answer with nothing but a JSON object with its name and arguments: \
             {\"name\": \"…\", \"arguments\": {…}}. Several calls are several such objects, each on a line of its own.",
        );
        text
    }
}
